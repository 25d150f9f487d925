"""methods/perturbation.py: exact expectations, known limits, hand computations."""

import itertools

import naive
import numpy as np
import pytest
import torch
from conftest import tiny_clip
from torch.nn import functional as F

import gscam_lib as gs
from gscam_lib.methods import perturbation
from gscam_lib.trace.model import Model

PROMPT = "an apple on a table"
HELD = gs.Target(PROMPT, against=("a dog", "snow"))


@pytest.fixture(scope="module")
def vit():
    return tiny_clip("vit")


@pytest.fixture
def trace(vit, photo):
    return vit.trace(photo)


@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
def test_rise_with_all_masks_is_the_exact_expectation(vit, trace, monkeypatch, prompt):
    """All 16 masks of a 2 × 2 grid, p = 1/2: E[score · mask] / E[mask], up to the lift."""
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).reshape(16, 2, 2)
    shifts = torch.tensor([[3, 5]]).expand(16, 2)
    monkeypatch.setattr(perturbation, "_grids", lambda *a: (every, shifts))
    found = gs.METHODS["rise"](trace, prompt, masks=16, cells=2, p=0.5)
    seen, shown = np.zeros((64, 64)), np.zeros((64, 64))
    for grid in every.numpy():
        mask = naive.rise_mask(grid, (3, 5), 64)
        with torch.no_grad():
            copy = trace.pixels * torch.tensor(mask, dtype=torch.float32)
            feature = F.normalize(vit.network.encode_image(copy[None]), dim=1)
        seen += float(vit.scores(feature, prompt)) * mask / 16
        shown += mask / 16
    np.testing.assert_allclose(shown, 0.5, atol=1e-6)
    expected = seen / shown
    np.testing.assert_allclose(found, expected - expected.min(), atol=2e-4)


def test_rise_draws_as_it_says():
    grids, shifts = perturbation._grids(4000, 8, 0.1, (28, 28), seed=0)
    assert grids.shape == (4000, 8, 8)
    assert set(grids.unique().tolist()) == {0.0, 1.0}
    assert float(grids.mean()) == pytest.approx(0.1, abs=0.005)
    assert (shifts.min(), shifts.max()) == (0, 27)
    masks = perturbation._rise_masks(grids[:3], shifts[:3] % 8, (64, 64))
    for mask, grid, shift in zip(masks, grids.numpy(), shifts.tolist(), strict=False):
        expected = naive.rise_mask(grid, [s % 8 for s in shift], 64)
        np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_rise_on_an_input_that_is_not_square():
    grids, shifts = perturbation._grids(4000, 4, 0.5, (8, 24), seed=0)
    assert shifts.amax(0).tolist() == [7, 23]
    masks = perturbation._rise_masks(grids[:2], torch.zeros(2, 2, dtype=torch.long), (32, 96))
    assert masks.shape == (2, 32, 96)
    square = perturbation._rise_masks(grids[:2], torch.zeros(2, 2, dtype=torch.long), (96, 96))
    torch.testing.assert_close(masks[:, 4], square[:, 13:15].mean(1), atol=0.02, rtol=0)


def test_rise_refuses_cells_smaller_than_a_pixel(trace):
    assert gs.METHODS["rise"](trace, PROMPT, masks=2, cells=64).shape == (64, 64)
    for cells in (65, 100_000):  # the latter would be 400 GB
        with pytest.raises(ValueError, match=f"Got cells={cells} for 'rise'; expected at most 64"):
            gs.METHODS["rise"](trace, PROMPT, masks=10, cells=cells)


def test_rise_adds_up_every_mask(vit, trace):
    grids, shifts = perturbation._grids(30, 4, 0.3, (16, 16), seed=2)
    total = np.zeros((64, 64))
    for grid, shift in zip(grids.numpy(), shifts.tolist(), strict=True):
        mask = naive.rise_mask(grid, shift, 64)
        with torch.no_grad():
            copy = trace.pixels * torch.tensor(mask, dtype=torch.float32)
            feature = F.normalize(vit.network.encode_image(copy[None]), dim=1)
        total += float(vit.scores(feature, PROMPT)) * mask / (30 * 0.3)
    found = gs.METHODS["rise"](trace, PROMPT, masks=30, cells=4, p=0.3, seed=2)
    np.testing.assert_allclose(found, total - total.min(), atol=2e-4)


def sscam(trace, prompt=PROMPT, **options):
    return gs.METHODS["sscam"](trace, prompt, samples=2, **options)


def rise(trace, prompt=PROMPT, **options):
    return gs.METHODS["rise"](trace, prompt, masks=20, **options)


@pytest.mark.parametrize("method", [rise, sscam])
def test_seeds_and_batches(vit, photo, trace, method):
    state = torch.get_rng_state()
    found = method(trace)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(method(vit.trace(photo), seed=0), found)
    assert not torch.allclose(method(trace, seed=1), found)
    other = method(vit.trace(photo, batch_size=3))
    torch.testing.assert_close(other, found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["rise", "sscam", "ablationcam", "scorecam"])
def test_passes_through_the_network_serve_every_prompt(trace, monkeypatch, method):
    options = {"rise": {"masks": 20}, "sscam": {"samples": 1}}.get(method, {})
    gs.METHODS[method](trace, PROMPT, **options)
    monkeypatch.setattr(Model, "encode_pixels", None)
    for prompt in ("a dog", HELD, gs.Target(vector=trace.embedding.flip(0))):
        assert gs.METHODS[method](trace, prompt, **options).isfinite().all()


def test_masks_are_never_all_there_at_once(trace, monkeypatch):
    sizes = []
    embed = trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x, **how: sizes.append(len(x)) or embed(x))
    gs.METHODS["rise"](trace, PROMPT, masks=70)
    gs.METHODS["groupcam"](trace, PROMPT)
    assert max(sizes) <= 16


