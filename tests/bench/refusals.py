"""Files, folders and names that are no CLIP, or would run code: each is refused in one sentence."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.bench.forms import Made, config_of, form, network, saved, training, write


class Hostile:
    """Runs a command when it is unpickled, unless nobody unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.trace}'",)


def hostile(d: Path, **how: Any) -> Made:
    torch.save({**network().state_dict(), "x": Hostile(d / "it-ran")}, d / "x.pt", **how)
    return Made(d / "x.pt")


form("refused", "pickle that runs a command", refused="asks to run posix.system")(hostile)
form("refused", "old pickle that runs a command", refused="more than tensors")(
    lambda d: hostile(d, _use_new_zipfile_serialization=False)
)


@form("refused", "bare pickle that runs a command", refused="is not read")
def _(d: Path) -> Made:
    (d / "x.bin").write_bytes(pickle.dumps(Hostile(d / "it-ran")))
    return Made(d / "x.bin")


@form("refused", "a whole pickled network", refused=r"asks to run open_clip\.model\.CLIP")
def _(d: Path) -> Made:
    return Made(saved(copy.deepcopy(network()), d / "x.pt"))


def cut(d: Path, name: str, share: float) -> Made:
    path = saved(network().state_dict(), d / name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return Made(path)


for _name in ("x.pt", "x.safetensors"):
    for _share in (0.001, 0.5, 0.999):
        form("refused", f"{_name} cut at {_share:.1%}", refused="damaged or incomplete")(
            lambda d, name=_name, share=_share: cut(d, name, share)
        )


@form("refused", "one bit flipped in a .pt", refused="damaged.*CRC")
def _(d: Path) -> Made:
    path = saved(network().state_dict(), d / "x.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    return Made(path)


for _name, _text, _said in (
    ("empty file", "", "is empty"),
    ("pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("web page", "<!DOCTYPE html><html>", "web page"),
    ("text", "hello", "holds no weights"),
):
    form("refused", _name, refused=_said)(
        lambda d, text=_text: Made(write(d / "model.safetensors", text))
    )
form("refused", "an image tower alone", refused="without a text tower")(
    lambda d: Made(
        saved({k: v for k, v in network().state_dict().items() if "visual" in k}, d / "x.pt")
    )
)
form("refused", "another model's state dict", refused="no image tower")(
    lambda d: Made(saved(nn.Linear(2, 2).state_dict(), d / "x.pt"))
)
form("refused", "checkpoint without tensors", refused="no tensors")(
    lambda d: Made(saved({"epoch": 3}, d / "x.pt"))
)


@form("refused", "weights with NaN", refused=r"visual\.proj.*NaN or infinity")
def _(d: Path) -> Made:
    state = {**network().state_dict(), "visual.proj": torch.full((64, 32), torch.nan)}
    return Made(saved(state, d / "x.pt"), options={"arch": "tiny-vit"})


form("refused", "empty folder", refused=r"in it: nothing.*open_clip_config\.json")(
    lambda d: Made(d)
)
form("refused", "open_clip folder without weights", refused="has no weights")(
    lambda d: Made(write(d / "open_clip_config.json", config_of()).parent)
)
form("refused", "broken open_clip_config.json", refused=r"open_clip_config\.json cannot be read")(
    lambda d: Made(write(d / "open_clip_config.json", "{").parent)
)


@form("refused", "broken config.json", refused=r"config\.json cannot be read")
def _(d: Path) -> Made:
    return Made(write(d / "config.json", "{").parent)


@form("refused", "folder with several checkpoints", refused=r"Give one.*epoch_2\.pt")
def _(d: Path) -> Made:
    for i in (1, 2):
        saved(training("", False), d / f"epoch_{i}.pt")
    return Made(d)


@form("refused", "weights that do not fit the config beside them", refused="do not fit")
def _(d: Path) -> Made:
    write(d / "open_clip_config.json", config_of("rn"))
    return Made(saved(network().state_dict(), d / "model.safetensors"))


form("refused", "an unknown name", refused="No model 'RN5O/openai'.*hf-hub:RN5O/openai")(
    lambda d: Made("RN5O/openai")
)
form("refused", "an unknown architecture", refused="No model 'ViT-B32'.*Near it")(
    lambda d: Made(saved(network().state_dict(), d / "x.pt"), options={"arch": "ViT-B32"})
)
form("refused", "None", refused="Got None as model")(lambda d: Made(None))
form("refused", "a number", refused="Got 3 as model")(lambda d: Made(3))
