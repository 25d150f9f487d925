"""The model a reader holds: a network that traces photos."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gscam_lib.model import weights
from gscam_lib.model.layers import LayerLike, find_layer
from gscam_lib.model.network import Network
from gscam_lib.model.photo import ImageLike, load_photo
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
    ) -> Trace:
        """Run one photo through the image tower and keep what was computed.

        image: PIL image, path or (H, W, 3) uint8; layer: for this trace only, a dotted name below
        the image tower, an index (-1: the last stage or block), or a module; batch_size: masked
        copies in one forward pass (None: chosen by speed and free memory); cache: a folder that
        keeps the embeddings of masked copies from one session to the next.
        """
        chosen = (
            self.layer if layer is None else find_layer(self.network.visual, layer, self.input_size)
        )
        return Trace(self, load_photo(image), chosen, batch_size=batch_size, cache=cache)


def load_model(
    name: str | os.PathLike[str] = weights.DEFAULT_MODEL,
    *,
    layer: LayerLike | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compile: bool = False,
) -> Model:
    """Load a CLIP by name, in evaluation mode.

    name: a bundled model ("photo-lite"), any open_clip "architecture/tag"
    ("RN50x16-quickgelu/openai"; the tag "random" gives random weights), or a local folder with
    an open_clip_config.json and weights. layer: the target layer (None: the default of the tower).
    device: None takes CUDA where there is one. precision: of the image tower, "fp32", "bf16" or
    "fp16"; compile: run masked copies through torch.compile. What both change in maps and boxes is
    measured by `make bench`. Raises ValueError for names that do not exist and FileNotFoundError
    for weights that are not here.
    """
    found = weights.load(name)
    found.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found.network.visual.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU (ResNets)
    return Model(
        found.network, found.tokenizer, name=found.name, layer=layer, bundled=found.bundled,
        vocabulary=found.vocabulary, precision=precision, compiled=compile,
    )  # fmt: skip
