"""Does a heatmap show what the model uses? Insertion, deletion, and randomized weights."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn import functional as F

from gscam_lib.evaluation.metrics import rank_correlation, similarity
from gscam_lib.heatmaps import heatmap
from gscam_lib.methods import read_method
from gscam_lib.model.photo import Geometry, ImageLike
from gscam_lib.model.prompts import Prompt, as_target
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model

# ---------------------------------------------------------------- insertion and deletion

Blur = Literal["gaussian", "rise"]
"""What insertion begins with."""


def insertion(
    trace: Trace,
    prompt: Prompt,
    values: np.ndarray[Any, Any],
    *,
    blur: Blur = "gaussian",
    step: int | None = None,
) -> np.ndarray[Any, Any]:
    """Scores while the hottest pixels come first into the blurred photo: (steps + 1,).

    values: a heatmap's, of any size; blur: 11 × 11, σ = 5, on the preprocessed pixels: "gaussian",
    reflected at the border, or "rise", the released code's kernel, which is nearly a box and takes
    what lies outside for 0; step: pixels of the S × S input that change at a time (None: S, as in
    RISE). The scores are logits, or probabilities for targets held against distractors.
    `metrics.area_under` gives the AUC: the higher, the better.
    Raises ValueError. Petsiuk et al., RISE, BMVC 2018.
    """
    if blur not in get_args(Blur):
        raise ValueError(f"Got blur={blur!r}; expected {' or '.join(get_args(Blur))}.")
    start = _blurred(trace.pixels, blur)
    return _curve(trace, prompt, values, start, trace.pixels, step, blur)


def deletion(
    trace: Trace,
    prompt: Prompt,
    values: np.ndarray[Any, Any],
    *,
    step: int | None = None,
) -> np.ndarray[Any, Any]:
    """Scores while the hottest pixels go first, to the mean colour: (steps + 1,); lower is better.

    values, step and scores: as for `insertion`. Petsiuk et al., RISE, BMVC 2018.
    """
    empty = torch.zeros_like(trace.pixels)
    return _curve(trace, prompt, values, trace.pixels, empty, step, "empty")


def _curve(
    trace: Trace,
    prompt: Prompt,
    values: np.ndarray[Any, Any],
    before: Tensor,
    after: Tensor,
    step: int | None,
    ground: str,
) -> np.ndarray[Any, Any]:
    size = trace.pixels.shape[1] * trace.pixels.shape[2]
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            f"Got {type(values).__name__} of shape {np.shape(values)}; expected the (H, W) finite "
            "values of a heatmap."
        )
    step = trace.model.input_size if step is None else step
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= size:
        raise ValueError(f"Got step={step!r}; expected a number of pixels from 1 to {size}.")
    place = _places(values, trace.geometry).to(trace.pixels.device)
    count = -(-size // step)

    def copies(indices: range) -> Tensor:
        shown = torch.tensor(indices, device=place.device)[:, None, None, None] * step
        return torch.where(place < shown, after, before)

    # The copies depend on the map alone: one that serves several prompts is embedded once.
    key = ("curve", ground, step, hashlib.sha256(place.cpu().numpy().tobytes()).digest())
    embeddings = trace.keep(key, lambda: trace.embed_copies(copies, count + 1))
    scores = trace.model.scores(embeddings, prompt)
    scores = scores.exp() if as_target(prompt).against else scores
    return np.asarray(scores.cpu().numpy(), dtype=np.float64)


def _places(values: np.ndarray[Any, Any], geometry: Geometry) -> Tensor:
    """The place of each pixel of the input in the order of the heat, hottest 0: (S, S).

    Where pixels are equally hot the order is arbitrary but fixed, and follows no direction.
    """
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    if geometry.fit == "squash":
        image = image.resize(geometry.input, Image.Resampling.BILINEAR)
    elif image.size == (geometry.width, geometry.height):
        image = replace(geometry, interpolation="bilinear", fill=0).to_input(image)
    else:
        raise ValueError(
            f"Got values of shape {values.shape}; where a photo is not squashed they must have its "
            f"size, {(geometry.height, geometry.width)}."
        )
    heat = np.asarray(image).ravel()
    shuffled = np.random.default_rng(0).permutation(heat.size)
    order = shuffled[np.argsort(-heat[shuffled], kind="stable")]
    place = np.empty(heat.size, dtype=np.int64)
    place[order] = np.arange(heat.size)
    return torch.from_numpy(place.reshape(image.height, image.width))


def _blurred(pixels: Tensor, blur: Blur) -> Tensor:
    """(3, S, S) blurred by 11 × 11 pixels, σ = 5; see `insertion`."""
    if blur == "rise":  # a point smoothed in 11 pixels whose border reflects what runs over it
        kernel = torch.from_numpy(gaussian_filter1d(np.eye(11)[5], 5)).to(pixels)
    else:
        kernel = (-0.5 * (torch.arange(-5, 6).to(pixels) / 5) ** 2).softmax(0)
    mode = "constant" if blur == "rise" else "reflect"
    padded = F.pad(pixels[:, None], (5,) * 4, mode=mode)
    across = F.conv2d(padded, kernel[None, None, None, :])
    return F.conv2d(across, kernel[None, None, :, None])[:, 0]


# ---------------------------------------------------------------- randomized weights


@dataclass(frozen=True)
class Randomized:
    """How alike a map stays when weights are randomized, from the top down to one stage.

    stage: the last one randomized; rank_correlation: Spearman's; ssim: of the two heatmaps; flat:
    the randomized model gives no map, and both are 0.
    """

    stage: str
    image: int
    prompt: str
    method: str
    rank_correlation: float
    ssim: float
    flat: bool


def randomization_check(
    model: Model,
    questions: Sequence[tuple[ImageLike, str]],
    methods: Sequence[str] = ("gscorecam", "gradcam"),
    *,
    k: int | None = None,
    seed: int = 0,
) -> list[Randomized]:
    """Compare heatmaps with those of the same model, its image tower randomized stage by stage.

    questions: photos and prompts; methods, k: as `evaluate` takes them. A method whose maps stay
    alike shows the photo and not what the model has learned. Adebayo et al., Sanity Checks for
    Saliency Maps, NeurIPS 2018 (cascading randomization).
    """
    read = {method: read_method(method, k) for method in methods}
    found, original = [], {}
    for stage, changed in chain([("", model)], cascade(model, seed=seed)):  # one after the other
        for i, (image, prompt) in enumerate(questions):
            trace = changed.trace(image)
            for method, (name, options) in read.items():
                heat = heatmap(trace, prompt, name, **options)
                if stage == "":
                    original[i, method] = heat.values
                    continue
                pair = original[i, method], heat.values
                alike = (0.0, 0.0) if heat.flat else (rank_correlation(*pair), similarity(*pair))
                found.append(Randomized(stage, i, prompt, method, *alike, heat.flat))
    return found


def cascade(model: Model, *, seed: int = 0) -> Iterator[tuple[str, Model]]:
    """Copies of a model whose image tower is random from the top down to a stage, and its name.

    The model itself is not touched. Weights are drawn from a normal distribution with the mean and
    deviation of the trained tensor; vectors (biases, norms) are shuffled. One copy is changed
    further and further: use each before taking the next.
    """
    network = copy.deepcopy(model.network)
    generator = torch.Generator().manual_seed(seed)
    for name, parameters in stages(network.visual):
        for parameter in parameters:
            parameter.data.copy_(_redrawn(parameter.detach(), generator))
        changed = Model(
            network, model.tokenizer, name=f"{model.name}, random from the top to {name}",
            layer=model.layer.name, vocabulary=model.vocabulary,
        )  # fmt: skip
        yield name, changed


def _redrawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    values = tensor.cpu().float()
    if values.ndim < 2 or values.numel() < 2:
        return values.flatten()[torch.randperm(values.numel(), generator=generator)].view_as(values)
    noise = torch.randn(values.shape, generator=generator)
    return values.mean() + values.std() * noise


WRAPPERS = {"trunk", "transformer", "blocks", "resblocks"}


def stages(visual: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Stages of an image tower from its output to its input: names and parameters, each once.

    A stage is a block, a layer of blocks, or neighbouring simple modules. The projection comes
    first and position embeddings last.
    """
    found: list[tuple[str, list[nn.Parameter]]] = []
    simple = False  # whether the last stage is of simple modules, to which the next is added
    for name, module in _units(visual, ""):
        parameters = list(module.parameters())
        if not parameters:
            continue
        alone = not any(True for child in module.children() for _ in child.parameters())
        if alone and simple:
            found[-1][1].extend(parameters)
        else:
            found.append((name, parameters))
        simple = alone
    taken = {id(p) for _, parameters in found for p in parameters}
    rest = {name: p for name, p in visual.named_parameters() if id(p) not in taken}
    projection = [rest.pop("proj")] if "proj" in rest else []
    first = [("embeddings", list(rest.values()))] if rest else []
    last = [("proj", projection)] if projection else []
    return [*first, *found, *last][::-1]


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Parts of a tower in the order of its definition, wrappers opened."""
    for name, child in module.named_children():
        if name in WRAPPERS:
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child
