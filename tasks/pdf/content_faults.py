"""Is what a page says to the renderer broken? It draws what it understands, and reports no error: a page whose contents
are cut or garbage looks blank, or ends in the middle.
"""

from __future__ import annotations

import re
import zlib

import pikepdf
from pikepdf import Name

#: Every operator of a content stream (ISO 32000-1, annex A); an inline image is one for pikepdf.
_OPERATORS = frozenset(
    re.findall(
        r"\S+",
        """b B b* B* BDC BI BMC BT BX c cm CS cs d d0 d1 Do DP EI EMC ET EX f F f* G g gs h i ID j J K k l m M MP n q Q
        re RG rg ri s S SC sc SCN scn sh T* Tc Td TD Tf Tj TJ TL Tm Tr Ts Tw Tz v w W W* y ' \" """,
    )
) | {"INLINE IMAGE"}
#: A deflated stream begins with so many bytes of a header, which say nothing about where it ends.
_ZLIB_HEADER = 2
_PIECE = 1 << 20


def contents_broken(page: pikepdf.Page, *, thorough: bool) -> bool:
    """Whether a part of a page's contents is not there or not to be understood.

    :param thorough: also read them, for a page on which nothing was found; else only whether they end too early.
    """
    contents = page.obj.get("/Contents")
    parts = [*contents] if isinstance(contents, pikepdf.Array) else [] if contents is None else [contents]
    streams = [part for part in parts if isinstance(part, pikepdf.Stream)]
    if len(streams) < len(parts) or any(_ends_early(stream) for stream in streams):
        return True
    if not thorough:
        return False
    try:
        if not any(stream.read_bytes().strip() for stream in streams):
            return False
        known = [str(each.operator) in _OPERATORS for each in pikepdf.parse_content_stream(page)]
    except (pikepdf.PdfError, TypeError, ValueError):
        return True
    # A reader leaves out what it does not know; who finds more of that than of anything else has found garbage.
    return 2 * sum(known) <= len(known)


def _ends_early(stream: pikepdf.Stream) -> bool:
    """Whether deflated data ends before it says so. Its checksum, which some programs leave out, does not count."""
    if stream.get("/Filter") not in (Name.FlateDecode, pikepdf.Array([Name.FlateDecode])):
        return False
    raw = stream.read_raw_bytes()
    if not raw:
        return False  # some programs write a filter for contents that say nothing
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = raw[_ZLIB_HEADER:]
    try:
        while rest and not unpacker.eof:
            unpacker.decompress(rest, _PIECE)
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return True
    return not unpacker.eof
