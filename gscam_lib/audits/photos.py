"""Photos in every form, with their groups: a folder, a list, a table, a COCO file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gscam_lib.audits.regions import Region, from_example, read_regions
from gscam_lib.datasets import CocoDataset, Example
from gscam_lib.datasets.findings import DataError, escapes, listed
from gscam_lib.datasets.tables import PHOTOS, read_rows
from gscam_lib.paths import expanded

Photos: TypeAlias = "str | Path | pd.DataFrame | Sequence[Any]"
Table: TypeAlias = "str | Path | pd.DataFrame"
FILE = ("file", "photo", "image", "file_name", "filename", "path")
"""Names of the column that says which photo a row is about."""
PAIR, UNIT = "pair", "unit"
"""Columns that are no groups: which two photos belong together; whose photos these are."""
FEW = 2  # photos: a group of fewer has no spread


@dataclass(frozen=True)
class Item:
    """A photo of an audit: the name it is called by, what it is read from, its regions by name."""

    name: str
    image: Any
    regions: Mapping[str, Region] = field(default_factory=dict)

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """What tells this photo and its regions from others; nothing is decoded."""
        photo = Example(self.image, "", (), "", self.name, "audit", file=self.name).photo
        return (self.name, photo, *((n, r.fingerprint) for n, r in sorted(self.regions.items())))


@dataclass(frozen=True)
class Collection:
    """Photos in order, and their groups: a row for each photo, in the same order."""

    items: Sequence[Item]
    groups: pd.DataFrame

    @property
    def columns(self) -> list[str]:
        """The columns that are groups."""
        return [c for c in self.groups.columns if c not in (PAIR, UNIT)]


def collect(photos: Photos, groups: Table | None = None, regions: Any = None) -> Collection:
    """Photos with their groups and regions.

    photos: a folder (its sub-folders are a group column, "folder"), a list of paths, pictures or
    arrays, a table with a column "file" whose other columns are groups (CSV, Parquet, DataFrame),
    or a COCO JSON, whose categories become regions. groups: a table with a column "file". regions:
    as `read_regions` takes them. Raises ValueError and FileNotFoundError: for photos that are not
    there or named twice, groups of one photo, unknown columns, other encodings.
    """
    items, columns = _items(photos)
    if not items:
        raise ValueError(f"Got no photos in {photos!r:.80}; expected at least one.")
    _once((item.name for item in items), "The photos")
    table = pd.DataFrame(columns, index=[item.name for item in items])
    if groups is not None:
        table = table.join(_rows_of(groups, table.index))
    _check_groups(table)
    found = read_regions(regions, table.index)
    items = [Item(i.name, i.image, {**i.regions, **found.get(i.name, {})}) for i in items]
    return Collection(items, table)


def _items(photos: Photos) -> tuple[list[Item], dict[str, list[Any]]]:
    """Photos, and the columns of groups that come with them."""
    if isinstance(photos, pd.DataFrame):
        return _listed(photos, Path(), "The table of photos")
    if isinstance(photos, str | Path):
        path = expanded(photos)
        if path.is_dir():
            return _in_folder(path)
        if path.suffix.lower() == ".json":
            return _coco(path)
        if not path.exists():
            raise FileNotFoundError(
                f"No file at {path}; expected a folder of photos, a table (CSV, Parquet) with a "
                "column file, or a COCO JSON."
            )
        if path.suffix.lower() in PHOTOS:
            return [Item(path.name, path)], {}
        return _listed(read_table(path), path.parent, str(path))
    if not isinstance(photos, Iterable):
        raise ValueError(
            f"Got {type(photos).__name__} as photos; expected a folder, a list or a table."
        )
    given = list(photos)
    paths = [expanded(p) if isinstance(p, str | Path) else None for p in given]
    _exist([p for p in paths if p is not None], "The list of photos")
    short = [p.name for p in paths if p is not None]
    unique = len(set(short)) == len(short)
    items = [
        Item(f"photo {i}", image) if p is None else Item(p.name if unique else p.as_posix(), p)
        for i, (image, p) in enumerate(zip(given, paths, strict=True), 1)
    ]
    return items, {}


def _in_folder(folder: Path) -> tuple[list[Item], dict[str, list[Any]]]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTOS and p.is_file())
    if not files:
        raise FileNotFoundError(
            f"No photos in {folder}; expected {', '.join(sorted(PHOTOS))} files, in it or in its "
            "sub-folders."
        )
    names = [p.relative_to(folder) for p in files]
    above = [n.parts[0] if len(n.parts) > 1 else "" for n in names]
    columns = {"folder": above} if len(set(above)) > 1 else {}
    return [Item(n.as_posix(), p) for n, p in zip(names, files, strict=True)], columns


def _listed(table: pd.DataFrame, root: Path, what: str) -> tuple[list[Item], dict[str, list[Any]]]:
    column = _file_column(table, what)
    names = table[column].astype(str).tolist()
    out = [n for n in names if root != Path() and escapes(n)]
    if out:
        raise DataError(what, listed("refused", "It names files outside its folder", out,
                                     "Names must stay below it."))  # fmt: skip
    paths = [root / expanded(name) for name in names]
    _exist(paths, what)
    rest = table.drop(columns=column)
    return [Item(n, p) for n, p in zip(names, paths, strict=True)], {
        str(c): rest[c].tolist() for c in rest
    }


def _coco(path: Path) -> tuple[list[Item], dict[str, list[Any]]]:
    """The photos of a COCO file, beside it or in its folder images; categories are regions."""
    beside = path.parent / "images"
    root = beside if beside.is_dir() else path.parent
    found: dict[str, dict[str, Region]] = {}
    files: dict[str, Path] = {}
    for example in CocoDataset(root, path):
        name = example.file or example.image_id
        found.setdefault(name, {})[example.category] = from_example(example)
        files[name] = Path(str(example.image))
    _exist(list(files.values()), str(path))
    return [Item(name, files[name], regions) for name, regions in found.items()], {}


# ---------------------------------------------------------------- tables


def read_table(table: Table) -> pd.DataFrame:
    """A table from a CSV in UTF-8, a Parquet file, or as it is.

    Raises FileNotFoundError, and ValueError for other encodings, naming the line.
    """
    if isinstance(table, pd.DataFrame):
        return table
    path = expanded(table)
    if not path.is_file():
        raise FileNotFoundError(f"No file at {path}.")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            found: pd.DataFrame = pq.read_table(path).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
        return found
    columns, rows = read_rows(path, needed=())
    return pd.DataFrame([row.cells for row in rows], columns=columns)


def _file_column(table: pd.DataFrame, what: str) -> str:
    for column in table.columns:
        if str(column).strip().lower() in FILE:
            if table[column].isna().any() or (table[column].astype(str).str.strip() == "").any():
                raise ValueError(f"{what} has rows without a photo in its column '{column}'.")
            return str(column)
    raise ValueError(
        f"{what} has no column that says which photo a row is about ({', '.join(FILE)}); its "
        f"columns: {', '.join(map(str, table.columns)) or 'none'}."
    )


def _rows_of(groups: Table, names: pd.Index) -> pd.DataFrame:
    """The table of groups in the order of the photos; its index may be the photos' names."""
    what = "The table of groups" if isinstance(groups, pd.DataFrame) else str(groups)
    table = read_table(groups)
    if set(map(str, table.index)) <= set(names) and len(table):
        table = table.rename_axis("file").reset_index()  # a DataFrame indexed by photo
    column = _file_column(table, what)
    files = table[column].astype(str)
    _once(files, what)
    unknown = [f for f in files if f not in set(names)]
    if unknown:
        raise ValueError(
            f"{what} names {_count(unknown)} not among the {len(names)} given: {_some(unknown)}. "
            f"The photos are called like {_some(list(names), 2)}."
        )
    rows = table.drop(columns=column).set_axis(files, axis=0).reindex(names)
    rows.columns = [str(c) for c in rows.columns]
    if not len(rows.columns):
        raise ValueError(f"{what} has no column of groups beside '{column}'.")
    return rows


