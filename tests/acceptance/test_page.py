"""The page in a real browser, before the whole service: what a person sees from the first drop to the file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypdfium2
import pytest

from tasks.sample import make_sample
from tests.support.processes import TestProcess
from tests.support.waiting import wait_for

START_SECONDS = 90.0
JOB_MS = 90_000
MATTER = "acceptance"

#: The stages that a job of the service shows, in order.
STAGES = ("Waiting for a worker", "Processing chunk", "Merging OCR results", "Searchable PDF is ready")

#: Notes every state that the page shows of a job, as it shows it.
_RECORD = """() => {
  window.seen = [];
  const note = () => {
    for (const card of document.querySelectorAll("#documents [data-job-id]")) {
      const part = (name) => card.querySelector(`[data-part=${name}]`);
      const percent = Number(part("bar").getAttribute("aria-valuenow"));
      const state = [part("stage").textContent, percent, card.dataset.version];
      if (JSON.stringify(window.seen.at(-1)) !== JSON.stringify(state)) window.seen.push(state);
    }
  };
  const options = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(note).observe(document.getElementById("documents"), options);
}"""


@dataclass
class Job:
    """A job that a browser has sent and followed to its end."""

    id: str
    #: (stage, percent, version) as shown, in order.
    seen: list[tuple[str, int, int]]
    texts: list[str]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The start-up URL of the whole service, with chunks of one page."""
    folder = tmp_path_factory.mktemp("up")
    service = TestProcess(
        [sys.executable, "-m", "tasks", "up", "--port", "0", "--data-dir", str(folder / "var"), "--workers", "1"],
        log=folder / "up.log",
        env={"OCR_CHUNK_PAGES": "1", "OCR_DPI": "150"},
    )
    service.start()
    try:
        found = wait_for(
            lambda: re.search(r"^web: (http\S+)", (folder / "up.log").read_text(), re.MULTILINE),
            timeout=START_SECONDS,
            what="the service's URL",
            every=0.2,
        )
        yield found[1]
    finally:
        try:
            service.stop()
        finally:
            service.kill()


@pytest.fixture(scope="module")
def browser_page(chromium: Any, address: str) -> Iterator[Any]:
    """A page that came in with the start-up URL; it must not complain about anything."""
    context = chromium.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    assert "token" not in page.url
    page.goto(f"{page.url}?matter={MATTER}")
    yield page
    context.close()
    # The browser itself notes the refusal that one test asks for.
    assert [complaint for complaint in complaints if "415" not in complaint] == []


