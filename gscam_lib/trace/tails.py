"""What follows a layer, run alone: drafts of masked copies' embeddings at almost no cost.

A masked copy costs a pass because its pixels change. Where the mask is laid upon the layer's output
instead, or on what a ViT's class token attends to, only little is left to run. That is another
perturbation than masking pixels, and a draft is never taken for a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.model.towers import side_by_side
from gscam_lib.trace.trace import Trace

AT_ONCE = 64  # copies
LEAST = 1e-4  # of a mask, where its logarithm is taken
Tail = Callable[[Tensor], Tensor]
"""From masks (n, h, w) in [0, 1] to embeddings (n, D), of any length."""


def cell_masks(trace: Trace, channels: Tensor) -> Tensor:
    """Masks of channels on the layer's own grid, min-maxed: (n, h, w)."""
    maps = trace.activations[channels]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-6)


@torch.inference_mode(False)
@torch.no_grad()
def drafts(trace: Trace, channels: Tensor) -> Tensor | None:
    """What the embeddings of masked copies may be, without a pass: (n, D); None where unknown.

    ResNets and CNNs: what follows the layer, of A ⊙ M_c. ViTs: the class token anew through all
    blocks, taking from each patch of the photo by attention times M_c. None where the tail does not
    give the photo's own embedding for a mask of ones (cosine within 1e-4): other layers and towers.
    """
    tail = trace.keep("tail", lambda: _tail(trace))
    if tail is None:
        return None
    known: dict[int, Tensor] = trace.keep("drafts", dict)  # they serve every prompt and every k
    asked = channels.tolist()
    new = [c for c in asked if c not in known]
    with trace.model.running():
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            made = F.normalize(tail(cell_masks(trace, torch.tensor(part))).float(), dim=-1)
            known.update(zip(part, made, strict=True))
    found = torch.stack([known[c] for c in asked])
    return found if bool(found.isfinite().all()) else None


def _tail(trace: Trace) -> Tail | None:
    """The tail of a trace's layer if it reproduces the photo's embedding."""
    visual: Any = trace.model.quick_tower
    trunk: Any = getattr(visual, "trunk", None)
    tail: Tail
    if trace.model.tower == "vit":
        tail = _class_token(trace)
    elif trace.model.tower == "resnet":
        tail = _after(trace, visual.attnpool)
    elif trace.model.tower == "cnn" and hasattr(trunk, "forward_head"):
        tail = _after(trace, lambda maps: visual.head(trunk.forward_head(maps)))
    else:
        return None
    try:
        with trace.model.running():
            whole = tail(torch.ones_like(trace.activations[:1]))
    except RuntimeError:  # the layer is another one, and its maps do not fit
        return None
    alike = F.cosine_similarity(whole.float(), trace.embedding[None])
    return tail if bool((alike > 1 - 1e-4).all()) else None


def _after(trace: Trace, rest: Callable[[Tensor], Tensor]) -> Tail:
    return lambda masks: rest(trace.activations * masks[:, None])


def _class_token(trace: Trace) -> Tail:
    """The class token's way through a ViT, each patch's attention times its mask."""
    vit, seen = trace.vit, trace.attention
    patches = vit.grid[0] * vit.grid[1]

    def tail(masks: Tensor) -> Tensor:
        least = masks.flatten(1).clamp_min(LEAST).log()  # (n, patches)
        token = seen[0].tokens[:1].expand(len(masks), -1)
        for block, saw in zip(vit.blocks, seen, strict=True):
            own = block.heads(block.norm1(token))  # (H, n, d): each copy's class token
            keys, values = saw.heads.k[:, 1:], saw.heads.v[:, 1:]
            logits = own.q @ keys.mT * own.q.shape[-1] ** -0.5
            logits[..., -patches:] += least
            itself = (own.q * own.k).sum(-1, keepdim=True) * own.q.shape[-1] ** -0.5
            share = torch.cat([itself, logits], -1).softmax(-1)
            mixed = share[..., :1] * own.v + share[..., 1:] @ values
            token = token + block.scale1(block.project(side_by_side(mixed)))
            token = token + block.feed(token)
        return vit.head(token)

    return tail
