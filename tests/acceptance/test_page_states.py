"""The page in a real browser, with documents in every state: what it says, what it asks, what it never loses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest

from tasks.sample import make_sample
from tests.support.browsed_service import STATES, Documents, served
from tests.support.waiting import wait_for
from tests.support.web_service import MATTER, ONE, Service

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
_VIOLATIONS = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  return found.violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html.slice(0, 200))]);
}"""


@pytest.fixture
def documents(web_service: Service) -> Iterator[Documents]:
    """Documents of matter m1, made as rows."""
    made = Documents(web_service.progress)
    yield made
    made.close()


@pytest.fixture
def address(web_service: Service) -> Iterator[str]:
    """Where the application is served."""
    with served(web_service) as found:
        yield found


def _sign_in(page: Any, address: str) -> None:
    page.goto(address)
    page.fill("#key", ONE)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#live[data-state=live]")


def _violations(page: Any) -> list[Any]:
    """What axe finds, by WCAG's rules and its own."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    found: list[Any] = page.evaluate(_VIOLATIONS)
    return found


@pytest.mark.parametrize(
    "looks",
    [{}, {"color_scheme": "dark"}, {"forced_colors": "active"}, {"viewport": {"width": 390, "height": 800}}],
    ids=["light", "dark", "forced", "phone"],
)
def test_every_state_can_be_seen_and_read_aloud(
    chromium: Any, address: str, documents: Documents, looks: dict[str, Any]
) -> None:
    """axe finds nothing in the list, a document of each state, and the question; nothing is wider than the page."""
    jobs = {state: documents.bring_to(state) for state in STATES}
    # The page's own policy lets no foreign script in, and axe is one.
    context = chromium.new_context(bypass_csp=True, reduced_motion="reduce", **looks)
    page = context.new_page()
    page.goto(address)
    assert _violations(page) == []
    _sign_in(page, address)
    found = {"list": _violations(page)}
    for state, job_id in jobs.items():
        page.locator(f"#documents [data-job-id={job_id}] a[data-part=name]").click()
        opened = f"article[data-job-id={job_id}]"
        page.locator(f"{opened} .lane, {opened}[data-status=PENDING]").first.wait_for()
        found[state] = _violations(page)
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.go_back()
    page.get_by_role("button", name="Cancel running.pdf").click()
    found["question"] = _violations(page)
    assert {name: each for name, each in found.items() if each} == {}
    context.close()


def test_the_first_load_is_light(page: Any, address: str, documents: Documents) -> None:
    """At most 100 kB, the list once, nothing of another host, nothing that moves."""
    for number in range(40):
        documents.make(f"scan {number}.pdf", chunks=1)
    for state in STATES:
        documents.bring_to(state)
    page.goto(address)
    page.fill("#key", ONE)
    page.add_init_script(
        """window.shifted = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) window.shifted += entry.hadRecentInput ? 0 : entry.value;
        }).observe({ type: "layout-shift", buffered: true });"""
    )
    urls: list[str] = []
    finished: list[Any] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("requestfinished", lambda request: finished.append(request))
    page.get_by_role("button", name="Sign in").click()
    page.locator("#documents li").first.wait_for()
    page.wait_for_load_state("load")
    assert all(url.startswith(address) for url in urls)
    assert len([url for url in urls if "/api/jobs" in url]) == 1
    assert sum(request.sizes()["responseBodySize"] for request in finished) <= 100_000
    assert page.evaluate("window.shifted") < 0.01


class TestTheList:
    def test_search_filter_and_older_ones(self, page: Any, address: str, documents: Documents) -> None:
        """Each is in the address; more come by a button, and the focus goes on where they begin."""
        for number in range(53):
            documents.make(f"scan {number}.pdf", chunks=1)
        documents.bring_to("failed", "Brief Müller.pdf")
        _sign_in(page, address)
        rows = page.locator("#documents > li")
        wait_for(lambda: rows.count() == 50, what="a page")
        page.get_by_role("button", name="Show older documents").click()
        wait_for(lambda: rows.count() == 54, what="the rest")
        assert page.evaluate("document.activeElement.textContent") == "scan 3.pdf"
        assert not page.get_by_role("button", name="Show older documents").is_visible()
        page.fill("#search", "muller")
        wait_for(lambda: rows.count() == 1, what="what is searched")
        page.select_option("#status", label="Failed")
        page.wait_for_url("**/?matter=m1&q=muller&status=FAILED")
        page.reload()
        wait_for(lambda: rows.count() == 1, what="the same after a reload")
        page.fill("#search", "nothing")
        page.locator("#nothing-found").wait_for()

    def test_names_carry_the_document_s(self, page: Any, address: str, documents: Documents) -> None:
        """Of every button, bar and result."""
        documents.bring_to("running", "a.pdf")
        documents.bring_to("done", "b.pdf")
        _sign_in(page, address)
        page.get_by_role("button", name="Cancel a.pdf").wait_for()
        page.get_by_role("progressbar", name="Progress of a.pdf").wait_for()
        page.get_by_role("link", name="Searchable PDF of b.pdf").wait_for()


class TestADocument:
    def test_it_is_live(self, page: Any, address: str, documents: Documents) -> None:
        """A chunk's pages move the bar and the title; while it merges nothing says 100 %."""
        job_id = documents.make("a.pdf", chunks=1, pages=10)
        _sign_in(page, address)
        page.goto(f"{address}documents/doc_{job_id}")
        page.locator(".phase.now", has_text="Waiting").wait_for()
        documents.rows.start(job_id, 0, worker="host:41:place.1")
        documents.move(job_id, lambda rows: rows.progress(job_id, 0, attempt=1, done=5))
        page.locator(".phase.now", has_text="Reading").wait_for()
        page.locator("article", has_text="5 of 10 pages").wait_for()
        assert re.match(r"4\d % · a.pdf · Document OCR", page.title())
        documents.rows.complete(job_id, 0)
        attempt = documents.rows.claim(job_id).body_attempt
        documents.move(job_id, lambda rows: rows.merge_progress(job_id, attempt, done=10))
        page.locator(".phase.now", has_text="Merging").wait_for()
        assert page.locator("[data-part=percent]:visible").text_content() == "99 %"
        documents.move(job_id, lambda rows: rows.finish(job_id, attempt))
        page.locator("article[data-status=COMPLETED]").wait_for()
        assert page.title() == "a.pdf · Document OCR"

    def test_what_went_wrong_is_said(self, page: Any, address: str, documents: Documents) -> None:
        """Chunks that failed, pages that are damaged, what was begun again, and what can be done; as text."""
        job_id = documents.bring_to("partial")
        _sign_in(page, address)
        page.goto(f"{address}documents/doc_{job_id}")
        page.get_by_text("Chunk 5 (pages 21-25) failed: the scan is cut off <b>here</b>", exact=True).wait_for()
        page.get_by_text("Page 27 is damaged: its image is cut off.").wait_for()
        page.get_by_text("“Retry failed” runs only these again.").wait_for()
        page.get_by_text("Chunk 3 was sent again once: lost. It went through then.").wait_for()

    def test_a_cancel_is_asked_about(self, page: Any, address: str, documents: Documents) -> None:
        """With what is kept; Escape changes nothing, and the focus never falls to the page."""
        job_id = documents.bring_to("running", "a.pdf")
        _sign_in(page, address)
        page.get_by_role("button", name="Cancel a.pdf").click()
        assert "7 of 30 pages are read. They are kept" in page.get_by_role("dialog").text_content()
        page.keyboard.press("Escape")
        assert documents.rows.jobs.snapshot(job_id).status == "PROCESSING"
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Cancel a.pdf"
        page.get_by_role("button", name="Cancel a.pdf").click()
        page.get_by_role("button", name="Stop reading").click()
        page.get_by_text("Cancelled; 7 of 30 pages are kept", exact=True).wait_for()
        wait_for(lambda: page.evaluate("document.activeElement.textContent") == "a.pdf", what="the focus")

    def test_it_is_deleted(self, page: Any, address: str, documents: Documents) -> None:
        """After a question, from its own page; its address says then that it is not there."""
        job_id = documents.bring_to("cancelled", "a.pdf")
        documents.bring_to("done", "b.pdf")
        _sign_in(page, address)
        page.goto(f"{address}documents/doc_{job_id}")
        page.get_by_role("button", name="Delete a.pdf").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        wait_for(lambda: page.locator("#documents > li:visible").count() == 1, what="the list without it")
        assert page.evaluate("document.activeElement.textContent") == "b.pdf"
        page.go_back()
        page.get_by_text("This document is not here").wait_for()

    def test_its_link_leads_through_the_sign_in(self, page: Any, address: str, documents: Documents) -> None:
        """Who is not signed in gets the form, and then the document; a link to elsewhere is not followed."""
        job_id = documents.bring_to("done", "a.pdf")
        page.goto(f"{address}documents/doc_{job_id}")
        page.fill("#key", ONE)
        page.get_by_role("button", name="Sign in").click()
        page.locator("h1", has_text="a.pdf").wait_for()
        for elsewhere in ("//example.org", "/\\example.org", "https://example.org/", "/documents/../../x"):
            answer = page.request.post(
                f"{address}login",
                form={"key": ONE, "next": elsewhere},
                headers={"Sec-Fetch-Site": "same-origin"},
                max_redirects=0,
            )
            assert answer.headers["location"] == "/"


