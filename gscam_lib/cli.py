"""The command line: `gscam`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import importlib.metadata
import json
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from gscam_lib.datasets import Example
    from gscam_lib.evaluation.measures import Preset
    from gscam_lib.trace import Model


class _Plain(TyperGroup):
    """Errors of ours are one line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Plain,
    help="What does CLIP look at? Heatmaps for photos and prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DatasetOption = Annotated[
    str,
    typer.Option(
        help="A bundled set (multi, …), one of `gscam download` (coco-val2017, …), or the form of "
        "yours: coco, lvis, partimagenet, csv, wsol, typographic (with --root)."
    ),
]
RootOption = Annotated[Path | None, typer.Option(help="Folder of the images.")]
AnnotationsOption = Annotated[Path | None, typer.Option(help="JSON, CSV, or WSOL folder.")]
ModelOption = Annotated[
    str,
    typer.Option(
        help="Bundled name, open_clip arch/tag or arch/FILE, a file or folder of weights, or "
        "hf-hub:org/name."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, mps; a GPU where there is one.")]
PrecisionOption = Annotated[str, typer.Option(help="Of the image tower: fp32, bf16, fp16, tf32.")]
LayerOption = Annotated[str | None, typer.Option(help="Target layer by name, or -1 for the last.")]
PreprocessOption = Annotated[
    str, typer.Option(help="squash, model (as it was trained), or paper (bilinear).")
]
WeightsOption = Annotated[Path | None, typer.Option(help="A file put over the named model.")]
ArchOption = Annotated[str | None, typer.Option(help="open_clip's name of a file's architecture.")]
KOption = Annotated[int | None, typer.Option(help="Channels; the paper's share if left out.")]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]
PICTURES = {".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


@app.callback()
def main() -> None:
    """What does CLIP look at? Heatmaps for photos and prompts."""


def _load(name: str, layer: str | None, **how: Any) -> Model:
    import gscam_lib as gs

    number = layer is not None and layer.lstrip("-").isdigit()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)  # what had to be assumed of the weights
        model = gs.load_model(name, layer=int(layer) if number and layer else layer, **how)
    for warning in caught:
        typer.secho(f"warning: {warning.message}", fg="yellow", err=True)
    return model


@app.command()
def heatmap(
    photo: Annotated[Path, typer.Argument(help="A photo file.")],
    prompts: Annotated[list[str], typer.Argument(help="One or more descriptions.")],
    model: ModelOption = "photo-lite",
    method: Annotated[
        str, typer.Option(help="See `gscam methods`; with options: gscorecam:ranking=variance.")
    ] = "gscorecam",
    k: KOption = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "fp32",
    preprocess: PreprocessOption = "squash",
    layer: LayerOption = None,
    batch_size: Annotated[int | None, typer.Option(help="Masked copies in one pass.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps their embeddings.")] = None,
    out: OutOption = Path("heatmap.png"),
) -> None:
    """Draw where the model sees each PROMPT in PHOTO; print logit, box and seconds."""
    import gscam_lib as gs
    from gscam_lib.heatmaps import check_method
    from gscam_lib.methods import read_method

    target = out.expanduser()
    target = target if target.suffix else target.with_suffix(".png")
    if target.suffix.lower() not in PICTURES:
        raise ValueError(
            f"Got -o {out}: '{target.suffix}' is no kind of picture; expected one of "
            f"{', '.join(sorted(PICTURES))}."
        )
    name, options = read_method(method)
    if k is not None:
        options = {"k": k, **options}
    check_method(name, **options)
    clip = _load(
        model, layer, weights=weights, arch=arch, device=device, precision=precision,
        preprocess=preprocess,
    )  # fmt: skip
    trace = clip.trace(photo.expanduser(), batch_size=batch_size, cache=cache)
    heats, boxes = [], []
    for prompt in prompts:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", gs.UnknownPromptWarning)
            heat = gs.heatmap(trace, prompt, name, **options)
        heats.append(heat)
        boxes.append(gs.heatmap_to_box(heat))
        seconds = time.perf_counter() - start
        where = "flat map, no box" if boxes[-1] is None else f"box {boxes[-1]}"
        typer.echo(f"{prompt}: logit {heat.logit:.2f}, {where}, {seconds:.2f} s")
        for warning in caught:
            typer.secho(f"  warning: {warning.message}", fg="yellow", err=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with gs.figures.style():
        gs.figures.panels(trace.image, heats, boxes).savefig(target)
    typer.echo(f"wrote {target}")


# ---------------------------------------------------------------- evaluation


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
    part = _shard(shard)
    clip = _load(
        model, layer, weights=weights, arch=arch, device=device, precision=precision,
        preprocess=preprocess,
    )  # fmt: skip
    pairs = open_dataset(dataset, root, annotations)
    if out is None or not (out / "run.json").is_file():
        _check(pairs)
    known = asked_by(clip, pairs, template=template, search=search)
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


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit()):
        raise ValueError(f"Got --shard {text}; expected i/n such as 3/16, counted from 0.")
    return int(i), int(n)


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
        typer.echo(reports.write_report(rows, report.expanduser()))
    elif against:
        typer.echo(reports.tests_to_markdown(reports.paired_tests(rows, against)))
    else:
        _print_table(rows, form)


def _print_table(rows: Any, form: str) -> None:
    from gscam_lib.evaluation import report

    typer.echo(report.as_text(rows, form))
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

    dataset = gs.CocoDataset(annotations.parent, annotations)
    results = dataset.results(gs.merge(folder), method)
    out.write_text(json.dumps(results))
    typer.echo(f"wrote {len(results)} boxes and masks to {out}")


# ---------------------------------------------------------------- what there is


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


def _first_line(card: Path) -> str:
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line for line in lines if line and not line.startswith("#")), "")


@app.command()
def methods() -> None:
    """List the methods: cost in passes through the image tower, towers, options, source."""
    from gscam_lib.methods import methods_table

    typer.echo(methods_table())


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="coco-val2017, …, or open_clip architecture/tag.")],
    to: Annotated[Path | None, typer.Option(help="Folder of data sets; data/cache/datasets.")] = (
        None
    ),
) -> None:
    """Fetch a data set or weights once, into a folder that other machines can use."""
    from gscam_lib.datasets import downloads

    if "/" in name:
        from gscam_lib.model.published import save_model

        typer.echo(f"saved as {save_model(name)}")
        return
    folder = to or downloads.FOLDER
    typer.echo(f"saved in {downloads.download(name, folder)}")
    typer.echo(f"terms: {downloads.SOURCES[name].terms}")
    _, root, annotations = downloads.find(name, folder)
    places = "" if folder == downloads.FOLDER else f" --root {root} --annotations {annotations}"
    typer.echo(f"next: gscam evaluate --dataset {name}{places} --out runs/{name}")


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
        typer.echo(f"  model {wanted}: {'here' if here else 'not in this checkout'}")
    for name in gs.scenes.SETS:
        here = (SCENES / name / "instances.json").is_file()
        typer.echo(f"  scenes {name}: {'here' if here else 'missing (git checkout data/scenes)'}")
    cached = [p.parent.name for p in CACHE.glob("models/*/open_clip_config.json")]
    typer.echo(
        f"  downloaded: {', '.join(cached) or 'nothing (`gscam download NAME` fetches weights)'}"
    )
    for extra, module in (("dask", "distributed"), ("slurm", "submitit"), ("hf", "transformers")):
        here = find_spec(module) is not None
        hint = "" if here else f" (pip install -e '.[{extra}]')"
        typer.echo(f"extra {extra}: {'here' if here else 'missing'}{hint}")


if __name__ == "__main__":
    app()
