"""`gscam benchmark`: what the lab finds where the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gscam_lib.cli.common import DeviceOption, app, load
from gscam_lib.paths import expanded


@app.command()
def benchmark(
    dataset: Annotated[str, typer.Option(help="biases: PLANTED-10.")] = "biases",
    model: Annotated[
        list[str] | None, typer.Option(help="Repeatable; mini-rn and mini-vit if left out.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated; those of the table if left out.")
    ] = "",
    repeats: Annotated[int, typer.Option(help="Worlds of each kind and strength.")] = 3,
    device: DeviceOption = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of the table; keeps what was measured.")
    ] = Path("benchmark"),
) -> None:
    """Audit planted and unplanted worlds; write detection rates and false alarms."""
    import pandas as pd

    from gscam_lib.audits import leaderboard, truth

    if dataset != "biases":
        raise ValueError(f"Got --dataset {dataset!r}; expected biases.")
    folder, found = expanded(out), []
    asked = [m.strip() for m in methods.split(",") if m.strip()]
    for name in model or list(truth.METHODS):
        loaded = load(name, None, device=device)
        found.append(
            truth.benchmark(
                loaded, asked, out=folder / "measured" / loaded.name.replace("/", "_"),
                repeats=repeats, progress=True,
            )
        )  # fmt: skip
    rows = pd.concat(found, ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "worlds.csv", index=False)
    typer.echo(f"wrote {leaderboard.write(rows, folder)}")
