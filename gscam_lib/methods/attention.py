"""Methods that read the attention of a ViT, or place every patch in the joint space.

The second kind (MaskCLIP, CLIP Surgery, GEM, SCLIP) scores each patch as if it were a photo: for a
contrastive target that is its log probability among the distractors at that patch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.methods.perturbation import lifted
from gscam_lib.methods.score import check_count
from gscam_lib.model.prompts import Prompt
from gscam_lib.model.towers import (
    Heads,
    Mix,
    attend,
    gradients,
    last_block,
    second_path,
    side_by_side,
)
from gscam_lib.trace import Trace

NOTHING = "a photo of a ."  # CLIP Surgery's empty name, in the first of its templates


# ---------------------------------------------------------------- attention and its gradients


def hilacam(trace: Trace, prompt: Prompt) -> Tensor:
    """HilaCAM: relevance that positive attention gradients carry up the blocks: (h, w) ≥ 0.

    R = I, then R += mean over heads of ReLU(∇A ⊙ A) · R for each block; the class token's row.
    Chefer et al., Generic Attention-Model Explainability, ICCV 2021, equations 5 and 6.
    """
    attention = [s.attention for s in trace.attention]
    with torch.enable_grad():
        score = trace.model.scores(trace.attention_embedding, prompt)[0]
    relevance = torch.eye(attention[0].shape[-1]).to(attention[0])
    for A, G in zip(attention, gradients(score, attention), strict=True):
        relevance = relevance + (G * A.detach()).relu().mean(0) @ relevance
    return trace.vit.patches(relevance[0])


def rollout(trace: Trace, prompt: Prompt) -> Tensor:
    """Attention rollout: attention and skip connections multiplied up; no prompt: (h, w) ≥ 0.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, equation 1.
    """
    flow = torch.eye(trace.attention[0].attention.shape[-1]).to(trace.pixels)
    for seen in trace.attention:
        flow = (seen.attention.detach().mean(0) @ flow + flow) / 2  # half by the skip connection
    return trace.vit.patches(flow[0])


def legrad(trace: Trace, prompt: Prompt) -> Tensor:
    """LeGrad: how attention in each block would raise the score of its mean token: (h, w) ≥ 0.

    Each block's tokens are averaged, go through the head and are scored; positive gradients by its
    attention are averaged over heads and queries, and added over the blocks.
    Bousselham et al., LeGrad, ICCV 2025.
    """
    total = torch.zeros_like(trace.attention[0].attention[0, 0])
    for seen in trace.attention:
        with torch.enable_grad(), trace.model.running():
            feature = F.normalize(trace.vit.head(seen.output.mean(0, keepdim=True)), dim=-1)
            score = trace.model.scores(feature, prompt)[0]
        (gradient,) = gradients(score, [seen.attention])
        total = total + gradient.relu().mean((0, 1))
    return trace.vit.patches(total)


def grad_eclip(trace: Trace, prompt: Prompt) -> Tensor:
    """Grad-ECLIP: values along the gradient of the class token's attention output: (h, w) ≥ 0.

    ReLU(Σ_d ∂s/∂o_d · v_i,d · λ_i) in the last block, o the class token's mixed values, λ the
    min-maxed cosine of the class token's query with key i (loosened attention).
    Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024.
    """
    last = trace.attention[-1]
    with torch.enable_grad():
        score = trace.model.scores(trace.attention_embedding, prompt)[0]
    (gradient,) = gradients(score, [last.mixed])
    q, k, v = (side_by_side(x.detach()) for x in last.heads[1:])
    k, v = trace.vit.without_prefix(k), trace.vit.without_prefix(v)
    cosine = lifted(F.cosine_similarity(q[:1], k, dim=1))
    loose = cosine / (cosine.max() + 1e-12)
    return trace.vit.patches((v @ gradient[0] * loose).relu())


# ---------------------------------------------------------------- patches in the joint space


def maskclip(trace: Trace, prompt: Prompt) -> Tensor:
    """MaskCLIP: each patch attends to itself only in the last attention: (h, w) ≥ 0, lifted.

    ViT: the last block; ResNet: the attention pooling, whose value and output projections become
    1 × 1 convolutions; other CNNs: each place goes through the head alone, which is CAM (Zhou et
    al. 2016) where the head is a mean and a linear map.
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
    if trace.model.tower == "resnet":
        last = _last_map(trace)
        places = last.flatten(1).T
        features = visual.attnpool.c_proj(visual.attnpool.v_proj(places))
    else:
        with trace.model.running():
            last = visual.trunk.forward_features(trace.pixels[None])[0]
            places = last.flatten(1).T
            features = visual.head(visual.trunk.forward_head(places[:, :, None, None]))
    return F.normalize(features, dim=1).T.reshape(-1, *last.shape[1:])


def _last_map(trace: Trace) -> Tensor:
    """What the attention pooling of a ResNet pools, wherever the trace was taken: (C, h, w)."""
    if trace.layer.name == "layer4":
        return trace.activations
    return trace.model.trace(trace.photo, layer="layer4").activations


def sclip(trace: Trace, prompt: Prompt) -> Tensor:
    """SCLIP: the last block attends by queries to queries and keys to keys: (h, w) ≥ 0, lifted.

    Wang et al., SCLIP: Rethinking Self-Attention for Dense Inference, ECCV 2024.
    """
    features = trace.keep("sclip", lambda: _last_block(trace, _correlative))
    return _similarity(trace, features, prompt)


def _correlative(heads: Heads) -> Tensor:
    return attend(heads.q, heads.q) + attend(heads.k, heads.k)


def gem(trace: Trace, prompt: Prompt, *, blocks: int = 6) -> Tensor:
    """GEM: patches grouped by self-self attention on a path of their own: (h, w) ≥ 0, lifted.

    In the last `blocks` blocks values attend by queries, keys and values, each to itself, and the
    three are averaged. Bousselham et al., Grounding Everything, CVPR 2024; six
    blocks, one iteration and the adaptive temperature as in the authors' package.
    """
    check_count("blocks", blocks)
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


def surgery(trace: Trace, prompt: Prompt, *, blocks: int = 6) -> Tensor:
    """CLIP Surgery: patches attend by values, without what all prompts share: (h, w) ≥ 0, lifted.

    ViT: the last `blocks` blocks, on a path without feed-forward; ResNet: the attention pooling,
    its values normalized and eight times sharper. A contrastive target is held against its
    distractors: features weighted by each text's share in the photo, less their mean over the
    texts. Alone it is held against an empty name. Li et al., A Closer Look at the Explainability of
    CLIP (CLIP Surgery), Pattern Recognition 2025.
    """
    check_count("blocks", blocks)
    key = ("surgery", blocks if trace.model.tower == "vit" else 0)
    features = trace.keep(key, lambda: _by_values(trace, blocks))
    texts = trace.model.encode_target(prompt)
    cosines = torch.einsum("dhw,td->thw", features, texts)
    if len(texts) == 1:
        nothing = trace.model.encode_text([NOTHING])[0]
        return lifted(cosines[0] - torch.einsum("dhw,d->hw", features, nothing))
    shares = (2 * texts @ trace.embedding).softmax(0)
    weighted = cosines * (shares / shares.mean())[:, None, None]
    return lifted(weighted[0] - weighted.mean(0))


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


# ---------------------------------------------------------------- shared


@torch.no_grad()
def _last_block(trace: Trace, mix: Mix) -> Tensor:
    vit, attention = trace.vit, trace.attention  # before the lock, which they take too
    with trace.model.running():
        return _patches(trace, last_block(vit, attention, mix))


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
