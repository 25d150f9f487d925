"""COCO, LVIS, PartImageNet: an Example for each pair of an image and a class with boxes in it."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from gscam_lib.datasets.example import Example


class CocoDataset:
    """Examples of an instances JSON in COCO's form, in the order of image ids, then category ids.

    root: folder of the images; annotations: the instances of COCO, LVIS or PartImageNet. Crowd
    regions and boxes without area are left out, as in the paper's protocol; `left_out` counts them.
    The prompt is the bare class name, with LVIS's underscores and remarks in brackets taken out.
    Masks are decoded when asked for. Raises FileNotFoundError, and ValueError for what is no such
    file, has one id twice, or names an image or category that it does not have.
    """

    def __init__(self, root: Path | str, annotations: Path | str, *, name: str = "coco") -> None:
        self.root, self.name = Path(root), name
        for path, what in ((self.root, "folder of images"), (Path(annotations), "instances file")):
            if not path.exists():
                raise FileNotFoundError(f"No {what} at {path}. Expected COCO's images and JSON.")
        self.left_out: Counter[str] = Counter()
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            try:
                self.coco = COCO(str(annotations))
                _check_ids(self.coco)
                self._pairs = self._find_pairs()
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise ValueError(
                    f"{annotations} is not a COCO instances file: {type(error).__name__}: {error}."
                ) from error

    def _find_pairs(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        pairs: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for annotation in self.coco.anns.values():
            _, _, width, height = annotation["bbox"]
            if annotation.get("iscrowd"):
                self.left_out["crowd"] += 1
            elif width > 0 and height > 0:
                pairs[annotation["image_id"], annotation["category_id"]].append(annotation)
            else:
                self.left_out["no area"] += 1
        return dict(sorted(pairs.items()))

    def results(self, rows: pd.DataFrame, method: str) -> list[dict[str, Any]]:
        """Boxes and masks of one method in COCO's results form, for pycocotools' own evaluator.

        rows: of an evaluation on this data set. bbox is (x, y, width, height), segmentation the hot
        pixels inside it as RLE, score the logit; rows without a box are left out. Raises ValueError
        for a method without rows, and for rows of another data set.
        """
        mine = rows[rows["method"] == method]
        if mine.empty:
            raise ValueError(f"No rows of '{method}'; there are {', '.join(set(rows['method']))}.")
        category_ids = {c["name"]: i for i, c in self.coco.cats.items()}
        image_ids = {str(i): i for i in self.coco.imgs}
        other = [r for r in mine.itertuples() if r.image_id not in image_ids]
        if other or not set(mine["category"]) <= set(category_ids):
            raise ValueError(
                f"{len(other)} of {len(mine)} rows are of images that this instances file does not "
                "have, or categories differ; give the file that was evaluated."
            )
        found = []
        for row in mine[mine["x0"].notna()].itertuples():
            result = {
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

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Example]:
        return (self._example(*pair) for pair in self._pairs)

    def _example(self, image_id: int, category_id: int) -> Example:
        annotations = self._pairs[image_id, category_id]
        image, category = self.coco.imgs[image_id], self.coco.cats[category_id]["name"]
        corners = [(*a["bbox"][:2], *np.add(a["bbox"][:2], a["bbox"][2:])) for a in annotations]
        outlines = [a["segmentation"] for a in annotations if a.get("segmentation")]
        known = bool(outlines) and {"height", "width"} <= set(image)
        return _CocoExample(
            image=self.root / _file_name(image),
            prompt=re.sub(r"_?\(.*\)", "", category).replace("_", " ").lower(),
            boxes=tuple(tuple(map(float, box)) for box in corners),
            category=category,
            image_id=str(image_id),
            source=self.name,
            mask=_Outlines(outlines, (image["height"], image["width"])) if known else None,  # type: ignore[arg-type]
        )


def to_rle(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A (H, W) bool mask in COCO's compressed run lengths: {"size": [H, W], "counts": str}."""
    found: dict[str, Any] = run_lengths.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


@dataclass(frozen=True)
class _Outlines:
    """Segmentations of one image as the file has them: polygons, or run lengths of two kinds."""

    segmentations: list[Any]
    size: tuple[int, int]

    def decode(self) -> np.ndarray[Any, Any]:
        """All of them together: (H, W) bool."""
        whole = np.zeros(self.size, bool)
        for outline in self.segmentations:
            plain = isinstance(outline, dict) and not isinstance(outline["counts"], list)
            rle = outline if plain else run_lengths.frPyObjects(outline, *self.size)
            whole |= (
                run_lengths.decode(run_lengths.merge(rle if isinstance(rle, list) else [rle])) > 0
            )
        return whole


class _CocoExample(Example):
    """An Example that decodes its mask when asked: those of all COCO would need gigabytes."""

    @property
    def mask(self) -> np.ndarray[Any, Any] | None:
        kept = self.__dict__["_mask"]
        return kept.decode() if isinstance(kept, _Outlines) else kept

    @mask.setter
    def mask(self, value: Any) -> None:
        self.__dict__["_mask"] = value


def _check_ids(coco: COCO) -> None:
    for kind, found in (("images", coco.imgs), ("annotations", coco.anns)):
        if len(found) != len(coco.dataset.get(kind, ())):  # pycocotools would keep the last alone
            raise ValueError(f"it has {kind} that share an id; ids must be unique")
    for a in coco.anns.values():
        if a["image_id"] not in coco.imgs or a["category_id"] not in coco.cats:
            raise ValueError(
                f"annotation {a['id']} is of image {a['image_id']} and category "
                f"{a['category_id']}, of which the file lacks one"
            )


def _file_name(image: dict[str, Any]) -> str:
    """COCO names the file; LVIS gives the URL, whose last two parts are folder and file."""
    return str(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]))
