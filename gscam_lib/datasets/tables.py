"""Data sets that are a folder of images beside a list: CSV, typographic folders, WSOL files."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from gscam_lib.boxes import BoxLike
from gscam_lib.datasets.example import Example

PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
TYPOGRAPHIC = re.compile(r"label=(?P<object>[^=]+?)_text=(?P<word>[^=]*?)(?:_\d+)?$")


def read_csv(root: Path | str, table: Path | str, *, name: str = "csv") -> list[Example]:
    """Examples from a folder of images and a CSV with the columns file and prompt.

    Optional columns: category, image_id, and x0, y0, x1, y1 (half-open pixels; rows with the same
    file and prompt are boxes of one Example). Raises FileNotFoundError, ValueError.
    """
    rows = _read_rows(Path(table), needed=("file", "prompt"))
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        grouped[row["file"], row["prompt"]].append(row)
    return [
        Example(
            image=_existing(root) / file,
            prompt=prompt,
            boxes=tuple(box for row in group if (box := _box(row, table)) is not None),
            category=group[0].get("category") or prompt,
            image_id=group[0].get("image_id") or file,
            source=name,
        )
        for (file, prompt), group in grouped.items()
    ]


def read_typographic(root: Path | str, *, name: str = "typographic") -> list[Example]:
    """Examples of photos with a written word: prompt and category the object, `word` the word.

    root: a folder with index.csv (file, object, written_text), or whose files are called
    label=OBJECT_text=WORD.jpg, as in RTA-100, PAINT and Disentangling. Raises FileNotFoundError,
    and ValueError where no file has such a name.
    """
    root = _existing(root)
    if (root / "index.csv").is_file():
        rows = _read_rows(root / "index.csv", needed=("file", "object", "written_text"))
        found = [(root / r["file"], r["object"], r["written_text"]) for r in rows]
    else:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in PHOTOS)
        matches = [(p, TYPOGRAPHIC.search(p.stem)) for p in files]
        found = [(p, m["object"], m["word"]) for p, m in matches if m]
    if not found:
        raise ValueError(
            f"{root} has neither an index.csv nor photos called label=OBJECT_text=WORD.jpg."
        )
    return [
        Example(path, thing, (), thing, path.relative_to(root).as_posix(), name, word=word)
        for path, thing, word in found
    ]


def read_wsol(
    root: Path | str, metadata: Path | str, class_names: Sequence[str], *, name: str = "imagenet"
) -> list[Example]:
    """Examples of ImageNet or ImageNet-v2 with the box files of the WSOL evaluation.

    root: folder of the images, as the ids say, or without their first part (val2), or in folders of
    synsets; metadata: folder with class_labels.txt (image_id,label) and localization.txt
    (image_id,x0,y0,x1,y1; its last pixel counts as inside, so 1 is added here); class_names: the
    names of the labels in order. Raises FileNotFoundError, ValueError.
    """
    root, metadata = _existing(root), _existing(metadata)
    place = _Places(root)
    boxes: dict[str, list[BoxLike]] = defaultdict(list)
    for image_id, *corners in _lines(metadata / "localization.txt", 5):
        x0, y0, x1, y1 = map(float, corners)
        boxes[image_id].append((x0, y0, x1 + 1, y1 + 1))
    examples = []
    for image_id, label in _lines(metadata / "class_labels.txt", 2):
        if not (label.isdigit() and int(label) < len(class_names)):
            raise ValueError(
                f"{image_id} has the label {label}; expected 0 to {len(class_names) - 1}."
            )
        category = class_names[int(label)]
        truth = tuple(boxes.get(image_id, ()))
        examples.append(Example(place.of(image_id), category, truth, category, image_id, name))
    return examples


class _Places:
    """Where the photos of a list are, in a folder that may be arranged otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, image_id: str) -> Path:
        """As the id says; without its first part; by its name alone; as the id says, if nowhere."""
        asked = self.root / image_id
        shorter = self.root.joinpath(*Path(image_id).parts[1:])
        if asked.is_file() or shorter.is_file():
            return asked if asked.is_file() else shorter
        return self._by_name.get(asked.name, asked)

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        found = [p for p in self.root.rglob("*") if p.suffix.lower() in PHOTOS]
        count = Counter(p.name for p in found)
        return {p.name: p for p in found if count[p.name] == 1}


def _read_rows(table: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    if not table.is_file():
        raise FileNotFoundError(f"No table at {table}.")
    with table.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        missing = [column for column in needed if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{table} has the columns {reader.fieldnames}; expected {', '.join(missing)} too."
            )
        return list(reader)


def _box(row: dict[str, str], table: Path | str) -> BoxLike | None:
    corners = [row.get(key) or "" for key in ("x0", "y0", "x1", "y1")]
    if not any(corners):
        return None
    try:
        x0, y0, x1, y1 = map(float, corners)
    except ValueError as error:
        raise ValueError(f"{table}: the box of {row['file']} is {corners}: {error}.") from error
    return (x0, y0, x1, y1)


def _lines(path: Path, fields: int) -> list[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {path.parent}; expected the WSOL box files.")
    rows = [line.strip().split(",") for line in path.read_text().splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != fields:
            raise ValueError(f"{path}, line {number}: got {len(row)} fields, expected {fields}.")
    return rows


def _existing(folder: Path | str) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"No folder at {folder}.")
    return Path(folder)
