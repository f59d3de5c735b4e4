"""What users' type checkers see of the library."""

from __future__ import annotations

import subprocess
import sys

import celery_progress_ext
from tests.support.processes import ROOT


def test_a_misspelt_keyword_is_a_type_error() -> None:
    """`tests/typing/api.py` holds what must pass and, marked as errors, what must not."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing/api.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_public_name_can_be_imported() -> None:
    """`__all__`, the lazy table behind it and the modules agree."""
    assert {name: getattr(celery_progress_ext, name) for name in celery_progress_ext.__all__}
    assert set(celery_progress_ext._MODULES) | {"__version__"} == set(celery_progress_ext.__all__)
