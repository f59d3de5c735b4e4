"""Objects on S3, or on a server that speaks its protocol, by boto3. The methods are those of fsspec's file systems.

boto3 and not s3fs: s3fs runs an event loop in a thread, and in the web process gevent makes that thread a greenlet,
where each call ends with NotImplementedError. Credentials, region and ``AWS_ENDPOINT_URL`` are as boto3 finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import uuid4

import boto3.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.store_errors import StoreAway, StoreReadOnly

#: A store that does not answer is noticed within a minute, all attempts together.
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=15,
    retries={"mode": "standard", "total_max_attempts": 3},
    # Servers other than Amazon's do not know the newer checksums.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
#: Large files go in parts, one after the other: no more than one is in memory.
_PARTS = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, use_threads=False)
_READ_AT_ONCE = 8
_DELETED_AT_ONCE = 1000
_NOT_THERE = frozenset({"404", "NoSuchKey", "NotFound"})
_NOT_ALLOWED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


class S3:
    """Paths are ``bucket/key``. A put appears with its whole content or not at all.

    :raises FileNotFoundError: from every method, for an object that is not there.
    :raises StoreReadOnly: where the credentials do not allow it.
    :raises StoreAway: where the store does not answer, or the bucket is not there.
    """

    def __init__(self) -> None:
        # A session of its own: the default one is no more than a cache, and not for threads.
        self._client: Any = boto3.session.Session().client("s3", config=_CONFIG)

    def isfile(self, path: str) -> bool:
        """Whether it is there."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """In bytes."""
        with _translated(path):
            return int(self._client.head_object(**_named(path))["ContentLength"])

    def ls(self, path: str, detail: bool = False) -> list[str]:
        """The paths one level below."""
        bucket, key = _split(path)
        return [f"{bucket}/{found}" for found in self._listed(bucket, f"{key}/", deep=False)]

    def cat_file(self, path: str) -> bytes:
        """Its content."""
        with _translated(path):
            return bytes(self._client.get_object(**_named(path))["Body"].read())

    def cat(self, paths: Sequence[str], on_error: str) -> dict[str, bytes]:
        """The contents of those that are there, several fetched at once."""

        def read(path: str) -> bytes | None:
            try:
                return self.cat_file(path)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            found = zip(paths, pool.map(read, paths), strict=True)
            return {path: content for path, content in found if content is not None}

    def open(self, path: str, mode: str) -> BinaryIO:
        """Its content as it arrives."""
        with _translated(path):
            return cast(BinaryIO, self._client.get_object(**_named(path))["Body"])

    def get_file(self, path: str, target: str) -> None:
        """Copy it to a local file, which is whole or not there."""
        bucket, key = _split(path)
        with _translated(path):
            self._client.download_file(bucket, key, target, Config=_PARTS)

    def put_file(self, source: str, path: str) -> None:
        """Copy a local file. What was sent of one that broke off is never seen."""
        bucket, key = _split(path)
        with _translated(path):
            self._client.upload_file(source, bucket, key, Config=_PARTS)

    def pipe_file(self, path: str, content: bytes) -> None:
        """Keep a content."""
        with _translated(path):
            self._client.put_object(**_named(path), Body=content)

    def mv(self, source: str, target: str) -> None:
        """Give it another name: copied in the store, then deleted."""
        bucket, key = _split(target)
        with _translated(source):
            named = _named(source)
            self._client.copy(named, bucket, key, Config=_PARTS)
            self._client.delete_object(**named)

    def rm(self, paths: str | Sequence[str], recursive: bool = False) -> None:
        """Remove these, or all that is below a path."""
        if isinstance(paths, str):
            bucket, key = _split(paths)
            keys = list(self._listed(bucket, f"{key}/", deep=True)) if recursive else [key]
        else:
            bucket, keys = _split(paths[0])[0], [_split(path)[1] for path in paths]
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
            with _translated(bucket):
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise StoreReadOnly(f"The document store did not delete a file: {answer['Errors'][0].get('Code')}.")

    def probe(self, folder: str) -> None:
        """Write something, and remove it."""
        path = f"{folder}/.probe-{uuid4().hex}"
        self.pipe_file(path, b"")
        self.rm(path)

    def _listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[str]:
        with _translated(bucket):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, Delimiter="" if deep else "/"
            )
            for page in pages:
                yield from (each["Key"] for each in page.get("Contents", ()))
                yield from (each["Prefix"].rstrip("/") for each in page.get("CommonPrefixes", ()))


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _error(error, path) from error
    except Boto3Error as error:
        # What a transfer raises has the answer that it got behind it.
        cause = error.__context__
        if isinstance(cause, ClientError):
            raise _error(cause, path) from error
        raise StoreAway(f"The document store does not answer: {type(cause or error).__name__}.") from error
    except BotoCoreError as error:
        raise StoreAway(f"The document store does not answer: {type(error).__name__}.") from error


def _error(error: ClientError, path: str) -> OSError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _NOT_THERE:
        return FileNotFoundError(f"{path} is not there.")
    if code in _NOT_ALLOWED:
        return StoreReadOnly(f"The document store does not allow it ({code}): check what its credentials may do.")
    if code == "NoSuchBucket":
        return StoreAway(f"The bucket {_split(path)[0]} is not in the document store.")
    return StoreAway(f"The document store answers with an error: {code or 'unknown'}.")


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = str(Path("/") / path).lstrip("/").partition("/")
    return bucket, key


def _named(path: str) -> dict[str, str]:
    bucket, key = _split(path)
    return {"Bucket": bucket, "Key": key}
