"""The methods: functions from a trace and a prompt to a map (h, w) ≥ 0, and their table.

It knows formulas; it knows no files, boxes or plots. A file for each family.
"""

import ast
from contextlib import suppress
from typing import Any

from gscam_lib.methods.method import METHODS, Method, check_options

# Their order is that of the table.
# isort: off
from gscam_lib.methods import score, perturbation, gradient, attention, dense, control

# isort: on
from gscam_lib.model.network import TOWERS

__all__ = [
    "METHODS", "TOWERS", "Method", "attention", "control", "dense", "gradient", "methods_table",
    "perturbation", "read_method", "score", "title",
]  # fmt: skip

AS_RELEASED = "as_released"


def read_method(text: str, k: int | None = None) -> tuple[str, dict[str, Any]]:
    """Name and options of a method as people write them: "gscorecam:ranking=variance:k=50".

    Values are Python's (numbers, None, True), or else text; "hilacam:as_released" takes the options
    of the authors' code, before others that are given. k: for a method that takes one and has none
    of its own. Raises ValueError where there is no such method or option, or of another kind.
    """
    name, *parts = (part.strip() for part in str(text).split(":"))
    given: dict[str, Any] = {}
    preset: dict[str, Any] = {}
    for part in parts:
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if part == AS_RELEASED:
            preset = _as_released(name)
        elif not (option and equals and value) or option in given:
            raise ValueError(
                f"Got the method {text!r}; expected a name, or a name and options such as "
                "'gscorecam:ranking=variance:k=50', each once."
            )
        else:
            given[option] = value
            with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                given[option] = ast.literal_eval(value)
    options = check_options(name, preset | given)
    if k is not None:
        k = check_options("gscorecam", {"k": k})["k"]  # also where no method takes it
        if "k" in METHODS[name].options and options.get("k") is None:
            options["k"] = k
    return name, options


def _as_released(name: str) -> dict[str, Any]:
    check_options(name, {})
    preset = METHODS[name].as_released
    if preset is None:
        have = [m.name for m in METHODS.values() if m.as_released is not None]
        raise ValueError(
            f"'{name}' has no options of an original ({AS_RELEASED}). Methods that have: "
            f"{', '.join(have)}."
        )
    return dict(preset)


def title(method: str) -> str:
    """A method as tables write it, options and all; what is no method, as it is."""
    name, *options = (part.strip() for part in method.split(":"))
    if name not in METHODS:
        return method
    words = (option.replace("=", " = ").replace(AS_RELEASED, "as released") for option in options)
    return ", ".join([METHODS[name].title, *words])


def methods_table() -> str:
    """Return the methods as a Markdown table: names, families, towers, cost, parity and source."""
    head = (
        "name", "method", "family", "towers", "forward", "backward", "options", "as released",
        "parity", "source",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for m in METHODS.values():
        towers = "all" if m.towers == tuple(TOWERS) else ", ".join(m.towers)
        source = f"{m.paper} {m.year}" if m.paper != "control" else "control"
        preset = ", ".join(f"{option}={value}" for option, value in (m.as_released or {}).items())
        released = "" if m.as_released is None else preset or "the defaults"
        cost = (m.forward, m.backward, ", ".join(m.options))
        rows.append((f"`{m.name}`", m.title, m.family, towers, *cost, released, m.parity, source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
