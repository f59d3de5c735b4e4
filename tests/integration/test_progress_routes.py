"""The routes of the blueprint beside its streams: snapshots, tokens, other origins, celery-progress, JavaScript."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from celery_progress_ext.broadcast.memory import MemoryBroadcaster
from celery_progress_ext.broadcast.redis import RedisBroadcaster
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.sse.assets import names
from celery_progress_ext.sse.blueprint import ProgressEvents
from celery_progress_ext.tokens import Tokens
from tests.support.live import ORIGIN, SECRET, JobsInMemory, live_app, make_snapshot, serve

TOKENS = Tokens([SECRET])


class Site(SimpleNamespace):
    """A served app, its jobs, and whom it was asked to authorise."""

    app: Flask
    jobs: JobsInMemory
    events: ProgressEvents
    client: FlaskClient
    broadcaster: MemoryBroadcaster
    asked: list[str]


@pytest.fixture
def site() -> Iterator[Site]:
    """Everybody may read the matter ``open``, nobody any other."""
    asked: list[str] = []

    def authorize(matter_id: str) -> None:
        asked.append(matter_id)
        if matter_id != "open":
            abort(403)

    broadcaster = MemoryBroadcaster()
    app, jobs, events = live_app(broadcaster, authorize=authorize)
    yield Site(app=app, jobs=jobs, events=events, client=app.test_client(), broadcaster=broadcaster, asked=asked)
    events.close()


class TestSnapshots:
    def test_a_job_is_its_snapshot(self, site: Site) -> None:
        """As in every event, and no cache keeps it."""
        job = site.jobs.put(make_snapshot(7, matter_id="open"))
        answer = site.client.get(f"/api/jobs/{job.job_id}")
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.get_json() == job.to_dict()
        assert site.asked == ["open"]

    def test_only_who_may_read_the_matter(self, site: Site) -> None:
        """Asked for each job, and for the list."""
        job = site.jobs.put(make_snapshot(matter_id="closed"))
        for path in (f"/api/jobs/{job.job_id}", "/api/matters/closed/jobs", f"/api/celery-progress/{job.job_id}/"):
            assert site.client.get(path).status_code == 403
        assert site.asked == ["closed"] * 3

    def test_a_job_that_is_not_there(self, site: Site) -> None:
        """A problem document with a sentence."""
        answer = site.client.get("/api/jobs/job_none")
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
        problem = json.loads(answer.data)
        assert problem["type"] == "urn:problem-type:job-not-found"
        assert problem["instance"] == "/api/jobs/job_none"
        assert "no job" in problem["detail"]

    def test_while_the_database_is_away_what_was_broadcast_last_serves(self, site: Site) -> None:
        """Without one it is 503 with a time to come back."""
        known, unknown = make_snapshot(3, matter_id="open"), make_snapshot(matter_id="open")
        site.broadcaster.publish(known)
        site.jobs.away = True
        assert site.client.get(f"/api/jobs/{known.job_id}").get_json()["version"] == 3
        for path in (f"/api/jobs/{unknown.job_id}", "/api/matters/open/jobs"):
            answer = site.client.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")

    def test_a_matter_is_listed_newest_first(self, site: Site) -> None:
        """At most as many as asked for, and only open ones where asked."""
        jobs = [site.jobs.put(make_snapshot(matter_id="open")) for _ in range(3)]
        site.jobs.put(replace(jobs[2], status=JobStatus.COMPLETED))
        ids = [job.job_id for job in reversed(jobs)]

        def listed(query: str) -> list[str]:
            return [each["job_id"] for each in site.client.get(f"/api/matters/open/jobs{query}").get_json()]

        assert (listed(""), listed("?limit=2"), listed("?active=1")) == (ids, ids[:2], ids[1:])
        for limit in ("0", "201", "x", "-1", "²"):
            assert site.client.get(f"/api/matters/open/jobs?limit={limit}").status_code == 400


class TestTokens:
    def test_a_job_s_token_opens_that_job_alone(self, site: Site) -> None:
        """In the address or as a bearer; the application is not asked."""
        job, other = (site.jobs.put(make_snapshot(matter_id="closed")) for _ in range(2))
        token = TOKENS.for_job(job.job_id)
        assert site.client.get(f"/api/jobs/{job.job_id}?token={token}").status_code == 200
        bearer = {"Authorization": f"Bearer {token}"}
        assert site.client.get(f"/api/jobs/{job.job_id}", headers=bearer).status_code == 200
        for path in (f"/api/jobs/{other.job_id}", f"/api/jobs/{other.job_id}/events", "/api/matters/closed/jobs"):
            assert site.client.get(f"{path}?token={token}").status_code == 403
            assert site.client.get(path, headers=bearer).status_code == 403
        assert site.asked == []

    def test_a_matter_s_token_opens_its_jobs(self, site: Site) -> None:
        """Each, the list and the stream; no other matter's."""
        job = site.jobs.put(make_snapshot(matter_id="closed"))
        other = site.jobs.put(make_snapshot(matter_id="else"))
        token = TOKENS.for_matter("closed")
        for path in (f"/api/jobs/{job.job_id}", "/api/matters/closed/jobs", f"/api/celery-progress/{job.job_id}/"):
            assert site.client.get(f"{path}?token={token}").status_code == 200
        for path in (f"/api/jobs/{other.job_id}", f"/api/jobs/{other.job_id}/events", "/api/matters/else/events"):
            assert site.client.get(f"{path}?token={token}").status_code == 403

    @pytest.mark.parametrize(
        "token",
        ["", "prog_", "prog_x.y", Tokens(["somebody else's secret"]).for_job("job_1")],
        ids=["empty", "bare", "no token", "another secret's"],
    )
    def test_a_wrong_token_is_not_made_good_by_anything_else(self, site: Site, token: str) -> None:
        """401 with a sentence, also where the application would let the request through."""
        job = site.jobs.put(make_snapshot(job_id="job_1", matter_id="open"))
        for path in (f"/api/jobs/{job.job_id}", f"/api/jobs/{job.job_id}/events", "/api/matters/open/events"):
            answer = site.client.get(f"{path}?token={token}")
            assert answer.status_code == 401
            assert "invalid_token" in answer.headers["WWW-Authenticate"]
            assert "ask for a new one" in json.loads(answer.data)["detail"]
        assert site.asked == []

    def test_another_credential_is_the_application_s_business(self, site: Site) -> None:
        """A bearer that is no token of ours."""
        job = site.jobs.put(make_snapshot(matter_id="open"))
        answer = site.client.get(f"/api/jobs/{job.job_id}", headers={"Authorization": "Bearer a-key-of-theirs"})
        assert answer.status_code == 200
        assert site.asked == ["open"]

    def test_a_stream_ends_when_its_token_expires(self, redis_url: str) -> None:
        """And the client has to bring another; one without a token goes on."""
        with serve(RedisBroadcaster(redis_url)) as live:
            job = live.commit(make_snapshot())
            token = TOKENS.for_job(job.job_id, expires=1)
            begun = time.monotonic()
            with live.follow(f"/api/jobs/{job.job_id}/events?token={token}") as reader:
                assert [event.id for event in reader.events()] == ["1"]
            assert time.monotonic() - begun > 0.9
            with live.follow(f"/api/jobs/{job.job_id}/events?token={token}") as reader:
                assert reader.response.status == 401


