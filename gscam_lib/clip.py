"""The network: loading it, feeding it a photo, encoding prompts, finding its spatial layers.

Sources: open_clip for the networks and their weights; the preprocessing of the gScoreCAM paper's
released code (the whole photo squashed to the input square, bicubic, no crop).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import open_clip
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gscam_lib.folded import folded
from gscam_lib.paths import CACHE, MODELS
from gscam_lib.photo import Geometry, ImageLike, load_photo
from gscam_lib.prompts import Knowledge, Prompt, as_target, check_prompt, unknown_words
from gscam_lib.transformer import ViT, as_vit

if TYPE_CHECKING:
    from gscam_lib.trace import Trace

DEFAULT_MODEL = "photo-lite"
CONFIG = "open_clip_config.json"
LayerLike: TypeAlias = str | int | nn.Module
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_SIZE = (8, 256)  # on CPUs, where larger batches leave the cache; on GPUs


# ---------------------------------------------------------------- layers


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
    blocks, grid, batch_first = _transformer(visual)
    name = _layer_name(visual, layer, blocks, size)
    if name not in modules or name == "":
        close = difflib.get_close_matches(name, list(modules), n=5, cutoff=0.4)
        raise ValueError(
            f"No layer '{name}' in this image tower. Near it: {', '.join(close) or 'nothing'}; "
            f"its top level has {', '.join(key for key in modules if key and '.' not in key)}."
        )
    inside = blocks and any(name == b or name.startswith(b + ".") for b in blocks)
    return Layer(name, modules[name], grid if inside else None, batch_first)


def _transformer(visual: nn.Module) -> tuple[list[str], tuple[int, int] | None, bool]:
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


def paper_k(channels: int) -> int:
    """The paper's share of channels: 300 of 3072."""
    return max(1, round(300 / 3072 * channels))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


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


# ---------------------------------------------------------------- the model


