"""Benchmarks: the library beside the forward passes it is made of, and beside what others do.

What is compared runs in one process, in turn, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gscam_lib import figures
from gscam_lib.boxes import heatmap_to_box
from gscam_lib.evaluation.metrics import best_iou
from gscam_lib.heatmaps import heatmap, several
from gscam_lib.model.network import paper_k
from gscam_lib.model.prompts import with_article
from gscam_lib.scenes import NAMES, compose
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model, load_model

MODELS = ("mini-rn", "RN50/random")
PROMPTS = tuple(f"a photo of {thing}" for thing in (
    "an apple", "a suitcase", "a dog", "a guitar", "a boat", "a cake", "a chair", "a tree",
))  # fmt: skip
M_MMAP_THRESHOLD = -3  # of glibc: larger pieces of memory come from the system, each by itself
COCO_PHOTOS = 4952  # in val2017, with objects
COCO_PAIRS = round(3.5 * COCO_PHOTOS)  # 3.5 categories in a photo: Lin et al., ECCV 2014


@dataclass(frozen=True)
class Row:
    """One comparison: ours against what, as a ratio or a value, and what was asked for."""

    what: str
    model: str
    ours: str
    against: str
    value: float
    target: str
    met: bool | None = None  # None: nothing was asked for


@lru_cache
def photo(height: int = 300, width: int = 400) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A scene of the miniature world, always the same: (height, width, 3) uint8."""
    scene = compose(["apple", "cup", "dog", "chair"], background="room", seed=1, size=448)
    return np.asarray(scene.image.resize((width, height)))


