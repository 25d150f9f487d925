"""From a method's map to a heatmap in the photo's pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gscam_lib.boxes import Heatmap
from gscam_lib.methods import METHODS, read_method, title
from gscam_lib.methods.anytime import Sharpened
from gscam_lib.methods.method import check_k, check_options, check_trace, finite
from gscam_lib.methods.score import sharpened
from gscam_lib.model.photo import Geometry
from gscam_lib.model.prompts import Prompt, check_prompts, label, warn_of_unknown
from gscam_lib.trace import Trace, embed_masked

SCORED = ("gscorecam", "scorecam")  # methods whose scores can be guessed
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
    see `METHODS[method].options`. budget=60 lets gScoreCAM and ScoreCAM score at most 60 masked
    copies and guess the others, tolerance=0.1 until the band is as small: `Heatmap.passes` and
    `.band` tell how many were scored and how far off the map may be. What is guessed depends on
    photo, prompt and options alone, not on what the trace knows already; a budget for all copies
    gives the map as without one. Warns with UnknownPromptWarning when a model with a closed
    vocabulary does not know the prompt. Raises ValueError for what is no trace, for bad prompts,
    methods and options, and for weights that give NaN.
    """
    name, options = _asked(method, k, options)
    traces = _checked(trace)
    if len(traces) > 1 and _limited(options):
        raise ValueError("Got several traces with a budget or a tolerance; expected one trace.")
    _warn(traces[0], prompt)
    found = [_made(t, prompt, name, options) for t in traces]
    return _heatmap(traces, prompt, method, options, found)


Found = tuple[Any, int | None, float | None]
"""A map (h, w), the masked copies scored for it, and its band."""


def _limited(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None for name in ("budget", "tolerance"))


def _within(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.get(name) for name in ("budget", "tolerance")}


def _warn(trace: Trace, prompt: Prompt) -> None:
    warn_of_unknown(trace.model.name, prompt, trace.model.knows(prompt))


def _made(trace: Trace, prompt: Prompt, name: str, options: dict[str, Any]) -> Found:
    """What a method makes of one trace."""
    if not _limited(options):
        scores = name in SCORED and options.get("weighting") != "uniform"
        every = len(trace.activations) if name == "scorecam" else _k(trace, name, options)
        return (
            METHODS[name](trace, prompt, **options),
            every if scores else None,
            0.0 if scores else None,
        )
    *_, (last,) = sharpened(trace, [(prompt, options)], name, **_within(options))
    return _found(trace, last)


def _found(trace: Trace, made: Sharpened) -> Found:
    return finite(trace, made.map, "map"), made.passes, made.band


def _k(trace: Trace, name: str, options: dict[str, Any]) -> int | None:
    if "k" not in METHODS[name].options:
        return None
    return trace.default_k if options.get("k") is None else int(options["k"])


