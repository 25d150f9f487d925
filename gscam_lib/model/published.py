"""open_clip's own: its architectures, its published weights, and what was downloaded of them.

Knows how a configuration becomes a network and a tokenizer; not how a reader's files are told
apart (weights.py).
"""

from __future__ import annotations

import difflib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file

from gscam_lib.model import huggingface
from gscam_lib.model.archives import Tensors, read_archive, read_json
from gscam_lib.model.checkpoints import (
    Config,
    assemble,
    named_config,
    named_tensors,
    network_with,
    set_preprocess,
)
from gscam_lib.paths import CACHE, MODELS, missing

CONFIG = "open_clip_config.json"


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that come with the library."""
    return {path.parent.name: path.parent for path in sorted(MODELS.glob(f"*/{CONFIG}"))}


@dataclass(frozen=True)
class Loaded:
    """A network, its tokenizer, and what is known of both.

    network: of open_clip; network.visual.preprocess_cfg says how its photos are prepared (size,
    mean, std, interpolation, resize_mode). bundled: it comes with the library; vocabulary: the
    names the text tower was trained on, None if it is open; ours: False for a reader's own live
    network, which stays as it is.
    """

    network: Any
    tokenizer: Any
    name: str
    bundled: bool = False
    vocabulary: tuple[str, ...] | None = None
    ours: bool = True


def usual_preprocess(arch: str) -> Config:
    """The preprocessing of an architecture, where all its known weights agree on it."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    known = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    found = [{key: cfg[key] for key in keys if cfg.get(key)} for cfg in known]
    return found[0] if found and all(one == found[0] for one in found) else {}


def network_for(config: Config, tensors: Tensors | None, source: str) -> Any:
    """Network of a configuration with these tensors in it; None: with random ones."""
    name = config["text_cfg"].get("hf_model_name")
    if name:
        huggingface.need_transformers(f"The text tower of {source} ({name})")
    try:
        if tensors is None:
            network = assemble(config, empty=False)
        else:
            network = network_with(lambda empty: assemble(config, empty=empty), tensors, source)
        if name:  # a text tower of transformers counts more positions than it was trained on
            network.context_length = config["text_cfg"].get("context_length", 77)
        return network
    except OSError as error:
        raise FileNotFoundError(
            f"The text tower of {source} needs the configuration of {name} from the Hugging Face "
            "hub, which is not on this machine and could not be fetched."
        ) from error
    except TypeError as error:
        raise ValueError(
            f"The configuration of {source} has entries unknown here: {error}."
        ) from error


def read_open_clip_config(folder: Path) -> Config:
    """What an open_clip folder says of its model; ValueError if that cannot be read."""
    config = read_json(folder / CONFIG)
    needed = {"embed_dim", "vision_cfg", "text_cfg"}
    if not isinstance(model := config.get("model_cfg"), dict) or not needed <= set(model):
        raise ValueError(
            f"{folder / CONFIG} has no 'model_cfg' with {', '.join(sorted(needed))}; expected "
            "open_clip's form, with 'preprocess_cfg' beside it."
        )
    return config


def tokenizer_for(config: Config, source: str, folder: Path | None = None) -> Any:
    """The tokenizer of a configuration: CLIP's own, or one of the folder or of the hub."""
    text = config["text_cfg"]
    name, length = text.get("hf_tokenizer_name"), text.get("context_length", 77)
    options = text.get("tokenizer_kwargs") or {}
    if not name:
        if text.get("vocab_size", 49408) < 49408:
            raise ValueError(
                f"{source} has a vocabulary of {text['vocab_size']}, and names no tokenizer for it "
                "('hf_tokenizer_name' in 'text_cfg'). CLIP's own has 49,408."
            )
        return open_clip.SimpleTokenizer(context_length=length, **options)
    huggingface.need_transformers(f"The tokenizer of {source} ({name})")
    here = folder is not None and any((folder / f).is_file() for f in huggingface.TOKENIZER_FILES)
    try:
        return HFTokenizer(
            folder if here else name, context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"), trust_remote_code=False, **options,
        )  # fmt: skip
    except Exception as error:  # transformers raises what its backends raise
        raise FileNotFoundError(
            f"The tokenizer of {source} ({name}, of the Hugging Face hub) is not on this machine "
            f"and could not be fetched or read. Where there is a network, `gscam download` saves a "
            "model with its tokenizer, for use without one."
        ) from error