def alternate(rounds: int, *timed: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function in each round, called in turn so that drift hits all alike."""
    seconds: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for function, found in zip(timed, seconds, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a GPU's work may still be under way
            found.append(time.perf_counter() - start)
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- what ours is held against


def plain_forward(model: Model, images: Tensor, size: int) -> None:
    """Embed images in batches, and nothing else."""
    with torch.inference_mode():
        for batch in images.split(size):
            model.network.encode_image(batch)


def naive(model: Model, image: Any, prompt: str, k: int) -> Tensor:
    """gScoreCAM as the paper's released code goes about it, from METHODS.md: nothing is kept.

    Every call runs the photo again, masks it by all C channels before it takes the k, and encodes
    the prompt anew for every batch.
    """
    trace = Trace(model, Image.fromarray(image), model.layer)
    tokens = model.tokenizer([prompt], context_length=model.network.context_length)
    tokens = tokens.to(model.device)
    text = nn.functional.normalize(model.network.encode_text(tokens), dim=-1)
    score = model.logit_scale * (trace._embedding @ text.T)[0, 0]
    (gradient,) = torch.autograd.grad(score, trace._output)
    chosen = gradient[0].mean((1, 2)).argsort(descending=True)[:k]
    every = trace.masks(torch.arange(len(trace.activations)))
    copies = (trace.pixels * every[:, None])[chosen]
    scores = torch.zeros(len(trace.activations), device=model.device)
    found = []
    with torch.no_grad():
        for batch in copies.split(model.batch_size):
            text = nn.functional.normalize(model.network.encode_text(tokens), dim=-1)
            images = nn.functional.normalize(model.network.encode_image(batch), dim=-1)
            found.append((model.logit_scale * images @ text.T)[:, 0])
    scores[chosen] = torch.cat(found)
    return torch.einsum("c,chw->hw", scores.softmax(0), trace.activations).relu()


def gradcam_scorecam(model: Model, image: Any, prompt: str) -> Any:
    """ScoreCAM of the package grad-cam for one prompt. Needs the extra `dev`."""
    from pytorch_grad_cam import ScoreCAM

    text = model.encode_text([prompt])
    network, scale = model.network, model.logit_scale

    class Logit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = network.visual

        def forward(self, pixels: Tensor) -> Tensor:
            return scale * nn.functional.normalize(self.visual(pixels), dim=-1) @ text.T

    wrapped = Logit()
    with ScoreCAM(wrapped, [model.layer.module]) as cam:
        cam.batch_size = model.batch_size
        return cam(model.preprocess(Image.fromarray(image))[None], [lambda logits: logits[0]])


# ---------------------------------------------------------------- the rows


def forward_rows(model: Model, rounds: int) -> list[Row]:
    """GScoreCAM against bare forward passes at their best batch size, and against the naive one."""
    k, image = paper_k(model.channels), photo()
    passes = passes_of(model, [(PROMPTS[0], k)])
    images = torch.randn(passes, 3, model.input_size, model.input_size, device=model.device)
    sizes = (8, 16, 32) if model.device.type == "cpu" else (64, 128, 256)
    for size in sizes:
        plain_forward(model, images[: 2 * size], size)
    few = images[: 2 * max(sizes)]
    trials = alternate(2, *(lambda s=s: plain_forward(model, few, s) for s in sizes))
    best = sizes[int(np.argmin([min(t) for t in trials]))]
    ours, bare, quick, slow = alternate(
        rounds,
        lambda: heatmap(model.trace(image), PROMPTS[0], k=k),
        lambda: plain_forward(model, images, best),
        lambda: [model.encode_pixels(batch, fast=True) for batch in images.split(best)],
        lambda: naive(model, image, PROMPTS[0], k),
    )
    gain = ratio(slow, ours)
    weights, seconds = _weights(model.name, model.device.type), f"{statistics.median(ours):.2f} s"
    bares = {"bare": bare, "the tower in less arithmetic (`folded.py`), bare": quick}
    return [
        *(Row(f"gScoreCAM, one prompt, k = {k}", weights, f"{seconds}, {passes} passes",
              f"{what} forward of {passes} images, batches of {best}: "
              f"{statistics.median(times):.2f} s",
              ratio(ours, times), "≤ 1.10 ×", ratio(ours, times) <= 1.10)
          for what, times in bares.items()),
        Row(f"gScoreCAM, one prompt, k = {k}", weights, seconds,
            f"naive, in the style of the released code: {statistics.median(slow):.2f} s, "
            f"{1 + k} passes",
            gain, "≥ 1.3 times faster", gain >= 1.3),
    ]  # fmt: skip


def passes_of(model: Model, asked: Sequence[tuple[str, int]]) -> int:
    """Forward passes that gScoreCAM makes for prompts with their k: dead channels share one."""
    trace = model.trace(photo())
    channels = {int(c) for prompt, k in asked for c in trace.ranking(prompt)[:k]}
    alive = len(trace.missing(sorted(channels)))
    return 1 + alive + (alive < len(channels))


def grid_row(model: Model, most: int) -> Row:
    """8 prompts × 8 values of k, eighths of `most`, against the naive one, a call at a time."""
    image, weights = photo(), _weights(model.name, model.device.type)
    ks = [max(1, most * i // 8) for i in range(1, 9)]

    def ours() -> None:
        trace = model.trace(image)
        for count in reversed(ks):
            several(trace, PROMPTS, k=count)

    def smallest_and_largest() -> None:  # what a call takes grows as a straight line with k
        for count in (ks[0], ks[-1]):
            naive(model, image, PROMPTS[0], count)

    (mine,), (sample,) = alternate(1, ours, smallest_and_largest)
    gain = 32 * sample / mine
    passes, slow = passes_of(model, [(prompt, most) for prompt in PROMPTS]), 64 + 8 * sum(ks)
    return Row(f"8 prompts × 8 values of k up to {most}", weights,
               f"{mine:.2f} s, {passes} passes",
               f"naive: {32 * sample:.1f} s (smallest and largest k for one prompt, times 32), "
               f"{slow} passes, {slow / passes:.1f} times ours",
               gain, "≥ 20 times faster", gain >= 20)  # fmt: skip


def warm_rows(model: Model, trace: Trace, rounds: int) -> list[Row]:
    """A further prompt whose channels are known, and a move of k; trace: with all channels."""
    k = paper_k(model.channels)
    heatmap(trace, PROMPTS[0], k=k)
    prompts = iter([f"a photo of {with_article(name)}" for name in NAMES])
    ks = iter([k - i % k for i in range(1, rounds + 1)])
    (further, move) = alternate(
        rounds,
        lambda: heatmap(trace, next(prompts), k=k),
        lambda: heatmap(trace, PROMPTS[0], k=next(ks)),
    )
    first, second = 1000 * statistics.median(further), 1000 * statistics.median(move)
    weights = _weights(model.name, model.device.type)
    ask = weights == "mini-rn"
    return [
        Row("a further prompt, its channels known", weights, f"{first:.0f} ms", "", first,
            "≤ 60 ms" if ask else "", first <= 60 if ask else None),
        Row("a move of k on a warm trace", weights, f"{second:.1f} ms", "", second,
            "≤ 10 ms" if ask else "", second <= 10 if ask else None),
    ]  # fmt: skip


def scorecam_row(model: Model, trace: Trace) -> Row:
    """ScoreCAM for 5 prompts on a new trace against grad-cam, which shares nothing between them."""
    (mine,), (one,) = alternate(
        1,
        lambda: several(trace, PROMPTS[:5], "scorecam"),
        lambda: gradcam_scorecam(model, trace.image, PROMPTS[0]),
    )
    gain = 5 * one / mine
    return Row(f"ScoreCAM, C = {model.channels}, 5 prompts",
               _weights(model.name, model.device.type), f"{mine:.1f} s",
               f"grad-cam's ScoreCAM: {5 * one:.1f} s (one prompt, times 5)",
               gain, "≥ 5 times faster", gain >= 5)  # fmt: skip


def peak(name: str, what: str, device: str = "cpu") -> float:
    """MiB that a job takes at most above what a fresh process with the model has."""
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        # Freed memory goes back at once, so that what is seen is in use.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)
    model, image = load_model(name, device=device), photo()
    heatmap(model.trace(image), PROMPTS[0], k=1)  # what is loaded and allocated once
    pixels = model.preprocess(Image.fromarray(image))
    if what == "gscorecam":
        return highest(lambda: heatmap(model.trace(image), PROMPTS[0], k=model.channels), device)
    copies = pixels.expand(8 * model.batch_size, -1, -1, -1)  # more batches need no more memory
    return highest(lambda: plain_forward(model, copies, model.batch_size), device)


def highest(job: Callable[[], object], device: str = "cpu") -> float:
    """MiB by which memory rises while a job runs; on a CPU looked at every millisecond."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()  # garbage collected while the job runs would hide what it takes
    resident, done = psutil.Process().memory_info, Event()
    before = most = resident().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, resident().rss)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        job()
    finally:
        done.set()
        watcher.join()
    return float(most - before) / 2**20


