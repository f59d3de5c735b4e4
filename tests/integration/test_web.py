"""The HTTP contract: a real application, database and broker behind Flask's test client; no worker runs."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse, encode_multipart

from celery_progress_ext import CeleryProgress, JobStatus
from celery_progress_ext.calibration import Model, Outcome, Phase, Promise
from celery_progress_ext.eta import Eta
from celery_progress_ext.kinds import JobFigures
from celery_progress_ext.storage.schema import job_kinds
from tasks.sample import make_sample
from tasks.settings import ServiceSettings
from tests.support.web_service import ALL, MATTER, ONE, Service, finish, post, problem
from web import create_app, streams


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A scan of three pages."""
    path = tmp_path_factory.mktemp("sample") / "sample.pdf"
    make_sample(path, pages=3, dpi=72)
    return path.read_bytes()


@pytest.fixture
def service(web_service: Service) -> Service:
    """The application over a fresh SQLite database, a real broker and an empty document store."""
    return web_service


@pytest.fixture
def job_id(service: Service, sample: bytes) -> str:
    """A job of matter m1 over three chunks, waiting for a worker."""
    return str(post(service.client(), sample, filename="Brief Müller.pdf").get_json()["job_id"])


class TestTakingDocumentsIn:
    def test_how_a_document_is_read_is_chosen_in_the_form(self, service: Service, sample: bytes) -> None:
        """Each bad value is a 400 with a sentence; good ones travel with the chunks."""
        client = service.client()
        told = problem(post(client, sample, mode="hurry"), 400)
        assert (told["option"], told["detail"]) == ("mode", "mode must be one of skip, redo, force, not 'hurry'.")
        assert problem(post(client, sample, language="lat+xx"), 400)["option"] == "language"
        assert problem(post(client, sample, pages="4-"), 400)["option"] == "pages"
        accepted = post(client, sample, mode="redo", pages="1-2", dpi="150", rotate_pages="true", chunk_pages="2")
        assert accepted.status_code == 202
        assert client.get(accepted.get_json()["links"]["self"]).get_json()["chunks"]["total"] == 2

    def test_a_document_becomes_a_job(self, service: Service, sample: bytes) -> None:
        """202 with the job, and links that all lead somewhere."""
        client = service.client(ONE)
        response = post(client, sample)
        assert response.status_code == 202
        answer = response.get_json()
        assert answer["job_id"].startswith("job_")
        links = answer["links"]
        assert {"self", "events", "chunks", "history", "result"} <= links.keys()
        snapshot = client.get(links["self"]).get_json()
        assert snapshot["document_id"] == answer["document_id"]
        assert (snapshot["matter_id"], snapshot["chunks"]["total"]) == (MATTER, 3)
        assert snapshot["metadata"]["filename"] == "scan.pdf"
        assert client.get(links["chunks"]).status_code == client.get(links["history"]).status_code == 200

    def test_a_document_is_taken_while_the_broker_is_away(self, service: Service, sample: bytes) -> None:
        """The job waits in its rows, and starts when the broker is back: an error would invite a second upload."""
        service.progress.app.conf.broker_write_url = "redis://127.0.0.1:1/0"
        response = post(service.client(), sample)
        assert response.status_code == 202
        [snapshot] = service.progress.jobs.list()
        assert response.get_json()["job_id"] == snapshot.job_id
        assert snapshot.status is JobStatus.PENDING
        assert service.store.has_original(snapshot.document_id)

    @pytest.mark.parametrize("matter_id", [None, "", "a/b", "x" * 65])
    def test_a_matter_that_cannot_be(self, service: Service, sample: bytes, matter_id: str | None) -> None:
        """Without a matter, or with one that cannot be, the form is bad."""
        problem(post(service.client(), sample, matter_id=matter_id), 400)

    def test_a_form_without_a_file(self, service: Service) -> None:
        """The sentence names the field that is missing."""
        response = service.client().post("/api/documents", data={"matter_id": MATTER})
        assert "`file`" in str(problem(response, 400)["detail"])

    def test_what_is_no_form_at_all(self, service: Service) -> None:
        """A JSON body is a bad form."""
        problem(service.client().post("/api/documents", json={"matter_id": MATTER}), 400)

    def test_what_is_not_a_pdf(self, service: Service) -> None:
        """415, with a sentence for a person."""
        assert "PDF" in str(problem(post(service.client(), b"hello"), 415)["detail"])

    def test_an_image_is_a_document(self, service: Service) -> None:
        """Accepted as a PDF is, with the page that was made of it; what is wrong with one has a sentence of its own."""
        content = io.BytesIO()
        Image.new("L", (600, 400), 255).save(content, "TIFF", dpi=(150, 150))
        answer = post(service.client(), content.getvalue(), filename="page.tif").get_json()
        with service.store.open_original(answer["document_id"]) as original:
            assert original.read_bytes().startswith(b"%PDF")
        refused = problem(post(service.client(), b"\x89PNG\r\n\x1a\nhello", filename="page.png"), 422)
        assert (refused["reason"], refused["type"]) == ("image_unreadable", "urn:problem-type:refused")

    def test_a_damaged_pdf(self, service: Service) -> None:
        """422 from the preflight, with its reason for programs."""
        assert problem(post(service.client(), b"%PDF-1.7\ngarbage"), 422)["reason"] == "damaged"

    def test_too_large(self, service: Service) -> None:
        """413, with the limit."""
        assert problem(post(service.client(), b"%PDF" + b"x" * 1_100_000), 413)["limit"] == 1_000_000

    def test_too_many_parts(self, service: Service, sample: bytes) -> None:
        """413 says that it is not the file's size, whether the body says its length or not."""
        fields = {f"field{number}": "x" for number in range(30)}
        assert problem(post(service.client(), sample, **fields), 413)["type"] == "urn:problem-type:too-many-parts"
        assert problem(post(service.client(), sample, note="x" * 600_000), 413)["type"].endswith("too-many-parts")  # type: ignore[attr-defined]
        _, body = encode_multipart(fields, boundary="b")
        response = service.client().post(
            "/api/documents",
            input_stream=io.BytesIO(body),
            content_type="multipart/form-data; boundary=b",
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert "parts" in str(problem(response, 413)["detail"])

    def test_slightly_too_large(self, service: Service) -> None:
        """What the form around the file may take is not given to the file."""
        problem(post(service.client(), b"%PDF" + b"x" * 1_010_000), 413)

    def test_too_large_without_saying_so(self, service: Service) -> None:
        """A chunked body has no length, so the limit holds while it is read, and not much more is read."""
        boundary = "b"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="matter_id"\r\n\r\n{MATTER}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF'
        ).encode()
        body = io.BytesIO(head + b"x" * 8_000_000)
        response = service.client().post(
            "/api/documents",
            input_stream=body,
            content_type=f"multipart/form-data; boundary={boundary}",
            environ_overrides={"wsgi.input_terminated": True},
        )
        problem(response, 413)
        assert body.tell() < 2_000_000

    def test_no_upload_stays_on_the_disk(
        self, service: Service, sample: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Accepted or refused, the temporary file is gone after the answer."""
        folder = tmp_path / "uploads"
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        for content in (sample, b"%PDF-1.7\ngarbage", b"hello"):
            post(service.client(), content)
        assert list(folder.iterdir()) == []

    def test_a_file_name_is_only_a_name(self, service: Service, sample: bytes) -> None:
        """Folders and control characters of a file name are dropped; the rest is kept as it is."""
        answer = post(service.client(), sample, filename="..\\..\\x/Brief \x07Müller <b>.pdf").get_json()
        snapshot = service.client().get(f"/api/jobs/{answer['job_id']}").get_json()
        assert snapshot["metadata"]["filename"] == "Brief Müller <b>.pdf"


class TestJobs:
    def test_jobs_are_listed_newest_first(self, service: Service, sample: bytes) -> None:
        """A matter's list has its jobs only, and no more than asked for."""
        first, second = (post(service.client(), sample).get_json()["job_id"] for _ in range(2))
        post(service.client(), sample, matter_id="m2")
        client = service.client()
        listed = client.get(f"/api/jobs?matter_id={MATTER}").get_json()
        assert [job["job_id"] for job in listed] == [second, first]
        assert len(client.get(f"/api/jobs?matter_id={MATTER}&limit=1").get_json()) == 1

    def test_without_a_matter_the_credential_decides(self, service: Service, sample: bytes) -> None:
        """Without ``matter_id`` the list covers the matters of the credential."""
        for matter_id in (MATTER, "m2"):
            post(service.client(), sample, matter_id=matter_id)
        assert {job["matter_id"] for job in service.client(ONE).get("/api/jobs").get_json()} == {MATTER}
        assert {job["matter_id"] for job in service.client(ALL).get("/api/jobs").get_json()} == {MATTER, "m2"}

    def test_chunks_and_history(self, service: Service, job_id: str) -> None:
        """The chunk rows come in order, the events after a version."""
        client = service.client()
        chunks = client.get(f"/api/jobs/{job_id}/chunks").get_json()
        assert [(chunk["page_start"], chunk["page_end"], chunk["status"]) for chunk in chunks] == [
            (1, 1, "pending"),
            (2, 2, "pending"),
            (3, 3, "pending"),
        ]
        events = client.get(f"/api/jobs/{job_id}/history?after=0").get_json()
        assert [event["type"] for event in events] == ["job_created"]
        assert client.get(f"/api/jobs/{job_id}/history?after={events[-1]['version']}").get_json() == []

    @pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=99999999999999999999", "after=²"])
    def test_a_number_that_is_none(self, service: Service, job_id: str, query: str) -> None:
        """A bad parameter is a 400, never an error of ours."""
        problem(service.client().get(f"/api/jobs/{job_id}/history?{query}"), 400)

    def test_cancel_then_run_the_rest(self, service: Service, job_id: str) -> None:
        """Cancel and retry answer 202 with the snapshot, and 409 where they make no sense."""
        client = service.client()
        problem(client.post(f"/api/jobs/{job_id}/retry"), 409)
        cancelled = client.post(f"/api/jobs/{job_id}/cancel")
        assert (cancelled.status_code, cancelled.get_json()["status"]) == (202, "CANCELLED")
        problem(client.post(f"/api/jobs/{job_id}/cancel"), 409)
        retried = client.post(f"/api/jobs/{job_id}/retry")
        assert (retried.status_code, retried.get_json()["status"]) == (202, "PROCESSING")

    def test_an_unknown_job(self, service: Service) -> None:
        """404 on every address of a job that is not there."""
        for address in ("", "/chunks", "/history", "/events", "/result.pdf"):
            problem(service.client().get(f"/api/jobs/job_none{address}"), 404)

    def test_a_stream_begins_with_the_snapshot(self, service: Service, job_id: str) -> None:
        """Whoever connects sees the current state at once, with its version as id."""
        response = service.client().get(f"/api/jobs/{job_id}/events")
        assert response.mimetype == "text/event-stream"
        text = ""
        for part in response.response:
            text += part.decode() if isinstance(part, bytes) else part
            if "\n\n" in text.partition("event:progress")[2]:
                break
        response.close()
        assert f'"job_id":"{job_id}"' in text
        assert "\nid:1\n" in text


def opened(client: FlaskClient, path: str, address: str = "192.0.2.1") -> tuple[TestResponse, str]:
    """A stream that is being read, and how it began."""
    response = client.get(path, environ_overrides={"REMOTE_ADDR": address})
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    return response, next(iter(response.response)).decode()  # type: ignore[arg-type, union-attr]


class TestCaps:
    SHED = "retry:10000"

    @pytest.mark.parametrize("path", ["/api/jobs/{job}/events", "/api/matters/m1/events"])
    def test_one_credential_does_not_take_every_place(self, service: Service, job_id: str, path: str) -> None:
        """It is told to come again in ten seconds, in a way that EventSource understands; others find room, and so does
        it when one of its streams has ended. Sessions of a key count for the key.
        """
        small = service.with_settings(max_streams_per_credential=2)
        url = path.format(job=job_id)
        held = [opened(small.client(ONE), url, f"192.0.2.{number}") for number in range(2)]
        session = small.client(None)
        session.post("/login", data={"key": ONE})
        third, began = opened(session, url, "192.0.2.9")
        assert self.SHED in began
        assert third.get_data().replace(b" ", b"").count(b"data:") == 0
        other, began = opened(small.client(ALL), url, "192.0.2.9")
        assert self.SHED not in began
        held[0][0].close()
        again, began = opened(small.client(ONE), url)
        assert self.SHED not in began
        for each in (held[1][0], other, again, third):
            each.close()
        streams.close(small.app)

    @pytest.mark.parametrize(
        ("cap", "address"), [("max_streams_per_address", "192.0.2.1"), ("max_streams", "192.0.2.2")]
    )
    def test_one_address_does_not_take_every_place(self, service: Service, job_id: str, cap: str, address: str) -> None:
        """Nor do all of them together take more than there is."""
        small = service.with_settings(**{cap: 1})
        url = f"/api/jobs/{job_id}/events"
        first, began = opened(small.client(ONE), url)
        assert self.SHED not in began
        second, began = opened(small.client(ALL), url, address)
        assert self.SHED in began
        first.close()
        second.close()
        streams.close(small.app)


class TestResults:
    def test_not_ready(self, service: Service, job_id: str) -> None:
        """409 with a sentence, while there is no result and when there will be none."""
        client = service.client()
        problem(client.get(f"/api/jobs/{job_id}/result.pdf"), 409)
        client.post(f"/api/jobs/{job_id}/cancel")
        assert "cancelled" in str(problem(client.get(f"/api/jobs/{job_id}/result.pdf"), 409)["detail"])

    def test_files_are_served_as_files(self, service: Service, job_id: str, tmp_path: Path) -> None:
        """Each form has its type and a name made from the document's; nothing in it can run as a page of ours."""
        finish(service, job_id, tmp_path, {"pdf": b"%PDF-x", "txt": "grüß".encode(), "json": b"{}"})
        for suffix, mimetype in (("pdf", "application/pdf"), ("txt", "text/plain"), ("json", "application/json")):
            response = service.client(ONE).get(f"/api/jobs/{job_id}/result.{suffix}")
            assert (response.status_code, response.mimetype) == (200, mimetype)
            disposition = response.headers["Content-Disposition"]
            assert disposition.startswith("attachment; ")
            assert f"filename*=UTF-8''Brief%20M%C3%BCller-ocr.{suffix}" in disposition
            assert response.headers["Content-Security-Policy"].startswith("sandbox")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert int(response.headers["Content-Length"]) == len(response.data)
        problem(service.client().get(f"/api/jobs/{job_id}/result.exe"), 404)

    def test_a_part_of_a_file(self, service: Service, job_id: str, tmp_path: Path) -> None:
        """A broken download goes on where it stopped, and what is known is not sent again."""
        finish(service, job_id, tmp_path, {"pdf": b"0123456789"})
        client, url = service.client(), f"/api/jobs/{job_id}/result.pdf"
        part = client.get(url, headers={"Range": "bytes=4-6"})
        assert (part.status_code, part.data, part.headers["Content-Range"]) == (206, b"456", "bytes 4-6/10")
        etag = client.get(url).headers["ETag"]
        assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
        assert client.get(url, headers={"Range": "bytes=99-"}).status_code == 416


_ROUTES = (
    ("GET", "/api/jobs?matter_id=m1"),
    ("GET", "/api/jobs/{job}"),
    ("GET", "/api/jobs/{job}/chunks"),
    ("GET", "/api/jobs/{job}/history"),
    ("GET", "/api/jobs/{job}/events"),
    ("GET", "/api/matters/m1/events"),
    ("GET", "/api/jobs/{job}/result.pdf"),
    ("POST", "/api/jobs/{job}/retry"),
    ("POST", "/api/jobs/{job}/cancel"),
)


class TestAccess:
    @pytest.mark.parametrize(("method", "route"), [*_ROUTES, ("POST", "/api/documents"), ("GET", "/api/jobs/none")])
    def test_no_credential(self, service: Service, job_id: str, method: str, route: str) -> None:
        """Every route answers 401 to a stranger, and says how to come in."""
        for key in (None, "wrong"):
            response = service.client(key).open(route.format(job=job_id), method=method)
            problem(response, 401)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize(("method", "route"), _ROUTES)
    def test_another_matter(self, service: Service, job_id: str, method: str, route: str) -> None:
        """Every route answers 403 to who belongs to another matter."""
        other = service.with_settings(api_keys={"key-of-m2": ("m2",)}).client("key-of-m2")
        problem(other.open(route.format(job=job_id), method=method), 403)

    def test_an_upload_to_another_matter(self, service: Service, sample: bytes) -> None:
        """A document is not taken for a matter that the key does not open."""
        problem(post(service.client(ONE), sample, matter_id="m2"), 403)

    def test_nothing_configured(self, service: Service) -> None:
        """Without keys and token everything is refused, with a sentence that says what to do."""
        bare = service.with_settings(api_keys={}, start_token=None)
        detail = problem(bare.client(None).get("/api/jobs"), 401)["detail"]
        assert "PROGRESS_API_KEYS" in str(detail)
        page = bare.client(None).get("/")
        assert (page.status_code, "PROGRESS_API_KEYS" in page.get_data(as_text=True)) == (401, True)

    def test_a_key_is_exchanged_for_a_session(self, service: Service) -> None:
        """The form sets a cookie that scripts cannot read, and the page opens the key's matters only."""
        client = service.client(None)
        assert client.post("/login", data={"key": "wrong"}).status_code == 401
        response = client.post("/login", data={"key": ONE})
        assert response.status_code == 303
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert ONE not in cookie
        assert client.get("/api/jobs?matter_id=m1").status_code == 200
        problem(client.get("/api/jobs?matter_id=m2"), 403)
        client.post("/logout")
        problem(client.get("/api/jobs?matter_id=m1"), 401)

    def test_the_cookie_is_secure_over_https(self, service: Service) -> None:
        """Over https the cookie never travels in the clear."""
        response = service.client(None).post("/login", data={"key": ONE}, base_url="https://ocr.example")
        assert "Secure" in response.headers["Set-Cookie"]

    def test_the_start_link_works_once(self, service: Service) -> None:
        """Its token is exchanged for a session and leaves the address; others who have the link are refused,
        in whichever process; who is in stays in."""
        link = f"/?token={service.settings.start_token}"
        first = service.client(None)
        assert first.head(link).status_code == 401  # a preview of the link does not use it up
        response = first.get(link)
        assert (response.status_code, response.headers["Location"]) == (302, "/")
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert first.get("/").status_code == 200
        assert service.client(None).get(link).status_code == 401
        assert service.with_settings().client(None).get(link).status_code == 401
        assert first.get(link).status_code == 302

    def test_other_sites_cannot_use_a_session(self, service: Service, job_id: str) -> None:
        """A request that another site's page makes with the cookie changes nothing."""
        client = service.client(None)
        client.post("/login", data={"key": ALL})
        url = f"/api/jobs/{job_id}/cancel"
        problem(client.post(url, headers={"Sec-Fetch-Site": "cross-site"}), 403)
        problem(client.post(url, headers={"Origin": "https://evil.example"}), 403)
        assert client.get(f"/api/jobs/{job_id}").get_json()["status"] == "PENDING"
        assert client.post(url, headers={"Origin": "http://localhost"}).status_code == 202

    @pytest.mark.parametrize("origin", ["http://[::1", "null", "::", "http://[", "https://evil.example"])
    def test_an_origin_that_is_none(self, service: Service, origin: str) -> None:
        """Refused in words, without credentials too; never a traceback."""
        for key in (None, ALL):
            client = service.client(key)
            client.environ_base.pop("HTTP_AUTHORIZATION", None)
            problem(client.post("/api/documents", headers={"Origin": origin}), 403)
        assert service.client(None).post("/login", headers={"Origin": origin}).status_code == 403

    @pytest.mark.parametrize("path", ["//api/jobs", "//evil.example//x", "/api//jobs?a=1", "/static//page.css"])
    def test_no_redirect_leaves_the_site(self, service: Service, path: str) -> None:
        """Whatever the request calls the host."""
        answer = service.client().open(path, base_url="http://evil.example")
        location = answer.headers.get("Location", "/")
        assert location.startswith("/")
        assert not location.startswith("//")
        assert "evil.example" not in location.split("/")[:3]

    def test_secrets_are_not_logged(self, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        """Neither keys nor tokens reach the log, whether they are let in or refused."""
        caplog.set_level("DEBUG")
        client = service.client(None)
        client.get(f"/?token={service.settings.start_token}")
        client.get("/?token=wrong-token")
        client.post("/login", data={"key": ALL})
        service.client("wrong-key").get("/api/jobs")
        assert not any(
            secret in caplog.text for secret in (str(service.settings.start_token), ALL, "wrong-key", "wrong-token")
        )


class TestWatching:
    def test_alive_and_ready(self, service: Service) -> None:
        """No credential is needed to see that the service can work."""
        client = service.client(None)
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        parts = dict.fromkeys(("database", "redis", "queue", "store"), "ok")
        assert (ready.status_code, ready.get_json()["status"], ready.get_json()["checks"]) == (200, "ok", parts)

    def test_not_ready_says_why(self, tmp_path: Path) -> None:
        """503, with which part is missing; the process is alive all the same."""
        celery = Celery("web-tests-not-ready", broker="memory://")
        celery.conf.update(
            progress_database_url=f"sqlite:///{tmp_path}/empty.db", progress_redis_url="redis://127.0.0.1:1/0"
        )
        progress = CeleryProgress(celery)
        client = create_app(
            progress, ServiceSettings(api_keys={ALL: ("*",)}, documents_url=(tmp_path / "documents").as_uri())
        ).test_client()
        ready = client.get("/readyz")
        assert (ready.status_code, ready.get_json()["checks"]) == (
            503,
            {"database": "not migrated", "redis": "unreachable", "queue": "ok", "store": "ok"},
        )
        assert client.get("/healthz").status_code == 200
        response = client.get("/api/jobs", headers={"Authorization": f"Bearer {ALL}"})
        problem(response, 503)
        progress.database.dispose()

    def test_metrics_count_and_name_nobody(self, service: Service, job_id: str) -> None:
        """Counts by status in Prometheus' text format; no matter, document or job is named."""
        text = service.client(None).get("/metrics").get_data(as_text=True)
        assert 'progress_jobs{status="PENDING"} 1' in text
        assert 'progress_chunks{status="pending"} 3' in text
        assert "progress_open_streams 0" in text
        assert not any(name in text for name in (MATTER, job_id, "scan"))

    def test_metrics_say_how_right_finish_times_have_been(self, service: Service) -> None:
        """By kind and phase, once a job of the kind has ended; quotes in a kind's name are escaped."""
        eta = Eta(finish_at=100.0, earliest=80.0, latest=130.0)
        outcome = Outcome.of(Promise(shown=eta, model=Model.of(Phase.LATE, eta, 0.0)), ended=200.0)
        figures = JobFigures(pace=0.0, warm=0.0, cold=0.0, work=1.0, merge=1.0, slots=1, outcomes=(outcome,))
        insert = sa.insert(job_kinds).values(kind='a "kind"', jobs=[figures.to_json()], updated_at=0.0)
        service.progress.database.write(lambda conn: conn.execute(insert))
        text = service.client(None).get("/metrics").get_data(as_text=True)
        assert 'progress_eta_error{kind="a \\"kind\\"",phase="80-100 %"} 0.5' in text
        assert 'progress_eta_held{kind="a \\"kind\\"",phase="80-100 %"} 0.0' in text


class TestAnswers:
    def test_every_answer_carries_the_headers(self, service: Service, job_id: str) -> None:
        """No inline script, no framing, no sniffing, no referrer: on pages, answers, errors and streams."""
        for address in ("/", "/healthz", "/static/progress.js", "/nothing", "/api/jobs", f"/api/jobs/{job_id}/events"):
            response = service.client().get(address)
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "unsafe-inline" not in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            response.close()

    def test_unknown_addresses(self, service: Service) -> None:
        """A problem document under /api, a page elsewhere."""
        problem(service.client().get("/api/nothing"), 404)
        problem(service.client().put("/api/jobs"), 405)
        page = service.client().get("/nothing")
        assert (page.status_code, page.mimetype) == (404, "text/html")

    def test_an_error_of_ours_tells_no_secrets(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever breaks inside, the answer is a sentence."""

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("inner secret")

        monkeypatch.setattr(service.progress.jobs, "list", broken)
        response = service.client().get("/api/jobs")
        problem(response, 500)
        assert "inner secret" not in response.get_data(as_text=True)

    def test_the_page_has_no_inline_script_or_style(self, service: Service) -> None:
        """The policy forbids them, so the page does without."""
        page = service.client(None).get("/login-is-not-here").get_data(as_text=True)
        client = service.client(None)
        client.post("/login", data={"key": ALL})
        page += client.get("/?matter=x1").get_data(as_text=True)
        assert 'data-matter="x1"' in page
        assert "<style" not in page
        assert " style=" not in page
        assert "onclick" not in page
        assert page.count("<script") == page.count('<script type="module" src=')


def test_the_web_application_brings_no_engine_along() -> None:
    """Importing ``web`` loads no OCR engine and no PDF library: parsing belongs in processes that may die."""
    code = (
        "import sys, web; print([name for name in ('tesserocr', 'pypdfium2', 'pikepdf', 'PIL') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
