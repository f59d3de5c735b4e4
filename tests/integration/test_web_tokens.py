"""The service's tokens: who makes them, what they open, and that no log has them."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.keys import Role
from tasks.sample import make_sample
from tests.support.web_service import ALL, MATTER, ONE, Service, post, problem

ORIGIN = "https://shop.example"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A scan of one page."""
    path = tmp_path_factory.mktemp("sample") / "scan.pdf"
    make_sample(path, pages=1, dpi=72)
    return path.read_bytes()


@pytest.fixture
def job_id(web_service: Service, sample: bytes) -> str:
    """A job of the matter m1."""
    return str(post(web_service.client(), sample).get_json()["job_id"])


def _token(client: FlaskClient, path: str, **body: Any) -> str:
    answer = client.post(path, json=body) if body else client.post(path)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return str(answer.get_json()["token"])


class TestMaking:
    def test_who_may_read_a_job_makes_a_token_for_it(self, web_service: Service, job_id: str) -> None:
        """With links that are open to whoever has it."""
        answer = web_service.client(ONE).post(f"/api/jobs/{job_id}/tokens", json={"expires_in": 60})
        assert answer.status_code == 201
        made = answer.get_json()
        assert made["links"].keys() == {"job", "events", "pages", "celery_progress"}
        nobody = web_service.client(None)
        for link in made["links"].values():
            assert nobody.get(link, headers={"Last-Event-ID": "0"}).status_code == 200
        assert nobody.get(made["links"]["job"]).get_json()["job_id"] == job_id

    def test_and_for_a_matter(self, web_service: Service, job_id: str) -> None:
        """Its list, and each of its jobs."""
        token = _token(web_service.client(ONE), f"/api/matters/{MATTER}/tokens")
        nobody = web_service.client(None)
        assert [each["job_id"] for each in nobody.get(f"/api/matters/{MATTER}/jobs?token={token}").get_json()] == [
            job_id
        ]
        assert nobody.get(f"/api/jobs/{job_id}/pages?token={token}").status_code == 200
        problem(nobody.get(f"/api/matters/m2/jobs?token={token}"), 403)

    def test_who_may_not_read_makes_none(self, web_service: Service, job_id: str) -> None:
        """No credential, another matter's, a job that is not there, another token."""
        other = web_service.app.extensions["web_door"].keys.table.add(matters=("m2",), role=Role.ADMIN).key
        token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens")
        for key, path, status in (
            (None, f"/api/jobs/{job_id}/tokens", 401),
            (other, f"/api/jobs/{job_id}/tokens", 403),
            (other, f"/api/matters/{MATTER}/tokens", 403),
            (ONE, "/api/jobs/job_none/tokens", 404),
            (None, f"/api/jobs/{job_id}/tokens?token={token}", 403),
            (token, f"/api/jobs/{job_id}/tokens", 403),
        ):
            problem(web_service.client(key).post(path), status)

    @pytest.mark.parametrize(
        "body", ["[]", "{", '{"expires_in": 0}', '{"expires_in": 86401}', '{"expires_in": true}', '{"x": 1}']
    )
    def test_a_token_lives_for_at_most_a_day(self, web_service: Service, job_id: str, body: str) -> None:
        """What was sent is named."""
        answer = web_service.client().post(f"/api/jobs/{job_id}/tokens", data=body, content_type="application/json")
        assert "expires_in" in str(problem(answer, 400)["detail"])


