"""Sending chunks and bodies again, outside Celery's own chord."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from celery import Celery
from celery.canvas import Signature

from celery_progress_ext import ids
from celery_progress_ext.exceptions import ProgressError
from celery_progress_ext.log import get_logger
from celery_progress_ext.parts import leave_unawaited
from celery_progress_ext.storage import Database
from celery_progress_ext.storage.database import Row
from celery_progress_ext.storage.job_changes import as_json

logger = get_logger(__name__)

#: States of a Celery result that will not change any more by themselves.
SUCCESS, FAILURE = "SUCCESS", "FAILURE"


class ResultLost(ProgressError):
    """A finished chunk's result is in neither the rows nor the result backend; return small references from chunks."""


class Lane(NamedTuple):
    """Messages of one lane are taken in the order in which they were sent: a queue, or a priority of a queue."""

    queue: str
    exchange: str
    routing_key: str
    priority: int | None


#: What a task, its signature or a route may say of where a message goes.
_WHERE = ("queue", "exchange", "routing_key", "priority")


class Dispatch:
    """Publishes what the rows say is due, and asks Celery what it knows."""

    def __init__(self, app: Celery, database: Database) -> None:
        self._app = app
        self._database = database

    @property
    def app(self) -> Celery:
        """The Celery app."""
        return self._app

    def chunk(self, chunk: Row) -> None:
        """Publish a chunk under the task id that its row carries."""
        signature = Signature.from_dict(as_json(chunk["signature"]), app=self._app)
        leave_unawaited(self._app)
        signature.apply_async(task_id=chunk["task_id"], root_id=chunk["job_id"])
        logger.info(
            "chunk_dispatched", job_id=chunk["job_id"], chunk_index=chunk["chunk_index"], task_id=chunk["task_id"]
        )

    def body(self, job: Row) -> None:
        """Publish the body with the results of the completed chunks, in chunk order.

        :raises ResultLost: when a result is nowhere to be had.
        """
        # The first dispatch is Celery's chord's own, so ours are numbered from 2.
        task_id = ids.body_task_id(job["id"], job["body_dispatches"] + 1)
        signature = Signature.from_dict(as_json(job["body_signature"]), app=self._app)
        results = self.results(job["id"])
        leave_unawaited(self._app)
        signature.apply_async((results,), task_id=task_id, root_id=job["id"])
        logger.info("body_dispatched", job_id=job["id"], task_id=task_id)

    def results(self, job_id: str) -> list[Any]:
        """What the completed chunks returned, in chunk order."""
        rows = self._database.rows(
            """SELECT chunk_index, task_id, result FROM document_ocr_chunks
               WHERE job_id = :id AND status = 'completed' ORDER BY chunk_index""",
            id=job_id,
        )
        return [as_json(row["result"])[0] if row["result"] is not None else self._backend_result(row) for row in rows]

    def outcome(self, task_id: str) -> tuple[str, Any]:
        """The state and result of a task as the result backend knows them; ``PENDING`` for what it does not know."""
        # Not through an AsyncResult, whose `__del__` goes to Redis once more.
        meta = self._app.backend.get_task_meta(task_id)
        return str(meta.get("status", "PENDING")), meta.get("result")

    def waiting(self, signature: Mapping[str, Any]) -> int | None:
        """How many messages wait in the queue that a chunk goes to; None where the broker does not say."""
        queue = self.queue_of(signature)
        try:
            with self._app.connection_for_write() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except (OSError, *self._app.connection_for_write().channel_errors) as error:
            # Redis forgets an empty queue, and kombu spells the code as text.
            if str(getattr(error, "reply_code", "")) == "404":
                return 0
            logger.warning("queue_depth_unknown", queue=queue, error=type(error).__name__)
            return None

    def queue_of(self, signature: Mapping[str, Any]) -> str:
        """The name of the queue that a chunk's messages go to.

        :raises celery.exceptions.QueueNotFound: a KeyError, for a queue that is unknown here.
        """
        return self._lane(signature).queue

    def lane_of(self, signature: Mapping[str, Any]) -> Lane | None:
        """The lane that a chunk's messages go to; None for a queue that is unknown here."""
        try:
            return self._lane(signature)
        except KeyError:  # QueueNotFound is one
            return None

    def _lane(self, signature: Mapping[str, Any]) -> Lane:
        """As Celery finds it, from what the task, its signature and the routes say."""
        task = self._app.tasks.get(signature["task"])
        said = {**{name: getattr(task, name, None) for name in _WHERE}, **(signature.get("options") or {})}
        route = self._app.amqp.router.route(
            {name: said[name] for name in _WHERE if said.get(name) is not None},
            signature["task"],
            signature.get("args") or (),
            signature.get("kwargs") or {},
        )
        queue, exchange = (getattr(route.get(name), "name", route.get(name)) for name in ("queue", "exchange"))
        return Lane(
            str(queue or self._app.conf.task_default_queue),
            str(exchange or ""),
            str(route.get("routing_key") or ""),
            route.get("priority", self._app.conf.task_default_priority),
        )

    def revoke(self, task_ids: list[str]) -> None:
        """Stop tasks, queued or running; best effort, the rows are the guarantee. Never raises."""
        if not task_ids:
            return
        try:
            self._app.control.revoke(task_ids, terminate=True)
        except Exception as error:
            logger.warning("revoke_failed", tasks=len(task_ids), error=f"{type(error).__name__}: {error}")

    def _backend_result(self, row: Row) -> Any:
        state, result = self.outcome(row["task_id"])
        if state != SUCCESS:
            raise ResultLost(
                f"The result of chunk {row['chunk_index'] + 1} is gone; it was too large to keep in its row."
                " Return a small reference from the chunk's task, or raise result_expires."
            )
        return result


def worker_name() -> str:
    """This process, as a chunk's row names who works on it."""
    return f"{socket.gethostname()}:{os.getpid()}"
