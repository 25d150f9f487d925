"""Which words made a score: against plain twins on the untouched network, and limit cases."""

import copy
import math

import numpy as np
import open_clip
import pytest
import torch
from conftest import TEXT, VISION
from torch import nn
from torch.nn import functional as F

import gscam_lib as gs
from gscam_lib.methods.wording import WORD_METHODS
from gscam_lib.model.text import cut, pieces, without

SENTENCE = "Two skateboarders, a dog & one apple"  # sub-words, capitals, punctuation
LENGTH = TEXT["context_length"]
TOWERS = {
    "clip": {"layers": 3},
    "one block": {},
    "siglip": {"layers": 3, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "coca": {"layers": 3, "embed_cls": True, "context_length": LENGTH - 1},
}


def tiny(text, visual="resnet", tokenizer=None, text_tower=None):
    custom = bool(set(text) - {"layers"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        network = kind(embed_dim=24, vision_cfg=VISION[visual], text_cfg={**TEXT, **text})
        for p in network.parameters():  # small weights would hide which token is read
            if p.ndim > 1:
                p.data.mul_(3)
        if text_tower is not None:
            network.text = text_tower
    return gs.Model(network.eval(), tokenizer or open_clip.SimpleTokenizer(), name="tiny")


@pytest.fixture(scope="module", params=list(TOWERS))
def trace(request, photo):
    return tiny(TOWERS[request.param]).trace(photo)


def unit(network, text, length):
    ids = open_clip.SimpleTokenizer()([text], context_length=length)
    return F.normalize(network.encode_text(ids), dim=-1)[0]


def score(trace, text_unit):
    network = trace.model.network
    image = F.normalize(network.encode_image(trace.pixels[None]), dim=-1)[0].detach()
    bias = getattr(network, "logit_bias", None)
    return network.logit_scale.exp() * image @ text_unit + (0 if bias is None else bias)


def length_of(trace):
    return trace.model.network.context_length


# ---------------------------------------------------------------- against plain twins


def test_leaving_out_is_what_encoding_the_shorter_sentences_gives(trace):
    found = gs.words(trace, SENTENCE)
    network, length = trace.model.network, length_of(trace)
    listed = SENTENCE.split()
    assert found.words == tuple(listed)
    with torch.no_grad():
        whole = score(trace, unit(network, SENTENCE, length))
        for i, value in enumerate(found.values):
            rest = " ".join(listed[:i] + listed[i + 1 :])
            expected = whole - score(trace, unit(network, rest, length))
            assert value == pytest.approx(float(expected), abs=2e-4)
    assert found.logit == pytest.approx(float(whole), abs=2e-4)


def by_word(each, first=1):
    """Sums of what tokens have over the words of SENTENCE, whose tokens are counted one by one."""
    encode, at, sums = open_clip.SimpleTokenizer().encode, first, []
    for word in SENTENCE.split():
        n = len(encode(word))
        sums.append(float(each[at : at + n].sum()))
        at += n
    return sums


def plain_text(network, ids, blocks_from=0):
    """The text tower of an open_clip.CLIP by hand: embeddings, each block's q, k, v, o; features.

    Nothing of the library, and nothing of nn.MultiheadAttention but its weights.
    """
    leaf = network.token_embedding(ids)[0].detach().requires_grad_(True)
    x, kept = leaf + network.positional_embedding, []
    N = len(x)
    allowed = torch.ones(N, N).tril().bool()
    for block in network.transformer.resblocks:
        a = block.attn
        q, k, v = F.linear(block.ln_1(x), a.in_proj_weight, a.in_proj_bias).chunk(3, dim=1)
        d = q.shape[1] // a.num_heads
        heads = []
        for h in range(a.num_heads):
            part = slice(h * d, (h + 1) * d)
            logits = (q[:, part] @ k[:, part].T / math.sqrt(d)).masked_fill(~allowed, -math.inf)
            heads.append(logits.softmax(1) @ v[:, part])
        o = torch.cat(heads, 1)
        kept.append((q.detach(), k.detach(), v.detach(), o))
        x = x + F.linear(o, a.out_proj.weight, a.out_proj.bias)
        x = x + block.mlp(block.ln_2(x))
    end = int(ids[0].argmax())
    features = network.ln_final(x)[end] @ network.text_projection
    return leaf, kept, F.normalize(features, dim=0), end


@pytest.mark.parametrize("name", ["clip", "one block"])
def test_gradients_and_grad_eclip_are_those_of_a_tower_made_by_hand(name, photo):
    trace = tiny(TOWERS[name]).trace(photo)
    network = trace.model.network
    ids = open_clip.SimpleTokenizer()([SENTENCE], context_length=LENGTH)
    leaf, kept, text_unit, end = plain_text(network, ids)
    total = score(trace, text_unit)
    assert float(total.detach()) == pytest.approx(trace.logit(SENTENCE), abs=1e-3)
    (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True)
    expected = by_word((gradient * leaf.detach()).sum(1))
    found = gs.words(trace, SENTENCE, "gradientxinput").values
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-3)

    chosen = kept[1:] if len(kept) == 3 else kept  # the last two thirds
    each = torch.zeros(end + 1)
    for q, k, v, o in chosen:
        g = torch.autograd.grad(total, o, retain_graph=True)[0][end]
        cosine = F.cosine_similarity(q[end][None], k[: end + 1])
        loose = (cosine - cosine.min()) / (cosine.max() - cosine.min())
        each += (v[: end + 1] @ g) * loose
    expected = np.array(by_word(each.relu()))
    found = gs.words(trace, SENTENCE, "gradeclip").values
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)
    assert found.sum() == pytest.approx(1)


def test_gradients_are_the_slope_of_the_score(trace):
    """A word's embeddings, made a little smaller in the untouched network, change it so much."""
    twin = copy.deepcopy(trace.model.network).double()
    table = next(m for n, m in twin.named_modules() if n.endswith("token_embedding"))
    ids = open_clip.SimpleTokenizer()([SENTENCE], context_length=length_of(trace))
    tokens = pieces(trace.model, SENTENCE, cut(SENTENCE)).tokens
    image = F.normalize(twin.encode_image(trace.pixels[None].double()), dim=-1)[0]

    def scored(places, share):
        def shrink(module, inputs, output):
            output[0, list(places)] *= 1 - share
            return output

        handle = table.register_forward_hook(shrink)
        found = F.normalize(twin.encode_text(ids), dim=-1)[0] @ image * twin.logit_scale.exp()
        handle.remove()
        return float(found)

    with torch.no_grad():
        slopes = [(scored(t, -1e-5) - scored(t, 1e-5)) / 2e-5 for t in tokens]
    found = gs.words(trace, SENTENCE, "gradientxinput").values
    np.testing.assert_allclose(found, slopes, atol=1e-3, rtol=1e-3)


def test_every_open_clip_tower_has_grad_eclip(trace):
    found = gs.words(trace, SENTENCE, "gradeclip")
    assert found.words == tuple(SENTENCE.split())
    assert found.values.min() >= 0
    assert found.values.sum() == pytest.approx(1)


# ---------------------------------------------------------------- words and tokens


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("a  red\tapple, on ice.", ["a", "red", "apple,", "on", "ice."]),
        ("りんごの写真。", ["り", "ん", "ご", "の", "写", "真。"]),
        ("ein Öko-Café – naïve", ["ein", "Öko-Café", "–", "naïve"]),
        ("фото кошки", ["фото", "кошки"]),
        ("iPod写真 2", ["iPod", "写", "真", "2"]),
        ("a 🐱🐶", ["a", "🐱🐶"]),
        ("รูปแมว", ["รู", "ป", "แ", "ม", "ว"]),
    ],
)
def test_sentences_of_any_script_are_cut(sentence, words):
    assert [sentence[a:b] for a, b in cut(sentence)] == words


