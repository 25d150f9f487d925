"""Every kind of tower: the library against the untouched network, and the table of all of them."""

import numpy as np
import pytest
import torch
import zoo
from torch.nn import functional as F

import gscam_lib as gs
from gscam_lib.model.layers import Layer, channel_axis

FAMILIES = {
    "RN50": ("resnet", "layer4", (7, 7)),
    "ViT-M-32-alt": ("vit", "transformer.resblocks.1.ln_1", (7, 7)),
    "ViT-L-14-CLIPA": ("other-vit", "transformer.resblocks.1.ln_1", (16, 16)),
    "coca_ViT-B-32": ("pooled-vit", "transformer.resblocks.1.ln_1", (7, 7)),
    "ViT-B-32-SigLIP2-256": ("pooled-vit", "trunk.blocks.1.norm1", (8, 8)),
    "EVA02-B-16": ("other-vit", "trunk.blocks.1.norm1", (14, 14)),
    "EVA02-E-14": ("other-vit", "trunk.blocks.0", (16, 16)),
    "PE-Core-B-16": ("other-vit", "trunk.blocks.1.norm1", (14, 14)),
    "convnext_tiny": ("cnn", "trunk.norm_pre", (7, 7)),
    "swin_base_patch4_window7_224": ("cnn", "trunk.norm", (7, 7)),
    "MobileCLIP2-S0": ("cnn", "trunk.final_conv", (8, 8)),
    "MobileCLIP2-S3": ("cnn", "trunk.final_conv", (4, 4)),
    "ViTamin-S": ("other-vit", "trunk.blocks.1.norm1", (14, 14)),
    "ViTamin-XL-384": ("other-vit", "trunk.blocks.1.norm1", (16, 16)),
    "vit_relpos_medium_patch16_cls_224": ("other-vit", "trunk.blocks.1.norm1", (14, 14)),
    "naflex": ("pooled-vit", "trunk.blocks.1.norm1", (24, 24)),
    "registers": ("vit", "trunk.blocks.1.norm1", (37, 37)),
    "patch dropout": ("vit", "transformer.resblocks.1.ln_1", (6, 6)),
    "not square": ("vit", "transformer.resblocks.1.ln_1", (4, 8)),
}
QUICK = [m.name for m in gs.METHODS.values() if not m.slow]


@pytest.fixture(scope="module", params=FAMILIES)
def tower(request):
    model = zoo.small(request.param)
    return request.param, model, model.trace(zoo.photo())


def test_a_trace_is_what_the_untouched_network_computes(tower):
    name, model, trace = tower
    kind, layer, cells = FAMILIES[name]
    assert (model.tower, model.layer.name) == (kind, layer)
    assert tuple(trace.activations.shape[1:]) == cells
    assert zoo.faults(model, trace) == []


def test_every_method_gives_a_map_or_says_why_not(tower):
    _, model, trace = tower
    for method, said in zoo.outcomes(model, trace, QUICK).items():
        applies = model.tower in gs.METHODS[method].towers
        assert (said in ("works", "flat")) == applies, f"{method}: {said}"
        assert applies or "is defined for image towers of kind" in said


class Turned(Layer):
    """A layer that exchanges rows and columns."""

    def to_map(self, output):
        return super().to_map(output).mT


def test_a_mistake_would_be_seen():
    """The check of places finds rows and columns exchanged, by where a change shows."""
    model = zoo.small("ViT-M-32-alt")
    trace = model.trace(zoo.photo())
    trace.layer = Turned(**vars(trace.layer))
    trace.activations = trace.activations.mT.contiguous()
    assert sum("shows in" in fault for fault in zoo.misplaced(model, trace)) == 2


@pytest.mark.parametrize(
    ("shape", "size", "axis"),
    [
        ((2, 256, 7, 7), (224, 224), 1),
        ((2, 7, 7, 192), (224, 224), 3),
        ((2, 64, 4, 8), (64, 128), 1),
        ((2, 4, 8, 64), (64, 128), 3),
        ((2, 64, 8, 4), (64, 128), None),
        ((2, 12, 197, 197), (224, 224), None),
        ((2, 12, 196, 64), (224, 224), None),
        ((2, 32, 111, 111), (224, 224), 1),  # a first convolution without padding
        ((2, 197, 64), (224, 224), None),
    ],
)
def test_what_counts_as_a_map(shape, size, axis):
    assert channel_axis(torch.zeros(shape), size) == axis


@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        ("ViT-B-32-SigLIP2-256", "trunk.attn_pool.k_norm", "no spatial map"),
        ("naflex", "trunk.attn_pool.norm", "no spatial map"),
        ("registers", "trunk.blocks.0.attn.q_norm", "expected the tokens"),
        ("swin_base_patch4_window7_224", "trunk.layers.0.blocks.0.attn", "no spatial map"),
    ],
)
def test_layers_that_are_no_map_are_refused(name, layer, why):
    with pytest.raises(ValueError, match=why):
        zoo.small(name).trace(zoo.photo(), layer=layer)


