"""Methods that place every patch in the joint space and score it as if it were a photo.

For a contrastive target that is its log probability among the distractors at that patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.methods.method import Count, Positive, method
from gscam_lib.methods.perturbation import lifted
from gscam_lib.model.layers import channel_axis, find_layer
from gscam_lib.model.prompts import Prompt, Target, as_target
from gscam_lib.model.towers import Heads, Mix, attend, last_block, second_path, side_by_side
from gscam_lib.trace import Trace

NOTHING = "a photo of a ."  # CLIP Surgery's empty name, in the first of its templates
SCENE = ("there is a {}", "there is the {}", "this is a {}", "this is the {}", "this is one {}")


@method(
    "MaskCLIP", "Zhou et al., ECCV", 2022, forward="2",
    towers=("resnet", "cnn", "vit", "pooled-vit"),
)  # fmt: skip
def maskclip(trace: Trace, prompt: Prompt) -> Tensor:
    """MaskCLIP: each patch attends to itself only in the last attention: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's feature. ViT: the last block; ResNet: the attention
    pooling, whose value and output projections become 1 × 1 convolutions, as does the pooling of a
    ViT that has one; other CNNs: each place goes through the head alone, which is CAM (Zhou et al.
    2016) where the head is a mean and a linear map.
    Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022.
    """
    features = trace.keep("maskclip", lambda: _alone(trace))
    return _similarity(trace, features, prompt)


@torch.no_grad()
def _alone(trace: Trace) -> Tensor:
    """Every place by itself in the joint space: (D, h, w)."""
    visual = trace.model.network.visual
    if trace.model.tower == "vit":
        eye = torch.eye(len(trace.attention[-1].tokens)).to(trace.pixels)
        return _last_block(trace, lambda heads: eye)
    if trace.model.tower == "pooled-vit":
        output = trace.attention[-1].output  # before the lock, which it takes too
        with trace.model.running():
            return _patches(trace, trace.vit.head(output))
    if trace.model.tower == "resnet":
        last = _last_map(trace)
        places = last.flatten(1).T
        features = visual.attnpool.c_proj(visual.attnpool.v_proj(places))
    else:
        with trace.model.running():
            output = visual.trunk.forward_features(trace.pixels[None])
            axis = channel_axis(output, trace.preprocessing.size)
            if axis is None:
                raise ValueError(
                    f"{trace.model.name} gives a tensor of shape {tuple(output.shape)} to its "
                    "head; MaskCLIP needs a map, each of whose places can go through the head."
                )
            last = output.movedim(axis, 1)[0]
            places = last.flatten(1).T[:, :, None, None].movedim(1, axis)
            features = visual.head(visual.trunk.forward_head(places))
    return F.normalize(features, dim=1).T.reshape(-1, *last.shape[1:])


def _last_map(trace: Trace) -> Tensor:
    """What the attention pooling of a ResNet pools, wherever the trace was taken: (C, h, w)."""
    if trace.layer.name == "layer4":
        return trace.activations
    size = trace.pixels.shape[1], trace.pixels.shape[2]
    layer = find_layer(trace.model.network.visual, "layer4", size)
    return Trace(trace.model, trace.photo, layer, preprocess=trace.preprocessing).activations


@method(
    "SCLIP", "Wang et al., ECCV", 2024, forward="2", towers=("vit",), as_released={}, parity="9e-7"
)
def sclip(trace: Trace, prompt: Prompt) -> Tensor:
    """SCLIP: the last block attends by queries to queries and keys to keys: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's feature, the attention softmax(qqᵀ/√d) + softmax(kkᵀ/√d).
    Wang et al., SCLIP: Rethinking Self-Attention for Dense Inference, ECCV 2024.
    """
    features = trace.keep("sclip", lambda: _last_block(trace, _correlative))
    return _similarity(trace, features, prompt)


def _correlative(heads: Heads) -> Tensor:
    return attend(heads.q, heads.q) + attend(heads.k, heads.k)


@method("ClearCLIP", "Lan et al., ECCV", 2024, forward="2", towers=("vit",), as_released={})
def clearclip(trace: Trace, prompt: Prompt) -> Tensor:
    """ClearCLIP: what the last attention adds, and nothing else: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's softmax(qqᵀ/√d) v, projected and led through the head
    without skip connection and feed-forward.
    Lan et al., ClearCLIP: Decomposing CLIP Representations, ECCV 2024.
    """
    mix = lambda heads: attend(heads.q, heads.q)  # noqa: E731
    features = trace.keep("clearclip", lambda: _attention_alone(trace, mix))
    return _similarity(trace, features, prompt)


@method("NACLIP", "Hajimiri et al., WACV", 2025, forward="2", towers=("vit",), as_released={})
def naclip(trace: Trace, prompt: Prompt, *, sigma: Positive = 5.0) -> Tensor:
    """NACLIP: the last attention alone, keys to keys, the nearer the more: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's softmax(kkᵀ/√d + ω) v, projected and led through the head
    without skip connection and feed-forward; ω_ij = exp(−|i − j|² / 2σ²) between patches i and j,
    0 for the class token. sigma: σ, in patches.
    Hajimiri et al., Pay Attention to Your Neighbours, WACV 2025.
    """

    def mix(heads: Heads) -> Tensor:
        logits = heads.k @ heads.k.mT * heads.k.shape[-1] ** -0.5
        near = _nearness(trace.vit.grid, sigma).to(logits)
        prefix = logits.shape[-1] - len(near)
        attention: Tensor = (logits + F.pad(near, (prefix, 0, prefix, 0))).softmax(-1)
        return attention

    features = trace.keep(("naclip", sigma), lambda: _attention_alone(trace, mix))
    return _similarity(trace, features, prompt)


def _nearness(grid: tuple[int, int], sigma: float) -> Tensor:
    """A Gaussian of the distance between patches: (N, N), 1 on the diagonal."""
    places = torch.cartesian_prod(*(torch.arange(side).float() for side in grid))
    return torch.exp(-torch.cdist(places, places).square() / (2 * sigma**2))


@method("Patch similarity", "Radford et al., ICML", 2021, forward="2", towers=("vit",))
def patches(trace: Trace, prompt: Prompt) -> Tensor:
    """Patch similarity: the patches of CLIP as it is, scored like photos: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's output token, led through the head. What every other method
    of this family sets out to mend: often it is low where the object is.
    Radford et al., Learning Transferable Visual Models, ICML 2021, has the network.
    """
    mix = lambda heads: attend(heads.q, heads.k)  # noqa: E731
    features = trace.keep("patches", lambda: _last_block(trace, mix))
    return _similarity(trace, features, prompt)


@method(
    "GEM", "Bousselham et al., CVPR", 2024, forward="2", towers=("vit",),
    as_released={"template": "a photo of a {}."}, parity="8e-7",
)  # fmt: skip
def gem(
    trace: Trace,
    prompt: Prompt,
    *,
    blocks: Count = 6,
    template: Literal["{}", "a photo of a {}."] = "{}",
) -> Tensor:
    """GEM: patches grouped by self-self attention on a path of their own: (h, w) ≥ 0, lifted.

    L_i = s(f_i, t), f_i (D,) patch i's feature after the last `blocks` blocks, in which values
    attend by queries, keys and values, each to itself, the three averaged. template: what each
    sentence is put into (the authors' package takes bare names).
    Bousselham et al., Grounding Everything, CVPR 2024; six blocks, one iteration and the adaptive
    temperature as in the authors' package.
    """
    asked = as_target(prompt)
    if template != "{}" and asked.vector is None:
        wanted, others = (
            [template.format(p) for p in some] for some in (asked.prompts, asked.against)
        )
        prompt = Target(wanted, against=others, name=asked.name)
    features = trace.keep(("gem", blocks), lambda: _second_path(trace, _self_self, blocks))
    return _similarity(trace, features, prompt)


def _self_self(heads: Heads) -> Tensor:
    """The mean of attention of queries, keys and values to themselves, after one smoothing."""
    sharpness = heads.normed.norm(dim=1).mean() * heads.q.shape[-1] ** -0.5
    total = torch.zeros_like(heads.q[:, :1, :1])
    for x in (heads.q, heads.k, heads.v):
        for _ in range(2):
            unit = F.normalize(x, dim=-1)
            attention = (sharpness * unit @ unit.mT).softmax(-1)
            x = attention @ unit
        total = total + attention / 3
    return total


@method(
    "CLIP Surgery", "Li et al., Pattern Recognition", 2025, forward="2", towers=("resnet", "vit"),
    as_released={"ensemble": True}, parity="7e-7 (ViT)",
)  # fmt: skip
def surgery(trace: Trace, prompt: Prompt, *, blocks: Count = 6, ensemble: bool = False) -> Tensor:
    """CLIP Surgery: patches attend by values, without what all prompts share: (h, w) ≥ 0, lifted.

    L_i = Σ_d (f_i,d t_d w_t − mean over texts of the same), f_i (D,) patch i's feature, w the
    softmax over texts of 2 · cos with the photo, divided by its mean; the texts are the target and
    its distractors. Alone it is held against an empty name: L_i = f_i · (t − t_∅). f on ViTs: after
    the last `blocks` blocks, on a path without feed-forward; on ResNets: from the attention
    pooling, its values normalized and eight times sharper. ensemble: every sentence, then a bare
    name, in the authors' 85 templates, embeddings averaged.
    In the authors' code the ResNet branch is never reached (maps differ by .2 to .3; with the
    branch forced, those of single prompts agree to 1e-6), and there the class token is not CLIP's
    own embedding. Li et al., A Closer Look at the Explainability of CLIP (CLIP Surgery), Pattern
    Recognition 2025.
    """
    key = ("surgery", blocks if trace.model.tower == "vit" else 0)
    features = trace.keep(key, lambda: _by_values(trace, blocks))
    texts = _ensemble(trace, prompt) if ensemble else trace.model.encode_target(prompt)
    cosines = torch.einsum("dhw,td->thw", features, texts)
    if len(texts) == 1:
        empty = Target([t("") for t in templates()]) if ensemble else NOTHING
        nothing = trace.model.encode_target(empty)[0]
        return lifted(cosines[0] - torch.einsum("dhw,d->hw", features, nothing))
    shares = (2 * texts @ trace.embedding).softmax(0)
    weighted = cosines * (shares / shares.mean())[:, None, None]
    return lifted(weighted[0] - weighted.mean(0))


def templates() -> list[Callable[[str], str]]:
    """CLIP's 80 sentences for a name, and the five by which CLIP Surgery adds a scene."""
    return [*open_clip.OPENAI_IMAGENET_TEMPLATES, *(f"{s} in the scene.".format for s in SCENE)]


