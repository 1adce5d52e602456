"""One evaluation in work: everything that its steps share, opened once and closed in the right order.

It holds the evaluation folder's lease and ledger, the metrics with their digests, and (while there is work) the
workers. The steps themselves are in flows.evaluate_dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.jobs import (
    EvaluationJob,
    JobError,
    is_workspace,
    lies_in,
    output_of,
    read_data_manifest,
    refuse_secrets,
    restored_tree,
)
from flows.session import SOFTWARE, Progress, executor_settings, planned_pool, resolve_device
from infra.ledger import Lease, Ledger, buckets_for
from infra.settings import Settings
from infra.storage import Storage
from infra.weights import WeightsStore, open_store
from tasks.measuring import (
    CAP,
    CODE_VERSION,
    FACES,
    INPUT,
    METRICS,
    RESTORED,
    TRUTH,
    MeasureConfig,
    Protocol,
    ProtocolError,
    Resolved,
    Row,
    Rules,
    Trees,
    UnknownMetric,
    default_metrics,
    protocol_of,
    read_landmarks,
    resolve,
    weights_of,
)
from tasks.stages import DetectAlign, DetectAlignSettings

if TYPE_CHECKING:
    from infra.workers import Executor

FACTORY = "tasks.measuring.measurer:build"


class EvaluationRun:
    """See the module. Build one with `open_evaluation_run`."""

    def __init__(self, job: EvaluationJob, settings: Settings, progress: Progress) -> None:
        self.job, self.settings, self.progress = job, settings, progress
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
        self.started = time.time()
        self.folder = Storage(output_of(job))
        self.folders = _folders(job)
        self.weights: WeightsStore = open_store(settings.weights_dir, settings.weights_table)
        self.protocol = _protocol(job.dataset)
        self.rules = Rules(self.protocol, {}, job.sample or 1.0)
        self.resolved = _resolved(job, self.protocol, self.weights)
        self.device = resolve_device(settings)
        self.detector: dict[str, Any] | None = None
        self.trees = Trees(self.folders, self.rules)
        self.recorded: set[str] = set()  # portions that are in the ledger
        self.ledger: Ledger
        self.lease: Lease
        self.executor: Executor

    @property
    def fid_cap(self) -> int:
        """How many pictures FID takes, by sorted path."""
        return self.protocol.fid_cap if self.protocol else CAP

    @cached_property
    def digests(self) -> dict[str, str]:
        """Stage of the ledger → digest of all that its rows depend on beside the pair; ask once alignment is settled.

        The stage `faces` says which faces a pair has; every other one is a metric.
        """
        weights = {name: self.weights.sha256(name) for name in self._detector_weights()}
        faces = _digest(FACES, CODE_VERSION, self.detector, weights)
        of = self.resolved.present
        return {FACES: faces, **{n: _digest(of[n], faces, self.device if METRICS[n].weights else "") for n in of}}

    def settle_alignment(self, *, squares: bool) -> None:
        """Whether the pictures are aligned faces; what the job says first, then the data set, the recipe, the sizes."""
        recipes = _recipe_detector(self.job.restored)
        aligned = self.job.aligned
        if aligned is None:
            of_recipe = recipes is not None and recipes.get("detector") == "none"
            aligned = self.protocol.aligned if self.protocol else of_recipe or squares
        if self.job.detector is not None:
            recipes = self.job.detector
        looking = recipes if recipes is not None and recipes.get("detector") != "none" else {}
        self.detector = None if aligned else self._named(looking)

    def record(self, bucket: int, stage: str, rows: Sequence[Row]) -> None:
        """Appends a stage's rows of one bucket to the ledger, provided that the lease still holds."""
        if rows:
            self.lease.check()
            self.ledger.append_events(rows, run_id=self.id, token=self.lease.token, stage=stage, bucket=bucket)

    def drop_checkpoints(self, rows: Sequence[Row]) -> None:
        """Deletes what workers left for rows that are in the ledger now; features stay, FID is made of them later."""
        kept = {row.get("output_uri") for row in rows}
        for path in {row["checkpoint"] for row in rows if row.get("checkpoint")} - kept:
            self.folder.delete(path)

    def measure_config(self, threads: int) -> MeasureConfig:
        """What a worker process needs to know."""
        metrics = tuple(self.resolved.present)
        return MeasureConfig(
            trees={role: storage.url for role, storage in self.folders.items()},
            workspace=self.folder.url,
            metrics=metrics,
            weights=tuple(sorted({*weights_of(metrics), *self._detector_weights()})),
            digests=self.digests,
            detector=self.detector,
            weights_dir=self.settings.weights_dir,
            weights_table=self.settings.weights_table,
            device=self.device,
            threads=threads,
            max_pixels=self.settings.max_pixels,
        )

    def facts(self) -> dict[str, Any]:
        """The part of evaluation.json that is known before anything is measured."""
        return {
            "dataset": self.job.dataset,
            "restored": self.folders[RESTORED].shown_url,
            "against": self.folders[INPUT].shown_url,
            "truth": self.folders[TRUTH].shown_url if TRUTH in self.folders else None,
            "workspace": Storage(self.job.restored).shown_url if is_workspace(self.job.restored) else None,
            "software": SOFTWARE,
            "device": self.device,
            "run_id": self.id,
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(),
            "sample": self.job.sample or 1.0,
            "aligned": self.detector is None,
            "detector": self.detector,
            "metrics": {name: self._metric_facts(name) for name in self.resolved.present},
            "missing": self.resolved.missing,
        }

    def _metric_facts(self, name: str) -> dict[str, Any]:
        metric, digest = METRICS[name], self.resolved.present[name]
        told = {"title": metric.title, "better": metric.better, "kind": metric.kind, "digest": digest}
        return told | {"weights": self.resolved.weights.get(name, {})}

    def _named(self, looking: dict[str, Any]) -> dict[str, Any]:
        """The detector's settings, with the one that `auto` stands for here by its name."""
        settings = DetectAlignSettings.model_validate(looking)
        if settings.detector == "auto":
            there = "yunet" in self.weights.table and self.weights.status("yunet").present
            settings = settings.model_copy(update={"detector": "yunet" if there else "compact"})
        return settings.model_dump(mode="json")

    def _detector_weights(self) -> tuple[str, ...]:
        if self.detector is None:
            return ()
        return DetectAlign.weights_needed(DetectAlignSettings.model_validate(self.detector))


