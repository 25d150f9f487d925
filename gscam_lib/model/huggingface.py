"""Models of the Hugging Face hub: its folders, and CLIPs of `transformers` as open_clip networks.

CLIPModel becomes open_clip's ViT, SiglipModel and Siglip2Model its SigLIP towers, with the same
outputs (tests compare them). Knows `transformers`, which is an optional package; not how files are
read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from gscam_lib.model.archives import Stored, Tensors, read_json
from gscam_lib.model.checkpoints import Config, WeightsWarning, assemble, making, network_with

FAMILIES = ("clip", "siglip", "siglip2")
GELUS = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh"}
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # numbers of PIL
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
                   "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")  # fmt: skip


def need_transformers(what: str) -> None:
    """Raise ValueError with what to type if the package `transformers` is not installed."""
    if find_spec("transformers") is None:
        raise ValueError(
            f"{what} needs the package transformers, which is not installed. Type: "
            "pip install 'gscam_lib[hf]' (in a clone: pip install -e '.[hf]')."
        )


# ---------------------------------------------------------------- folders of the hub


def hub_folder(repository: str) -> Path:
    """Folder with the files of "org/name" or "org/name@revision", fetched where they are not here.

    Raises ValueError for names that cannot exist, FileNotFoundError where there is no such
    repository, or no network.
    """
    name, _, revision = repository.partition("@")
    fetch = partial(snapshot_download, name, revision=revision or None)
    try:
        folder = Path(fetch(allow_patterns=["*.json", "*.txt", "*.model"]))
        for pattern in ("open_clip*.safetensors", "*.safetensors", "*.bin", "*.pt", "*.pth"):
            if any(p.suffix in (".safetensors", ".bin", ".pt", ".pth") for p in folder.iterdir()):
                break
            fetch(allow_patterns=[pattern])
    except HFValidationError as error:
        raise ValueError(
            f"Got 'hf-hub:{repository}'; expected 'hf-hub:organization/name'."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"The model {repository} of the Hugging Face hub is not on this machine and could not "
            "be fetched: the name is wrong, the model wants a login, or there is no network. Where "
            f"there is one, run `gscam download hf-hub:{repository}`."
        ) from error
    return folder


def snapshot(folder: Path) -> Path:
    """The files themselves in a folder of the hub's cache (models--org--name); others unchanged."""
    if not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    if main.is_file() and (chosen := folder / "snapshots" / main.read_text().strip()).is_dir():
        return chosen
    found = sorted((folder / "snapshots").iterdir(), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{folder} is a folder of the hub's cache without a snapshot.")
    return found[-1]


# ---------------------------------------------------------------- configurations and tensors


def read_config(folder: Path) -> Config:
    """Whole configuration of a folder of transformers; ValueError if it is no CLIP known here."""
    config = read_json(folder / "config.json")
    check_family(config.get("model_type"), str(folder))
    need_transformers(f"A model of transformers ({folder})")
    from transformers import AutoConfig

    try:
        whole: Config = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except Exception as error:  # transformers raises what its checks of a configuration raise
        raise ValueError(f"{folder / 'config.json'} is not understood ({error}).") from error
    return whole


def check_family(kind: Any, source: str) -> None:
    """Raise ValueError unless the model type is one that becomes an open_clip network."""
    if kind not in FAMILIES:
        raise ValueError(
            f"{source} is a model of the type '{kind}' of transformers; expected one of "
            f"{', '.join(FAMILIES)} (CLIPModel, SiglipModel, Siglip2Model) with both towers."
        )


def network_of(config: Config, tensors: Tensors, source: str) -> Any:
    """open_clip network of a configuration and the tensors of transformers, with equal outputs."""
    kind = config["model_type"]
    make = (lambda empty: assemble(_clip(config), empty=empty)) if kind == "clip" else (
        lambda empty: _siglip_network(config, empty)
    )  # fmt: skip
    return network_with(make, renamed(tensors, kind), source)


def _activation(config: Config) -> tuple[bool, Config | None]:
    """Whether QuickGELU is used, and the options of GELU otherwise."""
    kinds = {config["vision_config"]["hidden_act"], config["text_config"]["hidden_act"]}
    if len(kinds) > 1 or not kinds <= {"quick_gelu", *GELUS}:
        raise ValueError(
            f"Got the activations {', '.join(sorted(kinds))}; expected one for both towers: "
            f"quick_gelu, {', '.join(GELUS)}."
        )
    kind = kinds.pop()
    return kind == "quick_gelu", None if kind == "quick_gelu" else {"approximate": GELUS[kind]}


def _side(vision: Config) -> int:
    size = vision["image_size"]
    return int(size if isinstance(size, int) else size[0])


def _clip(config: Config) -> Config:
    vision, text = config["vision_config"], config["text_config"]
    quick, gelu = _activation(config)
    width, end = vision["hidden_size"], text["eos_token_id"]
    highest = end in (2, text["vocab_size"] - 1)  # 2: old configurations, which meant argmax
    return {
        "embed_dim": config["projection_dim"],
        "quick_gelu": quick,
        "vision_cfg": {
            "layers": vision["num_hidden_layers"], "width": width,
            "head_width": width // vision["num_attention_heads"],
            "mlp_ratio": _ratio(vision), "patch_size": vision["patch_size"],
            "image_size": _side(vision), "act_kwargs": gelu,
            "norm_kwargs": {"eps": vision["layer_norm_eps"]},
        },
        "text_cfg": {
            **_text(text), "act_kwargs": gelu,
            "pool_type": "argmax" if highest else "eos", "eos_id": end,
        },
    }  # fmt: skip


def _text(text: Config) -> Config:
    return {
        "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"],
        "width": text["hidden_size"], "heads": text["num_attention_heads"],
        "layers": text["num_hidden_layers"], "mlp_ratio": _ratio(text),
        "norm_kwargs": {"eps": text["layer_norm_eps"]},
    }  # fmt: skip


