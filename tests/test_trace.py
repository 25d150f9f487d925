"""trace.py: what is computed once, and that nothing is left behind."""

import errno

import numpy as np
import pytest
import torch
from conftest import tiny_clip
from safetensors import SafetensorError

import gscam_lib as gs
from gscam_lib import Target
from gscam_lib.trace import embed_masked, store
from gscam_lib.trace import trace as trace_module
from gscam_lib.trace.model import Model


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
    one = model.trace(photo, batch_size=1).masked_embeddings(some)
    three = model.trace(photo, batch_size=3).masked_embeddings(some)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)


def test_masked_copies_are_embedded_once_and_in_batches(resnet, photo, monkeypatch):
    trace = resnet.trace(photo, batch_size=3)
    sizes = []
    embed = trace._embed
    monkeypatch.setattr(trace, "_embed", lambda x, **how: sizes.append(len(x)) or embed(x))
    monkeypatch.setattr(trace, "_constant", lambda channels: [])
    trace.masked_embeddings([5, 6, 7, 8, 5])
    assert sizes == [3, 1]
    trace.masked_embeddings([8, 9])
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


def test_autocast_of_the_caller_does_not_matter(model, photo):
    """Asked for fp32, the tower runs in fp32, whatever the caller's own training code has set."""
    outside = model.trace(photo)
    wanted = outside.gradients("a cat"), outside.masked_embeddings([3, 5])
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.trace(photo)
        assert torch.equal(inside.embedding, outside.embedding)
        assert torch.equal(inside.masked_embeddings([3, 5]), wanted[1])
    assert torch.equal(inside.gradients("a cat"), wanted[0])


def test_copies_of_several_photos_share_batches(model, photo, monkeypatch):
    traces = [model.trace(p, batch_size=4) for p in (photo, photo[:, ::-1].copy(), photo[::-1])]
    for trace in traces:
        monkeypatch.setattr(trace, "_constant", lambda channels: [])
    wanted = [[0, 1, 2], [3, 4, 3], [1, 5, 6]]
    calls = count_calls(model, monkeypatch)
    embed_masked([*zip(traces, wanted, strict=True), (traces[0], [2, 1])])  # the last asks twice
    assert calls == [4, 4]
    for trace, channels in zip(traces, wanted, strict=True):
        alone = model.trace(trace.photo).masked_embeddings(channels)
        before = len(calls)
        torch.testing.assert_close(trace.masked_embeddings(channels), alone, atol=1e-5, rtol=1e-4)
        assert len(calls) == before


def count_calls(model, monkeypatch):
    """Sizes of the batches that go through the image tower from here on."""
    sizes = []
    encode = model.encode_pixels
    monkeypatch.setattr(model, "encode_pixels", lambda x, **how: sizes.append(len(x)) or encode(x))
    return sizes


def test_batches_are_halved_where_memory_runs_out(resnet, photo, monkeypatch):
    encode = resnet.encode_pixels
    sizes = []

    def small_machine(pixels, **how):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return encode(pixels)

    monkeypatch.setattr(resnet, "encode_pixels", small_machine)
    trace = resnet.trace(photo, batch_size=8)
    monkeypatch.setattr(trace, "_constant", lambda channels: [])
    found = trace.masked_embeddings(range(6))
    assert sizes == [1, 6, 4, 2, 2, 2]  # all six, four of them, then as many as fit
    monkeypatch.undo()
    torch.testing.assert_close(found, resnet.trace(photo).masked_embeddings(range(6)))


def test_the_batch_fits_the_free_memory(resnet, photo, monkeypatch):
    assert 1 <= resnet.batch_size <= 16
    monkeypatch.setattr(
        "gscam_lib.model.network.free_memory", lambda device: 2 * 5 * resnet._image_bytes
    )
    fresh = tiny_clip("resnet")
    assert fresh.batch_size == 5
    with pytest.raises(ValueError, match="batch_size=0; expected 1 or more"):
        resnet.trace(photo, batch_size=0)


def test_embeddings_are_kept_on_disk(resnet, photo, tmp_path, monkeypatch):
    first = resnet.trace(photo, cache=tmp_path)
    wanted = first.masked_embeddings(range(9))
    second = resnet.trace(photo, cache=tmp_path)
    sizes = count_calls(resnet, monkeypatch)
    torch.testing.assert_close(second.masked_embeddings(range(9)), wanted)
    assert sizes == []
    second.masked_embeddings([20])
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.iterdir())) == 1
    assert set(range(9)) <= set(resnet.trace(photo, cache=tmp_path)._masked)
    other = resnet.trace(photo[::-1], cache=tmp_path)
    assert other.key != first.key
    assert not other._masked
    assert resnet.trace(photo, layer="layer3", cache=tmp_path).key != first.key


