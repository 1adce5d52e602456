"""Intermediates: what a micro-batch left behind, in one Arrow file.

A file holds the results of a micro-batch, as JSON that its writer understands, and the named images that its stage
wrote, lossless in the recipe's `intermediate_dtype`. Its presence means that the micro-batch is done: a resumed run
reads it and computes nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.storage import Storage
from tasks.stage import Pixels


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
        self._table = table
        keys = table.column("key").to_pylist()
        self._position = {key: i for i, key in enumerate(keys)}
        self._shapes = json.loads(table.schema.metadata[b"images"])

    @property
    def texts(self) -> list[str]:
        """The results, in the order in which they were written."""
        texts: list[str] = self._table.column("row").to_pylist()
        return texts

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
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.write_atomic(path, sink.getbuffer())


def read(storage: Storage, path: str) -> Intermediate | None:
    """Opens an intermediate; None when there is none or it was cut short (then it has to be made again)."""
    try:
        if storage.is_local:
            source = pa.memory_map(str(storage.local_path(path)))
        else:
            source = pa.BufferReader(storage.read_bytes(path))
        return Intermediate(pa.ipc.open_file(source).read_all())
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _cell(image: Pixels | None, dtype: str) -> bytes | None:
    if image is None:
        return None
    stored: NDArray[Any] = np.ascontiguousarray(image, dtype=dtype)
    return stored.tobytes()
