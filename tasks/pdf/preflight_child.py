"""The child of ``tasks.pdf.preflight``: parses the file and prints one line of JSON.

``python -m tasks.pdf.preflight_child PATH SCRATCH DPI MAX_PAGES SECONDS MEMORY``

Further lines may follow, each with all of the one before: the count of pages with text, which needs the pages'
contents, and what the pages weigh. Either can kill this process, and the first line has been said by then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pikepdf
import pypdfium2
import pypdfium2.raw as pdfium_c
from pikepdf import Name

from tasks.pdf.costs import PageWeight, weights_of
from tasks.pdf.geometry import fitting_dpi
from tasks.pdf.image_kinds import begins_as_image
from tasks.pdf.sandbox import allow_cpu, confine

#: CPU seconds for counting pages with text: 5,000 pages take 0.2.
_TEXT_SECONDS = 4

#: CPU seconds for weighing the pages, for the finish time.
_WEIGHT_SECONDS = 8
#: Images of a page that are weighed.
_MAX_IMAGES = 200
#: What qpdf says of a file whose table of objects is gone: it looks for them itself.
_RECONSTRUCTED = "reconstruct cross-reference"

#: Form fields that are looked at for a signature; a form has hundreds, a hostile one millions.
_MAX_FIELDS = 10_000


class _Refusal(Exception):
    """Carries the reason and what the sentence needs."""

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.verdict = {"refused": reason, **details}


def _pikepdf_pages(path: Path) -> int | None:
    """How many pages the library that grafts sees; None where it cannot open the file."""
    try:
        with pikepdf.open(path) as pdf:
            _refuse_by_kind(pdf)
            return len(pdf.pages)
    except pikepdf.PasswordError:
        raise _Refusal("password") from None
    except (_Refusal, MemoryError):
        raise
    except Exception:  # PdfError, and whatever else a broken object makes it raise
        return None


def _refuse_by_kind(pdf: pikepdf.Pdf) -> None:
    """Documents whose pages are not what a reader would see, or that must not be changed.

    :raises _Refusal: for these.
    """
    if isinstance(pdf.Root.get("/Collection"), pikepdf.Dictionary):
        raise _Refusal("portfolio")
    form = pdf.Root.get("/AcroForm")
    if not isinstance(form, pikepdf.Dictionary):
        return
    fields = form.get("/Fields")
    has_fields = isinstance(fields, pikepdf.Array) and len(fields) > 0
    # A static XFA form has its fields as an AcroForm too, and real pages.
    if "/XFA" in form and (not has_fields or pdf.Root.get("/NeedsRendering", False)):
        raise _Refusal("dynamic_form")
    if any(_is_signed(field) for field in _fields(fields)):
        raise _Refusal("signed")


def _fields(roots: object) -> Iterator[pikepdf.Dictionary]:
    """Every field of a form, at most ``_MAX_FIELDS``; a field may be among its own descendants."""
    waiting = [roots]
    seen = 0
    while waiting and seen < _MAX_FIELDS:
        found = waiting.pop()
        if not isinstance(found, pikepdf.Array):
            continue
        for field in found:
            seen += 1
            if isinstance(field, pikepdf.Dictionary):
                yield field
                waiting.append(field.get("/Kids"))


def _is_signed(field: pikepdf.Dictionary) -> bool:
    """Whether a field holds a signature; an empty signature field, which somebody is to sign, does not."""
    value = field.get("/V")
    return isinstance(value, pikepdf.Dictionary) and "/ByteRange" in value and "/Contents" in value


class _Tree(NamedTuple):
    """What the page tree says: the places, from 1, that have no page, and what is wrong with others, by its reason."""

    missing: list[int]
    broken: list[tuple[int, str]]


def _page_tree(path: Path) -> _Tree:
    """A reader sees the document without missing pages, and broken ones empty.

    Nothing is found where the tree cannot be walked. In a file that has lost its own table of objects, a page without
    contents has lost them; elsewhere it is just empty.
    """
    missing: list[int] = []
    broken: list[tuple[int, str]] = []
    try:
        # Before qpdf mends the tree, which it does when it pushes attributes down to the pages.
        with pikepdf.open(path, inherit_page_attributes=False) as pdf:
            damaged = any(_RECONSTRUCTED in str(warning) for warning in pdf.get_warnings())
            for place, leaf in enumerate(_leaves(pdf), start=1):
                if leaf is None:
                    missing.append(place)
                elif leaf is not _Leaf.WHOLE and (damaged or leaf is _Leaf.NO_PAGE):
                    broken.append((place, leaf.value))
    except Exception:  # whatever a broken object makes it raise
        return _Tree([], [])
    return _Tree(missing, broken)


class _Leaf(Enum):
    """What stands in a place of the page tree; the value is the reason that it gives a page."""

    WHOLE = ""
    EMPTY = "content_broken"
    NO_PAGE = "not_a_page"


def _leaves(pdf: pikepdf.Pdf) -> Iterator[_Leaf | None]:
    """Of each place of the page tree, in order: what is there, None where there is nothing.

    :raises ValueError: for a tree that is a node of itself.
    """
    waiting: list[tuple[object, bool]] = [(pdf.Root.get("/Pages"), False)]
    walked: set[tuple[int, int]] = set()
    while waiting:
        node, has_box = waiting.pop()
        if not isinstance(node, pikepdf.Dictionary):
            yield None
            continue
        has_box = has_box or "/MediaBox" in node
        kids = node.get("/Kids")
        if isinstance(kids, pikepdf.Array):
            if node.objgen in walked:
                raise ValueError("the page tree goes round")
            walked.add(node.objgen)
            waiting.extend((kid, has_box) for kid in reversed([*kids]))
        else:
            # Every page has a size, be it from above, and says that it is one; a reader looks at what has contents.
            if "/Contents" in node:
                yield _Leaf.WHOLE
            else:
                yield _Leaf.EMPTY if has_box and node.get("/Type", Name.Page) == Name.Page else _Leaf.NO_PAGE


def _pdfium_pages(path: Path) -> int | None:
    """How many pages the library that renders sees; None where it cannot open the file."""
    try:
        with pypdfium2.PdfDocument(path) as pdf:
            return len(pdf)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_PASSWORD:
            raise _Refusal("password") from None
        return None


def _as_it_is(path: Path, copy: Path) -> Path:
    return path


def _saved_by_pikepdf(path: Path, copy: Path) -> Path:
    with pikepdf.open(path) as pdf:
        pdf.save(copy, encryption=pdf.is_encrypted)
    return copy


def _saved_by_pdfium(path: Path, copy: Path) -> Path:
    with pypdfium2.PdfDocument(path) as pdf:
        pdf.save(copy)
    return copy


#: Each library reads some files that the other refuses; what it saves, both can read.
_REPAIRS: tuple[Callable[[Path, Path], Path], ...] = (_as_it_is, _saved_by_pikepdf, _saved_by_pdfium)


def sound_copy(path: Path, scratch: Path) -> tuple[Path, int]:
    """A file in which both libraries see the same pages, and how many: the file itself, or a repaired copy."""
    seen: set[int | None] = set()
    for repair in _REPAIRS:
        try:
            copy = repair(path, scratch / "repaired.pdf")
        except MemoryError:
            raise
        except Exception:  # this library cannot read it; the other may
            continue
        grafted, rendered = _pikepdf_pages(copy), _pdfium_pages(copy)
        if grafted is not None and grafted == rendered and grafted > 0:
            return copy, grafted
        seen |= {grafted, rendered}
    raise _Refusal("no_pages" if seen <= {0, None} and 0 in seen else "damaged")


def _check_sizes(pdf: pypdfium2.PdfDocument, dpi: float) -> None:
    for index in range(len(pdf)):
        try:
            width, height = pdf.get_page_size(index)
        except pypdfium2.PdfiumError:
            continue  # a broken page does not refuse the document: it is named when its turn comes
        if fitting_dpi(width, height, dpi) is None:
            raise _Refusal("page_too_large", page=index + 1)


def _has_text(pdf: pypdfium2.PdfDocument, index: int) -> bool:
    try:
        return bool(pdf[index].get_textpage().count_chars())
    except pypdfium2.PdfiumError:
        return False


def _weights(path: Path, texts: list[bool]) -> list[PageWeight]:
    """What the pages weigh; [] where the file does not say."""
    try:
        with pikepdf.open(path) as pdf:
            pages = list(pdf.pages)
            contents = [sum(map(_length, _streams(page.obj.get("/Contents")))) for page in pages]
            return weights_of(contents, [list(_images(page)) for page in pages], texts)
    except MemoryError:
        raise
    except Exception:  # whatever a broken object makes it raise
        return []


def _streams(found: object) -> Iterator[pikepdf.Object]:
    for each in found if isinstance(found, pikepdf.Array) else [found]:
        if isinstance(each, pikepdf.Stream):
            yield each


def _length(stream: pikepdf.Object) -> float:
    length = stream.get("/Length", 0)
    return float(length) if isinstance(length, int) else 0.0


def _images(page: pikepdf.Page) -> Iterator[tuple[object, str, float]]:
    """Identity, coding and bytes of each image that the page's own resources name."""
    shown = page.obj.get("/Resources", pikepdf.Dictionary()).get("/XObject")
    if not isinstance(shown, pikepdf.Dictionary):
        return
    for name in list(shown.keys())[:_MAX_IMAGES]:
        image = shown[name]
        if isinstance(image, pikepdf.Stream) and image.get("/Subtype") == pikepdf.Name.Image:
            coding = image.get("/Filter", "")
            yield (
                image.objgen,
                str(coding[-1] if isinstance(coding, pikepdf.Array) and len(coding) else coding),
                _length(image),
            )


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return begins_as_image(file.read(16))


