"""When a difference counts as decided: one rule, everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statsmodels.stats.multitest import multipletests

from gscam_lib.figures.letters import signed

ENOUGH = 5  # images; the bootstrap of fewer returns little but their own values: no interval
LEVEL = 0.05


def decided(found: Mapping[str, Any], *, tests: int = 1) -> bool:
    """Whether a paired difference is decided, by the rule of every table, chart and sentence here.

    Its 95 % interval over images leaves out 0; where several comparisons are made together, the
    p-value corrected for them (Holm) is below .05 too; and there are at least five images. found:
    low, high, p, as of `gs.compare`; "p (Holm)", as of `compare_all` and `verdicts`, goes before p
    and `tests`, the number of comparisons, by which p is multiplied (Bonferroni, never laxer).
    """
    several = tests > 1 or "p (Holm)" in found
    p = found["p (Holm)"] if "p (Holm)" in found else tests * found["p"] if several else 0.0
    enough = found.get("images", ENOUGH) >= ENOUGH
    return bool(enough and (found["low"] > 0 or found["high"] < 0) and p < LEVEL)


def verdict(what: str, found: Mapping[str, Any]) -> str:
    """One sentence on a paired difference: its mean, its interval, and whether it is `decided`.

    what: such as "gScoreCAM − Grad-CAM, IoU"; found: difference, low, high and p, as `gs.compare`
    gives them; of several comparisons made together, `verdicts` gives one sentence each.
    """
    low, high = found["low"], found["high"]
    if decided(found):
        says = f"the first is {'higher' if low > 0 else 'lower'}, the interval leaves out 0"
        if "p (Holm)" in found:
            says += " and the corrected p is below .05"
    elif found.get("images", ENOUGH) < ENOUGH:
        says = f"not decided, {found['images']} images are too few"
    elif low > 0 or high < 0:
        says = "not decided among so many comparisons, though the interval leaves out 0"
    else:
        says = "not decided, the interval includes 0"
    mean, low, high = signed((found["difference"], low, high))
    return f"{what}: {mean} [{low}, {high}], {says}"


def verdicts(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A `verdict` on each of several comparisons made together, p corrected for all (Holm 1979).

    found: what is compared -> difference, low, high and p.
    """
    corrected = multipletests([each["p"] for each in found.values()], method="holm")[1]
    return [
        verdict(what, {**each, "p (Holm)": float(p)})
        for (what, each), p in zip(found.items(), corrected, strict=True)
    ]
