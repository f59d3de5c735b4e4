"""The Celery instance of the service: ``celery -A tasks.celery_app``."""

from __future__ import annotations

import structlog
from celery import Celery

from celery_progress_ext import CeleryProgress
from tasks import file_permissions, lanes, request_ids, retention
from tasks.environment import checked_or_exit
from tasks.limits import chunk_time_limits

settings = checked_or_exit()

_WEEK = 7 * 24 * 3600

_LONGEST_CHUNK = chunk_time_limits(settings.ocr_chunk_pages, settings.ocr_page_timeout).hard

app = Celery(
    "tasks",
    broker=settings.broker_url,
    backend=settings.result_backend,
    include=["tasks.ocr_tasks"],
    set_as_current=True,
)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    # A chunk of a worker that was killed goes back to the queue; the database says whose result counts.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # A process takes the chunk that it works on and no other, so that free processes get the rest.
    worker_prefetch_multiplier=1,
    # Shorter than a chunk, and Redis hands the chunk out again while it is being worked on (F19).
    broker_transport_options={
        "visibility_timeout": max(3600, _LONGEST_CHUNK + 600),
        # A Redis that goes silent would otherwise hold up a publisher, or beat's tick, indefinitely.
        "socket_timeout": 30,
        "queue_order_strategy": "tasks.lanes:LanesFirst",
    },
    # A worker without -Q listens to all of them.
    task_queues=lanes.queues("celery", spread=settings.ocr_queues),
    progress_body_queue=lanes.MERGES,
    # A gap between two chunks longer than this leaves the chord's counter behind (F16).
    result_expires=_WEEK,
    result_chord_expires=_WEEK,
    worker_send_task_events=True,
    task_send_sent_event=True,
    broker_connection_retry_on_startup=True,
)

# Through the standard logging, which a worker sets up: one stream, one level, one format.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.contextvars.merge_contextvars,
        request_ids.add_to_line,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["event"]),
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
    logger_factory=structlog.stdlib.LoggerFactory(),
)

progress = CeleryProgress(app)
request_ids.connect()
retention.connect(app, progress, settings.documents_url)
file_permissions.connect(app, progress, settings)
