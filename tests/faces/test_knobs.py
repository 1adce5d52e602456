"""Every setting of every stage changes what comes out: tiny networks behind the real stages, one case per setting.

Values are what the setting allows at most, or those of CASES where others are needed. A setting that has neither fails
the first test; a case whose values give the same result fails its own.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from skimage import data
from test_detect_align import NONE, face_at, retina_rows, stage_with
from test_identity import judge
from test_paste_back import batch_of, matrix_at, scene
from torch import nn

from tasks.pictures.picture import Picture
from tasks.stage import Batch, Face, FaceStage
from tasks.stages.table import STAGES

SIDE = {
    "codeformer": 64,
    "diffbir": 64,
    "face_tone_net": 256,
    "compact_skin_tone": 256,
    "identity": 512,
    "evaluate": 512,
}
LEAVE_CLEAN_FACES = {"compact_restorer", "compact_severe"}
FOCUS = {"guidance_scale": 10.0}
TILED = {"tile": 128, "side": 256}
EDM = {"sampler": "edm_dpm++_3m_sde", "steps": 3}

Values = tuple[dict, ...]


def of(name: str, *values: object, **context: object) -> Values:
    """Settings that differ in `name` only; `side` is the width of the picture, all else are settings."""
    return tuple({**context, name: value} for value in values)


CASES: dict[str, dict[str, Values]] = {
    "pisa_sr": {
        "tile": of("tile", 128, 768, tile_overlap=64, side=192),
        "tile_overlap": of("tile_overlap", 0, 64, **TILED),
        "encoder_tile": of("encoder_tile", 64, 1088),
        "decoder_tile": of("decoder_tile", 64, 1952),
    },
    "diffbir": {
        "sampler": of(
            "sampler", "spaced", "ddim", "dpm++_m2", "edm_euler", "edm_dpm++_2m", "edm_dpm++_3m_sde", steps=4
        ),
        "steps": of("steps", 2, 6),
        "cfg_scale": of("cfg_scale", 1.0, 20.0, side=128),
        "eta": of("eta", 0.0, 1.0, **EDM),
        "s_churn": of("s_churn", 0.0, 10.0, sampler="edm_euler", steps=3),
        "positive": of("positive", "", "low quality, blurry, low-resolution, noisy, unsharp, weird textures"),
        "negative": of("negative", "", "low quality, blurry, low-resolution, noisy, unsharp, weird textures"),
        "tokenizer": of("tokenizer", "tokenizer_a", "tokenizer_b", positive="a b"),
        "guidance_scale": of("guidance_scale", 0.0, 10.0),
        "guidance_space": of("guidance_space", "latent", "rgb", **FOCUS),
        "tile": of("tile", 0, 64, tile_stride=64, side=128),
        "tile_stride": of("tile_stride", 64, 128, **TILED),
        "vae_tile": of("vae_tile", 0, 64, side=128),
    },
    "best_of": {
        "images": of("images", ("aligned", "restored"), ("aligned", "pisa_sr.restored")),
        "metric": of("metric", "sharpness", "quality"),
        "threshold": of("threshold", -1.0, 1.0),
    },
    "photometric": {"percent": of("percent", 0, 500, radius=2.0)},
    "identity": {
        "threshold": of("threshold", -1.0, 1.0),
        "blends": of("blends", (), (0.3,), threshold=0.9, earlier=None),
        "earlier": of("earlier", None, "pisa_sr.restored", threshold=0.9, blends=()),
    },
    "score": {
        "images": of("images", ("aligned",), ("restored",), metrics=("sharpness",)),
        "metrics": of("metrics", ("sharpness",), ("quality",)),
    },
    "detect_align": {
        "detector": of("detector", "compact", "none"),
        "confidence": of("confidence", 0.0, 1.0, detector="retinaface"),
        "working_side": of("working_side", 320, 8192, detector="retinaface"),
    },
}
NEUTRAL = {"batch_size", "compile", "backend"}
"""What may not change a pixel: faces per call, compiled or not, whose code. Their effect has tests of its own below."""


def stage_class(use):
    module, _, name = STAGES[use].partition(":")
    return getattr(importlib.import_module(module), name)


def cases_of(cls) -> dict[str, Values]:
    """Setting → values to compare, of every setting that may change a pixel."""
    told = CASES.get(cls.name, {})
    settings = {name: field for name, field in cls.Settings.model_fields.items() if name not in NEUTRAL}
    return {name: told.get(name) or of(name, *allowed(field)) for name, field in settings.items()}


def allowed(field) -> tuple[object, ...]:
    """All choices, or both ends of a range, and the middle of shares, too; nothing where there is no end."""
    if field.annotation is bool:
        return False, True
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    ends = [next((getattr(each, end) for each in field.metadata if hasattr(each, end)), None) for end in ("ge", "le")]
    if None in ends:
        return ()
    return (0.0, 0.5, 1.0) if field.annotation is float and ends == [0, 1] else tuple(ends)


KNOBS = [(use, name) for use in STAGES for name in cases_of(stage_class(use))]


def test_every_setting_has_a_case():
    for use in STAGES:
        cases = cases_of(stage_class(use))
        assert all(len(values) > 1 for values in cases.values()), (use, cases)
        assert set(CASES.get(use, {})) <= set(cases), use
    assert len(KNOBS) > 50


@pytest.mark.parametrize(("use", "name"), KNOBS)
def test_its_values_give_different_results(use, name, weights, monkeypatch):
    cases = cases_of(stage_class(use))[name]
    results = [RUNNERS.get(use, run_on_faces)(use, dict(values), weights, monkeypatch) for values in cases]
    assert len({fingerprint(result) for result in results}) == len(results)
    assert all(np.isfinite(image).all() for result in results for image in result[1])


def fingerprint(result):
    said, images = result
    return json.dumps(said, sort_keys=True, default=str), *(image.tobytes() for image in images)


def run_on_faces(use, values, weights, monkeypatch, seed=3):
    """What a stage says and paints for two faces."""
    rng = np.random.default_rng(5)
    side = values.pop("side", SIDE.get(use, 128))
    coarse = rng.random((2, 3, 8, 8), dtype=np.float32)
    smooth = nn.functional.interpolate(torch.from_numpy(coarse), (side, side), mode="bicubic").clamp(0, 1)
    aligned = np.ascontiguousarray(smooth.numpy().transpose(0, 2, 3, 1)[:1])
    other = np.ascontiguousarray(smooth.numpy().transpose(0, 2, 3, 1)[1:])
    if use in LEAVE_CLEAN_FACES:
        aligned, other = (with_noise(image, rng) for image in (aligned, other))
    stage = loaded(use, values, weights, monkeypatch)
    if use in ("identity", "best_of") and "undecidable" not in values:
        stage.judge = judge
    images = {"aligned": aligned, "restored": other, "delivered": other, "pisa_sr.restored": aligned * np.float32(0.9)}
    (result,) = stage.run(Batch([Face("a", 0, seed=seed)], images))
    outcome = result.outcome
    return (outcome.state, dict(outcome.metrics), dict(outcome.detail)), list(result.images.values())


def with_noise(image, rng):
    return (image + rng.normal(0, 0.1, image.shape)).clip(0, 1).astype(np.float32)


def loaded(use, values, weights, monkeypatch):
    cls = stage_class(use)
    if values.get("tokenizer"):
        values["tokenizer"] = str(weights[values["tokenizer"]])
    settings = cls.Settings(**({"steps": 2} if use == "diffbir" else {}) | values)
    optional = [name for name in cls.weights_optional(settings) if name == "compact_quality"]
    stage = cls(settings, {name: weights[name] for name in (*cls.weights_needed(settings), *optional)})
    if use == "gfpgan":
        monkeypatch.setattr(
            "tasks.models.restorers.gfpgan.build_gfpgan", lambda state, backend: Multiplier(state["by"])
        )
    stage.load("cpu", "float32")
    return stage


def run_paste_back(use, values, weights, monkeypatch):
    pixels = np.repeat(scene()[..., :1], 3, axis=2)
    matrix = matrix_at(300, 300, 300)
    batch = batch_of(pixels, [matrix], lambda crop, n: crop * np.float32([1.2, 1, 0.9]) + np.float32(0.1))
    result = loaded(use, values, weights, monkeypatch).run(Picture(pixels), batch)
    return result.outcome.reason_code, [] if result.picture is None else [result.picture.pixels]


def run_detect_align(use, values, weights, monkeypatch):
    """Faces of three sizes, given by a detector that always finds them; the named detectors look for themselves."""
    if "detector" in values:
        monkeypatch.setattr("infra.weights.load_into", lambda net, file, expect: nn.Identity())
        monkeypatch.setattr("tasks.models.faces.retinaface.RetinaFace", lambda body: None)
        monkeypatch.setattr("tasks.models.faces.retinaface.detect", retina_rows(0.98))
        stage = loaded(use, {"min_eye_px": 0} | values, weights, monkeypatch)
    else:
        stage = stage_with([face_at(100, 100, 40), face_at(200, 300, 200), face_at(300, 200, 600)], **values)
    result = stage.run(Picture(np.float32(data.astronaut() / 255)), NONE)
    said = [result.outcome.reason_code, [face.outcome.detail for face in result.faces]]
    return said, [face.images["aligned"] for face in result.faces]


RUNNERS = {"paste_back": run_paste_back, "detect_align": run_detect_align}


class Multiplier(nn.Module):
    """In GFPGAN's place, which has no small size: it multiplies by what its file holds."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(by)

    def forward(self, rgb, **options):
        return (rgb * self.by,)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Every weights file that a case needs, tiny and random, by its name in the table."""
    from infra.weights.store import open_store
    from tasks.models.faces.parsenet import ParseNet
    from tasks.models.restorers.codeformer import CodeFormer, CodeFormerSizes
    from tasks.models.restorers.face_tone_net import FaceToneNet
    from tasks.models.restorers.ffa_net import FFANet

    folder = tmp_path_factory.mktemp("knobs")
    shipped = open_store(folder / "store")
    found = {name: shipped.path(name) for name in shipped.table if shipped.table[name].package}
    found["sd21_base"] = tiny.write_sd_checkpoint(folder / "sd.safetensors")
    found["sd21_base_zsnr"] = tiny.write_sd_checkpoint(folder / "zsnr.safetensors", seed=5)
    found["pisa_sr"] = tiny.write_pisa_lora(folder / "pisa_sr.pkl")
    for seed, name in enumerate(("diffbir_v1_face", "diffbir_v2", "diffbir_v2_1"), start=1):
        found[name] = tiny.write_ir_controlnet(folder / f"{name}.pth", seed=seed)
    found |= tiny.write_one_step(folder)
    states = {
        "ffa_net_ots": FFANet(1, 1, 16).state_dict(),
        "ffa_net_its": FFANet(1, 1, 16).state_dict(),
        "codeformer": CodeFormer(CodeFormerSizes(32, 8, 32, 16, 1, tokens=4)).state_dict(),
        "face_tone_net": FaceToneNet(width=4).state_dict(),
        "parsenet": ParseNet(halvings=2, width=8, depth=1, limits=(8, 16)).state_dict(),
        **{f"swinir_{trained}": tiny.swinir() for trained in ("face", "general", "realesrgan")},
    }
    states |= {f"gfpgan_v1_{n}": {"by": torch.tensor(n / 4)} for n in (3, 4)}
    for name, state in states.items():
        found[name] = folder / f"{name}.pth"
        torch.save(state, found[name])
    found["retinaface_resnet50"] = folder
    for name, tokens in (("tokenizer_a", ("a</w>", "b</w>")), ("tokenizer_b", ("b</w>", "a</w>"))):
        found[name] = folder / name
        write_tokenizer(found[name], tokens)
    return found


def write_tokenizer(folder, tokens):
    folder.mkdir()
    words = {word: 1000 + n for n, word in enumerate(tokens)}
    ends = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(words | ends))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


@pytest.fixture(scope="module", autouse=True)
def _networks_are_built_once():
    """Most settings are read when a stage runs, so cases share what is built from the same weights and arguments."""
    import tasks.models.diffusion.diffbir as diffbir
    import tasks.models.diffusion.pisa_sr as pisa

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pisa, "load_pisa_sr", remembering(pisa.load_pisa_sr))
        patch.setattr(diffbir, "load_diffbir", remembering(diffbir.load_diffbir))
        yield


def remembering(build):
    kept = {}

    def shared(base, extra, *arguments, **options):
        key = str((arguments, options))
        if key not in kept:
            kept[key] = build(base, extra, *arguments, **options)
        return kept[key]

    return shared


@pytest.mark.parametrize("use", [use for use in STAGES if issubclass(stage_class(use), FaceStage)])
def test_only_what_a_stage_remembers_is_drawn(use, weights, monkeypatch):
    """Another seed gives another picture where the stage says that it draws something, and the same where not."""
    one, other = (fingerprint(run_on_faces(use, {}, weights, monkeypatch, seed)) for seed in (3, 4))
    assert (one != other) == bool(stage_class(use).remembers)


@pytest.mark.parametrize("use", [use for use in STAGES if "batch_size" in stage_class(use).Settings.model_fields])
def test_the_size_of_a_batch_is_what_the_worker_is_told(use):
    cls = stage_class(use)
    assert [cls.batch_size(cls.Settings(batch_size=size)) for size in (1, 256)] == [1, 256]


@pytest.mark.parametrize(("use", "networks"), [("pisa_sr", 3), ("diffbir", 4)])
def test_compiled_networks_are_the_large_ones_and_kept_in_a_cache(use, networks, weights, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: asked.append(module))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    plain = run_on_faces(use, {}, weights, monkeypatch)
    assert not asked
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert fingerprint(run_on_faces(use, {"compile": True}, weights, monkeypatch)) == fingerprint(plain)
    assert len(asked) == networks
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/home/somebody/.cache/mpsr/compiled"


@pytest.mark.parametrize(
    "use", ["pisa_sr", *(use for use in STAGES if getattr(stage_class(use), "channels_last", False))]
)
def test_the_layout_that_a_gpu_is_given_changes_nothing(use, weights, monkeypatch):
    from tasks.stages import network as tensors

    def placed(network, device, dtype, channels_last=True):
        assert channels_last
        return copy.deepcopy(network).eval().to(memory_format=torch.channels_last)

    plain = run_on_faces(use, {}, weights, monkeypatch)
    for module in (tensors, importlib.import_module("tasks.stages.restorers.pisa_sr")):
        monkeypatch.setattr(module, "placed", placed)
    (turned,) = run_on_faces(use, {}, weights, monkeypatch)[1]
    np.testing.assert_allclose(turned, plain[1][0], atol=2e-4)


@pytest.mark.parametrize("backend", ["spandrel", "gfpgan"])
def test_the_backend_is_the_one_that_builds(backend, weights, monkeypatch):
    asked = []
    cls = stage_class("gfpgan")
    stage = cls(cls.Settings(backend=backend), {"gfpgan_v1_3": weights["gfpgan_v1_3"]})
    monkeypatch.setattr(
        "tasks.models.restorers.gfpgan.build_gfpgan", lambda state, backend: asked.append(backend) or nn.Linear(1, 1)
    )
    stage.load("cpu", "float32")
    assert asked == [backend]
