"""Who may read which matter: the rules, without a web server."""

from __future__ import annotations

import pytest

from celery_progress_ext.exceptions import InvalidSetting
from web.credentials import (
    START,
    Credentials,
    bearer_key,
    digest,
    same_origin,
    valid_matter_id,
)

SECRET = "a-secret-of-the-tests"
KEYS = {"key-of-one": ["m1"], "key-of-two": ["m1", "m2"], "key-of-all": ["*"]}


@pytest.mark.parametrize(
    ("key", "matter", "allowed"),
    [
        ("key-of-one", "m1", True),
        ("key-of-one", "m2", False),
        ("key-of-two", "m2", True),
        ("key-of-all", "anything", True),
    ],
)
def test_a_key_opens_its_matters_and_no_others(key: str, matter: str, allowed: bool) -> None:
    """A key belongs to the matters that the configuration lists, and ``*`` is all of them."""
    grant = Credentials.from_keys(KEYS, secret=SECRET).by_key(key)
    assert grant is not None
    assert grant.allows(matter) is allowed


@pytest.mark.parametrize("key", ["", "key-of-on", "key-of-one ", digest("key-of-one"), "\udc80"])
def test_what_is_not_a_key_opens_nothing(key: str) -> None:
    """Neither a part of a key, nor its digest, nor what is no text at all is taken for it."""
    assert Credentials.from_keys(KEYS, secret=SECRET).by_key(key) is None


def test_a_session_ends_with_its_key() -> None:
    """A session names its key, so taking the key out of the configuration ends it."""
    grant = Credentials.from_keys(KEYS, secret=SECRET).by_key("key-of-two")
    assert grant is not None
    assert Credentials.from_keys(KEYS, secret=SECRET).by_id(grant.id) == grant
    assert Credentials.from_keys({"key-of-one": ["m1"]}, secret=SECRET).by_id(grant.id) is None


def test_nothing_configured_lets_nobody_in() -> None:
    """Without keys and token there are no grants, no session of the start URL, and nothing signs cookies."""
    nobody = Credentials.from_keys({}, secret=SECRET)
    assert not nobody.configured
    assert nobody.by_id(START) is None
    assert not nobody.is_start_token("")


def test_the_start_token_is_no_key() -> None:
    """The token can be exchanged for a session that opens everything, but is not accepted as a key."""
    credentials = Credentials.from_keys({}, start_token="secret-token", secret=SECRET)
    assert credentials.is_start_token("secret-token")
    assert not credentials.is_start_token("secret-toke")
    assert credentials.by_key("secret-token") is None
    assert credentials.grants[START].everything


def test_no_key_or_token_shows_in_a_repr() -> None:
    """What lands in a log or a traceback by accident is digests."""
    shown = repr(Credentials.from_keys(KEYS, start_token="secret-token", secret=SECRET))
    assert not any(secret in shown for secret in [*KEYS, "secret-token"])


def test_the_id_of_a_key_tells_nothing_without_the_secret() -> None:
    """It stands in cookies, which are signed and not encrypted; a plain digest of a key could be tried at home."""
    ids = [
        grant.id
        for secret in (SECRET, "another-secret-here")
        if (grant := Credentials.from_keys(KEYS, secret=secret).by_key("key-of-one"))
    ]
    assert len(set(ids)) == 2
    assert not any(grant_id in digest("key-of-one") for grant_id in ids)


def test_a_matter_that_cannot_be_is_refused_without_repeating_the_key() -> None:
    """A typing error in the configuration is told at the start, and the message is fit for a log."""
    with pytest.raises(InvalidSetting, match="cannot be a matter") as caught:
        Credentials.from_keys({"key-of-one": ["a/b"]}, secret=SECRET)
    assert "key-of-one" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("default", True),
        ("A-1_b.2", True),
        ("x" * 64, True),
        ("", False),
        ("x" * 65, False),
        ("a b", False),
        ("a/b", False),
        ("é", False),
        ("*", False),
        ("m1\n", False),
    ],
)
def test_a_matter_is_named_by_plain_characters(text: str, valid: bool) -> None:
    """1 to 64 letters, digits, dots, underscores and hyphens: safe in channels, paths and addresses."""
    assert valid_matter_id(text) is valid


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_the_key_of_an_authorization_header(header: str | None, key: str | None) -> None:
    """The scheme is Bearer, in any case of letters."""
    assert bearer_key(header) == key


@pytest.mark.parametrize(
    ("site", "origin", "same"),
    [
        ("same-origin", "https://ocr.example", True),
        ("none", None, True),
        ("same-site", "https://other.ocr.example", False),
        ("cross-site", "https://evil.example", False),
        (None, "https://ocr.example", True),
        (None, "https://evil.example", False),
        (None, "null", False),
        (None, "http://[::1", False),
        (None, None, True),
    ],
)
def test_other_sites_cannot_use_a_session(site: str | None, origin: str | None, same: bool) -> None:
    """A request from another origin is told by what every browser sends; programs send neither header."""
    assert same_origin(sec_fetch_site=site, origin=origin, host="ocr.example") is same