def test_a_word_left_out_leaves_no_hole():
    sentence = "a  red apple"
    assert [without(sentence, span) for span in cut(sentence)] == [
        "red apple", "a apple", "a red",
    ]  # fmt: skip
    assert without("写真だ", cut("写真だ")[1]) == "写だ"


@pytest.mark.parametrize("method", WORD_METHODS)
@pytest.mark.parametrize("sentence", ["写真 りんご", "a &amp; b", "cœur ½ ﬁsh", "skateboarding"])
def test_no_start_no_end_and_every_letter_once(method, sentence, resnet, photo):
    found = gs.words(resnet.trace(photo), sentence, method)
    assert "".join(found.words) == "".join(sentence.split())
    assert np.isfinite(found.values).all()


def test_tokens_go_to_their_words_and_none_twice():
    model = tiny({})
    encode = open_clip.SimpleTokenizer().encode
    read = pieces(model, SENTENCE, cut(SENTENCE))
    assert [len(t) for t in read.tokens] == [len(encode(w)) for w in SENTENCE.split()]
    assert [i for t in read.tokens for i in t] == list(range(1, 1 + len(encode(SENTENCE))))


def test_letters_that_share_a_token_are_one_word():
    class Pairs(Letters):
        def encode(self, text):  # two letters are one token, as byte pairs would have them
            return [sum(map(ord, text[i : i + 2])) % 40000 + 3 for i in range(0, len(text), 2)]

    model = tiny({}, tokenizer=Pairs())
    read = pieces(model, "写真写真写", cut("写真写真写"))
    assert [b - a for a, b in read.spans] == [2, 2, 1]
    assert read.tokens == [range(1, 2), range(2, 3), range(3, 4)]


