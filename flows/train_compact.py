"""Trains the small networks that the project ships: one Prefect task per network, resumable where it was killed."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from pydantic import JsonValue

from flows.session import worth_retrying

NETWORKS = ("landmarks", "restorer", "severe", "quality", "dehaze", "skin_tone", "identity", "niqe")
LOG_EVERY = 50


@flow(name="train-compact")
def train_compact(
    data: str | list[str],
    out: str,
    names: tuple[str, ...] = NETWORKS,
    settings: dict[str, dict[str, JsonValue]] | None = None,
) -> list[dict[str, JsonValue]]:
    """Train networks one after the other and compare each with its own absence on the validation faces.

    data: one or several folders of aligned 512×512 faces (see tasks.training.data.load_faces). out: folder for weights
    and checkpoints; a training that was interrupted there goes on. settings: of `tasks.training.loop.TrainSettings`, by
    network, such as {"severe": {"start": "out/restorer.safetensors"}}; those under "all" hold for all but niqe, which
    has none.
    Returns one row per network, its name and what `tasks.training.Trained` tells. Raises TrainingRefused as that does.
    """
    chosen, folders = settings or {}, [data] if isinstance(data, str) else data
    rows = [
        train_network.with_options(task_run_name=f"train {name}")(name, folders, out, settings_of(name, chosen))
        for name in names
    ]
    create_table_artifact(key="train-compact", table=[{key: str(value) for key, value in row.items()} for row in rows])
    return rows


def settings_of(name: str, settings: dict[str, dict[str, JsonValue]]) -> dict[str, JsonValue]:
    """What holds for one network: what was said of all, then what was said of it."""
    return ({} if name == "niqe" else settings.get("all", {})) | settings.get(name, {})


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: worth_retrying(state))
def train_network(name: str, data: list[str], out: str, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Train and measure one network; a retry goes on from the checkpoint."""
    from tasks.training import train_one

    logger = get_run_logger()

    def tell(step: int, total: int, loss: float) -> None:
        if step % LOG_EVERY == 0:
            logger.info("%s: step %d of %d, loss %.4f", name, step, total, loss)

    return {"name": name, **train_one(name, [Path(folder) for folder in data], Path(out), settings, tell).told()}
