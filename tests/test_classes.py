"""Class notebooks: blanks with hints and checks, made from the workbook; the checks themselves."""

import builtins
import os
import symtable

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gscam_lib.explorer import classroom
from gscam_lib.explorer.classroom import FILL_ME_IN
from notebooks import classes

FOLDER = classes.FOLDER
CLASS = sorted(FOLDER.glob("class_*.ipynb"))
LEAD = "# One more\n\nThis adds.\n\n(In class: there is a copy\nwith blanks.)"
SOURCE = "b = a + 1  # ✎ one more than a\nassert b == 2\nfor x in [a]:\n    c = x  # ✎ the same"
PARTS = "**What to notice.** All.\n\n## More\n\nText."
END = "## Exercises\n\n1. Add.\n\n<details><summary>Solutions</summary>\n\n1. `b + 1`\n\n</details>"
TOLD = {"b": {"hint": "Use `+`.", "checks": [{"that": "b > a", "else": "more than a, please."}]}}


def read(path):
    return nbformat.read(path, as_version=4)


def teacher_of(path):
    return read(path.with_name(path.name.removeprefix("class_")))


@pytest.fixture
def notebook():
    done = {"execution_count": 3, "outputs": [new_output("stream", text="2")]}
    return new_notebook(
        cells=[
            new_markdown_cell(LEAD, id="t0"),
            new_code_cell("a = 1", metadata={"tags": ["parameters"]}, id="c0"),
            new_code_cell(SOURCE, id="c1", **done),
            new_markdown_cell(PARTS, id="t1"),
            new_code_cell("d = 4", metadata={"tags": ["beyond"]}, id="c2"),
            new_markdown_cell(END, id="t2"),
        ]
    )


def test_blanks_take_answers_outputs_and_solutions_out(notebook):
    made = classes.with_blanks(notebook, "00_one", TOLD)
    nbformat.validate(made)
    text = "\n".join(c.source for c in made.cells)
    code = [c for c in made.cells if c.cell_type == "code"]
    assert "b = FILL_ME_IN  # ✎ one more than a" in [c.source for c in code]
    assert "    c = FILL_ME_IN  # ✎ the same" in code[-1].source
    assert not any(c.outputs or c.execution_count for c in code)
    assert "<summary>Hint</summary>\n\nUse `+`." in text
    assert "In class: there" not in text
    assert "b + 1" not in text, "the solutions are in the key"
    assert "d = 4" not in text
    assert "Left out in class: “More”" in text
    assert notebook.cells[2].source == SOURCE, "the teacher's notebook stays"
    assert classes.solutions(notebook) == ["1. `b + 1`"]


def test_blanks_that_are_not_there_are_errors(notebook):
    with pytest.raises(ValueError, match="tells of z in 00_one"):
        classes.with_blanks(notebook, "00_one", {"z": TOLD["b"]})
    with pytest.raises(ValueError, match="without blanks"):
        classes.with_blanks(new_notebook(cells=[new_code_cell("a = 1")]), "00_one")


def test_filling_gives_the_teachers_lines_and_keeps_the_pupils(notebook):
    made, answers = classes.with_blanks(notebook, "00_one", TOLD), classes.key(notebook)
    assert answers == {("b", "one more than a"): "a + 1", ("c", "the same"): "x"}
    full = "\n".join(c.source for c in classes.filled(made, answers).cells)
    assert "b = a + 1  # ✎ one more than a" in full
    assert "    c = x  # ✎ the same" in full
    for cell in made.cells:
        cell.source = cell.source.replace("b = FILL_ME_IN", "b = 2")
    assert "b = 2  # ✎" in "\n".join(c.source for c in classes.filled(made, answers).cells)


# ---------------------------------------------------------------- the committed ones


def test_these_notebooks_have_a_class_version():
    assert [p.stem[6:8] for p in CLASS] == ["01", "02", "03", "04", "06", "07", "08"]


@pytest.mark.parametrize("path", CLASS, ids=lambda p: p.stem)
def test_class_version_is_made_from_the_teachers(path):
    stem = path.stem.removeprefix("class_")
    told = classes.sheet()[stem]
    made = classes.with_blanks(teacher_of(path), stem, told)
    cells = read(path).cells
    assert [c.source for c in cells] == [c.source for c in made.cells], "make figures"
    answers = classes.key(teacher_of(path))
    assert len(answers) >= 4
    assert {name for name, _ in answers} == set(told), "a hint for each blank"
    code = [c.source for c in cells if c.cell_type == "code"]
    assert sum(s.count(f"= {classes.EMPTY}  {classes.MARK}") for s in code) == len(answers)
    for name, entry in told.items():
        below = [s for s in code if s.startswith(f"classroom.check({name!r}")]
        assert len(below) == (1 if "checks" in entry else 0)
        for (blank, _), answer in answers.items():
            assert blank != name or not below or answer not in below[0], "the check gives it away"


