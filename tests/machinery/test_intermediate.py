"""An intermediate is what was written, or it counts as absent."""

from __future__ import annotations

import random

import numpy as np
import pytest

from infra.storage import Storage
from tasks.worker import Entry, intermediate

PATH, HEADER = "intermediates/x.arrow", 64


@pytest.fixture
def storage(tmp_path):
    place = Storage(tmp_path)
    pictures = np.random.default_rng(1).random((3, 8, 8, 3), np.float32)
    entries = [Entry(f"a:{n}", f'{{"said": "größer {n}"}}', {"aligned": each}) for n, each in enumerate(pictures)]
    intermediate.write(place, PATH, entries, "float32")
    return place


def test_what_is_written_is_read(storage):
    found = intermediate.read(storage, PATH)
    assert found.texts[2] == '{"said": "größer 2"}'
    assert np.array_equal(found.image("a:1", "aligned"), np.random.default_rng(1).random((3, 8, 8, 3), np.float32)[1])
    assert intermediate.damage(storage, PATH) is None
    with pytest.raises(KeyError):
        found.image("a:1", "restored")


def test_every_flipped_bit_is_noticed(storage):
    whole = storage.read_bytes(PATH)
    places = [*range(12 * 8), *random.Random(1).sample(range(HEADER * 8, len(whole) * 8), 600)]
    for bit in places:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        storage.write_atomic(PATH, flipped)
        assert intermediate.read(storage, PATH) is None
    assert intermediate.damage(storage, PATH) == "is not what was written"


@pytest.mark.parametrize("length", [0, 1, 10, HEADER, 900])
def test_what_is_cut_short_counts_as_absent(storage, length):
    storage.write_atomic(PATH, storage.read_bytes(PATH)[:length])
    assert intermediate.read(storage, PATH) is None


def test_files_of_earlier_versions_are_read_and_damaged_ones_stop_nobody(storage):
    older = storage.read_bytes(PATH)[HEADER:]
    storage.write_atomic(PATH, older)
    assert len(intermediate.read(storage, PATH).texts) == 3
    for bit in random.Random(2).sample(range(len(older) * 8), 600):
        flipped = bytearray(older)
        flipped[bit // 8] ^= 1 << bit % 8
        storage.write_atomic(PATH, flipped)
        intermediate.read(storage, PATH)  # without a checksum not all of it can be seen, but nothing is raised


def test_what_is_gone_is_said_to_be(storage):
    storage.delete(PATH)
    assert intermediate.read(storage, PATH) is None
    assert intermediate.damage(storage, PATH) == "is gone"
