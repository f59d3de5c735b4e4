"""What is kept is for its owner alone, whatever the umask is; what lies there from before is tightened."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from celery_progress_ext import CeleryProgress
from celery_progress_ext.exceptions import InvalidSetting
from celery_progress_ext.private_files import PrivateFiles
from tasks import file_permissions
from tasks.documents import DocumentStore
from tasks.embedded.servers import RedisServer
from tests.support.processes import WorkerProcess
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True, params=[0o000, 0o022], ids=["umask 000", "umask 022"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[CeleryProgress]:
    """Over an SQLite database that is not there yet."""
    celery = Celery("permissions", broker="memory://", set_as_current=False)
    celery.conf.update(progress_database_url=f"sqlite:///{tmp_path}/progress.db")
    found = CeleryProgress(celery)
    yield found
    found.database.dispose()


def modes(root: Path) -> dict[str, int]:
    """Permission bits of all that is below a folder, and of the folder."""
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}


def loose(root: Path) -> dict[str, str]:
    """What others than the owner may read, write or enter."""
    return {name: oct(mode) for name, mode in modes(root).items() if mode & 0o077}


def fill(store: DocumentStore, folder: Path) -> None:
    """An original, a chunk's results and an output."""
    source = folder / "source"
    source.write_bytes(b"%PDF")
    store.put_original("doc", source)
    store.pages.write_chunk("job", 0, 1, [])
    store.publish_outputs("job", 1, {"pdf": source, "txt": source})


def test_documents_and_results(tmp_path: Path) -> None:
    """Every file is 0600 and every folder 0700, from its first moment."""
    fill(DocumentStore((tmp_path / "new" / "documents").as_uri()), tmp_path)
    found = modes(tmp_path / "new")
    assert len(found) > 8
    assert set(found.values()) == {0o600, 0o700}


def test_the_database_and_what_sqlite_puts_beside_it(tmp_path: Path, progress: CeleryProgress) -> None:
    """The write-ahead log holds rows too."""
    progress.migrate()
    with progress.database.engine.connect():
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("progress.db*")}
    assert found == dict.fromkeys(("progress.db", "progress.db-wal", "progress.db-shm"), 0o600)


def test_the_embedded_server(tmp_path: Path) -> None:
    """Its append-only file holds arguments and results."""
    with RedisServer(tmp_path / "redis"):
        assert (tmp_path / "redis" / "appendonlydir").is_dir()
        assert loose(tmp_path / "redis") == {}


def test_what_is_there_is_tightened(tmp_path: Path, progress: CeleryProgress) -> None:
    """Made by an older version, with files that anybody could read."""
    progress.migrate()
    store = DocumentStore((tmp_path / "documents").as_uri())
    fill(store, tmp_path)
    for path in (tmp_path / "documents", *(tmp_path / "documents").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "progress.db").chmod(0o644)
    file_permissions.tighten(store, progress)
    assert loose(tmp_path / "documents") == {}
    assert stat.S_IMODE((tmp_path / "progress.db").stat().st_mode) == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Somebody's link must not have us change a file elsewhere."""
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o644)
    (tmp_path / "documents").mkdir(mode=0o755)
    (tmp_path / "documents" / "link").symlink_to(outside)
    PrivateFiles().tighten(tmp_path / "documents")
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_group_shares_them(tmp_path: Path) -> None:
    """Where web and workers are two users: group and owner read and write, nobody else does."""
    group = grp.getgrgid(os.getgid())
    if os.geteuid() == 0:
        group = next(each for each in grp.getgrall() if each.gr_gid != os.getgid())
    fill(DocumentStore((tmp_path / "new").as_uri(), files_group=group.gr_name), tmp_path)
    assert set(modes(tmp_path / "new").values()) == {0o660, 0o2770}
    assert {path.stat().st_gid for path in (tmp_path / "new").rglob("*")} == {group.gr_gid}
    with pytest.raises(InvalidSetting, match="no-such-group"):
        DocumentStore(tmp_path.as_uri(), files_group="no-such-group")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_of_the_machine_reads_nothing(tmp_path: Path) -> None:
    """As the system sees it."""
    tmp_path.chmod(0o755)
    store = DocumentStore((tmp_path / "documents").as_uri())
    fill(store, tmp_path)
    for name in ("documents", "documents/documents/doc/original.pdf"):
        read = f"import os; os.setgid(65534); os.setuid(65534); os.open({str(tmp_path / name)!r}, os.O_RDONLY)"
        done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, timeout=30)
        assert "PermissionError" in done.stderr


def test_a_worker_tightens_when_it_starts(
    tmp_path: Path, redis_url: str, worker: Callable[..., WorkerProcess], sqlite_url: str
) -> None:
    """Not only the web process."""
    documents = tmp_path / "documents"
    documents.mkdir(mode=0o755)
    (documents / "old.pdf").write_bytes(b"%PDF")
    env = {
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "PROGRESS_DATABASE_URL": sqlite_url,
        "DOCUMENTS_URL": documents.as_uri(),
    }
    worker("tasks.celery_app", concurrency=1, env=env)
    wait_for(lambda: loose(documents) == {}, 5, what="tightened")
