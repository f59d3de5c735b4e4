"""The web application: one page, the HTTP API, the live streams. Run it with ``gunicorn -c web/gunicorn_conf.py``.

It never imports an OCR engine or a PDF library: documents go to ``tasks.pipeline``, which names its tasks.
"""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from celery_progress_ext import CeleryProgress
from celery_progress_ext.sse.blueprint import progress_events
from tasks import celery_app, file_permissions
from tasks.documents import DocumentStore
from tasks.key_table import KeyTable
from tasks.settings import ServiceSettings
from web import (
    auth,
    compression,
    documents,
    headers,
    health,
    job_pages,
    jobs,
    keys,
    logs,
    openapi,
    pages,
    problems,
    results,
    static_files,
    streams,
    tokens,
    uploads,
)
from web.credentials import Credentials
from web.key_ring import KeyRing
from web.one_time import OneTime
from web.service_tokens import ServiceTokens
from web.session_secret import session_secret
from web.throttle import SignInThrottle

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

    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # in the order of the wire contract
    app.extensions["web_progress"] = progress
    store = DocumentStore(settings.documents_url, files_group=settings.files_group)
    file_permissions.tighten(store, progress)
    app.extensions["web_documents"] = store
    if settings.web_proxies:
        hops = settings.web_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=0)  # type: ignore[method-assign]
    logs.install(app)
    problems.install(app)
    uploads.install(app, max_bytes=settings.max_upload_bytes)
    headers.install(app)
    compression.install(app)
    secret = session_secret(settings, progress.database)
    ring = KeyRing(
        Credentials.from_keys(settings.api_keys, secret=secret, start_token=settings.start_token),
        KeyTable(progress.database),
    )
    job_tokens = ServiceTokens(progress.settings.token_secrets or (secret,), ring)
    auth.install(
        app,
        auth.Door(
            keys=ring,
            tokens=job_tokens,
            start_tokens=OneTime(progress.settings.redis_url),
            throttle=SignInThrottle(progress.settings.redis_url),
        ),
        secret_key=secret,
    )
    streams.install(
        app,
        progress_events(
            progress,
            auth.authorize,
            tokens=job_tokens,
            credential=auth.credential_id,
            max_streams=settings.max_streams,
            max_streams_per_address=settings.max_streams_per_address,
            max_streams_per_credential=settings.max_streams_per_credential,
        ),
    )
    job_pages.install(app, progress, store.pages)
    results.install(app, settings.documents_url, files_group=settings.files_group)
    documents.install(app, preflights=settings.max_preflights)
    for blueprint in (jobs.blueprint, keys.blueprint, openapi.blueprint, tokens.blueprint):
        app.register_blueprint(blueprint, url_prefix="/api")
    health.install(app, progress, store)
    static_files.install(app)
    app.register_blueprint(pages.blueprint)
    return app
