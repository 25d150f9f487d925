"""methods/attention.py against a ViT run by hand (tests/naive.py) and stated identities."""

import math
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import pytest
import torch
from conftest import tiny_clip
from torch.nn import functional as F

import gscam_lib as gs
from gscam_lib.methods import dense
from gscam_lib.model.towers import attend, last_block
from gscam_lib.trace.model import Model

PROMPT = "an apple on a table"
HELD = gs.Target(PROMPT, against=("a dog", "snow"))


@pytest.fixture(scope="module")
def vit():
    return tiny_clip("vit")


@pytest.fixture(scope="module")
def trace(vit, photo):
    return vit.trace(photo)


@pytest.fixture(scope="module")
def seen(vit, photo):
    with torch.no_grad():
        return naive.vit(vit, photo)


def lifted(values):
    return np.asarray(values) - np.asarray(values).min()


def scores(model, features, prompt):
    """Logits (or log probabilities) of unnormalized features (n, D), one after the other."""
    target = prompt if isinstance(prompt, gs.Target) else gs.Target(prompt)
    texts = model.encode_text([*target.prompts, *target.against])
    out = []
    for feature in features:
        logits = [model.logit_scale * float(feature @ t / feature.norm()) for t in texts]
        total = math.log(sum(map(math.exp, logits)))
        out.append(logits[0] - (total if target.against else 0))
    return np.array(out)


# ---------------------------------------------------------------- the pass that keeps attention


@pytest.mark.parametrize("tower", ["vit", "timm-vit"])
def test_watching_attention_changes_nothing(tower, photo):
    model = tiny_clip(tower)
    trace = model.trace(photo)
    torch.testing.assert_close(
        model.scores(trace.attention_embedding, PROMPT).detach(),
        trace.logits([PROMPT]),
        atol=1e-5,
        rtol=0,
    )
    for s in trace.attention:
        torch.testing.assert_close(s.attention.sum(-1), torch.ones(s.attention.shape[:2]))
    usual = last_block(trace.vit, trace.attention, lambda heads: attend(heads.q, heads.k))
    embedding = F.normalize(usual[0].detach(), dim=0)
    torch.testing.assert_close(embedding, trace.embedding, atol=1e-5, rtol=0)


def test_what_blocks_saw_equals_the_naive_run(trace, seen):
    for b, s in enumerate(trace.attention):
        for name, key in {"tokens": "x", "attention": "A", "mixed": "o", "output": "out"}.items():
            torch.testing.assert_close(getattr(s, name).detach(), seen[key][b], atol=1e-5, rtol=0)


def test_no_hooks_are_left_even_after_an_exception(vit, photo, monkeypatch):
    def hooks():
        return sum(len(m._forward_hooks) for m in vit.network.modules())

    before = hooks()
    trace = vit.trace(photo)
    monkeypatch.setattr(Model, "encode_pixels", lambda *a, **how: 1 / 0)
    for run in (
        lambda: trace.attention,
        lambda: trace.keep_outputs([vit.network.visual.ln_post]),
        lambda: trace.embed_activations(lambda i: trace.activations[None], 1),
    ):
        with pytest.raises(ZeroDivisionError):
            run()
        assert hooks() == before


def test_threads_share_a_model(vit, photo):
    """What one runs of the network must not go through the hooks of another's trace."""
    names = ["gem", "sclip", "maskclip", "legrad", "hilacam"]
    expected = {name: gs.METHODS[name](vit.trace(photo), PROMPT) for name in names}

    def work(name):
        return name, [gs.METHODS[name](vit.trace(photo), PROMPT) for _ in range(6)]

    with ThreadPoolExecutor(4) as pool:
        for name, found in pool.map(work, names * 4):
            for values in found:
                torch.testing.assert_close(values, expected[name], msg=name)


# ---------------------------------------------------------------- attention and its gradients