def test_the_bias_of_siglip_is_in_the_logit_and_not_in_the_map():
    model = zoo.small("ViT-B-32-SigLIP2-256")
    trace = model.trace(zoo.photo())
    assert model.logit_bias == pytest.approx(-10, abs=1)
    cosine = float(trace.embedding @ model.encode_text([zoo.PROMPT])[0])
    expected = model.logit_scale * cosine + model.logit_bias
    assert trace.logit(zoo.PROMPT) == pytest.approx(expected, abs=1e-4)
    before = gs.METHODS["gscorecam"](trace, zoo.PROMPT, k=7)
    with torch.no_grad():
        model.network.logit_bias.fill_(3.0)
    torch.testing.assert_close(gs.METHODS["gscorecam"](trace, zoo.PROMPT, k=7), before)
    against = gs.Target("a cat", against="a dog")
    assert trace.logit(against) < 0


@pytest.mark.parametrize("name", ["EVA02-B-16", "registers"])
def test_class_tokens_of_towers_of_another_kind(name):
    model = zoo.small(name)
    trace = model.trace(zoo.photo(), layer=-1)
    _, gradient, _ = zoo.by_itself(model, trace)
    torch.testing.assert_close(
        trace.class_token_gradient(zoo.PROMPT), gradient[0, 0], atol=1e-5, rtol=1e-3
    )
    pooled = zoo.small("ViT-B-32-SigLIP2-256").trace(zoo.photo())
    with pytest.raises(ValueError, match="has no class token"):
        pooled.class_token_gradient(zoo.PROMPT)


# ---------------------------------------------------------------- attention pooling, by hand


class ByHand:
    """SigLIP or CoCa, from the last block's tokens on: attention and all that follows, in loops."""

    def __init__(self, name):
        self.model = zoo.small(name)
        self.trace = self.model.trace(zoo.photo())
        self.visual = self.model.network.visual
        self.coca = not hasattr(self.visual, "trunk")
        self.blocks = self.visual.transformer.resblocks if self.coca else self.visual.trunk.blocks
        self.outputs, self.attention = self.run()

    def run(self):
        """Outputs (N, W) and attention (H, N, N) of all blocks, in one graph, block by block."""
        if self.coca:
            x = self.visual._embeds(self.trace.pixels[None])
        else:
            trunk = self.visual.trunk
            x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(self.trace.pixels[None])))
        x, outputs, attention = x.requires_grad_(True), [], []
        for block in self.blocks:
            normed = (block.ln_1 if self.coca else block.norm1)(x)[0]
            heads = block.attn.num_heads
            if self.coca:
                mixed = normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
            else:
                mixed = block.attn.qkv(normed)
            A, o = self.look(*mixed.chunk(3, dim=1), heads)
            out = (block.attn.out_proj if self.coca else block.attn.proj)(o)
            x = x + out
            x = x + block.mlp((block.ln_2 if self.coca else block.norm2)(x))
            outputs.append(x[0])
            attention.append(A)
        return outputs, attention

    @staticmethod
    def look(q, k, v, heads):
        """Attention, head by head: (H, n, N), and what it mixes, (n, W)."""
        d = q.shape[1] // heads
        own = [slice(h * d, (h + 1) * d) for h in range(heads)]
        A = torch.stack([torch.softmax(q[:, s] @ k[:, s].T / d**0.5, dim=1) for s in own])
        return A, torch.cat([A[h] @ v[:, s] for h, s in enumerate(own)], 1)

    def pool(self, tokens):
        """Query, keys, values, attention (H, 1, N), mixed (1, W), unit embedding (D,)."""
        if self.coca:
            pooler = self.visual.attn_pool
            a = pooler.attn
            weights = (
                a.in_proj_weight.chunk(3)
                if a.in_proj_weight is not None
                else (a.q_proj_weight, a.k_proj_weight, a.v_proj_weight)
            )
            bq, bk, bv = a.in_proj_bias.chunk(3)
            seen = pooler.ln_k(tokens)
            q = pooler.ln_q(pooler.query)[:1] @ weights[0].T + bq
            k, v, heads = seen @ weights[1].T + bk, seen @ weights[2].T + bv, a.num_heads
        else:
            pooler = self.visual.trunk.attn_pool
            q = pooler.q(pooler.latent[0])
            k, v = pooler.kv(self.visual.trunk.norm(tokens)).chunk(2, dim=1)
            heads = pooler.num_heads
        A, mixed = self.look(q, k, v, heads)
        if self.coca:
            embedding = self.visual.ln_post(a.out_proj(mixed)) @ self.visual.proj
        else:
            x = pooler.proj(mixed)
            embedding = x + pooler.mlp(pooler.norm(x))
        return q, k, v, A, mixed, F.normalize(embedding[0], dim=0)

    def score(self, embedding, sign=1):
        return self.model.logit_scale * embedding @ self.target(sign).vector

    def target(self, sign):
        """The prompt, or what is opposite to it: random weights may give one no positive map."""
        return gs.Target(vector=sign * self.model.encode_text([zoo.PROMPT])[0])

    def cells(self, values):
        rows, columns = self.trace.activations.shape[1:]
        return values[-rows * columns :].reshape(rows, columns)


