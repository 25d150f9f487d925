"""methods/anytime.py, trace/tails.py: budgets, bands, drafts; the full map in the end."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import TOWERS, tiny_clip

import gscam_lib as gs
from gscam_lib.methods import anytime
from gscam_lib.methods.anytime import Question, _State
from gscam_lib.methods.score import gscorecam, scorecam
from gscam_lib.trace.tails import cell_masks, drafts

PROMPT, OTHER = "a cat", "a dog"
HELD = gs.Target("a cat", against=["a dog", "a photo"])


def embedded(trace, monkeypatch):
    """What goes through the tower from now on: the sizes of its batches."""
    sizes, embed = [], trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x, **how: sizes.append(len(x)) or embed(x, **how))
    return sizes


@pytest.mark.parametrize("method", ["gscorecam", "scorecam"])
@pytest.mark.parametrize("prompt", [PROMPT, HELD])
def test_a_full_budget_gives_todays_map(trace, photo, method, prompt):
    full = gs.heatmap(trace.model.trace(photo), prompt, method)
    for options in ({"budget": 10_000}, {"budget": full.passes}, {"tolerance": 1e-9}):
        heat = gs.heatmap(trace.model.trace(photo), prompt, method, **options)
        np.testing.assert_allclose(heat.values, full.values, atol=1e-4)
        assert (heat.band, full.band) == (0, 0)
    *_, last = gs.stream(trace, prompt, method=method)
    np.testing.assert_allclose(last.values, full.values, atol=1e-4)
    assert (last.passes, last.band, last.k) == (full.passes, 0, full.k)


def test_a_budget_is_kept(trace, monkeypatch):
    sizes = embedded(trace, monkeypatch)
    for budget in (1, 5, 9):
        heat = gs.heatmap(trace, PROMPT, "scorecam", budget=budget)
        assert heat.passes == budget
        assert 0 < heat.band <= 1
        assert sum(sizes) <= budget  # what was scored before is the beginning of it
    assert gs.METHODS["scorecam"](trace, PROMPT, budget=9).shape == trace.activations.shape[1:]
    assert sum(sizes) <= 9


@pytest.mark.parametrize("tower", TOWERS)
def test_batches_and_history_change_nothing(tower, photo):
    model = tiny_clip(tower)
    expected = gs.heatmap(model.trace(photo, batch_size=1), PROMPT, "scorecam", budget=12)
    chosen = None
    for size in (5, 64):
        trace = model.trace(photo, batch_size=size)
        heat = gs.heatmap(trace, PROMPT, "scorecam", budget=12)
        assert chosen in (None, sorted(trace._masked))
        chosen = sorted(trace._masked)
        np.testing.assert_allclose(heat.values, expected.values, atol=1e-4)
        assert heat.band == pytest.approx(expected.band, abs=1e-3)
    known = model.trace(photo)
    gs.heatmap(known, OTHER, "scorecam")
    again = gs.heatmap(known, PROMPT, "scorecam", budget=12)
    np.testing.assert_allclose(again.values, expected.values, atol=1e-4)


def test_a_stream_sharpens_from_a_draft_and_a_tolerance_ends_it(resnet, photo):
    seen = list(gs.stream(resnet.trace(photo), PROMPT, method="scorecam", step=20))
    passes = [heat.passes for heat in seen]
    assert passes[0] == 0
    assert passes[-1] == 256
    assert all(b - a >= 20 for a, b in pairwise(passes[:-1]))
    assert all(0 <= heat.band <= 1 for heat in seen)
    assert seen[-1].band == 0
    tolerance = seen[len(seen) // 2].band
    heat = gs.heatmap(resnet.trace(photo), PROMPT, "scorecam", tolerance=tolerance)
    assert heat.band <= tolerance
    assert heat.passes < 256
    both = gs.heatmap(resnet.trace(photo), PROMPT, "scorecam", tolerance=tolerance, budget=2)
    assert both.passes == 2


def test_prompts_and_ks_share_their_copies(resnet, photo, monkeypatch):
    monkeypatch.setattr(anytime, "WIDEN", 1)  # at WIDEN these bands are at their most, 1
    trace = resnet.trace(photo)
    sizes = embedded(trace, monkeypatch)
    heats = gs.several(trace, [PROMPT, OTHER], "scorecam", budget=8)
    assert [heat.passes for heat in heats] == [8, 8]
    assert sum(sizes) == 16
    assert heats[0].band < gs.heatmap(trace, PROMPT, "scorecam", budget=8).band
    swept = gs.sweep(trace, PROMPT, [40, 6], budget=10)
    assert {k: heat.k for k, heat in swept.items()} == {40: 40, 6: 6}
    np.testing.assert_allclose(swept[6].values, gs.heatmap(trace, PROMPT, k=6).values, atol=1e-5)
    assert swept[6].band == 0
    assert swept[40].band > 0


@pytest.mark.parametrize("tower", TOWERS)
def test_a_draft_of_a_mask_of_ones_is_the_photos_own(tower, photo, monkeypatch):
    trace = tiny_clip(tower).trace(photo)
    ones = torch.ones(1, *trace.activations.shape[1:])
    monkeypatch.setattr(
        "gscam_lib.trace.tails.cell_masks", lambda trace, part: ones.expand(len(part), -1, -1)
    )
    found = drafts(trace, torch.arange(70))
    torch.testing.assert_close(found[:1], trace.embedding[None], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[-1:], trace.embedding[None], atol=1e-3, rtol=0)


def test_a_resnets_draft_is_what_follows_the_masked_layer(resnet, photo):
    trace = resnet.trace(photo)
    channels = torch.tensor([3, 1, 7])
    masked = trace.activations * cell_masks(trace, channels)[:, None]
    expected = trace.embed_activations(lambda r: masked[list(r)], 3)
    torch.testing.assert_close(drafts(trace, channels), expected, atol=1e-4, rtol=1e-3)


def test_without_a_tail_there_is_no_draft_but_a_map(resnet, photo):
    trace = resnet.trace(photo, layer="layer2")
    assert drafts(trace, torch.arange(4)) is None
    heat = gs.heatmap(trace, PROMPT, "scorecam", budget=10)
    assert heat.passes == 10
    assert not heat.flat


def test_kriging_equals_the_plain_equations(resnet, photo):
    """Ordinary kriging, solved at once: [K + noise, 1; 1ᵀ, 0]."""
    trace = resnet.trace(photo)
    state = _State(trace, [Question(PROMPT, torch.arange(40))])
    picks = [7, 3, 30, 21, 12]
    for j in picks:
        state._add(j)
    state.score(picks)
    n, K = len(picks), state.kernel
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = K[picks][:, picks] + anytime.NOISE * torch.eye(n)
    system[:n, n] = system[n, :n] = 1
    right = torch.cat([K[picks], torch.ones(1, 40, dtype=torch.float64)])
    weights = torch.linalg.solve(system, right)
    wrong = state._known(0) - state.draft[0][picks]
    expected = state.draft[0] + weights[:n].T @ wrong
    expected[picks] = state._known(0)
    torch.testing.assert_close(state._mean(0), expected)
    variance = K.diagonal() - (weights * right).sum(0)
    torch.testing.assert_close(state._variance(), variance.clamp_min(0), atol=1e-6, rtol=1e-6)


def test_the_posterior_mean_is_the_map_where_weights_are_certain(resnet, photo):
    """With all but one copy scored, the guess is off by that copy's error alone."""
    trace = resnet.trace(photo)
    full = gscorecam(trace, PROMPT, k=20)
    near = gscorecam(trace, PROMPT, k=20, budget=19)
    far = gscorecam(trace, PROMPT, k=20, budget=2)
    assert (near - full).abs().max() < (far - full).abs().max()
    assert not torch.equal(near, full)
    torch.testing.assert_close(scorecam(trace, PROMPT, budget=256), scorecam(trace, PROMPT))


def test_errors_name_what_came(trace, photo):
    for bad in (0, -1, "9", 1.5, True):
        with pytest.raises(ValueError, match=rf"Got budget={bad!r} for 'gscorecam'"):
            gs.heatmap(trace, PROMPT, budget=bad)
    for bad in (0, 1.5, "a", float("nan")):
        with pytest.raises(ValueError, match="Got tolerance="):
            gs.heatmap(trace, PROMPT, tolerance=bad)
    with pytest.raises(ValueError, match=r"takes no budget.*gscorecam, scorecam"):
        gs.heatmap(trace, PROMPT, "gradcam", budget=5)
    with pytest.raises(ValueError, match="scores no masked copies"):
        gs.heatmap(trace, PROMPT, weighting="uniform", budget=5)
    with pytest.raises(ValueError, match="expected one trace"):
        gs.heatmap([trace, trace.model.trace(photo)], PROMPT, budget=5)
    with pytest.raises(ValueError, match="expected one of gscorecam, scorecam"):
        gs.stream(trace, PROMPT, method="gradcam")