def _ratio(tower: Config) -> float:
    """Ratio of widths that gives exactly the hidden width when it is multiplied and cut to int."""
    return float((tower["intermediate_size"] + 0.5) / tower["hidden_size"])


def _siglip_network(config: Config, empty: bool) -> Any:
    """SigLIP as open_clip makes it, with the sizes of this configuration."""
    vision, text = config["vision_config"], config["text_config"]
    quick, gelu = _activation(config)
    if quick or not vision.get("vision_use_head", True):
        raise ValueError("Expected a SigLIP with GELU and a pooling head.")
    patch = vision["patch_size"]
    if config["model_type"] == "siglip2":  # any shape up to num_patches; here, the square one
        side = round(vision["num_patches"] ** 0.5) * patch
    else:
        side = _side(vision)
    shell = assemble({
        "embed_dim": vision["hidden_size"], "custom_text": True, "init_logit_bias": -10,
        "vision_cfg": {"image_size": side, "timm_model_name": "test_vit", "timm_pool": "token",
                       "timm_proj": "none"},
        "text_cfg": {**_text(text), "act_kwargs": gelu, "no_causal_mask": True, "proj_bias": True,
                     "pool_type": "last"},
    }, empty=empty)  # fmt: skip
    with making(empty):
        shell.visual.trunk = VisionTransformer(
            img_size=side, patch_size=patch, embed_dim=vision["hidden_size"],
            depth=vision["num_hidden_layers"], num_heads=vision["num_attention_heads"],
            mlp_ratio=_ratio(vision), class_token=False, global_pool="map", num_classes=0,
            act_layer=partial(nn.GELU, **(gelu or {})),
            norm_layer=partial(nn.LayerNorm, eps=vision["layer_norm_eps"]),
        )  # fmt: skip
    return shell


