"""Rows as a Croissant 1.0 data set: JSON-LD that says what each Parquet file and column holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gscam_lib.paper.plan import CITE
from gscam_lib.paths import VERSION

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
ABOUT = {
    "example": "place of the question in the data", "question": "fingerprint of photo and truth",
    "source": "the data set", "image_id": "the photo", "category": "the class asked for",
    "prompt": "the text asked", "method": "as `gscam evaluate` takes it", "k": "channels used",
    "x0": "box, half-open pixels", "y0": "box", "x1": "box", "y1": "box",
    "iou": "best IoU of the box with a true box", "hit": "IoU of 0.5 or more",
    "pointing": "the hottest pixel lies on the thing", "energy": "share of the heat on the thing",
    "mask": "hot pixels inside the box: height x width, then COCO's RLE",
    "logit": "of photo and prompt", "seconds": "of the heatmap", "error": "what went wrong",
    "width": "of the photo, pixels", "height": "of the photo, pixels", "model": "weights",
    "preset": "protocol", "measures": "what was measured", "place": "of the method in the list",
    "classes": "in the photo", "area": "of the largest true box, pixels",
}  # fmt: skip


def describe(folder: Path, name: str) -> dict[str, Any]:
    """The Croissant of the Parquet files in folder/rows: files with SHA-256, a record set each."""
    files, records = [], []
    for path in sorted((folder / "rows").glob("*.parquet")):
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        files.append({
            "@type": "cr:FileObject", "@id": f"{path.stem}.parquet", "name": path.name,
            "contentUrl": f"rows/{path.name}", "encodingFormat": "application/x-parquet",
            "contentSize": f"{path.stat().st_size} B", "sha256": digest,
        })  # fmt: skip
        records.append({
            "@type": "cr:RecordSet", "@id": path.stem, "name": path.stem,
            "description": "One row for each question and method.",
            "field": [_field(path, f) for f in pq.read_schema(path)],
        })  # fmt: skip
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name.replace(" ", "_") or "run",
        "description": "Rows of an evaluation of heatmaps: every method asked about every class in "
        "every image, with its box and how well that fits; see versions.json, and run.json of each "
        "folder for weights and settings.",
        "license": "https://spdx.org/licenses/MIT.html",
        "url": "https://doi.org/10.1007/978-3-031-26316-3_35",
        "citeAs": CITE,
        "version": VERSION if VERSION.count(".") == 2 else "0.0.0",
        "distribution": files,
        "recordSet": records,
    }


def _field(path: Path, column: pa.Field) -> dict[str, Any]:
    found = {
        "@type": "cr:Field", "@id": f"{path.stem}/{column.name}", "name": column.name,
        "description": ABOUT.get(column.name, f"the measure {column.name.replace('_', ' ')}"),
        "dataType": _type(column.type),
        "source": {"fileObject": {"@id": f"{path.stem}.parquet"},
                   "extract": {"column": column.name}},
    }  # fmt: skip
    return found | ({"repeated": True} if pa.types.is_list(column.type) else {})


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
