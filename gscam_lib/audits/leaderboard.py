"""The table and the figure of PLANTED-10: what the lab finds, and what it wrongly says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from gscam_lib.audits.truth import NAMED
from gscam_lib.figures import charts, save, style
from gscam_lib.methods import title
from gscam_lib.scenes.shortcuts import KINDS, LOCAL

TABLE, FIGURE = "table_biases.md", "biases"
ABOUT = """# Does the bias lab find what was planted? (PLANTED-10)

Made by `gscam benchmark --dataset biases` on drawn scenes; card: data/scenes/PLANTED-10.md. A
shortcut is planted in a prompt's *vector*, not by training: see the card. "Named": the reader names
ten cues, as groups and regions, and the lab says which one speaks for the prompt. "Crops of …":
nobody names anything, and crops that recur where that method's maps are hottest are tested. Found:
share of worlds in which the planted cue is; false: share of worlds in which anything else is said,
both with 95 % intervals (Wilson) over worlds. Each world's suspects are corrected together (Holm).
"""


def write(rows: pd.DataFrame, folder: Path | str) -> Path:
    """Write the table and the figure of `truth.benchmark`'s rows; returns the table's path."""
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    (path / TABLE).write_text(markdown(rows), encoding="utf-8")
    with style():
        figure, caption = draw(rows)
        save(figure, FIGURE, caption, folder=path)
        plt.close(figure)
    return path / TABLE


def markdown(rows: pd.DataFrame) -> str:
    """The leaderboard as Markdown."""
    planted = rows[~rows["trained"] & (rows["kind"] != "")]
    unplanted, trained = rows[rows["kind"] == ""], rows[rows["trained"]]
    least = trained.groupby("model")["pull"].median()
    today = planted[planted["pull"] >= planted["model"].map(least).fillna(0)]
    least_text = ", ".join(f"{value:.1f} for {model}" for model, value in least.items())
    pulls = planted.groupby(["model", "kind", "strength"], sort=False)["pull"].mean().unstack()
    learned = trained.drop_duplicates(["model", "kind"])[["model", "kind", "name", "pull"]]
    parts = [
        ABOUT,
        "## All kinds, by strength\n\nStrength: what was to be added to the name's score, in units "
        "of the logit; what was reached stands at the end, and is less for some kinds.",
        _table(planted, "strength"),
        "## No shortcut: false alarms",
        _table(unplanted, None),
        "## As strong as what the models learned themselves\n\nPlanted worlds in which the cue "
        f"adds at least the median of the model's own four ({least_text}).",
        _table(today, None, all_kinds=True),
        "## The same, by kind",
        _table(today, "kind"),
        "## Learned in training, by the models themselves",
        _table(trained, "kind"),
        "## What the cue adds on the audited scenes without the thing\n\nPlanted, by strength "
        "asked for; then learned.",
        pulls.round(2).reset_index().to_markdown(index=False),
        learned.round(2).to_markdown(index=False),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: pd.DataFrame, by: str | None, *, all_kinds: bool = False) -> str:
    """Ways down, groups across: found, and false alarms, with intervals."""
    lines = []
    for (model, way), part in rows.groupby(["model", "way"], sort=False):
        line: dict[str, Any] = {"model": model, "way": way_title(str(way))}
        groups = [("", part)] if by is None else list(part.groupby(by, sort=False))
        for key, some in groups:
            name = f"{key:g}" if isinstance(key, float) else str(key)
            if by is not None or all_kinds:
                line[f"found {name}".strip()] = _share(some["right"])
        line["false alarms"] = _share(part["wrong"] > 0)
        lines.append({**line, "worlds": len(part)})
    return str(pd.DataFrame(lines).fillna("–").to_markdown(index=False, disable_numparse=True))


def _share(values: pd.Series) -> str:
    low, high = proportion_confint(int(values.sum()), len(values), method="wilson")
    return f"{100 * values.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def way_title(way: str) -> str:
    """How tables write a way."""
    return way if way == NAMED else f"crops of {title(way)}"


def draw(rows: pd.DataFrame) -> tuple[Any, str]:
    """Detection by strength, for cues with a place and of the whole scene: figure, caption."""
    planted = rows[~rows["trained"] & (rows["kind"] != "")]
    models = list(dict.fromkeys(planted["model"]))
    figure, axes = plt.subplots(
        len(models), 2, figsize=(10.4, 3.5 * len(models)), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for row, model in zip(axes, models, strict=True):
        for ax, (name, kinds) in zip(row, _kinds(), strict=True):
            mine = planted[(planted["model"] == model) & planted["kind"].isin(kinds)]
            charts.curves(_curve(mine), "strength", "found", by="line", ax=ax)
            ax.set(title=f"{model}: {name}", ylim=(-0.03, 1.03), ylabel="share of worlds found",
                   xlabel="what the cue was to add to the score (logit)")  # fmt: skip
            ax.legend(fontsize=8)
    count = len(planted) // planted["way"].nunique()
    return figure, (
        "PLANTED-10: share of worlds in which the lab finds the planted cue, by its strength, with "
        f"95 % intervals over worlds ({count} planted worlds): cues named by the reader, and cues "
        f"that crops of each method's hottest windows suggest. Weights: {', '.join(models)}. "
        "Planted in the prompt's vector."
    )


def _kinds() -> Sequence[tuple[str, Sequence[str]]]:
    whole = [kind for kind in KINDS if kind not in LOCAL]
    return (("cues with a place", LOCAL), ("cues of the whole scene", whole))


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    found = []
    for (way, strength), part in rows.groupby(["way", "strength"], sort=False):
        low, high = proportion_confint(int(part["right"].sum()), len(part), method="wilson")
        found.append({"line": way_title(str(way)), "strength": strength,
                      "found": float(np.mean(part["right"])), "found low": low,
                      "found high": high})  # fmt: skip
    return pd.DataFrame(found)
