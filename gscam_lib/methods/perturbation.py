"""Methods that alter the photo or its activations otherwise than channel by channel as masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.methods.method import Count, Positive, Seed, Share, method
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace


@method(
    "Group-CAM", "Zhang et al., arXiv 2103.13859", 2021, forward="2 + G, G = 32", backward="1",
    as_released={}, parity="8e-7",
)  # fmt: skip
def groupcam(
    trace: Trace,
    prompt: Prompt,
    *,
    groups: Count = 32,
    grouping: Literal["neighbours", "kmeans"] = "neighbours",
    blur: Positive | None = 50.0,
    seed: Seed = 0,
) -> Tensor:
    """Group-CAM: groups of Grad-CAM's channels as masks over a blurred photo: (S, S) ≥ 0.

    L = Σ_g ReLU(s(x ⊙ M_g + x̃ ⊙ (1 − M_g)) − s(x̃)) U_g, x̃ the blurred photo, U_g =
    up(ReLU(Σ_{c in g} w_c A_c)), w_c the mean of G_c, up bilinear with half-pixel centres, and M_g
    the min-maxed U_g: masks are min-maxed, what is added up is not.

    groups: how many (at most C); grouping: channels that are neighbours, or whose weighted maps are
    alike ("kmeans", begun at channels drawn with the seed); blur: σ in pixels of the photo that
    shows where the mask is shut, None for the mean colour. Masks depend on the prompt, by
    Grad-CAM's weights. Zhang et al., Group-CAM, 2021, as in gScoreCAM's release: without de-noising
    by percentile, and with negative gains set to 0.
    """
    weighted = trace.gradients(prompt).mean((1, 2))[:, None, None] * trace.activations
    groups = min(groups, len(weighted))
    if grouping == "neighbours":
        group = (torch.arange(len(weighted)) * groups // len(weighted)).to(weighted.device)
    else:
        group = _kmeans(weighted.flatten(1), groups, seed)
    maps = torch.zeros_like(weighted[:groups]).index_add(0, group, weighted).relu()
    background = torch.zeros_like(trace.pixels) if blur is None else _blurred(trace, blur)

    def enlarged(some: Tensor) -> Tensor:
        return F.interpolate(some[:, None], trace.pixels.shape[1:], mode="bilinear")[:, 0]

    def copies(indices: range) -> Tensor:
        large = enlarged(maps[indices])
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        mask = ((large - low) / (high - low).clamp(min=1e-30))[:, None]  # gradients are tiny
        return trace.pixels * mask + background * (1 - mask)

    base = trace.keep(("blurred", blur), lambda: trace.embed_copies(lambda i: background[None], 1))
    embeddings = trace.embed_copies(copies, len(maps))
    gains = trace.model.scores(embeddings, prompt) - trace.model.scores(base, prompt)
    return enlarged(torch.einsum("g,ghw->hw", gains.relu(), maps)[None])[0]  # it is linear


def _kmeans(rows: Tensor, count: int, seed: int, rounds: int = 20) -> Tensor:
    """Lloyd's k-means: the group of each row, (n,), begun at rows drawn at random."""
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    centres = rows[drawn.to(rows.device)]
    group = torch.cdist(rows, centres).argmin(1)
    for _ in range(rounds):
        sums = torch.zeros_like(centres).index_add(0, group, rows)
        sizes = group.bincount(minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        group = torch.cdist(rows, centres).argmin(1)
    return group


def _blurred(trace: Trace, sigma: float) -> Tensor:
    """The preprocessed photo blurred by a Gaussian cut to 51 × 51: (3, S, S)."""
    reach = min(25, min(trace.pixels.shape[1:]) - 1)  # padding by reflection cannot go further
    x = torch.arange(-reach, reach + 1).to(trace.pixels)
    kernel = (-0.5 * (x / sigma) ** 2).softmax(0)
    padded = F.pad(trace.pixels[:, None], (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel[None, None, None, :])
    return F.conv2d(across, kernel[None, None, :, None])[:, 0]


@method(
    "RISE",
    "Petsiuk et al., BMVC",
    2018,
    forward="1 + N, N = 8000",
    as_released={},
    parity="but for the masks' borders",
)
def rise(
    trace: Trace,
    prompt: Prompt,
    *,
    masks: Count = 8000,
    cells: Count = 8,
    p: Share = 0.1,
    seed: Seed = 0,
) -> Tensor:
    """RISE: the mean score of randomly masked photos in which a pixel is seen: (S, S) ≥ 0.

    L = Σ_n s(x ⊙ M_n) M_n / (N p), then lifted to begin at 0: a constant plays no part, and scores
    may be negative. masks: N; cells: a mask has cells × cells of them, each open with probability
    p, is upsampled (bilinear; beyond the outermost centres it stays as it is there, where the
    authors' code mirrors) and shifted at random; seed: of the masks, which serve every prompt.
    Raises ValueError for more cells than the input has pixels on a side.
    Petsiuk et al., RISE, BMVC 2018, equation 6. Defaults: gScoreCAM's, ACCV 2022.
    """
    size = trace.pixels.shape[1], trace.pixels.shape[2]
    if cells > min(size):
        raise ValueError(
            f"Got cells={cells} for 'rise'; expected at most {min(size)}, as many as the input of "
            f"{trace.model.name} has pixels on its shorter side."
        )
    grids, shifts = _grids(masks, cells, p, _cell(size, cells), seed)

    def copies(indices: range) -> Tensor:
        masks = _rise_masks(grids[indices], shifts[indices], size)
        return trace.pixels * masks[:, None].to(trace.pixels)

    key = ("rise", masks, cells, p, seed)
    embeddings = trace.keep(key, lambda: trace.embed_copies(copies, len(grids)))
    scores = trace.model.scores(embeddings, prompt)
    # Upsampling is linear: grids that are shifted alike are added first, which saves most of it.
    places, which = shifts.unique(dim=0, return_inverse=True)
    weighted = scores[:, None, None] * grids.to(scores)
    coarse = scores.new_zeros((len(places), cells, cells)).index_add(
        0, which.to(scores.device), weighted
    )
    total = _weighted_sum(
        torch.ones_like(scores[: len(places)]), lambda i: _rise_masks(coarse[i], places[i], size)
    )
    return lifted(total / (len(grids) * p))


def _cell(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """Height and width of a cell in pixels."""
    return math.ceil(size[0] / cells), math.ceil(size[1] / cells)


def _grids(
    count: int, cells: int, p: float, cell: tuple[int, int], seed: int
) -> tuple[Tensor, Tensor]:
    """Open cells (N, cells, cells), 0 or 1, and how far each mask is shifted (N, 2), in pixels."""
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand((count, cells, cells), generator=generator) < p).float()
    shifts = torch.randint(0, cell[0], (count, 2), generator=generator)
    if cell[1] != cell[0]:
        shifts[:, 1] = torch.randint(0, cell[1], (count,), generator=generator)
    return grids, shifts


def _rise_masks(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, *size): the grid, one cell larger than the photo, cut out at its shift."""
    cells = grids.shape[-1]
    rows, columns = size
    large = [(cells + 1) * side for side in _cell(size, cells)]
    up = F.interpolate(grids[:, None], large, mode="bilinear")[:, 0]
    cuts = zip(up, shifts.tolist(), strict=True)
    return torch.stack([mask[y : y + rows, x : x + columns] for mask, (y, x) in cuts])


@method(
    "Ablation-CAM", "Desai and Ramaswamy, WACV", 2020,
    forward="1 + C / 8, and C from the layer on", parity="4e-6 (grad-cam, maps from 0 on)",
)  # fmt: skip
def ablationcam(trace: Trace, prompt: Prompt) -> Tensor:
    """Ablation-CAM: each channel weighs the score that is lost when it is set to zero: (h, w) ≥ 0.

    L = ReLU(Σ_c (s − s_c) A_c), s_c the score with A_c = 0.
    Desai and Ramaswamy, Ablation-CAM, WACV 2020, up to the division by the score, which
    changes no heatmap (and would turn it round where the score is negative).
    """
    A = trace.activations

    def without(channels: range) -> Tensor:
        maps = A.repeat(len(channels), 1, 1, 1)
        maps[torch.arange(len(channels)), list(channels)] = 0
        return maps

    embeddings = trace.keep("ablation", lambda: trace.embed_activations(without, len(A)))
    lost = trace.logits([prompt]) - trace.model.scores(embeddings, prompt)
    return torch.einsum("c,chw->hw", lost, A).relu()


def _weighted_sum(weights: Tensor, masks: Callable[[range], Tensor], batch: int = 64) -> Tensor:
    """Σ weight · mask over all masks, made batch by batch: (S, S)."""
    total = torch.zeros(())
    for start in range(0, len(weights), batch):
        indices = range(start, min(start + batch, len(weights)))
        total = total.to(weights) + torch.einsum("n,nhw->hw", weights[indices], masks(indices))
    return total


def lifted(values: Tensor) -> Tensor:
    """The map with its lowest value at 0, for scores that have no zero of their own."""
    return values - values.min()
