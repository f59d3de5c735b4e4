"""The PDF of what is there of a job that is not over: made in a process that may die, and kept until there is more."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tasks.pdf import sandbox

#: Seconds for making it. Who asks for it waits meanwhile.
SECONDS = 90.0
#: From the end of the time for the PDF to the kill of the process.
_GRACE_SECONDS = 10.0


class PartialFailed(Exception):
    """There is no such PDF of these pages, and asking again changes nothing until there are more."""


class PartialUnavailable(Exception):
    """It could not be made within its time, or its process died."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the child needs: where the files are, which pages count, and under which name the PDF is kept."""

    documents_url: str
    #: A group that shares what is kept.
    files_group: str | None = None
    document_id: str
    job_id: str
    run: int
    chunks: Sequence[int]
    #: How many pages the document has.
    pages: int
    digest: str
    seconds: float = SECONDS


def make_partial(order: Order) -> None:
    """Have the PDF made and kept.

    :raises PartialFailed: with a sentence for a person.
    :raises PartialUnavailable: when it took too long or too much.
    """
    child = sandbox.spawn("tasks.partial_child", stdin=subprocess.PIPE)
    try:
        output, _ = child.communicate(
            json.dumps(asdict(order)).encode() + b"\n", timeout=order.seconds + _GRACE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise PartialUnavailable from None
    finally:
        child.kill()
        child.wait()
    try:
        answer = json.loads(output)
    except ValueError:
        raise PartialUnavailable from None
    if "error" in answer:
        raise PartialFailed(answer["error"])
