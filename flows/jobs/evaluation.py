"""What an evaluation is asked to do, as plain data, and how one that was made is found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.jobs.data_set import JobError, read_data_manifest
from infra.settings import Settings, load_settings
from infra.storage import Storage
from tasks.worker import RESTORED

if TYPE_CHECKING:
    from tasks.measuring import Evaluation

EVALUATION = "evaluation"
"""The folder of a workspace's evaluation; and what is appended to the name of any other folder."""


class EvaluationJob(BaseModel):
    """One evaluation: what is measured, against what, and where the numbers go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    restored: str = Field(description="a workspace, or a folder or URL of restored pictures; it is only read")
    against: str = Field(description="folder or URL of the inputs that were restored; it is only read")
    truth: str | None = Field(default=None, description="folder or URL of the true pictures, where they are known")
    dataset: str | None = Field(default=None, description="a data set of data_manifests/ with an [evaluation] section")
    landmarks: str | None = Field(default=None, description="the data set's table of landmarks, where it lies apart")
    output: str | None = Field(default=None, description="folder or URL for the numbers; none = see `output_of`")
    metrics: tuple[str, ...] = Field(default=(), description="names of metrics; none = all that can be computed")
    aligned: bool | None = Field(
        default=None, description="the pictures are aligned faces; none = where the data set or their size says so"
    )
    detector: dict[str, Any] | None = Field(
        default=None, description="how faces are looked for, as evaluation.json says it; none = as the recipe did"
    )
    sample: float | None = Field(default=None, gt=0, le=1, description="share of the pictures, chosen by their names")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of infra.settings, over all others")

    def load_settings(self) -> Settings:
        """The settings tree with this job's on top. Raises SettingsError."""
        return load_settings(**self.settings)


def evaluation_job(restored: str | None, against: str | None, dataset: str | None, **more: Any) -> EvaluationJob:
    """A job, with what a data set's file says of its workspace and source; what is None was not given.

    Raises JobError where it does not become clear what is measured against what, or a value cannot be.
    """
    if dataset is not None:
        described = read_data_manifest(dataset)
        restored, against = restored or described.get("workspace"), against or described.get("source")
    if restored is None or against is None:
        what = "the pictures that it was restored from (--against)" if restored else "a workspace or folder to measure"
        raise JobError(f"expected {what}, or a data set of data_manifests/ that names it; got neither")
    given = {name: value for name, value in more.items() if value is not None}
    try:
        return EvaluationJob(restored=_bare(restored), against=_bare(against), dataset=dataset, **given)
    except ValidationError as error:
        first = error.errors()[0]
        raise JobError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first.get('input')!r}") from None


def is_workspace(url: str) -> bool:
    """Whether a run of ours lives there."""
    return Storage(url).exists("_format.json")


def restored_tree(url: str) -> str:
    """Where the restored pictures lie: below a workspace, or in the folder itself."""
    return _joined(url, RESTORED) if is_workspace(url) else url


def output_of(job: EvaluationJob) -> str:
    """The job's output folder; without one `evaluation` in a workspace, or `<folder>-evaluation` beside a folder."""
    if job.output is not None:
        return job.output
    return _joined(job.restored, EVALUATION) if is_workspace(job.restored) else f"{_bare(job.restored)}-{EVALUATION}"


def open_evaluation(url: str) -> Evaluation:
    """The evaluation of a workspace, or in an evaluation folder. Raises JobError where there is none."""
    from tasks.measuring import FACTS, EvaluationMissing, read_evaluation

    inside = Storage(_joined(url, EVALUATION))
    try:
        return read_evaluation(inside if inside.exists(FACTS) else Storage(url))
    except EvaluationMissing as error:
        raise JobError(str(error)) from None


def _joined(url: str, name: str) -> str:
    return f"{_bare(url)}/{name}"


def _bare(url: str) -> str:
    return Storage(url).url.rstrip("/")
