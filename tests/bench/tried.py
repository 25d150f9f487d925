"""What was tried to make the library silently wrong, and what came of it: figures/table_tried.md.

python tests/bench/tried.py [--reports FOLDER]   # FOLDER: scripts that end in 0 where all is right
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # tests find conftest by its bare name

from tests.bench.forms import FORMS  # noqa: E402
from tests.bench.loading import outcome  # noqa: E402
from tests.test_faults import FAULTS, SAYS  # noqa: E402

NAMED = re.compile(r"^(\S+\.py)::(\S+):$", re.MULTILINE)
COUNTS = re.compile(r"- (\d+) passing\D+(\d+) failing\D+(\d+) invalid")


def pytest(*arguments: str) -> tuple[int, str]:
    """Exit code and output of pytest on the tests of this checkout."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def properties(text: str) -> list[tuple[str, str, int, int, int]]:
    """File, test, inputs that gave a right answer or an error of ours, failing, not well formed."""
    found = []
    names = list(NAMED.finditer(text))
    for name, following in zip(names, [*names[1:], None], strict=True):
        part = text[name.end() : following.start() if following else len(text)]
        if counts := COUNTS.findall(part):
            sums = [sum(map(int, column)) for column in zip(*counts, strict=True)]
            found.append((name[1].removeprefix("tests/"), name[2], *sums))
    return found


def property_section() -> list[str]:
    code, text = pytest("-m", "hypothesis", "--hypothesis-show-statistics", "tests", "data/build")
    found = properties(text)
    held, failing, invalid = (sum(row[n] for row in found) for n in (2, 3, 4))
    says = "all hold" if code == 0 else f"pytest ended with {code}"
    return [
        "## Property tests and fuzzers",
        f"{held + failing:,} inputs in {len(found)} tests, {says}: {held:,} gave a right answer or "
        f"an error of ours, {failing:,} did not ({invalid:,} drawn that the test does not mean).",
        "\n".join([
            "| file | test | inputs | of them wrong |\n|---|---|---|---|",
            *(f"| {f} | {t.replace('_', ' ')} | {h + w:,} | {w} |" for f, t, h, w, _ in found),
        ]),
    ]  # fmt: skip


def fault_section() -> list[str]:
    code, _ = pytest("tests/test_faults.py", "-k", "thousand")
    says = "no row lost, each accounted for" if code == 0 else f"pytest ended with {code}"
    given = {**SAYS, "full disk": "written again; no row lost"}
    return [
        "## Faults in a run",
        f"{sum(FAULTS.values()):,} injected, two processes on one folder at once: {says}.",
        "\n".join([
            "| fault | times | what its row says |\n|---|---|---|",
            *(f"| {kind} | {count} | {given[kind]} |" for kind, count in FAULTS.items()),
        ]),
    ]  # fmt: skip


def form_section() -> list[str]:
    counts: Counter[tuple[str, str]] = Counter()
    others = []
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            found, value, _ = outcome(form, Path(folder) / "it")
        counts[form.kind, found] += 1
        said = re.search(form.refused, " ".join(str(value).split())) if form.refused else True
        if found != ("refused" if form.refused else "loads") or not said:
            others.append(f"{form.kind}: {form.name}")
    kinds = dict.fromkeys(form.kind for form in FORMS)
    return [
        "## Weight files, folders and live models",
        f"{len(FORMS)} forms; otherwise than they should: {', '.join(others) or 'none'}. "
        "`python tests/bench/loading.py --forms` lists them one by one.",
        "\n".join([
            "| kind | loads | refused in one sentence |\n|---|---|---|",
            *(f"| {k} | {counts[k, 'loads']} | {counts[k, 'refused']} |" for k in kinds),
        ]),
    ]  # fmt: skip


def report_section(folder: Path) -> list[str]:
    lines = ["| report | exit code |\n|---|---|"]
    codes = []
    for script in sorted(folder.glob("*.py")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True)
        codes.append(done.returncode)
        lines.append(f"| {script.stem.replace('_', ' ')} | {done.returncode} |")
    right = codes.count(0)
    return ["## Public reports", f"{len(codes)} tried, {right} right.", "\n".join(lines)]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, help="a folder of scripts, each a report tried")
    parser.add_argument("--out", type=Path, default=ROOT / "figures" / "table_tried.md")
    options = parser.parse_args()
    page = ["# What was tried", "Made by `python tests/bench/tried.py`."]
    page += property_section() + fault_section() + form_section()
    if options.reports:
        page += report_section(options.reports)
    options.out.write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
