"""A running service over HTTP: hand in a document, follow its job, fetch what came of it."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from mimetypes import guess_type
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
from httpx_sse import SSEError, connect_sse

from celery_progress_ext.jobs import JobSnapshot
from tasks import exit_codes
from tasks.cli.services import ServiceError

#: The service sends a comment every 15 s at most, so a stream that is silent for longer is broken. Seconds.
_SILENCE = 40.0
#: An upload is checked before it is answered. Seconds.
_ANSWER = 180.0
#: Between two attempts to reach a service that does not answer, and for how long it is tried. Seconds.
_AGAIN, _GIVE_UP = 1.0, 120.0
_AWAY = frozenset({500, 502, 503, 504})
#: Answers to an upload that say what is wrong with it; every other one is a failure.
_CODES = {400: exit_codes.USAGE, 413: exit_codes.REFUSED, 415: exit_codes.REFUSED, 422: exit_codes.REFUSED}


class RemoteService:
    """Talks to one service; a context manager.

    :param url: where its page is.
    :param key: an API key.
    :param still_there: whether it is worth while to wait for a service that does not answer.
    :raises ServiceError: for a URL that is none.
    """

    def __init__(self, url: str, key: str, *, still_there: Callable[[], bool] = lambda: True) -> None:
        self.url = _base(url)
        self._still_there = still_there
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
            timeout=httpx.Timeout(10.0, read=_ANSWER, write=_ANSWER),
            # A proxy of the environment's knows no loopback of ours.
            trust_env=not _is_loopback(self.url),
        )

    def submit(self, path: Path, *, filename: str, matter_id: str, options: Mapping[str, str | None]) -> str:
        """Hand in a document; its job's id.

        :raises ServiceError: where it is refused, or nothing answers.
        """
        form = {"matter_id": matter_id, **{name: value for name, value in options.items() if value}}
        # A name that is no text, as old file systems have them.
        filename = filename.encode(errors="replace").decode()
        try:
            with path.open("rb") as file, _sentences(self.url):
                files = {"file": (filename, file, guess_type(filename)[0] or "application/pdf")}
                answer = self._http.post("/api/documents", data=form, files=files)
        except OSError as error:
            raise ServiceError(f"{path} cannot be read: {error.strerror}.", exit_codes.USAGE) from None
        self._check(answer)
        try:
            return str(answer.json()["job_id"])
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"{self.url} is not this service.") from None

    def watch(self, job_id: str, *, trouble: Callable[[str | None], None]) -> Iterator[JobSnapshot]:
        """Snapshots of a job as they come, to the terminal one; a connection that breaks is made again.

        :param trouble: called with a sentence while the service does not answer, and with None once it does.
        :raises ServiceError: where it refuses, or has not answered for two minutes.
        """
        last: JobSnapshot | None = None
        lost_at: float | None = None
        while True:
            try:
                for snapshot in self._stream(job_id):
                    if lost_at is not None:
                        lost_at = None
                        trouble(None)
                    # A stream begins with what is there; it may be what was seen already.
                    if last is None or snapshot.version >= last.version:
                        last = snapshot
                        yield snapshot
                    if snapshot.status.terminal:
                        return
            except _Unreachable:
                if lost_at is None:
                    lost_at = time.monotonic()
                    trouble(f"{self.url} does not answer; trying again.")
                if not self._still_there():
                    raise ServiceError(
                        f"The service was stopped. {job_id} is kept, and goes on when the service is started again."
                    ) from None
                if time.monotonic() - lost_at > _GIVE_UP:
                    raise ServiceError(
                        f"{self.url} has not answered for {_GIVE_UP:.0f} s. {job_id} is kept there."
                    ) from None
            time.sleep(_AGAIN)

    def fetch(self, job_id: str, suffix: str, target: Path) -> None:
        """Write a result to ``target``.

        :raises ServiceError: where there is none, or nothing answers.
        """
        with _sentences(self.url), self._http.stream("GET", f"/api/jobs/{job_id}/result.{suffix}") as answer:
            if not answer.is_success:
                answer.read()
                self._check(answer)
            with target.open("wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def _stream(self, job_id: str) -> Iterator[JobSnapshot]:
        """One connection's snapshots, to the end of that connection. One with none was shed, as there are too many."""
        begun = False
        timeout = httpx.Timeout(10.0, read=_SILENCE)
        try:
            with connect_sse(self._http, "GET", f"/api/jobs/{job_id}/events", timeout=timeout) as source:
                if source.response.status_code in _AWAY:
                    raise _Unreachable
                if not source.response.is_success:
                    source.response.read()
                    self._check(source.response)
                for event in source.iter_sse():
                    record = json.loads(event.data) if event.data else None
                    if isinstance(record, dict) and "job_id" in record:
                        begun = True
                        yield JobSnapshot.from_dict(record)
            if not begun:
                raise _Unreachable
        except (httpx.TransportError, SSEError, ValueError) as error:
            raise _Unreachable from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.status_code == 401:
            raise ServiceError(f"{self.url} does not know the key; give one of its own with --key.")
        sentence = _detail(answer) or f"{self.url} answered {answer.status_code}; is it this service?"
        raise ServiceError(sentence, _CODES.get(answer.status_code, exit_codes.FAILED))


class _Unreachable(Exception):
    """No answer now; there may be one soon."""


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError:
        raise ServiceError(f"Nothing answers at {url}; is the service running?") from None
    except httpx.TimeoutException:
        raise ServiceError(f"{url} did not answer in time; try again.") from None
    except httpx.HTTPError as error:
        raise ServiceError(f"The connection to {url} broke: {error}") from None


def _detail(answer: httpx.Response) -> str | None:
    """The sentence of a problem document."""
    try:
        detail: Any = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(detail)


def _base(url: str) -> str:
    """Without a query: a start-up URL carries a token there."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(f"--url must be an address such as https://ocr.example.org, not {url!r}.", exit_codes.USAGE)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
