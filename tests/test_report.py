"""report.py: tables of made-up rows against sums by hand; the report of a tiny model's run."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.evaluation import jobs, metrics, published, report
from gscam_lib.evaluation import statistics as st
from gscam_lib.evaluation.measures import BINS


@pytest.fixture
def rows():
    """40 images of 2 classes each; "b" is better than "a" by a tenth everywhere."""
    rng = np.random.default_rng(0)
    lines = []
    for image in range(40):
        for category in ("apple", "bus"):
            iou = rng.random() * 0.8
            for method, more in (("a", 0.0), ("b", 0.1)):
                lines.append(
                    {
                        "source": "made-up", "image_id": str(image), "category": category,
                        "prompt": f"a photo of {category}", "method": method, "k": None,
                        "iou": iou + more, "hit": iou + more >= 0.5, "pointing": image % 2 == 0,
                        "energy": 0.25, "seconds": 2.0 if method == "a" else 0.5,
                        "error": None, "model": "tiny", "preset": "clean",
                        "classes": 1 + image % 8, "area": image + 0.5, "width": 10, "height": 10,
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)


def test_summary_counts(rows):
    table = report.summarize(rows).set_index("method")
    a = rows[rows.method == "a"]
    line = table.loc["a"]
    assert line["origin"] == "ours: tiny"
    assert (line["pairs"], line["images"], line["errors"]) == (80, 40, 0)
    assert line["hits"] == pytest.approx((a.iou >= 0.5).mean())
    assert line["hits .3"] == pytest.approx((a.iou >= 0.3).mean())
    assert line["hits .7"] == pytest.approx((a.iou >= 0.7).mean())
    assert line["mean IoU"] == pytest.approx(a.iou.mean())
    assert line["median IoU"] == pytest.approx(a.iou.median())
    assert line["macro"] == pytest.approx(a.groupby("category").hit.mean().mean())
    assert (line["pointing"], line["energy"]) == (0.5, 0.25)
    assert line["pointing macro"] == a.groupby("category").pointing.mean().mean()
    for name in ("hits", "macro", "mean IoU", "median IoU", "pointing"):
        assert line[f"{name} low"] < line[name] < line[f"{name} high"]
    low, high = st.bootstrap_interval(a.iou.to_numpy(), a.image_id.to_numpy())
    assert (line["mean IoU low"], line["mean IoU high"]) == (low, high)
    per_class = report.summarize(rows, "category")
    assert list(per_class.group) == ["apple", "bus"] * 2
    assert per_class.pairs.tolist() == [40] * 4


def test_rows_of_several_k_are_methods_of_their_own(rows):
    a, b = rows[rows.method == "a"], rows[rows.method == "b"]
    mixed = pd.concat([a.assign(k=5), b.assign(k=9, method="a"), b.assign(k=9)])
    table = report.summarize(mixed).set_index("method")
    assert table["pairs"].to_dict() == {"a:k=5": 80, "a:k=9": 80, "b": 80}
    assert table.loc["a:k=5", "mean IoU"] == pytest.approx(a.iou.mean())
    assert report.compare(mixed, "a:k=9", "a:k=5")["difference"] == pytest.approx(0.1)
    assert set(report.paired_tests(mixed, "a:k=5")["method"]) == {"a:k=9", "b"}
    with pytest.raises(ValueError, match=r"these rows have a:k=5, a:k=9, b"):
        report.compare(mixed, "a", "b")


def test_a_table_is_the_same_for_any_number_of_draws_at_once(rows, monkeypatch):
    """Memory is bounded by drawing a few samples at a time; the numbers do not know it."""
    whole = report.summarize(rows)
    monkeypatch.setattr(st, "CHUNK", 100)
    pd.testing.assert_frame_equal(report.summarize(rows), whole)
    assert st._chunks(2000, 40) == [2] * 1000


def test_paired_tests(rows):
    found = report.paired_tests(rows, "a", columns=["iou"])
    assert len(found) == 1
    line = found.iloc[0]
    assert (line["method"], line["against"], line["pairs"]) == ("b", "a", 80)
    assert line["difference"] == pytest.approx(0.1)
    assert line["low"] == pytest.approx(0.1)  # the same everywhere: paired, so no doubt at all
    assert line["p"] < 0.01
    assert line["wilcoxon"] < 1e-6
    alone = report.compare(rows, "b", "a")
    assert {k: line[k] for k in alone} == pytest.approx(alone)
    third = rows[rows.method == "b"].assign(method="c")
    both = report.paired_tests(pd.concat([rows, third]), "a", columns=["iou"])
    assert both["p (Holm)"].tolist() == pytest.approx((2 * both["p"]).tolist())
    with pytest.raises(ValueError, match="No rows of 'z'; there are a, b"):
        report.paired_tests(rows, "z")
    with pytest.raises(ValueError, match="these rows have a, b"):
        report.compare(rows, "a", "z")


def test_by_classes_stands_beside_the_published(rows):
    renamed = rows.replace({"method": {"a": "gradcam", "b": "gscorecam"}})
    table = report.by_classes(renamed)
    ours = table[table.origin == "ours: tiny"]
    assert ours[ours.method == "gradcam"].set_index("group").pairs.to_dict() == {
        "1–3": 30, "4–6": 30, "7–9": 20,
    }  # fmt: skip
    theirs = table[table.origin.str.contains(r"\[D\]")].set_index(["method", "group"])
    assert theirs.loc[("gscorecam", "7–9"), "mean IoU"] == 0.248
    assert ours.group.tolist() == ["1–3", "4–6", "7–9"] * 2
    text = report.to_markdown(table, ("pairs", "mean IoU"))
    assert "| 30 " in text
    assert "[D]" in text
    assert theirs.loc[("gradcam", "1–3"), "pairs"] == 1150
    medians = table[table.origin.str.contains(r"\[P\]")].set_index(["method", "group"])
    assert medians.loc[("hilacam", "4–6"), "median IoU"] == 0.122
    assert medians["mean IoU"].isna().all()


def test_by_size_has_five_equal_bins(rows):
    table = report.by_size(rows)
    assert table[table.method == "a"].pairs.tolist() == [16] * 5
    twice = pd.concat([rows, rows.assign(method=rows["method"] + "2")])  # labels come twice
    assert report.by_size(twice).pairs.tolist() == [16] * 20
    lost = rows.assign(width=rows["width"].where(rows["image_id"] != "0"))
    assert report.by_size(lost).pairs.sum() == 2 * 78  # two questions on that photo
    fixed = report.by_size(rows, edges=[0.1, 0.2])
    assert fixed[fixed.method == "a"].set_index("group").pairs.to_dict() == {
        "0–10 %": 20, "10–20 %": 20, "20–100 %": 40,
    }  # fmt: skip


def test_seconds_are_of_an_image_with_all_its_prompts(rows):
    table = report.summarize(rows).set_index("method")
    assert table["seconds per image"].to_dict() == {"a": 4.0, "b": 1.0}


def test_published_values_are_those_of_the_paper_and_tagged():
    found = published.published(["all"])
    assert len(found) == 1
    assert found.iloc[0]["hits"] == 0.2083
    assert "[C]" in found.iloc[0]["origin"]
    assert set(published.PUBLISHED.tag) == set(published.TAGS) == {"P", "C", "D"}
    assert published.published(["no such group"]).empty


@pytest.fixture
def examples(photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[4:20, 8:28] = True
    boxes = (((8, 4, 28, 20),), ((40, 15, 66, 38), (0, 0, 2, 2)))
    return [
        gs.Example(Image.fromarray(np.roll(photo, 5 * i, 1)), name, box, name, str(i), "test", mask)
        for i in range(4)
        for name, box in zip(("dog", "cat"), boxes, strict=True)
    ]


def test_rows_know_classes_and_sizes(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["center"])
    assert rows.classes.tolist() == [2] * 8
    share = rows.area / (rows.width * rows.height)
    assert share[:2].tolist() == pytest.approx([20 * 16 / 2800, 26 * 23 / 2800])
    some = gs.datasets.Selection(examples, range(0, 8, 2))
    counted = gs.evaluate(resnet, some, ["center"])
    assert counted.classes.tolist() == [2] * 4  # those of the whole data set


def test_measures_have_their_columns(resnet, examples):
    names = ["localization", "ious", "ious_largest", "pixels", "total_variation"]
    methods = ["gscorecam:k=3", "gscorecam:k=3:ranking=random"]
    rows = gs.evaluate(resnet, examples, methods, measures=names)
    table = report.summarize(rows).set_index("method")
    assert list(table.index) == methods
    mean = rows[rows.method == methods[0]]
    ious = np.stack(mean["ious"])
    line = table.loc[methods[0]]
    assert line["MaxBoxAccV2"] == pytest.approx(metrics.max_box_acc_v2(ious))
    assert 0 <= line["MaxBoxAcc"] <= line["MaxBoxAcc high"] <= 1
    heats = [(gs.heatmap(resnet.trace(e.image), e.prompt, k=3).values, e.mask) for e in examples]
    ap = metrics.pixel_average_precision(heats, bins=BINS)
    assert line["PxAP"] == pytest.approx(ap, abs=1e-4)
    total = np.mean([metrics.total_variation(values) for values, _ in heats])
    assert line["total_variation"] == pytest.approx(total, rel=1e-4)
    assert (table["total_variation low"] <= table["total_variation"]).all()
    text = report.to_markdown(report.summarize(rows))
    assert "| gScoreCAM, k = 3, ranking = random |" in text


def test_the_report_of_a_run(resnet, examples, tmp_path):
    how = {"measures": ["localization", "prompt_sensitivity"], "measured_images": 2, "k": 3}
    rows = gs.evaluate(
        resnet, examples, ["gscorecam", "layercam", "center"], out=tmp_path / "run", **how
    )
    there = report.read(tmp_path / "run")
    assert "mask" not in there
    text = report.write_report(there, tmp_path)
    assert text == report.report(rows) == (tmp_path / "table.md").read_text()
    for part in ("Against each other", "published, as printed", "By size", "20.83%",
                 "weights: tiny-resnet", "prompt_sensitivity on 2 images"):  # fmt: skip
        assert part in text
    assert re.search(r"\| gScoreCAM +\| paper \[D\] +\| 0\.350 +\| 0\.279 +\| 0\.248", text)
    assert re.search(r"\| HilaCAM +\| paper \[P\] +\| 0\.273 +\| 0\.122 +\| 0\.061", text)
    assert len(pd.read_csv(tmp_path / "table.csv")) == 3
    tests = pd.read_csv(tmp_path / "tests.csv")
    assert tests.measure.tolist() == ["iou"] * 2 + ["prompt_sensitivity"] * 2
    assert set(tests.against) == {"gscorecam"}
    assert set(pd.read_csv(tmp_path / "classes.csv").group) >= {"1–3"}
    assert set(pd.read_csv(tmp_path / "per_class.csv").group) == {"cat", "dog"}
    with pytest.raises(ValueError, match="no rows"):
        report.as_text(rows[:0], "text")


def test_methods_for_a_tower(resnet, examples):
    names = jobs.methods_for(resnet)
    assert {"gscorecam", "rise", "center", "sobel", "random_channels"} <= set(names)
    assert "legrad" not in names
    dear = [f"-{name}" for name in names if name not in ("center", "sobel")]
    rows = gs.evaluate(resnet, examples[:1], ["all", *dear])
    assert rows["method"].tolist() == ["center", "sobel"]
