"""``python -m tasks keys add | list | revoke``: the keys in the database, which every web host sees within seconds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_progress_ext.exceptions import DatabaseError, ProgressError
from tasks import exit_codes
from tasks.keys import ANY_MATTER, KeyRecord, Role, check_matters

_DAY = 24 * 3600


def add(*, matters: Sequence[str], role: str, label: str, days: float | None, data_dir: Path, as_json: bool) -> int:
    """Make a key and print it, for the only time. Returns an exit code of ``tasks.exit_codes``."""

    def run(table: Any) -> int:
        check_matters(matters, setting="--matter")
        seconds = None if days is None else days * _DAY
        added = table.add(matters=tuple(matters), role=Role(role), label=label, seconds=seconds)
        if as_json:
            print(json.dumps({**public(added.record), "key": added.key}))
        else:
            print(added.key)
            print(f"{_sentence(added.record)} It is not kept, so note it now.", file=sys.stderr)
        return 0

    return _with_table(run, data_dir)


def list_keys(*, data_dir: Path, as_json: bool) -> int:
    """Print the keys that open something now, without the keys themselves."""

    def run(table: Any) -> int:
        records = table.list()
        if as_json:
            print(json.dumps([public(record) for record in records]))
        else:
            for record in records:
                print(_sentence(record))
        return 0

    return _with_table(run, data_dir)


def revoke(key_id: str, *, data_dir: Path, as_json: bool) -> int:
    """Let a key open nothing from now on: 1 where no usable one has this id."""

    def run(table: Any) -> int:
        revoked = table.revoke(key_id)
        if as_json:
            print(json.dumps({"id": key_id, "revoked": revoked}))
        elif revoked:
            print(f"Key {key_id} opens nothing any more; web processes notice within seconds.")
        else:
            print(f"No key that opens anything has the id {key_id!r}; see `keys list`.", file=sys.stderr)
        return 0 if revoked else exit_codes.FAILED

    return _with_table(run, data_dir)


def public(record: KeyRecord) -> dict[str, Any]:
    """A key as people and programs see it: no digest; times as ISO 8601 with offset."""
    shown = asdict(record)
    del shown["digest"]
    for name in ("created_at", "expires_at"):
        seconds = shown[name]
        shown[name] = None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return shown


def _sentence(record: KeyRecord) -> str:
    shown = public(record)
    where = "every matter" if ANY_MATTER in record.matters else ", ".join(record.matters)
    until = f"until {shown['expires_at']}" if shown["expires_at"] else "until it is revoked"
    label = f" ({record.label})" if record.label else ""
    return f"Key {record.id}{label}: {record.role.value} in {where}, {until}."


def _with_table(run: Callable[[Any], int], data_dir: Path) -> int:
    # Without a database named, the one that `up` keeps here is meant.
    kept = data_dir.resolve() / "progress.db"
    if not os.environ.get("PROGRESS_DATABASE_URL") and kept.exists():
        os.environ["PROGRESS_DATABASE_URL"] = f"sqlite:///{kept}"
    from tasks.celery_app import progress
    from tasks.key_table import KeyTable

    try:
        return run(KeyTable(progress.database))
    except DatabaseError as error:
        print(f"The database does not answer: {error}", file=sys.stderr)
        return exit_codes.FAILED
    except ProgressError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    finally:
        progress.database.dispose()
