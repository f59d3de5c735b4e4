"""flask-sse's behaviour, asserted of the blueprint that stands in its place, on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import flask_sse
import pytest
import redis
from flask import Flask, abort
from flask.testing import FlaskClient

from celery_progress_ext.sse.blueprint import ServerSentEventsBlueprint, sse


@pytest.fixture
def app(redis_url: str) -> Flask:
    made = Flask("compat")
    made.testing = True
    made.config["REDIS_URL"] = redis_url
    made.register_blueprint(sse, url_prefix="/stream")
    return made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as made:
        yield made


@pytest.fixture
def subscribed(client: redis.Redis, wait_for: Callable[..., Any]) -> Callable[[str], None]:
    """Waits until somebody listens to a channel."""
    return lambda channel: wait_for(lambda: client.pubsub_numsub(channel)[0][1] == 1, 5)


def publish_when(subscribed: Callable[[str], None], client: redis.Redis, channel: str, *raw: str) -> threading.Thread:
    def publish() -> None:
        subscribed(channel)
        for message in raw:
            client.publish(channel, message)

    thread = threading.Thread(target=publish)
    thread.start()
    return thread


def first_part(http: FlaskClient, url: str) -> tuple[Any, bytes]:
    response = http.get(url, buffered=False)
    part = next(iter(response.response))
    response.close()
    return response, part


def test_it_is_a_flask_sse_blueprint() -> None:
    """Code that looks for flask-sse's class finds it; the ready-made one has the one route."""
    assert isinstance(sse, flask_sse.ServerSentEventsBlueprint)
    assert len(sse.deferred_functions) == 1


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({"REDIS_URL": "redis://one"}, "one"),
        ({"SSE_REDIS_URL": "redis://two"}, "two"),
        ({"REDIS_URL": "redis://one", "SSE_REDIS_URL": "redis://two"}, "two"),
    ],
)
def test_redis_is_where_the_config_says(config: dict[str, str], host: str) -> None:
    """SSE_REDIS_URL first, then REDIS_URL; the same client each time, so that its connections are reused."""
    app = Flask("config")
    app.config.update(config)
    with app.app_context():
        assert isinstance(sse.redis, redis.StrictRedis)
        assert sse.redis.connection_pool.connection_kwargs["host"] == host
        assert sse.redis is sse.redis


def test_without_a_redis_url_it_says_what_is_missing() -> None:
    """In flask-sse's words."""
    with Flask("none").app_context(), pytest.raises(KeyError, match="Must set a redis connection URL in app config"):
        _ = sse.redis


def test_publish_needs_something_to_publish(app: Flask) -> None:
    """As a plain call with a missing argument."""
    with app.app_context(), pytest.raises(TypeError):
        sse.publish()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "channel", "wire"),
    [
        ({}, "sse", {"data": "thing"}),
        ({"channel": "garden"}, "garden", {"data": "thing"}),
        ({"type": "example"}, "sse", {"data": "thing", "type": "example"}),
        ({"id": 5, "retry": 500}, "sse", {"data": "thing", "id": 5, "retry": 500}),
        ({"id": 0}, "sse", {"data": "thing", "id": 0}),
    ],
)
def test_publish_sends_flask_sse_s_json(
    app: Flask, client: redis.Redis, arguments: dict[str, Any], channel: str, wire: dict[str, Any]
) -> None:
    """Only what was given, on the channel that was named; and it says how many received it."""
    with client.pubsub(ignore_subscribe_messages=True) as pubsub, app.app_context():
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        assert sse.publish("thing", **arguments) == 1
        assert json.loads(pubsub.get_message(timeout=5)["data"]) == wire


def test_messages_are_flask_sse_s(
    app: Flask, client: redis.Redis, subscribed: Callable[[str], None], wait_for: Callable[..., Any]
) -> None:
    """One by one; what is no event is left out; closing the generator unsubscribes."""
    with app.app_context():
        messages = sse.messages("whee")
        assert isinstance(messages, GeneratorType)
        thread = publish_when(subscribed, client, "whee", "no JSON", '{"data": "whee", "id": "abc"}')
        assert next(messages) == flask_sse.Message("whee", id="abc")
        messages.close()
    thread.join()
    wait_for(lambda: client.pubsub_numsub("whee")[0][1] == 0, 5)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ('{"data": "thing", "type": "example"}', b"event:example\ndata:thing\n\n"),
        ('{"data": {"a": 1}, "id": 5, "retry": 500}', b'data:{"a": 1}\nid:5\nretry:500\n\n'),
        ('{"data": "one\\ntwo"}', b"data:one\ndata:two\n\n"),
        ('{"data": ""}', b"data:\n\n"),
        ('{"data": "x", "id": 0}', b"data:x\nid:0\n\n"),
        ('{"data": "x", "type": "a\\ndata:evil"}', b"event:adata:evil\ndata:x\n\n"),
    ],
)
def test_the_stream_sends_events(
    app: Flask, client: redis.Redis, subscribed: Callable[[str], None], message: str, event: bytes
) -> None:
    """In flask-sse's bytes, but for what it gets wrong: empty data, id 0, line ends in names."""
    thread = publish_when(subscribed, client, "sse", message)
    response, part = first_part(app.test_client(), "/stream")
    thread.join()
    assert response.mimetype == "text/event-stream"
    assert response.is_streamed
    assert part == event


def test_a_request_may_ask_for_another_channel(
    app: Flask, client: redis.Redis, subscribed: Callable[[str], None]
) -> None:
    """By ``?channel=``."""
    thread = publish_when(subscribed, client, "different", '{"data": "thing"}')
    _, part = first_part(app.test_client(), "/stream?channel=different")
    thread.join()
    assert part == b"data:thing\n\n"


@pytest.mark.parametrize(
    "channel", ["celery-task-meta-1", "progress:job:job_1", "progress:matter:m1", "/0.celeryev/worker.heartbeat"]
)
def test_what_others_publish_is_out_of_reach(app: Flask, channel: str) -> None:
    """Results of tasks and the snapshots of jobs pass through the same Redis."""
    assert app.test_client().get("/stream", query_string={"channel": channel}).status_code == 403


def test_an_app_can_guard_its_channels(redis_url: str) -> None:
    """With a function that is called before the stream begins."""
    guarded = ServerSentEventsBlueprint("guarded", __name__, authorize_channel=lambda channel: abort(401, channel))
    guarded.add_url_rule("", endpoint="stream", view_func=guarded.stream)
    app = Flask("guarded")
    app.config["REDIS_URL"] = redis_url
    app.register_blueprint(guarded, url_prefix="/stream")
    assert app.test_client().get("/stream?channel=mine").status_code == 401
