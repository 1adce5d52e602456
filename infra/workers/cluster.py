"""Starts Ray on this machine or joins a running cluster, and says how many workers fit there.

A local cluster listens on loopback alone, asks for a token, and keeps quiet on the terminal. Ray reads most of its
environment when it is first imported, so this module is the place that imports it first. Knows nothing of what workers
do.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from infra.problems import RESUME, ForPeople
from infra.workers.actor import PoolSize

log = logging.getLogger(__name__)

_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Off Linux Ray keeps a cluster of one on loopback; this asks for the same here.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
# What the raylet says about dead workers goes to the driver's stdout, even with log_to_driver off.
_QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_CONNECT_SECONDS = 5.0
_STARTS = 3


class ClusterError(ForPeople):
    """Base of what can be wrong with a cluster."""

    hint = RESUME


class InsecureDashboard(ClusterError):
    """The dashboard was asked to listen beyond this machine while token authentication is off."""

    exit_code = 2
    hint = ""


class ClusterUnreachable(ClusterError):
    """No Ray cluster answered at the address given, or it refused this driver."""


class NoGpu(ClusterError):
    """Workers on GPUs were asked for and the cluster has none."""

    exit_code = 2
    hint = ""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where Ray runs."""

    address: str | None = None
    """A running cluster, `auto` or host:port, joined from one of its nodes; None starts one on this machine."""
    dashboard: bool = False
    """Ray's dashboard with a local cluster: about 1 GB of processes."""
    dashboard_host: str = "127.0.0.1"
    """Beyond loopback only with token authentication."""
    object_store_mb: int = 200
    """MB of shared memory for a local cluster (≥ 80); small, because no pixels travel."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster; `memory` in bytes, as much as Ray lets workers use."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class ClusterFacts:
    """What a cluster has."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """Logical CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class PoolWants:
    """What a pool is for; zero leaves a number to the plan."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    threads: int = 0
    memory: float = 1.5e9
    """Bytes that one worker needs at its peak; a process with torch and a few networks takes about 1.2 GB."""


class Cluster:
    """A connection to Ray; a context manager. Only a connection that was made here is closed here."""

    def __init__(self, *, owned: bool) -> None:
        self._owned = owned

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def facts(self) -> ClusterFacts:
        """The nodes that are alive, with what they have in all (not what is free just now)."""
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return ClusterFacts(tuple(_node(resources) for resources in alive))

    def close(self) -> None:
        """Leaves the cluster; a local one ends with all its processes."""
        import ray

        if self._owned:
            ray.shutdown()
            self._owned = False


def _node(resources: Mapping[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0))


def start_or_join(settings: ClusterSettings) -> Cluster:
    """Connects this process to Ray. Where it is connected already that connection is used, and left open at the end.

    Raises InsecureDashboard, ClusterUnreachable, ClusterError.
    """
    _refuse_open_dashboard(settings)
    local = settings.address is None
    if "ray" not in sys.modules:
        os.environ.update({**_QUIET, **(_LOCAL_ENVIRONMENT if local else {})} | _authentication(local))
    import ray

    if ray.is_initialized():
        return Cluster(owned=False)
    if local:
        _start(_local_options(settings))
    else:
        _join(str(settings.address))
    return Cluster(owned=True)


def _start(options: Mapping[str, Any]) -> None:
    """Ray gives its own processes 30 s to stand, which a busy machine may exceed; a second try finds warm files."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises a bare Exception here
            ray.shutdown()
            if not left:
                raise ClusterError(
                    f"Ray did not start here in {_STARTS} tries ({error}): is this machine busy or short of memory? "
                    f"Its own account lies in {tempfile.gettempdir()}/ray/session_latest/logs"
                ) from error
            log.warning("Ray did not start (%s); trying again", error)


def _local_options(settings: ClusterSettings) -> dict[str, object]:
    return {
        "address": "local",  # without it Ray joins whatever cluster it finds on this machine
        "include_dashboard": settings.dashboard,
        "dashboard_host": settings.dashboard_host,
        "object_store_memory": settings.object_store_mb * 1_000_000,
        **_quiet_options(),
    }


def _quiet_options() -> dict[str, object]:
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _join(address: str) -> None:
    import ray

    try:
        _knock(address)
        ray.init(address=address, **_quiet_options())
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterUnreachable(
            f"cannot join the Ray cluster at {address}: {type(error).__name__}: {error}. This process must run "
            f"on one of the cluster's nodes, with the token that it was started with (RAY_AUTH_TOKEN or "
            f"~/.ray/auth_token), and this package must be installed on every node in the same version"
        ) from error


def _knock(address: str) -> None:
    """Finds out quickly that nobody is there; Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _authentication(local: bool) -> dict[str, str]:
    """Token mode, unless the environment decides otherwise or there is no token to join with."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    path = Path.home() / ".ray" / "auth_token"
    if local and not given and not path.exists():
        _write_token(path)
    return {"RAY_AUTH_MODE": "token"} if given or path.exists() else {}


def _write_token(path: Path) -> None:
    """Ray would write the same file, readable by everybody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def _refuse_open_dashboard(settings: ClusterSettings) -> None:
    host, mode = settings.dashboard_host, os.environ.get("RAY_AUTH_MODE", "token").lower()
    if settings.dashboard and not _is_loopback(host) and mode != "token":
        raise InsecureDashboard(
            f"the dashboard would listen on {host} without authentication (RAY_AUTH_MODE={mode}), which lets anybody "
            f"who reaches it run code here; unset RAY_AUTH_MODE or keep the dashboard on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def plan_pool(facts: ClusterFacts, wants: PoolWants) -> PoolSize:
    """One worker per GPU; without GPUs one single-threaded worker per core, as far as memory goes.

    Measured on two busy cores with a convolutional network (7 layers, 32 channels, 256²): two workers of one thread did
    1.2 times the work of one worker of two threads. Raises NoGpu where `wants.device` is "cuda" and there is none.
    """
    if wants.device == "cuda" and facts.gpus < 1:
        raise NoGpu(f"workers on GPUs were asked for, but the cluster has none ({facts.cpus:g} CPUs)")
    if wants.device != "cpu" and facts.gpus >= 1:
        return _plan_gpus(facts, wants)
    fitting = sum(int(min(node.cpus, node.memory // wants.memory)) for node in facts.nodes)
    actors = wants.workers or max(1, fitting)
    return PoolSize(actors, 0.0, min(1.0, facts.cpus / actors), _threads(facts, wants, actors))


def _plan_gpus(facts: ClusterFacts, wants: PoolWants) -> PoolSize:
    """Workers beyond the number of GPUs share them evenly."""
    gpus = int(facts.gpus)
    actors = wants.workers or gpus
    share = 1.0 / ceil(actors / gpus)
    return PoolSize(actors, share, min(1.0, facts.cpus / actors), _threads(facts, wants, actors))


def _threads(facts: ClusterFacts, wants: PoolWants, actors: int) -> int:
    return wants.threads or max(1, int(facts.cpus // actors))


def has_gpu() -> bool:
    """Whether an NVIDIA device is visible to this process; found out without importing torch or starting Ray."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
