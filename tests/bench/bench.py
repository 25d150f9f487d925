"""Benchmarks: the library beside the forward passes it is made of, and beside what others do.

    python tests/bench/bench.py [--quick] [--models mini-rn,RN50/random] [-o FOLDER]

Other sections of the page have commands of their own beside this one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere

import torch
import typer

from gscam_lib import figures
from gscam_lib.model.network import paper_k
from gscam_lib.trace.model import load_model
from tests.bench import growth, speed
from tests.bench.page import FIGURES, section_data, write_section
from tests.bench.timing import Row, machine, photo, weights_of

MODELS = ("mini-rn", "RN50/random")


def run(models: Sequence[str], rounds: int, points: int
        ) -> tuple[list[Row], dict[str, Any]]:  # fmt: skip
    """Measure every row on every model, and how cost grows; on a GPU too, where there is one."""
    rows, grown = [], {}
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    for device, name in product(devices, models):
        torch.manual_seed(0)
        model = load_model(name, device=device)
        rows += speed.forward_rows(model, rounds)
        trace = model.trace(photo())
        rows += [speed.grid_row(model, k) for k in (paper_k(model.channels), model.channels)]
        rows.append(speed.grid_row(model, paper_k(model.channels), 0.2))
        rows += [speed.scorecam_row(model, trace), *speed.warm_rows(model, trace, 5 * rounds)]
        rows += [speed.memory_row(name, device), *speed.precision_rows(name, rounds, device)]
        fewer = points - (points > 2 and model.channels > 1024)  # what takes long
        grown[weights_of(name, device)] = growth.scaling(model, fewer)
    return [*rows, *speed.import_rows(rounds)], grown


def table(rows: Sequence[Row]) -> str:
    """The rows as a section of the page."""
    lines = ["## Speed and memory", "", machine(), "",
             "| what | weights | ours | against | value | target | met |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    marks = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {r.what} | {r.model} | {r.ours} | {r.against} | {r.value:.2f} | {r.target} "
              f"| {marks[r.met]} |" for r in rows]  # fmt: skip
    return "\n".join(lines)


def report(out: Path = FIGURES, *, quick: bool = False,
           models: Sequence[str] = MODELS) -> str:  # fmt: skip
    """Run everything and write the sections `speed` and `plan`, and bench.png, into a folder.

    quick: one round and two points, to see that it runs; models: what is measured now, beside what
    the folder has of other weights. Returns the page, bench.md.
    """
    rows, grown = run(models, *((1, 2) if quick else (3, 4)))
    rows, grown = _with_earlier(section_data("speed", out=out), models, rows, grown)
    data = {"machine": machine(), "rows": [asdict(row) for row in rows], "scaling": grown}
    write_section("speed", table(rows), data, out=out)
    with figures.style():
        caption = (
            "Seconds of gScoreCAM (of ScoreCAM at several layers, for C) against k, the number of "
            "channels, prompts and pixels, with straight lines fitted. Weights: "
            f"{', '.join(grown)}. {machine()}"
        )
        figures.save(growth.draw(grown), "bench", caption, folder=out)
    return write_section("plan", growth.plan(), out=out)


def _with_earlier(earlier: Any, models: Sequence[str], rows: list[Row], grown: dict[str, Any]
                  ) -> tuple[list[Row], dict[str, Any]]:  # fmt: skip
    """What was measured earlier on the same kind of machine, of other weights, and what is new."""
    if not earlier or earlier["machine"] != machine():
        return rows, grown
    kept = [Row(**r) for r in earlier["rows"] if r["model"].split(" ")[0] not in (*models, "")]
    curves = {m: c for m, c in earlier["scaling"].items() if m.split(" ")[0] not in models}
    return kept + rows, curves | grown


def main(
    quick: Annotated[bool, typer.Option(help="one round, to see that it runs")] = False,
    models: Annotated[str, typer.Option(help="models, separated by commas")] = ",".join(MODELS),
    out: Annotated[Path, typer.Option("--out", "-o", help="folder")] = FIGURES,
) -> None:
    """Time the library beside the forward passes it is made of, and beside what others do."""
    typer.echo(report(out, quick=quick, models=[name.strip() for name in models.split(",")]))


if __name__ == "__main__":
    typer.run(main)