def _heatmap(
    traces: Sequence[Trace], prompt: Prompt, method: str, options: dict[str, Any],
    found: Sequence[Found],
) -> Heatmap:  # fmt: skip
    """Maps of several layers, or of one, on the photo's pixels."""
    trace = traces[0]
    maps = [made.detach().cpu().float().numpy() for made, _, _ in found]
    small = maps[0] if len(maps) == 1 else _average(maps, trace)
    values, flat = to_photo(small, trace)
    rows, columns = small.shape
    passes = [count for _, count, _ in found if count is not None]
    return Heatmap(
        values,
        flat,
        trace.logit(prompt),
        method.strip(),
        label(prompt),
        _k(trace, read_method(method)[0], options),
        trace.model.name,
        title(method),
        (rows, columns),
        sum(passes) if passes else None,
        found[0][2],
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
    first, *others = map(check_trace, traces)
    same = (t.geometry == first.geometry and np.array_equal(t.image, first.image) for t in others)
    if not all(same):
        raise ValueError("Got traces of several photos; expected one photo at different layers.")
    return traces


def _average(maps: Sequence[np.ndarray[Any, Any]], trace: Trace) -> np.ndarray[Any, Any]:
    """Mean of maps of several layers, each in [0, 1], at the resolution of the finest."""
    rows = max(m.shape[0] for m in maps)
    columns = max(m.shape[1] for m in maps)
    finest = Geometry(columns, rows, trace.model.input_size)
    resized = [_unit(m, trace, finest)[0] for m in maps]
    return np.asarray(np.mean(resized, axis=0), dtype=np.float32)


def sweep(trace: Trace, prompt: Prompt, ks: Iterable[int], **options: Any) -> dict[int, Heatmap]:
    """gScoreCAM heatmaps for several k, at the cost of the largest.

    ks: numbers of channels, each from 1 to C; the result keeps their order. options: as in
    `heatmap`; a budget is of each k, and every copy serves them all. Raises ValueError.
    """
    if isinstance(ks, str) or not isinstance(ks, Iterable):
        raise ValueError(f"Got ks={ks!r}; expected several numbers of channels, such as [10, 50].")
    checked = [check_k(k, len(check_trace(trace).activations)) for k in ks]
    if checked and _limited(options):
        asked = [(prompt, _asked("gscorecam", k, options)[1]) for k in checked]
        return dict(zip(checked, _together(trace, asked, "gscorecam"), strict=True))
    return {k: heatmap(trace, prompt, k=k, **options) for k in checked}


def _together(
    trace: Trace, asked: Sequence[tuple[Prompt, dict[str, Any]]], method: str
) -> list[Heatmap]:
    """Heatmaps of several questions that share their masked copies, each within its budget."""
    for prompt in dict.fromkeys(prompt for prompt, _ in asked):
        _warn(trace, prompt)
    *_, last = sharpened(trace, asked, read_method(method)[0], **_within(asked[0][1]))
    return [
        _heatmap([trace], prompt, method, options, [_found(trace, made)])
        for (prompt, options), made in zip(asked, last, strict=True)
    ]


def several(
    trace: Trace, prompts: Sequence[Prompt], method: str = "gscorecam", **options: Any
) -> list[Heatmap]:
    """Heatmaps of several prompts on a traced photo, in their order.

    Gradients of all prompts come from one batched backward pass, and for gScoreCAM the union of
    the channels that they choose is embedded in full batches. method, options: as in `heatmap`.
    """
    prompts = check_prompts(prompts)
    name, asked = _asked(method, None, options)
    _prepare(check_trace(trace), prompts, name, asked)
    if prompts and _limited(asked):
        return _together(trace, [(prompt, asked) for prompt in prompts], method)
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
    if name == "gscorecam" and options.get("ranking", "mean") == "mean" and not _limited(options):
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
    trace: Trace,
    prompt: Prompt,
    k: int | None = None,
    *,
    step: int | None = None,
    method: str = "gscorecam",
    **options: Any,
) -> Iterator[Heatmap]:
    """Heatmaps of gScoreCAM or ScoreCAM that sharpen as masked copies are scored.

    The first is a draft, before any copy is scored; the last has all k scored, or what budget and
    tolerance allow (options: as in `heatmap`). `Heatmap.passes` and `.band` tell how far each is.
    What has been scored is kept: stopping early loses nothing. step: copies between heatmaps, at
    least (None: as they come). Raises ValueError at once for a bad k, step, method or option.
    """
    channels = len(check_trace(trace).activations)
    name, asked = _asked(method, None if k is None else check_k(k, channels), options)
    if name not in SCORED:
        raise ValueError(f"Got method={method!r}; expected one of {', '.join(SCORED)}.")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 1):
        raise ValueError(f"Got step={step!r}; expected a whole number of copies from 1 on.")
    _warn(trace, prompt)
    states = sharpened(trace, [(prompt, asked)], name, **_within(asked), whole=False)
    return (
        _heatmap([trace], prompt, method, asked, [_found(trace, made)])
        for made in _steps((made for (made,) in states), step or 1)
    )


def _steps(states: Iterator[Sharpened], step: int) -> Iterator[Sharpened]:
    """The first state, those with at least `step` more copies than the one before, and the last."""
    shown = last = next(states)
    yield shown
    for last in states:
        if last.passes - shown.passes >= step:
            shown = last
            yield shown
    if last is not shown:
        yield last


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
