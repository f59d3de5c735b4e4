"""Keys in the database: made, listed and revoked by command, and seen by every web process within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery
from flask import Flask
from flask.testing import FlaskClient

from celery_progress_ext import CeleryProgress
from celery_progress_ext.exceptions import InvalidSetting
from celery_progress_ext.storage import Database
from tasks.key_table import KeyTable
from tasks.keys import Role
from tasks.settings import ServiceSettings
from tests.support.processes import ROOT
from tests.support.waiting import wait_for
from web import create_app, key_ring, streams
from web.session_secret import session_secret

SECRET = "the-same-on-every-host"


@dataclass
class Hosts:
    """Two web hosts over one database and one Redis."""

    apps: tuple[Flask, Flask]
    table: KeyTable
    progress: CeleryProgress

    def client(self, host: int, key: str | None = None, *, address: str = "192.0.2.1") -> FlaskClient:
        """Somebody at that host, with a key or without."""
        client = self.apps[host].test_client()
        client.environ_base["REMOTE_ADDR"] = address
        if key is not None:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        return client


@pytest.fixture
def hosts(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Hosts]:
    """No key is configured but in the database."""
    celery = Celery("key-tests", broker=redis_url, set_as_current=False)
    celery.conf.update(progress_database_url=database_url, progress_redis_url=redis_url)
    progress = CeleryProgress(celery)
    progress.migrate()
    settings = ServiceSettings(documents_url=(tmp_path / "documents").as_uri(), secret_key=SECRET)
    apps = create_app(progress, settings), create_app(progress, settings)
    yield Hosts(apps, KeyTable(progress.database), progress)
    for app in apps:
        streams.close(app)
    progress.database.dispose()
    celery.close()


def test_a_key_opens_its_matter_until_it_is_revoked(hosts: Hosts) -> None:
    """Without a restart, on a host that has answered before the key was there."""
    assert hosts.client(0).get("/api/jobs").status_code == 401
    added = hosts.table.add(matters=("m1",), role=Role.SUBMIT, label="Ada")
    client = hosts.client(0, added.key)
    wait_for(lambda: client.get("/api/jobs?matter_id=m1").status_code == 200, 1, what="the key")
    assert client.get("/api/jobs?matter_id=m2").status_code == 403
    assert hosts.table.revoke(added.record.id)
    assert not hosts.table.revoke(added.record.id)
    wait_for(lambda: client.get("/api/jobs?matter_id=m1").status_code == 401, 5, what="the revocation")


def test_a_key_ends_by_itself(hosts: Hosts) -> None:
    """Its time is the database's; what it was exchanged for ends with it."""
    added = hosts.table.add(matters=("m1",), role=Role.READ, seconds=3)
    assert added.record.expires_at == pytest.approx(added.record.created_at + 3, abs=0.1)
    session = hosts.client(0)
    assert session.post("/login", data={"key": added.key}).status_code == 303
    assert session.get("/api/jobs?matter_id=m1").status_code == 200
    wait_for(lambda: session.get("/api/jobs?matter_id=m1").status_code == 401, 10, what="the end of the key")
    assert hosts.table.list() == []


@pytest.mark.parametrize(("role", "answers"), [(Role.READ, (200, 403, 403)), (Role.SUBMIT, (200, 400, 404))])
def test_a_role_says_what_may_be_done(hosts: Hosts, role: Role, answers: tuple[int, ...]) -> None:
    """Reading; handing in; changing jobs."""
    client = hosts.client(0, hosts.table.add(matters=("*",), role=role).key)
    got = client.get("/api/jobs"), client.post("/api/documents"), client.post("/api/jobs/job_none/cancel")
    assert tuple(each.status_code for each in got) == answers


