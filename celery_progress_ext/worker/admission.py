"""What stands between a delivered message and the user's code: a body runs once, a finished chunk not again.

Celery has no hook that may refuse a task but ``Task.before_start``, whose ``Ignore`` acknowledges the message without
effect; a task_prerun receiver's exception is swallowed. So every task class of the app gets a ``before_start`` that
looks at the task id first; for a task that is not tracked it costs a prefix test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore

_MARK = "_celery_progress_guard"

Claim = Callable[[Task, str], None]
Replace = Callable[[Task, Any], None]


class Superseded(Ignore):  # type: ignore[misc]
    """This run does not count any more: the job ended, or another attempt took over. Celery drops it quietly."""


def install(app: Celery, claim: Claim, replace: Replace) -> None:
    """Give every task of the app the claim; tasks that have it already are left alone.

    :param replace: called before a task that replaces itself (``Task.replace``) publishes the replacement.
    """
    for name, task in list(app.tasks.items()):
        if not name.startswith("celery.") and not hasattr(type(task), _MARK):
            _wrap(type(task), claim, replace)


def _wrap(cls: type[Any], claim: Claim, replace: Replace) -> None:
    before, on_replace = cls.before_start, cls.on_replace

    def before_start(self: Task, task_id: str, args: Any, kwargs: Any) -> None:
        claim(self, task_id)
        before(self, task_id, args, kwargs)

    def on_replace_tracked(self: Task, sig: Any) -> Any:
        replace(self, sig)
        return on_replace(self, sig)

    cls.before_start, cls.on_replace = before_start, on_replace_tracked
    setattr(cls, _MARK, True)
