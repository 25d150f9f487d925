"""Weights: from a name, a file or a folder to a network and its tokenizer."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_file
from torch import nn

from gscam_lib.paths import CACHE, MODELS

DEFAULT_MODEL = "photo-lite"
CONFIG = "open_clip_config.json"


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that come with the library."""
    return {path.parent.name: path.parent for path in sorted(MODELS.glob(f"*/{CONFIG}"))}


@dataclass(frozen=True)
class Loaded:
    """What a name, a file or a folder gives: a network, its tokenizer, and what is known of both.

    bundled: it comes with the library; vocabulary: the names the text tower was trained on, None if
    it is open.
    """

    network: Any
    tokenizer: Any
    name: str
    bundled: bool = False
    vocabulary: tuple[str, ...] | None = None


def load(name: str | os.PathLike[str] = DEFAULT_MODEL) -> Loaded:
    """Find and read weights by name, on the CPU, in evaluation mode; `name` as in `load_model`.

    Raises ValueError for names that do not exist and FileNotFoundError for weights that are not
    here.
    """
    name = os.fspath(name)
    bundled = bundled_models()
    folder = bundled.get(name, Path(name))
    if not folder.is_dir() and _downloaded(name).is_dir():
        folder = _downloaded(name)
    vocabulary: tuple[str, ...] | None = None
    if (folder / CONFIG).is_file():
        network, tokenizer = _from_folder(folder)
        listing = folder / "vocabulary.json"
        if listing.is_file():
            vocabulary = tuple(json.loads(listing.read_text())["names"])
    elif folder.is_dir():
        raise FileNotFoundError(
            f"The folder {folder} has no {CONFIG}. Expected an open_clip folder: {CONFIG} with "
            "'model_cfg' and 'preprocess_cfg', beside model.safetensors."
        )
    else:
        network, tokenizer = _from_open_clip(name)
    network.eval().requires_grad_(False)
    return Loaded(network, tokenizer, name, name in bundled, vocabulary)


def save_model(name: str) -> Path:
    """Fetch open_clip "architecture/tag" weights and keep them as a folder in data/cache/models.

    Returns the folder, which `load_model` finds by the same name, here or copied elsewhere. Raises
    ValueError for names that do not exist and FileNotFoundError where there is no network.
    """
    folder = _downloaded(name)
    if (folder / CONFIG).is_file():
        return folder
    network, _ = _from_open_clip(name)
    visual: Any = network.visual
    config = {
        "model_cfg": open_clip.get_model_config(name.partition("/")[0]),
        "preprocess_cfg": {**visual.preprocess_cfg, "resize_mode": "squash"},
    }
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), partial / "model.safetensors")
    (partial / CONFIG).write_text(json.dumps(config, indent=2))
    return partial.rename(folder)


def _downloaded(name: str) -> Path:
    return CACHE / "models" / name.replace("/", "-")


def _from_folder(folder: Path) -> tuple[nn.Module, Any]:
    source = f"local-dir:{folder}"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"The folder {folder} has no weights (model.safetensors).")
    with _quiet():
        return open_clip.create_model(source), open_clip.get_tokenizer(source)


def _from_open_clip(name: str) -> tuple[nn.Module, Any]:
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=4)
        raise ValueError(
            f"No model '{name}'. Bundled: {', '.join(bundled_models()) or 'none'}. Otherwise give "
            "a local folder, or 'architecture/tag' of open_clip, for example "
            f"'RN50x16-quickgelu/openai'.{' Near it: ' + ', '.join(near) + '.' if near else ''} "
            "`gscam models` lists all."
        )
    tags = ["random", *open_clip.list_pretrained_tags_by_model(architecture)]
    if tag not in tags:
        raise ValueError(
            f"'{architecture}' has no weights '{tag}'. Write '{architecture}/TAG' with TAG one of: "
            f"{', '.join(tags)}."
        )
    source = {} if tag == "random" else open_clip.get_pretrained_cfg(architecture, tag)
    if source.get("quick_gelu") and not open_clip.get_model_config(architecture).get("quick_gelu"):
        raise ValueError(
            f"The weights '{tag}' were trained with QuickGELU and '{architecture}' runs without "
            f"it, which gives wrong texts. Use '{architecture}-quickgelu/{tag}'."
        )
    try:
        with _quiet():
            pretrained = None if tag == "random" else tag
            network = open_clip.create_model(architecture, pretrained, pretrained_text=False)
            return network, open_clip.get_tokenizer(architecture)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(_how_to_download(architecture, tag, source)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's log lines back: what matters of them is said in our errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _how_to_download(architecture: str, tag: str, source: dict[str, Any]) -> str:
    hub = source.get("hf_hub", "").rstrip("/")
    where = (
        f"the Hugging Face repository {hub}" if hub else source.get("url", "the Hugging Face hub")
    )
    return (
        f"The weights or the tokenizer of {architecture}/{tag} are not on this machine and could "
        f"not be fetched (from {where}). Where there is a network, run `gscam download "
        f"{architecture}/{tag}`; to use them offline, copy the folder it makes, "
        f"data/cache/models/{architecture}-{tag}, to the same place here or pass its path as name."
    )