class Letters:
    """A tokenizer of another maker: a token for each letter; start, end and padding as given."""

    context_length = LENGTH

    def __init__(self, start=(49406,), end=49407, pad=49407):
        self.start, self.end, self.pad = start, end, pad

    def encode(self, text):
        return [ord(c) % 40000 + 3 for c in text]

    def __call__(self, texts, context_length=LENGTH):
        rows = []
        for text in texts:
            ids = [*self.start, *self.encode(text)]
            ids = [*ids[: context_length - 1], self.end]
            rows.append(ids + [self.pad] * (context_length - len(ids)))
        return torch.tensor(rows)


@pytest.mark.parametrize("make", [Letters, lambda: Letters((), 1, 1), lambda: Letters((), 2, 0)])
def test_tokenizers_of_other_makers_are_read_from_outside(make):
    read = pieces(tiny({}, tokenizer=make()), "ab cde", cut("ab cde"))
    first = len(make().start)
    assert read.tokens == [range(first, first + 2), range(first + 2, first + 6)]  # with its space


class FilledAtTheStart(Letters):
    """As decoders have it: what fills up stands before the sentence, whose last token is read."""

    def __call__(self, texts, context_length=LENGTH):
        rows = []
        for text in texts:
            ids = [*self.encode(text)[: context_length - 1], self.end]
            rows.append([self.pad] * (context_length - len(ids)) + ids)
        return torch.tensor(rows)


def test_what_fills_up_may_stand_before_a_sentence(photo):
    model = tiny({"pool_type": "last"}, tokenizer=FilledAtTheStart(pad=0))
    ids = [0] * (LENGTH - 4) + [ord(c) + 3 for c in "abc"] + [49407]
    assert model.tokenize(["abc"]).tolist() == [ids]
    full = "a" * (LENGTH - 1)
    assert model.tokenize(["abc", full]).shape == (2, LENGTH)
    with pytest.raises(ValueError, match=f"more than the {LENGTH} tokens"):
        model.tokenize(["abc", full + "b"])
    trace = model.trace(photo)
    assert np.abs(gs.words(trace, "ab cde", "leaveoneout").values).min() > 0
    with pytest.raises(ValueError, match=r"fills sentences up at the start.*leaveoneout"):
        gs.words(trace, "ab cde", "gradientxinput")


class Bag(nn.Module):
    """A text tower of another maker: the mean of embeddings of letters, with places."""

    context_length, pad = LENGTH, 49407

    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(LENGTH, 24)
        self.letters = nn.Embedding(49408, 24)

    def forward(self, text):
        places = torch.arange(text.shape[1])[None]
        return (self.letters(text) + 0.1 * self.places(places)).tanh().mean(1)


def test_other_text_towers_have_what_applies_to_them(photo):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = Bag()
    trace = tiny({"pool_type": "last"}, tokenizer=Letters(), text_tower=tower).trace(photo)
    for method in ("leaveoneout", "gradientxinput"):
        assert np.abs(gs.words(trace, "ab cde", method).values).min() > 0
    with pytest.raises(ValueError, match=r"another text tower.*leaveoneout"):
        gs.words(trace, "ab cde", "gradeclip")


# ---------------------------------------------------------------- what is asked


def test_one_word_is_weighed_against_an_empty_sentence(resnet, photo):
    trace = resnet.trace(photo)
    with torch.no_grad():
        empty = score(trace, unit(resnet.network, "", LENGTH))
    (value,) = gs.words(trace, "apple").values
    assert value == pytest.approx(trace.logit("apple") - float(empty), abs=2e-4)
    for method in ("gradientxinput", "gradeclip"):
        assert gs.words(trace, "apple", method).words == ("apple",)


