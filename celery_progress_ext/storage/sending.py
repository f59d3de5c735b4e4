"""Chunks with the signatures that they are sent with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.storage.database import AnyRow, Database
from celery_progress_ext.storage.rows import CHUNK_COLUMNS, ChunkRow, is_status
from celery_progress_ext.storage.schema import document_ocr_chunks as chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class SentChunk:
    """A chunk, and the signature that it is sent with."""

    chunk: ChunkRow
    signature: Mapping[str, Any]

    @classmethod
    def of(cls, row: AnyRow) -> SentChunk:
        """From a row of ``SENT_COLUMNS``."""
        return cls(chunk=ChunkRow.of(row), signature=row.signature)


SENT_COLUMNS = [*CHUNK_COLUMNS, chunks.c.signature]
_PENDING = (
    sa.select(*SENT_COLUMNS)
    .where(chunks.c.job_id == sa.bindparam("of_job", type_=sa.String), is_status(chunks.c.status, ChunkStatus.PENDING))
    .order_by(chunks.c.chunk_index)
)
_ONE = sa.select(*SENT_COLUMNS).where(chunks.c.id == sa.bindparam("of_chunk", type_=sa.String))


def pending_chunks(database: Database, job_id: str) -> list[SentChunk]:
    """A job's chunks that wait to be started, in the order of the header."""
    return [SentChunk.of(row) for row in database.rows(_PENDING, of_job=job_id)]


def sent_chunk(database: Database, chunk_id: str) -> SentChunk | None:
    """One chunk; None where there is none."""
    row = database.row(_ONE, of_chunk=chunk_id)
    return None if row is None else SentChunk.of(row)
