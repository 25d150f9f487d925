"""Blanks of the class notebooks: what stands in for an answer, and what tells whether one is right.

It knows no model and no notebook: each check is written in the notebook, below its blank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Rule = tuple[Callable[[], object], str]


class BlankError(ValueError):
    """A blank that is empty or not right yet; a notebook shows its sentence and no traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an error for
        return [str(self)]


class _Empty:
    """What stands in a blank: whatever is done with it says that it is to be filled in."""

    def _say(self, *_: object) -> BlankError:
        raise BlankError("✎ Fill me in: this cell needs a line marked ✎ above that is still empty.")

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):  # Python's and NumPy's own questions
            raise AttributeError(name)
        return self._say()

    def __repr__(self) -> str:
        return "FILL_ME_IN"

    __call__ = __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = _say
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _say
    __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __neg__ = __abs__ = __invert__ = _say
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __rand__ = __or__ = __ror__ = _say
    __float__ = __int__ = __index__ = __array__ = __format__ = _say  # type: ignore[assignment]


FILL_ME_IN = _Empty()
"""Stands in the blanks of the class notebooks."""


@dataclass(frozen=True)
class Right:
    """What a check answers where nothing is wrong."""

    name: str

    def __repr__(self) -> str:
        return f"✔ {self.name}: right."


def check(name: str, value: object, *rules: Rule) -> Right:
    """Tell whether a blank is filled well, and if not, what is wrong; it never shows the answer.

    rules: (condition, what is wrong where it does not hold), asked in this order up to the first
    that does not hold; a condition that cannot even be asked does not hold.
    Errors: BlankError, a ValueError, where the blank is empty or a rule does not hold.
    """
    if value is FILL_ME_IN:
        raise BlankError(f"✎ {name}: fill me in.")
    for holds, otherwise in rules:
        problem = ""
        try:
            fine = bool(holds())
        except BlankError:
            raise
        except Exception as error:  # of a value that is of another kind altogether
            fine, problem = False, f" (Python says: {error})"
        if not fine:
            raise BlankError(f"✘ {name}: {otherwise}{problem}")
    return Right(name)
