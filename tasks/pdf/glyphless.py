"""A font without ink: every character maps to one glyph without area, and ``ToUnicode`` says what it stands for.

Text set in it can be searched and copied in any script, and never shows. A code is a UTF-16 unit. The font program
is made here, from the six tables that PDF asks of a TrueType font (ISO 32000-1, 9.9).
"""

from __future__ import annotations

import struct

import pikepdf
from pikepdf import Array, Dictionary, Name

#: The advance of every character, in thousandths of the font size.
ADVANCE = 500

_UNITS_PER_EM = 1000
#: .notdef, and the one for every character. Readers take .notdef for "no such character" and drop it.
_GLYPHS = 2

_TO_UNICODE = b"""/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
1 beginbfrange
<0000> <FFFF> <0000>
endbfrange
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""


def encode(text: str) -> bytes:
    """The text as codes of the font, two bytes each. A lone surrogate, which no file may hold, becomes ``?``."""
    return text.encode("utf-16-be", "replace")


def font_program() -> bytes:
    """A TrueType font of two glyphs: one empty, one a line there and back.

    The line has no area, so no ink, but it has a box. Readers measure a character by it, and pdfium drops text
    without one where the page is rotated.
    """
    # contours, box (4), last point, no instructions, two points on the curve, their way in x, and in y
    line = struct.pack(">hhhhhHHBBhhhh", 1, 0, 0, ADVANCE, _UNITS_PER_EM, 1, 0, 1, 1, 0, ADVANCE, 0, _UNITS_PER_EM)
    tables = {
        # version, revision, checksum (not checked by readers), magic, flags, units per em, two dates, box,
        # style, smallest size, direction, index format, glyph format
        b"head": struct.pack(
            ">IIIIHHqqhhhhHHhhh",
            *(0x10000, 0x10000, 0, 0x5F0F3CF5, 0, _UNITS_PER_EM, 0, 0),
            *(0, 0, ADVANCE, _UNITS_PER_EM, 0, 8, 2, 0, 0),
        ),
        # version, ascender, descender, gap, widest, bearings and extent, caret (3), reserved (4), format, metrics
        b"hhea": struct.pack(
            ">IhhhHhhhhhhhhhhhH", 0x10000, _UNITS_PER_EM, 0, 0, ADVANCE, 0, 0, ADVANCE, 1, 0, 0, 0, 0, 0, 0, 0, 1
        ),
        # advance and bearing of the first glyph; the second has the same advance
        b"hmtx": struct.pack(">Hhh", ADVANCE, 0, 0),
        # version, glyphs, and 13 maxima: points, contours, two of composites, zones, and nothing else
        b"maxp": struct.pack(">I14H", 0x10000, _GLYPHS, 2, 1, 0, 0, 1, *[0] * 8),
        # where each glyph begins and the last one ends, in units of two bytes
        b"loca": struct.pack(">3H", 0, 0, len(line) // 2),
        b"glyf": line,
    }
    directory, body = b"", b""
    start = 12 + 16 * len(tables)
    for tag, table in sorted(tables.items()):
        directory += struct.pack(">4sIII", tag, _checksum(table), start + len(body), len(table))
        body += table + b"\0" * (-len(table) % 4)
    # version, number of tables, and three numbers for a binary search in the directory
    return struct.pack(">IHHHH", 0x10000, len(tables), 64, 2, 32) + directory + body


def add_font(pdf: pikepdf.Pdf) -> pikepdf.Object:
    """Put the font into a document; one is enough for all its pages."""
    descriptor = Dictionary(
        Type=Name.FontDescriptor,
        FontName=Name.GlyphLess,
        Flags=5,  # fixed pitch, symbolic
        FontBBox=Array([0, 0, ADVANCE, _UNITS_PER_EM]),
        ItalicAngle=0,
        Ascent=_UNITS_PER_EM,
        Descent=0,
        CapHeight=_UNITS_PER_EM,
        StemV=80,
        FontFile2=pdf.make_stream(font_program()),
    )
    descendant = Dictionary(
        Type=Name.Font,
        Subtype=Name.CIDFontType2,
        BaseFont=Name.GlyphLess,
        CIDSystemInfo=Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
        FontDescriptor=pdf.make_indirect(descriptor),
        DW=ADVANCE,
        CIDToGIDMap=pdf.make_stream(b"\0\1" * 65536),
    )
    return pdf.make_indirect(
        Dictionary(
            Type=Name.Font,
            Subtype=Name.Type0,
            BaseFont=Name.GlyphLess,
            Encoding=Name("/Identity-H"),
            DescendantFonts=Array([pdf.make_indirect(descendant)]),
            ToUnicode=pdf.make_stream(_TO_UNICODE),
        )
    )


def _checksum(table: bytes) -> int:
    padded = table + b"\0" * (-len(table) % 4)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 4}I", padded)
    return sum(words) & 0xFFFFFFFF
