"""Trace: everything one model computed about one photo, computed once and kept.

Formulas: Chen et al., gScoreCAM, ACCV 2022, and its released code; see `methods/score.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gscam_lib.clip import Layer, Model
from gscam_lib.photo import Geometry
from gscam_lib.prompts import Prompt

BATCH_SIZE = 16


class Trace:
    """One photo seen by one model: activations, gradients, logits, embeddings of masked copies.

    model: the CLIP; photo: upright RGB; layer: where activations are taken. The photo is run
    through the image tower once, here; what depends on a prompt is computed when first asked for.
    """

    def __init__(self, model: Model, photo: Image.Image, layer: Layer) -> None:
        self.model = model
        self.photo = photo
        self.layer = layer
        self.geometry = Geometry(photo.width, photo.height, model.input_size)
        self.pixels = model.preprocess(photo)
        self._output, self._embedding = _forward(model, layer, self.pixels)
        self.activations: Tensor = layer.to_map(self._output.detach())[0]
        """(C, h, w) output of the target layer."""
        self._gradients: dict[Prompt, Tensor] = {}
        self._masked: dict[int, Tensor] = {}

    @property
    def embedding(self) -> Tensor:
        """(D,) unit embedding of the photo."""
        return self._embedding.detach()[0]

    @property
    def image(self) -> np.ndarray[Any, Any]:
        """(H, W, 3) uint8 photo, upright."""
        return np.asarray(self.photo)

    def logit(self, prompt: Prompt) -> float:
        """Logit exp(logit_scale) · cos(photo, prompt); log probability for contrastive targets."""
        return float(self.logits([prompt])[0])

    def logits(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of several prompts: (P,)."""
        return torch.cat([self.model.scores(self.embedding[None], p) for p in prompts])

    def gradients(self, prompt: Prompt) -> Tensor:
        """Gradient of a prompt's logit by the activations: (C, h, w)."""
        if prompt not in self._gradients:
            with torch.enable_grad():
                score = self.model.scores(self._embedding, prompt)[0]
                (full,) = torch.autograd.grad(score, self._output, retain_graph=True)
            self._gradients[prompt] = self.layer.to_map(full)[0]
        return self._gradients[prompt]

    def ranking(self, prompt: Prompt) -> Tensor:
        """Channels by mean gradient (signed), highest first: (C,) indices; ties by index."""
        return self.gradients(prompt).mean((1, 2)).argsort(descending=True, stable=True)

    def masks(self, channels: Sequence[int] | Tensor) -> Tensor:
        """Masks in [0, 1] from channels: (n, S, S), upsampled (align_corners) and min-max."""
        size = self.model.input_size
        maps = self.activations[torch.as_tensor(channels)]
        large = nn.functional.interpolate(
            maps[None], size=(size, size), mode="bilinear", align_corners=True
        )[0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        return (large - low) / (high - low + 1e-6)

    def masked_embeddings(
        self, channels: Sequence[int] | Tensor, *, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Unit embeddings of the photo masked by each channel: (n, D).

        They depend on no prompt, so each is computed once in the life of the trace. Masks multiply
        the normalized pixels (masked parts become the mean colour) and are made batch by batch.
        Channels whose activation is constant all mask everything and share one forward pass.
        """
        wanted = [int(c) for c in channels]
        if wanted and not 0 <= min(wanted) <= max(wanted) < len(self.activations):
            raise ValueError(
                f"Got channels {min(wanted)} to {max(wanted)}; layer '{self.layer.name}' has "
                f"channels 0 to {len(self.activations) - 1}."
            )
        missing = [c for c in dict.fromkeys(wanted) if c not in self._masked]
        dead = set(self._constant(missing))
        self._masked.update((c, self._blank) for c in dead)
        alive = [c for c in missing if c not in dead]
        for start in range(0, len(alive), batch_size):
            batch = alive[start : start + batch_size]
            embeddings = self._embed(self.pixels * self.masks(batch)[:, None])
            self._masked.update(zip(batch, embeddings, strict=True))
        if not wanted:
            return self.embedding.new_zeros((0, len(self.embedding)))
        return torch.stack([self._masked[c] for c in wanted])

    def _constant(self, channels: list[int]) -> list[int]:
        maps = self.activations[channels].flatten(1)
        return [c for c, m in zip(channels, maps, strict=True) if m.min() == m.max()]

    @cached_property
    def _blank(self) -> Tensor:
        """Embedding of a photo that is masked everywhere."""
        return self._embed(torch.zeros_like(self.pixels)[None])[0]

    @torch.no_grad()
    def _embed(self, pixels: Tensor) -> Tensor:
        return self.model.encode_pixels(pixels)


def _forward(model: Model, layer: Layer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output, cut from what comes before it, and the embedding computed from it."""
    captured: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or captured:
            raise ValueError(
                f"Layer '{layer.name}' does not give one tensor in one call; choose another layer."
            )
        captured.append(output.detach().requires_grad_(True))
        return captured[0].clone()  # so that what follows may work in place

    handle = layer.module.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            embedding = model.encode_pixels(pixels[None])
    finally:
        handle.remove()
    if not captured:
        raise ValueError(f"Layer '{layer.name}' takes no part in embedding an image.")
    return captured[0], embedding
