"""Trains the small networks that the project ships: one Prefect task per network, resumable where it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

if TYPE_CHECKING:
    from tasks.train import TrainSettings

ALL_NETWORKS = ("landmarks", "restorer", "severe", "quality", "dehaze", "skin_tone")
LOG_EVERY = 50


@flow(name="train-compact")
def train_compact(
    data: str, out: str, names: tuple[str, ...] = ALL_NETWORKS, steps: int | None = None, seed: int = 0
) -> list[dict[str, object]]:
    """Train networks one after the other and compare each with its own absence on the validation faces.

    data: folder of aligned 512×512 faces (see tasks.train_data.load_faces). out: folder for weights and
    checkpoints; a training that was interrupted there goes on. steps: none takes the default.
    Returns one row per network: name, file, sha256, steps, loss, seconds and the figures of tasks.train_measure.
    """
    rows = [train_network.with_options(task_run_name=f"train {name}")(name, data, out, steps, seed) for name in names]
    create_table_artifact(key="train-compact", table=[{key: str(value) for key, value in row.items()} for row in rows])
    return rows


@task(retries=2, retry_delay_seconds=5)
def train_network(name: str, data: str, out: str, steps: int | None, seed: int) -> dict[str, object]:
    """Train and measure one network; a retry goes on from the checkpoint."""
    from tasks.models.compact import load_compact
    from tasks.train import train
    from tasks.train_data import load_faces
    from tasks.train_measure import measure

    logger = get_run_logger()

    def tell(step: int, total: int, loss: float) -> None:
        if step % LOG_EVERY == 0:
            logger.info("%s: step %d of %d, loss %.4f", name, step, total, loss)

    result = train(name, _settings(data, out, steps, seed), tell)
    figures = measure(name, load_compact(result.weights), load_faces(Path(data), "val"))
    return {
        "name": name,
        "weights": str(result.weights),
        "sha256": result.sha256,
        "steps": result.steps,
        "loss": result.loss,
        "seconds": result.seconds,
        "figures": figures,
    }


def _settings(data: str, out: str, steps: int | None, seed: int) -> TrainSettings:
    from tasks.train import TrainSettings

    chosen: dict[str, object] = {"data": data, "out": out, "seed": seed}
    return TrainSettings.model_validate(chosen if steps is None else chosen | {"steps": steps})
