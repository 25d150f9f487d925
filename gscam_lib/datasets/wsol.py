"""ImageNet and ImageNet-v2 with the box files of the WSOL evaluation (Choe et al., CVPR 2020)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from gscam_lib.boxes import BoxLike
from gscam_lib.datasets.example import Example, Examples
from gscam_lib.datasets.findings import DataError, Finding, escapes, listed
from gscam_lib.datasets.tables import PHOTOS, existing, number, read_text

Lines = list[tuple[int, list[str]]]


def read_wsol(
    root: Path | str, metadata: Path | str, class_names: Sequence[str], *, name: str = "imagenet"
) -> Examples:
    """Examples of ImageNet or ImageNet-v2 with the box files of the WSOL evaluation.

    root: folder of the images, as the ids say, or without their first part (val2), or in folders of
    synsets; metadata: folder with class_labels.txt (image_id,label), localization.txt
    (image_id,x0,y0,x1,y1; its last pixel counts as inside, so 1 is added here), and perhaps
    image_sizes.txt (image_id,width,height) and mapping.txt (0/0.jpeg, 0/a310….jpeg): the photos of
    ImageNet-v2 were renamed after the first lists were made, and either name stands for the other;
    class_names: the names of the labels in order. Raises FileNotFoundError, and ValueError naming
    file and line.
    """
    root, metadata = existing(root), existing(metadata)
    labels = _lines(metadata / "class_labels.txt", 2)
    _check_labels(metadata / "class_labels.txt", labels, len(class_names))
    place = _Places(root, _mapping(metadata / "mapping.txt"))
    boxes: dict[str, list[BoxLike]] = defaultdict(list)
    for image_id, box in _boxes(metadata / "localization.txt"):
        boxes[place.shipped(image_id)].append(box)
    sizes = {place.shipped(i): size for i, size in _sizes(metadata / "image_sizes.txt")}
    examples = []
    for _, (image_id, label) in labels:
        category, shipped, photo = (
            class_names[int(label)],
            place.shipped(image_id),
            place.of(image_id),
        )
        truth = tuple(boxes.pop(shipped, ()))
        examples.append(
            Example(
                photo, category, truth, category, image_id, name, photo_size=sizes.get(shipped),
                file=photo.relative_to(root).as_posix(),
            )
        )  # fmt: skip
    bare = [e.image_id for e in examples if not e.boxes]
    found = listed("noted", "There are images without box", bare, "They count as misses.")
    found += listed("noted", "There are boxes of images without label", list(boxes), "Not used.")
    found += listed("noted", "There are labels of one name", _shared(class_names),
                    "They are asked alike and count as one class.")  # fmt: skip
    return Examples(root, examples, found)


def read_names(path: Path) -> list[str]:
    """The names of WSOL's labels in order, one a line. Raises DataError for lines without one."""
    names = [line.strip() for line in read_text(path).rstrip().split("\n")]
    blank = [f"line {n}" for n, name in enumerate(names, 1) if not name]
    if blank:
        action = "Each line is the name of the label of its number, from 0 on; write the names."
        raise DataError(path, listed("refused", "There are labels without a name", blank, action))
    return names


def _shared(class_names: Sequence[str]) -> list[str]:
    labels: dict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(class_names):
        labels[name].append(label)
    return [f"{name!r} ({', '.join(map(str, of))})" for name, of in labels.items() if len(of) > 1]


def _check_labels(path: Path, labels: Lines, classes: int) -> None:
    count = Counter(image_id for _, (image_id, _) in labels)
    twice = [f"line {n} ({i})" for n, (i, _) in labels if count[i] > 1]
    out = [f"line {n} ({i})" for n, (i, _) in labels if escapes(i)]
    wrong = [
        f"line {n} ({i} has the label {label}; expected 0 to {classes - 1})"
        for n, (i, label) in labels
        if not (label.isascii() and label.isdigit() and len(label) < 8 and int(label) < classes)
    ]
    found: list[Finding] = [
        *listed("refused", "There are labels without a name", wrong, "Give the names of all."),
        *listed("refused", "There are images with two labels", twice, "Keep one of each."),
        *listed("refused", "There are names outside the folder of images", out,
                "Names must stay below the root."),
    ]  # fmt: skip
    if found:
        raise DataError(path, found)


