"""Photos and the maps on them: what seaborn has no word for. `ax=None` in, Axes out."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from gscam_lib.boxes import Box, Heatmap
from gscam_lib.figures.letters import readable
from gscam_lib.figures.looks import GREY, look

Array = np.ndarray[Any, Any]
BOX_COLOR, TRUTH_COLOR = "#5CF2FF", "#FFFFFF"  # seen on inferno; white, and dashed, for the truth
OPACITY = 0.75
COLORS = "inferno"  # even steps of heat are even steps to the eye, colour-blind ones too
ROWS = 256  # of a photo that are mixed at a time
SCREEN = 1600  # pixels of the longer side that are drawn: 300 dpi on five inches


def overlay(photo: Array, values: Array, *, opacity: float = OPACITY) -> Array:
    """Lay a (H, W) heatmap in [0, 1] over a (H, W, 3) uint8 photo: (H, W, 3) uint8.

    The photo keeps its own colours where the heat is 0; the hotter, the more the map's colour
    covers it: by `opacity` at heat 1, and by v² (3 − 2v) of that at heat v, so that what is cold
    stays clear. Raises ValueError where the sizes differ.
    """
    _check_sizes(photo, values)
    colors = 255 * mpl.colormaps[COLORS](np.arange(256))[:, :3].astype(np.float32)
    mixed = np.empty_like(photo)
    for i in range(0, len(photo), ROWS):  # large photos would take gigabytes in one piece
        v, part = values[i : i + ROWS, :, None].astype(np.float32), photo[i : i + ROWS]
        color = colors[np.minimum((v[..., 0] * 256).astype(np.int16), 255)]
        alpha = opacity * v * v * (3 - 2 * v)
        mixed[i : i + ROWS] = np.rint(part + alpha * (color - part))
    return mixed


def _check_sizes(photo: Array, values: Array) -> None:
    if values.shape != photo.shape[:2]:
        raise ValueError(f"Got a heatmap of {values.shape} on a photo of {photo.shape[:2]} pixels.")


def _reduced(array: Array) -> Array:
    """A photo or a map at the size in which it is seen; each pixel is the mean of those it covers.

    Drawing 100 megapixels takes matplotlib 16 GB.
    """
    scale = SCREEN / max(array.shape[:2])
    if scale >= 1:
        return array
    size = [max(1, round(scale * n)) for n in array.shape[1::-1]]
    small = Image.fromarray(array).resize((size[0], size[1]), Image.Resampling.BOX)
    return np.asarray(small)


def _show(picture: Array, size: Sequence[int], ax: Axes | None, **options: Any) -> Axes:
    """Draw a reduced picture in the pixels of the photo of (height, width) that it stands for."""
    ax = plt.subplots()[1] if ax is None else ax
    ax.imshow(picture, extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5), **options)
    ax.set_axis_off()
    return ax


def show_photo(photo: Array | Image.Image, *, ax: Axes | None = None) -> Axes:
    """Show a photo without ticks; the axes count its own pixels, however small it is drawn."""
    whole = np.asarray(photo)
    return _show(_reduced(whole), whole.shape[:2], ax)


def show_heatmap(
    photo: Array,
    heat: Heatmap,
    *,
    box: Box | None = None,
    truth: Iterable[Sequence[float]] = (),
    beside: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Show a heatmap over its photo, titled with prompt and logit; boxes as `draw_box` has them.

    beside: the map alone, to stand beside the photo. Raises ValueError where the sizes differ.
    """
    _check_sizes(photo, heat.values)
    values = _reduced(heat.values.astype(np.float32, copy=False)).clip(0, 1)
    if beside:
        ax = _show(values, heat.values.shape, ax, cmap=COLORS, vmin=0, vmax=1)
    else:
        ax = _show(overlay(_reduced(photo), values), heat.values.shape, ax)
    if box is not None:
        draw_box(box, ax=ax)
    for true in truth:
        draw_box(true, truth=True, ax=ax)
    ax.set_title(f"{_wrapped(f'“{heat.prompt}”')}\n{_score(heat)}", parse_math=False)
    return ax


