"""Whose folder it is: a manifest of what all rows share, and the questions that they answer."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from gscam_lib.paths import whole_file

MANIFEST, QUESTIONS = "run.json", "questions.parquet"
LONG = 80  # letters of a value in a message


def claim(folder: Path, run: Mapping[str, Any]) -> None:
    """Make a folder this run's, or see that it is. Raises ValueError for a folder of another."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if next(folder.glob("part-*.parquet"), None) is not None:
            raise ValueError(
                f"{folder} has parts but no {MANIFEST}: they are of an older version, or of "
                "something else. Use another folder."
            )
        _write_once(manifest, json.dumps(run, indent=2, ensure_ascii=False) + "\n")
    there = read_manifest(folder)
    other = differences(there, run)
    if other:
        raise ValueError(
            f"{folder} holds another run: it has {'; it has '.join(other[:4])}. Use another folder "
            "for this run."
        )


def claim_questions(folder: Path, questions: pa.Table, rows: str) -> None:
    """Add questions to a folder's, or raise ValueError where they are of other data.

    rows: the query of the rows that are there. Questions that nobody answered may go: a photo that
    could not be read has been put right.
    """
    path = folder / QUESTIONS
    if not path.is_file():
        with whole_file(path) as file:
            pq.write_table(questions, file)
    stored = pq.read_table(path, columns=["question"])
    with duckdb.connect() as db:
        db.register("stored", stored)
        db.register("asked", questions.select(["question"]))
        new, gone, answered = (
            db.sql(f"SELECT count(DISTINCT question) FROM {query}").fetchall()[0][0]
            for query in (
                "asked ANTI JOIN stored USING (question)",
                "stored ANTI JOIN asked USING (question)",
                f"stored SEMI JOIN ({rows}) USING (question) ANTI JOIN asked USING (question)",
            )
        )
    if new and answered:
        raise ValueError(
            f"{folder} holds a run on other data: of the {len(questions)} questions that are asked "
            f"{new} are not among its {len(stored)}, and {gone} of its own are not asked. Photos, "
            "true boxes, masks, prompts, or which photos are mapped have changed. Use another "
            "folder for this run."
        )
    if new:
        with whole_file(path) as file:
            pq.write_table(questions, file)


def differences(there: Mapping[str, Any], run: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What a manifest has otherwise than a run, in words: "weights a, not b"."""
    found = []
    for name in {**run, **there}:
        a, b = there.get(name), run.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name} ")
        elif a != b:
            found.append(f"{prefix}{name} {_short(a)}, not {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder's rows share. Raises ValueError where it cannot be read."""
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder / MANIFEST} cannot be read ({error}); it says what the rows are of. Use "
            "another folder."
        ) from error
    if not isinstance(read, dict):
        raise ValueError(f"{folder / MANIFEST} is no manifest of a run. Use another folder.")
    return read


def _write_once(path: Path, text: str) -> None:
    """Write a file unless another process was first; nobody ever sees a half of it."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(text, encoding="utf-8")
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
