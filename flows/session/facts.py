"""What runs write down about themselves (`runs/<id>.json`), and what is asked of it later.

Files of every earlier version are read: what a version did not write yet has its default.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from flows.jobs import Job, JobError
from infra.facts import Facts, Record
from infra.ledger import listing
from infra.storage import Storage
from tasks.comparing import PromotionTold
from tasks.recipes import Held, RecipeFile, StageEntry


class RanJob(Job):
    """The job of a run, as some version knew it."""

    model_config = ConfigDict(extra="ignore")

    source: str = ""
    workspace: str = ""


class RanStage(StageEntry):
    """A stage of a recipe, as some version knew it."""

    model_config = ConfigDict(extra="ignore")


class RanRecipe(RecipeFile):
    """The recipe of a run, as some version knew it."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    stage: tuple[RanStage, ...] = ()


class StageTotal(Record):
    """What a stage did in a run. seconds: inside the stage, added over workers."""

    items: int = 0
    reused: int = 0
    failed: int = 0
    seconds: float = 0.0


class Balance(Facts):
    """What a workspace adds up to, in files: all outcomes are always there and sum to `found`.

    faces: outcome → faces, and `found`, their sum.
    """

    found: int = 0
    outcomes: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    faces: dict[str, int] = Field(default_factory=dict)


class Summary(Balance):
    """The totals of a run. seconds: by the clock. startup_seconds: until workers stood; None where none were needed.

    promotion: what the nightly gate decided; None where it had nothing to decide.
    """

    run_id: str = ""
    seconds: float | None = None
    startup_seconds: float | None = None
    stages: dict[str, StageTotal] = Field(default_factory=dict)
    forecast: Held | None = None
    promotion: PromotionTold | None = None


class RunFacts(Facts):
    """One run. digests: stage → digest of all that its results depend on beside the picture. weights: name → sha256.

    started, finished_at: ISO 8601, UTC. `finished` and `summary` come at the end.
    """

    run_id: str = ""
    job: RanJob = RanJob()
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    recipe: RanRecipe = RanRecipe()
    digests: dict[str, str] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    software: str = ""
    python: str = ""
    host: str = ""
    started: str = ""
    links: dict[str, str] = Field(default_factory=dict)
    finished: bool = False
    finished_at: str | None = None
    summary: Summary | None = None

    @property
    def with_pictures(self) -> bool:
        """Whether the run's report shows pictures."""
        return bool(self.settings.get("report_thumbnails", True))


def write_run_facts(storage: Storage, facts: RunFacts) -> None:
    """Writes `runs/<id>.json`, in place of what the run wrote down before."""
    storage.write_atomic(_path(facts.run_id), facts.to_json())


def facts_of_run(storage: Storage, run_id: str) -> RunFacts | None:
    """What a run wrote down about itself; None where it did not."""
    return _read(storage, _path(run_id)) if storage.exists(_path(run_id)) else None


def facts_of_every_run(storage: Storage) -> list[RunFacts]:
    """What every run of a workspace wrote down about itself, oldest first."""
    return [_read(storage, path) for path in _paths(storage)]


def last_run_facts(storage: Storage) -> RunFacts:
    """What the latest run wrote down about itself. Raises JobError where none ever ran."""
    if not (paths := _paths(storage)):
        raise JobError(f"expected a workspace in which something ran; nothing ever ran in {storage.shown_url}")
    return _read(storage, paths[-1])


def last_job(workspace: str) -> Job:
    """The job of a workspace's last run. Raises JobError where none ever ran."""
    return Job.of(**last_run_facts(Storage(workspace)).job.model_dump())


def digests_of_run(storage: Storage, run_id: str) -> dict[str, str]:
    """Stage → digest, as the run wrote them down; nothing where it did not."""
    facts = facts_of_run(storage, run_id)
    return facts.digests if facts else {}


def _paths(storage: Storage) -> list[str]:
    return sorted(info.path for info in listing(storage, "runs") if info.path.endswith(".json"))


def _path(run_id: str) -> str:
    return f"runs/{run_id}.json"


def _read(storage: Storage, path: str) -> RunFacts:
    try:
        return RunFacts.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise JobError(
            f"{path} in {storage.shown_url} is not what a run wrote down about itself ({error.errors()[0]['msg']}); "
            "move it out of the folder `runs`: no result depends on it"
        ) from None
