"""A tracked chord's surroundings: both databases, a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chords import Bench, environment


@pytest.fixture
def chords(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Bench]:
    """On SQLite and on PostgreSQL."""
    bench = Bench(dict(environment(redis_url, database_url)), tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def sqlite_chords(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """Where the database makes no difference."""
    bench = Bench(dict(environment(redis_url, sqlite_url)), tmp_path)
    yield bench
    bench.close()
