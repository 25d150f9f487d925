"""COCO, LVIS, PartImageNet: an Example for each pair of an image and a class with boxes in it."""

from __future__ import annotations

import contextlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.coco import COCO

from gscam_lib.datasets.example import Example


class CocoDataset:
    """Examples of an instances JSON in COCO's form, in the order of image ids, then category ids.

    root: folder of the images; annotations: the instances of COCO, LVIS or PartImageNet. Crowd
    regions and boxes without area are left out, as in the paper's protocol. The prompt is the bare
    class name, with LVIS's underscores and remarks in brackets taken out. Raises FileNotFoundError,
    and ValueError for what is no such file or has one id twice.
    """

    def __init__(self, root: Path | str, annotations: Path | str, *, name: str = "coco") -> None:
        self.root, self.name = Path(root), name
        for path, what in ((self.root, "folder of images"), (Path(annotations), "instances file")):
            if not path.exists():
                raise FileNotFoundError(f"No {what} at {path}. Expected COCO's images and JSON.")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            try:
                self.coco = COCO(str(annotations))
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise ValueError(f"{annotations} is not a COCO instances file: {error}.") from error
        for kind, found in (("images", self.coco.imgs), ("annotations", self.coco.anns)):
            if len(found) != len(self.coco.dataset[kind]):  # pycocotools would keep the last alone
                raise ValueError(f"{annotations} has {kind} that share an id; ids must be unique.")
        self._pairs = self._find_pairs()

    def _find_pairs(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        pairs: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.coco.anns.values():
            if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0:
                pairs[annotation["image_id"], annotation["category_id"]].append(annotation)
        return dict(sorted(pairs.items()))

    def results(self, rows: pd.DataFrame, method: str) -> list[dict[str, Any]]:
        """Boxes of one method in COCO's results form, for pycocotools' own evaluator.

        rows: of an evaluation on this data set. bbox is (x, y, width, height), score the logit;
        rows without a box are left out. Raises ValueError for a method without rows.
        """
        mine = rows[rows["method"] == method]
        if mine.empty:
            raise ValueError(f"No rows of '{method}'; there are {', '.join(set(rows['method']))}.")
        category_ids = {c["name"]: i for i, c in self.coco.cats.items()}
        image_ids = {str(i): i for i in self.coco.imgs}
        return [
            {
                "image_id": image_ids[row.image_id],
                "category_id": category_ids[row.category],
                "bbox": [int(n) for n in (row.x0, row.y0, row.x1 - row.x0, row.y1 - row.y0)],
                "score": float(row.logit),
            }
            for row in mine[mine["x0"].notna()].itertuples()
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Example]:
        return (self._example(*pair) for pair in self._pairs)

    def _example(self, image_id: int, category_id: int) -> Example:
        annotations = self._pairs[image_id, category_id]
        category = self.coco.cats[category_id]["name"]
        corners = [(*a["bbox"][:2], *np.add(a["bbox"][:2], a["bbox"][2:])) for a in annotations]
        masks = [self.coco.annToMask(a) for a in annotations if a.get("segmentation")]
        return Example(
            image=self.root / _file_name(self.coco.imgs[image_id]),
            prompt=re.sub(r"_?\(.*\)", "", category).replace("_", " ").lower(),
            boxes=tuple(tuple(map(float, box)) for box in corners),
            category=category,
            image_id=str(image_id),
            source=self.name,
            mask=np.any(masks, axis=0) if masks else None,
        )


def _file_name(image: dict[str, Any]) -> str:
    """COCO names the file; LVIS gives the URL, whose last two parts are folder and file."""
    return str(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]))
