"""Preflight: what is accepted, and what a person is told of what is not."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Encryption, Name, String

from tasks.pdf.preflight import REFUSALS, Preflight, Refused, check
from tests.unit.test_pdf_images import REFUSED as REFUSED_BY_IMAGES


def document(path: Path, *, pages: int = 1, size: tuple[float, float] = (612, 792), **save: Any) -> Path:
    """A PDF with a line of text on each page."""
    with pikepdf.new() as pdf:
        font = pdf.make_indirect(Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica))
        for _ in range(pages):
            page = Dictionary(
                Type=Name.Page,
                MediaBox=Array([0, 0, *size]),
                Resources=Dictionary(Font=Dictionary(F=font)),
                Contents=pdf.make_stream(b"BT /F 12 Tf 72 72 Td (Hello) Tj ET"),
            )
            pdf.pages.append(pikepdf.Page(page))
        pdf.save(path, **save)
    return path


def look(path: Path, **options: Any) -> Preflight:
    return check(path, scratch=path.parent, **options)


def signed(path: Path, *, empty: bool = False, flags: int = 0) -> Path:
    """A signature field, filled in unless it is ``empty``, two levels down in the form."""
    document(path)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        field = Dictionary(FT=Name.Sig, T=String("signature"))
        if not empty:
            field.V = Dictionary(Type=Name.Sig, ByteRange=Array([0, 10, 20, 30]), Contents=String("x"))
        group = pdf.make_indirect(Dictionary(T=String("group"), Kids=Array([field])))
        # A form may be its own descendant.
        group.Kids.append(group)
        pdf.Root.AcroForm = Dictionary(SigFlags=flags, Fields=Array([group]))
        pdf.save()
    return path


def portfolio(path: Path) -> Path:
    document(path)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.Root.Collection = Dictionary(Type=Name.Collection, View=Name.D)
        pdf.save()
    return path


def form(path: Path, *, fields: int) -> Path:
    """An XFA form; a static one has its fields in the document too."""
    document(path)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        made = [Dictionary(FT=Name.Tx, T=String(str(number))) for number in range(fields)]
        pdf.Root.AcroForm = Dictionary(XFA=pdf.make_stream(b"<xdp/>"), Fields=Array(made))
        pdf.save()
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


REFUSED_FILES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "empty": (written(b""), {}),
    "not_pdf": (written(b"<!doctype html><title>404</title>"), {}),
    "too_large": (document, {"max_bytes": 100}),
    "password": (lambda path: document(path, encryption=Encryption(user="secret", owner="other")), {}),
    "signed": (signed, {}),
    "portfolio": (portfolio, {}),
    "dynamic_form": (lambda path: form(path, fields=0), {}),
    "no_pages": (lambda path: document(path, pages=0), {}),
    "too_many_pages": (lambda path: document(path, pages=3), {"max_pages": 2}),
    "page_too_large": (lambda path: document(path, size=(2_000_000, 2_000_000)), {}),
    "damaged": (written(b"%PDF-1.7\n"), {}),
    # Less than an interpreter needs to start: the child is killed before it can say anything.
    "too_complex": (document, {"timeout": 0.01}),
}
#: Those of images are tried in ``test_pdf_images``.
REFUSED_IMAGES = {reason for reason in REFUSALS if reason.startswith("image_")}


def test_each_reason_has_a_file_below() -> None:
    """The table of refusals and these tests name the same reasons."""
    assert REFUSED_FILES.keys() | REFUSED_IMAGES == REFUSALS.keys()
    assert {reason for _, reason in REFUSED_BY_IMAGES.values()} >= REFUSED_IMAGES


@pytest.mark.parametrize("reason", REFUSED_FILES)
def test_a_file_is_refused_with_a_reason_a_status_and_a_sentence(reason: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file, the answer is the row of the table."""
    make, options = REFUSED_FILES[reason]
    with pytest.raises(Refused) as refused:
        look(make(tmp_path / "in.pdf"), **options)
    assert (refused.value.reason, refused.value.http_status) == (reason, REFUSALS[reason][0])
    assert "{" not in refused.value.message
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("flags", [0, 1, 3])
def test_an_empty_signature_field_is_no_signature(tmp_path: Path, flags: int) -> None:
    """Somebody is to sign it; whatever the flags say, the signature itself decides."""
    assert look(signed(tmp_path / "in.pdf", empty=True, flags=flags)).pages == 1