class TestReading:
    def test_a_token_reads_one_job_and_does_nothing(self, web_service: Service, job_id: str, sample: bytes) -> None:
        """As an address or as a bearer; everything else is refused, whichever way it comes."""
        other = post(web_service.client(), sample).get_json()["job_id"]
        token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens")
        bearer, nobody = web_service.client(token), web_service.client(None)
        for path in ("", "/pages", "/events"):
            assert bearer.get(f"/api/jobs/{job_id}{path}").status_code == 200
            assert nobody.get(f"/api/jobs/{job_id}{path}?token={token}").status_code == 200
            problem(bearer.get(f"/api/jobs/{other}{path}"), 403)
        for method, path in (
            ("GET", "/api/jobs"),
            ("GET", f"/api/jobs/{job_id}/result.pdf"),
            ("GET", f"/api/jobs/{job_id}/chunks"),
            ("POST", f"/api/jobs/{job_id}/cancel"),
            ("POST", f"/api/jobs/{job_id}/retry"),
            ("POST", "/api/documents"),
            ("GET", "/api/keys"),
        ):
            problem(bearer.open(path, method=method), 403)
            problem(nobody.open(f"{path}?token={token}", method=method), 403)

    def test_a_token_ends_with_its_key(self, web_service: Service, job_id: str) -> None:
        """Whoever is shut out has no way in that was made before."""
        table = web_service.app.extensions["web_door"].keys.table
        added = table.add(matters=(MATTER,), role=Role.READ)
        token = _token(web_service.client(added.key), f"/api/jobs/{job_id}/tokens")
        nobody = web_service.client(None)
        assert nobody.get(f"/api/jobs/{job_id}?token={token}").status_code == 200
        web_service.client(ALL)
        table.revoke(added.record.id)
        web_service.app.extensions["web_door"].keys.forget()
        for path in ("", "/pages", "/events"):
            found = problem(nobody.get(f"/api/jobs/{job_id}{path}?token={token}"), 401)
            assert "ended" in str(found["detail"])

    def test_a_token_expires(self, web_service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """And says so."""
        token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens", expires_in=60)
        now = time.time()
        monkeypatch.setattr("celery_progress_ext.tokens.time.time", lambda: now + 61)
        for path in ("", "/pages"):
            found = problem(web_service.client(None).get(f"/api/jobs/{job_id}{path}?token={token}"), 401)
            assert "expired" in str(found["detail"])

    def test_other_sites_read_with_it_where_they_are_allowed_to(
        self, web_service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a token opens, and nothing else."""
        web_service.progress.settings.__dict__["allowed_origins"] = (ORIGIN,)
        token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens")
        nobody = web_service.client(None)
        for path in ("", "/pages", "/events"):
            answer = nobody.get(f"/api/jobs/{job_id}{path}?token={token}", headers={"Origin": ORIGIN})
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        refused = nobody.get(f"/api/jobs/{job_id}?token=wrong", headers={"Origin": ORIGIN})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)
        assert nobody.options(f"/api/jobs/{job_id}", headers={"Origin": ORIGIN}).status_code == 204
        keyed = web_service.client().get("/api/jobs", headers={"Origin": ORIGIN})
        assert "Access-Control-Allow-Origin" not in keyed.headers


def test_celery_progress_is_served_at_its_own_address(web_service: Service, job_id: str) -> None:
    """To whoever may read the job, and to nobody else."""
    token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens")
    nobody = web_service.client(None)
    assert nobody.get(f"/celery-progress/{job_id}/{token}/").json["state"] == "PENDING"  # type: ignore[index]
    assert web_service.client(ONE).get(f"/celery-progress/{job_id}/").status_code == 200
    assert nobody.get(f"/celery-progress/{job_id}/").status_code == 401
    assert nobody.get("/celery-progress/unknown/").status_code == 401
    assert nobody.get(f"/celery-progress/{job_id}/wrong/").mimetype == "application/problem+json"


def test_no_log_has_a_token(web_service: Service, job_id: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither where it is made nor where it is used, in an address, a path or a header; who uses it can be traced."""
    caplog.set_level(logging.INFO)
    token = _token(web_service.client(ONE), f"/api/jobs/{job_id}/tokens")
    nobody = web_service.client(None)
    nobody.get(f"/api/jobs/{job_id}?token={token}")
    environ = {}
    nobody.get(f"/api/celery-progress/{job_id}/{token}/", environ_overrides=environ)
    nobody.get(f"/api/celery-progress/{job_id}/{token}x/")
    web_service.client(token).post(f"/api/jobs/{job_id}/cancel")
    assert token[5:] not in caplog.text
    assert f"/api/celery-progress/{job_id}/prog_***/" in caplog.text
    assert "credential='token " in caplog.text
