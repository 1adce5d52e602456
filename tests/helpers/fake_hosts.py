"""Hosts a few lines long, so that the executor is tested without networks; workers import this module by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from infra.workers.errors import ResourceExhausted


@dataclass(frozen=True)
class FakeItem:
    """What a FakeHost is to do, and with how much of what."""

    key: str
    do: str = "echo"
    seconds: float = 0.0
    size: int = 1
    fails: int = 0
    marker: str = ""
    forget: bool = False


@dataclass(frozen=True)
class FakeResult:
    """Who answered which call."""

    key: str
    call: str
    pid: int


class FakeHost:
    """Does to each item what the item's `do` says; `echo` just answers."""

    def __init__(self, config):
        self.config = config
        self.lock = threading.Lock()

    def run(self, call, items):
        note = self.config.get("log")
        if note:
            with Path(note).open("a") as file:
                file.write(f"{call} {os.getpid()} {len(items)} {','.join(item.key for item in items)}\n")
        largest = self.config.get("memory", sys.maxsize)
        if sum(item.size for item in items) > largest:
            raise ResourceExhausted(f"{len(items)} items")
        return [self.one(call, item) for item in items]

    def one(self, call, item):
        getattr(self, f"do_{item.do}")(item)
        time.sleep(item.seconds)
        return FakeResult(item.key, call, os.getpid())

    def do_echo(self, item):
        pass

    def do_die(self, item):
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    def do_exit(self, item):
        sys.exit(3)

    def do_break(self, item):
        raise KeyError("no such eye")

    def do_hang(self, item):
        time.sleep(3600)

    def do_flaky(self, item):
        """Fails until it was tried `item.fails` times; the marker file counts."""
        marker = Path(item.marker)
        with self.lock:
            tried = len(marker.read_text()) if marker.exists() else 0
            marker.write_text("x" * (tried + 1))
        if tried < item.fails:
            raise OSError(5, "storage went away")


class SilentHost(FakeHost):
    """Forgets to answer for items that say so."""

    def run(self, call, items):
        return [row for row, item in zip(super().run(call, items), items, strict=True) if not item.forget]


def build(config):
    return FakeHost(config)


def build_silent(config):
    return SilentHost(config)


def build_missing_weights(config):
    raise FileNotFoundError("gfpgan.pth is missing (349 MB): run `models fetch gfpgan`")


def build_and_exit(config):
    sys.exit(3)
