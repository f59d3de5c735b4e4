"""The schema that the migrations make is the one that the code declares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from celery_progress_ext.exceptions import DatabaseAway
from celery_progress_ext.recovery import queries
from celery_progress_ext.storage import Database
from celery_progress_ext.storage import migrate as migration
from celery_progress_ext.storage.audit import audit
from celery_progress_ext.storage.migrate import SCRIPTS, config, migrate
from celery_progress_ext.storage.revisions import current, head, known
from celery_progress_ext.storage.schema import metadata
from celery_progress_ext.story import JobTrackingService
from tests.support import life_cycle


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.dispose()


def test_a_migrated_schema_equals_a_fresh_one(database: Database) -> None:
    """Alembic itself finds nothing left to do, on both databases."""
    migrate(database)
    with database.engine.connect() as conn:
        context = MigrationContext.configure(
            conn,
            opts={
                "compare_type": True,
                "version_table": "celery_progress_version",
                "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    """Every deploy runs it."""
    assert current(database) is None
    assert migrate(database) == migrate(database) == current(database) == head()


def test_the_revisions_are_those_that_alembic_knows() -> None:
    """They are asked for without it: by a web process that is asked whether it is ready."""
    assert known() == tuple(script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions())


def test_a_database_that_is_away_is_not_migrated(database_url: str) -> None:
    """Of the library's kind, as every other answer of the database."""
    away = "sqlite:////nowhere/progress.db" if database_url.startswith("sqlite") else "postgresql://127.0.0.1:1/x"
    with pytest.raises(DatabaseAway):
        migrate(Database(away))


def test_a_migration_leaves_the_hosts_own_tables_alone(database: Database) -> None:
    """The library may share a database with its application, which may use Alembic too."""
    with database.engine.begin() as conn:
        conn.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        conn.execute(sa.text("INSERT INTO alembic_version VALUES ('theirs')"))
    migrate(database)
    with database.engine.connect() as conn:
        assert conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "theirs"


def test_the_way_back_removes_every_table(database: Database) -> None:
    """A step that cannot be undone is found here, not at night."""
    migrate(database)
    with database.engine.begin() as conn:
        command.downgrade(config(conn), "base")
    with database.engine.connect() as conn:
        assert not set(metadata.tables) & set(sa.inspect(conn).get_table_names())


def test_jobs_of_before_are_found_by_their_file_names(database: Database) -> None:
    """The OCR service kept them in the metadata; a job without one is found by its document."""
    with database.engine.begin() as conn:
        command.upgrade(config(conn), "0004")
        columns = (
            "id, matter_id, document_id, status, stage_name, stage, metadata, body_signature, body_task_id,"
            " created_at, updated_at"
        )
        for number, metadata in enumerate(('{"filename": "Brief M\\u00fcller.pdf"}', '{"filename": 7}')):
            conn.execute(
                sa.text(
                    f"INSERT INTO processing_jobs ({columns}) VALUES"
                    " (:id, 'm', :document, 'PENDING', 'queued', '', :metadata, '{}', '', :number, 0)"
                ),
                {"id": f"j{number}", "document": f"d{number}", "metadata": metadata, "number": number},
            )
    migrate(database)
    found = JobTrackingService(database)
    assert [(job.job_id, job.title) for job in found.list("m", search="MULLER")] == [("j0", "Brief Müller.pdf")]
    assert [(job.job_id, job.title) for job in found.list("m", search="d1")] == [("j1", None)]


