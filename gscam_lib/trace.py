"""Trace: everything one model computed about one photo, computed once and kept.

Formulas: Chen et al., gScoreCAM, ACCV 2022, and its released code; see `methods/score.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gscam_lib.clip import Layer, Model
from gscam_lib.photo import Geometry
from gscam_lib.prompts import Prompt
from gscam_lib.transformer import Seen, ViT, watch

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
        self._kept: dict[Hashable, Any] = {}

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
        """Gradient of a prompt's logit by the activations: (C, h, w).

        Raises ValueError at ViT layers from which only the class token reaches the embedding.
        """
        full = self._output_gradient(prompt)
        gradient = self.layer.to_map(full)[0]
        if not gradient.any() and full.any():
            raise ValueError(
                f"At layer '{self.layer.name}' only the class token still reaches the embedding: "
                "the gradients of all patches are exactly zero. Leave layer out (the input of the "
                "last block's attention), or rank with gscorecam(ranking='class_token')."
            )
        return gradient

    def class_token_gradient(self, prompt: Prompt) -> Tensor:
        """Gradient of a prompt's logit by the class token at the layer of a ViT: (C,)."""
        if self.layer.grid is None or self.model.vit is None:
            raise ValueError(
                f"{self.model.name} has no class token at layer '{self.layer.name}'; it needs a "
                "ViT whose class token becomes the embedding."
            )
        full = self._output_gradient(prompt)
        return full[0, 0]  # a batch of one, whatever the order of batch and tokens

    def _output_gradient(self, prompt: Prompt) -> Tensor:
        if prompt not in self._gradients:
            with torch.enable_grad():
                score = self.model.scores(self._embedding, prompt)[0]
                (full,) = torch.autograd.grad(score, self._output, retain_graph=True)
            self._gradients[prompt] = full
        return self._gradients[prompt]

    @property
    def default_k(self) -> int:
        """The paper's share of channels, 300 of 3072, of this layer."""
        return max(1, round(300 / 3072 * len(self.activations)))

    def ranking(self, prompt: Prompt) -> Tensor:
        """Channels by mean gradient (signed), highest first: (C,) indices; ties by index."""
        return self.gradients(prompt).mean((1, 2)).argsort(descending=True, stable=True)

    def masks(self, channels: Sequence[int] | Tensor) -> Tensor:
        """Masks in [0, 1] from channels: (n, S, S), as `to_masks`."""
        return self.to_masks(self.activations[torch.as_tensor(channels)])

    def to_masks(self, maps: Tensor) -> Tensor:
        """Masks in [0, 1] from (n, h, w) maps: (n, S, S), upsampled (align_corners) and min-max."""
        size = self.model.input_size
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

    def keep(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return what was computed under this key; compute it the first time."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def embed_copies(
        self, make: Callable[[range], Tensor], count: int, *, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Unit embeddings (count, D) of altered copies of the preprocessed photo.

        make: gives the copies (n, 3, S, S) of a range of indices; it is asked batch by batch.
        """
        starts = range(0, count, batch_size)
        parts = [self._embed(make(range(i, min(i + batch_size, count)))) for i in starts]
        return torch.cat(parts) if parts else self.embedding.new_zeros((0, len(self.embedding)))

    def embed_activations(
        self, make: Callable[[range], Tensor], count: int, *, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Unit embeddings (count, D) of the photo with the layer's activations replaced.

        make: gives activations (n, C, h, w) for a range of indices; it is asked batch by batch.
        """
        batch: list[Tensor] = []

        def replace(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            return self.layer.from_map(batch[-1], output)

        def run(indices: range) -> Tensor:
            # What comes before the layer runs on one photo; its batch grows at the layer.
            batch.append(make(indices))
            return self._embed(self.pixels[None])

        try:
            with hooked([(self.layer.module, replace)]):
                starts = range(0, count, batch_size)
                return torch.cat([run(range(i, min(i + batch_size, count))) for i in starts])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"The activations of layer '{self.layer.name}' cannot be replaced in a batch "
                f"({error}); choose the output of a stage or block."
            ) from error

    @cached_property
    def attention(self) -> tuple[Seen, ...]:
        """What every block of a ViT saw of the photo, in one graph with `attention_embedding`."""
        return self._attention_pass[0]

    @property
    def attention_embedding(self) -> Tensor:
        """(1, D) embedding of the photo whose gradients flow through `attention`."""
        return self._attention_pass[1]

    @cached_property
    def vit(self) -> ViT:
        """The image tower as tokens; raises ValueError where it is no ViT with a class token."""
        if self.model.vit is None:
            raise ValueError(
                f"{self.model.name} is a {self.model.tower}; attention needs a ViT whose class "
                "token becomes the embedding."
            )
        return self.model.vit

    @cached_property
    def _attention_pass(self) -> tuple[tuple[Seen, ...], Tensor]:
        with torch.enable_grad():
            pixels = self.pixels[None].clone().requires_grad_(True)  # so that a graph begins
            return watch(self.vit, lambda: self.model.encode_pixels(pixels))

    def keep_outputs(self, modules: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the photo once more, with gradients from the pixels on.

        Returns the pixels (1, 3, S, S), the modules' outputs and the embedding (1, D), one graph.
        """
        outputs: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs[module] = output
            return output.clone()  # so that what follows may work in place

        with torch.enable_grad(), hooked([(module, note) for module in modules]):
            pixels = self.pixels[None].clone().requires_grad_(True)
            embedding = self.model.encode_pixels(pixels)
        return pixels, [outputs[module] for module in modules], embedding

    def _constant(self, channels: list[int]) -> list[int]:
        if not channels:
            return []
        maps = self.activations[channels].flatten(1)
        same = (maps.amin(1) == maps.amax(1)).tolist()  # one synchronization for all
        return [c for c, constant in zip(channels, same, strict=True) if constant]

    @cached_property
    def _blank(self) -> Tensor:
        """Embedding of a photo that is masked everywhere."""
        return self._embed(torch.zeros_like(self.pixels)[None])[0]

    @torch.inference_mode()
    def _embed(self, pixels: Tensor) -> Tensor:
        return self.model.encode_pixels(pixels)


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Put forward hooks on modules for a while."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


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

    with torch.enable_grad(), hooked([(layer.module, hook)]):
        embedding = model.encode_pixels(pixels[None])
    if not captured:
        raise ValueError(f"Layer '{layer.name}' takes no part in embedding an image.")
    return captured[0], embedding