class TestOtherOrigins:
    def test_a_page_of_an_allowed_origin_may_read(self, site: Site) -> None:
        """Answers, errors, the application's own refusals, and files; never with cookies."""
        job = site.jobs.put(make_snapshot(matter_id="closed"))
        paths = (
            f"/api/jobs/{job.job_id}?token={TOKENS.for_job(job.job_id)}",
            f"/api/jobs/{job.job_id}/events?token=wrong",
            f"/api/jobs/{job.job_id}",
            "/api/jobs/none",
            "/api/assets/progress.js",
        )
        for path, status in zip(paths, (200, 401, 403, 404, 200), strict=True):
            answer = site.client.get(path, headers={"Origin": ORIGIN})
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in answer.headers
            for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example", ""):
                answer = site.client.get(path, headers={"Origin": origin})
                assert "Access-Control-Allow-Origin" not in answer.headers

    def test_it_may_send_the_token_as_a_header(self, site: Site) -> None:
        """The browser asks first."""
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
        answer = site.client.options("/api/jobs/job_1", headers=asked)
        assert answer.status_code == 204
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        refused = site.client.options("/api/jobs/job_1", headers={**asked, "Origin": "https://evil.example"})
        assert "Access-Control-Allow-Headers" not in refused.headers


class TestUnnamedEvents:
    def test_onmessage_gets_every_event_where_it_is_asked_for(self, redis_url: str) -> None:
        """The same snapshots and ids, without names; the stream ends with the job as ever."""
        with serve(RedisBroadcaster(redis_url)) as live:
            job = live.commit(make_snapshot())
            path = f"/api/jobs/{job.job_id}/events"
            with live.follow(f"{path}?events=message") as reader, live.follow(path) as named:
                events = reader.events()
                assert next(events).name == "message"
                assert named.next_event().name == "progress"
                live.commit(replace(job, version=2, status=JobStatus.COMPLETED))
                last = next(events)
                assert (last.name, last.id, last.payload["status"]) == ("message", "2", "COMPLETED")
                assert next(events, None) is None


