"""A second device without one (tests/pretend.py): no two devices meet, and maps are the CPU's.

Run with -s to read how many operations were seen. And the script for a machine that has one.
"""

import copy
import json
from dataclasses import replace

import gpu
import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from conftest import tiny_clip
from pretend import ELSEWHERE, Device, Elsewhere, MixedError, put
from torch.nn.attention import SDPBackend, sdpa_kernel

import gscam_lib as gs
from gscam_lib.evaluation import faithfulness
from gscam_lib.evaluation.measures import MEASURES
from gscam_lib.explorer.engine import Engine
from gscam_lib.explorer.photos import choose
from gscam_lib.explorer.request import Request
from gscam_lib.model.prompts import Target

MODELS = {
    "resnet": tiny_clip,
    "vit": tiny_clip,
    "timm-cnn": tiny_clip,
    "coca_ViT-B-32": zoo.small,
    "ViT-B-32-SigLIP2-256": zoo.small,
    "EVA02-B-16": zoo.small,
}
NEAR = 3e-5  # of maps from 0 to 1
WIDE = 1e-4  # of tiny-resnet, whose weights amplify rounding: its pooling is computed otherwise
SEEN: dict[str, Device] = {}


@pytest.fixture(scope="module", autouse=True)
def how_much():
    yield
    seen = {name for device in SEEN.values() for name in device.seen}
    count = sum(sum(device.seen.values()) for device in SEEN.values())
    print(f"\n{count:,} operations of {len(seen)} kinds on the pretend device, none mixed:")
    for what, device in SEEN.items():
        print(f"  {what}: {sum(device.seen.values()):,}, {device.waits} waits for values")


@pytest.fixture(params=MODELS)
def pair(request):
    """A model here, the same elsewhere, and the device on which that computes."""
    here = MODELS[request.param](request.param)
    with Device() as device, sdpa_kernel(SDPBackend.MATH):  # the one that sees its parts
        there = elsewhere(here)
        assert there.device == ELSEWHERE
        yield here, there, WIDE if request.param == "resnet" else NEAR
    assert sum(device.seen.values()) > 100
    SEEN[request.node.name] = device


def elsewhere(model):
    return gs.Model(put(copy.deepcopy(model.network)), model.tokenizer, name=model.name)


def near(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, atol=tolerance)


def equal(found, expected, tolerance):
    """A tensor that is elsewhere, as a share of the largest value."""
    assert isinstance(found, Elsewhere)
    assert zoo.difference(found.detach().cpu(), expected.detach()) < tolerance


def test_a_trace(pair):
    here, there, tolerance = pair
    a, b = here.trace(zoo.photo()), there.trace(zoo.photo())
    equal(b.activations, a.activations, tolerance)
    equal(b.embedding, a.embedding, tolerance)
    prompts = [zoo.PROMPT, "a cat", Target("a cat", against=["a dog", "a bird"])]
    a.prepare(prompts)
    b.prepare(prompts)
    for prompt in prompts:
        equal(b.gradients(prompt), a.gradients(prompt), 10 * tolerance)
        assert b.logit(prompt) == pytest.approx(a.logit(prompt), abs=1e-4)
    equal(b.masked_embeddings(range(20)), a.masked_embeddings(range(20)), tolerance)


def test_every_method(pair):
    here, there, tolerance = pair
    a, b = here.trace(zoo.photo()), there.trace(zoo.photo())
    asked = [m for m in gs.METHODS.values() if here.tower in m.towers]
    assert len(asked) > 15
    for method in asked:
        options = dict(zoo.FEW.get(method.name, {})) | ({"k": 5} if "k" in method.options else {})
        found, expected = (gs.heatmap(t, zoo.PROMPT, method.name, **options) for t in (b, a))
        assert found.flat == expected.flat
        near(found.values, expected.values, tolerance)


@pytest.fixture(params=["resnet", "vit", "ViT-B-32-SigLIP2-256"])
def few(request):
    """As `pair`, of one model of each kind that matters to what is above methods."""
    here = MODELS[request.param](request.param)
    with Device() as device, sdpa_kernel(SDPBackend.MATH):
        yield here, elsewhere(here)
    SEEN[request.node.name] = device


