"""Training of the bundled models: it learns, resumes, exports what it trained."""

import json
import os
import shutil
import signal
from copy import deepcopy
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from data.build import train
from data.build.mimetic import mimetic
from data.build.optimizer import TwoOptimizers, as_matrix
from data.build.probe import measure, probes, ranks
from data.build.recipes import RECIPES, Recipe, Stage, recipe
from data.build.report import read_curve
from data.build.towers import Towers, export, similarities
from data.build.train import Batches, Run, batch_loss
from data.build.world import Mixture
from gscam_lib.scenes import NAMES

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
EASY = Mixture(words_alone=0.1, labelled=0.3, variants=0, counts=(1,))
PLAN = Recipe(
    CONFIG, (Stage("a", 64, 96, EASY, 3e-3, 1e-3, batch=16),
             Stage("b", 96, 64, EASY, 1e-3, 1e-4, batch=16)), warmup=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One thread, so that sums are in one order, and no held-out scenes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(train, "probes", lambda size: {})
    monkeypatch.setattr(train, "measure", lambda sets, similarity: {})
    yield
    torch.set_num_threads(before)


def curve(folder):
    return [row["loss"] for row in read_curve(folder / "curve.jsonl")]


def test_a_few_steps_and_the_loss_falls(tmp_path):
    run = Run(PLAN, tmp_path)
    batch = Batches(PLAN.stages[0], 0, 1)[0]
    losses = [run.update(batch) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = Run(PLAN, tmp_path / "whole")
    whole.train(workers=0, every=2)
    assert whole.samples == PLAN.samples == 160
    for until in (48, 112, None):  # in the first stage, in the second, to the end
        run = Run(PLAN, tmp_path / "parts", mirror=tmp_path / "mirror")
        run.train(workers=0, every=2, until=until)
    assert (tmp_path / "mirror" / "checkpoint.pt").exists()
    assert curve(tmp_path / "parts")[-1] == curve(tmp_path / "whole")[-1]
    for key, value in whole.average.state_dict().items():
        assert_close(run.average.state_dict()[key], value, rtol=0, atol=0, msg=key)


def test_a_student_comes_nearer_to_its_teacher(tmp_path, monkeypatch):
    torch.manual_seed(3)
    export(Towers(CONFIG, 64).eval(), CONFIG, tmp_path / "teacher")
    monkeypatch.setattr(train, "MODELS", tmp_path)
    run = Run(replace(PLAN, teacher="teacher", teaching=20.0), tmp_path / "run")
    batch = Batches(PLAN.stages[0], 0, 1)[0]
    pixels = torch.from_numpy(batch["images"])

    def nearness():
        with torch.no_grad():
            pair = [towers.train().encode_image(pixels) for towers in (run.towers, run.teacher)]
        return float((pair[0] * pair[1]).sum(dim=1).mean())

    before = nearness()
    for _ in range(8):
        run.update(batch)
    assert nearness() > before + 0.2
    with pytest.raises(FileNotFoundError, match="train that model first"):
        Run(replace(PLAN, teacher="nobody"), tmp_path / "other")


def test_sigterm_saves_and_ends(tmp_path):
    run = Run(PLAN, tmp_path)
    before = signal.signal(signal.SIGTERM, run.stop)
    update = run.update

    def killed_in_the_third_step(batch):
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(batch)

    run.update = killed_in_the_third_step
    try:
        run.train(workers=0, every=100)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.samples == 48
    assert Run(PLAN, tmp_path).samples == 48


def test_a_run_can_begin_at_a_stage_with_exported_weights(tmp_path):
    first = Run(PLAN, tmp_path / "first")
    first.train(workers=0, every=100, until=96)
    export(first.average, CONFIG, tmp_path / "exported")
    shutil.copy(tmp_path / "first" / "curve.jsonl", tmp_path / "exported")
    second = Run(PLAN, tmp_path / "second")
    second.begin_at(1, tmp_path / "exported")
    assert second.towers.size == 96
    for key in ("visual.conv1.weight", "token_embedding.weight"):
        old, new = (run.clip.state_dict()[key] for run in (first.average, second.towers))
        assert_close(new, old, rtol=1e-3, atol=1e-4)
    second.train(workers=0, every=100)
    assert second.samples == PLAN.samples == 160
    assert len(curve(tmp_path / "second")) == 1


def test_a_lost_run_comes_back_from_its_mirror(tmp_path):
    Run(PLAN, tmp_path / "a", mirror=tmp_path / "m").train(workers=0, every=1, until=32)
    assert Run(PLAN, tmp_path / "b", mirror=tmp_path / "m").samples == 32


def test_batches_do_not_depend_on_who_draws_them():
    a, b = (Batches(PLAN.stages[0], 0, 1)[3] for _ in range(2))
    np.testing.assert_array_equal(a["images"], b["images"])
    assert a["captions"] == b["captions"]
    other = Batches(PLAN.stages[0], 0, 2)[3]
    assert (a["images"] != other["images"]).any()


def test_the_exported_folder_is_the_trained_model(tmp_path):
    torch.manual_seed(0)
    towers = Towers(CONFIG, 96)
    texts = ["a photo of an apple", "iPod", "text that says hot dog"]
    images = Batches(PLAN.stages[1], 0, 1)[0]["images"][:4]
    towers.eval()
    export(towers, CONFIG, tmp_path)
    loaded = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts)
    with torch.no_grad():
        assert_close(loaded.encode_text(tokens, normalize=True), towers.encode_text(texts),
                     rtol=0, atol=5e-3)  # fmt: skip
        _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[1:]
        from PIL import Image

        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        assert_close(loaded.encode_image(pixels, normalize=True),
                     towers.encode_image(torch.from_numpy(images)), rtol=0, atol=1e-2)  # fmt: skip
    names = json.loads((tmp_path / "vocabulary.json").read_text())["names"]
    assert {"ipod", "hot dog", "court"} <= set(names)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_towers_that_grow(name):
    towers = Towers(recipe(name).config, 64)
    before = similarities(towers, np.zeros((1, 64, 64, 3), np.uint8), ["a cat"])
    towers.resize(96)
    after = similarities(towers, np.zeros((1, 96, 96, 3), np.uint8), ["a cat"])
    assert np.isfinite([before, after]).all()
    with pytest.raises(ValueError, match=r"no recipe for 'maxi-rn'.*mini-rn"):
        recipe("maxi-rn")


def test_loss_of_equal_captions_is_shared():
    torch.manual_seed(0)
    towers = Towers(CONFIG, 64).train()
    batch = Batches(PLAN.stages[0], 0, 1)[0]
    batch["captions"] = ["a cat"] * 16
    loss = batch_loss(towers, batch)
    assert torch.isfinite(loss)


def test_measures_of_a_perfect_and_a_blind_model():
    sets = probes(48)
    assert {key: len(probe.images) for key, probe in sets.items()} == {
        "seen": 162, "unseen": 162, "several": 80, "words": 81, "attack": 120,
    }  # fmt: skip
    truth = {probe.images.tobytes(): probe for probe in sets.values()}

    def perfect(images, texts):
        probe = truth[images.tobytes()]
        scores = np.zeros((len(images), len(NAMES)), np.float32)
        for row, objects, words in zip(scores, probe.objects, probe.words, strict=True):
            row[objects], row[words] = 1, 2
        return scores

    scores = measure(sets, perfect)
    assert set(scores.values()) == {1.0}
    assert ranks(np.array([[0.1, 0.9, 0.5]])).tolist() == [[2, 0, 1]]


def test_the_optimizer_moves_kernels_in_any_memory_layout():
    kernels = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1), nn.Linear(8, 5))
    other = deepcopy(kernels).to(memory_format=torch.channels_last)
    pixels = torch.randn(2, 4, 3, 3)
    before = [as_matrix(p.data).clone() for p in kernels[:2].parameters() if p.ndim == 4]
    for towers in (kernels, other):
        optimizer = TwoOptimizers(towers, weight_decay=0.0)
        assert len(optimizer.matrices) == 3  # biases are AdamW's
        towers[2](towers[:2](pixels).mean(dim=(2, 3))).square().sum().backward()
        optimizer.step(0.02)
    for a, b in zip(kernels.parameters(), other.parameters(), strict=True):
        assert_close(a, b, rtol=1e-3, atol=3e-4)  # Muon's iterations run in bf16
    for old, new in zip(before, (kernels[0].weight, kernels[1].weight), strict=True):
        assert (as_matrix(new.data) - old).norm() > 0.01


