"""DiffBIR against fixtures that its original implementation made (fp32, CPU)."""

import json

import pytest
import torch
from places import PARITY
from safetensors import safe_open
from safetensors.torch import load_file

from infra.weights.checkpoint import load_state_dict
from tasks.models.diffusion import clip_prompts
from tasks.models.diffusion import schedules as diffbir_schedules
from tasks.models.diffusion.color_fix import wavelet_reconstruction
from tasks.models.diffusion.diffbir import DiffBIR
from tasks.models.diffusion.guidance import RestorationGuidance
from tasks.models.diffusion.ir_controlnet import load_ir_controlnet
from tasks.models.diffusion.samplers import SAMPLERS, Problem, SamplerSettings
from tasks.models.diffusion.tiling import Tiling, Window, diffbir_mask, windows
from tasks.models.restorers.swinir import build_swinir, clean
from tasks.models.stable_diffusion.convert import load_sd_components

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity fixtures at {PARITY}")


def fixture(name):
    return load_file(PARITY / f"{name}.safetensors")


def metadata(name):
    with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
        return file.metadata()


def control(name):
    return load_state_dict(PARITY / name, expect="IRControlNet")


def relative(ours, theirs):
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def tiny():
    """The three networks of the original checkpoint and the ControlNet, in one DiffBIR."""
    weights = {
        key: value
        for part in ("unet", "vae", "clip")
        for key, value in fixture(f"diffbir_tiny_sd_{part}.weights").items()
    }
    components = load_sd_components(weights)
    controlnet = load_ir_controlnet(control("diffbir_tiny_controlnet.pth"))
    return components, controlnet


def diffbir(tiny, version="v2"):
    components, controlnet = tiny
    empty = torch.zeros(1, 77, 32)
    return DiffBIR(components.unet, controlnet, components.vae, empty, empty, version)


@torch.inference_mode()
def test_controlnet_and_unet_give_the_original_outputs(tiny):
    io = fixture("diffbir_tiny_forward.io")
    components, controlnet = tiny
    skips, middle = controlnet(io["x"], io["t"], io["context"], io["hint"])
    for i, ours in enumerate([*skips, middle]):
        assert relative(ours, io[f"control.{i:02d}"]) < 1e-5
    bare = components.unet(io["x"], io["t"], io["context"], return_dict=False)[0]
    assert relative(bare, io["unet_no_control"]) < 1e-5


@pytest.mark.parametrize("strength", [1.0, 0.6])
@torch.inference_mode()
def test_control_strength_scales_what_is_added(tiny, strength):
    io = fixture("diffbir_tiny_forward.io")
    output = diffbir(tiny).network(io["x"], io["t"], io["context"], io["hint"], strength)
    assert relative(output, io[f"out_scale_{strength}"]) < 1e-5


def test_pth_and_safetensors_controlnets_are_the_same():
    pth = load_ir_controlnet(control("diffbir_tiny_controlnet.pth")).state_dict()
    twin = load_ir_controlnet(control("diffbir_tiny_controlnet.weights.safetensors")).state_dict()
    assert pth.keys() == twin.keys()
    assert all(torch.equal(pth[key], twin[key]) for key in pth)


@torch.inference_mode()
def test_autoencoder_gives_the_original_moments_and_image(tiny):
    io = fixture("diffbir_tiny_vae.io")
    vae = tiny[0].vae
    posterior = vae.encode(io["img"]).latent_dist
    assert relative(posterior.parameters, io["moments"]) < 1e-5
    assert relative(posterior.logvar, io["logvar"]) < 1e-5
    condition = (io["img"] + 1) / 2
    assert relative(diffbir(tiny).encode_condition(condition), io["mode_scaled"]) < 1e-5
    assert relative(vae.decode(io["mode_scaled"] / 0.18215).sample, io["decoded"]) < 1e-5


@torch.inference_mode()
def test_text_encoder_and_stored_tokens_match(tiny):
    io = fixture("diffbir_clip.io")
    prompts = json.loads(metadata("diffbir_clip.io")["prompts"])
    for i, prompt in enumerate(prompts[:4]):
        assert clip_prompts.token_ids(prompt).tolist() == io["tokens"][i].tolist()
    embedded = clip_prompts.embed(tiny[0].text_encoder, prompts[:4])
    assert relative(embedded, io["emb_tiny"]) < 1e-5


