"""The notebooks: they run, and they keep the rules of the series.

Each runs under nbmake with the small setting that its first cell carries (metadata nbmake.mock).
"""

import ast
import contextlib
import functools
import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import matplotlib.pyplot as plt
import mistakes
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

import gscam_lib as gs
from gscam_lib.paths import MODELS
from notebooks import build as book
from notebooks import classes
from notebooks import run as runner

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = book.notebooks()
BUNDLED = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
READERS_PHOTO = Path("../data/scenes/single/images/0000.jpg")  # as a notebook would name it
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [c for c in read(path).cells if c.cell_type == "code"]


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A folder for embeddings of masked copies, which notebooks ask for again and again."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "kept"


def in_a_kernel(notebook, path, figures, kept):
    """Under nbmake, as a reader would have it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake"]
    environment = {**os.environ, "GSCAM_FIGURES": str(figures), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # the library beside the notebooks
    done = subprocess.run(
        [*command, "--nbmake-timeout=600", str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def in_a_fork(notebook, path, figures, kept):
    """In a process of its own: what a kernel does, without the seconds that one takes to start."""
    gs.load_model("mini-rn")  # torch and all else is loaded before the fork, and once
    problem = figures.with_suffix(".problem")
    given = (notebook, path.parent, figures, kept, problem)
    process = multiprocessing.get_context("fork").Process(target=run_cells, args=given)
    process.start()
    process.join(600)
    if process.is_alive():
        process.kill()
        pytest.fail("still running after 600 s")
    assert not problem.exists(), problem.read_text()[-3000:]
    assert process.exitcode == 0


def run_cells(notebook, folder, figures, kept, problem):
    try:
        gs.Model.trace = functools.partialmethod(gs.Model.trace, cache=kept)
        os.chdir(folder)
        os.environ["GSCAM_FIGURES"] = str(figures)
        shell = InteractiveShell.instance(colors="nocolor")
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    done = shell.run_cell(cell.source)
                if not done.success:
                    problem.write_text(f"cell {number}\n{out.getvalue()}")
                    break
                plt.close("all")
    except BaseException:
        problem.write_text(traceback.format_exc())
    os._exit(0)  # without what pytest does at its end


def test_the_series_is_whole():
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"{n:02}" for n in range(11)]


def rehearsed(path, folder):
    """The notebook as in class, whole and filled; each check sees wrong lines, then the right."""
    notebook, key = read(path), classes.key(read(path))
    for cell in notebook.cells:  # what is left out in class is to run, too
        cell.metadata["tags"] = [t for t in cell.metadata.get("tags", []) if t != classes.BEYOND]
    made = classes.with_blanks(notebook, path.stem, classes.sheet()[path.stem])
    made = classes.filled(made, key)
    answers, cells = {name: answer for (name, _), answer in key.items()}, []
    for cell in made.cells:
        cells.append(cell)
        if "check" in cell.metadata.get("tags", []):
            name = re.match(r"classroom.check\('(\w+)'", cell.source)[1]
            source = mistakes.probe(path.stem, name, cell.source, answers[name])
            cells.insert(-1, nbformat.v4.new_code_cell(source))
    made.cells = cells
    folder.mkdir()
    nbformat.write(made, folder / path.name)
    return folder / path.name


@by_name
@forks
def test_notebook_runs(path, tmp_path, kept):
    """With its small setting, figures put elsewhere, so that committed ones stay as they are.

    One in a kernel of its own, the others in a fork (`make figures` runs all in kernels).
    """
    before, figures = path.read_bytes(), tmp_path / "figures"
    in_class = path.with_name(f"class_{path.name}").is_file()
    run = in_a_kernel if path.stem == "09_your_own" else in_a_fork
    copy = rehearsed(path, tmp_path / "class") if in_class else path
    run(runner.with_settings(copy, {}), copy, figures, kept)
    assert path.read_bytes() == before
    assert {p.stem for p in figures.glob("*.png")} == {n for n, _ in book.saved_figures(path)}


def other_settings():
    for path in NOTEBOOKS:
        for values in runner.cases(path, BUNDLED, READERS_PHOTO):
            if values:
                name = f"{path.stem}-{values.get('MODEL', 'reader')}"
                yield pytest.param(path, values, id=name)


@pytest.mark.parametrize(("path", "values"), list(other_settings()))
@forks
def test_notebook_runs_with_other_settings(path, values, tmp_path, kept):
    """With every bundled model, and with one prompt, K = 1 and a photo of the reader's."""
    in_a_fork(runner.with_settings(path, values), path, tmp_path / "figures", kept)


