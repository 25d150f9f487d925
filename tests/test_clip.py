"""Layers of every tower, prompts (photos: test_photo.py; loading: test_weights.py)."""

import pytest
import torch
from conftest import TOWERS, tiny_clip

import gscam_lib as gs
from gscam_lib.model.layers import find_layer


@pytest.mark.parametrize("tower", TOWERS)
def test_default_layers_are_spatial(tower, photo):
    model = tiny_clip(tower)
    expected = {
        "resnet": ("layer4", 3),
        "vit": ("transformer.resblocks.1.ln_1", 4),
        "timm-cnn": ("trunk.bn2", 3),
        "timm-vit": ("trunk.blocks.5.norm1", 10),
    }
    name, side = expected[tower]
    assert model.layer.name == name
    assert model.trace(photo).activations.shape == (model.channels, side, side)


def test_other_layers_by_name(resnet, photo):
    assert resnet.trace(photo, layer="layer3").activations.shape[1:] == (6, 6)
    with pytest.raises(ValueError, match=r"Near it: .*layer4"):
        resnet.trace(photo, layer="layer44")
    with pytest.raises(ValueError, match="spatial map"):
        resnet.trace(photo, layer="attnpool")


def test_a_tower_without_spatial_layer_is_refused():
    class Flat(torch.nn.Module):
        image_size = 32

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3 * 32 * 32, 8)

        def forward(self, x):
            return self.linear(x.flatten(1))

    with pytest.raises(ValueError, match="no spatial layer"):
        find_layer(Flat(), None, (32, 32))


def test_text_is_encoded_once_and_has_unit_length(resnet, monkeypatch):
    calls = []
    encode = resnet.network.encode_text
    monkeypatch.setattr(resnet.network, "encode_text", lambda t: calls.append(len(t)) or encode(t))
    first = resnet.encode_text(["one new thing", "another new thing", "one new thing"])
    again = resnet.encode_text(["another new thing"])
    assert calls == [2]
    torch.testing.assert_close(first[0], first[2])
    torch.testing.assert_close(first[1], again[0])
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("prompt", ["", "   ", None, 3, b"cat", "word " * 60])
def test_bad_prompts_are_refused(resnet, prompt):
    with pytest.raises(ValueError, match="prompt"):
        resnet.encode_text([prompt])


def test_a_prompt_that_just_fits_is_taken(resnet):
    resnet.encode_text(["cat " * 14])  # 14 tokens, start and end: 16
    with pytest.raises(ValueError, match="16 tokens"):
        resnet.encode_text(["cat " * 15])


def test_knows_covers_a_prompt_with_names(resnet):
    closed = gs.Model(
        resnet.network, resnet.tokenizer, vocabulary=["tabby cat", "box", "fly", "knife"]
    )
    for prompt in ["a tabby cat", "Tabby Cat", "two boxes and flies", "a photo of my knives."]:
        assert closed.knows(prompt).known, prompt
    knowledge = closed.knows("a tabby catt in a bix")
    assert not knowledge.known
    assert knowledge.unknown_words == ("tabby", "catt", "bix")
    assert "box" in knowledge.nearest
    assert resnet.knows("anything at all").known


def test_targets(resnet, photo):
    trace = resnet.trace(photo)
    cat, dog = resnet.encode_text(["a cat", "a dog"])
    mean = torch.nn.functional.normalize(cat + dog, dim=0)
    e = trace.embedding
    scale = resnet.logit_scale
    both = gs.Target(["a cat", "a dog"])
    assert trace.logit(both) == pytest.approx(float(scale * e @ mean), abs=1e-5)
    assert trace.logit(gs.Target("a cat")) == trace.logit("a cat")
    assert trace.logit(gs.Target(vector=3 * e)) == pytest.approx(scale, rel=1e-5)
    versus = gs.Target("a cat", against="a dog")
    expected = torch.stack([scale * e @ cat, scale * e @ dog]).log_softmax(0)[0]
    assert trace.logit(versus) == pytest.approx(float(expected), abs=1e-5)
    heat = gs.heatmap(trace, versus, k=3)
    assert heat.prompt == "a cat against a dog"
    gradient = trace.gradients("a cat") - trace.gradients("a dog")
    share = 1 - expected.exp()
    torch.testing.assert_close(trace.gradients(versus), share * gradient, atol=1e-6, rtol=1e-3)


def test_targets_are_equal_by_what_they_ask():
    assert gs.Target("a cat") == gs.Target(["a cat"])
    assert hash(gs.Target("a cat", against=["b"])) == hash(gs.Target("a cat", against="b"))
    vector = torch.ones(24)
    assert gs.Target(vector=vector) == gs.Target(vector=vector)
    assert gs.Target(vector=vector) != gs.Target(vector=-vector)
    for bad in ({}, {"prompts": "a cat", "vector": vector}, {"prompts": ["a", ""]}):
        with pytest.raises(ValueError, match="Got"):
            gs.Target(**bad)