@pytest.mark.parametrize("part", ["unet", "vae", "clip", "controlnet", "swinir"])
def test_full_size_checkpoints_fill_every_weight(part):
    shapes = json.loads((PARITY / "diffbir_fullsize_keys.json").read_text())[part]
    device = "cpu" if part == "swinir" else "meta"  # spandrel computes while it builds
    state = {key: torch.zeros(shape, device=device) for key, shape in shapes.items()}
    if part == "controlnet":
        model = load_ir_controlnet(state)
    elif part == "swinir":
        model = build_swinir(state)
    else:
        name = {"clip": "text_encoder"}.get(part, part)
        model = getattr(load_sd_components(state, parts=[name]), name)
    unused = ("text_projection", "logit_scale", "resblocks.23.")
    used = {key: shape for key, shape in shapes.items() if part != "clip" or not any(u in key for u in unused)}
    numbers = sum(torch.Size(shape).numel() for shape in used.values())
    assert sum(value.numel() for value in model.state_dict().values()) == numbers


@pytest.mark.parametrize(("name", "version"), [("v1v2", "v2"), ("v2.1", "v2.1")])
def test_schedules(name, version):
    io = {k.removeprefix(f"{name}."): v.numpy() for k, v in fixture("diffbir_schedules").items()}
    process = diffbir_schedules.diffusion_of(version)
    close(process.betas, io["betas_f64"], 1e-12)
    close(process.alphas_cumprod, io["alphas_cumprod_f64"], 1e-12)
    for steps in (4, 10, 50):
        spaced = diffbir_schedules.spaced_steps(process, steps)
        check_spaced(spaced, {k.removeprefix(f"spaced{steps}."): v for k, v in io.items()})
        ddim = diffbir_schedules.ddim_steps(process, steps)
        assert ddim.timesteps.tolist() == io[f"ddim{steps}.timesteps"].tolist()
        close(ddim.alphas, io[f"ddim{steps}.ddim_alphas"], 1e-6)
        close(ddim.alphas**0.5, io[f"ddim{steps}.ddim_sqrt_alphas"], 1e-6)
        close((1 - ddim.alphas) ** 0.5, io[f"ddim{steps}.ddim_sqrt_one_minus_alphas"], 1e-6)
        close(ddim.alphas_previous, io[f"ddim{steps}.ddim_alphas_prev"], 1e-6)
        assert not io[f"ddim{steps}.ddim_sigmas"].any()
        edm = diffbir_schedules.edm_steps(process, steps)
        assert edm.timesteps.tolist() == io[f"edm{steps}.timesteps"].tolist()
        close(edm.sigmas, io[f"edm{steps}.sigmas"], 1e-6)


def check_spaced(spaced, io):
    assert spaced.timesteps.tolist() == io["timesteps"].tolist()
    alphas, variance = spaced.alphas_cumprod, spaced.posterior_variance
    close(alphas**0.5, io["sqrt_alphas_cumprod"], 1e-6)
    close((1 - alphas) ** 0.5, io["sqrt_one_minus_alphas_cumprod"], 1e-6)
    some = alphas > 0
    close(alphas[some] ** -0.5, io["sqrt_recip_alphas_cumprod"][some], 1e-6)
    close((1 / alphas[some] - 1) ** 0.5, io["sqrt_recipm1_alphas_cumprod"][some], 1e-6)
    close(variance, io["posterior_variance"], 1e-6)
    close(torch.tensor(variance[1:]).log().numpy(), io["posterior_log_variance_clipped"][1:], 1e-6)
    close(spaced.posterior_mean_coef1, io["posterior_mean_coef1"], 1e-6)
    close(spaced.posterior_mean_coef2, io["posterior_mean_coef2"], 1e-6)


def close(ours, theirs, tolerance):
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(theirs), rtol=tolerance, atol=tolerance, check_dtype=False
    )


