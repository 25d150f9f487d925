"""What every benchmark stands on: rows, one photo, timing in turn, the highest memory."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Event, Thread

import numpy as np
import psutil
import torch

from gscam_lib.scenes import compose

PROMPTS = tuple(f"a photo of {thing}" for thing in (
    "an apple", "a suitcase", "a dog", "a guitar", "a boat", "a cake", "a chair", "a tree",
))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison: ours against what, as a ratio or a value, and what was asked for."""

    what: str
    model: str
    ours: str
    against: str
    value: float
    target: str
    met: bool | None = None  # None: nothing was asked for


@lru_cache
def photo(height: int = 300, width: int = 400) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A scene of the miniature world, always the same: (height, width, 3) uint8."""
    scene = compose(["apple", "cup", "dog", "chair"], background="room", seed=1, size=448)
    return np.asarray(scene.image.resize((width, height)))


def alternate(rounds: int, *timed: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function in each round, called in turn so that drift hits all alike."""
    seconds: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for function, found in zip(timed, seconds, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a GPU's work may still be under way
            found.append(time.perf_counter() - start)
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def highest(job: Callable[[], object], device: str = "cpu") -> float:
    """MiB by which memory rises while a job runs; on a CPU looked at every millisecond."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()  # garbage collected while the job runs would hide what it takes
    resident, done = psutil.Process().memory_info, Event()
    before = most = resident().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, resident().rss)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        job()
    finally:
        done.set()
        watcher.join()
    return float(most - before) / 2**20


def weights_of(name: str, device: str) -> str:
    """What a row calls its weights."""
    return name if device == "cpu" else f"{name} on {device}"


def machine() -> str:
    """The machine in words, as the report's first line."""
    cuda = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads{cuda}, torch "
        f"{torch.__version__}, fp32, seed 0. Ratios are medians over rounds taken in turn."
    )
