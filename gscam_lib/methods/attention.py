"""Methods that read the attention of a ViT, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.methods.method import Count, method
from gscam_lib.methods.perturbation import lifted
from gscam_lib.model.prompts import Prompt
from gscam_lib.model.towers import Seen, attend, gradients, side_by_side
from gscam_lib.trace import Trace

VIT = ("vit", "pooled-vit")


@method(
    "HilaCAM", "Chefer et al., ICCV", 2021, forward="2", backward="1", towers=VIT,
    as_released={"blocks": 1}, parity="6e-7",
)  # fmt: skip
def hilacam(trace: Trace, prompt: Prompt, *, blocks: Count | None = None) -> Tensor:
    """HilaCAM: relevance that positive attention gradients carry up the blocks: (h, w) ≥ 0.

    R = I, then R += mean over heads of ReLU(∇A ⊙ A) · R for each block, A its attention (H, N, N);
    L is the class token's row of R (N, N). Where tokens are pooled by attention A_p (H, 1, N), L is
    the query's row, mean over heads of ReLU(∇A_p ⊙ A_p) · R. blocks: how many, the last ones; None:
    all, as the equations have it (the authors' notebook for CLIP takes the last alone).
    Chefer et al., Generic Attention-Model Explainability, ICCV 2021, equations 5, 6 and 10.
    """
    pooled = trace.pooled
    attention = [s.attention for s in _last(trace, blocks)]
    last = [] if pooled is None else [pooled.attention]
    with torch.enable_grad():
        score = trace.model.scores(trace.attention_embedding, prompt)[0]
    relevance = torch.eye(attention[0].shape[-1]).to(attention[0])
    grads = gradients(score, attention + last)
    for A, G in zip(attention, grads, strict=False):
        relevance = relevance + (G * A.detach()).relu().mean(0) @ relevance
    for A, G in zip(last, grads[len(attention) :], strict=True):
        relevance = (G * A.detach()).relu().mean(0) @ relevance[-A.shape[-1] :]
    return trace.vit.patches(relevance[0])


def _last(trace: Trace, blocks: int | None) -> tuple[Seen, ...]:
    """The last so many blocks, all where there are fewer."""
    return trace.attention if blocks is None else trace.attention[-blocks:]


@method(
    "Attention rollout", "Abnar and Zuidema, ACL", 2020, forward="2", towers=VIT, uses_prompt=False
)
def rollout(trace: Trace, prompt: Prompt) -> Tensor:
    """Attention rollout: attention and skip connections multiplied up; no prompt: (h, w) ≥ 0.

    L is the class token's row of Π_blocks (Ā + I) / 2, Ā the attention's mean over heads; where
    tokens are pooled by attention, what its query takes of that product.
    Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, equation 1.
    """
    flow = torch.eye(trace.attention[0].attention.shape[-1]).to(trace.pixels)
    for seen in trace.attention:
        flow = (seen.attention.detach().mean(0) @ flow + flow) / 2  # half by the skip connection
    if trace.pooled is not None:
        taken = trace.pooled.attention.detach().mean(0)
        flow = taken @ flow[-taken.shape[-1] :]
    return trace.vit.patches(flow[0])


@method(
    "LeGrad", "Bousselham et al., ICCV", 2025, forward="2", backward="L", towers=VIT,
    as_released={"blocks": 2}, parity="4e-7",
)  # fmt: skip
def legrad(trace: Trace, prompt: Prompt, *, blocks: Count | None = None) -> Tensor:
    """LeGrad: how attention in each block would raise the score of its mean token: (h, w) ≥ 0.

    L = Σ_blocks mean over heads and queries of ReLU(∂s_l/∂A_l), s_l the score of the mean of the
    block's output tokens, led through the head. Where tokens are pooled by attention (SigLIP, CoCa)
    each block's output is pooled, and A_l is what the pooling's query looks at. blocks: how many,
    the last ones; None: all, as in the paper (the authors' package takes the last two).
    Bousselham et al., LeGrad, ICCV 2025; for SigLIP as in its authors' package.
    """
    vit, total = trace.vit, torch.zeros(()).to(trace.pixels)
    for seen in _last(trace, blocks):
        with torch.enable_grad(), trace.model.running():
            if vit.pool is None:
                attention, feature = seen.attention, vit.head(seen.output.mean(0, keepdim=True))
            else:
                pooled = vit.pool(seen.output)
                attention, feature = pooled.attention, pooled.embedding
            score = trace.model.scores(F.normalize(feature, dim=-1), prompt)[0]
        (gradient,) = gradients(score, [attention])
        total = total + gradient.relu().mean((0, 1))
    return vit.patches(total)


@method(
    "Grad-ECLIP", "Zhao et al., ICML", 2024, forward="2", backward="1", towers=VIT,
    as_released={"single_head": True}, parity="2e-6",
)  # fmt: skip
def grad_eclip(trace: Trace, prompt: Prompt, *, single_head: bool = False) -> Tensor:
    """Grad-ECLIP: values along the gradient of the class token's attention output: (h, w) ≥ 0.

    L_i = ReLU(Σ_d ∂s/∂o_d · v_i,d · λ_i) in the last block, o (W,) the class token's mixed values,
    λ the min-maxed cosine of the class token's query with key i (loosened attention).
    single_head: as in the authors' code: the last block attends with one head as wide as the
    tokens, which is another network than the one explained, and λ compares queries and keys that
    went through the output projection. Where tokens are pooled by attention, that pooling takes the
    last block's place and its query the class token's; it has no single-headed form.
    Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024.
    """
    last, pooled = trace.attention[-1], trace.pooled
    heads = last.heads[1:] if pooled is None else pooled[:3]
    q, k, v = (side_by_side(x.detach()) for x in heads)
    if pooled is not None and single_head:
        raise ValueError(
            f"Got single_head=True; {trace.model.name} pools its tokens by attention, for which "
            "the authors' code has no such form. Leave it out."
        )
    if pooled is not None:
        embedding, mixed = trace.attention_embedding, pooled.mixed
    elif single_head:
        embedding, mixed = _with_one_head(trace, q, k, v)
        with torch.no_grad():
            q, k = (trace.vit.blocks[-1].project(x) for x in (q, k))
    else:
        embedding, mixed = trace.attention_embedding, last.mixed
    with torch.enable_grad():
        score = trace.model.scores(embedding, prompt)[0]
    (gradient,) = gradients(score, [mixed])
    k, v = trace.vit.without_prefix(k), trace.vit.without_prefix(v)
    cosine = lifted(F.cosine_similarity(q[:1], k, dim=1))
    loose = cosine / (cosine.max() + 1e-12)
    return trace.vit.patches((v @ gradient[0] * loose).relu())


def _with_one_head(trace: Trace, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The embedding (1, D) if the last block had a single head, and its mixed values (N, W)."""
    block, tokens = trace.vit.blocks[-1], trace.attention[-1].tokens.detach()
    with torch.enable_grad(), trace.model.running():
        mixed = (attend(q, k) @ v).requires_grad_(True)
        tokens = tokens + block.scale1(block.project(mixed))
        embedding = trace.vit.head((tokens + block.feed(tokens))[:1])
        return F.normalize(embedding, dim=-1), mixed
