"""Photos in every form, with their groups: a folder, a list, a table, a COCO file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gscam_lib.audits.files import UNREAD, copies, in_folder, readable, some
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
TAKEN = ("photo", "prompt", "score", "probability", "rank", "cover", "alone")
"""Columns of an audit's own rows, which groups stand beside."""
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
    """Photos in order, and their groups: a row for each photo, in the same order.

    notes: sentences on what was passed over, and what a reader should know of the photos.
    """

    items: Sequence[Item]
    groups: pd.DataFrame
    notes: Sequence[str] = ()

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
    notes: list[str] = []
    items, columns = _items(photos, notes)
    if not items:
        raise ValueError(f"Got no photos in {photos!r:.80}; expected at least one.")
    _once((item.name for item in items), "The photos")
    table = pd.DataFrame(columns, index=[item.name for item in items])
    if groups is not None:
        table = _joined(table, _rows_of(groups, table.index))
    _check_groups(table)
    notes += _same(items, table)
    found = read_regions(regions, {item.name: item.image for item in items}, notes)
    items = [Item(i.name, i.image, {**i.regions, **found.get(i.name, {})}) for i in items]
    return Collection(items, table, notes)


def _items(photos: Photos, notes: list[str]) -> tuple[list[Item], dict[str, list[Any]]]:
    """Photos, and the columns of groups that come with them."""
    if isinstance(photos, pd.DataFrame):
        return _listed(read_table(photos), None, "The table of photos")
    if isinstance(photos, str | Path):
        path = expanded(photos)
        if path.is_dir():
            return _in_folder(path, notes)
        if path.suffix.lower() == ".json":
            return _coco(path, notes)
        if not path.exists():
            raise FileNotFoundError(
                f"No file at {path}; expected a folder of photos, a table (CSV, Parquet) with a "
                "column file, or a COCO JSON."
            )
        if path.suffix.lower() in PHOTOS | UNREAD:
            return [Item(readable(path.name), path)], {}
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
        Item(f"photo {i}", image)
        if p is None
        else Item(readable(p.name if unique else p.as_posix()), p)
        for i, (image, p) in enumerate(zip(given, paths, strict=True), 1)
    ]
    return items, {}


def _in_folder(folder: Path, notes: list[str]) -> tuple[list[Item], dict[str, list[Any]]]:
    files, passed = in_folder(folder)
    if not files:
        raise FileNotFoundError(
            f"No photos in {folder}; expected {', '.join(sorted(PHOTOS))} files, in it or in its "
            f"sub-folders. {' '.join(passed)}".rstrip()
        )
    notes += passed
    names = [Path(readable(str(p.relative_to(folder)))) for p in files]
    above = [n.parts[0] if len(n.parts) > 1 else "" for n in names]
    columns = {"folder": above} if len(set(above)) > 1 else {}
    return [Item(n.as_posix(), p) for n, p in zip(names, files, strict=True)], columns


def _listed(
    table: pd.DataFrame, root: Path | None, what: str
) -> tuple[list[Item], dict[str, list[Any]]]:
    """root: of the names in a file, which may not leave it; None for a table made in Python."""
    column = _file_column(table, what)
    names = [str(name) for name in table[column]]
    homes = [os.path.expanduser(name) for name in names]
    if root is not None:
        out = [n for n, home in zip(names, homes, strict=True) if escapes(n) or home != n]
        if out:
            raise DataError(what, listed("refused", "It names files outside its folder", out,
                                         "Names must stay below it."))  # fmt: skip
    paths = [Path(root or "", home) for home in homes]
    _exist(paths, what)
    rest = table.drop(columns=column)
    return [Item(readable(n), p) for n, p in zip(names, paths, strict=True)], {
        str(c): rest[c].tolist() for c in rest
    }


def _coco(path: Path, notes: list[str]) -> tuple[list[Item], dict[str, list[Any]]]:
    """The photos of a COCO file, beside it or in its folder images; categories are regions."""
    beside = path.parent / "images"
    root = beside if beside.is_dir() else path.parent
    dataset = CocoDataset(root, path)
    found: dict[str, dict[str, Region]] = {}
    for example in dataset:
        found.setdefault(str(example.file), {})[example.category] = from_example(example)
    _exist([root / name for name in found], str(path))
    files = dict.fromkeys(dataset.files)  # photos without annotation are photos, too
    gone = [name for name in files if name not in found and not (root / name).is_file()]
    notes += [f"{path.name}: {finding}" for finding in dataset.findings]
    if gone:
        notes.append(f"{path.name}: {len(gone)} of {len(files)} images have no annotation and are "
                     f"not there, so they are left out: {some(gone)}.")  # fmt: skip
    left = [name for name in files if name not in set(gone)]
    return [Item(name, root / name, found.get(name, {})) for name in left], {}


