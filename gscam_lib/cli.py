"""The command line: `gscam`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import importlib.metadata
import json
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pandas import DataFrame

    from gscam_lib.datasets import Example

app = typer.Typer(
    help="What does CLIP look at? Heatmaps for photos and prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option(help="Bundled name, folder, or open_clip arch/tag.")]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]


@app.callback()
def main() -> None:
    """What does CLIP look at? Heatmaps for photos and prompts."""


@app.command()
def heatmap(
    photo: Annotated[Path, typer.Argument(help="A photo file.")],
    prompts: Annotated[list[str], typer.Argument(help="One or more descriptions.")],
    model: ModelOption = "photo-lite",
    method: Annotated[str, typer.Option(help="See `gscam methods`.")] = "gscorecam",
    k: Annotated[
        int | None, typer.Option(help="Channels used; the paper's share if left out.")
    ] = None,
    out: OutOption = Path("heatmap.png"),
) -> None:
    """Draw where the model sees each PROMPT in PHOTO; print logit, box and seconds."""
    try:
        _draw_heatmaps(photo, prompts, model, method, k, out)
    except (ValueError, OSError) as error:
        _fail(error)


def _draw_heatmaps(
    photo: Path, prompts: list[str], name: str, method: str, k: int | None, out: Path
) -> None:
    import gscam_lib as gs

    clip = gs.load_model(name)
    trace = clip.trace(photo)
    heats, boxes = [], []
    for prompt in prompts:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", gs.UnknownPromptWarning)
            heat = gs.heatmap(trace, prompt, method, k=k)
        box = gs.heatmap_to_box(heat)
        seconds = time.perf_counter() - start
        heats.append(heat)
        boxes.append(box)
        where = "flat map, no box" if box is None else f"box {box}"
        typer.echo(f"{prompt}: logit {heat.logit:.2f}, {where}, {seconds:.2f} s")
        for warning in caught:
            typer.secho(f"  warning: {warning.message}", fg="yellow", err=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with gs.figures.style():
        gs.figures.panels(trace.image, heats, boxes).savefig(out)
    typer.echo(f"wrote {out}")


@app.command()
def evaluate(
    dataset: Annotated[
        str, typer.Option(help="A bundled set (multi, …), or coco, lvis, partimagenet, csv, wsol.")
    ] = "multi",
    root: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="JSON, CSV, or WSOL folder.")] = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "gscorecam,gradcam,center",
    model: ModelOption = "photo-lite",
    k: Annotated[int | None, typer.Option(help="Channels for methods that rank them.")] = None,
    preset: Annotated[str, typer.Option(help="clean or paper.")] = "clean",
    out: Annotated[Path | None, typer.Option(help="Folder that keeps the rows; resumes.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: do part i (from 0) of n.")] = "0/1",
) -> None:
    """Localize every class in every image; print the table."""
    import gscam_lib as gs

    try:
        clip = gs.load_model(model)
        pairs = list(_examples(dataset, root, annotations))
        known = gs.known_examples(clip, pairs)
        rows = gs.evaluate(
            clip, known, methods.split(","), k=k, preset=preset, out=out, shard=_shard(shard),
            progress=True,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        _fail(error)
    typer.echo(f"{clip.name}: {len(known)} of {len(pairs)} (image, class) pairs have a known class")
    _print_table(rows, "text")


def _examples(dataset: str, root: Path | None, annotations: Path | None) -> Iterable[Example]:
    import gscam_lib as gs

    if dataset in gs.scenes.SETS:
        return gs.scenes.load(dataset)
    if root is None or annotations is None:
        raise ValueError(
            f"The data set '{dataset}' needs --root and --annotations. Bundled sets, which need "
            f"neither: {', '.join(gs.scenes.SETS)}."
        )
    return gs.datasets.read(dataset, root, annotations)


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit()):
        raise ValueError(f"Got --shard {text}; expected i/n such as 3/16, counted from 0.")
    return int(i), int(n)


@app.command()
def merge(folder: Path, out: Annotated[Path, typer.Option("-o", "--out")]) -> None:
    """Put the parts of an evaluation into one Parquet file."""
    import gscam_lib as gs

    try:
        rows = gs.merge(folder)
        rows.to_parquet(out)
    except (ValueError, OSError) as error:
        _fail(error)
    typer.echo(f"wrote {len(rows)} rows to {out}")


@app.command()
def table(
    folder: Path,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex, csv.")] = "text",
) -> None:
    """Print the table of an evaluation, with 95 % intervals over images."""
    import gscam_lib as gs

    try:
        _print_table(gs.merge(folder), form)
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def export(
    folder: Path,
    annotations: Annotated[Path, typer.Option(help="The instances JSON that was evaluated.")],
    method: Annotated[str, typer.Option()] = "gscorecam",
    out: OutOption = Path("results.json"),
) -> None:
    """Write the boxes of one method in COCO's results form, for pycocotools' evaluator."""
    import gscam_lib as gs

    try:
        dataset = gs.CocoDataset(annotations.parent, annotations)
        results = dataset.results(gs.merge(folder), method)
        out.write_text(json.dumps(results))
    except (ValueError, OSError) as error:
        _fail(error)
    typer.echo(f"wrote {len(results)} boxes to {out}")


def _print_table(rows: DataFrame, form: str) -> None:
    import gscam_lib as gs

    summary = gs.summarize(rows).round(4)
    forms = {
        "text": summary.to_string,
        "markdown": summary.to_markdown,
        "latex": summary.to_latex,
        "csv": summary.to_csv,
    }
    if form not in forms:
        raise ValueError(f"Got format '{form}'; expected one of {', '.join(forms)}.")
    typer.echo(forms[form]())
    broken = rows[rows["error"].notna()]
    for row in broken.head(10).itertuples():
        typer.secho(f"{row.image_id}, {row.prompt}, {row.method}: {row.error}", err=True)
    if len(broken) > 10:
        typer.secho(f"… and {len(broken) - 10} further rows with errors", err=True)


@app.command()
def evaluate_model(
    model: Annotated[str, typer.Argument(help="mini-rn, mini-vit, a folder.")],
) -> None:
    """Measure on the bundled scenes what a model can do and which planted biases it has."""
    from gscam_lib.scenes.report import evaluate_model as measure
    from gscam_lib.scenes.report import table as as_table

    try:
        typer.echo(as_table(measure(model)))
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def models() -> None:
    """List the bundled models, and the open_clip weights that can be downloaded."""
    import open_clip

    import gscam_lib as gs

    typer.echo("bundled, work offline:")
    for name, folder in gs.bundled_models().items():
        typer.echo(f"  {name:14s}{_first_line(folder / 'MODEL_CARD.md')}")
    typer.echo("from open_clip, need a network the first time (architecture/tag):")
    for architecture, tag in open_clip.list_pretrained():
        typer.echo(f"  {architecture}/{tag}")


@app.command()
def methods() -> None:
    """List the methods: cost in passes through the image tower, towers, options, source."""
    from gscam_lib.methods import methods_table

    typer.echo(methods_table())


@app.command()
def download(name: Annotated[str, typer.Argument(help="open_clip architecture/tag.")]) -> None:
    """Fetch weights once, into a folder that `load_model` and other machines can use."""
    from gscam_lib.clip import save_model

    try:
        typer.echo(f"saved as {save_model(name)}")
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def bench(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; figures/ unless given.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="One round, to see that it runs.")] = False,
) -> None:
    """Time the library beside bare forward passes and other packages; takes some minutes."""
    from gscam_lib.bench import report
    from gscam_lib.figures import FOLDER

    typer.echo(report(out or FOLDER, quick=quick))


@app.command()
def doctor() -> None:
    """Say what is here, what is missing, and how to get it."""
    import platform

    import torch

    import gscam_lib as gs
    from gscam_lib.paths import CACHE, DATA, SCENES

    typer.echo(f"gscam_lib {gs.__version__}, Python {platform.python_version()}")
    packages = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-image")
    typer.echo(", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages))
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    typer.echo(f"device: {cuda}; {torch.get_num_threads()} threads; precision: fp32")
    absent = "" if DATA.is_dir() else " (missing: clone the repository, or set GSCAM_DATA)"
    typer.echo(f"data: {DATA}{absent}")
    for wanted in ("photo-lite", "mini-rn", "mini-vit"):
        here = wanted in gs.bundled_models()
        typer.echo(f"  model {wanted}: {'here' if here else 'not in this checkout yet'}")
    for name in gs.scenes.SETS:
        here = (SCENES / name / "instances.json").is_file()
        typer.echo(f"  scenes {name}: {'here' if here else 'missing (git checkout data/scenes)'}")
    cached = [p.parent.name for p in CACHE.glob("models/*/open_clip_config.json")]
    typer.echo(
        f"  downloaded: {', '.join(cached) or 'nothing (`gscam download NAME` fetches weights)'}"
    )
    for extra, module in (("dask", "distributed"), ("slurm", "submitit")):
        here = find_spec(module) is not None
        hint = "" if here else f" (pip install -e '.[{extra}]')"
        typer.echo(f"extra {extra}: {'here' if here else 'missing'}{hint}")


@app.command()
def benchmark(
    out: Annotated[Path, typer.Argument(help="Folder for rows and tables; resumes.")],
    dataset: Annotated[str, typer.Option(help="As for `gscam evaluate`.")] = "multi",
    root: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="JSON, CSV, or WSOL folder.")] = None,
    models: Annotated[str, typer.Option(help="Comma-separated.")] = "mini-rn,photo-lite",
    methods: Annotated[
        str, typer.Option(help="Comma-separated; all that fit the model if left out.")
    ] = "",
    skip: Annotated[str, typer.Option(help="Methods left out, comma-separated.")] = "",
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    measures: Annotated[
        str, typer.Option(help="Further measures (insertion, deletion, ious, pixels, …).")
    ] = "prompt_sensitivity,pointing_center",
    measured_images: Annotated[int, typer.Option(help="Images they are taken on.")] = 30,
    preset: Annotated[str, typer.Option(help="clean or paper.")] = "clean",
) -> None:
    """Make the table of all methods and controls, for each model, with 95 % intervals."""
    import gscam_lib as gs
    from gscam_lib import analyses

    try:
        pairs = list(_examples(dataset, root, annotations))
        for name in models.split(","):
            clip = gs.load_model(name)
            known = gs.known_examples(clip, pairs)
            chosen = methods.split(",") if methods else analyses.methods_for(clip)
            wanted = [m for m in chosen if m not in skip.split(",")]
            folder = out / name.replace("/", "-").lstrip("-.")
            found = analyses.benchmark(
                clip, known, wanted, out=folder, limit=limit, preset=preset,
                measures=[m for m in measures.split(",") if m], measured_images=measured_images,
                whole=pairs, progress=True,
            )  # fmt: skip
            typer.echo(analyses.write_benchmark(found, folder))
    except (ValueError, OSError) as error:
        _fail(error)


def _first_line(card: Path) -> str:
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line for line in lines if line and not line.startswith("#")), "")


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"error: {error}", fg="red", err=True)
    raise typer.Exit(1)
