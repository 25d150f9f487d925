"""The engine of an explorer: one model, its traces, one lock; requests in, pictures out."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from gscam_lib.boxes import Heatmap, heatmap_to_box
from gscam_lib.explorer.page import make_page
from gscam_lib.explorer.photos import Photo, uploaded
from gscam_lib.explorer.pictures import draw, mask_picture, png
from gscam_lib.explorer.request import (
    About,
    Answer,
    Cancelled,
    Finding,
    Report,
    Request,
    Stop,
    side_of,
)
from gscam_lib.heatmaps import heatmap
from gscam_lib.methods import METHODS
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model

KEPT_TRACES = 8  # a warm trace of 1,024 channels keeps some 10 MB
KEPT_UPLOADS = 32
KEPT_HEATS = 12  # at most 4 MB each
SCORED = ("gscorecam", "scorecam")
STEP = 8  # copies of a photo in one batch: a batch cannot be stopped
THUMBNAILS, THUMBNAIL, MASK = 12, 84, 300  # how many, and pixels of their sides
PERIOD = 0.25  # seconds between maps that sharpen
REST = 0.5  # seconds without a request after which freed memory goes back


class TimeLimitError(ValueError):
    """A request took longer than the engine allows."""


class Engine:
    """Answers requests about photos with one model. Safe to call from several threads.

    model: a Model; photos: key -> Photo; limit_s: the most seconds one request may take.
    """

    def __init__(
        self, model: Model, photos: dict[str, Photo], *, limit_s: float | None = None
    ) -> None:
        self.model = model
        self.photos = dict(photos)
        self.limit_s = limit_s
        self.lock = threading.RLock()
        self._uploads: OrderedDict[str, Photo] = OrderedDict()
        self._traces: OrderedDict[str, Trace] = OrderedDict()
        self._heats: OrderedDict[tuple[str, str, str, int | None], Heatmap] = OrderedDict()
        self._needed: dict[str, int] = {}
        self._rest = threading.Timer(REST, _trim)

    def about(self) -> About:
        """What there is to choose from."""
        with self.lock:
            fits = {n: m for n, m in METHODS.items() if self.model.tower in m.towers}
            return About(
                self.model.name,
                self.model.channels,
                self.model.default_k,
                {key: photo.name for key, photo in self.photos.items()},
                {name: m.title for name, m in fits.items()},
                tuple(name for name, m in fits.items() if "k" in m.options),
                {key: photo.prompt for key, photo in self.photos.items()},
                frozenset(key for key, photo in self.photos.items() if photo.boxes),
            )

    def add(self, name: str, content: bytes) -> str:
        """Take a photo's file and give its key; the oldest of many is forgotten."""
        key, photo = uploaded(name, content)
        with self.lock:
            self._uploads[key] = photo
            self._uploads.move_to_end(key)
            while len(self._uploads) > KEPT_UPLOADS:
                gone, _ = self._uploads.popitem(last=False)
                self._traces.pop(gone, None)
        return key

    def photo(self, key: str) -> Photo:
        """A photo by its key. Raises ValueError where it is not (or no longer) there."""
        found = self.photos.get(key) or self._uploads.get(key)
        if found is None:
            raise ValueError("That photo is no longer kept; upload or choose it again.")
        return found

    def trace(self, key: str) -> Trace:
        """The trace of a photo; the latest few are kept."""
        if key not in self._traces:
            self._traces[key] = self.model.trace(self.photo(key).open())
            while len(self._traces) > KEPT_TRACES:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return self._traces[key]

    def run(self, request: Request, stop: Stop, report: Report) -> Answer:
        """Answer a request; maps that sharpen are reported on the way.

        Raises Cancelled once `stop()` is true, ValueError for what the library does not take, and
        TimeLimitError.
        """
        with self._watching(stop, report) as count:
            trace = self.trace(request.photo)
            shown = time.perf_counter()
            for place, (prompt, method, k) in enumerate(_maps(request)):
                for scored in self._score(trace, prompt, method, k, count):
                    if time.perf_counter() - shown > PERIOD:
                        early = self._answer(request, trace, count, (place, scored))
                        report(count.passes, count.total, early)
                        shown = time.perf_counter()
            return self._answer(request, trace, count)

    def page(self, request: Request, stop: Stop, report: Report) -> str:
        """A self-contained page in which k, threshold, prompt and opacity move."""
        with self._watching(stop, report) as count:
            trace = self.trace(request.photo)
            for _ in self._score(trace, request.prompts[0], "scorecam", None, count):
                pass
            return make_page(trace, request, self.photo(request.photo))

    def code(self, request: Request) -> str:
        """The Python that makes what is on the screen."""
        return as_code(self.model.name, self.photo(request.photo), request)

    # ------------------------------------------------------------ the work

    @contextlib.contextmanager
    def _watching(self, stop: Stop, report: Report) -> Iterator[_Count]:
        """Count the photos that go through the image tower, and stop between two batches."""
        while not self.lock.acquire(timeout=0.05):
            if stop():
                raise Cancelled
        self._rest.cancel()
        count = _Count(stop, report, self.limit_s)
        towers = {self.model.network.visual, self.model.quick_tower}
        handles = [tower.register_forward_pre_hook(count) for tower in towers]
        try:
            if stop():
                raise Cancelled
            yield count
        finally:
            for handle in handles:
                handle.remove()
            self._rest = threading.Timer(REST, _trim)
            self._rest.daemon = True
            self._rest.start()
            self.lock.release()

    def _score(
        self, trace: Trace, prompt: str, method: str, k: int | None, count: _Count
    ) -> Iterator[int]:
        """Score the channels a map needs, a few at a time, the best first."""
        if method not in SCORED:
            return
        total = len(trace.activations) if method == "scorecam" else self._k(trace, method, k)
        order = trace.ranking(prompt)[:total].tolist()
        count.total = len(order)
        for start in range(0, len(order), STEP):
            count.check()
            trace.masked_embeddings(order[start : start + STEP])
            yield min(start + STEP, len(order))
        count.total = 0

    def _heat(self, trace: Trace, key: tuple[str, str, str, int | None], count: _Count) -> Heatmap:
        """The heatmap of (photo, prompt, method, k); the latest few are kept."""
        if key not in self._heats:
            _, prompt, method, k = key
            before = count.passes
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said in the answer, once
                self._heats[key] = heatmap(trace, prompt, method, k=k)
            if method not in SCORED:
                done = count.passes - before
                self._needed[method] = max(done, self._needed.get(method, 0))
            while len(self._heats) > KEPT_HEATS:
                self._heats.popitem(last=False)
        self._heats.move_to_end(key)
        return self._heats[key]

    def _k(self, trace: Trace, method: str, k: int | None) -> int | None:
        if method not in METHODS or "k" not in METHODS[method].options:
            return None
        return trace.default_k if k is None else k

    def _cost(self, trace: Trace, method: str, k: int | None) -> int:
        """Passes of a method when nothing is kept, the trace's own aside."""
        if method == "scorecam":
            return len(trace.activations)
        return k if k is not None else self._needed.get(method, 0)

    def _answer(
        self, request: Request, trace: Trace, count: _Count, early: tuple[int, int] | None = None
    ) -> Answer:
        """early: the place of a map that sharpens, and the number of channels scored so far."""
        shown = _maps(request)
        if early is not None:
            place, scored = early
            shown = [*shown[:place], (shown[place][0], "gscorecam", scored)]
        shares = trace.logits(request.prompts).softmax(0).tolist()
        share = dict(zip(request.prompts, shares, strict=True)) if len(shares) > 1 else {}
        side = side_of(request.maps)
        findings = tuple(
            self._finding(request, trace, count, *s, share.get(s[0]), side) for s in shown
        )
        needed = sum(1 + self._cost(trace, m, self._k(trace, m, k)) for _, m, k in shown)
        channels = tuple(trace.ranking(request.prompts[0])[:THUMBNAILS].tolist())
        mask: bytes | None = None
        if request.channel is not None:
            (mask,) = self._masks(trace, (request.channel,), MASK)
        return Answer(
            findings,
            channels,
            trace.keep(("thumbnails", channels), lambda: self._masks(trace, channels, THUMBNAIL)),
            mask,
            time.perf_counter() - count.began,
            count.passes,
            max(0, needed - count.passes),
            len(trace.activations),
            self._doubts(request.prompts),
        )

    def _finding(
        self, request: Request, trace: Trace, count: _Count, prompt: str, method: str,
        k: int | None, share: float | None, side: int,
    ) -> Finding:  # fmt: skip
        used = self._k(trace, method, k)
        heat = self._heat(trace, (request.photo, prompt, method, used), count)
        box = heatmap_to_box(heat, threshold=request.threshold)
        picture = draw(
            trace.image,
            heat.values,
            opacity=request.opacity,
            box=box if request.box else None,
            truth=self.photo(request.photo).boxes if request.truth else (),
            contour=request.threshold if request.contour else None,
            side=side,
        )
        title = METHODS[method].title
        return Finding(
            prompt, method, title, heat.k, heat.logit, share, box, heat.flat, png(picture)
        )

    def _masks(self, trace: Trace, channels: tuple[int, ...], side: int) -> tuple[bytes, ...]:
        masks = trace.masks(channels).detach().cpu().numpy()
        return tuple(png(mask_picture(trace.image, mask, side=side)) for mask in masks)

    def _doubts(self, prompts: tuple[str, ...]) -> tuple[str, ...]:
        doubts = []
        for prompt in prompts:
            known = self.model.knows(prompt)
            if not known.known:
                doubts.append(
                    f"{self.model.name} does not know “{' '.join(known.unknown_words)}”: do not "
                    f"trust its map. Nearest names: {', '.join(known.nearest)}."
                )
        return tuple(doubts)


