"""Parts of some drawings: where a bicycle's wheels are, or an iPod's screen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gscam_lib.scenes import UNSEEN_STYLE, SceneObject
from gscam_lib.scenes.sprites import sprite

Circle = tuple[float, float, float]  # x, y, radius in the sprite's 128 x 128 cell
Polygon = tuple[tuple[float, float], ...]

# Shapes drawn over the sprite in the style `fluent-3d`, later ones on top; () is all the rest.
PARTS: Mapping[str, tuple[tuple[str, tuple[Circle | Polygon, ...]], ...]] = MappingProxyType(
    {
        "bicycle": (("frame", ()), ("wheel", ((27, 86, 24), (101, 86, 24)))),
        "car": (("body", ()), ("wheel", ((31, 90, 16), (96.5, 90, 16)))),
        "bus": (("body", ()), ("wheel", ((31.5, 96.5, 15.5), (96, 96.5, 15.5)))),
        "motorcycle": (("body", ()), ("wheel", ((22, 85.5, 20), (106, 85.5, 20)))),
        "traffic light": (("housing", ()), ("red lamp", ((64, 29.5, 13.5),)),
                          ("yellow lamp", ((64, 64.5, 13.5),)),
                          ("green lamp", ((64, 99, 13.5),))),
        "umbrella": (("handle", ()), ("canopy", (((0, 0), (128, 0), (128, 69), (0, 69)),))),
        "wine glass": (("stem", ()), ("bowl", (((0, 0), (128, 0), (128, 82), (0, 82)),))),
        "knife": (("blade", ()), ("handle", (((0, 0), (99, 0), (0, 99)),))),
        "guitar": (("body", ()), ("neck", (((52, 60), (62, 71), (100, 38), (128, 24), (128, 0),
                                            (105, 0), (92, 20)),))),
        "flower": (("stem", ()), ("blossom", ((63.5, 51, 48),))),
        "potted plant": (("plant", ()), ("pot", (((0, 73), (128, 73), (128, 128), (0, 128)),))),
        "tree": (("crown", ()), ("trunk", (((0, 101), (128, 101), (128, 128), (0, 128)),))),
        "rocket": (("body", ()), ("flame", (((0, 128), (0, 100), (14, 90), (36, 112), (20, 128)),)),
                   ("nose", (((93, 9), (128, 0), (128, 40), (120.5, 36)),))),
        "iPod": (("body", ()), ("screen", (((37, 12), (90, 12), (90, 53), (37, 53)),)),
                 ("wheel", ((63.6, 86.4, 25.4),))),
        "teddy bear": (("body", ()), ("head", (((28, 0), (100, 0), (100, 45), (92, 60), (80, 66),
                                                (48, 66), (36, 60), (28, 45)),))),
        "giraffe": (("body", ()), ("neck", (((0, 0), (50, 0), (44, 56), (26, 62)),)),
                    ("legs", (((30, 88), (110, 88), (112, 128), (30, 128)),))),
        "toothbrush": (("handle", ()), ("bristles", (((20, 20), (37, 1), (70, 27), (53, 46)),))),
    }
)  # fmt: skip


@cache
def part_map(name: str) -> Image.Image:
    """Return which part each pixel of the sprite belongs to.

    128 x 128, mode L: 0 outside the drawing, then 1, 2, … in the order of PARTS.
    Errors: ValueError for an object without known parts, with those that have them.
    """
    if name not in PARTS:
        raise ValueError(f"no parts are known of {name!r}; they are of: {', '.join(PARTS)}")
    alpha = sprite(name, UNSEEN_STYLE).getchannel("A")
    painted = Image.new("L", alpha.size, 1)
    draw = ImageDraw.Draw(painted)
    for number, (_, shapes) in enumerate(PARTS[name], 1):
        for shape in shapes:
            if isinstance(shape[0], tuple):
                draw.polygon(shape, fill=number)
            else:
                x, y, r = shape
                draw.ellipse([x - r, y - r, x + r, y + r], fill=number)
    opaque = alpha.point([0] * 128 + [255] * 128)
    return Image.composite(painted, Image.new("L", alpha.size), opaque)


def parts_of(thing: SceneObject) -> dict[str, NDArray[np.bool_]]:
    """Return the masks (H, W) of an object's visible parts: disjoint, in the order of PARTS.

    Empty where the drawing's parts are not known: in other styles, and of other objects.
    """
    if thing.style != UNSEEN_STYLE or thing.name not in PARTS:
        return {}
    posed = thing.pose.apply(part_map(thing.name), Image.Resampling.NEAREST)
    sheet = Image.new("L", thing.mask.shape[::-1])
    sheet.paste(posed, thing.pose.corner)
    numbers = np.asarray(sheet)
    return {part: thing.mask & (numbers == i) for i, (part, _) in enumerate(PARTS[thing.name], 1)}
