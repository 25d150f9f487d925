"""charts.py: what is drawn is what the tables say; ours and published look different."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from gscam_lib.evaluation.faithfulness import Randomized
from gscam_lib.figures import charts

mpl.use("Agg")


@pytest.fixture
def table():
    lines = [
        ("ours: tiny", m, g, v, v - 0.1, v + 0.1)
        for m, values in {"gscorecam": (0.4, 0.3), "gradcam": (0.2, 0.6)}.items()
        for g, v in zip(("1–3", "4–6"), values, strict=True)
    ]
    lines.append(("somewhere: derived [D]", "gscorecam", "1–3", 0.35, None, None))
    names = ["origin", "method", "group", "mean IoU", "mean IoU low", "mean IoU high"]
    return pd.DataFrame(lines, columns=names)


def test_ranking_puts_the_best_on_top(table):
    ours = table[(table.group == "1–3") & table["mean IoU low"].notna()]
    _, given = plt.subplots()
    ax = charts.ranking(ours, "mean IoU", titles={"gscorecam": "gScoreCAM"}, ax=given)
    assert ax is given
    assert [t.get_text() for t in ax.get_yticklabels()] == ["gScoreCAM", "gradcam"]
    points = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    assert [float(p[0]) for p in points] == [0.4, 0.2]
    with pytest.raises(ValueError, match="no beauty"):
        charts.ranking(ours, "beauty")


def test_published_values_are_hollow_and_tagged(table):
    ax = charts.by_group(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1–3", "4–6"]
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert sorted(texts) == ["gradcam", "gscorecam", "gscorecam, published [D]"]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1
    assert hollow[0].get_ydata().tolist() == [0.35]
    only = charts.by_group(table, methods=["gradcam"])
    assert [t.get_text() for t in only.get_legend().get_texts()] == ["gradcam"]


def test_curve_runs_from_nothing_to_all():
    ax = charts.curve([0.1, 0.5, 0.9], label="insertion")
    assert ax.lines[0].get_xdata().tolist() == [0, 0.5, 1]
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.5, 0.9]


def test_randomization_begins_at_one():
    found = [
        Randomized(stage, image, "a dog", method, value, 0.5, False)
        for stage, value in (("top", 0.6), ("bottom", 0.2))
        for image in (0, 1)
        for method in ("gradcam", "sobel")
    ]
    ax = charts.randomization(found)
    assert ax.lines[0].get_ydata() == pytest.approx([1, 0.6, 0.2])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["trained", "top", "bottom"]
