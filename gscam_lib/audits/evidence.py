"""Does what the map shows explain the score? Suspects against their controls.

A suspect is a part of the photos that the reader names (a region), a group that a photo is in, or
crops that recur where maps are hottest. What it adds to a prompt's score is held against two
controls at once. Over *photos*: the same with equally large parts elsewhere, or with the other
photos. Over *words*: the same suspect and other prompts, since a bold sign changes every score; a
suspect must change this one more than it changes others. Its p-value is the larger of the two
(intersection-union), corrected for the number of suspects (Holm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gscam_lib.audits.crops import Cluster
from gscam_lib.audits.groups import correct, matched, sides, tested, units
from gscam_lib.audits.photos import Collection, as_text
from gscam_lib.audits.seen import Seen
from gscam_lib.evaluation.statistics import paired_difference
from gscam_lib.figures.decision import ENOUGH, LEVEL

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
SAMPLES = 4999
SUSPECTS = ("prompt", "suspect", "kind", "photos", "effect", "low", "high", "p photos", "p words",
            "p", "p (Holm)", "found", "fills", "words")  # fmt: skip
EVIDENCE = ("prompt", "method", "what", "photos", "effect", "low", "high", "p", "p (Holm)",
            "decided")  # fmt: skip


# ---------------------------------------------------------------- what the map shows


def evidence(seen: Seen, collection: Collection) -> pd.DataFrame:
    """What the hottest window does, covered and alone, against windows elsewhere: a table.

    Rows for each prompt: covering the hottest beyond equally large ones elsewhere, and beyond the
    coldest; the hottest alone, cut out, beyond others alone. Effects in units of the score,
    means over photos with 95 % intervals; p of a sign permutation test, corrected for all rows.
    """
    rows, of = [], _units(seen, collection)
    for p, prompt in enumerate(seen.prompts):
        photos, hot = seen.hottest(p)
        cold = seen.coldest(p)
        taken = seen.drop[..., p]
        what = {
            "covering the hottest − elsewhere": seen.beyond(photos, hot, taken),
            "covering the hottest − the coldest": taken[photos, hot] - taken[photos, cold],
            "the hottest alone − others alone": seen.beyond(photos, hot, seen.alone[..., p]),
        }
        for name, values in what.items():
            rows.append({"prompt": prompt, "method": seen.asked.methods[0], "what": name,
                         **_tested(values, of[photos], SAMPLES)})  # fmt: skip
    table = pd.DataFrame(rows, columns=[c for c in EVIDENCE if c not in ("p (Holm)", "decided")])
    correct(table, table["photos"], "decided")
    return table[list(EVIDENCE)]


# ---------------------------------------------------------------- suspects


def suspects(
    seen: Seen,
    prompt: int,
    collection: Collection,
    clusters: Sequence[Cluster] = (),
    *,
    samples: int = SAMPLES,
) -> list[Row]:
    """The suspects of one prompt, each with its effect and its two p-values, not yet corrected."""
    rows = _of_regions(seen, prompt, collection, samples)
    rows += of_crops(seen, prompt, collection, clusters, samples)
    return rows + _of_groups(seen, prompt, collection, samples)


def decide(rows: Sequence[Row]) -> pd.DataFrame:
    """All suspects of an audit as a table, corrected together; found: it raises the score.

    found: the interval of its effect lies above 0, the larger of its two p-values, corrected
    (Holm), is below .05, every fill agrees in sign, and there are five photos or more.
    """
    table = pd.DataFrame(
        list(rows), columns=[c for c in SUSPECTS if c not in ("p (Holm)", "found")]
    )
    correct(table, table["photos"], "found")
    table["found"] &= (table["low"] > 0) & table["fills"].map(_agree).astype(bool)
    return table[list(SUSPECTS)]


def _agree(fills: str) -> bool:
    """Whether the effect is positive under every fill, as `_fills` writes them."""
    return not any(part.split()[-1].startswith("−") for part in fills.split(", ") if part)


def _of_regions(seen: Seen, prompt: int, collection: Collection, samples: int) -> list[Row]:
    rows, of = [], _units(seen, collection)
    for name, region in seen.regions.items():
        effect = region.control - region.cover  # (n, F, Q): what the region gives beyond its like
        whole = np.isfinite(effect).all((1, 2))
        photos, effect = region.photos[whole], effect[whole]
        fills = _fills(effect[..., prompt].mean(0), seen.asked.fills)
        rows.append(_row(seen, prompt, name, "region", of[photos], effect.mean(1), samples, fills))
    return rows


def of_crops(
    seen: Seen, prompt: int, collection: Collection, clusters: Sequence[Cluster], samples: int
) -> list[Row]:
    """Crops that recur as suspects of one prompt, not yet corrected."""
    rows, of = [], _units(seen, collection)
    for cluster in clusters:
        own = seen.scores[seen.mapped, None]
        each = [own - seen.cover[:, f] for f in range(len(seen.asked.fills))]
        effect = np.stack([seen.beyond(cluster.photos, cluster.windows, drop) for drop in each], 1)
        fills = _fills(effect[..., prompt].mean(0), seen.asked.fills)
        rows.append(_row(seen, prompt, cluster.name, "crops", of[cluster.photos], effect.mean(1),
                         samples, fills, words=", ".join(cluster.words)))  # fmt: skip
    return rows


def _units(seen: Seen, collection: Collection) -> Array:
    """What each mapped photo is drawn with."""
    return units(collection.groups.iloc[seen.rows[seen.mapped]])


def _row(
    seen: Seen, prompt: int, name: str, kind: str, of: Array, effect: Array, samples: int,
    fills: str, words: str = "",
) -> Row:  # fmt: skip
    """A suspect that can be covered; of: (n,) units; effect: (n, Q) beyond its like, by prompt."""
    found = _tested(effect[:, prompt], of, samples)
    words_p = among(effect.mean(0), prompt, seen.controls) if len(effect) else np.nan
    return _joined(seen, prompt, name, kind, found, words_p, fills, words)


def _of_groups(seen: Seen, prompt: int, collection: Collection, samples: int) -> list[Row]:
    """Groups as suspects: the score in a group less that of the other photos, beyond the controls'.

    A score that is higher on *all* photos of a group for all words is no suspect. Within pairs
    where photos come in pairs, as in the table of groups.
    """
    rows = []
    words = seen.scores[:, seen.controls]
    own = seen.scores[:, prompt] - (words.mean(1) if words.size else 0)
    table = collection.groups.iloc[seen.rows].reset_index(drop=True)
    for column in collection.columns:
        for group, other, inside, outside in sides(as_text(table[column])):
            pairs = matched(table, inside, outside)
            found = tested(own, inside, outside, pairs, table, samples)
            found["photos"] = min(found["photos"], found["other photos"])
            a, b = (inside, outside) if pairs is None else pairs.T
            gaps = seen.scores[a].mean(0) - seen.scores[b].mean(0)
            name = f"{column} = {group}"
            if found["high"] < 0 and other != "the rest":  # of two groups, the one that raises
                low, high = -found["high"], -found["low"]
                found |= {"difference": -found["difference"], "low": low, "high": high}
                name, gaps = f"{column} = {other}", -gaps
            found["effect"] = found["difference"]
            words_p = among(gaps, prompt, seen.controls)
            rows.append(_joined(seen, prompt, name, "group", found, words_p, "", ""))
    return rows


def _joined(
    seen: Seen, prompt: int, name: str, kind: str, found: Row, words_p: float, fills: str,
    words: str,
) -> Row:  # fmt: skip
    larger = np.nanmax([found["p"], words_p]) if np.isfinite(found["p"]) else np.nan
    return {
        "prompt": seen.prompts[prompt], "suspect": name, "kind": kind,
        **{key: found[key] for key in ("photos", "effect", "low", "high")},
        "p photos": found["p"], "p words": words_p, "p": float(larger), "fills": fills,
        "words": words,
    }  # fmt: skip


def among(effects: Array, prompt: int, controls: Array) -> float:
    """How rarely a control word has an effect as far above the others' mean; NaN without controls.

    effects: (Q,) of each prompt. Student's t for a new observation, since the controls are few;
    twice the upper tail, since of two groups the data say which one is meant to raise the score.
    What it takes for unlike is measured by `python tests/bench/words.py`.
    """
    others = effects[controls]
    if len(others) < ENOUGH:
        return float("nan")
    sigma = float(others.std(ddof=1)) * np.sqrt(1 + 1 / len(others))
    if sigma == 0:
        return 1.0
    z = float(effects[prompt] - others.mean()) / sigma
    return float(min(1.0, 2 * stats.t.sf(z, len(others) - 1)))


def needed(tests: int, controls: int) -> float:
    """How far above the controls a word must stand to be found among so many tests, in deviations.

    Of what a suspect does to the controls; for the first of Holm's steps.
    """
    return float(stats.t.isf(LEVEL / tests / 2, controls - 1) * np.sqrt(1 + 1 / controls))


def _tested(values: Array, of: Array, samples: int) -> Row:
    """Mean of one number a photo, its interval and its p-value; NaN below two photos.

    of: (n,) the unit of each photo; photos: how many units there are.
    """
    count = len(set(of.tolist()))
    if count < 2:
        mean = float(values.mean()) if len(values) else np.nan
        return {"photos": count, "effect": mean, "low": np.nan, "high": np.nan, "p": np.nan}
    found = paired_difference(values, np.zeros_like(values), of, samples=samples)
    return {"photos": count, "effect": found["difference"],
            **{key: found[key] for key in ("low", "high", "p")}}  # fmt: skip


def _fills(effects: Array, fills: Sequence[str]) -> str:
    """The effect under each fill, as text: "mean +0.42, blur +0.31"."""
    if len(fills) < 2 or not np.isfinite(effects).all():
        return ""
    return ", ".join(f"{name} {value:+.2f}".replace("-", "−") for name, value in
                     zip(fills, effects, strict=True))  # fmt: skip
