"""The sample scan: always the same, and its text is known exactly."""

from __future__ import annotations

from pathlib import Path

from tasks.engines import make_engine
from tasks.pdf.render import PageRenderer
from tasks.recognition import recognise_pages
from tasks.sample import main, make_sample


def test_the_same_sample_each_time(tmp_path: Path) -> None:
    """A fixed seed: what is reported about one machine's sample can be seen on another's."""
    texts = [make_sample(tmp_path / f"{run}.pdf", pages=2, dpi=72) for run in range(2)]
    assert texts[0] == texts[1]
    assert (tmp_path / "0.pdf").read_bytes() == (tmp_path / "1.pdf").read_bytes()


def test_a_page_does_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    """So that a longer sample begins as a shorter one."""
    assert make_sample(tmp_path / "a.pdf", pages=1, dpi=72) == make_sample(tmp_path / "b.pdf", pages=2, dpi=72)[:1]


def test_the_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    """At least 97 of 100 words, in order of their lines."""
    main([str(tmp_path / "s.pdf"), "--pages", "1", "--dpi", "200"])
    (truth,) = make_sample(tmp_path / "t.pdf", pages=1, dpi=200)
    engine = make_engine("tesseract", "eng")
    with PageRenderer(tmp_path / "s.pdf", dpi=200, mode="skip", timeout=60) as renderer:
        (result,) = recognise_pages([1], renderer, engine, page_timeout=60)
    engine.close()
    lines, wanted = result.text.split("\n"), truth.split("\n")
    assert len(lines) == len(wanted)
    same = sum(len(set(a.split()) & set(b.split())) for a, b in zip(lines, wanted, strict=True))
    assert same / sum(len(set(line.split())) for line in wanted) >= 0.97
