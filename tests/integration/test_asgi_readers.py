"""Readers of a FastAPI application that come and go; `python -m bench.asgi_readers` does it with a thousand."""

from __future__ import annotations

from bench.asgi_readers import main


def test_readers_that_left_leave_nothing_behind() -> None:
    """No thread, task or subscription in the server's process; and a route that is no coroutine answers meanwhile."""
    figures = main(60)
    assert figures["with all"]["streams"] == 60
    assert figures["with all"]["subscriptions"] == 11  # a channel a job, and one that keeps the connection
    assert figures["after"] == figures["before"]
    assert figures["sync route"]["asked"] > 0
