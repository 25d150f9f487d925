"""Checkpoints: whose tensors these are, which architecture they fit, and the network with them in.

Knows open_clip's classes and configurations; not where files lie. A network is made without
filling its large tensors first, so that loading costs the weights once.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gscam_lib.model.archives import Stored, Tensors, held

Config: TypeAlias = dict[str, Any]

OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
NOT_NEEDED = ("num_batches_tracked", "position_ids", "attn_mask")  # made by the network itself
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "module")
PREFIXES = ("module.", "model.", "clip_model.", "clip.")
HEAD = 64  # the width of a head in all of OpenAI's towers


class WeightsWarning(UserWarning):
    """Weights were loaded with something that the file does not say, and that was assumed."""


# ---------------------------------------------------------------- from a file to named tensors


def named_tensors(content: Any, source: str, *, part: bool = False) -> Tensors:
    """The state dict in what a file or a reader gives: unwrapped, without prefixes of wrappers.

    part: it need not hold both towers. Raises ValueError for what is no state dict of a CLIP.
    """
    for _ in range(3):
        inner = [content[w] for w in WRAPPERS if isinstance(content, Mapping) and w in content]
        if not inner or not isinstance(inner[0], Mapping):
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{source} holds a {type(content).__name__}; expected a state dict: names and tensors, "
            "as network.state_dict() gives it."
        )
    tensors = {
        str(name).replace("_orig_mod.", ""): held(value) if isinstance(value, Tensor) else value
        for name, value in content.items()
        if isinstance(value, Tensor | Stored)
    }
    if not tensors:
        raise ValueError(
            f"{source} holds no tensors (its entries: {_few(content)}); expected a state dict."
        )
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    check_kind(tensors, source, part=part)
    return tensors


def check_kind(tensors: Tensors, source: str, *, part: bool = False) -> None:
    """Raise ValueError unless these are the tensors of a CLIP; part: or of something in it."""
    names = list(tensors)
    if any("lora_A" in n or "lora_B" in n or "lora_down" in n for n in names):
        raise ValueError(
            f"{source} holds a LoRA adapter beside its weights, not one network. Merge it first "
            "(peft: model.merge_and_unload()), save the state dict, and load that."
        )
    if part:
        return
    if not any(n.startswith(("visual.", "vision_model.", "image_encoder.")) for n in names):
        raise ValueError(
            f"{source} holds no image tower of a CLIP (its {len(names)} tensors: {_few(names)}). "
            "Expected the keys of open_clip or OpenAI ('visual.…'), or of transformers "
            "('vision_model.…')."
        )
    if not any(n.endswith(("token_embedding.weight", "word_embeddings.weight")) or
               n.startswith(("text", "transformer.")) for n in names):  # fmt: skip
        raise ValueError(
            f"{source} holds an image tower without a text tower ({len(names)} tensors). Heatmaps "
            "need both; put it over a whole CLIP: load_model('architecture/tag', weights=…)."
        )


def quick_gelu(tensors: Tensors, classes: Collection[str] = ()) -> tuple[bool, bool]:
    """Whether the towers use QuickGELU, and whether that is certain; no tensor's shape shows it.

    classes: of the modules, where they are known. OpenAI's files have three keys of their own.
    """
    if "QuickGELU" in classes or all(key in tensors for key in OPENAI_KEYS):
        return True, True
    if "GELU" in classes:
        return False, True
    pair = ("text_projection", "ln_final.weight")  # OpenAI's package leaves norms in fp32
    kinds = [tensors[name].dtype if name in tensors else None for name in pair]
    return kinds == [torch.float16, torch.float32], False


# ---------------------------------------------------------------- the architecture


def named_config(architecture: str) -> Config:
    """Configuration of one of open_clip's architectures."""
    config: Config = open_clip.get_model_config(architecture)
    return config


def guess_architecture(
    tensors: Tensors, source: str, classes: Collection[str] = ()
) -> tuple[Config, str]:
    """Configuration that has exactly these tensors, and its name in open_clip ("" if it has none).

    classes: as in `quick_gelu`. Warns of what is assumed; raises ValueError if no configuration has
    these tensors, or several different ones do.
    """
    quick, certain = quick_gelu(tensors, classes)
    fitting = {name: config for name, config in _candidates(tensors) if _fits(config, tensors)}
    bare = {name: {**c, "quick_gelu": False} for name, c in fitting.items()}
    distinct = [name for i, name in enumerate(bare) if bare[name] not in list(bare.values())[:i]]
    if len(distinct) > 1:
        raise ValueError(
            f"{source} fits several architectures: {', '.join(fitting)}. Say which: "
            f"load_model(…, arch='{distinct[0]}')."
        )
    if fitting:
        wanted = [n for n, c in fitting.items() if bool(c.get("quick_gelu")) == quick]
        name = (wanted or list(fitting))[0]
        config = {**fitting[name], "quick_gelu": quick}
    else:
        config, name = {**_by_openais_rule(tensors, source), "quick_gelu": quick}, ""
    if not certain:
        warnings.warn(_assumed(source, config, name), WeightsWarning, stacklevel=2)
    return config, name


