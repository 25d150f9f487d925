"""notebooks/build.py: class notebooks with blanks, the index of figures, the static site."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import gscam_lib as gs
from gscam_lib import figures
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


def test_site_is_whole_and_loads_nothing_from_elsewhere(folder):
    index = book.write_site(folder / "site", folder / "notebooks")
    pages = {p.name: p.read_text() for p in index.parent.glob("*.html")}
    assert set(pages) == {"index.html", "00_one.html", "01_two.html"}
    assert 'href="00_one.html">One more</a>' in pages["index.html"]
    assert "This adds." in pages["index.html"]
    assert 'href="01_two.html"' in pages["00_one.html"], "links lead to pages, not to notebooks"
    for name, page in pages.items():
        loads = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)([^"]+)"', page)
        assert not [url for url in loads if "://" in url], name
        assert not re.search(r"import\s*\(?\s*['\"]https?://", page), name
    with pytest.raises(FileNotFoundError, match="No notebooks"):
        book.write_site(folder / "site", Path(folder / "figures"))


def test_site_keeps_widgets_alive(folder, notebook, resnet, photo):
    widget = {book.WIDGET: {"model_id": "x"}, "text/plain": "HBox(…)"}
    notebook.cells[1].outputs = [new_output("display_data", data=widget)]
    nbformat.write(notebook, folder / "notebooks" / "02_widget.ipynb")
    live = {"02_widget": lambda: gs.explore(resnet, photo, prompts=["a cat"])}
    site = book.write_site(folder / "site", folder / "notebooks", live=live).parent
    page = (site / "02_widget.html").read_text()
    assert '<iframe src="02_widget_live.html"' in page
    assert "HBox" not in page
    assert "a cat" in (site / "02_widget_live.html").read_text()
    assert 'href="02_widget_live.html">live</a>' in (site / "index.html").read_text()
    assert "live" not in (site / "00_one.html").read_text().partition("</p>")[0]


def test_pictures_of_the_site_say_what_they_show(folder, notebook):
    figure, _ = plt.subplots()
    figures.save(figure, "one", "What “one” sees.", folder=folder / "figures")
    notebook.cells[2].outputs = [new_output("display_data", data={"image/png": "AAAA"})]
    nbformat.write(notebook, folder / "notebooks" / "02_seen.ipynb")
    book.write_site(folder / "site", folder / "notebooks", live={})
    assert 'alt="What “one” sees."' in (folder / "site" / "02_seen.html").read_text()


def test_live_pages_are_of_notebooks_that_exist():
    assert set(book.LIVE) <= {p.stem for p in book.notebooks()}


def test_commands(folder, monkeypatch):
    monkeypatch.setattr(book, "LIVE", {})  # a minute for each
    book.main(["site", str(folder / "real")])
    assert (folder / "real" / "index.html").is_file()
    with pytest.raises(ValueError, match="class, index"):
        book.main(["nonsense"])
