"""All that was measured of the photos of an audit, as arrays; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from gscam_lib.audits.copies import WINDOWS, apart, window_masks
from gscam_lib.audits.looking import MAP, Asked
from gscam_lib.model.prompts import label

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RegionSeen:
    """A named region on the photos that have it.

    photos: (n,) which of the mapped ones; masks: (n, 32, 32) in [0, 1]; cover, control: (n, F, Q)
    scores with the region covered, and the same shape elsewhere (NaN where there is no room).
    """

    photos: Array
    masks: Array
    cover: Array
    control: Array


@dataclass(frozen=True)
class Seen:
    """N photos, Q prompts and controls of which the first P are under audit, M methods, F fills.

    names: of the photos; rows: which of those asked they are; scores: (N, Q). Of the n that have
    been mapped and covered, which are all unless fewer were asked for: mapped: (n,) their positions
    among the N; cover: (n, F, windows, Q); alone: (n, windows, Q); crops: (n, windows, D) of unit
    length; maps: (n, M, P, 32, 32) in [0, 1]. stable: (m, P, 3) of the photos on which stability
    was measured; failed: photo -> error. What is called photos below counts the mapped ones.
    """

    asked: Asked
    names: Sequence[str]
    rows: Array
    scores: Array
    mapped: Array
    cover: Array
    alone: Array
    crops: Array
    maps: Array
    regions: dict[str, RegionSeen]
    stable: Array
    seconds: float
    failed: dict[str, str]

    @property
    def prompts(self) -> list[str]:
        """What the prompts under audit are called."""
        return [label(prompt) for prompt in self.asked.prompts]

    @property
    def controls(self) -> Array:
        """The positions of the controls among all Q."""
        return np.arange(len(self.asked.prompts), len(self.asked.all))

    @cached_property
    def drop(self) -> Array:
        """What covering each window takes from each score, mean of the fills: (n, windows, Q)."""
        return np.asarray(self.scores[self.mapped, None] - self.cover.mean(1))

    @cached_property
    def heat(self) -> Array:
        """Mean heat of each window, over the whole map's; NaN on flat maps: (n, M, P, windows)."""
        masks = window_masks(MAP, MAP).reshape(WINDOWS, -1).astype(np.float32)
        flat = self.maps.reshape(*self.maps.shape[:3], -1)
        inside = flat @ (masks / masks.sum(1, keepdims=True)).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(inside / flat.mean(-1, keepdims=True))

    def hottest(self, prompt: int, method: int = 0) -> tuple[Array, Array]:
        """The photos on which a prompt's map is not flat, and the hottest window of each."""
        heat = self.heat[:, method, prompt]
        photos = np.flatnonzero(np.isfinite(heat).all(1))
        return photos, heat[photos].argmax(1)

    def coldest(self, prompt: int) -> Array:
        """The coldest window of the photos of `hottest`."""
        heat = self.heat[:, 0, prompt]
        return np.asarray(heat[np.isfinite(heat).all(1)].argmin(1))

    def beyond(self, photos: Array, windows: Array, drop: Array | None = None) -> Array:
        """What covering a window takes beyond equally large windows elsewhere: (n, …).

        drop: (n, windows, …), `self.drop` by default; controls: all windows that share nothing.
        """
        drop = self.drop if drop is None else drop
        weights = apart()[windows]
        taken = drop[photos]
        own = taken[np.arange(len(photos)), windows]
        return np.asarray(own - np.einsum("nw,nw...->n...", weights, taken))

    def share(self, region: str, prompt: int) -> Array:
        """Share of the heat on a region, on the photos that have it; NaN on flat maps: (n,)."""
        seen = self.regions[region]
        maps = self.maps[seen.photos, 0, prompt]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((maps * seen.masks).sum((1, 2)) / maps.sum((1, 2)))


def read(table: pa.Table, asked: Asked, order: dict[str, int], names: Sequence[str]) -> Seen:
    """What rows of `looking.look` hold, in the order of the photos; order: question -> position."""
    rows = sorted(table.to_pylist(), key=lambda row: order[row["question"]])
    failed = {names[order[r["question"]]]: r["error"] for r in rows if r["error"] is not None}
    rows = [row for row in rows if row["error"] is None]
    p, q, f = len(asked.prompts), len(asked.all), len(asked.fills)
    at = np.array([order[row["question"]] for row in rows], int)

    def stack(column: str, shape: tuple[int, ...], kind: Any = np.float32) -> Array:
        read = [np.frombuffer(r[column], kind).reshape(shape) for r in rows if r[column]]
        return np.stack(read) if read else np.zeros((0, *(abs(n) for n in shape)), kind)

    mapped = np.flatnonzero([bool(row["cover"]) for row in rows])

    crops = stack("crops", (WINDOWS, -1), np.float16).astype(np.float32)
    maps = stack("maps", (len(asked.methods), p, MAP, MAP), np.uint8).astype(np.float32) / 255
    stable = [np.frombuffer(r["stable"], np.float32).reshape(p, 3) for r in rows if r["stable"]]
    return Seen(
        asked, [names[i] for i in at], at, stack("scores", (q,)), mapped,
        stack("cover", (f, WINDOWS, q)), stack("alone", (WINDOWS, q)), crops, maps,
        _regions([rows[i] for i in mapped], f, q),
        np.stack(stable) if stable else np.zeros((0, p, 3), np.float32),
        sum(row["seconds"] for row in rows), failed,
    )  # fmt: skip


def _regions(rows: Sequence[dict[str, Any]], fills: int, prompts: int) -> dict[str, RegionSeen]:
    found: dict[str, list[tuple[int, Array, Array, Array]]] = {}
    for i, row in enumerate(rows):
        count = len(row["regions"])
        masks = np.frombuffer(row["region_masks"], np.uint8).reshape(count, MAP, MAP) / 255
        cover, control = (
            np.frombuffer(row[c], np.float32).reshape(count, fills, prompts)
            for c in ("region_cover", "region_control")
        )
        for j, name in enumerate(row["regions"]):
            found.setdefault(name, []).append((i, masks[j], cover[j], control[j]))
    return {
        name: RegionSeen(*(np.array(part) for part in zip(*parts, strict=True)))
        for name, parts in found.items()
    }
