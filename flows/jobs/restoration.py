"""What a run is asked to do, as plain data that a command line, a deployment's form and a test can all write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from flows.jobs.asked import Asked
from flows.jobs.data_set import JobError, _make_what_can_be_made, _refuse_nesting, read_data_manifest, refuse_secrets
from infra.storage import Storage
from tasks.recipes import Recipe, load_recipe

OF_A_DATA_SET = ("recipe", "aligned", "include", "exclude", "stages", "settings")
"""What a data set's file may say beside source and workspace."""


class Job(Asked):
    """One run: from where, to where, how."""

    source: str = Field(description="folder or URL of the archive; it is never written to")
    workspace: str = Field(description="folder or URL for ledger, intermediates, restored files and report")
    recipe: str = Field(default="compact", description="a recipe's name, or a .toml file")
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
    _refuse_nesting(source, workspace)
    if str(given.get("recipe", "")).endswith(".toml"):
        given["recipe"] = str(Path(given["recipe"]).absolute())
    return Job.of(source=Storage(source).url, workspace=Storage(workspace).url, **given)


def recipe_label(recipe: str) -> str:
    """What a recipe is called in folders and tables: its name, or that of its file."""
    return recipe.removesuffix(".toml").rpartition("/")[2]