def test_hilacam_by_hand_on_two_blocks(vit, trace, photo):
    bumps = naive.zero_bumps(vit)
    run = naive.vit(vit, photo, bumps)
    naive.vit_logit(vit, run, PROMPT).backward()
    grads = [bump.grad for bump in bumps]
    first, second = (
        (G * A.detach()).clamp(min=0).mean(0) for G, A in zip(grads, run["A"], strict=True)
    )
    # R = (I + second)(I + first); its class row without the class token
    row = second[0] + first[0] + second[0] @ first
    expected = row[1:].reshape(4, 4)
    torch.testing.assert_close(gs.METHODS["hilacam"](trace, PROMPT), expected, atol=1e-5, rtol=1e-4)
    released = gs.METHODS["hilacam"](trace, PROMPT, blocks=1)  # the last block alone
    torch.testing.assert_close(released, second[0, 1:].reshape(4, 4), atol=1e-5, rtol=1e-4)
    assert torch.equal(
        gs.METHODS["hilacam"](trace, PROMPT, blocks=9), gs.METHODS["hilacam"](trace, PROMPT)
    )


def test_rollout_by_hand_on_two_blocks(trace, seen):
    first, second = (A.mean(0) for A in seen["A"])
    row = (second[0] + first[0] + second[0] @ first) / 4
    expected = row[1:].reshape(4, 4)
    torch.testing.assert_close(gs.METHODS["rollout"](trace, "anything"), expected)


@pytest.mark.parametrize("blocks", [None, 1, 2, 5])
@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_legrad_by_hand(vit, trace, photo, prompt, blocks):
    bumps = naive.zero_bumps(vit)
    run = naive.vit(vit, photo, bumps)
    total = torch.zeros(17)
    for b, bump in list(enumerate(bumps))[-(blocks or 2) :]:
        mean = run["out"][b].sum(0) / 17
        feature = F.normalize(naive.joint(vit, mean[None]), dim=1)
        (grad,) = torch.autograd.grad(vit.scores(feature, prompt)[0], bump, retain_graph=True)
        for head in grad:
            for query in head:
                total += query.clamp(min=0) / (len(grad) * 17)
    found = gs.METHODS["legrad"](trace, prompt, blocks=blocks)
    torch.testing.assert_close(found, total[1:].reshape(4, 4), atol=1e-5, rtol=1e-4)


def test_grad_eclip_by_hand(vit, trace, photo):
    run = naive.vit(vit, photo)
    o = run["o"][-1]
    o.retain_grad()
    naive.vit_logit(vit, run, PROMPT).backward()
    q, k, v = (run[key][-1].detach().numpy() for key in "qkv")
    loose = [q[0] @ k[i] / np.linalg.norm(q[0]) / np.linalg.norm(k[i]) for i in range(1, 17)]
    loose = naive.minmax(loose)
    expected = np.zeros(16)
    for i in range(16):
        for d in range(o.shape[1]):
            expected[i] += float(o.grad[0, d]) * v[1 + i, d] * loose[i]
    found = gs.METHODS["grad_eclip"](trace, PROMPT)
    np.testing.assert_allclose(found, np.maximum(expected, 0).reshape(4, 4), atol=1e-4)


