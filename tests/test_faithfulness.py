"""faithfulness.py: against plain loops, closed forms and limit cases."""

from itertools import pairwise

import naive
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

import gscam_lib as gs
from gscam_lib.evaluation import faithfulness, metrics
from gscam_lib.evaluation.faithfulness import (
    cascade,
    deletion,
    insertion,
    randomization_check,
    stages,
)


@pytest.fixture(scope="module")
def resnet_trace(resnet, photo):
    return resnet.trace(photo)


@torch.no_grad()
def test_curves_equal_a_plain_loop(resnet, photo, resnet_trace):
    """One pixel after the other by hand, on the input's own grid; any batch size."""
    size, step = resnet_trace.model.input_size, 1000
    values = np.random.default_rng(0).permutation(size * size).reshape(size, size)
    values = values.astype(np.float32) / size**2
    order = np.argsort(-values.ravel(), kind="stable")
    pixels = resnet_trace.pixels
    expected = []
    for n in range(0, size * size + step, step):
        gone = pixels.clone().reshape(3, -1)
        gone[:, order[:n]] = 0
        features = resnet_trace.model.network.encode_image(gone.reshape(1, 3, size, size))[
            0
        ].detach()
        expected.append(float(naive.logit_of(resnet_trace.model, features, "a dog")))
    for batch_size in (1, 4, 64):
        trace = resnet.trace(photo, batch_size=batch_size)  # each computes its own
        found = deletion(trace, "a dog", values, step=step)
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_curves_begin_and_end_where_they_should(model, photo):
    trace = model.trace(photo)
    values = gs.heatmap(trace, "a dog", "center").values
    inserted = insertion(trace, "a dog", values, step=2000)
    deleted = deletion(trace, "a dog", values, step=2000)
    assert inserted[-1] == pytest.approx(trace.logit("a dog"), abs=1e-3)
    assert deleted[0] == pytest.approx(trace.logit("a dog"), abs=1e-3)
    assert len(inserted) == len(deleted) == -(-(model.input_size**2) // 2000) + 1
    assert inserted[0] != pytest.approx(deleted[-1], abs=1e-3)  # blurred, and nothing at all


def test_the_blurs_of_insertion(resnet_trace):
    """RISE's: a dirac that SciPy smooths in 11 × 11, then a convolution with zeros around."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = gaussian_filter(point, 5)
    assert kernel.max() / kernel.min() < 1.15  # nearly a box
    pixels = resnet_trace.pixels.double().numpy()
    expected = np.stack([convolve(c, kernel, mode="constant") for c in pixels])
    np.testing.assert_allclose(
        faithfulness._blurred(resnet_trace.pixels, "rise"), expected, atol=1e-5
    )
    x = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    ours = np.outer(x, x) / x.sum() ** 2
    expected = np.stack([convolve(c, ours, mode="mirror") for c in pixels])
    np.testing.assert_allclose(
        faithfulness._blurred(resnet_trace.pixels, "gaussian"), expected, atol=1e-5
    )


def test_insertion_names_its_blur(resnet_trace):
    values = np.random.default_rng(3).random((40, 70)).astype(np.float32)
    curves = {
        b: insertion(resnet_trace, "a dog", values, blur=b, step=4000) for b in ("gaussian", "rise")
    }
    assert curves["gaussian"][-1] == pytest.approx(curves["rise"][-1])  # both end in the photo
    assert curves["gaussian"][0] != pytest.approx(curves["rise"][0], abs=1e-4)
    usual = insertion(resnet_trace, "a dog", values, step=4000)
    np.testing.assert_array_equal(usual, curves["gaussian"])
    with pytest.raises(ValueError, match="gaussian or rise"):
        insertion(resnet_trace, "a dog", values, blur="box")
    for bad in (values[0], values * np.nan, "map", None):
        with pytest.raises(ValueError, match=r"expected the \(H, W\) finite values"):
            deletion(resnet_trace, "a dog", bad)


def test_probabilities_against_distractors(resnet_trace):
    values = np.random.default_rng(0).random((40, 70)).astype(np.float32)
    target = gs.Target("a dog", against=["a cat", "a bus"])
    found = insertion(resnet_trace, target, values, step=5000)
    logits = resnet_trace.logits(["a dog", "a cat", "a bus"])
    assert found[-1] == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)
    assert ((found >= 0) & (found <= 1)).all()


class Blot(torch.nn.Module):
    """An image tower that sees nothing but how dark the photo is in one corner."""

    image_size = 64
    image_mean, image_std = (0.5,) * 3, (0.5,) * 3

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 1)

    def forward(self, x):
        self.conv(x)  # so that there is a layer to find
        dark = -x[:, 0, :16, :16].clamp(max=0).mean((1, 2))
        return torch.stack([dark, torch.full_like(dark, 0.2)], 1)


class BlotClip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Blot()
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.context_length = 4

    def encode_image(self, x):
        return self.visual(x)

    def encode_text(self, tokens):
        return torch.tensor([[1.0, 0.0]]).repeat(len(tokens), 1)


def test_a_perfect_map_wins_and_an_inverted_one_loses():
    model = gs.Model(
        BlotClip(), lambda texts, context_length: torch.zeros(len(texts), context_length)
    )
    photo = np.full((64, 64, 3), 127, np.uint8)  # grey, as what is deleted, but for the blot
    photo[:16, :16] = 0
    trace = model.trace(photo)
    perfect = np.zeros((64, 64), np.float32)
    perfect[:16, :16] = 1
    noise = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    maps = {"perfect": perfect, "random": noise, "inverted": 1 - perfect, "flat": perfect * 0}
    add, remove = (
        {n: metrics.area_under(curve(trace, "a blot", v)) for n, v in maps.items()}
        for curve in (insertion, deletion)
    )
    assert add["perfect"] > add["random"] > add["inverted"]
    assert remove["perfect"] < remove["random"] < remove["inverted"]
    assert add["flat"] == pytest.approx(add["random"], rel=0.1)  # no order is better than chance


def test_copies_of_one_map_serve_every_prompt(resnet, photo, monkeypatch):
    trace, seen = resnet.trace(photo), []
    encode = resnet.encode_pixels
    monkeypatch.setattr(
        resnet, "encode_pixels", lambda x, **how: seen.append(len(x)) or encode(x, **how)
    )
    rng = np.random.default_rng(0)
    one, other = (rng.random((8, 8)).astype(np.float32) for _ in range(2))
    first = insertion(trace, "a dog", one, step=2000)
    assert sum(seen) == len(first) == 6
    again = insertion(trace, "a cat", one, step=2000)
    assert sum(seen) == 6
    fresh = insertion(resnet.trace(photo), "a cat", one, step=2000)
    assert again.tolist() == fresh.tolist() != first.tolist()
    for curve, values, step in (
        (deletion, one, 2000),
        (insertion, other, 2000),
        (insertion, one, 3000),
    ):
        before = sum(seen)
        assert len(curve(trace, "a dog", values, step=step)) == sum(seen) - before


def test_bad_steps(resnet_trace):
    for bad in (0, -1, 1.5, True, 10**6):
        with pytest.raises(ValueError, match="number of pixels from 1 to 9216"):
            insertion(resnet_trace, "a dog", np.zeros((4, 4), np.float32), step=bad)


def test_stages_hold_every_weight_once(model):
    visual = model.network.visual
    found = [id(p) for _, parameters in stages(visual) for p in parameters]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in visual.parameters()}


def test_stages_of_a_resnet_go_from_top_to_bottom(resnet):
    names = [name for name, _ in stages(resnet.network.visual)]
    assert names == ["attnpool", "layer4", "layer3", "layer2", "layer1", "conv1"]


def test_a_cascade_changes_more_and_more_of_a_copy(resnet):
    before = {n: p.clone() for n, p in resnet.network.named_parameters()}
    changed = []
    for name, copy in cascade(resnet):
        new = copy.network.named_parameters()
        differ = {n for n, p in new if p.numel() > 1 and not torch.equal(p, before[n])}
        changed.append((name, differ))
    assert [len(a[1]) < len(b[1]) for a, b in pairwise(changed)] == [True] * 5
    assert all(n.startswith("visual.attnpool.") for n in changed[0][1])
    assert not any(n.startswith("transformer.") for n in changed[-1][1])
    matrices = {n for n, p in before.items() if n.startswith("visual.") and p.ndim > 1}
    assert matrices <= changed[-1][1]
    for n, p in resnet.network.named_parameters():
        torch.testing.assert_close(p, before[n], rtol=0, atol=0)


def test_random_weights_decorrelate_what_depends_on_them(resnet, photo):
    """Edges and the centre stay as they were; CAMs of all layers randomized do not."""
    noise = np.random.default_rng(1).integers(0, 255, (50, 60, 3)).astype(np.uint8)
    questions = [(photo, "a dog"), (Image.fromarray(noise), "a bus"), (photo[:, ::-1], "a cat")]
    methods = ["gscorecam", "gradcam", "sobel", "center"]
    found = randomization_check(resnet, questions, methods, k=4)
    assert len(found) == 6 * 3 * 4
    last = [f for f in found if f.stage == "conv1"]
    mean = {m: np.mean([abs(f.rank_correlation) for f in last if f.method == m]) for m in methods}
    assert mean["sobel"] == pytest.approx(1)
    assert mean["center"] == pytest.approx(1)
    assert mean["gscorecam"] < 0.8
    assert mean["gradcam"] < 0.8
    of_stage = {f.ssim for f in found if (f.image, f.method) == (0, "gscorecam")}
    assert len(of_stage) == 6  # each stage changes the map once more
    assert all(f.ssim == pytest.approx(1) for f in last if f.method == "sobel")
    for stage, changed in cascade(resnet):
        heat = gs.heatmap(changed.trace(photo), "a dog", "gscorecam", k=4).values
        first = gs.heatmap(resnet.trace(photo), "a dog", "gscorecam", k=4).values
        mine = next(f for f in found if (f.stage, f.image, f.method) == (stage, 0, "gscorecam"))
        assert mine.ssim == pytest.approx(metrics.similarity(first, heat), abs=1e-4), stage
    again = randomization_check(resnet, questions[:1], ["gradcam"])
    assert again[-1].rank_correlation == pytest.approx(
        next(f for f in last if f.method == "gradcam").rank_correlation
    )
