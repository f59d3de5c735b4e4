"""Completions in one transaction: the first at once, those that come right after it together, each once."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from celery_progress_ext.recording import batch_completer
from celery_progress_ext.recording.batch_completer import BatchCompleter
from celery_progress_ext.storage.chunk_changes import Completion
from tests.support.waiting import wait_for


class _Commits(list[tuple[str, list[str]]]):
    """Notes the job and the chunks of each commit."""

    def __call__(self, job_id: str, completions: Sequence[Completion]) -> None:
        self.append((job_id, [completion.chunk_id for completion in completions]))


def _completion(chunk_id: str) -> Completion:
    return Completion(chunk_id=chunk_id)


def test_a_single_completion_is_committed_by_who_tells_it() -> None:
    """A chunk of pages takes longer than the window: it never waits."""
    commits = _Commits()
    BatchCompleter(commits).add("job_a", _completion("a0"))
    assert commits == [("job_a", ["a0"])]


def test_completions_within_the_window_are_one_commit_a_job() -> None:
    """Without a further completion that would take them along."""
    commits = _Commits()
    waiting = BatchCompleter(commits)
    for chunk in ("a0", "a1", "b0", "a2"):
        waiting.add(f"job_{chunk[0]}", _completion(chunk))
    assert commits == [("job_a", ["a0"])]
    wait_for(lambda: len(commits) == 3, 5.0)
    assert commits[1:] == [("job_a", ["a1", "a2"]), ("job_b", ["b0"])]


def test_a_completion_after_the_window_takes_along_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is needed while chunks come one after another."""
    commits = _Commits()
    waiting = BatchCompleter(commits)
    waiting.add("job_a", _completion("a0"))
    waiting.add("job_a", _completion("a1"))
    monkeypatch.setattr(batch_completer, "WINDOW_SECONDS", 0.0)
    waiting.add("job_a", _completion("a2"))
    assert commits[1] == ("job_a", ["a1", "a2"])


def test_a_flush_commits_what_waits_and_nothing_twice() -> None:
    """Before a failure, before the body, and when the process ends."""
    commits = _Commits()
    waiting = BatchCompleter(commits)
    for chunk in ("a0", "a1"):
        waiting.add("job_a", _completion(chunk))
    waiting.flush()
    waiting.flush()
    assert commits == [("job_a", ["a0"]), ("job_a", ["a1"])]


def test_many_threads_lose_no_completion() -> None:
    """A pool of threads shares one."""
    commits = _Commits()
    waiting = BatchCompleter(commits)

    def tell(first: int) -> None:
        for index in range(first, first + 500):
            waiting.add("job_a", _completion(str(index)))

    threads = [threading.Thread(target=tell, args=(first,)) for first in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting.flush()
    told = [int(chunk) for _, chunks in commits for chunk in chunks]
    assert sorted(told) == list(range(2000))


def test_a_child_leaves_what_waits_to_its_parent() -> None:
    """Its parent's lock may be held for ever, and its timer is not there."""
    commits = _Commits()
    waiting = BatchCompleter(commits)
    for chunk in ("a0", "a1"):
        waiting.add("job_a", _completion(chunk))
    waiting._lock.acquire()
    child = os.fork()
    if child == 0:  # pragma: no cover
        commits.clear()
        waiting.add("job_a", _completion("a2"))
        os._exit(0 if commits == [("job_a", ["a2"])] else 1)
    waiting._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