def test_a_damaged_cache_file_is_replaced(resnet, photo, tmp_path):
    resnet.trace(photo, cache=tmp_path).masked_embeddings([0, 1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="cannot be used"):
        trace = resnet.trace(photo, cache=tmp_path)
    with pytest.warns(UserWarning, match="cannot be used"):
        wanted = trace.masked_embeddings([0, 1])
    torch.testing.assert_close(resnet.trace(photo, cache=tmp_path)._masked[1], wanted[1])


@pytest.mark.parametrize("fault", ["full", "foreign", "no folder"])
def test_a_cache_that_cannot_be_written_does_not_cost_the_map(
    resnet, photo, tmp_path, monkeypatch, fault
):
    expected = gs.heatmap(resnet.trace(photo), "a cat", k=5).values
    errors = {"full": OSError(errno.ENOSPC, "No space left"), "foreign": SafetensorError("no")}

    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise errors[fault]

    cache = tmp_path / "cache"
    if fault == "no folder":
        cache.write_text("a file where the folder should be")
    else:
        monkeypatch.setattr(store, "save_file", fail)
    trace = resnet.trace(photo, cache=cache)
    with pytest.warns(UserWarning, match="could not be kept .* the map is made all the same"):
        heat = gs.heatmap(trace, "a cat", k=5)
    np.testing.assert_array_equal(heat.values, expected)
    assert fault == "no folder" or not list(cache.iterdir())


def test_gradients_of_many_prompts_come_from_one_pass(model, photo):
    prompts = ["a cat", "a dog", Target("a cat", against=["a dog", "a bird"]), "a cat"]
    together, alone = model.trace(photo), model.trace(photo)
    together.prepare(prompts)
    assert len(together._gradients) == 3
    for prompt in prompts:
        torch.testing.assert_close(
            together.gradients(prompt), alone.gradients(prompt), atol=1e-6, rtol=1e-4
        )


def test_kept_gradients_are_bounded(model, photo, monkeypatch):
    """Many prompts keep as many gradients as fit, the last used; the others are made again."""
    trace, alone = model.trace(photo), model.trace(photo)
    each = trace._output.numel() * trace._output.element_size()
    monkeypatch.setattr(trace_module, "GRADIENT_BYTES", 3 * each + each // 2)
    prompts = [f"a cat and {n} dogs" for n in range(9)]
    trace.prepare(prompts)
    most = len(trace._gradients)
    for prompt in prompts:
        torch.testing.assert_close(
            trace.gradients(prompt), alone.gradients(prompt), atol=1e-6, rtol=1e-4
        )
        most = max(most, len(trace._gradients))
    assert most == 3
    assert list(trace._gradients) == prompts[-3:]
    trace.gradients(prompts[-3])
    trace.gradients(prompts[0])
    assert list(trace._gradients) == [prompts[-1], prompts[-3], prompts[0]]
    monkeypatch.setattr(trace_module, "GRADIENT_BYTES", 1)
    assert len(gs.several(trace, prompts, "gradcam")) == len(prompts)
    assert len(trace._gradients) == 1


def test_heatmaps_of_many_prompts_equal_one_by_one(model, photo):
    trace, prompts = model.trace(photo), ["a cat", "a dog", "a bird on a tree"]
    for method, options in (("gscorecam", {"k": 6}), ("gscorecam", {}), ("gradcam", {})):
        for prompt, heat in zip(
            prompts, gs.several(trace, prompts, method, **options), strict=True
        ):
            alone = gs.heatmap(model.trace(photo), prompt, method, **options)
            assert (heat.prompt, heat.k) == (alone.prompt, alone.k)
            np.testing.assert_allclose(heat.values, alone.values, atol=2e-4)
    *_, last = gs.stream(trace, "a cat", k=8)
    np.testing.assert_array_equal(last.values, gs.heatmap(trace, "a cat", k=8).values)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_near(photo, precision):
    exact = tiny_clip("resnet")
    rough = gs.Model(exact.network, exact.tokenizer, name="rough", precision=precision)
    assert rough.weights_sha != exact.weights_sha
    a, b = (gs.heatmap(m.trace(photo), "a cat", k=20) for m in (exact, rough))
    assert a.values.dtype == b.values.dtype == np.float32
    assert np.corrcoef(a.values.ravel(), b.values.ravel())[0, 1] > 0.9
    with pytest.raises(ValueError, match="precision='int4'; expected one of fp32, tf32, bf16"):
        gs.Model(exact.network, exact.tokenizer, precision="int4")
