"""Uploads that are built to take memory: a bounded number is checked at once, and the others get an answer too."""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pikepdf
import psutil
import pytest
from pikepdf import Array, Name

from tasks import pipeline
from tasks.pdf import preflight
from tests.support.web_service import Service, post, problem
from web import documents
from web.slots import Slots

UPLOADS, AT_ONCE = 8, 2
#: Interpreter and libraries of a child, mapped from their files.
MAPPED_BYTES = 60 << 20


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A page whose content is a gigabyte of spaces, deflated three times."""
    packer, content = zlib.compressobj(9), b""
    for _ in range(1024):
        content += packer.compress(b" " * (1 << 20))
    content = zlib.compress(zlib.compress(content + packer.flush(), 9), 9)
    path = tmp_path_factory.mktemp("bomb") / "bomb.pdf"
    with pikepdf.new() as pdf:
        page = pdf.add_blank_page()
        page.obj.Contents = pikepdf.Stream(pdf, content, Filter=Array([Name.FlateDecode] * 3))
        pdf.save(path, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    assert path.stat().st_size < 20_000
    return path.read_bytes()


def test_bombs_are_checked_a_few_at_a_time(web_service: Service, bomb: bytes) -> None:
    """However many come at once: so many children, and so much memory of them together."""
    answers: Counter[int] = Counter()
    over = threading.Event()
    most_children = most_memory = 0

    def upload() -> None:
        answers[post(web_service.client(), bomb).status_code] += 1

    def watch() -> None:
        nonlocal most_children, most_memory
        while not over.is_set():
            sizes = []
            for child in psutil.Process().children():
                try:
                    if "tasks.pdf.preflight_child" in child.cmdline():
                        sizes.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            most_children, most_memory = max(most_children, len(sizes)), max(most_memory, sum(sizes))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    uploads = [threading.Thread(target=upload) for _ in range(UPLOADS)]
    for thread in uploads:
        thread.start()
    for thread in uploads:
        thread.join(90)
    over.set()
    watcher.join()
    assert set(answers) <= {202, 503}
    assert answers.total() == UPLOADS
    assert answers[202] >= AT_ONCE
    assert most_children == AT_ONCE == web_service.settings.max_preflights
    assert most_memory <= AT_ONCE * (preflight.MEMORY_BYTES + MAPPED_BYTES)


def test_who_waits_too_long_is_told_when_to_come_back(web_service: Service, bomb: bytes, tmp_path: Path) -> None:
    """503 with Retry-After, a sentence, and nothing kept."""
    slots = Slots(1, wait_seconds=0.05, sentence="Many documents are being checked.")
    web_service.app.extensions[documents._EXTENSION] = slots
    with slots.taken():
        answer = post(web_service.client(), bomb)
        told = problem(answer, 503)
        assert (told["type"], told["detail"]) == ("urn:problem-type:busy", "Many documents are being checked.")
        assert int(answer.headers["Retry-After"]) > 0
    assert web_service.progress.jobs.list() == []
    assert not (tmp_path / "documents").exists()
    assert post(web_service.client(), bomb).status_code == 202


def test_a_slot_is_free_again_whatever_comes_of_a_check(web_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal, or an error of ours."""
    web_service.app.extensions[documents._EXTENSION] = Slots(1, wait_seconds=0.05, sentence="Later.")
    for _ in range(2):
        assert problem(post(web_service.client(), b"%PDF-1.7\ngarbage"), 422)["reason"] == "damaged"

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(pipeline, "check", broken)
    for _ in range(2):
        problem(post(web_service.client(), b"%PDF-1.7\ngarbage"), 500)
