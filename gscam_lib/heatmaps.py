"""From a method's map to a heatmap in the photo's pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from gscam_lib.methods import METHODS
from gscam_lib.methods.score import check_k
from gscam_lib.prompts import Prompt, UnknownPromptWarning, label
from gscam_lib.trace import Trace

FLAT = 1e-6  # a map whose range is below this share of its height is constant up to rounding


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Where a prompt is, for one photo, model and method.

    values: (H, W) float32 in [0, 1] at the photo's size; flat: the map was constant and values are
    all zero; logit: of the whole photo; k: channels used, None for methods without k.
    """

    values: np.ndarray[Any, Any]
    flat: bool
    logit: float
    method: str
    prompt: str
    k: int | None
    model: str


def heatmap(
    trace: Trace, prompt: Prompt, method: str = "gscorecam", *, k: int | None = None
) -> Heatmap:
    """Heatmap of a prompt on a traced photo.

    method: a name in METHODS; k: channels to use, for methods that rank them (None: the paper's
    share of C). Warns with UnknownPromptWarning when a model with a closed vocabulary does not know
    the prompt. Raises ValueError for bad prompts, methods or k, and for weights that give NaN.
    """
    check_method(method, k)
    knowledge = trace.model.knows(prompt)
    if not knowledge.known:
        warnings.warn(
            f"{trace.model.name} does not know {', '.join(map(repr, knowledge.unknown_words))} in "
            f"'{label(prompt)}': do not trust this map. "
            f"Nearest names: {', '.join(knowledge.nearest)}.",
            UnknownPromptWarning,
            stacklevel=2,
        )
    ranks = "k" in signature(METHODS[method]).parameters
    used = (trace.model.default_k if k is None else int(k)) if ranks else None
    options = {"k": used} if ranks else {}
    small = METHODS[method](trace, prompt, **options).detach().cpu().float().numpy()
    values, flat = to_photo(small, trace)
    return Heatmap(values, flat, trace.logit(prompt), method, label(prompt), used, trace.model.name)


def sweep(trace: Trace, prompt: Prompt, ks: Iterable[int]) -> dict[int, Heatmap]:
    """gScoreCAM heatmaps for several k, at the cost of the largest.

    ks: numbers of channels, each from 1 to C; the result keeps their order. Raises ValueError.
    """
    checked = [check_k(k, len(trace.activations)) for k in ks]
    return {k: heatmap(trace, prompt, k=k) for k in checked}


def to_photo(small: np.ndarray[Any, Any], trace: Trace) -> tuple[np.ndarray[Any, Any], bool]:
    """ReLU, min-max, resize to the photo, min-max again: (H, W) in [0, 1], and whether it is flat.

    small: (h, w) map. Flat maps become zeros. Raises ValueError if the map has NaN or infinity.
    """
    if not np.isfinite(small).all():
        raise ValueError(
            f"The map on {trace.model.name} has NaN or infinite values; expected finite numbers. "
            "The weights or the photo's pixels are likely not finite."
        )
    positive = np.maximum(small, 0)
    if np.ptp(positive) <= FLAT * positive.max():
        return np.zeros((trace.geometry.height, trace.geometry.width), np.float32), True
    return _min_max(trace.geometry.unsquash(_min_max(positive))), False


def _min_max(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = values.min(), values.max()
    if high == low:  # a photo of one pixel sees one value of a map that is not flat
        return np.ones_like(values)
    return np.asarray((values - low) / (high - low), dtype=np.float32)


def check_method(method: str, k: int | None = None) -> None:
    """Raise ValueError if there is no such method, or if it takes no k and one is given."""
    if method not in METHODS:
        raise ValueError(f"No method '{method}'. There are: {', '.join(METHODS)}.")
    if k is not None and "k" not in signature(METHODS[method]).parameters:
        takers = [name for name, f in METHODS.items() if "k" in signature(f).parameters]
        raise ValueError(f"Got k={k!r} for '{method}', which takes no k. {', '.join(takers)} does.")
