"""Charts of tables, by seaborn: `ax=None` in, Axes out. What is shown comes computed.

Intervals are those of the tables, drawn again over whole images; seaborn's own would draw single
rows, which is why none of its bootstraps is used. A method has its one colour and marker in every
chart (`looks.look`); controls are grey and dashed; what others published is hollow. Fewer than
five images make no interval: their single values are shown, where they are given, and an open mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from gscam_lib.figures.decision import ENOUGH
from gscam_lib.figures.looks import GREY, HUES, MARKERS, OURS, REFERENCE, Look, look

Values: TypeAlias = Sequence[float] | np.ndarray[Any, Any] | pd.Series
ENDS = ("", " low", " high")

# ---------------------------------------------------------------- what is computed, for seaborn


def _stacked(table: pd.DataFrame, column: str, keys: Sequence[str]) -> pd.DataFrame:
    """A column below its two bounds, as `_COMPUTED` reads them; without bounds where it has none.

    Bounds of fewer than five images (column "images") are left out. keys: columns that tell a point
    from the others; raises ValueError where they do not, since one of the two would be lost.
    """
    table = table[table[column].notna()].copy()
    twice = table[table.duplicated(list(keys))]
    if len(twice):
        point = ", ".join(f"{key} {twice.iloc[0][key]}" for key in keys)
        raise ValueError(f"Got {column} twice for {point}; expected one row for each point.")
    few = table.get("images", pd.Series(ENOUGH, table.index)) < ENOUGH
    for end in ENDS[1:]:
        bound = table.get(column + end, pd.Series(np.nan, table.index))
        table[column + end] = bound.astype(float).mask(few)
    parts = [table.assign(value=table[column + end]) for end in ENDS]
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"])


def _bounds(values: Any) -> tuple[float, float]:
    return (values.iloc[1], values.iloc[2]) if len(values) == 3 else (np.nan, np.nan)


_COMPUTED: dict[str, Any] = {"estimator": lambda values: values.iloc[0], "errorbar": _bounds}
"""Takes seaborn's statistics out of its way: of the three values of `_stacked`, which is which."""


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _looks(names: Iterable[str], titles: Mapping[str, str] | None = None) -> dict[str, Look]:
    """The look of each line: a method's own; others differ in colour and marker as they come."""
    looks, others = {}, 0
    for name in names:
        found = look(name)
        if found == look(""):  # no method
            found = Look(HUES[others % len(HUES)], MARKERS[others % len(MARKERS)])
            others += 1
        looks[(titles or {}).get(name, name)] = found
    return looks


def reference(value: float, *, axis: str = "x", label: str = "", ax: Axes) -> Axes:
    """A line to compare with, such as 0 or chance, in a colour that no method has."""
    draw = ax.axvline if axis == "x" else ax.axhline
    draw(value, color=REFERENCE, ls=(0, (2, 2)), lw=1, zorder=0.5, label=label or None)
    return ax


# ---------------------------------------------------------------- charts