COMMON = (
    (r"^text_model\.embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^(transformer.*\.)self_attn\.", r"\1attn."),
    (r"^(transformer.*\.)layer_norm(\d)\.", r"\1ln_\2."),
    (r"^(transformer.*\.)mlp\.fc1\.", r"\1mlp.c_fc."),
    (r"^(transformer.*\.)mlp\.fc2\.", r"\1mlp.c_proj."),
)
CLIP_NAMES = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^(visual.*\.)self_attn\.", r"\1attn."),
    (r"^(visual.*\.)layer_norm(\d)\.", r"\1ln_\2."),
    (r"^(visual.*\.)mlp\.fc1\.", r"\1mlp.c_fc."),
    (r"^(visual.*\.)mlp\.fc2\.", r"\1mlp.c_proj."),
    *COMMON,
)
SIGLIP_NAMES = (
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.trunk.patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.trunk.pos_embed"),
    (r"^vision_model\.post_layernorm\.", "visual.trunk.norm."),
    (r"^vision_model\.encoder\.layers\.", "visual.trunk.blocks."),
    (r"^vision_model\.head\.probe$", "visual.trunk.attn_pool.latent"),
    (r"^vision_model\.head\.attention\.out_proj\.", "visual.trunk.attn_pool.proj."),
    (r"^vision_model\.head\.layernorm\.", "visual.trunk.attn_pool.norm."),
    (r"^vision_model\.head\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^(visual.*\.)self_attn\.out_proj\.", r"\1attn.proj."),
    (r"^(visual.*\.)self_attn\.", r"\1attn."),
    (r"^(visual.*\.)layer_norm(\d)\.", r"\1norm\2."),
    (r"^text_model\.head\.", "text_projection."),
    *COMMON,
    (r"^(token_embedding|positional_embedding|ln_final|transformer|text_projection)", r"text.\1"),
)


def renamed(tensors: Tensors, kind: str) -> Tensors:
    """Tensors of transformers under the names, and in the forms, of open_clip."""
    found: Tensors = {}
    for name, stored in tensors.items():
        new = name
        for pattern, replacement in CLIP_NAMES if kind == "clip" else SIGLIP_NAMES:
            new = re.sub(pattern, replacement, new)
        found[new] = stored
    if kind == "clip":
        for old, new in (("visual_projection.weight", "visual.proj"),
                         ("text_projection.weight", "text_projection")):  # fmt: skip
            if old in found:
                found[new] = _changed([found.pop(old)], lambda parts: parts[0].T.contiguous())
    for name in [n for n in found if re.search(r"\.attn\.q_proj\.(weight|bias)$", n)]:
        parts = [n for x in "qkv" if (n := name.replace(".q_proj.", f".{x}_proj.")) in found]
        joined = "qkv." if ".trunk." in name else "in_proj_"
        found[name.replace("q_proj.", joined)] = _changed([found.pop(p) for p in parts], torch.cat)
    pool = "visual.trunk.attn_pool"
    for name in [n for n in found if n.startswith("vision_model.head.attention.in_proj_")]:
        stored, end = found.pop(name), name.rpartition("_")[2]
        found[f"{pool}.q.{end}"] = _changed([stored], _first_third)
        found[f"{pool}.kv.{end}"] = _changed([stored], _other_thirds)
    position, patches = "visual.trunk.pos_embed", "visual.trunk.patch_embed.proj.weight"
    if position in found and len(found[position].shape) == 2:
        found[position] = _changed([found[position]], lambda parts: parts[0][None])
    if patches in found and len(found[patches].shape) == 2:  # Siglip2: rows, columns, colours
        side = round((found[patches].shape[1] / 3) ** 0.5)
        found[patches] = _changed(
            [found[patches]],
            lambda p: p[0].unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).contiguous(),
        )
    return found


