"""Broken and hostile files, from preflight to merge: each gets a clear answer, and none takes anything down."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.engines.null import NullEngine
from tasks.merge import MergeFailed, merge
from tasks.pdf.preflight import Refused, check
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages

CORPUS = Path(os.environ.get("CORPUS_DIR", Path(__file__).parents[2].parent / "shared" / "corpus")) / "hostile"
#: Seconds for any one file, on a machine that has other things to do.
LIMIT = 60

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus; set CORPUS_DIR")


def outcome(path: Path, folder: Path) -> str:
    """``refused``, or how many of the first three pages could be read."""
    folder.mkdir()
    started = time.monotonic()
    try:
        found = check(path, scratch=folder, timeout=20)
    except Refused as refusal:
        return refusal.reason
    with PageRenderer(found.path, dpi=50, mode="skip", timeout=2) as pages:
        results = list(recognise_pages(range(1, min(3, found.pages) + 1), pages, NullEngine(), page_timeout=2))
    with suppress(MergeFailed):  # where nothing of it could be read
        merge(found.path, folder, results, document_id="doc_1", pages=found.pages, timeout=30)
    assert time.monotonic() - started < LIMIT
    return " ".join(result.status for result in results)


def test_every_hostile_file_gets_an_answer(tmp_path: Path) -> None:
    """Nothing hangs and nothing raises but a refusal."""
    files = sorted(
        [*(CORPUS / "gen").iterdir(), *(CORPUS / "real").iterdir(), *sorted((CORPUS / "handbuilt").iterdir())[::4]]
    )
    with ThreadPoolExecutor(3) as pool:
        answers = dict(
            zip(
                (file.name for file in files),
                pool.map(outcome, files, (tmp_path / str(n) for n in range(len(files)))),
                strict=True,
            )
        )
    assert answers["zero_pages.pdf"] == "no_pages"
    assert answers["pagetree_same_page_100000x.pdf"] == "too_many_pages"
    assert answers["password-is-test.pdf"] == "password"
    assert answers["form_self_recursive.pdf"] == "unreadable"
    assert answers["flatebomb_content_1GiB.pdf"] == "unreadable"
    assert answers["page3_image_missing.pdf"] == "read read unreadable"
    assert answers["page3_image_garbage.pdf"] == "read read unreadable"
    assert answers["enc_owner_only_aes256_nomodify.pdf"] == "read read read"