def _same(items: Sequence[Item], table: pd.DataFrame) -> list[str]:
    """A note on photos that are copies of others, unless they are said to be of one unit."""
    unit = as_text(table[UNIT]) if UNIT in table else np.full(len(table), "")
    units = dict(zip(table.index, unit, strict=True))
    groups = [
        names for names in copies((item.name, item.image) for item in items)
        if len({units[n] for n in names}) > 1 or not units[names[0]]
    ]  # fmt: skip
    if not groups:
        return []
    more = sum(map(len, groups)) - len(groups)
    return [
        f"{more} of {len(items)} photos are copies of others, the same to the byte, and count as "
        f"photos of their own: {some([' = '.join(names[:3]) for names in groups])}. Leave them "
        f"out, or give copies one value in a column “{UNIT}”."
    ]


# ---------------------------------------------------------------- tables


def read_table(table: Table) -> pd.DataFrame:
    """A table from a CSV in UTF-8, a Parquet file, or as it is.

    Raises FileNotFoundError, and ValueError for other encodings, naming the line, for columns of
    one name, and for what is no table.
    """
    if isinstance(table, pd.DataFrame):
        names = [str(column) for column in table.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"A table has several columns called {some(twice)}; keep one of each.")
        return table
    if not isinstance(table, str | Path):
        raise ValueError(
            f"Got {type(table).__name__} as a table; expected a CSV or Parquet file, or a "
            "DataFrame with a column file, such as pd.DataFrame({'file': names, 'group': values})."
        )
    path = expanded(table)
    if not path.is_file():
        raise FileNotFoundError(f"No file at {path}.")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            found: pd.DataFrame = pq.read_table(path).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
        return read_table(found)
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
    named = any(str(column).strip().lower() in FILE for column in table.columns)
    if not named and set(map(str, table.index)) <= set(names) and len(table):
        table = table.rename_axis("file").reset_index()  # a DataFrame indexed by photo
    column = _file_column(table, what)
    files = table[column].astype(str)
    _once(files, what)
    unknown = [f for f in files if f not in set(names)]
    if unknown:
        raise ValueError(
            f"{what} names {_count(unknown)} not among the {len(names)} given: {some(unknown)}. "
            f"The photos are called like {some(list(names), 2)}."
        )
    rows = table.drop(columns=column).set_axis(files, axis=0).reindex(names)
    rows.columns = [str(c) for c in rows.columns]
    if not len(rows.columns):
        raise ValueError(f"{what} has no column of groups beside '{column}'.")
    return rows


def _joined(table: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    if both := [column for column in groups if column in table]:
        raise ValueError(
            f"The groups have the column {some(both)}, which the photos bring already (a folder's "
            "sub-folders are the column 'folder'); call it something else."
        )
    return table.join(groups)


def _check_groups(table: pd.DataFrame) -> None:
    if taken := [column for column in table.columns if column in TAKEN]:
        raise ValueError(
            f"A column of groups is called {some(taken)}, as a column of the audit's own tables "
            f"({', '.join(TAKEN)}); call it something else."
        )
    for column in table.columns:
        counts = table[column].dropna().value_counts()
        counts = counts[counts.index.astype(str) != ""]
        if column == UNIT:
            continue
        if column == PAIR:
            odd = [str(v) for v, n in counts.items() if n != 2]
            if odd:
                raise ValueError(
                    f"Pairs are two photos each; {some(odd)} in column '{PAIR}' have another "
                    "number."
                )
            continue
        alone = [str(value) for value, n in counts.items() if n < FEW]
        if alone:
            raise ValueError(
                f"In column '{column}' stand groups of one photo: {some(alone)}; a group needs "
                "at least two, and five to be decided. Leave the cell empty, join groups, or call "
                f"the column '{PAIR}' or '{UNIT}' if it tells which photos belong together."
            )


def _exist(paths: Sequence[Path], what: str) -> None:
    gone = [str(p) for p in paths if not p.is_file()]
    if gone:
        raise FileNotFoundError(
            f"{what} names {_count(gone)} not there: {some(gone)}. Paths are relative to the "
            "table's folder."
        )


def _once(names: Iterable[str], what: str) -> None:
    seen = pd.Series(list(names), dtype=str)
    twice = seen[seen.duplicated()].unique().tolist()
    if twice:
        raise ValueError(f"{what}: {some(twice)} more than once; expected one row a photo.")


def _count(names: Sequence[str]) -> str:
    return "1 photo that is" if len(names) == 1 else f"{len(names)} photos that are"


def as_text(values: pd.Series) -> np.ndarray[Any, Any]:
    """A column of groups as text, "" where a photo is in none."""
    found = values.map(lambda v: "" if pd.isna(v) else _plain(v))
    return np.asarray(found.to_numpy(dtype=object))


def _plain(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()