def test_rescaled_guidance():
    theirs = fixture("diffbir_schedules")["rescale_cfg.scale8"].tolist()
    ours = [diffbir_schedules.guidance_scale(8.0, t, rescale=True) for t in range(1000)]
    assert ours == pytest.approx(theirs, abs=1e-12, rel=1e-12)


def trajectories():
    if not PARITY.is_dir():
        return []
    return sorted(key for key in fixture("diffbir_samplers.io") if "." in key and not key.endswith(".noise"))


@pytest.mark.parametrize("tag", trajectories())
@torch.inference_mode()
def test_sampler_takes_the_original_trajectory(tiny, tag):
    io = fixture("diffbir_samplers.io")
    version, name, steps, cfg = parse(tag)
    process = diffbir_schedules.diffusion_of(version)
    settings = SamplerSettings(cfg_scale=cfg, rescale_cfg=tag.endswith(".rescale"))
    tiling = Tiling(8, 4) if "tiled" in tag else None
    predict = diffbir(tiny, version).predictor(io["c_img"], io["c_txt"], io["u_txt"], cfg, 1.0, tiling)
    noise = io.get(f"{tag}.noise", torch.empty(0))
    result = SAMPLERS[name].solve(Problem(process, predict, io["x_T"], noise, settings), steps)
    assert relative(result, io[tag]) < 1e-4


def parse(tag):
    """`v2.1.spaced3.cfg4.tiled8s4` and `v1v2.edm_euler.6.cfg8` alike."""
    version = "v2" if tag.startswith("v1v2") else "v2.1"
    rest = tag.removeprefix("v1v2.").removeprefix("v2.1.")
    head, cfg = rest.split(".cfg")
    name, steps = head.split(".") if "." in head else (head.rstrip("0123456789"), head.lstrip("abcdefimnps"))
    return version, name, int(steps), float(cfg.split(".")[0])


def test_tile_masks_windows_and_blending():
    io = fixture("diffbir_tiles")
    close(diffbir_mask(8, 8), io["gauss_8"].numpy(), 1e-12)
    close(diffbir_mask(64, 64), io["gauss_64"].numpy(), 1e-12)
    close(diffbir_mask(8, 12), io["gauss_w12_h8"].numpy(), 1e-12)
    cut = windows(20, 27, 8, 4)
    assert [[w.top, w.bottom, w.left, w.right] for w in cut] == io["windows"].tolist()
    tiling, x = Tiling(8, 4), io["tile_x"]
    assert relative(tiling.apply(toy, x), io["tile_out"]) < 1e-6
    assert relative(tiling.apply(toy_times_four, x, scale=4), io["tile_out_up4"]) < 1e-6


def toy(part, _: Window):
    return part.roll(1, -1) * 0.5 + part.mean((-2, -1), keepdim=True)


def toy_times_four(part, _: Window):
    return torch.nn.functional.interpolate(part[:, :3], scale_factor=4, mode="bilinear")


def test_wavelet_reconstruction():
    io = fixture("diffbir_wavelet")
    assert relative(wavelet_reconstruction(io["content"], io["style"]), io["out"]) < 1e-6


@pytest.mark.parametrize(("name", "weighted"), [("mse", False), ("w_mse", True)])
def test_restoration_guidance(name, weighted):
    io = fixture("diffbir_guidance")
    guidance = RestorationGuidance(scale=0.5, weighted=weighted, space="rgb")
    assert relative(guidance.gradient(io["target"], io["pred"]), io[f"{name}.grad"]) < 1e-5
    weights = guidance.weights(io["target"])
    loss = ((io["pred"] - io["target"]) ** 2 * weights).mean((1, 2, 3)).sum()
    assert relative(loss, io[f"{name}.loss"]) < 1e-5
    if weighted:
        assert relative(weights, io["w_map"]) < 1e-5


@torch.inference_mode()
def test_swinir_cleaner():
    io = fixture("diffbir_tiny_swinir.io")
    weights = {
        key: v.float() if v.is_floating_point() else v for key, v in fixture("diffbir_tiny_swinir.weights").items()
    }
    assert relative(clean(build_swinir(weights), io["img"]), io["out"]) < 1e-5
