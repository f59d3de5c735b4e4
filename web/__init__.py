"""The web application: one page, the HTTP API, the live streams. Run it with ``gunicorn -c web/gunicorn_conf.py``.

It never imports an OCR engine or a PDF library: documents go to ``tasks.pipeline``, which names its tasks.
"""

from __future__ import annotations

from flask import Flask

from celery_progress_ext import CeleryProgress
from celery_progress_ext.sse.blueprint import progress_events
from tasks import celery_app
from tasks.documents import DocumentStore
from tasks.settings import ServiceSettings
from web import auth, documents, headers, health, job_pages, jobs, logs, pages, problems, results, streams, uploads
from web.credentials import Credentials, session_secret
from web.one_time import OneTime

__all__ = ["create_app"]


def create_app(progress: CeleryProgress | None = None, settings: ServiceSettings | None = None) -> Flask:
    """A new web application.

    :param progress: the tracked Celery app; the service's own unless told otherwise.
    :param settings: read from the environment unless told otherwise.
    :raises InvalidSetting: where a setting cannot be used.
    """
    settings = settings or ServiceSettings.read()
    progress = progress or celery_app.progress
    logs.configure()

    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # in the order of the wire contract
    app.extensions["web_progress"] = progress
    store = DocumentStore(settings.documents_url)
    app.extensions["web_documents"] = store
    problems.install(app)
    uploads.install(app, max_bytes=settings.max_upload_bytes)
    headers.install(app)
    logs.install(app)
    auth.install(
        app,
        auth.Door(
            credentials=Credentials.from_keys(settings.api_keys, start_token=settings.start_token),
            start_tokens=OneTime(progress.settings.redis_url),
        ),
        secret_key=settings.secret_key or session_secret(settings.api_keys, settings.start_token),
    )
    streams.install(app, progress_events(progress, auth.authorize))
    job_pages.install(app, progress, store.pages)
    results.install(app, settings.documents_url)
    documents.install(app, preflights=settings.max_preflights)
    app.register_blueprint(jobs.blueprint, url_prefix="/api")
    for blueprint in (health.blueprint, pages.blueprint):
        app.register_blueprint(blueprint)
    return app
