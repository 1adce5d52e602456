"""Archive and workspace in an object store: the same story by URL alone, credentials from the environment."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from fake_stages import BRIGHTENING
from PIL import Image
from s3_server import fresh_bucket, s3_options

pytestmark = pytest.mark.usefixtures("prefect_server")

CODE = """
import json, sys
from flows.restore_dataset import restore_dataset
ask = dict(source=sys.argv[1], workspace=sys.argv[2], recipe=sys.argv[3], settings={"workers": 1, "threads": 1})
print(json.dumps([restore_dataset(**ask).model_dump(mode="json") for _ in range(2)]))
"""


def test_an_archive_in_a_bucket_is_restored_into_a_bucket(tmp_path):
    import json

    from prefect.settings import PREFECT_API_URL

    (tmp_path / "s3.toml").write_text(BRIGHTENING)
    with s3_options() as options:
        archive, workspace = fresh_bucket(options), fresh_bucket(options)
        for n in range(5):
            coded = io.BytesIO()
            Image.fromarray(np.full((40, 40, 3), 40 + 10 * n, np.uint8)).save(coded, "PNG")
            archive.write_atomic(f"some folder/ü {n}.png", coded.getvalue())
        archive.write_atomic("letter.jpg", b"Dear Sir")
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": options["key"],
            "AWS_SECRET_ACCESS_KEY": options["secret"],
            "AWS_ENDPOINT_URL": options["endpoint_url"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        }
        command = [sys.executable, "-c", CODE, archive.url, workspace.url, str(tmp_path / "s3.toml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        first, second = json.loads(done.stdout.strip().splitlines()[-1])
        assert (first["found"], first["outcomes"]["restored"], first["outcomes"]["skipped"]) == (6, 5, 1)
        assert second["outcomes"] == first["outcomes"]
        assert second["stages"] == {}
        bright = np.asarray(Image.open(io.BytesIO(workspace.read_bytes("restored/some folder/ü 0.png"))))
        assert abs(int(bright[0, 0, 0]) - 66) <= 1
        assert workspace.exists("report/index.html")
        assert "secret" not in workspace.read_bytes(f"runs/{first['run_id']}.json").decode()