@pytest.fixture(scope="module")
def job(browser_page: Any, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A scan of three pages, sent with a hostile file name, and followed to its end."""
    scan = tmp_path_factory.mktemp("scan") / "<b onclick=x>scan.pdf"
    texts = make_sample(scan, pages=3, dpi=150)
    browser_page.wait_for_selector("#live[data-state=live]")
    assert browser_page.locator("#empty").is_visible()
    browser_page.evaluate(_RECORD)
    browser_page.set_input_files("#file", str(scan))
    card = browser_page.locator("#documents [data-job-id]")
    card.locator("xpath=self::*[@data-status='COMPLETED']").wait_for(timeout=JOB_MS)
    seen = [(stage, percent, int(version)) for stage, percent, version in browser_page.evaluate("window.seen")]
    return Job(id=card.get_attribute("data-job-id"), seen=seen, texts=texts)


def test_every_stage_is_seen_in_order(job: Job) -> None:
    """Waiting, reading, merging, ready: each is shown, and none after a later one."""
    places = [next(place for place, name in enumerate(STAGES) if stage.startswith(name)) for stage, _, _ in job.seen]
    assert places == sorted(places)
    assert set(places) >= {1, 2, 3}


def test_the_bar_never_goes_back(job: Job) -> None:
    """Neither the percent nor the version shown is ever lower than before, and the end is 100."""
    assert [percent for _, percent, _ in job.seen] == sorted(percent for _, percent, _ in job.seen)
    assert [version for _, _, version in job.seen] == sorted(version for _, _, version in job.seen)
    assert job.seen[-1][1] == 100


def test_it_is_not_called_ready_before_the_merge(job: Job) -> None:
    """All chunks are read at 100 %, but "ready" comes only with the last version."""
    ready = [version for stage, _, version in job.seen if stage == STAGES[-1]]
    assert set(ready) == {job.seen[-1][2]}


def test_the_result_can_be_searched(browser_page: Any, job: Job, tmp_path: Path) -> None:
    """The downloaded PDF has the words of the scan on each page, under a name made from the original's."""
    with browser_page.expect_download() as downloading:
        browser_page.get_by_role("link", name="Searchable PDF").click()
    out = tmp_path / "out.pdf"
    downloading.value.save_as(out)
    assert downloading.value.suggested_filename.endswith("scan-ocr.pdf")
    pdf = pypdfium2.PdfDocument(out)
    assert len(pdf) == len(job.texts)
    for page, text in zip(pdf, job.texts, strict=True):
        found = set(page.get_textpage().get_text_bounded().split())
        words = text.split()
        assert sum(word in found for word in words) > 0.8 * len(words)
    pdf.close()


def test_a_document_has_an_address_of_its_own(browser_page: Any, job: Job) -> None:
    """Its link leads there without a request for the page, with its name in the title; back leads to the list."""
    browser_page.get_by_role("link", name="scan.pdf", exact=False).first.click()
    browser_page.locator("h1:visible", has_text="scan.pdf").wait_for()
    assert "/documents/doc_" in browser_page.url
    assert browser_page.title() == "<b onclick=x>scan.pdf · Document OCR"
    phases = browser_page.locator("[data-part=phases] li strong").all_text_contents()
    assert phases == ["Uploaded", "Waiting", "Reading", "Merging", "Ready"]
    browser_page.go_back()
    browser_page.locator("#documents").wait_for()
    browser_page.go_forward()
    browser_page.locator("h1:visible", has_text="scan.pdf").wait_for()


def test_who_read_what_is_shown(browser_page: Any, job: Job) -> None:
    """From the history: one worker process, a bar for each chunk and one for the merge."""
    track = browser_page.locator(".track")
    wait_for(lambda: track.locator(".bar.completed").count() == 4, what="four bars")
    assert re.match(r"Worker 1, process \d+ on .*: 4 done", track.get_attribute("aria-label"))
    browser_page.get_by_text("History", exact=True).click()
    events = browser_page.locator("[data-part=events] li")
    wait_for(lambda: "The searchable PDF is ready." in events.first.text_content(), what="the newest event")
    assert "Uploaded" in events.last.text_content()


def test_the_chunks_are_shown(browser_page: Any, job: Job) -> None:
    """The grid has a cell for each chunk, which says what it is."""
    cells = browser_page.locator(".cell.completed")
    wait_for(lambda: cells.count() == 3, what="three completed cells")
    assert cells.nth(1).get_attribute("title") == "Chunk 2 (pages 2-2): completed"


def test_a_page_is_read_on_the_page(browser_page: Any, job: Job) -> None:
    """Its text is shown, as text, when its number is clicked, or reached by the keyboard."""
    browser_page.get_by_text("Read its pages").click()
    second = browser_page.get_by_role("button", name="Page 2: read")
    second.focus()
    browser_page.keyboard.press("Enter")
    shown = browser_page.locator("[data-part=pageText]")
    shown.wait_for()
    words = job.texts[1].split()
    assert sum(word in shown.text_content().split() for word in words) > 0.8 * len(words)
    assert second.get_attribute("aria-current") == "true"
    assert "confidence" in browser_page.locator("[data-part=pageNote]").text_content()


def test_a_file_name_is_text(browser_page: Any, job: Job) -> None:
    """Markup in a file name is shown, not run."""
    assert browser_page.locator("h1[data-part=name]").text_content() == "<b onclick=x>scan.pdf"


def test_a_reload_shows_the_same(browser_page: Any, job: Job) -> None:
    """The state comes from the server, so a reload loses nothing."""
    browser_page.reload()
    card = browser_page.locator(f"article[data-job-id={job.id}]")
    card.wait_for()
    assert card.get_attribute("data-status") == "COMPLETED"
    assert card.get_by_role("progressbar").get_attribute("aria-valuenow") == "100"


def test_who_comes_late_gets_the_end_and_is_let_go(browser_page: Any, job: Job) -> None:
    """An EventSource opened after the end hears it once; its reconnect is answered so that it stops."""
    heard = browser_page.evaluate(
        """(url) => new Promise((resolve) => {
          const source = new EventSource(url);
          const heard = [];
          for (const name of ["progress", "completed", "failed"]) {
            source.addEventListener(name, (event) => heard.push([name, JSON.parse(event.data).status]));
          }
          source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(heard); };
        })""",
        f"/api/jobs/{job.id}/events",
    )
    assert heard == [["completed", "COMPLETED"]]


def test_who_reconnects_gets_only_what_is_newer(browser_page: Any, job: Job) -> None:
    """Last-Event-ID: an old one gets the current snapshot, the last one gets 204."""
    url = f"{browser_page.url.partition('/documents')[0]}/api/jobs/{job.id}/events"
    answer = browser_page.request.get(url, headers={"Last-Event-ID": "1", "Connection": "close"})
    ids = [int(found) for found in re.findall(r"^id:(\d+)", answer.text(), re.MULTILINE)]
    assert ids == [job.seen[-1][2]]
    assert browser_page.request.get(url, headers={"Last-Event-ID": str(ids[0])}).status == 204


def test_the_module_follows_a_job_to_its_end(browser_page: Any, job: Job) -> None:
    """``progress.js`` can be imported by any page; it ends by itself, and says so when there is no such job."""
    ended = browser_page.evaluate(
        """async (url) => {
          const { followJob } = await import("/static/progress.js");
          const states = [];
          return new Promise((resolve) => followJob(url, {
            onState: (state) => states.push(state),
            onEnd: (snapshot) => setTimeout(() => resolve([snapshot.status, states.at(-1)])),
          }));
        }""",
        f"/api/jobs/{job.id}/events",
    )
    assert ended == ["COMPLETED", "closed"]


def test_a_refused_file_says_why(browser_page: Any, job: Job, tmp_path: Path) -> None:
    """What is not a PDF is answered with a sentence, beside the file's name."""
    browser_page.get_by_role("link", name="All documents").click()
    note = tmp_path / "note.pdf"
    note.write_text(json.dumps({"not": "a pdf"}))
    with browser_page.expect_response("**/api/documents") as answering:
        browser_page.set_input_files("#file", str(note))
    assert answering.value.status == 415
    refused = browser_page.locator(".upload.refused", has_text="note.pdf")
    refused.wait_for()
    assert "not a PDF" in refused.locator("[data-part=note]").text_content()
    assert "not a PDF" in browser_page.locator("#announcements").text_content()


def test_a_picture_of_a_document_that_is_read(
    browser_page: Any, job: Job, screenshot: Callable[[Any, str], None], tmp_path: Path
) -> None:
    """For the README: a document of its own, with some of its chunks done."""
    make_sample(tmp_path / "council-minutes-1923.pdf", pages=12, dpi=150)
    browser_page.goto(f"{browser_page.url.partition('/documents/')[0].partition('?')[0].rstrip('/')}/?matter={MATTER}")
    browser_page.set_input_files("#file", str(tmp_path / "council-minutes-1923.pdf"))
    browser_page.get_by_role("link", name="council-minutes-1923.pdf", exact=False).first.click()
    wait_for(lambda: browser_page.locator(".cell.completed").count() >= 5, timeout=90, what="five chunks")
    screenshot(browser_page, "page")