def test_grad_eclip_as_released_by_hand(vit, trace, seen):
    """One head in the last block; λ of queries and keys behind the output projection."""
    block = vit.network.visual.transformer.resblocks[-1]
    x, q, k, v = (seen[key][-1].detach() for key in ("x", "q", "k", "v"))
    o = ((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v).requires_grad_(True)
    W, bias = block.attn.out_proj.weight.detach(), block.attn.out_proj.bias.detach()
    out = x + o @ W.T + bias
    out = out + block.mlp(block.ln_2(out))
    naive.vit_logit(vit, {"out": [out]}, PROMPT).backward()
    behind = [(t @ W.T + bias).numpy() for t in (q, k)]
    loose = [
        behind[0][0] @ key / np.linalg.norm(behind[0][0]) / np.linalg.norm(key)
        for key in behind[1][1:]
    ]
    expected = np.maximum((v[1:] @ o.grad[0]).numpy() * naive.minmax(loose), 0).reshape(4, 4)
    assert expected.max() > 0
    found = gs.METHODS["grad_eclip"](trace, PROMPT, single_head=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.allclose(found, gs.METHODS["grad_eclip"](trace, PROMPT), atol=1e-3)


def test_one_pass_serves_all_of_them(vit, photo, monkeypatch):
    trace = vit.trace(photo)
    calls = []
    encode = Model.encode_pixels
    monkeypatch.setattr(Model, "encode_pixels", lambda *a, **how: calls.append(1) or encode(*a))
    for method in (
        "hilacam",
        "rollout",
        "legrad",
        "grad_eclip",
        "maskclip",
        "surgery",
        "gem",
        "sclip",
        "clearclip",
        "naclip",
        "patches",
    ):
        for prompt in (PROMPT, "a dog", HELD):
            assert gs.METHODS[method](trace, prompt).isfinite().all()
    assert len(calls) == 1


# ---------------------------------------------------------------- patches in the joint space


@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_maskclip_on_a_vit_is_the_last_block_with_the_identity_as_attention(
    vit, trace, photo, prompt
):
    with torch.no_grad():
        run = naive.vit(vit, photo, attention=lambda q, k, v: torch.eye(17))
        expected = scores(vit, naive.joint(vit, run["out"][-1][1:]), prompt)
    found = gs.METHODS["maskclip"](trace, prompt)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


def test_sclip_by_hand(vit, trace, photo):
    def attention(q, k, v):
        return naive.softmax_attention(q, q, v) + naive.softmax_attention(k, k, v)

    with torch.no_grad():
        run = naive.vit(vit, photo, attention=attention)
        expected = scores(vit, naive.joint(vit, run["out"][-1][1:]), PROMPT)
    found = gs.METHODS["sclip"](trace, PROMPT)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


def attention_alone(model, seen, mix):
    """Patches from the last attention's output, nothing added to it, head by head."""
    attn = model.network.visual.transformer.resblocks[-1].attn
    d = seen["q"][-1].shape[1] // attn.num_heads
    parts = []
    for h in range(attn.num_heads):
        q, k, v = (seen[key][-1][:, h * d : (h + 1) * d] for key in "qkv")
        parts.append(mix(q, k) @ v)
    out = torch.cat(parts, 1) @ attn.out_proj.weight.T + attn.out_proj.bias
    return naive.joint(model, out[1:])


@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_clearclip_by_hand(vit, trace, seen, prompt):
    with torch.no_grad():
        places = attention_alone(vit, seen, lambda q, k: naive.softmax_attention(q, q, None))
        expected = scores(vit, places, prompt)
    found = gs.METHODS["clearclip"](trace, prompt)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


@pytest.mark.parametrize("sigma", [5.0, 0.7])
def test_naclip_by_hand(vit, trace, seen, sigma):
    near = torch.zeros(17, 17)
    for i in range(16):
        for j in range(16):
            square = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            near[1 + i, 1 + j] = math.exp(-square / (2 * sigma**2))

    def mix(q, k):
        return (k @ k.T / math.sqrt(k.shape[1]) + near).softmax(1)

    with torch.no_grad():
        expected = scores(vit, attention_alone(vit, seen, mix), PROMPT)
    found = gs.METHODS["naclip"](trace, PROMPT, sigma=sigma)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


def test_patch_similarity_is_the_networks_own_output(vit, trace, seen):
    with torch.no_grad():
        expected = scores(vit, naive.joint(vit, seen["out"][-1][1:]), PROMPT)
    found = gs.METHODS["patches"](trace, PROMPT)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


def second_path(model, seen, mix, blocks):
    """Patches of the path beside the class token's: attention by `mix`, no feed-forward."""
    resblocks = model.network.visual.transformer.resblocks
    chosen = range(len(resblocks))[-blocks:]
    path = seen["x"][chosen[0]].clone()
    for b in chosen:
        heads, d = resblocks[b].attn.num_heads, seen["q"][b].shape[1] // resblocks[b].attn.num_heads
        parts = []
        for h in range(heads):
            own = [seen[key][b][:, h * d : (h + 1) * d] for key in "qkv"]
            parts.append(mix(*own, seen["normed"][b]) @ own[2])
        path += resblocks[b].attn.out_proj(torch.cat(parts, 1))
    return naive.joint(model, path[1:])


@pytest.mark.parametrize("blocks", [1, 2])
def test_gem_by_hand(vit, trace, seen, blocks):
    def mix(q, k, v, normed):
        temperature = math.sqrt(q.shape[1]) / float(np.mean([t.norm().item() for t in normed]))
        total = 0
        for x in (q, k, v):
            unit = x / x.norm(dim=1, keepdim=True)
            smooth = (unit @ unit.T / temperature).softmax(1) @ unit
            unit = smooth / smooth.norm(dim=1, keepdim=True)
            total = total + (unit @ unit.T / temperature).softmax(1)
        return total / 3

    with torch.no_grad():
        expected = scores(vit, second_path(vit, seen, mix, blocks), PROMPT)
    found = gs.METHODS["gem"](trace, PROMPT, blocks=blocks)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-4)


def test_gem_as_released_puts_names_into_a_sentence(trace):
    name, others = "red apple", ("dog", "snow")
    sentences = [f"a photo of a {n}." for n in (name, *others)]
    for bare, full in (
        (name, sentences[0]),
        (gs.Target(name, against=others), gs.Target(sentences[0], against=sentences[1:])),
    ):
        found = gs.METHODS["gem"](trace, bare, template="a photo of a {}.")
        torch.testing.assert_close(found, gs.METHODS["gem"](trace, full))
        assert not torch.allclose(found, gs.METHODS["gem"](trace, bare))
    vector = gs.Target(vector=trace.embedding)
    found = gs.METHODS["gem"](trace, vector, template="a photo of a {}.")
    torch.testing.assert_close(found, gs.METHODS["gem"](trace, vector))


def test_surgery_as_released_averages_85_sentences(vit, trace, seen):
    forms = [t("{}") for t in dense.templates()]
    assert len(set(forms)) == 85
    assert {"a photo of a {}.", "itap of my {}.", "this is one {} in the scene."} <= set(forms)

    def mean(name):
        each = vit.encode_text([form.format(name) for form in forms])
        return F.normalize(each.mean(0), dim=0)

    with torch.no_grad():
        mix = lambda q, k, v, normed: naive.softmax_attention(v, v, v)  # noqa: E731
        places = F.normalize(second_path(vit, seen, mix, 2), dim=1)
        alone = places @ (mean("apple") - mean(""))
        texts = torch.stack([mean(n) for n in ("apple", "dog", "snow")])
        shares = (2 * texts @ trace.embedding).softmax(0)
        weighted = places @ texts.T * shares / shares.mean()
        held = weighted[:, 0] - weighted.mean(1)
    target = gs.Target("apple", against=("dog", "snow"))
    for prompt, expected in (("apple", alone), (target, held)):
        found = gs.METHODS["surgery"](trace, prompt, ensemble=True)
        np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-5)
    assert gs.METHODS["surgery"](trace, gs.Target(vector=texts[0]), ensemble=True).max() > 0


