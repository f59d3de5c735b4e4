"""The tables. Times are seconds since the epoch (DOUBLE PRECISION), always of the database's clock."""

from __future__ import annotations

import sqlalchemy as sa

from celery_progress_ext.storage.expressions import JSON

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _units(name: str) -> sa.Column[int]:
    """A number of units, which may be bytes."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


#: A job that ended, or ended again after a retry, since it was audited; as the index spells it.
unaudited = sa.text("finished_at IS NOT NULL AND COALESCE(audited_version, 0) < version")

#: A run of a known kind that ended and was not learned from.
unlearned = sa.text("finished_at IS NOT NULL AND kind IS NOT NULL AND COALESCE(learned_run, 0) < run")

_UNSENT = sa.text("sent_at = 0")

processing_jobs = sa.Table(
    "processing_jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    # The owner, None for a job that only an unscoped credential may read; and the subject.
    sa.Column("matter_id", sa.String(255)),
    sa.Column("document_id", sa.String(255)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("stage_name", sa.String(32), nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("progress_pct", sa.Integer, nullable=False, server_default="0"),
    sa.Column("metadata", JSON, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("unit", sa.String(32), nullable=False, server_default="pages"),
    # What a failed chunk means: 'partial' (the others go on) or 'fail'.
    sa.Column("on_chunk_failure", sa.String(16), nullable=False, server_default="partial"),
    # Counters, kept in the transaction that changes the chunk; `audit` recounts them.
    _count("total_chunks"),
    _count("pending_chunks"),
    _count("processing_chunks"),
    _count("completed_chunks"),
    _count("failed_chunks"),
    _units("pages_total"),
    _units("pages_done"),
    # Grows by one with every change; the `id:` of the live stream.
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    # Starts at 1, grows with every retry by a person.
    sa.Column("run", sa.Integer, nullable=False, server_default="1"),
    # Whether Celery's own chord can still publish the body: no header task failed or was sent again.
    sa.Column("chord_intact", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("body_signature", JSON, nullable=False),
    sa.Column("body_task_id", sa.String(255), nullable=False),
    _count("body_attempt"),
    _count("body_tries"),
    _count("body_dispatches"),
    # A claimed body is alive until then; None when none is claimed.
    sa.Column("body_leased_until", sa.Double),
    # By when Celery's chord should have published the body: from then on the reconciler does.
    sa.Column("body_due_at", sa.Double),
    _units("merge_pages_done"),
    # What the finished chunks took together (`pace.Pace`).
    _count("pace_chunks"),
    _units("pace_pages"),
    _real("pace_seconds"),
    _real("pace_sum_log"),
    _real("pace_sum_log_sq"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("merge_started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    # The version at which the reconciler found what there is to find; None before its first look.
    sa.Column("audited_version", sa.BigInteger),
    # The process that sends the chunks' messages is alive until then; None when none does.
    sa.Column("publishing_until", sa.Double),
    # When the broker took the newest message of the body: 0 before it did, None where only Celery's chord sent one.
    sa.Column("body_sent_at", sa.Double),
    # What runs once the job is COMPLETED or PARTIAL: a list of signatures; and when it was published.
    sa.Column("followers", JSON),
    sa.Column("followed_at", sa.Double),
    # What the body returned, in a list of one, where that is small JSON.
    sa.Column("result", JSON),
    # Pages of completed chunks that were not wholly read.
    _count("reservations"),
    # Where its messages go, and the lanes that they are given while a worker listens (`lanes.JobQueues`); None where
    # its publisher is of before revision 0004.
    sa.Column("queues", JSON),
    # Body's task, header's tasks, unit (`kinds.kind_of`); None for a job of before revision 0004, or tracked by hand.
    sa.Column("kind", sa.String(255)),
    # What its chunks are expected to cost together, and what of that is done.
    sa.Column("cost_total", sa.Double),
    sa.Column("cost_done", sa.Double),
    # Which part of its whole work the merge is taken to be; fixed when the job is made, so that the bar of work only
    # grows. And what that bar had shown when the merge was begun again.
    sa.Column("merge_share", sa.Double),
    sa.Column("work_floor", sa.Double),
    # The run that its kind has learned from last.
    sa.Column("learned_run", sa.Integer),
    # What people call it, such as a file's name; and what it is searched by (`titles.search_key`), which is None for a
    # job of a publisher of before revision 0005.
    sa.Column("title", sa.String(255)),
    sa.Column("title_key", sa.String(255)),
    # What it was published as, where that has no body (`jobs.JobShape`); None for a chord.
    sa.Column("shape", sa.String(16)),
    # The merge's stage in the user's words; None for the words of `stages`.
    sa.Column("merge_message", sa.Text),
    # False where its chunks have no ranges that a message could name; None for a job of before revision 0006.
    sa.Column("ranged", sa.Boolean),
    sa.CheckConstraint(
        "pending_chunks >= 0 AND processing_chunks >= 0 AND completed_chunks >= 0 AND failed_chunks >= 0"
        " AND pending_chunks + processing_chunks + completed_chunks + failed_chunks = total_chunks",
        name="counts",
    ),
    sa.Index("ix_processing_jobs_matter_created", "matter_id", "created_at"),
    # A page of a matter's list is found in it alone, whatever is searched for.
    sa.Index("ix_processing_jobs_listed", "matter_id", "created_at", "id", "status", "title_key"),
    sa.Index("ix_processing_jobs_document_created", "document_id", "created_at"),
    sa.Index("ix_processing_jobs_status_updated", "status", "updated_at"),
    sa.Index("ix_processing_jobs_finished_at", "finished_at"),
    # Only jobs that ended and were not audited since, so it is all but empty. Queries must use the same expression.
    sa.Index("ix_processing_jobs_unaudited", "finished_at", sqlite_where=unaudited, postgresql_where=unaudited),
    sa.Index("ix_processing_jobs_unlearned", "finished_at", sqlite_where=unlearned, postgresql_where=unlearned),
)

document_ocr_chunks = sa.Table(
    "document_ocr_chunks",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey(processing_jobs.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("document_id", sa.String(255)),
    sa.Column("chunk_index", sa.Integer, nullable=False),
    sa.Column("page_start", sa.BigInteger, nullable=False),
    sa.Column("page_end", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    # Allocated here at every start: the fencing token of the task that works on the chunk.
    _count("attempt"),
    # Starts since the job was created or a person retried it; the limit is progress_max_attempts.
    _count("tries"),
    # How often the chunk was sent to the broker; part of the task id of the newest message.
    sa.Column("dispatches", sa.Integer, nullable=False, server_default="1"),
    sa.Column("task_id", sa.String(255), nullable=False),
    sa.Column("signature", JSON, nullable=False),
    # What the task returned, where that is small JSON: the body can then run without the result backend.
    sa.Column("result", JSON),
    # processing: alive until then. pending: should have been started by then.
    sa.Column("leased_until", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("progressed_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    # Most pages ever done, so that a restart does not take back what was shown; and pages of this attempt.
    _units("pages_done"),
    _units("attempt_pages_done"),
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.String(255)),
    # When the broker took the newest message: 0 before it did, None for a row of before revision 0003, which it took.
    sa.Column("sent_at", sa.Double),
    # Pages that were not wholly read: a list of {"page": number, "message": sentence}.
    sa.Column("reservations", JSON),
    # What it is expected to cost, in a unit of the job's own; None for its pages.
    sa.Column("cost", sa.Double),
    # How much of that was done at most, so that a restart does not take it back.
    sa.Column("cost_done", sa.Double),
    # What this attempt reported last: steps done, of how many; and when it reported first, and which step, since what
    # came before that was start-up, too.
    sa.Column("steps_done", sa.BigInteger),
    sa.Column("steps_total", sa.BigInteger),
    sa.Column("first_at", sa.Double),
    sa.Column("first_steps", sa.BigInteger),
    # How many units it has; None for those of its range.
    sa.Column("size", sa.BigInteger),
    # True where its size is what its task reports as the total.
    sa.Column("grows", sa.Boolean),
    sa.Index("ix_document_ocr_chunks_unsent", "job_id", sqlite_where=_UNSENT, postgresql_where=_UNSENT),
    sa.UniqueConstraint("job_id", "chunk_index"),
    sa.Index("ix_document_ocr_chunks_job_status", "job_id", "status", "chunk_index"),
    sa.Index("ix_document_ocr_chunks_status_leased", "status", "leased_until"),
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey(processing_jobs.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("chunk_index", sa.Integer),
    sa.Column("attempt", sa.Integer),
    sa.Column("message", sa.Text),
    # The process that works on the chunk, or on the merge (`recording.processes`); None in events of before revision
    # 0005.
    sa.Column("worker", sa.String(255)),
    # The finish time that readers had been given last when this happened, and its interval; and the estimate before it
    # was corrected (`calibration.Model`).
    sa.Column("eta_finish_at", sa.Double),
    sa.Column("eta_earliest_at", sa.Double),
    sa.Column("eta_latest_at", sa.Double),
    sa.Column("eta_model", JSON),
    sa.Index("ix_job_events_job_version", "job_id", "version"),
)

#: The message of a task that follows a job that came to run first, so that one which was published again does not.
follower_claims = sa.Table(
    "follower_claims",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey(processing_jobs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("task_id", sa.String(255), primary_key=True),
    # The job's version at its end: a retry has another end, and what follows runs again.
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("publication", sa.String(64), nullable=False),
)

#: What past jobs of a kind say of the next: the figures of the last of them (`kinds.Kind`).
job_kinds = sa.Table(
    "job_kinds",
    metadata,
    sa.Column("kind", sa.String(255), primary_key=True),
    sa.Column("jobs", JSON, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Index(None, "updated_at"),
)

progress_workers = sa.Table(
    "progress_workers",
    metadata,
    # Celery's name of the worker.
    sa.Column("node", sa.String(255), primary_key=True),
    # The names of the queues that it listens to, a list.
    sa.Column("queues", JSON, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    # Its lease, which it renews; in the past where it said that it stops.
    sa.Column("alive_until", sa.Double, nullable=False),
    sa.Index("ix_progress_workers_seen_at", "seen_at"),
)
