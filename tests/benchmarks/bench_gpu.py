"""Measures the networks of MPSR on a GPU: images per second, peak memory, TFLOP/s and share of the floor.

    python tests/benchmarks/bench_gpu.py                           # full size, bf16, batch 8
    python tests/benchmarks/bench_gpu.py --batch 32 --compile --json out.json
    python tests/benchmarks/bench_gpu.py --device cpu --tiny --steps 2   # does the script itself work?

Weights are random, since the cost does not depend on them. Every table row "as released" repeats the authors'
settings in the same call: fp32 for DiffBIR and fp16 for PiSA-SR, one image at a time, the condition encoded twice,
the two halves of classifier-free guidance one after the other. All other rows have the settings of this project's
stages: the diffusion networks in --dtype, the convolutional ones in fp32, --batch images at a time. FLOPs are
counted, not assumed. The floor is FLOPs / 790 TFLOP/s; beside it stands the rate of a large bf16 matrix product on
the device at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import full_networks as networks
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.models.diffusion.diffbir import DiffBIR, DiffBIRSettings
from tasks.models.diffusion.noise import SeededNoise
from tasks.models.diffusion.samplers import SAMPLERS, Problem, SamplerSettings
from tasks.models.restorers.face_tone_net import tone
from tasks.models.restorers.ffa_net import dehaze
from tasks.models.restorers.gfpgan import restore as restore_gfpgan

FLOOR_TFLOPS = 790.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    dtype: str
    batch: int
    seconds_per_image: float
    tflop_per_image: float
    peak_gib: float

    @property
    def tflops(self) -> float:
        """Achieved TFLOP/s."""
        return self.tflop_per_image / self.seconds_per_image

    def as_dict(self) -> dict[str, Any]:
        """What `--json` stores."""
        return asdict(self) | {
            "images_per_second": 1 / self.seconds_per_image,
            "tflops": self.tflops,
            "percent_of_floor": 100 * self.tflops / FLOOR_TFLOPS,
        }


class Bench:
    """Runs something a few times on one device and writes down what it took."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device: str = options.device
        self.cuda = self.device.startswith("cuda")
        self.rows: list[Row] = []

    def images(self, batch: int) -> Tensor:
        """Random RGB images in [0, 1]."""
        side = self.options.size
        return torch.rand(batch, 3, side, side, device=self.device)

    def measure(self, name: str, dtype: str, batch: int, tflop: float, run: Callable[[], Any]) -> None:
        """Times `run`, which handles `batch` images, after one warm-up; prints and keeps the median."""
        try:
            with torch.inference_mode():
                run()
                self._reset_peak()
                times = [self._time(run) for _ in range(self.options.repeats)]
        except torch.OutOfMemoryError:
            print(f"| {name:34} | {dtype:5} | {batch:5d} | does not fit into this device's memory |")
            return
        row = Row(name, dtype, batch, statistics.median(times) / batch, tflop, self._peak())
        self.rows.append(row)
        print_row(row)

    def matmul_rate(self) -> float:
        """TFLOP/s of a large bf16 matrix product: what this device can do at best."""
        side = 8192 if self.cuda else 512
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        a @ b
        return float(2 * side**3 / statistics.median(self._time(lambda: a @ b) for _ in range(10)) / 1e12)

    def _time(self, run: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _reset_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Frees what the block held on the device when it is left."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tflop_of(run: Callable[[], Any]) -> float:
    """Counts the floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return counter.get_total_flops() / 1e12


def as_fast(network: nn.Module, dtype: torch.dtype, options: argparse.Namespace) -> nn.Module:
    """The settings that our stages use: `dtype` throughout, on a GPU channels last."""
    network = network.to(dtype)
    return network.to(memory_format=torch.channels_last) if options.device.startswith("cuda") else network


def compiled(options: argparse.Namespace, *networks: nn.Module) -> None:
    """Compiles networks in place, where asked to; the warm-up before each measurement pays for it."""
    if options.compile:
        for network in networks:
            network.compile()


def bench_diffbir(bench: Bench, version: Any, settings: DiffBIRSettings, authors: bool) -> None:
    """DiffBIR end to end, from condition to image."""
    options = bench.options
    model = networks.diffbir(version, bench.device, options.tiny)
    tflop = diffbir_tflop(model, bench.images(1), settings)
    label = f"DiffBIR {version}, {settings.steps} steps"
    if authors:
        image, noise = bench.images(1), SeededNoise([0])
        run = lambda: restore_as_released(model, image, settings, noise)  # noqa: E731
        bench.measure(f"{label}, as released", "fp32", 1, tflop, run)
    as_fast(model, DTYPES[options.dtype], options)
    compiled(options, model.unet, model.controlnet, model.vae.encoder, model.vae.decoder)
    for batch in options.batch:
        images, seeds = bench.images(batch), SeededNoise(range(batch))
        bench.measure(label, options.dtype, batch, tflop, lambda i=images, s=seeds: model.restore(i, settings, s))


def diffbir_tflop(model: DiffBIR, image: Tensor, settings: DiffBIRSettings) -> float:
    """Encoding once, two network calls a step, decoding once."""
    latent = model.encode_condition(image)
    timestep = torch.ones(1, dtype=torch.int64, device=image.device)
    step = tflop_of(lambda: model.network(latent, timestep, model.positive, latent, 1.0))
    ends = tflop_of(lambda: model.decode(model.encode_condition(image)))
    return ends + 2 * settings.steps * step


def restore_as_released(model: DiffBIR, image: Tensor, settings: DiffBIRSettings, noise: SeededNoise) -> Tensor:
    """The same restoration in the order of the released code."""
    conditions = [model.encode_condition(image) for _ in range(2)]
    halves = [
        model.predictor(condition, text, text, 1.0, 1.0, None)
        for condition, text in zip(conditions, (model.positive, model.negative), strict=True)
    ]

    def predict(x: Tensor, timestep: Tensor, scale: float) -> Tensor:
        conditional, unconditional = (half(x, timestep, 1.0) for half in halves)
        return unconditional + scale * (conditional - unconditional)

    shape, sampler = tuple(conditions[0].shape), SAMPLERS[settings.sampler]
    draws = sampler.draws(settings.steps, settings.sampling)
    start, step_noise = noise(shape), torch.stack([noise(shape) for _ in range(draws)])
    start, step_noise = start.to(image.device), step_noise.to(image.device)
    problem = Problem(model.diffusion, predict, start, step_noise, settings.sampling)
    return model.decode(sampler.solve(problem, settings.steps))


def bench_pisa(bench: Bench) -> None:
    """PiSA-SR in its default mode; as released: fp16, one image at a time."""
    options = bench.options
    model = networks.pisa_sr(bench.device, options.tiny)
    image, seed = bench.images(1), SeededNoise([0])
    tflop = tflop_of(lambda: model.restore(image, seed))
    if bench.cuda:
        model.half()
        bench.measure("PiSA-SR, as released", "fp16", 1, tflop, lambda: model.restore(image, seed))
    as_fast(model, DTYPES[options.dtype], options)
    compiled(options, model.unet, model.vae.encoder, model.vae.decoder)
    for batch in options.batch:
        images, seeds = bench.images(batch), SeededNoise(range(batch))
        bench.measure("PiSA-SR", options.dtype, batch, tflop, lambda i=images, s=seeds: model.restore(i, s))


def bench_cnn(bench: Bench, name: str, network: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """One of the convolutional networks; as released: one image at a time. Both in fp32, as our stages have them."""
    options, image = bench.options, bench.images(1)
    tflop = tflop_of(lambda: run(network, image))
    bench.measure(f"{name}, as released", "fp32", 1, tflop, lambda: run(network, image))
    if name != "GFPGAN":  # it reshapes its features, so that it needs their channels first
        network = as_fast(network, torch.float32, options)
    for batch in options.batch:
        images = bench.images(batch)
        bench.measure(name, "fp32", batch, tflop, lambda i=images: run(network, i))


def bench_all(bench: Bench) -> None:
    """Every network of the recipe, one at a time, so that the peak is each one's own."""
    options = bench.options
    v2 = DiffBIRSettings(steps=options.steps or 50)
    few = SamplerSettings(cfg_scale=8.0)
    v21 = DiffBIRSettings(sampler="edm_dpm++_3m_sde", steps=options.steps or 10, sampling=few)
    stages: dict[str, Callable[[], None]] = {
        "pisa": lambda: bench_pisa(bench),
        "ffa": lambda: bench_cnn(bench, "FFA-Net", networks.ffa_net(bench.device, options.tiny), dehaze),
        "gfpgan": lambda: bench_cnn(bench, "GFPGAN", networks.gfpgan(bench.device), restore_gfpgan),
        "tone": lambda: bench_cnn(bench, "FaceToneNet", networks.face_tone_net(bench.device, options.tiny), tone),
        "v21": lambda: bench_diffbir(bench, "v2.1", v21, authors=False),
        "v2": lambda: bench_diffbir(bench, "v2", v2, authors=True),
    }
    for name in options.only or stages:
        with released():
            stages[name]()


def summary(rows: list[Row]) -> None:
    """The whole of MPSR (PiSA-SR, FFA-Net, DiffBIR v2, FaceToneNet; GFPGAN's branch apart) from its parts."""
    parts = ("PiSA-SR", "FFA-Net", "DiffBIR v2,", "FaceToneNet")
    ours, theirs = [], []
    for part in parts:
        mine = [row for row in rows if row.name.startswith(part)]
        released_rows = [row for row in mine if row.name.endswith("as released")]
        fast = [row for row in mine if row not in released_rows]
        if not fast or not released_rows:
            print("The sum over the recipe needs both settings of every part; run without --only, on a GPU.")
            return
        ours.append(min(fast, key=lambda row: row.seconds_per_image))
        theirs.append(released_rows[0])
    for name, chosen in (("MPSR, as released", theirs), ("MPSR", ours)):
        seconds = sum(row.seconds_per_image for row in chosen)
        tflop = sum(row.tflop_per_image for row in chosen)
        print_row(Row(name, "mixed", 0, seconds, tflop, max(row.peak_gib for row in chosen)))
    gain = sum(row.seconds_per_image for row in theirs) / sum(row.seconds_per_image for row in ours)
    print(f"{gain:.1f} times the speed of the authors' settings on this device")


def print_row(row: Row) -> None:
    """One line of the table."""
    print(
        f"| {row.name:34} | {row.dtype:5} | {row.batch:5d} | {1 / row.seconds_per_image:9.3f} "
        f"| {1000 * row.seconds_per_image:10.1f} | {row.tflop_per_image:8.3f} | {row.tflops:7.1f} "
        f"| {100 * row.tflops / FLOOR_TFLOPS:6.1f} | {row.peak_gib:8.2f} |",
        flush=True,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="precision of our settings (default: bf16)")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="images at a time (default: 8)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: 50 for v2, 10 for v2.1)")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels (default: 512)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, the median counts (default: 3)")
    parser.add_argument("--compile", action="store_true", help="compile the networks first")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--only", nargs="+", choices=["pisa", "ffa", "gfpgan", "tone", "v2", "v21"])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    options = parse()
    bench = Bench(options)
    name = torch.cuda.get_device_name() if bench.cuda else "CPU"
    print(f"{name}, torch {torch.__version__}; bf16 matrix product {bench.matmul_rate():.1f} TFLOP/s")
    print("| network | dtype | batch | images/s | ms/image | TFLOP/image | TFLOP/s | % of floor | peak GiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    bench_all(bench)
    summary(bench.rows)
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in bench.rows], indent=1))


if __name__ == "__main__":
    main()
