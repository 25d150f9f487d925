"""How cost grows with k, channels, prompts and pixels, and what the paper's benchmark costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from gscam_lib.heatmaps import heatmap, several
from gscam_lib.model.network import paper_k
from gscam_lib.trace.model import Model, load_model
from tests.bench.timing import PROMPTS, alternate, photo

COCO_PHOTOS = 4952  # in val2017, with objects
COCO_PAIRS = round(3.5 * COCO_PHOTOS)  # 3.5 categories in a photo: Lin et al., ECCV 2014


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
