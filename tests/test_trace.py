"""trace.py: what is computed once, and that nothing is left behind."""

import pytest
import torch

import gscam_lib as gs
from gscam_lib.clip import Model


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.network.modules())


def test_shapes(model, trace):
    C = model.channels
    h, w = trace.activations.shape[1:]
    D = len(trace.embedding)
    assert trace.activations.shape == (C, h, w)
    assert trace.gradients("a cat").shape == (C, h, w)
    assert trace.logits(["a cat", "a dog"]).shape == (2,)
    assert trace.masked_embeddings([0, 3]).shape == (2, D)
    assert trace.masked_embeddings([]).shape == (0, D)
    assert trace.masks([1, 2]).shape == (2, model.input_size, model.input_size)
    assert trace.image.shape == (40, 70, 3)


def test_logit_is_scale_times_cosine(model, trace):
    text = model.encode_text(["a cat"])[0]
    pixels = model.preprocess(trace.photo)
    image = model.network.encode_image(pixels[None])[0].detach()
    expected = model.logit_scale * torch.cosine_similarity(image, text, dim=0)
    assert trace.logit("a cat") == pytest.approx(float(expected), abs=1e-4)
    assert isinstance(trace.logit("a cat"), float)


def test_gradient_predicts_the_change_of_the_logit(model, photo):
    """A step along the gradient changes the logit by its squared length."""
    trace = model.trace(photo)
    gradient = trace.gradients("a cat")
    assert gradient.abs().max() > 0
    step = 1e-3 / float(gradient.norm())

    def shifted(module, inputs, output):
        moved = output.clone()
        if model.layer.grid is None:
            return moved + step * gradient
        count = gradient[0].numel()
        moved[:, -count:] += step * gradient.flatten(1).T
        return moved

    handle = model.layer.module.register_forward_hook(shifted)
    after = model.trace(photo).logit("a cat")
    handle.remove()
    change = (after - trace.logit("a cat")) / (step * float(gradient.norm()) ** 2)
    assert change == pytest.approx(1, abs=0.1)


def test_batch_size_changes_nothing(model, photo):
    some = range(7)
    one = model.trace(photo).masked_embeddings(some, batch_size=1)
    three = model.trace(photo).masked_embeddings(some, batch_size=3)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)


def test_masked_copies_are_embedded_once_and_in_batches(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    sizes = []
    embed = trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x: sizes.append(len(x)) or embed(x))
    monkeypatch.setattr(trace, "_constant", lambda channels: [])
    trace.masked_embeddings([5, 6, 7, 8, 5], batch_size=3)
    assert sizes == [3, 1]
    trace.masked_embeddings([8, 9], batch_size=3)
    assert sizes == [3, 1, 1]
    for prompt in ("a cat", "a dog"):
        gs.heatmap(trace, prompt, k=4)
        gs.heatmap(trace, prompt, k=2)
    union = set(trace.ranking("a cat")[:4].tolist()) | set(trace.ranking("a dog")[:4].tolist())
    assert sum(sizes) == len(union | {5, 6, 7, 8, 9})


def test_dead_channels_share_one_pass_exactly(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    expected = trace._embed(trace.pixels[None] * 0)[0]
    trace.activations[[2, 4]] = 1.5
    calls = []
    embed = trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x: calls.append(len(x)) or embed(x))
    found = trace.masked_embeddings([2, 4])
    assert calls == [1]
    assert torch.equal(found, torch.stack([expected, expected]))
    assert trace.masks([2]).abs().max() == 0


@pytest.mark.parametrize("channels", [[-1], [10_000], [0, 256]])
def test_channels_that_do_not_exist(resnet, photo, channels):
    with pytest.raises(ValueError, match="channels 0 to 255"):
        resnet.trace(photo).masked_embeddings(channels)


def test_no_hooks_are_left(model, photo, monkeypatch):
    before = hooks(model)
    trace = model.trace(photo)
    gs.heatmap(trace, "a cat", k=2)
    assert hooks(model) == before

    def fail(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Model, "encode_pixels", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.trace(photo)
    assert hooks(model) == before


def test_modes_and_random_state_are_untouched(model, photo):
    network = model.network
    network.train()
    next(network.children()).eval()
    modes = [m.training for m in network.modules()]
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    expected = gs.heatmap(model.trace(photo), "a cat", k=3).values
    assert [m.training for m in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    network.eval()
    assert (gs.heatmap(model.trace(photo), "a cat", k=3).values == expected).all()


def test_grad_mode_of_the_caller_does_not_matter(resnet, photo):
    with torch.no_grad():
        inside = resnet.trace(photo).gradients("a cat")
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(inside, resnet.trace(photo).gradients("a cat"))
