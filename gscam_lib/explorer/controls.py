"""Controls and pictures as data: what `view.js` draws, for a kernel and for a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from gscam_lib.explorer.request import Answer, Finding, Request

Control = dict[str, Any]
THRESHOLDS: list[tuple[Any, str]] = [
    ("otsu", "Otsu"), *((i / 100, f"{i / 100:.2f}") for i in range(1, 101)),
]  # fmt: skip
CHANNEL: list[Control] = [  # set by buttons beside the maps
    {"kind": "hidden", "name": "channel", "value": None},
    {"kind": "hidden", "name": "strongest", "value": False},
]


def read(name: str) -> str:
    """The text of a file beside this one."""
    return files("gscam_lib.explorer").joinpath(name).read_text(encoding="utf-8")


def texts(language: str = "en") -> dict[str, Any]:
    """What readers see, in one place: labels of controls by name, sentences with {blanks}."""
    found: dict[str, Any] = json.loads(read(f"texts/{language}.json"))
    return found


def values(groups: Sequence[Sequence[Control]]) -> dict[str, Any]:
    """Where the controls stand: name -> value."""
    return {c["name"]: c["value"] for group in groups for c in group if "value" in c}


def choice(name: str, options: Sequence[tuple[Any, str]], value: Any) -> Control:
    """One of several (value, text); its label, as that of all controls, stands in `texts`."""
    listed = [list(option) for option in options]
    return {"kind": "select", "name": name, "value": value, "options": listed}


def slider(name: str, options: Sequence[tuple[Any, str]], value: Any) -> Control:
    """One of several (value, text) in a row, moved by hand or arrow keys."""
    return {**choice(name, options, value), "kind": "range"}


def percent(name: str, value: float, low: int = 0) -> Control:
    """A share, as a percentage."""
    return slider(name, [(i / 100, f"{i} %") for i in range(low, 101)], value)


def control(kind: str, name: str, value: Any = None) -> Control:
    """A "text" (Enter sends it), a "check", a "button", or a "file"."""
    stands = {} if kind in ("button", "file") else {"value": value}
    return {"kind": kind, "name": name, **stands}


def drawing(*checks: str, opacity: float = 0.75, threshold: Any = "otsu", on: Any = ("box",)
            ) -> list[Control]:  # fmt: skip
    """How maps are drawn: opacity, what is in the box, and some checks, `on` checked."""
    other = [] if threshold in dict(THRESHOLDS) else [(threshold, f"{threshold:g}")]
    return [
        percent("opacity", opacity),
        slider("threshold", [THRESHOLDS[0], *sorted(THRESHOLDS[1:] + other)], threshold),
        *(control("check", name, name in on) for name in checks),
    ]


def ks(channels: int, *extra: int) -> list[tuple[int, str]]:
    """Numbers of channels for a slider, 1 to C, evenly spaced in their logarithm."""
    found = {round(channels ** (i / 80)) for i in range(81)} | {channels, *extra}
    return [(k, f"{k} of {channels}") for k in sorted(found) if 1 <= k <= channels]


def numbered(names: Mapping[str, str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Key -> name, each name once: one that is there already gets a number."""
    used, found = set(taken), {}
    for key, name in names.items():
        number, found[key] = 2, name
        while found[key] in used:
            number, found[key] = number + 1, f"{name} ({number})"
        used.add(found[key])
    return found


def panels(answer: Answer) -> list[dict[str, Any]]:
    """The maps as the browser draws them; the words of a prompt stand below its first map."""
    words = dict(answer.words)
    return [{**_panel(f), "words": words.pop(f.prompt, ())} for f in answer.findings]


def _panel(finding: Finding) -> dict[str, Any]:
    share = "" if finding.probability is None else f" · {finding.probability:.0%}"
    flat = " · flat" if finding.flat else ""
    return {
        "title": f"“{finding.prompt}”{share}{flat}",
        "note": f"{finding.caption} · logit {finding.logit:.2f}",
        "alt": f"Heatmap of “{finding.prompt}” by {finding.caption}",
        "map": finding.values, "shape": list(finding.shape),
        "box": finding.box and list(finding.box), "contour": [list(c) for c in finding.contour],
    }  # fmt: skip


def strip(request: Request, answer: Answer) -> dict[str, Any]:
    """The channels of the highest gradient; of the one that is chosen its mask and pictures."""
    chosen: dict[str, Any] = {}
    if answer.mask is not None:
        number = request.channel
        alt = f"The photo through the mask of channel {number}"
        chosen = {
            "number": number,
            "mask": {"note": "what its mask leaves of the photo", "alt": alt, "png": answer.mask},
            "strongest": [
                {"note": note, "alt": f"Channel {number} on {note}", "png": png}
                for note, png in answer.strongest
            ],
        }
    return {
        "title": f"Channels by mean gradient, for “{request.prompts[0]}”, the highest first",
        "channels": list(answer.channels),
        "faces": list(answer.thumbnails),
        "chosen": chosen,
    }