def checked(job: EvaluationJob, progress: Progress | None = None) -> EvaluationRun:
    """The run of a job that can be done; nothing is opened or written. Raises JobError, SettingsError."""
    run = EvaluationRun(job, job.load_settings(), progress or Progress())
    _refuse_danger(run)
    _take_landmarks(run)
    return run


@contextmanager
def open_evaluation_run(job: EvaluationJob, progress: Progress | None = None) -> Iterator[EvaluationRun]:
    """Validates everything, takes the evaluation folder's lease, opens its ledger; closes what was opened.

    Raises JobError, SettingsError before anything is written, WorkspaceBusy when another run holds the folder.
    """
    run = checked(job, progress)
    with ExitStack() as stack:
        run.lease = stack.enter_context(Lease.acquire(run.folder, owner=run.id))
        run.ledger = Ledger.open(run.folder, buckets=_buckets(run))
        yield run


@contextmanager
def workers(run: EvaluationRun) -> Iterator[None]:
    """Starts or joins the Ray cluster and the pool of worker processes for as long as there is work."""
    from infra.workers import Executor

    with planned_pool(run.settings, run.device) as (_, pool):
        config = run.measure_config(pool.threads).model_dump(mode="json")
        with Executor(FACTORY, config, pool=pool, settings=executor_settings(run.settings)) as run.executor:
            run.executor.wait_ready()
            yield


