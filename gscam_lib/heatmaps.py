"""From a method's map to a heatmap in the photo's pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gscam_lib.boxes import Heatmap
from gscam_lib.methods import METHODS, read_method, title
from gscam_lib.methods.method import check_k, check_options, check_trace
from gscam_lib.model.photo import Geometry
from gscam_lib.model.prompts import Prompt, check_prompts, label, warn_of_unknown
from gscam_lib.trace import Trace, embed_masked

FLAT = 1e-6  # a map whose range is below this share of its height is constant up to rounding


def heatmap(
    trace: Trace | Sequence[Trace],
    prompt: Prompt,
    method: str = "gscorecam",
    *,
    k: int | None = None,
    **options: Any,
) -> Heatmap:
    """Heatmap of a prompt on a traced photo.

    trace: or several traces of one photo at different layers, whose maps are averaged; method: a
    name in METHODS, with options behind it where wanted ("hilacam:as_released"); k: channels to
    use, for methods that rank them (None: the paper's share of C); options: those of the method,
    see `METHODS[method].options`. Warns with UnknownPromptWarning when a model with a closed
    vocabulary does not know the prompt. Raises ValueError for what is no trace, for bad prompts,
    methods and options, and for weights that give NaN.
    """
    name, options = _asked(method, k, options)
    traces = _checked(trace)
    trace = traces[0]
    warn_of_unknown(trace.model.name, prompt, trace.model.knows(prompt))
    used = None
    if "k" in METHODS[name].options:
        used = trace.default_k if options.get("k") is None else options["k"]
    maps = [METHODS[name](t, prompt, **options).detach().cpu().float().numpy() for t in traces]
    small = maps[0] if len(maps) == 1 else _average(maps, trace)
    values, flat = to_photo(small, trace)
    rows, columns = small.shape
    return Heatmap(
        values,
        flat,
        trace.logit(prompt),
        method.strip(),
        label(prompt),
        used,
        trace.model.name,
        title(method),
        (rows, columns),
    )


def _asked(method: str, k: int | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of a method; those given beside the text come before those in it."""
    name, read = read_method(method)
    given = options if k is None else {"k": k, **options}
    return name, read | check_options(name, given)


def _checked(trace: Trace | Sequence[Trace]) -> list[Trace]:
    """One trace or several of one photo as a list, or ValueError."""
    traces = list(trace) if isinstance(trace, list | tuple) else [check_trace(trace)]
    if not traces:
        raise ValueError("Got no trace; expected one, or several of one photo at different layers.")
    if len({check_trace(t).geometry for t in traces}) > 1:
        raise ValueError("Got traces of several photos; expected one photo at different layers.")
    return traces


def _average(maps: Sequence[np.ndarray[Any, Any]], trace: Trace) -> np.ndarray[Any, Any]:
    """Mean of maps of several layers, each in [0, 1], at the resolution of the finest."""
    rows = max(m.shape[0] for m in maps)
    columns = max(m.shape[1] for m in maps)
    finest = Geometry(columns, rows, trace.model.input_size)
    resized = [_unit(m, trace, finest)[0] for m in maps]
    return np.asarray(np.mean(resized, axis=0), dtype=np.float32)


def sweep(trace: Trace, prompt: Prompt, ks: Iterable[int]) -> dict[int, Heatmap]:
    """gScoreCAM heatmaps for several k, at the cost of the largest.

    ks: numbers of channels, each from 1 to C; the result keeps their order. Raises ValueError.
    """
    if isinstance(ks, str) or not isinstance(ks, Iterable):
        raise ValueError(f"Got ks={ks!r}; expected several numbers of channels, such as [10, 50].")
    checked = [check_k(k, len(check_trace(trace).activations)) for k in ks]
    return {k: heatmap(trace, prompt, k=k) for k in checked}


def several(
    trace: Trace, prompts: Sequence[Prompt], method: str = "gscorecam", **options: Any
) -> list[Heatmap]:
    """Heatmaps of several prompts on a traced photo, in their order.

    Gradients of all prompts come from one batched backward pass, and for gScoreCAM the union of
    the channels that they choose is embedded in full batches. method, options: as in `heatmap`.
    """
    prompts = check_prompts(prompts)
    _prepare(check_trace(trace), prompts, *_asked(method, None, options))
    return [heatmap(trace, prompt, method, **options) for prompt in prompts]


def on_input(
    trace: Trace, prompts: Sequence[Prompt], method: str = "gscorecam", *, side: int = 32
) -> np.ndarray[Any, Any]:
    """Maps of several prompts on the model's input, small: (P, side, side) in [0, 1], flat ones 0.

    For measuring many: a `heatmap` of a large photo has as many pixels as the photo. method: with
    options behind it where wanted.
    """
    prompts = check_prompts(prompts)
    name, options = _asked(method, None, {})
    _prepare(check_trace(trace), prompts, name, options)
    place = Geometry(side, side, trace.model.input_size)
    maps = (METHODS[name](trace, prompt, **options).detach().cpu().float() for prompt in prompts)
    return np.stack([_unit(m.numpy(), trace, place)[0] for m in maps])


def _prepare(trace: Trace, prompts: Sequence[Prompt], name: str, options: dict[str, Any]) -> None:
    """Compute together what the maps of several prompts need."""
    if METHODS[name].backward != "0" and trace.model.tower in METHODS[name].towers:
        trace.prepare(prompts)
    if name == "gscorecam" and options.get("ranking", "mean") == "mean":
        prefetch([(trace, prompts)], options.get("k"))


def prefetch(asked: Sequence[tuple[Trace, Sequence[Prompt]]], k: int | None = None) -> None:
    """Embed what gScoreCAM will need for these photos and prompts, in shared, full batches."""
    requests = []
    for trace, prompts in asked:
        trace.prepare(prompts)
        count = trace.default_k if k is None else check_k(k, len(trace.activations))
        channels = [trace.ranking(prompt)[:count].tolist() for prompt in prompts]
        requests.append((trace, [c for chosen in channels for c in chosen]))
    embed_masked(requests)


def stream(
    trace: Trace, prompt: Prompt, k: int | None = None, *, step: int | None = None
) -> Iterator[Heatmap]:
    """gScoreCAM heatmaps that sharpen as channels are scored, the last one with all k.

    Channels come in the order of their gradients, so each heatmap is gScoreCAM at a smaller k, and
    what has been scored is kept: stopping early loses nothing. step: channels between heatmaps
    (None: a batch). Raises ValueError at once for a bad k or step.
    """
    channels = len(check_trace(trace).activations)
    last = trace.default_k if k is None else check_k(k, channels)
    if step is None:
        step = trace.batch_size
    elif isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"Got step={step!r}; expected a whole number of channels from 1 on.")
    return (heatmap(trace, prompt, k=scored) for scored in [*range(step, last, step), last])


