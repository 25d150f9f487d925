"""The look of every figure: one style, and one colour for each method in every chart."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from gscam_lib.figures.files import as_png

STYLE = Path(__file__).parent / "gscam.mplstyle"
STYLES: list[str | Path] = ["seaborn-v0_8-ticks", STYLE]  # seaborn's theme, then what is ours

# ---------------------------------------------------------------- one colour for each method

INK, GREY, REFERENCE = "#44546A", "#757575", "#222222"
"""Colours of what is no method, of controls, and of lines to compare with."""
OURS = "#D55E00"
HUES = ("#4878F0", "#00A860", "#601890", "#C078C0", "#183000", "#1800D8", "#600048")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_METHODS = (
    ("scorecam", "gradcam", "hilacam", "rise", "groupcam", "maskclip", "ablationcam"),
    ("xgradcam", "legrad", "gradeclip", "surgery", "gem", "sclip", "rollout"),
    ("sscam", "gradcam++", "hirescam", "layercam", "eigencam", "eigengradcam", "fullgrad"),
    ("clearclip", "naclip", "patches"),
)  # hues by column; the markers move with the row, so that no two methods look alike
_CONTROLS = ("randomchannels", "uniformweights", "center", "sobel")
_TITLES = {"centre": "center", "sobeledges": "sobel", "clipsurgery": "surgery",
           "attentionrollout": "rollout", "patchsimilarity": "patches"}  # fmt: skip


class Look(NamedTuple):
    """How a method is drawn, in every chart: its colour, its marker, its kind of line."""

    color: str
    marker: str = "o"
    line: str = "-"


_LOOKS = {"gscorecam": Look(OURS)}
for _i, _row in enumerate(_METHODS):
    _shift = 2 * _i + _i // 3
    _LOOKS |= {n: Look(HUES[j], MARKERS[1 + (j + _shift) % 6]) for j, n in enumerate(_row)}
_LOOKS |= {n: Look(GREY, m, "--") for n, m in zip(_CONTROLS, MARKERS, strict=False)}


def look(method: str) -> Look:
    """The look of a method by its name, its title, or either with more in brackets or after a *.

    What is no method is drawn in INK. The colours keep 3 : 1 against white (WCAG) and were chosen
    to differ for colour-blind eyes too (Machado et al. 2009: ΔE of 23 or more between any two).
    """
    plain = method.split("(")[0].split("*")[0].split(":")[0].split(",")[0].lower()
    key = "".join(c for c in plain if c.isalnum() or c == "+")
    return _LOOKS.get(_TITLES.get(key, key), Look(INK))


# ---------------------------------------------------------------- style


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use the project's style inside a `with`; the reader's own settings stay as they were."""
    with plt.style.context(STYLES):
        yield


def use_style() -> None:
    """Use the project's style from here on; in a notebook, show figures as `as_png` has them."""
    plt.style.use(STYLES)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        plt.switch_backend(mpl.get_backend())  # it sets its own format when it is loaded
        shell.display_formatter.formatters["image/png"].for_type(Figure, as_png)
