"""Room for pictures: small ones share it, a large one is alone, one that cannot fit is told so."""

import threading
import time
from types import SimpleNamespace

import pytest

from tasks.worker import room
from tasks.worker.room import BYTES_PER_PIXEL, NoRoom, Room


def held_together(rooms, pixels):
    """The most pictures of that size that were in work at the same time, one thread a room given."""
    at_once, most, lock = 0, 0, threading.Lock()

    def work(each):
        nonlocal at_once, most
        with each.of(pixels):
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.02)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=work, args=(each,)) for each in rooms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_pictures_share_what_a_process_may_use():
    assert held_together([Room(shared=2 * 100 * BYTES_PER_PIXEL)] * 6, 100) == 2


def test_a_larger_picture_is_alone_whoever_asks():
    assert held_together([Room(shared=10), Room(shared=10), Room(shared=10)], 100) == 1


def test_room_is_given_back_after_an_error():
    small = Room(shared=100 * BYTES_PER_PIXEL)
    with pytest.raises(KeyError), small.of(100):
        raise KeyError
    assert held_together([small], 100) == 1


def test_what_cannot_fit_is_told_what_it_needs(monkeypatch):
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * 10**9))
    with (
        pytest.raises(NoRoom, match=r"about 18\.0 GB, 4\.0 GB are free; retry with fewer workers"),
        Room().of(300_000_000),
    ):
        pass
