"""`gscam heatmap`: a picture of where the model looks."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from gscam_lib.cli.common import (
    ArchOption,
    DeviceOption,
    EngineOption,
    KOption,
    LayerOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    PreprocessOption,
    WeightsOption,
    app,
    load,
)
from gscam_lib.paths import expanded

PICTURES = {".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


@app.command()
def heatmap(
    photo: Annotated[Path, typer.Argument(help="A photo file.")],
    prompts: Annotated[list[str], typer.Argument(help="One or more descriptions.")],
    model: ModelOption = "photo-lite",
    method: Annotated[
        str, typer.Option(help="See `gscam methods`; with options: gscorecam:ranking=variance.")
    ] = "gscorecam",
    k: KOption = None,
    budget: Annotated[
        int | None, typer.Option(help="At most so many masked copies are scored; others guessed.")
    ] = None,
    weights: WeightsOption = None,
    arch: ArchOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "fp32",
    engine: EngineOption = "torch",
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

    target = expanded(out)
    target = target if target.suffix else target.with_suffix(".png")
    if target.suffix.lower() not in PICTURES:
        raise ValueError(
            f"Got -o {out}: '{target.suffix}' is no kind of picture; expected one of "
            f"{', '.join(sorted(PICTURES))}."
        )
    name, options = read_method(method)
    if k is not None:
        options = {"k": k, **options}
    if budget is not None:
        options = {"budget": budget, **options}
    check_method(name, **options)
    clip = load(
        model, layer, weights=weights, arch=arch, device=device, precision=precision,
        engine=engine, preprocess=preprocess,
    )  # fmt: skip
    trace = clip.trace(expanded(photo), batch_size=batch_size, cache=cache)
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
        near = f", {heat.passes} masked copies, band {heat.band:.2f}" if heat.band else ""
        typer.echo(f"{prompt}: logit {heat.logit:.2f}, {where}{near}, {seconds:.2f} s")
        for warning in caught:
            typer.secho(f"  warning: {warning.message}", fg="yellow", err=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with gs.figures.style():
        gs.figures.panels(trace.image, heats, boxes).savefig(target)
    typer.echo(f"wrote {target}")
