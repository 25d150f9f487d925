"""The network: feeding it a photo, encoding prompts, embedding masked copies.

Sources: open_clip for the networks and their weights.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import Any

import open_clip
import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from gscam_lib.model.engines import PRECISIONS, check_arithmetic, openvino_encode, tf32
from gscam_lib.model.folded import folded
from gscam_lib.model.layers import LayerLike, blocks_of, evaluating, find_layer
from gscam_lib.model.photo import Preprocessing, preprocessing_of
from gscam_lib.model.prompts import Knowledge, Prompt, as_target, check_prompt, unknown_words
from gscam_lib.model.towers import ViT, as_vit

TOWERS = {
    "resnet": "a ResNet with attention pooling",
    "cnn": "a convolutional tower",
    "vit": "a ViT whose class token becomes the embedding",
    "pooled-vit": "a ViT whose tokens are pooled by attention",
    "other-vit": "a transformer that averages its patches, or whose attention is of another kind",
}
"""Kinds of image tower, by what methods need to know of them."""
BATCH_SIZE = (8, 256)  # on CPUs, where larger batches leave the cache; on GPUs


def paper_k(channels: int) -> int:
    """The paper's share of channels: 300 of 3072."""
    return max(1, round(300 / 3072 * channels))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


class Network:
    """A CLIP: an image tower with spatial layers, a text tower, and one joint space.

    network: an open_clip model; tokenizer: its tokenizer (texts, context_length) -> (P, L) ids;
    name: shown in results; layer: as in `find_layer` (None: the tower's default);
    vocabulary: the names the text tower was trained on, None if it is open; precision: of the image
    tower, "fp32" (full, on GPUs too, where PyTorch's own default for convolutions is TF32), "tf32"
    (CUDA alone), "bf16" or "fp16" (autocast; embeddings and what follows stay fp32); compiled: the
    image tower runs through torch.compile where masked copies are embedded; engine: what embeds
    them, "torch" or "openvino", see `load_model`; preprocess: "squash" (the whole photo, as in the
    paper), "model" (as the model was trained: crop or padding, and its interpolation) or "paper" (a
    bilinear squash, as the paper's code does in effect).
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        name: str = "custom",
        layer: LayerLike | None = None,
        bundled: bool = False,
        vocabulary: Sequence[str] | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        engine: str = "torch",
        preprocess: str | Preprocessing = "squash",
    ) -> None:
        check_arithmetic(precision, engine, next(network.parameters()).device.type)
        if compiled and engine != "torch":
            raise ValueError(f"Got compile=True with engine={engine!r}; expected one of the two.")
        if any(p.is_inference() for p in network.parameters()):
            raise ValueError(
                "The weights were made under torch.inference_mode(), so that no gradient can flow "
                "through them. Load or make the network outside it."
            )
        self.precision = precision
        self.engine = engine
        self._compiled = compiled
        self._quick: tuple[list[tuple[int, int]], Any] | None = None
        self._encode: Any = None
        self.lock = threading.RLock()  # hooks belong to the network: one thread at a time
        self.network: Any = network  # open_clip's classes say nothing of their attributes
        self.tokenizer = tokenizer
        self.name = name
        self.bundled = bundled
        self.vocabulary = None if vocabulary is None else tuple(vocabulary)
        visual = network.visual
        config = dict(getattr(visual, "preprocess_cfg", None) or {})
        for key in ("mean", "std"):  # what open_clip notes on towers of its own making
            config.setdefault(key, getattr(visual, f"image_{key}", None))
        self._config = config | {"size": visual.image_size}
        self.preprocessing = preprocessing_of(self._config, preprocess)
        with evaluating(network):
            self.layer = find_layer(visual, layer, self.preprocessing.size)
        self._text: dict[str, Tensor] = {}

    @property
    def input_size(self) -> int:
        """Side of the input in pixels, the longer one where it is not square."""
        return max(self.preprocessing.size)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, input {self.input_size} px, layer {self.layer.name!r})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def logit_scale(self) -> float:
        """The factor between cosine and logit (100 for OpenAI's models)."""
        scale = float(self.network.logit_scale.detach().exp())
        if not math.isfinite(scale):
            raise ValueError(f"The logit scale of {self.name} is {scale}; expected a number.")
        return scale

    @property
    def logit_bias(self) -> float:
        """What is added to every logit (SigLIP), the logit of a photo without relation; else 0."""
        bias = getattr(self.network, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach())

    @cached_property
    def vit(self) -> ViT | None:
        """The image tower as tokens and attention; None unless it is one of those in `towers`."""
        return as_vit(self.network.visual)

    @cached_property
    def tower(self) -> str:
        """Kind of image tower, one of TOWERS, which also say what it is."""
        visual = self.network.visual
        if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
            return "resnet"
        if self.vit is not None:
            return "vit" if self.vit.pool is None else "pooled-vit"
        return "other-vit" if blocks_of(visual).names else "cnn"

    @cached_property
    def channels(self) -> int:
        """Number of channels of the target layer."""
        found: list[int] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(int(self.layer.to_map(output).shape[1]))

        handle = self.layer.module.register_forward_hook(note)
        try:
            self._embed_blank()
        finally:
            handle.remove()
        return found[0]

    @property
    def arithmetic(self) -> str:
        """How masked copies are computed, as runs name it: "fp32", "bf16 by openvino"."""
        return self.precision + ("" if self.engine == "torch" else f" by {self.engine}")

    @cached_property
    def weights_sha(self) -> str:
        """SHA-256 of weights and arithmetic, in 16 hexadecimal digits; names a run or a cache."""
        digest = hashlib.sha256(b"" if self.arithmetic == "fp32" else self.arithmetic.encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def default_k(self) -> int:
        """The paper's share of channels: 300 of 3072, scaled to this model's layer."""
        return paper_k(self.channels)

    @cached_property
    def batch_size(self) -> int:
        """Images in one forward pass: the quickest number, or what fits half of the free memory."""
        fits = free_memory(self.device) // 2 // self._image_bytes
        return max(1, min(BATCH_SIZE[self.device.type == "cuda"], fits))

    @cached_property
    def _image_bytes(self) -> int:
        """About what a forward pass needs for one image: some of its largest outputs at once."""
        largest = 0

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size())

        handles = [module.register_forward_hook(note) for module in self.network.visual.modules()]
        try:
            self._embed_blank()
        finally:
            for handle in handles:
                handle.remove()
        return 6 * largest

    @torch.no_grad()
    def _embed_blank(self) -> None:
        with suppress(ValueError):  # of weights that are not finite: said where they are used
            self.encode_pixels(torch.zeros(1, 3, *self.preprocessing.size, device=self.device))

    def choose_preprocessing(self, preprocess: str | Preprocessing | None) -> Preprocessing:
        """The model's preprocessing, or another by name, see `Network`; raises ValueError."""
        return (
            self.preprocessing if preprocess is None else preprocessing_of(self._config, preprocess)
        )

    @torch.inference_mode(False)
    def preprocess(self, photo: Image.Image, how: Preprocessing | None = None) -> Tensor:
        """Bring a photo into the form of the input: (3, rows, columns) float32 on the device."""
        tensor = torch.from_numpy((how or self.preprocessing)(photo))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run parts of the network, or back through them.

        In eval mode, one thread at a time, its hooks alone in it, in the precision asked for.
        """
        products = tf32(self.precision == "tf32") if self.device.type == "cuda" else nullcontext()
        with self.lock, evaluating(self.network), products:
            yield

    def encode_pixels(self, pixels: Tensor, *, fast: bool = False) -> Tensor:
        """Embed (B, 3, S, S) preprocessed images: (B, D), unit length, fp32.

        fast: run `quick_tower`, by the engine and compiled as the model was loaded. Hooks and
        gradients need the other one. Raises ValueError for weights or pixels that give NaN.
        """
        encode = self._encode_quickly() if fast else self.network.encode_image
        dtype = PRECISIONS[self.precision]
        rough = dtype is not torch.float32
        known = rough or torch.amp.is_autocast_available(self.device.type)
        # Where fp32 is asked for, the caller's own autocast is kept out.
        cast = torch.autocast(self.device.type, dtype, enabled=rough) if known else nullcontext()
        with self.running(), cast:
            features: Tensor = encode(pixels)
        self._check_finite(features, "image embeddings", "weights of the image tower or the pixels")
        return nn.functional.normalize(features.float(), dim=-1)

    def _check_finite(self, values: Tensor, what: str, cause: str) -> None:
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"{what} of {self.name} have NaN or infinite values; expected finite numbers. The "
                f"{cause} are likely not finite, or overflow in {self.precision}."
            )

    @property
    def quick_tower(self) -> nn.Module:
        """What embeds masked copies: the image tower, `folded` where that is possible.

        Weights changed in place (training, loading) are noticed, and it is made anew.
        """
        tower: nn.Module = self._folded().visual
        return tower

    def _folded(self) -> Any:
        visual = self.network.visual
        tensors = (*visual.parameters(), *visual.buffers())
        versions = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._quick is None or self._quick[0] != versions:
            with self.running():
                self._quick = versions, folded(self.network)
            self._encode = None
        return self._quick[1]

    def _encode_quickly(self) -> Any:
        network = self._folded()
        if self._encode is None:  # an engine takes its time, and drafts need none
            encode = network.encode_image
            if self.engine == "openvino":
                encode = openvino_encode(
                    network, self.preprocessing.size, self.precision, self.name
                )
            self._encode = torch.compile(encode) if self._compiled else encode
        return self._encode

    @torch.inference_mode(False)
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed sentences: (P, D), unit length; each is encoded once in a model's life."""
        new = [p for p in dict.fromkeys(map(check_prompt, prompts)) if p not in self._text]
        if new:
            tokens = self.tokenize(new).to(self.device)
            with torch.no_grad(), self.running():
                features: Tensor = self.network.encode_text(tokens).float()
            self._check_finite(features, "Text embeddings", "weights of the text tower")
            self._text.update(zip(new, nn.functional.normalize(features, dim=-1), strict=True))
        return torch.stack([self._text[p] for p in prompts])

    def encode_target(self, prompt: Prompt) -> Tensor:
        """Unit vectors of a prompt and of what it is held against: (1 + distractors, D).

        Raises ValueError for a vector of another shape than (D,), or without direction.
        """
        target = as_target(prompt)
        if target.vector is None:
            wanted = self.encode_text(target.prompts).mean(0)
        else:
            wanted = torch.as_tensor(target.vector).detach().to(self.device).float()
            if wanted.shape != (self.dimension,):
                raise ValueError(
                    f"Got a target vector of shape {tuple(wanted.shape)}; the joint space of "
                    f"{self.name} takes ({self.dimension},)."
                )
        self._check_finite(wanted, f"The target '{target.name}' and the space", "target's values")
        if not wanted.any():
            raise ValueError(
                f"The target '{target.name}' is the zero vector, which points nowhere; expected a "
                "direction in the joint space."
            )
        rows = [nn.functional.normalize(wanted, dim=0)]
        rows += list(self.encode_text(target.against)) if target.against else []
        return torch.stack(rows)

    @cached_property
    def dimension(self) -> int:
        """D, the size of the joint space."""
        return int(self.encode_text(["a photo"]).shape[1])

    def scores(self, embeddings: Tensor, prompt: Prompt) -> Tensor:
        """Scores of (n, D) unit embeddings for a prompt: (n,), all finite or a ValueError.

        The logit exp(logit_scale) · cos + logit_bias; for a target held against distractors the log
        softmax of its logit among theirs (Lin et al., CLIP is Also an Efficient Segmenter, CVPR
        2023).
        """
        return self.compare(embeddings, self.encode_target(prompt))

    def compare(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Scores of (n, D) unit embeddings for rows as `encode_target` gives them: (n,)."""
        logits = self.logit_scale * embeddings @ target.T + self.logit_bias
        found = logits[:, 0] if logits.shape[1] == 1 else logits.log_softmax(1)[:, 0]
        self._check_finite(found, "Scores", "embeddings or the logit scale")
        return found

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Ids of sentences, (P, L), filled up at the side where the tokenizer does it.

        Raises ValueError for a sentence that is longer than L allows.
        """
        length = getattr(self.network, "context_length", None) or self.tokenizer.context_length
        tokens: Tensor = self.tokenizer(prompts, context_length=length)
        longer: Tensor = self.tokenizer(prompts, context_length=length + 1)
        spare, same = (0, slice(1, None)) if self.pads_at_start else (length, slice(length))
        empty = int(self.tokenizer(["a"], context_length=length + 1)[0, spare])
        for prompt, short, long in zip(prompts, tokens, longer, strict=True):
            # Cut, the end token is elsewhere; or, without one, the spare place is not empty.
            if not torch.equal(short, long[same]) or int(long[spare]) != empty:
                raise ValueError(
                    f"The prompt '{prompt[:60]}…' has more than the {length} tokens that "
                    f"{self.name} reads. Shorten it."
                )
        return tokens

    @cached_property
    def pads_at_start(self) -> bool:
        """Whether the tokenizer fills short sentences up before them, as some decoders want it."""
        short, long = (self.tokenizer(["a"], context_length=n)[0] for n in (8, 9))
        return not torch.equal(short, long[:8]) and torch.equal(short, long[1:])

    def knows(self, prompt: Prompt) -> Knowledge:
        """Tell whether a prompt is made of names this model was trained on, else the nearest ones.

        Always known for models with an open vocabulary (any pretrained CLIP).
        """
        target = as_target(prompt)
        if self.vocabulary is None:
            return Knowledge(True)
        names = frozenset(self.vocabulary)
        sentences = {p: unknown_words(p, names) for p in (*target.prompts, *target.against)}
        unknown = tuple(dict.fromkeys(word for words in sentences.values() for word in words))
        if not unknown:
            return Knowledge(True)
        spelled = [m for w in unknown for m in difflib.get_close_matches(w, self.vocabulary, n=1)]
        strange = next(p for p, words in sentences.items() if words)
        cosines = self.encode_text(self.vocabulary) @ self.encode_text([strange])[0]
        meant = [self.vocabulary[int(i)] for i in cosines.topk(min(3, len(cosines))).indices]
        return Knowledge(False, unknown, tuple(dict.fromkeys(spelled + meant)))
