"""Decode and encode: pixels survive lossless containers, metadata travels, and bad files get a named reason."""

import contextlib
import io
import struct
import zlib
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from places import SHARED

from tasks.pictures import codec as image_io
from tasks.pictures import metadata
from tasks.pictures.formats import png
from tasks.pictures.formats.jpeg import finer_tables, put_jpeg_metadata, read_jpeg_metadata
from tasks.pictures.picture import Metadata, Picture, to_float, to_levels

SAMPLES = SHARED / "data" / "samples"
PROVENANCE = {"software": "mpsr-batch 0.1", "recipe": "compact", "key": "ab" * 32, "weights": "yunet:0123"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SHAPE = (37, 53)


def photo(channels: int = 3, depth: int = 8, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, so that JPEG has something ordinary to code."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((5, 7, channels))
    smooth = cv2.resize(coarse, SHAPE[::-1], interpolation=cv2.INTER_CUBIC).reshape(*SHAPE, channels)
    noisy = np.clip(smooth + rng.normal(0, 0.01, smooth.shape), 0, 1)
    levels = np.rint(noisy * (2**depth - 1)).astype(np.uint8 if depth == 8 else np.uint16)
    return levels[..., 0] if channels == 1 else levels


def pillow(array: np.ndarray, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind, **options)
    return sink.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, array, metadata=None, **options)
    return sink.getvalue()


def camera_raw(subfiletype):
    """As cameras write them: a small preview, and what the sensor saw in a directory below it."""
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as file:
        file.write(photo(), photometric="rgb", subfiletype=subfiletype, subifds=1, metadata=None)
        file.write(photo(1, 16), photometric="cfa", metadata=None)
    return sink.getvalue()


def png16(array: np.ndarray) -> bytes:
    order = [2, 1, 0, 3][: array.shape[2]] if array.ndim == 3 else None
    return bytes(cv2.imencode(".png", array if order is None else np.ascontiguousarray(array[..., order]))[1])


def grey_alpha_png16(array: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], 16, 4, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    sums = [(kind, body, zlib.crc32(kind + body)) for kind, body in chunks]
    coded = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check) for kind, body, check in sums]
    return png.PNG_SIGNATURE + b"".join(coded)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "Contax"
    return block.tobytes()