class Model:
    """A CLIP: an image tower with spatial layers, a text tower, and one joint space.

    network: an open_clip model; tokenizer: its tokenizer (texts, context_length) -> (P, L) ids;
    name: shown in results; layer: as in `find_layer` (None: the tower's default);
    vocabulary: the names the text tower was trained on, None if it is open; precision: of the image
    tower, "fp32", "bf16" or "fp16" (autocast; embeddings and what follows stay fp32); compiled: the
    image tower runs through torch.compile where masked copies are embedded.
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
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"Got precision={precision!r}; expected one of {', '.join(PRECISIONS)}."
            )
        self.precision = precision
        self._compiled = compiled
        self._quick: tuple[list[tuple[int, int]], Any, Any] | None = None
        self.lock = threading.RLock()  # hooks belong to the network: one thread at a time
        self.network: Any = network  # open_clip's classes say nothing of their attributes
        self.tokenizer = tokenizer
        self.name = name
        self.bundled = bundled
        self.vocabulary = None if vocabulary is None else tuple(vocabulary)
        visual = network.visual
        size = visual.image_size
        rows, columns = size if isinstance(size, tuple | list) else (size, size)
        if rows != columns:
            raise ValueError(f"{name} takes {rows} × {columns} px; expected a square input.")
        self.input_size = int(rows)
        with evaluating(network):
            self.layer = find_layer(visual, layer, self.input_size)
        mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)
        self._text: dict[str, Tensor] = {}

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
        return float(self.network.logit_scale.detach().exp())

    @cached_property
    def vit(self) -> ViT | None:
        """The image tower as tokens and attention; None unless it is a ViT with a class token."""
        return as_vit(self.network.visual)

    @cached_property
    def tower(self) -> str:
        """Kind of image tower: "resnet" (attention pooling), "cnn", "vit" or "pooled-vit".

        A "vit" puts its class token into the joint space; a "pooled-vit" pools its patches, or has
        another kind of attention.
        """
        visual = self.network.visual
        if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
            return "resnet"
        if self.vit is not None:
            return "vit"
        return "pooled-vit" if _transformer(visual)[0] else "cnn"

    @cached_property
    def channels(self) -> int:
        """Number of channels of the target layer."""
        blank = Image.new("RGB", (self.input_size, self.input_size))
        return int(self.trace(blank).activations.shape[0])

    @cached_property
    def weights_sha(self) -> str:
        """SHA-256 of weights and precision, in 16 hexadecimal digits; names a run or a cache."""
        digest = hashlib.sha256(b"" if self.precision == "fp32" else self.precision.encode())
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
            with torch.inference_mode():
                blank = torch.zeros(1, 3, self.input_size, self.input_size, device=self.device)
                self.encode_pixels(blank)
        finally:
            for handle in handles:
                handle.remove()
        return 6 * largest

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
        from gscam_lib.trace import Trace  # the one upward import: so that model.trace reads well

        chosen = (
            self.layer if layer is None else find_layer(self.network.visual, layer, self.input_size)
        )
        return Trace(self, load_photo(image), chosen, batch_size=batch_size, cache=cache)

    def preprocess(self, photo: Image.Image) -> Tensor:
        """Squash a photo and normalize it: (3, S, S) float32 on the model's device."""
        geometry = Geometry(photo.width, photo.height, self.input_size)
        pixels = np.asarray(geometry.squash(photo), dtype=np.float32) / 255
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        tensor = ((tensor - self._mean) / self._std).contiguous()
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run parts of the network: in eval mode, one thread at a time, its hooks alone in it."""
        with self.lock, evaluating(self.network):
            yield

    def encode_pixels(self, pixels: Tensor, *, fast: bool = False) -> Tensor:
        """Embed (B, 3, S, S) preprocessed images: (B, D), unit length, fp32.

        fast: run `quick_tower`, compiled where the model was loaded with compile=True. Hooks and
        gradients need the other one.
        """
        encode = self._encode_quickly() if fast else self.network.encode_image
        dtype = PRECISIONS[self.precision]
        enabled = dtype is not torch.float32
        cast = torch.autocast(self.device.type, dtype, enabled=enabled)
        with self.running(), cast:
            features: Tensor = encode(pixels)
        return nn.functional.normalize(features.float(), dim=-1)

    @property
    def quick_tower(self) -> nn.Module:
        """What embeds masked copies: the image tower, `folded` where that is possible.

        Weights changed in place (training, loading) are noticed, and it is made anew.
        """
        self._encode_quickly()
        assert self._quick is not None
        tower: nn.Module = self._quick[1]
        return tower

    def _encode_quickly(self) -> Any:
        visual = self.network.visual
        tensors = (*visual.parameters(), *visual.buffers())
        versions = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._quick is None or self._quick[0] != versions:
            with self.running():
                network: Any = folded(self.network)
            encode = network.encode_image
            encode = torch.compile(encode) if self._compiled else encode
            self._quick = versions, network.visual, encode
        return self._quick[2]

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed sentences: (P, D), unit length; each is encoded once in a model's life."""
        new = [p for p in dict.fromkeys(map(check_prompt, prompts)) if p not in self._text]
        if new:
            tokens = self._tokenize(new).to(self.device)
            with torch.no_grad(), self.running():
                features = nn.functional.normalize(self.network.encode_text(tokens), dim=-1)
            self._text.update(zip(new, features, strict=True))
        return torch.stack([self._text[p] for p in prompts])

    def encode_target(self, prompt: Prompt) -> Tensor:
        """Unit vectors of a prompt and of what it is held against: (1 + distractors, D)."""
        target = as_target(prompt)
        if target.vector is None:
            wanted = self.encode_text(target.prompts).mean(0)
        else:
            wanted = target.vector.detach().to(self.device).float()
        rows = [nn.functional.normalize(wanted, dim=0)]
        rows += list(self.encode_text(target.against)) if target.against else []
        return torch.stack(rows)

    def scores(self, embeddings: Tensor, prompt: Prompt) -> Tensor:
        """Scores of (n, D) unit embeddings for a prompt: (n,).

        The logit exp(logit_scale) · cos; for a target held against distractors the log softmax of
        its logit among theirs (Lin et al., CLIP is Also an Efficient Segmenter, CVPR 2023).
        """
        logits = self.logit_scale * embeddings @ self.encode_target(prompt).T
        return logits[:, 0] if logits.shape[1] == 1 else logits.log_softmax(1)[:, 0]

    def _tokenize(self, prompts: list[str]) -> Tensor:
        length = getattr(self.network, "context_length", None) or self.tokenizer.context_length
        tokens: Tensor = self.tokenizer(prompts, context_length=length)
        longer: Tensor = self.tokenizer(prompts, context_length=length + 1)
        for prompt, short, long in zip(prompts, tokens, longer, strict=True):
            if not torch.equal(short, long[:length]):  # the tokenizer would cut it silently
                raise ValueError(
                    f"The prompt '{prompt[:60]}…' has more than the {length} tokens that "
                    f"{self.name} reads. Shorten it."
                )
        return tokens

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


