"""Takes one 512x512 face through the full-size networks on a CPU, one stage loaded at a time.

    nice -n 19 python tests/benchmarks/cpu_fullsize.py [--threads 1] [--only pisa diffbir …]

PiSA-SR (LoRAs merged from a checkpoint of full size), FFA-Net, GFPGAN, two DiffBIR steps with guidance, and the tone
UNet, all with random weights. Every stage runs in a process of its own, so that its peak memory is its own; the
stages hand the picture on as an array. Prints seconds (wall and CPU: they differ on a busy machine) and peak memory;
fails if a stage needs more than 20 GB or its result is not a finite picture.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT_GB = 20.0
SIDE = 512
Picture = NDArray[np.float32]


def pisa(face: Picture) -> Picture:
    """PiSA-SR, with both LoRAs merged first."""
    import full_networks as networks
    from tiny_checkpoints import pisa_lora

    from tasks.models.diffusion.noise import SeededNoise
    from tasks.models.diffusion.pisa_sr import merge_lora

    model = networks.pisa_sr("cpu", tiny=False)
    checkpoint = pisa_lora(model.unet.state_dict(), seed=0)
    modules = sum(len(checkpoint[key]) for key in checkpoint if key.endswith("modules_pix"))
    print(f"  LoRA: {modules} modules a kind, {len(checkpoint['state_dict_unet'])} tensors")
    for kind in ("pix", "sem"):
        merge_lora(model.unet, checkpoint, kind)
    return through(lambda image: model.restore(image, SeededNoise([1])), face)


def ffa(face: Picture) -> Picture:
    """FFA-Net."""
    import full_networks as networks

    from tasks.models.restorers.ffa_net import dehaze

    network = networks.ffa_net("cpu", tiny=False)
    return through(lambda image: dehaze(network, image), face)


def gfpgan(face: Picture) -> Picture:
    """GFPGAN."""
    import full_networks as networks

    from tasks.models.restorers.gfpgan import restore

    network = networks.gfpgan("cpu")
    return through(lambda image: restore(network, image), face)


def diffbir(face: Picture) -> Picture:
    """DiffBIR v2, two steps, both halves of classifier-free guidance in one batch."""
    import full_networks as networks

    from tasks.models.diffusion.diffbir import DiffBIRSettings
    from tasks.models.diffusion.noise import SeededNoise

    model = networks.diffbir("v2", "cpu", tiny=False)
    return through(lambda image: model.restore(image, DiffBIRSettings(steps=2), SeededNoise([1])), face)


def tone(face: Picture) -> Picture:
    """FaceToneNet."""
    import full_networks as networks

    from tasks.models.restorers.face_tone_net import tone as correct

    network = networks.face_tone_net("cpu", tiny=False)
    return through(lambda image: correct(network, image), face)


STAGES: dict[str, Callable[[Picture], Picture]] = {
    "pisa": pisa,
    "ffa": ffa,
    "gfpgan": gfpgan,
    "diffbir": diffbir,
    "tone": tone,
}


def through(run: Callable[[Any], Any], face: Picture) -> Picture:
    """Runs a network on one picture (H, W, 3) in [0, 1] and says how long it took without the building."""
    import torch

    image = torch.from_numpy(face).permute(2, 0, 1)[None].contiguous()
    start, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        result = run(image)
    print(f"  forward {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU", flush=True)
    picture: Picture = result[0].permute(1, 2, 0).clamp(0, 1).float().numpy()
    return picture


def in_own_process(name: str, face: Picture, threads: int, answer: Any) -> None:
    """What the child process does; answers with the picture and its peak memory in GB."""
    import torch

    torch.set_num_threads(threads)
    picture = STAGES[name](face)
    answer.send((picture, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9))


def run_stage(name: str, face: Picture, threads: int) -> tuple[Picture, float]:
    """Runs a stage in a fresh process and waits for it."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=in_own_process, args=(name, face, threads, sender))
    child.start()
    sender.close()
    try:
        picture, peak = receiver.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"{name}: the process ended without a result (exit code {child.exitcode})") from None
    child.join()
    return picture, peak


def main() -> None:
    """Prints one line per stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--only", nargs="+", choices=STAGES, help="stages to run (default: all)")
    options = parser.parse_args()
    face: Picture = np.random.default_rng(0).random((SIDE, SIDE, 3), dtype=np.float32)
    total = time.perf_counter()
    for name in options.only or STAGES:
        start = time.perf_counter()
        face, peak = run_stage(name, face, options.threads)
        fine = bool(np.isfinite(face).all()) and face.shape == (SIDE, SIDE, 3) and peak <= LIMIT_GB
        print(
            f"{name:8} {time.perf_counter() - start:7.1f} s  peak {peak:5.2f} GB  {'ok' if fine else 'FAILED'}",
            flush=True,
        )
        if not fine:
            raise SystemExit(1)
    print(f"all stages {time.perf_counter() - total:.1f} s")


if __name__ == "__main__":
    main()
