"""What a run is asked to do, as plain data that a command line, a deployment's form and a test can all write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field

from flows.jobs.asked import Asked
from flows.jobs.data_set import (
    JobError,
    _make_what_can_be_made,
    _refuse_nesting,
    lies_in,
    read_data_manifest,
    refuse_secrets,
)
from infra.ledger import FileRow, Ledger, known_files
from infra.storage import FileInfo, Storage, decode_name, encode_name
from tasks.recipes import Recipe, load_recipe

OF_A_DATA_SET = ("recipe", "aligned", "include", "exclude", "stages", "settings")
"""What a data set's file may say beside source and workspace."""


class Job(Asked):
    """One run: from where, to where, how."""

    source: str = Field(description="folder or URL of the archive; it is never written to")
    workspace: str = Field(description="folder or URL for ledger, intermediates, restored files and report")
    recipe: str = Field(default="compact", description="a recipe's name, or a .toml file")
    files: tuple[str, ...] = Field(
        default=(), description="names in the source, as the ledger spells them: nothing else is looked at"
    )
    aligned: bool = Field(default=False, description="the pictures are face crops: nothing is detected")
    include: tuple[str, ...] = Field(default=(), description="globs over relative paths; none = everything")
    exclude: tuple[str, ...] = Field(default=(), description="globs over relative paths")
    retry: bool = Field(default=False, description="take quarantined pictures on again, too")
    stages: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of single stages, by stage id, over the recipe's"
    )

    def load_recipe(self) -> Recipe:
        """The recipe with this job's overrides. Raises RecipeError."""
        stages = dict(self.stages)
        if self.aligned:
            stages["detect_align"] = {**stages.get("detect_align", {}), "detector": "none"}
        return load_recipe(self.recipe, stages)


def job_for(*, dataset: str | None = None, source: str | None = None, workspace: str | None = None, **more: Any) -> Job:
    """A job for a data set named in data_manifests/, or for a source and a workspace; `more` are fields of Job.

    Raises JobError when neither is complete, when the data set is not described, and where originals were in danger.
    """
    given = {name: value for name, value in more.items() if value is not None}
    if source is None and dataset is not None:
        described = read_data_manifest(dataset)
        source, workspace = described.get("source"), workspace or described.get("workspace")
        if source is None:
            raise JobError(f'data_manifests/{dataset}.toml names no source; add a line source = "FOLDER OR URL"')
        given = {name: described[name] for name in OF_A_DATA_SET if name in described} | given
        _make_what_can_be_made(described)
    if source is None:
        raise JobError(
            "expected a source (a folder or URL with pictures), or a data set of data_manifests/; got neither"
        )
    refuse_secrets(source)
    if workspace is None:
        raise JobError(f"expected a workspace to put the restored pictures of {source} in; give --workspace DIR")
    refuse_secrets(workspace)
    if (picture := _single_picture(source)) is not None:
        source, given["files"] = str(picture.parent), (encode_name(picture.name),)
        _refuse_inside(picture, workspace)
    else:
        _refuse_nesting(source, workspace)
    if str(given.get("recipe", "")).endswith(".toml"):
        given["recipe"] = str(Path(given["recipe"]).absolute())
    return Job.of(source=Storage(source).url, workspace=Storage(workspace).url, **given)


class Picked:
    """A few files of a folder, looked at as if nothing else lay there."""

    def __init__(self, source: Storage, names: Sequence[str]) -> None:
        """`names` as the ledger spells them."""
        self._source, self._names = source, names

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Those that are there. `prefix` is the folder itself."""
        return (self._source.info(path) for path in map(decode_name, self._names) if self._source.exists(path))

    def open_read(self, path: str) -> BinaryIO:
        return self._source.open_read(path)


def looked_at(job: Job, source: Storage) -> Storage | Picked:
    """What a scan of the job sees of its source."""
    return Picked(source, job.files) if job.files else source


def known_of(job: Job, ledger: Ledger) -> Mapping[str, FileRow]:
    """What earlier scans saw of what this job looks at, by path."""
    known = known_files(ledger)
    return {name: known[name] for name in job.files if name in known} if job.files else known


def _single_picture(source: str) -> Path | None:
    storage = Storage(source)
    return Path(storage.url) if storage.is_local and Path(storage.url).is_file() else None


def _refuse_inside(picture: Path, workspace: str) -> None:
    """A workspace may lie beside a single picture, but not around it."""
    if lies_in(str(picture), workspace):
        raise JobError(
            f"the picture {picture} lies in the workspace {Storage(workspace).shown_url}; "
            "originals are never written to, so choose a folder that lies elsewhere"
        )


def recipe_label(recipe: str) -> str:
    """What a recipe is called in folders and tables: its name, or that of its file."""
    return recipe.removesuffix(".toml").rpartition("/")[2]
