"""The description of every route, for programs: OpenAPI 3.1 at ``/api/openapi.json``, readable without a credential.

A test compares it with the routes of the application, and sends what it allows and what it does not.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, jsonify

from celery_progress_ext.chunks import ChunkStatus
from celery_progress_ext.jobs import JobStatus
from celery_progress_ext.sse.assets import names
from tasks.documents import OUTPUT_SUFFIXES
from tasks.engines import ENGINES
from tasks.keys import Role
from tasks.page_results import PageStatus
from tasks.settings import CHUNK_PAGES, DPI, MODES
from web.results import MIME_TYPES
from web.tokens import MOST_SECONDS

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]

_MATTER: Schema = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_SCHEMAS: dict[str, Schema] = {
    "Problem": _object(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "A sentence for a person."},
            "instance": {"type": "string"},
        }
    ),
    "Job": _object(
        {
            "job_id": {"type": "string"},
            "matter_id": _or_null({"type": "string"}),
            "document_id": _or_null({"type": "string"}),
            "owner": _or_null({"type": "string"}),
            "subject": _or_null({"type": "string"}),
            "title": _or_null({"type": "string"}),
            "version": _COUNT,
            "status": {"enum": [status.value for status in JobStatus]},
            "stage": {"type": "string"},
            "progress_pct": {"type": "integer", "minimum": 0, "maximum": 100},
            "work_pct": _PERCENT,
            "error": _or_null({"type": "string"}),
            "waiting": _or_null({"type": "object"}),
            "chunks": _object({"total": _COUNT, **{status.value: _COUNT for status in ChunkStatus}}),
            "pages": _object({"total": _COUNT, "done": _COUNT}),
            "unit": {"type": "string"},
            "ranged": {"type": "boolean"},
            "eta": _or_null(_object({"finish_at": _TIME, "earliest": _TIME, "latest": _TIME})),
            "metadata": {"type": "object"},
            "failures": {"type": "array", "items": {"type": "object"}},
            "stalled": {"type": "array", "items": {"type": "object"}},
            "heartbeat_at": _or_null(_TIME),
            "created_at": _TIME,
            "started_at": _or_null(_TIME),
            "merge_started_at": _or_null(_TIME),
            "finished_at": _or_null(_TIME),
        }
    ),
    "Polled": _object(
        {
            "state": {"enum": ["PENDING", "PROGRESS", "SUCCESS", "FAILURE", "REVOKED"]},
            "complete": {"type": "boolean"},
            "success": _or_null({"type": "boolean"}),
            "progress": _object(
                {"pending": {"type": "boolean"}, "current": _COUNT, "total": _COUNT, "percent": _PERCENT}
            ),
        }
    ),
    "Submitted": _object(
        {
            "job_id": {"type": "string"},
            "document_id": {"type": "string"},
            "links": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ),
    "Chunk": _object(
        {
            "chunk_index": _COUNT,
            "page_start": _COUNT,
            "page_end": _COUNT,
            "status": {"enum": [status.value for status in ChunkStatus]},
        }
    ),
    "Page": _object(
        {
            "page": {"type": "integer", "minimum": 1},
            "status": _or_null({"enum": [status.value for status in PageStatus]}),
            "reason": _or_null({"type": "string"}),
            "message": _or_null({"type": "string"}),
            "confidence": _or_null({"type": "number"}),
            "doubtful": {"type": "boolean"},
            "chunk_index": _COUNT,
            "chunk_status": {"enum": [status.value for status in ChunkStatus]},
            "text": _or_null({"type": "string", "description": "The address of the page's text."}),
        }
    ),
    "Event": _object({"type": {"type": "string"}, "version": _COUNT}),
    "Key": _object(
        {
            "id": {"type": "string"},
            "label": {"type": "string"},
            "role": {"enum": [role.value for role in Role]},
            "matters": {"type": "array", "items": {"type": "string"}},
            "created_at": _TIME,
            "expires_at": _or_null(_TIME),
        }
    ),
    "NewKey": {
        **_object(
            {
                "matters": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1000,
                    "items": {"anyOf": [_MATTER, {"const": "*"}]},
                }
            },
            {
                "role": {"enum": [role.value for role in Role]},
                "label": {"type": "string", "maxLength": 200, "pattern": "^[ -~]*$"},
                "days": _or_null({"type": "number", "exclusiveMinimum": 0, "maximum": 36_500}),
            },
        ),
        "additionalProperties": False,
    },
    "NewToken": {
        **_object({}, {"expires_in": {"type": "number", "minimum": 1, "maximum": MOST_SECONDS}}),
        "additionalProperties": False,
    },
    "Token": _object(
        {
            "token": {"type": "string"},
            "expires_at": _TIME,
            "links": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ),
    "Document": {
        **_object(
            {"file": {"type": "string", "format": "binary"}, "matter_id": _MATTER},
            {
                "mode": {"enum": [*MODES]},
                "language": {"type": "string"},
                "pages": {"type": "string"},
                "dpi": {"type": "integer", "minimum": DPI[0], "maximum": DPI[-1]},
                "rotate_pages": {"enum": ["true", "false"]},
                "engine": {"enum": [*ENGINES]},
                "chunk_pages": {"type": "integer", "minimum": CHUNK_PAGES[0], "maximum": CHUNK_PAGES[-1]},
            },
        )
    },
    "Ready": _object(
        {
            "status": {"enum": ["ok", "degraded", "unavailable"]},
            "checks": {"type": "object", "additionalProperties": {"type": "string"}},
            "works": {"type": "object", "additionalProperties": {"type": "boolean"}},
        }
    ),
}

_PROBLEMS = {
    400: "What was sent cannot be used.",
    401: "There is no credential, or it is not known.",
    403: "The credential does not open this, or the request came from another site.",
    404: "There is no such thing.",
    409: "Its state does not allow this now.",
    413: "It is too large, or has too many parts.",
    415: "It is not a PDF, nor a TIFF, JPEG or PNG image.",
    422: "The document is refused.",
    429: "Too many sign-ins from this address failed.",
    503: "Something that the service stands on does not answer.",
}
_ALWAYS = (401, 403, 429, 503)


def _answers(good: dict[int, Schema], *problems: int) -> dict[str, Any]:
    found: dict[str, Any] = {str(status): answer for status, answer in good.items()}
    for status in sorted(problems):
        content = {"application/problem+json": {"schema": _ref("Problem")}}
        found[str(status)] = {"description": _PROBLEMS[status], "content": content}
    return found


def _json(schema: Schema, description: str = "Done.") -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _list(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _parameter(where: str, name: str, schema: Schema) -> Schema:
    return {"in": where, "name": name, "required": where == "path", "schema": schema}


_STATUS = f"({'|'.join(status.value for status in JobStatus)})"
_STATUSES = f"^({_STATUS}(,{_STATUS})*)?$"
_DOCUMENT = _parameter("path", "document_id", {"type": "string", "minLength": 1})
_JOB = _parameter("path", "job_id", {"type": "string", "minLength": 1})
_AFTER = _parameter("query", "after", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1})
_STREAM = {
    "description": "Server-sent events, each a whole snapshot. With `retry: 10000` and no event: come later.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_PAGE = {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}


def _limit(most: int) -> Schema:
    return _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": most})


def _file(suffix: str) -> Schema:
    return {"schema": {"type": "string", "format": "binary"}}


def _operation(summary: str, responses: dict[str, Any], *parameters: Schema, **more: Any) -> Schema:
    if any(parameter["in"] == "path" for parameter in parameters):
        # What no address of ours can have in its place, such as a control character.
        responses = {**_answers({}, 404), **responses}
    return {"summary": summary, "responses": responses, **({"parameters": [*parameters]} if parameters else {}), **more}


def _read(summary: str, schema: Schema, *parameters: Schema, problems: tuple[int, ...] = ()) -> Schema:
    return _operation(summary, _answers({200: _json(schema)}, *_ALWAYS, *problems), *parameters)


def _open(summary: str, answer: Schema, *problems: int, parameters: tuple[Schema, ...] = ()) -> Schema:
    return _operation(summary, _answers({200: answer}, *problems), *parameters, security=[])


def _change(summary: str) -> Schema:
    return _operation(summary, _answers({202: _json(_ref("Job"))}, *_ALWAYS, 404, 409), _JOB)


_TEXT_SCHEMA: Schema = {"schema": {"type": "string"}}
_TEXT = {"description": "Text.", "content": {"text/plain; charset=utf-8": {"schema": {"type": "string"}}}}
_BINARY = {
    "description": "The file, or a part of it.",
    "content": {kind: _file(kind) for kind in MIME_TYPES.values()},
}


def _new_token(summary: str, parameter: Schema, *problems: int) -> Schema:
    return _operation(
        summary,
        _answers({201: _json(_ref("Token"))}, *_ALWAYS, 400, *problems),
        parameter,
        requestBody={"content": {"application/json": {"schema": _ref("NewToken")}}},
    )


PATHS: dict[str, Schema] = {
    "/api/documents": {
        "post": _operation(
            "Hand in a PDF, or a TIFF, JPEG or PNG image, and start its job.",
            _answers({202: _json(_ref("Submitted"))}, *_ALWAYS, 400, 413, 415, 422),
            requestBody={
                "required": True,
                "content": {"multipart/form-data": {"schema": _ref("Document")}},
            },
        )
    },
    "/api/documents/{document_id}": {
        "get": _read("The snapshot of a document's newest job.", _ref("Job"), _DOCUMENT, problems=(404,)),
        "delete": _operation(
            "Delete a document with its jobs, pages, results and its file; 409 while a job is at work on it.",
            {**_answers({}, *_ALWAYS, 404, 409), "204": {"description": "Done."}},
            _DOCUMENT,
        ),
    },
    "/api/jobs": {
        "get": _read(
            'Snapshots, newest first; `Link` with `rel="next"` is the next page.',
            _list("Job"),
            _parameter("query", "matter_id", _MATTER),
            _parameter("query", "active", {"type": "string"}),
            _parameter("query", "q", {"type": "string", "description": "Words of the title, the file's name."}),
            _parameter("query", "status", {"type": "string", "pattern": _STATUSES}),
            _parameter("query", "cursor", {"type": "string", "description": "From the page before.", "maxLength": 200}),
            _limit(200),
            problems=(400,),
        )
    },
    "/api/jobs/{job_id}": {"get": _read("A job's snapshot.", _ref("Job"), _JOB, problems=(404,))},
    "/api/jobs/{job_id}/chunks": {"get": _read("A job's chunks.", _list("Chunk"), _JOB, problems=(404,))},
    "/api/jobs/{job_id}/history": {
        "get": _read("What happened to a job.", _list("Event"), _JOB, _AFTER, _limit(1000), problems=(400, 404))
    },
    "/api/jobs/{job_id}/retry": {"post": _change("Run what did not finish again.")},
    "/api/jobs/{job_id}/cancel": {"post": _change("Stop a job, and keep what is finished.")},
    "/api/jobs/{job_id}/events": {
        "get": _operation(
            "Follow a job.",
            {**_answers({200: _STREAM}, *_ALWAYS, 404), "204": {"description": "The client has the last event."}},
            _JOB,
        )
    },
    "/api/jobs/{job_id}/tokens": {
        "post": _new_token("Make a token that reads this job alone, for a while.", _JOB, 404)
    },
    "/api/matters/{matter_id}/tokens": {
        "post": _new_token(
            "Make a token that reads the jobs of this matter, for a while.", _parameter("path", "matter_id", _MATTER)
        )
    },
    "/api/matters/{matter_id}/jobs": {
        "get": _read(
            "Snapshots of a matter's jobs, newest first.",
            _list("Job"),
            _parameter("path", "matter_id", _MATTER),
            _parameter("query", "active", {"type": "string"}),
            _limit(200),
            problems=(400,),
        )
    },
    **{
        f"{prefix}/celery-progress/{{job_id}}/": {
            "get": _read("A job, as celery-progress's client polls it.", _ref("Polled"), _JOB)
        }
        for prefix in ("", "/api")
    },
    **{
        f"{prefix}/celery-progress/{{job_id}}/{{token}}/": {
            "get": _read(
                "The same for a client that sends no header.",
                _ref("Polled"),
                _JOB,
                _parameter("path", "token", {"type": "string", "minLength": 1}),
            )
        }
        for prefix in ("", "/api")
    },
    "/api/assets/{name}": {
        "get": _open(
            "JavaScript for pages that show a job.",
            {
                "description": "The file.",
                "content": {"text/javascript; charset=utf-8": _TEXT_SCHEMA, "text/plain; charset=utf-8": _TEXT_SCHEMA},
            },
            404,
            parameters=(_parameter("path", "name", {"enum": names()}),),
        )
    },
    "/api/matters/{matter_id}/events": {
        "get": _operation(
            "Follow all jobs of a matter over one connection.",
            _answers({200: _STREAM}, *_ALWAYS, 400),
            _parameter("path", "matter_id", _MATTER),
        )
    },
    "/api/jobs/{job_id}/result.{suffix}": {
        "get": _operation(
            "A job's result.",
            {
                **_answers({200: _BINARY, 206: _BINARY}, *_ALWAYS, 404, 409),
                "304": {"description": "It has not changed."},
                "416": {"description": "There is no such part."},
            },
            _JOB,
            _parameter("path", "suffix", {"enum": [*OUTPUT_SUFFIXES]}),
            _parameter(
                "query", "partial", {"enum": ["1", "true"], "description": "The PDF of what is there meanwhile."}
            ),
        )
    },
    "/api/jobs/{job_id}/pages": {
        "get": _read(
            "What is known of each page, as soon as it is read.",
            _list("Page"),
            _JOB,
            _parameter("query", "after", {"type": "integer", "minimum": 0, "maximum": 10**9}),
            _limit(1000),
            problems=(400, 404),
        )
    },
    "/api/jobs/{job_id}/pages/{page}.txt": {
        "get": _operation(
            "What a page says, as soon as it is read.",
            {
                **_answers({200: _TEXT}, *_ALWAYS, 404, 409),
                "304": {"description": "It has not changed."},
            },
            _JOB,
            _parameter("path", "page", {"type": "integer", "minimum": 1, "maximum": 10**9}),
        )
    },
    "/api/keys": {
        "get": _read("The keys that open something. Role: admin.", _list("Key")),
        "post": _operation(
            "Make a key; it is shown this once. Role: admin.",
            _answers({201: _json({"allOf": [_ref("Key"), _object({"key": {"type": "string"}})]})}, *_ALWAYS, 400),
            requestBody={"required": True, "content": {"application/json": {"schema": _ref("NewKey")}}},
        ),
    },
    "/api/keys/{key_id}": {
        "delete": _operation(
            "Let a key open nothing any more. Role: admin.",
            {**_answers({}, *_ALWAYS, 404), "204": {"description": "Done."}},
            _parameter("path", "key_id", {"type": "string", "minLength": 1}),
        )
    },
    "/api/openapi.json": {"get": _open("This.", _json({"type": "object"}))},
    "/healthz": {"get": _open("The process lives.", _json(_object({"status": {"const": "ok"}})))},
    "/readyz": {
        "get": _operation(
            "What works now.",
            {"200": _json(_ref("Ready"), "Documents are taken."), "503": _json(_ref("Ready"), "They are not.")},
            security=[],
        )
    },
    "/metrics": {
        "get": _open(
            "For Prometheus.",
            {
                "description": "Gauges.",
                "content": {"text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}}},
            },
        )
    },
    "/": {
        "get": _operation(
            "The page, or the sign-in form.",
            {"200": _PAGE, "401": _PAGE, "302": {"description": "The start link was used."}},
            _parameter("query", "matter", {"type": "string"}),
            security=[],
        )
    },
    "/documents/{document_id}": {
        "get": _operation(
            "The page of a document, or the sign-in form.",
            dict.fromkeys(("200", "401", "403", "404", "503"), _PAGE),
            _DOCUMENT,
            security=[],
        )
    },
    "/login": {
        "post": _operation(
            "Exchange a key for a session cookie.",
            {"303": {"description": "Signed in."}, **dict.fromkeys(("401", "403", "429", "503"), _PAGE)},
            security=[],
            requestBody={
                "content": {
                    "application/x-www-form-urlencoded": {
                        "schema": _object({}, {"key": {"type": "string"}, "next": {"type": "string"}})
                    }
                }
            },
        )
    },
    "/logout": {
        "post": _operation(
            "End the session everywhere.",
            {"303": {"description": "Signed out."}, "403": _PAGE, "503": _PAGE},
            security=[],
        )
    },
}


def document() -> Schema:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Document OCR",
            "version": version("celery-progress-ext"),
            "description": "Scans in, searchable PDFs out, with live progress. Errors are RFC 9457 documents.",
        },
        "security": [{"key": []}, {"session": []}, {"token": []}],
        "paths": PATHS,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "progress_session"},
                "token": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "Opens the state, the events and the pages of one job, or of one matter's.",
                },
            },
        },
    }


@blueprint.get("/openapi.json")
def show() -> Response:
    """The description."""
    return jsonify(document())