def test_an_admin_manages_the_keys_of_its_matters(hosts: Hosts) -> None:
    """Over HTTP, on any host; neither those of others nor more than it has itself. Nobody else does."""
    admin, other = (hosts.table.add(matters=(matter,), role=Role.ADMIN) for matter in ("m1", "m2"))
    client = hosts.client(0, admin.key)
    made = client.post("/api/keys", json={"matters": ["m1"], "role": "read", "days": 1})
    assert made.status_code == 201
    assert hosts.client(1, made.get_json()["key"]).get("/api/jobs?matter_id=m1").status_code == 200
    assert {key["id"] for key in client.get("/api/keys").get_json()} == {admin.record.id, made.get_json()["id"]}
    for matters in (["m2"], ["m1", "m2"], ["*"]):
        assert client.post("/api/keys", json={"matters": matters}).status_code == 403
    assert client.delete(f"/api/keys/{other.record.id}").status_code == 404
    assert client.delete(f"/api/keys/{made.get_json()['id']}").status_code == 204
    assert hosts.client(0, made.get_json()["key"]).get("/api/jobs?matter_id=m1").status_code == 401
    submitter = hosts.client(0, hosts.table.add(matters=("*",), role=Role.SUBMIT).key)
    answers = submitter.get("/api/keys"), submitter.post("/api/keys", json={"matters": ["m1"]})
    assert [answer.status_code for answer in answers] == [403, 403]


def test_no_key_is_kept(hosts: Hosts) -> None:
    """Only its digest: who reads the database cannot sign in."""
    added = hosts.table.add(matters=("m1",), role=Role.READ)
    with hosts.progress.database.engine.connect() as conn:
        kept = str(conn.exec_driver_sql("SELECT * FROM service_keys").all())
    assert added.record.id in kept
    assert added.key not in kept
    assert added.key.split("_", 2)[2] not in kept


def test_signing_out_ends_every_copy_of_the_cookie(hosts: Hosts) -> None:
    """A stolen one too, on another host too, within seconds; at once where the sign-out came in."""
    added = hosts.table.add(matters=("m1",), role=Role.READ)
    client = hosts.client(0)
    client.post("/login", data={"key": added.key})
    cookie = client.get_cookie("progress_session")
    assert cookie is not None
    copies = [hosts.client(0), hosts.client(1)]
    for copy in copies:
        copy.set_cookie("progress_session", cookie.value)
        assert copy.get("/api/jobs?matter_id=m1").status_code == 200
    assert client.post("/logout").status_code == 303
    assert copies[0].get("/api/jobs?matter_id=m1").status_code == 401
    wait_for(lambda: copies[1].get("/api/jobs?matter_id=m1").status_code == 401, 5, what="the other host to notice")
    again = hosts.client(1)
    assert again.post("/login", data={"key": added.key}).status_code == 303
    assert again.get("/api/jobs?matter_id=m1").status_code == 200