def _ensemble(trace: Trace, prompt: Prompt) -> Tensor:
    """`encode_target`, every sentence in all templates: (1 + distractors, D)."""
    asked = as_target(prompt)
    each = [asked.prompts, *((other,) for other in asked.against)]
    targets = [Target([t(name) for name in some for t in templates()]) for some in each if some]
    if asked.vector is not None:
        targets = [Target(vector=asked.vector), *targets]
    return torch.cat([trace.model.encode_target(target)[:1] for target in targets])


@torch.no_grad()
def _by_values(trace: Trace, blocks: int) -> Tensor:
    """Every place in the joint space by attention of values to values: (D, h, w)."""
    if trace.model.tower == "vit":
        return _second_path(trace, lambda heads: attend(heads.v, heads.v), blocks)
    last = _last_map(trace)
    pool = trace.model.network.visual.attnpool
    tokens = last.flatten(1).T
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.positional_embedding
    v = pool.v_proj(tokens).unflatten(1, (pool.num_heads, -1)).transpose(0, 1)
    unit = F.normalize(v, dim=-1)
    mixed = (8 * v.shape[-1] ** -0.5 * unit @ unit.mT).softmax(-1) @ v
    features = pool.c_proj(side_by_side(mixed))[1:]
    return F.normalize(features, dim=1).T.reshape(-1, *last.shape[1:])


