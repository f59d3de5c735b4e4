"""The document store, on a local folder and on an object store (fsspec's in memory)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.documents import DocumentStore
from tasks.page_results import PageResult, PageStatus
from tasks.page_store import StoredPage

PAGE = PageResult(page=3, status=PageStatus.KEPT, own_text="Schluß")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DocumentStore:
    """An empty store."""
    return DocumentStore(f"memory://{uuid4().hex}" if request.param == "memory" else (tmp_path / "store").as_uri())


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """A local file with this content."""

    def write(content: str) -> Path:
        path = tmp_path / uuid4().hex
        path.write_text(content)
        return path

    return write


def content(store: DocumentStore, job_id: str, suffix: str) -> bytes:
    stream, size = store.open_output(job_id, suffix)
    with stream:
        read = stream.read()
    assert len(read) == size
    return read


def test_an_original_is_read_back_as_a_local_file(store: DocumentStore, file: Callable[[str], Path]) -> None:
    """Whatever the store is, the libraries get a path."""
    assert not store.has_original("doc_1")
    store.put_original("doc_1", file("%PDF"))
    assert store.has_original("doc_1")
    with store.open_original("doc_1") as path:
        assert path.read_text() == "%PDF"


def test_an_original_that_is_not_there_is_not_found(store: DocumentStore) -> None:
    """Which is told apart from a store that cannot be reached."""
    with pytest.raises(FileNotFoundError), store.open_original("doc_none"):
        pass


def test_outputs_appear_when_they_are_published(store: DocumentStore, file: Callable[[str], Path]) -> None:
    """And a later attempt replaces them."""
    assert not store.has_output("job_1", "pdf")
    for attempt in (1, 2):
        store.publish_outputs("job_1", attempt, {s: file(f"{s} of {attempt}") for s in ("pdf", "txt", "json")})
    assert store.has_output("job_1", "pdf")
    assert {s: content(store, "job_1", s) for s in ("pdf", "txt")} == {"pdf": b"pdf of 2", "txt": b"txt of 2"}


def test_nothing_is_replaced_before_all_outputs_are_uploaded(
    store: DocumentStore, file: Callable[[str], Path], tmp_path: Path
) -> None:
    """An attempt that fails half way leaves the earlier result whole."""
    store.publish_outputs("job_1", 1, {"json": file("old"), "pdf": file("old")})
    with pytest.raises(FileNotFoundError):
        store.publish_outputs("job_1", 2, {"json": file("new"), "pdf": tmp_path / "missing"})
    assert content(store, "job_1", "json") == b"old"


def test_deleting_is_done_once_or_twice(store: DocumentStore, file: Callable[[str], Path]) -> None:
    """Cleaning up after a failure must not fail itself."""
    store.put_original("doc_1", file("x"))
    store.pages.write_page("job_1", 0, StoredPage(result=PAGE, run=1, options="o"))
    for _ in range(2):
        store.delete_document("doc_1")
        store.delete_job("job_1")
    assert not store.has_original("doc_1")
    assert store.pages.pages("job_1", 0, run=1) == {}


@pytest.mark.parametrize("bad", ["", "..", "../x", "a/b", "/etc", ".hidden", "a\0b", "a\n", "x" * 129, "a\\..\\b"])
def test_an_id_cannot_leave_its_folder(store: DocumentStore, file: Callable[[str], Path], bad: str) -> None:
    """Ids come from URLs and messages."""
    for use in (
        lambda: store.put_original(bad, file("x")),
        lambda: store.pages.write_chunk(bad, 0, 1, []),
        lambda: store.pages.pages(bad, 0, run=1),
        lambda: store.has_output(bad, "pdf"),
        lambda: store.delete_job(bad),
        lambda: store.delete_document(bad),
        lambda: store.pages.read_chunk(f"jobs/{bad}/chunks/0-1.json.gz"),
    ):
        with pytest.raises(ValueError):
            use()


def test_an_unknown_suffix_is_refused(store: DocumentStore) -> None:
    """Only the outputs can be asked for."""
    with pytest.raises(ValueError, match="pdf"):
        store.has_output("job_1", "exe")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not leave half a file under the real name, nor a draft."""
    store = DocumentStore((tmp_path / "store").as_uri())
    source = tmp_path / "in"
    source.write_text("x")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        store.put_original("doc_1", source)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
