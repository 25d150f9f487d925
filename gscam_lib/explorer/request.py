"""What an explorer asks an engine, and what it gets back. Plain data: no torch, no widgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Box = tuple[int, int, int, int]
COMPARE = ("none", "method", "k")
MOST_PROMPTS, LONGEST_PROMPT = 12, 300
"""Prompts of one request, and letters of one prompt."""


class Cancelled(Exception):  # noqa: N818 — nothing went wrong
    """The request was replaced by a newer one, or stopped by the reader."""


@dataclass(frozen=True)
class Request:
    """What is on the screen. Raises ValueError for what no control can ask for.

    photo: a key of the engine's photos; prompts: one map each; k: None takes the model's default;
    quality: the share of a map's masked copies that is scored, where others are guessed; compare:
    "none", "method" or "k", against the value in `other_method` or `other_k`; threshold: as in
    `heatmap_to_box`; channel: one channel to look at, None for none; strongest: whether to find its
    strongest pictures among the photos on offer; others: prompts without a map that share in the
    probabilities.
    """

    photo: str
    prompts: tuple[str, ...]
    method: str = "gscorecam"
    k: int | None = None
    quality: float = 1.0
    compare: str = "none"
    other_method: str = "gradcam"
    other_k: int = 1
    opacity: float = 0.75
    threshold: str | float = "otsu"
    box: bool = True
    contour: bool = False
    truth: bool = False
    channel: int | None = None
    strongest: bool = False
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("Got no prompt; write what to look for, such as 'an apple'.")
        count, longest = len(self.prompts + self.others), max(map(len, self.prompts + self.others))
        if count > MOST_PROMPTS or longest > LONGEST_PROMPT:
            raise ValueError(
                f"Got {count} prompts, the longest of {longest} letters; at most {MOST_PROMPTS} of "
                f"{LONGEST_PROMPT} letters are looked for at once."
            )
        if self.compare not in COMPARE:
            raise ValueError(f"Got compare={self.compare!r}; expected one of {', '.join(COMPARE)}.")
        for name in ("k", "other_k", "channel"):
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
                raise ValueError(f"Got {name}={number!r}; expected a whole number.")
        if not isinstance(self.quality, int | float) or not 0 < self.quality <= 1:
            raise ValueError(f"Got quality={self.quality!r}; expected a share above 0, up to 1.")
        if not isinstance(self.opacity, int | float) or not 0 <= self.opacity <= 1:
            raise ValueError(f"Got opacity={self.opacity!r}; expected a share from 0 to 1.")
        if not isinstance(self.threshold, str | int | float):
            raise ValueError(f"Got threshold={self.threshold!r}; expected 'otsu' or a share.")

    def budget(self, copies: int) -> int | None:
        """How many of so many masked copies may be scored; None for all."""
        return None if self.quality == 1 else max(1, round(self.quality * copies))

    def variants(self) -> list[tuple[str, int | None]]:
        """Methods and k to show side by side."""
        shown: list[tuple[str, int | None]] = [(self.method, self.k)]
        if self.compare == "method":
            shown.append((self.other_method, self.k))
        if self.compare == "k":
            shown.append((self.method, self.other_k))
        return shown

    def maps(self) -> list[tuple[str, str, int | None]]:
        """(prompt, method, k) of each map on the screen, in order."""
        return [(prompt, method, k) for prompt in self.prompts for method, k in self.variants()]


@dataclass(frozen=True)
class Finding:
    """One map on the screen. Boxes and lines are in pixels of the photo as it came.

    probability: among the prompts, None where there is but one; values: the map as (h, w) bytes,
    0 to 255; contour: outlines of what is hot; passes, band: as in `Heatmap`; of: all
    copies that there are for it, None where all were scored.
    """

    prompt: str
    method: str
    title: str
    k: int | None
    logit: float
    probability: float | None
    box: Box | None
    flat: bool
    shape: tuple[int, int]
    values: bytes = field(repr=False)
    contour: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    passes: int | None = None
    band: float | None = None
    of: int | None = None

    @property
    def caption(self) -> str:
        """What stands above the map."""
        ranked = f", k = {self.k}" if self.k else ""
        return self.title + ranked + self.near

    @property
    def near(self) -> str:
        """How far the map may be from the full one, in words; nothing where it is the full one."""
        if self.of is None:
            return ""
        made = f"{self.passes} of {self.of} passes" if self.passes else "a draft"
        return f", {made}, ± {self.band:.2f}"

    def text(self, channels: int) -> str:
        """The map in words."""
        where = "flat map, no box" if self.box is None else "box {}, {} to {}, {}".format(*self.box)
        of = f" with {self.k} of {channels} channels" if self.k else ""
        of += self.near
        share = "" if self.probability is None else f", probability {self.probability:.0%}"
        return f"“{self.prompt}”, {self.title}{of}: logit {self.logit:.2f}{share}, {where}."


@dataclass(frozen=True)
class View:
    """A photo as it is shown. size: of the photo as it came; boxes: true ones, in its pixels."""

    size: tuple[int, int]
    boxes: tuple[tuple[float, ...], ...]
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """What an engine found. seconds: of the whole; passes: forward passes made.

    shares: probabilities of prompts and others, where there are two or more;
    channels, thumbnails: those of the highest gradient, and their masks as PNG; mask: of the
    channel asked for; strongest: its strongest pictures, each a caption and a PNG; words: what each
    word of a prompt adds to its logit, for prompts of two words or more.
    """

    view: View
    findings: tuple[Finding, ...]
    shares: dict[str, float]
    channels: tuple[int, ...]
    thumbnails: tuple[bytes, ...] = field(repr=False)
    mask: bytes | None = field(repr=False)
    strongest: tuple[tuple[str, bytes], ...] = field(repr=False)
    seconds: float
    passes: int
    total_channels: int
    warnings: tuple[str, ...] = ()
    words: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    def text(self) -> str:
        """The state in words, one line for each map."""
        lines = [finding.text(self.total_channels) for finding in self.findings]
        lines.append(f"{self.seconds:.2f} s, {self.passes} forward passes.")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """The same as data, without pictures."""
        left_out = ("values", "shape", "contour", "of")
        rows = [{k: v for k, v in asdict(f).items() if k not in left_out} for f in self.findings]
        return {
            "findings": rows,
            "words": {prompt: list(table) for prompt, table in self.words.items()},
            "seconds": self.seconds,
            "passes": self.passes,
            "channels": list(self.channels),
        }


@dataclass(frozen=True)
class About:
    """What an explorer must know of a model.

    photos: key -> name; methods: name -> title; ranked: methods that take k; prompts: photo's key
    -> what to look for at first; boxed: keys of photos with known boxes; colors: the colour map,
    red, green, blue of 256 steps; scored: methods that score masked copies.
    """

    model: str
    channels: int
    default_k: int
    photos: dict[str, str]
    methods: dict[str, str]
    ranked: tuple[str, ...]
    prompts: dict[str, tuple[str, ...]]
    boxed: frozenset[str]
    colors: tuple[float, ...] = field(repr=False)
    scored: tuple[str, ...] = ()


Report = Callable[[int, int, Answer | None], None]
"""Called with passes done, passes in all (0: not known), and what there is so far."""
Stop = Callable[[], bool]