def intervals(
    labels: Sequence[str],
    means: Values,
    lows: Values,
    highs: Values,
    *,
    points: Sequence[Values] | None = None,
    images: int | Sequence[int] | None = None,
    highlight: str = "",
    grey: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Means with their intervals as points on lines, the first label on top.

    labels, means, lows, highs: one of each for a row; points: single values of each row (of images
    or pairs), drawn behind; images: how many each row is of, by default as many as it has points:
    below five no interval is drawn, and the mean is an open point. highlight, grey: labels, where
    they are no methods, in the colour of gScoreCAM or of controls.
    """
    ax = _axes(ax)
    if images is None:
        images = ENOUGH if points is None else [len(row) for row in points]
    table = pd.DataFrame({"row": range(len(labels)), "mean": np.asarray(means, float),
                          "mean low": np.asarray(lows, float),
                          "mean high": np.asarray(highs, float), "images": images})  # fmt: skip
    colors = {row: GREY if name in grey else OURS if name == highlight else look(name).color
              for row, name in enumerate(labels)}  # fmt: skip
    if points is not None:
        singles = pd.DataFrame([(i, v) for i, row in enumerate(points) for v in row],
                               columns=["row", "value"])  # fmt: skip
        spread = np.random.default_rng(0).uniform(-0.17, 0.17, len(singles))  # always the same
        sns.scatterplot(singles, x="value", y=singles["row"] + spread, hue="row", palette=colors,
                        s=18, alpha=0.35, legend=False, linewidth=0, zorder=1, ax=ax)  # fmt: skip
    sns.pointplot(
        _stacked(table, "mean", ["row"]), x="value", y="row", hue="row", palette=colors, orient="h",
        order=list(colors), hue_order=list(colors),  # rows without a mean keep their place
        linestyle="none", markersize=6.5, markeredgewidth=0, legend=False, ax=ax, **_COMPUTED,
        err_kws={"linewidth": 2.6, "alpha": 0.55, "solid_capstyle": "round"},
    )  # fmt: skip
    for row, color in colors.items():
        if table["images"][row] < ENOUGH:
            ax.plot(table["mean"][row], row, "o", ms=6, mfc="white", mec=color, mew=1.4, zorder=5)
    ax.set_yticks(range(len(labels)), labels, parse_math=False)
    for name, label in zip(labels, ax.get_yticklabels(), strict=False):  # inner ones show none
        label.set_fontweight("bold" if name == highlight or look(name).color == OURS else "normal")
    ax.set(xlabel="", ylabel="", ylim=(len(labels) - 0.5, -0.5))
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.tick_params(axis="y", length=0)
    sns.despine(ax=ax, left=True)
    return ax


def ranking(
    table: pd.DataFrame,
    column: str = "hits",
    *,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Methods from best to worst by a column of a table with its intervals.

    table: as reports of evaluations have it; titles: method name -> what is written. Methods of
    fewer than five images have no interval and an open point. Raises ValueError for a column
    without intervals.
    """
    missing = [c for c in (column + end for end in ENDS) if c not in table]
    if missing:
        raise ValueError(f"The table has no {', '.join(missing)}; it has {', '.join(table)}.")
    order = table[table[column].notna()].sort_values(column, ascending=False, kind="stable")
    names = [(titles or {}).get(method, method) for method in order["method"]]
    of = list(order["images"]) if "images" in order else None
    ax = intervals(names, *(order[column + end] for end in ENDS), images=of, ax=ax)
    ax.set_xlabel(column.replace("_", " "))
    return ax


def by_group(
    table: pd.DataFrame,
    column: str = "mean IoU",
    *,
    methods: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    points: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A column over the groups of a table, a line for each method; published values hollow.

    table: method, group, the column with low and high, and, where known, images and origin; as
    reports by classes, size, k or form have it; methods: which, in this order; titles: method name
    -> what the legend says; points: single values of images (method, group, the column), drawn
    where there are too few for an interval. Published lines carry "[D]" or another tag.
    """
    ax = _axes(ax)
    chosen = list(dict.fromkeys(table["method"])) if methods is None else list(methods)
    table = table[table["method"].isin(chosen) & table[column].notna()]
    groups = list(dict.fromkeys(table["group"]))
    groups = sorted(groups) if pd.api.types.is_numeric_dtype(table["group"]) else groups
    ours = table.get("origin", pd.Series("ours", table.index)).str.startswith("ours")
    named = table.assign(line=[(titles or {}).get(m, m) for m in table["method"]])
    looks = _looks(chosen, titles)
    lines = [name for name in looks if name in set(named[ours]["line"])]
    dodge = min(0.5, 0.07 * (len(lines) - 1))
    sns.pointplot(
        _stacked(named[ours], column, ["line", "group"]), x="group", y="value", hue="line",
        order=groups, hue_order=lines, palette=[looks[n].color for n in lines], linewidth=1.2,
        markersize=6,
        markers=[looks[n].marker for n in lines], linestyles=[looks[n].line for n in lines],
        dodge=dodge, err_kws={"linewidth": 2.2, "alpha": 0.5},
        markeredgewidth=0, ax=ax, **_COMPUTED,
    )  # fmt: skip
    if points is not None and "images" in table:
        few = named[ours & (table["images"] < ENOUGH)][["method", "group", "line"]]
        singles = points[["method", "group", column]].merge(few, on=["method", "group"])
        shift = dict(zip(lines, np.linspace(-dodge / 2, dodge / 2, len(lines)), strict=True))
        x = singles["group"].map(groups.index) + singles["line"].map(shift)
        if len(singles):  # seaborn warns of colours that nothing has
            sns.scatterplot(x=x, y=singles[column], hue=singles["line"], hue_order=lines, ax=ax,
                            palette={n: looks[n].color for n in lines}, alpha=0.4, linewidth=0,
                            s=16, legend=False, zorder=1)  # fmt: skip
    for (name, origin), part in named[~ours].groupby(["line", "origin"], sort=False):
        x = [groups.index(g) for g in part["group"]]
        ax.plot(x, part[column], ls=":", marker=looks[name].marker, color=looks[name].color,
                mfc="white", lw=1.2, label=f"{name}, published {str(origin)[-3:]}")  # fmt: skip
    names = [str(g) for g in groups]
    turned = 20 if max(map(len, names), default=0) > 8 else 0  # so that they stay apart
    ax.set_xticks(range(len(names)), names, rotation=turned, ha="right" if turned else "center",
                  parse_math=False)  # fmt: skip
    ax.set(xlabel="", ylabel=column)
    ax.grid(axis="y", color="#DDDDDD", lw=0.8)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the lines, never on them
    return ax


def curves(
    table: pd.DataFrame,
    x: str,
    column: str,
    *,
    by: str | None = None,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A column against a number, with the bands of its intervals: one line, or one for each `by`.

    table: x, the column, and, where there are intervals, the column's low and high; by: a column,
    such as "method"; titles: its values -> what the legend says. A single line is gScoreCAM's.
    """
    ax = _axes(ax)
    names = list(dict.fromkeys(table[by])) if by else ["gscorecam"]
    named = table.assign(line=table[by].map(lambda n: (titles or {}).get(n, n)) if by else names[0])
    looks = _looks(names, titles if by else None)
    few = named.groupby("line")[x].nunique().max() <= 15  # markers on more would be a caterpillar
    for name, (color, marker, line) in looks.items():
        sns.lineplot(
            _stacked(named[named["line"] == name].sort_values(x), column, ["line", x]), x=x,
            y="value", color=color, sort=False,  # which would sort each point's three values, too
            linestyle=line, marker=marker if few else None, markersize=5.5, markeredgewidth=0,
            err_style="band", err_kws={"alpha": 0.18, "linewidth": 0}, label=name if by else None,
            ax=ax, legend=False, **_COMPUTED,
        )  # fmt: skip
    ax.set(xlabel=x, ylabel=column)
    ax.grid(axis="y", color="#DDDDDD", lw=0.8)
    if by:
        ax.legend()
    return ax


def randomization(
    found: Iterable[Any],
    column: str = "rank_correlation",
    *,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How alike maps stay, stage by stage, a line for each method: mean over images.

    found: of `faithfulness.randomization_check`; column: "rank_correlation" or "ssim".
    """
    table = pd.DataFrame([vars(f) for f in found])
    stages = ["trained", *dict.fromkeys(table["stage"])]
    means = table.groupby(["method", "stage"], sort=False)[column].mean().reset_index()
    before = pd.DataFrame({"method": list(dict.fromkeys(table["method"])), "stage": "trained",
                           column: 1.0})  # fmt: skip
    means = pd.concat([before, means])
    means["at"] = [stages.index(stage) for stage in means["stage"]]
    ax = reference(0, axis="y", ax=curves(means, "at", column, by="method", titles=titles, ax=ax))
    ax.set_xticks(range(len(stages)), stages, rotation=35, ha="right")
    ax.set(ylabel=column.replace("_", " "), xlabel="weights randomized from the top down to")
    return ax


def confusion(table: pd.DataFrame, *, form: str = ".2f", ax: Axes | None = None) -> Axes:
    """A table of numbers as colours, each with its number: rows asked, columns found.

    table: its index and columns are written; form: of the numbers.
    """
    ax = _axes(ax)
    numbers = table.map(lambda value: f"{value:{form}}".replace("-", "−"))
    sns.heatmap(table, annot=numbers, fmt="", cmap="Blues", vmin=min(0, table.min(axis=None)),
                linewidths=1.5, linecolor="white", cbar_kws={"shrink": 0.8}, ax=ax,
                annot_kws={"fontsize": 13, "weight": "bold"})  # fmt: skip
    ax.set_xticks(ax.get_xticks(), table.columns, rotation=0, parse_math=False)
    ax.set_yticks(ax.get_yticks(), table.index, rotation=0, parse_math=False)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")
    return ax


def shares(
    found: Mapping[str, float], *, colors: Mapping[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    """Probabilities of names as bars, each with its percentage; the axis always runs to 100 %.

    colors: of the names that the reader should look at; the others are grey.
    """
    ax = _axes(ax)
    names = list(found)
    palette = [(colors or {}).get(name, "#B5B5B5") for name in names]
    sns.barplot(x=list(found.values()), y=names, hue=names, palette=palette, orient="h",
                errorbar=None, legend=False, saturation=1, ax=ax)  # fmt: skip
    for bars, value in zip(ax.containers, found.values(), strict=True):
        ax.bar_label(bars, [f"{100 * value:.1f} %"], padding=3)  # type: ignore[arg-type]
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set(xlim=(0, 1.45), xticks=[], xlabel="", ylabel="")
    ax.tick_params(axis="y", length=0)
    sns.despine(ax=ax, bottom=True)
    return ax
