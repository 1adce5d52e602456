"""Decode and encode: pixels survive lossless containers, and come out upright, in grey or RGB."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import tifffile
from made_files import DEEP, LOSSLESS, PROVENANCE, SHAPE, exif, photo, pillow, tiff
from PIL import Image
from places import SHARED

from tasks.pictures import codec
from tasks.pictures.formats.jpeg import finer_tables
from tasks.pictures.picture import Picture, to_float, to_levels

SAMPLES = SHARED / "data" / "samples"


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_containers_keep_every_pixel(name):
    original = LOSSLESS[name]()
    before = codec.decode(original)
    written = codec.encode(before, original, PROVENANCE)
    after = codec.decode(written)

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
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.pages.first.tags[338].value == (1,)


@pytest.mark.parametrize("packed", [False, True])
def test_tiff_is_packed_only_where_it_was(packed):
    original = pillow(photo(), "TIFF", **({"compression": "tiff_lzw"} if packed else {}))
    written = codec.encode(codec.decode(original), original, PROVENANCE)
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
    picture = codec.decode(original)
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

    written = codec.encode(picture, original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Contax"
    assert codec.decode(written).pixels.shape == picture.pixels.shape


def test_sixteen_bit_tiff_is_turned_upright():
    original = tiff(photo(3, 16), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    picture = codec.decode(original)
    assert np.array_equal(to_levels(picture.pixels, 16), np.rot90(photo(3, 16), -1))
    written = codec.encode(picture, original, PROVENANCE)
    assert np.array_equal(codec.decode(written).pixels, picture.pixels)


@pytest.mark.parametrize("quality", [30, 60, 80, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_untouched_jpeg_barely_changes(quality, subsampling):
    big = cv2.resize(photo(), (320, 240), interpolation=cv2.INTER_CUBIC)
    original = pillow(big, "JPEG", quality=quality, subsampling=subsampling, progressive=True)
    before = codec.decode(original)
    written = codec.encode(before, original, PROVENANCE)
    change = np.abs(to_levels(codec.decode(written).pixels, 8).astype(int) - to_levels(before.pixels, 8))
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
    assert codec.decode(codec.encode(codec.decode(original), original, PROVENANCE)).width == 200


def test_grey_jpeg_stays_grey_even_when_a_stage_coloured_it():
    original = pillow(photo(1), "JPEG", quality=90)
    picture = codec.decode(original)
    coloured = Picture(picture.pixels * np.float32([1, 0.9, 0.8]), grey=True, format="JPEG", mode="L")
    with Image.open(io.BytesIO(codec.encode(coloured, original, PROVENANCE))) as image:
        assert image.mode == "L"


def test_rgb_jpeg_without_colour_transform_stays_so():
    original = pillow(photo(), "JPEG", quality=92, keep_rgb=True)
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    assert np.abs(codec.decode(written).pixels - codec.decode(original).pixels).mean() < 2e-3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_and_says_so(kind):
    sink = io.BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(sink, kind)
    picture = codec.decode(sink.getvalue())
    assert "CMYK" in picture.notes[0]
    assert np.abs(picture.pixels - to_float(photo())).mean() < 0.02
    with Image.open(io.BytesIO(codec.encode(picture, sink.getvalue(), PROVENANCE))) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_becomes_colours(kind):
    sink = io.BytesIO()
    palette = Image.fromarray(photo()).quantize(64)
    palette.save(sink, kind)
    picture = codec.decode(sink.getvalue())
    assert picture.notes
    assert np.array_equal(picture.pixels, to_float(np.asarray(palette.convert("RGB"))))
    again = codec.decode(codec.encode(picture, sink.getvalue(), PROVENANCE))
    assert again.format == kind
    assert np.abs(again.pixels - picture.pixels).mean() < 0.02


def test_transparent_palette_keeps_its_alpha():
    sink = io.BytesIO()
    Image.fromarray(photo()).quantize(16).save(sink, "PNG", transparency=3)
    picture = codec.decode(sink.getvalue())
    assert set(np.unique(picture.alpha)) == {0, 255}


def test_alpha_of_a_bmp_stays_declared():
    original = pillow(photo(4), "BMP")
    declared = codec.encode(dataclasses.replace(codec.decode(original), alpha=photo(4)[..., 3]), original, PROVENANCE)
    with Image.open(io.BytesIO(declared)) as image:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image), photo(4))
    assert np.array_equal(
        codec.decode(codec.encode(codec.decode(declared), declared, PROVENANCE)).alpha, photo(4)[..., 3]
    )


def test_one_bit_scan_is_grey():
    sink = io.BytesIO()
    Image.fromarray(photo(1)).convert("1").save(sink, "TIFF", compression="group4")
    picture = codec.decode(sink.getvalue())
    assert picture.grey
    assert set(np.unique(picture.pixels)) == {0, 1}
    assert np.array_equal(codec.decode(codec.encode(picture, sink.getvalue(), PROVENANCE)).pixels, picture.pixels)


def test_heic_is_read_upright_and_written():
    pytest.importorskip("pillow_heif").register_heif_opener()
    original = pillow(photo(), "HEIF", quality=95, exif=exif(6))
    picture = codec.decode(original)
    assert (picture.height, picture.width) == SHAPE[::-1]
    written = codec.encode(picture, original, PROVENANCE)
    assert np.abs(codec.decode(written).pixels - picture.pixels).mean() < 0.03


def test_a_second_picture_in_a_jpeg_is_said_to_be_left():
    sink = io.BytesIO()
    Image.fromarray(photo()).save(sink, "MPO", save_all=True, append_images=[Image.fromarray(photo(seed=1))])
    assert codec.decode(sink.getvalue()).notes[0].startswith("2 pictures in one file")


def test_deep_heif_is_said_to_be_reduced():
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    sink = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", SHAPE[::-1], photo(depth=16).tobytes()).save(sink, quality=90)
    assert codec.decode(sink.getvalue()).notes == ("10 bits reduced to 8",)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 2), (2, 30_000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_odd_sizes_are_ordinary(kind, width, height):
    original = pillow(np.full((height, width, 3), 90, np.uint8), kind)
    picture = codec.decode(original)
    assert (picture.width, picture.height) == (width, height)
    again = codec.decode(codec.encode(picture, original, PROVENANCE))
    assert np.array_equal(again.pixels, picture.pixels)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample pictures at {SAMPLES}")
def test_samples_decode_and_come_back():
    for path in sorted(SAMPLES.glob("[0-2]*")):
        data = path.read_bytes()
        if "truncated" in path.name:
            with pytest.raises(codec.DecodeError):
                codec.decode(data)
            continue
        picture = codec.decode(data)
        if picture.width * picture.height > 1_500_000:
            continue
        again = codec.decode(codec.encode(picture, data, PROVENANCE))
        change = np.abs(again.pixels - picture.pixels)
        assert change.mean() * 255 < 0.5, path.name
        assert picture.format == "JPEG" or not change.any(), path.name
