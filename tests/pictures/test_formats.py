"""The table of containers: content decides, and a new one is a file and a name in the table."""

import dataclasses
import io
import struct

import numpy as np
import pytest
from made_files import photo, pillow

from infra.storage.storage import Storage
from tasks.archive.scan import scan_archive
from tasks.pictures import codec
from tasks.pictures.formats import table
from tasks.pictures.formats.format import Kind
from tasks.pictures.picture import DecodeError, Header, Picture, to_float, to_levels


def test_content_decides_the_format():
    assert codec.sniff(pillow(photo(), "PNG")) == "PNG"
    assert codec.sniff(b"\0\0\0\x20ftypavif") == "AVIF"
    assert codec.sniff(b"BMW trip 1998, with Ann and Bob") is None
    assert codec.sniff(b"hello") is None


def test_every_name_and_every_suffix_belongs_to_one_container():
    names = [kind.name for kind in table.kinds()]
    suffixes = [suffix for kind in table.kinds() for suffix in kind.suffixes]
    assert len(names) == len(set(names))
    assert len(suffixes) == len(set(suffixes)) == len(table.SUFFIXES)


class Toy:
    """A container that nobody has: a mark, the number of pictures, height and width, then RGB bytes."""

    kind = Kind("TOY", b"TOY!", suffixes=("toy",))
    animated = False

    def lacking(self):
        return ""

    def header(self, stream):
        _, count, height, width = struct.unpack("<4sIII", stream.read(16))
        return Header("TOY", width, height, "RGB"), count

    def decode(self, data, header):
        levels = np.frombuffer(data, np.uint8, offset=16).reshape(header.height, header.width, 3)
        return Picture(to_float(levels), format="TOY")

    def encode(self, picture, original, provenance):
        return original[:16] + to_levels(picture.pixels, 8).tobytes()


def toy(count=1):
    levels = photo()
    return struct.pack("<4sIII", b"TOY!", count, *levels.shape[:2]) + levels.tobytes()


class TestAToyContainer:
    """A class and its name in the table are all that it takes."""

    @pytest.fixture(autouse=True)
    def in_the_table(self, monkeypatch):
        monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, Toy()))

    def test_it_is_known_decoded_and_coded_again(self):
        assert codec.sniff(toy()) == "TOY"
        assert codec.read_header(io.BytesIO(toy())) == Header("TOY", 53, 37, "RGB")
        picture = codec.decode(toy())
        assert np.array_equal(picture.pixels, to_float(photo()))
        darker = dataclasses.replace(picture, pixels=picture.pixels / 2)
        assert np.array_equal(
            codec.decode(codec.encode(darker, toy(), {})).pixels, to_float(to_levels(darker.pixels, 8))
        )

    def test_what_is_no_input_is_refused_like_elsewhere(self):
        for data, reason in ((toy(2), "multi_page"), (toy()[:-1], "corrupt"), (toy()[:9], "corrupt")):
            with pytest.raises(DecodeError) as caught:
                codec.decode(data)
            assert caught.value.reason_code == reason

    def test_the_sentence_on_other_kinds_names_it(self):
        with pytest.raises(DecodeError, match="HEIF, TOY, came PSD"):
            codec.decode(b"8BPS" + bytes(40))

    def test_it_is_refused_where_something_lacks(self, monkeypatch):
        monkeypatch.setattr(Toy, "lacking", lambda self: "buy it first")
        with pytest.raises(DecodeError, match="came TOY; buy it first") as caught:
            codec.decode(toy())
        assert caught.value.reason_code == "unsupported_format"

    def test_a_scan_finds_it(self, tmp_path):
        (tmp_path / "a.png").write_bytes(toy())
        [row] = scan_archive(Storage(tmp_path), {})
        assert (row.format, row.width, row.height, row.problem) == ("TOY", 53, 37, None)


NAMED = {
    b"\xff\x4f\xff\x51\0\x2f": "JPEG2000",
    b"IIRO\x08\0\0\0": "Olympus RAW",
    b"IIU\0\x18\0\0\0": "Panasonic RAW",
    b"P6 450 550 255\n": "PNM",
    b"P5\n# a comment\n9 9\n255\n": "PNM",
    b"P7\nWIDTH 9\n": "PNM",
    b"II\x1a\0\0\0HEAPCCDR": "Canon RAW",
    b"#?RADIANCE\n": "Radiance HDR",
    b"\xff\xd8\xff\xf7": "JPEG-LS",
    b"8BPS\0\2": "PSD",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf": "AVIF",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf": "HEIF",
    b"\0\0\0\x18ftypmp42\0\0\0\0isommp42": None,
    b"BM" + bytes(12) + b"\x28\0\0\0": "BMP",
    b"PM 10: the minister spoke": None,
    b"II. Of the second voyage": None,
    b"GIF is an image format": None,
    b"P1 is the first platform": None,
}


@pytest.mark.parametrize("head", NAMED)
def test_a_kind_is_named_by_more_than_the_letters_that_a_text_may_begin_with(head):
    assert codec.sniff(head) == NAMED[head]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"BMW trip 1998, with Ann and Bob\n", "begins with “BMW trip 1998, w”"),
        (b"\x7fELF\2\1\1\0\0\0", "begins with the bytes 7f 45 4c 46 02 01 01 00"),
        (
            pillow(photo(), "PNG")[:60],
            "whole PNG file, this one is damaged (its chunk IDAT is cut off or damaged); fetch",
        ),
    ],
)
def test_sentences_show_people_what_came(data, said):
    with pytest.raises(DecodeError) as caught:
        codec.decode(data)
    assert said in str(caught.value)
    assert not codec.NOT_FOR_PEOPLE.search(str(caught.value))
