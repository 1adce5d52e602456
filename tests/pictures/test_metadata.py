"""What stands beside the pixels travels, and the provenance with it."""

import io
import struct
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from made_files import PROVENANCE, SRGB, exif, photo, pillow, png16, tiff
from PIL import Image

from tasks.pictures import codec
from tasks.pictures.blocks import xmp
from tasks.pictures.blocks.exif import orientation_of, upright_exif
from tasks.pictures.formats import png
from tasks.pictures.formats.jpeg import put_jpeg_metadata, read_jpeg_metadata
from tasks.pictures.picture import Metadata, to_float, to_levels
from tasks.pictures.turning import Turning

AS_IT_IS = Turning(1, 53, 37)


def with_provenance(packet, provenance):
    return xmp.with_provenance(packet, provenance, AS_IT_IS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_profile_density_and_provenance_travel(kind):
    options = {"JPEG": {"quality": 90}, "WEBP": {"lossless": True}}.get(kind, {})
    original = pillow(photo(), kind, icc_profile=SRGB, dpi=(300, 300), **options)
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["icc_profile"] == SRGB
        if kind != "WEBP":  # which has no place for it
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        packet = image.info["xmp"]
    assert xmp.read_provenance(packet) == PROVENANCE


def test_sixteen_bit_png_carries_text_profile_and_provenance():
    chunk = png.put_png_metadata(
        png16(photo(3, 16)),
        Metadata(icc=SRGB, carried=(("tEXt", b"Author\0Nobody"), ("pHYs", struct.pack(">IIB", 11811, 11811, 1)))),
    )
    written = codec.encode(codec.decode(chunk), chunk, PROVENANCE)
    found = png.read_png_metadata(written)
    assert found.icc == SRGB
    assert ("tEXt", b"Author\0Nobody") in found.carried
    assert xmp.read_provenance(found.xmp) == PROVENANCE
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
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with Image.open(io.BytesIO(written)) as image:
        exif = image.getexif()
        assert (exif[270], exif[315]) == ("Migrant Mother", "Dorothea Lange")
        assert exif.get_ifd(0x8769)[0x8827] == 100
        assert exif.get_ifd(0x8769)[0x9003] == "1936:03:01 10:00:00"
        assert exif.get_ifd(0x8825)[0x0002] == (35.0, 2.0, 30.0)
    assert np.array_equal(codec.decode(written).pixels, to_float(photo()))


def test_tiff_text_that_is_not_ascii_travels():
    original = tiff(photo(), photometric="rgb", extratags=[(270, 2, 0, "Großmutter, Düsseldorf".encode(), True)])
    written = codec.encode(codec.decode(original), original, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(written)) as file:
        assert file.pages.first.tags[270].value == "Großmutter, Düsseldorf"


def test_jpeg_keeps_exif_bytes_comment_and_iptc():
    iptc = b"8BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x78\0\5Hello\0"
    bare = pillow(photo(), "JPEG", quality=80, comment=b"from the attic")
    original = put_jpeg_metadata(
        bare, Metadata(exif=exif(6)[6:], iptc=iptc, icc=SRGB * 200, carried=(("COM", b"from the attic"),))
    )
    picture = codec.decode(original)
    found = read_jpeg_metadata(codec.encode(picture, original, PROVENANCE))
    assert found.iptc == iptc
    assert found.icc == SRGB * 200, "a profile longer than one segment"
    assert ("COM", b"from the attic") in found.carried
    assert len(found.exif) == len(exif(6)[6:])
    assert orientation_of(found.exif) == 1


def test_xmp_without_room_for_provenance_stays_and_a_comment_tells():
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>" + b"z" * 65_000 + b"</a></x:xmpmeta>"
    original = put_jpeg_metadata(pillow(photo(), "JPEG"), Metadata(xmp=packet))
    found = read_jpeg_metadata(codec.encode(codec.decode(original), original, PROVENANCE))
    assert found.xmp == packet
    assert b'"recipe": "compact"' in dict(found.carried)["COM"]


def test_damaged_profile_and_text_of_a_png_harm_no_pixel():
    chunks = [(b"iCCP", b"x\0\0junk"), (b"iTXt", png.PNG_XMP + b"\1\0\0\0junk"), (b"iTXt", png.PNG_XMP)]
    bare = png16(photo(3, 16))
    original = bare[:33] + png.png_bytes(chunks) + bare[33:]
    picture = codec.decode(original)
    assert np.array_equal(to_levels(picture.pixels, 16), photo(3, 16))
    assert xmp.read_provenance(png.read_png_metadata(codec.encode(picture, original, PROVENANCE)).xmp)


def test_history_grows_and_foreign_properties_stay():
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" '
        b'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:City="Nipomo"/></rdf:RDF></x:xmpmeta>'
    )
    once = with_provenance(packet, PROVENANCE)
    twice = with_provenance(once, PROVENANCE | {"recipe": "mpsr"})
    assert b'photoshop:City="Nipomo"' in twice
    assert b'tiff:Orientation="1"' in twice
    assert twice.count(b"<stEvt:action>edited</stEvt:action>") == 2
    assert xmp.read_provenance(twice)["recipe"] == "mpsr"
    ElementTree.fromstring(twice)


@pytest.mark.parametrize("packet", [b"<broken", b"\xff\xfe\0\0", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', b""])
def test_unreadable_xmp_is_replaced(packet):
    assert xmp.read_provenance(with_provenance(packet, PROVENANCE)) == PROVENANCE


def test_thumbnail_that_shows_old_pixels_is_unlinked():
    block = bytearray(exif(1)[6:])
    count = struct.unpack_from("<H" if block[:2] == b"II" else ">H", block, 8)[0]
    order = "<" if block[:2] == b"II" else ">"
    struct.pack_into(order + "I", block, 10 + 12 * count, 1234)
    assert struct.unpack_from(order + "I", upright_exif(bytes(block), AS_IT_IS), 10 + 12 * count)[0] == 0


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 9, b"junk" * 9]
)
def test_damaged_exif_is_left_alone(block):
    assert orientation_of(block) is None
    assert len(upright_exif(block, AS_IT_IS)) == len(block)
