"""The child of ``tasks.partial``: makes the PDF of the pages that are there, and keeps it in the document store.

It takes a ``tasks.partial.Order`` as one line of JSON on stdin, and prints one line: ``{}``, or why there is no PDF.
The document itself is opened by its own child, which is confined.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tasks.documents import DocumentStore
from tasks.merge import MergeFailed, merge
from tasks.partial import Order


def make(order: Order) -> None:
    """Make and keep it.

    :raises MergeFailed: when it cannot be made.
    """
    store = DocumentStore(order.documents_url, files_group=order.files_group)
    with store.open_original(order.document_id) as original, tempfile.TemporaryDirectory() as folder:
        outputs = merge(
            original,
            Path(folder),
            store.pages.results(order.job_id, order.chunks, run=order.run),
            document_id=order.document_id,
            pages=order.pages,
            timeout=order.seconds,
        )
        store.put_partial(order.job_id, order.digest, outputs["pdf"])


def main() -> None:
    """Answer the one line."""
    try:
        make(Order(**json.loads(sys.stdin.readline())))
        print("{}", flush=True)
    except MergeFailed as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
