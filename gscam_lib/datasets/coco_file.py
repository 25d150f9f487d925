"""A COCO instances file as columns: a million annotations without a million objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
import numpy as np

from gscam_lib.datasets.findings import DataError, Finding, Severity, escapes, listed
from gscam_lib.datasets.outlines import digest

Array = np.ndarray[Any, Any]
Id: TypeAlias = int | str
T = TypeVar("T", bound=msgspec.Struct)
Numbered: TypeAlias = list[tuple[int, T]]  # each with its place in the file
CHUNK = 50_000
FAR = 2**31  # no box of a photo reaches so far


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class _Image(msgspec.Struct):
    id: Id
    file_name: str | None = None
    coco_url: str | None = None  # LVIS: its last two parts are folder and file
    width: int | float | None = None
    height: int | float | None = None

    @property
    def file(self) -> str:
        return self.file_name or "/".join((self.coco_url or "").split("/")[-2:])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, (0, 0) where they are no sizes."""
        width, height = self.width or 0, self.height or 0
        whole = 0 < width < 2**31 and 0 < height < 2**31 and width % 1 == height % 1 == 0
        return (int(width), int(height)) if whole else (0, 0)


class _Category(msgspec.Struct):
    id: Id
    name: str = ""


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True)
class Columns:
    """Images and categories in the order of their ids; annotations in the file's order.

    sizes: (images, 2) width and height, 0 unknown; images, categories: each annotation's row in
    those; boxes: (n, 4) corners; spans: (n, 2) start and length of each segmentation in the file's
    bytes, length 0 for none; hashes: (n, 16) of those bytes; left_out: reason to (n,) bool.
    """

    image_ids: list[Id]
    files: list[str]
    sizes: Array
    category_ids: list[Id]
    names: list[str]
    images: Array
    categories: Array
    boxes: Array
    spans: Array
    hashes: Array
    left_out: dict[str, Array]


class _Rows(NamedTuple):
    """Annotations as the file has them: its words and (n, …) columns."""

    ids: list[Id]
    lost: list[str]  # places of those whose image or category the file lacks
    image: Array
    category: Array
    xywh: Array
    crowd: Array
    spans: Array
    hashes: Array


def read_columns(file: Path) -> tuple[Columns, list[Finding]]:
    """The columns of an instances file and all that is wrong with it.

    Raises DataError where it cannot be read at all: where a finding is "refused", the columns
    must not be used.
    """
    found: list[Finding] = []
    images, categories, rows = _read(file, found)  # and the file's bytes are let go
    found += _same_ids("images", images) + _same_ids("categories", categories)
    found += _faulty_images(images) + _faulty_categories(categories)
    found += _boundless(rows.xywh)
    rows.xywh[~(np.abs(rows.xywh) < FAR)] = 0
    sizes = np.array([i.size for _, i in images], np.int64).reshape(-1, 2)
    left_out, beyond = _left_out(rows, sizes)
    found += _faulty_annotations(rows, left_out, beyond)
    used = set(np.unique(rows.category).tolist())
    found += _shared_names([c for row, (_, c) in enumerate(categories) if row in used])
    columns = Columns(
        [i.id for _, i in images], [i.file for _, i in images], sizes,
        [c.id for _, c in categories], [c.name for _, c in categories],
        rows.image, rows.category, _corners(rows.xywh), rows.spans, rows.hashes, left_out,
    )  # fmt: skip
    return columns, found


def _read(file: Path, found: list[Finding]) -> tuple[Numbered[_Image], Numbered[_Category], _Rows]:
    """Images and categories in the order of their ids, annotations in the file's."""
    content = file.read_bytes()
    body = content[3:] if content.startswith(b"\xef\xbb\xbf") else content  # Windows' mark
    parsed = _parse(file, body)
    images = _decode(_Image, parsed.images, "images", found)
    categories = _decode(_Category, parsed.categories, "categories", found)
    images.sort(key=lambda pair: _order(pair[1].id))
    categories.sort(key=lambda pair: _order(pair[1].id))
    rows = {image.id: row for row, (_, image) in enumerate(images)}
    classes = {category.id: row for row, (_, category) in enumerate(categories)}
    places = _Places(body, len(content) - len(body))
    parts: list[tuple[Array, ...]] = []
    ids: list[Id] = []
    lost: list[str] = []
    for chunk in _chunks(parsed.annotations):
        decoded = _decode(_Annotation, chunk, "annotations", found, len(ids))
        ids += [annotation.id for _, annotation in decoded]
        lost += [
            f"annotations[{i}] (id {a.id}, image {a.image_id}, category {a.category_id})"
            for i, a in decoded
            if a.image_id not in rows or a.category_id not in classes
        ]
        parts.append(_columns([a for _, a in decoded], rows, classes, places))
    if found:  # what follows counts on the places of what was read
        raise DataError(file, found)
    columns = map(np.concatenate, zip(*parts, strict=True))
    return images, categories, _Rows(ids, lost, *columns)