def _assumed(source: str, config: Config, name: str) -> str:
    what = f"taken for {name}" if name else f"of no known name (heads {HEAD} wide are assumed)"
    if "timm_model_name" in config["vision_cfg"]:
        return f"The architecture of {source} is {what}, by the shapes of its tensors."
    bare = (name or "architecture").removesuffix("-quickgelu")
    if config["quick_gelu"]:
        activation = f"QuickGELU is assumed, since its fp16 is as OpenAI's; if not, arch='{bare}'."
    else:
        activation = (
            f"GELU is assumed; if it comes from OpenAI's weights, load it with "
            f"arch='{bare}-quickgelu'."
        )
    return (
        f"The architecture of {source} is {what}, by the shapes of its tensors. They do not show "
        f"the activation: {activation}"
    )


def _candidates(tensors: Tensors) -> list[tuple[str, Config]]:
    """open_clip's architectures whose text tower has the right size, made to hold such names."""
    own = "text." if any(n.startswith("text.") for n in tensors) else ""
    if f"{own}token_embedding.weight" not in tensors:
        return []  # a text tower of transformers, which cannot be made without its configuration
    text_shape = tensors[f"{own}token_embedding.weight"].shape
    timm = any(n.startswith("visual.trunk.") for n in tensors)
    first = tensors.get("visual.conv1.weight")
    found = []
    for name in open_clip.list_models():
        config = named_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        if "hf_model_name" in text or ("timm_model_name" in vision) != timm:
            continue
        sizes = CLIPTextCfg(**text)
        if (sizes.vocab_size, sizes.width) != text_shape:
            continue
        if first is not None and not timm:
            image = CLIPVisionCfg(**vision)
            resnet = not isinstance(image.layers, int)
            expected = (image.width // 2, 3) if resnet else (image.width, image.patch_size)
            if (first.shape[0], first.shape[1 if resnet else -1]) != expected:
                continue
        if "multimodal_cfg" not in config:
            config["custom_text"] = bool(own)
        found.append((name, config))
    return found


def _fits(config: Config, tensors: Tensors) -> bool:
    try:
        with torch.device("meta"):
            wanted = assemble(config, empty=False).state_dict()
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return not any(differences(wanted, tensors))


def _by_openais_rule(tensors: Tensors, source: str) -> Config:
    """Sizes of a plain ViT or ResNet CLIP from its tensors, with heads of 64 as OpenAI's have."""
    own = "text." if any(n.startswith("text.") for n in tensors) else ""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(
                f"The architecture of {source} cannot be told from its {len(tensors)} tensors "
                f"({_few(tensors)}). Name it: load_model(…, arch='ViT-B-32'); `gscam models` "
                "lists the names."
            )
        return tensors[name].shape

    def count(start: str) -> int:
        parts = {n[len(start) :].split(".")[0] for n in tensors if n.startswith(start)}
        return len(parts)

    vision: Config
    if "visual.proj" in tensors:
        width, _, _, patch = shape("visual.conv1.weight")
        side = round((shape("visual.positional_embedding")[0] - 1) ** 0.5)
        hidden = shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0]
        vision = {"layers": count("visual.transformer.resblocks."), "width": width,
                  "patch_size": patch, "image_size": patch * side,
                  "mlp_ratio": hidden / width, "no_ln_pre": "visual.ln_pre.weight" not in tensors,
                  "head_width": min(HEAD, width)}  # fmt: skip
    else:
        side = round((shape("visual.attnpool.positional_embedding")[0] - 1) ** 0.5)
        vision = {"layers": [count(f"visual.layer{i}.") for i in range(1, 5)],
                  "width": shape("visual.layer1.0.conv1.weight")[0],
                  "image_size": 32 * side}  # fmt: skip
    vocabulary, width = shape(f"{own}token_embedding.weight")
    text = {"context_length": shape(f"{own}positional_embedding")[0], "vocab_size": vocabulary,
            "width": width, "heads": max(1, width // HEAD),
            "layers": count(f"{own}transformer.resblocks.")}  # fmt: skip
    embed_dim = shape(f"{own}text_projection")[1]
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text,
            "custom_text": bool(own)}  # fmt: skip


# ---------------------------------------------------------------- the network


