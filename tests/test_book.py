"""notebooks/build.py: class notebooks with blanks, the index of figures."""

import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gscam_lib import figures
from notebooks import book as site
from notebooks import build as book

mpl.use("Agg")
LEAD = "# One more\n\nThis adds. It is short.\n\n(In class: there is a copy\nwith blanks.)"
SOURCE = "a = 1\nb = a + 1  # ✎ one more than a\nassert b == 2\nc, d = b, a  # ✎ swap"


@pytest.fixture
def notebook():
    cell = new_code_cell(SOURCE, execution_count=3, outputs=[new_output("stream", text="2")])
    return new_notebook(cells=[new_markdown_cell(LEAD), cell])


@pytest.fixture
def folder(tmp_path, notebook):
    notebook.cells.append(
        new_code_cell(
            'figure = 1\nsaved = gs.figures.save(\n    figure,\n    "one",\n    "What.",\n)'
        )
    )
    notebook.cells.append(new_markdown_cell("Next: [two](01_two.ipynb)"))
    (tmp_path / "notebooks").mkdir()
    for name in ("00_one", "01_two"):
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def test_index_names_notebook_and_cell(folder):
    out = folder / "figures"
    figure, _ = plt.subplots()
    figures.save(figure, "one", "What one sees.", folder=out)
    figures.save(figure, "stray", "Of no notebook.", folder=out)
    figures.save(figure, "bench", "Seconds.", folder=out)
    (out / "table_one.md").write_text("| a |")
    text = book.write_index(out, folder / "notebooks").read_text()
    assert "| [one](#one) | [01_two](../notebooks/01_two.ipynb) | 2 |" in text
    assert "What one sees." in text
    assert "| [bench](#bench) | `make bench` |  |  |" in text
    assert text.endswith("## Tables, by commands\n- [table_one](table_one.md)\n")
    assert book.write_index(out, folder / "notebooks").read_text() == text
    assert re.search(r"\| \[stray\]\(#stray\) \|  \|  \|", text)


def test_live_pages_are_of_notebooks_that_exist():
    assert set(site.LIVE) <= {p.stem for p in book.notebooks()}


def test_unknown_commands_are_errors():
    with pytest.raises(ValueError, match="class, index"):
        book.main(["nonsense"])
