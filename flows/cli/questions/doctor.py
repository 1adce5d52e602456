"""`mpsr doctor`: what this machine can do, and what to do about what it cannot."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from infra.extras import EXTRAS, command
from infra.facts import Facts, Record

PACKAGES = ("prefect", "ray", "torch", "diffusers", "spandrel", "pyarrow", "duckdb", "opencv-python-headless")
GIB = 2**30
ENOUGH_MEMORY = 4 * GIB
ENOUGH_DISK = 10 * GIB
PREFECT_PORT = 4200


class Check(Record):
    """One line of the examination; `cure` says what to do, empty when nothing is."""

    name: str
    level: Literal["good", "note", "bad"]
    found: str
    cure: str


class Examination(Facts):
    """All checks, in the order in which a person would ask."""

    checks: tuple[Check, ...]


def examine() -> Examination:
    """Looks at everything that runs stand on; changes nothing."""
    checks = [_python(), *_packages(), _memory(), _disk(), _gpu(), *_weights(), _port(), *_extras()]
    return Examination(checks=tuple(checks))


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    cure = "" if good else "install Python 3.11 or newer"
    return Check(name="python", level="good" if good else "bad", found=platform.python_version(), cure=cure)


def _packages() -> list[Check]:
    checks = []
    for package in PACKAGES:
        found = _version(package)
        cure = "" if found else "run `make setup` in the project's folder"
        checks.append(Check(name=package, level="good" if found else "bad", found=found or "missing", cure=cure))
    return checks


def _memory() -> Check:
    import psutil

    memory, cores = psutil.virtual_memory(), os.cpu_count() or 1
    good = memory.available >= ENOUGH_MEMORY
    cure = "" if good else "close other programs: a worker takes about 1.5 GB, Prefect and Ray about 1 GB"
    found = f"{cores} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    return Check(name="cores and memory", level="good" if good else "note", found=found, cure=cure)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    good = free >= ENOUGH_DISK
    cure = "" if good else "put the workspace on a disk with room for the restored pictures and 20 GB beside"
    return Check(name="disk here", level="good" if good else "note", found=f"{free / GIB:.0f} GiB free", cure=cure)


def _gpu() -> Check:
    from infra.workers import has_gpu
    from tasks.recipes import gpu_memory, load_recipe

    if has_gpu():
        return Check(name="gpu", level="good", found="an NVIDIA GPU", cure="")
    cure = f"none needed for the compact recipe; the recipe mpsr takes {gpu_memory(load_recipe('mpsr'))} of one"
    return Check(name="gpu", level="note", found="none", cure=cure)


def _weights() -> list[Check]:
    from infra.settings import load_settings
    from infra.weights import open_store
    from tasks.recipes import load_recipe, recipe_names

    settings = load_settings()
    store = open_store(settings.weights_dir, settings.weights_table)
    checks = []
    for name in recipe_names():
        needed = {weight for stage in load_recipe(name).stages for weight in stage.weights}
        missing = sorted(weight for weight in needed if not store.status(weight).present)
        found = f"{len(needed) - len(missing)} of {len(needed)} files" + (
            f", not {', '.join(missing)}" if missing else ""
        )
        cure = f"mpsr models pull --recipe {name}" if missing else ""
        checks.append(Check(name=f"weights of {name}", level="note" if missing else "good", found=found, cure=cure))
    return checks


def _port() -> Check:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", PREFECT_PORT)) == 0
    found = "in use (a Prefect server is running?)" if taken else "free"
    cure = "mpsr serve --port N takes another" if taken else ""
    return Check(name=f"port {PREFECT_PORT}", level="note" if taken else "good", found=found, cure=cure)


def _extras() -> list[Check]:
    checks = []
    for extra, package in EXTRAS.items():
        found = _version(package)
        cure = "" if found else f"{command(extra)}, if you want it"
        checks.append(
            Check(name=f"extra {extra}", level="good" if found else "note", found=found or "not installed", cure=cure)
        )
    return checks


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
