"""Data sets for localization: sequences of Examples, read from every form; knows no model."""

from collections.abc import Sequence
from pathlib import Path

from gscam_lib.datasets.coco import CocoDataset
from gscam_lib.datasets.example import Example, Selection
from gscam_lib.datasets.findings import DataError, Finding
from gscam_lib.datasets.tables import read_csv, read_typographic
from gscam_lib.datasets.wsol import read_names, read_wsol
from gscam_lib.paths import expanded

__all__ = [
    "FORMS",
    "CocoDataset",
    "DataError",
    "Example",
    "Finding",
    "Selection",
    "read",
    "read_csv",
    "read_typographic",
    "read_wsol",
]

FORMS = ("coco", "lvis", "partimagenet", "csv", "wsol", "typographic")
"""Forms of data sets that `read` knows."""


def read(
    form: str,
    root: Path | str,
    annotations: Path | str | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Sequence[Example]:
    """Read a data set by the name of its form, one of FORMS.

    root: folder of the images; annotations: the JSON, CSV, or folder of WSOL box files; typographic
    folders need none. class_names: of WSOL's labels, where their folder has no class_names.txt (one
    name a line). Raises ValueError for other forms and FileNotFoundError for what is not there.
    """
    if form not in FORMS:
        raise ValueError(f"No form '{form}'. There are: {', '.join(FORMS)}.")
    if form == "typographic":
        return read_typographic(root)
    if annotations is None:
        raise ValueError(f"The form '{form}' needs its annotations beside the folder of images.")
    if form == "csv":
        return read_csv(root, annotations)
    if form == "wsol":
        names = expanded(annotations) / "class_names.txt"
        if names.is_file():
            class_names = read_names(names)
        elif class_names is None:
            raise FileNotFoundError(f"No {names}; write the class names there, one a line.")
        return read_wsol(root, annotations, class_names)
    return CocoDataset(root, annotations, name=form)
