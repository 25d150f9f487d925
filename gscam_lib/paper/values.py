"""From rows to the numbers of the plan, each with its interval; from numbers to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gscam_lib.evaluation import report
from gscam_lib.evaluation import statistics as st
from gscam_lib.evaluation.folder import read_manifest
from gscam_lib.evaluation.rows import read_rows
from gscam_lib.figures.decision import ENOUGH, decided
from gscam_lib.paper.plan import CLAIMS, ITEMS, Claim, Expected, Item, expected
from gscam_lib.paper.run import ITEMS_FILE, METHODS_FILE, REASONS, RUNS, STEPS, read_json
from gscam_lib.paper.worlds import PROTOCOLS, jobs

INSTANCES = 10_000  # of which the paper took the total variation
MEANS = {
    "total variation": "total_variation", "channels top": "channels_top",
    "channels rest": "channels_rest", "channels variation": "channels_variation",
}  # fmt: skip
"""Statistics that are the mean of a column."""
KEYS = ["item", "protocol", "method", "model", "group", "statistic"]
COLUMNS = [*KEYS, "value", "low", "high", "pairs", "images", "errors"]


@dataclass(frozen=True)
class Outcome:
    """All that a run left.

    settings: of its world; rows: by folder; labels: what the plan's methods are called there;
    steps: tables that are no rows; missing: what could not be run, and why; items: the rows of the
    plan that were asked for; networks: by folder, what its manifest says of the model.
    """

    settings: Mapping[str, Any]
    rows: Mapping[str, pd.DataFrame]
    labels: Mapping[str, Mapping[str, str]]
    steps: Mapping[str, pd.DataFrame]
    missing: Mapping[str, str]
    items: Sequence[str] = ()
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether the paper's weights and data were used, and not others in their place."""
        random = any(name.endswith("/random") for name in self.settings["models"].values())
        return self.settings["world"] == "real" and not random

    @property
    def whole(self) -> bool:
        """Whether all photos were asked."""
        return self.settings["images"] is None and self.settings["k"] == 300


def read_outcome(out: Path) -> Outcome:
    """What a folder of `gscam reproduce` holds. Raises FileNotFoundError and ValueError."""
    if not (out / "run.json").is_file():
        raise FileNotFoundError(f"No run.json in {out}; run `gscam reproduce --out {out}` first.")
    return outcome_of(out, {
        folder.name: read_rows(folder)
        for folder in sorted((out / RUNS).glob("*"))
        if next(folder.glob("part-*.parquet"), None) and (folder / METHODS_FILE).is_file()
    })  # fmt: skip


def outcome_of(out: Path, rows: Mapping[str, pd.DataFrame]) -> Outcome:
    """Rows by folder, and what else a run's folder or unpacked archive holds. Raises ValueError."""
    settings = read_manifest(out).get("reproduction")
    if settings is None:
        raise ValueError(f"{out} is no folder of `gscam reproduce`: its run.json says otherwise.")
    networks = {name: read_manifest(out / RUNS / name).get("model", {}) for name in rows}
    labels = {name: read_json(out / RUNS / name / METHODS_FILE) for name in rows}
    steps = {p.stem: pd.read_csv(p, keep_default_na=False) for p in (out / STEPS).glob("*.csv")}
    missing, items = read_json(out / REASONS, {}), read_json(out / ITEMS_FILE, [])
    return Outcome(settings, rows, labels, steps, missing, items, networks)


# ---------------------------------------------------------------- numbers


def values(outcome: Outcome) -> pd.DataFrame:
    """Every number of the plan that the rows give: a line for each, with its interval.

    Columns: item, protocol, method (as the plan has it), model, group, statistic, value, low, high,
    pairs, images, errors.
    """
    tables = [_item_values(outcome, item) for item in ITEMS if item.id in outcome.items]
    found = [table for table in tables if len(table)]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(found, ignore_index=True)[COLUMNS]