def _contents(database: Database, columns: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """These columns of every row of each table, and every index with its condition."""
    with database.engine.connect() as conn:
        found = {
            table.name: [
                str(row) for row in conn.execute(sa.select(*(c for c in table.c if c.name in columns[table.name])))
            ]
            for table in metadata.sorted_tables
            if table.name in columns
        }
        asked = (
            "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
            if database.dialect == "sqlite"
            else "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
        )
        found["indexes"] = [" ".join(text.split()) for text in conn.execute(sa.text(asked)).scalars()]
    return {name: sorted(rows) for name, rows in found.items()}


def test_a_full_database_comes_through_the_newest_revision_as_it_was(database: Database, database_url: str) -> None:
    """SQLite builds tables anew for it: no chunk, no event and no index is lost, and jobs go on."""
    migrate(database)
    life_cycle.live(database_url)
    whole = {table.name: table.c.keys() for table in metadata.sorted_tables}
    full = _contents(database, whole)
    with database.engine.connect() as conn, migration._foreign_keys_off(conn), conn.begin():
        command.downgrade(config(conn), known()[1])
        inspected = sa.inspect(conn)
        columns = {
            name: {each["name"] for each in inspected.get_columns(name)}
            for name in metadata.tables
            if inspected.has_table(name)
        }
    before = _contents(database, columns)
    assert len(before["job_events"]) == len(full["job_events"]) > 20
    migrate(database)
    after = _contents(database, columns)
    assert {name: after[name] for name in columns} == {name: before[name] for name in columns}
    assert after["indexes"] == full["indexes"]
    assert audit(database) == []
    life_cycle.live(database_url)


_LOOKUPS = {
    "lapsed chunks": "SELECT * FROM document_ocr_chunks WHERE status = 'processing' AND leased_until < 1",
    "chunks of a job": "SELECT * FROM document_ocr_chunks WHERE job_id = 'x' AND status = 'failed'",
    "jobs of a matter": "SELECT * FROM processing_jobs WHERE matter_id = 'x' ORDER BY created_at DESC LIMIT 50",
    "jobs of a document": "SELECT * FROM processing_jobs WHERE document_id = 'x' ORDER BY created_at DESC LIMIT 1",
    "history": "SELECT * FROM job_events WHERE job_id = 'x' AND version > 3 ORDER BY version",
    "retention": "SELECT id FROM processing_jobs WHERE finished_at < 1 ORDER BY finished_at LIMIT 100",
    "jobs to audit": "SELECT * FROM processing_jobs WHERE finished_at IS NOT NULL"
    " AND COALESCE(audited_version, 0) < version ORDER BY finished_at LIMIT 50",
    "chunks to audit": "SELECT * FROM document_ocr_chunks WHERE job_id = 'x' AND chunk_index > 7"
    " ORDER BY chunk_index LIMIT 1000",
    "events to audit": "SELECT * FROM job_events WHERE job_id = 'x' AND version >= 7 AND (version > 7 OR id > 9)"
    " ORDER BY version, id LIMIT 1000",
    "running jobs": "SELECT * FROM processing_jobs WHERE status IN ('PENDING', 'PROCESSING')",
}


@pytest.mark.parametrize("name", ["_QUEUE_PROGRESS", "_EVIDENCE_OF_ENDED", "_PASSED", "_EXTEND"])
def test_a_tick_finds_what_was_overtaken_without_reading_every_chunk(tmp_path: object, name: str) -> None:
    """A thousand jobs of ten thousand chunks wait in the queue: all of them are overdue."""
    database = Database(f"sqlite:///{tmp_path}/plan.db")
    migrate(database)
    compiled = getattr(queries, name).compile(dialect=database.engine.dialect)
    with database.engine.connect() as conn:
        explained = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", (1,) * len(compiled.positiontup))
        plan = [str(row[-1]) for row in explained]
    database.dispose()
    # Each look at chunks is at those of one job; the pages of jobs are scanned.
    looks = [step for step in plan if step.startswith(("SEARCH", "SCAN")) and "processing_jobs" not in step]
    assert [step for step in looks if "(job_id=?" not in step and step not in ("SCAN page", "SCAN recent")] == []


@pytest.mark.parametrize("query", _LOOKUPS.values(), ids=_LOOKUPS.keys())
def test_what_runs_often_is_answered_by_an_index(tmp_path: object, query: str) -> None:
    """At 10,000 chunks a scan per event would be felt."""
    database = Database(f"sqlite:///{tmp_path}/plan.db")
    migrate(database)
    with database.engine.connect() as conn:
        plan = " ".join(str(row[-1]) for row in conn.execute(sa.text("EXPLAIN QUERY PLAN " + query)))
    database.dispose()
    assert "USING INDEX" in plan or "USING COVERING INDEX" in plan
    # A scan of the index of what is still to be audited is what that index is for: it is all but empty.
    assert "SCAN" not in plan or "ix_processing_jobs_unaudited" in plan
    assert "TEMP B-TREE" not in plan
