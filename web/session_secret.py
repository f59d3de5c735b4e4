"""What signs session cookies: every process of the web application has to know the same one, and nobody else any."""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path

from celery_progress_ext.exceptions import InvalidSetting
from celery_progress_ext.storage import Database
from tasks.secret_files import kept_secret
from tasks.settings import ServiceSettings

_ASKED_FOR = (
    "PROGRESS_SECRET_KEY is not set, and other hosts may serve the same database: each would sign cookies that the "
    "others refuse. Set it to the same long random text on every web host: "
    "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints one"
)
_FILE = "secret_key"


def session_secret(settings: ServiceSettings, database: Database) -> str:
    """PROGRESS_SECRET_KEY; where it is not set and this is the only web host, one that is made once and kept in a file:
    beside an SQLite database, else under ``var``. It is never made from keys: whoever has one could test guesses of it.

    :raises InvalidSetting: where several hosts have to agree on it, or it cannot be kept.
    """
    if settings.secret_key is not None:
        return settings.secret_key
    if database.dialect != "sqlite" and not on_loopback(settings.host):
        raise InvalidSetting(_ASKED_FOR)
    if database.dialect == "sqlite" and database.path is None:
        return secrets.token_urlsafe(48)  # the database ends with this process, and so may its sessions
    path = (database.path.parent if database.path else Path.cwd() / "var") / _FILE
    try:
        return kept_secret(path)
    except OSError as error:
        raise InvalidSetting(
            f"PROGRESS_SECRET_KEY is not set, and one cannot be kept in {path} ({error.strerror}): set it to a long "
            "random text"
        ) from None


def on_loopback(host: str) -> bool:
    """Whether a server that binds to ``host`` is reached from its own machine alone."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
