"""The notebooks: they run, and they keep the rules of the series."""

import ast
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path, kind="code"):
    notebook = nbformat.read(path, as_version=4)
    return [c for c in notebook.cells if c.cell_type == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@by_name
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Run in a copy of the folder layout, so that committed figures stay as they are."""
    from nbclient import NotebookClient

    monkeypatch.setenv("GSCAM_FIGURES", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert list(tmp_path.glob("*.png")), "a notebook makes at least one figure"


@by_name
def test_notebook_keeps_the_rules(path):
    assert path.stat().st_size <= 1.5e6
    code = cells(path)
    assert len(code) <= 12
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    assert "parameters" in code[0].metadata.get("tags", [])
    for cell in code:
        assert cell.execution_count, "committed executed"
        assert not any(output.output_type == "error" for output in cell.outputs)
        tree = ast.parse("\n".join(s for s in cell.source.splitlines() if not s.startswith("%")))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 5, "a def of at most five lines"


@by_name
def test_figures_of_the_notebook_are_committed(path):
    import re

    names = re.findall(r'save\(\s*\w+,\s*"(\w+)"', "\n".join(c.source for c in cells(path)))
    assert names
    for name in names:
        assert (ROOT / "figures" / f"{name}.png").is_file()
        assert (ROOT / "figures" / f"{name}.pdf").is_file()