# ---------------------------------------------------------------- loading


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that come with the library."""
    return {path.parent.name: path.parent for path in sorted(MODELS.glob(f"*/{CONFIG}"))}


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
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
    measured by `gscam bench`. Raises ValueError for names that do not exist and FileNotFoundError
    for weights that are not here.
    """
    name = os.fspath(name)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bundled = bundled_models()
    folder = bundled.get(name, Path(name))
    if not folder.is_dir() and _downloaded(name).is_dir():
        folder = _downloaded(name)
    vocabulary: Sequence[str] | None = None
    if (folder / CONFIG).is_file():
        network, tokenizer = _from_folder(folder)
        listing = folder / "vocabulary.json"
        vocabulary = json.loads(listing.read_text())["names"] if listing.is_file() else None
    elif folder.is_dir():
        raise FileNotFoundError(
            f"The folder {folder} has no {CONFIG}. Expected an open_clip folder: {CONFIG} with "
            "'model_cfg' and 'preprocess_cfg', beside model.safetensors."
        )
    else:
        network, tokenizer = _from_open_clip(name)
    network.to(where).eval().requires_grad_(False)
    network.visual.to(memory_format=torch.channels_last)  # 1.4 times faster on CPU for ResNets
    return Model(
        network, tokenizer, name=name, layer=layer, bundled=name in bundled,
        vocabulary=vocabulary, precision=precision, compiled=compile,
    )  # fmt: skip


def save_model(name: str) -> Path:
    """Fetch open_clip "architecture/tag" weights and keep them as a folder in data/cache/models.

    Returns the folder, which `load_model` finds by the same name, here or copied elsewhere. Raises
    ValueError for names that do not exist and FileNotFoundError where there is no network.
    """
    folder = _downloaded(name)
    if (folder / CONFIG).is_file():
        return folder
    network, _ = _from_open_clip(name)
    visual: Any = network.visual
    config = {
        "model_cfg": open_clip.get_model_config(name.partition("/")[0]),
        "preprocess_cfg": {**visual.preprocess_cfg, "resize_mode": "squash"},
    }
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), partial / "model.safetensors")
    (partial / CONFIG).write_text(json.dumps(config, indent=2))
    return partial.rename(folder)


def _downloaded(name: str) -> Path:
    return CACHE / "models" / name.replace("/", "-")


def _from_folder(folder: Path) -> tuple[nn.Module, Any]:
    source = f"local-dir:{folder}"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"The folder {folder} has no weights (model.safetensors).")
    with _quiet():
        return open_clip.create_model(source), open_clip.get_tokenizer(source)


def _from_open_clip(name: str) -> tuple[nn.Module, Any]:
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=4)
        raise ValueError(
            f"No model '{name}'. Bundled: {', '.join(bundled_models()) or 'none'}. Otherwise give "
            "a local folder, or 'architecture/tag' of open_clip, for example "
            f"'RN50x16-quickgelu/openai'.{' Near it: ' + ', '.join(near) + '.' if near else ''} "
            "`gscam models` lists all."
        )
    tags = ["random", *open_clip.list_pretrained_tags_by_model(architecture)]
    if tag not in tags:
        raise ValueError(
            f"'{architecture}' has no weights '{tag}'. Write '{architecture}/TAG' with TAG one of: "
            f"{', '.join(tags)}."
        )
    source = {} if tag == "random" else open_clip.get_pretrained_cfg(architecture, tag)
    if source.get("quick_gelu") and not open_clip.get_model_config(architecture).get("quick_gelu"):
        raise ValueError(
            f"The weights '{tag}' were trained with QuickGELU and '{architecture}' runs without "
            f"it, which gives wrong texts. Use '{architecture}-quickgelu/{tag}'."
        )
    try:
        with _quiet():
            pretrained = None if tag == "random" else tag
            network = open_clip.create_model(architecture, pretrained, pretrained_text=False)
            return network, open_clip.get_tokenizer(architecture)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(_how_to_download(architecture, tag, source)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's log lines back: what matters of them is said in our errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _how_to_download(architecture: str, tag: str, source: dict[str, Any]) -> str:
    hub = source.get("hf_hub", "").rstrip("/")
    where = (
        f"the Hugging Face repository {hub}" if hub else source.get("url", "the Hugging Face hub")
    )
    return (
        f"The weights or the tokenizer of {architecture}/{tag} are not on this machine and could "
        f"not be fetched (from {where}). Where there is a network, run `gscam download "
        f"{architecture}/{tag}`; to use them offline, copy the folder it makes, "
        f"data/cache/models/{architecture}-{tag}, to the same place here or pass its path as name."
    )
