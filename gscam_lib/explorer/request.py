"""What an explorer asks an engine, and what it gets back. Plain data: no torch, no widgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

Box = tuple[int, int, int, int]
COMPARE = ("none", "method", "k")


def side_of(maps: int) -> int:
    """Pixels of the longer side of each map on the screen."""
    return 440 if maps <= 2 else 300


class Cancelled(Exception):  # noqa: N818 — nothing went wrong
    """The request was replaced by a newer one, or stopped by the reader."""


@dataclass(frozen=True)
class Request:
    """What is on the screen.

    photo: a key of the engine's photos; prompts: one map each; k: None takes the model's default;
    compare: "none", "method" or "k", against the value in `other_method` or `other_k`; threshold:
    as in `heatmap_to_box`; channel: one channel's mask to show, None for none.
    """

    photo: str
    prompts: tuple[str, ...]
    method: str = "gscorecam"
    k: int | None = None
    compare: str = "none"
    other_method: str = "gradcam"
    other_k: int = 1
    opacity: float = 0.75
    threshold: str | float = "otsu"
    box: bool = True
    contour: bool = False
    truth: bool = False
    channel: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("Got no prompt; write what to look for, such as 'an apple'.")
        if self.compare not in COMPARE:
            raise ValueError(f"Got compare={self.compare!r}; expected one of {', '.join(COMPARE)}.")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"Got opacity={self.opacity}; expected a share from 0 to 1.")

    def variants(self) -> list[tuple[str, int | None]]:
        """Methods and k to show side by side."""
        shown: list[tuple[str, int | None]] = [(self.method, self.k)]
        if self.compare == "method":
            shown.append((self.other_method, self.k))
        if self.compare == "k":
            shown.append((self.method, self.other_k))
        return shown

    @property
    def maps(self) -> int:
        """How many maps are on the screen."""
        return len(self.prompts) * len(self.variants())


@dataclass(frozen=True)
class Finding:
    """One map on the screen: its facts, and its picture as PNG bytes.

    probability: among the prompts; None where there is but one.
    """

    prompt: str
    method: str
    title: str
    k: int | None
    logit: float
    probability: float | None
    box: Box | None
    flat: bool
    png: bytes = field(repr=False)

    @property
    def caption(self) -> str:
        """What stands above the picture."""
        channels = f", k = {self.k}" if self.k else ""
        return f"{self.title}{channels}"


@dataclass(frozen=True)
class Answer:
    """What an engine found. seconds: of the whole; passes: forward passes made and saved."""

    findings: tuple[Finding, ...]
    channels: tuple[int, ...]
    thumbnails: tuple[bytes, ...] = field(repr=False)
    mask: bytes | None = field(repr=False)
    seconds: float
    passes: int
    saved: int
    total_channels: int
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """The state in words, one line for each map."""
        lines = []
        for f in self.findings:
            where = "flat map, no box" if f.box is None else "box {}, {} to {}, {}".format(*f.box)
            channels = f" with {f.k} of {self.total_channels} channels" if f.k else ""
            share = "" if f.probability is None else f", probability {f.probability:.0%}"
            lines.append(f"“{f.prompt}”, {f.title}{channels}: logit {f.logit:.2f}{share}, {where}.")
        lines.append(
            f"{self.seconds:.2f} s, {self.passes} forward passes made, {self.saved} saved."
        )
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """The same as data, without pictures."""
        rows = [{k: v for k, v in asdict(f).items() if k != "png"} for f in self.findings]
        return {
            "findings": rows,
            "seconds": self.seconds,
            "passes": self.passes,
            "saved": self.saved,
            "channels": list(self.channels),
        }


@dataclass(frozen=True)
class About:
    """What an explorer must know of a model.

    photos: key -> name; methods: name -> title; ranked: methods that take k; prompts: photo's key
    -> what to look for at first; boxed: keys of photos with known boxes.
    """

    model: str
    channels: int
    default_k: int
    photos: dict[str, str]
    methods: dict[str, str]
    ranked: tuple[str, ...]
    prompts: dict[str, str]
    boxed: frozenset[str]


Report = Callable[[int, int, Answer | None], None]
"""Called with passes done, passes in all (0: not known), and the map so far."""
Stop = Callable[[], bool]


class Answers(Protocol):
    """An engine, here or in another process."""

    def about(self) -> About:
        """What there is to choose from."""
        ...

    def add(self, name: str, content: bytes) -> str:
        """Take a photo's file; gives its key."""
        ...

    def run(self, request: Request, stop: Stop, report: Report) -> Answer:
        """Answer; raises Cancelled when `stop()` becomes true."""
        ...

    def page(self, request: Request, stop: Stop, report: Report) -> str:
        """The self-contained page of a request."""
        ...

    def code(self, request: Request) -> str:
        """The Python that makes what is on the screen."""
        ...
