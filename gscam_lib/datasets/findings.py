"""What is wrong with a data set: found by its reader and by `check`, with place and consequence."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["refused", "left out", "noted"]
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One kind of fault: what it is, where (the first places), how often, and what is done."""

    severity: Severity
    what: str
    where: str
    action: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.what}: {self.where}. {self.action}"


class DataError(ValueError):
    """A data set that cannot be used as it is; `findings` has all that its reader saw."""

    def __init__(self, file: object, findings: Iterable[Finding]) -> None:
        self.file, self.findings = str(file), list(findings)
        refused = [str(f) for f in self.findings if f.severity == "refused"]
        super().__init__(f"{file}: {' '.join(refused[:SHOWN])}")

    def __reduce__(self) -> tuple[type[DataError], tuple[str, list[Finding]]]:
        return DataError, (self.file, self.findings)  # so that workers can hand it over


def listed(
    severity: Severity, what: str, places: Iterable[str], action: str, count: int | None = None
) -> list[Finding]:
    """A list of one Finding with its first places, or of none where there is no place.

    count: how many there are, where places should not be made for all.
    """
    if count is None:
        places = list(places)
        count = len(places)
    if not count:
        return []
    where = ", ".join(islice(places, SHOWN))
    more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
    return [Finding(severity, what, where + more, action, count)]


def escapes(name: str) -> bool:
    """Whether a file name would leave its folder, or is none a file can have."""
    plain = name.replace("\\", "/")
    if "\0" in name or plain.startswith("/") or re.match("[A-Za-z]:", plain):
        return True
    if ".." in plain and posixpath.normpath(plain).split("/")[0] == "..":
        return True
    return not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name)
