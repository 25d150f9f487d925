"""What a run ends in: tables, figures and the page, in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gscam_lib.paper.page import result_page
from gscam_lib.paper.pictures import draw
from gscam_lib.paper.plan import Item
from gscam_lib.paper.values import Outcome, claims, read_outcome, values
from gscam_lib.paper.worlds import World

PAGE, TABLES, FIGURES = "page.md", "tables", "figures"


def publish(out: Path, world: World, items: Sequence[Item]) -> str:
    """Write tables/values.csv, tables/claims.csv, figures and page.md of a folder; the page.

    The page is made of the rows of all calls so far; figures are of the rows of the plan given.
    """
    outcome = read_outcome(out)
    made = from_rows(outcome)
    (out / TABLES).mkdir(exist_ok=True)
    for name, content in made.items():
        (out / name).write_bytes(content)
    draw(out / FIGURES, outcome, world, items)
    return made[PAGE].decode()


def from_rows(outcome: Outcome) -> dict[str, bytes]:
    """Tables and page, all that is made from rows alone: name -> content."""
    numbers, said = values(outcome), claims(outcome)
    return {
        f"{TABLES}/values.csv": numbers.to_csv(index=False).encode(),
        f"{TABLES}/claims.csv": said.to_csv(index=False).encode(),
        PAGE: result_page(outcome, numbers, said).encode(),
    }
