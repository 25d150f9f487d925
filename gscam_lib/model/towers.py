"""A tower as tokens: its blocks, their queries, keys and values, and one pass that keeps them all.

Only ViTs with plain softmax attention, open_clip's VisionTransformer and timm's, whose class token
becomes the embedding, or whose tokens are pooled by the attention of a learned query (SigLIP,
CoCa). Notation: N tokens of width W, H heads of width d = W / H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F

from gscam_lib.model.layers import blocks_of


class Heads(NamedTuple):
    """What attention is made of: normalized tokens (N, W), and q, k, v (H, N, d) from them."""

    normed: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


Mix = Callable[[Heads], Tensor]
"""A kind of attention: from what it is made of to (H, N, N), or (N, N) for all heads."""


@dataclass(frozen=True)
class Block:
    """One block: x + scale1(attention(norm1(x))), and to that + scale2(mlp(norm2(·)))."""

    module: nn.Module
    attention: nn.Module
    norm1: nn.Module
    scale1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    scale2: nn.Module

    def heads(self, normed: Tensor) -> Heads:
        """Queries, keys and values of normalized tokens (N, W)."""
        a: Any = self.attention
        if isinstance(a, nn.MultiheadAttention):
            mixed = F.linear(normed, a.in_proj_weight, a.in_proj_bias)
        else:
            mixed = a.qkv(normed)
        q, k, v = mixed.unflatten(1, (3, a.num_heads, -1)).permute(1, 2, 0, 3)
        if not isinstance(a, nn.MultiheadAttention):
            q, k = a.q_norm(q), a.k_norm(k)
        return Heads(normed, q, k, v)

    def project(self, mixed: Tensor) -> Tensor:
        """Output of the attention (N, W) from the heads' values (N, W), side by side."""
        a: Any = self.attention
        out: Tensor = (
            a.out_proj(mixed)
            if isinstance(a, nn.MultiheadAttention)
            else a.proj(a.norm(mixed) if hasattr(a, "norm") else mixed)
        )
        return out

    def attend(self, tokens: Tensor, mix: Mix) -> Tensor:
        """What another attention would add to the tokens: (N, W)."""
        heads = self.heads(self.norm1(tokens))
        added: Tensor = self.scale1(self.project(side_by_side(mix(heads) @ heads.v)))
        return added

    def feed(self, tokens: Tensor) -> Tensor:
        """What the feed-forward part adds to the tokens: (N, W)."""
        added: Tensor = self.scale2(self.mlp(self.norm2(tokens)))
        return added


@dataclass(frozen=True)
class Pool:
    """Attention pooling: one learned query looks at the tokens, what it mixes is the embedding.

    look: from the last block's output (N, W) to q (H, 1, d) and k, v (H, N, d); finish: from
    mixed values (n, W), heads side by side, to (n, D).
    """

    look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    finish: Callable[[Tensor], Tensor]

    def __call__(self, tokens: Tensor) -> Pooled:
        """Pool tokens (N, W), and keep what the query saw."""
        q, k, v = self.look(tokens)
        attention = attend(q, k)
        mixed = side_by_side(attention @ v)
        return Pooled(q, k, v, attention, mixed, self.finish(mixed))

    def alone(self, tokens: Tensor) -> Tensor:
        """Each token pooled by itself: it takes all attention, so its values are finished."""
        return self.finish(side_by_side(self.look(tokens)[2]))


