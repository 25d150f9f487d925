"""Letters in figures: every `$` is a dollar, every letter has a font, a minus is a minus."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Sequence

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text


def signed(values: Sequence[float], decimals: int = 3) -> list[str]:
    """Numbers with their sign, a true minus, and decimals enough to tell them apart (six at most).

    What rounds to 0 has no sign.
    """
    while True:
        texts = [f"{v:+.{decimals}f}" for v in values]
        texts = [t.replace("-", "−") if float(t) else t[1:] for t in texts]
        if decimals >= 6 or len(set(texts)) == len(set(values)):
            return texts
        decimals += 1


def readable(figure: Figure) -> Figure:
    """Take every `$` as a dollar, and find a font of this machine for letters that ours lacks.

    Warns of characters that no font here has, by name. Ticks of logarithmic axes stay as they are.
    """
    for text in figure.findobj(Text):
        words = text.get_text()
        if "$" in words and r"\mathdefault" not in words:
            text.set_parse_math(False)
        if not words.isascii():
            own = _letters(font_manager.findfont(text.get_fontproperties()))
            missing = frozenset(c for c in words if ord(c) not in own and not c.isspace())
            if missing:
                text.set_fontfamily([*text.get_fontfamily(), *_families(missing)])
    return figure


@functools.lru_cache(maxsize=64)
def _letters(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


@functools.lru_cache(maxsize=256)
def _families(missing: frozenset[str]) -> tuple[str, ...]:
    """Fonts of this machine that have these characters together, the one with most of them first.

    Warns of characters that none has.
    """
    covers: dict[str, set[str]] = {}
    for entry in font_manager.fontManager.ttflist:
        if not entry.name.startswith("Last Resort"):  # it has every letter, as a box
            with contextlib.suppress(RuntimeError, OSError):
                font = FT2Font(entry.fname)
                if font.scalable:
                    had = {c for c in missing if ord(c) in font.get_charmap()}
                    covers[entry.name] = covers.get(entry.name, had) & had
    chosen, left = [], set(missing)
    while left and any(left & had for had in covers.values()):
        best = max(covers, key=lambda name: (len(left & covers[name]), "Sans" in name))
        chosen.append(best)
        left -= covers[best]
    if left:
        warnings.warn(
            f"No font on this machine has {' '.join(sorted(left))}: drawn as empty boxes. Install "
            "one that has, such as Noto Sans CJK, and delete matplotlib's font cache.",
            stacklevel=4,
        )
    return tuple(chosen)
