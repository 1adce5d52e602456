"""Files that cannot be an input get a named reason, and odd ones that can are read."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
import tifffile
from made_files import LOSSLESS, PROVENANCE, SHAPE, SRGB, exif, photo, pillow, png16, tiff
from PIL import Image

from tasks.pictures import codec
from tasks.pictures.picture import to_float


def camera_raw(subfiletype):
    """As cameras write them: a small preview, and what the sensor saw in a directory below it."""
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as file:
        file.write(photo(), photometric="rgb", subfiletype=subfiletype, subifds=1, metadata=None)
        file.write(photo(1, 16), photometric="cfa", metadata=None)
    return sink.getvalue()


def pages(**options) -> bytes:
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, **options) as writer:
        for seed in range(2):
            writer.write(photo(seed=seed), photometric="rgb", metadata=None)
    return sink.getvalue()


def circle() -> bytes:
    """A two-page TIFF whose second page names the first as the next."""
    data = bytearray(pages())
    first = struct.unpack_from("<I", data, 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, link)[0]
    struct.pack_into("<I", data, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], first)
    return bytes(data)


def frames(kind: str, **options) -> bytes:
    sink = io.BytesIO()
    images = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    images[0].save(sink, kind, save_all=True, append_images=images[1:], **options)
    return sink.getvalue()


BAD = {
    "zero bytes": (lambda: b"", "empty_file"),
    "text": (lambda: b"Dear diary,\nnothing happened.\n", "not_an_image"),
    "one byte": (lambda: b"\xff", "not_an_image"),
    "psd": (lambda: b"8BPS\0\1" + b"\0" * 90, "unsupported_format"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "jpeg signature only": (lambda: b"\xff\xd8\xff", "corrupt"),
    "truncated jpeg": (lambda: (d := pillow(photo(), "JPEG"))[: len(d) // 2], "corrupt"),
    "truncated png": (lambda: (d := pillow(photo(), "PNG"))[: len(d) // 2], "corrupt"),
    "flipped bit in png": (lambda: bytes(b ^ (i == 700) for i, b in enumerate(pillow(photo(), "PNG"))), "corrupt"),
    "truncated png 16": (lambda: png16(photo(3, 16))[:-30], "corrupt"),
    "truncated webp": (lambda: (d := pillow(photo(), "WEBP"))[: len(d) // 2], "corrupt"),
    "truncated tiff": (lambda: (d := pillow(photo(), "TIFF", compression="tiff_lzw"))[: len(d) // 2], "corrupt"),
    "truncated tiff 16": (lambda: tiff(photo(3, 16), photometric="rgb")[:-900], "corrupt"),
    "truncated bmp": (lambda: pillow(photo(), "BMP")[:-500], "corrupt"),
    "animated gif": (lambda: frames("GIF"), "animated"),
    "animated webp": (lambda: frames("WEBP"), "animated"),
    "apng": (lambda: frames("PNG"), "animated"),
    "pages": (lambda: frames("TIFF"), "multi_page"),
    "big pages": (lambda: pages(bigtiff=True), "multi_page"),
    "big-endian pages": (lambda: pages(byteorder=">"), "multi_page"),
    "endless circle of pages": (circle, "multi_page"),
    "float tiff": (lambda: tiff(photo().astype(np.float32), photometric="rgb"), "unsupported_format"),
    "camera raw": (lambda: camera_raw(subfiletype=1), "unsupported_format"),
    "dng": (lambda: tiff(photo(), photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0")]), "unsupported_format"),
    "float16 tiff": (lambda: tiff(photo().astype(np.float16), photometric="rgb"), "unsupported_format"),
    "bomb": (lambda: bomb(100_000, 100_000), "too_large"),
    "long bomb": (lambda: bomb(70_000, 2), "too_large"),
}


def bomb(width: int, height: int) -> bytes:
    good = bytearray(pillow(photo(), "PNG"))
    good[16:24] = struct.pack(">II", width, height)
    good[29:33] = struct.pack(">I", zlib.crc32(good[12:29]))
    return bytes(good)


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_their_reason(name):
    make, reason = BAD[name]
    with pytest.raises(codec.DecodeError) as caught:
        codec.decode(make())
    assert caught.value.reason_code == reason
    assert str(caught.value).startswith("expected")


def test_every_cut_of_every_format_is_an_outcome():
    whole = [pillow(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")]
    whole += [LOSSLESS[name]() for name in ("png 16 rgba", "tiff 16 lzw", "tiff 16 deflate")]
    for data in whole:
        for cut in range(1, len(data), max(1, len(data) // 23)):
            with contextlib.suppress(codec.DecodeError):
                assert codec.decode(data[:cut]).pixels.shape == (*SHAPE, 3)


WHOLE = {
    **{kind: lambda kind=kind: pillow(photo(), kind, exif=exif(6)) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")},
    **{kind: lambda kind=kind: pillow(photo(), kind) for kind in ("BMP", "GIF", "JPEG2000")},
    "progressive": lambda: pillow(photo(), "JPEG", progressive=True, icc_profile=SRGB),
    "big-endian": lambda: tiff(photo(3, 16), photometric="rgb", bigtiff=True, byteorder=">", compression="lzw"),
    "png 16": LOSSLESS["png 16 rgba"],
}


def mutated(data: bytes, seed: int) -> bytes:
    """A few bytes flipped, cut out, put in, said twice, or made the largest number there is; mostly near the start."""
    chance, result = random.Random(seed), bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(min(len(result), chance.choice((64, 512, len(result)))))
        length = chance.randrange(1, 40)
        start, end, new = chance.choice(
            (
                (at, at + 1, bytes((result[at] ^ 1 << chance.randrange(8),))),
                (at, at + length, b""),
                (at, at, chance.randbytes(length)),
                (at, at, bytes(result[at : at + length])),
                (at, at + 4, b"\xff" * 4),
                (at + 1, len(result), b""),
            )
        )
        result[start:end] = new
    return bytes(result)


@pytest.mark.parametrize("name", WHOLE)
def test_every_mutation_is_an_outcome_and_what_can_be_read_can_be_written(name):
    data = WHOLE[name]()
    for seed in range(60):
        with contextlib.suppress(codec.DecodeError):
            spoilt = mutated(data, seed)
            picture = codec.decode(spoilt, codec.Limits(max_pixels=50_000_000))
            codec.decode(codec.encode(picture, spoilt, PROVENANCE))


def test_heic_without_its_library_is_unsupported(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(codec.DecodeError, match="heif") as caught:
        codec.decode(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    assert caught.value.reason_code == "unsupported_format"


def test_limits_speak_from_the_header_alone():
    data = pillow(photo(), "PNG")[:60]
    with pytest.raises(codec.DecodeError) as caught:
        codec.read_header(io.BytesIO(data), codec.Limits(max_pixels=100))
    assert caught.value.reason_code == "too_large"
    assert (caught.value.header.width, caught.value.header.height) == SHAPE[::-1]


@pytest.mark.parametrize("tag", [(296, 3, 1, 99, True), (282, 5, 1, (0, 0), True), (257, 4, 2, (37, 37), True)])
def test_tags_without_sense_are_an_outcome_and_never_an_error_when_writing(tag):
    original = bytearray(tiff(photo(), photometric="rgb", resolution=(300, 300)))
    with tifffile.TiffFile(io.BytesIO(original)) as file:
        at = file.pages.first.tags[tag[0]].offset
    count, value = struct.pack("<I", tag[2]), tag[3] if isinstance(tag[3], tuple) else (tag[3], 0)
    if tag[1] == 5:
        at = struct.unpack_from("<I", original, at + 8)[0]
        original[at : at + 8] = struct.pack("<II", *value)
    else:
        original[at + 4 : at + 12] = count + struct.pack("<HH", *value)
    with contextlib.suppress(codec.DecodeError):
        picture = codec.decode(bytes(original))
        assert codec.decode(codec.encode(picture, bytes(original), PROVENANCE)).width == SHAPE[1]


def test_a_tiff_with_a_pyramid_is_no_raw_file():
    assert codec.decode(camera_raw(subfiletype=0)).pixels.shape == (*SHAPE, 3)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_reduced_copy_in_a_tiff_is_no_second_page(options):
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, **options) as writer:
        writer.write(photo(), photometric="rgb", metadata=None)
        writer.write(photo()[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    assert codec.decode(sink.getvalue()).width == SHAPE[1]


def test_a_page_that_names_itself_as_the_next_is_one_page():
    data = bytearray(tiff(photo(), photometric="rgb"))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], start)
    assert np.array_equal(codec.decode(bytes(data)).pixels, to_float(photo()))