def _item_values(outcome: Outcome, item: Item) -> pd.DataFrame:
    if item.step == "speed":
        return _speed(outcome, item)
    if item.step == "attack":
        return _attack(outcome, item)
    lines = []
    for protocol in PROTOCOLS:
        rows = rows_of(outcome, item, protocol)
        if len(rows):
            lines += [
                {"item": item.id, "protocol": protocol, **line} for line in _lines(rows, item)
            ]
    return pd.DataFrame(lines)


def rows_of(outcome: Outcome, item: Item, protocol: str) -> pd.DataFrame:
    """The rows that a line of the plan is made of, of all its networks, methods as in the plan."""
    frames = []
    for job in jobs([item]):
        if job.protocol != protocol or job.name not in outcome.rows:
            continue
        names = {label: m for m, label in outcome.labels[job.name].items() if m in job.methods}
        rows = outcome.rows[job.name]
        rows = rows[rows["method"].isin(names)]
        frames.append(rows.assign(method=rows["method"].map(names)))
    frames = [f.dropna(axis=1, how="all") for f in frames if len(f)]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if not len(rows):
        return rows
    order = {m: i for i, m in enumerate([*item.methods, *item.vit])}
    rows = rows.iloc[np.argsort(rows["method"].map(order).to_numpy(), kind="stable")]
    rows = rows.reset_index(drop=True)
    return rows if "error" in rows else rows.assign(error=None)


def _lines(rows: pd.DataFrame, item: Item) -> list[dict[str, Any]]:
    if item.id == "noise":
        rows = _drawn(rows)
    grouped = {"classes": report.by_classes, "size": report.by_size}
    lines: list[dict[str, Any]] = []
    if set(item.statistics) - set(MEANS) - {"total variation std"}:
        table = grouped.get(item.group, report.summarize)(rows)
        table = table[table["origin"].str.startswith("ours")]
        for _, row in table.iterrows():
            for name in item.statistics:
                if name in row and not pd.isna(row[name]):
                    about = {"model": row["origin"].removeprefix("ours: "), "group": row["group"]}
                    about |= {key: row[key] for key in ("method", "pairs", "images", "errors")}
                    bounds = {"low": row[f"{name} low"], "high": row[f"{name} high"]}
                    lines.append({**about, "statistic": name, "value": row[name], **bounds})
    for (model, method), part in rows.groupby(["model", "method"], sort=False):
        about = {
            "model": model,
            "method": method,
            "group": "all",
            "pairs": len(part),
            "images": part["image_id"].nunique(),
            "errors": int(part["error"].notna().sum()),
        }
        for name in item.statistics:
            lines += [about | line for line in _mean(part, name)]
    return lines


