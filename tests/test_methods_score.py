"""methods/score.py beyond plain gScoreCAM: rankings, weightings, targets, SS-CAM."""

import naive
import numpy as np
import pytest
import torch
from conftest import tiny_clip
from torch.nn import functional as F
from torchcam.methods import SSCAM

import gscam_lib as gs
from gscam_lib.methods.score import RANKINGS, _generator

PROMPT = "an apple on a table"
HELD = gs.Target(PROMPT, against=("a dog", "snow"))
gscorecam = gs.METHODS["gscorecam"]


@pytest.fixture(scope="module")
def trace(photo):
    return tiny_clip("vit").trace(photo)


def by_hand(trace, chosen, weights):
    return sum(float(w) * trace.activations[c] for c, w in zip(chosen, weights, strict=True)).relu()


@pytest.mark.parametrize("ranking", ["mean", "abs_mean", "mean_abs", "max_abs", "variance"])
def test_rankings_by_hand(trace, ranking):
    worth = {
        "mean": lambda g: g.mean(),
        "abs_mean": lambda g: abs(g.mean()),
        "mean_abs": lambda g: np.abs(g).mean(),
        "max_abs": lambda g: np.abs(g).max(),
        "variance": lambda g: ((g - g.mean()) ** 2).mean(),
    }[ranking]
    merits = [worth(g) for g in trace.gradients(PROMPT).double().numpy()]
    chosen = sorted(range(len(merits)), key=lambda c: -merits[c])[:3]
    found = gscorecam(trace, PROMPT, k=3, ranking=ranking, weighting="uniform")
    torch.testing.assert_close(found, by_hand(trace, chosen, [1 / 3] * 3))


def test_the_mean_ranking_is_the_traces_own(trace):
    order = RANKINGS["mean"](trace, PROMPT, 0).argsort(descending=True, stable=True)
    assert torch.equal(order, trace.ranking(PROMPT))


def test_random_ranking_is_a_matter_of_the_seed(trace):
    state = torch.get_rng_state()
    maps = [gscorecam(trace, PROMPT, k=4, ranking="random", seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    every = gscorecam(trace, PROMPT, k=32, ranking="random")
    torch.testing.assert_close(every, gs.METHODS["scorecam"](trace, PROMPT))


def test_weightings_by_hand(trace):
    chosen = trace.ranking(PROMPT)[:4]
    scores = trace.model.scores(trace.masked_embeddings(chosen), PROMPT)
    powers = scores.exp()
    others = len(trace.activations) - 4
    outside = [c for c in range(others + 4) if c not in chosen]
    whole = powers.sum() + others
    expected = (
        sum(float(p / whole) * trace.activations[c] for p, c in zip(powers, chosen, strict=True))
        + sum(float(1 / whole) * trace.activations[c] for c in outside)
    ).relu()
    torch.testing.assert_close(gscorecam(trace, PROMPT, k=4), expected)
    found = gscorecam(trace, PROMPT, k=4, weighting="softmax_chosen")
    torch.testing.assert_close(found, by_hand(trace, chosen, powers / powers.sum()))


def test_uniform_weights_need_no_masked_pass(photo, monkeypatch):
    trace = tiny_clip("vit").trace(photo)
    monkeypatch.setattr(trace, "masked_embeddings", None)
    found = gs.METHODS["uniform_weights"](trace, PROMPT, k=5)
    torch.testing.assert_close(found, trace.activations[trace.ranking(PROMPT)[:5]].mean(0).relu())


def test_channels_not_chosen_do_not_win_with_contrastive_targets(trace):
    """Log probabilities are at most 0, so a score of 0 for the others would be the highest."""
    chosen = trace.ranking(HELD)[:4]
    scores = trace.model.scores(trace.masked_embeddings(chosen), HELD)
    assert scores.max() < 0
    torch.testing.assert_close(
        gscorecam(trace, HELD, k=4), by_hand(trace, chosen, scores.softmax(0))
    )


def test_all_targets_change_the_map(trace):
    targets = [
        PROMPT,
        HELD,
        gs.Target(["a photo of a dog", "a drawing of a dog"]),
        gs.Target(vector=trace.embedding.flip(0)),
    ]
    maps = [gscorecam(trace, target, k=4) for target in targets]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert not torch.allclose(one, other)


def test_controls_are_half_a_gscorecam(trace):
    torch.testing.assert_close(
        gs.METHODS["random_channels"](trace, PROMPT, k=4, seed=3),
        gscorecam(trace, PROMPT, k=4, ranking="random", seed=3),
    )
    order = torch.rand(32, generator=torch.Generator().manual_seed(3)).argsort(descending=True)
    chosen = order[:4]
    scores = trace.model.scores(trace.masked_embeddings(chosen), PROMPT)
    found = gscorecam(trace, PROMPT, k=4, ranking="random", seed=3, weighting="softmax_chosen")
    torch.testing.assert_close(found, by_hand(trace, chosen, scores.softmax(0)))


def test_sobel_by_hand(trace):
    grey = np.asarray(trace.geometry.to_input(trace.photo).convert("L"), dtype=float)
    found = gs.METHODS["sobel"](trace, PROMPT)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    for y, x in ((1, 1), (20, 33), (62, 62)):
        part = grey[y - 1 : y + 2, x - 1 : x + 2]
        expected = np.hypot((kernel * part).sum(), (kernel.T * part).sum())
        assert float(found[y, x]) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- SS-CAM


class Stored:
    """Stands in for torchcam's noise: ours, in its order (a sample of all channels at a time)."""

    def __init__(self, channels, samples, sigma, seed):
        self.samples, self.sigma, self.seed, self.channels = samples, sigma, seed, channels
        self.drawn = 0

    def sample(self, size):
        indices = [c * self.samples + self.drawn for c in range(self.channels)]
        self.drawn += 1
        noise = [torch.randn(size[2:], generator=_generator(self.seed, i)) for i in indices]
        return self.sigma * torch.stack(noise)[None]


class Aligned(SSCAM):
    """torchcam's SS-CAM, upsampled as CLIP's ScoreCAM does.

    By design it differs there: torchcam min-maxes small maps and upsamples them without aligned
    corners; the paper of gScoreCAM upsamples with aligned corners, then min-maxes.
    """

    @staticmethod
    def _upsample(activation):
        large = F.interpolate(activation, (96, 96), mode="bilinear", align_corners=True)
        low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
        return (large - low) / (high - low + 1e-6)


def test_sscam_equals_torchcams(resnet, photo):
    trace = resnet.trace(photo, layer="layer1")
    module = naive.Scalar(resnet, PROMPT).eval()
    with Aligned(module, trace.layer.module, num_samples=2, input_shape=(3, 96, 96)) as extract:
        extract._distrib = Stored(len(trace.activations), 2, 2.0, seed=5)
        scores = module(trace.pixels[None])
        expected = extract(0, scores)[0][0].detach()
    found = gs.METHODS["sscam"](trace, PROMPT, samples=2, seed=5)
    np.testing.assert_allclose(naive.minmax(found), naive.minmax(expected), atol=1e-4)


def test_sscam_without_noise_is_scorecam(trace):
    found = gs.METHODS["sscam"](trace, PROMPT, samples=1, sigma=0.0)
    torch.testing.assert_close(found, gs.METHODS["scorecam"](trace, PROMPT))


@pytest.mark.parametrize(
    "options", [{"ranking": "best"}, {"weighting": "none"}, {"ranking": None}, {"weighting": 1}]
)
def test_unknown_rules_are_refused(trace, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=rf"Got {name}=.* or '(random|uniform)'"):
        gscorecam(trace, PROMPT, **options)
