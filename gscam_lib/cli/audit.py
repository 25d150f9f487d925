"""`gscam audit`: from a folder of photos to a report."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from gscam_lib.cli.common import DeviceOption, EngineOption, ModelOption, PrecisionOption, app, load
from gscam_lib.paths import expanded


@app.command()
def audit(
    photos: Annotated[
        Path,
        typer.Argument(
            help="A folder (sub-folders are groups), a table with a column file, or a COCO JSON."
        ),
    ],
    prompts: Annotated[list[str], typer.Argument(help="What is looked for: 'a dog' 'a cat'.")],
    groups: Annotated[
        Path | None, typer.Option(help="CSV or Parquet: file, and any number of group columns.")
    ] = None,
    model: ModelOption = "photo-lite",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of the report; keeps what was measured.")
    ] = Path("audit"),
    method: Annotated[str, typer.Option(help="Of the maps, as gscorecam:k=32.")] = "gscorecam",
    contrast: Annotated[
        list[str] | None,
        typer.Option(help="'a doctor/a nurse': the first held against the second; repeatable."),
    ] = None,
    regions: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER of PNG masks, NAME=boxes.csv (file, x0, y0, x1, y1), or faces=faces; "
            "repeatable."
        ),
    ] = None,
    fills: Annotated[str, typer.Option(help="Of covers: mean, blur, inpaint.")] = "mean,blur",
    vocabulary: Annotated[
        Path | None, typer.Option(help="Words for controls and crops, one a line.")
    ] = None,
    maps: Annotated[
        int | None, typer.Option(help="Photos on which maps and covers are made; all by default.")
    ] = None,
    show_photos: Annotated[bool, typer.Option(help="Put photos into the report.")] = False,
    blur_faces: Annotated[
        bool, typer.Option(help="Blur what looks like a face, as far as it is found.")
    ] = False,
    retry: Annotated[bool, typer.Option(help="Do photos that failed again.")] = False,
    device: DeviceOption = None,
    precision: PrecisionOption = "fp32",
    engine: EngineOption = "torch",
) -> None:
    """Test what explains a model's scores on PHOTOS, and whether it differs between groups."""
    import gscam_lib as gs
    from gscam_lib.datasets.tables import read_text

    pairs = [tuple(part.strip() for part in text.split("/")) for text in contrast or []]
    named = dict(_region(text) for text in regions or [])
    words = None
    if vocabulary is not None:
        words = [w.strip() for w in read_text(expanded(vocabulary)).splitlines() if w.strip()]
    folder = expanded(out)
    clip = load(model, None, device=device, precision=precision, engine=engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gs.UnknownPromptWarning)  # among the notes
        found = gs.audit(
            clip, photos, prompts, groups, contrasts=pairs, regions=named or None,
            out=folder / "measured", method=method, fills=[f.strip() for f in fills.split(",")],
            vocabulary=words, maps=maps, retry=retry, progress=True,
        )  # fmt: skip
    for note in found.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    path = found.report(
        folder / "report.html", photos=show_photos, blur_faces=blur_faces, beside=True
    )
    suspects, between = int(found.suspects["found"].sum()), int(found.groups["decided"].sum())
    typer.echo(
        f"{suspects} of {len(found.suspects)} suspects found, {between} of {len(found.groups)} "
        f"differences between groups decided."
    )
    typer.echo(f"wrote {path}, and tables and figures beside it")


def _region(text: str) -> tuple[str, str]:
    name, equals, where = text.partition("=")
    if not (name.strip() and equals and where.strip()):
        raise ValueError(
            f"Got --regions {text!r}; expected NAME=FOLDER, NAME=boxes.csv, or faces=faces."
        )
    return name.strip(), where.strip()
