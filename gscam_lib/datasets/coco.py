"""COCO, LVIS, PartImageNet: an Example for each pair of an image and a class with boxes in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd

from gscam_lib.datasets.coco_file import Columns, read_columns
from gscam_lib.datasets.example import Example, Selection
from gscam_lib.datasets.findings import DataError
from gscam_lib.datasets.outlines import Outlines, check
from gscam_lib.paths import expanded

Array = np.ndarray[Any, Any]


class CocoDataset(Sequence[Example]):
    """Examples of an instances JSON in COCO's form, in the order of image ids, then category ids.

    root: folder of the images; annotations: the instances of COCO, LVIS or PartImageNet. Crowd
    regions, boxes without area and boxes outside their image are left out; `left_out` counts them,
    `findings` names them. The prompt is the bare class name, with LVIS's underscores and remarks in
    brackets taken out. Examples are made, and masks read from the file, when asked for. Raises
    FileNotFoundError, and ValueError for what is no such file, has one id or class name twice,
    names an image or category that it does not have, or a file outside the root.
    """

    def __init__(self, root: Path | str, annotations: Path | str, *, name: str = "coco") -> None:
        self.root, self.file = expanded(root), expanded(annotations)
        self.name = name
        for path, what in ((self.root, "folder of images"), (self.file, "instances file")):
            if not path.exists():
                raise FileNotFoundError(f"No {what} at {path}. Expected COCO's images and JSON.")
        columns, self.findings = read_columns(self.file)
        if any(found.severity == "refused" for found in self.findings):
            raise DataError(self.file, self.findings)
        self._keep(columns)

    def _keep(self, columns: Columns) -> None:
        """The columns of what is asked, sorted: a pair of image and category is a range of rows."""
        self.left_out = Counter({k: int(v.sum()) for k, v in columns.left_out.items() if v.any()})
        kept = np.flatnonzero(~np.logical_or.reduce(list(columns.left_out.values())))
        key = columns.images[kept] * np.int64(len(columns.names)) + columns.categories[kept]
        order = np.argsort(key, kind="stable")
        self._rows, key = kept[order], key[order]
        self._starts = np.flatnonzero(np.diff(key, prepend=-1))
        self._columns, self._keys = columns, key[self._starts]
        self._prompts = [_prompt(name) for name in columns.names]

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Selection: ...
    def __getitem__(self, index: int | slice) -> Example | Selection:
        """The Example at a position, or a Selection of some."""
        if isinstance(index, slice):
            return Selection(self, range(len(self))[index])
        index = range(len(self))[index]
        columns = self._columns
        stop = self._starts[index + 1] if index + 1 < len(self) else len(self._rows)
        rows = self._rows[self._starts[index] : stop]
        image, category = divmod(int(self._keys[index]), len(columns.names))
        width, height = columns.sizes[image].tolist()
        file = columns.files[image]
        return _CocoExample(
            image=self.root / file,
            prompt=self._prompts[category],
            boxes=tuple(map(tuple, columns.boxes[rows].tolist())),
            category=columns.names[category],
            image_id=str(columns.image_ids[image]),
            source=self.name,
            mask=self._outlines(rows, (height, width)),  # type: ignore[arg-type]
            photo_size=(width, height) if width else None,
            file=file,
        )

    def _outlines(self, rows: Array, size: tuple[int, int]) -> Outlines | None:
        """Of all instances; None where one of them has none, or the file gives no size."""
        spans = self._columns.spans[rows]
        if not (size[0] and spans[:, 1].all()):
            return None
        hashes, places = self._columns.hashes[rows].tobytes(), tuple(rows.tolist())
        return Outlines(self.file, size, tuple(map(tuple, spans.tolist())), hashes, places)

    @property
    def files(self) -> Sequence[str]:
        """The files of all images, with annotations or without, in the order of the JSON."""
        return self._columns.files

    def faulty_outlines(self) -> list[str]:
        """The annotations whose segmentations cannot be drawn, each with what is wrong."""
        content, columns = memoryview(self.file.read_bytes()), self._columns
        found = []
        for row in self._rows.tolist():
            start, length = columns.spans[row]
            width, height = columns.sizes[columns.images[row]].tolist()
            if length and width:
                wrong = check(content[start : start + length], (height, width))
                found += [f"annotations[{row}]: {wrong}"] if wrong else []
        return found

    def results(self, rows: pd.DataFrame, method: str) -> list[dict[str, Any]]:
        """Boxes and masks of one method in COCO's results form, for pycocotools' own evaluator.

        rows: of an evaluation on this data set. bbox is (x, y, width, height), segmentation the hot
        pixels inside it as RLE, score the logit; rows without a box are left out. Raises ValueError
        for a method without rows, and for rows of another data set.
        """
        mine = rows[rows["method"] == method]
        if mine.empty:
            raise ValueError(f"No rows of '{method}'; there are {', '.join(set(rows['method']))}.")
        if mine["k"].nunique() > 1:
            used = ", ".join(f"'{method}:k={k}'" for k in mine["k"].unique())
            raise ValueError(f"'{method}' has rows of several k; give rows or name of one: {used}.")
        category_ids = dict(zip(self._columns.names, self._columns.category_ids, strict=True))
        image_ids = {str(i): i for i in self._columns.image_ids}
        other = [r for r in mine.itertuples() if r.image_id not in image_ids]
        if other or not set(mine["category"]) <= set(category_ids):
            raise ValueError(
                f"{len(other)} of {len(mine)} rows are of images that this instances file does not "
                "have, or categories differ; give the file that was evaluated."
            )
        found = []
        for row in mine[mine["x0"].notna()].itertuples():
            result: dict[str, Any] = {
                "image_id": image_ids[row.image_id],
                "category_id": category_ids[row.category],
                "bbox": [int(n) for n in (row.x0, row.y0, row.x1 - row.x0, row.y1 - row.y0)],
                "score": float(row.logit),
            }
            if isinstance(row.mask, str):  # rows of older runs have none
                size, _, counts = row.mask.partition(":")
                result["segmentation"] = {"size": [*map(int, size.split("x"))], "counts": counts}
            found.append(result)
        return found


def _prompt(category: str) -> str:
    return (re.sub(r"_?\(.*\)", "", category).replace("_", " ").strip() or category).lower()


class _CocoExample(Example):
    """An Example that decodes its mask when asked: those of all COCO would need gigabytes."""

    @property
    def mask(self) -> Array | None:
        outlines: Outlines | None = self.__dict__["_mask"]
        return None if outlines is None else outlines.decode()

    @mask.setter
    def mask(self, value: Any) -> None:
        self.__dict__["_mask"] = value

    @property
    def _outline(self) -> bytes | None:
        outlines: Outlines | None = self.__dict__["_mask"]
        return None if outlines is None else outlines.hashes
