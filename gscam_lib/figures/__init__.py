"""Figures, in one style: `ax=None` in, Axes out; none shows it. Knows no model.

Photos and maps are in `maps`, a picture of a CLIP in `network`, charts of tables in `charts`
(seaborn), the rule of what counts as decided in `decision`, sentences that depend on numbers in
`claims`, which words made a score in `sentences`, colours in `looks`, letters in `letters`, what is
written to disk in `files`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gscam_lib.figures.claims import CLAIM, say
from gscam_lib.figures.files import as_png, environment, save
from gscam_lib.figures.letters import readable, signed
from gscam_lib.figures.looks import GREY, REFERENCE, look, style, use_style
from gscam_lib.figures.maps import (
    BOX_COLOR,
    TRUTH_COLOR,
    describe,
    draw_box,
    gallery,
    grid,
    overlay,
    panels,
    show_heatmap,
    show_photo,
)
from gscam_lib.figures.network import towers
from gscam_lib.figures.sentences import words

if TYPE_CHECKING:
    from gscam_lib.figures import charts
    from gscam_lib.figures.charts import intervals
    from gscam_lib.figures.decision import decided, verdict, verdicts

__all__ = [
    "BOX_COLOR",
    "CLAIM",
    "GREY",
    "REFERENCE",
    "TRUTH_COLOR",
    "as_png",
    "charts",
    "decided",
    "describe",
    "draw_box",
    "environment",
    "gallery",
    "grid",
    "intervals",
    "look",
    "overlay",
    "panels",
    "readable",
    "save",
    "say",
    "show_heatmap",
    "show_photo",
    "signed",
    "style",
    "towers",
    "use_style",
    "verdict",
    "verdicts",
    "words",
]
_LATER = {"intervals": "charts", "decided": "decision", "verdict": "decision",
          "verdicts": "decision"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import seaborn and statsmodels when a chart is drawn: who draws maps does not wait for it."""
    if name == "charts":
        return import_module(f"{__name__}.charts")
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
