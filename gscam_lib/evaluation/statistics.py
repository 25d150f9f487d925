"""How sure a number is: intervals and paired tests over whole images. Knows no model.

Questions about one photo are not independent, so what is drawn again, and whose signs are flipped,
are groups (images), never rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse, stats

Array: TypeAlias = np.ndarray[Any, Any]
Interval: TypeAlias = tuple[float, float]
Statistic: TypeAlias = Callable[[Array], Array]
"""From sums over drawn rows (samples, columns) to one number for each sample."""
SAMPLES = 2000
CHUNK = 1 << 22  # counts drawn at once: 32 MB, however many images there are
BUNDLES = 5000
"""More groups than that are put into so many bundles at random, and bundles are drawn: the variance
expected is the same, and the time no longer grows with groups times samples."""


def bootstrap(
    groups: Array,
    wanted: Sequence[tuple[Any, Statistic]],
    *,
    samples: int = SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Percentile intervals of statistics of sums, when whole groups are drawn with replacement.

    groups: (n,) the image of each row; wanted: for each interval (n, columns) numbers, dense or
    sparse, and a statistic of their sums. All see the same draws, of bundles where there are more
    than `BUNDLES` groups. Raises ValueError where there is nothing. Efron 1979; groups as in Field
    and Welsh, Bootstrapping Clustered Data, 2007.
    """
    index, count = _bundled(groups, seed)
    member = sparse.csr_matrix(
        (np.ones(len(index)), (index, np.arange(len(index)))), shape=(count, len(index))
    )
    sums = [member @ (rows if sparse.issparse(rows) else _table(rows, index)) for rows, _ in wanted]
    found: list[list[Array]] = [[] for _ in wanted]
    for drawn in _draws(count, samples, seed):
        for (_, statistic), total, values in zip(wanted, sums, found, strict=True):
            product = (total.T @ drawn.T).T if sparse.issparse(total) else drawn @ total
            values.append(statistic(product))
    return [_percentiles(np.concatenate(values), level) for values in found]


def ratio(sums: Array) -> Array:
    """A mean, from sums (samples, 2) of values and of ones."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def with_ones(values: Array) -> Array:
    """(n,) values beside ones, for `ratio`: (n, 2)."""
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"Got values {values.shape}; expected a list of numbers.")
    return np.stack([values, np.ones_like(values)], 1)


def bootstrap_interval(values: Array, groups: Array, **how: Any) -> Interval:
    """Interval of a mean over images.

    values: (n,) numbers; groups: (n,) the image of each; how: samples, level, seed of `bootstrap`.
    """
    return bootstrap(groups, [(with_ones(values), ratio)], **how)[0]


def macro_mean(values: Array, classes: Array) -> float:
    """Mean over classes of the means of their values: every class weighs alike."""
    _, index, counts = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
    return float((np.bincount(index, np.asarray(values, float)) / counts).mean())


def by_class(values: Array, classes: Array) -> tuple[sparse.csr_matrix, Statistic]:
    """What `bootstrap` wants for the interval of `macro_mean`: rows (n, 2 · classes), statistic.

    A sample's missing classes are left out.
    """
    names, index = np.unique(np.asarray(classes), return_inverse=True)
    n, size = len(index), len(names)
    rows = np.concatenate([np.arange(n)] * 2)
    columns = np.concatenate([index, size + index])
    numbers = np.concatenate([np.asarray(values, float), np.ones(n)])

    def statistic(sums: Array) -> Array:
        total, count = sums[:, :size], sums[:, size:]
        means = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        return np.asarray(means.sum(1) / (count > 0).sum(1))

    return sparse.csr_matrix((numbers, (rows, columns)), shape=(n, 2 * size)), statistic


def median_interval(
    values: Array, groups: Array, *, samples: int = SAMPLES, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of a median over images. Between two middle values their mean counts.

    values, groups: as for `bootstrap_interval`.
    """
    index, count = _bundled(groups, seed)
    values = _table(values, index)
    order = np.argsort(values, kind="stable")
    values, index = values[order], index[order]
    size = math.isqrt(len(values)) + 1  # rows in a block: the middle's block is found first
    block = np.arange(len(values)) // size
    in_blocks = sparse.csr_matrix((np.ones(len(values)), (index, block))).toarray()
    medians = []
    for drawn in _draws(count, samples, seed):
        for weights, before in zip(drawn, np.cumsum(drawn @ in_blocks, 1), strict=True):
            half = before[-1] / 2
            at = [_row_at(half, s, before, weights, index, size) for s in ("left", "right")]
            medians.append(values[at].mean())
    return _percentiles(np.asarray(medians), level)


