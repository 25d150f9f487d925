"""Charts: what is drawn is what the tables say; a method has one look; one rule decides."""

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from skimage.color import rgb2lab

from gscam_lib import METHODS, figures
from gscam_lib.evaluation.faithfulness import Randomized
from gscam_lib.figures import charts, looks

mpl.use("Agg")


def drawn(ax, *, marker=True):
    """The finite points of each line that has some, with or without markers: [(x, y) …]."""
    found = []
    for line in ax.lines:
        xy = np.column_stack([np.asarray(v, float) for v in (line.get_xdata(), line.get_ydata())])
        xy = xy[np.isfinite(xy).all(1)]
        if len(xy) and (line.get_marker() not in ("", "None", None)) == marker:
            found.append([tuple(float(round(v, 6)) for v in point) for point in xy])
    return found


@pytest.fixture
def table():
    lines = [
        ("ours: tiny", m, g, v, v - 0.1, v + 0.2, 9)
        for m, values in {"gscorecam": (0.4, 0.3), "gradcam": (0.2, 0.6)}.items()
        for g, v in zip(("1–3", "4–6"), values, strict=True)
    ]
    lines.append(("somewhere: derived [D]", "gscorecam", "1–3", 0.35, None, None, None))
    names = ["origin", "method", "group", "mean IoU", "mean IoU low", "mean IoU high", "images"]
    return pd.DataFrame(lines, columns=names)


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_a_method_looks_alike_by_name_and_title(method):
    found = figures.look(method.name)
    assert found == figures.look(method.title) == figures.look(f"{method.title} (ViT) *")
    assert found == figures.look(f"{method.name}:k=50")
    assert found.color != looks.INK, "give the method a place in figures/looks.py"
    assert (found.color == looks.GREY) == (method.family == "control")
    assert (found.color == looks.OURS) == (method.name == "gscorecam")


def test_no_two_methods_look_alike():
    pairs = [figures.look(m)[:2] for m in METHODS]
    assert len(set(pairs)) == len(pairs)
    assert looks.REFERENCE not in {color for color, _ in pairs}


def linear(color):
    c = np.array(mpl.colors.to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("color", [*looks.HUES, looks.OURS, looks.GREY, looks.INK])
def test_colors_stand_out_from_white(color):
    luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) >= 3, "WCAG 2.2, 1.4.11"