@pytest.mark.parametrize("name", RECIPES)
def test_the_bundled_model_knows_the_objects(name):
    from data.build.report import logits
    from gscam_lib.model.published import bundled_models
    from gscam_lib.scenes.sets import content, folder
    from gscam_lib.trace.model import load_model

    if name not in bundled_models():
        pytest.skip(f"{name} is not trained yet")
    where = bundled_models()[name]
    card = (where / "MODEL_CARD.md").read_text()
    assert f"{read_curve(where / 'curve.jsonl')[-1]['samples']:,}" in card
    assert (where / "model.safetensors").stat().st_size < 25_000_000
    images = content("single")["images"][::4]
    files = [folder("single") / "images" / image["file_name"] for image in images]
    model = load_model(name)
    assert model.knows("a sign that says iPod").known
    best = logits(model, files, NAMES).argmax(axis=1)
    right = np.mean(
        [NAMES[i] == image["objects"][0] for i, image in zip(best, images, strict=True)]
    )
    assert right > 0.5


def test_mimetic_attention_looks_at_what_is_near():
    torch.manual_seed(0)
    visual = open_clip.CLIP(32, {**recipe("mini-vit").config["vision_cfg"], "layers": 1},
                            CONFIG["text_cfg"]).visual  # fmt: skip
    mimetic(visual)
    attention = visual.transformer.resblocks[0].attn
    q, k, v = attention.in_proj_weight.detach().chunk(3)
    share = float((q.T @ k).trace() / 192)  # every head gives a third of 0.7, or a bit more
    assert 0.6 < share < 2.2
    assert float((v.T @ attention.out_proj.weight.detach().T).trace() / 192) < -0.3
    places = visual.positional_embedding.detach()[1:]
    nearness = (places @ places.T).reshape(10, 10, 10, 10)
    assert nearness[4, 4].argmax() == 44
    assert nearness[4, 4, 4, 5] > nearness[4, 4, 4, 8]
    assert nearness[4, 4, 5, 4] > nearness[4, 4, 8, 4]