@pytest.fixture(scope="module", params=["coca_ViT-B-32", "ViT-B-32-SigLIP2-256"])
def by_hand(request):
    return ByHand(request.param)


def close(found, expected):
    assert expected.max() > expected.min(), "a flat map would agree with anything"
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found / scale, expected.detach() / scale, atol=2e-4)


def test_pooling_by_hand_gives_the_photo(by_hand):
    embedding = by_hand.pool(by_hand.outputs[-1])[-1]
    torch.testing.assert_close(embedding.detach(), by_hand.trace.embedding, atol=1e-5, rtol=1e-4)
    ours = by_hand.trace.attention_embedding[0].detach()
    torch.testing.assert_close(ours, by_hand.trace.embedding, atol=1e-5, rtol=1e-4)


def hilacam_by_hand(by_hand, sign):
    *_, A, _, embedding = by_hand.pool(by_hand.outputs[-1])
    maps = [*by_hand.attention, A]
    grads = torch.autograd.grad(by_hand.score(embedding, sign), maps, retain_graph=True)
    R = torch.eye(maps[0].shape[-1])
    for a, g in zip(maps[:-1], grads[:-1], strict=True):
        R = R + sum((a[h] * g[h]).clamp(min=0) for h in range(len(a))) / len(a) @ R
    row = sum((A[h] * grads[-1][h]).clamp(min=0) for h in range(len(A))) / len(A) @ R
    return by_hand.cells(row[0])


def legrad_by_hand(by_hand, sign):
    total = 0
    for tokens in by_hand.outputs:
        *_, A, _, embedding = by_hand.pool(tokens)
        (g,) = torch.autograd.grad(by_hand.score(embedding, sign), [A], retain_graph=True)
        total = total + g.clamp(min=0).mean(0)[0]
    return by_hand.cells(total)


@pytest.mark.parametrize("method", ["hilacam", "legrad", "grad_eclip"])
def test_gradients_through_attention_pooling(by_hand, method):
    make = {"hilacam": hilacam_by_hand, "legrad": legrad_by_hand, "grad_eclip": grad_eclip_by_hand}
    maps = {sign: make[method](by_hand, sign).detach() for sign in (1, -1)}
    lively = [sign for sign, expected in maps.items() if expected.max() > expected.min()]
    assert lively
    for sign in lively:
        close(gs.METHODS[method](by_hand.trace, by_hand.target(sign)), maps[sign])


def grad_eclip_by_hand(by_hand, sign):
    q, k, v, _, mixed, embedding = by_hand.pool(by_hand.outputs[-1])
    (g,) = torch.autograd.grad(by_hand.score(embedding, sign), [mixed], retain_graph=True)
    rows, columns = by_hand.trace.activations.shape[1:]
    k, v = k[-rows * columns :], v[-rows * columns :]
    cosine = torch.stack([F.cosine_similarity(q[0], key, dim=0) for key in k])
    loose = (cosine - cosine.min()) / (cosine.max() - cosine.min())
    expected = torch.stack([(g[0] * v[i]).sum() * loose[i] for i in range(len(v))]).clamp(min=0)
    return by_hand.cells(expected)


def test_grad_eclip_of_pooling_has_one_form(by_hand):
    with pytest.raises(ValueError, match="no such form"):
        gs.METHODS["grad_eclip"](by_hand.trace, zoo.PROMPT, single_head=True)


def test_maskclip_of_attention_pooling(by_hand):
    tokens = by_hand.outputs[-1]
    rows, columns = by_hand.trace.activations.shape[1:]
    alone = [by_hand.pool(t[None])[-1] for t in tokens[-rows * columns :]]
    scores = torch.stack([by_hand.score(e) for e in alone])
    close(gs.METHODS["maskclip"](by_hand.trace, zoo.PROMPT), by_hand.cells(scores - scores.min()))


def test_rollout_of_attention_pooling(by_hand):
    flow = torch.eye(by_hand.attention[0].shape[-1])
    for a in by_hand.attention:
        flow = (a.mean(0) + torch.eye(len(flow))) / 2 @ flow
    *_, A, _, _ = by_hand.pool(by_hand.outputs[-1])
    close(gs.METHODS["rollout"](by_hand.trace, zoo.PROMPT), by_hand.cells((A.mean(0) @ flow)[0]))
