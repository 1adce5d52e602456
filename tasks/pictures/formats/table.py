"""Which containers are known by their first bytes, and which of them can be decoded."""

from __future__ import annotations

SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WEBP", 8, b"WEBPVP8"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    ("BMP", 0, b"BM"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("PSD", 0, b"8BPS"),
    ("FITS", 0, b"SIMPLE  ="),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("ICO", 0, b"\0\0\1\0"),
    ("Fujifilm RAW", 0, b"FUJIFILMCCD-RAW"),
    ("PNM", 0, b"P5\n"),
    ("PNM", 0, b"P6\n"),
)
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "Canon RAW",
}
DECODED = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF")


def sniff(head: bytes) -> str | None:
    """Format by content (32 bytes suffice), or None for what is no picture. Not all that is known can be decoded."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    return next((name for name, at, mark in SIGNATURES if head[at : at + len(mark)] == mark), None)
