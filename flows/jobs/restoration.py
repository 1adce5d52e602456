"""What a run is asked to do, as plain data that a command line, a deployment's form and a test can all write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra.settings import Settings, load_settings
from infra.storage.storage import Storage
from tasks.recipes.recipe import Recipe, load_recipe

DATA_MANIFESTS = Path("data_manifests")
OF_A_DATA_SET = ("recipe", "aligned", "include", "exclude", "stages", "settings")
"""What a data set's file may say beside source and workspace."""
DEMO_SEED = 1


class JobError(ValueError):
    """A run was asked for that cannot be; the message says what was expected, what came and what to do."""


class Job(BaseModel):
    """One run: from where, to where, how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of infra.settings, over all others")

    def load_recipe(self) -> Recipe:
        """The recipe with this job's overrides. Raises RecipeError."""
        stages = dict(self.stages)
        if self.aligned:
            stages["detect_align"] = {**stages.get("detect_align", {}), "detector": "none"}
        return load_recipe(self.recipe, stages)

    def load_settings(self) -> Settings:
        """The settings tree with this job's on top. Raises SettingsError."""
        return load_settings(**self.settings)


def job_for(dataset: str | None, source: str | None, workspace: str | None, **more: Any) -> Job:
    """A job for a data set named in data_manifests/, or for a source and a workspace; what is None was not given.

    Raises JobError when neither is complete, when the data set is not described, and where originals were in danger.
    """
    given = {name: value for name, value in more.items() if value is not None}
    if source is None and dataset is not None:
        described = read_data_manifest(dataset)
        source, workspace = described["source"], workspace or described["workspace"]
        given = {name: described[name] for name in OF_A_DATA_SET if name in described} | given
        _make_what_can_be_made(described)
    if source is None:
        raise JobError(
            "expected a source (a folder or URL with pictures), or a data set of data_manifests/; got neither"
        )
    if workspace is None:
        raise JobError(f"expected a workspace to put the restored pictures of {source} in; give --workspace DIR")
    refuse_secrets(source, workspace)
    _refuse_nesting(source, workspace)
    if str(given.get("recipe", "")).endswith(".toml"):
        given["recipe"] = str(Path(given["recipe"]).absolute())
    return Job(source=Storage(source).url, workspace=Storage(workspace).url, **given)


def recipe_label(recipe: str) -> str:
    """What a recipe is called in folders and tables: its name, or that of its file."""
    return recipe.removesuffix(".toml").rpartition("/")[2]


def read_data_manifest(name: str) -> dict[str, Any]:
    """What data_manifests/<name>.toml says. Relative folders in it are relative to the folder it lies in."""
    path = DATA_MANIFESTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in DATA_MANIFESTS.glob("*.toml"))) or "none here"
        raise JobError(f"there is no data set {name!r} in {DATA_MANIFESTS.absolute()}; known are {known}")
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path} is not TOML: {error}") from None
    for key in ("source", "workspace"):
        if key in described and "://" not in described[key]:
            described[key] = str((path.parent / described[key]).absolute())
    return described


def _make_what_can_be_made(described: dict[str, Any]) -> None:
    """The demo's archive is made on the spot when it is not there."""
    source = Path(described["source"])
    if described.get("generator") == "demo" and not source.exists():
        from tasks.archive.demo import make

        make(source.parent, DEMO_SEED)


def refuse_secrets(*urls: str) -> None:
    """What a job names stands in files and in the dashboard."""
    for url in urls:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise JobError(
                f"{Storage(url).shown_url} holds a user name or password, which would be written down with the run; "
                "give credentials in the environment (AWS_ACCESS_KEY_ID, …)"
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
