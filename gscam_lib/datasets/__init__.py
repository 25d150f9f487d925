"""Data sets for localization: iterables of Example."""

from gscam_lib.datasets.coco import CocoDataset
from gscam_lib.datasets.example import Example

__all__ = ["CocoDataset", "Example"]
