"""Every architecture of open_clip, shrunken: random weights, few blocks, little width.

`tests/bench/towers.py` makes the table of them and the methods. Each model's trace is held against
the untouched network: activations and gradients by its own hooks and autograd, masked copies by its
own encode_image, and a place that is changed in the photo must change there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor

import gscam_lib as gs

WIDTH = 64  # of tokens and of the joint space: SigLIP has no projection between the two
HYBRID = VitCfg(
    embed_dim=(16, 32, WIDTH), depths=(1, 1, 1), stem_width=16, head_type="1d",
    conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
)  # fmt: skip
TOKENS = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2}
STAGES = {"layers": (1, 1, 1, 1), "embed_dims": (16, 16, 32, WIDTH)}
SMALL: dict[str, dict[str, Any]] = {  # by the beginning of timm's names, the first that fits
    "convnext": {"depths": (1, 1, 1, 1), "dims": (16, 32, 32, WIDTH)},
    "fastvit_mci3": {"layers": (1,) * 5, "embed_dims": (16, 16, 32, 32, WIDTH)},
    "fastvit_mci4": {"layers": (1,) * 5, "embed_dims": (16, 16, 32, 32, WIDTH)},
    "fastvit": STAGES,
    "swin": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)},
    "vitamin": TOKENS | {"embed_cfg": HYBRID},
    "vit_base_mci": {"depth": 2, "img_size": 64},  # its stem ends in 768 channels, whatever
    "": TOKENS,
}
FEW = {"sscam": {"samples": 1}, "rise": {"masks": 6}, "groupcam": {"groups": 3}}
PROMPT = "a dog on a chair"
CONFIGS = {  # forms that no architecture of open_clip has, but that its code makes
    "naflex": {"timm_model_name": "naflexvit_base_patch16_map", "timm_pool": "map",
               "timm_proj": "none", "image_size": 384},
    "registers": {"timm_model_name": "vit_small_patch14_reg4_dinov2", "timm_pool": "token",
                  "timm_proj": "linear", "image_size": 518},
    "patch dropout": {"layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 16,
                      "image_size": 96, "patch_dropout": 0.5},
    "not square": {"layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 16,
                   "image_size": (64, 128)},
}  # fmt: skip


@contextmanager
def small_timm() -> Iterator[None]:
    """Let timm make its models small, with what is random in them the same each time."""
    make = timm.create_model

    def small(name: str, **given: Any) -> Any:
        sizes = next(s for start, s in SMALL.items() if name.startswith(start))
        return make(name, **sizes, **given)

    timm.create_model = small
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        timm.create_model = make


def small(name: str) -> gs.Model:
    """An architecture of open_clip, or a form of CONFIGS, with a few thousand random weights."""
    config = copy.deepcopy(open_clip.get_model_config(name) or {"vision_cfg": CONFIGS[name]})
    vision, text = config["vision_cfg"], config.get("text_cfg", {})
    config["embed_dim"] = WIDTH
    if isinstance(vision.get("layers"), list):
        vision |= {"layers": [1, 1, 1, 1], "width": 8}
    elif "timm_model_name" not in vision:
        vision |= {"layers": 2, "width": WIDTH, "head_width": 32}
    if vision.get("timm_model_name", "").startswith("vit_base_mci"):
        vision["image_size"] = 64
    if "hf_model_name" in text:  # Hugging Face's texts need files that are not here
        coca = "multimodal_cfg" in config
        text = {"context_length": 76, "embed_cls": True} if coca else {"context_length": 77}
    config["text_cfg"] = text | {"width": WIDTH, "heads": 2, "layers": 1, "vocab_size": 49408}
    config["text_cfg"].pop("hf_tokenizer_name", None)
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": 32, "heads": 2, "layers": 1, "vocab_size": 49408}
        config["text_cfg"]["output_tokens"] = True
    custom = config.pop("custom_text", False)
    kind = open_clip.CoCa if "multimodal_cfg" in config else (
        open_clip.CustomTextCLIP if custom else open_clip.CLIP
    )  # fmt: skip
    with small_timm():
        network = kind(**config).eval().requires_grad_(False)
        for parameter in network.visual.parameters():  # zeros and tiny numbers would hide mistakes
            if parameter.ndim == 1 or parameter.std() < 1e-6:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif parameter.std() < 0.02:
                parameter.mul_(0.1 / parameter.std())
    return gs.Model(network, open_clip.SimpleTokenizer(), name=name)


# ---------------------------------------------------------------- the untouched network's own say


def by_itself(model: gs.Model, trace: gs.Trace) -> tuple[Tensor, Tensor, float]:
    """The layer's output, its gradient and the logit, by hooks and autograd on the network alone.

    Only what the modules give: nothing of the library but which module it is.
    """
    network, kept = model.network, []

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_(True))
        return kept[0] * 1.0

    length = network.context_length
    text = network.encode_text(model.tokenizer([PROMPT], context_length=length))[0]
    handle = trace.layer.module.register_forward_hook(keep)
    try:
        image = network.encode_image(trace.pixels[None])[0]
    finally:
        handle.remove()
    cosine = image @ text / (image.norm() * text.norm())
    bias = getattr(network, "logit_bias", None)
    logit = network.logit_scale.exp() * cosine + (0 if bias is None else bias)
    (gradient,) = torch.autograd.grad(logit, kept)
    return kept[0].detach(), gradient, float(logit.detach())


def as_map(raw: Tensor, cells: tuple[int, int], pixels: tuple[int, int]) -> Tensor:
    """A layer's raw output as (C, h, w), told apart by where numbers of the right count stand."""
    raw = raw[0]
    if raw.ndim == 2:  # tokens, the patches last
        return raw[-cells[0] * cells[1] :].T.reshape(-1, *cells)
    return raw if raw.shape[1:] == cells else raw.permute(2, 0, 1)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest, as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-20))


