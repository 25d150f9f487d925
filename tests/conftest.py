"""Tiny CLIPs with random weights, one of each kind of tower, and a photo that is not square."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pytest
import torch

import gscam_lib as gs

torch.set_num_threads(1)  # tiny networks are slower on more, above all on a busy machine

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 96},
    "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
    "timm-cnn": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "image_size": 96},
    "timm-vit": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
}
TOWERS = list(VISION)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def tiny_clip(tower: str) -> gs.Model:
    """A CLIP of a few thousand weights; batch norms are made to do something."""
    vision = dict(VISION[tower])
    if "timm_model_name" in vision:
        vision["timm_proj"] = "linear"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return gs.Model(network.eval(), open_clip.SimpleTokenizer(), name=f"tiny-{tower}")


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that two workers end together."""
    items.sort(key=lambda item: not item.name.startswith("test_notebook_runs"))


@pytest.fixture(autouse=True)
def no_open_figures():
    """A test leaves no figure behind: pyplot keeps them all, and warns of the twenty-first."""
    yield
    plt.close("all")


@pytest.fixture(scope="session", params=TOWERS)
def model(request):
    return tiny_clip(request.param)


@pytest.fixture(scope="session")
def resnet():
    return tiny_clip("resnet")


@pytest.fixture(scope="session")
def photo():
    """A (40, 70, 3) photo with structure: two soft blobs on a gradient."""
    y, x = np.mgrid[0:40, 0:70].astype(float)
    blob = np.exp(-((x - 18) ** 2 + (y - 12) ** 2) / 60)
    other = np.exp(-((x - 52) ** 2 + (y - 28) ** 2) / 90)
    planes = np.stack([0.2 + 0.7 * blob, 0.3 + x / 200, 0.25 + 0.6 * other], -1)
    return (255 * planes.clip(0, 1)).astype(np.uint8)


@pytest.fixture
def trace(model, photo):
    return model.trace(photo)


def shared(*parts: str) -> Path:
    """A path in the real test data beside the checkout; the test skips where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{'/'.join(parts)}, which is not beside this checkout")
    return path