@torch.no_grad()
def surgery_by_hand(model, features, embedding, prompt):
    """Feature surgery, dimension by dimension, from unnormalized places (n, D)."""
    places = features / features.norm(dim=1, keepdim=True)
    if isinstance(prompt, str):
        text, empty = model.encode_text([prompt, "a photo of a ."])
        return places @ (text - empty)
    texts = model.encode_text([*prompt.prompts, *prompt.against])
    weights = torch.tensor([math.exp(2 * float(t @ embedding)) for t in texts])
    weights = weights / weights.sum()
    weights = weights / weights.mean()
    products = torch.stack([places * t * w for t, w in zip(texts, weights, strict=True)])
    return (products - products.mean(0))[0].sum(1)


@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_surgery_by_hand_on_a_vit(vit, trace, seen, prompt):
    with torch.no_grad():
        mix = lambda q, k, v, normed: naive.softmax_attention(v, v, v)  # noqa: E731
        places = second_path(vit, seen, mix, 2)
    expected = surgery_by_hand(vit, places, trace.embedding, prompt)
    found = gs.METHODS["surgery"](trace, prompt)
    np.testing.assert_allclose(found, lifted(expected).reshape(4, 4), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_surgery_by_hand_on_a_resnet(resnet, photo, prompt):
    trace = resnet.trace(photo)
    pool = resnet.network.visual.attnpool
    places = trace.activations.flatten(1).T
    tokens = torch.cat([places.mean(0)[None], places]) + pool.positional_embedding
    v = pool.v_proj(tokens)
    d = v.shape[1] // pool.num_heads
    parts = []
    for h in range(pool.num_heads):
        own = v[:, h * d : (h + 1) * d]
        unit = own / own.norm(dim=1, keepdim=True)
        parts.append((unit @ unit.T * 8 / math.sqrt(d)).softmax(1) @ own)
    features = pool.c_proj(torch.cat(parts, 1))[1:]
    expected = surgery_by_hand(resnet, features, trace.embedding, prompt)
    found = gs.METHODS["surgery"](trace, prompt)
    np.testing.assert_allclose(found, lifted(expected).reshape(3, 3), atol=1e-5)


@torch.no_grad()
def test_maskclip_on_a_resnet_is_two_convolutions(resnet, photo):
    trace = resnet.trace(photo)
    pool = resnet.network.visual.attnpool
    maps = trace.activations[None]
    for linear in (pool.v_proj, pool.c_proj):
        maps = F.conv2d(maps, linear.weight[:, :, None, None], linear.bias)
    expected = lifted(scores(resnet, maps[0].flatten(1).T, PROMPT)).reshape(3, 3)
    np.testing.assert_allclose(gs.METHODS["maskclip"](trace, PROMPT), expected, atol=1e-4)
    early = resnet.trace(photo, layer="layer2")  # it pools what layer4 gives, wherever traced
    np.testing.assert_allclose(gs.METHODS["maskclip"](early, PROMPT), expected, atol=1e-4)


@torch.no_grad()
def test_maskclip_on_a_cnn_is_cam(photo):
    """With a mean and a linear head, the places' features average to the photo's."""
    model = tiny_clip("timm-cnn")
    trace = model.trace(photo)
    weight = model.network.visual.head.proj.weight
    places = trace.activations.flatten(1).T @ weight.T
    torch.testing.assert_close(F.normalize(places.mean(0), dim=0), trace.embedding)
    expected = lifted(scores(model, places, PROMPT)).reshape(3, 3)
    np.testing.assert_allclose(gs.METHODS["maskclip"](trace, PROMPT), expected, atol=1e-4)


def test_a_network_in_training_gives_the_same_maps(photo):
    model = tiny_clip("timm-vit")
    for block in model.network.visual.trunk.blocks:
        block.mlp.drop1.p = 0.5
    methods = ("hilacam", "legrad", "grad_eclip", "maskclip", "surgery", "gem", "sclip")
    expected = [gs.METHODS[method](model.trace(photo), PROMPT) for method in methods]
    model.network.train()
    for method, usual in zip(methods, expected, strict=True):
        torch.testing.assert_close(gs.METHODS[method](model.trace(photo), PROMPT), usual)
    assert model.network.visual.trunk.blocks[0].mlp.drop1.training


def test_class_names_held_against_themselves_leave_nothing(trace):
    same = gs.Target(PROMPT, against=PROMPT)
    assert gs.METHODS["surgery"](trace, same).max() < 1e-6
    assert gs.METHODS["maskclip"](trace, same).max() < 1e-5


@pytest.mark.parametrize("method", ["gem", "surgery", "hilacam", "legrad"])
def test_bad_numbers_of_blocks(trace, method):
    for blocks in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="whole number from 1 on"):
            gs.METHODS[method](trace, PROMPT, blocks=blocks)
