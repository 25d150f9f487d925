"""Methods that score masked copies of the photo: gScoreCAM and ScoreCAM."""

from __future__ import annotations

import torch
from torch import Tensor

from gscam_lib.prompts import Prompt
from gscam_lib.trace import Trace


def gscorecam(trace: Trace, prompt: Prompt, *, k: int | None = None) -> Tensor:
    """gScoreCAM: ScoreCAM on the k channels of highest mean gradient: (h, w) ≥ 0.

    k: 1 to C; None takes the paper's share, 300 of 3072 channels. Raises ValueError otherwise.
    Chen et al., gScoreCAM: What Objects Is CLIP Looking At?, ACCV 2022.
    """
    k = trace.model.default_k if k is None else check_k(k, len(trace.activations))
    return _combine(trace, prompt, trace.ranking(prompt)[:k])


def scorecam(trace: Trace, prompt: Prompt) -> Tensor:
    """ScoreCAM: every channel masks the photo and is weighted by its score: (h, w) ≥ 0.

    Wang et al., Score-CAM: Score-Weighted Visual Explanations, CVPR Workshops 2020.
    """
    return _combine(trace, prompt, torch.arange(len(trace.activations)))


def _combine(trace: Trace, prompt: Prompt, chosen: Tensor) -> Tensor:
    """Weight activations by a softmax over all C channels; those not chosen have the score 0."""
    found = trace.model.scores(trace.masked_embeddings(chosen), prompt).nan_to_num(nan=0.0)
    scores = found.new_zeros(len(trace.activations))
    scores[chosen] = found
    return torch.einsum("c,chw->hw", scores.softmax(0), trace.activations).relu()


def check_k(k: int, channels: int) -> int:
    """Return k as an int, or raise ValueError if it is not a whole number from 1 to channels."""
    try:
        whole = int(k.__index__())
    except AttributeError:
        whole = 0
    if isinstance(k, bool) or not 1 <= whole <= channels:
        raise ValueError(
            f"Got k={k!r}; expected a whole number of channels from 1 to {channels} (this layer's "
            "C). k=None takes the paper's share."
        )
    return whole
