"""Run a notebook with other settings, and list what it claims.

    python notebooks/run.py OUT.md [NAME …]   # with every bundled model, and a reader's settings

`make claims` writes figures/table_claims.md by it.

A claim is a sentence shown by `gs.figures.say`. Needs nbclient, which comes with JupyterLab.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from gscam_lib.figures import CLAIM

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 600  # seconds for a cell
NUMBER = re.compile(r"[-+−]?\d[\d,]*\.?\d*(?:\s?%)?|[-+−]?\.\d+")


@dataclass(frozen=True)
class Claim:
    """A sentence of a notebook: in which code cell (from 1), its place there, and of what model."""

    notebook: str
    cell: int
    place: int
    text: str
    holds: bool
    model: str

    @property
    def numbers(self) -> str:
        """The values in the sentence, in order."""
        return ", ".join(NUMBER.findall(self.text))


def read(path: Path) -> Any:
    """The notebook as nbformat 4."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def _parameters(notebook: Any) -> Any:
    """The code cell tagged `parameters`, which sets what a reader may change."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return cell
    raise ValueError("Got a notebook without a cell tagged 'parameters'; tag the one with MODEL.")


def settings(path: Path) -> dict[str, Any]:
    """The names that a notebook's parameters cell sets, with their values (... if computed)."""
    found: dict[str, Any] = {}
    for node in ast.parse(_parameters(read(path)).source).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            found |= {ast.unparse(name): _literal(node) for name, node in pairs}
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...


def with_settings(path: Path, values: Mapping[str, Any], *, small: bool = True) -> Any:
    """A copy of a notebook with other values of its settings; the rest as for `run`."""
    notebook, known = read(path), settings(path)
    if unknown := set(values) - set(known):
        raise ValueError(
            f"{path.stem} has no {', '.join(sorted(unknown))}; it sets: {', '.join(known)}."
        )
    first = _parameters(notebook)
    mock = first.metadata.get("nbmake", {}).get("mock", {}) if small else {}
    first.source += "".join(f"\n{name} = {value!r}" for name, value in {**mock, **values}.items())
    return notebook


def run(path: Path, values: Mapping[str, Any], *, small: bool = True) -> Any:
    """Execute a copy of a notebook with other values of its settings; returns the executed copy.

    values: of names that the parameters cell sets, such as MODEL, PHOTO, PROMPTS or K; small: take
    the notebook's small setting for the rest (metadata nbmake.mock). Figures go to a folder that
    is thrown away; nothing that is shipped is written.
    Errors: ValueError for names that the notebook does not set; what a cell raises.
    """
    from nbclient import NotebookClient

    notebook = with_settings(path, values, small=small)
    with tempfile.TemporaryDirectory() as figures:
        client = NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )  # fmt: skip
        library = [str(FOLDER.parent), os.environ.get("PYTHONPATH")]  # the one beside the notebooks
        paths = os.pathsep.join(filter(None, library))
        client.execute(env={**os.environ, "GSCAM_FIGURES": figures, "PYTHONPATH": paths})
    return notebook


def claims(notebook: Any, name: str) -> Iterator[Claim]:
    """The claims in the outputs of an executed notebook, called `name`."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        said = [o.metadata[CLAIM] for o in cell.outputs if CLAIM in o.get("metadata", {})]
        for place, claim in enumerate(said, 1):
            yield Claim(name, number, place, claim["text"], claim["holds"], claim["model"])


def cases(path: Path, models: Sequence[str], photo: Path) -> Iterator[dict[str, Any]]:
    """The settings that a notebook must bear: each model; one prompt, K = 1 and a reader's photo.

    Only names that the notebook sets; its own settings first. A notebook that is about some models
    alone lists them in its metadata, as gscam_models, and tells its readers.
    """
    known, about = settings(path), read(path).metadata.get("gscam_models", models)
    yield {}
    if "MODEL" in known:
        yield from ({"MODEL": name} for name in models if name in about and name != known["MODEL"])
    reader = {"PROMPTS": ["a cup"], "K": 1, "PHOTO": str(photo)}
    if mine := {name: value for name, value in reader.items() if name in known}:
        yield mine


def table(found: Sequence[Claim]) -> str:
    """All claims as a Markdown table: each as its notebook ships it, and on which models it holds.

    The first Claim of a place in a notebook gives the sentence; others give their values.
    """
    lines = ["| notebook | cell | claim | true of | not true of |", "|---|---|---|---|---|"]
    places: dict[tuple[str, int, int], list[Claim]] = {}
    for claim in found:
        places.setdefault((claim.notebook, claim.cell, claim.place), []).append(claim)
    for (notebook, cell, _), same in places.items():
        told: dict[bool, list[str]] = {True: [], False: []}
        for claim in same:
            values = f" ({claim.numbers})" if claim.numbers and claim is not same[0] else ""
            told[claim.holds].append(f"{claim.model}{values}")
        text = same[0].text.replace("|", "\\|").replace("\n", " ")
        held, not_held = (", ".join(dict.fromkeys(told[holds])) for holds in (True, False))
        lines.append(f"| {notebook} | {cell} | {text} | {held} | {not_held} |")
    return "\n".join(lines)


def main(out: str, *names: str) -> None:
    """Write the table of claims: as committed, and run with other models and a reader's settings.

    Settings with which a notebook does not run are listed below the table, with the error.
    """
    from nbclient.exceptions import CellExecutionError

    from gscam_lib.model.weights import bundled_models

    found: list[Claim] = []
    failed = []
    photo = Path("../data/scenes/single/images/0000.jpg")  # as a notebook would name it
    for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb")):
        if names and not any(path.stem.startswith(name) for name in names):
            continue
        for values in cases(path, sorted(bundled_models()), photo):
            try:
                found += claims(run(path, values) if values else read(path), path.stem)
            except CellExecutionError as error:
                said = ", ".join(f"{name} = {value!r}" for name, value in values.items())
                failed.append(f"- {path.stem} with {said}: {error.ename}")
    note = (
        "Made by `python notebooks/run.py`: each claim as committed, with its values where the "
        "notebook runs with another model or a reader's settings, in its small setting."
    )
    parts = ["# What the notebooks claim", note, table(found)]
    if failed:
        parts += ["Does not run:", "\n".join(failed)]
    Path(out).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
