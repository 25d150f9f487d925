"""An image tower for many images and no gradients: the same function in less arithmetic."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

GROUP = 8  # images


@torch.inference_mode(False)  # its weights outlive the caller's mode
@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """An open_clip network whose image tower computes the same in less time, where that is known.

    Batch norms go into the convolutions before them, and CLIP's attention pooling is asked only for
    the token that becomes the embedding. The network is not touched; all weights but those of
    folded convolutions are shared with it. Returns the network itself where nothing can be folded,
    or where the two do not agree on random pixels (cosine within 1e-4).
    """
    visual: Any = network.visual
    if not any(map(_foldable, visual.modules())):  # no pass is spent on finding that out
        return network
    tower = copy.deepcopy(visual, {id(t): t for t in (*visual.parameters(), *visual.buffers())})
    for module in tower.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    quick = copy.copy(network)
    quick.__dict__["_modules"] = network._modules | {"visual": tower.eval()}
    before = _embedded(quick)
    for module in list(tower.modules()):
        _fold(module)
    alike = F.cosine_similarity(before, _embedded(quick))
    return quick if bool((alike > 1 - 1e-4).all()) else network


def _embedded(network: Any) -> Tensor:
    weight = next(network.visual.parameters())
    size = network.visual.image_size
    size = size if isinstance(size, tuple | list) else (size, size)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedded: Tensor = network.encode_image(pixels.to(weight))
    return embedded


def _foldable(module: nn.Module) -> bool:
    """Whether something can be replaced among a module's children."""
    pools = any(isinstance(child, AttentionPool2d) for child in module.children())
    return pools or bool(_norms_after_convolutions(module))


def _norms_after_convolutions(module: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and batch norms that stand side by side among a module's children."""
    found = []
    for (first, conv), (second, norm) in pairwise(module.named_children()):
        known = type(norm) in (nn.BatchNorm2d, BatchNormAct2d) and norm.track_running_stats
        if isinstance(conv, nn.Conv2d) and known and conv.out_channels == norm.num_features:
            found.append((first, second))
    return found


def _fold(module: Any) -> None:
    """Replace what can be replaced among a module's children."""
    for name, child in list(module.named_children()):
        if isinstance(child, AttentionPool2d):
            setattr(module, name, FirstTokenPool(child))
    for first, second in _norms_after_convolutions(module):
        norm = getattr(module, second)
        fused: Any = fuse_conv_bn_eval(getattr(module, first), norm)
        setattr(module, first, fused.requires_grad_(False))
        setattr(module, second, getattr(norm, "act", nn.Identity()))


class FirstTokenPool(nn.Module):
    """CLIP's attention pooling for one query: (B, C, h, w) to (B, D).

    The photo's embedding is what the first token, the mean of all places, attends to; open_clip
    computes it for every place. With one query in each head, its product with a key is that of
    Wₖᵀ q with the token, and values are mixed before Wᵥ: four products with C × C weights for an
    image and not for each of its places. The keys' bias shifts all places alike and plays no part.
    On a CPU images are always pooled GROUP at a time, so that none depends on its company in the
    last bits: matrix products of other shapes add in another order. Other engines, which take its
    program for batches of any length, have their own order.
    """

    def __init__(self, pool: AttentionPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Pool a map."""
        if x.device.type != "cpu" or torch.jit.is_tracing():  # type: ignore
            return self._pooled(x)
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 0, -len(x) % GROUP))
        return torch.cat([self._pooled(group) for group in padded.split(GROUP)])[: len(x)]

    def _pooled(self, x: Tensor) -> Tensor:
        pool, heads = self.pool, self.pool.num_heads
        places = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([places.mean(1, keepdim=True), places], 1)
        tokens = tokens + pool.positional_embedding.to(x.dtype)
        query = pool.q_proj(tokens[:, 0]).unflatten(1, (heads, -1))
        asked = torch.einsum("nhd,hdc->nhc", query, pool.k_proj.weight.unflatten(0, (heads, -1)))
        attention = (query.shape[-1] ** -0.5 * asked @ tokens.transpose(1, 2)).softmax(-1)
        mixed = attention @ tokens
        values = torch.einsum("nhc,hdc->nhd", mixed, pool.v_proj.weight.unflatten(0, (heads, -1)))
        pooled: Tensor = pool.c_proj(values.flatten(1) + pool.v_proj.bias)
        return pooled
