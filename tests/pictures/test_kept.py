"""Metadata is kept wherever it stands, stays true for the upright picture, or a note says what went."""

import io
import random
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from made_files import PROVENANCE, SRGB, exif, photo, pillow, tiff
from PIL import Image

from tasks.pictures import codec
from tasks.pictures.blocks.directories import Entry, directory_below, pages, with_directory
from tasks.pictures.blocks.exif import upright_exif
from tasks.pictures.blocks.segments import Segment, segment_bytes
from tasks.pictures.blocks.xmp import read_provenance, with_provenance
from tasks.pictures.formats.jpeg import JPEG_XMP, read_jpeg_metadata
from tasks.pictures.formats.png import png_bytes, read_png_metadata
from tasks.pictures.turning import Turning

WIDE, HIGH = 53, 37
SIDEWAYS = Turning(6, HIGH, WIDE)
"""How a picture of made_files, taken with the camera held upright, becomes itself."""


def jpeg(*segments: tuple[int, bytes], **options) -> bytes:
    bare = pillow(photo(), "JPEG", quality=90, **options)
    return bare[:2] + segment_bytes(Segment(*each) for each in segments) + bare[2:]


def again(original: bytes) -> bytes:
    return codec.encode(codec.decode(original), original, PROVENANCE)


def block(*entries: tuple[int, int, bytes], order="<") -> bytes:
    """An EXIF block whose EXIF directory holds entries of (tag, type, value); values of up to 4 bytes or behind it."""
    start, table, tail = 8 + 2 + 12 + 4, b"", b""
    room = start + 2 + 12 * len(entries) + 4
    for tag, kind, value in sorted(entries):
        count = len(value) // {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field, tail = struct.pack(order + "I", room + len(tail)), tail + value
        table += struct.pack(order + "HHI", tag, kind, count) + field
    first = struct.pack(order + "HHHII", 1, 0x8769, 4, 1, start) + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", 8) + first + struct.pack(order + "H", len(entries)) + table + bytes(4) + tail


def packet(attributes="", inner="", spaces="") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        f"{spaces} {attributes}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


class TestExif:
    def test_of_many_segments_is_put_together(self):
        maker = random.Random(3).randbytes(90_000)
        whole = block((0x9003, 2, b"2001:02:03 04:05:06\0"), (0x927C, 7, maker))
        parts = [whole[at : at + 65_000] for at in range(0, len(whole), 65_000)]
        original = jpeg(*((0xE1, b"Exif\0\0" + part) for part in parts))
        assert read_jpeg_metadata(original).exif == whole
        assert read_jpeg_metadata(again(original)).exif == whole

    @pytest.mark.parametrize("prefix", [b"Exif\0\0", b"Exif\0\xff", b"\1\2Exif\0\0"])
    def test_behind_an_odd_beginning(self, prefix):
        whole = block((0x9003, 2, b"2001:02:03 04:05:06\0"))
        assert read_jpeg_metadata(again(jpeg((0xE1, prefix + whole)))).exif == whole

    def test_a_second_block_does_not_spoil_the_first(self):
        first, second = block((0x9003, 2, b"2001:02:03 04:05:06\0")), exif(6)[6:]
        found = read_jpeg_metadata(again(jpeg((0xE1, b"Exif\0\0" + first), (0xE1, b"Exif\0\0" + second))))
        assert found.exif == first

    @pytest.mark.parametrize("order", "<>")
    def test_sizes_subject_and_focal_plane_follow_the_turning(self, order):
        def short(*numbers):
            return struct.pack(f"{order}{len(numbers)}H", *numbers)

        before = block(
            (0xA002, 3, short(WIDE)),
            (0xA003, 4, struct.pack(order + "I", HIGH)),
            (0x9214, 3, short(10, 5, 8, 4)),
            (0xA214, 3, short(10, 5)),
            (0xA20E, 5, struct.pack(order + "II", 300, 1)),
            (0xA20F, 5, struct.pack(order + "II", 200, 1)),
            order=order,
        )
        after = upright_exif(before, SIDEWAYS)
        exif_directory = Image.Exif()
        exif_directory.load(after)
        found = exif_directory.get_ifd(0x8769)
        assert (found[0xA002], found[0xA003]) == (HIGH, WIDE)
        assert (found[0x9214], found[0xA214]) == ((31, 10, 4, 8), (31, 10))
        assert (found[0xA20E], found[0xA20F]) == (200, 300)
        assert len(after) == len(before)


