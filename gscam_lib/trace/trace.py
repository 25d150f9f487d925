"""Trace: everything one model computed about one photo, computed once and kept.

Formulas: Chen et al., gScoreCAM, ACCV 2022, and its released code; see `methods/score.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from gscam_lib.model.layers import Layer
from gscam_lib.model.network import TOWERS, Network, paper_k
from gscam_lib.model.photo import Preprocessing, photo_hash
from gscam_lib.model.prompts import Prompt, check_prompts
from gscam_lib.model.towers import Pooled, Seen, ViT, watch
from gscam_lib.paths import VERSION
from gscam_lib.trace.store import Store

GRADIENT_BYTES = 2**28
"""What a trace keeps of gradients, some 340 prompts for RN50x16's last stage."""


class Trace:
    """One photo seen by one model: activations, gradients, logits, embeddings of masked copies.

    model: the CLIP; photo: upright RGB; layer: where activations are taken. The photo is run
    through the image tower once, here; what depends on a prompt is computed when first asked for.
    It can be made and asked under torch.inference_mode() too.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: Network,
        photo: Image.Image,
        layer: Layer,
        *,
        batch_size: int | None = None,
        cache: Path | str | None = None,
        preprocess: str | Preprocessing | None = None,
    ) -> None:
        whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
        if batch_size is not None and not (whole and batch_size >= 1):
            raise ValueError(
                f"Got batch_size={batch_size!r}; expected 1 or more images in a batch, or None."
            )
        self.model = model
        self.batch_size = batch_size or model.batch_size
        self.photo = photo
        self.layer = layer
        self.preprocessing = model.choose_preprocessing(preprocess)
        """What the photo went through; `str` names it in rows."""
        self.geometry = self.preprocessing.geometry(photo)
        self.pixels = model.preprocess(photo, self.preprocessing)
        self._output, self._embedding = _forward(model, layer, self.pixels)
        self.activations: Tensor = layer.to_map(self._output.detach())[0]
        """(C, h, w) output of the target layer."""
        self._gradients: dict[Prompt, Tensor] = {}  # the last used at the end
        self._masked: dict[int, Tensor] = {}
        self._kept: dict[Hashable, Any] = {}
        self._store = None if cache is None else Store(cache, self.key)
        if self._store is not None:
            self._masked = {c: e.to(model.device) for c, e in self._store.read().items()}

    @property
    def key(self) -> str:
        """What embeddings of masked copies depend on: weights, photo, its input, layer, version."""
        parts = (
            self.model.weights_sha, photo_hash(self.photo), str(self.preprocessing),
            self.layer.name, VERSION,
        )  # fmt: skip
        return "-".join(parts)

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
        asked = check_prompts(prompts)
        return torch.cat([self.model.scores(self.embedding[None], p) for p in asked])

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
        if not self.layer.class_token:
            raise ValueError(
                f"{self.model.name} has no class token at layer '{self.layer.name}'; it needs a "
                "ViT whose class token becomes the embedding, and a layer in its blocks."
            )
        full = self._output_gradient(prompt)
        return full[0, 0]  # a batch of one, whatever the order of batch and tokens

    def _output_gradient(self, prompt: Prompt) -> Tensor:
        self.prepare([prompt])
        gradient = self._gradients.pop(prompt)
        self._gradients[prompt] = gradient
        return gradient

    @torch.inference_mode(False)
    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Compute the gradients of several prompts in batched backward passes, and keep them.

        As many as fit GRADIENT_BYTES are kept, the last used; others are computed when asked for.
        """
        room = max(1, GRADIENT_BYTES // (self._output.numel() * self._output.element_size()))
        missing = [p for p in dict.fromkeys(prompts) if p not in self._gradients][:room]
        for old in list(self._gradients)[: max(0, len(self._gradients) + len(missing) - room)]:
            if old not in prompts:
                del self._gradients[old]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            with torch.enable_grad():
                scores = torch.cat([self.model.scores(self._embedding, p) for p in batch])
                self._gradients.update(zip(batch, self._backward(scores), strict=True))

    def _backward(self, scores: Tensor) -> Tensor:
        """Gradients (P, *output) of P scores by the layer's output."""
        with self.model.running():
            if len(scores) == 1:
                return torch.autograd.grad(scores[0], self._output, retain_graph=True)[0][None]
            each = torch.eye(len(scores), device=scores.device)
            (full,) = torch.autograd.grad(
                scores, self._output, each, retain_graph=True, is_grads_batched=True
            )
        return full

    @property
    def default_k(self) -> int:
        """The paper's share of channels, 300 of 3072, of this layer."""
        return paper_k(len(self.activations))

    def ranking(self, prompt: Prompt) -> Tensor:
        """Channels by mean gradient (signed), highest first: (C,) indices; ties by index."""
        return self.gradients(prompt).mean((1, 2)).argsort(descending=True, stable=True)

    def masks(self, channels: Sequence[int] | Tensor) -> Tensor:
        """Masks in [0, 1] from channels: (n, rows, columns) of the input, as `to_masks`.

        Raises ValueError for channels that the layer does not have.
        """
        indices = torch.as_tensor(channels, dtype=torch.long)
        if not isinstance(channels, Tensor):
            self._check(channels)
        return self.to_masks(self.activations[indices])

    def to_masks(self, maps: Tensor) -> Tensor:
        """Masks in [0, 1] from (n, h, w) maps: upsampled (align_corners) and min-max, (n, S, S)."""
        size = self.preprocessing.size
        if not len(maps):
            return self.pixels.new_zeros((0, *size))
        large = nn.functional.interpolate(
            maps[None], size=size, mode="bilinear", align_corners=True
        )[0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        return large.sub_(low).div_(high - low + 1e-6)  # in place: a batch of masks is large

    def masked_embeddings(self, channels: Sequence[int] | Tensor) -> Tensor:
        """Unit embeddings of the photo masked by each channel: (n, D).

        They depend on no prompt, so each is computed once in the life of the trace. Masks multiply
        the normalized pixels (masked parts become the mean colour) and are made batch by batch.
        Channels whose activation is constant all mask everything and share one forward pass.
        """
        # One synchronization for all, where the channels were ranked on a GPU.
        wanted = channels.tolist() if isinstance(channels, Tensor) else [int(c) for c in channels]
        embed_masked([(self, wanted)])
        if not wanted:
            return self.embedding.new_zeros((0, len(self.embedding)))
        return torch.stack([self._masked[c] for c in wanted])

    def _check(self, channels: Sequence[int]) -> None:
        if len(channels) and not 0 <= min(channels) <= max(channels) < len(self.activations):
            raise ValueError(
                f"Got channels {min(channels)} to {max(channels)}; layer '{self.layer.name}' has "
                f"channels 0 to {len(self.activations) - 1}."
            )

    def missing(self, channels: Sequence[int]) -> list[int]:
        """Those of the channels whose masked copies are still to be embedded; dead ones are done.

        Raises ValueError for channels that the layer does not have.
        """
        self._check(channels)
        missing = [c for c in dict.fromkeys(channels) if c not in self._masked]
        dead = set(self._constant(missing))
        self._masked.update((c, self._blank) for c in dead)
        return [c for c in missing if c not in dead]

    @torch.inference_mode(False)
    def keep(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return what was computed under this key; compute it the first time."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def embed_copies(self, make: Callable[[range], Tensor], count: int) -> Tensor:
        """Unit embeddings (count, D) of altered copies of the preprocessed photo.

        make: gives the copies (n, 3, S, S) of a range of indices; it is asked batch by batch.
        """
        parts = [self._embed(make(indices), fast=True) for indices in self._ranges(count)]
        return torch.cat(parts) if parts else self.embedding.new_zeros((0, len(self.embedding)))

    def _ranges(self, count: int) -> list[range]:
        size = self.batch_size
        return [range(i, min(i + size, count)) for i in range(0, count, size)]

    def embed_activations(self, make: Callable[[range], Tensor], count: int) -> Tensor:
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
            with self.model.lock, hooked([(self.layer.module, replace)]):
                return torch.cat([run(indices) for indices in self._ranges(count)])
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
        """(1, D) embedding of the photo whose gradients flow through `attention` and `pooled`."""
        return self._attention_pass[1]

    @property
    def pooled(self) -> Pooled | None:
        """What attention pooling made of the last block's tokens; None without such pooling."""
        return self._attention_pass[2]

    @cached_property
    def vit(self) -> ViT:
        """The image tower as tokens; raises ValueError where it is none of those in `towers`."""
        if self.model.vit is None:
            raise ValueError(
                f"{self.model.name} is {TOWERS[self.model.tower]}; attention needs a ViT with "
                "plain attention whose class token becomes the embedding, or whose tokens are "
                "pooled by attention."
            )
        return self.model.vit

    @cached_property
    def _attention_pass(self) -> tuple[tuple[Seen, ...], Tensor, Pooled | None]:
        with torch.inference_mode(False), self.model.running(), torch.enable_grad():
            pixels = self.pixels[None].clone().requires_grad_(True)  # so that a graph begins
            seen, embedding = watch(self.vit.blocks, lambda: self.model.encode_pixels(pixels))
            if self.vit.pool is None:
                return seen, embedding, None
            pooled = self.vit.pool(seen[-1].output)
            return seen, nn.functional.normalize(pooled.embedding, dim=-1), pooled

    def keep_outputs(self, modules: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the photo once more, with gradients from the pixels on.

        Returns the pixels (1, 3, S, S), the modules' outputs and the embedding (1, D), one graph.
        """
        outputs: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs[module] = output
            return output.clone()  # so that what follows may work in place

        notes = [(module, note) for module in modules]
        with torch.inference_mode(False), self.model.lock, torch.enable_grad(), hooked(notes):
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

    @torch.no_grad()
    def _embed(self, pixels: Tensor, *, fast: bool = False) -> Tensor:
        return self.model.encode_pixels(pixels, fast=fast)


def embed_masked(requests: Sequence[tuple[Trace, Sequence[int]]]) -> None:
    """Embed the photos masked by channels, and keep it in their traces.

    requests: traces of one model, each with the channels it will need. Copies of several photos
    share batches, so that small k on many photos fill them. Where memory runs out, batches are
    halved; what was embedded is kept.
    """
    asked = ((trace, c) for trace, channels in requests for c in trace.missing(channels))
    todo = list(dict.fromkeys(asked))  # a trace may ask twice
    size = min((trace.batch_size for trace, _ in todo), default=1)
    start = 0
    while start < len(todo):
        batch = todo[start : start + size]
        try:
            embeddings = _embed_batch(batch)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        for (trace, channel), embedding in zip(batch, embeddings, strict=True):
            trace._masked[channel] = embedding
        start += size
    for trace in dict.fromkeys(trace for trace, _ in todo):
        if trace._store is not None:
            try:
                trace._store.write(trace._masked)
            except (OSError, SafetensorError) as error:  # a full disk shall not cost the map
                warnings.warn(
                    f"The embeddings of masked copies could not be kept in {trace._store.file} "
                    f"({error}); the map is made all the same, and they will be computed again.",
                    stacklevel=2,
                )


def _embed_batch(batch: Sequence[tuple[Trace, int]]) -> Tensor:
    """Embed masked copies, those of one photo together: (n, D)."""
    copies = []
    for trace, group in groupby(batch, key=lambda pair: pair[0]):
        copies.append(trace.pixels * trace.masks([c for _, c in group])[:, None])
    return batch[0][0]._embed(copies[0] if len(copies) == 1 else torch.cat(copies), fast=True)


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


def _forward(model: Network, layer: Layer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output, cut from what comes before it, and the embedding computed from it."""
    captured: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or captured:
            raise ValueError(
                f"Layer '{layer.name}' does not give one tensor in one call; choose another layer."
            )
        captured.append(output.detach().float().requires_grad_(True))
        return captured[0].to(output.dtype, copy=True)  # what follows may work in place

    with model.lock, torch.enable_grad(), hooked([(layer.module, hook)]):
        embedding = model.encode_pixels(pixels[None])
    if not captured:
        raise ValueError(f"Layer '{layer.name}' takes no part in embedding an image.")
    return captured[0], embedding