SEEN = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("eyes", SEEN)
def test_colors_differ_for_colour_blind_eyes(eyes):
    seen = np.clip([np.array(SEEN[eyes]) @ linear(c) for c in (*looks.HUES, looks.OURS)], 0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(encoded[None])[0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 20


# ---------------------------------------------------------------- charts


def test_intervals_are_drawn_where_they_are():
    bounds = [0.2, 0.5, 0.7], [0.1, 0.45, 0.65], [0.35, 0.6, 0.75]
    ax = figures.intervals(["a", "b", "a"], *bounds, highlight="b", grey=["a"])
    assert drawn(ax) == [[(0.2, 0)], [(0.5, 1)], [(0.7, 2)]], "rows of one name stay apart"
    ends = [[(0.1, 0), (0.35, 0)], [(0.45, 1), (0.6, 1)], [(0.65, 2), (0.75, 2)]]
    assert drawn(ax, marker=False) == ends
    colors = [mpl.colors.to_hex(line.get_color()).upper() for line in ax.lines]
    assert set(colors) == {looks.OURS, looks.GREY}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "a"]
    assert [t.get_weight() for t in ax.get_yticklabels()] == ["normal", "bold", "normal"]
    assert ax.get_ylim() == (2.5, -0.5)


def test_a_mean_outside_of_its_interval_stays_the_mean():
    ax = figures.intervals(["a"], [0.5], [0.6], [0.8])
    assert drawn(ax) == [[(0.5, 0)]]
    assert drawn(ax, marker=False) == [[(0.6, 0), (0.8, 0)]]


def test_few_images_make_no_interval_but_points():
    points = [[1.0, 2.0, 3.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    ax = figures.intervals(["few", "more"], [3, 3], [1, 2], [6, 4], points=points)
    assert drawn(ax, marker=False) == [[(2, 1), (4, 1)]]
    singles = np.asarray(ax.collections[0].get_offsets())
    assert singles[:, 0].tolist() == [*points[0], *points[1]]
    assert singles[:, 1].round().tolist() == [0] * 4 + [1] * 5
    ax = figures.intervals(["few", "more"], [3, 3], [1, 2], [6, 4], images=[4, 5])
    assert drawn(ax, marker=False) == [[(2, 1), (4, 1)]]
    open_points = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in open_points] == [[3]]


def test_ranking_puts_the_best_on_top(table):
    ours = table[(table.group == "1–3") & table["mean IoU low"].notna()]
    _, given = plt.subplots()
    ax = charts.ranking(ours, "mean IoU", titles={"gscorecam": "gScoreCAM"}, ax=given)
    assert ax is given
    assert [t.get_text() for t in ax.get_yticklabels()] == ["gScoreCAM", "gradcam"]
    assert drawn(ax) == [[(0.4, 0)], [(0.2, 1)]]
    assert drawn(ax, marker=False) == [[(0.3, 0), (0.6, 0)], [(0.1, 1), (0.4, 1)]]
    assert not drawn(charts.ranking(ours.assign(images=4), "mean IoU"), marker=False)
    with pytest.raises(ValueError, match="no beauty"):
        charts.ranking(ours, "beauty")


def test_published_values_are_hollow_and_tagged(table):
    ax = charts.by_group(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1–3", "4–6"]
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == ["gscorecam", "gradcam", "gscorecam, published [D]"]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1
    assert hollow[0].get_ydata().tolist() == [0.35]
    only = charts.by_group(table, methods=["gradcam"], titles={"gradcam": "Grad-CAM"})
    assert [t.get_text() for t in only.get_legend().get_texts()] == ["Grad-CAM"]


def test_lines_over_groups_are_centred_and_hold_the_tables_values(table):
    ax = charts.by_group(table[table["images"] == 9])
    (ours, theirs) = drawn(ax)
    assert [y for _, y in ours] == [0.4, 0.3]
    assert [y for _, y in theirs] == [0.2, 0.6]
    for group in (0, 1):
        assert ours[group][0] + theirs[group][0] == pytest.approx(2 * group)
        assert abs(ours[group][0] - group) < 0.26, "nearer to its own group than to the next"
    bars = {tuple(y for _, y in bar) for bar in drawn(ax, marker=False)}
    assert bars == {(0.3, 0.6), (0.2, 0.5), (0.1, 0.4), (0.5, 0.8)}
    colors = [mpl.colors.to_hex(line.get_color()).upper() for line in ax.get_legend().get_lines()]
    assert colors == [looks.OURS, figures.look("gradcam").color]


def test_groups_that_are_numbers_are_in_order(table):
    ours = table[table["images"] == 9].replace({"group": {"1–3": 5, "4–6": 3}})
    ax = charts.by_group(ours.astype({"group": int}))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "5"]
    assert [y for _, y in drawn(ax)[0]] == [0.3, 0.4]


def test_groups_of_few_images_show_these(table):
    ours = table[table["images"] == 9].copy()
    ours.loc[ours["group"] == "4–6", "images"] = 3
    singles = pd.DataFrame(
        [(m, g, v) for m in ("gscorecam", "gradcam") for g in ("1–3", "4–6") for v in (0.1, 0.7)],
        columns=["method", "group", "mean IoU"],
    )
    ax = charts.by_group(ours, points=singles)
    assert {tuple(y for _, y in bar) for bar in drawn(ax, marker=False)} == {(0.3, 0.6), (0.1, 0.4)}
    shown = np.asarray(ax.collections[0].get_offsets())
    assert shown[:, 1].tolist() == [0.1, 0.7] * 2
    means = [line[1][0] for line in drawn(ax)]
    assert shown[:, 0] == pytest.approx([means[0]] * 2 + [means[1]] * 2), "at their own line"


def test_two_numbers_for_one_point_are_an_error(table):
    ours = table[table["images"] == 9]
    twice = pd.concat([ours, ours.assign(origin="ours: other")])
    with pytest.raises(ValueError, match="mean IoU twice for line gscorecam, group 1–3"):
        charts.by_group(twice)
    with pytest.raises(ValueError, match="twice"):
        charts.curves(pd.DataFrame({"k": [1, 1], "iou": [0.1, 0.2]}), "k", "iou")


def test_what_has_no_mean_has_no_point():
    ax = figures.intervals(["a", "b"], [np.nan, 0.5], [0.1, 0.4], [0.3, 0.6])
    assert drawn(ax) == [[(0.5, 1)]]
    assert drawn(ax, marker=False) == [[(0.4, 1), (0.6, 1)]]
    assert not drawn(figures.intervals(["a"], [np.nan], [np.nan], [np.nan]))
    points = figures.intervals(["a", "b"], [np.nan, 2], [0, 1], [1, 3], points=[[], [1, 2, 3]])
    assert np.asarray(points.collections[0].get_offsets())[:, 1].round().tolist() == [1, 1, 1]


def test_curves_have_the_bands_of_the_table():
    table = pd.DataFrame({"k": [10, 1, 100], "iou": [0.5, 0.2, 0.4], "iou low": [0.45, 0.1, 0.3],
                          "iou high": [0.6, 0.25, 0.7]})  # fmt: skip
    ax = charts.curves(table, "k", "iou")
    assert drawn(ax) == [[(1, 0.2), (10, 0.5), (100, 0.4)]]
    band = ax.collections[0].get_paths()[0].vertices
    for k, low, high in ((1, 0.1, 0.25), (10, 0.45, 0.6), (100, 0.3, 0.7)):
        at = band[np.isclose(band[:, 0], k)][:, 1]
        assert (at.min(), at.max()) == pytest.approx((low, high))
    assert mpl.colors.to_hex(ax.lines[0].get_color()).upper() == looks.OURS
    both = pd.concat([table.assign(method=m) for m in ("gradcam", "sobel")])
    ax = charts.curves(both, "k", "iou", by="method", titles={"gradcam": "Grad-CAM"})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Grad-CAM", "sobel"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]


def test_curves_of_what_is_no_method_differ():
    table = pd.DataFrame({"x": [0, 1] * 2, "y": [0, 1, 1, 0], "who": ["a", "a", "b", "b"]})
    one, two = charts.curves(table, "x", "y", by="who").lines
    assert one.get_color() != two.get_color()
    assert one.get_marker() != two.get_marker()


def test_randomization_begins_at_one():
    found = [
        Randomized(stage, image, "a dog", method, value, 0.5, False)
        for stage, value in (("top", 0.6), ("bottom", 0.2))
        for image in (0, 1)
        for method in ("gradcam", "sobel")
    ]
    ax = charts.randomization(found)
    assert drawn(ax)[0] == [(0, 1), (1, 0.6), (2, 0.2)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["trained", "top", "bottom"]


def test_confusion_writes_its_numbers_and_names_as_they_are():
    table = pd.DataFrame([[1.26, 0.9], [0.8, 1.23]], index=["$5", "b $"], columns=["c", "$d$"])
    ax = charts.confusion(table)
    assert [t.get_text() for t in ax.texts] == ["1.26", "0.90", "0.80", "1.23"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["$5", "b $"]
    assert not any(t.get_parse_math() for t in ax.get_xticklabels())
    signed = charts.confusion(table - 1, form="+.1f")
    assert [t.get_text() for t in signed.texts[-4:]] == ["+0.3", "−0.1", "−0.2", "+0.2"]


def test_shares_are_bars_with_their_percentages():
    ax = charts.shares({"apple": 0.702, "iPod": 0.28, "pen": 0.018}, colors={"iPod": looks.OURS})
    assert [round(bar.get_width(), 6) for bar in ax.patches] == [0.702, 0.28, 0.018]
    assert [t.get_text() for t in ax.texts] == ["70.2 %", "28.0 %", "1.8 %"]
    marked = [mpl.colors.same_color(bar.get_facecolor(), looks.OURS) for bar in ax.patches]
    assert marked == [False, True, False]


def test_charts_are_the_same_bytes_each_time():
    def png():
        return figures.as_png(
            figures.intervals(["a"], [2], [1], [3], points=[[1, 2, 2, 2, 3]]).figure
        )

    assert png() == png()


# ---------------------------------------------------------------- what is decided


def found(low, high, p=0.001, **more):
    return {"difference": (low + high) / 2, "low": low, "high": high, "p": p} | more


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.1, 0.3, "higher"), (-0.3, -0.1, "lower"), (-0.1, 0.3, "not decided")],
)
def test_verdicts_follow_the_interval(low, high, says):
    assert says in figures.verdict("a − b", found(low, high))


def test_verdicts_have_a_true_minus():
    assert figures.verdict("a − b", found(-0.3, -0.1)).startswith("a − b: −0.200 [−0.300, −0.100],")


def test_a_single_comparison_is_decided_by_its_interval_alone():
    assert figures.decided(found(0.1, 0.3, 0.08))


def test_several_comparisons_are_corrected_together():
    """Holm of .01, .03, .04: .03, .06, .06."""
    family = {"a": found(0.1, 0.3, 0.01), "b": found(0.1, 0.3, 0.04), "c": found(0.1, 0.3, 0.03)}
    first, second, third = figures.verdicts(family)
    assert first.startswith("a: ")
    assert "higher" in first
    for undecided in (second, third):
        assert "not decided among so many comparisons" in undecided
    assert figures.decided(found(0.1, 0.3, 0.01), tests=4)
    assert not figures.decided(found(0.1, 0.3, 0.01), tests=5), "p · tests = .05"
    assert not figures.decided(found(-0.1, 0.3, 0.01), tests=2), "the interval counts too"
    assert not figures.decided({**found(0.1, 0.3, 0.01), "p (Holm)": 0.2}), "as tables have it"


def test_few_images_decide_nothing():
    assert "4 images are too few" in figures.verdict("a − b", found(0.1, 0.3, images=4))
    assert "higher" in figures.verdict("a − b", found(0.1, 0.3, images=5))