class TestXmp:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text.replace(b"</x:xmpmeta>", b"</x:xmpmeta>ta>"),
            lambda text: text.replace(b"xmp:Rating", b'photoshop:Credit="Me" xmp:Rating'),
            lambda text: text.replace(b"xmp:Rating", b'nobody:Knows="it" xmp:Rating'),
            lambda text: text.replace(b"Red", b"Red & Blue"),
            lambda text: text.replace(b"Red", b"Red\x0b"),
            lambda text: text.replace(b"Red", b"R\xe9d"),
            lambda text: text.replace(b"Red", b"Red &nbsp;"),
            lambda text: text.replace(b'xmp:Rating="5"', b'xmp:Rating="5" xmp:Rating="5"'),
            lambda text: b"junk" + text,
            lambda text: text + b"\0\0\0",
        ],
    )
    def test_that_parsers_refuse_is_kept(self, spoil):
        text = spoil(packet('xmp:Rating="5" xmp:Label="Red"'))
        written = with_provenance(text, PROVENANCE, SIDEWAYS)
        [rating] = [
            e for e in ElementTree.fromstring(written).iter() if "{http://ns.adobe.com/xap/1.0/}Rating" in e.attrib
        ]
        assert rating.attrib["{http://ns.adobe.com/xap/1.0/}Rating"] == "5"
        assert rating.attrib["{http://ns.adobe.com/xap/1.0/}Label"].startswith("R")
        assert read_provenance(written) == PROVENANCE

    def test_of_which_nothing_can_be_read_is_replaced_and_a_note_says_so(self):
        picture = codec.decode(jpeg((0xE1, JPEG_XMP + b"<broken")))
        assert picture.notes == ("the XMP packet is broken and was replaced by a new one",)

    def test_sizes_and_orientation_follow_the_turning(self):
        before = packet('tiff:Orientation="6" exif:PixelXDimension="53"', "<tiff:ImageWidth>53</tiff:ImageWidth>")
        after = with_provenance(before, PROVENANCE, SIDEWAYS).decode()
        assert 'tiff:Orientation="1" exif:PixelXDimension="37"' in after
        assert "<tiff:ImageWidth>37</tiff:ImageWidth>" in after

    @pytest.mark.parametrize("applied", [(WIDE, HIGH), (HIGH, WIDE)])
    def test_regions_lie_where_the_face_is(self, applied):
        """Those that were made for the picture as it is shown lie there already."""
        lies_there = applied == (HIGH, WIDE)
        inner = f"""<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions stDim:w="{applied[0]}"
            stDim:h="{applied[1]}" stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource">
            <mwg-rs:Area stArea:x="0.4" stArea:y="0.45" stArea:w="0.5" stArea:h="0.6"/></rdf:li><rdf:li
            rdf:parseType="Resource"><mwg-rs:Area rdf:parseType="Resource">
            <stArea:x>0.4</stArea:x><stArea:y>0.45</stArea:y></mwg-rs:Area></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"""
        spaces = (
            'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
            'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"'
        )
        after = with_provenance(packet(inner=inner, spaces=spaces), PROVENANCE, SIDEWAYS).decode()
        assert f'stDim:w="{HIGH}"' in after
        assert f'stDim:h="{WIDE}"' in after
        wanted = (0.4, 0.45, 0.5, 0.6) if lies_there else (0.55, 0.4, 0.6, 0.5)
        x, y, w, h = wanted
        assert f'<mwg-rs:Area stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}"/>' in after
        assert f"<stArea:x>{x}</stArea:x><stArea:y>{y}</stArea:y>" in after

    def test_microsofts_regions_are_rectangles_from_the_corner(self):
        spaces = 'xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"'
        text = packet('MPReg:Rectangle="0.15, 0.15, 0.50, 0.60"', spaces=spaces)
        assert b'MPReg:Rectangle="0.25, 0.15, 0.6, 0.5"' in with_provenance(text, PROVENANCE, SIDEWAYS)
        assert b'MPReg:Rectangle="0.15, 0.15, 0.5, 0.6"' in with_provenance(text, PROVENANCE, Turning(1, WIDE, HIGH))

    def test_prefixes_stay_what_they_were(self):
        spaces = 'xmlns:myOwn="http://example.org/mine" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        text = packet('myOwn:Box="12" photoshop:City="Nipomo"', spaces=spaces)
        after = with_provenance(text, PROVENANCE, SIDEWAYS)
        assert b'myOwn:Box="12" photoshop:City="Nipomo"' in after


