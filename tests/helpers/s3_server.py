"""A local S3 server for tests, and storages in fresh buckets on it. Knows nothing of what is stored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.storage.storage import Storage


@contextmanager
def s3_options() -> Iterator[dict[str, Any]]:
    """Start the server on a free loopback port; yields what a Storage needs to reach it."""
    pytest.importorskip("s3fs", reason="the S3 tests need the extra 's3'")
    server_module = pytest.importorskip("moto.server", reason="the S3 tests need moto's server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    config = {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}
    try:
        yield {
            "key": "test",
            "secret": "not-a-secret",
            "endpoint_url": f"http://{host}:{port}",
            "config_kwargs": config,
        }
    finally:
        server.stop()


def fresh_bucket(options: dict[str, Any]) -> Storage:
    """A storage below a prefix of a bucket that nobody else uses."""
    bucket = f"archive-{uuid.uuid4().hex[:12]}"
    storage = Storage(f"s3://{bucket}/some/prefix", options)
    storage.filesystem.mkdir(bucket)
    return storage
