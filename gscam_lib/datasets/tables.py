"""Data sets that are a folder of photos beside a CSV, and folders of typographic photos."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gscam_lib.boxes import BoxLike
from gscam_lib.datasets.example import Example, Examples
from gscam_lib.datasets.findings import DataError, Finding, escapes, listed
from gscam_lib.paths import expanded

PHOTOS = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
TYPOGRAPHIC = re.compile(r"label=(?P<object>[^=]+?)_text=(?P<word>[^=]*?)(?:_\d+)?$")
CORNERS = [c.split() for c in ("x0 y0 x1 y1", "xmin ymin xmax ymax", "x1 y1 x2 y2",
                               "left top right bottom")]  # fmt: skip
SIZED = [c.split() for c in ("x y w h", "x y width height")]
KNOWN = {"file", "prompt", "category", "image_id"}


@dataclass(frozen=True)
class Row:
    """A line of a table: its number in the file, and its cells by column."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def read_csv(root: Path | str, table: Path | str, *, name: str = "csv") -> Examples:
    """Examples from a folder of photos and a CSV with the columns file and prompt.

    Optional columns: category, image_id (ids that several files share are replaced by the files'
    names, and `findings` says so), and a box in half-open pixels: x0, y0, x1, y1 (or xmin …,
    x1, y1, x2, y2, left …) or x, y, w, h; rows with the same file and prompt are boxes of one
    Example. Beside corners, width and height are the photo's, in whose pixels boxes are. Cells
    are taken without blanks around them. Separated by commas, semicolons or tabs. Raises
    FileNotFoundError, and ValueError naming the line: of boxes and sizes that are none, names
    outside the root.
    """
    root, path = existing(root), expanded(table)
    columns, rows = read_rows(path, needed=("file", "prompt"))
    corners, sized = _box_columns(path, columns)
    sizes = {} if sized else _photo_sizes(path, columns, rows, corners)
    found: list[Finding] = []
    faulty: list[str] = []
    twice: list[str] = []
    grouped: dict[tuple[str, ...], list[BoxLike]] = defaultdict(list)
    shared = _shared_ids(rows)
    for row in rows:
        file, prompt, image_id = row["file"], row["prompt"], row["image_id"]
        if image_id in shared:
            image_id = file
        key = (file, prompt, row["category"] or prompt, image_id or file)
        try:
            box = _box([row[column] for column in corners], sized)
            if box in grouped[key]:
                twice.append(f"line {row.line} ({file})")
            grouped[key] += [] if box is None else [box]
        except ValueError as error:
            faulty.append(f"line {row.line} ({file}: {error})")
    found += listed("refused", "There are boxes that are none", faulty, "Correct them.")
    found += _files(rows)
    found += listed("noted", "There are boxes that are there twice", twice, "Both count.")
    found += listed("noted", "There are files that share an image id", list(shared.values()),
                    "Their names are used as ids.")  # fmt: skip
    read = {*KNOWN, *corners, *(("width", "height") if sizes else ())}
    unknown = [c for c in columns if c not in read]
    found += listed("noted", "There are columns of other meaning", unknown, "They are not read.")
    if any(f.severity == "refused" for f in found):
        raise DataError(path, found)
    examples = (
        Example(root / file, prompt, tuple(boxes), category, image_id, name, file=file,
                photo_size=sizes.get(file))
        for (file, prompt, category, image_id), boxes in grouped.items()
    )  # fmt: skip
    return Examples(root, examples, found)


