"""A job's pages over HTTP while it runs: each as soon as it is stored, and the PDF of what is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pytest

from celery_progress_ext import JobStatus
from tasks import partial
from tasks.engines import Word
from tasks.page_results import PageResult, PageStatus
from tasks.page_store import StoredPage
from tasks.pdf.geometry import Geometry
from tasks.sample import make_sample
from tests.support.web_service import ALL, ONE, Service, finish, post, problem
from web import results
from web.slots import Slots

PAGES = 5


@pytest.fixture
def job_id(web_service: Service, tmp_path: Path) -> str:
    """A job of matter m1 over three chunks of two pages, waiting for a worker."""
    make_sample(tmp_path / "in.pdf", pages=PAGES, dpi=72)
    content = (tmp_path / "in.pdf").read_bytes()
    return str(post(web_service.client(), content, filename="letter.pdf", chunk_pages="2").get_json()["job_id"])


def read(page: int, text: str = "Grüße <b>", confidence: float = 91.0) -> PageResult:
    """A page with one word."""
    geometry = Geometry((0, 0, 595, 842), 0, 595, 842)
    word = Word(text, 100, 100, 300, 130, confidence, 0)
    return PageResult(page=page, status=PageStatus.READ, dpi=72, geometry=geometry, words=(word,))


def store(service: Service, job_id: str, result: PageResult, run: int = 1) -> None:
    """What a chunk does with a page that it has read."""
    page = StoredPage(result=result, run=run, options="o")
    service.store.pages.write_page(job_id, (result.page - 1) // 2, page)


def listed(service: Service, job_id: str, query: str = "") -> list[dict[str, object]]:
    """The answer, by a key of the job's matter."""
    answer = service.client(ONE).get(f"/api/jobs/{job_id}/pages{query}")
    assert answer.status_code == 200
    pages: list[dict[str, object]] = answer.get_json()
    return pages


def words_of(content: bytes) -> list[list[str]]:
    """The words of a PDF, by page."""
    with pypdfium2.PdfDocument(content) as pdf:
        return [page.get_textpage().get_text_bounded().split() for page in pdf]