def to_photo(small: np.ndarray[Any, Any], trace: Trace) -> tuple[np.ndarray[Any, Any], bool]:
    """ReLU, min-max, resize to the photo, min-max again: (H, W) in [0, 1], and whether it is flat.

    small: (h, w) map. Flat maps become zeros. Raises ValueError if the map has NaN or infinity.
    """
    return _unit(small, trace, trace.geometry)


def _unit(
    small: np.ndarray[Any, Any], trace: Trace, geometry: Geometry
) -> tuple[np.ndarray[Any, Any], bool]:
    if not np.isfinite(small).all():
        raise ValueError(
            f"The map on {trace.model.name} has NaN or infinite values; expected finite numbers. "
            "The weights or the photo's pixels are likely not finite."
        )
    positive = np.maximum(small, 0)
    if np.ptp(positive) <= FLAT * positive.max():
        return np.zeros((geometry.height, geometry.width), np.float32), True
    return _min_max(geometry.to_photo(_min_max(positive))), False


def _min_max(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = values.min(), values.max()
    if high == low:  # a photo of one pixel sees one value of a map that is not flat
        return np.ones_like(values)
    return np.asarray((values - low) / (high - low), dtype=np.float32)


def check_method(method: str, k: int | None = None, **options: Any) -> None:
    """Raise ValueError if there is no such method, or if it takes no k or option that is given."""
    _asked(method, k, options)
