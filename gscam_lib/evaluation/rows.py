"""Rows on disk: a folder that says what it is of, and parts that are whole or not there.

run.json           what all rows share: weights, layer, preset, data; for people to read
questions.parquet  what is asked, with fingerprints of photos and truth
part-*.parquet     rows, each an answer to one question by one method
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gscam_lib.evaluation.folder import (
    MANIFEST,
    QUESTIONS,
    claim,
    claim_questions,
    differences,
    read_manifest,
)
from gscam_lib.evaluation.measures import COLUMNS
from gscam_lib.paths import expanded, whole_file

Row = dict[str, Any]
SECONDS = 20.0  # at most this much work is lost when a run is killed
RUN = b"gscam_run"
MEMORY = ("300MB", "1GB", "4GB")  # of the database, one after the other
SCHEMA = pa.schema(
    {
        "example": pa.int64(),
        **dict.fromkeys(("question", "source", "image_id", "category", "prompt"), pa.string()),
        "method": pa.string(),
        "k": pa.int64(),
        **{name: kind for columns in COLUMNS.values() for name, kind in columns.items()},
        "logit": pa.float64(),
        "seconds": pa.float64(),
        "error": pa.string(),
        **dict.fromkeys(("width", "height"), pa.int64()),
        "model": pa.string(),
        "preset": pa.string(),
        "measures": pa.string(),
        "place": pa.int64(),
    }
)
"""One form of row for everything that is measured.

measures: those that the row has, with commas between; width, height: of the photo in pixels;
place: of the method in the list that was asked.
"""

FRAME = (*SCHEMA.names[:-2], "classes", "area", "measures")
"""Columns of a frame of rows; classes: of the image; area: of the question's largest true box."""


class Rows:
    """The rows of one run, in a folder or in memory; inside `with`, what is added is kept.

    folder: None keeps rows in memory; run: what all rows share, as JSON; questions: the table of
    `questions.tabulate`; schema: of the rows, with at least question, error and seconds. A folder
    may get further methods, measures, shards and questions; it refuses another run. A part is
    written to a temporary file and renamed. If the disk is full the rows stay in memory, with a
    warning, and are written with the next part. Raises ValueError.
    """

    def __init__(
        self,
        folder: Path | str | None,
        run: Mapping[str, Any],
        questions: pa.Table,
        schema: pa.Schema = SCHEMA,
    ) -> None:
        self.schema = schema
        self.folder = None if folder is None else expanded(folder)
        self.questions = questions
        self.run = dict(run)
        self._stamp = json.dumps(self.run, sort_keys=True)
        self._kept: list[pa.Table] = []  # in memory: all rows, or those that a full disk refused
        self._waiting: list[Row] = []
        self._since = time.monotonic()
        self._claimed = False
        if self.folder is not None:
            if self.folder.exists() and not self.folder.is_dir():
                raise ValueError(f"Got the file {self.folder} to keep rows; expected a folder.")
            try:
                self._claim(self.folder)
            except OSError as error:
                self._warn(error)

    def _claim(self, folder: Path) -> None:
        if not self._claimed:
            folder.mkdir(parents=True, exist_ok=True)
            claim(folder, self.run)
            parts = _sound_parts(folder, self._stamp, set_aside=True)
            there = _scan(parts) if parts else "SELECT '' AS question, '' AS error"
            claim_questions(folder, self.questions, f"FROM ({there}) WHERE error IS NULL")
            self._claimed = True

    def _warn(self, error: OSError) -> None:
        count = sum(map(len, self._kept))
        warnings.warn(
            f"{count} rows could not be written to {self.folder} ({error}); they are kept in "
            "memory and written with the next part. Make room on the disk.",
            RuntimeWarning,
            stacklevel=3,
        )

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()  # also after Ctrl-C

    def add(self, row: Row) -> None:
        """Take a row; from time to time write what has come."""
        self._waiting.append(row)
        if time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as one part."""
        self._since = time.monotonic()
        if self._waiting:
            self._kept.append(_as_table(self._waiting, self.schema))
            self._waiting = []
        if self.folder is None or not self._kept:
            return
        part = pa.concat_tables(self._kept).replace_schema_metadata({RUN: self._stamp.encode()})
        try:
            self._claim(self.folder)
            with whole_file(self.folder / f"part-{uuid.uuid4().hex[:12]}.parquet") as file:
                pq.write_table(part, file)
        except OSError as error:
            self._warn(error)
        else:
            self._kept = []

    def relation(self, db: duckdb.DuckDBPyConnection) -> str:
        """Register all rows as the view `rows` of a database; returns the view's name."""
        waiting = [_as_table(self._waiting, self.schema)] if self._waiting else []
        tables, sources = [*self._kept, *waiting], []
        if self.folder is not None and (parts := _sound_parts(self.folder, self._stamp)):
            sources.append(_scan(parts))
        if tables or not sources:
            whole = pa.concat_tables(tables) if tables else self.schema.empty_table()
            db.register("in_memory", whole)
            sources.append("SELECT * FROM in_memory")
        db.execute(f"CREATE OR REPLACE TEMP VIEW rows AS {' UNION ALL BY NAME '.join(sources)}")
        return "rows"

    def by_question(self) -> pa.Table:
        """One row for each question of this run that has any: the one that worked, if one did."""
        with _database() as db:
            self.relation(db)
            db.register("asked", self.questions)
            return db.sql(
                "SELECT rows.* FROM rows SEMI JOIN asked USING (question) QUALIFY row_number() "
                "OVER (PARTITION BY question ORDER BY error IS NOT NULL, seconds) = 1"
            ).to_arrow_table()

    def answers(self, methods: Sequence[tuple[str, int | None]]) -> pd.DataFrame:
        """The rows that answer these questions by these methods, in the order of both."""
        with _database() as db:
            self.relation(db)
            db.register("questions", self.questions)
            db.register("methods", _numbered(methods))
            return _frame(db, _ANSWERS)