@by_name
def test_claims_hold_for_the_model_that_is_shipped(path):
    """What a notebook says of its numbers, as committed; the text around may build on it."""
    for claim in runner.claims(read(path), path.stem):
        assert claim.holds, claim


@by_name
def test_notebook_keeps_the_rules(path):
    assert path.stat().st_size <= 1.5e6
    cells = code(path)
    assert len(cells) <= 12
    assert "widgets" not in read(path).metadata
    (settings,) = (c for c in cells[:2] if "parameters" in c.metadata.get("tags", []))
    assert "MODEL" in settings.source
    for cell in cells:
        assert cell.execution_count, "committed executed"
        tree = ast.parse("\n".join(s for s in cell.source.splitlines() if not s.startswith("%")))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 5, "a def of at most five lines"
        for output in cell.outputs:
            assert output.output_type != "error"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"PosixPath|\.png\b|/site-packages/|/tmp/", text), "prints a path"
            assert output.get("name") != "stderr", text
    assert "environment(" in cells[-1].source


@by_name
def test_after_each_figure_stands_what_to_notice(path):
    cells = read(path).cells
    for i, cell in enumerate(cells):
        if cell.cell_type == "code" and "figures.save(" in cell.source:
            text = next(c.source for c in cells[i:] if c.cell_type == "markdown")
            assert "What to notice" in text, cell.source[:200]


@by_name
def test_two_exercises_with_folded_solutions(path):
    text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    exercises, solutions = text.partition("## Exercises")[2].split("<details>")
    assert re.findall(r"^(\d)\. ", exercises, re.M) == ["1", "2"]
    assert re.findall(r"^(\d)\. ", solutions.split("</details>")[0], re.M) == ["1", "2"]


@by_name
def test_nothing_is_fetched_but_on_colab(path):
    """By one cell of the first two; readers see it folded where it does nothing else."""
    cells = code(path)
    (fetches,) = (c for c in cells[:2] if 'if "google.colab" in sys.modules:' in c.source)
    if "parameters" not in fetches.metadata.get("tags", []):
        assert fetches.metadata.jupyter.source_hidden
    before = fetches.source.partition('if "google.colab"')[0]
    assert not re.search(r"system|pip|git clone", before)
    rest = "\n".join(c.source for c in cells if c is not fetches)
    assert not re.search(r"\bpip install\b|\bgit clone\b|urlopen|requests\.", rest)


@by_name
def test_captions_name_the_weights(path):
    names = [name for name, _ in book.saved_figures(path)]
    assert names
    for name in names:
        assert (ROOT / "figures" / f"{name}.pdf").is_file()
        with Image.open(ROOT / "figures" / f"{name}.png") as opened:
            assert "Weights: " in opened.info["Description"], name


def test_links_between_notebooks_lead_somewhere():
    for path in NOTEBOOKS:
        text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
        for name in re.findall(r"\]\((\w+\.ipynb)\)", text):
            assert (path.parent / name).is_file(), f"{path.name} links to {name}"


def test_the_index_of_figures_is_the_written_one(tmp_path):
    committed = (ROOT / "figures" / "README.md").read_text()
    for file in (ROOT / "figures").glob("*.*"):
        if file.suffix in (".png", ".md"):
            shutil.copy(file, tmp_path)
    assert book.write_index(tmp_path).read_text() == committed, "run make figures"


def test_the_papers_figures_are_matched_with_figures_that_exist():
    saved = {name for path in NOTEBOOKS for name, _ in book.saved_figures(path)}
    assert set(book.PAPER) <= saved