def _boxes(path: Path) -> list[tuple[str, BoxLike]]:
    boxes: list[tuple[str, BoxLike]] = []
    wrong = []
    for at, (image_id, *corners) in _lines(path, 5):
        try:
            x0, y0, x1, y1 = map(number, corners)
        except ValueError:
            x0, y0, x1, y1 = [math.nan] * 4
        if not (math.isfinite(x0 + y0 + x1 + y1) and x0 <= x1 and y0 <= y1):
            wrong.append(f"line {at} ({', '.join(corners)})")
        boxes.append((image_id, (x0, y0, x1 + 1, y1 + 1)))
    if wrong:
        action = "Correct them."
        raise DataError(path, listed("refused", "There are boxes that are none", wrong, action))
    return boxes


def _sizes(path: Path) -> list[tuple[str, tuple[int, int]]]:
    lines = _lines(path, 3) if path.is_file() else []
    sizes: dict[str, tuple[int, int]] = {}
    wrong = []
    for n, (image_id, *size) in lines:
        plain = all(s.isascii() and s.isdigit() and len(s) < 8 for s in size)
        width, height = map(int, size) if plain else (0, 0)
        if not (width and height) or sizes.setdefault(image_id, (width, height)) != (width, height):
            wrong.append(f"line {n} ({', '.join(size)[:30]})")
    if wrong:
        what = "There are sizes that are none, or of which one image has two"
        raise DataError(path, listed("refused", what, wrong, "Correct them."))
    return list(sizes.items())


def _mapping(path: Path) -> dict[str, str]:
    """Names that the lists use to names as shipped."""
    if not path.is_file():
        return {}
    lines = _lines(path, 2)
    out = [f"line {n} ({shipped.strip()})" for n, (_, shipped) in lines if escapes(shipped.strip())]
    if out:
        action = "Names must stay below the root."
        raise DataError(path, listed("refused", "There are names outside the root", out, action))
    return {listed_as.strip(): shipped.strip() for _, (listed_as, shipped) in lines}


class _Places:
    """Where the photos of a list are, in a folder that may be arranged otherwise."""

    def __init__(self, root: Path, mapping: dict[str, str]) -> None:
        self.root, self.mapping = root, mapping

    def shipped(self, image_id: str) -> str:
        """An id with the name that its photo has today; the same id where it was not renamed."""
        first, _, rest = image_id.partition("/")
        return f"{first}/{self.mapping[rest]}" if rest in self.mapping else image_id

    def of(self, image_id: str) -> Path:
        """As the id says, or its name of today; without its first part; by its name alone."""
        names = (image_id, self.shipped(image_id))
        for tried in (*names, *(name.partition("/")[2] for name in names)):
            if tried and (self.root / tried).is_file():
                return self.root / tried
        return self._by_name.get(PurePosixPath(names[1]).name, self.root / image_id)

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        found = [p for p in self.root.rglob("*") if p.suffix.lower() in PHOTOS]
        count = Counter(p.name for p in found)
        return {p.name: p for p in found if count[p.name] == 1}


def _lines(path: Path, fields: int) -> Lines:
    """Numbered lines of a list, in their fields."""
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {path.parent}; expected the WSOL box files.")
    lines = [
        (at, line.strip().split(","))
        for at, line in enumerate(read_text(path).split("\n"), 1)
        if line.strip()
    ]
    for at, line in lines:
        if len(line) != fields:
            raise ValueError(f"{path}, line {at}: got {len(line)} fields, expected {fields}.")
    return lines
