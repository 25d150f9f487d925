"""A model as one file for a browser: the trunk as a list of steps, the pooling, the text tower.

The file is a JSON header and tensors. Steps are those of `torch.export`: a convolution with the
batch norm behind it and its activation, an addition, a pooling. Weights stay the 16 bits they are
stored in, token embeddings 8 where that is exact; batch norms stay beside them, as a factor and a
bias for each channel in 32 bits, so that the browser computes with the library's numbers.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from gscam_lib.model.prompts import FILLERS
from gscam_lib.trace.model import Model

Array = np.ndarray[Any, Any]
Step = dict[str, Any]
ALIGNED = 8  # bytes; a typed array begins at a multiple of its size


class Tensors:
    """Named tensors one after another, in the smallest form that keeps their values."""

    def __init__(self) -> None:
        self.table: dict[str, list[Any]] = {}
        self.content = bytearray()

    def add(self, name: str, values: Tensor | Array) -> str:
        """Append a tensor and return its name."""
        tensor = torch.as_tensor(values).detach().cpu().contiguous()
        if tensor.is_floating_point():
            for kind in (torch.float8_e4m3fn, torch.float16, torch.float32):
                small = tensor.to(kind)
                if torch.equal(small.to(tensor.dtype), tensor):
                    break
            tensor, form = small, str(kind).removeprefix("torch.")
        else:
            form = str(tensor.dtype).removeprefix("torch.")
        self.content.extend(bytes(-len(self.content) % ALIGNED))
        self.table[name] = [form, len(self.content), list(tensor.shape)]
        self.content.extend(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return name


def export(model: Model) -> bytes:
    """The file of a model. Raises ValueError for a tower that the page cannot compute."""
    tensors = Tensors()
    preprocessing = model.preprocessing
    header = {
        "name": model.name,
        "size": preprocessing.size[0],
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "logit_scale": float(model.logit_scale),
        "default_k": model.default_k,
        "channels": model.channels,
        "steps": _steps(_trunk(model), model, tensors),
        "head": _head(model, tensors),
        "text": _text(model, tensors),
        "probe": _probe(model, tensors),
        "tensors": tensors.table,
    }
    text = json.dumps(header).encode()
    text += b" " * (-(4 + len(text)) % ALIGNED)
    return len(text).to_bytes(4, "little") + text + bytes(tensors.content)


# ---------------------------------------------------------------- image


def _trunk(model: Model) -> nn.Module:
    """The image tower up to the layer whose activations are explained."""
    visual: Any = copy.deepcopy(model.network.visual).eval()
    pooled = isinstance(visual, ModifiedResNet) and isinstance(visual.attnpool, AttentionPool2d)
    averaged = isinstance(visual, TimmModel) and not list(visual.head.children())
    if pooled:
        visual.attnpool = nn.Identity()
    if averaged:
        visual.trunk.global_pool = nn.Identity()
    if pooled or averaged:
        trunk: nn.Module = visual
        return trunk
    raise ValueError(
        f"Got {model.name}, {type(visual).__name__}; the page computes CLIP's ResNets and timm's "
        "convolutional towers whose embedding is their mean activation."
    )


def _steps(trunk: nn.Module, model: Model, tensors: Tensors) -> list[Step]:
    """What the trunk computes: steps whose inputs are numbers of steps, -1 the photo."""
    size = model.preprocessing.size
    program = torch.export.export(trunk, (torch.zeros(1, 3, *size),), strict=False)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    weights = {n: program.state_dict[name].detach() for n, name in names.items()
               if name in program.state_dict}  # fmt: skip
    steps: list[Step] = []
    values: dict[str, int] = {signature.user_inputs[0]: -1}  # node -> step
    pads: dict[str, list[int]] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        kind = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
        source = values[node.args[0].name]
        given = list(node.args) + [None] * (9 - len(node.args))
        if kind == "pad":
            pads[node.name] = list(given[1])
        elif kind == "conv2d":
            before = pads.get(given[0].name, [0, 0, 0, 0])
            bias = None if given[2] is None else weights[given[2].name]
            steps.append(_convolution(source, weights[given[1].name], bias, given, before))
        elif kind == "batch_norm":
            scale, shift, mean, var = (weights[given[i].name] for i in (1, 2, 3, 4))
            factor = scale * (var + given[7]).rsqrt()
            step = steps[source]
            step["bias"] = (step["bias"] - mean) * factor + shift
            step["factor"] = step["factor"] * factor
        elif kind in ("relu", "hardtanh") and given[1:3] in ([None, None], [0.0, 6.0]):
            steps[source]["act"] = "relu" if kind == "relu" else "relu6"
        elif kind == "add":
            steps.append({"op": "add", "x": source, "y": values[given[1].name], "act": "linear"})
        elif kind == "avg_pool2d" and given[1] == given[2]:
            if given[1][0] > 1:
                steps.append({"op": "pool", "x": source, "size": given[1][0], "act": "linear"})
                source = len(steps) - 1
        else:
            raise ValueError(f"Got {node.target}{node.args[1:]}; the page has no such step.")
        grows = kind in ("conv2d", "add")
        values[node.name] = len(steps) - 1 if grows else source
    for number, step in enumerate(steps):
        for name in ("weight", "factor", "bias"):
            if name in step:
                step[name] = tensors.add(f"{number}.{name}", step[name])
    return steps


def _convolution(
    source: int, weight: Tensor, bias: Tensor | None, given: list[Any], before: list[int]
) -> Step:
    """A convolution; its weights as (rows, columns, in, out), or (…, channels, 1) depthwise."""
    stride, padding, dilation = given[3] or [1, 1], given[4] or [0, 0], given[5] or [1, 1]
    channels, each = weight.shape[:2]
    depthwise = each == 1 and (given[6] or 1) == channels
    if dilation != [1, 1] or stride[0] != stride[1] or ((given[6] or 1) != 1 and not depthwise):
        raise ValueError(f"Got a convolution with {given[3:7]}; the page has plain and depthwise.")
    left, right, top, bottom = before
    return {
        "op": "depthwise" if depthwise else "conv", "x": source, "act": "linear",
        "stride": stride[0],
        "pad": [top + padding[0], bottom + padding[0], left + padding[1], right + padding[1]],
        "weight": weight.permute(2, 3, 0, 1) if depthwise else weight.permute(2, 3, 1, 0),
        "factor": torch.ones(channels),
        "bias": torch.zeros(channels) if bias is None else bias,
    }  # fmt: skip


def _head(model: Model, tensors: Tensors) -> dict[str, Any]:
    """From activations to the embedding: CLIP's attention pooling, or the mean."""
    pool = getattr(model.network.visual, "attnpool", None)
    if pool is None:
        return {"kind": "mean"}
    for name in ("q", "k", "v", "c"):
        part = getattr(pool, f"{name}_proj")
        tensors.add(f"head.{name}.weight", part.weight)
        tensors.add(f"head.{name}.bias", part.bias)
    tensors.add("head.positions", pool.positional_embedding)
    return {"kind": "attention", "heads": pool.num_heads}