def half_pixel(small, size):
    """Bilinear with half-pixel centres, one row and column after the other."""
    h, w = small.shape
    y = ((np.arange(size) + 0.5) * h / size - 0.5).clip(0, h - 1)
    x = ((np.arange(size) + 0.5) * w / size - 0.5).clip(0, w - 1)
    rows = np.stack([np.interp(x, range(w), row) for row in small])
    return np.stack([np.interp(y, range(h), column) for column in rows.T], 1)


def groupcam_by_hand(trace, prompt, groups, background):
    """Masks are min-maxed, what is added up is not: as in both released codes."""
    A, w = trace.activations.double().numpy(), trace.gradients(prompt).double().numpy()
    w, size, model = w.mean((1, 2)), trace.model.input_size, trace.model
    expected = np.zeros((size, size))
    for mine in groups:
        large = half_pixel(np.maximum(sum(w[c] * A[c] for c in mine), 0), size)
        mask = torch.tensor((large - large.min()) / (np.ptp(large) or 1), dtype=torch.float32)
        with torch.no_grad():
            pair = torch.stack([trace.pixels * mask + background * (1 - mask), background])
            score, base = model.scores(F.normalize(model.network.encode_image(pair), dim=1), prompt)
        expected += max(float(score - base), 0) * large
    return expected


@pytest.mark.parametrize("prompt", [PROMPT, HELD], ids=["plain", "contrastive"])
@pytest.mark.parametrize(
    ("tower", "layer", "groups", "blur"), [("vit", None, 8, 50.0), ("resnet", "layer1", 32, None)]
)
def test_groupcam_by_hand(photo, tower, layer, groups, blur, prompt):
    trace = tiny_clip(tower).trace(photo, layer=layer)
    background = perturbation._blurred(trace, blur) if blur else torch.zeros_like(trace.pixels)
    mine = np.arange(len(trace.activations)).reshape(groups, -1)
    expected = groupcam_by_hand(trace, prompt, mine, background)
    assert expected.max() > 0
    found = gs.METHODS["groupcam"](trace, prompt, groups=groups, blur=blur)
    np.testing.assert_allclose(found / expected.max(), expected / expected.max(), atol=2e-3)


def test_kmeans_finds_what_is_alike(trace):
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3)
    truth = torch.arange(30) % 3
    rows = centres[truth] + 0.1 * torch.randn(30, 3, generator=generator)
    seed = 0
    while (
        len((torch.randperm(30, generator=torch.Generator().manual_seed(seed))[:3] % 3).unique())
        < 3
    ):
        seed += 1  # begin in three different groups; k-means may end in a poorer optimum otherwise
    group = perturbation._kmeans(rows, 3, seed)
    assert len(group.unique()) == 3
    assert all(len(group[truth == t].unique()) == 1 for t in range(3))
    channels = len(trace.activations)
    maps = [
        gs.METHODS["groupcam"](trace, PROMPT, groups=channels, grouping=grouping)
        for grouping in ("neighbours", "kmeans")
    ]
    torch.testing.assert_close(maps[0], maps[1], atol=1e-4, rtol=1e-4)
    few = [gs.METHODS["groupcam"](trace, PROMPT, groups=4, grouping="kmeans") for _ in range(2)]
    torch.testing.assert_close(few[0], few[1])


def test_the_blur_is_a_gaussian_cut_at_51_pixels(trace):
    x = np.arange(-25, 26)
    kernel = np.exp(-(x**2) / 2 / 50.0**2)
    kernel /= kernel.sum()
    padded = np.pad(trace.pixels.numpy(), ((0, 0), (25, 25), (25, 25)), mode="reflect")
    rows = np.stack([(padded[:, i : i + 51] * kernel[:, None]).sum(1) for i in range(64)], 1)
    both = np.stack([(rows[:, :, i : i + 51] * kernel).sum(2) for i in range(64)], 2)
    np.testing.assert_allclose(perturbation._blurred(trace, 50.0), both, atol=1e-5)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_ablation_by_hand(photo, tower):
    model = tiny_clip(tower)
    trace = model.trace(photo, layer=None if tower == "vit" else "layer1")
    if tower == "vit":
        first, rest = naive.split_tower(model)
        first(trace.pixels[None])
    else:
        visual = model.network.visual
        rest = torch.nn.Sequential(visual.layer2, visual.layer3, visual.layer4, visual.attnpool)
    expected = torch.zeros(trace.activations.shape[1:])
    with torch.no_grad():
        for c, activation in enumerate(trace.activations):
            changed = trace.activations.clone()
            changed[c] = 0
            score = model.scores(F.normalize(rest(changed[None]), dim=1), PROMPT)[0]
            expected += (trace.logit(PROMPT) - score) * activation
    found = gs.METHODS["ablationcam"](trace, PROMPT)
    torch.testing.assert_close(found, expected.clamp(min=0), atol=1e-3, rtol=1e-3)


def test_activations_can_be_replaced_at_every_stage(model, photo):
    for layer in (-1, -2):
        trace = model.trace(photo, layer=layer, batch_size=2)
        same = trace.embed_activations(lambda i, t=trace: t.activations.repeat(len(i), 1, 1, 1), 3)
        torch.testing.assert_close(same, trace.embedding.expand(3, -1), atol=1e-5, rtol=0)


def test_layers_beside_the_main_path_cannot_be_replaced(resnet, photo):
    trace = resnet.trace(photo, layer="layer4.0.downsample")
    with pytest.raises(ValueError, match=r"layer 'layer4\.0\.downsample' cannot be replaced"):
        gs.METHODS["ablationcam"](trace, PROMPT)