class TestPng:
    @pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
    @pytest.mark.parametrize("keyword", [b"exif", b"APP1"])
    def test_exif_in_text_becomes_a_chunk_of_its_own(self, kind, keyword):
        whole = exif(6)
        text = b"\n" + keyword + b"\n%8d\n" % len(whole) + whole.hex().encode() + b"\n"
        payload = b"Raw profile type " + keyword + b"\0" + (b"\0" + zlib.compress(text) if kind == b"zTXt" else text)
        bare = pillow(photo(), "PNG")
        original = bare[:33] + png_bytes([(kind, payload)]) + bare[33:]
        picture = codec.decode(original)
        assert (picture.width, picture.height) == (HIGH, WIDE)
        found = read_png_metadata(codec.encode(picture, original, PROVENANCE))
        assert found.exif == upright_exif(whole[6:], SIDEWAYS)
        assert found.carried == ()

    @pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"pHYs", b"eXIf", b"prVt"])
    def test_a_damaged_chunk_on_which_no_pixel_depends_is_left_out_with_a_note(self, kind):
        bad = bytearray(png_bytes([(kind, b"Comment\0hello")]))
        bad[-1] ^= 0xFF
        bare = pillow(photo(), "PNG")
        picture = codec.decode(bare[:33] + bytes(bad) + bare[33:])
        assert np.array_equal(picture.pixels, codec.decode(bare).pixels)
        assert picture.notes == (f"damaged chunks left out, on which no pixel depends: {kind.decode()}",)

    @pytest.mark.parametrize("kind", [b"PLTE", b"tRNS", b"IDAT"])
    def test_a_damaged_chunk_of_pixels_is_corrupt(self, kind):
        bare = bytearray(pillow(np.asarray(Image.fromarray(photo()).quantize(9).convert("RGB")), "PNG"))
        palette = io.BytesIO()
        Image.fromarray(photo()).quantize(9).save(palette, "PNG", transparency=3)
        bare = bytearray(palette.getvalue())
        bare[bare.index(kind) + 5] ^= 0x10
        with pytest.raises(codec.DecodeError, match=f"its chunk {kind.decode()} is cut off or damaged"):
            codec.decode(bytes(bare))

    def test_without_its_end_it_is_whole(self):
        bare = pillow(photo(), "PNG")
        picture = codec.decode(bare[:-12])
        assert picture.notes == ("the PNG's end is missing; every pixel is there",)
        assert np.array_equal(picture.pixels, codec.decode(bare).pixels)