def test_guessing_is_slowed_down_and_traceable(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty wrong keys from one address, on any host, and no more are looked at from there for a minute. Who had been
    let in from there before goes on, and so does everybody elsewhere.
    """
    caplog.set_level("INFO")
    added, late = (hosts.table.add(matters=("m1",), role=Role.READ) for _ in range(2))
    assert hosts.client(0, added.key).get("/api/jobs").status_code == 200
    statuses = [hosts.client(n % 2).post("/login", data={"key": f"wrong-key-{n}"}).status_code for n in range(30)]
    assert statuses == [401] * 20 + [429] * 10
    refused = hosts.client(0, late.key).get("/api/jobs")
    assert (refused.status_code, refused.content_type) == (429, "application/problem+json")
    assert int(refused.headers["Retry-After"]) > 0
    assert hosts.client(0, added.key).get("/api/jobs").status_code == 200
    assert hosts.client(0, late.key, address="192.0.2.2").get("/api/jobs").status_code == 200
    lines = [line for line in caplog.messages if "sign_in_refused" in line]
    assert len(lines) == 20
    assert all("192.0.2.1" in line for line in lines)
    assert "wrong-key" not in caplog.text


def test_known_keys_hold_while_the_database_hangs(hosts: Hosts) -> None:
    """A key that was read before lets its bearer in within a second; one that was never read waits for the database."""
    added = hosts.table.add(matters=("m1",), role=Role.READ)
    ring: key_ring.KeyRing = hosts.apps[0].extensions["web_door"].keys
    assert ring.by_key(added.key) is not None
    hung = threading.Event()
    try:
        ring._read._ask = lambda: hung.wait(30)  # type: ignore[assignment, return-value]
        ring.forget()
        started = time.monotonic()
        assert ring.by_key(added.key) is not None
        assert time.monotonic() - started < 0.9
    finally:
        hung.set()
    unread: key_ring.KeyRing = hosts.apps[1].extensions["web_door"].keys
    unread.table._database = Database("sqlite:////nowhere/at/all.db")
    answer = hosts.client(1, added.key).get("/api/jobs")
    assert (answer.status_code, "database" in answer.get_json()["detail"]) == (503, True)


def test_tables_are_made_by_many_at_once(database_url: str) -> None:
    """Hosts of one deployment start together."""
    databases = [Database(database_url) for _ in range(4)]
    errors: list[Exception] = []

    def create(database: Database) -> None:
        try:
            KeyTable(database).create()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert KeyTable(databases[0]).add(matters=("m1",), role=Role.READ).record.role is Role.READ
    for database in databases:
        database.dispose()


def _keys(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "tasks", "keys", *arguments]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_the_commands(tmp_path: Path) -> None:
    """Add, list, revoke: for people and for programs, on the database that `up` keeps in a data directory."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "progress.db").touch()
    added = json.loads(
        _keys("add", "--matter", "m1", "--role", "read", "--days", "2", "--json", folder=tmp_path).stdout
    )
    assert (added["matters"], added["role"]) == (["m1"], "read")
    assert added["key"].startswith(f"ocr_{added['id']}_")
    spoken = _keys("add", "--matter", "*", "--label", "Ada", folder=tmp_path)
    assert spoken.stdout.strip().startswith("ocr_")
    listed = json.loads(_keys("list", "--json", folder=tmp_path).stdout)
    assert [each["label"] for each in listed] == ["", "Ada"]
    assert not any("key" in each or "digest" in each for each in listed)
    assert json.loads(_keys("revoke", added["id"], "--json", folder=tmp_path).stdout) == {
        "id": added["id"],
        "revoked": True,
    }
    assert _keys("revoke", added["id"], folder=tmp_path).returncode == 1
    assert "Ada" in _keys("list", folder=tmp_path).stdout
    assert _keys("add", "--matter", "a/b", folder=tmp_path).returncode == 2
    assert not (tmp_path / "progress.db").exists()


def test_one_host_makes_its_own_secret(tmp_path: Path) -> None:
    """Once, for its owner alone; the next start signs with the same one."""
    database = Database(f"sqlite:///{tmp_path / 'progress.db'}")
    first, second = (session_secret(ServiceSettings(), database) for _ in range(2))
    assert first == second
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
    assert len(first) > 40


@pytest.mark.parametrize(
    ("host", "asked_for"), [("0.0.0.0", True), ("::", True), ("web-1", True), ("127.0.0.1", False), ("[::1]", False)]
)
def test_several_hosts_have_to_agree_on_a_secret(
    host: str, asked_for: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a database that others can reach, and an address that they can: refused at the start, with what to do."""
    monkeypatch.chdir(tmp_path)
    database = Database("postgresql://u:p@db/progress")
    settings = ServiceSettings(host=host)
    if asked_for:
        with pytest.raises(InvalidSetting, match="PROGRESS_SECRET_KEY"):
            session_secret(settings, database)
    else:
        assert session_secret(settings, database) == (tmp_path / "var" / "secret_key").read_text()
    given = ServiceSettings(host=host, secret_key=SECRET)
    assert session_secret(given, database) == SECRET
