"""Data sets for localization: iterables of Example."""

from gscam_lib.datasets.coco import CocoDataset
from gscam_lib.datasets.example import Example
from gscam_lib.datasets.tables import read_csv, read_typographic, read_wsol

__all__ = ["CocoDataset", "Example", "read_csv", "read_typographic", "read_wsol"]
