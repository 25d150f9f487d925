"""Class notebooks: the workbook's own with blanks, hints and checks; the answers in a key apart.

In a notebook of the series, a line marked `# ✎ task` becomes a blank; a code cell tagged `beyond`
is left out in class, and with it its section where no other code is left. Hints and checks of the
blanks stand in lessons/blanks.yaml, by notebook and by the name that the line sets.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
MARK, EMPTY, BEYOND = "# ✎", "FILL_ME_IN", "beyond"
IN_CLASS = re.compile(r"\n*\(In class: .*?\)", re.S)  # what the teacher's notebook says of its copy
FOLDED = re.compile(r"<details>.*?</details>", re.S)
TO_DO = (
    f"**In class.** Fill in what stands as `{EMPTY}`: each line marked `{MARK}` says what it must "
    "give. Above it is a hint that opens when you want it; run the cell below it, and it says "
    "whether the line is right, or what is wrong. Before each figure, say what you expect."
)
IMPORTS = (
    "from gscam_lib.explorer import classroom  # what checks the blanks\n"
    f"from gscam_lib.explorer.classroom import {EMPTY}"
)


@dataclass(frozen=True)
class Blank:
    """A marked line of a code cell: what it sets, what it must give, the answer, its lines."""

    name: str
    task: str
    answer: str
    first: int
    last: int
    top: bool  # of the cell, not inside a loop or a with

    def emptied(self, line: str) -> str:
        """The line of the blank as pupils get it; line: its first, for the indent."""
        return f"{line[: len(line) - len(line.lstrip())]}{self.name} = {EMPTY}  {MARK} {self.task}"


def blanks(source: str) -> list[Blank]:
    """The blanks of a code cell, in order."""
    lines = source.splitlines()
    plain = [s if not s.lstrip().startswith(("%", "!")) else "" for s in lines]
    tree, found = ast.parse("\n".join(plain)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.end_lineno is not None:
            _, mark, task = lines[node.end_lineno - 1].rpartition(MARK)
            if mark:
                place = (node.lineno - 1, node.end_lineno - 1, node in tree.body)
                name, answer = (ast.unparse(n).strip("()") for n in (node.targets[0], node.value))
                answer = ast.get_source_segment("\n".join(plain), node.value) or answer
                found.append(Blank(name, task.strip(), answer, *place))
    return sorted(found, key=lambda blank: blank.first)


def sheet(folder: Path = FOLDER / "lessons") -> dict[str, dict[str, Any]]:
    """Hints and checks: notebook -> name of the blank -> {hint, checks: [{that, else}]}."""
    with (folder / "blanks.yaml").open(encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


# ---------------------------------------------------------------- the copy for class


def sections(notebook: Any) -> list[list[Any]]:
    """The cells, with Markdown split before each `## `; a section begins at each of these."""
    from nbformat.v4 import new_markdown_cell

    found: list[list[Any]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            found[-1].append(cell)
            continue
        for n, part in enumerate(re.split(r"^(?=## )", cell.source, flags=re.M)):
            if part.startswith("## "):
                found.append([])
            if part.strip():
                made = new_markdown_cell(part.strip(), metadata=cell.metadata, id=f"{cell.id}-{n}")  # type: ignore[no-untyped-call]
                found[-1].append(made)
    return found


def with_blanks(notebook: Any, name: str, told: Mapping[str, Any] | None = None) -> Any:
    """A copy of a notebook for class: blanks with hints and checks, no outputs, no solutions.

    name: of the notebook's file, without its ending; told: hints and checks by the blank's name.
    Errors: ValueError where no line is marked, and for hints of blanks that are not there.
    """
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell

    told = told or {}
    copy = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    there = {b.name for c in copy.cells if c.cell_type == "code" for b in blanks(c.source)}
    if not there:
        raise ValueError(f"Got {name} without blanks; mark lines as `name = …  {MARK} task`.")
    if astray := set(told) - there:
        raise ValueError(
            f"blanks.yaml tells of {', '.join(sorted(astray))} in {name}, where no such line is "
            f"marked `{MARK}`; there are: {', '.join(sorted(there))}."
        )
    cells: list[Any] = []
    for part in sections(copy):
        code = [c for c in part if c.cell_type == "code"]
        left = [c for c in part if BEYOND not in c.metadata.get("tags", [])]
        heading = part[0].source.partition("\n")[0].removeprefix("## ")
        if code and heading != "Exercises" and not any(c.cell_type == "code" for c in left):
            text = f"*Left out in class: “{heading}”, in the [whole notebook]({name}.ipynb).*"
            cells.append(new_markdown_cell(text, id=f"{part[0].id}-out"))  # type: ignore[no-untyped-call]
            continue
        for cell in left:
            cells += _in_class(cell, told)
    cells.insert(1, new_markdown_cell(TO_DO, id="class-to-do"))  # type: ignore[no-untyped-call]
    after = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
    cells.insert(after + 1, new_code_cell(IMPORTS, id="class-imports"))  # type: ignore[no-untyped-call]
    copy.cells = cells
    return copy


def _in_class(cell: Any, told: Mapping[str, Any]) -> Iterator[Any]:
    """A cell as it is in class: a blank has a cell of its own, between its hint and its check."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    if cell.cell_type == "markdown":
        cell.source = FOLDED.sub("*(Your teacher has the answers.)*", IN_CLASS.sub("", cell.source))
        yield cell
        return
    cell.outputs, cell.execution_count = [], None
    mine, lines = blanks(cell.source), cell.source.splitlines()
    alone = [b for b in mine if b.top and told.get(b.name, {}).get("checks")]
    for blank in (b for b in mine if b not in alone):  # they stay where they are
        if blank.name in told:
            yield new_markdown_cell(_hint(blank, told), id=f"{cell.id}-{blank.first}-hint")  # type: ignore[no-untyped-call]
    shown, start, parts = list(lines), 0, []
    for blank in mine:
        shown[blank.first : blank.last + 1] = [
            blank.emptied(lines[blank.first]),
            *[None] * (blank.last - blank.first),
        ]
    for blank in alone:
        parts.append(new_code_cell(_joined(shown[start : blank.first])))  # type: ignore[no-untyped-call]
        parts.append(new_markdown_cell(_hint(blank, told)))  # type: ignore[no-untyped-call]
        parts.append(new_code_cell(_joined(shown[blank.first : blank.last + 1])))  # type: ignore[no-untyped-call]
        hidden = {"tags": ["check"], "jupyter": {"source_hidden": True}}
        parts.append(new_code_cell(_check(blank, told), metadata=hidden))  # type: ignore[no-untyped-call]
        start = blank.last + 1
    parts.append(new_code_cell(_joined(shown[start:])))  # type: ignore[no-untyped-call]
    kept = [part for part in parts if part.source]
    kept[0].metadata = cell.metadata if kept[0].cell_type == "code" else {}
    for n, part in enumerate(kept):
        part.id = cell.id if len(kept) == 1 else f"{cell.id}-{n}"
        yield part


