"""The OpenAPI description says what the service does: every route is in it, and schemathesis finds nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from celery import Celery
from flask import Flask
from hypothesis import HealthCheck, given, settings
from limits import parse
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from celery_progress_ext import CeleryProgress
from tasks import pipeline
from tasks.settings import ServiceSettings
from web import create_app, streams, throttle
from web.openapi import PATHS


@pytest.fixture(scope="module")
def app(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The application over a fresh database and a real broker; its key is an admin's."""
    folder: Path = tmp_path_factory.mktemp("openapi")
    redis_url = redis_server.database_url(3)
    celery = Celery("openapi-tests", broker=redis_url, backend="cache+memory://", set_as_current=False)
    celery.conf.update(progress_database_url=f"sqlite:///{folder}/progress.db", progress_redis_url=redis_url)
    progress = CeleryProgress(celery)
    progress.migrate()
    settings = ServiceSettings(documents_url=(folder / "documents").as_uri(), max_upload_mb=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "app", celery)
        patch.setattr(pipeline, "progress", progress)
        patch.setattr(pipeline, "settings", settings)
        # It tries wrong credentials on every route.
        patch.setattr(throttle, "FAILURES", parse("100000/minute"))
        made = create_app(progress, settings)
        yield made
    streams.close(made)
    progress.database.dispose()
    celery.close()


@pytest.fixture(scope="module")
def key(app: Flask) -> str:
    """An admin's."""
    from tasks.keys import Role

    return str(app.extensions["web_door"].keys.table.add(matters=("*",), role=Role.ADMIN).key)


@pytest.fixture(scope="module")
def api(app: Flask) -> Any:
    """The description, as it is served."""
    return schemathesis.openapi.from_wsgi("/api/openapi.json", app)


def test_every_route_is_described(app: Flask) -> None:
    """And nothing that is not there."""
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    described = {
        (path, method)
        for path, operations in app.test_client().get("/api/openapi.json").get_json()["paths"].items()
        for method in operations
    }
    assert described == routes


_OPERATIONS = [(path, method) for path, operations in PATHS.items() for method in operations if "/events" not in path]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), _OPERATIONS, ids=lambda text: text)
def test_schemathesis_finds_nothing(api: Any, key: str, path: str, method: str, mode: GenerationMode) -> None:
    """What the description allows is answered as it says, what it does not is refused; never a 5xx."""
    operation = api[path][method]
    described = PATHS[path][method]
    # Nothing in its description can be violated: no parameters, or a text in the path of a route that is open.
    lenient = "parameters" not in described or (path == "/documents/{document_id}" and described["security"] == [])
    if mode is GenerationMode.NEGATIVE and lenient:
        mode = GenerationMode.POSITIVE

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def run(case: schemathesis.Case) -> None:
        # What is made up for a file is no PDF, and for a cursor none of ours: it is refused.
        excluded = [positive_data_acceptance] if path in ("/api/documents", "/api/jobs") else []
        # Its WSGI client asks for gzip, and does not unpack it.
        headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    run()
