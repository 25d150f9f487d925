"""`gscam reproduce`, and archives of what came out: `gscam pack`, `gscam check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gscam_lib.cli.common import DeviceOption, PrecisionOption, app, shard_of
from gscam_lib.paths import expanded


@app.command()
def reproduce(
    out: Annotated[Path | None, typer.Option(help="Folder of rows, figures, page; resumes.")] = (
        None
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; run nothing.")] = (
        False
    ),
    bundled: Annotated[
        bool, typer.Option("--bundled", help="On the bundled models and sets, at a small size.")
    ] = False,
    only: Annotated[str, typer.Option(help="Rows of the plan, with commas between.")] = "",
    without: Annotated[str, typer.Option(help="Methods that are left out: rise,scorecam.")] = "",
    model: Annotated[
        str | None, typer.Option(help="In the place of RN50x16: RN50x16-quickgelu/random, …")
    ] = None,
    vit: Annotated[str | None, typer.Option(help="In the place of ViT-B/32.")] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights: tries the path, shows chance.")
    ] = False,
    images: Annotated[int | None, typer.Option(help="At most so many photos of each set.")] = None,
    slow_images: Annotated[
        int | None, typer.Option(help="For ScoreCAM and RISE, on COCO alone.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="For the paper's 300; others in proportion.")] = (
        None
    ),
    root: Annotated[
        list[str] | None, typer.Option(help="Your copy of a set: coco=FOLDER (more than once).")
    ] = None,
    annotations: Annotated[
        list[str] | None, typer.Option(help="And its boxes: coco=instances.json.")
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Fetch data sets that are missing and free.")
    ] = True,
    device: DeviceOption = None,
    precision: PrecisionOption = "fp32",
    shard: Annotated[str, typer.Option(help="i/n: do part i (from 0) of n; no page.")] = "0/1",
    dask: Annotated[str, typer.Option(help="A scheduler, tcp://…, or 'local'.")] = "",
    shards: Annotated[int, typer.Option(help="How many shards Dask gets.")] = 16,
) -> None:
    """Run the paper again: every table and figure, by its released code's protocol and by ours."""
    from gscam_lib.paper import page, plan
    from gscam_lib.paper.publish import publish
    from gscam_lib.paper.run import run
    from gscam_lib.paper.worlds import BUNDLED, REAL, with_models

    items = plan.chosen(filter(None, only.split(",")))
    left = tuple(filter(None, without.split(",")))
    part = shard_of(shard)
    if random and bundled:
        raise ValueError("--random is of the paper's networks; --bundled has its own.")
    world = with_models(
        BUNDLED if bundled else REAL, model, vit, random=random, images=images, k=k,
        slow_images=slow_images, device=device, precision=precision,
        places=_places(root, annotations) or None,
    )  # fmt: skip
    text = page.plan_page(world, items, left)
    if dry_run:
        typer.echo(text)
        if out is not None:
            _write(out / "plan.md", text)
        return
    if out is None and not bundled:
        raise ValueError("Give --out, a folder that keeps what is computed; or --dry-run.")
    folder = Path("build/reproduce_bundled") if out is None else expanded(out)
    run(
        folder, world, items, without=left, fetch=download and not bundled, shard=part, dask=dask,
        shards=shards, say=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    _write(folder / "plan.md", text)
    if part[1] > 1:
        typer.echo(f"Part {shard} is done; when all are, run it without --shard for the page.")
        return
    typer.echo(publish(folder, world, items))
    typer.echo(f"wrote {folder / 'page.md'}", err=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _places(
    roots: list[str] | None, annotations: list[str] | None
) -> dict[str, tuple[Path, Path | None]]:
    """Where a reader's own copies of data sets are, by their roles. Raises ValueError."""
    from gscam_lib.paper.worlds import REAL

    found: dict[str, dict[str, Path]] = {"root": {}, "annotations": {}}
    for option, texts in (("root", roots), ("annotations", annotations)):
        for text in texts or []:
            role, equals, path = text.partition("=")
            if not equals or role not in REAL.sets:
                raise ValueError(
                    f"Got --{option} {text}; expected ROLE=PATH, ROLE one of "
                    f"{', '.join(REAL.sets)}."
                )
            found[option][role] = expanded(path)
    return {role: (path, found["annotations"].get(role)) for role, path in found["root"].items()}


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(help="A folder of `gscam reproduce` or `evaluate`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="One zip file.")] = Path("run.zip"),
) -> None:
    """Put rows, versions, hashes of weights and data, figures and page into one file."""
    from gscam_lib.paper.archive import pack as write

    typer.echo(f"wrote {write(expanded(run), expanded(out))}")


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A file of `gscam pack`.")]) -> None:
    """Compute an archive's tables again from its rows; exit 1 where they differ, and say how."""
    from gscam_lib.paper.archive import check as compare

    found = compare(expanded(file))
    for line in found.lines:
        typer.echo(line)
    if found.differences:
        for line in found.differences[:20]:
            typer.secho(line, fg="red", err=True)
        if len(found.differences) > 20:
            typer.secho(f"… and {len(found.differences) - 20} more", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo("It agrees: every table is what its rows say.")
