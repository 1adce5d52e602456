"""All that a person may want to know of one weights file, as `mpsr models list` tells it."""

from __future__ import annotations

from pydantic import Field

from infra.facts import Record
from infra.weights.store import WeightsStore


class WeightsRow(Record):
    """One file. licence: its title; licence_name: its key in the table. origins: addresses, the first one first asked.

    bytes: None where nobody has said and no file is here; about_bytes: the same, or a rough size. verified: the file
    here has been hashed since it last changed. what_to_do: how to get it, empty where it is here.
    """

    name: str
    title: str
    file: str
    bytes: int | None
    about_bytes: int | None
    sha256: str | None
    licence: str
    licence_name: str
    must_accept: bool
    commercial: str
    recipes: tuple[str, ...]
    origins: tuple[str, ...] = Field(serialization_alias="from")
    by_hand: str
    needed: bool
    present: bool
    verified: bool
    what_to_do: str


def weights_row(store: WeightsStore, name: str, *, needed: bool = True) -> WeightsRow:
    """The row of one file; `needed` is False for what a recipe can do without. Raises WeightsUnknown."""
    status, weight, licence = store.status(name), store.table[name], store.table.licence(name)
    size = weight.bytes or status.bytes
    return WeightsRow(
        name=name,
        title=weight.title,
        file=weight.file,
        bytes=size,
        about_bytes=size or weight.about_bytes,
        sha256=weight.sha256,
        licence=licence.title,
        licence_name=weight.licence,
        must_accept=licence.must_accept,
        commercial=licence.commercial,
        recipes=weight.recipes,
        origins=(*weight.sources, *weight.mirrors),
        by_hand=weight.by_hand.strip(),
        needed=needed,
        present=status.present,
        verified=status.verified,
        what_to_do="" if status.present else store.instructions(name),
    )