def _parse(file: Path, body: bytes) -> _File:
    try:
        return msgspec.json.decode(body, type=_File)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        what = f"This is not a COCO instances file: {error}"
        where, action = "the whole file", "Expected images, annotations and categories."
        if place := re.search(r"byte (\d+)", str(error)):
            at = int(place[1])
            line, near = body.count(b"\n", 0, at) + 1, body[max(at - 30, 0) : at + 10]
            where = f"line {line}, near {near!r}"
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            action = "It is UTF-16; save it as UTF-8."
        raise DataError(file, listed("refused", what, [where], action)) from error


def _decode(
    form: type[T], raws: Sequence[msgspec.Raw], kind: str, found: list[Finding], first: int = 0
) -> Numbered[T]:
    """Each with its place in the file; those of another form become findings."""
    decoder = msgspec.json.Decoder(form)
    decoded: Numbered[T] = []
    faulty: list[str] = []
    for i, raw in enumerate(raws, first):
        try:
            decoded.append((i, decoder.decode(raw)))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            faulty.append(f"{kind}[{i}] ({error})")
    what = f"This is not a COCO instances file: some of its {kind} have another form"
    found += listed("refused", what, faulty, "Correct or delete them.")
    return decoded


def _chunks(raws: list[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    for start in range(0, max(len(raws), 1), CHUNK):
        yield raws[start : start + CHUNK]


class _Places:
    """Where in the file a piece of its content lies."""

    def __init__(self, body: bytes, before: int) -> None:
        self.base = _address(body) - before

    def of(self, raw: msgspec.Raw) -> tuple[int, int]:
        """Start and length of a segmentation; (0, 0) for null, [] and the like."""
        length = len(memoryview(raw))
        return (_address(raw) - self.base, length) if length > 4 else (0, 0)


def _address(raw: Any) -> int:
    address: int = np.frombuffer(raw, np.uint8).__array_interface__["data"][0]
    return address


def _columns(
    chunk: list[_Annotation], rows: dict[Id, int], classes: dict[Id, int], places: _Places
) -> tuple[Array, ...]:
    hashes = b"".join(digest(a.segmentation) for a in chunk)
    return (
        np.array([rows.get(a.image_id, -1) for a in chunk], np.int64),
        np.array([classes.get(a.category_id, -1) for a in chunk], np.int32),
        np.array([a.bbox for a in chunk], np.float64).reshape(-1, 4),
        np.array([bool(a.iscrowd) for a in chunk], bool),
        np.array([places.of(a.segmentation) for a in chunk], np.int64).reshape(-1, 2),
        np.frombuffer(hashes, np.uint8).reshape(-1, 16),
    )


def _corners(xywh: Array) -> Array:
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def _left_out(rows: _Rows, sizes: Array) -> tuple[dict[str, Array], Array]:
    """Which annotations are not asked about, and why; and which reach beyond their image."""
    x0, y0, x1, y1 = _corners(rows.xywh).T
    flat = ~rows.crowd & ~((x1 > x0) & (y1 > y0))
    asked = ~rows.crowd & ~flat
    width, height = sizes[rows.image].T if len(sizes) else np.zeros((2, len(x0)))
    inside = (x0 < width) & (y0 < height) & (x1 > 0) & (y1 > 0)
    outside = asked & (width > 0) & ~inside
    over = (x1 > width + 1) | (y1 > height + 1) | (np.minimum(x0, y0) < -1)
    beyond = asked & (width > 0) & inside & over
    return {"crowd": rows.crowd, "no area": flat, "outside its image": outside}, beyond


# ---------------------------------------------------------------- what can be wrong


def _order(given: Id) -> tuple[bool, Id]:
    return isinstance(given, str), given


def _same_ids(kind: str, items: Numbered[Any]) -> list[Finding]:
    if len({str(item.id) for _, item in items}) == len(items):
        return []
    count = Counter(str(item.id) for _, item in items)
    twice = [f"{kind}[{i}] (id {item.id})" for i, item in items if count[str(item.id)] > 1]
    return listed("refused", f"There are {kind} that share an id", twice, "Make ids unique.")


def _faulty_images(images: Numbered[_Image]) -> list[Finding]:
    nameless = [f"images[{i}] (id {image.id})" for i, image in images if not image.file]
    out = [f"images[{i}] ({image.file!r})" for i, image in images if escapes(image.file)]
    sizeless = [f"images[{i}] (id {image.id})" for i, image in images if image.size == (0, 0)]
    count = Counter(image.file for _, image in images)
    twice = [f"images[{i}] ({im.file})" for i, im in images if im.file and count[im.file] > 1]
    return [
        *listed("refused", "There are images without file_name", nameless, "Name their files."),
        *listed("refused", "There are file names outside the folder of images", out,
                "Names must stay below the root."),
        *listed("noted", "There are images without width and height", sizeless,
                "Their masks are not used, and truth in other pixels cannot be noticed."),
        *listed("noted", "There are images of one file", twice, "The photo counts for each."),
    ]  # fmt: skip


def _faulty_categories(categories: Numbered[_Category]) -> list[Finding]:
    nameless = [f"categories[{i}] (id {c.id})" for i, c in categories if not c.name.strip()]
    return listed("refused", "There are categories without name", nameless, "Give their names.")


def _boundless(xywh: Array) -> list[Finding]:
    at = np.flatnonzero(~(np.abs(xywh) < FAR).all(1))
    places = (f"annotations[{i}] (bbox {xywh[i].tolist()})" for i in at)
    return listed("refused", "There are boxes without bound", places, "Correct them.", len(at))


def _shared_names(used: Sequence[_Category]) -> list[Finding]:
    count = Counter(" ".join(category.name.split()) for category in used)
    twice = [f"id {c.id} ({c.name!r})" for c in used if count[" ".join(c.name.split())] > 1]
    return listed(
        "refused", "There are categories that share a name", twice, "Rename or join them."
    )


def _faulty_annotations(rows: _Rows, left_out: dict[str, Array], beyond: Array) -> list[Finding]:
    """Ids twice, what points nowhere, boxes that are none, the same box twice."""
    ids, known = rows.ids, (rows.image >= 0) & (rows.category >= 0)

    def some(severity: Severity, what: str, which: Array, action: str) -> list[Finding]:
        at = np.flatnonzero(which & known).tolist()
        places = (f"annotations[{i}] (id {ids[i]}, bbox {rows.xywh[i].tolist()})" for i in at)
        return listed(severity, what, places, action, len(at))

    twice = []
    if len(set(ids)) != len(ids):
        count = Counter(ids)
        twice = [f"annotations[{i}] (id {a})" for i, a in enumerate(ids) if count[a] > 1]
    bare = (rows.spans[:, 1] == 0) & (rows.spans[:, 1] > 0).any() & ~rows.crowd
    return [
        *listed("refused", "There are annotations that share an id", twice, "Make ids unique."),
        *listed("refused", "There are annotations whose image or category the file lacks",
                rows.lost, "Add those or delete them."),
        *some("left out", "There are boxes without area", left_out["no area"],
              "They are left out."),
        *some("left out", "There are boxes outside their image", left_out["outside its image"],
              "They are left out."),
        *some("left out", "There are crowd regions", left_out["crowd"],
              "They are left out, as in the paper's protocol."),
        *some("noted", "There are boxes that reach beyond their image", beyond,
              "They count as they are. Boxes are x, y, width, height; are these corners?"),
        *some("noted", "There are boxes that are there twice", _repeated(rows, left_out),
              "Both count."),
        *some("noted", "There are annotations without segmentation", bare,
              "Their examples have boxes and no mask."),
    ]  # fmt: skip


def _repeated(rows: _Rows, left_out: dict[str, Array]) -> Array:
    """(n,) bool: those whose image, category and box another one has that is asked about, too."""
    kept = np.flatnonzero(~np.logical_or.reduce(list(left_out.values())))
    full = np.column_stack([rows.image, rows.category, rows.xywh])[kept]
    order = np.lexsort(full.T)
    again = np.zeros(len(rows.ids), bool)
    again[kept[order[1:]]] = (full[order[1:]] == full[order[:-1]]).all(1)
    return again