class Pooled(NamedTuple):
    """What attention pooling did, in one graph: q, k, v as in `Pool.look`, the rest of the query.

    attention (H, 1, N), mixed (1, W), embedding (1, D), not normalized.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    attention: Tensor
    mixed: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class ViT:
    """Blocks, the patch grid (rows, columns), and the head from tokens (N, W) to (N, D).

    pool: None where the class token becomes the embedding; with one, the head pools each token
    alone.
    """

    blocks: tuple[Block, ...]
    grid: tuple[int, int]
    head: Callable[[Tensor], Tensor]
    pool: Pool | None = None

    def without_prefix(self, tokens: Tensor) -> Tensor:
        """Tokens (N, …) of the patches alone: (rows · columns, …)."""
        return tokens[-self.grid[0] * self.grid[1] :]

    def patches(self, values: Tensor) -> Tensor:
        """One value for each patch, from one for each token (N,) or patch: (rows, columns)."""
        return self.without_prefix(values).reshape(self.grid)


@dataclass(frozen=True)
class Seen:
    """What one block did with one photo, all in one autograd graph."""

    tokens: Tensor
    """(N, W) input of the block."""
    heads: Heads
    attention: Tensor
    """(H, N, N), rows sum to 1."""
    mixed: Tensor
    """(N, W) attention · values, heads side by side, before the output projection."""
    output: Tensor
    """(N, W) output of the block."""


def attend(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q kᵀ / √d + mask), (H, N, N): how much each query takes from each key.

    mask: (N, N) or (H, N, N), −∞ where a query may not look.
    """
    logits: Tensor = q @ k.mT * q.shape[-1] ** -0.5
    return (logits if mask is None else logits + mask).softmax(-1)


def side_by_side(heads: Tensor) -> Tensor:
    """From (H, N, d) to (N, W)."""
    return heads.transpose(0, 1).flatten(1)


OPEN_CLIP_PARTS = ("attn", "ln_1", "ls_1", "ln_2", "mlp", "ls_2")


def as_vit(visual: Any) -> ViT | None:
    """Return the tower as a ViT, or None if it is none of those described above."""
    if isinstance(visual, VisionTransformer):
        parts = OPEN_CLIP_PARTS
        modules = list(visual.transformer.resblocks)
        usual = all(type(m) is ResidualAttentionBlock for m in modules)
        head, pool = _open_clip_head(visual)
        grid = visual.grid_size
    else:
        trunk = getattr(visual, "trunk", None)
        parts = ("attn", "norm1", "ls1", "norm2", "mlp", "ls2")
        modules = list(getattr(trunk, "blocks", []))
        usual = bool(modules) and all(type(m) is TimmBlock and _is_plain(m.attn) for m in modules)
        if not usual or trunk is None:
            return None
        head, pool = _timm_head(visual, trunk)
        grid = blocks_of(visual).grid
    if not usual or head is None or grid is None:
        return None
    blocks = tuple(Block(m, *(getattr(m, part) for part in parts)) for m in modules)
    return ViT(blocks, (int(grid[0]), int(grid[1])), head, pool)


Head = Callable[[Tensor], Tensor]


def _open_clip_head(visual: Any) -> tuple[Head | None, Pool | None]:
    if visual.pool_type != "tok":
        return None, None
    if visual.attn_pool is None:
        return lambda tokens: visual.ln_post(tokens) @ visual.proj, None
    if visual.attn_pool_contrastive is not None:
        return None, None
    pooler = visual.attn_pool
    attention = pooler.attn

    def look(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Of CoCa's 256 queries the first becomes the embedding; none sees the others.
        query, keys = pooler.ln_q(pooler.query)[:1], pooler.ln_k(tokens)
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = (
                attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
            )  # fmt: skip
        biases = attention.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, bias).unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
            for x, w, bias in zip((query, keys, keys), weights, biases, strict=True)
        )
        return q, k, v

    pool = Pool(look, lambda mixed: visual.ln_post(attention.out_proj(mixed)) @ visual.proj)
    return pool.alone, pool


