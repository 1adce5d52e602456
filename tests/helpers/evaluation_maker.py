"""Makes an evaluated workspace out of nothing: pictures, ledger, run facts, intermediates, evaluation files."""

import hashlib
import io
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import bucket_of
from infra.storage.storage import Storage
from tasks.measuring.files import EvaluationFacts, faces_schema, write_evaluation
from tasks.worker import intermediate

SUBSETS = {"CelebA": 0.5, "LFW-Test": 0.6, "</script><b>": 0.3}
METRICS = {"clipiqa": "higher", "musiq": "higher", "niqe": "lower", "quality": "higher", "identity": "higher"}
STAGES = ["detect_align", "score_input", "pisa_sr", "gfpgan", "skin_tone", "evaluate"]
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a\"b'c&amp;\u2028\u202egpj.exe",
    "caf%E9 100%25 #?",
    "</script><script>alert(2)</script>",
)


def sha(text):
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def noise(number, side=96):
    """A coloured blur that is different for every number, as JPEG."""
    small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def stem(n):
    """A path without suffix; the first ones would break a page that believes in names."""
    return f"{HOSTILE[n]}/{HOSTILE[n]}" if n < len(HOSTILE) else f"box {n % 7}/{n:05d}"


class Maker:
    """A workspace below `root`, with `n` faces, and its evaluation; `pictures` gives bytes or paths of both sides."""

    def __init__(self, root, n, *, pictures=None, kept=2, truth=False, private=False):
        self.root, self.n, self.truth = root, n, truth
        self.pictures = pictures or (lambda number: (noise(number, 48), noise(number + 1)))
        self.draw = np.random.default_rng(7)
        self.clipiqa, self.musiq = self.draw.beta(3, 4, n), 60 * self.draw.beta(2, 3, n)
        self.workspace = Storage(root / "work space")
        self.folder = Storage(root / "work space" / "evaluation")
        self.ids = [sha(f"input {k}") for k in range(n)]
        for k in range(n):
            self._files(k)
        self._run(private)
        self._ledger(kept)
        self._evaluation()

    def _files(self, n):
        trees = {"archive": 0, "work space/restored": 1} | ({"truth": 1} if self.truth else {})
        for tree, side in trees.items():
            target = self.root / tree / os.fsdecode(stem(n).replace("%E9", "\udce9").replace("%25", "%") + ".jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            found = self.pictures(n)[side]
            target.write_bytes(found) if isinstance(found, bytes) else os.link(found, target)

    def _run(self, private):
        stages = [{"id": name} for name in STAGES]
        stages[1] |= {"use": "score", "settings": {"images": ["aligned"], "metrics": ["clipiqa", "musiq"]}}
        stages[2] |= {"use": "compact_restorer"}
        stages[3] |= {"use": "compact_severe", "when": "clipiqa.aligned < 0.3 and musiq.aligned < 17"}
        stages[4] |= {"use": "compact_skin_tone"}
        facts = {
            "run_id": "r1",
            "job": {"source": str(self.root / "archive"), "workspace": self.workspace.url},
            "settings": {"report_thumbnails": not private},
            "recipe": {"name": "compact", "description": "for the test", "stage": stages},
            "digests": {name: sha(name) for name in [*STAGES, "commit"]},
            "weights": {"compact_restorer": sha("weights")},
            "device": "cpu",
            "software": "test",
            "started": "2026-11-20T22:00:00+00:00",
            "summary": {"seconds": 75.0, "stages": {name: {"seconds": 3.5} for name in STAGES}},
        }
        self.workspace.write_atomic("runs/r1.json", json.dumps(facts).encode())

    def _ledger(self, kept):
        ledger = Ledger.open(self.workspace, buckets=1)
        ledger.append_inventory(
            [FileRow(path=stem(k) + ".jpg", image_id=self.ids[k], bytes=900) for k in range(self.n)]
            + [FileRow(path="broken.jpg", image_id=sha("broken"), problem="corrupt")],
            "r1",
        )
        for stage in STAGES:
            rows = [self._row(stage, k) for k in range(self.n)]
            if stage in ("detect_align", "pisa_sr", "skin_tone"):
                rows[:kept] = self._keep(stage, rows[:kept])
            ledger.append_events(rows, run_id="r1", token=1, stage=stage, bucket=0)
        verdict = {"state": "done", "reason_code": "ok", "outcome": "restored", "stage_digest": "d"}
        rows = [Event(image_id=i, detail={"faces": {"restored": 1}}, **verdict) for i in self.ids]
        ledger.append_events(rows, run_id="r1", token=1, stage="commit", bucket=bucket_of(self.ids[0], 1))
        ledger.fold()

    def _row(self, stage, k):
        scores = {"clipiqa": self.clipiqa[k], "musiq": self.musiq[k]}
        metrics = {f"{name}.aligned": float(v) for name, v in scores.items()} if stage == "score_input" else {}
        severe = self.clipiqa[k] < 0.3 and self.musiq[k] < 17
        spared = stage == "gfpgan" and not severe
        return Event(
            image_id=self.ids[k], face=0, state="skipped" if spared else "done",
            reason_code="gate_not_met" if spared else "ok", metrics=metrics, stage_digest=sha(stage), device_ms=4.0,
        )  # fmt: skip

    def _keep(self, stage, rows):
        """Writes the intermediate that a worker would have left; the rows with its name."""
        uri = f"intermediates/{stage}.arrow"
        name = "aligned" if stage == "detect_align" else "restored"
        if rows:
            entries = [
                intermediate.Entry(f"{row.image_id}:0", "{}", {name: np.full((64, 64, 3), (k + 1) / 9, np.float32)})
                for k, row in enumerate(rows)
            ]
            intermediate.write(self.workspace, uri, entries, "float16")
        return [replace(row, output_uri=uri) for row in rows]

    def _evaluation(self):
        names = list(SUBSETS)
        rows = [self._face(k, names[k % len(names)]) for k in range(self.n)]
        lost = self._face(0, names[0]) | dict.fromkeys(METRICS) | {
            "path": "lost/one.jpg", "key": "lost/one", "face": -1, "problem": "input_missing", "input_path": None,
            "input_sha256": None, "points": None, "problem_text": "no input is called <lost/one>",
            "pair_id": sha("lost"),
        }  # fmt: skip
        table = pa.Table.from_pylist([*rows, lost], faces_schema(list(METRICS)))
        self.table = table
        write_evaluation(self.folder, self._facts(rows), table)

    def _face(self, k, subset):
        gain = self.draw.normal(0.2, 0.15, 2)
        values = {
            "clipiqa": self.clipiqa[k] + gain[0], "musiq": self.musiq[k] + 60 * gain[1], "quality": self.draw.random(),
            "niqe": float(self.draw.normal(5, 1)), "identity": float(np.clip(self.draw.normal(0.72, 0.14), -0.1, 1)),
        }  # fmt: skip
        path = stem(k) + ".jpg"
        return {
            "path": path, "key": stem(k), "face": 0, "subset": subset, "pair_id": sha(f"pair {k}"),
            "restored_sha256": sha(f"restored {k}"), "input_path": path, "input_sha256": self.ids[k],
            "truth_path": path if self.truth else None, "truth_sha256": sha(f"truth {k}") if self.truth else None,
            "problem": "", "problem_text": "", "points": [float(v) for v in range(10)], "matrix": None,
        } | {name: float(v) for name, v in values.items()}  # fmt: skip

    def _facts(self, rows):
        titles = {"clipiqa": "CLIPIQA", "musiq": "MUSIQ", "niqe": "NIQE", "identity": "AdaFace similarity to the input"}
        metrics = {
            name: {"title": titles.get(name, name), "better": better, "kind": "no_reference", "digest": sha(name),
                   "weights": {f"{name}_weights": sha(name)}}
            for name, better in METRICS.items()
        }  # fmt: skip
        subsets = {}
        for name, threshold in SUBSETS.items():
            here = [row for row in rows if row["subset"] == name]
            failed = sum(row["identity"] < threshold for row in here)
            means = {m: float(np.mean([row[m] for row in here])) for m in METRICS} if here else {}
            said = {"images": len(here), "expected": 100, "means": means, "threshold": threshold}
            subsets[name] = said | {"identity_failures": failed}
        failed = sum(s["identity_failures"] for s in subsets.values())
        means = {m: float(np.mean([row[m] for row in rows])) for m in METRICS}
        return EvaluationFacts.model_validate({
            "dataset": None, "restored": f"{self.workspace.url}/restored", "against": str(self.root / "archive"),
            "truth": str(self.root / "truth") if self.truth else None, "workspace": self.workspace.url,
            "software": "test", "started": "2026-11-20T23:00:00+00:00", "finished": "2026-11-20T23:05:00+00:00",
            "seconds": 300.0, "sample": 1.0, "metrics": metrics,
            "missing": {"maniqa": "needs the weights maniqa_koniq", "fid": "needs <weights>"},
            "subsets": subsets,
            "overall": {"images": len(rows), "means": means, "fid": None, "score": None, "score_terms": {},
                        "score_missing": ["maniqa", "qalign", "fid"], "identity_failures": failed,
                        "valid": failed <= 10},
            "problems": {"input_missing": 1}, "stages": dict.fromkeys(METRICS, 12.5),
        })  # fmt: skip
