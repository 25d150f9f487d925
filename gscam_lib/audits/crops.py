"""What recurs where maps are hottest: crops embedded by the same model, clustered, given words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from gscam_lib.audits.seen import Seen

Array = np.ndarray[Any, Any]
APART = 0.6  # cosine distance (of centred embeddings) above which clusters stay apart
FEWEST = 4  # crops of a cluster
MOST = 6  # clusters of a prompt, the largest
ALIKE = 25  # percentile of its members' likeness from which a photo has what a cluster shows


@dataclass(frozen=True)
class Cluster:
    """Crops that look alike to the model.

    name: such as "crops 1: sign, label"; members: (m,) photos whose hottest crop is one, and their
    windows; photos, windows: every photo that has such a crop anywhere, and where it is likest. The
    centre that finds it is made without that photo's own crop, and its map is not looked at, so
    that a test there is not of what chose it. words: of the vocabulary, nearest first.
    """

    name: str
    members: Array
    hottest: Array
    photos: Array
    windows: Array
    words: tuple[str, ...]


def clusters(
    seen: Seen, prompt: int, method: int = 0, *, words: Sequence[str] = (),
    vectors: Array | None = None,
) -> list[Cluster]:  # fmt: skip
    """Clusters of a prompt's hottest crops, the largest first.

    Average linkage on the cosine of embeddings less their mean over all crops. words, vectors: a
    vocabulary and its unit embeddings (n, D).
    """
    photos, hot = seen.hottest(prompt, method)
    if len(photos) < FEWEST:
        return []
    middle = seen.crops.mean((0, 1))
    crops = _unit(seen.crops - middle)
    own = crops[photos, hot]
    of = fcluster(linkage(own, "average", metric="cosine"), APART, "distance")
    sizes = np.bincount(of)
    found: list[Cluster] = []
    for number in np.argsort(-sizes, kind="stable")[:MOST]:
        mine = np.flatnonzero(of == number)
        if len(mine) < FEWEST:
            continue
        found.append(_cluster(crops, photos, hot, mine, len(found) + 1, words, vectors))
    return found


def _cluster(
    crops: Array, photos: Array, hot: Array, mine: Array, number: int, words: Sequence[str],
    vectors: Array | None,
) -> Cluster:  # fmt: skip
    members, windows = photos[mine], hot[mine]
    own = crops[members, windows]
    total = own.sum(0)
    centres = np.tile(total, (len(crops), 1))
    centres[members] -= own  # each photo is searched with a centre that it had no part in
    like = np.einsum("nwd,nd->nw", crops, _unit(centres))
    best = like.argmax(1)
    height = like.max(1)
    has = np.flatnonzero(height >= np.percentile(height[members], ALIKE))
    said: tuple[str, ...] = ()
    if vectors is not None and len(vectors):
        near = (vectors - vectors.mean(0)) @ _unit(total)
        said = tuple(words[i] for i in np.argsort(-near)[:3])
    name = f"crops {number}" + (f": {', '.join(said[:2])}" if said else "")
    return Cluster(name, members, windows, has, best[has], said)


def _unit(values: Array) -> Array:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9))