def test_curves_and_randomized_weights(few):
    here, there = few
    values = gs.heatmap(here.trace(zoo.photo()), zoo.PROMPT, "center").values
    for curve in (faithfulness.insertion, faithfulness.deletion):
        for target in (zoo.PROMPT, Target("a cat", against=["a dog"])):
            found, expected = (
                curve(m.trace(zoo.photo()), target, values, step=2000) for m in (there, here)
            )
            near(found, expected, 1e-4)
    found, expected = (
        faithfulness.randomization_check(m, [(zoo.photo(), zoo.PROMPT)], ["gradcam"])
        for m in (there, here)
    )
    assert [f.stage for f in found] == [e.stage for e in expected]
    near([f.ssim for f in found], [e.ssim for e in expected], 1e-2)


def test_evaluation(few, tmp_path):
    here, there = few
    examples = [
        gs.Example(zoo.photo(), prompt, ((10, 5, 60, 55),), prompt, "1", "test")
        for prompt in ("a cat", "a dog")
    ]
    asked = ["gscorecam:k=5", "gradcam", "center"]
    found, expected = (
        gs.evaluate(m, examples, asked, measures=list(MEASURES), points=4, out=tmp_path / m.name)
        for m in (there, here)
    )
    assert found["error"].isna().all()
    assert expected["error"].isna().all()
    numbers = expected.select_dtypes("float").columns.drop("seconds")
    assert {"iou", "insertion", "deletion", "randomization"} <= set(numbers)
    for name in numbers:
        near(found[name], expected[name], 1e-2 if name == "randomization" else 1e-3)
    same = ["prompt", "method", "k", "x0", "y0", "x1", "y1", "hit", "pointing"]
    pd.testing.assert_frame_equal(found[same], expected[same])


def test_the_explorers_engine(few):
    here, there = few
    photos = choose({"blobs": zoo.photo(), "turned": zoo.photo()[::-1]})
    request = Request(
        next(iter(photos)), ("a cat", "a dog"), k=5, compare="method", channel=3, strongest=True
    )
    answers = []
    for model in (there, here):
        engine = Engine(model, photos)
        answers.append(engine.run(request, lambda: False, lambda *_: None))
        alone = replace(request, compare="none")  # a page is gScoreCAM's
        assert b"<html" in engine.take("page", alone, lambda: False, lambda *_: None)
        assert engine.take("figure", request, lambda: False, lambda *_: None)[:4] == b"\x89PNG"
    for found, expected in zip(answers[0].findings, answers[1].findings, strict=True):
        assert found.box == expected.box
        assert found.probability == pytest.approx(expected.probability, abs=1e-4)
        values, wanted = (np.frombuffer(f.values, np.uint8).astype(int) for f in (found, expected))
        assert np.abs(values - wanted).max() <= 1


def test_mistakes_are_seen():
    """What a GPU would refuse is refused here, so that the tests above can fail."""
    with Device() as device:
        there = torch.arange(6.0).to(ELSEWHERE)
        assert (there + 1).sum().item() == 21
        assert device.waits == 1
        assert torch.equal(there[[1, 3]].cpu(), torch.tensor([1.0, 3.0]))
        assert torch.tensor([4.0], device=ELSEWHERE).cpu() == 4
        for mistake in (
            lambda: there + torch.ones(6),
            lambda: torch.stack([there, torch.ones(6)]),
            lambda: torch.arange(6)[there.long()],
            lambda: there.index_add(0, torch.arange(6), there),
            lambda: tiny_clip("vit").encode_pixels(torch.zeros(1, 3, 64, 64).to(ELSEWHERE)),
        ):
            with pytest.raises(MixedError, match="mixes"):
                mistake()
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()
    with pytest.raises(MixedError, match=r"outside of Device"):
        there + 1


# ---------------------------------------------------------------- the script for a GPU


def test_the_script_for_gpus_runs_here(tmp_path):
    assert gpu.main([str(tmp_path), "--quick", "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == []
    assert {"Machine", "Equality with the CPU", "Speed and memory"} <= found["tables"].keys()
    assert all(row["holds"] for row in found["tables"]["Equality with the CPU"])
    assert "| tiny-vit gradients |" in (tmp_path / "gpu.md").read_text()


def test_the_script_says_what_it_left_out(tmp_path):
    assert gpu.main([str(tmp_path), "--quick", "--device", "cpu", "--minutes", "0"]) == 0
    left = json.loads((tmp_path / "gpu.json").read_text())["tables"]["Left out for want of time"]
    assert [row["step"] for row in left] == ["equal"] * 3 + ["rougher", "speed"]
