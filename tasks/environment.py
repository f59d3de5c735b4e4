"""Every setting of the environment, looked at once and before anything is done: one sentence for the first bad one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec

import fsspec
from fsspec.utils import get_protocol
from kombu.transport import TRANSPORT_ALIASES

from celery_progress_ext.config import Settings
from celery_progress_ext.exceptions import InvalidSetting, MissingExtra
from celery_progress_ext.private_files import PrivateFiles
from celery_progress_ext.storage.database_url import DatabaseUrl
from tasks.options import InvalidOption, OcrOptions
from tasks.settings import ServiceSettings

#: gunicorn does not start a worker again that ended so.
_MUST_NOT_START = 3


def check(environ: Mapping[str, str] | None = None) -> ServiceSettings:
    """The service's settings, once all of them, the library's too, were found to be usable.

    :raises InvalidSetting: for the first that is not.
    """
    service, library = ServiceSettings.read(environ), Settings.read({}, environ)
    _check_transport(service.broker_url)
    try:
        DatabaseUrl.parse(library.database_url)
    except MissingExtra as error:
        raise InvalidSetting(f"progress_database_url: {error}") from None
    for group in (service.files_group, library.files_group):
        PrivateFiles.shared_with(group)
    protocol = get_protocol(service.documents_url)
    if protocol == "s3":
        if find_spec("boto3") is None:
            raise InvalidSetting("DOCUMENTS_URL: s3:// needs boto3; pip install 'celery-progress-ext[s3]'.")
    else:
        try:
            fsspec.get_filesystem_class(protocol)
        except ValueError:
            raise InvalidSetting(
                f"DOCUMENTS_URL: nothing here reads {protocol}://; use file:///PATH, or s3://BUCKET/PREFIX."
            ) from None
        except ImportError as error:
            raise InvalidSetting(f"DOCUMENTS_URL: {protocol}:// needs a package that is not here. {error}") from None
    try:
        OcrOptions.default(service).check()
    except InvalidOption as error:
        raise InvalidSetting(f"OCR_{error.option.upper()}: {error.message}") from None
    return service


def checked_or_exit() -> ServiceSettings:
    """The same for a process whose program is Celery's or gunicorn's: they would print a traceback."""
    try:
        return check()
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(_MUST_NOT_START)


def _check_transport(url: str) -> None:
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme not in TRANSPORT_ALIASES:
        raise InvalidSetting(f"CELERY_BROKER_URL: Celery has no transport {scheme!r}; use redis:// or amqp://.")