def read_typographic(root: Path | str, *, name: str = "typographic") -> Examples:
    """Examples of photos with a written word: prompt and category the object, `word` the word.

    root: a folder with index.csv (file, object, written_text), or whose files are called
    label=OBJECT_text=WORD.jpg, as in RTA-100, PAINT and Disentangling. Raises FileNotFoundError,
    and ValueError where no file has such a name, or a line names a file twice or out of the root.
    """
    root = existing(root)
    index, noted = root / "index.csv", list[Finding]()
    if index.is_file():
        _, rows = read_rows(index, needed=("file", "object", "written_text"), may_be_empty=2)
        if refused := _files(rows) + _twice(rows):
            raise DataError(index, refused)
        found = [(row["file"], row["object"], row["written_text"]) for row in rows]
    else:
        found, noted = _by_file_names(root)
    if not found:
        raise ValueError(
            f"{root} has neither an index.csv nor photos called label=OBJECT_text=WORD.jpg."
        )
    examples = (
        Example(root / file, thing, (), thing, file, name, word=word, file=file)
        for file, thing, word in found
    )
    return Examples(root, examples, noted)


def _by_file_names(root: Path) -> tuple[list[tuple[str, str, str]], list[Finding]]:
    """File, object and word of each photo called label=OBJECT_text=WORD, and what is not."""
    found, other, numbered = [], [], []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        file, match = path.relative_to(root).as_posix(), TYPOGRAPHIC.search(path.stem)
        if match is None or path.suffix.lower() not in PHOTOS:
            other.append(file)
            continue
        found.append((file, match["object"], match["word"]))
        if not path.stem.endswith(f"_text={match['word']}"):
            numbered.append(f"{file} ({match['word']!r})")
    return found, [
        *listed("noted", "There are files whose names do not say label=OBJECT_text=WORD, or that "
                "are no photos", other, "They are not asked about."),
        *listed("noted", "There are words with a number behind them", numbered,
                "It counts the copies, as in RTA-100, and is left out of the word."),
    ]  # fmt: skip


