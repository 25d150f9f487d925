"""`gscam evaluate` and what is done with its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gscam_lib.cli.common import (
    AnnotationsOption,
    ArchOption,
    DatasetOption,
    DeviceOption,
    EngineOption,
    KOption,
    LayerOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    PreprocessOption,
    RootOption,
    WeightsOption,
    app,
    load,
    shard_of,
)
from gscam_lib.paths import expanded

if TYPE_CHECKING:
    from gscam_lib.datasets import Example
    from gscam_lib.evaluation.measures import Preset


@app.command()
def evaluate(
    dataset: DatasetOption = "multi",
    root: RootOption = None,
    annotations: AnnotationsOption = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated; with options: gscorecam:ranking=variance:k=50; 'all' that fit "
            "the model, '-rise' without RISE."
        ),
    ] = "gscorecam,gradcam,center",
    model: ModelOption = "photo-lite",
    k: KOption = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "fp32",
    engine: EngineOption = "torch",
    preprocess: PreprocessOption = "squash",
    layer: LayerOption = None,
    measures: Annotated[
        str, typer.Option(help="Beside localization: insertion, deletion, ious, pixels, …")
    ] = "",
    measured_images: Annotated[int | None, typer.Option(help="Images they are taken on.")] = None,
    slow_images: Annotated[
        int | None, typer.Option(help="Images for methods with a pass per channel or mask.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    template: Annotated[
        str, typer.Option(help="Form of the prompt, e.g. 'a photo of {a}'; {} is the bare name.")
    ] = "{}",
    search: Annotated[
        bool,
        typer.Option(help="Take each class's prompt of highest mean logit (on these photos)."),
    ] = False,
    search_on: Annotated[
        str, typer.Option(help="… on the photos of another data set, such as coco-train2017.")
    ] = "",
    preset: Annotated[str, typer.Option(help="clean or paper.")] = "clean",
    threshold: Annotated[
        str | None, typer.Option(help="otsu, a percentile such as p90, or a share such as 0.2.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Which region's box: largest_rectangle, union, …")
    ] = None,
    inclusive: Annotated[
        bool | None, typer.Option(help="Count a box's last pixel as inside (as paper does).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that keeps the rows; resumes.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: do part i (from 0) of n.")] = "0/1",
    retry: Annotated[bool, typer.Option(help="Do the rows with errors again.")] = False,
    dask: Annotated[
        str, typer.Option(help="A scheduler, tcp://…, or 'local': run shards there; needs --out.")
    ] = "",
    shards: Annotated[int, typer.Option(help="How many shards Dask gets.")] = 16,
) -> None:
    """Ask about every class in every image; keep the rows, print the table."""
    import gscam_lib as gs
    from gscam_lib.evaluation.measures import MEASURES
    from gscam_lib.evaluation.questions import asked_by, open_dataset
    from gscam_lib.evaluation.runner import evaluate_on_dask

    how: dict[str, Any] = {
        "k": k, "preset": _preset(preset, threshold, rule, inclusive), "retry": retry,
        "limit": limit, "measured_images": measured_images, "slow_images": slow_images,
        "measures": ["localization", *filter(None, measures.split(","))],
    }  # fmt: skip
    if measures.strip() == "all":
        how["measures"] = list(MEASURES)
    part = shard_of(shard)
    if dask and (layer, weights, arch, precision, engine, preprocess) != (
        None, None, None, "fp32", "torch", "squash",
    ):  # fmt: skip
        raise ValueError(
            "--dask loads models by their name alone; use --shard with --layer, --weights, --arch, "
            "--precision, --engine or --preprocess."
        )
    clip = load(
        model, layer, weights=weights, arch=arch, device=device, precision=precision,
        engine=engine, preprocess=preprocess,
    )  # fmt: skip
    pairs = open_dataset(dataset, root, annotations)
    if out is None or not (out / "run.json").is_file():
        _check(pairs)
    on = open_dataset(search_on) if search_on else search
    known = asked_by(clip, pairs, template=template, search=on)
    chosen = [name.strip() for name in methods.split(",")]
    if dask:
        rows = evaluate_on_dask(dask, model, known, chosen, out, shards=shards, **how)
    else:
        rows = gs.evaluate(clip, known, chosen, out=out, shard=part, progress=True, **how)
    typer.echo(f"{clip.name}: {len(known)} of {len(pairs)} (image, class) pairs have a known class")
    if blank := int((rows.groupby("question")["area"].first() == 0).sum()):
        typer.secho(f"{blank} pairs have no true box and count as misses", err=True)
    _print_table(rows, "text")


def _check(pairs: Sequence[Example]) -> None:
    """Say what is wrong with a data set. Raises ValueError where it must not be evaluated."""
    from gscam_lib.datasets import DataError
    from gscam_lib.datasets.check import check
    from gscam_lib.datasets.check import table as as_table

    findings = check(pairs)
    if findings:
        typer.secho(as_table(findings), fg="yellow", err=True)
    if any(found.severity == "refused" for found in findings):
        raise DataError("The data set cannot be evaluated as it is", findings)


@app.command("check-data")
def check_data(
    dataset: DatasetOption, root: RootOption = None, annotations: AnnotationsOption = None
) -> None:
    """Look at a data set and its photos before anything is computed; exit 1 where it is refused."""
    from gscam_lib.evaluation.questions import open_dataset

    pairs = open_dataset(dataset, root, annotations)
    typer.echo(f"{len(pairs)} (image, class) pairs")
    _check(pairs)
    typer.echo("It can be evaluated.")


def _preset(name: str, threshold: str | None, rule: str | None, inclusive: bool | None) -> Preset:
    """A preset with what was given changed."""
    from dataclasses import replace

    from gscam_lib.evaluation.measures import find_preset

    share = threshold is not None and threshold.replace(".", "", 1).isdigit()
    given: dict[str, Any] = {
        "threshold": float(threshold) if share and threshold else threshold,
        "rule": rule,
        "inclusive": inclusive,
    }
    return replace(find_preset(name), **{key: v for key, v in given.items() if v is not None})


@app.command()
def merge(folder: Path, out: OutOption = Path("rows.parquet")) -> None:
    """Put the parts of an evaluation into one Parquet file."""
    from gscam_lib.evaluation.rows import write_merged

    typer.echo(f"wrote {write_merged(folder, out)} rows to {out}")


@app.command()
def table(
    folder: Path,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex, csv.")] = "text",
    against: Annotated[
        str, typer.Option(help="Print paired tests against this method instead.")
    ] = "",
    report: Annotated[
        Path | None, typer.Option(help="Write the whole report, table.md and CSVs, there.")
    ] = None,
) -> None:
    """Print the table of an evaluation, with 95 % intervals over images."""
    from gscam_lib.evaluation import report as reports

    rows = reports.read(folder)
    if report is not None:
        typer.echo(reports.write_report(rows, expanded(report)))
    elif against:
        typer.echo(reports.tests_to_markdown(reports.paired_tests(rows, against)))
    else:
        _print_table(rows, form)


def _print_table(rows: Any, form: str) -> None:
    from gscam_lib.evaluation import report

    typer.echo(report.as_text(rows, form))
    if left := report.unanswered(rows):
        typer.secho(f"{left}: shards are missing, or the run goes on.", fg="yellow", err=True)
    broken = rows[rows["error"].notna()]
    for row in broken.head(10).itertuples():
        typer.secho(f"{row.image_id}, {row.prompt}, {row.method}: {row.error}", err=True)
    if len(broken) > 10:
        typer.secho(f"… and {len(broken) - 10} further rows with errors", err=True)
    if len(broken) == len(rows):
        raise ValueError(f"All {len(rows)} rows have errors; see above.")


@app.command()
def export(
    folder: Path,
    annotations: Annotated[Path, typer.Option(help="The instances JSON that was evaluated.")],
    method: Annotated[str, typer.Option()] = "gscorecam",
    out: OutOption = Path("results.json"),
) -> None:
    """Write one method's boxes and masks (RLE) in COCO's results form, for its own evaluator."""
    import gscam_lib as gs
    from gscam_lib.evaluation.report import by_k

    dataset = gs.CocoDataset(annotations.parent, annotations)
    results = dataset.results(by_k(gs.merge(folder)), method)
    out.write_text(json.dumps(results))
    typer.echo(f"wrote {len(results)} boxes and masks to {out}")