def _pdf_of(image: Path, scratch: Path) -> tuple[Path, list[tuple[int, str]]]:
    """What is read in place of an image, and its pages that cannot be.

    :raises _Refusal: for an image that is not accepted.
    """
    # Only here: a PDF is checked without what unpacks images.
    from tasks.pdf.images import ImageRefused, make_pdf

    try:
        return make_pdf(image, scratch)
    except ImageRefused as refused:
        raise _Refusal(refused.reason, **refused.details) from None


def examine(path: Path, scratch: Path, dpi: float, max_pages: int) -> None:
    """Print the verdict, then the verdict with the count of pages with text."""
    unreadable: list[tuple[int, str]] = []
    if _is_image(path):
        path, unreadable = _pdf_of(path, scratch)
    copy, pages = sound_copy(path, scratch)
    if pages > max_pages:
        raise _Refusal("too_many_pages", pages=pages, limit=max_pages)
    verdict = {"path": str(copy), "pages": pages, "repaired": copy != path, "missing_pages": []}
    verdict["broken_pages"] = unreadable
    with pypdfium2.PdfDocument(copy) as pdf:
        _check_sizes(pdf, dpi)
        _say({**verdict, "text_pages": None})
        allow_cpu(_TEXT_SECONDS)
        tree = _page_tree(path)
        verdict["missing_pages"] = tree.missing
        # As the document is counted, without the missing ones.
        verdict["broken_pages"] = unreadable + [
            (place - sum(each < place for each in tree.missing), reason) for place, reason in tree.broken
        ]
        texts = [_has_text(pdf, index) for index in range(pages)]
        verdict["text_pages"] = sum(texts)
        _say(verdict)
    allow_cpu(_WEIGHT_SECONDS)
    _say({**verdict, "weights": [weight.to_json() for weight in _weights(copy, texts)]})


def _say(verdict: dict[str, Any]) -> None:
    print(json.dumps(verdict), flush=True)


def main(path: str, scratch: str, dpi: str, max_pages: str, seconds: str, memory: str) -> None:
    """Limit this process, then look."""
    confine(memory_bytes=int(memory))
    allow_cpu(float(seconds))
    try:
        examine(Path(path), Path(scratch), float(dpi), int(max_pages))
    except _Refusal as refusal:
        _say(refusal.verdict)


if __name__ == "__main__":
    main(*sys.argv[1:])