def read_rows(
    table: Path, needed: Sequence[str], may_be_empty: int | None = None
) -> tuple[list[str], list[Row]]:
    """The columns of a CSV, in lower case, and its rows with their line numbers.

    needed: columns that must be there, and filled (the first may_be_empty of them). Raises
    FileNotFoundError, and DataError for another encoding, and lines that do not fit.
    """
    text = read_text(table)
    head = text.partition("\n")[0]
    separator = next((s for s in ",;\t" if s in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    odd: list[str] = []
    columns: list[str] = []
    try:
        columns = [cell.strip().lower() for cell in next(reader, [])]
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(columns):
                odd.append(f"line {start} ({len(cells)} cells for {len(columns)} columns)")
            elif cells:
                stripped = (cell.strip() for cell in cells)
                rows.append(Row(start, dict(zip(columns, stripped, strict=True))))
            start = reader.line_num + 1
    except csv.Error as error:
        odd.append(f"line {reader.line_num} ({error})")
    missing = [column for column in needed if column not in columns]
    if missing:
        what = f"It has the columns {columns}; expected {', '.join(missing)} too"
        raise DataError(table, listed("refused", what, ["line 1"], "Add them."))
    twice = sorted({column for column in columns if columns.count(column) > 1})
    for row in rows:
        empty = [column for column in needed[:may_be_empty] if not row[column].strip()]
        odd += [f"line {row.line} (no {', '.join(empty)})"] if empty else []
    refused = listed("refused", "There are columns of one name", twice, "Keep one of each.")
    refused += listed("refused", "There are lines that do not fit", odd,
                      "Cells with commas or quotes need quotes around them.")  # fmt: skip
    if refused:
        raise DataError(table, refused)
    return columns, rows


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises FileNotFoundError, and DataError for other encodings."""
    if not path.is_file():
        raise FileNotFoundError(f"No file at {path}.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        where = f"line {line}, byte {content[error.start : error.start + 1]!r}"
        action = "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        raise DataError(path, listed("refused", f"It is {kind}", [where], action)) from error
    if "\0" in text:
        action = "Save it as UTF-8."
        raise DataError(path, listed("refused", "It is no text", ["a zero byte"], action))
    return text


def existing(folder: Path | str) -> Path:
    """The folder, its ~ resolved. Raises FileNotFoundError where it is none."""
    found = expanded(folder)
    if not found.is_dir():
        raise FileNotFoundError(f"No folder at {folder}.")
    return found


def _box_columns(path: Path, columns: Sequence[str]) -> tuple[list[str], bool]:
    """Which columns are a box, and whether as corner and size; none where there is no box."""
    for form in [*CORNERS, *SIZED]:
        if set(form) <= set(columns):
            return form, form in SIZED
    words = {word for form in [*CORNERS, *SIZED[:1]] for word in form} | {"bbox", "box"}
    odd = [f"'{column}'" for column in columns if column in words]
    what = "There are columns that seem to be of a box, but not all of one"
    if odd:
        action = "Call them x0, y0, x1, y1, or x, y, w, h."
        raise DataError(path, listed("refused", what, odd, action))
    return [], False


def _photo_sizes(
    path: Path, columns: Sequence[str], rows: Sequence[Row], corners: list[str]
) -> dict[str, tuple[int, int]]:
    """Width and height of each file's photo, where a table of corners says them.

    None where they are those of the boxes. Raises DataError for sizes that are none, or differ.
    """
    if not corners or not {"width", "height"} <= set(columns):
        return {}
    sizes: dict[str, tuple[int, int]] = {}
    odd, of_boxes = [], True
    for row in rows:
        try:
            width, height = number(row["width"]), number(row["height"])
            if not (width >= 1 and height >= 1 and width % 1 == height % 1 == 0):
                raise ValueError("they must be whole pixels")
            if sizes.setdefault(row["file"], (int(width), int(height))) != (width, height):
                raise ValueError(f"above {sizes[row['file']]}")
        except (ValueError, OverflowError) as error:
            odd.append(f"line {row.line} ({row['width']} × {row['height']}: {error})")
        of_boxes &= _is_of_box(row, corners)
    if of_boxes:
        return {}
    if odd:
        what, action = "There are sizes of photos that are none", "Correct or delete both columns."
        raise DataError(path, listed("refused", what, odd, action))
    return sizes


def _is_of_box(row: Row, corners: Sequence[str]) -> bool:
    """Whether a line's width and height are those of its box."""
    try:
        x0, y0, x1, y1, width, height = (number(row[c]) for c in (*corners, "width", "height"))
    except ValueError:
        return False
    return abs(x1 - x0 - width) <= 1 and abs(y1 - y0 - height) <= 1


def number(text: str) -> float:
    """A number as tables write it. Raises ValueError, also for Python's own forms such as 1_000."""
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def _box(cells: list[str], sized: bool) -> BoxLike | None:
    if not any(cell.strip() for cell in cells):
        return None
    x0, y0, x1, y1 = map(number, cells)
    if sized:
        x1, y1 = x0 + x1, y0 + y1
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"the box {', '.join(cells)} is not finite")
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box {', '.join(cells)} has no area")
    return (x0, y0, x1, y1)


def _files(rows: Sequence[Row]) -> list[Finding]:
    out = [f"line {row.line} ({row['file']!r})" for row in rows if escapes(row["file"])]
    action = "Names must stay below the root."
    return listed("refused", "There are file names outside the folder of images", out, action)


def _shared_ids(rows: Sequence[Row]) -> dict[str, str]:
    """Image ids of several files, as where numbers restart in each folder: files and lines."""
    files: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        files[row["image_id"] or row["file"]].setdefault(row["file"], row.line)
    return {
        i: f"{i!r} is of " + " and ".join(f"{file} (line {line})" for file, line in of.items())
        for i, of in files.items()
        if len(of) > 1
    }


def _twice(rows: Sequence[Row]) -> list[Finding]:
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        lines[row["file"], row["object"]].append(row.line)
    twice = [f"{f} (lines {at[0]} and {at[1]})" for (f, _), at in lines.items() if len(at) > 1]
    return listed("refused", "There are files named twice", twice, "Keep one of each.")
