"""What a run ends in: tables, figures and the page, in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gscam_lib.paper.page import result_page
from gscam_lib.paper.pictures import draw
from gscam_lib.paper.plan import Item
from gscam_lib.paper.values import claims, read_outcome, values
from gscam_lib.paper.worlds import World

PAGE, TABLES, FIGURES = "page.md", "tables", "figures"


def publish(out: Path, world: World, items: Sequence[Item]) -> str:
    """Write tables/values.csv, tables/claims.csv, figures and page.md of a folder; the page.

    The page is made of the rows of all calls so far; figures are of the rows of the plan given.
    """
    outcome = read_outcome(out)
    tables = out / TABLES
    tables.mkdir(exist_ok=True)
    numbers, said = values(outcome), claims(outcome)
    numbers.to_csv(tables / "values.csv", index=False)
    said.to_csv(tables / "claims.csv", index=False)
    draw(out / FIGURES, outcome, world, items)
    page = result_page(outcome, numbers, said)
    (out / PAGE).write_text(page, encoding="utf-8")
    return page
