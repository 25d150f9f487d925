"""Live objects: models that a program holds already, of open_clip, OpenAI's clip or transformers.

An open_clip network is used as it is; the others are copied into an equal open_clip network. What
the reader holds is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import nn

from gscam_lib.model.checkpoints import (
    Config,
    assemble,
    guess_architecture,
    named_tensors,
    network_with,
    set_preprocess,
)
from gscam_lib.model.huggingface import (
    HuggingFaceTokenizer,
    check_family,
    network_of,
    preprocess_of,
    tokenizer_for,
)

OPEN_CLIP = (open_clip.CLIP, open_clip.CustomTextCLIP, open_clip.CoCa)


@dataclass(frozen=True)
class Parts:
    """What came beside a live network: a tokenizer, and how photos are prepared."""

    tokenizer: Any = None
    preprocess: Any = None


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(
            network, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = network.module
        if inner is None:
            return network
        network = inner


def from_live(what: nn.Module, beside: Sequence[Any] = ()) -> tuple[Any, Any, bool]:
    """Network, tokenizer, and whether the network is a copy that may be changed.

    beside: what its maker gave with it, in any order: transforms, a tokenizer, a processor.
    """
    network: Any = unwrapped(what)
    kind = type(network).__name__
    parts = _parts(beside)
    if hasattr(getattr(network, "config", None), "model_type"):
        return *_from_transformers(network, parts), True
    if isinstance(network, OPEN_CLIP):
        return _as_it_is(network, parts)
    state = network.state_dict()
    if {"visual.conv1.weight", "text_projection", "token_embedding.weight"} <= set(state):
        return *_from_openai(network, state, parts), True
    if all(hasattr(network, name) for name in ("visual", "encode_image", "encode_text")):
        return _as_it_is(network, parts)
    raise ValueError(
        f"Got a live object of the class {kind}; expected a CLIP with both towers: of open_clip, "
        "of OpenAI's package clip, or of transformers (CLIPModel, SiglipModel, Siglip2Model)."
    )


def _parts(beside: Sequence[Any]) -> Parts:
    tokenizer: Any = None
    preprocess: Any = None
    for one in beside:
        if hasattr(one, "image_processor") and hasattr(one, "tokenizer"):
            tokenizer, preprocess = one.tokenizer, one.image_processor
        elif hasattr(one, "image_mean") or hasattr(one, "transforms"):
            preprocess = one  # of a pair for training and for evaluation, the second
        elif callable(one):
            tokenizer = one
        elif one is not None:
            raise ValueError(
                f"Got {type(one).__name__} beside a network; expected its preprocessing, its "
                "tokenizer or its processor."
            )
    return Parts(tokenizer, preprocess)


def _from_transformers(network: Any, parts: Parts) -> tuple[Any, Any]:
    config = network.config.to_dict()
    kind = config["model_type"]
    source = f"the live {type(network).__name__}"
    check_family(kind, source)
    made = network_of(config, named_tensors(network.state_dict(), source), source)
    if hasattr(parts.preprocess, "transforms"):
        preprocess = _of_transforms(parts.preprocess)
    else:
        settings = parts.preprocess and parts.preprocess.to_dict()
        preprocess = preprocess_of(settings, kind, source)
    return set_preprocess(made, preprocess), tokenizer_for(parts.tokenizer, config, source)


def _from_openai(network: Any, state: Any, parts: Parts) -> tuple[Any, Any]:
    source = f"the live {type(network).__name__}"
    tensors = named_tensors(state, source)
    names = {getattr(m, "original_name", type(m).__name__) for m in network.modules()}
    config, _ = guess_architecture(tensors, source, names)
    made = network_with(lambda empty: assemble(config, empty=empty), tensors, source)
    set_preprocess(made, _of_transforms(parts.preprocess))
    return made, _own_tokenizer(made, None, source)


def _as_it_is(network: Any, parts: Parts) -> tuple[Any, Any, bool]:
    copied = False
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    if kinds - {torch.float32}:
        network, copied = copy.deepcopy(network).float(), True
    if parts.preprocess is not None:
        wanted = _of_transforms(parts.preprocess)
        known = getattr(network.visual, "preprocess_cfg", {})
        if any(known.get(key) != value for key, value in wanted.items()):
            network = _with_other_visual(network)
            set_preprocess(network, {**known, **wanted})
    return network, _own_tokenizer(network, parts.tokenizer, "the live network"), copied


def _with_other_visual(network: Any) -> Any:
    """A network of the same weights, whose image tower can be given other attributes."""
    twin = copy.copy(network)
    twin._modules = {**network._modules, "visual": copy.copy(network.visual)}
    return twin


def _own_tokenizer(network: Any, tokenizer: Any, source: str) -> Any:
    length = getattr(network, "context_length", None)
    if tokenizer is not None and hasattr(tokenizer, "convert_tokens_to_ids"):
        return HuggingFaceTokenizer(tokenizer, length or tokenizer.model_max_length)
    if tokenizer is not None and hasattr(tokenizer, "context_length"):
        return tokenizer
    if getattr(network, "vocab_size", None) == 49408 and length:
        return open_clip.SimpleTokenizer(context_length=length)
    raise ValueError(
        f"{source} has its own vocabulary. Give its tokenizer too: load_model((network, "
        "tokenizer)), with the tokenizer of open_clip.get_tokenizer or of transformers."
    )


def _of_transforms(transforms: Any) -> Config:
    """What a torchvision pipeline does to photos, in open_clip's words (preprocess_cfg)."""
    found: Config = {}
    if transforms is None:
        return found
    if hasattr(transforms, "image_mean"):
        return preprocess_of(transforms.to_dict(), "clip", "the processor")
    for step in getattr(transforms, "transforms", []):
        kind = type(step).__name__
        if kind == "Normalize":
            found["mean"], found["std"] = tuple(map(float, step.mean)), tuple(map(float, step.std))
        elif kind in ("ResizeKeepRatio", "ResizeMaxSize"):
            found["resize_mode"] = "longest"
        elif kind == "Resize":
            whole = isinstance(step.size, Sequence) and len(step.size) == 2
            found["resize_mode"] = "squash" if whole else "shortest"
        interpolation = getattr(step, "interpolation", None)
        if interpolation is not None:
            found["interpolation"] = getattr(interpolation, "value", str(interpolation))
    if "mean" not in found:
        raise ValueError(
            f"Got {type(transforms).__name__} as preprocessing; expected torchvision transforms "
            "with a Normalize, as open_clip and clip give them, or a processor of transformers."
        )
    return found
