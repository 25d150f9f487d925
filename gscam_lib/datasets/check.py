"""A data set against itself and its photos, before anything is computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gscam_lib.datasets.coco import CocoDataset
from gscam_lib.datasets.example import Example, Selection
from gscam_lib.datasets.findings import Finding, listed
from gscam_lib.datasets.placement import header, mismatch

EMPTY = "Expected photos with the name of a thing in each."
ROW = "Its questions become rows with this error."


def check(dataset: Sequence[Example], *, photos: bool = True, masks: bool = True) -> list[Finding]:
    """All that is wrong with a data set, and what will be done about it.

    photos: open every photo's header, too; masks: look at every segmentation, without drawing it.
    Findings are "refused" (it must not be evaluated), "left out" (some of it is), or "noted".
    """
    whole: Any = dataset
    while isinstance(whole, Selection):
        whole = whole.dataset
    findings = list(getattr(whole, "findings", ()))
    if not isinstance(whole, CocoDataset):  # whose reader knows that its ids are unique
        findings += _collisions(dataset)
    elif masks:
        findings += listed(
            "left out", "There are outlines that cannot be drawn", whole.faulty_outlines(), ROW
        )
    if photos:
        findings += _photos(dataset, getattr(whole, "root", None))
    if not len(dataset):
        findings += listed("refused", "There is nothing to ask", ["0 pairs"], EMPTY)
    return findings


def table(findings: Sequence[Finding]) -> str:
    """Findings for a reader, the gravest first; one line where there are none."""
    if not findings:
        return "Nothing wrong was found."
    order = ["refused", "left out", "noted"]
    rows = sorted(findings, key=lambda f: order.index(f.severity))
    lines = [f"{f.severity:8}  {f.count:>7,}  {f.what}: {f.where}. {f.action}" for f in rows]
    return "\n".join(lines)


def _collisions(dataset: Sequence[Example]) -> list[Finding]:
    """Questions that could not be told apart in a table of rows."""
    photos: dict[tuple[str, str], set[Any]] = defaultdict(set)
    asked: dict[tuple[str, ...], int] = defaultdict(int)
    for e in dataset:
        photo = str(e.image) if isinstance(e.image, str | Path) else e._pixels
        photos[e.source, e.image_id].add(photo)
        asked[e.source, e.image_id, e.category, e.prompt] += 1
    shared = [f"{i!r} ({len(p)} photos)" for (_, i), p in photos.items() if len(p) > 1]
    twice = [f"{p!r} of {i!r}" for (_, i, _, p), count in asked.items() if count > 1]
    return [
        *listed("refused", "There are photos that share an image id", shared, "Make ids unique."),
        *listed("refused", "There are questions that are there twice", twice, "Keep one of each."),
    ]


def _photos(dataset: Sequence[Example], root: Path | None) -> list[Finding]:
    """What the headers of the photos say, each opened once, and boxes that lie beyond them."""
    found: dict[str, list[str]] = defaultdict(list)
    count = 0
    sizes: dict[Any, tuple[int, int] | None] = {}
    home = None if root is None else root.resolve()
    for example in dataset:
        image = example.image
        key = str(image) if isinstance(image, str | Path) else id(image)
        if key not in sizes:
            sizes[key], faults = _photo(example, home)
            for kind, place in faults:
                found[kind].append(place)
        count += len(example.boxes)
        if size := sizes[key]:
            for kind, place in _beyond(example, size):
                found[kind].append(place)
    if 2 * len(found["shares"]) <= count:  # a few boxes may be that small
        found["tiny"] = found.pop("shares", [])
    return [
        finding
        for kind, (severity, what, action) in KINDS.items()
        for finding in listed(severity, what, found[kind], action)
    ]


KINDS: dict[str, tuple[Any, str, str]] = {
    "outside": ("refused", "There are photos that are links out of the folder of images",
                "Copy them, or give the folder that holds them as root."),
    "absent": ("left out", "There are photos that are not there", ROW),
    "unreadable": ("left out", "There are files that cannot be read as photos", ROW),
    "other": ("left out", "There is truth in other pixels than the photo's", ROW),
    "beyond": ("left out", "There are true boxes without area inside their photo", ROW),
    "shares": ("refused", "There are boxes inside a photo's first pixel: shares of its size?",
               "Boxes are in pixels; multiply x by the width and y by the height."),
    "tiny": ("noted", "There are boxes inside a photo's first pixel", "They count as they are."),
    "reaching": ("noted", "There are boxes that reach beyond their photo",
                 "They count as they are. Are they corners, and of this photo as it is seen?"),
    "turned": ("noted", "There is truth in pixels as stored, which EXIF turns",
               "Boxes and masks are turned with the photo."),
    "ambiguous": ("noted", "There are photos that EXIF turns, and no size says in whose "
                  "pixels their truth is", "It is taken as of the photo as it is seen."),
}  # fmt: skip


def _photo(
    example: Example, home: Path | None
) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """The size its boxes must be inside of, None where there is none, and faults with places."""
    name = example.file or str(example.image)
    if not isinstance(example.image, str | Path):
        name = example.image_id
    elif home is not None and not Path(example.image).resolve().is_relative_to(home):
        return None, [("outside", name)]
    try:
        about = header(example.image)
    except FileNotFoundError:
        return None, [("absent", name)]
    except ValueError as error:
        return None, [("unreadable", str(error))]
    size = example.photo_size or about.seen
    if wrong := mismatch(size, about):
        return None, [("other", f"{name} ({wrong})")]
    if size != about.seen:
        return size, [("turned", f"{name} ({size[0]} × {size[1]})")]
    unknown = about.orientation > 1 and example.photo_size is None
    turned = (about.ambiguous or unknown) and len(example.boxes) > 0
    return size, [("ambiguous", f"{name} (orientation {about.orientation})")] if turned else []


def _beyond(example: Example, size: tuple[int, int]) -> list[tuple[str, str]]:
    """Boxes outside their photo, half outside it, or in its first pixel, as a kind and a place."""
    (width, height), found = size, []
    for x0, y0, x1, y1 in example.boxes:
        whole = x0 % 1 == y0 % 1 == 0  # WSOL's reader adds 1 to the last pixel
        kind = ""
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            kind = "beyond"
        elif max(x1, y1) <= (1 if whole else 2) and min(x0, y0) >= 0 and max(x0, y0) < 1:
            kind = "shares"
        elif example.photo_size is None and (
            x1 > width + 1 or y1 > height + 1 or min(x0, y0) < -1
        ):  # where the data set has sizes its reader knows
            kind = "reaching"
        if kind:
            place = f"({x0:g}, {y0:g}, {x1:g}, {y1:g}; {width} × {height} pixels)"
            found.append((kind, f"{example.image_id} {place}"))
    return found