def _probe(model: Model, tensors: Tensors) -> str:
    """The embedding of a pattern: what a graphics card must reproduce before it is trusted."""
    rows, columns = model.preprocessing.size
    pattern = torch.arange(rows * columns * 3).mul(7919).remainder(255) / 127.5 - 1
    pixels = pattern.view(1, rows, columns, 3).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return tensors.add("probe", model.encode_pixels(pixels.to(model.device))[0])


# ---------------------------------------------------------------- text


def _text(model: Model, tensors: Tensors) -> dict[str, Any]:
    """The text tower, the tokens it was trained on, the merges of its tokenizer, its names."""
    network, tokenizer = model.network, model.tokenizer
    embedding = network.token_embedding.weight
    used = embedding.any(1).nonzero()[:, 0]  # the others are zero
    tensors.add("text.used", used.to(torch.uint16))
    tensors.add("text.embedding", embedding[used])
    tensors.add("text.positions", network.positional_embedding)
    tensors.add("text.projection", network.text_projection.T)
    for name, norm in [("text.final", network.ln_final)]:
        _affine(tensors, name, norm)
    blocks = network.transformer.resblocks
    for i, block in enumerate(blocks):
        _affine(tensors, f"text.{i}.ln_1", block.ln_1)
        _affine(tensors, f"text.{i}.ln_2", block.ln_2)
        tensors.add(f"text.{i}.in.weight", block.attn.in_proj_weight)
        tensors.add(f"text.{i}.in.bias", block.attn.in_proj_bias)
        _affine(tensors, f"text.{i}.out", block.attn.out_proj)
        _affine(tensors, f"text.{i}.fc", block.mlp.c_fc)
        _affine(tensors, f"text.{i}.proj", block.mlp.c_proj)
        if not isinstance(block.mlp.gelu, nn.GELU):
            raise ValueError(f"Got {block.mlp.gelu} in the text tower; the page computes GELU.")
    names = list(model.vocabulary or ())
    if names:  # unit vectors of the joint space, before the projection into it
        inside = model.encode_text(names) @ torch.linalg.pinv(network.text_projection)
        tensors.add("text.names", inside.half())
    ids = tokenizer.encoder
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    pairs = np.array([[ids[a], ids[b]] for a, b in merges], np.uint16)
    tensors.add("text.merges", pairs)
    tensors.add("text.bytes", np.array([ids[tokenizer.byte_encoder[b]] for b in range(256)],
                                       np.uint16))  # fmt: skip
    return {
        "length": network.context_length,
        "layers": len(blocks),
        "heads": blocks[0].attn.num_heads,
        "start": tokenizer.sot_token_id,
        "end": tokenizer.eot_token_id,
        "names": names,
        "fillers": sorted(FILLERS),
    }


def _affine(tensors: Tensors, name: str, module: Any) -> None:
    tensors.add(f"{name}.weight", module.weight)
    tensors.add(f"{name}.bias", module.bias)