def _timm_head(visual: Any, trunk: Any) -> tuple[Head | None, Pool | None]:
    def finish(pooled: Tensor) -> Tensor:
        out: Tensor = visual.head(trunk.head(trunk.fc_norm(pooled)))
        return out

    if trunk.global_pool == "token":
        return lambda tokens: finish(trunk.norm(tokens)), None
    pooler: Any = getattr(trunk, "attn_pool", None)
    known = type(pooler) is AttentionPoolLatent and pooler.latent_len == 1
    if not known or pooler.pool != "token" or pooler.pos_embed is not None:
        return None, None
    before = 0 if getattr(trunk, "pool_include_prefix", True) else trunk.num_prefix_tokens
    heads = (pooler.num_heads, pooler.head_dim)

    def look(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = pooler.q(pooler.latent[0]).unflatten(1, heads).transpose(0, 1)
        seen = trunk.norm(tokens)[before:]
        k, v = pooler.kv(seen).unflatten(1, (2, *heads)).permute(1, 2, 0, 3)
        return pooler.q_norm(q), pooler.k_norm(k), v

    def pooled(mixed: Tensor) -> Tensor:
        x = pooler.proj(mixed)
        return finish(x if pooler.mlp is None else x + pooler.mlp(pooler.norm(x)))

    pool = Pool(look, pooled)
    return pool.alone, pool


def _is_plain(attention: nn.Module) -> bool:
    """Whether timm's attention is softmax attention and nothing else (its home moved once)."""
    usual = type(attention).__name__ == "Attention" and hasattr(attention, "q_norm")
    return usual and getattr(attention, "gate", None) is None


def text_blocks(network: Any) -> tuple[Block, ...]:
    """The blocks of an open_clip text tower; none where it is another's, or of another kind."""
    transformer = getattr(getattr(network, "text", network), "transformer", None)
    modules = list(getattr(transformer, "resblocks", []))
    usual = all(type(m) is ResidualAttentionBlock for m in modules)
    return tuple(Block(m, *(getattr(m, part) for part in OPEN_CLIP_PARTS)) for m in modules * usual)


def watch(blocks: Sequence[Block], run: Callable[[], Tensor]) -> tuple[tuple[Seen, ...], Tensor]:
    """Run a tower on one photo or sentence, and keep what every block saw and what `run` gives.

    The library attention returns no weights that gradients flow through, so each block's attention
    is computed again from its q, k and v, by hooks that are gone afterwards.
    """
    inner: dict[int, tuple[Heads, Tensor, Tensor]] = {}
    seen: dict[int, Seen] = {}

    def at_attention(index: int, block: Block) -> Any:
        def hook(module: nn.Module, inputs: Any, options: Any, output: Any) -> Any:
            normed = inputs[0].reshape(-1, inputs[0].shape[-1])  # a batch of one, in either order
            heads = block.heads(normed)
            attention = attend(heads.q, heads.k, options.get("attn_mask"))
            mixed = side_by_side(attention @ heads.v)
            inner[index] = (heads, attention, mixed)
            again = block.project(mixed).reshape(inputs[0].shape)
            return (again, None) if isinstance(output, tuple) else again

        return hook

    def at_block(index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            width = output.shape[-1]
            before, after = inputs[0].reshape(-1, width), output.reshape(-1, width)
            seen[index] = Seen(before, *inner[index], after)

        return hook

    handles = []
    try:
        for i, block in enumerate(blocks):
            hook = at_attention(i, block)
            handles.append(block.attention.register_forward_hook(hook, with_kwargs=True))
            handles.append(block.module.register_forward_hook(at_block(i)))
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(seen[i] for i in range(len(blocks))), result


def last_block(vit: ViT, seen: Sequence[Seen], mix: Mix) -> Tensor:
    """Every token's (N, D) place in the joint space, the last block attending by `mix` instead."""
    block, tokens = vit.blocks[-1], seen[-1].tokens
    tokens = tokens + block.attend(tokens, mix)
    return vit.head(tokens + block.feed(tokens))


def second_path(vit: ViT, seen: Sequence[Seen], mix: Mix, blocks: int) -> Tensor:
    """Every token's (N, D) place in the joint space, on a path beside that of the class token.

    From the last `blocks` blocks it collects what attention by `mix` adds, without feed-forward;
    each block reads the tokens of the untouched path (Li et al., CLIP Surgery, 2025).
    """
    chosen = list(zip(vit.blocks, seen, strict=True))[-blocks:]
    path = chosen[0][1].tokens
    for block, s in chosen:
        path = path + block.attend(s.tokens, mix)
    return vit.head(path)


def gradients(score: Tensor, by: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of one score by tensors of a kept graph, which stays."""
    return torch.autograd.grad(score, list(by), retain_graph=True)
