"""One evaluation in work: what it stands on, and everything that its steps share, opened once.

It holds the evaluation folder's lease and ledger, the metrics with their digests, and (while there is work) the
workers. The steps themselves are in flows.evaluate_dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.jobs import (
    EvaluationJob,
    JobError,
    insist_on_folder,
    is_workspace,
    lies_in,
    output_of,
    read_data_manifest,
    refuse_secrets,
    restored_tree,
)
from flows.session import (
    SOFTWARE,
    Device,
    Progress,
    Session,
    executor_settings,
    last_job,
    open_session,
    planned_pool,
    resolve_device,
)
from infra.problems import ForPeople
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
    EvaluationFacts,
    MeasureConfig,
    MetricFacts,
    PairResult,
    Protocol,
    ProtocolError,
    Resolved,
    Rules,
    Trees,
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
"""Makes the host of every worker process."""


@dataclass(frozen=True)
class PreparedEvaluation:
    """What an evaluation stands on, settled before anything is opened, so that what cannot be is said at once."""

    job: EvaluationJob
    settings: Settings
    folder: Storage
    """For the numbers."""
    folders: Mapping[str, Storage]
    """Role → folder of pictures."""
    weights: WeightsStore
    protocol: Protocol | None
    rules: Rules
    resolved: Resolved
    device: Device


class EvaluationRun:
    """See the module. Build one with `open_evaluation_run`."""

    executor: Executor

    def __init__(self, prepared: PreparedEvaluation, session: Session, progress: Progress) -> None:
        self.prepared, self.session, self.progress = prepared, session, progress
        self.job, self.settings, self.weights = prepared.job, prepared.settings, prepared.weights
        self.folders, self.protocol, self.rules = prepared.folders, prepared.protocol, prepared.rules
        self.id, self.folder, self.ledger = session.id, session.storage, session.ledger
        self.trees = Trees(self.folders, self.rules)
        self.detector: DetectAlignSettings | None = None
        self.recorded: set[str] = set()  # portions that are in the ledger

    @contextmanager
    def workers(self, pairs: int) -> Iterator[None]:
        """Brings up the engine and its workers for as long as there is work, which is so many pairs."""
        from infra.workers import Executor

        with planned_pool(self.settings, self.prepared.device, pairs) as (_, pool):
            config = self.measure_config(pool.threads).model_dump(mode="json")
            with Executor(FACTORY, config, pool=pool, settings=executor_settings(self.settings)) as self.executor:
                self.executor.wait_ready()
                yield

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
        faces = _digest(FACES, CODE_VERSION, self.detector and self.detector.model_dump(mode="json"), weights)
        of, device = self.prepared.resolved.present, self.prepared.device
        return {FACES: faces, **{n: _digest(of[n], faces, device if METRICS[n].weights else "") for n in of}}

    def settle_alignment(self, *, squares: bool) -> None:
        """Whether the pictures are aligned faces; what the job says first, then the data set, the recipe, the sizes."""
        looking = _recipe_detector(self.job.restored)
        aligned = self.job.aligned
        if aligned is None:
            of_recipe = looking is not None and looking.detector == "none"
            aligned = self.protocol.aligned if self.protocol else of_recipe or squares
        if self.job.detector is not None:
            looking = DetectAlignSettings.model_validate(self.job.detector)
        if looking is None or looking.detector == "none":
            looking = DetectAlignSettings()
        self.detector = None if aligned else self._named(looking)

    def drop_checkpoints(self, results: Sequence[PairResult]) -> None:
        """Deletes what workers left of results that are in the ledger; features stay, FID is made of them later."""
        kept = {event.output_uri for result in results for event in result.events}
        for path in {result.checkpoint for result in results if result.checkpoint} - kept:
            self.folder.delete(path)

    def measure_config(self, threads: int) -> MeasureConfig:
        """What a worker process needs to know."""
        metrics = tuple(self.prepared.resolved.present)
        return MeasureConfig(
            trees={role: storage.url for role, storage in self.folders.items()},
            workspace=self.folder.url,
            metrics=metrics,
            weights=tuple(sorted({*weights_of(metrics), *self._detector_weights()})),
            digests=self.digests,
            detector=self.detector,
            weights_dir=self.settings.weights_dir,
            weights_table=self.settings.weights_table,
            device=self.prepared.device,
            threads=threads,
            max_pixels=self.settings.max_pixels,
        )

    def facts(self) -> EvaluationFacts:
        """What is known before anything is measured."""
        return EvaluationFacts(
            dataset=self.job.dataset,
            restored=self.folders[RESTORED].shown_url,
            against=self.folders[INPUT].shown_url,
            truth=self.folders[TRUTH].shown_url if TRUTH in self.folders else None,
            workspace=Storage(self.job.restored).shown_url if is_workspace(self.job.restored) else None,
            software=SOFTWARE,
            device=self.prepared.device,
            run_id=self.id,
            started=datetime.fromtimestamp(self.session.started, UTC).isoformat(),
            sample=self.rules.sample,
            aligned=self.detector is None,
            detector=self.detector.model_dump(mode="json") if self.detector else None,
            metrics={name: self._metric_facts(name) for name in self.prepared.resolved.present},
            missing=self.prepared.resolved.missing,
            folder=self.folder.shown_url,
            unrestored=self.trees.unrestored,
        )

    def _metric_facts(self, name: str) -> MetricFacts:
        metric, resolved = METRICS[name], self.prepared.resolved
        return MetricFacts(
            title=metric.title,
            better=metric.better,
            kind=metric.kind,
            digest=resolved.present[name],
            weights=resolved.weights.get(name, {}),
        )

    def _named(self, looking: DetectAlignSettings) -> DetectAlignSettings:
        """The detector's settings, with the one that `auto` stands for here by its name."""
        if looking.detector != "auto":
            return looking
        there = "yunet" in self.weights.table and self.weights.status("yunet").present
        return looking.model_copy(update={"detector": "yunet" if there else "compact"})

    def _detector_weights(self) -> tuple[str, ...]:
        return DetectAlign.weights_needed(self.detector) if self.detector else ()