class TestPages:
    def test_each_is_listed_as_soon_as_it_is_read(self, web_service: Service, job_id: str) -> None:
        """With what became of it; the others without a status."""
        assert [(page["page"], page["status"]) for page in listed(web_service, job_id)] == [
            (number, None) for number in range(1, PAGES + 1)
        ]
        store(web_service, job_id, read(1, confidence=31.0))
        store(web_service, job_id, PageResult.because(2, PageStatus.UNREADABLE, "render_died"))
        first, second, third = listed(web_service, job_id)[:3]
        assert first == {
            "page": 1,
            "status": "read",
            "reason": None,
            "message": None,
            "confidence": 31.0,
            "doubtful": True,
            "chunk_index": 0,
            "chunk_status": "pending",
            "text": f"/api/jobs/{job_id}/pages/1.txt",
        }
        assert (second["status"], second["reason"]) == ("unreadable", "render_died")
        assert str(second["message"]).startswith("Page 2 could not be rendered")
        assert (third["status"], third["chunk_index"], third["text"]) == (None, 1, None)

    def test_a_chunk_that_is_done_is_listed_as_before(self, web_service: Service, job_id: str) -> None:
        """From its one file, and then without reading it again."""
        for page in (1, 2):
            store(web_service, job_id, read(page))
        pages = [StoredPage(result=read(page), run=1, options="o") for page in (1, 2)]
        before = listed(web_service, job_id, "?limit=2")
        web_service.store.pages.write_chunk(job_id, 0, 1, pages)
        assert listed(web_service, job_id, "?limit=2") == before

    def test_they_come_by_parts(self, web_service: Service, job_id: str) -> None:
        """Behind a page, and no more than asked for; across chunks."""
        assert [page["page"] for page in listed(web_service, job_id, "?after=1&limit=3")] == [2, 3, 4]
        assert listed(web_service, job_id, f"?after={PAGES}") == []
        for query in ("after=-1", "limit=0", "limit=1001", "after=x"):
            problem(web_service.client().get(f"/api/jobs/{job_id}/pages?{query}"), 400)

    def test_a_page_says_its_text(self, web_service: Service, job_id: str) -> None:
        """As plain text that nothing in it can make a page of ours; what is known is not sent again."""
        store(web_service, job_id, read(3))
        client, url = web_service.client(ONE), f"/api/jobs/{job_id}/pages/3.txt"
        answer = client.get(url)
        assert (answer.status_code, answer.content_type) == (200, "text/plain; charset=utf-8")
        assert answer.get_data(as_text=True) == "Grüße <b>"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")
        assert client.get(url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304

    def test_a_page_that_is_not_read_yet(self, web_service: Service, job_id: str) -> None:
        """409, with what is going on."""
        told = problem(web_service.client().get(f"/api/jobs/{job_id}/pages/4.txt"), 409)
        assert told["detail"] == "Page 4 is not read yet; its chunk waits for a worker."
        assert told["status_of_chunk"] == "pending"

    @pytest.mark.parametrize("page", ["0", str(PAGES + 1), "x", "-1", "²", "9" * 30])
    def test_a_page_that_does_not_exist(self, web_service: Service, job_id: str, page: str) -> None:
        """404."""
        problem(web_service.client().get(f"/api/jobs/{job_id}/pages/{page}.txt"), 404)

    def test_the_pages_of_a_failed_chunk_are_named(self, web_service: Service, job_id: str) -> None:
        """Those that were read are there all the same."""
        store(web_service, job_id, read(1))
        web_service.progress.chunks.record_failure(f"{job_id}.c0", "its worker was lost 3 times")
        first, second = listed(web_service, job_id, "?limit=2")
        assert (first["status"], first["chunk_status"]) == ("read", "failed")
        assert (second["status"], second["reason"]) == ("missing", "chunk_failed")
        assert second["message"] == "Page 2 was not read, because its chunk failed."
        told = problem(web_service.client().get(f"/api/jobs/{job_id}/pages/2.txt"), 409)
        assert told["detail"] == "Page 2 was not read, because its chunk failed. Retry the job."

    def test_a_retry_takes_back_what_is_read_again(self, web_service: Service, job_id: str) -> None:
        """A page that was not wholly read is not there until it is; the others stay."""
        store(web_service, job_id, read(1))
        store(web_service, job_id, PageResult.because(2, PageStatus.UNREADABLE, "render_died"))
        web_service.progress.cancel(job_id)
        assert [page["status"] for page in listed(web_service, job_id, "?limit=2")] == ["read", "unreadable"]
        web_service.progress.retry_failed(job_id)
        assert [page["status"] for page in listed(web_service, job_id, "?limit=2")] == ["read", None]
        store(web_service, job_id, read(2), run=2)
        assert [page["status"] for page in listed(web_service, job_id, "?limit=2")] == ["read", "read"]

    def test_they_are_linked(self, web_service: Service, tmp_path: Path) -> None:
        """Where the other links are."""
        make_sample(tmp_path / "in.pdf", pages=1, dpi=72)
        links = post(web_service.client(), (tmp_path / "in.pdf").read_bytes()).get_json()["links"]
        assert web_service.client().get(links["pages"]).status_code == 200
        problem(web_service.client().get(links["partial"]), 409)


_ROUTES = ("pages", "pages/1.txt", "result.pdf?partial=1")


@pytest.mark.parametrize("route", _ROUTES)
def test_who_may_read_them(web_service: Service, job_id: str, route: str) -> None:
    """Who may read the job, and nobody else."""
    store(web_service, job_id, read(1))
    url = f"/api/jobs/{job_id}/{route}"
    problem(web_service.client(None).get(url), 401)
    other = web_service.with_settings(api_keys={"key-of-m2": ("m2",), ALL: ("*",)})
    problem(other.client("key-of-m2").get(url), 403)
    problem(web_service.client().get(f"/api/jobs/job_none/{route}"), 404)


class TestPartialPdf:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[partial.Order]]:
        """The PDFs that were made, in order."""
        orders: list[partial.Order] = []

        def make(order: partial.Order) -> None:
            orders.append(order)
            partial.make_partial(order)

        monkeypatch.setattr(results, "make_partial", make)
        return orders  # type: ignore[return-value]

    def test_it_has_what_is_there(self, web_service: Service, job_id: str, made: list[partial.Order]) -> None:
        """All pages of the document, with the words of those that were read; made again only for more of them."""
        client, url = web_service.client(ONE), f"/api/jobs/{job_id}/result.pdf?partial=1"
        assert problem(client.get(url), 409)["detail"] == "No page is read yet."
        for number, words in ((2, [[], ["Alpha"], [], [], []]), (5, [[], ["Alpha"], [], [], ["Alpha"]])):
            store(web_service, job_id, read(number, "Alpha"))
            answers = [client.get(url) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert words_of(answers[0].data) == words
            assert answers[0].data == answers[1].data
            assert "letter-ocr-so-far.pdf" in answers[0].headers["Content-Disposition"]
        assert len(made) == 2
        assert len({order.digest for order in made}) == 2
        folder = Path(web_service.settings.documents_url.removeprefix("file://")) / "jobs" / job_id / "partial"
        assert [path.stem for path in folder.iterdir()] == [made[-1].digest]

    def test_the_whole_takes_its_place(self, web_service: Service, job_id: str, tmp_path: Path) -> None:
        """Once the job is done."""
        store(web_service, job_id, read(1))
        client, url = web_service.client(), f"/api/jobs/{job_id}/result.pdf?partial=1"
        assert client.get(url).status_code == 200
        finish(web_service, job_id, tmp_path, {"pdf": b"%PDF-whole"})
        assert client.get(url).data == b"%PDF-whole"

    def test_it_is_there_when_the_job_failed(self, web_service: Service, job_id: str) -> None:
        """What was read is not lost with the rest."""
        store(web_service, job_id, read(1, "Alpha"))
        web_service.progress.jobs.update(job_id, status=JobStatus.PROCESSING)
        web_service.progress.jobs.update(job_id, status=JobStatus.FAILED, error="The merge failed")
        client = web_service.client()
        problem(client.get(f"/api/jobs/{job_id}/result.pdf"), 409)
        assert words_of(client.get(f"/api/jobs/{job_id}/result.pdf?partial=1").data)[0] == ["Alpha"]

    def test_pages_of_which_none_is_legible(self, web_service: Service, job_id: str) -> None:
        """There is nothing to add to the document."""
        store(web_service, job_id, PageResult.because(1, PageStatus.UNREADABLE, "render_died"))
        told = problem(web_service.client().get(f"/api/jobs/{job_id}/result.pdf?partial=1"), 409)
        assert str(told["detail"]).startswith("No page of this document could be read.")

    def test_its_process_may_die(
        self, web_service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A document that takes down whatever opens it costs one answer."""
        store(web_service, job_id, read(1))
        # The child's interpreter ends before it has said anything.
        (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        answer = web_service.client().get(f"/api/jobs/{job_id}/result.pdf?partial=1")
        assert problem(answer, 503)["type"] == "urn:problem-type:partial-unavailable"
        assert int(answer.headers["Retry-After"]) > 0
        monkeypatch.undo()
        assert web_service.client().get("/healthz").status_code == 200

    def test_no_more_are_made_at_once_than_may_be(self, web_service: Service, job_id: str) -> None:
        """The next one waits a little, and is then told when to come back."""
        store(web_service, job_id, read(1))
        slots = Slots(1, wait_seconds=0.05, sentence="Later.")
        web_service.app.extensions["web_partial_slots"] = slots
        client, url = web_service.client(), f"/api/jobs/{job_id}/result.pdf?partial=1"
        with slots.taken():
            answer = client.get(url)
            assert (problem(answer, 503)["detail"], answer.headers["Retry-After"]) == ("Later.", "10")
        assert client.get(url).status_code == 200
        # What is made already needs no slot.
        with slots.taken():
            assert client.get(url).status_code == 200

    def test_two_who_ask_at_once_have_it_made_once(
        self, web_service: Service, job_id: str, made: list[partial.Order]
    ) -> None:
        """The second finds what the first had made while it waited."""
        store(web_service, job_id, read(1))
        answers: list[int] = []

        def ask() -> None:
            answers.append(web_service.client().get(f"/api/jobs/{job_id}/result.pdf?partial=1").status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (answers, len(made)) == ([200, 200, 200], 1)


def test_the_text_is_sent_whole(web_service: Service, job_id: str) -> None:
    """Of a page as long as pages can be."""
    text = "Wort " * 20_000
    store(web_service, job_id, read(1, text))
    answer = web_service.client().get(f"/api/jobs/{job_id}/pages/1.txt")
    assert answer.get_data(as_text=True) == text