def _as_table(rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as a table; text that Arrow cannot store is written with escapes, never lost."""
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        texts = {field.name for field in schema if field.type == pa.string()}
        return pa.Table.from_pylist([_storable(row, texts) for row in rows], schema=schema)


def _storable(row: Row, texts: set[str]) -> Row:
    return {
        name: str(value).encode("utf-8", "backslashreplace").decode()
        if name in texts and value is not None
        else value
        for name, value in row.items()
    }


# ---------------------------------------------------------------- parts


def _sound_parts(folder: Path, stamp: str, *, set_aside: bool = False) -> list[Path]:
    """The parts of a run that can be read. What cannot is said, and set aside by a writer."""
    sound = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            found = (pq.read_schema(path).metadata or {}).get(RUN)
        except (pa.ArrowException, OSError) as error:
            what = "it is set aside and its" if set_aside else "its"
            warnings.warn(
                f"{path.name} in {folder} is damaged ({error}); {what} rows are computed again.",
                RuntimeWarning,
                stacklevel=3,
            )
            if set_aside:
                path.rename(path.with_suffix(".damaged"))
            continue
        if found is None:
            warnings.warn(
                f"{path.name} in {folder} is no part of a run and is left out.",
                RuntimeWarning,
                stacklevel=3,
            )
        elif found.decode() != stamp:
            other = differences(json.loads(found), json.loads(stamp))
            raise ValueError(
                f"{folder} holds rows of different runs: {path.name} has {'; '.join(other[:3])}. "
                "Use one folder a run."
            )
        else:
            sound.append(path)
    return sound


def _scan(parts: Sequence[Path]) -> str:
    listed = ", ".join(map(_quoted, parts))
    return f"SELECT * FROM read_parquet([{listed}], union_by_name = true)"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


@contextlib.contextmanager
def _database() -> Any:
    """A database in memory that works on disk where it needs more than the least of MEMORY."""
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {"memory_limit": MEMORY[0], "temp_directory": folder}
        with duckdb.connect(config={**config, "preserve_insertion_order": "false"}) as db:
            yield db


def _write(db: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """The rows of a query as a Parquet file; with more memory only where less does not do."""
    for limit in MEMORY:
        db.execute(f"SET memory_limit = '{limit}'")
        try:
            db.execute(f"COPY ({query}) TO {_quoted(path)} (FORMAT parquet)")
        except duckdb.OutOfMemoryException:
            if limit == MEMORY[-1]:
                raise
        else:
            return


# Of several rows for one question and method: the one that worked, and that measured most.
_BEST = """
    SELECT * FROM rows QUALIFY row_number() OVER (
        PARTITION BY question, method, k
        ORDER BY error IS NOT NULL, length(measures) DESC, error, seconds) = 1
"""
_ANSWERS = f"""
    SELECT best.* EXCLUDE (example), questions.position AS example, classes, area
    FROM ({_BEST}) AS best JOIN questions USING (question)
    JOIN methods ON best.method = methods.method AND best.k IS NOT DISTINCT FROM methods.k
    ORDER BY questions.position, methods.number
"""


def open_rows(
    rows: Rows,
    methods: Sequence[tuple[str, int | None]],
    *,
    shard: tuple[int, int],
    retry: bool,
    images: Sequence[int | None],
    measures: Sequence[Sequence[str]],
    measured_images: int | None,
) -> pa.Table:
    """What is still to be answered, photo by photo: position, image, method (its number).

    images: of how many photos each method is asked (None: all); measures: of every photo, and of
    the first `measured_images`. A row with an error is done unless `retry`.
    """
    asked = _numbered(methods).append_column("images", pa.array(list(images), pa.int64()))
    few, more = (sorted(names) for names in measures)
    with _database() as db:
        rows.relation(db)
        db.register("questions", rows.questions)
        db.register("methods", asked)
        return db.sql(
            """
            WITH asked AS (
                SELECT position, question, image, method, k, number,
                    CASE WHEN image < $most THEN $more::VARCHAR[] ELSE $few::VARCHAR[] END AS wanted
                FROM questions CROSS JOIN methods
                WHERE image % $n = $i AND (images IS NULL OR image < images))
            SELECT position, image, number FROM asked WHERE NOT EXISTS (
                SELECT 1 FROM rows
                WHERE rows.question = asked.question AND rows.method = asked.method
                    AND rows.k IS NOT DISTINCT FROM asked.k
                    AND (rows.error IS NOT NULL AND NOT $retry
                         OR rows.error IS NULL
                            AND list_has_all(string_split(rows.measures, ','), asked.wanted)))
            ORDER BY image, number, position
            """,
            params={
                "most": 2**62 if measured_images is None else measured_images, "more": more,
                "few": few, "i": shard[0], "n": shard[1], "retry": retry,
            },
        ).to_arrow_table()  # fmt: skip


def _numbered(methods: Sequence[tuple[str, int | None]]) -> pa.Table:
    return pa.table({
        "method": pa.array([name for name, _ in methods], pa.string()),
        "k": pa.array([k for _, k in methods], pa.int64()),
        "number": pa.array(range(len(methods)), pa.int64()),
    })  # fmt: skip


def _frame(db: duckdb.DuckDBPyConnection, query: str) -> pd.DataFrame:
    """Rows as a frame: columns in the order of SCHEMA, those of measures not taken left out.

    Column by column from a file, so that no second copy of all rows is ever in memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        _write(db, query, path)
        with pq.ParquetFile(path) as file:
            measures = file.read(["measures"])["measures"].unique().to_pylist()
            taken = {name for names in measures for name in names.split(",")} or {"localization"}
            unused = [c for name, columns in COLUMNS.items() if name not in taken for c in columns]
            there = [n for n in FRAME if n not in unused and n in file.schema_arrow.names]
            columns = {name: file.read([name])[name].to_pandas() for name in there}
    for name in {"k", "x0", "y0", "x1", "y1", "width", "height", "classes"} & set(columns):
        columns[name] = columns[name].astype("Int64")
    frame = pd.DataFrame(columns, copy=False)
    frame["error"] = frame["error"].astype(object).where(frame["error"].notna(), None)
    return frame


def read_rows(folder: Path | str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows of a run's folder, each question once for each method, in the order of the data.

    columns: only these; attrs["asked"] of the frame: how many questions the run has. Raises
    FileNotFoundError for a folder without rows, ValueError where parts were made with other
    weights, presets or versions, saying which.
    """
    path = expanded(folder)
    with _database() as db:
        query = _merged(db, path)
        if columns is not None:
            query = f"SELECT {', '.join(columns)} FROM ({query})"
        frame = _frame(db, query)
    frame.attrs["asked"] = pq.read_metadata(path / QUESTIONS).num_rows
    return frame


def _merged(db: duckdb.DuckDBPyConnection, folder: Path) -> str:
    """The query of all rows of a folder, with its tables registered."""
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"No part-*.parquet with a {MANIFEST} in {folder}; run `gscam evaluate` first."
        )
    stamp = json.dumps(read_manifest(folder), sort_keys=True)
    parts = _sound_parts(folder, stamp)
    if not parts:
        raise FileNotFoundError(f"No part-*.parquet in {folder}; run `gscam evaluate` first.")
    db.execute(f"CREATE TEMP VIEW rows AS {_scan(parts)}")
    db.register(
        "questions",
        pq.read_table(folder / QUESTIONS, columns=["question", "position", "classes", "area"]),
    )
    return f"""
        SELECT best.* EXCLUDE (example), questions.position AS example, classes, area
        FROM ({_BEST}) AS best JOIN questions USING (question)
        ORDER BY questions.position, min(place) OVER (PARTITION BY method, k), method, k
    """


def write_merged(folder: Path | str, out: Path | str) -> int:
    """Put all rows of a folder into one Parquet file, atomically; returns how many there are."""
    target = expanded(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _database() as db, whole_file(target) as file:
        _write(db, _merged(db, expanded(folder)), file)
    return int(pq.read_metadata(target).num_rows)
