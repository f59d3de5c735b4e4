"""Documents over HTTP: found by name and state, page by page, opened by their address, and deleted for good."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery

from celery_progress_ext import CeleryProgress, JobStatus
from celery_progress_ext.storage.schema import document_ocr_chunks, job_events, processing_jobs
from celery_progress_ext.storage.snapshots import listed
from celery_progress_ext.wording import moment
from tasks.documents import DocumentStore
from tasks.sample import make_sample
from tasks.settings import ServiceSettings
from tests.support.rows import Rows
from tests.support.web_service import ALL, MATTER, ONE, Service, finish, post, problem
from web import create_app, streams


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A scan of one page."""
    path = tmp_path_factory.mktemp("sample") / "sample.pdf"
    make_sample(path, pages=1, dpi=72)
    return path.read_bytes()


def _submit(service: Service, sample: bytes, name: str, matter_id: str = MATTER) -> tuple[str, str]:
    """(job id, document id) of a new document."""
    answer = post(service.client(), sample, filename=name, matter_id=matter_id).get_json()
    return answer["job_id"], answer["document_id"]


def _names(service: Service, query: str, key: str = ONE) -> list[str]:
    return [job["title"] for job in service.client(key).get(f"/api/jobs?{query}").get_json()]


class TestFinding:
    def test_by_name(self, web_service: Service, sample: bytes) -> None:
        """Each word of the search is in it, whatever the case and the accents; what LIKE would read is only text."""
        for name in ("Brief Müller 2024.pdf", "brief meier.pdf", "100%_ok.pdf"):
            _submit(web_service, sample, name)
        assert _names(web_service, "q=BRIEF") == ["brief meier.pdf", "Brief Müller 2024.pdf"]
        assert _names(web_service, "q=2024+müller") == _names(web_service, "q=muller") == ["Brief Müller 2024.pdf"]
        assert _names(web_service, "q=0%25_") == ["100%_ok.pdf"]
        assert _names(web_service, "q=%25") == ["100%_ok.pdf"]
        assert _names(web_service, "q=nothing") == []

    def test_by_state(self, web_service: Service, sample: bytes) -> None:
        """One or more, with commas; what is none is a 400."""
        job_id, _ = _submit(web_service, sample, "a.pdf")
        _submit(web_service, sample, "b.pdf")
        web_service.client().post(f"/api/jobs/{job_id}/cancel")
        assert _names(web_service, "status=CANCELLED") == ["a.pdf"]
        assert _names(web_service, "status=PENDING,CANCELLED") == ["b.pdf", "a.pdf"]
        assert _names(web_service, "status=FAILED&q=a") == []
        assert "`status`" in str(problem(web_service.client().get("/api/jobs?status=gone"), 400)["detail"])

    @pytest.mark.parametrize("cursor", ["x", "%00", "bmFuIHg", "ÿ", "eA", "a" * 5000])
    def test_a_cursor_that_is_none(self, web_service: Service, cursor: str) -> None:
        """It is refused, and never an error of ours."""
        problem(web_service.client().get(f"/api/jobs?cursor={cursor}"), 400)

    def test_page_by_page(self, web_service: Service, sample: bytes) -> None:
        """The link of each page leads to the next; all are there once, also where a new one comes in between."""
        made = [_submit(web_service, sample, f"{number}.pdf", MATTER if number % 2 else "m2")[0] for number in range(5)]
        client, url, found = web_service.client(ALL), "/api/jobs?limit=2&_external=1", []
        while url:
            response = client.get(url)
            found += [job["job_id"] for job in response.get_json()]
            link = re.fullmatch(r'<(/api/jobs\?.*)>; rel="next"', response.headers.get("Link", ""))
            url = link[1] if link else ""
            if len(found) == 2:
                _submit(web_service, sample, "new.pdf")
        assert found == made[::-1]


def test_an_address_that_no_database_takes(postgres_url: str, tmp_path: Path) -> None:
    """404 with a sentence, for the page and for programs; never an error of ours."""
    celery = Celery("names", broker="memory://", backend="cache+memory://", set_as_current=False)
    celery.conf.update(progress_database_url=postgres_url)
    progress = CeleryProgress(celery)
    progress.migrate()
    settings = ServiceSettings(
        documents_url=(tmp_path / "documents").as_uri(),
        api_keys={ONE: (MATTER,)},
        secret_key="0d9f-a-random-text-71c3e5b2",
    )
    app = create_app(progress, settings)
    client = Service(app, progress, DocumentStore(settings.documents_url), settings).client(ONE)
    for path in ("/api/documents/a%00b", "/api/jobs/a%00b", "/api/jobs/a%00b/pages", "/api/jobs/a%00b/events"):
        problem(client.get(path), 404)
    assert client.get("/documents/a%00b").status_code == 404
    assert client.get("/api/jobs?q=a%00b").get_json() == []
    streams.close(app)
    progress.database.dispose()
    celery.close()