def _joined(lines: list[Any]) -> str:
    return "\n".join(line for line in lines if line is not None).strip("\n")


def _hint(blank: Blank, told: Mapping[str, Any]) -> str:
    hint = told[blank.name]["hint"].strip()
    return (
        f"✎ **{blank.name}**: {blank.task}\n\n<details><summary>Hint</summary>\n\n{hint}\n\n"
        "</details>"
    )


def _check(blank: Blank, told: Mapping[str, Any]) -> str:
    rules = [
        f"    (lambda: {rule['that']}, {rule['else']!r})," for rule in told[blank.name]["checks"]
    ]
    return "\n".join([f"classroom.check({blank.name!r}, {blank.name},", *rules, ")"])


# ---------------------------------------------------------------- the key


def key(teacher: Any) -> dict[tuple[str, str], str]:
    """The answers: (name, task) -> what is right of the `=` in the teacher's notebook."""
    code = (c.source for c in teacher.cells if c.cell_type == "code")
    return {(b.name, b.task): b.answer for source in code for b in blanks(source)}


def solutions(teacher: Any) -> list[str]:
    """What is folded in the teacher's notebook, as Markdown: answers to what the text asks."""
    folds = [
        f for c in teacher.cells if c.cell_type == "markdown" for f in FOLDED.findall(c.source)
    ]
    return [re.sub(r"</?details>|<summary>.*?</summary>", "", fold).strip() for fold in folds]


def filled(notebook: Any, answers: Mapping[tuple[str, str], str]) -> Any:
    """A class notebook with every blank that is still empty filled from the key."""
    import nbformat

    copy = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    for cell in copy.cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            for b in blanks(cell.source):
                if b.answer == EMPTY:
                    lines[b.first] = lines[b.first].replace(
                        f"= {EMPTY}", f"= {answers[b.name, b.task]}"
                    )
            cell.source = "\n".join(lines)
    return copy


def fewer(notebook: Any, kept: Sequence[str]) -> Any:
    """A notebook in which only lines that set one of `kept` are marked; the others stay as code.

    Errors: ValueError for names that no marked line sets.
    """
    import nbformat

    copy, there = nbformat.from_dict(notebook), set()  # type: ignore[no-untyped-call]
    for cell in (c for c in copy.cells if c.cell_type == "code"):
        lines, found = cell.source.splitlines(), blanks(cell.source)
        there |= {blank.name for blank in found}
        for blank in (b for b in found if b.name not in kept):
            lines[blank.last] = lines[blank.last].partition(MARK)[0].rstrip()
        cell.source = "\n".join(lines)
    if astray := set(kept) - there:
        raise ValueError(
            f"Got {', '.join(sorted(astray))}; marked are: {', '.join(sorted(there))}."
        )
    return copy


def write(folder: Path = FOLDER) -> list[Path]:
    """Write class_NAME.ipynb beside every notebook with marked lines; returns their paths."""
    import nbformat

    told, written = sheet(folder / "lessons"), []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        if any(blanks(c.source) for c in notebook.cells if c.cell_type == "code"):
            target = path.with_name(f"class_{path.name}")
            made = with_blanks(notebook, path.stem, told.get(path.stem))
            nbformat.write(made, target)  # type: ignore[no-untyped-call]
            written.append(target)
    return written
