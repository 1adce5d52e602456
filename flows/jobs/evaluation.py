"""What an evaluation is asked to do, as plain data, and how one that was made is found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue

from flows.jobs.asked import Asked, Names
from flows.jobs.data_set import JobError, read_data_manifest
from infra.storage import Storage
from tasks.worker import RESTORED

if TYPE_CHECKING:
    from tasks.measuring import Evaluation

EVALUATION = "evaluation"
"""The folder of a workspace's evaluation; and what is appended to the name of any other folder."""


class EvaluationJob(Asked):
    """One evaluation: what is measured, against what, and where the numbers go."""

    restored: str = Field(description="a workspace, or a folder or URL of restored pictures; it is only read")
    against: str = Field(description="folder or URL of the inputs that were restored; it is only read")
    truth: str | None = Field(default=None, description="folder or URL of the true pictures, where they are known")
    dataset: str | None = Field(default=None, description="a data set of data_manifests/ with an [evaluation] section")
    landmarks: str | None = Field(default=None, description="the data set's table of landmarks, where it lies apart")
    output: str | None = Field(default=None, description="folder or URL for the numbers; none = see `output_of`")
    metrics: Names = Field(default=(), description="names of metrics; none = all that can be computed")
    aligned: bool | None = Field(
        default=None, description="the pictures are aligned faces; none = where the data set or their size says so"
    )
    detector: dict[str, JsonValue] | None = Field(
        default=None, description="how faces are looked for, as evaluation.json says it; none = as the recipe did"
    )
    sample: float | None = Field(default=None, gt=0, le=1, description="share of the pictures, chosen by their names")


def evaluation_job(
    *, restored: str | None = None, against: str | None = None, dataset: str | None = None, **more: Any
) -> EvaluationJob:
    """A job, with what a data set's file says of its workspace and source; `more` are fields of EvaluationJob.

    Raises JobError where it does not become clear what is measured against what, or a value cannot be.
    """
    if dataset is not None:
        described = read_data_manifest(dataset)
        restored, against = restored or described.get("workspace"), against or described.get("source")
    if restored is None or against is None:
        what = "the pictures that it was restored from (--against)" if restored else "a workspace or folder to measure"
        raise JobError(f"expected {what}, or a data set of data_manifests/ that names it; got neither")
    return EvaluationJob.of(restored=_bare(restored), against=_bare(against), dataset=dataset, **more)


def is_workspace(url: str) -> bool:
    """Whether a run of ours lives there."""
    return Storage(url).exists("_format.json")


def workspace_at(url: str) -> Storage:
    """The workspace at a path or URL. Raises JobError where no run of ours lives there."""
    if not is_workspace(url):
        raise JobError(
            f"expected a workspace, got {Storage(url).shown_url}, which holds no ledger; `mpsr run` makes one"
        )
    return Storage(url)


def restored_tree(url: str) -> str:
    """Where the restored pictures lie: below a workspace, or in the folder itself."""
    return _joined(url, RESTORED) if is_workspace(url) else url


def output_of(job: EvaluationJob) -> str:
    """The job's output folder; without one `evaluation` in a workspace, or `<folder>-evaluation` beside a folder."""
    if job.output is not None:
        return job.output
    return _joined(job.restored, EVALUATION) if is_workspace(job.restored) else f"{_bare(job.restored)}-{EVALUATION}"


def open_evaluation(url: str) -> Evaluation:
    """The evaluation of a workspace, or in an evaluation folder. Raises EvaluationMissing."""
    from tasks.measuring import FACTS, read_evaluation

    inside = Storage(_joined(url, EVALUATION))
    return read_evaluation(inside if inside.exists(FACTS) else Storage(url))


def _joined(url: str, name: str) -> str:
    return f"{_bare(url)}/{name}"


def _bare(url: str) -> str:
    return Storage(url).url.rstrip("/")
