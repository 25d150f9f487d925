"""Weights: from whatever a reader has (name, file, folder, live object) to a network.

Tells by its content which form something has, and calls the reader of that form: archives.py
(files), checkpoints.py (architectures), published.py (open_clip's own), huggingface.py
(transformers and the hub), live.py (objects).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from gscam_lib.model import huggingface
from gscam_lib.model.archives import Tensors, read_archive, read_json
from gscam_lib.model.checkpoints import (
    Config,
    WeightsWarning,
    check_kind,
    fill,
    guess_architecture,
    named_config,
    named_tensors,
    quick_gelu,
    set_preprocess,
)
from gscam_lib.model.live import from_live
from gscam_lib.model.published import (
    CONFIG,
    Loaded,
    bundled_models,
    check_architecture,
    downloaded,
    from_published,
    network_for,
    read_open_clip_config,
    tokenizer_for,
    usual_preprocess,
)
from gscam_lib.paths import expanded

DEFAULT_MODEL = "photo-lite"
LISTED = "model.safetensors.index.json", "pytorch_model.bin.index.json"  # weights in several files
PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
             "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")  # fmt: skip
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")


def load(what: Any = DEFAULT_MODEL, weights: Any = None, arch: str | None = None) -> Loaded:
    """Find and read a CLIP, in evaluation mode, on the CPU; arguments as in `load_model`.

    Raises ValueError for what is no CLIP and FileNotFoundError for what is not here.
    """
    if arch is not None:
        check_architecture(arch)
    found = _load(what, arch) if weights is None else _with_weights(what, weights, arch)
    if found.ours:
        found.network.eval().requires_grad_(False)
    return found


def _load(what: Any, arch: str | None) -> Loaded:
    parts = tuple(what) if isinstance(what, tuple | list) else (what,)
    if parts and isinstance(parts[0], nn.Module):
        if arch is not None:
            raise ValueError(f"Got arch='{arch}' with a live network, which has its own.")
        network, tokenizer, ours = from_live(parts[0], parts[1:])
        return Loaded(network, tokenizer, "custom", ours=ours)
    if isinstance(what, Mapping):
        return _from_tensors(
            named_tensors(what, "the state dict"), "the state dict", arch, "custom"
        )
    if isinstance(what, str | os.PathLike) and os.fspath(what):
        return _from_name(os.fspath(what), arch)
    raise ValueError(
        f"Got {what!r:.80} as model; expected a name (`gscam models` lists them), a file or folder "
        "of weights, 'hf-hub:organization/name', a state dict, or a live model."
    )


def _from_name(name: str, arch: str | None) -> Loaded:
    name = name.removeprefix("local-dir:")
    bundled = bundled_models()
    path = bundled.get(name, expanded(name))
    architecture, _, rest = name.partition("/")
    if name.startswith("hf-hub:"):
        path = huggingface.hub_folder(name.removeprefix("hf-hub:"))
    elif not path.exists() and downloaded(name).is_dir():
        path = downloaded(name)
    elif not path.exists() and architecture in open_clip.list_models() and expanded(rest).is_file():
        arch, path = architecture, expanded(rest)
    if path.is_dir():
        return replace(_from_folder(path, arch), name=name, bundled=name in bundled)
    if path.is_file():
        return replace(_from_file(path, arch), name=name)
    if arch is not None:
        raise ValueError(
            f"Got arch='{arch}' with '{name}', which is no file here; arch goes with a file of "
            "weights whose architecture is not told by a configuration."
        )
    return from_published(name)


def _with_weights(what: Any, weights: Any, arch: str | None) -> Loaded:
    """A named architecture with these weights, or another model's with some replaced."""
    source = "the state dict"
    if isinstance(weights, str | os.PathLike):
        source = os.fspath(weights)
        path = expanded(weights)
        if not path.is_file():
            raise FileNotFoundError(f"No file of weights at {path}.")
        weights = read_archive(path).content
    elif isinstance(weights, nn.Module):
        weights = weights.state_dict()
    tensors = huggingface.in_names_of_open_clip(named_tensors(weights, source, part=True))
    if isinstance(what, str) and what in open_clip.list_models():
        check_kind(tensors, source)
        return replace(
            _from_tensors(tensors, source, what, what), name=f"{what}+{Path(source).name}"
        )
    base = load(what, arch=arch)
    if not base.ours:
        raise ValueError(
            "Got a live network and weights; load them into it yourself "
            "(network.load_state_dict), or name the architecture."
        )
    whole, given = len(base.network.state_dict()), fill(base.network, tensors, source, partial=True)
    if given < whole:
        warnings.warn(
            f"{source} has {given} of the {whole} tensors of {base.name}; the others are left as "
            "they were.",
            WeightsWarning,
            stacklevel=2,
        )
    return replace(base, name=f"{base.name}+{Path(source).name}", bundled=False)


# ---------------------------------------------------------------- folders and files


