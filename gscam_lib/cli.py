"""The command line: `gscam`. Everything heavy is imported inside the commands."""

from __future__ import annotations

import importlib.metadata
import json
import time
import warnings
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pandas import DataFrame

    from gscam_lib.datasets import Example
    from gscam_lib.evaluation.runner import Preset
    from gscam_lib.trace.model import Model

app = typer.Typer(
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
PresetOption = Annotated[str, typer.Option(help="clean or paper.")]
ModelOption = Annotated[
    str,
    typer.Option(
        help="Bundled name, open_clip arch/tag or arch/FILE, a file or folder of weights, or "
        "hf-hub:org/name."
    ),
]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]


@app.callback()
def main() -> None:
    """What does CLIP look at? Heatmaps for photos and prompts."""


@app.command()
def heatmap(
    photo: Annotated[Path, typer.Argument(help="A photo file.")],
    prompts: Annotated[list[str], typer.Argument(help="One or more descriptions.")],
    model: ModelOption = "photo-lite",
    method: Annotated[
        str, typer.Option(help="See `gscam methods`; with options: gscorecam:ranking=variance.")
    ] = "gscorecam",
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


def _load(name: str) -> Model:
    """Load a model; what had to be assumed about it is printed."""
    import gscam_lib as gs

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = gs.load_model(name)
    for warning in caught:
        typer.secho(f"warning: {warning.message}", fg="yellow", err=True)
    return model


def _draw_heatmaps(
    photo: Path, prompts: list[str], name: str, method: str, k: int | None, out: Path
) -> None:
    import gscam_lib as gs
    from gscam_lib.methods import read_method

    function, options = read_method(method)
    options = {"k": k, **options}
    clip = _load(name)
    trace = clip.trace(photo)
    heats, boxes = [], []
    for prompt in prompts:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", gs.UnknownPromptWarning)
            heat = gs.heatmap(trace, prompt, function, **options)
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
    dataset: DatasetOption = "multi",
    root: RootOption = None,
    annotations: AnnotationsOption = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated; with options: gscorecam:ranking=variance:k=50.")
    ] = "gscorecam,gradcam,center",
    model: ModelOption = "photo-lite",
    k: Annotated[int | None, typer.Option(help="Channels for methods that rank them.")] = None,
    template: Annotated[
        str, typer.Option(help="Form of the prompt, e.g. 'a photo of {a}'; {} is the bare name.")
    ] = "{}",
    search: Annotated[
        bool, typer.Option(help="Take each class's prompt of highest mean logit instead.")
    ] = False,
    preset: PresetOption = "clean",
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
    """Localize every class in every image; print the table."""
    import gscam_lib as gs

    try:
        clip = _load(model)
        how = _preset(preset, threshold, rule, inclusive)
        pairs = list(_examples(dataset, root, annotations))
        known = _asked(clip, pairs, template, search)
        chosen = [m.strip() for m in methods.split(",")]
        if dask:
            rows = _on_dask(
                dask, model, known, chosen, out, shards=shards, k=k, preset=how, retry=retry
            )
        else:
            rows = gs.evaluate(
                clip, known, chosen, k=k, preset=how, out=out, shard=_shard(shard), retry=retry,
                progress=True,
            )  # fmt: skip
        typer.echo(
            f"{clip.name}: {len(known)} of {len(pairs)} (image, class) pairs have a known class"
        )
        if blank := sum(not e.boxes for e in known):
            typer.secho(f"{blank} pairs have no true box and count as misses", err=True)
        _print_table(rows, "text")
    except (ValueError, OSError) as error:
        _fail(error)


def _preset(name: str, threshold: str | None, rule: str | None, inclusive: bool | None) -> Preset:
    """A preset with what was given changed."""
    from dataclasses import replace

    from gscam_lib.evaluation.runner import find_preset

    share = threshold is not None and threshold.replace(".", "", 1).isdigit()
    given: dict[str, Any] = {
        "threshold": float(threshold) if share and threshold else threshold,
        "rule": rule,
        "inclusive": inclusive,
    }
    return replace(find_preset(name), **{key: v for key, v in given.items() if v is not None})


def _examples(dataset: str, root: Path | None, annotations: Path | None) -> Iterable[Example]:
    """A bundled set, one that was downloaded, or a form of data set with its places."""
    import gscam_lib as gs
    from gscam_lib.datasets import downloads

    if dataset in gs.scenes.SETS and root is None:
        return gs.scenes.load(dataset)
    names: list[str] | None = None
    if dataset in downloads.SOURCES:
        if root is None and annotations is None:
            form, root, annotations = downloads.find(dataset, downloads.FOLDER)
        else:
            form = downloads.SOURCES[dataset].form
        if dataset.startswith("imagenet"):
            import open_clip

            names = open_clip.IMAGENET_CLASSNAMES
    else:
        form = dataset
    if root is None or (annotations is None and form != "typographic"):
        raise ValueError(
            f"The data set '{dataset}' needs --root and --annotations. Those that need neither: "
            f"bundled {', '.join(gs.scenes.SETS)}; after `gscam download`, "
            f"{', '.join(downloads.SOURCES)}."
        )
    return gs.datasets.read(form, root, annotations, class_names=names)


def _asked(clip: Model, pairs: list[Example], template: str, search: bool) -> list[Example]:
    """The examples whose class the model knows, with their prompts in the form that is wanted."""
    import gscam_lib as gs
    from gscam_lib.evaluation.measures import search_prompts, with_prompts
    from gscam_lib.model.prompts import fill, fill_all

    if not search:
        return gs.known_examples(clip, [e.asked(fill(template, e.prompt)) for e in pairs])
    known = gs.known_examples(clip, pairs)
    table = search_prompts(clip, known, {e.category: fill_all(e.prompt) for e in known})
    return with_prompts(known, dict(table[table["chosen"]][["category", "prompt"]].to_numpy()))


