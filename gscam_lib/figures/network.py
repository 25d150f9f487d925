"""A picture of a CLIP: its two towers, where the channels sit, what gScoreCAM does with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon

from gscam_lib.figures.letters import readable
from gscam_lib.figures.looks import INK, OURS
from gscam_lib.figures.maps import show_photo

Array = np.ndarray[Any, Any]
WIDE, HIGH = 12.0, 5.5  # inches of the figure, which are its coordinates
IMAGE, TEXT = 3.35, 0.75  # heights of the middle of the two towers


def towers(
    photo: Array,
    channels: Array,
    prompt: str,
    logit: float,
    *,
    embeddings: Sequence[Array],
    count: int,
    title: str = "",
) -> Figure:
    """How a photo and a prompt become a logit, with real ones; gScoreCAM's four steps in colour.

    channels: (n, h, w) some channels of the last layer, the first in front; embeddings: of photo
    and prompt, (D,) each; count: how many channels there are.
    """
    figure = plt.figure(figsize=(WIDE, HIGH))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(0, HIGH))
    ax.set_axis_off()
    show_photo(photo, ax=_inset(ax, 0.2, IMAGE - 0.75, 1.5, 1.5))
    _tower(ax, 2.3, IMAGE, (0.85, 0.45), "image tower")
    rows, columns = channels.shape[1:]
    for i in reversed(range(len(channels))):
        here = _inset(ax, 4.75 + 0.17 * i, IMAGE - 0.65 + 0.13 * i, 1.15, 1.15)
        here.imshow(channels[i], interpolation="nearest")
        here.set(xticks=[], yticks=[])
        here.spines[:].set(visible=True, color="white")
    _tower(ax, 2.3, TEXT, (0.3, 0.45), "text tower")
    ax.text(1.85, TEXT, f"“{prompt}”", ha="right", va="center", style="italic", parse_math=False)
    for middle, embedding, name in zip((IMAGE, TEXT), embeddings, ("photo", "prompt"), strict=True):
        strip = _inset(ax, 8.45, middle - 0.6, 0.22, 1.2)
        some = np.asarray(embedding, float)[:24, None]
        high = np.abs(some).max()
        strip.imshow(some, cmap="coolwarm", aspect="auto", vmin=-high, vmax=high,
                     interpolation="nearest")  # fmt: skip
        strip.set(xticks=[], yticks=[])
        strip.spines[:].set(visible=True, color=INK)
        ax.text(8.8, middle + 0.45 * (1 if name == "photo" else -1), f"embedding\nof the {name}",
                va="center", fontsize=9)  # fmt: skip
    for start, end in (((1.8, IMAGE), (2.2, IMAGE)), ((4.1, IMAGE), (4.65, IMAGE)),
                       ((6.75, IMAGE), (8.35, IMAGE)), ((1.95, TEXT), (2.2, TEXT)),
                       ((4.1, TEXT), (8.35, TEXT)), ((8.75, IMAGE), (10.05, 2.35)),
                       ((8.75, TEXT), (10.05, 1.8))):  # fmt: skip
        _arrow(ax, start, end)
    ax.text(7.5, IMAGE + 0.12, "pooled", ha="center", fontsize=9)
    ax.text(
        5.75, 4.72, f"{count:,} channels of {rows} × {columns} cells", ha="center", weight="bold"
    )
    ax.text(10.15, 2.07, f"cosine × scale =\nlogit {logit:.1f}".replace("-", "−"), va="center",
            weight="bold")  # fmt: skip
    _arrow(ax, (10.05, 2.07), (5.4, 2.6), OURS, "arc3,rad=-0.14")
    ax.text(7.2, 1.5, "1  the gradient tells which channels\nspeak for the prompt", color=OURS,
            ha="center", va="center", fontsize=9.5)  # fmt: skip
    _arrow(ax, (4.9, 2.6), (1.0, 2.5), OURS, "arc3,rad=-0.3")
    ax.text(3.0, 1.64, "2  each is a mask on the photo\n3  the masked photo gets a logit\n"
            "4  channels, weighted by it, are the map", color=OURS, ha="center", va="center",
            fontsize=9.5)  # fmt: skip
    ax.text(0.2, HIGH - 0.15, title, va="top", fontsize=12, weight="bold", parse_math=False)
    return readable(figure)


def _inset(ax: Axes, x: float, y: float, wide: float, high: float) -> Axes:
    return ax.inset_axes((x, y, wide, high), transform=ax.transData)


def _tower(ax: Axes, x: float, middle: float, halves: tuple[float, float], name: str) -> None:
    left, right = halves
    corners = [(x, middle - left), (x + 1.8, middle - right), (x + 1.8, middle + right),
               (x, middle + left)]  # fmt: skip
    ax.add_patch(Polygon(corners, fc="#E7ECF2", ec=INK, lw=1.2, joinstyle="round"))
    ax.text(x + 0.9, middle, name, ha="center", va="center", weight="bold")


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = INK,
    bend: str = "arc3",
) -> None:
    """An arrow; those of gScoreCAM go against the stream, and are dashed."""
    line = "-" if color == INK else (0, (4, 2))
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=bend, arrowstyle="-|>", color=color,
                                 lw=1.5, ls=line, mutation_scale=13))  # fmt: skip
