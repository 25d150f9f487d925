"""Forms in which people hold a CLIP, each made small and beside a plain twin of equal outputs.

`FORMS` is read by the tests and by `python tests/bench/loading.py --forms`, which prints the table.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import torch
from open_clip.model import convert_weights_to_lp
from safetensors.torch import save_file
from torch import nn

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
VIT = {"layers": 2, "width": 64, "patch_size": 16, "image_size": 64}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
ARCHITECTURES = {  # named, as open_clip's own are
    f"tiny-{tower}{end}": {
        "embed_dim": 32, "quick_gelu": bool(end), "vision_cfg": vision, "text_cfg": TEXT,
    }
    for tower, vision in (("vit", VIT), ("rn", RESNET))
    for end in ("", "-quickgelu")
}  # fmt: skip
named = mock.patch.dict(open_clip.factory._MODEL_CONFIGS, ARCHITECTURES)


@dataclass
class Made:
    """what load_model is given, its options, and a twin with encode_image and encode_text."""

    what: Any
    twin: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    tokens: int = 49408


@dataclass(frozen=True)
class Form:
    """kind and name: as in the table; refused: what the error must say, "" where it loads."""

    kind: str
    name: str
    make: Callable[[Path], Made]
    refused: str = ""
    warns: str = ""


FORMS: list[Form] = []


def form(kind: str, name: str, refused: str = "", warns: str = "") -> Any:
    """Put a maker into the list."""

    def put(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        FORMS.append(Form(kind, name, make, refused, warns))
        return make

    return put


@lru_cache
def network(tower: str = "vit", quick: bool = False, text: int = 64) -> Any:
    """A CLIP with random weights; text: width of the text tower (128 is of no named one)."""
    config = ARCHITECTURES[f"tiny-{tower}"]
    sizes = {**TEXT, "width": text, "heads": text // 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = open_clip.CLIP(**{**config, "quick_gelu": quick, "text_cfg": sizes}).eval()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return made


def config_of(tower: str = "vit") -> str:
    """Text of an open_clip_config.json."""
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    return json.dumps({"model_cfg": ARCHITECTURES[f"tiny-{tower}"], "preprocess_cfg": preprocess})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def saved(content: Any, path: Path) -> Path:
    """Save as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def half(source: Any) -> tuple[Any, Any]:
    """A network with the fp16 of OpenAI's files, and the same values in fp32."""
    low = copy.deepcopy(source)
    convert_weights_to_lp(low, torch.float16)
    return low, copy.deepcopy(low).float()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: t for name, t in network().state_dict().items()}


# ---------------------------------------------------------------- open_clip


def open_clip_folder(folder: Path) -> Path:
    write(folder / "open_clip_config.json", config_of())
    saved(network().state_dict(), folder / "open_clip_model.safetensors")
    return folder


form("open_clip", "folder: config and safetensors")(lambda d: Made(open_clip_folder(d), network()))
form("open_clip", "local-dir:FOLDER")(lambda d: Made(f"local-dir:{open_clip_folder(d)}", network()))
form("open_clip", "safetensors file beside its config")(
    lambda d: Made(open_clip_folder(d) / "open_clip_model.safetensors", network())
)


@form("open_clip", "folder: config and .bin in bf16, keys with module.")
def _(d: Path) -> Made:
    write(d / "open_clip_config.json", config_of())
    state = {k: v.bfloat16() for k, v in prefixed("module.").items()}
    saved(state, d / "pytorch_model.bin")
    return Made(d, copy.deepcopy(network()).bfloat16().float())


@form("open_clip", "safetensors without a config", warns="tiny-vit.*GELU is assumed")
def _(d: Path) -> Made:
    return Made(saved(network().state_dict(), d / "x.safetensors"), network())


@form("open_clip", "safetensors without a config, of no named size", warns="of no known name")
def _(d: Path) -> Made:
    return Made(saved(network(text=128).state_dict(), d / "x.safetensors"), network(text=128))


def training(prefix: str, optimizer: bool) -> dict[str, Any]:
    """A checkpoint as open_clip's training writes it."""
    content: dict[str, Any] = {"epoch": 3, "name": "run", "state_dict": prefixed(prefix)}
    if optimizer:
        adam = torch.optim.AdamW([torch.nn.Parameter(torch.ones(5))])
        adam.param_groups[0]["params"][0].grad = torch.ones(5)
        adam.step()
        content["optimizer"] = adam.state_dict()
    return content


@form("open_clip", "epoch_3.pt with optimizer, keys with module.", warns="GELU is assumed")
def _(d: Path) -> Made:
    return Made(saved(training("module.", True), d / "epoch_3.pt"), network())


@form("open_clip", "epoch_3.pt without optimizer, keys with _orig_mod.", warns="GELU is assumed")
def _(d: Path) -> Made:
    return Made(saved(training("module._orig_mod.", False), d / "epoch_3.pt"), network())


