"""Between groups: differences over photos, with intervals, permutation tests, sizes and power."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.power import TTestIndPower, TTestPower

from gscam_lib.audits.photos import PAIR, UNIT, Collection, as_text
from gscam_lib.audits.seen import Seen
from gscam_lib.evaluation.statistics import holm, paired_difference
from gscam_lib.figures.decision import ENOUGH, LEVEL, decided

Array = np.ndarray[Any, Any]
POWER, CHUNK = 0.8, 500  # what is asked of a test; shuffles made at once
TOP, DRAWN = 0.1, 500  # of the photos, for skew@k; samples of its interval
SIZES = {"small": 0.2, "medium": 0.5, "large": 0.8}  # Cohen's d
GROUPS = ("prompt", "measure", "column", "group", "other", "photos", "other photos", "difference",
          "low", "high", "d", "p", "p (Holm)", "decided", "detectable d", "paired")  # fmt: skip


def sides(values: Array) -> Iterator[tuple[str, str, Array, Array]]:
    """Which photos are compared with which: group, other, and who is in each (n,) bool.

    values: (n,) text, "" for photos in no group. Two groups are one comparison, three or more are
    each compared with the rest.
    """
    names = sorted({v for v in values.tolist() if v != ""})
    if len(names) == 2:
        yield names[1], names[0], values == names[1], values == names[0]
    elif len(names) > 2:
        for name in names:
            yield name, "the rest", values == name, (values != name) & (values != "")


def difference(values: Array, inside: Array, outside: Array, *, samples: int) -> dict[str, Array]:
    """Differences of means between two sets of photos: arrays (K,) of difference, low, high, p, d.

    values: (N, K). low, high: 95 %, photos drawn again within each set; p: photos change sets at
    random (permutation test, two-sided); d: the difference over the deviation of all (WEAT).
    """
    a, b = values[inside].astype(float), values[outside].astype(float)
    both = np.concatenate([a, b])
    gap = a.mean(0) - b.mean(0)
    drawn = _means(a, samples, 0) - _means(b, samples, samples)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    extreme, total = np.zeros(values.shape[1]), both.sum(0)
    for start in range(0, samples, CHUNK):
        count = min(CHUNK, samples - start)
        sums = _shuffles(len(both), len(a), start)[:count] @ both
        shuffled = sums / len(a) - (total - sums) / len(b)
        extreme += (np.abs(shuffled) >= np.abs(gap) - 1e-12).sum(0)
    sigma = both.std(0)
    d = np.divide(gap, sigma, out=np.zeros_like(gap), where=sigma > 0)
    return {"difference": gap, "low": low, "high": high, "p": (1 + extreme) / (1 + samples), "d": d}


@lru_cache(maxsize=24)  # the same shuffles serve every measure of two groups
def _shuffles(n: int, inside: int, seed: int) -> Array:
    """Which of n photos are inside in each of CHUNK shuffles: (CHUNK, n) of 0 and 1."""
    order = np.random.default_rng([seed, n, inside]).random((CHUNK, n)).argsort(1)
    found = np.zeros((CHUNK, n), np.float32)
    np.put_along_axis(found, order[:, :inside], 1, 1)
    return found


@lru_cache(maxsize=24)
def _draws(n: int, seed: int) -> Array:
    """How often n photos are drawn in each of CHUNK bootstrap samples, over n: (CHUNK, n)."""
    drawn = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), CHUNK)
    return (drawn / n).astype(np.float32)


def _means(values: Array, samples: int, seed: int) -> Array:
    """Means of bootstrap samples: (samples, K)."""
    parts = [_draws(len(values), seed + start) @ values for start in range(0, samples, CHUNK)]
    return np.concatenate(parts)[:samples]


# ---------------------------------------------------------------- tables


def measures(seen: Seen) -> dict[tuple[str, str], Array]:
    """One number a photo: (prompt, measure) -> (N,), NaN where a photo has none.

    score; probability, its softmax among the prompts, and rank among them (1: highest), where there
    are several; cover: what covering the hottest window takes beyond others; alone: its score,
    cut out, beyond that of others; heat on …: share of the heat on each region.
    """
    found: dict[tuple[str, str], Array] = {}
    several = len(seen.prompts) > 1
    scores = seen.scores[:, : len(seen.prompts)].astype(float)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    ranks = 1 + (scores[:, None, :] > scores[:, :, None]).sum(2)
    for p, prompt in enumerate(seen.prompts):
        found[prompt, "score"] = scores[:, p]
        if several:
            found[prompt, "probability"] = shares[:, p]
            found[prompt, "rank"] = ranks[:, p].astype(float)
        photos, hot = seen.hottest(p)
        for name, what in (("cover", seen.drop[..., p]), ("alone", seen.alone[..., p])):
            found[prompt, name] = _spread(seen, photos, seen.beyond(photos, hot, what))
        for region, of in seen.regions.items():
            share = seen.share(region, p)
            found[prompt, f"heat on {region}"] = _spread(seen, of.photos, share)
    return found


def _spread(seen: Seen, photos: Array, values: Array) -> Array:
    whole = np.full(len(seen.names), np.nan)
    whole[seen.mapped[photos]] = values
    return whole


def compare(
    taken: Mapping[tuple[str, str], Array], collection: Collection, rows: Array, *, samples: int
) -> pd.DataFrame:
    """Every measure between every two groups, corrected together (Holm); see GROUPS.

    rows: which photos of the collection have been measured. Photos of one unit are averaged first;
    where photos come in pairs with one of each group, differences are within pairs.
    """
    table = collection.groups.iloc[rows].reset_index(drop=True)
    found = []
    for column in collection.columns:
        for group, other, inside, outside in sides(as_text(table[column])):
            pairs = matched(table, inside, outside)
            for key, values in taken.items():
                row = tested(values, inside, outside, pairs, table, samples)
                found.append({"prompt": key[0], "measure": key[1], "column": column,
                              "group": group, "other": other, **row})  # fmt: skip
    frame = pd.DataFrame(found, columns=[c for c in GROUPS if c not in
                                         ("p (Holm)", "decided", "detectable d")])  # fmt: skip
    tests = correct(frame, frame[["photos", "other photos"]].min(axis=1), "decided")
    frame["detectable d"] = [
        detectable(int(n), int(m), max(1, tests), bool(pair))
        for n, m, pair in zip(frame["photos"], frame["other photos"], frame["paired"], strict=True)
    ]
    return frame[list(GROUPS)]


def correct(frame: pd.DataFrame, photos: pd.Series, name: str) -> int:
    """Add p (Holm) and, called `name`, whether a row is `decided`; return how many were tested.

    frame: low, high and p; photos: of each row. Rows with fewer than five are not tested.
    """
    tested = (photos >= ENOUGH) & frame["p"].notna()
    frame["p (Holm)"] = 1.0
    if tested.any():
        frame.loc[tested, "p (Holm)"] = holm(frame.loc[tested, "p"].to_numpy())
    rows = frame[["low", "high", "p (Holm)"]].to_dict("records")
    frame[name] = np.array([decided(row) for row in rows], bool)
    return int(tested.sum())


def matched(table: pd.DataFrame, inside: Array, outside: Array) -> Array | None:
    """Positions (pairs, 2) of the matched photos, one of each group; None where there are none."""
    if PAIR not in table:
        return None
    named = as_text(table[PAIR])
    place = {True: {n: i for i, n in enumerate(named) if n and inside[i]},
             False: {n: i for i, n in enumerate(named) if n and outside[i]}}  # fmt: skip
    both = [(i, place[False][n]) for n, i in place[True].items() if n in place[False]]
    return np.array(both) if both else None


def tested(
    values: Array, inside: Array, outside: Array, pairs: Array | None, table: pd.DataFrame,
    samples: int,
) -> dict[str, Any]:  # fmt: skip
    """One number a photo, between two groups: photos counted, difference, low, high, p, d, paired.

    pairs: as of `matched`; without, photos of one unit are averaged first.
    """
    there = np.isfinite(values)
    if pairs is not None:
        both = pairs[there[pairs].all(1)]
        a, b = values[both[:, 0]], values[both[:, 1]]
        count = {"photos": len(both), "other photos": len(both), "paired": True}
        if len(both) < 2:
            return count | _nothing()
        found = paired_difference(a, b, np.arange(len(both)), samples=samples)
        sigma = float((a - b).std())
        d = found["difference"] / sigma if sigma > 0 else 0.0
        return count | {**{k: found[k] for k in ("difference", "low", "high", "p")}, "d": d}
    values, inside, outside = _by_unit(values, inside & there, outside & there, table)
    count = {"photos": int(inside.sum()), "other photos": int(outside.sum()), "paired": False}
    if min(inside.sum(), outside.sum()) < 2:
        return count | _nothing()
    single = difference(values[:, None], inside, outside, samples=samples)
    return count | {key: float(value[0]) for key, value in single.items()}


def _nothing() -> dict[str, float]:
    return dict.fromkeys(("difference", "low", "high", "p", "d"), np.nan)


def units(table: pd.DataFrame) -> Array:
    """What each photo is drawn with: its unit, or its pair, or itself: (N,) text."""
    alone = np.array([f"photo {i}" for i in range(len(table))], dtype=object)
    column = next((c for c in (UNIT, PAIR) if c in table), None)
    if column is None:
        return alone
    named = as_text(table[column])
    return np.where(named == "", alone, named)


def _by_unit(
    values: Array, inside: Array, outside: Array, table: pd.DataFrame
) -> tuple[Array, Array, Array]:
    """Photos of one unit (a person, a place) in one group become their mean: they are no sample."""
    unit = units(table)
    if len(set(unit)) == len(unit):
        return values, inside, outside
    frame = pd.DataFrame({"unit": unit, "in": inside, "value": values})[inside | outside]
    mean = frame.groupby(["unit", "in"], sort=True)["value"].mean().reset_index()
    return mean["value"].to_numpy(), mean["in"].to_numpy(bool), ~mean["in"].to_numpy(bool)


def skews(seen: Seen, collection: Collection) -> pd.DataFrame:
    """Skew@k: log of a group's share among the k photos of highest score over its share of all.

    k: a tenth of the photos, at least ten. Columns: prompt, column, group, k, skew, low, high (95
    %, photos drawn again), and max: whether it is the column's MaxSkew. A group that is absent at
    the top counts as half a photo. Geyik et al., Fairness-Aware Ranking, KDD 2019.
    """
    n = len(seen.names)
    k = min(n, max(10, round(TOP * n)))
    rng = np.random.default_rng(0)
    drawn = [np.arange(n), *rng.integers(0, n, (DRAWN, n))]
    rows = []
    for column in collection.columns:
        values = as_text(collection.groups[column].iloc[seen.rows])
        names = sorted({v for v in values.tolist() if v})
        if not names:
            continue
        of = np.stack([values == name for name in names], 1).astype(float)
        for p, prompt in enumerate(seen.prompts):
            all_ = np.array([_skew(of[d], seen.scores[d, p], k) for d in drawn])
            low, high = np.quantile(all_[1:], [0.025, 0.975], axis=0)
            for g, name in enumerate(names):
                rows.append({"prompt": prompt, "column": column, "group": name, "k": k,
                             "skew": all_[0, g], "low": low[g], "high": high[g],
                             "max": bool(all_[0, g] == all_[0].max())})  # fmt: skip
    return pd.DataFrame(
        rows, columns=["prompt", "column", "group", "k", "skew", "low", "high", "max"]
    )


def _skew(of: Array, scores: Array, k: int) -> Array:
    top = np.argsort(-scores, kind="stable")[:k]
    shares = np.maximum(of[top].sum(0), 0.5) / k
    return np.asarray(np.log(shares / np.maximum(of.mean(0), 0.5 / len(of))))


# ---------------------------------------------------------------- power, said beforehand


def detectable(n: int, m: int, tests: int = 1, paired: bool = False) -> float:
    """The smallest d that n photos against m show in four cases of five, at .05 / tests; NaN below.

    Student's t as an approximation of the permutation test (statsmodels).
    """
    if min(n, m) < ENOUGH:
        return float("nan")
    alpha = LEVEL / tests
    if paired:
        return float(TTestPower().solve_power(nobs=n, alpha=alpha, power=POWER))
    return float(TTestIndPower().solve_power(nobs1=n, ratio=m / n, alpha=alpha, power=POWER))


def power(collection: Collection, tests: int) -> pd.DataFrame:
    """What the groups can show, before anything is measured: a row for each comparison.

    tests: comparisons in all. Columns: column, group, other, photos, other photos (pairs, where
    photos come in pairs), paired, detectable d, and the photos (pairs) a group that a small, medium
    and large d would take.
    """
    table, rows = collection.groups.reset_index(drop=True), []
    for column in collection.columns:
        for group, other, inside, outside in sides(as_text(table[column])):
            pairs = matched(table, inside, outside)
            one = np.ones(len(table))
            if pairs is None:
                _, *both = _by_unit(one, inside, outside, table)
                n, m = (int(side.sum()) for side in both)
            else:
                n = m = len(pairs)
            paired = pairs is not None
            need = {
                f"photos for a {name} d ({d})": _needed(d, tests, paired)
                for name, d in SIZES.items()
            }
            about = {"column": column, "group": group, "other": other, "photos": n,
                     "other photos": m, "paired": paired}  # fmt: skip
            rows.append({**about, "detectable d": detectable(n, m, tests, paired), **need})
    return pd.DataFrame(rows)


def _needed(d: float, tests: int, paired: bool) -> int:
    kind = TTestPower if paired else TTestIndPower
    return int(np.ceil(kind().solve_power(effect_size=d, alpha=LEVEL / tests, power=POWER)))
