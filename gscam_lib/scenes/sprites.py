"""Sprites: the drawings of the 81 objects in four styles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from PIL import Image

from gscam_lib.paths import SCENES
from gscam_lib.scenes.names import NAMES, STYLES, check_name

FOLDER = SCENES / "sprites"


@cache
def index() -> Mapping[str, Any]:
    """Return the atlases' index: cell size, columns, names, and per style source and gaps."""
    content: Mapping[str, Any] = json.loads((FOLDER / "index.json").read_text())
    if tuple(content["names"]) != NAMES:
        raise ValueError(
            "data/scenes/sprites was built for other names: run python -m data.build.sprites"
        )
    return content


def has_sprite(name: str, style: str) -> bool:
    """Tell whether `style` draws `name` (some packages lack a few objects)."""
    if style not in STYLES:
        raise ValueError(f"no sprite style {style!r}; there are: {', '.join(STYLES)}")
    return name not in index()["styles"][style]["missing"]


@cache
def _atlas(style: str) -> Image.Image:
    return Image.open(FOLDER / f"{style}.png").convert("RGBA")


@cache
def sprite(name: str, style: str) -> Image.Image:
    """Return one sprite, 128 x 128 RGBA, longest side to the cell's margin.

    Errors: ValueError for an unknown name or style, or where the style lacks the object.
    """
    check_name(name)
    if not has_sprite(name, style):
        raise ValueError(f"style {style!r} does not draw {name!r}; choose another style")
    cell, columns = index()["cell"], index()["columns"]
    left, top = NAMES.index(name) % columns * cell, NAMES.index(name) // columns * cell
    return _atlas(style).crop((left, top, left + cell, top + cell))
