"""Charts of tables: `ax=None` in, Axes out. Ours is filled; what others published is hollow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gscam_lib.figures import intervals


def ranking(
    table: pd.DataFrame,
    column: str = "hits",
    *,
    titles: Mapping[str, str] | None = None,
    highlight: str = "gscorecam",
    ax: Axes | None = None,
) -> Axes:
    """Methods from best to worst by a column of a table with its intervals.

    table: of `analyses.summary` or `analyses.benchmark`; titles: method name -> what is written.
    Raises ValueError for a column without intervals.
    """
    missing = [c for c in (column, f"{column} low", f"{column} high") if c not in table]
    if missing:
        raise ValueError(f"The table has no {', '.join(missing)}; it has {', '.join(table)}.")
    order = table[table[column].notna()].sort_values(column, ascending=False, kind="stable")
    names = [(titles or {}).get(method, method) for method in order["method"]]
    marked = (titles or {}).get(highlight, highlight)
    bounds = (order[column], order[f"{column} low"], order[f"{column} high"])
    ax = intervals(names, *bounds, highlight=marked, ax=ax)
    ax.set_xlabel(column.replace("_", " "))
    return ax


def by_group(
    table: pd.DataFrame,
    column: str = "mean IoU",
    *,
    methods: Sequence[str] | None = None,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A column over the groups of a table, a line for each method; published values hollow.

    table: of `analyses.by_classes`, `by_size`, `by_k` or `by_form`; methods: which, in this order;
    titles: method name -> what the legend says. Published lines carry "[D]" or another tag.
    """
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    chosen = list(dict.fromkeys(table["method"])) if methods is None else list(methods)
    groups = list(dict.fromkeys(table["group"]))
    for i, method in enumerate(chosen):
        mine = table[(table["method"] == method) & table[column].notna()]
        for origin, part in mine.groupby("origin", sort=False):
            name, color = (titles or {}).get(method, method), f"C{i % 8}"
            x = [groups.index(g) for g in part["group"]]
            if str(origin).startswith("ours"):
                shift = [p + 0.03 * (i - (len(chosen) - 1) / 2) for p in x]
                low, high = (
                    part[column] - part[f"{column} low"],
                    part[f"{column} high"] - part[column],
                )
                ax.errorbar(
                    shift, part[column], [low, high], color=color, marker="o", capsize=3, label=name
                )
            else:
                label = f"{name}, published {str(origin)[-3:]}"
                ax.plot(x, part[column], "o:", color=color, mfc="white", lw=1.2, label=label)
    names = [str(g) for g in groups]
    turned = 20 if max(map(len, names), default=0) > 8 else 0  # so that they stay apart
    ax.set_xticks(range(len(names)), names, rotation=turned, ha="right" if turned else "center")
    ax.set_ylabel(column)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the lines, never on them
    return ax


def curve(
    scores: Sequence[float] | np.ndarray[Any, Any], *, label: str = "", ax: Axes | None = None
) -> Axes:
    """An insertion or deletion curve over the share of pixels changed, its area shaded."""
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    x = np.linspace(0, 1, len(scores))
    (line,) = ax.plot(x, scores, label=label or None)
    ax.fill_between(x, scores, min(0.0, float(np.min(scores))), color=line.get_color(), alpha=0.12)
    ax.set_xlabel("share of pixels changed, hottest first")
    ax.set_ylabel("score")
    if label:
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
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    table = pd.DataFrame([vars(f) for f in found])
    stages = list(dict.fromkeys(table["stage"]))
    means = table.groupby(["method", "stage"], sort=False)[column].mean()
    for method in dict.fromkeys(table["method"]):
        values = [1.0, *(means[method, stage] for stage in stages)]
        ax.plot(values, "o-", label=(titles or {}).get(method, method))
    ax.set_xticks(range(len(stages) + 1), ["trained", *stages], rotation=35, ha="right")
    ax.axhline(0, color="#AAAAAA", lw=0.8, zorder=0)
    ax.set_ylabel(column.replace("_", " "))
    ax.set_xlabel("weights randomized from the top down to")
    ax.legend()
    return ax
