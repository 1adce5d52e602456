"""A recipe: an ordered list of stages with settings and conditions, read from TOML and validated whole.

A recipe knows what each stage reads, so it can say what a change makes stale: the stage itself and all that follow
from it, nothing else (`Recipe.digests`). It knows nothing of images, ledgers or workers.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tasks.recipes.condition import Condition, RecipeError
from tasks.stage import FaceStage, ImageStage, Stage, StageSettings
from tasks.stages import STAGES

COMMIT = "commit"
"""The ledger's name for an image's verdict under a whole recipe; no stage may take it."""


class StageEntry(BaseModel):
    """One `[[stage]]` of a recipe file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="the stage's name in ledger, report and dashboard")
    use: str = Field(default="", description="the implementation, one of tasks.stages.STAGES (default: the id)")
    when: str | None = Field(default=None, description="run only for faces for which this condition holds")
    unless: str | None = Field(default=None, description="run only for faces for which this condition does not hold")
    stop_when: str | None = Field(
        default=None, description="after this stage, leave alone the faces for which this condition holds"
    )
    settings: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def implementation(self) -> str:
        """The name in STAGES."""
        return self.use or self.id


class RecipeFile(BaseModel):
    """The TOML file's shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="numbers that networks compute in, where they tolerate it"
    )
    intermediate_dtype: Literal["float16", "float32"] = Field(
        default="float16", description="how images are kept between stages"
    )
    stage: tuple[StageEntry, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class RecipeStage:
    """A stage of a recipe with its class imported and its settings validated."""

    entry: StageEntry
    cls: type[Stage]
    settings: StageSettings

    @property
    def id(self) -> str:
        """The stage's name in the ledger."""
        return self.entry.id

    @property
    def gates(self) -> tuple[Condition, ...]:
        """The conditions that stand before this stage."""
        return tuple(Condition(text) for text in (self.entry.when, self.entry.unless) if text)

    def applies_to(self, metrics: Mapping[str, float]) -> bool:
        """Whether a face with these metrics goes through this stage."""
        wanted = self.entry.when is None or Condition(self.entry.when).holds(metrics)
        return wanted and not (self.entry.unless and Condition(self.entry.unless).holds(metrics))

    @property
    def stop_when(self) -> Condition | None:
        """The gate after this stage that leaves faces alone."""
        return Condition(self.entry.stop_when) if self.entry.stop_when else None

    @property
    def scope(self) -> Literal["image", "face"]:
        """What an item of this stage is."""
        return "image" if issubclass(self.cls, ImageStage) else "face"

    @property
    def reads(self) -> tuple[str, ...]:
        """Named images that it reads."""
        return self.cls.images_read(self.settings)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names in the weights table that this stage cannot run without."""
        return self.cls.weights_needed(self.settings)

    @property
    def optional_weights(self) -> tuple[str, ...]:
        """Names that it uses when they are present."""
        return self.cls.weights_optional(self.settings)

    @property
    def extras(self) -> tuple[str, ...]:
        """Extras of infra.extras that this stage cannot run without."""
        return self.cls.extras_needed(self.settings)

    @property
    def provides(self) -> tuple[str, ...]:
        """Metrics that faces have after it."""
        return self.cls.provides(self.settings)

    @property
    def batch_size(self) -> int:
        """Items per micro-batch."""
        return self.cls.batch_size(self.settings)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A validated recipe. Build one with `load_recipe` or `Recipe.parse`."""

    file: RecipeFile
    stages: tuple[RecipeStage, ...]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.file.name

    @classmethod
    def parse(cls, data: Mapping[str, JsonValue], origin: str = "recipe") -> Recipe:
        """Validates `data` whole. Raises RecipeError naming the first thing that is wrong, and the nearest match."""
        try:
            file = RecipeFile.model_validate(data)
        except ValidationError as error:
            raise RecipeError(_explain(error, origin, RecipeFile.model_fields)) from None
        recipe = cls(file, tuple(_resolve(entry, origin) for entry in file.stage))
        recipe._check_order(origin)
        return recipe

    def to_dict(self) -> dict[str, JsonValue]:
        """What `parse` takes: for handing a recipe to another process."""
        given: dict[str, JsonValue] = self.file.model_dump(mode="json")
        return given

    def stage(self, stage_id: str) -> RecipeStage:
        """The stage of that id. Raises KeyError."""
        return next(s for s in self.stages if s.id == stage_id)

    def dependencies(self, stage: RecipeStage) -> tuple[RecipeStage, ...]:
        """Earlier stages whose results this one reads: images, and metrics of the gates that stand before it."""
        earlier = self.stages[: self.stages.index(stage)]
        needed = {writer.id for name in stage.reads for writer in self._writers(name, earlier)}
        gates = [*stage.gates, *(s.stop_when for s in earlier if s.stop_when)]
        for gate in gates:
            needed |= {_provider(metric, earlier).id for metric in gate.metrics}
        return tuple(s for s in earlier if s.id in needed)

    def numerics(self, device: str) -> str:
        """Where and in what the recipe computes there: results of different ones are kept apart."""
        return f"{device}-{self.file.dtype}"

    def digests(self, weights: Mapping[str, str], numerics: str) -> dict[str, str]:
        """The part of every stage's key that does not name the image, by stage id, and `commit` for the whole.

        `weights` maps names to sha256 (absent optional ones are left out); `numerics` names device and dtype.
        """
        digests: dict[str, str] = {}
        for position, stage in enumerate(self.stages):
            used = [n for n in (*stage.weights, *stage.optional_weights) if n in weights]
            digests[stage.id] = _sha256(
                stage.entry.implementation,
                stage.cls.code_version,
                stage.settings.model_dump(mode="json"),
                {name: weights[name] for name in used},
                numerics if stage.cls.on_device else "",
                self.file.intermediate_dtype,
                [stage.entry.when, stage.entry.unless],
                [s.entry.stop_when for s in self.stages[:position] if s.entry.stop_when],
                [digests[s.id] for s in self.dependencies(stage)],
            )
        digests[COMMIT] = _sha256([digests[s.id] for s in self.stages], [s.entry.stop_when for s in self.stages])
        return digests

    def _writers(self, name: str, earlier: tuple[RecipeStage, ...]) -> list[RecipeStage]:
        """Whoever may have written the image that a face has under this name: the newest writer, and, where a gate may
        have been shut, the one before it, down to the aligned input, which is what the first restorer finds as
        `restored`. Raises KeyError where nobody writes it."""
        owner, _, image = name.rpartition(".")
        if owner:
            earlier = earlier[: [s.id for s in earlier].index(owner) + 1] if owner in {s.id for s in earlier} else ()
        found: list[RecipeStage] = []
        for stage in reversed(earlier):
            if image in stage.cls.writes:
                found.append(stage)
                if not stage.gates:
                    return found
        if not found and name != "restored":
            raise KeyError(name)
        return [*found, self.stages[0]]

    def _check_order(self, origin: str) -> None:
        ids = [s.id for s in self.stages]
        repeated = sorted({i for i in ids if ids.count(i) > 1} | ({COMMIT} & set(ids)))
        if repeated:
            raise RecipeError(f"{origin}: stage id {repeated[0]!r} is taken; give each stage its own `id`")
        if ids[0] != "detect_align" or "paste_back" not in ids:
            raise RecipeError(f"{origin}: expected detect_align first and a paste_back later, got {ids}")
        for stage in self.stages:
            try:
                self.dependencies(stage)
            except KeyError as missing:
                raise RecipeError(
                    f"{origin}: stage {stage.id!r} needs {missing.args[0]!r}, which no earlier stage gives"
                ) from None


