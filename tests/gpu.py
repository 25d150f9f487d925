"""What no test here can see: the library on a GPU. Run on a machine with CUDA:

    PYTHONPATH=. python tests/gpu.py OUT [--minutes 9] [--device cuda] [--quick]

It checks that a device computes what the CPU does, within the tolerances stated below, measures
full-size towers with random weights in every precision against the card's limit, prints tables as
they grow, and leaves OUT/gpu.md and OUT/gpu.json. It ends within the minutes given, whatever
happens: what is not done by then is left out, and said. The exit status is 0 if all checks hold.
`--quick --device cpu` runs the same on tiny towers, so that the script itself is tested.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from conftest import TOWERS, tiny_clip
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import gscam_lib as gs
from gscam_lib.model.engines import PRECISIONS

# Largest difference from the CPU in fp32: relative to the largest value, or of values in [0, 1].
TOLERANCE = {"activations": 1e-4, "gradients": 1e-3, "embeddings": 1e-4, "logit": 1e-3, "map": 2e-3}
CORRELATION = {"tf32": 0.98, "bf16": 0.9, "fp16": 0.98}  # of gScoreCAM maps with those of the CPU
# TFLOP/s of dense products by the makers' data sheets: fp32 outside tensor cores, tf32, bf16, fp16.
PEAK = {
    "B200": (75, 1100, 2250, 2250), "H200": (67, 495, 989, 989), "H100 PCIe": (51, 378, 756, 756),
    "H100": (67, 495, 989, 989), "L40S": (91.6, 183, 362, 362), "A100": (19.5, 156, 312, 312),
    "A10": (31.2, 62.5, 125, 125), "L4": (30.3, 60, 121, 121), "4090": (82.6, 82.6, 165, 165),
    "3090": (35.6, 35.6, 71, 71), "V100": (15.7, None, None, 125), "T4": (8.1, None, None, 65),
}  # fmt: skip
PROMPTS = ("an apple", "a dog on a chair", "a red cup")
SCENES = Path(__file__).resolve().parents[1] / "data" / "scenes" / "multi" / "images"
FEW = {
    "sscam": {"samples": 1},
    "rise": {"masks": 64},
    "groupcam": {"groups": 4},
}


class OutOfTimeError(Exception):
    """The minutes given are nearly over."""


@dataclass
class Report:
    """Tables that are on disk after each row, so that nothing found is lost."""

    out: Path
    end: float
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add(self, table: str, **row: Any) -> None:
        self.tables.setdefault(table, []).append(row)
        print(f"[{self.end - time.monotonic():5.0f} s left] {table}:", row, flush=True)
        self.write()

    def check(self, what: str, difference: float, limit: float, more: str = "") -> None:
        good = bool(difference <= limit)  # NaN is not
        if not good:
            self.failed.append(f"{what}: {difference:.2g}, limit {limit:.2g}")
        self.add(
            "Equality with the CPU", what=what, difference=float(f"{difference:.3g}"), limit=limit,
            holds=good, note=more,
        )  # fmt: skip

    def write(self) -> None:
        parts = ["# The library on a device\n"]
        for name, rows in self.tables.items():
            head = list(dict.fromkeys(key for row in rows for key in row))
            lines = [head, ["---"] * len(head)]
            lines += [[str(row.get(key, "")) for key in head] for row in rows]
            parts += [f"## {name}\n", *(f"| {' | '.join(line)} |" for line in lines), ""]
        parts += ["## Failed\n", *(f"- {line}" for line in self.failed or ["nothing"]), ""]
        (self.out / "gpu.md").write_text("\n".join(parts))
        whole = {"tables": self.tables, "failed": self.failed}
        (self.out / "gpu.json").write_text(json.dumps(whole, indent=1, default=str))

    def time_for(self, seconds: float) -> None:
        if time.monotonic() + seconds > self.end:
            raise OutOfTimeError


def watchdog(report: Report) -> threading.Timer:
    """End the process a little after its time: a call that hangs cannot be ended otherwise."""

    def end() -> None:
        report.failed.append("a step hung; the process was ended")
        report.write()
        print("out of time", flush=True)
        os._exit(3)

    timer = threading.Timer(max(1.0, report.end + 20 - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    return timer


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def on(model: gs.Model, device: str, **options: Any) -> gs.Model:
    """The same model on a device: a copy of the network, so that the CPU's stays where it is."""
    network = copy.deepcopy(model.network).to(device)
    network.visual.to(memory_format=torch.channels_last)
    return gs.Model(network, model.tokenizer, name=model.name, **options)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def photos(count: int) -> list[Image.Image]:
    found = [Image.open(path).convert("RGB") for path in sorted(SCENES.glob("*.jpg"))[:count]]
    noise = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
    return found or [Image.fromarray(noise)]