class _LargeAreEmpty(TorchFunctionMode):
    """Large new tensors have a shape and no memory (PyTorch's meta device); for this thread only.

    Small ones are made as usual, since some (masks, indices) are in no checkpoint.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)
    LARGE = 1 << 18

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.MAKERS and kwargs.get("device") is None:
            shadow = func(*args, **{**kwargs, "device": "meta"})
            if shadow.numel() > self.LARGE:
                return shadow
        return func(*args, **kwargs)


def assemble(config: Config, *, empty: bool) -> Any:
    """Make open_clip's network of a configuration; empty: without the memory of large tensors."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    with making(empty):
        return kind(**config)


def making(empty: bool) -> contextlib.AbstractContextManager[Any]:
    """Where modules are made; empty: without the memory of large tensors."""
    return _LargeAreEmpty() if empty else contextlib.nullcontext()


def network_with(make: Callable[[bool], Any], tensors: Tensors, source: str) -> Any:
    """A network in fp32 with these tensors in it; make: as `assemble`, of the argument `empty`.

    Raises ValueError where names or shapes differ, and for weights that are not finite.
    """
    try:
        network = make(True)
    except (RuntimeError, NotImplementedError):  # a tower that cannot be made without memory
        network = make(False)
    fill(network, tensors, source)
    if any(t.is_meta for t in (*network.parameters(), *network.buffers())):
        network = make(False)
        fill(network, tensors, source)
    return network


def fill(network: Any, tensors: Tensors, source: str, *, partial: bool = False) -> int:
    """Put tensors into a network, each in the network's own type; return how many.

    partial: what the tensors lack is kept. Raises ValueError where names or shapes differ.
    """
    wanted = network.state_dict()
    tensors = _in_the_form_of(network, wanted, tensors)
    missing, unexpected, reshaped = differences(wanted, tensors)
    if (missing and not partial) or unexpected or reshaped:
        raise ValueError(_misfit(source, wanted, missing, unexpected, reshaped))
    new: dict[str, Tensor] = {}
    for name, tensor in wanted.items():
        if name in tensors:
            value = tensors[name].read().reshape(tensor.shape)
            new[name] = value.to(tensor.dtype)
            if value.is_floating_point() and not bool(new[name].sum().isfinite()):
                raise ValueError(
                    f"The tensor {name} of {source} holds NaN or infinity: a training that "
                    "diverged, or a damaged file. No map of it would mean anything."
                )
    network.load_state_dict(new, strict=False, assign=True)
    return len(new)


def _in_the_form_of(network: Any, wanted: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """The tensors under the names of the network, whichever of two ways each was saved in."""
    if any(n.startswith("image_encoder.model.") for n in tensors):  # Apple's own MobileCLIP
        read = {name: stored.read() for name, stored in tensors.items()}
        return {name: held(t) for name, t in convert_state_dict(network, read).items()}
    towers = (
        "text_projection",
        "positional_embedding",
        "token_embedding.",
        "transformer.",
        "ln_final.",
    )
    inside = any(n.startswith("text.") for n in wanted)
    if inside and not any(n.startswith("text.") for n in tensors):
        return {(f"text.{n}" if n.startswith(towers) else n): t for n, t in tensors.items()}
    if not inside and any(n.startswith("text.") for n in tensors):
        return {n.removeprefix("text."): t for n, t in tensors.items()}
    return tensors


def differences(
    wanted: Mapping[str, Tensor], tensors: Tensors
) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, or of another shape; what no network needs left out."""
    names = {n for n in tensors if n not in OPENAI_KEYS and not n.endswith(NOT_NEEDED)}
    missing = [n for n in wanted if n not in tensors and not n.endswith(NOT_NEEDED)]
    reshaped = [
        f"{n}: {tensors[n].shape} for {tuple(wanted[n].shape)}"
        for n in wanted
        if n in tensors
        and tensors[n].shape != tuple(wanted[n].shape)
        and not (n.startswith("logit_") and tensors[n].shape in ((), (1,)))
    ]
    return missing, sorted(names - set(wanted)), reshaped


def _misfit(
    source: str,
    wanted: Mapping[str, Any],
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
) -> str:
    parts = [
        f"{len(found)} {what} ({_few(found)})"
        for found, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (reshaped, "of another shape"),
        )
        if found
    ]
    return (
        f"The weights of {source} do not fit the architecture ({len(wanted)} tensors): "
        f"{'; '.join(parts)}. Leave arch out to have it found from the tensors, or name the one "
        "they were trained with."
    )


def set_preprocess(network: Any, preprocess: Config) -> Any:
    """Note on the image tower how its photos are prepared, as open_clip does (preprocess_cfg)."""
    known = merge_preprocess_dict(asdict(PreprocessCfg()), preprocess)
    known["size"] = network.visual.image_size
    set_model_preprocess_cfg(network, known)
    return network


def _few(names: Any, limit: int = 4) -> str:
    listed = [str(n) for n in names]
    return ", ".join(listed[:limit]) + (
        f", and {len(listed) - limit} more" if len(listed) > limit else ""
    )
