"""What is measured of one photo: maps, scores of its altered copies; everything that needs a model.

Windows of the photo are covered, and cut out, at all places, so the copies depend on no
prompt: hottest, coldest and random regions are looked up, for as many prompts as one likes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gscam_lib.audits.copies import covered, cut, elsewhere, window_masks, windows
from gscam_lib.audits.photos import Item
from gscam_lib.heatmaps import on_input
from gscam_lib.model.photo import load_photo
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Model, Trace

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
BYTES = ("scores", "cover", "alone", "crops", "maps", "region_masks", "region_cover",
         "region_control", "stable")  # fmt: skip
"""Columns of a row that are arrays."""
MAP = 32
"""Side of the maps that are kept, on the model's input, in steps of 1/255."""
CONTROLS = 6  # equally large regions at other places, for a region that the reader names
SHIFT = 0.04  # of the photo's side: by so much it is moved to see whether its map stays
RANDOM = "random_channels"


@dataclass(frozen=True)
class Asked:
    """What is asked of every photo: prompts under audit, controls, methods, fills of covers.

    stable: the positions of the photos on which the stability of maps is measured; mapped: of those
    on which maps and covers are made, None for all.
    """

    prompts: Sequence[Prompt]
    controls: Sequence[Prompt]
    methods: Sequence[str]
    fills: Sequence[str]
    stable: frozenset[int] = frozenset()
    mapped: frozenset[int] | None = None

    def maps(self, position: int) -> bool:
        """Whether maps and covers are made on a photo."""
        return self.mapped is None or position in self.mapped

    @property
    def all(self) -> list[Prompt]:
        """Prompts, then controls."""
        return [*self.prompts, *self.controls]


def look(model: Model, item: Item, position: int, asked: Asked) -> Row:
    """All that is measured of one photo, as a row for the disk; arrays are bytes.

    scores (Q,), cover (fills, windows, Q), alone (windows, Q) of Q prompts and controls: scores of
    the photo, of it with a window covered, of a window cut out; crops (windows, D) float16; maps
    (methods, P, 32, 32) uint8; regions: names, and for each a mask (32, 32) uint8, cover and
    control (fills, Q); stable (P, 3). A photo that is not mapped has scores alone.
    """
    start = time.perf_counter()
    photo = load_photo(item.image)
    trace = model.trace(photo)
    scores = partial(scores_of, model, asked.all)
    row = {"width": photo.width, "height": photo.height, **dict.fromkeys(BYTES, b"")}
    row |= {"scores": _bytes(scores(trace.embedding[None])[0]), "regions": []}
    if not asked.maps(position):
        return row | {"seconds": time.perf_counter() - start}
    named = {name: region.mask(trace.photo) for name, region in item.regions.items()}
    image = np.asarray(trace.geometry.to_input(trace.photo))
    masks = list(window_masks(*image.shape[:2]))
    cover = [covered(image, masks, how) for how in asked.fills]
    whole = photo if trace.geometry.fit == "squash" else Image.fromarray(image)
    crops = embed(trace, [cut(whole, place) for place in windows()])
    row |= {
        "cover": _bytes(np.stack([scores(embed(trace, copies)) for copies in cover])),
        "alone": _bytes(scores(crops)),
        "crops": _bytes(crops.cpu().numpy(), np.float16),
        "maps": _bytes(maps_of(trace, asked), np.uint8),
        **_regions(trace, named, image, asked, scores),
    }
    if position in asked.stable:
        row["stable"] = _bytes(stability(model, trace, asked))
    return row | {"seconds": time.perf_counter() - start}


def scores_of(model: Model, prompts: Sequence[Prompt], embeddings: Tensor) -> Array:
    """Scores of embeddings (n, D) for many prompts: (n, Q)."""
    return torch.stack([model.scores(embeddings, p) for p in prompts], 1).cpu().float().numpy()


def embed(trace: Trace, pictures: Sequence[Array | Image.Image]) -> Tensor:
    """Embeddings of pictures that go through the same preprocessing as the photo: (n, D)."""
    model, how = trace.model, trace.preprocessing
    opened = [p if isinstance(p, Image.Image) else Image.fromarray(p) for p in pictures]

    def make(indices: range) -> Tensor:
        return torch.stack([model.preprocess(opened[i], how) for i in indices])

    embeddings: Tensor = trace.embed_copies(make, len(opened))
    return embeddings


def maps_of(trace: Trace, asked: Asked) -> Array:
    """Maps of all methods and prompts on the input: (methods, P, 32, 32) uint8; flat ones are 0."""
    found = [on_input(trace, asked.prompts, method, side=MAP) for method in asked.methods]
    return np.asarray(np.rint(255 * np.stack(found)), np.uint8)


def _regions(
    trace: Trace, named: Mapping[str, Array], image: Array, asked: Asked,
    scores: Callable[[Tensor], Array],
) -> dict[str, Any]:  # fmt: skip
    """What covering each region does, and what covering the same shape elsewhere does."""
    names, masks, cover, control = [], [], [], []
    for name, part in named.items():
        whole = Image.fromarray(part).convert("L")
        mask = np.asarray(trace.geometry.to_input(whole.convert("RGB")))[..., 0] > 127
        if not mask.any():
            continue
        small = Image.fromarray(mask).convert("L").resize((MAP, MAP), Image.Resampling.BOX)
        names.append(name)
        masks.append(np.asarray(small))
        others = elsewhere(mask, CONTROLS)
        for how in asked.fills:
            embedded = scores(embed(trace, covered(image, [mask, *others], how)))
            cover.append(embedded[0])
            control.append(embedded[1:].mean(0) if others else np.full_like(embedded[0], np.nan))
    return {
        "regions": names,
        "region_masks": _bytes(np.array(masks, np.uint8), np.uint8),
        "region_cover": _bytes(np.array(cover, np.float32)),
        "region_control": _bytes(np.array(control, np.float32)),
    }


def stability(model: Model, trace: Trace, asked: Asked) -> Array:
    """How alike maps of the first method are: (P, 3).

    Pearson's correlation with the map of the photo moved a little right or down, moved back; of
    random channels; and of the next prompt, or of the first control where there is one prompt.
    """
    method, prompts = asked.methods[0], list(asked.prompts)
    own = on_input(trace, prompts, method, side=MAP)
    random = on_input(trace, prompts, RANDOM, side=MAP)
    if len(prompts) > 1:
        other = np.roll(own, -1, 0)
    else:
        other = on_input(trace, list(asked.controls[:1]) or prompts, method, side=MAP)
    pixels = round(SHIFT * min(trace.photo.size))
    moved = []
    for x, y in ((1, 0), (0, 1)):
        photo = Image.fromarray(np.roll(trace.image, (pixels * y, pixels * x), (0, 1)))
        maps = on_input(model.trace(photo), prompts, method, side=MAP)
        back = round(SHIFT * MAP)
        moved.append(np.roll(maps, (-back * y, -back * x), (1, 2)))
    return np.array(
        [
            (np.mean([alike(own[i], m[i]) for m in moved]), alike(own[i], random[i]),
             alike(own[i], other[i]))
            for i in range(len(prompts))
        ],
        np.float32,
    )  # fmt: skip


def alike(a: Array, b: Array) -> float:
    """Pearson's correlation of two maps; 0 where one is flat."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if np.ptp(a) and np.ptp(b) else 0.0


def _bytes(values: Any, kind: type[Any] = np.float32) -> bytes:
    return np.ascontiguousarray(values, dtype=kind).tobytes()
