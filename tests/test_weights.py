"""Loading: whatever a reader has becomes a network, and what cannot is refused in one sentence."""

import copy
import json
import logging
import re
import shutil
import threading
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from conftest import TEXT
from PIL import Image
from safetensors.torch import save
from typer.testing import CliRunner

import gscam_lib as gs
from gscam_lib.cli import app
from gscam_lib.model import huggingface, live, published
from gscam_lib.model.archives import Stored, read_archive
from gscam_lib.model.checkpoints import WeightsWarning, assemble, named_config
from gscam_lib.model.published import save_model
from tests.bench import loading
from tests.bench.forms import (
    ARCHITECTURES,
    FORMS,
    OpenAI,
    half,
    named,
    network,
    open_clip_folder,
    saved,
)
from tests.bench.their_forms import processor, their_folder, theirs


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}: {form.name}")
def test_each_form_loads_or_is_refused(form, tmp_path):
    """What loads has its twin's outputs in fp32, and says what was assumed, or assumed nothing."""
    if form.kind == "transformers" or "transformers" in form.name or "Siglip" in form.name:
        pytest.importorskip("transformers", reason="it is an optional package")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, value, made = loading.outcome(form, tmp_path / "it")
    assert not list(tmp_path.rglob("it-ran")), "code from the file was run"
    if form.refused:
        assert found == "refused", value
        assert re.search(form.refused, str(value), re.S), value
        return
    assert found == "loads", value
    assert loading.difference(value, made) < 1e-5
    assert {p.dtype for p in value.network.parameters()} == {torch.float32}
    assumed = [str(w.message) for w in caught if w.category is WeightsWarning]
    assert len(assumed) == bool(form.warns)
    assert all(re.search(form.warns, text, re.S) for text in assumed), assumed


def test_quickgelu_is_seen_where_openais_files_tell(tmp_path):
    low, _ = half(network("vit", quick=True))
    with named:
        model = gs.load_model(saved(OpenAI(low).state_dict(), tmp_path / "x.pt"))
    kinds = {type(m).__name__ for m in model.network.modules()}
    assert "QuickGELU" in kinds
    assert "GELU" not in kinds


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:Detected pickle:UserWarning")
@pytest.mark.parametrize("name", ["x.pt", "old.pt", "x.safetensors", "script.pt"])
def test_no_damage_breaks_the_reader(name, tmp_path):
    """Bytes are changed at random: it is refused by our error, or tensors of some values come."""
    state = {"visual.a": torch.arange(6.0).reshape(2, 3), "b": torch.ones((), dtype=torch.half)}
    path = tmp_path / name
    if name == "script.pt":
        module = torch.nn.Linear(3, 2)
        torch.jit.trace(module, torch.ones(1, 3)).save(path)
    elif name == "x.safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pt")
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            changed[place] = draw.integers(256)
        path.write_bytes(changed)
        try:
            content = read_archive(path).content
            for value in content.values() if isinstance(content, dict) else ():
                if isinstance(value, Stored) and np.prod(value.shape, dtype=float) < 1e6:
                    assert value.read().shape == value.shape
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20


def test_a_zip_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as source:
        entries = {e.filename: source.read(e) for e in source.infolist()}
    key = next(n for n in entries if n.endswith("data.pkl"))
    assert entries[key].count(b"K\x03") == 2  # the storage's size and the tensor's
    entries[key] = entries[key].replace(b"K\x03", b"J\xff\xff\xff\x7f")
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries.items():
            target.writestr(name, content)
    with pytest.raises(ValueError, match="is longer than"):
        read_archive(path)


def test_a_network_is_made_without_filling_it_first():
    model = assemble(named_config("ViT-B-32"), empty=True)
    filled = sum(t.nbytes for t in model.state_dict().values() if not t.is_meta)
    assert filled < 0.05 * sum(t.nbytes for t in model.state_dict().values())
    assert not model.attn_mask.is_meta  # no checkpoint has it


