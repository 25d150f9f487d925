"""COCO: one Example for each pair of an image and a class that has boxes in it."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from gscam_lib.datasets.example import Example


class CocoDataset:
    """Examples of a COCO instances file, in the order of image ids, then category ids.

    root: folder of the images; annotations: an instances JSON. Crowd regions and boxes without
    area are left out, as in the paper's protocol. Raises FileNotFoundError, ValueError.
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
        self._pairs = self._find_pairs()

    def _find_pairs(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        pairs: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.coco.anns.values():
            if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0:
                pairs[annotation["image_id"], annotation["category_id"]].append(annotation)
        return dict(sorted(pairs.items()))

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
            image=self.root / self.coco.imgs[image_id]["file_name"],
            prompt=category,
            boxes=tuple(tuple(map(float, box)) for box in corners),
            category=category,
            image_id=str(image_id),
            source=self.name,
            mask=np.any(masks, axis=0) if masks else None,
        )
