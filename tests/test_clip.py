"""Photos of every kind, layers of every tower, prompts (loading: test_weights.py)."""

import numpy as np
import pytest
import torch
from conftest import TOWERS, tiny_clip
from PIL import Image

import gscam_lib as gs
from gscam_lib.model.layers import find_layer
from gscam_lib.model.photo import Geometry, load_photo


def grey_photo(mode, value):
    return Image.new(mode, (6, 4), value)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (grey_photo("L", 100), (100, 100, 100)),
        (grey_photo("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (grey_photo("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (grey_photo("LA", (50, 255)), (50, 50, 50)),
        (grey_photo("1", 1), (255, 255, 255)),
        (Image.fromarray(np.full((4, 6), 257 * 80, np.uint16)), (80, 80, 80)),
        (grey_photo("I", 257 * 80), (80, 80, 80)),
        (grey_photo("P", 0).convert("RGB").quantize(4), (0, 0, 0)),
        (np.full((4, 6, 3), 7, np.uint8), (7, 7, 7)),
    ],
)
def test_photos_of_every_mode_become_rgb(image, expected):
    photo = load_photo(image)
    assert photo.mode == "RGB"
    assert photo.size == (6, 4)
    assert photo.getpixel((3, 2)) == expected


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    photo = load_photo(tmp_path / "turned.png")
    assert photo.size == (4, 8)
    assert photo.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 3), float),
        np.zeros((0, 6, 3), np.uint8),
        Image.new("F", (4, 4)),
        Image.new("RGB", (0, 4)),
        3,
        None,
    ],
)
def test_what_is_no_photo_is_refused(bad):
    with pytest.raises(ValueError, match=r"Got"):
        load_photo(bad)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_photo(tmp_path / "nowhere.jpg")
    broken = tmp_path / "broken.jpg"
    Image.new("RGB", (300, 300)).save(broken)
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        load_photo(broken)
    broken.write_text("not a photo")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        load_photo(broken)


def test_a_bomb_is_refused_with_advice(tmp_path, monkeypatch):
    Image.new("RGB", (200, 200)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="too large"):
        load_photo(tmp_path / "huge.png")


def test_unsquash_equals_torch_bilinear():
    small = np.random.default_rng(0).random((7, 5), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], (40, 70), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(Geometry(70, 40, 64).unsquash(small), expected, atol=1e-6)


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
        find_layer(Flat(), None, 32)


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
    assert gs.Target(vector=vector) != gs.Target(vector=torch.zeros(24))
    for bad in ({}, {"prompts": "a cat", "vector": vector}, {"prompts": ["a", ""]}):
        with pytest.raises(ValueError, match="Got"):
            gs.Target(**bad)