def _on_dask(
    address: str, model: str, known: list[Example], methods: list[str], out: Path | None, **how: Any
) -> DataFrame:
    import gscam_lib as gs

    if out is None:
        raise ValueError("--dask needs --out: a folder that all workers see.")
    if find_spec("distributed") is None:
        raise ValueError("--dask needs the extra dask: pip install -e '.[dask]'.")
    import distributed

    make: Any = distributed.Client
    local = {"threads_per_worker": 1, "dashboard_address": None} if address == "local" else {}
    with make(None if local else address, **local) as client:
        pool = client.get_executor()
        return gs.evaluate_shards(pool, model, known, methods, out, progress=True, **how)


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
    against: Annotated[
        str, typer.Option(help="Print paired tests against this method instead.")
    ] = "",
) -> None:
    """Print the table of an evaluation or benchmark, with 95 % intervals over images."""
    from gscam_lib.evaluation import report as analyses

    try:
        rows, measured = analyses.read(folder)
        if against:
            typer.echo(analyses.tests_to_markdown(analyses.paired_tests(rows, measured, against)))
        else:
            _print_table(rows, form, measured)
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def export(
    folder: Path,
    annotations: Annotated[Path, typer.Option(help="The instances JSON that was evaluated.")],
    method: Annotated[str, typer.Option()] = "gscorecam",
    out: OutOption = Path("results.json"),
) -> None:
    """Write one method's boxes and masks (RLE) in COCO's results form, for its own evaluator."""
    import gscam_lib as gs

    try:
        dataset = gs.CocoDataset(annotations.parent, annotations)
        results = dataset.results(gs.merge(folder), method)
        out.write_text(json.dumps(results))
    except (ValueError, OSError) as error:
        _fail(error)
    typer.echo(f"wrote {len(results)} boxes and masks to {out}")


def _print_table(rows: DataFrame, form: str, measured: DataFrame | None = None) -> None:
    from gscam_lib.evaluation import report as analyses

    if rows.empty:
        raise ValueError("There are no rows: the data set is empty, or the model knows no class.")
    whole = analyses.overall(rows, measured)
    brief = [c for c in analyses.ALL if not c.startswith("hits .") and c not in ("macro", "energy")]
    forms: dict[str, Callable[[], str]] = {
        "text": lambda: analyses.cells(whole, brief).to_string(index=False),
        "markdown": lambda: analyses.to_markdown(whole, analyses.ALL),
        "latex": lambda: analyses.cells(whole).to_latex(index=False, escape=True),
        "csv": lambda: whole.to_csv(index=False),
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
    from data.build.report import evaluate_model as measure
    from data.build.report import table as as_table

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
def download(
    name: Annotated[str, typer.Argument(help="coco-val2017, …, or open_clip architecture/tag.")],
    to: Annotated[Path | None, typer.Option(help="Folder of data sets; data/cache/datasets.")] = (
        None
    ),
) -> None:
    """Fetch a data set or weights once, into a folder that other machines can use."""
    from gscam_lib.datasets import downloads

    try:
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
    except (ValueError, OSError) as error:
        _fail(error)


@app.command()
def bench(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; figures/ unless given.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="One round, to see that it runs.")] = False,
    models: Annotated[
        str, typer.Option(help="Comma-separated; what the folder has of others is kept.")
    ] = "mini-rn,RN50/random",
) -> None:
    """Time the library beside bare forward passes and other packages; takes half an hour."""
    from gscam_lib.figures import FOLDER
    from tests.bench.bench import report

    typer.echo(report(out or FOLDER, quick=quick, models=models.split(",")))


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
    dataset: DatasetOption = "multi",
    root: RootOption = None,
    annotations: AnnotationsOption = None,
    models: Annotated[str, typer.Option(help="Comma-separated.")] = "mini-rn,photo-lite",
    methods: Annotated[
        str, typer.Option(help="As in evaluate; 'all': those that fit the model.")
    ] = "all",
    skip: Annotated[str, typer.Option(help="Methods left out, comma-separated.")] = "",
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    measures: Annotated[
        str, typer.Option(help="Further measures (insertion, deletion, ious, pixels, …).")
    ] = "prompt_sensitivity,pointing_center",
    measured_images: Annotated[int, typer.Option(help="Images they are taken on.")] = 30,
    slow_images: Annotated[
        int | None, typer.Option(help="Images for methods with a pass per channel or mask.")
    ] = None,
    preset: PresetOption = "clean",
) -> None:
    """Make the table of all methods and controls, for each model, with 95 % intervals."""
    import gscam_lib as gs
    from gscam_lib.evaluation import report as analyses

    try:
        pairs = list(_examples(dataset, root, annotations))
        clips = {name: _load(name) for name in models.split(",")}  # all, before the work
        for name, clip in clips.items():
            known = gs.known_examples(clip, pairs)
            asked = [m.strip() for m in methods.split(",")]
            named = [analyses.methods_for(clip) if m == "all" else [m] for m in asked]
            wanted = [m for m in dict.fromkeys(chain(*named)) if m not in skip.split(",")]
            folder = out / name.replace("/", "-").lstrip("-.")
            found = analyses.benchmark(
                clip, known, wanted, out=folder, limit=limit, preset=preset,
                measures=[m for m in measures.split(",") if m], measured_images=measured_images,
                slow_images=slow_images, whole=pairs, progress=True,
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