def _maps(request: Request) -> list[tuple[str, str, int | None]]:
    """(prompt, method, k) of each map on the screen, in order."""
    return [(prompt, method, k) for prompt in request.prompts for method, k in request.variants()]


def _trim() -> None:
    """Give freed memory back, where the C library can; passes and pictures leave 60 MB and more."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Count:
    """A forward pre-hook: counts photos, and stops what is no longer wanted."""

    def __init__(self, stop: Stop, report: Report, limit_s: float | None) -> None:
        self.passes, self.total = 0, 0
        self.began = time.perf_counter()
        self._thread = threading.get_ident()
        self._stop, self._report, self._limit = stop, report, limit_s
        self._told = 0.0

    def __call__(self, module: Any, inputs: Any) -> None:
        if threading.get_ident() != self._thread:
            return  # someone else's work with this model
        self.check()
        self.passes += len(inputs[0])
        if time.perf_counter() - self._told > PERIOD:
            self._told = time.perf_counter()
            self._report(self.passes, self.total, None)

    def check(self) -> None:
        """Raise Cancelled or TimeLimitError if this request must end."""
        if self._stop():
            raise Cancelled
        if self._limit is not None and time.perf_counter() - self.began > self._limit:
            raise TimeLimitError(
                f"This took longer than {self._limit:g} s, the limit here. Take fewer channels, "
                "fewer prompts or a quicker method; what has been scored is kept."
            )


def as_code(model: str, photo: Photo, request: Request) -> str:
    """The Python that makes what a request shows."""
    lines = ["import gscam_lib as gs", "from gscam_lib.explorer.pictures import draw"]
    lines.append("from gscam_lib.model.photo import load_photo")
    if "SCENES" in photo.source:
        lines.append("from gscam_lib.paths import SCENES")
    if "skimage" in photo.source:
        lines.append("import skimage")
    lines += ["", f"model = gs.load_model({model!r})", f"photo = {photo.source}"]
    lines += ["photo.thumbnail((1024, 1024))  # only if it is larger", "trace = model.trace(photo)"]
    lines += [f"prompts = {list(request.prompts)!r}", ""]
    if "(image)" in photo.source:
        lines.insert(lines.index(f"photo = {photo.source}"), "# image: the photo given to explore")
    calls = []
    for method, k in request.variants():
        ranked = f", k={k}" if k is not None and "k" in METHODS[method].options else ""
        calls.append(f"    heats.append(gs.heatmap(trace, prompt, {method!r}{ranked}))")
    lines += ["heats = []", "for prompt in prompts:", *calls]
    lines.append(
        f"boxes = [gs.heatmap_to_box(heat, threshold={request.threshold!r}) for heat in heats]"
    )
    options = f"opacity={request.opacity:g}, side={side_of(request.maps)}"
    options += ", box=box" if request.box else ""
    options += f", contour={request.threshold!r}" if request.contour else ""
    options += f", truth={photo.boxes!r}" if request.truth and photo.boxes else ""
    lines += [
        "pictures = [",
        f"    draw(trace.image, heat.values, {options})",
        "    for heat, box in zip(heats, boxes)",
        "]",
        "display(*pictures)  # in a notebook",
    ]
    return "\n".join(lines)
