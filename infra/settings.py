"""One typed settings tree: flag > environment (`MPSR_…`) > file (`mpsr.toml`) > default.

Every setting has a sentence, a unit where it has one, a range and a default. The table in docs/settings.md is written
by hand; a test checks that it names every setting. It knows nothing of stages: a recipe has settings of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.problems import ForPeople

CONFIG_FILE = "mpsr.toml"


class SettingsError(ForPeople):
    """A setting has a value that cannot be used; the message names the setting, the value and what is expected."""

    exit_code = 2


class Promotion(BaseModel):
    """Bounds within which a nightly run under a changed recipe replaces older results; the table `[promotion]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: tuple[str, ...] = Field(
        default=(), description="metrics that are measured; none = those of the nightly gate that can be taken here"
    )
    confidence: float = Field(default=0.95, ge=0.5, lt=1, description="confidence of the score's interval")
    margin: float = Field(
        default=0.005, ge=0, le=1, description="how far the mean score (0 to 1) may have fallen, with that confidence"
    )
    score_floor: float = Field(default=0.0, ge=0, le=1, description="score below which no face may come to lie")
    score_drop: float = Field(default=0.1, ge=0, le=1, description="fall of one face's score that is still accepted")
    identity_floor: float = Field(
        default=0.3, ge=-1, le=1, description="similarity (cosine) to the input below which a face is another person"
    )
    identity_drop: float = Field(
        default=0.2, ge=0, le=2, description="fall of one face's similarity that is still accepted"
    )
    identity_losses: int = Field(
        default=0, ge=0, description="how many faces more than before may be another person in the whole run"
    )
    without_identity: bool = Field(
        default=False, description="whether results are replaced where nothing here can judge identity"
    )


class Settings(BaseSettings):
    """How and where runs execute."""

    model_config = SettingsConfigDict(
        env_prefix="MPSR_", toml_file=CONFIG_FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    weights_dir: str = Field(
        default_factory=lambda: str(Path.home() / ".cache" / "mpsr" / "weights"),
        description="folder with downloaded weights",
    )
    weights_table: str | None = Field(
        default=None, description="a table of weights in place of the package's infra/weights/weights.toml, as a path"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where networks compute; auto takes CUDA when the cluster has a GPU"
    )
    engine: Literal["auto", "local", "ray"] = Field(
        default="auto",
        description="local = in the process that was asked; ray = worker processes, told to Prefect; auto = by the job",
    )
    workers: int = Field(default=0, ge=0, le=4096, description="worker processes; 0 = one per GPU, else by cores")
    threads: int = Field(default=0, ge=0, le=256, description="CPU threads per worker process; 0 = cores / workers")
    pools: dict[str, int] = Field(
        default_factory=dict, description="further pools of CPU workers, name = workers, beside the one for all stages"
    )
    placement: dict[str, str] = Field(
        default_factory=dict, description="stages that run in such a pool, stage id = pool; all others run in the one"
    )
    ray_address: str | None = Field(
        default=None, description="a running Ray cluster to join, `auto` or host:port; none = start one here"
    )
    ray_dashboard: bool = Field(default=False, description="start Ray's dashboard (on loopback) with a local cluster")
    shard_size: int = Field(default=1000, ge=1, le=100_000, description="most images per shard, the unit Prefect sees")
    shards_in_flight: int = Field(default=3, ge=1, le=256, description="shards worked on at the same time")
    micro_batch: int = Field(
        default=0, ge=0, le=256, description="faces per call of a worker; 0 = as the recipe's stages say"
    )
    retries: int = Field(default=3, ge=0, le=20, description="further tries after a failure of the machinery")
    call_timeout: float = Field(
        default=1800.0, ge=1.0, description="seconds after which a worker that does not answer is ended"
    )
    quarantine_budget: float = Field(
        default=0.05, ge=0.0, le=1.0, description="share of quarantined images at which a run stops"
    )
    quarantine_budget_from: int = Field(default=200, ge=1, description="images before the budget counts")
    keep_intermediates_gb: float = Field(
        default=20.0, ge=0.0, description="GB of intermediates kept, so that a changed recipe need not start again"
    )
    max_pixels: int = Field(default=300_000_000, ge=1, description="pixels above which a picture is not decoded")
    promotion: Promotion = Field(
        default_factory=Promotion, description="bounds of the nightly gate (a table of its own, see docs/settings.md)"
    )
    price_per_gpu_hour: float = Field(
        default=0.0,
        ge=0.0,
        description="price of one GPU (or, without GPUs, of the machine) per hour, in any currency; 0 = not known",
    )
    report_thumbnails: bool = Field(default=True, description="pictures in the report; off for private archives")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags are `init_settings`; then the environment; then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**flags: Any) -> Settings:
    """Settings with the given flags on top; a flag that is None was not given. Raises SettingsError."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(sorted(Settings.model_fields))
        hint = f"; known settings are {known}" if first["type"] == "extra_forbidden" else ""
        raise SettingsError(f"setting {key!r}: {first['msg']}, got {first.get('input')!r}{hint}") from None
    except ValueError as error:
        raise SettingsError(f"{CONFIG_FILE} and the MPSR_ variables cannot be read: {error}") from None