class TestUploads:
    @pytest.fixture
    def scans(self, tmp_path: Path) -> list[Path]:
        """Three scans of a page."""
        paths = [tmp_path / f"{name}.pdf" for name in ("one", "two", "three")]
        for path in paths:
            make_sample(path, pages=1, dpi=72)
        return paths

    def test_each_is_a_row_from_the_first_moment(self, page: Any, address: str, scans: list[Path]) -> None:
        """With a percent and a cancel; the second can be stopped before its turn, and leaving asks first."""
        _sign_in(page, address)
        held: list[Any] = []
        holding = [True]
        page.route("**/api/documents", lambda route: held.append(route) if holding else route.continue_())
        page.set_input_files("#file", scans)
        rows = page.locator("#uploads > li")
        assert rows.locator("[data-part=name]").all_text_contents() == ["three.pdf", "two.pdf", "one.pdf"]
        assert page.get_by_role("progressbar", name="Sending three.pdf").get_attribute("aria-valuenow") == "0"
        assert not page.locator("#empty").is_visible()
        page.get_by_text("Keep this page open until your files are sent.").wait_for()
        asked: list[str] = []
        page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
        page.close(run_before_unload=True)
        wait_for(lambda: page.evaluate("1") and asked == ["beforeunload"], what="the browser's question")
        page.get_by_role("button", name="Cancel sending two.pdf").click()
        holding.clear()
        held[0].continue_()
        documents = page.locator("#documents > li [data-part=name]")
        wait_for(lambda: documents.all_text_contents() == ["three.pdf", "one.pdf"], what="both documents")
        assert rows.count() == 0

    def test_after_the_session_ended_it_is_kept(self, page: Any, address: str, scans: list[Path]) -> None:
        """The page says so to a person; signed in again in another tab, the same file is sent again."""
        _sign_in(page, address)
        page.context.clear_cookies()
        page.set_input_files("#file", scans[:1])
        refused = page.locator("#uploads .refused")
        refused.wait_for()
        assert (
            refused.locator("[data-part=note]").text_content()
            == "Your session has ended. Sign in again, then try this again."
        )
        page.locator("#session").wait_for()
        other = page.context.new_page()
        _sign_in(other, address)
        other.close()
        page.get_by_role("button", name="I have signed in").click()
        wait_for(lambda: not page.locator("#session").is_visible(), what="the session")
        page.get_by_role("button", name="Send one.pdf again").click()
        page.locator("#documents > li", has_text="one.pdf").wait_for()
        page.wait_for_selector("#live[data-state=live]")

    def test_offline_says_so(self, page: Any, address: str, scans: list[Path]) -> None:
        """Not "Live" still; an upload waits for a second try, and what happened meanwhile is there afterwards."""
        _sign_in(page, address)
        page.context.set_offline(True)
        wait_for(lambda: page.locator("#live-text").text_content() == "Offline", what="the sign")
        page.set_input_files("#file", scans[:1])
        page.locator("#uploads .refused", has_text="You are offline").wait_for()
        page.context.set_offline(False)
        page.wait_for_selector("#live[data-state=live]")
        page.get_by_role("button", name="Send one.pdf again").click()
        page.locator("#documents > li", has_text="one.pdf").wait_for()


def test_a_used_start_link_says_what_to_do(web_service: Service) -> None:
    """To a person, also where no key exists."""
    token = web_service.settings.start_token
    assert web_service.client(None).get(f"/?token={token}").status_code == 302
    text = web_service.client(None).get(f"/?token={token}").get_data(as_text=True)
    assert "was used before" in text
    assert "python -m tasks keys add" in text
    assert MATTER not in text