def stage_key(image_id: str, face: int, digest: str) -> str:
    """The full key of one face (or image) at one stage: sha256 over what and how."""
    return hashlib.sha256(f"{image_id}:{face}:{digest}".encode()).hexdigest()


def seed_of(image_id: str, face: int, stage_id: str) -> int:
    """The random seed of a face at a stage, a non-negative 63-bit integer.

    It depends on nothing else, so that a changed setting, dtype or device is compared on the same random numbers.
    """
    return int(hashlib.sha256(f"{image_id}:{face}:{stage_id}".encode()).hexdigest()[:16], 16) >> 1


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(_shipped())


def load_recipe(name_or_path: str, overrides: Mapping[str, Mapping[str, JsonValue]] | None = None) -> Recipe:
    """Reads a recipe by name, or from a `.toml` file; `overrides[stage_id]` replaces single settings.

    Raises RecipeError when it does not exist (with the nearest name) or does not validate.
    """
    try:
        data = tomllib.loads(_read(name_or_path))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path!r} is not TOML: {error}") from None
    for stage_id, settings in (overrides or {}).items():
        entries = [e for e in data.get("stage", []) if e.get("id") == stage_id]
        if not entries:
            ids = [e.get("id", "?") for e in data.get("stage", [])]
            raise RecipeError(f"recipe {name_or_path!r} has no stage {stage_id!r}; {_nearest(stage_id, ids)}")
        entries[0]["settings"] = {**entries[0].get("settings", {}), **settings}
    return Recipe.parse(data, origin=f"recipe {name_or_path!r}")


def _read(name_or_path: str) -> str:
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {name_or_path}")
        return path.read_text(encoding="utf-8")
    shipped = _shipped()
    if name_or_path not in shipped:
        raise RecipeError(f"unknown recipe {name_or_path!r}; {_nearest(name_or_path, shipped)}")
    return shipped[name_or_path].read_text(encoding="utf-8")


def _shipped() -> dict[str, Traversable]:
    """Name → file of the recipes that come with the package: those of MPSR's graph here, others in folders beside."""
    home = resources.files("tasks").joinpath("recipes")
    folders = [home, *(entry for entry in home.iterdir() if entry.is_dir())]
    files = [entry for folder in folders for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {entry.name.removesuffix(".toml"): entry for entry in files}


def _resolve(entry: StageEntry, origin: str) -> RecipeStage:
    where = f"{origin}, stage {entry.id!r}"
    cls = _find_class(entry.implementation, where)
    try:
        settings = cls.Settings.model_validate(entry.settings)
    except ValidationError as error:
        raise RecipeError(_explain(error, where, cls.Settings.model_fields)) from None
    for text in (entry.when, entry.unless, entry.stop_when):
        if text:
            _ = Condition(text).comparisons
            if not issubclass(cls, FaceStage):
                raise RecipeError(f"{where}: conditions apply to stages that work on faces")
    return RecipeStage(entry, cls, settings)


def _find_class(implementation: str, where: str) -> type[Stage]:
    address = implementation if ":" in implementation else STAGES.get(implementation)
    if address is None:
        raise RecipeError(f"{where}: nothing is called {implementation!r}; {_nearest(implementation, STAGES)}")
    module, _, name = address.partition(":")
    try:
        cls: type[Stage] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{where}: cannot import {address}: {error}") from None
    return cls


def _provider(metric: str, earlier: tuple[RecipeStage, ...]) -> RecipeStage:
    for stage in reversed(earlier):
        if metric in stage.provides:
            return stage
    raise KeyError(metric)


def _explain(error: ValidationError, where: str, fields: Iterable[str]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; {_nearest(str(first['loc'][-1]), fields)}"
    return f"{where}: {key}: {first['msg']}, got {first.get('input')!r}"


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def _sha256(*parts: JsonValue) -> str:
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
