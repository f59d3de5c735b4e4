"""The pages of a chunk: there as soon as they are written, by whichever attempt, and never lost again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engines import Word
from tasks.files import Files
from tasks.page_results import PageResult, PageStatus
from tasks.page_store import PageStore, StoredPage
from tasks.pdf.geometry import Geometry

READ = PageResult(
    page=1,
    status=PageStatus.READ,
    dpi=300,
    geometry=Geometry((0, 0, 612, 792), 90, 3300, 2550),
    words=(Word("naïve", 1, 2, 3, 4, 95.5, 0),),
)
KEPT = PageResult(page=3, status=PageStatus.KEPT, own_text="Schluß")
JOB, OPTIONS = "job_1", "digest"


def unreadable(page: int) -> PageResult:
    return PageResult.because(page, PageStatus.UNREADABLE, "render_died")


def stored(result: PageResult, run: int = 1, options: str = OPTIONS) -> StoredPage:
    return StoredPage(result=result, run=run, options=options)


PAGES = [stored(READ), stored(unreadable(2)), stored(KEPT)]


@pytest.fixture(params=["file", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty place, on a local folder and on an object store."""
    return Files(f"memory://{uuid4().hex}" if request.param == "memory" else (tmp_path / "store").as_uri())


@pytest.fixture
def store(files: Files) -> PageStore:
    """An empty store."""
    return PageStore(files)


def test_a_page_is_there_as_soon_as_it_is_written(store: PageStore) -> None:
    """Nothing of it is lost on the way; other chunks and other options have their own."""
    for page in PAGES:
        store.write_page(JOB, 4, page)
        assert store.pages(JOB, 4, run=1)[page.result.page] == page
    assert list(store.pages(JOB, 4, run=1, options=OPTIONS).values()) == PAGES
    assert store.pages(JOB, 4, run=1, options="others") == store.pages(JOB, 0, run=1) == {}


def test_a_chunk_takes_the_place_of_its_pages(store: PageStore, files: Files) -> None:
    """One file instead of many, with the same pages; by its reference they are read back."""
    for page in PAGES:
        store.write_page(JOB, 4, page)
    reference = store.write_chunk(JOB, 4, 2, PAGES)
    assert files.names(f"jobs/{JOB}/pages/4") == []
    assert store.read_chunk(reference) == [page.result for page in PAGES]
    assert list(store.pages(JOB, 4, run=1).values()) == PAGES
    assert store.pages(JOB, 40, run=1) == {}


def test_attempts_of_a_chunk_do_not_touch_each_other(store: PageStore) -> None:
    """An attempt that was given up may still write its file; the reference says whose result counts."""
    first = store.write_chunk(JOB, 0, 1, PAGES)
    store.write_chunk(JOB, 0, 2, [])
    assert store.read_chunk(first) == [page.result for page in PAGES]


def test_a_later_run_uses_what_was_wholly_read(store: PageStore) -> None:
    """The others are read again, and then count; also where the run before ended without a file of its own."""
    for page in PAGES:
        store.write_page(JOB, 0, page)
    assert list(store.pages(JOB, 0, run=2)) == [1, 3]
    again = stored(replace(READ, page=2), run=2)
    store.write_page(JOB, 0, again)
    assert store.pages(JOB, 0, run=2)[2] == again
    # An attempt of the run before, that lives on, changes nothing of this one.
    store.write_page(JOB, 0, PAGES[1])
    assert store.pages(JOB, 0, run=2)[2] == again


def test_a_page_that_is_damaged_is_not_read_twice_in_a_run(store: PageStore) -> None:
    """It would be as damaged; a person who retries asks for it."""
    store.write_page(JOB, 0, stored(unreadable(2), run=2))
    assert list(store.pages(JOB, 0, run=2)) == [2]
    assert store.pages(JOB, 0, run=3) == {}


def test_an_old_attempt_does_not_remove_the_pages_of_a_later_run(store: PageStore) -> None:
    """Its file does not have them."""
    store.write_page(JOB, 0, stored(unreadable(2), run=2))
    store.write_chunk(JOB, 0, 1, PAGES)
    assert list(store.pages(JOB, 0, run=2)) == [2, 1, 3]


def test_a_page_without_its_content_is_read_again(store: PageStore, files: Files) -> None:
    """As a crash of the machine may leave it; the others are there all the same."""
    for page in PAGES:
        store.write_page(JOB, 0, page)
    for content in (b"", b"\x1f\x8b\x08", b"[]"):
        files.put_bytes(content, f"jobs/{JOB}/pages/0/1-1.json.gz")
        assert list(store.pages(JOB, 0, run=1)) == [2, 3]


def test_a_chunk_of_version_0_1_is_read(store: PageStore, files: Files) -> None:
    """Its pages have neither run nor options; they are not taken for pages of another run."""
    import gzip
    import json

    reference = f"jobs/{JOB}/chunks/0-1.json.gz"
    files.put_bytes(gzip.compress(json.dumps([KEPT.to_dict()]).encode()), reference)
    assert store.read_chunk(reference) == [KEPT]
    assert store.pages(JOB, 0, run=1, options=OPTIONS) == {}
    assert [page.result for page in store.pages(JOB, 0, run=1).values()] == [KEPT]


@pytest.mark.parametrize("bad", ["jobs/j/result.pdf", "/etc/passwd", "jobs/j/chunks/../../../x-1.json.gz"])
def test_a_reference_is_one_of_ours(store: PageStore, bad: str) -> None:
    """References cross the broker."""
    with pytest.raises(ValueError):
        store.read_chunk(bad)


@given(
    # Of two attempts, which does its next step; each writes three pages, then its file.
    st.lists(st.booleans(), min_size=8, max_size=8)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_what_was_stored_once_is_always_there(order: list[bool]) -> None:
    """However two attempts of a chunk, of which one was taken for dead, take turns."""
    store = PageStore(Files(f"memory://{uuid4().hex}"))

    def attempt(number: int) -> list[object]:
        return [
            *((lambda page=page: store.write_page(JOB, 0, page)) for page in PAGES),
            lambda: store.write_chunk(JOB, 0, number, PAGES),
        ]

    steps = {True: attempt(1), False: attempt(2)}
    most = 0
    for which in order:
        if steps[which]:
            steps[which].pop(0)()  # type: ignore[operator]
        there = len(store.pages(JOB, 0, run=1, options=OPTIONS))
        assert there >= most
        most = there
