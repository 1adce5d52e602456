"""Intermediates: what a micro-batch left behind, in one file.

A file holds the results of a micro-batch, as JSON that its writer understands, and the named images that its stage
wrote, lossless in the recipe's `intermediate_dtype`. Its presence means that the micro-batch is done: a resumed run
reads it and computes nothing. A file that is not what was written counts as absent.

Layout: 64 bytes of header (a mark, the CRC-32 of the rest, zeros), then an Arrow IPC file. Files of earlier versions
have no header.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.storage import Storage, StorageMissingError
from tasks.stage import Pixels

_MARK, _HEADER_BYTES = b"MPSRCRC1", 64
_ARROW_MARK = b"ARROW1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One result and the named images that go with it."""

    key: str
    """How its images are found again; unique in the file."""
    text: str
    """The result, as JSON."""
    images: Mapping[str, Pixels] = field(default_factory=dict)


class Intermediate:
    """An opened intermediate file; images are read one by one, straight from the file where it is local."""

    def __init__(self, table: pa.Table) -> None:
        """Raises ValueError or KeyError where the table is none of ours."""
        table.validate(full=True)
        self._table = table
        self.texts: list[str] = table.column("row").to_pylist()
        """The results, in the order in which they were written."""
        self._position = {key: i for i, key in enumerate(table.column("key").to_pylist())}
        self._shapes = json.loads(table.schema.metadata[b"images"])

    def image(self, key: str, name: str) -> Pixels:
        """The named image of one result, (H, W, 3) float32. Raises KeyError when the file has none."""
        dtype, *shape = self._shapes[name]
        cell = self._table.column(name)[self._position[key]].as_buffer()
        if cell is None:
            raise KeyError(name)
        return np.frombuffer(cell, dtype=dtype).reshape(shape).astype(np.float32)


def write(storage: Storage, path: str, entries: Sequence[Entry], dtype: str) -> None:
    """Writes results and their images (all images of one name have one shape) atomically."""
    images = [entry.images for entry in entries]
    names = sorted({name for each in images for name in each})
    columns: dict[str, pa.Array] = {
        "key": pa.array([entry.key for entry in entries], pa.string()),
        "row": pa.array([entry.text for entry in entries], pa.string()),
    }
    shapes = {}
    for name in names:
        cells = [_cell(each.get(name), dtype) for each in images]
        shapes[name] = [dtype, *next(each[name].shape for each in images if name in each)]
        columns[name] = pa.array(cells, pa.large_binary())
    table = pa.table(columns).replace_schema_metadata({"images": json.dumps(shapes)})
    sink = io.BytesIO(bytes(_HEADER_BYTES))
    sink.seek(_HEADER_BYTES)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    whole = sink.getbuffer()
    whole[: len(_MARK) + 4] = _MARK + zlib.crc32(whole[_HEADER_BYTES:]).to_bytes(4, "little")
    storage.write_atomic(path, whole)


def read(storage: Storage, path: str) -> Intermediate | None:
    """Opens an intermediate; None when there is none or it is damaged (then it has to be made again)."""
    try:
        if storage.is_local:
            data = pa.memory_map(str(storage.local_path(path))).read_buffer()
        else:
            data = pa.py_buffer(storage.read_bytes(path))
    except (FileNotFoundError, pa.ArrowInvalid):  # an empty file cannot be mapped
        return None
    return _opened(data)


def damage(storage: Storage, path: str) -> str | None:
    """What is wrong with an intermediate that should be there, in words; None where nothing is."""
    try:
        return None if _opened(pa.py_buffer(storage.read_bytes(path))) else "is not what was written"
    except StorageMissingError:
        return "is gone"


def _opened(data: pa.Buffer) -> Intermediate | None:
    whole = memoryview(data)
    if whole[: len(_MARK)] == _MARK:
        written = int.from_bytes(whole[len(_MARK) : len(_MARK) + 4], "little")
        if zlib.crc32(whole[_HEADER_BYTES:]) != written:
            return None
        data = data.slice(_HEADER_BYTES)
    elif whole[: len(_ARROW_MARK)] != _ARROW_MARK:
        return None
    try:
        return Intermediate(pa.ipc.open_file(pa.BufferReader(data)).read_all())
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError):  # of an earlier version, without a checksum
        return None


def _cell(image: Pixels | None, dtype: str) -> bytes | None:
    if image is None:
        return None
    stored: NDArray[Any] = np.ascontiguousarray(image, dtype=dtype)
    return stored.tobytes()
