"""Is a JBIG2 image whole? Its segments say how long they are (ISO/IEC 14492, 7.2); adding up needs no decoder."""

from __future__ import annotations

import struct

#: Segment types that draw something: text, pattern, generic and refinement regions.
_REGIONS = frozenset({4, 6, 7, 20, 22, 23, 36, 38, 39, 40, 42, 43})
#: A generic region may leave its length open; where it ends, only a decoder finds out.
_UNKNOWN_LENGTH = 0xFFFFFFFF
#: A count of referred-to segments of so many stands for a long form that follows.
_LONG_FORM = 7


def is_whole(data: bytes) -> bool:
    """Whether all segments of an embedded stream are there to their ends, and one of them draws something."""
    position, draws = 0, False
    try:
        while position < len(data):
            number, flags, referred = struct.unpack_from(">IBB", data, position)
            position += 5
            count = referred >> 5
            if count == _LONG_FORM:
                (count,) = struct.unpack_from(">I", data, position)
                count &= 0x1FFFFFFF
                position += 4 + (count + 8) // 8
            else:
                position += 1
            position += count * (1 if number <= 256 else 2 if number <= 65536 else 4)
            position += 4 if flags & 0x40 else 1
            (length,) = struct.unpack_from(">I", data, position)
            position += 4
            draws = draws or flags & 0x3F in _REGIONS
            if length == _UNKNOWN_LENGTH:
                return True
            position += length
    except struct.error:
        return False
    return draws and position == len(data)