@torch.no_grad()
def _last_block(trace: Trace, mix: Mix) -> Tensor:
    vit, attention = trace.vit, trace.attention  # before the lock, which they take too
    with trace.model.running():
        return _patches(trace, last_block(vit, attention, mix))


@torch.no_grad()
def _attention_alone(trace: Trace, mix: Mix) -> Tensor:
    """Unit vectors (D, h, w) of what the last attention gives each patch, by `mix`."""
    block, heads = trace.vit.blocks[-1], trace.attention[-1].heads
    with trace.model.running():
        mixed = block.project(side_by_side(mix(heads) @ heads.v))
        return _patches(trace, trace.vit.head(mixed))


@torch.no_grad()
def _second_path(trace: Trace, mix: Mix, blocks: int) -> Tensor:
    vit, attention = trace.vit, trace.attention
    with trace.model.running():
        return _patches(trace, second_path(vit, attention, mix, blocks))


def _patches(trace: Trace, tokens: Tensor) -> Tensor:
    """Unit vectors (D, h, w) of the patches among the tokens (N, D)."""
    patches = F.normalize(trace.vit.without_prefix(tokens), dim=1)
    return patches.T.reshape(-1, *trace.vit.grid)


def _similarity(trace: Trace, features: Tensor, prompt: Prompt) -> Tensor:
    """The prompt's score at every place, (D, h, w) to (h, w), lifted to begin at 0."""
    scores = trace.model.scores(features.flatten(1).T, prompt)
    return lifted(scores.reshape(features.shape[1:]))
