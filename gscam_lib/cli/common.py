"""The application and the options that commands share; heavy things are imported inside them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
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
EngineOption = Annotated[
    str, typer.Option(help="What embeds masked copies: torch, or openvino (CPUs, an extra).")
]
LayerOption = Annotated[str | None, typer.Option(help="Target layer by name, or -1 for the last.")]
PreprocessOption = Annotated[
    str, typer.Option(help="squash, model (as it was trained), or paper (bilinear).")
]
WeightsOption = Annotated[Path | None, typer.Option(help="A file put over the named model.")]
ArchOption = Annotated[str | None, typer.Option(help="open_clip's name of a file's architecture.")]
KOption = Annotated[int | None, typer.Option(help="Channels; the paper's share if left out.")]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")]


@app.callback()
def main() -> None:
    """What does CLIP look at? Heatmaps for photos and prompts."""


def load(name: str, layer: str | None, **how: Any) -> Model:
    """The model of `--model`, what had to be assumed of its weights said on stderr."""
    import gscam_lib as gs

    number = layer is not None and layer.lstrip("-").isdigit()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)  # what had to be assumed of the weights
        model = gs.load_model(name, layer=int(layer) if number and layer else layer, **how)
    for warning in caught:
        typer.secho(f"warning: {warning.message}", fg="yellow", err=True)
    return model


def shard_of(text: str) -> tuple[int, int]:
    """Read --shard, such as 3/16. Raises ValueError."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit()):
        raise ValueError(f"Got --shard {text}; expected i/n such as 3/16, counted from 0.")
    return int(i), int(n)