class TestJpeg:
    def test_a_video_behind_the_picture_stays_where_its_offset_says(self):
        video = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + random.Random(1).randbytes(4000)
        offset = f'GCamera:MicroVideoOffset="{len(video)}"'.encode()
        text = packet(offset.decode(), spaces='xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"')
        written = again(jpeg((0xE1, JPEG_XMP + text)) + video)
        assert written[-len(video) :] == video
        assert offset in read_jpeg_metadata(written).xmp

    def test_a_gain_map_goes_with_what_speaks_of_it(self):
        spaces = (
            'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
            ' xmlns:Container="http://ns.google.com/photos/1.0/container/"'
        )
        items = "".join(
            f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{name}"/></rdf:li>'
            for name in ("Primary", "GainMap", "MotionPhoto")
        )
        inner = f"<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory>"
        text = packet('hdrgm:Version="1.0"', inner, spaces)
        gain_map, video = pillow(photo(1), "JPEG"), b"\0\0\0\x18ftypmp42" + bytes(99)
        original = jpeg((0xE1, JPEG_XMP + text), (0xE2, b"MPF\0" + bytes(80))) + gain_map + video
        assert codec.decode(original).notes[0].startswith("2 pictures in one file")
        written = again(original)
        assert gain_map not in written
        assert written.endswith(video)
        assert b"MPF\0" not in written
        after = read_jpeg_metadata(written).xmp
        assert b"hdrgm:Version" not in after
        assert b"GainMap" not in after
        assert b'"Primary"' in after
        assert b'"MotionPhoto"' in after

    def test_segments_that_nobody_knows_travel(self):
        found = read_jpeg_metadata(again(jpeg((0xE4, b"FPXR-like"), (0xEC, b"Ducky\0\1"), (0xFE, b"from the attic"))))
        assert [kind for kind, _ in found.carried] == ["APP0", "APP4", "APP12", "COM"]

    @pytest.mark.parametrize(
        "profile",
        [
            [b"ICC_PROFILE\0"],
            [b"ICC_PROFILE\0\1"],
            [b"ICC_PROFILE\0\1\2" + SRGB],
            [b"ICC_PROFILE\0\2\2" + SRGB, b"ICC_PROFILE\0\2\2" + SRGB],
        ],
    )
    def test_a_broken_profile_is_left_out_with_a_note(self, profile):
        original = jpeg(*((0xE2, part) for part in profile))
        assert codec.decode(original).notes == ("the colour profile is broken and left out",)
        assert read_jpeg_metadata(again(original)).icc is None

    def test_signed_credentials_are_said_to_be_left(self):
        original = jpeg((0xEB, b"JP\0\1\0\0\0\1" + b"\0\0\0\x40jumb\0\0\0\x20jumdc2pa" + bytes(40)))
        assert codec.decode(original).notes[0].startswith("signed Content Credentials left out")
        assert b"jumb" not in again(original)

    @pytest.mark.parametrize("junk", [b"\0" * 7, b"\xff" * 5, b"junk"])
    def test_bytes_between_segments_are_passed_over(self, junk):
        bare = pillow(photo(), "JPEG", quality=90)
        end = 2 + 2 + int.from_bytes(bare[4:6], "big")
        original = bare[:end] + junk + bare[end:]
        assert np.array_equal(codec.decode(original).pixels, codec.decode(bare).pixels)


class TestTiff:
    TAGS = (
        (18246, 3, 1, 4, True),
        (18249, 3, 1, 75, True),
        (40091, 1, 12, "Title\0".encode("utf-16-le"), True),
        (40092, 1, 24, "Kommentar ü\0".encode("utf-16-le"), True),
        (33723, 4, 2, struct.pack("<2I", 0x1C026900, 0), True),
        (65000, 12, 2, (1.5, -2.5), True),
    )

    def test_every_tag_that_says_nothing_of_the_coding_travels_with_its_type(self):
        original = tiff(photo(), photometric="rgb", extratags=list(self.TAGS))
        before, after = (next(pages(io.BytesIO(data))) for data in (original, again(original)))
        for tag, kind, *_ in self.TAGS:
            assert after[tag] == before[tag]
            assert after[tag].kind == kind

    def test_no_resolution_is_made_up(self):
        original = pillow(photo(), "TIFF")
        assert not {282, 283, 296} & set(next(pages(io.BytesIO(again(original)))))

    def test_types_of_exif_stay(self):
        comment, parts = (0x9286, 7, b"ASCII\0\0\0hello"), (0x9101, 7, b"\1\2\3\0")
        below = {Entry(*each).tag: Entry(*each) for each in (comment, parts)}
        bare = tiff(photo(), photometric="rgb")
        original = with_directory(bare, next(pages(io.BytesIO(bare))), {34665: below})
        stream = io.BytesIO(again(original))
        before, after = below, directory_below(stream, next(pages(stream)), 34665)
        assert before == after
        assert after[0x9286].kind == 7

    def test_it_stays_a_tiff_that_others_read(self):
        original = tiff(photo(), photometric="rgb", extratags=list(self.TAGS))
        with tifffile.TiffFile(io.BytesIO(again(original))) as file:
            assert np.array_equal(file.asarray(), photo())
        with Image.open(io.BytesIO(again(original))) as image:
            assert np.array_equal(np.asarray(image), photo())
