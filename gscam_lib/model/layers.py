"""Where a map can be taken: the spatial layers of an image tower, of whatever kind it is."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import open_clip
import torch
from torch import Tensor, nn

LayerLike: TypeAlias = str | int | nn.Module


@dataclass(frozen=True)
class Layer:
    """A module of the image tower whose output is a spatial map, or tokens that form one.

    size: (rows, columns) of the network's input; grid: None for a map, (B, C, h, w) or, as in Swin,
    (B, h, w, C); (rows, columns) of the patches for tokens; class_token: the first token becomes
    the embedding.
    """

    name: str
    module: nn.Module
    size: tuple[int, int]
    grid: tuple[int, int] | None = None
    batch_first: bool = True
    class_token: bool = False

    def to_map(self, output: Tensor) -> Tensor:
        """Bring an output of the module into the form (B, C, h, w); prefix tokens are left out.

        Raises ValueError for an output that is neither a map of the input nor its tokens.
        """
        if self.grid is None:
            axis = channel_axis(output, self.size)
            if axis is None:
                raise ValueError(
                    f"Layer '{self.name}' gives a tensor of shape {tuple(output.shape)}, which is "
                    f"no spatial map (B, C, h, w) of an input of {self.size[0]} × {self.size[1]} "
                    "px. Choose a layer before the pooling."
                )
            return output.movedim(axis, 1)
        rows, columns = self.grid
        if output.ndim != 3 or output.shape[1 if self.batch_first else 0] < rows * columns:
            raise ValueError(
                f"Layer '{self.name}' gives a tensor of shape {tuple(output.shape)}; expected the "
                f"tokens (B, N, C) of {rows} × {columns} patches. Choose the output of a block, of "
                "a norm or of a feed-forward part."
            )
        tokens = output if self.batch_first else output.transpose(0, 1)
        patches = tokens[:, tokens.shape[1] - rows * columns :]
        return patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)

    def from_map(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return (n, C, h, w) maps in the form of the output, whose prefix tokens they take."""
        if self.grid is None:
            return maps.movedim(1, channel_axis(output, self.size) or 1)
        tokens = output if self.batch_first else output.transpose(0, 1)
        patches = maps.flatten(2).transpose(1, 2)
        prefix = tokens[:, : tokens.shape[1] - patches.shape[1]].expand(len(maps), -1, -1)
        whole = torch.cat([prefix, patches], 1)
        return whole if self.batch_first else whole.transpose(0, 1)