def test_parts_are_left_out_as_a_whole(resnet, photo):
    trace = resnet.trace(photo)
    found = gs.words(trace, "a tennis racket on a chair", parts=["tennis racket", "chair"])
    assert found.words == ("tennis racket", "chair")
    expected = trace.logit("a tennis racket on a chair") - trace.logit("a on a chair")
    assert found.values[0] == pytest.approx(expected, abs=2e-4)
    for bad in (["chair", "tennis racket"], ["sofa"], [" "], []):
        with pytest.raises(ValueError, match="part"):
            gs.words(trace, "a tennis racket on a chair", parts=bad)


def test_against_others_the_words_tell_one_from_the_other(resnet, photo):
    trace = resnet.trace(photo)
    target = gs.Target("a red apple", against=["a green apple"])
    found = gs.words(trace, target)
    shorter = gs.Target("a apple", against=["a green apple"])
    assert found.values[1] == pytest.approx(trace.logit(target) - trace.logit(shorter), abs=2e-4)
    assert found.logit == pytest.approx(trace.logit(target))
    for method in ("gradientxinput", "gradeclip"):
        assert len(gs.words(trace, target, method).values) == 3


def test_errors_say_what_came_in(resnet, photo):
    trace = resnet.trace(photo)
    with pytest.raises(ValueError, match=r"'saliency'.*leaveoneout"):
        gs.words(trace, "an apple", "saliency")
    with pytest.raises(ValueError, match="expected a trace"):
        gs.words(resnet, "an apple")
    with pytest.raises(ValueError, match="2 sentences"):
        gs.words(trace, gs.Target(["an apple", "one apple"]))
    with pytest.raises(ValueError, match="0 sentences"):
        gs.words(trace, gs.Target(vector=torch.ones(24)))
    with pytest.raises(ValueError, match="more than the 16 tokens"):
        gs.words(trace, "apple " * 40)
    with pytest.raises(ValueError, match="empty prompt"):
        gs.words(trace, "  ")


def test_a_closed_vocabulary_is_warned_of_where_the_reader_called(photo):
    trace = gs.load_model("photo-lite").trace(photo)
    with pytest.warns(gs.UnknownPromptWarning, match="'flurble'") as caught:
        gs.words(trace, "a flurble")
    assert caught[0].filename == __file__


def test_inference_mode_changes_nothing(resnet, photo):
    expected = [gs.words(resnet.trace(photo), "a red cup", m).values for m in WORD_METHODS]
    with torch.inference_mode():
        trace = resnet.trace(photo)
        found = [gs.words(trace, "a red cup", m).values for m in WORD_METHODS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_stays_behind(resnet, photo):
    trace = resnet.trace(photo)
    before = trace.logit("a red apple")
    for method in WORD_METHODS:
        gs.words(trace, "a red apple", method)
    assert not any(m._forward_hooks for m in resnet.network.modules())
    assert all(p.grad is None for p in resnet.network.parameters())
    assert resnet.trace(photo).logit("a red apple") == before


# ---------------------------------------------------------------- the figure


SAID = "a sentence of international transportation on one $5 transatlantic line, extraordinary"


def test_figure_has_every_word_and_value_and_breaks_long_lines(resnet, photo):
    found = [gs.words(resnet.trace(photo), SAID)] * 2
    ax = gs.figures.words(found, labels=["one", "two"])
    said = [text.get_text() for text in ax.texts]
    assert [said.count(w) for w in ("sentence", "$5", "one", "two")] == [2, 2, 3, 1]
    assert sum(f"{found[0].values[2]:+.2f}".replace("-", "−") == s for s in said) >= 2
    assert ax.figure.get_size_inches()[0] == 8
    words = [t for t in ax.texts if t.get_bbox_patch() is not None]
    ax.figure.canvas.draw()
    assert max(t.get_window_extent().x1 for t in words) <= ax.figure.bbox.width
    assert len({t.xyann[1] for t in words[:11]}) == 2  # a line is broken
    colors = {t.get_text(): t.get_bbox_patch().get_facecolor() for t in words}
    for word, value in found[0].table:
        if abs(value) > 0.05 * np.abs(found[0].values).max():
            assert (colors[word][0] > colors[word][2]) == (value > 0)  # orange for, blue against
    with pytest.raises(ValueError, match="1 labels for 2"):
        gs.figures.words(found, labels=["one"])
