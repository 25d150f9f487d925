"""The model a reader holds: a network that traces photos."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gscam_lib.model import weights as weights_of
from gscam_lib.model.engines import check_arithmetic
from gscam_lib.model.layers import LayerLike, find_layer
from gscam_lib.model.network import Network
from gscam_lib.model.photo import ImageLike, Preprocessing, load_photo
from gscam_lib.trace.trace import Trace


class Model(Network):
    """A CLIP: an image tower with spatial layers, a text tower, one joint space; see `Network`.

    `gs.load_model` makes one from weights; `Model(network, tokenizer)` from an open_clip network.
    """

    def trace(
        self,
        image: ImageLike,
        *,
        layer: LayerLike | None = None,
        batch_size: int | None = None,
        cache: Path | str | None = None,
        preprocess: str | Preprocessing | None = None,
    ) -> Trace:
        """Run one photo through the image tower and keep what was computed.

        image: PIL image, path or (H, W, 3) uint8; layer: for this trace only, a dotted name below
        the image tower, an index (-1: the last stage or block), or a module; batch_size: masked
        copies in one forward pass (None: chosen by speed and free memory); cache: a folder that
        keeps the embeddings of masked copies from one session to the next; preprocess: for this
        trace only, "squash", "model" or "paper" (see `Network`).
        """
        size = self.preprocessing.size
        chosen = self.layer if layer is None else find_layer(self.network.visual, layer, size)
        return Trace(
            self, load_photo(image), chosen, batch_size=batch_size, cache=cache,
            preprocess=preprocess,
        )  # fmt: skip


@torch.inference_mode(False)  # so that gradients can flow through it, wherever it is loaded
def load_model(
    what: Any = weights_of.DEFAULT_MODEL,
    weights: Any = None,
    *,
    arch: str | None = None,
    layer: LayerLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compile: bool = False,
    engine: str = "torch",
    preprocess: str | Preprocessing = "squash",
) -> Model:
    """Load a CLIP, whatever form it comes in, in evaluation mode.

    what: a bundled model ("photo-lite"); an open_clip "architecture/tag"
    ("RN50x16-quickgelu/openai"; the tag "random" gives random weights) or "architecture/file"; a
    file of weights (OpenAI's .pt, epoch_N.pt, .safetensors, .bin, …) or a folder of open_clip or
    transformers, told apart by what is in them; "hf-hub:organization/name"; a state dict; a live
    model, alone or as (model, preprocess, tokenizer). weights: a file or state dict put over what
    is named. arch: open_clip's name of a file's architecture, found from the tensors if left out.
    layer: the target layer (None: the default of the tower). device: None takes CUDA where there
    is one. precision: of the image tower, "fp32", "tf32" (CUDA alone), "bf16" or "fp16"; compile:
    run masked copies through torch.compile; engine: "openvino" runs them on OpenVINO (CPUs; the
    extra openvino), in bf16 3 to 6 times faster once the tower is converted, which takes up to a
    minute at the first copies; gradients stay torch's. What these change in maps and boxes is
    measured by `make bench`. preprocess: "squash" (the whole photo, as in the paper), "model" (as
    it was trained) or "paper" (a bilinear squash). No code in a file is ever run. Raises ValueError
    for what is no CLIP and FileNotFoundError for what is not here.
    """
    if isinstance(what, Network):
        raise ValueError(f"Got {what!r}, which is loaded already; it has all that Models have.")
    check_arithmetic(precision, engine)
    _check_layer(layer)
    place = None if device is None else _device(device)
    found = weights_of.load(what, weights, arch)
    network = found.network
    if found.ours:
        place = place or _device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(place)
        network.visual.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU (ResNets)
    elif place is not None and next(network.parameters()).device != place:
        network = copy.deepcopy(network).to(place)  # the reader's own stays where it is
    if precision == "fp16" and next(network.parameters()).device.type == "cpu":
        warnings.warn(
            "precision='fp16' on a CPU is several times slower than 'fp32'; it is meant for GPUs.",
            stacklevel=2,
        )
    return Model(
        network, found.tokenizer, name=found.name, layer=layer, bundled=found.bundled,
        vocabulary=found.vocabulary, precision=precision, compiled=compile,
        engine=engine, preprocess=preprocess,
    )  # fmt: skip


def _check_layer(layer: Any) -> None:
    if isinstance(layer, bool) or not isinstance(layer, str | int | nn.Module | None):
        raise ValueError(
            f"Got layer={layer!r}; expected a dotted name, an index such as -1, or a module."
        )


def _device(device: Any) -> torch.device:
    """The device that is meant, tried by putting a tensor on it."""
    try:
        place = torch.empty(0, device=device).device
        if place.type != "meta":
            return place
        raise RuntimeError("a device without memory")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        cuda = f"'cuda' ({torch.cuda.device_count()} here)" if torch.cuda.is_available() else ""
        raise ValueError(
            f"Got device={device!r}, which is not here; expected "
            f"{' or '.join(filter(None, ['None, ' + repr('cpu'), cuda]))}."
        ) from error