def memory_row(name: str, device: str = "cpu") -> Row:
    """Peak memory of gScoreCAM at k = C against plain batches, each in its own process."""
    found = []
    for what in ("gscorecam", "plain"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found.append(process.submit(peak, name, what, device).result())
    value = found[0] / found[1]
    return Row("peak memory above the model, k = C", _weights(name, device), f"{found[0]:.0f} MiB",
               f"plain batches of the same size: {found[1]:.0f} MiB", value,
               "≤ 1.3 ×", value <= 1.3)  # fmt: skip


def import_rows(rounds: int) -> list[Row]:
    """Seconds of importing and of `gscam --help` in fresh processes, less an empty one's."""
    python = sys.executable
    code = {
        "empty": "pass", "import gscam_lib": "import gscam_lib",
        "gscam --help": "from gscam_lib.cli import app; app(['--help'], standalone_mode=False)",
    }  # fmt: skip
    runs = [lambda c=c: subprocess.run([python, "-c", c], check=True, capture_output=True)
            for c in code.values()]  # fmt: skip
    alternate(1, *runs)
    empty, *others = (statistics.median(t) for t in alternate(rounds, *runs))
    asked = (0.2, 0.5)
    return [
        Row(what, "", f"{took - empty:.2f} s", f"an empty interpreter: {empty:.2f} s",
            took - empty, f"≤ {limit} s", took - empty <= limit)
        for what, took, limit in zip(list(code)[1:], others, asked, strict=True)
    ]  # fmt: skip


def precision_rows(name: str, rounds: int, device: str = "cpu") -> list[Row]:
    """What lower precision and torch.compile change in speed, maps and boxes."""
    image, exact, weights = photo(), load_model(name, device=device), _weights(name, device)
    k = paper_k(exact.channels)
    wanted = heatmap(exact.trace(image), PROMPTS[0], k=k)
    rows = []
    for how in ({"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}):
        try:
            other = load_model(name, device=device, **how)
            found = heatmap(other.trace(image), PROMPTS[0], k=k)
        except Exception as error:  # no compiler here: the row says so
            rows.append(Row(f"load_model({_call(how)})", weights, "not possible here",
                            f"{type(error).__name__}", float("nan"), ""))  # fmt: skip
            continue
        times = alternate(rounds, *(lambda m=m: heatmap(m.trace(image), PROMPTS[0], k=k)
                                    for m in (other, exact)))  # fmt: skip
        box = heatmap_to_box(wanted)
        overlap = float("nan") if box is None else best_iou(heatmap_to_box(found), [box])
        apart = float(np.abs(found.values - wanted.values).max())
        value = ratio(*reversed(times))
        rows.append(Row(f"load_model({_call(how)}), gScoreCAM, k = {k}", weights,
                        f"{statistics.median(times[0]):.2f} s",
                        f"fp32: {statistics.median(times[1]):.2f} s; maps differ by at most "
                        f"{apart:.4f}, IoU of the boxes {overlap:.3f}", value, ""))  # fmt: skip
    return rows


def _weights(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name} on {device}"


def _call(how: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in how.items())


# ---------------------------------------------------------------- how cost grows


def scaling(model: Model, points: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds against k, C (ScoreCAM at several layers), prompts and the photo's pixels."""
    full = model.channels
    heatmap(model.trace(photo()), PROMPTS[0], k=paper_k(full))

    def seconds(prompts: Sequence[str] = PROMPTS[:1], side: int = 300, layer: str | None = None,
                method: str = "gscorecam", **options: Any) -> float:  # fmt: skip
        picture = photo(side, side)
        (took,) = alternate(1, lambda: several(model.trace(picture, layer=layer), prompts, method,
                                               **options))  # fmt: skip
        return took[0]

    few = full // 4 // points
    layers = {f"layer{i}": 0 for i in range(1, 5)}
    for layer in layers:
        layers[layer] = len(model.trace(photo(), layer=layer).activations)
    return {
        "k": [(few * i, seconds(k=few * i)) for i in range(1, points + 1)],
        "C": [(count, seconds(layer=layer, method="scorecam"))
              for layer, count in list(layers.items())[:points]],
        "P": [(p, seconds(PROMPTS[:p], k=few)) for p in (1, 2, 4, 8)[:points]],
        "megapixels of the photo": [
            (s * s / 1e6, seconds(side=s, k=few)) for s in (300, 1200, 2400, 3600)[:points]
        ],
    }  # fmt: skip


def draw(found: dict[str, dict[str, list[tuple[float, float]]]]) -> Figure:
    """Draw seconds against k, C, P and size, with the straight line of least squares."""
    names = list(next(iter(found.values())))
    figure, axes = plt.subplots(1, len(names), figsize=(14, 3.4), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        for i, (model, series) in enumerate(found.items()):
            color = f"C{i}"
            x, y = np.array(series[name]).T
            slope, start = np.polyfit(x, y, 1)
            ax.plot(x, start + slope * x, color=color, lw=1)
            label = f"{model}: {1000 * slope:,.{0 if slope > 0.1 else 1}f} ms each"
            ax.plot(x, y, "o", color=color, label=label)
        top = max(seconds for series in found.values() for _, seconds in series[name])
        ax.set(xlabel=name, ylim=(0, 1.3 * top), xlim=(0, None))  # room for the legend
        ax.legend(fontsize=8, loc="upper left")
    axes[0].set_ylabel("seconds")
    return figure


# ---------------------------------------------------------------- the whole benchmark, on paper


def plan() -> str:
    """What the paper's benchmark costs with RN50x16, from counted operations; Markdown."""
    model = load_model("RN50x16/random")
    blank = torch.zeros(1, 3, model.input_size, model.input_size)
    counted = []
    for tower in (model.network.visual, model.quick_tower):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            tower(blank)
        counted.append(counter.get_total_flops())
    whole, flops = counted
    k, channels = paper_k(model.channels), model.channels
    gpu = 0.3 * 67e12  # fp32 on tensor-free cores of an H100 SXM by its data sheet, at 30 %
    embed = channels * 4 * model.network.visual.output_dim / 1e6

    def line(what: str, passes: float) -> str:
        hours = passes * flops / gpu / 3600
        return f"| {what} | {passes / 1e6:.2f} million | {hours:.1f} |"

    shared = COCO_PHOTOS + COCO_PAIRS * k
    naive_passes = COCO_PAIRS * (1 + k)
    return "\n".join([
        "## The whole benchmark, on paper", "",
        f"COCO val2017 has {COCO_PHOTOS:,} photos with objects; at 3.5 categories in a photo (Lin "
        f"et al. 2014) these are {COCO_PAIRS:,} (photo, class) pairs. One forward pass of RN50x16 "
        f"at {model.input_size} px takes {whole / 1e9:.0f} GFLOP in open_clip and "
        f"{flops / 1e9:.0f} GFLOP in `folded.py` (counted here; the batch norms that it saves are "
        "not counted, they cost memory traffic). GPU-hours assume an H100's 67 TFLOP/s in fp32 "
        "(its data sheet) at 30 %; they are arithmetic, not a measurement.", "",
        "| what | forward passes | GPU-hours |", "|---|---|---|",
        line(f"gScoreCAM, k = {k}, one call a pair", naive_passes),
        line("the photo's own pass shared by its prompts", shared),
        line("channels shared by a photo's prompts, at best (one prompt's worth)",
             COCO_PHOTOS * (1 + k)),
        line(f"ScoreCAM, C = {channels}, every pair anew", COCO_PAIRS * (1 + channels)),
        line("ScoreCAM, copies shared by a photo's prompts", COCO_PHOTOS * (1 + channels)), "",
        f"What k costs in all lies between the second and the third line. In 16 shards the second "
        f"line takes {shared * flops / gpu / 3600 / 16:.1f} hours on 16 GPUs. Rows need about "
        f"{COCO_PAIRS * 150 / 1e6:.0f} MB for each method; the optional cache of embeddings "
        f"{embed:.0f} MB for each photo with all channels, {embed * k / channels:.1f} MB with k. "
        "bf16 (above, what it changes) runs on tensor cores and saves more than half of the "
        "hours.",
    ])  # fmt: skip


# ---------------------------------------------------------------- the report


def machine() -> str:
    """The machine in words, as the report's first line."""
    cuda = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads{cuda}, torch "
        f"{torch.__version__}, fp32, seed 0. Ratios are medians over rounds taken in turn."
    )


def run(models: Sequence[str], rounds: int, points: int
        ) -> tuple[list[Row], dict[str, Any]]:  # fmt: skip
    """Measure every row on every model, and how cost grows; on a GPU too, where there is one."""
    rows, grown = [], {}
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    for device, name in product(devices, models):
        torch.manual_seed(0)
        model = load_model(name, device=device)
        rows += forward_rows(model, rounds)
        trace = model.trace(photo())
        rows += [grid_row(model, k) for k in (paper_k(model.channels), model.channels)]
        rows += [scorecam_row(model, trace), *warm_rows(model, trace, 5 * rounds)]
        rows += [memory_row(name, device), *precision_rows(name, rounds, device)]
        fewer = points - (points > 2 and model.channels > 1024)  # what takes long
        grown[_weights(name, device)] = scaling(model, fewer)
    return [*rows, *import_rows(rounds)], grown


def report(out: Path = figures.FOLDER, *, quick: bool = False,
           models: Sequence[str] = MODELS) -> str:  # fmt: skip
    """Run everything and write bench.json, bench.md and bench.png into a folder.

    quick: one round and two points, to see that it runs; models: what is measured now, beside what
    the folder's bench.json has of other weights. Returns the Markdown.
    """
    rows, grown = run(models, *((1, 2) if quick else (3, 4)))
    rows, grown = _with_earlier(out / "bench.json", models, rows, grown)
    lines = ["# Benchmarks", "", "Made by `make bench`.", "", machine(), "",
             "| what | weights | ours | against | value | target | met |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    marks = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {r.what} | {r.model} | {r.ours} | {r.against} | {r.value:.2f} | {r.target} "
              f"| {marks[r.met]} |" for r in rows]  # fmt: skip
    text = "\n".join([*lines, "", plan(), ""])
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.md").write_text(text, encoding="utf-8")
    content = {"machine": machine(), "rows": [asdict(row) for row in rows], "scaling": grown}
    (out / "bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with figures.style():
        caption = (
            "Seconds of gScoreCAM (of ScoreCAM at several layers, for C) against k, the number of "
            "channels, prompts and pixels, with straight lines fitted. Weights: "
            f"{', '.join(grown)}. {machine()}"
        )
        figures.save(draw(grown), "bench", caption, folder=out)
    return text


def _with_earlier(file: Path, models: Sequence[str], rows: list[Row], grown: dict[str, Any]
                  ) -> tuple[list[Row], dict[str, Any]]:  # fmt: skip
    """What a file has of other weights, on the same kind of machine, and what was measured now."""
    earlier: dict[str, Any] = {"machine": None}
    if file.is_file():
        earlier = json.loads(file.read_text())
    if earlier["machine"] != machine():
        return rows, grown
    kept = [Row(**r) for r in earlier["rows"] if r["model"].split(" ")[0] not in (*models, "")]
    curves = {m: c for m, c in earlier["scaling"].items() if m.split(" ")[0] not in models}
    return kept + rows, curves | grown
