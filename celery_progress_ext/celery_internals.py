"""What the library uses of Celery, kombu and billiard beyond their documented interface, and why: one row each.

A release may change any of it without notice, and the supported ones differ. ``tests/unit/test_celery_internals.py``
compares each row with the installed release, and finds uses that have no row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Internal:
    """One thing that the library relies on, and what has to stay so.

    :param name: its dotted path.
    :param user: the module of the library that uses it.
    :param reason: what it is used for, and why no documented way serves.
    :param parameters: of a callable that is overridden or called, in order.
    :param since: the parameters among them that only newer ones of the supported releases have.
    :param source: fragments that have to be in its source.
    :param value: of a constant.
    """

    name: str
    user: str
    reason: str
    parameters: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    value: object = None


INTERNALS: tuple[Internal, ...] = (
    Internal(
        "celery.canvas.group._freeze_group_tasks",
        "publishing",
        "Overridden: a chord freezes its header here, and keeps an AsyncResult of each part. For thousands of parts"
        " that is a third of what publishing costs. `group.freeze` is documented, but a chord does not call it.",
        parameters=("self", "_id", "group_id", "chord", "root_id", "parent_id", "group_index"),
    ),
    Internal(
        "celery.canvas.group._apply_tasks",
        "publishing",
        "Overridden: leaves out the barrier `p`, which subscribes to every part's result, and reports each part that"
        " the broker took. `group.apply_async` makes the barrier whatever it is given.",
        parameters=(
            "self",
            "tasks",
            "producer",
            "app",
            "p",
            "add_to_parent",
            "chord",
            "args",
            "kwargs",
            "group_index",
            "options",
        ),
        since=("group_index",),  # 5.6
        source=("sig.apply_async(", "if p and not p.cancelled", "yield res"),
    ),
    Internal(
        "celery.canvas._chord.run",
        "publishing",
        "It clones the header, then freezes it by `_freeze_group_tasks`: what `PublishOnceGroup` overrides is called.",
        source=("header._freeze_group_tasks(", "options.pop('chain', None)"),
    ),
    Internal(
        "celery.utils.functional.regen",
        "publishing",
        "A list made when it is first read; Celery's backends accept it where they expect the parts' results.",
        parameters=("it",),
    ),
    Internal(
        "celery.backends.base.Backend.on_task_call",
        "publishing",
        "Replaced on the backend object: it subscribes to the result of each task that is published. There is no option"
        " for it, and `denied_join_result` would forbid every other thread to get a result meanwhile.",
        parameters=("self", "producer", "task_id"),
    ),
    Internal(
        "celery.app.base.Celery.send_task",
        "publishing",
        "Asks the backend, by `on_task_call`, before it publishes.",
        source=("self.backend.on_task_call(P, task_id)",),
    ),
    Internal(
        "celery.result.AsyncResult._get_task_meta",
        "tracked_job",
        "Overridden: `state`, `result`, `ready()` and all their kind read it. A job that is followed by other tasks"
        " shows the state of the last of these; overriding each of the dozen documented names would miss the next one.",
        parameters=("self",),
    ),
    Internal(
        "celery.result.AsyncResult.__del__",
        "tracked_job",
        "Overridden to do nothing: it unsubscribes, and holds up the process while Redis is away.",
        parameters=("self",),
        source=("self.backend.remove_pending_result(self)",),
    ),
    Internal(
        "celery.canvas.chord.freeze",
        "canvas",
        "Overridden: gives a job its id when a surrounding chain is applied. Documented, but for its first parameter.",
        parameters=("self", "_id", "group_id", "chord", "root_id", "parent_id", "group_index"),
    ),
    Internal(
        "celery.canvas.Signature.subtask_type",
        "canvas",
        "Says of a signature from the wire whether it is a canvas, and which. Celery's own `chain(…)` returns objects"
        " of a class that cannot be imported by a documented name.",
    ),
    Internal(
        "celery.canvas.chunks.group",
        "canvas",
        "Spreads `task.chunks(…)` over the tasks that it stands for.",
        parameters=("self",),
    ),
    Internal(
        "celery.utils.functional.maybe_list",
        "canvas",
        "`link` and `link_error` hold one signature or a list; this reads both, as Celery does.",
        parameters=("obj", "scalars"),
    ),
    Internal(
        "celery.utils.time.maybe_iso8601",
        "canvas",
        "Reads an `eta` as Celery does.",
        parameters=("dt",),
    ),
    Internal(
        "celery.utils.time.maybe_make_aware",
        "canvas",
        "Reads an `eta` as Celery does.",
        parameters=("dt", "tz", "naive_as_utc"),
    ),
    Internal(
        "celery.app.task.Context",
        "recording.conclusion",
        "Stands in for the request of a task that has failed, so that the backend calls the errbacks of a job.",
    ),
    Internal(
        "celery.backends.base.Backend.mark_as_failure",
        "recording.conclusion",
        "Calls errbacks of both signatures, old and new, which nothing documented does.",
        parameters=("self", "task_id", "exc", "traceback", "request", "store_result", "call_errbacks", "state"),
        source=("call_errbacks and request.errbacks",),
    ),
    Internal(
        "celery.worker.state.revoked",
        "extension",
        "A worker that starts adds the tasks of cancelled jobs: Celery keeps revokes in its workers' memory only, and"
        " `control.revoke` does not reach a worker that is not there yet.",
    ),
    Internal(
        "celery.worker.state.REVOKE_EXPIRES",
        "extension",
        "How far back such a worker has to look. Seconds.",
    ),
    Internal(
        "billiard.pool.SIG_SOFT_TIMEOUT",
        "soft_limits",
        "The signal of a soft time limit, deferred while a connection is taken from a pool.",
        value=10,  # SIGUSR1 on Linux
    ),
    Internal(
        "celery.app.trace.build_tracer",
        "worker.admission",
        "Calls a task's `before_start`, which is documented, only where its class overrides it, and looks when it is"
        " made: so the claim has to be installed before the worker traces its tasks.",
        source=("task_has_custom(task, 'before_start')", "task_before_start(uuid, args, kwargs)"),
    ),
    Internal(
        "celery.app.routes.Router.route",
        "publishing",
        "Says which queue a message goes to, to ask whether that is empty.",
        parameters=("self", "options", "name", "args", "kwargs", "task_type"),
    ),
    Internal(
        "celery.app.task.Context.timelimit",
        "worker.reporting",
        "The (hard, soft) limits that a message brings; the task's own attributes are documented, a message's are not.",
        value=None,
    ),
    Internal(
        "kombu.utils.json",
        "storage.json",
        "The JSON of Celery's serialiser, with its types: what a row keeps has to come back as it came from the wire.",
    ),
    Internal(
        "celery.utils.dispatch.Signal",
        "signals",
        "The class of Celery's signals, so that users connect to the library's as they do to Celery's.",
        parameters=("providing_args", "use_caching", "name"),
    ),
    Internal(
        "celery.bin.base.CeleryCommand",
        "cli",
        "The class of Celery's own commands, so that `celery -A APP progress` reports usage errors as they do.",
    ),
)
