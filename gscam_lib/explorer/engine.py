"""The engine of an explorer: one model, its traces, one lock; requests in, pictures out."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gscam_lib.boxes import Heatmap, heatmap_to_box, hot_pixels
from gscam_lib.explorer.code import as_code
from gscam_lib.explorer.maps import STEP, Maps, quiet, scored
from gscam_lib.explorer.page import check_page, make_page
from gscam_lib.explorer.photos import LONGEST, Photo, Seen, in_folder, unique, uploaded
from gscam_lib.explorer.pictures import (
    colors,
    draw,
    mask_picture,
    outlines,
    png,
    reduced,
    sheet,
    small,
)
from gscam_lib.explorer.request import (
    About,
    Answer,
    Cancelled,
    Finding,
    Report,
    Request,
    Stop,
    View,
)
from gscam_lib.explorer.worker import PERIOD, Count
from gscam_lib.methods import METHODS
from gscam_lib.methods.wording import words
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model

KEPT_TRACES = 8  # a warm trace of 1,024 channels keeps some 10 MB
KEPT_UPLOADS, KEPT_EACH = 64, 4  # of all visitors, of one: at most 3 MB each
PHOTO, MAP = 640, 256  # pixels of the longer side of what is shown
THUMBNAILS, THUMBNAIL, MASK = 12, 84, 300  # how many, and pixels of their sides
SEARCHED, STRONGEST = 32, 6  # photos looked through for a channel, and how many are shown
REST = 0.5  # seconds without a request after which freed memory goes back
GUESSES = ("a person", "a dog", "a car")  # to begin with, where nothing is known of a photo


class Engine:
    """Answers requests about photos with one model. Safe to call from several threads.

    model: a Model; photos: key -> Photo; limit_s: the most seconds one request may take; name: what
    readers see of the model (None: its own).
    """

    def __init__(
        self,
        model: Model,
        photos: dict[str, Photo],
        *,
        limit_s: float | None = None,
        name: str | None = None,
    ) -> None:
        self.model = model
        self.photos = dict(photos)
        self.limit_s = limit_s
        self.name = name or model.name
        self.lock = threading.RLock()
        self._waiting = 0
        self._uploads: OrderedDict[str, tuple[str, Photo]] = OrderedDict()
        self._traces: OrderedDict[str, Seen] = OrderedDict()
        self._maps = Maps(self._let_others_in)
        self._peaks: dict[str, np.ndarray[Any, Any]] = {}
        self._rest = threading.Timer(REST, _trim)

    def about(self) -> About:
        """What there is to choose from; prompts are such as the model knows, where it can tell."""
        with self.lock:
            fits = {n: m for n, m in METHODS.items() if self.model.tower in m.towers}
            return About(
                self.name,
                self.model.channels,
                self.model.default_k,
                {key: photo.name for key, photo in self.photos.items()},
                {name: m.title for name, m in fits.items()},
                tuple(name for name, m in fits.items() if "k" in m.options),
                {key: self._first(photo) for key, photo in self.photos.items()},
                frozenset(key for key, photo in self.photos.items() if photo.boxes),
                colors(),
                tuple(name for name in fits if scored(name)),
            )

    def _first(self, photo: Photo) -> tuple[str, ...]:
        """Two or three prompts to begin with: the photo's own, then those of others."""
        others = (prompt for other in self.photos.values() for prompt in other.prompts)
        found: dict[str, None] = {}
        for prompt in (*photo.prompts, *others, *GUESSES, *(self.model.vocabulary or ())):
            enough = max(2, min(3, len(photo.prompts)))
            if len(found) < enough and self.model.knows(prompt).known:
                found[prompt] = None
        return tuple(found)

    def open(self, folder: str) -> dict[str, str]:
        """Offer the photos of a folder too; their keys and names."""
        found = unique(in_folder(folder), {photo.name for photo in self.photos.values()})
        with self.lock:
            self.photos.update(found)
        return {key: photo.name for key, photo in found.items()}

    def add(self, name: str, content: bytes, visitor: str = "") -> str:
        """Take a photo's file and give its key; the oldest of a visitor's many is forgotten."""
        with self._watching(lambda: False, lambda *_: None):  # one is decoded at a time
            key, photo = uploaded(name, content)
            key = f"{key}-{visitor}"
            self._uploads[key] = (visitor, photo)
            self._uploads.move_to_end(key)
            mine = [k for k, (owner, _) in self._uploads.items() if owner == visitor]
            for gone in {*mine[:-KEPT_EACH], *list(self._uploads)[:-KEPT_UPLOADS]}:
                self._uploads.pop(gone)
                self._traces.pop(gone, None)
        return key

    def photo(self, key: str) -> Photo:
        """A photo by its key. Raises ValueError where it is not (or no longer) there."""
        if key in self.photos:
            return self.photos[key]
        if key in self._uploads:
            return self._uploads[key][1]
        raise ValueError("That photo is no longer kept; upload or choose it again.")

    def trace(self, key: str) -> Trace:
        """The trace of a photo, its maps on at most LONGEST pixels; the latest few are kept."""
        return self._seen(key).trace

    def _seen(self, key: str) -> Seen:
        if key not in self._traces:
            photo = self.photo(key)
            opened = photo.open()
            trace = self.model.trace(opened)
            trace.batch_size = min(trace.batch_size, STEP)
            trace.photo = reduced(opened, LONGEST)  # what the network saw stays as it is
            width, height = trace.photo.size
            trace.geometry = replace(trace.geometry, width=width, height=height)
            self._traces[key] = Seen(trace, photo.size or opened.size)
            while len(self._traces) > KEPT_TRACES:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return self._traces[key]

    # ------------------------------------------------------------ what is asked

    def run(self, request: Request, stop: Stop, report: Report) -> Answer:
        """Answer a request; what there is so far is reported on the way, and stays kept.

        Raises Cancelled once `stop()` is true, ValueError for what the library does not take, and
        TimeLimitError.
        """
        with self._watching(stop, report) as count:
            self._check(request)
            seen = self._seen(request.photo)
            return self._answer(request, seen, count, list(self._find(request, seen, count)))

    def take(self, what: str, request: Request, stop: Stop, report: Report) -> bytes:
        """What a reader takes away: a "page" (HTML), a "figure" (PNG) or the "code" (Python)."""
        with self._watching(stop, report) as count:
            self._check(request)
            photo = self.photo(request.photo)
            if what == "page":
                check_page(request)  # before anything is scored
            if what == "code":
                return as_code(self.name, photo, request, self._most()).encode()
            seen = self._seen(request.photo)
            if what == "page":
                self._maps.score(seen.trace, list(range(self.model.channels)), count)
                page = make_page(seen.trace, request, photo, size=seen.size, model=self.name)
                return page.encode()
            if what == "figure":
                found = list(self._find(request, seen, count))
                titled = [(f"“{f.prompt}”\n{f.caption}", self._drawn(request, seen, f))
                          for f in found]  # fmt: skip
                return png(sheet(titled, min(len(found), 3)))
            raise ValueError(f"Got {what!r} to take away; expected page, figure or code.")

    def _check(self, request: Request) -> None:
        channels = self.model.channels
        for method in (request.method, request.other_method):
            if method not in METHODS:
                raise ValueError(f"Got the method {method!r}; see `gscam methods`.")
        for name in ("k", "other_k"):
            k = getattr(request, name)
            if k is not None and not 1 <= k <= channels:
                raise ValueError(f"Got {name}={k}; expected 1 to {channels}.")
        if request.channel is not None and not 0 <= request.channel < channels:
            raise ValueError(f"Got channel {request.channel}; expected 0 to {channels - 1}.")

    @contextlib.contextmanager
    def _watching(self, stop: Stop, report: Report) -> Iterator[Count]:
        """Count the photos that go through the image tower, and stop between two batches."""
        self._enter(stop)
        self._rest.cancel()
        count = Count(stop, report, self.limit_s)
        towers = {self.model.network.visual, self.model.quick_tower}
        handles = [tower.register_forward_pre_hook(count) for tower in towers]
        try:
            count.check()
            yield count
        finally:
            for handle in handles:
                handle.remove()
            self._rest = threading.Timer(REST, _trim)
            self._rest.daemon = True
            self._rest.start()
            self.lock.release()

    def _enter(self, stop: Stop) -> None:
        self._waiting += 1
        try:
            while not self.lock.acquire(timeout=0.05):
                if stop():
                    raise Cancelled
        finally:
            self._waiting -= 1

    def _let_others_in(self, count: Count) -> None:
        """Between two batches whoever waits has a turn; it does not count as this one's time."""
        if self._waiting:
            left = time.perf_counter()
            self.lock.release()
            time.sleep(0.005)
            self.lock.acquire()
            count.began += time.perf_counter() - left
        count.check()

    # ------------------------------------------------------------ the work

    def _find(self, request: Request, seen: Seen, count: Count) -> Iterator[Finding]:
        """The maps, one after another; what is there is reported while the rest is made."""
        found: list[Finding] = []
        share = _shares(seen.trace, request)
        shown = time.perf_counter()
        for prompt, method, k in request.maps():
            key = self._maps.key(request, seen.trace, prompt, method, k)
            for heat in self._maps.sharpening(seen.trace, key, count):
                if heat.passes and time.perf_counter() - shown < PERIOD:
                    continue  # a draft is shown at once
                early = self._finding(request, seen, heat, share.get(prompt))
                count.report(self._answer(request, seen, count, [*found, early]))
                shown = time.perf_counter()
            self._let_others_in(count)
            heat = self._maps.get(seen.trace, key)
            found.append(self._finding(request, seen, heat, share.get(prompt)))
            yield found[-1]
            if time.perf_counter() - shown > PERIOD and len(found) < len(request.maps()):
                count.report(self._answer(request, seen, count, found))
                shown = time.perf_counter()

    def _most(self) -> dict[str, int]:
        """Method -> masked copies where k is left to the model, of methods that score them."""
        default, every = self.model.default_k, self.model.channels
        return {name: default if "k" in m.options else every
                for name, m in METHODS.items() if scored(name)}  # fmt: skip

    def _finding(self, request: Request, seen: Seen, heat: Heatmap, share: float | None) -> Finding:
        trace = seen.trace
        method = heat.method
        box = seen.in_photo(heatmap_to_box(heat, threshold=request.threshold))
        lines: tuple[tuple[float, ...], ...] = ()
        if request.contour:
            scale = seen.size[0] / trace.photo.width
            lines = outlines(hot_pixels(heat.values, request.threshold), scale)
        shape, values = small(heat.values, MAP)
        of = (heat.k or len(trace.activations)) if heat.band else None
        return Finding(
            heat.prompt, method, METHODS[method].title, heat.k, heat.logit, share, box, heat.flat,
            shape, values, lines, heat.passes, heat.band, of,
        )  # fmt: skip

    def _drawn(self, request: Request, seen: Seen, found: Finding) -> bytes:
        """A map as a picture: for figures."""
        key = self._maps.key(request, seen.trace, found.prompt, found.method, found.k)
        picture = draw(
            seen.trace.image,
            self._maps.get(seen.trace, key).values,
            opacity=request.opacity,
            box=seen.on_trace(found.box) if found.box and request.box else None,
            truth=[seen.on_trace(b) for b in self.photo(request.photo).boxes * request.truth],
            contour=request.threshold if request.contour else None,
        )
        return png(picture)

    def _answer(self, request: Request, seen: Seen, count: Count, found: list[Finding]) -> Answer:
        trace, photo = seen.trace, self.photo(request.photo)
        channels = tuple(trace.ranking(request.prompts[0])[:THUMBNAILS].tolist())
        mask: bytes | None = None
        strongest: tuple[tuple[str, bytes], ...] = ()
        if request.channel is not None:
            (mask,) = self._masks(trace, (request.channel,), MASK)
            strongest = self._strongest(request.channel, count) if request.strongest else ()
        view = trace.keep("view", lambda: png(reduced(trace.photo, PHOTO)))
        return Answer(
            View(seen.size, photo.boxes, view),
            tuple(found),
            _shares(trace, request),
            channels,
            trace.keep(("thumbnails", channels), lambda: self._masks(trace, channels, THUMBNAIL)),
            mask,
            strongest,
            time.perf_counter() - count.began,
            count.passes,
            len(trace.activations),
            self._doubts(request.prompts),
            {prompt: _words(trace, prompt) for prompt in request.prompts},
        )

    def _masks(self, trace: Trace, channels: tuple[int, ...], side: int) -> tuple[bytes, ...]:
        masks = trace.masks(channels).detach().cpu().numpy()
        return tuple(png(mask_picture(trace.image, mask, side=side)) for mask in masks)

    def _strongest(self, channel: int, count: Count) -> tuple[tuple[str, bytes], ...]:
        """The photos on offer in which a channel is strongest: captions and pictures.

        At most SEARCHED photos are looked at, one pass each; a channel's peaks are kept.
        """
        offered = list(self.photos)[:SEARCHED]
        for done, key in enumerate(offered):
            if key not in self._peaks:
                count.report(None, done, len(offered))
                trace = self.model.trace(reduced(self.photo(key).open(), LONGEST))
                self._peaks[key] = trace.activations.amax((1, 2)).cpu().numpy()
        best = sorted(offered, key=lambda key: -self._peaks[key][channel])[:STRONGEST]
        found = []
        for rank, key in enumerate(best, 1):
            self._let_others_in(count)
            (picture,) = self._masks(self._seen(key).trace, (channel,), 160)
            peak = self._peaks[key][channel]
            found.append(
                (f"{rank} of {len(offered)}: {self.photos[key].name}, {peak:.2f}", picture)
            )
        return tuple(found)

    def _doubts(self, prompts: tuple[str, ...]) -> tuple[str, ...]:
        doubts = []
        for prompt in prompts:
            known = self.model.knows(prompt)
            if not known.known:
                doubts.append(
                    f"{self.name} does not know “{' '.join(known.unknown_words)}”: do not "
                    f"trust its map. Nearest names: {', '.join(known.nearest)}."
                )
        return tuple(doubts)


def _shares(trace: Trace, request: Request) -> dict[str, float]:
    """Probabilities of what is asked for, where it is more than one."""
    names = tuple(dict.fromkeys(request.prompts + request.others))
    shares = trace.logits(names).softmax(0).tolist()
    return dict(zip(names, shares, strict=True)) if len(names) > 1 else {}


def _words(trace: Trace, prompt: str) -> tuple[tuple[str, float], ...]:
    """What each word adds to the logit, where there are two or more."""
    with quiet():
        table = trace.keep(("words", prompt), lambda: words(trace, prompt).table)
    return tuple(table) if len(table) > 1 else ()


def _trim() -> None:
    """Give freed memory back, where the C library can; passes and pictures leave 60 MB and more."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
