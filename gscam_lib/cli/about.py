"""What there is: models, methods, downloads, and what is missing."""

from __future__ import annotations

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gscam_lib.cli.common import (
    app,
)


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