def _folders(job: EvaluationJob) -> dict[str, Storage]:
    """Role → storage. Raises JobError where one is not there."""
    refuse_secrets(*filter(None, (job.restored, job.against, job.truth, job.output)))
    named = {RESTORED: restored_tree(job.restored), INPUT: job.against, TRUTH: job.truth}
    folders = {role: Storage(url) for role, url in named.items() if url is not None}
    for role, storage in folders.items():
        if storage.is_local and not storage.exists(""):
            what = {RESTORED: "restored pictures", INPUT: "inputs", TRUTH: "true pictures"}[role]
            raise JobError(f"there are no {what} at {storage.shown_url}: expected a folder")
    return folders


def _refuse_danger(run: EvaluationRun) -> None:
    """Pictures are only read: the numbers may not go into a folder of them."""
    for storage in run.folders.values():
        if lies_in(run.folder.url, storage.url):
            raise JobError(
                f"the numbers would be written to {run.folder.shown_url}, inside {storage.shown_url}, which is only "
                "read; give --output DIR"
            )


def _protocol(dataset: str | None) -> Protocol | None:
    if dataset is None:
        return None
    try:
        protocol = protocol_of(read_data_manifest(dataset), dataset)
    except ProtocolError as error:
        raise JobError(str(error)) from None
    if protocol is None:
        raise JobError(f"data_manifests/{dataset}.toml has no section [evaluation], so it does not say how to judge")
    return protocol


def _resolved(job: EvaluationJob, protocol: Protocol | None, weights: WeightsStore) -> Resolved:
    truth = job.truth is not None
    names = job.metrics or dict.fromkeys((*(protocol.metrics if protocol else ()), *default_metrics(truth)))
    try:
        return resolve(tuple(names), weights, truth)
    except UnknownMetric as error:
        raise JobError(str(error)) from None


def _take_landmarks(run: EvaluationRun) -> None:
    """Reads the data set's table of landmarks; where it is not there, what needs it is missing and says so."""
    table = run.protocol.landmarks if run.protocol else None
    if table is None:
        return
    beside = run.job.landmarks is None
    folder, _, name = (run.job.landmarks or "").rpartition("/")
    storage, path = (run.folders[INPUT], table.file) if beside else (Storage(folder or "."), name)
    if not storage.exists(path):
        if not beside:
            raise JobError(f"there is no table of landmarks at {run.job.landmarks}")
        _without_landmarks(run.resolved, f"{storage.shown_url}/{path}")
        return
    try:
        placed = read_landmarks(storage.read_bytes(path).decode("utf-8-sig"), table)
    except (ProtocolError, UnicodeDecodeError) as error:
        raise JobError(f"the table of landmarks {storage.shown_url}/{path}: {error}") from None
    run.rules = Rules(run.protocol, placed, run.rules.sample)
    run.trees = Trees(run.folders, run.rules)


def _without_landmarks(resolved: Resolved, expected: str) -> None:
    for name in [n for n in resolved.present if n.startswith("identity")]:
        del resolved.present[name]
        resolved.missing[name] = (
            f"{name} needs the data set's table of landmarks, expected at {expected}; put it there or give "
            "--landmarks FILE"
        )


def _recipe_detector(restored: str) -> dict[str, Any] | None:
    """Settings of detect_align in the recipe that a workspace was restored with; None where there is no such thing."""
    from flows.session import last_job

    if not is_workspace(restored):
        return None
    try:
        first = last_job(restored).load_recipe().stages[0]
    except (JobError, ValueError):
        return None
    return first.settings.model_dump(mode="json") if first.cls is DetectAlign else None


def _buckets(run: EvaluationRun) -> int:
    """For a new ledger, as many buckets as the number of pictures asks for; an existing one has its own."""
    if run.folder.exists("_format.json"):
        return 1
    return buckets_for(sum(1 for info in run.folders[RESTORED].walk() if run.rules.counts(info.ledger_path)))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
