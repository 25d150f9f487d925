"""Loading: whatever a reader has becomes a network, and what cannot is refused in one sentence."""

import json

import open_clip
import pytest
import torch
from conftest import TEXT
from PIL import Image

import gscam_lib as gs
from gscam_lib.model import published
from gscam_lib.model.published import save_model


def test_unknown_names_answer_with_what_exists(tmp_path):
    with pytest.raises(ValueError, match=r"photo-lite.*gscam models"):
        gs.load_model("RN5O/openai")
    with pytest.raises(ValueError, match=r"RN50.*no weights 'opanai'.*openai"):
        gs.load_model("RN50/opanai")
    with pytest.raises(ValueError, match=r"RN50-quickgelu/openai"):
        gs.load_model("RN50/openai")
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json"):
        gs.load_model(tmp_path)


def test_without_network_it_says_what_to_download():
    with pytest.raises(FileNotFoundError, match=r"gscam download RN50-quickgelu/yfcc15m"):
        gs.load_model("RN50-quickgelu/yfcc15m")


@pytest.fixture
def folder(tmp_path):
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}}
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_local_folder_is_loaded(folder, photo):
    with pytest.raises(FileNotFoundError, match="no weights"):
        gs.load_model(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    network = open_clip.CLIP(**config["model_cfg"])
    torch.save(network.state_dict(), folder / "model.bin")
    (folder / "vocabulary.json").write_text(json.dumps({"names": ["tabby cat", "box", "fly"]}))
    model = gs.load_model(folder)
    assert not model.bundled
    assert model.input_size == 64
    torch.testing.assert_close(
        model.preprocess(Image.new("RGB", (9, 5), (255, 0, 128)))[:, 0, 0],
        torch.tensor([2.0, -2.0, (128 / 255 - 0.5) / 0.25]),
    )
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.vocabulary == ("tabby cat", "box", "fly")


def test_download_keeps_a_folder_that_loads(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "CACHE", tmp_path)
    path = save_model("ViT-S-32-alt/random")
    assert path == tmp_path / "models" / "ViT-S-32-alt-random"
    first = gs.load_model("ViT-S-32-alt/random").encode_text(["a cat"])
    torch.testing.assert_close(first, gs.load_model(path).encode_text(["a cat"]))
    assert save_model("ViT-S-32-alt/random") == path