def _mean(part: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """A statistic that is the mean, or the spread, of a column."""
    column = MEANS.get(name.removesuffix(" std"))
    if column is None or column not in part or part[column].isna().all():
        return []
    there = part[part[column].notna()]
    numbers = there[column].to_numpy(float)
    if name.endswith(" std"):
        spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")
        return [{"statistic": name, "value": spread, "low": np.nan, "high": np.nan}]
    low, high = st.bootstrap_interval(numbers, there["image_id"].to_numpy(str))
    return [{"statistic": name, "value": float(numbers.mean()), "low": low, "high": high}]


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of so many questions as the paper took, drawn with seed 0, the same for all methods."""
    questions = np.sort(rows["question"].unique())
    if len(questions) <= INSTANCES:
        return rows
    drawn = np.random.default_rng(0).choice(questions, INSTANCES, replace=False)
    return rows[rows["question"].isin(drawn)]


def _speed(outcome: Outcome, item: Item) -> pd.DataFrame:
    table = outcome.steps.get(item.id)
    if table is None or table.empty:
        return pd.DataFrame()
    means = table.groupby("method", sort=False)[["passes", "seconds"]].mean()
    lines = [(m, n, row[n]) for m, row in means.iterrows() for n in ("passes", "seconds")]
    ratio = means.loc["scorecam"] / means.loc["gscorecam"]
    lines += [("scorecam", f"{n}, times gScoreCAM's", ratio[n]) for n in ("passes", "seconds")]
    model, photos = outcome.settings["models"]["rn"], table["image_id"].nunique()
    return pd.DataFrame([
        {"item": item.id, "protocol": "clean", "method": method, "model": model, "group": "all",
         "statistic": name, "value": float(value), "low": np.nan, "high": np.nan, "pairs": photos,
         "images": photos, "errors": 0}
        for method, name, value in lines
    ])  # fmt: skip


def _attack(outcome: Outcome, item: Item) -> pd.DataFrame:
    table = outcome.steps.get(item.id)
    if table is None or table.empty:
        return pd.DataFrame()
    blank = table["word"] == ""
    attacked = ~blank & (table["word"] != table["object"])
    asked = {
        "P(object), nothing written": (blank, "p_object"),
        "object named, nothing written": (blank, "object_found"),
        "P(word), another name written": (attacked, "p_word"),
        "word named": (attacked, "word_read"),
        "word above object": (attacked, "word_beats_object"),
    }  # fmt: skip
    lines = []
    for name, (which, column) in asked.items():
        numbers = table.loc[which, column].astype(float).to_numpy()
        if len(numbers):
            ids = table.loc[which, "image_id"].astype(str).to_numpy()
            low, high = st.bootstrap_interval(numbers, ids)
            lines.append({
                "item": item.id, "protocol": "clean", "method": "", "group": "all",
                "model": outcome.settings["models"]["rn"], "statistic": name,
                "value": float(numbers.mean()), "low": low, "high": high, "pairs": len(numbers),
                "images": len(set(ids)), "errors": 0,
            })  # fmt: skip
    return pd.DataFrame(lines)


# ---------------------------------------------------------------- verdicts


def claims(outcome: Outcome) -> pd.DataFrame:
    """The paper's claims by each protocol: difference with interval, images, and what it says."""
    table = next(item for item in ITEMS if item.id == "coco-hits")
    lines = []
    for claim in CLAIMS:
        item = table if claim.data == "coco" else next(i for i in ITEMS if i.id == claim.data)
        for protocol in PROTOCOLS if item.id in outcome.items else ():
            rows = rows_of(outcome, item, protocol)
            about = {"claim": claim.what, "data": claim.data, "first": claim.first,
                     "second": claim.second, "protocol": protocol}  # fmt: skip
            if len(rows) and {claim.first, claim.second} <= set(rows["method"]):
                found = report.compare(rows, claim.first, claim.second, column=claim.column)
                numbers = {k: found[k] for k in ("difference", "low", "high", "p", "images")}
                lines.append(about | numbers | {"says": judge(claim, found)})
    return pd.DataFrame(lines)


def judge(claim: Claim, found: Mapping[str, float]) -> str:
    """What a paired difference says of a claim: holds, does not hold, or not decided."""
    if found["images"] < ENOUGH:
        return "not decided: too few photos"
    if claim.margin:
        if -claim.margin < found["low"] and found["high"] < claim.margin:
            return "holds"
        apart = found["high"] < -claim.margin or found["low"] > claim.margin
        return "does not hold" if apart else "not decided"
    if not decided(found, tests=len(CLAIMS)):
        return "not decided"
    return "holds" if found["difference"] > 0 else "does not hold"


def verdict(outcome: Outcome, line: Mapping[str, Any] | None, published: Expected | None) -> str:
    """Whether a published value is reproduced by a number of ours, the released code's protocol."""
    if published is None:
        return "nothing published to compare"
    if line is None:
        return "not run"
    if not outcome.comparable:
        return "other weights: not compared"
    apart = abs(line["value"] - published.value)
    if not outcome.whole:
        inside = line["low"] <= published.value <= line["high"]
        return f"part of the data: the interval {'holds' if inside else 'leaves out'} it"
    return "reproduced" if apart <= published.tolerance else "not reproduced"


def published_for(item: Item, line: Mapping[str, Any]) -> Expected | None:
    """The published value that a number of ours is to be held against."""
    for found in expected(item):
        if (found.statistic, found.method, found.group) == (
            line["statistic"], line["method"], line["group"]
        ):  # fmt: skip
            return found
    return None