def _check_groups(table: pd.DataFrame) -> None:
    for column in table.columns:
        counts = table[column].dropna().value_counts()
        counts = counts[counts.index.astype(str) != ""]
        if column == UNIT:
            continue
        if column == PAIR:
            odd = [str(v) for v, n in counts.items() if n != 2]
            if odd:
                raise ValueError(
                    f"Pairs are two photos each; {_some(odd)} in column '{PAIR}' have another "
                    "number."
                )
            continue
        alone = [str(value) for value, n in counts.items() if n < FEW]
        if alone:
            raise ValueError(
                f"In column '{column}' stand groups of one photo: {_some(alone)}; a group needs "
                "at least two, and five to be decided. Leave the cell empty, join groups, or call "
                f"the column '{PAIR}' or '{UNIT}' if it tells which photos belong together."
            )


def _exist(paths: Sequence[Path], what: str) -> None:
    gone = [str(p) for p in paths if not p.is_file()]
    if gone:
        raise FileNotFoundError(
            f"{what} names {_count(gone)} not there: {_some(gone)}. Paths are relative to the "
            "table's folder."
        )


def _once(names: Iterable[str], what: str) -> None:
    seen = pd.Series(list(names), dtype=str)
    twice = seen[seen.duplicated()].unique().tolist()
    if twice:
        raise ValueError(f"{what}: {_some(twice)} more than once; expected one row a photo.")


def _count(names: Sequence[str]) -> str:
    return "1 photo that is" if len(names) == 1 else f"{len(names)} photos that are"


def _some(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(str(n)) for n in names[:count]) + more


def as_text(values: pd.Series) -> np.ndarray[Any, Any]:
    """A column of groups as text, "" where a photo is in none."""
    found = values.map(lambda v: "" if pd.isna(v) else _plain(v))
    return np.asarray(found.to_numpy(dtype=object))


def _plain(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()
