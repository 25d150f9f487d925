"""The heatmaps of an explorer: a draft at once, sharpened pass by pass; the latest few kept."""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator

from gscam_lib.boxes import Heatmap
from gscam_lib.explorer.request import Request
from gscam_lib.explorer.worker import Count
from gscam_lib.heatmaps import heatmap, stream
from gscam_lib.methods import METHODS
from gscam_lib.trace import Trace

KEPT = 24  # at most 4 MB each
STEP = 8  # copies of a photo in one batch: a batch cannot be stopped
CLEAR = 0.1  # the band below which the rest is scored without more maps on the way
NEAR = 16  # copies that are scored at once, without a draft of the map before them

Key = tuple[str, str, str, int | None, int | None]
"""Of a heatmap: photo, prompt, method, k and budget."""


class Maps:
    """Heatmaps by key. between: called between two batches; it may wait, or raise to stop."""

    def __init__(self, between: Callable[[Count], None]) -> None:
        self._between = between
        self._kept: OrderedDict[Key, Heatmap] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, request: Request, trace: Trace, prompt: str, method: str, k: int | None) -> Key:
        """The key of what a request asks for."""
        k = _k(trace, method, k)
        budget = None
        if scored(method) and request.quality < 1:
            budget = request.budget(k or len(trace.activations))
        return request.photo, prompt, method, k, budget

    def get(self, trace: Trace, key: Key) -> Heatmap:
        """The heatmap of a key; the latest few are kept."""
        if key not in self._kept:
            _, prompt, method, k, budget = key
            with quiet():
                self._keep(key, heatmap(trace, prompt, method, k=k, **_within(budget)))
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: Key, heat: Heatmap) -> None:
        self._kept[key] = heat
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def sharpening(self, trace: Trace, key: Key, count: Count) -> Iterator[Heatmap]:
        """The heatmaps before that of a key, a draft first; none where it is near at hand."""
        _, prompt, method, k, budget = key
        if key in self._kept or not scored(method):
            return
        copies = _copies(trace, prompt, method, k)
        missing = trace.missing(copies)
        if not missing:
            return
        if budget is None and len(missing) <= NEAR:
            self.score(trace, missing, count)
            return
        limit = budget or len(copies)
        count.total = count.passes + min(limit, len(missing))
        with quiet():
            for heat in stream(trace, prompt, k, method=method, **_within(budget)):
                if heat.passes == limit:
                    self._keep(key, heat)
                else:
                    yield heat
                self._between(count)
                if budget is None and heat.band is not None and heat.band <= CLEAR:
                    break
        if budget is None:
            self.score(trace, trace.missing(copies), count)
        count.total = 0

    def score(self, trace: Trace, channels: list[int], count: Count) -> None:
        """Score channels, a few at a time."""
        count.total = count.passes + len(channels)
        for start in range(0, len(channels), STEP):
            self._between(count)
            trace.masked_embeddings(channels[start : start + STEP])
        count.total = 0


def scored(method: str) -> bool:
    """Whether a method scores masked copies, and may stop before it has all."""
    return "budget" in METHODS[method].options


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: they are said in the answer, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _copies(trace: Trace, prompt: str, method: str, k: int | None) -> list[int]:
    """The channels whose masked copies make a map."""
    total = len(trace.activations) if method == "scorecam" else _k(trace, method, k)
    channels: list[int] = trace.ranking(prompt)[:total].tolist()
    return channels


def _k(trace: Trace, method: str, k: int | None) -> int | None:
    if "k" not in METHODS[method].options:
        return None
    return trace.default_k if k is None else k


def _within(budget: int | None) -> dict[str, int]:
    return {} if budget is None else {"budget": budget}