class TestCompression:
    def test_a_list_is_a_fraction(self, web_service: Service, sample: bytes) -> None:
        """For who takes gzip, and the same for who does not."""
        for number in range(3):
            _submit(web_service, sample, f"{number}.pdf")
        client = web_service.client()
        plain = client.get("/api/jobs")
        packed = client.get("/api/jobs", headers={"Accept-Encoding": "gzip, br"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        assert "Content-Encoding" not in plain.headers
        assert [job["job_id"] for job in json.loads(gzip.decompress(packed.data))] == [
            job["job_id"] for job in plain.get_json()
        ]
        assert int(packed.headers["Content-Length"]) < len(plain.data) / 2
        style = client.get("/static/page.css", headers={"Accept-Encoding": "gzip"})
        again = {"Accept-Encoding": "gzip", "If-None-Match": style.headers["ETag"]}
        unchanged = client.get("/static/page.css", headers=again)
        assert unchanged.status_code == 304
        style.close()
        unchanged.close()

    def test_results_are_left_alone(self, web_service: Service, sample: bytes, tmp_path: Path) -> None:
        """Parts of them can be asked for."""
        job_id, _ = _submit(web_service, sample, "a.pdf")
        finish(web_service, job_id, tmp_path, {"json": b"[" + b"1," * 5000 + b"1]"})
        answer = web_service.client().get(f"/api/jobs/{job_id}/result.json", headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in answer.headers
        assert len(answer.data) == 10_003
        answer.close()


class TestDeleting:
    def test_it_is_gone_for_good(self, web_service: Service, sample: bytes, tmp_path: Path) -> None:
        """Rows, history, results and the file that was handed in; others stay."""
        job_id, document_id = _submit(web_service, sample, "a.pdf")
        other, _ = _submit(web_service, sample, "b.pdf")
        finish(web_service, job_id, tmp_path, {"pdf": b"%PDF"})
        client = web_service.client(ONE)
        assert client.get(f"/api/documents/{document_id}").get_json()["job_id"] == job_id
        assert client.delete(f"/api/documents/{document_id}").status_code == 204
        problem(client.get(f"/api/documents/{document_id}"), 404)
        problem(client.delete(f"/api/documents/{document_id}"), 404)
        problem(client.get(f"/api/jobs/{job_id}"), 404)
        assert _names(web_service, "") == ["b.pdf"]
        assert [path.name for path in (tmp_path / "documents/jobs").glob("*")] == []
        assert len(list((tmp_path / "documents/documents").glob("*"))) == 1
        for table in (document_ocr_chunks, job_events):
            left = web_service.progress.database.rows(sa.select(table.c.job_id))
            assert {row.job_id for row in left} == {other}
        assert web_service.progress.broadcaster.kept(job_id) is None

    def test_not_while_a_job_runs(self, web_service: Service, sample: bytes) -> None:
        """409 with what to do, and nothing is lost."""
        job_id, document_id = _submit(web_service, sample, "a.pdf")
        detail = problem(web_service.client().delete(f"/api/documents/{document_id}"), 409)["detail"]
        assert "Cancel" in str(detail)
        assert web_service.progress.jobs.snapshot(job_id).status is JobStatus.PENDING
        assert web_service.store.has_original(document_id)

    def test_not_by_everybody(self, web_service: Service, sample: bytes) -> None:
        """Not without a credential, and not with one for another matter."""
        _, document_id = _submit(web_service, sample, "a.pdf", "m2")
        for method in ("get", "delete"):
            problem(getattr(web_service.client(None), method)(f"/api/documents/{document_id}"), 401)
            problem(getattr(web_service.client(ONE), method)(f"/api/documents/{document_id}"), 403)


@pytest.fixture
def listing(database_url: str) -> Iterator[Rows]:
    """A matter of 2,000 jobs, so that a plan is worth making."""
    rows = Rows(database_url)
    job_id = rows.create(1)
    copied = [column.name for column in processing_jobs.c if column.name not in ("id", "created_at", "title_key")]
    numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 2000))
    many = sa.select(
        sa.literal("copy").concat(sa.cast(numbers.c.n, sa.Text)),
        processing_jobs.c.created_at + numbers.c.n,
        sa.literal("scan ").concat(sa.cast(numbers.c.n, sa.Text)),
        *(processing_jobs.c[name] for name in copied),
    ).select_from(sa.join(processing_jobs, numbers, processing_jobs.c.id == job_id))
    insert = sa.insert(processing_jobs).from_select(["id", "created_at", "title_key", *copied], many)
    rows.database.write(lambda conn: conn.execute(insert))
    if database_url.startswith("postgresql"):
        with rows.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(sa.text("VACUUM ANALYZE processing_jobs"))
    yield rows
    rows.database.dispose()


def test_a_page_is_found_in_the_index(listing: Rows) -> None:
    """Whatever is asked for, no row of the large table is read but those of the page."""
    database = listing.database
    explain, found = {
        "sqlite": ("EXPLAIN QUERY PLAN ", "USING COVERING INDEX ix_processing_jobs_listed (matter_id=?"),
        "postgresql": ("EXPLAIN ", "Index Only Scan Backward using ix_processing_jobs_listed"),
    }[database.dialect]
    unfinished = frozenset({JobStatus.PENDING, JobStatus.FAILED})
    for query in (
        listed("m"),
        listed("m", before=(moment(1.0), "job")),
        listed("m", search="scan 7"),
        listed("m", statuses=unfinished, before=(moment(1e10), "job")),
        listed("m", statuses=unfinished, search="scan"),
    ):
        compiled = query.compile(dialect=database.engine.dialect, compile_kwargs={"literal_binds": True})
        with database.engine.connect() as conn:
            plan = "\n".join(str(row[-1]) for row in conn.exec_driver_sql(explain + str(compiled).replace("%", "%%")))
        assert found in plan, plan
        assert "Seq Scan" not in plan
        assert "SCAN processing_jobs" not in plan
