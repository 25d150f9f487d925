"""Where a map can be taken: the spatial layers of an image tower, of whatever kind it is."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import open_clip
import torch
from torch import Tensor, nn

LayerLike: TypeAlias = str | int | nn.Module


@dataclass(frozen=True)
class Layer:
    """A module of the image tower whose output is a spatial map, or tokens that form one.

    grid: None for a (B, C, h, w) output; (rows, columns) of the patches for token outputs.
    """

    name: str
    module: nn.Module
    grid: tuple[int, int] | None = None
    batch_first: bool = True

    def to_map(self, output: Tensor) -> Tensor:
        """Bring an output of the module into the form (B, C, h, w); prefix tokens are left out."""
        if self.grid is None:
            if output.ndim != 4:
                raise ValueError(
                    f"Layer '{self.name}' gives a tensor of shape {tuple(output.shape)}; expected "
                    "a spatial map (B, C, h, w). Choose a layer before the pooling."
                )
            return output
        tokens = output if self.batch_first else output.transpose(0, 1)
        rows, columns = self.grid
        patches = tokens[:, tokens.shape[1] - rows * columns :]
        return patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)

    def from_map(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return (n, C, h, w) maps in the form of the output, whose prefix tokens they take."""
        if self.grid is None:
            return maps
        tokens = output if self.batch_first else output.transpose(0, 1)
        patches = maps.flatten(2).transpose(1, 2)
        prefix = tokens[:, : tokens.shape[1] - patches.shape[1]].expand(len(maps), -1, -1)
        whole = torch.cat([prefix, patches], 1)
        return whole if self.batch_first else whole.transpose(0, 1)


def find_layer(visual: nn.Module, layer: LayerLike | None, size: int) -> Layer:
    """Find a layer: by dotted name below the image tower, by index, as a module, or the default.

    An index counts the stages of a CNN (the last module at each resolution) or the blocks of a ViT
    (the normalized input of their attention); -1 is the last. Defaults: ResNets, the output of the
    last stage; ViTs, the normalized input of the last block's attention (after it only CLS reaches
    the embedding and patch gradients are exactly zero).
    """
    modules = dict(visual.named_modules())
    blocks, grid, batch_first = blocks_of(visual)
    name = _layer_name(visual, layer, blocks, size)
    if name not in modules or name == "":
        close = difflib.get_close_matches(name, list(modules), n=5, cutoff=0.4)
        raise ValueError(
            f"No layer '{name}' in this image tower. Near it: {', '.join(close) or 'nothing'}; "
            f"its top level has {', '.join(key for key in modules if key and '.' not in key)}."
        )
    inside = blocks and any(name == b or name.startswith(b + ".") for b in blocks)
    return Layer(name, modules[name], grid if inside else None, batch_first)


def blocks_of(visual: nn.Module) -> tuple[list[str], tuple[int, int] | None, bool]:
    """Names of the transformer blocks, the patch grid, and whether tokens come batch first."""
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        rows, columns = visual.grid_size
        count = len(visual.transformer.resblocks)
        names = [f"transformer.resblocks.{i}" for i in range(count)]
        return names, (rows, columns), bool(visual.transformer.batch_first)
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        grid = getattr(trunk.patch_embed, "grid_size", None)
        if grid is not None:
            return [f"trunk.blocks.{i}" for i in range(len(trunk.blocks))], tuple(grid), True
    return [], None, True


def _layer_name(visual: nn.Module, layer: LayerLike | None, blocks: list[str], size: int) -> str:
    if layer is None:
        return _default_layer(visual, blocks, size)
    if isinstance(layer, nn.Module):
        names: list[str] = [n for n, m in visual.named_modules() if m is layer and n]
        if not names:
            raise ValueError(
                f"The module {type(layer).__name__} is not a part of this image tower."
            )
        return names[0]
    if isinstance(layer, str):
        return layer
    stages = _stages(visual, blocks, size)
    if isinstance(layer, bool) or not -len(stages) <= layer < len(stages):
        raise ValueError(
            f"Got layer={layer!r}; this image tower has {len(stages)} layers to count, from "
            f"{-len(stages)} to {len(stages) - 1}: {', '.join(stages)}."
        )
    return stages[layer]


def _stages(visual: nn.Module, blocks: list[str], size: int) -> list[str]:
    modules = dict(visual.named_modules())
    norms = [f"{b}.{norm}" for b in blocks for norm in ("ln_1", "norm1")]
    if blocks:
        return [name for name in norms if name in modules]
    if "layer4" in modules:
        return ["layer1", "layer2", "layer3", "layer4"]
    found = _spatial_modules(visual, size).items()
    # "trunk.norm" and "trunk.blocks.3" are stages; what lies deeper is the inside of one.
    last = {shape: n for n, shape in found if n.count(".") < 2 or re.fullmatch(r"\w+\.\w+\.\d+", n)}
    return list(last.values())


def _default_layer(visual: nn.Module, blocks: list[str], size: int) -> str:
    modules = dict(visual.named_modules())
    if blocks:
        for norm in ("ln_1", "norm1"):
            if f"{blocks[-1]}.{norm}" in modules:
                return f"{blocks[-1]}.{norm}"
    elif "layer4" in modules:
        return "layer4"
    spatial = list(_spatial_modules(visual, size)) if not blocks else []
    if not spatial:
        raise ValueError(
            f"The image tower {type(visual).__name__} has no spatial layer: none of its modules "
            "gives a (B, C, h, w) map, and it has no transformer blocks that are known here. "
            "Heatmaps need a ResNet, ViT or convolutional timm tower."
        )
    return spatial[-1]


def _spatial_modules(visual: nn.Module, size: int) -> dict[str, tuple[int, int]]:
    """Modules whose output is a map larger than 1 × 1 and its size, in the order they finish."""
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
                found.pop(name, None)
                found[name] = (output.shape[2], output.shape[3])

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in visual.named_modules() if n]
    parameter = next(visual.parameters())
    try:
        with torch.no_grad(), evaluating(visual):
            visual(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode for a while; every submodule gets its own mode back afterwards."""
    training = [m for m in module.modules() if m.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True
