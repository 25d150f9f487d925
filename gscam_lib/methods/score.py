"""Methods that score the photo masked by its own activations: gScoreCAM, ScoreCAM, SS-CAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gscam_lib.methods.anytime import Question, Sharpened, full, sharpen
from gscam_lib.methods.method import Count, NotNegative, Seed, Share, check_k, finite, method
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace

Ranking = Literal[
    "mean", "abs_mean", "mean_abs", "max_abs", "variance", "class_token", "random"
]  # fmt: skip
Weighting = Literal["softmax", "softmax_chosen", "uniform"]


@method(
    "gScoreCAM", "Chen et al., ACCV", 2022, forward="1 + k", backward="1",
    as_released={}, parity="4e-7",
)  # fmt: skip
def gscorecam(
    trace: Trace,
    prompt: Prompt,
    *,
    k: Count | None = None,
    ranking: Ranking = "mean",
    weighting: Weighting = "softmax",
    seed: Seed = 0,
    budget: Count | None = None,
    tolerance: Share | None = None,
) -> Tensor:
    """gScoreCAM: ScoreCAM on the k channels of highest mean gradient: (h, w) ≥ 0.

    A (C, h, w) activations, G = ∂s/∂A; S: the k channels of highest mean G_c (signed). For c in S
    the copy x ⊙ M_c of the preprocessed photo is scored, s_c; M_c is A_c upsampled (bilinear,
    aligned corners), min-maxed. All other s_c = 0. L = ReLU(Σ_c w_c A_c), w = softmax of s over C.

    k: 1 to C; None takes the paper's share, 300 of 3072 channels. ranking: what the channels are
    ranked by, see `RANKINGS`; seed: for "random". weighting: "softmax" as above; "softmax_chosen"
    over S alone; "uniform", no scores at all. budget: score at most so many of the k copies and
    guess the rest; tolerance: until the band is this small; both see `anytime.sharpen`.
    On a ViT the released script ranked by the class token's gradient at the last block's output:
    `model.trace(photo, layer=model.vit.blocks[-1].module)` and ranking="class_token". Raises
    ValueError. Chen et al., gScoreCAM: What Objects Is CLIP Looking At?, ACCV 2022.
    """
    options = {"k": k, "ranking": ranking, "weighting": weighting, "seed": seed}
    if weighting == "uniform" and budget is None and tolerance is None:
        return trace.activations[_chosen(trace, prompt, options)].mean(0).relu()
    return _last(trace, prompt, "gscorecam", options, budget, tolerance).map


RANKINGS: dict[str, Callable[[Trace, Prompt, int], Tensor]] = {
    "mean": lambda trace, prompt, seed: trace.gradients(prompt).mean((1, 2)),
    "abs_mean": lambda trace, prompt, seed: trace.gradients(prompt).mean((1, 2)).abs(),
    "mean_abs": lambda trace, prompt, seed: trace.gradients(prompt).abs().mean((1, 2)),
    "max_abs": lambda trace, prompt, seed: trace.gradients(prompt).abs().amax((1, 2)),
    "variance": lambda trace, prompt, seed: trace.gradients(prompt).var((1, 2), correction=0),
    "class_token": lambda trace, prompt, seed: trace.class_token_gradient(prompt),
    "random": lambda trace, prompt, seed: torch.rand(
        len(trace.activations), generator=torch.Generator().manual_seed(seed)
    ).to(trace.activations.device),
}
"""What a channel is worth, (C,), from a trace, a prompt and a seed: the highest are chosen."""


@method(
    "ScoreCAM", "Wang et al., CVPR Workshops", 2020, forward="1 + C",
    as_released={}, parity="5e-6 (grad-cam)",
)  # fmt: skip
def scorecam(
    trace: Trace, prompt: Prompt, *, budget: Count | None = None, tolerance: Share | None = None
) -> Tensor:
    """ScoreCAM: every channel masks the photo and is weighted by its score: (h, w) ≥ 0.

    L = ReLU(Σ_c w_c A_c), w = softmax over all C channels of s(x ⊙ M_c): `gscorecam` with k = C.
    budget, tolerance: as for `gscorecam`.
    Wang et al., Score-CAM: Score-Weighted Visual Explanations, CVPR Workshops 2020.
    """
    return _last(trace, prompt, "scorecam", {}, budget, tolerance).map


def _chosen(trace: Trace, prompt: Prompt, options: Mapping[str, Any]) -> Tensor:
    """The k channels that gScoreCAM scores, the highest ranked first."""
    k = options.get("k")
    k = trace.default_k if k is None else check_k(k, len(trace.activations))
    ranking = RANKINGS[options.get("ranking", "mean")]
    worth = finite(trace, ranking(trace, prompt, options.get("seed", 0)), "ranking")
    return worth.argsort(descending=True, stable=True)[:k]


def sharpened(
    trace: Trace,
    asked: Sequence[tuple[Prompt, Mapping[str, Any]]],
    method: str = "gscorecam",
    *,
    budget: int | None = None,
    tolerance: float | None = None,
    whole: bool = True,
) -> Iterator[list[Sharpened]]:
    """Maps of "gscorecam" or "scorecam" as their copies are scored: see `anytime.sharpen`.

    asked: prompts, each with the method's options; all their copies serve them all. whole: a budget
    for all copies gives the full maps at once, without what comes before.
    """
    questions = []
    for prompt, options in asked:
        weighting = options.get("weighting", "softmax")
        if weighting == "uniform":
            raise ValueError(
                "Got a budget or a tolerance for weighting='uniform', which scores no masked "
                "copies."
            )
        every = torch.arange(len(trace.activations), device=trace.activations.device)
        channels = every if method == "scorecam" else _chosen(trace, prompt, options)
        questions.append(Question(prompt, channels, weighting))
    most = max(len(q.channels) for q in questions)
    if whole and tolerance is None and budget is not None and budget >= most:
        return iter([[Sharpened(full(trace, q), len(q.channels), 0.0) for q in questions]])
    return sharpen(trace, questions, budget=budget, tolerance=tolerance)


def _last(
    trace: Trace, prompt: Prompt, method: str, options: Mapping[str, Any],
    budget: int | None, tolerance: float | None,
) -> Sharpened:  # fmt: skip
    """The map within its budget and tolerance, all copies scored where there is neither."""
    if budget is None and tolerance is None:
        budget = len(trace.activations)
    *_, last = sharpened(trace, [(prompt, options)], method, budget=budget, tolerance=tolerance)
    return last[0]


@method(
    "SS-CAM", "Wang et al., arXiv 2006.14255", 2020, forward="1 + N C, N = 35",
    as_released={}, parity="4e-6 (torchcam)",
)  # fmt: skip
def sscam(
    trace: Trace,
    prompt: Prompt,
    *,
    samples: Count = 35,
    sigma: NotNegative = 2.0,
    seed: Seed = 0,
) -> Tensor:
    """SS-CAM: ScoreCAM, each channel's score a mean over noisy masks: (h, w) ≥ 0.

    L = ReLU(Σ_c w_c A_c), w = softmax over c of mean_n s(x ⊙ (M_c + ε_n)), ε_n normal of deviation
    σ in each pixel. samples: copies for each channel; sigma: of the noise added to masks in [0, 1];
    seed: of it.
    Wang et al., SS-CAM: Smoothed Score-CAM, 2020, with noise on the feature map; as in torchcam,
    masks are not min-maxed again after the noise.
    """
    channels, size = len(trace.activations), trace.pixels.shape[1:]

    def copies(indices: range) -> Tensor:
        masks = trace.masks([i // samples for i in indices])
        noise = [torch.randn(size, generator=_generator(seed, i)) for i in indices]
        noisy = masks + sigma * torch.stack(noise).to(masks)
        return trace.pixels * noisy[:, None]

    key = ("sscam", samples, sigma, seed)
    embeddings = trace.keep(key, lambda: trace.embed_copies(copies, channels * samples))
    scores = trace.model.scores(embeddings, prompt).reshape(channels, samples).mean(1)
    return torch.einsum("c,chw->hw", scores.softmax(0), trace.activations).relu()


def _generator(seed: int, index: int) -> torch.Generator:
    """One for each copy, so that batches do not change the noise."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)