def prepare(job: EvaluationJob) -> PreparedEvaluation:
    """Raises JobError, SettingsError where the job cannot be done; nothing is opened or written."""
    settings, folders, folder = job.load_settings(), _folders(job), Storage(output_of(job))
    _refuse_danger(folder, folders)
    weights, protocol = open_store(settings.weights_dir, settings.weights_table), _protocol(job.dataset)
    rules, resolved = Rules(protocol, {}, job.sample or 1.0), _resolved(job, protocol, weights)
    rules, resolved = _with_landmarks(job, folders[INPUT], rules, resolved)
    device = resolve_device(settings)
    return PreparedEvaluation(job, settings, folder, folders, weights, protocol, rules, resolved, device)


@contextmanager
def open_evaluation_run(job: EvaluationJob, progress: Progress | None = None) -> Iterator[EvaluationRun]:
    """Validates everything, takes the evaluation folder's lease, opens its ledger; closes what was opened.

    Raises JobError, SettingsError before anything is written, WorkspaceBusy when another run holds the folder.
    """
    prepared = prepare(job)
    restored, counts = prepared.folders[RESTORED], prepared.rules.counts
    with open_session(prepared.folder, lambda: sum(counts(info.ledger_path) for info in restored.walk())) as session:
        yield EvaluationRun(prepared, session, progress or Progress())


def _folders(job: EvaluationJob) -> dict[str, Storage]:
    """Role → storage. Raises JobError where one is not there."""
    refuse_secrets(*filter(None, (job.restored, job.against, job.truth, job.output)))
    named = {RESTORED: restored_tree(job.restored), INPUT: job.against, TRUTH: job.truth}
    what = {RESTORED: "restored pictures", INPUT: "inputs", TRUTH: "true pictures"}
    return {role: insist_on_folder(url, what[role]) for role, url in named.items() if url is not None}


def _refuse_danger(folder: Storage, folders: Mapping[str, Storage]) -> None:
    """Pictures are only read: the numbers may not go into a folder of them."""
    for storage in folders.values():
        if lies_in(folder.url, storage.url):
            raise JobError(
                f"the numbers would be written to {folder.shown_url}, inside {storage.shown_url}, which is only "
                "read; give --output DIR"
            )


def _protocol(dataset: str | None) -> Protocol | None:
    if dataset is None:
        return None
    protocol = protocol_of(read_data_manifest(dataset), dataset)
    if protocol is None:
        raise JobError(f"data_manifests/{dataset}.toml has no section [evaluation], so it does not say how to judge")
    return protocol


def _resolved(job: EvaluationJob, protocol: Protocol | None, weights: WeightsStore) -> Resolved:
    truth = job.truth is not None
    names = job.metrics or dict.fromkeys((*(protocol.metrics if protocol else ()), *default_metrics(truth)))
    return resolve(tuple(names), weights, truth)


def _with_landmarks(job: EvaluationJob, inputs: Storage, rules: Rules, resolved: Resolved) -> tuple[Rules, Resolved]:
    """With the data set's table of landmarks; where it is not there, what needs it is missing and says so."""
    table = rules.protocol.landmarks if rules.protocol else None
    if table is None:
        return rules, resolved
    folder, _, name = (job.landmarks or "").rpartition("/")
    storage, path = (inputs, table.file) if job.landmarks is None else (Storage(folder or "."), name)
    if not storage.exists(path):
        if job.landmarks is not None:
            raise JobError(f"there is no table of landmarks at {job.landmarks}")
        return rules, _without_landmarks(resolved, f"{storage.shown_url}/{path}")
    try:
        placed = read_landmarks(storage.read_bytes(path).decode("utf-8-sig"), table)
    except (ProtocolError, UnicodeDecodeError) as error:
        raise JobError(f"the table of landmarks {storage.shown_url}/{path}: {error}") from None
    return replace(rules, placed=placed), resolved


def _without_landmarks(resolved: Resolved, expected: str) -> Resolved:
    needing = [name for name in resolved.present if METRICS[name].recognises]
    why = f"needs the data set's table of landmarks, expected at {expected}; put it there or give --landmarks FILE"
    return replace(
        resolved,
        present={name: digest for name, digest in resolved.present.items() if name not in needing},
        missing={**resolved.missing, **{name: f"{name} {why}" for name in needing}},
    )


def _recipe_detector(restored: str) -> DetectAlignSettings | None:
    """Settings of detect_align in the recipe that a workspace was restored with; None where there is no such thing."""
    if not is_workspace(restored):
        return None
    try:
        settings = last_job(restored).load_recipe().stages[0].settings
    except ForPeople:
        return None
    return settings if isinstance(settings, DetectAlignSettings) else None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
