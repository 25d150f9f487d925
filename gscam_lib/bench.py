"""Benchmarks: the library beside the bare forward passes it is made of, in one process, in turn."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from gscam_lib.clip import load_model
from gscam_lib.methods import METHODS
from gscam_lib.trace import BATCH_SIZE

PROMPT = "an apple on a table"


def photo() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A photo with no constant parts, from a fixed seed: (300, 400, 3) uint8."""
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (30, 40, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def alternate(rounds: int, *timed: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function in each round, called in turn so that drift hits all alike."""
    seconds: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for function, found in zip(timed, seconds, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return seconds


def against_bare_forward(name: str, k: int, rounds: int = 5) -> list[str]:
    """Compare gScoreCAM with one bare forward pass over k images in batches of the same size."""
    model = load_model(name)
    images = torch.randn(k, 3, model.input_size, model.input_size)
    model.encode_text([PROMPT])

    @torch.no_grad()
    def bare() -> None:
        for batch in images.split(BATCH_SIZE):
            model.network.encode_image(batch)

    def ours() -> None:
        METHODS["gscorecam"](model.trace(photo()), PROMPT, k=k)

    alternate(1, bare, ours)
    times = alternate(rounds, bare, ours)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    medians = [statistics.median(t) for t in times]
    return [
        f"gScoreCAM, {name}, k = {k}",
        f"{medians[1]:.2f} s",
        f"bare forward of {k} images: {medians[0]:.2f} s",
        f"{ratio:.2f}",
    ]


def peak_memory(name: str, k: int) -> float:
    """MiB that gScoreCAM adds to the peak memory of a fresh process that holds model and trace."""
    model = load_model(name)
    trace = model.trace(photo())
    trace.gradients(PROMPT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    METHODS["gscorecam"](trace, PROMPT, k=k)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory_against_k(name: str, ks: list[int]) -> list[list[str]]:
    """Peak memory for each k, each in a process of its own."""
    rows = []
    for k in ks:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            peak = process.submit(peak_memory, name, k).result()
        rows.append([f"peak memory above model and trace, {name}, k = {k}", f"{peak:.0f} MiB"])
    return rows


def report(out: Path) -> str:
    """Run everything and write the Markdown report; returns its text."""
    machine = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"fp32, batches of {BATCH_SIZE}; random weights, medians of rounds taken in turn."
    )
    lines = ["# Benchmarks", machine, "", "| what | ours | against | ratio |", "|---|---|---|---|"]
    rows = [against_bare_forward("RN50/random", 205)]
    rows += memory_against_k("RN50x16/random", [16, 64, 300])
    for row in rows:
        lines.append("| " + " | ".join(row + [""] * (4 - len(row))) + " |")
    text = "\n".join(lines) + "\n"
    out.write_text(text, encoding="utf-8")
    return text
