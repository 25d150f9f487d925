"""heatmaps.py: the photo's pixels, min-max, flat maps, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from PIL import Image

import gscam_lib as gs
from gscam_lib.heatmaps import to_photo
from gscam_lib.methods import METHODS

PROMPT = "a cat"


@pytest.fixture
def resnet_trace(resnet, photo):
    return resnet.trace(photo)


def test_a_heatmap_has_the_photos_size_and_fills_zero_to_one(trace):
    heat = gs.heatmap(trace, "a cat", k=4)
    assert heat.values.shape == (40, 70)
    assert heat.values.dtype == np.float32
    assert (heat.values.min(), heat.values.max()) == (0, 1)
    assert (heat.method, heat.prompt, heat.k, heat.flat) == ("gscorecam", "a cat", 4, False)
    assert heat.logit == trace.logit("a cat")
    assert heat.model == trace.model.name


def test_protocol_step_four(resnet_trace):
    """ReLU, min-max, bilinear, min-max: with torch's own interpolation."""
    small = torch.linspace(-1, 2, 9).reshape(3, 3).roll(1, 0)
    positive = small.relu()
    unit = (positive - positive.min()) / (positive.max() - positive.min())
    large = torch.nn.functional.interpolate(unit[None, None], (40, 70), mode="bilinear")[0, 0]
    expected = (large - large.min()) / (large.max() - large.min())
    values, flat = to_photo(small.numpy(), resnet_trace)
    assert not flat
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, -3.0, 0.3, 1e-30, 1e20])
def test_constant_maps_are_flat_zeros(resnet_trace, constant, monkeypatch):
    noise = 1 + 1e-8 * np.arange(9).reshape(3, 3)
    small = (constant * noise).astype(np.float32)
    monkeypatch.setitem(
        METHODS,
        "gradcam",
        replace(METHODS["gradcam"], function=lambda t, p: torch.from_numpy(small)),
    )
    heat = gs.heatmap(resnet_trace, "a cat", "gradcam")
    assert heat.flat
    assert not heat.values.any()
    assert gs.heatmap_to_box(heat) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_an_error_not_a_map(resnet_trace, value, monkeypatch):
    monkeypatch.setitem(
        METHODS,
        "gradcam",
        replace(METHODS["gradcam"], function=lambda t, p: torch.tensor([[1.0, value]])),
    )
    with pytest.raises(ValueError, match="NaN or infinite"):
        gs.heatmap(resnet_trace, "a cat", "gradcam")


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (2500, 1400)])
def test_photos_of_every_size(model, size):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8))
    heat = gs.heatmap(model.trace(photo), "a cat", k=2)
    assert heat.values.shape == size
    assert np.isfinite(heat.values).all()
    assert 0 <= heat.values.min() <= heat.values.max() <= 1


def test_constant_photos_do_not_fail(model):
    for color in ("black", "white", (124, 116, 104)):
        heat = gs.heatmap(model.trace(Image.new("RGB", (30, 20), color)), "a cat", k=2)
        assert np.isfinite(heat.values).all()
        assert heat.flat == (not heat.values.any())


def test_default_k_is_the_papers_share(resnet_trace):
    heat = gs.heatmap(resnet_trace, "a cat")
    assert heat.k == round(256 * 300 / 3072)
    assert gs.heatmap(resnet_trace, "a cat", "gradcam").k is None


def test_sweep_equals_single_calls(resnet_trace, resnet, photo):
    swept = gs.sweep(resnet_trace, "a cat", ks=[9, 1, 4])
    assert list(swept) == [9, 1, 4]
    for k, heat in swept.items():
        alone = gs.heatmap(resnet.trace(photo), "a cat", k=k)
        np.testing.assert_allclose(heat.values, alone.values, atol=1e-4)
    with pytest.raises(ValueError, match="k=0"):
        gs.sweep(resnet_trace, "a cat", ks=[5, 0])