def save_model(name: str) -> Path:
    """Fetch "architecture/tag" of open_clip, or "hf-hub:organization/name", and keep it here.

    Returns the folder, which `load_model` finds by the same name, here or copied elsewhere, with
    its tokenizer. Raises ValueError for names that do not exist and FileNotFoundError where there
    is no network.
    """
    if name.startswith("hf-hub:"):
        return huggingface.hub_folder(name.removeprefix("hf-hub:"))
    folder = downloaded(name)
    if (folder / CONFIG).is_file() and _has_tokenizer(folder):
        return folder
    found = from_published(name)
    config = {
        "model_cfg": named_config(name.partition("/")[0]),
        "preprocess_cfg": found.network.visual.preprocess_cfg,
    }
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(found.network.state_dict(), partial / "model.safetensors")
    (partial / CONFIG).write_text(json.dumps(config, indent=2))
    if isinstance(found.tokenizer, HFTokenizer):
        found.tokenizer.save_pretrained(partial)
    text: Any = getattr(found.network, "text", None)
    if hasattr(text, "config"):  # a text tower of transformers is made from its configuration
        text.config.save_pretrained(partial / "text")
    shutil.rmtree(folder, ignore_errors=True)
    return partial.rename(folder)


def _has_tokenizer(folder: Path) -> bool:
    named = read_open_clip_config(folder)["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    return not named or any((folder / f).is_file() for f in huggingface.TOKENIZER_FILES)


def downloaded(name: str) -> Path:
    """Where `gscam download` keeps the model of this name."""
    return CACHE / "models" / name.replace("/", "-")


def check_architecture(arch: Any, name: str | None = None) -> None:
    """Raise ValueError with what exists if open_clip has no architecture of this name."""
    names = open_clip.list_models()
    if arch in names:
        return
    near = difflib.get_close_matches(str(arch), names, n=4)
    hub = f" A model of the Hugging Face hub is 'hf-hub:{name}'." if name and "/" in name else ""
    raise ValueError(
        f"No model '{name or arch}'. Bundled: {', '.join(bundled_models()) or 'none'}. Otherwise "
        "give a local file or folder, or 'architecture/tag' of open_clip, for example "
        f"'RN50x16-quickgelu/openai'.{hub}{' Near it: ' + ', '.join(near) + '.' if near else ''} "
        f"`gscam models` lists all.{missing()}"
    )


def from_published(name: str) -> Loaded:
    """Weights that open_clip knows as "architecture/tag", fetched if they are not here."""
    architecture, _, tag = name.partition("/")
    check_architecture(architecture, name)
    tags = ["random", *open_clip.list_pretrained_tags_by_model(architecture)]
    if tag not in tags:
        raise ValueError(
            f"'{architecture}' has no weights '{tag}'. Write '{architecture}/TAG' with TAG one of: "
            f"{', '.join(tags)}; '{architecture}/FILE' with a file of weights; or give the file as "
            "weights=."
        )
    config = named_config(architecture)
    if tag == "random":
        network = set_preprocess(network_for(config, None, name), usual_preprocess(architecture))
        return Loaded(network, tokenizer_for(config, name), name)
    source = open_clip.get_pretrained_cfg(architecture, tag)
    if source.get("quick_gelu") and not config.get("quick_gelu"):
        raise ValueError(
            f"The weights '{tag}' were trained with QuickGELU and '{architecture}' runs without "
            f"it, which gives wrong texts. Use '{architecture}-quickgelu/{tag}'."
        )
    for part in ("hf_model_name", "hf_tokenizer_name"):
        if config["text_cfg"].get(part):
            huggingface.need_transformers(f"{name} (its text tower {config['text_cfg'][part]})")
    try:
        path = Path(download_pretrained(source))
    except Exception as error:  # whatever the network, the hub or the disk raises
        raise FileNotFoundError(_how_to_download(architecture, tag, source)) from error
    tensors = huggingface.in_names_of_open_clip(
        named_tensors(read_archive(path).content, str(path))
    )
    network = set_preprocess(network_for(config, tensors, name), source)
    return Loaded(network, tokenizer_for(config, name), name)


def _how_to_download(architecture: str, tag: str, source: dict[str, Any]) -> str:
    hub = source.get("hf_hub", "").rstrip("/")
    where = (
        f"the Hugging Face repository {hub}" if hub else source.get("url", "the Hugging Face hub")
    )
    return (
        f"The weights of {architecture}/{tag} are not on this machine and could not be fetched "
        f"(from {where}). Where there is a network, run `gscam download {architecture}/{tag}`; to "
        "use them offline, copy the folder it makes, "
        f"data/cache/models/{architecture}-{tag}, to the same place here or pass its path as name."
    )