@form("open_clip", "epoch_3.pt below the params.txt of its training")
def _(d: Path) -> Made:
    write(d / "params.txt", "lr: 0.1\nmodel: tiny-vit\npretrained: \n")
    return Made(saved(training("module.", True), d / "checkpoints" / "epoch_3.pt"), network())


@form("open_clip", "epoch_3.pt with arch=")
def _(d: Path) -> Made:
    path = saved(training("", True), d / "epoch_3.pt")
    return Made(path, network(quick=True), {"arch": "tiny-vit-quickgelu"})


@form("open_clip", "ARCHITECTURE/FILE")
def _(d: Path) -> Made:
    return Made(f"tiny-rn/{saved(network('rn').state_dict(), d / 'x.pth')}", network("rn"))


@form("open_clip", "folder with one file", warns="tiny-rn.*GELU is assumed")
def _(d: Path) -> Made:
    saved(network("rn").state_dict(), d / "x.pth")
    return Made(d, network("rn"))


@form("open_clip", "pickle of before PyTorch 1.6", warns="GELU is assumed")
def _(d: Path) -> Made:
    path = d / "old.pt"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False)
    return Made(path, network())


@form("open_clip", "custom text tower, keys with text.", warns="GELU is assumed")
def _(d: Path) -> Made:
    text = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
    state = network().state_dict()
    state = {(f"text.{k}" if k.startswith(text) else k): v for k, v in state.items()}
    return Made(saved(state, d / "x.pt"), network())


# ---------------------------------------------------------------- OpenAI


class Traced(nn.Module):
    """The parts of a network in a class that can be traced."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        for name, child in source.named_children():
            setattr(self, name, child)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(source, name))

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        return self.logit_scale * scale


class OpenAI(Traced):
    """What the `clip` package gives: the same names, three numbers more, and classes of its own."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        for name, value in (("input_resolution", 64), ("context_length", 16),
                            ("vocab_size", 49408)):  # fmt: skip
            self.register_buffer(name, torch.tensor(value))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


def scripted(tower: str, d: Path) -> Made:
    low, twin = half(network(tower, quick=True, text=128))
    path = d / "archive.pt"
    torch.jit.trace(OpenAI(low), torch.ones(())).save(path)
    return Made(path, twin)


form("OpenAI", ".pt archive (TorchScript) of a ViT, fp16")(lambda d: scripted("vit", d))
form("OpenAI", ".pt archive (TorchScript) of a ResNet, fp16")(lambda d: scripted("rn", d))


@form("OpenAI", "state dict with its three keys, fp16")
def _(d: Path) -> Made:
    low, twin = half(network("rn", quick=True))
    return Made(saved(OpenAI(low).state_dict(), d / "x.pt"), twin)


@form("OpenAI", "state dict without them, fp16", warns="QuickGELU is assumed")
def _(d: Path) -> Made:
    low, twin = half(network("vit", quick=True))
    return Made(saved(low.state_dict(), d / "x.pt"), twin)


@form("OpenAI", "TorchScript archive of an open_clip network, GELU")
def _(d: Path) -> Made:
    path = d / "archive.pt"
    torch.jit.trace(Traced(network()), torch.ones(())).save(path)
    return Made(path, network())


@form(
    "OpenAI", "its three keys under an architecture without QuickGELU", refused="tiny-rn-quickgelu"
)
def _(d: Path) -> Made:
    low, _ = half(network("rn", quick=True))
    return Made(saved(OpenAI(low).state_dict(), d / "x.pt"), None, {"arch": "tiny-rn"})


# ---------------------------------------------------------------- weights over a named architecture


@form("fine-tune", "file over a named architecture")
def _(d: Path) -> Made:
    path = saved(training("module.", True), d / "epoch_3.pt")
    return Made("tiny-vit", network(), {"weights": path})


@form("fine-tune", "merged state dict over a named architecture")
def _(d: Path) -> Made:
    merged = {k: v + 0.01 for k, v in network().state_dict().items()}
    twin = copy.deepcopy(network())
    twin.load_state_dict(merged)
    return Made("tiny-vit", twin, {"weights": merged})


@form("fine-tune", "image tower alone over a whole model", warns=r"has 32 of the \d+ tensors")
def _(d: Path) -> Made:
    state = {k: v * 1.1 for k, v in network().state_dict().items() if k.startswith("visual.")}
    twin = copy.deepcopy(network())
    twin.load_state_dict(state, strict=False)
    return Made(open_clip_folder(d / "base"), twin, {"weights": saved(state, d / "x.safetensors")})


form("fine-tune", "of another architecture", refused=r"missing.*unexpected.*of another shape")(
    lambda d: Made("tiny-vit", None, {"weights": network("rn", text=128).state_dict()})
)


@form("fine-tune", "LoRA adapter that is not merged", refused="Merge it first")
def _(d: Path) -> Made:
    state = {**network().state_dict(), "visual.proj.lora_A.weight": torch.ones(2, 2)}
    return Made(saved(state, d / "x.pt"))
