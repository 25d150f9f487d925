"""One report from the rows: tables per method and group, paired tests, beside what is published.

Intervals are bootstrap 95 % intervals over images. A table's `origin` says whose numbers a line
holds; published ones carry their tag.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gscam_lib.evaluation import metrics
from gscam_lib.evaluation import statistics as st
from gscam_lib.evaluation.measures import BINS, SCALARS, VECTORS
from gscam_lib.evaluation.published import PAPER, PUBLISHED, TAGS, published
from gscam_lib.evaluation.rows import FRAME, read_rows
from gscam_lib.methods import title

CLASS_BINS = {"1–3": (1, 3), "4–6": (4, 6), "7–9": (7, 9), "10 and more": (10, np.inf)}
QUESTION = ["source", "image_id", "category", "prompt"]
SUMMARIZED = ("model", "method", "category", "iou", "pointing", "energy", "seconds", "error")


def read(folder: Path | str) -> pd.DataFrame:
    """The rows of a run's folder without their masks, which no table needs.

    Raises FileNotFoundError and ValueError as `gs.merge` does.
    """
    return read_rows(folder, columns=[name for name in FRAME if name != "mask"])


def by_k(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows; a method that a model ran with several k is one for each: "gscorecam:k=5"."""
    if "k" not in rows:
        return rows
    runs = rows[["model", "method", "k"]].drop_duplicates()
    runs = runs[runs.duplicated(["model", "method"], keep=False) & runs["k"].notna()]
    if runs.empty:
        return rows
    named = rows["method"].copy()
    for model, method, k in runs.itertuples(index=False):
        which = (rows["model"] == model) & (rows["method"] == method) & (rows["k"] == k)
        name = f"{method}:k={k}"
        named[which] = f"{name}:by --k" if (named == name).any() else name
    return rows.assign(method=named)


