"""What libjpeg paints over: a JPEG that does not hold its pixels is told from one that lacks only its end."""

import random
import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from made_files import photo, pillow

from tasks.pictures import codec

BIG = cv2.resize(photo(), (640, 480), interpolation=cv2.INTER_CUBIC)


def jpeg(**options) -> bytes:
    return pillow(BIG, "JPEG", quality=90, **options)


PROGRESSIVE = pytest.mark.parametrize("progressive", [False, True])


@PROGRESSIVE
def test_without_its_end_mark_a_picture_is_whole(progressive):
    data = jpeg(progressive=progressive)
    picture = codec.decode(data[:-2])
    assert np.array_equal(picture.pixels, codec.decode(data).pixels)
    assert picture.notes == ("the JPEG's end mark is missing",)


def test_a_whole_picture_has_no_note():
    assert codec.decode(jpeg()).notes == ()
    assert codec.decode(jpeg(progressive=True)).notes == ()
    assert codec.decode(pillow(photo(1), "JPEG")).notes == ()
    assert codec.decode(pillow(np.full((700, 900, 3), 255, np.uint8), "JPEG", optimize=True)).notes == ()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_rows_that_are_not_in_the_file_are_counted(share, end):
    data = jpeg()
    with pytest.raises(codec.DecodeError, match=r"of its rows are missing; fetch it again") as caught:
        codec.decode(data[: round(len(data) * share)] + end)
    assert caught.value.reason_code == "corrupt"
    missing = int(str(caught.value).split("%")[0].split()[-1]) / 100
    assert missing == pytest.approx(1 - share, abs=0.15)


def test_a_few_missing_rows_are_a_note():
    data = jpeg()
    picture = codec.decode(data[: round(len(data) * 0.97)])
    assert "of its rows are missing" in picture.notes[0]


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_sector_of_zeros_is_a_hole(end):
    data = jpeg()
    half = len(data) // 2
    with pytest.raises(codec.DecodeError, match="rows are missing"):
        codec.decode(data[:half] + bytes(len(data) - half) + end)


@PROGRESSIVE
@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_never_pass_without_a_word(progressive, seed):
    data = jpeg(progressive=progressive)
    half = len(data) // 2
    junk = random.Random(seed).randbytes(len(data) - half).replace(b"\xff", b"\xfe")
    assert said_of(data[:half] + junk + b"\xff\xd9").startswith(("the JPEG is damaged", "expected a whole JPEG"))


def said_of(data: bytes) -> str:
    """The first note on a picture, or why it is refused."""
    try:
        return "".join(codec.decode(data).notes[:1])
    except codec.DecodeError as error:
        return str(error)


@PROGRESSIVE
def test_a_header_that_promises_more_than_the_file_can_hold_takes_no_memory(progressive):
    data = bytearray(pillow(photo(), "JPEG", progressive=progressive))
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 15_000, 15_000)
    tracemalloc.start()
    with pytest.raises(codec.DecodeError, match="as the header says, but") as caught:
        codec.decode(bytes(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason_code == "corrupt"
    assert peak < 1 << 20


def test_a_large_picture_of_one_colour_is_no_lie():
    data = pillow(np.full((4000, 4000), 255, np.uint8), "JPEG", optimize=True, progressive=True)
    assert codec.decode(data).pixels.min() == 1
