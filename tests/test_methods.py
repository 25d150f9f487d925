"""methods/: against a naive implementation, and the limit cases."""

import naive
import numpy as np
import pytest
import torch
from conftest import TOWERS, tiny_clip

import gscam_lib as gs

PROMPT = "an apple on a table"


@pytest.fixture(scope="module", params=[t for t in TOWERS if t != "timm-vit"])
def twin(request):
    """Towers for which tests/naive.py has its own forward pass (timm's ViT has the same form)."""
    return tiny_clip(request.param)


@pytest.mark.parametrize("k", [1, 5])
def test_gscorecam_equals_the_naive_one(twin, photo, k):
    expected = naive.gscorecam(twin, photo, PROMPT, k)
    found = gs.METHODS["gscorecam"](twin.trace(photo), PROMPT, k=k)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_scores_of_masked_copies_equal_the_naive_ones(twin, photo):
    pixels, activations, gradients = naive.activations_and_gradients(twin, photo, PROMPT)
    trace = twin.trace(photo)
    np.testing.assert_allclose(trace.activations, activations, atol=1e-4)
    np.testing.assert_allclose(trace.gradients(PROMPT), gradients, atol=1e-5)
    scores = twin.scores(trace.masked_embeddings([0, 4]), PROMPT)
    expected = [naive.masked_score(twin, pixels, activations[c], PROMPT) for c in (0, 4)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_gradcam_equals_a_loop(twin, photo):
    _, activations, gradients = naive.activations_and_gradients(twin, photo, PROMPT)
    expected = np.zeros(activations.shape[1:])
    for activation, gradient in zip(activations, gradients, strict=True):
        expected += gradient.mean() * activation
    found = gs.METHODS["gradcam"](twin.trace(photo), PROMPT)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_all_channels_give_scorecam(model, trace):
    every = gs.METHODS["gscorecam"](trace, PROMPT, k=model.channels)
    torch.testing.assert_close(every, gs.METHODS["scorecam"](trace, PROMPT))


def test_channels_outside_the_top_k_are_not_looked_at(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    asked = []
    embeddings = trace.masked_embeddings
    monkeypatch.setattr(
        trace, "masked_embeddings", lambda c: asked.extend(c.tolist()) or embeddings(c)
    )
    gs.METHODS["gscorecam"](trace, PROMPT, k=5)
    order = trace.gradients(PROMPT).mean((1, 2)).argsort(descending=True)
    assert asked == order[:5].tolist()


def test_nan_scores_count_as_zero(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    top = trace.ranking(PROMPT)[:3]
    embeddings = trace.masked_embeddings(top).clone()
    embeddings[1] = float("nan")
    monkeypatch.setattr(trace, "masked_embeddings", lambda c: embeddings)
    found = gs.METHODS["gscorecam"](trace, PROMPT, k=3)
    scores = torch.zeros(resnet.channels)
    scores[top] = resnet.scores(embeddings, PROMPT)
    scores[top[1]] = 0
    expected = (scores.softmax(0)[:, None, None] * trace.activations).sum(0).relu()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("k", [0, -1, 257, 2.5, "3", True, float("nan")])
def test_bad_k_is_refused(resnet, photo, k):
    with pytest.raises(ValueError, match="from 1 to 256"):
        gs.METHODS["gscorecam"](resnet.trace(photo), PROMPT, k=k)


def test_k_may_be_any_integer_type(resnet, photo):
    trace = resnet.trace(photo)
    for k in (np.int64(4), torch.tensor(4)):
        torch.testing.assert_close(
            gs.METHODS["gscorecam"](trace, PROMPT, k=k), gs.METHODS["gscorecam"](trace, PROMPT, k=4)
        )


@pytest.mark.parametrize("method", gs.METHODS)
def test_every_method_gives_a_map_of_the_layer(model, trace, method):
    found = gs.METHODS[method](trace, PROMPT)
    assert found.shape == trace.activations.shape[1:]
    assert found.min() >= 0
    assert torch.isfinite(found).all()
    assert not found.requires_grad


def test_center_is_symmetric_and_highest_in_the_middle(trace):
    found = gs.METHODS["center"](trace, PROMPT)
    torch.testing.assert_close(found, found.flip(0))
    torch.testing.assert_close(found, found.flip(1))
    h, w = found.shape
    assert found.max() == found[h // 2, w // 2]


def test_random_rn50x16_takes_the_same_path(photo):
    model = gs.load_model("RN50x16/random")
    heat = gs.heatmap(model.trace(photo), "an apple", k=8)
    assert (model.input_size, model.channels, model.default_k) == (384, 3072, 300)
    assert heat.values.shape == (40, 70)
    assert heat.values.max() == 1