def _images(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """A number for each row's image, in the order of their names, so that draws do not change."""
    source, sources = pd.factorize(rows["source"])
    image, names = pd.factorize(rows["image_id"])
    pair, pairs = pd.factorize(source * len(names) + image)
    one, other = np.divmod(pairs, max(1, len(names)))
    whole = sources.take(one).astype(str) + "/" + names.take(other).astype(str)
    return np.asarray(np.argsort(np.argsort(whole, kind="stable"), kind="stable")[pair])


# ---------------------------------------------------------------- one table


def summarize(rows: pd.DataFrame, by: str | Sequence[Hashable] | pd.Series | None = None) -> Any:
    """A line for each model, method and k, and group of rows: every measure with interval.

    rows: of `evaluate` or `merge`; by: a column, or one value for each row, None for all rows
    together. Columns: origin, method, group, pairs, images, hits (IoU ≥ 0.5), hits .3, hits .7,
    macro (mean over classes of the hits), mean IoU, median IoU, pointing, pointing macro, energy,
    and each further measure that was taken, all with low and high (MaxBoxAcc and MaxBoxAccV2 from
    "ious_largest" and "ious", PxAP from "pixels"); seconds per image, errors. Faulty rows count as
    misses.
    """
    rows = by_k(rows)
    groups = pd.Series("all", rows.index) if by is None else _as_groups(rows, by)
    needed = [name for name in (*SUMMARIZED, *SCALARS, *VECTORS) if name in rows]
    groups, images = groups.reset_index(drop=True), _images(rows)
    rows = rows[needed].reset_index(drop=True).assign(image=images)
    lines = []
    for (model, method), mine in rows.groupby(["model", "method"], sort=False):
        for group, part in mine.groupby(groups[mine.index], sort=False, observed=True):
            line = {"origin": f"ours: {model}", "method": method, "group": group}
            lines.append(line | _line(part))
    return pd.DataFrame(lines)


def _as_groups(rows: pd.DataFrame, by: Any) -> pd.Series:
    if isinstance(by, str):
        return rows[by]
    return by if isinstance(by, pd.Series) else pd.Series(list(by), rows.index)


def _line(part: pd.DataFrame) -> dict[str, Any]:
    images, classes = part["image"].to_numpy(), part["category"].to_numpy()
    line: dict[str, Any] = {"pairs": len(part), "images": part["image"].nunique()}
    wanted: dict[str, tuple[float, Any]] = {}  # name: value, what `bootstrap` needs for it
    if "iou" in part:
        iou = part["iou"].fillna(0.0).to_numpy(float)
        for name, delta in (("hits", 0.5), ("hits .3", 0.3), ("hits .7", 0.7)):
            wanted[name] = _mean((iou >= delta).astype(float))
        hits = (iou >= 0.5).astype(float)
        wanted["macro"] = st.macro_mean(hits, classes), st.by_class(hits, classes)
        wanted["mean IoU"] = _mean(iou)
        wanted["median IoU"] = float(np.median(iou)), None
    for name in ("pointing", "energy"):
        if name in part:
            wanted[name] = _mean(part[name].fillna(0).to_numpy(float))
    if "pointing" in part:  # the mean over classes, as TorchRay reports it
        values = part["pointing"].fillna(0).to_numpy(float)
        wanted["pointing macro"] = st.macro_mean(values, classes), st.by_class(values, classes)
    bounds = iter(st.bootstrap(images, [need for _, need in wanted.values() if need is not None]))
    for name, (value, need) in wanted.items():
        low, high = st.median_interval(iou, images) if need is None else next(bounds)
        line |= {name: value, f"{name} low": low, f"{name} high": high}
    for name in (*SCALARS, *VECTORS):
        if name in part and part[name].notna().any():
            there = part[name].notna().to_numpy()
            line |= _further(name, part.loc[there, name], images[there])
    price = part["seconds"][part["error"].isna()].groupby(part["image"]).sum()
    line["seconds per image"] = float(price.median()) if len(price) else float("nan")
    line["errors"] = int(part["error"].notna().sum())
    return line


def _mean(values: Any) -> tuple[float, Any]:
    return float(values.mean()), (st.with_ones(values), st.ratio)


def _further(name: str, column: pd.Series, images: Any) -> dict[str, float]:
    """A measure besides localization: its value over the rows that have it, with its interval."""
    called, extra = name, dict[str, float]()
    if name in SCALARS:
        value, need = _mean(column.to_numpy(float))
    else:
        values = np.stack([np.asarray(v, float) for v in column])
        if name == "pixels":
            called, need = "PxAP", (values, metrics.average_precisions)
            value = metrics.average_precision(values.reshape(-1, 2, BINS).sum(0))
        elif name == "ious":
            called, need = "MaxBoxAccV2", metrics.box_hits(values)
            value = metrics.max_box_acc_v2(values)
        else:
            called, need = "MaxBoxAcc", metrics.box_hits(values, [0.5])
            value, best = metrics.max_box_acc(values)
            extra = {"MaxBoxAcc threshold": metrics.THRESHOLDS[best]}
    ((low, high),) = st.bootstrap(images, [need])
    return {called: value, f"{called} low": low, f"{called} high": high, **extra}


# ---------------------------------------------------------------- tests


def compare(rows: pd.DataFrame, a: str, b: str, *, column: str = "iou") -> dict[str, float]:
    """Paired difference of two methods on the questions both answered, over images.

    Returns difference (a − b), low, high, p, wilcoxon, images and pairs, see
    `statistics.paired_difference`. Raises ValueError for methods without common rows.
    """
    rows = by_k(rows)
    there = set(rows["method"])
    if not {a, b} <= there:
        raise ValueError(f"Got {a!r} and {b!r}; these rows have {', '.join(sorted(there))}.")
    keys = ["question"] if "question" in rows else QUESTION
    needed, answered = list(dict.fromkeys([*keys, *QUESTION[:2], column])), rows[column].notna()
    left, right = (rows.loc[(rows["method"] == m) & answered, needed] for m in (a, b))
    both = left.merge(right[[*keys, column]], on=keys, suffixes=("", " of b"))
    if both.empty:
        raise ValueError(f"{a!r} and {b!r} have no question in common.")
    pair = both[column].to_numpy(float), both[f"{column} of b"].to_numpy(float)
    return {**st.paired_difference(*pair, _images(both)), "pairs": len(both)}


def paired_tests(
    rows: pd.DataFrame, reference: str | None = None, *, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Every method against one, by IoU and every measure that is one number.

    reference: gScoreCAM where it was run, else the first method; columns: only these. Columns:
    measure, method, against, pairs, images, difference (method − reference) with low and high, p
    (sign flips over images), wilcoxon, and both corrected for the number of methods (Holm).
    Raises ValueError where the reference has no rows.
    """
    rows = by_k(rows)
    names = list(dict.fromkeys(rows["method"]))
    ours = (name for name in names if name.partition(":")[0] == "gscorecam")
    reference = reference or ("gscorecam" if "gscorecam" in names else next(ours, names[0]))
    if reference not in names:
        raise ValueError(f"No rows of '{reference}'; there are {', '.join(names)}.")
    measured = [n for n in SCALARS if n in rows and n != "pointing_center"]
    tables = []
    for column in columns or ["iou", *measured]:
        answered = set(rows.loc[rows[column].notna(), "method"])
        others = [m for m in names if m != reference and m in answered]
        if reference not in answered or not others:
            continue
        about = {"measure": column, "against": reference}
        lines = [{**about, "method": m, **compare(rows, m, reference, column=column)}
                 for m in others]  # fmt: skip
        table = pd.DataFrame(lines)
        for name in ("p", "wilcoxon"):
            table[f"{name} (Holm)"] = st.holm(table[name].to_numpy())
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# ---------------------------------------------------------------- the paper's analyses


def by_classes(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary by number of classes in the image, beside the published values.

    Groups: 1–3, 4–6, 7–9, 10 and more.
    """
    names = [
        next(n for n, (low, high) in CLASS_BINS.items() if low <= c <= high)
        for c in rows["classes"].fillna(1)
    ]
    groups = pd.Series(pd.Categorical(names, list(CLASS_BINS), ordered=True), rows.index)
    ours, theirs = summarize(rows, groups), published(list(CLASS_BINS))
    ours = _in_order(ours, list(CLASS_BINS))
    theirs = theirs[theirs["method"].isin(set(ours["method"]) | {"hilacam", "gradcam"})]
    return ours if theirs.empty else pd.concat([ours, theirs], ignore_index=True)


def by_size(rows: pd.DataFrame, *, edges: Sequence[float] | None = None) -> pd.DataFrame:
    """The summary by the size of the object, the largest box's share of the photo, in five bins.

    edges: inner edges of the bins; None takes bins of as many questions each. Photos that could not
    be opened have no size and are left out. The paper's values are not available.
    """
    share = (rows["area"] / (rows["width"] * rows["height"])).astype(float)
    rows, share = (rows, share) if share.notna().all() else (rows[share.notna()], share.dropna())
    once = share[~rows[QUESTION].duplicated()]
    inner = list(np.quantile(once, [0.2, 0.4, 0.6, 0.8]) if edges is None else edges)
    names = [f"{100 * a:.3g}–{100 * b:.3g} %" for a, b in pairwise([0.0, *inner, 1.0])]
    index = np.searchsorted(inner, share.to_numpy(), side="left")
    groups = pd.Categorical([names[i] for i in index], list(dict.fromkeys(names)), ordered=True)
    return _in_order(summarize(rows, pd.Series(groups, rows.index)), names)


def _in_order(table: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Methods as they came, and the groups of each in this order."""
    methods = pd.factorize(table["method"])[0]
    order = np.lexsort([table["group"].map(list(groups).index), methods])
    return table.iloc[order].reset_index(drop=True)


# ---------------------------------------------------------------- as people read them

BRIEF = ("pairs", "hits", "mean IoU", "median IoU", "pointing", "seconds per image", "errors")
ALL = ("pairs", "hits .3", "hits", "hits .7", "macro", "mean IoU", "median IoU", "pointing",
       "pointing macro", "energy", "MaxBoxAcc", "MaxBoxAccV2", "PxAP", *SCALARS,
       "seconds per image", "errors")  # fmt: skip
TABLE = ("pairs", "hits", "mean IoU", "pointing", "MaxBoxAcc", "MaxBoxAccV2", "PxAP", *SCALARS,
         "seconds per image")  # fmt: skip


def cells(table: pd.DataFrame, columns: Sequence[str] = ALL) -> pd.DataFrame:
    """A table as people read it: those columns it has, values with their intervals in brackets."""
    lines = []
    for _, row in table.iterrows():
        head = {"method": title(row["method"])}
        if "group" in table and set(table["group"]) != {"all"}:
            head["group"] = str(row["group"])
        if table["origin"].nunique() > 1:
            head["origin"] = row["origin"]
        texts = {c: _cell(row, c) for c in columns if c in table}
        lines.append(head | {name.replace("_", " "): text for name, text in texts.items()})
    return pd.DataFrame(lines)


def _cell(row: pd.Series, name: str) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    if name.startswith("seconds"):
        return f"{value:.3g}"
    if name in ("pairs", "images", "errors"):
        return str(int(value))
    if f"{name} low" not in row or pd.isna(row[f"{name} low"]):
        return f"{value:.3f}" if isinstance(value, float) else str(value)
    form = ".3f" if abs(value) < 10 else ".4g"
    return f"{value:{form}} [{row[f'{name} low']:{form}}, {row[f'{name} high']:{form}}]"


def to_markdown(table: pd.DataFrame, columns: Sequence[str] = TABLE) -> str:
    """A table as Markdown, those columns it has, values with their intervals in brackets."""
    return _markdown(cells(table, columns))


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(index=False, disable_numparse=True))


def tests_to_markdown(table: pd.DataFrame) -> str:
    """Differences with their intervals, and the p-values corrected by Holm, as Markdown."""
    if table.empty:
        return "Nothing to compare: one method alone."
    lines = [
        {
            "measure": row["measure"],
            "method": title(row["method"]),
            f"less {title(row['against'])}": f"{row['difference']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}]",
            "p (sign flips)": f"{row['p (Holm)']:.2g}",
            "p (Wilcoxon)": f"{row['wilcoxon (Holm)']:.2g}",
        }
        for _, row in table.iterrows()
    ]
    return _markdown(pd.DataFrame(lines))


def groups_to_markdown(table: pd.DataFrame, column: str) -> str:
    """One column of a table by groups: a line for each method and origin, a column a group."""
    found = table[table[column].notna()]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for _, row in found.iterrows():
        line = lines.setdefault((row["method"], row["origin"]), {"method": title(row["method"])})
        if found["origin"].nunique() > 1:
            line["origin"] = row["origin"]
        line[str(row["group"])] = _cell(row, column)
    return _markdown(pd.DataFrame(lines.values()).fillna("–"))


def report(rows: pd.DataFrame) -> str:
    """All tables of one run as Markdown: methods, tests, classes beside the published, sizes.

    rows: of one model and preset.
    """
    rows = by_k(rows)
    table, tests = summarize(rows), paired_tests(rows, columns=["iou"])
    classes, sizes = by_classes(rows), by_size(rows)
    short = [o if o.startswith("ours") else f"paper {o[-3:]}" for o in classes["origin"]]
    classes = classes.assign(origin=short)
    headline = PUBLISHED[PUBLISHED["group"] == "all"].iloc[0]
    tags = "; ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items())
    return "\n\n".join([
        f"## All methods\n\n{to_markdown(table)}", _about(rows),
        f"## Against each other, by best IoU\n\n{tests_to_markdown(tests)}",
        "Paired over the same questions; intervals and tests over images; p corrected for the "
        "number of methods (Holm). Decided is what this p puts below .05.",
        "## By number of classes in the image",
        *(f"{name}, {_pairs(classes)}:\n\n{groups_to_markdown(classes, name)}"
          for name in ("mean IoU", "median IoU")),
        f"paper: {PAPER}; {tags}. Other weights and photos than ours, so not to be beaten or "
        f"missed. Of all its pairs, gScoreCAM hits {headline['value']:.2%} [{headline['tag']}].",
        "## By size of the object (share of the photo)",
        *(f"{name}, {_pairs(sizes)}:\n\n{groups_to_markdown(sizes, name)}"
          for name in ("hits", "mean IoU")),
    ]) + "\n"  # fmt: skip


def unanswered(rows: pd.DataFrame) -> str:
    """What to say of rows that `read` or `merge` took from a folder with questions still open."""
    asked = rows.attrs.get("asked", 0)
    there = rows["example"].nunique() if asked else 0
    return f"only {there} of the run's {asked} pairs have rows yet" if there < asked else ""


def _about(rows: pd.DataFrame) -> str:
    model, preset = rows["model"].iloc[0], rows["preset"].iloc[0]
    asked = rows.groupby("method", sort=False)["image_id"].nunique()
    fewer = [f"{title(m)} on {n} images" for m, n in asked.items() if n < asked.max()]
    for name in (*SCALARS, *VECTORS):
        if name in rows:
            part = rows[rows[name].notna()]
            fewer.append(f"{name} on {len(set(_images(part)))} images")
    facts = [
        f"weights: {model}", f"data: {', '.join(dict.fromkeys(rows['source']))}",
        f"{len(set(_images(rows)))} images, {len(rows[QUESTION].drop_duplicates())} pairs",
        unanswered(rows), f"preset {preset}", *fewer, "95 % intervals over images",
    ]  # fmt: skip
    return "; ".join(filter(None, facts))


def _pairs(table: pd.DataFrame) -> str:
    """How many pairs each group of ours has."""
    ours = table[table["origin"].str.startswith("ours")].drop_duplicates("group")
    return ", ".join(f"{int(n)} pairs of {g}" for g, n in zip(ours.group, ours.pairs, strict=True))


def write_report(rows: pd.DataFrame, folder: Path | str) -> str:
    """Write table.md, and table, tests, classes and sizes as CSV; return the Markdown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frames: Mapping[str, pd.DataFrame] = {
        "table": summarize(rows), "tests": paired_tests(rows), "classes": by_classes(rows),
        "sizes": by_size(rows), "per_class": summarize(rows, "category"),
    }  # fmt: skip
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    text = report(rows)
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def as_text(rows: pd.DataFrame, form: str) -> str:
    """The table of rows in a form: text, markdown, latex or csv. Raises ValueError."""
    if rows.empty:
        raise ValueError("There are no rows: the data set is empty, or the model knows no class.")
    whole = summarize(rows)
    forms: Mapping[str, Callable[[], str]] = {
        "text": lambda: cells(whole, (*BRIEF, *SCALARS)).to_string(index=False),
        "markdown": lambda: to_markdown(whole, ALL),
        "latex": lambda: cells(whole).to_latex(index=False, escape=True),
        "csv": lambda: whole.to_csv(index=False),
    }
    if form not in forms:
        raise ValueError(f"Got format '{form}'; expected one of {', '.join(forms)}.")
    return forms[form]()
