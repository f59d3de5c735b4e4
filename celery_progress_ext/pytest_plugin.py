"""A pytest plugin with one fixture, ``celery_progress``: jobs of the code under test run eagerly, without a server.

pytest loads it in every suite of an environment with this library: so nothing is imported before the fixture is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_progress_ext.testing import Tracking


@pytest.fixture(scope="session")
def _celery_progress_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from celery_progress_ext.testing import make_template

    return make_template(tmp_path_factory.mktemp("celery_progress"))


@pytest.fixture
def celery_progress_app() -> Any:
    """The Celery app under test: Celery's current one. Override it where that is another."""
    from celery import current_app

    return current_app._get_current_object()


@pytest.fixture
def celery_progress(celery_progress_app: Any, tmp_path: Path, _celery_progress_template: Path) -> Iterator[Tracking]:
    """The jobs that a test's code starts run in this process, on a database of the test: see ``Tracking``."""
    from celery_progress_ext.testing import tracking

    with tracking(celery_progress_app, tmp_path, template=_celery_progress_template) as found:
        yield found