def _first_third(parts: list[Tensor]) -> Tensor:
    return parts[0][: len(parts[0]) // 3].clone()


def _other_thirds(parts: list[Tensor]) -> Tensor:
    return parts[0][len(parts[0]) // 3 :].clone()


def in_names_of_open_clip(tensors: Tensors) -> Tensors:
    """Tensors under the names of open_clip, if they come under those of transformers."""
    if not any(name.startswith("vision_model.") for name in tensors):
        return tensors
    return renamed(tensors, "siglip" if "vision_model.head.probe" in tensors else "clip")


def _changed(parts: list[Stored], change: Callable[[Any], Tensor]) -> Stored:
    """A tensor made of stored ones when it is read; its shape is found without reading them."""
    shape = tuple(change([torch.empty(p.shape, device="meta") for p in parts]).shape)
    return Stored(shape, parts[0].dtype, lambda: change([p.read() for p in parts]))


# ---------------------------------------------------------------- processors


class HuggingFaceTokenizer:
    """A tokenizer of transformers in the form of open_clip's: (texts, context_length) -> (P, L).

    side: where it fills up, "right" or "left"; None as the tokenizer itself says.
    """

    def __init__(self, tokenizer: Any, context_length: int, side: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.side = side

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids, padded and cut to the context length."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        encoded = self.tokenizer(
            texts, padding="max_length", padding_side=self.side, truncation=True,
            max_length=length, return_tensors="pt",
        )  # fmt: skip
        ids: Tensor = encoded["input_ids"]
        return ids


def tokenizer_for(tokenizer: Any, config: Config, source: str) -> Any:
    """The tokenizer of a model of transformers; for None CLIP's own, where its vocabulary fits."""
    text = config["text_config"]
    length = int(text["max_position_embeddings"])
    if tokenizer is not None:
        return HuggingFaceTokenizer(tokenizer, length, "right")  # so these towers were trained
    if config["model_type"] == "clip" and text["vocab_size"] == 49408:
        return open_clip.SimpleTokenizer(context_length=length)
    raise ValueError(
        f"{source} comes without a tokenizer. Expected one of {', '.join(TOKENIZER_FILES[:3])} … "
        "in its folder (processor.save_pretrained(folder)), or load_model((model, processor))."
    )


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of transformers, None if there is none; may raise ValueError."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    need_transformers(f"The tokenizer in {folder}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises what its backends raise
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"The tokenizer in {folder} cannot be read ({reason}). Some need a further package: "
            "pip install 'gscam_lib[hf]'."
        ) from error


def read_processor(folder: Path) -> Config | None:
    """Settings of the image processor in a folder of transformers, None if there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name)
            settings: Config = found.get("image_processor", found)
            return settings
    return None


def preprocess_of(settings: Config | None, kind: str, source: str) -> Config:
    """What an image processor of transformers does, in open_clip's words (preprocess_cfg)."""
    if settings is None:
        warnings.warn(
            f"{source} comes without an image processor; the usual one of {kind} is assumed.",
            WeightsWarning, stacklevel=2,
        )  # fmt: skip
        settings = {}
    mean, std = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD) if kind == "clip" \
        else ([0.5] * 3, [0.5] * 3)  # fmt: skip
    mean, std = settings.get("image_mean") or mean, settings.get("image_std") or std
    if settings.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    scale = 255 * float(settings.get("rescale_factor") or 1 / 255)
    if settings.get("do_rescale") is False:
        scale = 255.0
    size, crop = settings.get("size") or {}, settings.get("crop_size")
    cropped = settings.get("do_center_crop", kind == "clip")
    squashed = not cropped or (isinstance(size, dict) and "height" in size)
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    side = crop.get("height") if isinstance(crop, dict) else crop
    resample = RESAMPLE.get(int(settings.get("resample") or 3), "bicubic")
    if resample not in ("bilinear", "bicubic") or (not squashed and side and side != shortest):
        warnings.warn(
            f"The image processor of {source} resizes to {size} by {resample} and cuts out {crop}; "
            "here photos are resized to the input itself, bilinear or bicubic.",
            WeightsWarning, stacklevel=2,
        )  # fmt: skip
    return {
        "mean": [m / scale for m in mean],
        "std": [s / scale for s in std],
        "interpolation": resample,
        "resize_mode": "squash" if squashed else "shortest",
    }
