"""Publishing what nobody waits for one by one: the parts of a tracked chord, and what is sent again.

Celery subscribes to the result of every task that it publishes, and its group keeps an AsyncResult of each part, for a
barrier. A publisher that never gets these results, as a web application, would keep them for as long as it lives; and
for a header of thousands they are a third of what publishing costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from celery import Celery
from celery.canvas import group
from celery.result import AsyncResult
from celery.utils.functional import regen

from celery_progress_ext import ids

_MARK = "_celery_progress_unawaited"


class Parts(group):  # type: ignore[misc]
    """A header that is published once, and by whom it was made: so its members need not be copied first."""

    def clone(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, where a chord would begin with a copy."""
        return self

    def _freeze_group_tasks(self, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        """Celery's, with results that are made when they are asked for, by a backend that polls for the chord's end."""
        group_id, _ = super()._freeze_group_tasks(*args, **kwargs)
        return group_id, regen(self.app.AsyncResult(part.id) for part in self.tasks)

    def _apply_tasks(
        self, tasks: Any, producer: Any = None, app: Celery | None = None, p: Any = None, **options: Any
    ) -> Iterator[AsyncResult]:
        """Celery's, without the barrier ``p``, by which each part's result is waited for."""
        parts: Iterator[AsyncResult] = super()._apply_tasks(tasks, producer, app, None, **options)
        return parts


def leave_unawaited(app: Celery) -> None:
    """From now on nothing that ``app`` publishes under a tracked task's id is subscribed to.

    Celery has no option for it; `denied_join_result` would forbid every other thread to get a result meanwhile. Who
    asks for a result, as ``TrackedJob.get``, subscribes then.
    """
    # An app has a backend a thread, unless that is thread-safe.
    backend = app.backend
    on_task_call = backend.on_task_call
    if hasattr(on_task_call, _MARK):
        return

    def unless_tracked(producer: Any, task_id: str) -> Any:
        return on_task_call(producer, task_id) if ids.parse(task_id) is None else None

    setattr(unless_tracked, _MARK, True)
    backend.on_task_call = unless_tracked
