"""``python -m tasks migrate``: the library's tables and the service's own, before new processes start."""

from __future__ import annotations

import sys

from celery_progress_ext.exceptions import ProgressError
from tasks import exit_codes


def migrate() -> int:
    """Make or upgrade the tables. Returns an exit code of ``tasks.exit_codes``."""
    from tasks.celery_app import progress
    from tasks.key_table import KeyTable

    try:
        print(f"the tables are at revision {progress.migrate()}")
        KeyTable(progress.database).create()
    except ProgressError as error:
        print(error, file=sys.stderr)
        return exit_codes.FAILED
    finally:
        progress.database.dispose()
    return 0
