"""Data sets for localization: iterables of Example."""

from collections.abc import Sequence
from pathlib import Path

from gscam_lib.datasets.coco import CocoDataset
from gscam_lib.datasets.example import Example
from gscam_lib.datasets.tables import read_csv, read_typographic, read_wsol

__all__ = ["CocoDataset", "Example", "read", "read_csv", "read_typographic", "read_wsol"]


def read(kind: str, root: Path | str, annotations: Path | str) -> Sequence[Example]:
    """Read a data set by the name of its form: coco, lvis, partimagenet, csv, wsol.

    root: folder of the images; annotations: the JSON, CSV, or folder of WSOL box files (with a
    class_names.txt, one name a line). Raises ValueError for other forms.
    """
    if kind in ("coco", "lvis", "partimagenet"):
        return list(CocoDataset(root, annotations, name=kind))
    if kind == "csv":
        return read_csv(root, annotations)
    if kind == "wsol":
        names = Path(annotations) / "class_names.txt"
        if not names.is_file():
            raise FileNotFoundError(f"No {names}; write the 1000 class names there, one a line.")
        return read_wsol(root, annotations, names.read_text(encoding="utf-8").splitlines())
    raise ValueError(f"No form '{kind}'. There are: coco, lvis, partimagenet, csv, wsol.")
