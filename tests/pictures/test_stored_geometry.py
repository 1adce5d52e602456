"""Every path to pixels gives the same picture: container × depth × compression × channels × orientation."""

import io

import numpy as np
import pytest
import tifffile
from made_files import LOSSLESS, PROVENANCE, SHAPE, exif, photo, pillow, tiff
from PIL import Image

from tasks.pictures import codec
from tasks.pictures.blocks.directories import Entry, pages, with_directory
from tasks.pictures.formats import png
from tasks.pictures.picture import Metadata, to_levels

ORIENTATIONS = range(1, 9)
COMPRESSIONS = ["none", "lzw", "zstd", "zlib", "packbits", "lzma"]
CHANNELS = {
    "grey": (1, {"photometric": "minisblack"}),
    "grey + alpha": (2, {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}),
    "rgb": (3, {"photometric": "rgb"}),
    "rgb + alpha": (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "rgb + premultiplied": (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    "rgb + unknown": (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "rgb + two": (5, {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}),
}


def turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows, as numpy has it: written down from the standard, independently of the code."""
    sideways = levels.swapaxes(0, 1)
    return {
        1: levels,
        2: levels[:, ::-1],
        3: levels[::-1, ::-1],
        4: levels[::-1],
        5: sideways,
        6: sideways[:, ::-1],
        7: sideways[::-1, ::-1],
        8: sideways[::-1],
    }[orientation]


def check(original: bytes, stored: np.ndarray, orientation: int) -> codec.Picture:
    """Decodes, compares with what was stored, and does it once more with what is written from it."""
    stored = stored.reshape(*stored.shape[:2], -1)
    colours = 1 if stored.shape[2] < 3 else 3
    picture = codec.decode(original)
    wanted = turned(stored, orientation)
    for each in (picture, codec.decode(codec.encode(picture, original, PROVENANCE))):
        assert np.array_equal(
            to_levels(each.pixels, each.depth), np.broadcast_to(wanted[..., :colours], each.pixels.shape)
        )
        beside = wanted[..., colours:]
        assert (each.alpha is None) == (beside.shape[2] == 0)
        if each.alpha is not None:
            assert np.array_equal(each.alpha.reshape(beside.shape), beside)
        assert each.depth == 8 * stored.itemsize
    return picture


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff(depth, channels, compression):
    count, options = CHANNELS[channels]
    stored = photo(count, depth)
    for orientation in ORIENTATIONS:
        tag = [(274, 3, 1, orientation, True)]
        packed = {} if compression == "none" else {"compression": compression}
        check(tiff(stored, extratags=tag, **options, **packed), stored, orientation)


@pytest.mark.parametrize("kind", [kind for kind in CHANNELS if "+" in kind])
@pytest.mark.parametrize("packed", [{}, {"compression": "lzw"}])
def test_a_channel_beside_the_colours_keeps_its_meaning(kind, packed):
    count, options = CHANNELS[kind]
    original = tiff(photo(count), **options, **packed)
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(original)) as before, tifffile.TiffFile(io.BytesIO(written)) as after:
        assert before.pages.first.extrasamples == after.pages.first.extrasamples


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"bigtiff": True}, {"bigtiff": True, "byteorder": ">"}])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"planarconfig": "separate"}])
def test_tiff_in_every_layout(options, layout):
    stored = photo(3, 16)
    array = np.moveaxis(stored, 2, 0).copy() if "planarconfig" in layout else stored
    tag = [(274, 3, 1, 6, True), (270, 2, 0, b"Grandma\0", True)]
    original = tiff(array, photometric="rgb", compression="lzw", predictor=True, extratags=tag, **options, **layout)
    check(original, stored, 6)
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.byteorder == options.get("byteorder", "<")
        assert file.is_bigtiff == options.get("bigtiff", False)
        assert file.pages.first.tags[270].value == "Grandma"


@pytest.mark.parametrize(
    "name", ["png", "png rgba", "png grey", "png grey alpha", "png 16", "png 16 rgba", "png 16 grey"]
)
@pytest.mark.parametrize("place", ["exif", "text", "xmp"])
def test_png(name, place):
    stored = photo({"grey": 1, "rgba": 4, "alpha": 2}.get(name.split()[-1], 3), 16 if " 16" in name else 8)
    for orientation in ORIENTATIONS:
        block = exif(orientation)[6:]
        text = b"Raw profile type exif\0" + b"\nexif\n%8d\n" % (len(block) + 6) + (b"Exif\0\0" + block).hex().encode()
        found = {
            "exif": Metadata(exif=block),
            "text": Metadata(carried=(("tEXt", text + b"\n"),)),
            "xmp": Metadata(xmp=xmp_with(orientation)),
        }[place]
        check(png.put_png_metadata(LOSSLESS[name](), found), stored, orientation)


def xmp_with(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
@pytest.mark.parametrize("channels", [3, 4])
def test_other_lossless_containers(kind, channels):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    for orientation in ORIENTATIONS if kind == "WEBP" else (1,):
        block = {"exif": exif(orientation)} if kind == "WEBP" else {}
        check(pillow(photo(channels), kind, **options, **block), photo(channels), orientation)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "HEIF"])
def test_lossy_containers_stay_near(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    options = {"JPEG2000": {"irreversible": True, "quality_layers": [4]}}.get(kind, {"quality": 90})
    original = pillow(photo(), kind, **options)
    picture = codec.decode(original)
    again = codec.decode(codec.encode(picture, original, PROVENANCE))
    assert again.pixels.shape == (*SHAPE, 3)
    assert np.abs(again.pixels - picture.pixels).mean() * 255 < 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_avif_is_turned_upright_once(orientation):
    original = pillow(photo(), "AVIF", quality=95, exif=exif(orientation))
    picture = codec.decode(original)
    wanted = turned(photo(), orientation) / 255
    assert picture.pixels.shape == wanted.shape
    assert np.abs(picture.pixels - wanted).mean() * 255 < 5
    again = codec.decode(codec.encode(picture, original, PROVENANCE))
    assert np.abs(again.pixels - wanted).mean() * 255 < 6


@pytest.mark.parametrize(("shape", "taken"), [((4, 4), True), ((3, 3), True), ((1, 1), False), ((4, 2), False)])
def test_a_smaller_copy_needs_no_mark_to_be_known_as_one(shape, taken):
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        writer.write(photo(), photometric="rgb", metadata=None)
        writer.write(photo(seed=1)[:: shape[0], :: shape[1]], photometric="rgb", metadata=None)
    if taken:
        assert codec.decode(sink.getvalue()).notes == ("1 reduced copies of the picture (thumbnails) left out",)
    else:
        with pytest.raises(codec.DecodeError, match="2 pages"):
            codec.decode(sink.getvalue())


def test_photoshop_layers_and_thumbnails_are_said_to_be_left():
    bare = tiff(photo(), photometric="rgb")
    entries = next(pages(io.BytesIO(bare))) | {37724: Entry(37724, 7, b"Adobe Photoshop Document Data Block\0" * 9)}
    original = with_directory(bare, entries, {})
    picture = codec.decode(original)
    assert picture.notes == ("Photoshop's layers left out; the picture is kept",)
    with Image.open(io.BytesIO(codec.encode(picture, original, PROVENANCE))) as image:
        assert 37724 not in image.tag_v2


def test_a_channel_that_pillow_leaves_out_is_said():
    cmyk = np.asarray(Image.fromarray(photo()).convert("CMYK"))
    spot = np.dstack([cmyk, np.full(SHAPE, 7, np.uint8)])
    picture = codec.decode(tiff(spot, photometric="separated", extrasamples=["unspecified"]))
    assert picture.notes[-1] == "what the file holds beside its colours (alpha) left out"
    assert len(codec.decode(tiff(cmyk, photometric="separated")).notes) == 1


def test_an_installation_without_imagecodecs_is_told_what_to_do(monkeypatch):
    def refuse(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    original = tiff(photo(), photometric="rgb", compression="lzw")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(codec.DecodeError, match="package imagecodecs, which unpacks LZW; run `make setup`") as caught:
        codec.decode(original)
    assert caught.value.reason_code == "unsupported_format"