class TestCeleryProgress:
    """The states of a job, in the words of celery-progress 0.5."""

    @staticmethod
    def _info(site: Site, path: str) -> dict[str, Any]:
        answer = site.client.get(path)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.get_json()
        return found

    def test_an_id_that_is_not_known_is_pending(self, site: Site) -> None:
        """As celery-progress says it: its page may ask before the job is there."""
        assert self._info(site, "/api/celery-progress/job_none/") == {
            "state": "PENDING",
            "complete": False,
            "success": None,
            "progress": {"pending": True, "current": 0, "total": 100, "percent": 0},
        }

    def test_a_job_at_work(self, site: Site) -> None:
        """What is done by pages; the percent is of the work and never goes back."""
        job = site.jobs.put(make_snapshot(matter_id="open", work_pct=31.456))
        assert self._info(site, f"/api/celery-progress/{job.job_id}/") == {
            "state": "PROGRESS",
            "complete": False,
            "success": None,
            "progress": {
                "pending": False,
                "current": 25,
                "total": 100,
                "percent": 31.46,
                "description": "Processing chunk 1/4",
            },
        }

    @pytest.mark.parametrize(
        ("status", "error", "state", "success", "result"),
        [
            (JobStatus.COMPLETED, None, "SUCCESS", True, {"pages": 100}),
            (JobStatus.PARTIAL, "Chunk 2 (pages 26-50) failed: x", "SUCCESS", True, {"pages": 100}),
            (JobStatus.FAILED, "Chunk 2 (pages 26-50) failed: x", "FAILURE", False, "Chunk 2 (pages 26-50) failed: x"),
            (JobStatus.CANCELLED, None, "REVOKED", False, "Task cancelled"),
        ],
    )
    def test_a_job_that_has_ended(
        self, site: Site, status: JobStatus, error: str | None, state: str, success: bool, result: Any
    ) -> None:
        """With its result, or why there is none; the token stands in the path."""
        job = site.jobs.put(make_snapshot(matter_id="closed", status=status, stage="Cancelled", error=error))
        site.events.routes._progress.job = lambda job_id: SimpleNamespace(result={"pages": 100})
        found = self._info(site, f"/api/celery-progress/{job.job_id}/{TOKENS.for_job(job.job_id)}/")
        assert (found["state"], found["complete"], found["success"], found["result"]) == (state, True, success, result)
        assert found["progress"]["percent"] == 100
        assert found["progress"].get("description") == (error if status is JobStatus.PARTIAL else None)

    def test_another_job_s_token_in_the_path(self, site: Site) -> None:
        """Opens nothing."""
        job = site.jobs.put(make_snapshot(matter_id="open"))
        assert site.client.get(f"/api/celery-progress/{job.job_id}/{TOKENS.for_job('job_x')}/").status_code == 403
        assert site.client.get(f"/api/celery-progress/{job.job_id}/nonsense/").status_code == 401


class TestFiles:
    def test_the_javascript_of_the_package_is_served(self, site: Site) -> None:
        """To everybody, as scripts; a browser that has it gets 304."""
        assert {"progress.js", "wording.js"} <= {*names()}
        for name in names():
            answer = site.client.get(f"/api/assets/{name}")
            kind = "text/javascript" if name.endswith(".js") else "text/plain"
            assert (answer.status_code, answer.mimetype) == (200, kind)
            again = site.client.get(f"/api/assets/{name}", headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.data) == (304, b"")
        assert site.asked == []

    @pytest.mark.parametrize("name", ["none.js", "..%2f__init__.py", "../tokens.py", "%2fetc%2fpasswd"])
    def test_and_nothing_else(self, site: Site, name: str) -> None:
        """Names are looked up, not opened."""
        assert site.client.get(f"/api/assets/{name}").status_code == 404
