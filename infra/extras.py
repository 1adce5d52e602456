"""The project's optional packages: which pip extra brings which, and whether it is here. Imports none of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from infra.problems import ForPeople

EXTRAS = {"s3": "s3fs", "heif": "pillow-heif", "iqa": "pyiqa", "gfpgan": "gfpgan"}
"""extra → the package that it brings."""
TERMS = {"iqa": "its licence is non-commercial"}


class ExtraMissing(ForPeople):
    """A recipe needs an optional package that is not installed; the message says which and how to get it."""

    exit_code = 2


def is_here(extra: str) -> bool:
    """Whether the package of an extra can be imported."""
    return importlib.util.find_spec(EXTRAS[extra].replace("-", "_")) is not None


def how_to_get(extra: str) -> str:
    """`the package pyiqa: …` and the command, with its terms where they restrict anybody."""
    terms = f" ({TERMS[extra]})" if extra in TERMS else ""
    return f"the package {EXTRAS[extra]}: {command(extra)}{terms}"


def command(extra: str) -> str:
    """How an extra is installed."""
    return f"`make extras EXTRAS={extra}` in the project's folder"


def missing(extras: Iterable[str]) -> list[str]:
    """Those that are not here, each once, in order."""
    return [extra for extra in dict.fromkeys(extras) if not is_here(extra)]