def test_filled_ones_have_none_left():
    for path in CLASS:
        full = classes.filled(read(path), classes.key(teacher_of(path)))
        assert f"= {classes.EMPTY} " not in "\n".join(c.source for c in full.cells)


def names(source):
    """Names that a cell sets, and those that it or its functions read from outside."""
    plain = "\n".join(s for s in source.splitlines() if not s.startswith("%"))
    top = symtable.symtable(plain, "cell", "exec")
    tables, read = [top], set()
    while tables:
        part = tables.pop()
        tables += part.get_children()
        used = [s for s in part.get_symbols() if s.is_referenced()]
        read |= {s.get_name() for s in used if part is top or s.is_global()}
    return {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}, read


@pytest.mark.parametrize("path", CLASS, ids=lambda p: p.stem)
def test_what_is_left_out_in_class_is_not_missed(path):
    known = {*dir(builtins), "display", "get_ipython"}
    for cell in read(path).cells:
        if cell.cell_type == "code":
            given, asked = names(cell.source)
            known |= given
            assert asked <= known, f"{asked - known} is not there in {cell.source[:80]}"


def test_in_a_kernel_each_check_speaks_in_one_line(notebook):
    made = classes.with_blanks(notebook, "00_one", TOLD)
    told = [c.source for c in made.cells if "check" in c.metadata.get("tags", [])]
    asked = [
        "a = 1",
        classes.IMPORTS,
        "b = FILL_ME_IN",
        *told,
        "b + 1",
        "b = 0",
        *told,
        "b = 2",
        *told,
    ]
    cells = [new_code_cell(source) for source in asked]
    run = NotebookClient(new_notebook(cells=cells), kernel_name="python3", allow_errors=True)
    run.execute(env={**os.environ, "PYTHONPATH": str(FOLDER.parent)})
    said = [
        "".join(o.get("traceback") or [o["data"]["text/plain"]]) for c in cells for o in c.outputs
    ]
    assert said[0] == "✎ b: fill me in."
    assert said[1].startswith("✎ Fill me in: this cell needs a line marked ✎")
    assert said[2:] == ["✘ b: more than a, please.", "✔ b: right."]


# ---------------------------------------------------------------- checks


def test_check_tells_the_first_thing_that_is_wrong():
    w = np.array([0.5, 0.6])
    rules = [(lambda: w.shape == (2,), "shape"), (lambda: w.sum() == 1, "sum"), (lambda: 1 / 0, "")]
    with pytest.raises(ValueError, match=r"✘ w: sum$"):
        classroom.check("w", w, *rules)
    assert repr(classroom.check("w", w, rules[0])) == "✔ w: right."
    with pytest.raises(classroom.BlankError, match=r"✘ w: shape \(Python says: division"):
        classroom.check("w", w, (lambda: 1 / 0, "shape"))
    with pytest.raises(classroom.BlankError, match="✎ w: fill me in"):
        classroom.check("w", FILL_ME_IN, *rules)


@pytest.mark.parametrize(
    "use",
    [
        lambda: FILL_ME_IN + 1, lambda: np.arange(3) * FILL_ME_IN, lambda: FILL_ME_IN.sum(),
        lambda: len(FILL_ME_IN), lambda: f"{FILL_ME_IN:.2f}", lambda: np.arange(3)[FILL_ME_IN],
        lambda: list(FILL_ME_IN), lambda: FILL_ME_IN["a"], lambda: FILL_ME_IN > 0,
        lambda: float(FILL_ME_IN), lambda: FILL_ME_IN(1), lambda: bool(FILL_ME_IN),
        lambda: np.asarray(FILL_ME_IN), lambda: ~FILL_ME_IN,
    ],
)  # fmt: skip
def test_whatever_is_done_with_an_empty_blank_says_so(use):
    with pytest.raises(classroom.BlankError, match="Fill me in"):
        use()
    assert repr(FILL_ME_IN) == "FILL_ME_IN"
