"""Documents on a real S3 server: kept and served, and what a person hears when it is away, slow or read-only."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from tasks import pipeline
from tasks.documents import OUTPUT_SUFFIXES, DocumentStore
from tasks.files import Files
from tasks.store_errors import StoreAway, StoreReadOnly
from tests.support.faultproxy import FaultProxy
from tests.support.object_server import BUCKET, ObjectServer
from tests.support.waiting import wait_for
from tests.support.web_service import Service, finish, post, problem

NewProxy = Callable[[str], FaultProxy]
#: More than two parts of an upload.
LARGE = 36 << 20


@pytest.fixture
def at(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``at(user, url=)`` has what is made from then on work on the server as this user, by way of this address."""

    def enter(user: str = "writer", *, url: str | None = None) -> None:
        for name, value in object_server.environment(user, url=url).items():
            monkeypatch.setenv(name, value)

    enter()
    return enter


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A place of the test's own in the bucket."""
    return f"s3://{BUCKET}/{tmp_path.name}"


def large(path: Path) -> Path:
    path.write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    return path


def test_files_are_kept_in_parts_and_come_back(at: Callable[..., None], root: str, tmp_path: Path) -> None:
    """Put, listed, read, renamed, fetched and removed; what is not there is not there."""
    files = Files(root)
    files.probe()
    source = large(tmp_path / "source")
    files.put_file(source, "a/large")
    files.put_bytes(b"small", "a/small")
    assert (files.names("a"), files.names("b")) == (["large", "small"], [])
    assert files.read_all(["a/small", "a/none"]) == {"a/small": b"small"}
    files.rename("a/large", "b/large")
    assert (files.is_file("a/large"), files.is_file("b/large")) == (False, True)
    files.fetch("b/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    file, size = files.open("b/large")
    with file:
        assert (size, len(file.read(1000))) == (LARGE, 1000)
    with pytest.raises(FileNotFoundError):
        files.read("a/none")
    files.delete(["a/small", "a/none"])
    files.delete_folder("b")
    assert not files.is_file("a/small")
    assert not files.is_file("b/large")


def test_who_may_only_read(at: Callable[..., None], root: str, tmp_path: Path) -> None:
    """Reads; every change is refused with a sentence, and is not worth another try."""
    Files(root).put_bytes(b"there", "there")
    at("reader")
    files = Files(root)
    assert files.read("there") == b"there"
    for change in (lambda: files.put_bytes(b"x", "new"), lambda: files.put_file(Path(__file__), "new"), files.probe):
        with pytest.raises(StoreReadOnly, match="does not allow it"):
            change()
    assert not files.is_file("new")


def test_a_store_that_is_away(
    at: Callable[..., None], object_server: ObjectServer, root: str, fault_proxy: NewProxy, tmp_path: Path
) -> None:
    """Nothing is said to be missing because nobody answers."""
    proxy = fault_proxy(object_server.url)
    at(url=proxy.url(object_server.url))
    files = Files(root)
    files.put_bytes(b"there", "there")
    proxy.down()
    for ask in (
        lambda: files.is_file("there"),
        lambda: files.names(""),
        lambda: files.read_all(["there"]),
        lambda: files.fetch("there", tmp_path / "copy"),
        lambda: files.put_bytes(b"x", "new"),
        files.probe,
    ):
        with pytest.raises(StoreAway, match="does not answer"):
            ask()
    assert list(tmp_path.iterdir()) == []
    proxy.up()
    assert files.read("there") == b"there"


def test_a_connection_that_is_lost_in_the_middle_of_a_merge(
    at: Callable[..., None], object_server: ObjectServer, root: str, fault_proxy: NewProxy, tmp_path: Path
) -> None:
    """Nothing half-written is a result, and the next attempt publishes all of it."""
    proxy = fault_proxy(object_server.url)
    at(url=proxy.url(object_server.url))
    store = DocumentStore(root)
    outputs = {suffix: tmp_path / suffix for suffix in OUTPUT_SUFFIXES}
    for suffix, path in outputs.items():
        large(path) if suffix == "pdf" else path.write_text(suffix)
    # Slow, so that it is still in the middle when the connection goes; a single reset is only one more attempt.
    proxy.slow(0.002)
    middle = proxy.passed + LARGE // 2
    cutting = Thread(target=lambda: (wait_for(lambda: proxy.passed > middle), proxy.down()))
    cutting.start()
    with pytest.raises(StoreAway, match="does not answer"):
        store.publish_outputs("job_1", 1, outputs)
    cutting.join()
    proxy.up()
    assert [suffix for suffix in OUTPUT_SUFFIXES if store.has_output("job_1", suffix)] == []
    store.publish_outputs("job_1", 2, outputs)
    file, size = store.open_output("job_1", "pdf")
    with file:
        assert (size, file.read()) == (LARGE, outputs["pdf"].read_bytes())
    store.delete_job("job_1")
    assert not store.has_output("job_1", "pdf")


def test_the_service_on_it(
    at: Callable[..., None],
    object_server: ObjectServer,
    root: str,
    fault_proxy: NewProxy,
    web_service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An upload, its result, and a 503 with a sentence for each while the store is away."""
    proxy = fault_proxy(object_server.url)
    at(url=proxy.url(object_server.url))
    service = web_service.with_settings(documents_url=root)
    monkeypatch.setattr(pipeline, "settings", service.settings)
    service.store = DocumentStore(root)
    client = service.client()
    page = io.BytesIO()
    Image.new("L", (300, 200), 255).save(page, "PNG", dpi=(150, 150))
    job_id = post(client, page.getvalue(), filename="page.png").get_json()["job_id"]
    finish(service, job_id, tmp_path, {"pdf": b"%PDF-1.7 result"})
    assert client.get(f"/api/jobs/{job_id}/result.pdf").data == b"%PDF-1.7 result"
    proxy.down()
    for answer in (post(client, page.getvalue(), filename="page.png"), client.get(f"/api/jobs/{job_id}/result.pdf")):
        assert problem(answer, 503)["type"] == "urn:problem-type:store-unreachable"
    assert len(service.progress.jobs.list()) == 1
