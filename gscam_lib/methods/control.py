"""Controls: what a method has to beat. Two know nothing of the model, two only half a gScoreCAM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.methods.method import Count, Seed, method
from gscam_lib.methods.score import gscorecam
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace


@method("Random channels", "control", 2022, forward="1 + k")
def random_channels(
    trace: Trace, prompt: Prompt, *, k: Count | None = None, seed: Seed = 0
) -> Tensor:
    """gScoreCAM on k channels drawn at random, scored as usual: a test of the ranking.

    Returns (h, w) ≥ 0. k: as for gscorecam; seed: of the draw, the same channels for all photos.
    """
    return gscorecam(trace, prompt, k=k, ranking="random", seed=seed)


@method("Uniform weights", "control", 2022, backward="1")
def uniform_weights(trace: Trace, prompt: Prompt, *, k: Count | None = None) -> Tensor:
    """gScoreCAM's k channels, simply averaged: a test of the scores.

    Returns (h, w) ≥ 0. k: as for gscorecam.
    """
    return gscorecam(trace, prompt, k=k, weighting="uniform")


@method("Centre", "control", 2022, forward="0", uses_prompt=False)
def center(trace: Trace, prompt: Prompt) -> Tensor:
    """A Gaussian on the middle of the photo, σ a quarter of its sides: (h, w) ≥ 0."""
    rows, columns = trace.activations.shape[1:]
    y = torch.linspace(-2, 2, 2 * rows + 1)[1::2]
    x = torch.linspace(-2, 2, 2 * columns + 1)[1::2]
    return torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2)


@method("Sobel edges", "Adebayo et al., NeurIPS", 2018, forward="0", uses_prompt=False)
def sobel(trace: Trace, prompt: Prompt) -> Tensor:
    """Edges: the length of the grey photo's Sobel gradient: (S, S) ≥ 0.

    A map that looks like this has found edges, not objects (Adebayo et al., Sanity Checks for
    Saliency Maps, NeurIPS 2018).
    """
    grey = torch.from_numpy(
        np.asarray(trace.geometry.to_input(trace.photo).convert("L"), np.float32)
    )
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")
    edges = F.conv2d(padded, kernels)[0]
    return edges.square().sum(0).sqrt()
