"""DiffBIR's samplers and settings, without any fixture: exact answers where they are known, and every knob."""

import math

import pytest
import tiny_checkpoints as tiny
import torch

from infra.weights.checkpoint import load_state_dict
from tasks.models.diffusion.diffbir import DiffBIRSettings, load_diffbir
from tasks.models.diffusion.guidance import RestorationGuidance
from tasks.models.diffusion.noise import RecordedNoise, SeededNoise
from tasks.models.diffusion.samplers import SAMPLERS, Problem, SamplerSettings
from tasks.models.diffusion.schedules import ddim_steps, diffusion_of, spaced_steps
from tasks.models.diffusion.tiling import Tiling, centred_mask, windows
from tasks.stages.restorers.sd_files import read_base

FEW = SamplerSettings(cfg_scale=2.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("diffbir")
    base = read_base(tiny.write_sd_checkpoint(root / "sd.safetensors"))
    control = load_state_dict(tiny.write_ir_controlnet(root / "v2.pth"), expect="an IRControlNet")
    return load_diffbir(base, control, "v2")


@pytest.fixture(scope="module")
def condition():
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def restore(model, condition, seeds=(11,), **changes):
    settings = DiffBIRSettings(**({"steps": 4, "sampling": FEW} | changes))
    return model.restore(condition, settings, SeededNoise(seeds))


def oracle(version, x0):
    """A network that knows the answer: what it predicts leads from any x to x0."""
    process = diffusion_of(version)

    def predict(x, timestep, scale):
        alpha = float(process.alphas_cumprod[int(timestep)])
        eps = (x - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
        return eps if version == "v2" else math.sqrt(alpha) * eps - math.sqrt(1 - alpha) * x0

    return process, predict


@pytest.mark.parametrize("version", ["v2", "v2.1"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_perfect_network_leads_to_the_true_latent(name, version):
    draw = SeededNoise([1])
    x0, start = draw((1, 4, 8, 8)), draw((1, 4, 8, 8))
    process, predict = oracle(version, x0)
    noise = torch.stack([draw(x0.shape) for _ in range(8)])
    result = SAMPLERS[name].solve(Problem(process, predict, start, noise, SamplerSettings()), 8)
    expected = true_end_of_ddim(process, x0, start, 8) if name == "ddim" else x0
    # dpm++ stops at the first training step, which still holds noise of deviation 0.03, and the times that it tells
    # the network lie between the steps.
    torch.testing.assert_close(result, expected, rtol=0, atol=0.15 if name == "dpm++_m2" else 1e-4)


def true_end_of_ddim(process, x0, start, steps):
    """DDIM stops at the first training step too; the noise it holds is the one that the start held."""
    last = process.alphas_cumprod[ddim_steps(process, steps).timesteps[-1]]
    first = process.alphas_cumprod[0]
    eps = (start - math.sqrt(last) * x0) / math.sqrt(1 - last)
    return math.sqrt(first) * x0 + math.sqrt(1 - first) * eps


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_takes_the_noise_that_it_announces(model, condition, name):
    settings = DiffBIRSettings(sampler=name, steps=4, sampling=SamplerSettings(cfg_scale=2.0, s_churn=1.0))
    draws = 1 + SAMPLERS[name].draws(4, settings.sampling)
    recorded = list(torch.randn(draws, 1, 4, 16, 16, generator=torch.Generator().manual_seed(2)))
    full = model.restore(condition, settings, RecordedNoise(recorded))
    assert full.isfinite().all()
    with pytest.raises(ValueError, match="recorded noise"):
        model.restore(condition, settings, RecordedNoise(recorded[:-1]))
    for i in range(draws):
        changed = [draw + 1 if i == j else draw for j, draw in enumerate(recorded)]
        assert not torch.equal(model.restore(condition, settings, RecordedNoise(changed)), full)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_image_does_not_see_its_batch(model, name):
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(6))
    together = restore(model, images, (21, 22), sampler=name)
    alone = restore(model, images[1:], (22,), sampler=name)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=2e-3)
    assert not torch.equal(restore(model, images[1:], (23,), sampler=name), alone)


def test_sampling_never_reads_a_value_back(model, condition):
    """On the meta device any look at a tensor's content is an error, so a host sync in the loop would show."""
    import copy

    absent = copy.deepcopy(model).to("meta")
    for name in SAMPLERS:
        result = restore(absent, condition.to("meta"), sampler=name, steps=2)
        assert result.shape == condition.shape


KNOBS = {
    "guidance.start": ({"guidance": RestorationGuidance(10.0, start=1)}, {"guidance": RestorationGuidance(10.0)}),
    "guidance.stop": ({"guidance": RestorationGuidance(10.0, stop=1001)}, {"guidance": RestorationGuidance(10.0)}),
    "guidance.repeat": ({"guidance": RestorationGuidance(1.0)}, {"guidance": RestorationGuidance(1.0, repeat=3)}),
    "guidance.weighted": (
        {"guidance": RestorationGuidance(9.0, space="rgb")},
        {"guidance": RestorationGuidance(9.0, space="rgb", weighted=True)},
    ),
    "s_noise": (
        {"sampler": "edm_dpm++_3m_sde", "sampling": SamplerSettings(s_noise=0.5)},
        {"sampler": "edm_dpm++_3m_sde", "sampling": SamplerSettings(s_noise=1.0)},
    ),
    "s_tmin": (
        {"sampler": "edm_euler", "sampling": SamplerSettings(s_churn=10.0, s_tmin=0.0)},
        {"sampler": "edm_euler", "sampling": SamplerSettings(s_churn=10.0, s_tmin=1e5)},
    ),
    "s_tmax": (
        {"sampler": "edm_euler", "sampling": SamplerSettings(s_churn=10.0, s_tmax=0.0)},
        {"sampler": "edm_euler", "sampling": SamplerSettings(s_churn=10.0)},
    ),
}


@pytest.mark.parametrize("knob", sorted(KNOBS))
def test_every_setting_that_no_stage_has_changes_the_picture(model, condition, knob):
    low, high = (restore(model, condition, **changes) for changes in KNOBS[knob])
    assert low.isfinite().all()
    assert high.isfinite().all()
    assert (low - high).abs().mean() > 1e-5


def test_guidance_pulls_towards_the_condition(model, condition):
    target = model.encode_condition(condition)
    guided = RestorationGuidance(scale=0.01).adjust(torch.zeros_like(target), target, 1.0, None)
    assert (guided - target).norm() < target.norm()


def test_a_caption_replaces_the_prompt(model, condition):
    settings = DiffBIRSettings(steps=3, sampling=FEW)
    caption = torch.randn(1, 77, tiny.WIDTH, generator=torch.Generator().manual_seed(8))
    with_caption = model.restore(condition, settings, SeededNoise([11]), caption)
    assert not torch.equal(with_caption, model.restore(condition, settings, SeededNoise([11])))


@pytest.mark.parametrize("size", [(128, 128), (130, 200)])
def test_tiles_take_any_size(model, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(9))
    whole = restore(model, image)
    tiled = restore(model, image, tile=128, tile_stride=64, vae_tile=128)
    assert whole.shape == tiled.shape == image.shape
    assert tiled.isfinite().all()
    assert torch.equal(whole, tiled) == (size == (128, 128))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "euler"}, "expected a sampler out of"),
        ({"noise_aug": 1000}, "noise_aug from 0 to 999"),
        ({"tile": 100}, "multiple of 64"),
        ({"tile": 128, "tile_stride": 192}, "tile_stride from 64"),
        ({"sampler": "ddim", "guidance": RestorationGuidance(1.0)}, "spaced"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiffBIRSettings(**changes)


def test_step_counts_that_a_schedule_cannot_take_are_refused():
    process = diffusion_of("v2")
    with pytest.raises(ValueError, match="2 to 1000"):
        spaced_steps(process, 1)
    with pytest.raises(ValueError, match="beyond the schedule"):
        ddim_steps(process, 333)


def test_weighted_guidance_needs_images():
    with pytest.raises(ValueError, match="rgb"):
        RestorationGuidance(1.0, weighted=True)


@pytest.mark.parametrize("way", ["cast", "to"])
def test_bf16_stays_near_fp32(model, condition, way):
    import copy

    exact = restore(model, condition)
    half = getattr(copy.deepcopy(model), way)(torch.bfloat16)
    drift = (restore(half, condition) - exact).norm() / exact.norm()
    assert 0 < drift < 0.05


def test_the_memory_layout_does_not_change_the_picture(model, condition):
    import copy

    changed = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(restore(changed, condition), restore(model, condition), rtol=0, atol=2e-3)


def test_both_prompts_count(model):
    assert model.positive.shape == model.negative.shape == (1, 77, tiny.WIDTH)
    assert not torch.equal(model.positive, model.negative)


def test_blending_gives_back_what_no_function_changes():
    x = torch.rand(1, 2, 33, 50, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    for mask_settings in (Tiling(16, 8), Tiling(16, 12, centred_mask), Tiling(40, 20)):
        torch.testing.assert_close(mask_settings.apply(lambda part, _: part, x), x)


def test_windows_cover_a_long_thin_image():
    cut = windows(10, 200, 96, 64)
    assert {(w.top, w.bottom) for w in cut} == {(0, 10)}
    assert [(w.left, w.right) for w in cut] == [(0, 96), (64, 160), (104, 200)]
    with pytest.raises(ValueError, match="stride"):
        windows(10, 10, 8, 9)


def test_noise_needs_a_seed_for_every_image():
    with pytest.raises(ValueError, match="one per seed"):
        SeededNoise([1, 2])((3, 4, 8, 8))