def _from_folder(folder: Path, arch: str | None) -> Loaded:
    folder = huggingface.snapshot(folder)
    if (folder / CONFIG).is_file() and arch is None:
        return _from_open_clip_folder(folder, None)
    if (folder / "config.json").is_file() and arch is None:
        config = huggingface.read_config(folder)
        return _from_transformers_folder(folder, config, _folder_tensors(folder))
    files = sorted(p for p in folder.iterdir() if p.suffix in ENDINGS)
    if len(files) == 1:
        return _from_file(files[0], arch)
    inside = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
    advice = f" Give one of its files, for example '{files[-1]}'." if files else ""
    raise FileNotFoundError(
        f"The folder {folder} is no model (in it: {inside}). Expected {CONFIG} beside "
        f"model.safetensors (open_clip), config.json beside it (transformers), or one file of "
        f"weights.{advice}"
    )


def _folder_tensors(folder: Path) -> Tensors:
    """Tensors of a folder's weights, wherever they are: one usual file, a listed set, any file."""
    for name in LISTED:
        if (folder / name).is_file():
            listed = read_json(folder / name)
            files = [folder / f for f in sorted(set(listed.get("weight_map", {}).values()))]
            if absent := [f.name for f in files if not f.is_file()]:
                raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}, which {name} lists.")
            whole = {k: v for f in files for k, v in _file_tensors(f, part=True).items()}
            check_kind(whole, str(folder))
            return whole
    usual = [folder / name for name in PREFERRED if (folder / name).is_file()]
    others = sorted(p for p in folder.iterdir() if p.suffix in ENDINGS)
    if not others:
        raise FileNotFoundError(f"The folder {folder} has no weights (model.safetensors).")
    if not usual and len(others) > 1:
        raise FileNotFoundError(
            f"The folder {folder} has several files of weights "
            f"({', '.join(p.name for p in others)}); give the path of the one that is meant."
        )
    return _file_tensors((usual or others)[0])


def _file_tensors(path: Path, *, part: bool = False) -> Tensors:
    return named_tensors(read_archive(path).content, str(path), part=part)


def _from_open_clip_folder(folder: Path, tensors: Tensors | None) -> Loaded:
    config = read_open_clip_config(folder)
    tensors = huggingface.in_names_of_open_clip(
        _folder_tensors(folder) if tensors is None else tensors
    )
    text_config = folder / "text" / "config.json"
    if text_config.is_file():
        config["model_cfg"]["text_cfg"]["hf_model_name"] = str(text_config.parent)
    network = network_for(config["model_cfg"], tensors, str(folder))
    set_preprocess(network, config.get("preprocess_cfg", {}))
    listing = folder / "vocabulary.json"
    names = read_json(listing)["names"] if listing.is_file() else None
    return Loaded(
        network, tokenizer_for(config["model_cfg"], str(folder), folder), str(folder),
        vocabulary=None if names is None else tuple(names),
    )  # fmt: skip


def _from_transformers_folder(folder: Path, config: Config, tensors: Tensors) -> Loaded:
    source = str(folder)
    network = huggingface.network_of(config, tensors, source)
    settings = huggingface.read_processor(folder)
    set_preprocess(network, huggingface.preprocess_of(settings, config["model_type"], source))
    tokenizer = huggingface.read_tokenizer(folder)
    return Loaded(network, huggingface.tokenizer_for(tokenizer, config, source), source)


def _from_file(path: Path, arch: str | None) -> Loaded:
    archive = read_archive(path)
    tensors = named_tensors(archive.content, str(path))
    folder = path.parent
    if arch is None and (folder / CONFIG).is_file():
        return _from_open_clip_folder(folder, tensors)
    theirs = any(name.startswith("vision_model.") for name in tensors)
    if arch is None and theirs and (folder / "config.json").is_file():
        return _from_transformers_folder(folder, huggingface.read_config(folder), tensors)
    tensors = huggingface.in_names_of_open_clip(tensors)
    trained_as = arch or _noted_architecture(path)
    return _from_tensors(tensors, str(path), trained_as, str(path), archive.classes)


def _noted_architecture(checkpoint: Path) -> str | None:
    """The architecture in the params.txt that open_clip's training leaves above its checkpoints."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        notes = folder / "params.txt"
        if notes.is_file():
            text = notes.read_text(encoding="utf-8", errors="replace")
            found = re.search(r"^model: (\S+)$", text, re.M)
            if found and found[1] in open_clip.list_models():
                quick = f"{found[1]}-quickgelu"
                if "force_quick_gelu: True" in text and quick in open_clip.list_models():
                    return quick
                if "pretrained: openai" in text and not found[1].endswith("-quickgelu"):
                    warnings.warn(
                        f"{notes} says that the training of {found[1]} began with OpenAI's weights;"
                        f" older versions of open_clip then used QuickGELU: arch='{quick}'.",
                        WeightsWarning,
                        stacklevel=2,
                    )
                return found[1]
    return None


def _from_tensors(
    tensors: Tensors, source: str, arch: str | None, name: str, classes: Collection[str] = ()
) -> Loaded:
    if arch is None:
        config, arch = guess_architecture(tensors, source, classes)
    else:
        config = named_config(arch)
        better = f"{arch}-quickgelu"
        seen = quick_gelu(tensors, classes) == (True, True) and not config.get("quick_gelu")
        if seen and better in open_clip.list_models():
            raise ValueError(
                f"The weights of {source} are OpenAI's, trained with QuickGELU, and '{arch}' runs "
                f"without it, which gives wrong texts. Use '{better}'."
            )
    network = network_for(config, tensors, source)
    return Loaded(
        set_preprocess(network, usual_preprocess(arch)), tokenizer_for(config, source), name
    )
