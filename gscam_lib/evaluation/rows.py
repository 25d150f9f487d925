"""Rows on disk: parts that are written whole or not at all, and that know which run they are of."""

from __future__ import annotations

import json
import time
import uuid
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
SECONDS = 20.0  # at most this much work is lost when a run is killed
RUN = b"gscam_run"

SCHEMA = pa.schema(
    [("example", pa.int64())]
    + [(name, pa.string()) for name in ("source", "image_id", "category", "prompt", "method")]
    + [(name, pa.int64()) for name in ("k", "x0", "y0", "x1", "y1")]
    + [("iou", pa.float64()), ("hit", pa.bool_()), ("pointing", pa.bool_())]
    + [(name, pa.float64()) for name in ("energy", "logit", "seconds")]
    + [(name, pa.string()) for name in ("error", "model", "preset", "mask")]
)


class Parts:
    """Collects rows; inside `with`, keeps them as part-*.parquet files in a folder.

    folder: None keeps rows in memory only; run: what all rows share (weights, preset, version);
    schema: of the rows, by default those of an evaluation.
    Rows of earlier parts are read first. A part is written to a temporary file and renamed. If the
    disk is full the rows stay in memory, with a warning, and are written with the next part.
    Raises ValueError for a folder that holds another run.
    """

    def __init__(
        self, folder: Path | str | None, run: dict[str, str], *, schema: pa.Schema = SCHEMA
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.run = run
        self.schema = schema
        self._earlier: list[Row] = []
        self._written: list[Row] = []
        self._waiting: list[Row] = []
        self._since = time.monotonic()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.glob("part-*.parquet")):
                self._earlier = self.read(self.folder, run)

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()  # also after Ctrl-C

    def rows(self) -> list[Row]:
        """All rows, those of earlier parts first."""
        return self._earlier + self._written + self._waiting

    def add(self, row: Row) -> None:
        """Take a row; from time to time write what has come."""
        self._waiting.append(row)
        if time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as one part."""
        self._since = time.monotonic()
        if self.folder is None or not self._waiting:
            return
        name = f"part-{uuid.uuid4().hex[:12]}.parquet"
        partial = self.folder / (name + ".partial")
        schema = self.schema.with_metadata({RUN: json.dumps(self.run).encode()})
        try:
            pq.write_table(pa.Table.from_pylist(self._waiting, schema=schema), partial)
            partial.rename(self.folder / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            warnings.warn(
                f"{len(self._waiting)} rows could not be written to {self.folder} ({error}); they "
                "are kept in memory and written with the next part. Make room on the disk.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        self._written += self._waiting
        self._waiting = []

    @staticmethod
    def read(folder: Path | str, run: dict[str, str] | None = None) -> list[Row]:
        """Rows of all parts of a folder, oldest part first.

        run: what they must be of; None takes what the first part says. Raises FileNotFoundError,
        and ValueError naming each part that is of another run, and how it differs.
        """
        paths = sorted(Path(folder).glob("part-*.parquet"), key=lambda p: (p.stat().st_mtime, p))
        if not paths:
            raise FileNotFoundError(f"No part-*.parquet in {folder}; run `gscam evaluate` first.")
        tables = {path.name: pq.read_table(path) for path in paths}
        runs = {name: json.loads(table.schema.metadata[RUN]) for name, table in tables.items()}
        wanted = run or next(iter(runs.values()))
        other = [
            f"{name} has {key} {found.get(key)}, not {value}"
            for name, found in runs.items()
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if other:
            more = f" (and {len(other) - 3} more)" if len(other) > 3 else ""
            raise ValueError(
                f"{folder} holds rows of different runs: {'; '.join(other[:3])}{more}. Use one "
                "folder a run."
            )
        return [row for table in tables.values() for row in table.to_pylist()]