def channel_axis(output: Tensor, size: tuple[int, int]) -> int | None:
    """Which axis of an output is its channels, 1 or 3; None if it is no map of the input.

    A map covers the input by one stride in both directions. Attention (B, heads, N, N) or queries
    (B, heads, N, d) have four axes too and do not.
    """

    def covers(cells: Sequence[int]) -> bool:
        stride = max(1, round(size[0] / max(cells[0], 1)))
        wanted = [(whole // stride, -(-whole // stride)) for whole in size]
        # A convolution without padding loses a cell.
        return all(w[0] - 1 <= c <= w[1] for c, w in zip(cells, wanted, strict=True))

    if output.ndim != 4:
        return None
    return next((axis for axis in (1, 3) if covers(output.movedim(axis, 1).shape[2:])), None)


def find_layer(visual: nn.Module, layer: LayerLike | None, size: tuple[int, int]) -> Layer:
    """Find a layer: by dotted name below the image tower, by index, as a module, or the default.

    size: (rows, columns) of the network's input. An index counts the stages of a CNN (the last
    module at each resolution) or the blocks of a ViT (what enters their attention); -1 is the last.
    Defaults: ResNets, the output of the last stage; ViTs, what enters the last block's attention
    (after it only the class token reaches the embedding and patch gradients are exactly zero).
    """
    modules = dict(visual.named_modules())
    blocks = blocks_of(visual)
    name = _layer_name(visual, layer, blocks, size)
    if name not in modules or name == "":
        close = difflib.get_close_matches(name, list(modules), n=5, cutoff=0.4)
        raise ValueError(
            f"No layer '{name}' in this image tower. Near it: {', '.join(close) or 'nothing'}; "
            f"its top level has {', '.join(key for key in modules if key and '.' not in key)}."
        )
    if any(name == b or name.startswith(b + ".") for b in blocks.names):
        first, grid = blocks.batch_first, blocks.grid
        return Layer(name, modules[name], size, grid, first, blocks.class_token)
    return Layer(name, modules[name], size)


@dataclass(frozen=True)
class Blocks:
    """The transformer blocks of an image tower: their names, and how their tokens lie.

    grid: (rows, columns) of the patches; class_token: the first token becomes the embedding.
    """

    names: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    batch_first: bool = True
    class_token: bool = False


def blocks_of(visual: Any) -> Blocks:
    """Find the transformer blocks of an image tower; no names where it has none."""
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        names = [f"transformer.resblocks.{i}" for i in range(len(visual.transformer.resblocks))]
        token = visual.pool_type == "tok" and visual.attn_pool is None
        rows, columns = visual.grid_size
        return Blocks(tuple(names), (rows, columns), bool(visual.transformer.batch_first), token)
    trunk = getattr(visual, "trunk", None)
    embed = getattr(trunk, "patch_embed", getattr(trunk, "embeds", None))  # NaFlex: embeds
    if trunk is None or embed is None or not hasattr(trunk, "blocks"):
        return Blocks()
    rows, columns = visual.image_size
    grid = getattr(embed, "grid_size", None)
    if grid is not None:  # of the size that timm made it for, which may be another (ViTamin-XL-384)
        made = embed.img_size
        grid = grid[0] * rows // made[0], grid[1] * columns // made[1]
    else:
        patch = embed.patch_size
        high, wide = patch if isinstance(patch, tuple | list) else (patch, patch)
        grid = rows // high, columns // wide
    token = trunk.global_pool == "token" and getattr(trunk, "num_prefix_tokens", 0) > 0
    names = [f"trunk.blocks.{i}" for i in range(len(trunk.blocks))]
    return Blocks(tuple(names), (int(grid[0]), int(grid[1])), True, token)


def _layer_name(
    visual: nn.Module, layer: LayerLike | None, blocks: Blocks, size: tuple[int, int]
) -> str:
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
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ValueError(
            f"Got layer={layer!r}; expected a dotted name below the image tower, an index such as "
            "-1, or a module of it."
        )
    stages = _stages(visual, blocks, size)
    if not -len(stages) <= layer < len(stages):
        raise ValueError(
            f"Got layer={layer!r}; this image tower has {len(stages)} layers to count, from "
            f"{-len(stages)} to {len(stages) - 1}: {', '.join(stages)}."
        )
    return stages[layer]


def _stages(visual: nn.Module, blocks: Blocks, size: tuple[int, int]) -> list[str]:
    if blocks.names:
        return _before_attention(visual, blocks)
    if "layer4" in dict(visual.named_children()):
        return ["layer1", "layer2", "layer3", "layer4"]
    found = _spatial_modules(visual, size).items()
    # "trunk.norm" and "trunk.blocks.3" are stages; what lies deeper is the inside of one.
    last = {shape: n for n, shape in found if n.count(".") < 2 or re.fullmatch(r"\w+\.\w+\.\d+", n)}
    return list(last.values())


def _before_attention(visual: nn.Module, blocks: Blocks) -> list[str]:
    """Names of what enters the blocks' attention: their first norm, or the block before.

    The block before where norms come after attention, as in EVA02-E.
    """
    modules = dict(visual.named_modules())
    found = []
    for before, block in zip(("", *blocks.names), blocks.names, strict=False):
        norms = [n for n in (f"{block}.ln_1", f"{block}.norm1") if n in modules]
        after = re.search("PostNorm|ResPost", type(modules[block]).__name__)
        if norms and not after:
            found.append(norms[0])
        elif before:
            found.append(before)
    return found


def _default_layer(visual: nn.Module, blocks: Blocks, size: tuple[int, int]) -> str:
    if "layer4" in dict(visual.named_children()):
        return "layer4"
    candidates = _before_attention(visual, blocks) if blocks.names else []
    candidates = candidates or list(_spatial_modules(visual, size))
    if not candidates:
        raise ValueError(
            f"The image tower {type(visual).__name__} has no spatial layer: none of its modules "
            "gives a (B, C, h, w) map, and it has no transformer blocks that are known here. "
            "Heatmaps need a ResNet, ViT or convolutional timm tower."
        )
    return candidates[-1]


def _spatial_modules(visual: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Modules whose output is a map larger than 1 × 1 and its size, in the order they finish."""
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            axis = channel_axis(output, size) if isinstance(output, Tensor) else None
            if axis is not None:
                cells = output.movedim(axis, 1).shape[2:]
                if min(cells) > 1:
                    found.pop(name, None)
                    found[name] = (cells[0], cells[1])

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in visual.named_modules() if n]
    parameter = next(visual.parameters())
    try:
        with torch.no_grad(), evaluating(visual):
            visual(torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype))
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