def test_threads_that_load_at_once_leave_logging_as_it_was(tmp_path):
    folder = open_clip_folder(tmp_path)
    before = logging.root.manager.disable, list(logging.root.handlers), logging.root.level
    models = []
    with named:
        threads = [
            threading.Thread(target=lambda: models.append(gs.load_model(folder))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(models) == 4
    assert (logging.root.manager.disable, logging.root.handlers, logging.root.level) == before


def test_a_live_network_is_left_as_it_is():
    mine = copy.deepcopy(network("rn")).train()
    state = {k: v.clone() for k, v in mine.state_dict().items()}
    formats = [p.is_contiguous() for p in mine.parameters()]
    steps = open_clip.image_transform(64, is_train=False, mean=[0.1] * 3, std=[0.9] * 3)
    model = gs.load_model((mine, None, steps, open_clip.SimpleTokenizer(context_length=16)))
    assert model.network.visual.preprocess_cfg["mean"] == (0.1,) * 3
    assert not hasattr(mine.visual, "preprocess_cfg")
    assert mine.training
    assert all(p.requires_grad for p in mine.parameters())
    assert [p.is_contiguous() for p in mine.parameters()] == formats
    torch.testing.assert_close(mine.state_dict(), state)
    low = copy.deepcopy(network()).half()
    assert gs.load_model(low).network is not low
    assert {p.dtype for p in low.parameters()} == {torch.float16}
    assert gs.load_model(mine).network is mine


def test_a_copied_live_model_does_not_follow_later_training():
    pytest.importorskip("transformers", reason="it is an optional package")
    mine = copy.deepcopy(theirs("CLIP", "gelu"))
    model = gs.load_model((mine, processor("CLIP")))
    before = model.encode_text(["a cat"])
    for parameter in mine.parameters():
        parameter.data.zero_()
    model._text.clear()
    torch.testing.assert_close(model.encode_text(["a cat"]), before)


def test_the_models_own_preprocessing_comes_along(tmp_path):
    pytest.importorskip("transformers", reason="it is an optional package")
    clip = gs.load_model(their_folder(tmp_path / "clip", "CLIP", "gelu"))
    siglip = gs.load_model(their_folder(tmp_path / "siglip", "Siglip", "gelu"))
    folder = gs.load_model(open_clip_folder(tmp_path / "open_clip"))
    keys = ("size", "mean", "std", "interpolation", "resize_mode")
    found = [[m.network.visual.preprocess_cfg[k] for k in keys] for m in (clip, siglip, folder)]
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    assert found[0] == [(64, 64), mean, std, "bicubic", "shortest"]
    assert found[1] == [(64, 64), [0.5] * 3, [0.5] * 3, "bilinear", "squash"]
    assert found[2] == [(64, 64), [0.5] * 3, [0.25] * 3, "bicubic", "squash"]
    preprocess_of = huggingface.preprocess_of
    unscaled = preprocess_of({"do_rescale": False, "image_mean": [127.5] * 3}, "siglip", "")
    assert unscaled["mean"] == [0.5] * 3
    with pytest.warns(WeightsWarning, match="without an image processor"):
        assert preprocess_of(None, "siglip", "x")["mean"] == [0.5] * 3


@pytest.mark.parametrize(
    ("steps", "mode"),
    [
        (open_clip.image_transform(64, is_train=False), "shortest"),
        (open_clip.image_transform(64, is_train=False, resize_mode="squash"), "squash"),
        (open_clip.image_transform(64, is_train=False, resize_mode="longest"), "longest"),
    ],
)
def test_transforms_are_understood(steps, mode):
    found = live._of_transforms(steps)
    assert found["resize_mode"] == mode
    assert found["mean"] == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    with pytest.raises(ValueError, match="Normalize"):
        live._of_transforms(Image.open)


def test_transformers_tokens_are_those_of_open_clip(tmp_path):
    pytest.importorskip("transformers", reason="it is an optional package")
    model = gs.load_model(their_folder(tmp_path, "CLIP", "gelu"))
    ours = open_clip.SimpleTokenizer(context_length=16)(["a photo of 2 cats, isn't it"])
    found = model.tokenizer(["a photo of 2 cats, isn't it"])
    end = int(ours.argmax()) + 1
    assert torch.equal(ours[0, :end], found[0, :end])
    with pytest.raises(ValueError, match="16 tokens"):
        model.encode_text(["cat " * 15])


@pytest.mark.parametrize(("kind", "act"), [("CLIP", "gelu"), ("Siglip", "gelu_pytorch_tanh")])
def test_a_tokenizer_that_fills_up_at_the_start_does_so_at_the_end_for_these_towers(kind, act):
    pytest.importorskip("transformers", reason="it is an optional package")
    parts = processor(kind), processor(kind)
    parts[1].tokenizer.padding_side = "left"
    asked, given = (gs.load_model((theirs(kind, act), part)) for part in parts)
    assert torch.equal(given.encode_text(["a cat"]), asked.encode_text(["a cat"]))
    with pytest.raises(ValueError, match="16 tokens"):
        given.encode_text(["cat " * 40])


def test_siglip_keeps_the_bias_of_its_logit(tmp_path):
    pytest.importorskip("transformers", reason="it is an optional package")
    mine = copy.deepcopy(theirs("Siglip", "gelu"))
    mine.logit_bias.data.fill_(-9.0)
    model = gs.load_model((mine, processor("Siglip")))
    assert float(model.network.logit_bias) == -9.0


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    for name in ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "ViT-B-16-SigLIP/webli"):
        with pytest.raises(ValueError, match=r"needs the package transformers.*gscam_lib\[hf\]"):
            gs.load_model(name)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="needs the package transformers"):
        gs.load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nope"}, "Got device='nope'"),
        ({"device": "meta"}, "Got device='meta'"),
        ({"layer": 1.5}, "Got layer=1.5"),
        ({"layer": True}, "Got layer=True"),
        ({"precision": "fp8"}, "Got precision='fp8'"),
        ({"precision": None}, "Got precision=None"),
        ({"arch": "RN50"}, "do not fit the architecture"),
        ({"weights": "nowhere.pt"}, r"No file of weights at nowhere\.pt"),
        ({"weights": 3}, "holds a int"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        gs.load_model("mini-rn", **options)


def test_arch_goes_with_files_alone():
    with pytest.raises(ValueError, match="which is no file here"):
        gs.load_model("RN50-quickgelu/random", arch="RN50")
    with pytest.raises(ValueError, match="has its own"):
        gs.load_model(network(), arch="RN50")


def test_a_model_is_not_loaded_twice(resnet, photo):
    with pytest.raises(ValueError, match="loaded already"):
        gs.load_model(resnet)
    for size in ("8", 0, 2.0, True):
        with pytest.raises(ValueError, match="Got batch_size="):
            resnet.trace(photo, batch_size=size)


def test_fp16_on_a_cpu_warns_that_it_is_slow():
    with pytest.warns(UserWarning, match="several times slower"):
        gs.load_model("mini-rn", precision="fp16", device="cpu")


def test_the_command_line_says_it_in_one_sentence(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    (tmp_path / "model.pt").write_text("hello")
    for what in ("model.pt", ".", "nowhere/at/all"):
        arguments = ["heatmap", tmp_path / "photo.png", "a cat", "--model", tmp_path / what]
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output


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


def test_the_command_line_says_what_was_assumed(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    path = saved(network().state_dict(), tmp_path / "x.pt")
    arguments = ["heatmap", tmp_path / "photo.png", "a cat", "-o", tmp_path / "cat.png"]
    with named:
        result = CliRunner().invoke(app, list(map(str, [*arguments, "--k", 2, "--model", path])))
    assert result.exit_code == 0, result.output
    assert "warning: The architecture of" in result.stderr
    assert "tiny-vit-quickgelu" in result.stderr


def test_download_keeps_what_belongs_to_the_text_tower(monkeypatch, tmp_path):
    """Tokenizer and configuration of a text tower of transformers are saved with the weights."""
    transformers = pytest.importorskip("transformers", reason="it is an optional package")
    hub = tmp_path / "hub"
    text = transformers.RobertaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=24, pad_token_id=0,
    )  # fmt: skip
    text.save_pretrained(hub)
    processor("Siglip").tokenizer.save_pretrained(hub)
    named_text = {"hf_model_name": str(hub), "hf_tokenizer_name": str(hub), "context_length": 16,
                  "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}  # fmt: skip
    config = {**ARCHITECTURES["tiny-vit"], "text_cfg": named_text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-hf", config)
    monkeypatch.setattr(published, "CACHE", tmp_path)
    path = save_model("tiny-hf/random")
    shutil.rmtree(hub)
    model = gs.load_model(path)
    assert model.encode_text(["a cat"]).shape == (1, 32)
    torch.testing.assert_close(
        gs.load_model("tiny-hf/random").encode_text(["dog"]), model.encode_text(["dog"])
    )
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer.*gscam download"):
        gs.load_model(path)


def test_a_saved_model_keeps_its_own_resize_mode(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "CACHE", tmp_path)
    with named:
        config = json.loads((save_model("tiny-vit/random") / published.CONFIG).read_text())
    assert config["preprocess_cfg"]["resize_mode"] == "shortest"


def test_weights_of_a_part_of_a_model_say_so():
    whole = gs.load_model("mini-vit").network.state_dict()
    some = {name: whole[name] for name in list(whole)[:4]}
    with pytest.warns(WeightsWarning, match=f"has 4 of the {len(whole)} tensors of mini-vit"):
        gs.load_model("mini-vit", weights=some)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gs.load_model("mini-vit", weights=whole)
