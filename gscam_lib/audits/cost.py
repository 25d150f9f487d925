"""What an audit is about to cost, said before it starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gscam_lib.audits.copies import WINDOWS
from gscam_lib.audits.looking import CONTROLS, Asked, embed, maps_of, stability
from gscam_lib.audits.photos import Item
from gscam_lib.model.photo import load_photo
from gscam_lib.trace import Model

PROBE = 8  # copies that are timed


def counts(asked: Asked, items: Sequence[Item], left: Sequence[int]) -> dict[str, int]:
    """How many photos are looked at, copies embedded, photos mapped, and maps tried for stability.

    left: positions of the photos that are still to be done.
    """
    fills = len(asked.fills)
    mapped = [i for i in left if asked.maps(i)]
    of_regions = sum(len(items[i].regions) for i in mapped) * fills * (1 + CONTROLS)
    return {
        "photos": len(left),
        "copies": len(mapped) * WINDOWS * (fills + 1) + of_regions,
        "maps": len(mapped),
        "stability": sum(i in asked.stable for i in mapped),
    }


def seconds(model: Model, asked: Asked, item: Item, kinds: Sequence[str]) -> dict[str, float]:
    """Seconds for one of each of these kinds, each done once on a photo and thrown away."""
    _ = model.trace(item.image).embedding  # the first pass of a process is much slower
    found = {"photos": _timed(lambda: model.trace(item.image).embedding)}
    trace = model.trace(item.image)
    picture = np.asarray(trace.geometry.to_input(trace.photo))
    jobs: dict[str, Callable[[], Any]] = {
        "copies": lambda: embed(trace, [picture] * PROBE),
        "maps": lambda: maps_of(trace, asked),
        "stability": lambda: stability(model, model.trace(item.image), asked),
    }
    found |= {kind: _timed(job) for kind, job in jobs.items() if kind in kinds}
    return found | ({"copies": found["copies"] / PROBE} if "copies" in found else {})


def _timed(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _sound(items: Sequence[Item]) -> Item:
    """The first photo that can be read; the first of all where none can."""
    for item in items:
        with contextlib.suppress(Exception):  # a broken photo is a note, later
            load_photo(item.image)
            return item
    return items[0]


def minutes(model: Model, asked: Asked, items: Sequence[Item], left: Sequence[int]) -> float:
    """About how long the photos that are left will take."""
    number = counts(asked, items, left)
    wanted = [kind for kind, n in number.items() if n]
    mapped = [i for i in left if asked.maps(i)]
    each = seconds(model, asked, _sound([*(items[i] for i in mapped or left), *items]), wanted)
    return sum(n * each[kind] for kind, n in number.items() if n) / 60


def cost(model: Model, asked: Asked, items: Sequence[Item], left: Sequence[int]) -> str:
    """What an audit is about to cost, in passes and minutes, from one photo measured now."""
    number = counts(asked, items, left)
    return (
        f"{number['photos']} photos, {len(asked.prompts)} prompts, {len(asked.controls)} control "
        f"words: {number['copies']} covered and cut copies, maps of {number['maps']} photos, "
        f"stability on {number['stability']}: about {minutes(model, asked, items, left):.1f} "
        "minutes. What is done is kept in the folder of --out every 20 seconds."
    )
