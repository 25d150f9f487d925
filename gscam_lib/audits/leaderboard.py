"""The table and the figure of PLANTED-10: what the lab finds, and what it wrongly says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter
from statsmodels.stats.proportion import proportion_confint

from gscam_lib.audits.evidence import needed
from gscam_lib.audits.truth import NAMED
from gscam_lib.figures import charts, save, style
from gscam_lib.figures.looks import look
from gscam_lib.methods import title
from gscam_lib.paths import expanded
from gscam_lib.scenes.shortcuts import KINDS, LOCAL

TABLE, FIGURE = "table_biases.md", "biases"
STEPS = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0)  # deviations: between them lie the points of the figure
DODGE = 0.12  # deviations: so far one way's points stand beside the next one's
TARGET = 0.95
ABOUT = """# Does the bias lab find what was planted? (PLANTED-10)

Made by `gscam benchmark --dataset biases` on drawn scenes; card: data/scenes/PLANTED-10.md. A
shortcut is planted in a prompt's *vector*, not by training: see the card. "Named": the reader names
ten cues, as groups and regions, and the lab says which one speaks for the prompt. "Crops of …":
nobody names anything, and crops that recur where that method's maps are hottest are tested. Found:
share of worlds in which the planted cue is; false: share of worlds in which anything else is said,
both with 95 % intervals (Wilson) over worlds. Each world's suspects are corrected together (Holm).
Borne out: in how many of the latter worlds all that is said also stands out on 1,600 other scenes:
it is true of the model, though nobody planted it.
"""


def write(rows: pd.DataFrame, folder: Path | str) -> Path:
    """Write the table and the figure of `truth.benchmark`'s rows; returns the table's path."""
    path = expanded(folder)
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
        "asked for, in units of the logit; what it adds to control words, mean and deviation; and "
        "what it must add to be told from them, where so many suspects are corrected together. "
        "Then learned.",
        _pulls(planted).round(2).to_markdown(index=False),
        learned.round(2).to_markdown(index=False),
    ]
    return "\n\n".join(parts) + "\n"


def _pulls(planted: pd.DataFrame) -> pd.DataFrame:
    """What cues were to add and what they did, beside what it takes to be found."""
    named = planted[planted["way"] == NAMED]
    by = named.groupby(["model", "kind"], sort=False)
    table = named.groupby(["model", "kind", "strength"], sort=False)["pull"].mean().unstack()
    about = by[["others", "spread"]].mean()
    takes = about["others"] + _takes(named) * about["spread"]
    return table.assign(others=about["others"], deviation=about["spread"], takes=takes,
                        most=by["pull"].max()).reset_index()  # fmt: skip


def _takes(named: pd.DataFrame) -> float:
    """Deviations above the control words that a named suspect must stand to be found."""
    return needed(round(named["asked"].mean()), round(named["controls"].mean()))


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
        wrong = part[part["wrong"] > 0]
        line["false alarms"] = _share(part["wrong"] > 0)
        line["borne out"] = f"{(wrong['real'] == wrong['wrong']).sum()} of {len(wrong)}"
        lines.append({**line, "worlds": len(part)})
    return str(pd.DataFrame(lines).fillna("–").to_markdown(index=False, disable_numparse=True))


def _share(values: pd.Series) -> str:
    low, high = proportion_confint(int(values.sum()), len(values), method="wilson")
    return f"{100 * values.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def way_title(way: str) -> str:
    """How tables write a way."""
    return way if way == NAMED else f"crops of {title(way)}"


def draw(rows: pd.DataFrame) -> tuple[Any, str]:
    """Detection by how far a cue's effect stands out, for cues with a place and of the scene.

    Left of each panel, hollow: unplanted worlds in which anything is found. Figure, caption.
    """
    ways, models = list(dict.fromkeys(rows["way"])), list(dict.fromkeys(rows["model"]))
    rows = rows.assign(
        above=(rows["pull"] - rows["others"]) / rows["spread"].where(lambda s: s > 0)
    )
    planted = rows[~rows["trained"] & (rows["kind"] != "")]
    takes = _takes(planted[planted["way"] == NAMED])
    figure, axes = plt.subplots(
        len(models), 2, figsize=(10.4, 3.1 * len(models) + 0.6), layout="constrained",
        sharey=True, sharex=True, squeeze=False,
    )  # fmt: skip
    for row, model in zip(axes, models, strict=True):
        for ax, (name, kinds) in zip(row, _kinds(), strict=True):
            for w, way in enumerate(ways):
                mine = rows[(rows["model"] == model) & (rows["way"] == way)]
                some = mine[~mine["trained"] & mine["kind"].isin(kinds)]
                shift = DODGE * (w - (len(ways) - 1) / 2)
                _line(ax, way, _curve(some), _said(mine[mine["kind"] == ""]), shift)
            charts.reference(takes, label="what named suspects take", ax=ax)
            ax.axhline(TARGET, color="#BBBBBB", lw=0.8, ls=":")
            ax.set_title(f"{model}: {name}")
            ax.set(ylim=(-0.03, 1.03), yticks=np.arange(0, 1.01, 0.25))
            ax.yaxis.set_major_formatter(PercentFormatter(1))
        row[0].set_ylabel("worlds found")
    for ax in axes[-1]:
        ax.set_xlabel("how far the cue's effect stands above other words' (deviations)")
    kept = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(kept.values(), kept.keys(), loc="outside lower center", ncols=4)
    count = len(planted) // planted["way"].nunique()
    return figure, (
        f"PLANTED-10: share of {count} planted worlds in which the lab finds the planted cue, by "
        "how far what the cue adds to the name's score stands above what it adds to other words, "
        "with 95 % intervals over worlds: cues named by the reader, and cues that crops of each "
        "method's hottest windows suggest. Hollow: unplanted worlds in which anything is found. "
        f"Weights: {', '.join(models)}. Planted in the prompt's vector."
    )


def _line(ax: Any, way: str, curve: pd.DataFrame, none: pd.DataFrame, shift: float) -> None:
    """One way's curve, and its false alarms at 0, moved aside so that all can be seen."""
    color, marker, line = look(way)
    for table, how in ((curve, {"ls": line, "label": way_title(way)}),
                       (none.assign(above=-1), {"ls": "", "mfc": "white"})):  # fmt: skip
        error = [table["found"] - table["low"], table["high"] - table["found"]]
        ax.errorbar(table["above"] + shift, table["found"], error, color=color, marker=marker,
                    ms=5, lw=1.6, elinewidth=0.9, **how)  # fmt: skip


def _kinds() -> Sequence[tuple[str, Sequence[str]]]:
    whole = [kind for kind in KINDS if kind not in LOCAL]
    return (("cues with a place", LOCAL), ("cues of the whole scene", whole))


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Share found in worlds whose cues stand out about as far: above (mean), found, low, high."""
    return _shares(rows.groupby(np.digitize(rows["above"], STEPS)), "right")


def _said(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of worlds in which anything is said, as `_curve`."""
    return _shares([(0, rows.assign(wrong=rows["wrong"] > 0))] if len(rows) else [], "wrong")


def _shares(parts: Iterable[tuple[Any, pd.DataFrame]], column: str) -> pd.DataFrame:
    found = []
    for _, part in parts:
        low, high = proportion_confint(int(part[column].sum()), len(part), method="wilson")
        share = float(part[column].mean())
        found.append({"above": float(part["above"].mean()), "found": share, "low": min(low, share),
                      "high": max(high, share)})  # fmt: skip
    return pd.DataFrame(found, columns=["above", "found", "low", "high"])
