"""What is told of an image by its first bytes, and the limits of what is accepted. Nothing is parsed here."""

from __future__ import annotations

#: How files of these formats begin: TIFF in both byte orders (and with large offsets), JPEG, PNG.
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

#: Pixels of one image; what decodes it takes up to four bytes for each.
MAX_PIXELS = 178_000_000
#: What scanners and cameras write; a fax has 98 down the page.
MIN_IMAGE_DPI, MAX_DPI = 30.0, 4800.0


def begins_as_image(content: bytes) -> bool:
    """Whether a file that begins so is to be taken for an image."""
    return content.startswith(BEGINNINGS)
