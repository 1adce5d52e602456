"""Data sets as files of `data_manifests/`; what no job may ask for: secrets, folders that are not there or overlap."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.problems import ForPeople
from infra.storage import Storage, StorageError

DATA_MANIFESTS = Path("data_manifests")
"""Of the working directory; the package brings some of its own."""
DEMO_SEED = 1


class JobError(ForPeople):
    """A run was asked for that cannot be; the message says what was expected, what came and what to do."""

    exit_code = 2


def shipped(name: str) -> Path:
    """A file or folder that comes with the package but is no code: in `mpsr` once installed, else at the root."""
    root = Path(__file__).parents[2]
    installed = root / "mpsr" / name
    return installed if installed.exists() else root / name


def read_data_manifest(name: str) -> dict[str, Any]:
    """What data_manifests/<name>.toml says, here or in the package; relative folders in it are relative to here."""
    folders = (DATA_MANIFESTS, shipped("data_manifests"))
    path = next((file for folder in folders if (file := folder / f"{name}.toml").is_file()), None)
    if path is None:
        known = ", ".join(sorted({p.stem for folder in folders for p in folder.glob("*.toml")}))
        raise JobError(f"there is no data set {name!r} in {DATA_MANIFESTS.absolute()}; known are {known}")
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path} is not TOML: {error}") from None
    for key in ("source", "workspace"):
        if key in described and "://" not in described[key]:
            described[key] = str((DATA_MANIFESTS / described[key]).absolute())
    return described


def _make_what_can_be_made(described: dict[str, Any]) -> None:
    """The demo's archive is made on the spot when it is not there."""
    source = Path(described["source"])
    if described.get("generator") == "demo" and not source.exists():
        from tasks.archive import make

        make(source.parent, DEMO_SEED)


def insist_on_folder(url: str, what: str) -> Storage:
    """The folder at a path or URL; `what` lies in it, in words. Raises JobError where nothing is there."""
    storage = Storage(url)
    with reachable(storage):
        if not storage.is_folder():
            raise JobError(f"there is no folder with {what} at {storage.shown_url}")
    return storage


@contextmanager
def reachable(storage: Storage) -> Iterator[None]:
    """Raises JobError where a storage cannot be asked: trying again does not help before somebody mends that."""
    try:
        yield
    except StorageError as error:
        if error.exit_code == JobError.exit_code:
            raise
        where = "" if storage.is_local else "; are credentials and endpoint in the environment (AWS_ACCESS_KEY_ID, …)?"
        raise JobError(f"{storage.shown_url} cannot be looked at: {error}{where}") from error


def refuse_secrets(*urls: str) -> None:
    """What a job names stands in files and in the dashboard."""
    for url in urls:
        rest = url.partition("://")[2]
        if "@" in rest.partition("/")[0] or "?" in rest:
            raise JobError(
                f"{Storage(url).shown_url} holds a user name, a password or a signature, which would be written down "
                "with the run; give credentials in the environment (AWS_ACCESS_KEY_ID, …)"
            )


def _refuse_nesting(source: str, workspace: str) -> None:
    """Originals are never written to, and outputs never taken for originals: the two may not overlap."""
    if lies_in(workspace, source) or lies_in(source, workspace):
        raise JobError(
            f"the archive {source} and the workspace {workspace} overlap; "
            "originals are never written to, so choose a workspace that lies elsewhere"
        )


def lies_in(inner: str, outer: str) -> bool:
    a, b = Storage(inner), Storage(outer)
    if not a.is_local or not b.is_local:
        return a.is_local == b.is_local and (a.url.rstrip("/") + "/").startswith(b.url.rstrip("/") + "/")
    return Path(a.url).resolve().is_relative_to(Path(b.url).resolve())
