"""Local copies of originals: one fetch a process, few at a time, and none that a killed process leaves behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.documents import DocumentStore
from tasks.originals import OriginalsCache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return scratch


@pytest.fixture
def fetched() -> list[str]:
    """The documents that were fetched, in order."""
    return []


@pytest.fixture
def cache(fetched: list[str]) -> OriginalsCache:
    """A cache whose originals say which they are."""

    def fetch(document_id: str, path: Path) -> None:
        fetched.append(document_id)
        if document_id == "none":
            path.write_text("half")
            raise FileNotFoundError(document_id)
        path.write_text(document_id)

    return OriginalsCache(fetch)


def test_an_original_is_fetched_once(cache: OriginalsCache, fetched: list[str]) -> None:
    """For all chunks of two documents that take turns; a third takes the place of the one that was used longest ago."""
    for document_id in ("a", "b", "a", "b", "c", "b", "a"):
        with cache.open(document_id) as path:
            assert path.read_text() == document_id
    assert fetched == ["a", "b", "c", "a"]


def test_a_copy_stays_while_it_is_used(cache: OriginalsCache, folder: Path) -> None:
    """However many others are asked for meanwhile."""
    with cache.open("a") as path:
        for document_id in ("b", "c", "d"):
            with cache.open(document_id):
                assert path.read_text() == "a"
    assert len(list(folder.rglob("*.pdf"))) == 2


def test_half_a_copy_is_none(cache: OriginalsCache, fetched: list[str], folder: Path) -> None:
    """What could not be fetched is asked for again."""
    for _ in range(2):
        with pytest.raises(FileNotFoundError), cache.open("none"):
            pass
    assert fetched == ["none", "none"]
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["lock"]


def test_what_a_killed_process_left_is_removed(cache: OriginalsCache, folder: Path) -> None:
    """And only that: the copies of one that lives stay."""
    script = """
import os, signal, sys
from pathlib import Path
from tasks.originals import OriginalsCache
with OriginalsCache(lambda document_id, path: path.write_text("x")).open("a") as path:
    print(path, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    argv = [sys.executable, "-c", script]
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout is not None
        copy = Path(other.stdout.readline().strip())
        with OriginalsCache(lambda document_id, path: path.write_text("y")).open("b"):
            assert copy.is_file()
        other.communicate("\n")
    assert copy.is_file()
    with cache.open("b"):
        assert not copy.parent.exists()


def test_the_chunks_of_a_document_share_its_copy(folder: Path, tmp_path: Path) -> None:
    """On an object store; where the store is local, no copy is made."""
    (tmp_path / "in.pdf").write_text("%PDF")
    for url, copies in (("memory://originals", 1), ((tmp_path / "store").as_uri(), 0)):
        store = DocumentStore(url)
        store.put_original("doc_1", tmp_path / "in.pdf")
        opened = set()
        before = len(list(folder.rglob("*.pdf")))
        for _ in range(3):
            with store.open_original("doc_1") as path:
                opened.add(path)
                assert path.read_text() == "%PDF"
        assert len(opened) == 1
        assert len(list(folder.rglob("*.pdf"))) - before == copies