def test_a_stream_ends_in_the_whole_and_scores_nothing_twice(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    embedded = []
    embed = trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x, **how: embedded.append(len(x)) or embed(x))
    seen = list(gs.stream(trace, "a cat", k=10, step=4))
    assert [heat.passes for heat in seen] == [0, 4, 8, 10]
    assert {heat.k for heat in seen} == {10}
    assert sum(embedded) <= 10
    for heat in seen[1:]:
        alone = gs.heatmap(resnet.trace(photo), "a cat", k=10, budget=heat.passes)
        np.testing.assert_allclose(heat.values, alone.values, atol=1e-4)


def test_bad_requests_say_what_exists(resnet_trace):
    with pytest.raises(ValueError, match=r"No method 'gscore'.*gscorecam"):
        gs.heatmap(resnet_trace, "a cat", "gscore")
    with pytest.raises(ValueError, match=r"Got k=3 for 'gradcam', which takes no k.*gscorecam"):
        gs.heatmap(resnet_trace, "a cat", "gradcam", k=3)
    with pytest.raises(ValueError, match="empty prompt"):
        gs.heatmap(resnet_trace, " ")
    with pytest.raises(ValueError, match=r"prompt 'an apple \\ud83c', in which half a letter"):
        gs.heatmap(resnet_trace, "an apple \ud83c")


def test_what_is_no_trace_or_no_list_is_said(resnet_trace, photo, resnet):
    for ask in (gs.heatmap, gs.sweep, gs.stream, gs.several, gs.METHODS["gradcam"]):
        for bad in (photo, "photo.jpg", resnet, None):
            rest = {gs.sweep: (PROMPT, [3]), gs.several: ([PROMPT],)}.get(ask, (PROMPT,))
            with pytest.raises(ValueError, match=r"Got \w+ as trace; expected a Trace"):
                ask(bad, *rest)
    with pytest.raises(ValueError, match="Got ndarray as trace"):
        gs.heatmap([resnet_trace, photo], PROMPT)
    with pytest.raises(ValueError, match="several photos"):
        gs.heatmap([resnet_trace, resnet.trace(photo[:, :50])], PROMPT)
    with pytest.raises(ValueError, match="several photos"):  # of one size
        gs.heatmap([resnet_trace, resnet.trace(photo[:, ::-1].copy())], PROMPT)
    for one in (PROMPT, gs.Target(PROMPT)):
        with pytest.raises(ValueError, match="Got one prompt, 'a cat'; expected a list"):
            gs.several(resnet_trace, one)
    with pytest.raises(ValueError, match="as prompt"):
        gs.several(resnet_trace, [PROMPT, 3])
    for bad in ("10", 10, None):
        with pytest.raises(ValueError, match=r"Got ks=.* such as \[10, 50\]"):
            gs.sweep(resnet_trace, PROMPT, bad)
    for bad in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match="Got step="):
            gs.stream(resnet_trace, PROMPT, 4, step=bad)


def test_a_method_may_carry_its_options(photo):
    trace = tiny_clip("vit").trace(photo)
    heat = gs.heatmap(trace, PROMPT, " hilacam:as_released ")
    assert (heat.method, heat.title) == ("hilacam:as_released", "HilaCAM, as released")
    np.testing.assert_allclose(heat.values, gs.heatmap(trace, PROMPT, "hilacam", blocks=1).values)
    assert gs.heatmap(trace, PROMPT, "gscorecam:k=3").k == 3
    assert gs.several(trace, [PROMPT], "gscorecam:k=3")[0].k == 3


def test_unknown_prompts_are_reported(resnet, photo):
    closed = gs.Model(resnet.network, resnet.tokenizer, name="closed", vocabulary=["cat"])
    with pytest.warns(gs.UnknownPromptWarning, match=r"'dog'.*Nearest names: cat"):
        gs.heatmap(closed.trace(photo), "a dog", k=2)
