"""A start for small ViTs: attention that already looks about, as trained ones do.

Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, ICML 2023.
"""

from __future__ import annotations

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

QUERY_KEY = (0.7, 0.7)  # queries times keys: this much noise, and this much identity
VALUE_OUT = (0.4, -0.4)


@torch.no_grad()
def mimetic(visual: VisionTransformer) -> None:
    """Set attention and positions of a ViT: tokens look at what is near and like themselves."""
    for block in visual.transformer.resblocks:
        attention = block.attn
        width, count = attention.embed_dim, attention.num_heads
        q, k, v = (w.unflatten(0, (count, -1)) for w in attention.in_proj_weight.chunk(3))
        for head in range(count):
            left, right = _halves(width, *QUERY_KEY, rank=width // count)
            q[head], k[head] = left.T, right
        left, right = _halves(width, *VALUE_OUT, rank=width)
        v.copy_(left.T.unflatten(0, (count, -1)))
        attention.out_proj.weight.copy_(right.T)
    side = visual.grid_size[0]
    visual.positional_embedding[1:] = sines(side, visual.positional_embedding.shape[1])


def _halves(width: int, noise: float, identity: float, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (width, rank) and (rank, width) of noise plus identity, nearest at this rank."""
    wanted = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    u, s, vt = torch.linalg.svd(wanted)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def sines(side: int, width: int) -> Tensor:
    """Positions as sines and cosines of row and column: (side², width)."""
    pace = 100 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * pace
    one = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)
