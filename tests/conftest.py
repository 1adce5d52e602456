"""What all tests share: where the fixtures beside the repository are, and one quiet Prefect and Ray per session."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from places import HELPERS, SHARED

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers import the tests' fake stages by name.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with fixtures and pictures that may not be part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared fixtures are not here ({SHARED}); set MPSR_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def prefect_server():
    """Prefect's own test harness: an ephemeral server with a database of its own."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with ExitStack() as stack:
        _enter_harness(stack)
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        yield


def _enter_harness(stack):
    """Again where the free port it found was taken by another (a Ray that starts meanwhile) before it bound it."""
    from prefect.testing.utilities import prefect_test_harness

    for tries_left in (2, 1, 0):
        try:
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
            return
        except httpx.HTTPError:
            if tries_left == 0:
                raise


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray for all tests that need one; runs find it and leave it open."""
    from infra.workers.cluster import ClusterSettings, start_or_join

    with start_or_join(ClusterSettings()) as cluster:
        yield cluster