def draw_box(box: Sequence[float], *, truth: bool = False, ax: Axes) -> Axes:
    """Draw a half-open (x0, y0, x1, y1) box along the outer edges of its pixels.

    A box is a cyan line, a true one thinner, white and dashed: to be told apart in grey print too.
    Both have a dark rim, which is seen on any photo; lines are thinner on small pictures.
    """
    x0, y0, x1, y1 = box
    inches = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    scale = float(np.clip(min(inches.width, inches.height) / 2.5, 0.5, 1))
    width, rim, color = (1.3, 1.1, TRUTH_COLOR) if truth else (2.1, 1.5, BOX_COLOR)
    for wide, shade, dashes in (
        (width + rim, "#000000", "-"),
        (width, color, (0, (4, 2.5)) if truth else "-"),
    ):
        patch = Rectangle(
            (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0,
            fill=False, ec=shade, lw=scale * wide, ls=dashes, joinstyle="miter",
        )  # fmt: skip
        ax.add_patch(patch).set_clip_on(False)  # boxes at the photo's edge are seen whole
    return ax


def _score(heat: Heatmap) -> str:
    flat = ", flat map" if heat.flat else ""
    return f"logit {heat.logit:.1f}{flat}".replace("-", "−")


def _wrapped(text: str, width: int = 34) -> str:
    """Lines of as many letters; of half as many in scripts whose letters are twice as wide."""
    wide = any(unicodedata.east_asian_width(c) in "WF" for c in text)
    return textwrap.fill(text, width // 2 if wide else width)


def color_bar(figure: Figure, axes: Any, beside: bool = False) -> None:
    """What the colours mean, once for all maps of a figure: as on white paper, where overlaid."""
    shades = mpl.colormaps[COLORS](np.linspace(0, 1, 256))
    if not beside:
        white = np.full((1, 256, 3), 255, np.uint8)
        shades = overlay(white, np.linspace(0, 1, 256)[None])[0] / 255
    height = figure.get_figheight()
    shrink = min(0.9, 3 / height)  # at most three inches long, and always as wide
    bar = figure.colorbar(
        ScalarMappable(cmap=ListedColormap(shades)), ax=axes, shrink=shrink, pad=0.01,
        fraction=0.03, aspect=shrink * height / 0.13,
    )  # fmt: skip
    bar.set_ticks([0, 1], labels=["coldest\nof each", "hottest\nof each"])
    bar.outline.set_edgecolor("#AAAAAA")
    bar.ax.tick_params(length=0)


def describe(heats: Sequence[Heatmap]) -> str:
    """One line for captions: methods, channels where they are of one number, weights."""
    ks: dict[tuple[str, str], dict[int, None]] = {}
    for heat in heats:
        ks.setdefault((heat.title, heat.model), {}).update({heat.k: None} if heat.k else {})
    parts = []
    for (title, model), used in ks.items():
        channels = f", k = {next(iter(used))}" if len(used) == 1 else ""
        parts.append(f"{title}{channels} · weights: {model}")
    return "   |   ".join(parts)


def panels(
    photo: Array,
    heats: Sequence[Heatmap],
    boxes: Sequence[Box | None] | None = None,
    *,
    titles: Sequence[str] | None = None,
    beside: bool = False,
) -> Figure:
    """The photo and its heatmaps side by side, with a line below that names methods and weights.

    titles: above the heatmaps instead of their prompts; the logit is always there, and k where the
    maps differ in it. beside: maps alone, not laid over the photo.
    """
    height, width = photo.shape[:2]
    columns, side = len(heats) + 1, 3.2
    figure, axes = plt.subplots(
        1,
        columns,
        figsize=(side * columns + 0.6, side * min(2.0, height / width) + 0.75),
        layout="constrained",
    )
    show_photo(photo, ax=axes[0]).set_title("photo")
    several = len({heat.k for heat in heats}) > 1
    for i, (ax, heat) in enumerate(zip(axes[1:], heats, strict=True)):
        show_heatmap(photo, heat, box=boxes[i] if boxes else None, beside=beside, ax=ax)
        head = titles[i] if titles else f"“{heat.prompt}”"
        k = f", k = {heat.k}" if several and heat.k and f"k = {heat.k}" not in head else ""
        ax.set_title(f"{_wrapped(head)}\n{_score(heat)}{k}", parse_math=False)
    color_bar(figure, axes, beside)
    figure.supxlabel(describe(heats), fontsize=8.5, color="#555555", x=0.01, ha="left")
    return readable(figure)


def _logits(heats: Sequence[Heatmap]) -> tuple[str, list[str]]:
    """The logit that most maps share, for below the photo; below a map, one of its own, and flat.

    Where maps of one prompt differ in it, they are of different models.
    """
    flat = ["flat map" if heat.flat else "" for heat in heats]
    texts = [f"logit {heat.logit:.1f}".replace("-", "−") for heat in heats]
    common = max(texts, key=texts.count)
    own = ["" if text == common else text for text in texts]
    return common, [", ".join(filter(None, pair)) for pair in zip(own, flat, strict=True)]


def _below(ax: Axes, *lines: str, **options: Any) -> None:
    """Write below a picture, where the layout counts it."""
    words = "\n".join(filter(None, lines))
    ax.text(0, -0.04, words, transform=ax.transAxes, va="top", parse_math=False, **options)


def grid(
    rows: Sequence[tuple[Array, Sequence[Heatmap]]],
    boxes: Sequence[Sequence[Box | None]],
    truths: Sequence[Sequence[Sequence[float]]],
    *,
    titles: Sequence[str],
    ious: Sequence[Sequence[float]],
    side: float = 1.75,
    beside: bool = False,
) -> Figure:
    """Scenes × methods: each photo with its true boxes, then a heatmap for each method.

    rows: (photo, heatmaps) of each scene; boxes: one for each heatmap, None where there is none;
    truths: the true boxes of each scene; titles: above the columns; ious: below each heatmap, bold
    from 0.5 on; beside: maps alone, not laid over the photo. The logit is below the photo, and
    below maps that have another.
    """
    height, width = rows[0][0].shape[:2]
    columns = len(rows[0][1]) + 1
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(side * columns + 0.5, (side * height / width + 0.36) * len(rows) + 0.2),
        layout="constrained",
        squeeze=False,
    )
    for i, (photo, heats) in enumerate(rows):
        show_photo(photo, ax=axes[i, 0])
        for true in truths[i]:
            draw_box(true, truth=True, ax=axes[i, 0])
        common, notes = _logits(heats)
        _below(axes[i, 0], _wrapped(heats[0].prompt, int(13 * side)), common)
        for j, (ax, heat) in enumerate(zip(axes[i, 1:], heats, strict=True)):
            show_heatmap(photo, heat, box=boxes[i][j], truth=truths[i], beside=beside, ax=ax)
            ax.set_title("")
            weight = "bold" if ious[i][j] >= 0.5 else "normal"
            _below(ax, f"IoU {ious[i][j]:.2f}", weight=weight)
            _below(ax, f"\n{notes[j]}")
    for ax, title in zip(axes[0], ["scene", *titles], strict=True):
        ax.set_title(title, parse_math=False)
    color_bar(figure, axes, beside)
    return readable(figure)


def gallery(
    scenes: Sequence[tuple[Array, Sequence[Heatmap]]],
    truths: Sequence[Sequence[Sequence[float]]],
    boxes: Sequence[Sequence[Box | None]],
    *,
    notes: Sequence[Sequence[str]] | None = None,
    columns: int = 7,
    side: float = 1.5,
    beside: bool = False,
) -> Figure:
    """Many methods on a few photos: rows of maps, wrapped, each titled with its method.

    scenes: (photo, heatmaps); truths: the true boxes of each; boxes: one for each heatmap, None
    where there is none; notes: below each heatmap; beside: maps alone, not laid over the photo.
    Controls have grey titles. The logit is below the photo, and below maps that have another.
    """
    lines = [-(-(len(heats) + 1) // columns) for _, heats in scenes]
    ratios = [
        photo.shape[0] / photo.shape[1] for (photo, _), n in zip(scenes, lines, strict=True)
        for _ in range(n)
    ]  # fmt: skip
    apart = any(any(_logits(heats)[1]) for _, heats in scenes)
    head = 0.27 + 0.16 * (1 + (apart and notes is not None))  # text above and below each map
    heights = [side * ratio + head for ratio in ratios]
    figure, axes = plt.subplots(
        sum(lines), columns, figsize=(side * columns + 0.5, sum(heights)), layout="constrained",
        squeeze=False, gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_axis_off()
    size = min(9.5, 6.6 * side)  # so that titles of neighbours stay apart
    for i, (photo, heats) in enumerate(scenes):
        first, *rest = axes[sum(lines[:i]) : sum(lines[: i + 1])].flat
        common, below = _logits(heats)
        asked = _wrapped(f"“{heats[0].prompt}”", int(14 * side))
        show_photo(photo, ax=first).set_title(asked, fontsize=size, weight="bold", parse_math=False)
        _below(first, common, fontsize=8.5)
        for true in truths[i]:
            draw_box(true, truth=True, ax=first)
        for j, (ax, heat) in enumerate(zip(rest, heats, strict=False)):
            show_heatmap(photo, heat, box=boxes[i][j], truth=truths[i], beside=beside, ax=ax)
            grey = look(heat.method).color == GREY
            ax.set_title(heat.title, fontsize=size, color="#777777" if grey else "#222222")
            _below(ax, notes[i][j] if notes else "", below[j], fontsize=8.5)
    color_bar(figure, axes, beside)
    return readable(figure)
