"""Tokens: what they open, for how long, and who can make them."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from itsdangerous import URLSafeSerializer

from celery_progress_ext import CeleryProgress, InvalidSetting, InvalidToken
from celery_progress_ext.config import Settings
from celery_progress_ext.tokens import PREFIX, Tokens

OLD, NEW = "the old secret of the tests", "the new secret of the tests"


def test_a_token_opens_one_job_or_one_matter() -> None:
    """And says until when, and with which credential it was made."""
    tokens = Tokens([NEW])
    job = tokens.read(tokens.for_job("job_1", expires=60, issuer="key 7"))
    assert (job.job_id, job.matter_id, job.issuer) == ("job_1", None, "key 7")
    assert job.expires_at == pytest.approx(time.time() + 60, abs=5)
    matter = tokens.read(tokens.for_matter("m1", expires=timedelta(hours=1)))
    assert (matter.job_id, matter.matter_id, matter.issuer) == (None, "m1", None)
    assert job.id != matter.id


def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the second."""
    tokens = Tokens([NEW])
    token = tokens.for_job("job_1", expires=60)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 59)
    assert tokens.read(token).job_id == "job_1"
    monkeypatch.setattr("time.time", lambda: now + 61)
    with pytest.raises(InvalidToken, match="expired"):
        tokens.read(token)


def test_a_secret_is_rotated() -> None:
    """The new one signs; what the old one has signed is accepted until it is taken out."""
    old = Tokens([OLD]).for_job("job_1")
    both = Tokens([NEW, OLD])
    assert both.read(old).job_id == "job_1"
    assert Tokens([NEW]).read(both.for_job("job_2")).job_id == "job_2"
    with pytest.raises(InvalidToken):
        Tokens([NEW]).read(old)


def _changed(token: str) -> str:
    """The token with the job's id changed, and its signature as it was."""
    payload, _, signature = token.removeprefix(PREFIX).rpartition(".")
    other, _, _ = Tokens(["another secret, of somebody else"]).for_job("job_9").removeprefix(PREFIX).rpartition(".")
    assert payload != other
    return f"{PREFIX}{other}.{signature}"


@pytest.mark.parametrize(
    "spoil",
    [
        _changed,
        lambda token: token[:-1],
        lambda token: token.removeprefix(PREFIX),
        lambda token: "",
        lambda token: PREFIX,
        lambda token: token + "é",
        lambda token: token * 100,
        # A text of another purpose with the same secret, such as a session cookie.
        lambda token: PREFIX + str(URLSafeSerializer(NEW, salt="cookie-session").dumps({"j": "job_1", "e": 9e9})),
    ],
)
def test_what_we_did_not_sign_opens_nothing(spoil: Any) -> None:
    """With one error, which says what to do."""
    tokens = Tokens([NEW])
    with pytest.raises(InvalidToken, match="ask for a new one"):
        tokens.read(spoil(tokens.for_job("job_1")))


def test_without_a_secret_there_are_no_tokens() -> None:
    """Nothing is signed with an empty key, nor accepted."""
    with pytest.raises(InvalidSetting, match="progress_token_secrets"):
        Tokens([]).for_job("job_1")
    with pytest.raises(InvalidToken):
        Tokens([]).read(PREFIX + str(URLSafeSerializer("").dumps({"j": "job_1", "e": 9e9})))


@pytest.mark.parametrize("expires", [0, -1, timedelta(0), float("nan")])
def test_a_token_lives_for_some_time(expires: Any) -> None:
    """Not for none."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Tokens([NEW]).for_job("job_1", expires=expires)


def test_the_extension_makes_them() -> None:
    """For a job or its id, with the secrets of the settings."""
    app = Celery("tokens", broker="memory://", set_as_current=False)
    app.conf.update(progress_database_url="sqlite://", progress_token_secrets=[NEW, OLD])
    progress = CeleryProgress(app)
    for job in (progress.job("job_1"), "job_1"):
        assert Tokens([NEW]).read(progress.token(job, expires=5)).job_id == "job_1"
    assert Tokens([NEW]).read(progress.matter_token("m1")).matter_id == "m1"


class TestSettings:
    def test_lists_come_from_the_environment_too(self) -> None:
        """Separated by spaces or commas; it wins over the code."""
        environ = {
            "PROGRESS_TOKEN_SECRETS": f"{'a' * 16},  {'b' * 16}",
            "PROGRESS_ALLOWED_ORIGINS": "https://a.example http://localhost:8080",
        }
        settings = Settings.read({"progress_token_secrets": ["c" * 16]}, environ)
        assert settings.token_secrets == ("a" * 16, "b" * 16)
        assert settings.allowed_origins == ("https://a.example", "http://localhost:8080")
        assert "aaaa" not in repr(settings)

    def test_a_short_secret_is_refused(self) -> None:
        """Whoever has a token can test guesses of the secret."""
        with pytest.raises(InvalidSetting, match="at least 16 characters") as raised:
            Settings.read({"progress_token_secrets": "secret"}, {})
        assert "'secret'" not in str(raised.value)

    @pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://Shop.example", "null"])
    def test_an_origin_is_written_as_browsers_send_it(self, origin: str) -> None:
        """Else it would never match."""
        with pytest.raises(InvalidSetting, match="progress_allowed_origins"):
            Settings.read({"progress_allowed_origins": [origin]}, {})