def test_a_static_form_has_pages_of_its_own(tmp_path: Path) -> None:
    """XFA beside an ordinary form."""
    assert look(form(tmp_path / "in.pdf", fields=2)).pages == 1


def test_pages_that_are_named_and_not_there_are_reported(tmp_path: Path) -> None:
    """A reader shows the document without them, and so does every library."""
    path = document(tmp_path / "in.pdf", pages=3)
    content = path.read_bytes()
    with pikepdf.open(path) as pdf:
        number = pdf.pages[1].objgen[0]
    path.write_bytes(content.replace(b"%d 0 R" % number, b"9%d 0 R" % number, 1))
    found = look(path)
    assert (found.pages, found.missing_pages) == (2, (2,))
    assert look(document(tmp_path / "whole.pdf", pages=3)).missing_pages == ()


#: What stands in the place of the second of three pages.
ROTTEN = {"a font": b"<</Type/Font>>", "nothing": b"<<>>", "no keys that are known": b"<</Type/Page/Par 1>>"}


def by_hand(path: Path, second: bytes | None) -> Path:
    """Three pages, of which the second is this object, or not there; without a library that would mend it."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<<>>>>"
    objects: dict[int, bytes | None] = {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/Kids[3 0 R 6 0 R]/Count 3>>",
        3: page,
        4: second,
        5: page,
        6: b"<</Type/Pages/Parent 2 0 R/Kids[4 0 R 5 0 R]/Count 2>>",
    }
    content, table = b"%PDF-1.7\n", b"0000000000 65535 f \n"
    for number, written in objects.items():
        table += b"0000000000 00000 f \n" if written is None else b"%010d 00000 n \n" % len(content)
        content += b"" if written is None else b"%d 0 obj\n%s\nendobj\n" % (number, written)
    start = len(content)
    path.write_bytes(
        content + b"xref\n0 7\n" + table + b"trailer\n<</Size 7/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % start
    )
    return path


@pytest.mark.parametrize("kind", ROTTEN)
def test_an_object_that_is_no_page_is_reported(kind: str, tmp_path: Path) -> None:
    """A reader shows an empty page in its place; nothing of a page is left to be read."""
    found = look(by_hand(tmp_path / "in.pdf", ROTTEN[kind]))
    assert (found.pages, found.missing_pages, found.broken_pages) == (3, (), ((2, "not_a_page"),))


@pytest.mark.parametrize("kind", [None, b"42", b"(a string)", b"null"])
def test_missing_pages_are_numbered_by_the_page_tree(kind: bytes | None, tmp_path: Path) -> None:
    """Also in a branch of it, and where something is there that is not even a dictionary."""
    found = look(by_hand(tmp_path / "in.pdf", kind))
    assert (found.pages, found.missing_pages, found.broken_pages) == (2, (2,), ())


def test_an_empty_page_is_a_page(tmp_path: Path) -> None:
    """It has a size, and nothing else."""
    found = look(by_hand(tmp_path / "in.pdf", b"<</Type/Page/Parent 6 0 R/MediaBox[0 0 9 9]>>"))
    assert (found.pages, found.missing_pages, found.broken_pages) == (3, (), ())


def test_a_page_of_a_damaged_file_that_has_no_contents_has_lost_them(tmp_path: Path) -> None:
    """An empty page of a whole file is just empty."""
    path = document(tmp_path / "in.pdf", pages=3, object_stream_mode=pikepdf.ObjectStreamMode.disable)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        del pdf.pages[2].obj.Contents
        pdf.save(object_stream_mode=pikepdf.ObjectStreamMode.disable)
    assert look(path).broken_pages == ()
    path.write_bytes(path.read_bytes().replace(b"trailer", b"tr_iler"))
    found = look(path)
    assert (found.pages, found.repaired, found.broken_pages) == (3, True, ((3, "content_broken"),))


def test_the_page_that_is_too_large_is_named(tmp_path: Path) -> None:
    """A person has to know which page to look at."""
    path = document(tmp_path / "in.pdf", pages=3)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[1].obj.MediaBox = Array([0, 0, 1_000_000, 1_000_000])
        pdf.save()
    with pytest.raises(Refused, match="Page 2"):
        look(path)


def test_a_good_document_is_left_as_it_is(tmp_path: Path) -> None:
    """Nothing is rewritten that both libraries read."""
    path = document(tmp_path / "in.pdf", pages=3)
    found = look(path)
    assert replace(found, weights=()) == Preflight(path=path, pages=3, repaired=False, text_pages=3)
    assert len(found.weights) == 3


def test_owner_restrictions_do_not_refuse_a_document(tmp_path: Path) -> None:
    """Who can open the document may have it read."""
    path = document(tmp_path / "in.pdf", encryption=Encryption(user="", owner="owner"))
    assert look(path).pages == 1


@pytest.mark.parametrize("junk", [0, 100, 1000])
def test_junk_before_the_header_is_tolerated_within_a_kilobyte(junk: int, tmp_path: Path) -> None:
    """As every reader does."""
    path = document(tmp_path / "in.pdf")
    path.write_bytes(b"x" * junk + path.read_bytes())
    assert look(path).pages == 1


def test_junk_further_than_a_kilobyte_is_no_pdf(tmp_path: Path) -> None:
    """A PDF inside something else is something else."""
    path = document(tmp_path / "in.pdf")
    path.write_bytes(b"x" * 2000 + path.read_bytes())
    with pytest.raises(Refused, match="not a PDF"):
        look(path)


def test_what_one_library_refuses_is_repaired_by_the_other(tmp_path: Path) -> None:
    """pdfium does not open a file without its trailer; pikepdf rebuilds it."""
    path = document(tmp_path / "in.pdf", object_stream_mode=pikepdf.ObjectStreamMode.disable)
    path.write_bytes(path.read_bytes().replace(b"trailer", b"tr_iler"))
    found = look(path)
    assert (found.pages, found.repaired) == (1, True)
    assert look(found.path).repaired is False


def test_a_page_that_hangs_the_renderer_does_not_refuse_the_document(tmp_path: Path) -> None:
    """Only the count of pages with text needs the pages' contents, and it is given up."""
    path = tmp_path / "in.pdf"
    with pikepdf.new() as pdf:
        form = pdf.make_indirect(
            pdf.make_stream(b"/F Do /F Do", Type=Name.XObject, Subtype=Name.Form, BBox=Array([0, 0, 612, 792]))
        )
        form.Resources = Dictionary(XObject=Dictionary(F=form))
        page = Dictionary(
            Type=Name.Page,
            MediaBox=Array([0, 0, 612, 792]),
            Resources=Dictionary(XObject=Dictionary(F=form)),
            Contents=pdf.make_stream(b"/F Do"),
        )
        pdf.pages.append(pikepdf.Page(page))
        pdf.save(path)
    found = look(path, timeout=30)
    assert (found.pages, found.text_pages) == (1, None)


def test_a_refusal_survives_pickling() -> None:
    """Celery and process pools send exceptions between processes."""
    refusal = Refused.because("too_large", limit=500)
    copy = pickle.loads(pickle.dumps(refusal))
    assert (copy.reason, copy.message, copy.http_status) == ("too_large", refusal.message, 413)
