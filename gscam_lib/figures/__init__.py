"""Figures, in one style: `ax=None` in, Axes out; none shows it. Knows no model.

Photos and maps are in `maps`, charts of tables in `charts`, sentences that depend on numbers in
`claims`.
"""

from gscam_lib.figures.claims import CLAIM, say
from gscam_lib.figures.maps import (
    BOX_COLOR,
    FOLDER,
    STYLE,
    TRUTH_COLOR,
    as_png,
    describe,
    draw_box,
    environment,
    gallery,
    grid,
    intervals,
    overlay,
    panels,
    save,
    show_heatmap,
    show_photo,
    style,
    use_style,
    verdict,
    write_index,
)

__all__ = [
    "BOX_COLOR",
    "CLAIM",
    "FOLDER",
    "STYLE",
    "TRUTH_COLOR",
    "as_png",
    "describe",
    "draw_box",
    "environment",
    "gallery",
    "grid",
    "intervals",
    "overlay",
    "panels",
    "save",
    "say",
    "show_heatmap",
    "show_photo",
    "style",
    "use_style",
    "verdict",
    "write_index",
]