LOSSLESS = {
    "png": lambda: pillow(photo(), "PNG"),
    "png rgba": lambda: pillow(photo(4), "PNG"),
    "png grey": lambda: pillow(photo(1), "PNG"),
    "png grey alpha": lambda: pillow(photo(2), "PNG"),
    "png 16": lambda: png16(photo(3, 16)),
    "png 16 rgba": lambda: png16(photo(4, 16)),
    "png 16 grey": lambda: png16(photo(1, 16)),
    "png 16 grey alpha": lambda: grey_alpha_png16(photo(2, 16)),
    "tiff": lambda: pillow(photo(), "TIFF"),
    "tiff lzw": lambda: pillow(photo(), "TIFF", compression="tiff_lzw"),
    "tiff rgba": lambda: pillow(photo(4), "TIFF", compression="tiff_adobe_deflate"),
    "tiff grey": lambda: pillow(photo(1), "TIFF"),
    "tiff 16": lambda: tiff(photo(3, 16), photometric="rgb"),
    "tiff 16 deflate": lambda: tiff(photo(3, 16), photometric="rgb", compression="zlib", predictor=True),
    "tiff 16 lzw": lambda: bytes(cv2.imencode(".tif", photo(3, 16)[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1]),
    "tiff 16 rgba": lambda: tiff(photo(4, 16), photometric="rgb", extrasamples=["unassalpha"]),
    "tiff 16 premultiplied": lambda: tiff(photo(4, 16), photometric="rgb", extrasamples=["assocalpha"]),
    "tiff premultiplied": lambda: tiff(photo(4), photometric="rgb", extrasamples=["assocalpha"]),
    "tiff grey alpha": lambda: tiff(
        photo(2), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "tiff 16 grey": lambda: tiff(photo(1, 16), photometric="minisblack"),
    "tiff 16 grey alpha": lambda: tiff(
        photo(2, 16), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "tiff 16 planar": lambda: tiff(photo(3, 16).transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "webp lossless": lambda: pillow(photo(), "WEBP", lossless=True),
    "webp lossless rgba": lambda: pillow(photo(4), "WEBP", lossless=True, exact=True),
    "bmp": lambda: pillow(photo(), "BMP"),
    "bmp grey": lambda: pillow(photo(1), "BMP"),
}
DEEP = {name for name in LOSSLESS if " 16" in name}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_containers_keep_every_pixel(name):
    original = LOSSLESS[name]()
    before = image_io.decode(original)
    written = image_io.encode(before, original, PROVENANCE)
    after = image_io.decode(written)

    channels = 1 + ("alpha" in name) if "grey" in name else 3 + any(w in name for w in ("rgba", "premultiplied"))
    source = photo(channels, 16 if name in DEEP else 8)
    colours = source[..., None] if source.ndim == 2 else source[..., :1] if "grey" in name else source[..., :3]
    assert np.array_equal(to_levels(before.pixels, before.depth), np.broadcast_to(colours, (*SHAPE, 3)))
    assert before.depth == (16 if name in DEEP else 8)
    assert before.grey is ("grey" in name)
    assert np.array_equal(after.pixels, before.pixels)
    assert (after.format, after.depth, after.grey) == (before.format, before.depth, before.grey)
    if channels in (2, 4):
        assert np.array_equal(before.alpha, source[..., -1])
        assert np.array_equal(after.alpha, before.alpha)
    else:
        assert before.alpha is after.alpha is None


def test_premultiplied_alpha_stays_declared_so():
    original = LOSSLESS["tiff 16 premultiplied"]()
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.pages.first.tags[338].value == (1,)


@pytest.mark.parametrize("packed", [False, True])
def test_tiff_is_packed_only_where_it_was(packed):
    original = pillow(photo(), "TIFF", **({"compression": "tiff_lzw"} if packed else {}))
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert (file.pages.first.compression != 1) is packed


WITH_EXIF = {
    "JPEG": lambda block: pillow(photo(), "JPEG", quality=95, exif=block),
    "PNG": lambda block: pillow(photo(), "PNG", exif=block),
    "WEBP": lambda block: pillow(photo(), "WEBP", lossless=True, exif=block),
    "TIFF": lambda block: pillow(photo(), "TIFF", exif=block),
}


@pytest.mark.parametrize("kind", WITH_EXIF)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(kind, orientation):
    original = WITH_EXIF[kind](exif(orientation))
    picture = image_io.decode(original)
    turned = Image.fromarray(photo())
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    expected = to_float(np.asarray(turned if turn is None else turned.transpose(turn)))
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels - expected).mean() < (0.02 if kind == "JPEG" else 1e-9)

    written = image_io.encode(picture, original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Contax"
    assert image_io.decode(written).pixels.shape == picture.pixels.shape


def test_sixteen_bit_tiff_is_turned_upright():
    original = tiff(photo(3, 16), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    picture = image_io.decode(original)
    assert np.array_equal(to_levels(picture.pixels, 16), np.rot90(photo(3, 16), -1))
    written = image_io.encode(picture, original, PROVENANCE)
    assert np.array_equal(image_io.decode(written).pixels, picture.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_profile_density_and_provenance_travel(kind):
    options = {"JPEG": {"quality": 90}, "WEBP": {"lossless": True}}.get(kind, {})
    original = pillow(photo(), kind, icc_profile=SRGB, dpi=(300, 300), **options)
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == SRGB
        if kind != "WEBP":  # which has no place for it
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        packet = image.info["xmp"]
    assert metadata.read_provenance(packet) == PROVENANCE


def test_sixteen_bit_png_carries_text_profile_and_provenance():
    chunk = png.put_png_metadata(
        png16(photo(3, 16)),
        Metadata(icc=SRGB, carried=(("tEXt", b"Author\0Nobody"), ("pHYs", struct.pack(">IIB", 11811, 11811, 1)))),
    )
    written = image_io.encode(image_io.decode(chunk), chunk, PROVENANCE)
    found = png.read_png_metadata(written)
    assert found.icc == SRGB
    assert ("tEXt", b"Author\0Nobody") in found.carried
    assert metadata.read_provenance(found.xmp) == PROVENANCE
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_tiff_text_and_exif_directories_travel():
    block = Image.Exif()
    block[270], block[315] = "Migrant Mother", "Dorothea Lange"
    block.get_ifd(0x8769).update({0x8827: 100, 0x9003: "1936:03:01 10:00:00"})
    block.get_ifd(0x8825).update({2: (35.0, 2.0, 30.0)})
    with Image.open(io.BytesIO(pillow(photo(), "JPEG", exif=block.tobytes()))) as camera:
        block = camera.getexif()
        assert block.get_ifd(0x8769)
    original = pillow(photo(), "TIFF", exif=block)
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        exif = image.getexif()
        assert (exif[270], exif[315]) == ("Migrant Mother", "Dorothea Lange")
        assert exif.get_ifd(0x8769)[0x8827] == 100
        assert exif.get_ifd(0x8769)[0x9003] == "1936:03:01 10:00:00"
        assert exif.get_ifd(0x8825)[0x0002] == (35.0, 2.0, 30.0)
    assert np.array_equal(image_io.decode(written).pixels, to_float(photo()))


def test_tiff_text_that_is_not_ascii_travels():
    original = tiff(photo(), photometric="rgb", extratags=[(270, 2, 0, "Großmutter, Düsseldorf".encode(), True)])
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.pages.first.tags[270].value == "Großmutter, Düsseldorf"


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
    with contextlib.suppress(image_io.DecodeError):
        picture = image_io.decode(bytes(original))
        assert image_io.decode(image_io.encode(picture, bytes(original), PROVENANCE)).width == SHAPE[1]


def test_jpeg_keeps_exif_bytes_comment_and_iptc():
    iptc = b"8BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x78\0\5Hello\0"
    bare = pillow(photo(), "JPEG", quality=80, comment=b"from the attic")
    original = put_jpeg_metadata(
        bare, Metadata(exif=exif(6)[6:], iptc=iptc, icc=SRGB * 200, carried=(("COM", b"from the attic"),))
    )
    picture = image_io.decode(original)
    found = read_jpeg_metadata(image_io.encode(picture, original, PROVENANCE))
    assert found.iptc == iptc
    assert found.icc == SRGB * 200, "a profile longer than one segment"
    assert ("COM", b"from the attic") in found.carried
    assert len(found.exif) == len(exif(6)[6:])
    assert metadata.orientation_of(found.exif) == 1


def test_history_grows_and_foreign_properties_stay():
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" '
        b'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:City="Nipomo"/></rdf:RDF></x:xmpmeta>'
    )
    once = metadata.with_provenance(packet, PROVENANCE)
    twice = metadata.with_provenance(once, PROVENANCE | {"recipe": "mpsr"})
    assert b'photoshop:City="Nipomo"' in twice
    assert b'tiff:Orientation="1"' in twice
    assert twice.count(b"<stEvt:action>edited</stEvt:action>") == 2
    assert metadata.read_provenance(twice)["recipe"] == "mpsr"
    ElementTree.fromstring(twice)


@pytest.mark.parametrize("packet", [b"<broken", b"\xff\xfe\0\0", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', b""])
def test_unreadable_xmp_is_replaced(packet):
    assert metadata.read_provenance(metadata.with_provenance(packet, PROVENANCE)) == PROVENANCE


def test_thumbnail_that_shows_old_pixels_is_unlinked():
    block = bytearray(exif(1)[6:])
    count = struct.unpack_from("<H" if block[:2] == b"II" else ">H", block, 8)[0]
    order = "<" if block[:2] == b"II" else ">"
    struct.pack_into(order + "I", block, 10 + 12 * count, 1234)
    assert struct.unpack_from(order + "I", metadata.upright_exif(bytes(block)), 10 + 12 * count)[0] == 0


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 9, b"junk" * 9]
)
def test_damaged_exif_is_left_alone(block):
    assert metadata.orientation_of(block) == 1
    assert len(metadata.upright_exif(block)) == len(block)


@pytest.mark.parametrize("quality", [30, 60, 80, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_untouched_jpeg_barely_changes(quality, subsampling):
    big = cv2.resize(photo(), (320, 240), interpolation=cv2.INTER_CUBIC)
    original = pillow(big, "JPEG", quality=quality, subsampling=subsampling, progressive=True)
    before = image_io.decode(original)
    written = image_io.encode(before, original, PROVENANCE)
    change = np.abs(to_levels(image_io.decode(written).pixels, 8).astype(int) - to_levels(before.pixels, 8))
    assert change.mean() < 0.35
    with Image.open(io.BytesIO(original)) as old, Image.open(io.BytesIO(written)) as new:
        assert old.layer == new.layer
        assert "progressive" in new.info
        for number, table in old.quantization.items():
            assert max(new.quantization[0]) <= 25, "luma no coarser than quality 90"
            assert all(a % b == 0 for a, b in zip(table, new.quantization[number], strict=True))


def test_finer_tables_keep_fine_steps_and_divide_coarse_ones():
    tables = finer_tables({0: [1] * 64, 1: [60] * 64})
    assert tables[0] == [1] * 64
    assert all(60 % step == 0 and step <= 20 for step in tables[1])


def test_very_noisy_progressive_jpeg_is_written():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    original = pillow(noise, "JPEG", quality=100, subsampling=0)
    assert image_io.decode(image_io.encode(image_io.decode(original), original, PROVENANCE)).width == 200


def test_grey_jpeg_stays_grey_even_when_a_stage_coloured_it():
    original = pillow(photo(1), "JPEG", quality=90)
    picture = image_io.decode(original)
    coloured = Picture(picture.pixels * np.float32([1, 0.9, 0.8]), grey=True, format="JPEG", mode="L")
    with Image.open(io.BytesIO(image_io.encode(coloured, original, PROVENANCE))) as image:
        assert image.mode == "L"


def test_rgb_jpeg_without_colour_transform_stays_so():
    original = pillow(photo(), "JPEG", quality=92, keep_rgb=True)
    written = image_io.encode(image_io.decode(original), original, PROVENANCE)
    assert np.abs(image_io.decode(written).pixels - image_io.decode(original).pixels).mean() < 2e-3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_and_says_so(kind):
    sink = io.BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(sink, kind)
    picture = image_io.decode(sink.getvalue())
    assert "CMYK" in picture.notes[0]
    assert np.abs(picture.pixels - to_float(photo())).mean() < 0.02
    with Image.open(io.BytesIO(image_io.encode(picture, sink.getvalue(), PROVENANCE))) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_becomes_colours(kind):
    sink = io.BytesIO()
    palette = Image.fromarray(photo()).quantize(64)
    palette.save(sink, kind)
    picture = image_io.decode(sink.getvalue())
    assert picture.notes
    assert np.array_equal(picture.pixels, to_float(np.asarray(palette.convert("RGB"))))
    again = image_io.decode(image_io.encode(picture, sink.getvalue(), PROVENANCE))
    assert again.format == kind
    assert np.abs(again.pixels - picture.pixels).mean() < 0.02


def test_transparent_palette_keeps_its_alpha():
    sink = io.BytesIO()
    Image.fromarray(photo()).quantize(16).save(sink, "PNG", transparency=3)
    picture = image_io.decode(sink.getvalue())
    assert set(np.unique(picture.alpha)) == {0, 255}


def test_one_bit_scan_is_grey():
    sink = io.BytesIO()
    Image.fromarray(photo(1)).convert("1").save(sink, "TIFF", compression="group4")
    picture = image_io.decode(sink.getvalue())
    assert picture.grey
    assert set(np.unique(picture.pixels)) == {0, 1}
    assert np.array_equal(image_io.decode(image_io.encode(picture, sink.getvalue(), PROVENANCE)).pixels, picture.pixels)


def test_heic_is_read_upright_and_written():
    pytest.importorskip("pillow_heif").register_heif_opener()
    original = pillow(photo(), "HEIF", quality=95, exif=exif(6))
    picture = image_io.decode(original)
    assert (picture.height, picture.width) == SHAPE[::-1]
    written = image_io.encode(picture, original, PROVENANCE)
    assert np.abs(image_io.decode(written).pixels - picture.pixels).mean() < 0.03


def test_heic_without_its_library_is_unsupported(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(image_io.DecodeError, match="heif") as caught:
        image_io.decode(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    assert caught.value.reason_code == "unsupported_format"


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
    "png without end": (lambda: pillow(photo(), "PNG")[:-12], "corrupt"),
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
    with pytest.raises(image_io.DecodeError) as caught:
        image_io.decode(make())
    assert caught.value.reason_code == reason
    assert str(caught.value).startswith("expected")


def test_every_cut_of_every_format_is_an_outcome():
    whole = [pillow(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")]
    whole += [LOSSLESS[name]() for name in ("png 16 rgba", "tiff 16 lzw", "tiff 16 deflate")]
    for data in whole:
        for cut in range(1, len(data), max(1, len(data) // 23)):
            with contextlib.suppress(image_io.DecodeError):
                assert image_io.decode(data[:cut]).pixels.shape == (*SHAPE, 3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 2), (2, 30_000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_odd_sizes_are_ordinary(kind, width, height):
    original = pillow(np.full((height, width, 3), 90, np.uint8), kind)
    picture = image_io.decode(original)
    assert (picture.width, picture.height) == (width, height)
    again = image_io.decode(image_io.encode(picture, original, PROVENANCE))
    assert np.array_equal(again.pixels, picture.pixels)


def test_limits_speak_from_the_header_alone():
    data = pillow(photo(), "PNG")[:60]
    with pytest.raises(image_io.DecodeError) as caught:
        image_io.read_header(io.BytesIO(data), image_io.Limits(max_pixels=100))
    assert caught.value.reason_code == "too_large"
    assert (caught.value.header.width, caught.value.header.height) == SHAPE[::-1]


def test_content_decides_the_format():
    assert image_io.sniff(pillow(photo(), "PNG")) == "PNG"
    assert image_io.sniff(b"\0\0\0\x20ftypavif") == "AVIF"
    assert image_io.sniff(b"BM") == "BMP"
    assert image_io.sniff(b"hello") is None


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_reduced_copy_in_a_tiff_is_no_second_page(options):
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, **options) as writer:
        writer.write(photo(), photometric="rgb", metadata=None)
        writer.write(photo()[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    assert image_io.decode(sink.getvalue()).width == SHAPE[1]


def test_a_page_that_names_itself_as_the_next_is_one_page():
    data = bytearray(tiff(photo(), photometric="rgb"))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], start)
    assert np.array_equal(image_io.decode(bytes(data)).pixels, to_float(photo()))


def test_xmp_without_room_for_provenance_stays_and_a_comment_tells():
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>" + b"z" * 65_000 + b"</a></x:xmpmeta>"
    original = put_jpeg_metadata(pillow(photo(), "JPEG"), Metadata(xmp=packet))
    found = read_jpeg_metadata(image_io.encode(image_io.decode(original), original, PROVENANCE))
    assert found.xmp == packet
    assert b'"recipe": "compact"' in dict(found.carried)["COM"]


def test_damaged_profile_and_text_of_a_png_harm_no_pixel():
    chunks = [(b"iCCP", b"x\0\0junk"), (b"iTXt", png.PNG_XMP + b"\1\0\0\0junk"), (b"iTXt", png.PNG_XMP)]
    bare = png16(photo(3, 16))
    original = bare[:33] + png.png_bytes(chunks) + bare[33:]
    picture = image_io.decode(original)
    assert np.array_equal(to_levels(picture.pixels, 16), photo(3, 16))
    assert metadata.read_provenance(png.read_png_metadata(image_io.encode(picture, original, PROVENANCE)).xmp)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample pictures at {SAMPLES}")
def test_samples_decode_and_come_back():
    for path in sorted(SAMPLES.glob("[0-2]*")):
        data = path.read_bytes()
        if "truncated" in path.name:
            with pytest.raises(image_io.DecodeError):
                image_io.decode(data)
            continue
        picture = image_io.decode(data)
        if picture.width * picture.height > 1_500_000:
            continue
        again = image_io.decode(image_io.encode(picture, data, PROVENANCE))
        change = np.abs(again.pixels - picture.pixels)
        assert change.mean() * 255 < 0.5, path.name
        assert picture.format == "JPEG" or not change.any(), path.name


def test_a_tiff_with_a_pyramid_is_no_raw_file():
    assert image_io.decode(camera_raw(subfiletype=0)).pixels.shape == (*SHAPE, 3)


def test_a_second_picture_in_a_jpeg_is_said_to_be_left():
    sink = io.BytesIO()
    Image.fromarray(photo()).save(sink, "MPO", save_all=True, append_images=[Image.fromarray(photo(seed=1))])
    assert image_io.decode(sink.getvalue()).notes[0].startswith("2 pictures in one file")


def test_deep_heif_is_said_to_be_reduced():
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    sink = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", SHAPE[::-1], photo(depth=16).tobytes()).save(sink, quality=90)
    assert image_io.decode(sink.getvalue()).notes == ("10 bits reduced to 8",)
