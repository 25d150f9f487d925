"""measures.py, questions.py: columns against the metrics themselves; faults; the prompt search."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.evaluation import faithfulness, measures, metrics
from gscam_lib.evaluation.channels import channel_scores
from gscam_lib.evaluation.measures import MEASURES
from gscam_lib.evaluation.questions import search_prompts, with_prompts


@pytest.fixture
def examples(photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[4:20, 8:28] = True
    picture = Image.fromarray(photo)
    box = ((8, 4, 28, 20),)
    return [
        gs.Example(picture, "a dog", box, "dog", "1", "test", mask),
        gs.Example(picture, "a cat", ((40, 15, 66, 38),), "cat", "1", "test"),
        gs.Example(picture.transpose(0), "a dog", box, "dog", "2", "test", mask[:, ::-1].copy()),
    ]


def test_every_measure_equals_its_metric(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["layercam"], measures=list(MEASURES), points=4)
    assert rows["error"].isna().all()
    assert set(rows["measures"].iloc[0].split(",")) == set(MEASURES)
    trace = resnet.trace(examples[0].image)
    heats = [gs.heatmap(trace, p, "layercam") for p in ("a dog", "a cat")]
    dog, cat = (heat.values for heat in heats)
    assert dog.max() == cat.max() == 1
    mask, boxes = examples[0].mask, examples[0].boxes
    target = gs.Target("a dog", against=["a cat"])
    curve = {"step": resnet.input_size**2 // 3}
    square = np.asarray(Image.fromarray(dog).resize((224, 224), Image.Resampling.BILINEAR))
    x, y = (224 / side for side in reversed(dog.shape))
    small = square.clip(0, 1), [(8 * x, 4 * y, 28 * x, 20 * y)]
    expected = {
        "iou": metrics.best_iou(gs.heatmap_to_box(dog), boxes),
        "pointing": metrics.pointing_hit(dog, mask),
        "pointing_center": metrics.center_hit(mask),
        "energy": metrics.energy_inside(dog, mask),
        "mask_iou": metrics.mask_iou(dog, mask),
        "total_variation": metrics.total_variation(dog),
        "entropy": metrics.entropy(dog),
        "prompt_sensitivity": metrics.correlation(dog, cat),
        "insertion": metrics.area_under(faithfulness.insertion(trace, target, dog, **curve)),
        "insertion_rise": metrics.area_under(
            faithfulness.insertion(trace, target, dog, blur="rise", **curve)
        ),
        "deletion": metrics.area_under(faithfulness.deletion(trace, target, dog, **curve)),
        "randomization": faithfulness.randomization_check(
            resnet, [(examples[0].image, "a dog")], ["layercam"]
        )[-1].rank_correlation,
        "ious": metrics.ious_at_thresholds(*small),
        "ious_largest": metrics.ious_at_thresholds(*small, largest=True),
        "pixels": metrics.pixel_counts(dog, mask, bins=measures.BINS).ravel(),
    }
    expected |= channel_scores(trace, "a dog", boxes)
    assert set(expected) >= set(MEASURES) - {"localization", "channels"}  # these have several
    for name, wanted in expected.items():
        found = np.asarray(rows[name].iloc[0], float)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=name)
    assert rows["pixels"].iloc[1] is None  # no mask
    assert pd.isna(rows["prompt_sensitivity"].iloc[2])  # one prompt alone


def test_what_is_there_is_not_measured_again(resnet, examples, tmp_path, monkeypatch):
    from gscam_lib.evaluation import runner

    methods = ["gscorecam:k=3:ranking=variance"]
    first = gs.evaluate(resnet, examples[:2], methods, out=tmp_path)
    asked = []
    monkeypatch.setattr(
        runner, "heatmap", lambda t, p, m, **o: asked.append(p) or gs.heatmap(t, p, m, **o)
    )
    again = gs.evaluate(resnet, examples[:2], methods, out=tmp_path)
    assert asked == []
    pd.testing.assert_frame_equal(again, first)
    more = gs.evaluate(resnet, examples, methods, out=tmp_path, measures=["entropy"])
    assert len(more) == len(asked) == 3  # of all of them the entropy is new
    assert not more.duplicated(["question", "method", "k"]).any()
    others = ["gscorecam:k=4:ranking=variance"]
    assert set(gs.evaluate(resnet, examples, others, out=tmp_path)["k"]) == {4}
    assert len(gs.merge(tmp_path)) == 6


def test_faults_become_rows(resnet, examples, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    bad = gs.Example(broken, "a dog", ((0, 0, 4, 4),), "dog", "9", "test")
    rows = gs.evaluate(
        resnet, [bad, *examples], ["gradcam", "legrad"], measures=["localization", "entropy"]
    )
    assert len(rows) == 4 * 2
    wrong = rows[rows["error"].notna()]
    assert len(wrong) == 2 + 3  # the broken photo, and a method for other towers
    assert "cannot be read" in wrong.iloc[0]["error"]
    assert wrong[wrong.image_id == "1"]["error"].str.contains("legrad").all()
    assert not wrong["hit"].any()
    assert wrong["entropy"].isna().all()


def test_a_measure_that_fails_takes_its_row_with_it(resnet, examples, monkeypatch):
    """A box that was right stays out of the table when its row has an error."""

    def failing(mask, **how):
        raise RuntimeError("the mask cannot be decoded")

    monkeypatch.setattr(metrics, "center_hit", failing)
    names = ["localization", "pointing_center"]
    rows = gs.evaluate(resnet, examples, ["center"], measures=names)
    assert rows["error"].str.contains("cannot be decoded").all()
    assert not rows["hit"].any()
    assert rows["iou"].eq(0).all()


def test_unknown_names(resnet, examples):
    with pytest.raises(ValueError, match="There are: localization"):
        gs.evaluate(resnet, examples, ["gradcam"], measures=["beauty"])
    with pytest.raises(ValueError, match="No measure 'iou'"):
        gs.evaluate(resnet, examples, ["gradcam"], measures="iou")
    with pytest.raises(ValueError, match="No method 'nope'"):
        gs.evaluate(resnet, examples, ["nope"])
    with pytest.raises(ValueError, match="takes no ranking"):
        gs.evaluate(resnet, examples, ["gradcam:ranking=mean"])
    for k in (0, 2.5, "5", True, 10_000):
        with pytest.raises(ValueError, match="k="):
            gs.evaluate(resnet, examples, ["gscorecam"], k=k)


def test_search_takes_the_prompt_of_highest_mean_logit(resnet, examples, tmp_path):
    candidates = {"dog": ["dog", "a dog", "the dog"], "cat": ["cat", "a cat"]}
    table = search_prompts(resnet, examples, candidates)
    traces = [resnet.trace(examples[i].image) for i in (0, 2)]
    for row in table[table.category == "dog"].itertuples():
        assert row.logit == pytest.approx(np.mean([t.logit(row.prompt) for t in traces]), abs=1e-3)
        assert row.images == 2
    chosen = table[table.chosen].set_index("category")["prompt"]
    dogs = table[table.category == "dog"]
    assert chosen["dog"] == dogs.loc[dogs.logit.idxmax(), "prompt"]
    asked = with_prompts(examples, chosen)
    assert [e.prompt for e in asked] == [chosen["dog"], chosen["cat"], chosen["dog"]]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    more = [*examples, gs.Example(broken, "x", (), "cat", "9", "test"),
            gs.Example(tmp_path / "none.jpg", "x", (), "bus", "10", "test")]  # fmt: skip
    again = search_prompts(resnet, more, {**candidates, "bus": ["bus", "a bus"]})
    pd.testing.assert_frame_equal(again[again.category != "bus"], table)
    bus = again[again.category == "bus"]
    assert bus[["images", "chosen"]].values.tolist() == [[0, True], [0, False]]
    with pytest.raises(ValueError, match="'cat'"):
        search_prompts(resnet, examples, {"dog": ["a dog"]})
    with pytest.raises(ValueError, match="cat"):
        with_prompts(examples, {"dog": "a dog"})