def faults(model: gs.Model, trace: gs.Trace) -> list[str]:
    """What in a trace is not as the untouched network has it; an empty list is right."""
    found = []
    raw, gradient, logit = by_itself(model, trace)
    cells = tuple(trace.activations.shape[1:])
    pixels = tuple(trace.pixels.shape[1:])
    for what, ours, theirs in (
        ("activations", trace.activations, as_map(raw, cells, pixels)),
        ("gradients", trace.gradients(PROMPT), as_map(gradient, cells, pixels)),
    ):
        if difference(ours, theirs) > 1e-3:
            found.append(f"{what} differ by {difference(ours, theirs):.1e}")
    if abs(trace.logit(PROMPT) - logit) > 1e-3:
        found.append(f"logit {trace.logit(PROMPT):.3f}, not {logit:.3f}")
    some = [0, len(trace.activations) // 2, len(trace.activations) - 1]
    masks = torch.nn.functional.interpolate(
        trace.activations[some][None], pixels, mode="bilinear", align_corners=True
    )[0]
    low, high = masks.amin((1, 2), True), masks.amax((1, 2), True)
    copies = trace.pixels * ((masks - low) / (high - low + 1e-6))[:, None]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.network.encode_image(copies), dim=-1)
    if difference(trace.masked_embeddings(some), expected) > 1e-3:
        found.append("masked copies differ")
    return found + misplaced(model, trace)


def activations_of(model: gs.Model, trace: gs.Trace, pixels: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    handle = trace.layer.module.register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.no_grad():
        model.network.encode_image(pixels[None])
    handle.remove()
    return trace.layer.to_map(outputs[0])[0]


def misplaced(model: gs.Model, trace: gs.Trace) -> list[str]:
    """A corner of the input that is changed must change that corner of the map the most."""
    found, (rows, columns) = [], trace.pixels.shape[1:]
    for top, left in ((0, 0), (0, 1), (1, 0)):
        pixels = trace.pixels.clone()
        part = pixels[:, top * rows // 2 :, left * columns // 2 :][:, : rows // 2, : columns // 2]
        part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(1)))
        change = (activations_of(model, trace, pixels) - trace.activations).abs().mean(0)
        h, w = change.shape
        means = {  # of the map's quarters: one cell alone may stand out where attention mixes all
            (down, right): float(change[rows_of, columns_of].mean())
            for down, rows_of in enumerate((slice(0, h // 2), slice(h - h // 2, h)))
            for right, columns_of in enumerate((slice(0, w // 2), slice(w - w // 2, w)))
        }
        shown = max(means, key=means.__getitem__)
        if min(h, w) > 2 and shown != (top, left):
            found.append(f"a change in the quarter {(top, left)} shows in {shown} of {(h, w)}")
    return found


# ---------------------------------------------------------------- methods


def outcomes(model: gs.Model, trace: gs.Trace, methods: list[str]) -> dict[str, str]:
    """Each method's outcome: "works", "flat", or the sentence with which it declines."""
    found = {}
    for name in methods:
        options = dict(FEW.get(name, {}))
        if "k" in gs.METHODS[name].options:
            options["k"] = 5
        try:
            heat = gs.heatmap(trace, PROMPT, name, **options)
        except ValueError as error:
            found[name] = str(error)
        except Exception as error:
            found[name] = f"crashed: {type(error).__name__}: {error}"
        else:
            found[name] = (
                "not finite"
                if not np.isfinite(heat.values).all()
                else "flat"
                if heat.flat
                else "works"
            )
    return found


def photo() -> np.ndarray[Any, Any]:
    y, x = np.mgrid[0:120, 0:160].astype(float)
    blob = np.exp(-((x - 40) ** 2 + (y - 36) ** 2) / 600)
    planes = np.stack([0.2 + 0.7 * blob, 0.3 + x / 400, 0.2 + y / 300], -1)
    noise = 0.1 * np.random.default_rng(0).random((120, 160, 3))
    return (255 * (planes + noise).clip(0, 1)).astype(np.uint8)