# ---------------------------------------------------------------- equality


def equal(report: Report, cpu: gs.Model, device: str, methods: list[str]) -> None:
    """One model on the CPU and on the device, step by step, then method by method."""
    report.time_for(15)
    photo, name = photos(1)[0], cpu.name
    there = on(cpu, device)
    a, b = cpu.trace(photo), there.trace(photo)
    report.check(f"{name} pixels", distance(b.pixels, a.pixels), 0.0, "pinned memory on CUDA")
    for what, x, y in (
        ("activations", b.activations, a.activations),
        ("embeddings", b.embedding, a.embedding),
        ("gradients", b.gradients(PROMPTS[0]), a.gradients(PROMPTS[0])),
    ):
        report.check(f"{name} {what}", distance(x, y), TOLERANCE[what])
    batched = there.trace(photo)
    batched.prepare(PROMPTS)
    gap = max(distance(batched.gradients(p), b.gradients(p)) for p in PROMPTS)
    report.check(f"{name} gradients of {len(PROMPTS)} prompts by vmap", gap, TOLERANCE["gradients"])
    report.check(
        f"{name} logit", abs(b.logit(PROMPTS[0]) - a.logit(PROMPTS[0])), TOLERANCE["logit"]
    )
    some = list(range(0, len(a.activations), max(1, len(a.activations) // 40)))
    gap = distance(b.masked_embeddings(some), a.masked_embeddings(some))
    report.check(f"{name} {len(some)} masked embeddings", gap, TOLERANCE["embeddings"])
    worst, far, moved = 0.0, "", []
    asked = [m for m in methods if cpu.tower in gs.METHODS[m].towers]
    for method in asked:
        report.time_for(10)
        options = dict(FEW.get(method, {}))
        if "k" in gs.METHODS[method].options:
            options["k"] = min(20, len(a.activations))
        x, y = (gs.heatmap(t, PROMPTS[0], method, **options) for t in (b, a))
        gap = float(np.abs(x.values - y.values).max())
        if gap > TOLERANCE["map"]:
            report.check(f"{name} {method}", gap, TOLERANCE["map"])
        worst, far = max((worst, far), (gap, method))
        if gs.heatmap_to_box(x) != gs.heatmap_to_box(y):
            moved.append(method)
    note = f"farthest {far}; boxes differ: {', '.join(moved) or 'none'}"
    report.check(f"{name} maps of {len(asked)} methods", worst, TOLERANCE["map"], note)


def rougher(report: Report, cpu: gs.Model, device: str, count: int, k: int) -> None:
    """What a lower precision changes in maps and boxes."""
    for precision in [p for p in PRECISIONS if p != "fp32" and usable(p, device)]:
        report.time_for(15)
        there = on(cpu, device, precision=precision)
        same, correlations, zeros = 0, [], []
        pairs = [(photo, prompt) for photo in photos(count) for prompt in PROMPTS]
        for photo, prompt in pairs:
            a, b = cpu.trace(photo), there.trace(photo)
            x, y = (gs.heatmap(t, prompt, k=k) for t in (a, b))
            same += gs.heatmap_to_box(x) == gs.heatmap_to_box(y)
            correlations.append(np.corrcoef(x.values.ravel(), y.values.ravel())[0, 1])
            lost = (b.gradients(prompt) == 0).cpu() & (a.gradients(prompt) != 0)
            zeros.append(float(lost.float().mean()))
        report.add(
            "Lower precision, gScoreCAM", model=cpu.name, precision=precision, maps=len(pairs),
            k=k, lowest_correlation=round(min(correlations), 4), same_box=same,
            gradients_lost=float(f"{max(zeros):.2g}"),
        )  # fmt: skip
        if not min(correlations) >= CORRELATION[precision]:
            report.failed.append(f"{cpu.name} {precision}: correlation {min(correlations):.3f}")


def usable(precision: str, device: str) -> bool:
    if device == "cpu":
        return precision not in ("tf32", "fp16")  # no TF32 there, and fp16 is emulated
    newer = torch.cuda.get_device_capability()[0] >= 8
    return newer or precision not in ("tf32", "bf16")


def synchronizations(report: Report, model: gs.Model, device: str) -> None:
    """How often the host waits for the device: a number that must not grow with the channels."""
    if device != "cuda":
        return
    report.time_for(10)
    photo, counts = photos(1)[0], {}
    model.quick_tower  # noqa: B018 (folding synchronizes, once)
    model.encode_text(PROMPTS)
    for k in (8, 64):
        trace = model.trace(photo, batch_size=64)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                gs.heatmap(trace, PROMPTS[0], k=k)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts[k] = sum("synchroniz" in str(w.message) for w in caught)
    report.add("Synchronizations of one gScoreCAM map", model=model.name, **{
        f"k = {k}": count for k, count in counts.items()
    })  # fmt: skip
    if counts[64] > counts[8] + 2:
        report.failed.append(f"synchronizations grow with the channels: {counts}")


# ---------------------------------------------------------------- speed and memory


@contextlib.contextmanager
def memory(device: str) -> Iterator[dict[str, float]]:
    """Peak memory in GiB, once left."""
    found: dict[str, float] = {}
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated() / 2**30


def rate(run: Callable[[], object], images: int, device: str, seconds: float) -> float:
    """Images a second, after one run that does not count."""
    run()
    synchronize(device)
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        run()
        synchronize(device)
        done += images
    return done / spent


def peak(precision: str, device: str) -> float | None:
    """TFLOP/s that the card could do, None where it is not in the table."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    row = next((limits for key, limits in PEAK.items() if key in name), None)
    return row[list(PRECISIONS).index(precision)] if row else None


def flops_of(model: gs.Model) -> float:
    """Of one image through the tower that embeds masked copies."""
    size = model.input_size
    # With gradients, since the counter does not know the one kernel that attention is without.
    pixels = torch.zeros(1, 3, size, size).requires_grad_()
    model.encode_pixels(pixels, fast=True)  # builds what is built once
    with FlopCounterMode(display=False) as counter:
        model.encode_pixels(pixels, fast=True)
    return counter.get_total_flops()


def speed(report: Report, name: str, cpu: gs.Model, device: str, batches: list[int], s: float):
    """Masked copies a second: the bare tower, and the library with masks and all."""
    photo = photos(1)[0]
    flops = flops_of(cpu)
    for precision in [p for p in PRECISIONS if usable(p, device)]:
        for layout in (torch.channels_last, torch.contiguous_format):
            report.time_for(12 + 8 * s)
            model = on(cpu, device, precision=precision)
            model.network.visual.to(memory_format=layout)
            best = (0.0, 0, 0.0)
            for batch in batches:
                pixels = torch.randn(batch, 3, model.input_size, model.input_size, device=device)
                with contextlib.suppress(torch.OutOfMemoryError), memory(device) as used:

                    def run(model: gs.Model = model, pixels: torch.Tensor = pixels) -> None:
                        with torch.inference_mode():
                            model.encode_pixels(pixels, fast=True)

                    found = rate(run, batch, device, s)
                if "peak" in used or device == "cpu":
                    best = max(best, (found, batch, used.get("peak", 0.0)))
            per_second, batch, gib = best
            limit = peak(precision, device)
            row = {
                "tower": name, "precision": precision,
                "layout": str(layout).removeprefix("torch."), "batch": batch,
                "passes/s": round(per_second, 1), "TFLOP/s": round(per_second * flops / 1e12, 2),
                "of the card's": f"{per_second * flops / limit / 1e10:.0f} %" if limit else "?",
                "peak GiB": round(gib, 2),
            }  # fmt: skip
            if layout is torch.channels_last:
                row |= through_library(model, photo, batch, device, s)
            report.add("Speed and memory", **row, **{"GFLOP a pass": round(flops / 1e9, 2)})
            del model


def through_library(
    model: gs.Model, photo: Image.Image, batch: int, device: str, s: float
) -> dict[str, Any]:
    """Copies a second of `masked_embeddings`, and seconds of a whole map as a user asks for it."""
    own = model.batch_size
    # Dead channels, three in ten of a random ResNet's, cost no pass: count the others.
    live = model.trace(photo).missing(range(model.channels))[: 4 * batch]

    def embed() -> None:
        model.trace(photo, batch_size=batch).masked_embeddings(live)

    with memory(device) as used:
        copies = rate(embed, len(live), device, s)
    start = time.perf_counter()
    heat = gs.heatmap(model.trace(photo), PROMPTS[0])
    seconds = time.perf_counter() - start
    trace = model.trace(photo)
    passes = len(trace.missing(trace.ranking(PROMPTS[0])[: heat.k].tolist()))
    return {
        "copies/s": round(copies, 1), "library peak GiB": round(used.get("peak", 0.0), 2),
        "its own batch": own, "k of a map": heat.k, "its passes": passes,
        "s a map": round(seconds, 2),
    }  # fmt: skip


def compiled(report: Report, name: str, cpu: gs.Model, device: str, batch: int, s: float) -> None:
    """The tower through torch.compile, which takes its time first."""
    precision = next(p for p in ("bf16", "fp16", "fp32") if usable(p, device))
    report.time_for(150)
    model = on(cpu, device, precision=precision, compiled=True)
    pixels = torch.randn(batch, 3, model.input_size, model.input_size, device=device)

    def run() -> None:
        with torch.inference_mode():
            model.encode_pixels(pixels, fast=True)

    start = time.perf_counter()
    run()
    synchronize(device)
    first = time.perf_counter() - start
    report.add("torch.compile", tower=name, precision=precision, batch=batch, **{
        "s for the first batch": round(first, 1), "passes/s": round(rate(run, batch, device, s), 1),
    })  # fmt: skip


# ---------------------------------------------------------------- all of it


def full_size(name: str) -> gs.Model:
    """An architecture with random weights, as `load_model("…/random")` would, on the CPU."""
    torch.manual_seed(0)
    network = open_clip.create_model(name)
    return gs.Model(network.eval().requires_grad_(False), open_clip.get_tokenizer(name), name=name)


def steps(report: Report, device: str, quick: bool) -> list[Callable[[], None]]:
    """What is done, the most important first."""
    methods = list(gs.METHODS)
    minis = [gs.load_model(name, device="cpu") for name in ("mini-rn", "mini-vit")[: 2 - quick]]
    if quick:
        few = ["gscorecam", "gradcam", "legrad", "maskclip", "groupcam"]
        tiny = {name: tiny_clip(name) for name in ("resnet", "vit")}
        return [
            *(lambda m=m: equal(report, m, device, few) for m in [*tiny.values(), *minis]),
            lambda: rougher(report, tiny["resnet"], device, 1, 4),
            lambda: synchronizations(report, on(tiny["resnet"], device), device),
            lambda: speed(report, "tiny ResNet", tiny["resnet"], device, [4], 0.05),
        ]
    batches = [32, 128, 256] if device == "cuda" else [8]
    large: dict[str, gs.Model] = {}

    def get(name: str) -> gs.Model:
        if name not in large:
            large[name] = full_size(name)
        return large[name]

    rn, vit = "RN50x16-quickgelu", "ViT-L-14-quickgelu"
    return [
        *(lambda t=t: equal(report, tiny_clip(t), device, methods) for t in TOWERS),
        *(lambda m=m: equal(report, m, device, methods) for m in minis),
        lambda: synchronizations(report, on(minis[0], device), device),
        *(lambda m=m: rougher(report, m, device, 3, 50) for m in minis),
        lambda: equal(report, get(rn), device, ["gradcam", "gscorecam"]),
        lambda: speed(report, rn, get(rn), device, batches, 1.5),
        lambda: speed(report, vit, get(vit), device, batches, 1.0),
        lambda: compiled(report, rn, get(rn), device, 128, 2.0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    report = Report(given.out, time.monotonic() + 60 * given.minutes)
    timer = watchdog(report)
    if given.device == "cuda":
        torch.set_num_threads(os.cpu_count() or 1)  # conftest takes one, for tiny towers
        free, total = torch.cuda.mem_get_info()
        card = {"card": torch.cuda.get_device_name(), "GiB": round(total / 2**30, 1)}
        card |= {"free GiB": round(free / 2**30, 1), "CUDA": torch.version.cuda}
    else:
        card = {"card": f"CPU, {torch.get_num_threads()} threads"}
    default = f"{torch.backends.cuda.matmul.allow_tf32}, {torch.backends.cudnn.allow_tf32}"
    report.add(
        "Machine", **card, torch=torch.__version__, python=platform.python_version(),
        **{"TF32 by default (matrices, convolutions)": default},
    )  # fmt: skip
    for step in steps(report, given.device, given.quick):
        start = time.monotonic()
        try:
            step()
        except OutOfTimeError:
            report.add("Left out for want of time", step=step.__code__.co_names[0])
        except Exception as error:
            traceback.print_exc()
            report.failed.append(f"{type(error).__name__}: {error}"[:300])
        print(f"  that took {time.monotonic() - start:.1f} s", flush=True)
    timer.cancel()
    report.write()
    print((given.out / "gpu.md").read_text())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
