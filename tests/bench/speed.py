"""Speed and memory: the library beside the forward passes it is made of, and beside others.

What is compared runs in one process, in turn, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from PIL import Image

from gscam_lib.boxes import heatmap_to_box
from gscam_lib.evaluation.metrics import best_iou
from gscam_lib.heatmaps import heatmap, several
from gscam_lib.model.network import paper_k
from gscam_lib.model.prompts import with_article
from gscam_lib.scenes import NAMES
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model, load_model
from tests.bench.against import gradcam_scorecam, naive, plain_forward
from tests.bench.timing import PROMPTS, Row, alternate, highest, photo, ratio, weights_of

M_MMAP_THRESHOLD = -3  # of glibc: larger pieces of memory come from the system, each by itself


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
    weights, seconds = weights_of(model.name, model.device.type), f"{statistics.median(ours):.2f} s"
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


def grid_row(model: Model, most: int, share: float = 1) -> Row:
    """8 prompts × 8 values of k, eighths of `most`, against the naive one, a call at a time.

    share: of each k, the copies scored, the others guessed (`budget`).
    """
    image, weights = photo(), weights_of(model.name, model.device.type)
    ks = [max(1, most * i // 8) for i in range(1, 9)]

    traces: list[Trace] = []

    def ours() -> None:
        traces[:] = [model.trace(image)]
        for count in reversed(ks):
            few = {} if share == 1 else {"budget": max(1, round(share * count))}
            several(traces[0], PROMPTS, k=count, **few)

    def smallest_and_largest() -> None:  # what a call takes grows as a straight line with k
        for count in (ks[0], ks[-1]):
            naive(model, image, PROMPTS[0], count)

    (mine,), (sample,) = alternate(1, ours, smallest_and_largest)
    gain = 32 * sample / mine
    slow = 64 + 8 * sum(ks)
    near = "" if share == 1 else f", {share:.0%} of the copies scored (`budget`)"
    passes = 1 + len(traces[0]._masked)
    if share == 1:  # dead channels share one
        passes = passes_of(model, [(prompt, most) for prompt in PROMPTS])
    return Row(f"8 prompts × 8 values of k up to {most}{near}", weights,
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
    weights = weights_of(model.name, model.device.type)
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
               weights_of(model.name, model.device.type), f"{mine:.1f} s",
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


def memory_row(name: str, device: str = "cpu") -> Row:
    """Peak memory of gScoreCAM at k = C against plain batches, each in its own process."""
    context = get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as processes:
        found = list(processes.map(peak, [name] * 2, ["gscorecam", "plain"], [device] * 2))
    value = found[0] / found[1]
    weights = weights_of(name, device)
    return Row("peak memory above the model, k = C", weights, f"{found[0]:.0f} MiB",
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
    image, exact, weights = photo(), load_model(name, device=device), weights_of(name, device)
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


def _call(how: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in how.items())
