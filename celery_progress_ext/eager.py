"""Which jobs run in this process, without a broker or a result backend, and how their tasks ended.

As Celery's own eager tasks: with ``task_always_eager``, or by ``apply()``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Jobs, and results, that are remembered; of older ones the rows are what there is.
_REMEMBERED = 10_000


class EagerJobs:
    """The eager jobs of a process."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, None] = OrderedDict()
        self._errors: dict[str, list[BaseException]] = {}
        self._metas: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    @contextmanager
    def running(self, job_id: str) -> Iterator[list[BaseException]]:
        """Meanwhile the job's tasks are run here, one after the other, and nothing else sends them.

        :returns: what they raise, as it comes.
        """
        _remember(self._jobs, job_id, None)
        errors = self._errors[job_id] = []
        try:
            yield errors
        finally:
            del self._errors[job_id]

    def is_running(self, job_id: str) -> bool:
        """Whether the job's tasks are being run here."""
        return job_id in self._errors

    def keep(self, job_id: str, task_id: str, state: str, result: Any) -> None:
        """Note how a task ended, as a result backend does."""
        if isinstance(result, BaseException) and task_id != job_id and self.is_running(job_id):
            self._errors[job_id].append(result)
        meta = {"task_id": task_id, "status": state, "result": result, "traceback": None, "children": []}
        _remember(self._metas, task_id, meta)

    def meta(self, task_id: str) -> dict[str, Any] | None:
        """What a result backend would have of a task; None where it did not run here."""
        return self._metas.get(task_id)

    def forget(self, task_id: str) -> None:
        """As a result backend does."""
        self._metas.pop(task_id, None)


def _remember(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)