def _row_at(half: float, side: Any, before: Array, weights: Array, index: Array, size: int) -> int:
    """The first of sorted rows at which their weights sum to half ("left") or to more ("right").

    before: the sums up to the end of each block of `size` rows; weights: of each group.
    """
    block = int(np.searchsorted(before, half, side))
    start = block * size
    inside = np.cumsum(weights[index[start : start + size]]) + (before[block - 1] if block else 0)
    return start + int(np.searchsorted(inside, half, side))


def paired_difference(
    a: Array, b: Array, groups: Array, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, float]:
    """Mean of a − b with its 95 % interval over images, and p-values of two paired tests.

    a, b: (n,) scores of two methods on the same questions; groups: (n,) the image of each. p: under
    the null hypothesis the sign of each image's summed difference is arbitrary; wilcoxon: of the
    signed ranks of the images' sums (scipy), 1 where all differences are 0; images: how many.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    low, high = bootstrap_interval(difference, groups, samples=samples, seed=seed)
    index, count = _numbered(groups)
    sums = np.bincount(index, difference, minlength=count)
    rng = np.random.default_rng(seed)
    extreme = sum(
        int((np.abs(rng.choice([-1.0, 1.0], (n, count)) @ sums) >= abs(sums.sum()) - 1e-12).sum())
        for n in _chunks(samples, count)
    )
    return {
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": (1 + extreme) / (1 + samples),
        "wilcoxon": float(stats.wilcoxon(sums).pvalue) if sums.any() else 1.0,
        "images": count,
    }


def holm(p: Sequence[float] | Array) -> Array:
    """Holm's correction: p-values (n,) of n tests made together, none above 1.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979. Not statsmodels', which
    collects garbage each time: with a model in memory, half a second a call.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    found = np.empty_like(values)
    found[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.asarray(np.minimum(found, 1.0))


def _numbered(groups: Array) -> tuple[Array, int]:
    """The number of each row's group, and how many groups there are."""
    if not len(groups):
        raise ValueError("Got no values; an interval needs at least one.")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index, len(names)


def _bundled(groups: Array, seed: int) -> tuple[Array, int]:
    """The number of what each row is drawn with: its group, or a bundle of groups."""
    index, count = _numbered(groups)
    if count <= BUNDLES:
        return index, count
    return np.random.default_rng(seed).permutation(count)[index] % BUNDLES, BUNDLES


def _table(rows: Any, index: Array) -> Array:
    table = np.asarray(rows, float)
    if table.shape[:1] != index.shape:
        raise ValueError(
            f"Got values {table.shape} and groups {index.shape}; expected two lists of one length."
        )
    return table


def _chunks(samples: int, count: int) -> list[int]:
    size = max(1, min(samples, CHUNK // count))
    return [min(size, samples - start) for start in range(0, samples, size)]


def _draws(groups: int, samples: int, seed: int) -> Iterator[Array]:
    """How often each group is drawn in each sample: (samples, groups), a few samples at a time."""
    shares, rng = np.full(groups, 1 / groups), np.random.default_rng(seed)
    for n in _chunks(samples, groups):
        yield rng.multinomial(groups, shares, n).astype(float)


def _percentiles(found: Array, level: float) -> Interval:
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
