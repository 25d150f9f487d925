"""folded.py: the same embeddings in less arithmetic, without a trace on the network."""

import copy

import pytest
import torch
from conftest import tiny_clip
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gscam_lib.model.folded import FirstTokenPool, folded


@pytest.fixture(params=["resnet", "timm-cnn"])
def cnn(request):
    return tiny_clip(request.param)


@pytest.fixture(autouse=True)
def same_draws():
    """Weights and pixels do not depend on which tests ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(model, count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, model.input_size, model.input_size, generator=generator)


@torch.no_grad()
def test_embeddings_are_the_same(cnn):
    quick = folded(cnn.network)
    assert quick is not cnn.network
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.visual.modules())
    expected = cnn.network.encode_image(images(cnn))
    found = quick.encode_image(images(cnn))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_network_is_not_touched(cnn):
    before = copy.deepcopy(cnn.network.state_dict())
    modules = [(name, type(m)) for name, m in cnn.network.named_modules()]
    quick = folded(cnn.network)
    after = cnn.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert modules == [(name, type(m)) for name, m in cnn.network.named_modules()]
    mine = {p.data_ptr() for p in cnn.network.parameters()}
    own = [p for p in quick.parameters() if p.data_ptr() not in mine]
    assert 0 < sum(p.numel() for p in own) < sum(p.numel() for p in cnn.network.parameters())
    assert not quick.visual.training


@torch.no_grad()
def test_it_is_less_arithmetic():
    model = tiny_clip("resnet")
    flops = []
    for network in (model.network, folded(model.network)):
        with FlopCounterMode(display=False) as counter:
            network.encode_image(images(model, 8))
        flops.append(counter.get_total_flops())
    assert flops[1] < flops[0]


@torch.no_grad()
def test_the_pool_is_open_clips():
    pool = tiny_clip("resnet").network.visual.attnpool.double()  # such weights amplify fp32's error
    for p in pool.parameters():
        nn.init.normal_(p)
    side = int((len(pool.positional_embedding) - 1) ** 0.5)
    x = torch.randn(11, pool.q_proj.in_features, side, side).double()
    torch.testing.assert_close(FirstTokenPool(pool)(x), pool(x), rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_an_image_is_pooled_alike_in_any_company():
    pool = FirstTokenPool(tiny_clip("resnet").network.visual.attnpool)
    side = int((len(pool.pool.positional_embedding) - 1) ** 0.5)
    x = torch.randn(11, pool.pool.q_proj.in_features, side, side)
    whole = pool(x)
    for cut in ([0], [3, 4], [10], list(range(9))):
        assert torch.equal(pool(x[cut]), whole[cut])


def test_nothing_to_fold_gives_the_network_itself_without_a_pass(monkeypatch):
    network = tiny_clip("vit").network
    monkeypatch.setattr(network, "encode_image", lambda pixels: pytest.fail("a pass was spent"))
    assert folded(network) is network


def test_hooks_stay_behind():
    model, seen = tiny_clip("resnet"), []
    handle = model.network.visual.layer2.register_forward_hook(lambda *_: seen.append(1))
    quick = folded(model.network)
    quick.encode_image(images(model))
    assert not seen
    model.network.encode_image(images(model))
    assert seen
    handle.remove()


class Crossed(nn.Module):
    """A convolution and a norm that stand side by side and do not follow each other."""

    image_size = 16

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        nn.init.normal_(self.norm.weight)
        self.norm.running_mean.normal_()

    def forward(self, x):
        return self.first(self.norm(x).relu()).mean((2, 3))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Crossed()

    def encode_image(self, x):
        return self.visual(x)


def test_a_tower_that_is_not_understood_is_left_alone():
    network = Network().eval()
    assert folded(network) is network


@torch.no_grad()
def test_changed_weights_are_noticed(cnn):
    pixels = images(cnn)
    assert cnn.quick_tower is cnn.quick_tower
    before = cnn.encode_pixels(pixels, fast=True)
    weight = next(p for p in cnn.network.visual.parameters() if p.ndim == 4)
    weight.mul_(-2)
    after = cnn.encode_pixels(pixels, fast=True)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, cnn.encode_pixels(pixels), rtol=0, atol=1e-4)


@torch.no_grad()
def test_broken_weights_are_not_swallowed():
    model = tiny_clip("resnet")
    model.network.visual.layer4[0].conv1.weight.fill_(float("nan"))
    assert model.quick_tower is model.network.visual
    for fast in (False, True):
        with pytest.raises(ValueError, match="weights of the image tower"):
            model.encode_pixels(images(model), fast=fast)
