"""The files of the page under ``/static``: its own, and the JavaScript that the library ships for any page."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, send_from_directory
from werkzeug.exceptions import NotFound

from celery_progress_ext.sse.assets import FOLDER

_FOLDERS = (Path(__file__).with_name("static"), FOLDER)


def install(app: Flask) -> None:
    """Serve them; modules import each other as if they lay in one folder."""
    app.add_url_rule("/static/<path:filename>", "static", _file)


def _file(filename: str) -> Response:
    for folder in _FOLDERS:
        if (folder / filename).is_file():
            # Refuses what leads out of the folder.
            return send_from_directory(folder, filename)
    raise NotFound
