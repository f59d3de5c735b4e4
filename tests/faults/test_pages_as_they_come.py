"""What a chunk has read stays read: over kills of its process, on a folder and on an object store, and over a retry."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pikepdf
import pytest

from celery_progress_ext import JobStatus
from tasks.sample import make_sample
from tests.support.chords import follow
from tests.support.ocr_service import OcrService
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for

PAGES, KILLS = 11, 4


@pytest.fixture(params=["file", "object"])
def service(request: pytest.FixtureRequest, redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[OcrService]:
    """A service on a local folder, and on an object store."""
    folder = tmp_path / "documents"
    url = folder.as_uri() if request.param == "file" else f"objects://{folder}"
    made = OcrService.on(redis_url, sqlite_url, tmp_path, DOCUMENTS_URL=url)
    yield made
    made.close()


def test_a_killed_process_costs_one_page(service: OcrService, worker: Callable[..., WorkerProcess]) -> None:
    """However often it happens within one chunk: each kill has at most one page read twice, an attempt that stored a
    page is no failed try, and nothing is lost.
    """
    source = service.folder / "in.pdf"
    texts = make_sample(source, pages=PAGES, dpi=150)
    running = service.start_worker(worker)
    job_id = service.submit(source, dpi="150", chunk_pages=str(PAGES))
    chance = random.Random(10)
    for kill in range(KILLS):
        # At least one page more than at the last kill, and then somewhere within a page.
        at = len(service.begun()) + 2
        wait_for(lambda at=at: len(service.begun()) >= at, 40, what=f"page {at} before kill {kill + 1}")
        time.sleep(chance.uniform(0, 0.3))
        _, reader = service.begun()[-1]
        running.kill_child(reader)
    last = follow(service.progress.job(job_id), timeout=60)[-1]
    assert last.status is JobStatus.COMPLETED
    assert service.read_again() <= KILLS
    assert len(service.begun()) <= PAGES + KILLS
    pages = service.result(job_id)["pages"]
    assert [page["page"] for page in pages] == list(range(1, PAGES + 1))
    for page, text in zip(pages, texts, strict=True):
        assert page["status"] == "read"
        assert len(set(text.split()) & set(page["text"].split())) > 0.7 * len(set(text.split()))
    # As many attempts as there were processes, more than a chunk may fail.
    (chunk,) = service.progress.jobs.chunks(job_id)
    assert chunk["attempt"] > KILLS
    assert service.progress.audit() == []


def test_a_page_that_ends_its_process_is_named_and_no_other_is_lost(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    """The chunk goes on without it, in the last attempt that it has."""
    service = OcrService.on(redis_url, sqlite_url, tmp_path, FATAL_PAGE="2")
    try:
        source = tmp_path / "in.pdf"
        make_sample(source, pages=3, dpi=150)
        service.start_worker(worker)
        job_id = service.submit(source, dpi="150", chunk_pages="3")
        last = follow(service.progress.job(job_id), timeout=60)[-1]
        assert last.status is JobStatus.PARTIAL
        (failure,) = last.failures
        assert failure.message == (
            "Page 2 could not be read: the process that reads it ended 2 times, perhaps for want of memory."
        )
        assert [page for page, _ in service.begun()] == [1, 2, 2, 3]
        assert [page["status"] for page in service.result(job_id)["pages"]] == ["read", "unreadable", "read"]
        assert service.progress.audit() == []
    finally:
        service.close()


def test_pages_that_a_chunk_read_before_it_failed_are_in_the_result(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    """The chunk is named as failed; what it had read is kept, and what it had not is missing."""
    service = OcrService.on(redis_url, sqlite_url, tmp_path, FAILING_PAGE="3")
    try:
        source = tmp_path / "in.pdf"
        make_sample(source, pages=6, dpi=150)
        service.start_worker(worker)
        job_id = service.submit(source, dpi="150", chunk_pages="4")
        last = follow(service.progress.job(job_id), timeout=60)[-1]
        assert last.status is JobStatus.PARTIAL
        (failure,) = last.failures
        assert failure.message.startswith("Chunk 1 (pages 1-4) failed: ")
        result = service.result(job_id)
        assert [page["page"] for page in result["pages"]] == [1, 2, 5, 6]
        assert result["missing"] == [[3, 4]]
    finally:
        service.close()


def test_a_retry_reads_what_was_not_wholly_read(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    """A page with half an image is read again, and no other; nor is it within one run."""
    service = OcrService.on(redis_url, sqlite_url, tmp_path)
    try:
        source = tmp_path / "in.pdf"
        make_sample(source, pages=4, dpi=150)
        with pikepdf.open(source, allow_overwriting_input=True) as pdf:
            (image,) = pdf.pages[1].obj.Resources.XObject.values()
            image.write(image.read_raw_bytes()[:20_000], filter=image.Filter, decode_parms=image.get("/DecodeParms"))
            pdf.save(source, stream_decode_level=pikepdf.StreamDecodeLevel.none)
        running = service.start_worker(worker)
        job_id = service.submit(source, dpi="150", chunk_pages="4")
        # Behind the damaged page: the next attempt knows it.
        wait_for(lambda: len(service.begun()) == 4, 40, what="the last page")
        running.kill_child(service.begun()[-1][1])
        first = follow(service.progress.job(job_id), timeout=60)[-1]
        assert first.status is JobStatus.PARTIAL
        assert [failure.message.startswith("Page 2 has an image that") for failure in first.failures] == [True]
        assert [page for page, _ in service.begun()][:4] == [1, 2, 3, 4]
        assert service.read_again() <= 1
        before = len(service.begun())
        service.progress.retry_failed(job_id)
        again = follow(service.progress.job(job_id), timeout=60)[-1]
        assert [page for page, _ in service.begun()[before:]] == [2]
        assert (again.status, again.failures) == (first.status, first.failures)
        assert [page["status"] for page in service.result(job_id)["pages"]] == ["read", "damaged", "read", "read"]
        assert service.progress.audit() == []
    finally:
        service.close()


def test_what_the_page_tree_lacks_is_named(
    redis_url: str, sqlite_url: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    """A page that is missing, and one of the same number that is none: both are among the failures."""
    service = OcrService.on(redis_url, sqlite_url, tmp_path)
    try:
        source = tmp_path / "in.pdf"
        make_sample(source, pages=4, dpi=150)
        with pikepdf.open(source) as pdf:
            kids = b"%d 0 R %d 0 R" % tuple(pdf.pages[index].objgen[0] for index in (1, 2))
            catalogue = pdf.Root.objgen[0]
        content, instead = source.read_bytes(), b"0 0 R %d 0 R" % catalogue
        assert (kids in content, len(kids)) == (True, len(instead))
        # The second page is not there; in the place of the third is the document's catalogue.
        source.write_bytes(content.replace(kids, instead, 1))
        service.start_worker(worker)
        job_id = service.submit(source, dpi="150")
        last = follow(service.progress.job(job_id), timeout=60)[-1]
        assert last.status is JobStatus.PARTIAL
        (failure,) = last.failures
        assert failure.message == (
            "Page 2 is missing from the file. Page 2 is no page: the file has something else in its place."
        )
        pages = [(page["page"], page["status"]) for page in service.result(job_id)["pages"]]
        assert pages == [(1, "read"), (2, "unreadable"), (3, "read")]
    finally:
        service.close()
