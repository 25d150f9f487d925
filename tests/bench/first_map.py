"""Seconds until a map, engine by engine: python tests/bench/first_map.py [TOWER…]

Towers of full size with random weights, which cost what trained ones cost; two threads, batches in
turn. OpenVINO is measured where it is installed (pip install -e '.[openvino]').
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from gscam_lib.heatmaps import heatmap, stream
from gscam_lib.trace.model import Model, load_model
from gscam_lib.trace.trace import Trace
from tests.bench.engines import mib
from tests.bench.page import section_data, write_section
from tests.bench.timing import photo

TOWERS = {"RN50-quickgelu": 4, "RN50x16-quickgelu": 1, "ViT-L-14-quickgelu": 1}  # copies at once
WHOLE = "RN50-quickgelu"  # the tower on which maps are made and not only added up
HOW: tuple[dict[str, Any], ...] = (
    {}, {"precision": "bf16"}, {"engine": "openvino"}, {"engine": "openvino", "precision": "bf16"},
)  # fmt: skip
THREADS, ROUNDS, SHARE = 2, 3, 0.2
PROMPT = "a cat"


def copy_seconds(trace: Trace) -> float:
    """Seconds for each masked copy of a batch."""
    pixels = trace.pixels * trace.masks(range(trace.batch_size))[:, None]
    start = time.perf_counter()
    trace._embed(pixels, fast=True)
    return (time.perf_counter() - start) / trace.batch_size


def first(model: Model, batch: int) -> tuple[Trace, float]:
    """A new trace with its draft drawn, and the seconds that took."""
    start = time.perf_counter()
    trace = model.trace(photo(), batch_size=batch)
    next(iter(stream(trace, PROMPT)))
    return trace, time.perf_counter() - start


def made(model: Model, batch: int, budget: int) -> float:
    """Seconds of a map from beginning to end."""
    start = time.perf_counter()
    heatmap(model.trace(photo(), batch_size=batch), PROMPT, budget=budget)
    return time.perf_counter() - start


def rows(name: str) -> list[dict[str, Any]]:
    """A tower's engines in turn: seconds of the draft and of a copy, memory."""
    torch.manual_seed(0)
    base, batch = load_model(f"{name}/random", device="cpu"), TOWERS[name]
    found = []
    for how in HOW:
        label = ("OpenVINO, " if "engine" in how else "") + how.get("precision", "fp32")
        before = mib()
        try:
            model = Model(base.network, base.tokenizer, name=base.name, **how)
            trace, _ = first(model, batch)
            ready = copy_seconds(trace) * batch - copy_seconds(trace) * batch
        except ValueError as error:  # an engine that is not here, or does not take this tower
            print(f"{name}, {label}: {error}", file=sys.stderr, flush=True)
            continue
        found.append({
            "tower": name, "engine": label, "model": model, "trace": trace, "ready": ready,
            "more": mib() - before, "drafts": [], "copies": [],
        })  # fmt: skip
    for _ in range(ROUNDS):
        for row in found:
            row["drafts"].append(first(row["model"], batch)[1])
            row["copies"].append(copy_seconds(row["trace"]))
    for row in found:
        model, trace = row.pop("model"), row.pop("trace")
        row["k"] = k = trace.default_k
        if name == WHOLE and row["engine"] in (found[0]["engine"], found[-1]["engine"]):
            row["made"] = [made(model, batch, budget) for budget in (round(SHARE * k), k)]
            row["alive"] = len(trace.missing(trace.ranking(PROMPT)[:k].tolist()))
    return found


def totals(row: dict[str, Any], share: float) -> list[float]:
    """Seconds of a map from a share of its copies, added up, in each round."""
    passes = share * row["k"]
    return [d + passes * c for d, c in zip(row["drafts"], row["copies"], strict=True)]


def table(found: list[dict[str, Any]]) -> str:
    """The section of the page."""
    lines = [
        "## Seconds until a map\n",
        f"gScoreCAM on towers of full size with random weights, one prompt, {THREADS} threads. "
        "First: the trace, the gradient and the draft drawn from them, measured. 20 % and all: "
        "first and so many masked copies at the seconds that one takes; dead channels, which cost "
        f"nothing, are counted. Medians of {ROUNDS} rounds in turn. Ratio: today's full fp32 map "
        "to the engine's map at 20 % of the copies. MiB: what the process holds more for the "
        "engine. Converting is once in a model's life. Load: of the machine, which did other work "
        "beside this, when it was measured. `python tests/bench/first_map.py` writes this.\n",
        "| weights | k | engine | converted | a copy | first | 20 % | all | ratio | MiB | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    wholes = []
    for tower in dict.fromkeys(row["tower"] for row in found):
        own = [row for row in found if row["tower"] == tower]
        today = totals(own[0], 1)
        for row in own:
            one, draft = statistics.median(row["copies"]), statistics.median(row["drafts"])
            few, every = (statistics.median(totals(row, share)) for share in (SHARE, 1))
            gain = statistics.median(a / b for a, b in zip(today, totals(row, SHARE), strict=True))
            ready = f"{row['ready']:.0f} s" if "OpenVINO" in row["engine"] else ""
            lines.append(
                f"| {tower} | {row['k']} | {row['engine']} | {ready} | {one:.3f} s | "
                f"{draft:.1f} s | {few:.0f} s | {every:.0f} s | {gain:.1f} | "
                f"{row['more']:+.0f} | {row['load']:.1f} |"
            )
            if "made" in row:
                wholes.append(
                    f"{row['engine']} {row['made'][0]:.1f} s at 20 %, {row['made'][1]:.1f} s all "
                    f"({row['alive']} copies, added up {draft + row['alive'] * one:.1f} s)"
                )
    if wholes:
        lines += ["", f"Made from end to end on {WHOLE}: {'; '.join(wholes)}."]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    kept = [r for r in section_data("first_map") or [] if r["tower"] not in names]
    for name in names:
        load = os.getloadavg()[0]
        kept += [row | {"load": max(load, os.getloadavg()[0])} for row in rows(name)]
        kept.sort(key=lambda row: list(TOWERS).index(row["tower"]))
        write_section("first_map", table(kept), kept)
    print(table(kept))


if __name__ == "__main__":
    main(sys.argv[1:] or list(TOWERS))
