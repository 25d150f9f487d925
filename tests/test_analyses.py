"""analyses.py: tables of made-up rows against sums by hand; the benchmark on a tiny model."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.evaluation import metrics
from gscam_lib.evaluation import report as analyses
from gscam_lib.evaluation.measures import measure


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
                        "error": None, "model": "tiny",
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)


def known(rows):
    frame = rows.drop_duplicates(analyses.QUESTION)[analyses.QUESTION]
    number = frame["image_id"].astype(int)
    return frame.assign(classes=1 + number % 8, share=(number + 0.5) / 100)


def test_summary_counts(rows):
    table = analyses.summary(rows).set_index("method")
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
    low, high = metrics.bootstrap_interval(a.iou.to_numpy(), a.image_id.to_numpy())
    assert (line["mean IoU low"], line["mean IoU high"]) == (low, high)
    per_class = analyses.per_class(rows)
    assert list(per_class.group) == ["apple", "bus"] * 2
    assert per_class.pairs.tolist() == [40] * 4


def test_compare_all_is_paired(rows):
    found = analyses.compare_all(rows, "a")
    assert len(found) == 1
    line = found.iloc[0]
    assert (line["method"], line["against"], line["pairs"]) == ("b", "a", 80)
    assert line["difference"] == pytest.approx(0.1)
    assert line["low"] == pytest.approx(0.1)  # the same everywhere: paired, so no doubt at all
    assert line["p"] < 0.01
    assert line["wilcoxon"] < 1e-6
    third = rows[rows.method == "b"].assign(method="c")
    both = analyses.compare_all(pd.concat([rows, third]), "a")
    assert both["p (Holm)"].tolist() == pytest.approx((2 * both["p"]).tolist())
    with pytest.raises(ValueError, match="No rows of 'z'; there are a, b"):
        analyses.compare_all(rows, "z")


def test_by_classes_stands_beside_the_published(rows):
    renamed = rows.replace({"method": {"a": "gradcam", "b": "gscorecam"}})
    table = analyses.by_classes(renamed, known(rows))
    ours = table[table.origin == "ours: tiny"]
    assert ours[ours.method == "gradcam"].set_index("group").pairs.to_dict() == {
        "1–3": 30, "4–6": 30, "7–9": 20,
    }  # fmt: skip
    theirs = table[table.origin.str.contains(r"\[D\]")].set_index(["method", "group"])
    assert theirs.loc[("gscorecam", "7–9"), "mean IoU"] == 0.248
    assert ours.group.tolist() == ["1–3", "4–6", "7–9"] * 2
    text = analyses.to_markdown(table, ("pairs", "mean IoU"))
    assert "| 30 " in text
    assert "[D]" in text
    assert theirs.loc[("gradcam", "1–3"), "pairs"] == 1150
    medians = table[table.origin.str.contains(r"\[P\]")].set_index(["method", "group"])
    assert medians.loc[("hilacam", "4–6"), "median IoU"] == 0.122
    assert medians["mean IoU"].isna().all()
    assert not table.origin.str.startswith("ours").all()
    with pytest.raises(ValueError, match="do not have"):
        analyses.by_classes(renamed, known(rows).head(5))


def test_by_size_has_five_equal_bins(rows):
    table = analyses.by_size(rows, known(rows))
    assert table[table.method == "a"].pairs.tolist() == [16] * 5
    twice = pd.concat([rows, rows.assign(method=rows["method"] + "2")])  # labels come twice
    assert analyses.by_size(twice, known(rows)).pairs.tolist() == [16] * 20
    lost = known(rows).assign(share=lambda t: t["share"].where(t["image_id"] != "0"))
    assert analyses.by_size(rows, lost).pairs.sum() == 2 * 78  # two questions on that photo
    fixed = analyses.by_size(rows, known(rows), edges=[0.1, 0.2])
    assert fixed[fixed.method == "a"].set_index("group").pairs.to_dict() == {
        "0–10 %": 20, "10–20 %": 20, "20–100 %": 40,
    }  # fmt: skip


def test_by_k_and_form_and_runtime(rows):
    with pytest.raises(ValueError, match="ranks channels"):
        analyses.by_k(rows)
    ranked = pd.concat([rows[rows.method == "a"].assign(k=k) for k in (300, 10)])
    assert analyses.by_k(ranked).group.tolist() == [10, 300]
    assert set(analyses.by_form(rows).group) == {"a photo of {}"}
    times = analyses.runtime(rows).set_index("method")
    assert times["seconds per image"].to_dict() == {"a": 4.0, "b": 1.0}
    assert times.loc["a", "seconds per pair"] == 2.0


def test_published_values_are_those_of_the_paper_and_tagged():
    found = analyses.published(["all"])
    assert len(found) == 1
    assert found.iloc[0]["hits"] == 0.2083
    assert "[C]" in found.iloc[0]["origin"]
    assert set(analyses.PUBLISHED.tag) == set(analyses.TAGS) == {"P", "C", "D"}
    assert analyses.published(["no such group"]).empty


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


def test_facts(examples):
    table = analyses.facts(examples)
    assert table.classes.tolist() == [2] * 8
    assert table.share[:2].tolist() == pytest.approx([20 * 16 / 2800, 26 * 23 / 2800])


def test_scores_of_measures(resnet, examples):
    names = ["ious", "ious_largest", "pixels", "total_variation", "prompt_sensitivity"]
    variants = analyses.rankings(k=3, rules=["mean", "random"])
    measured = measure(resnet, examples, variants, [*names, "iou"])
    table = analyses.scores(measured).set_index("method")
    assert list(table.index) == ["gscorecam, mean", "gscorecam, random"]
    mean = measured[measured.method == "gscorecam, mean"]
    ious = np.stack(mean[mean.measure == "ious"]["values"])
    assert table.loc["gscorecam, mean", "MaxBoxAccV2"] == metrics.max_box_acc_v2(ious)
    heats = [(gs.heatmap(resnet.trace(e.image), e.prompt, k=3).values, e.mask) for e in examples]
    ap = metrics.pixel_average_precision(heats, bins=analyses.BINS)
    assert table.loc["gscorecam, mean", "PxAP"] == pytest.approx(ap, abs=1e-4)
    total = np.mean([metrics.total_variation(values) for values, _ in heats])
    assert table.loc["gscorecam, mean", "total_variation"] == pytest.approx(total, rel=1e-4)
    assert (table["total_variation low"] <= table["total_variation"]).all()
    by_rule = analyses.by_variant(measured)
    assert by_rule.pairs.tolist() == [8, 8]
    with pytest.raises(ValueError, match="iou"):
        analyses.by_variant(measured[measured.measure == "ious"])


def test_the_overview_of_measures_is_that_of_rows(resnet, examples):
    variants = {"grey": {"method": "gradcam"}, "middle": {"method": "center"}}
    asked = ["iou", "pointing", "prompt_sensitivity"]
    table = analyses.overview(measure(resnet, examples, variants, asked))
    assert table["method"].tolist() == ["grey", "middle"]
    rows = gs.evaluate(resnet, examples, ["gradcam", "center"])
    expected = analyses.summary(rows)[["pairs", "hits", "mean IoU", "mean IoU low", "pointing"]]
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    assert table["prompt_sensitivity"].iloc[1] == pytest.approx(1)
    assert (table["seconds per image"] > 0).all()
    with pytest.raises(ValueError, match="iou"):
        analyses.overview(measure(resnet, examples, variants, ["pointing"]))


def test_k_variants_equal_the_method_with_k(resnet, examples):
    measured = measure(resnet, examples[:2], analyses.k_variants([1, 5]), ["iou"])
    table = analyses.by_variant(measured).set_index("method")
    for k in (1, 5):
        heats = [gs.heatmap(resnet.trace(e.image), e.prompt, k=k) for e in examples[:2]]
        ious = [
            metrics.best_iou(gs.heatmap_to_box(h), e.boxes)
            for h, e in zip(heats, examples, strict=False)
        ]
        assert table.loc[f"gscorecam, k = {k}", "mean IoU"] == pytest.approx(
            np.mean(ious), abs=1e-3
        )


def test_benchmark_goes_on_where_it_ended(resnet, examples, tmp_path):
    methods = ["gscorecam", "layercam", "center"]
    short = analyses.benchmark(
        resnet, examples, methods, out=tmp_path, limit=2, measured_images=2, k=3
    )
    assert short.table.pairs.tolist() == [4] * 3
    parts = set(tmp_path.rglob("part-*.parquet"))
    full = analyses.benchmark(resnet, examples, methods, out=tmp_path, measured_images=2, k=3)
    assert parts < set(tmp_path.rglob("part-*.parquet"))
    assert full.table.set_index("method").pairs.to_dict() == dict.fromkeys(methods, 8)
    again = analyses.benchmark(
        resnet, examples, methods, out=tmp_path, limit=2, measured_images=2, k=3
    )
    assert again.table.drop(columns="seconds per image").equals(
        short.table.drop(columns="seconds per image")
    )
    center = full.table.set_index("method").loc["center"]
    assert center["prompt_sensitivity"] == pytest.approx(1)
    assert "tiny-resnet" in full.about
    fewer = [e for e in examples if e.prompt == "dog"]
    counted = analyses.benchmark(resnet, fewer, ["center"], measures=(), whole=examples)
    assert set(counted.known.classes) == {2}
    assert counted.measured.empty
    text = analyses.write_benchmark(full, tmp_path)
    assert text == (tmp_path / "table.md").read_text()
    assert "gScoreCAM" in text
    assert "[" in text
    assert len(pd.read_csv(tmp_path / "table.csv")) == 3
    tests = pd.read_csv(tmp_path / "tests.csv")
    assert tests.measure.tolist() == ["iou"] * 2 + ["prompt_sensitivity"] * 2
    assert set(tests.against) == {"gscorecam"}
    for part in ("Against each other", "published, as printed", "By size", "20.83%"):
        assert part in text
    assert re.search(r"\| gScoreCAM +\| paper \[D\] +\| 0\.350 +\| 0\.279 +\| 0\.248", text)
    assert re.search(r"\| HilaCAM +\| paper \[P\] +\| 0\.273 +\| 0\.122 +\| 0\.061", text)
    rows, measured = analyses.read(tmp_path)
    assert len(rows) == len(full.rows)
    assert len(measured) == len(full.measured)
    pd.testing.assert_frame_equal(analyses.overall(rows, measured), full.table)
    assert set(pd.read_csv(tmp_path / "classes.csv").group) >= {"1–3"}
    with pytest.raises(ValueError, match="no examples"):
        analyses.benchmark(resnet, [], methods)


def test_methods_for_a_tower(resnet):
    names = analyses.methods_for(resnet)
    assert {"gscorecam", "rise", "center", "sobel", "random_channels"} <= set(names)
    assert "legrad" not in names


def test_the_command_makes_the_table(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from gscam_lib.cli import app

    monkeypatch.setattr(analyses, "methods_for", lambda model: ["gradcam", "center", "sobel"])
    options = ["--models", "photo-lite", "--methods", "all,center", "--skip", "sobel"]
    options += ["--limit", "2", "--measured-images", "1"]
    result = CliRunner().invoke(app, ["benchmark", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert "| Grad-CAM " in result.stdout
    assert "Sobel" not in result.stdout
    assert "weights: photo-lite" in result.stdout
    assert "2 images" in result.stdout
    written = pd.read_csv(tmp_path / "photo-lite" / "table.csv")
    assert written.method.tolist() == ["gradcam", "center"]
    wrong = CliRunner().invoke(app, ["benchmark", str(tmp_path), "--dataset", "nope"])
    assert wrong.exit_code == 1
    assert "needs --root and --annotations" in wrong.stderr


def test_slow_methods_see_fewer_images(resnet, examples):
    found = analyses.benchmark(
        resnet, examples, ["scorecam", "center"], measured_images=2, slow_images=1
    )
    pairs = found.table.set_index("method").pairs.to_dict()
    assert pairs == {"center": len(examples), "scorecam": 2}
    assert "scorecam on the first 1 images" in found.about
    with pytest.raises(ValueError, match="No method 'score'"):
        analyses.benchmark(resnet, examples, ["score"], slow_images=1)
    alone = analyses.benchmark(resnet, examples, ["scorecam"], limit=1, measures=())
    assert found.rows[found.rows.method == "scorecam"].iou.tolist() == alone.rows.iou.tolist()


def test_methods_with_options_have_their_own_lines(resnet, examples):
    methods = ["gscorecam:k=3", "rise:masks=5:seed=1", "rise:masks=6"]
    found = analyses.benchmark(resnet, examples, methods, slow_images=1, k=2)
    assert found.table.pairs.tolist() == [8, 2, 2]
    assert found.table.method.tolist() == methods
    assert set(found.rows[found.rows.method == "gscorecam:k=3"].k) == {3}
    options = found.measured.groupby("method").options.first()
    assert options["rise:masks=5:seed=1"] == '{"masks": 5, "method": "rise", "seed": 1}'
    assert options["gscorecam:k=3"] == '{"k": 3, "method": "gscorecam"}'
    assert "| RISE, masks = 5, seed = 1 |" in analyses.to_markdown(found.table)


def test_slow_methods_pass_their_photos_once(resnet, examples, monkeypatch):
    seen = []
    encode = resnet.encode_pixels
    monkeypatch.setattr(
        resnet, "encode_pixels", lambda x, **how: seen.append(len(x)) or encode(x, **how)
    )
    found = analyses.benchmark(resnet, examples, ["sscam"], slow_images=2)
    assert len(found.measured) == 2 * len(found.rows)
    once = sum(seen)
    seen.clear()
    rows = analyses.evaluate(resnet, analyses.first_images(examples, 2), ["sscam"])
    assert once == sum(seen) > 2 * 35 * resnet.channels
    assert rows.iou.tolist() == found.rows.iou.tolist()
