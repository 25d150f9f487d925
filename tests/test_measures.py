"""measures.py: rows against the metrics themselves; resuming; faults; the prompt search."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gscam_lib as gs
from gscam_lib.evaluation import faithfulness, measures, metrics
from gscam_lib.evaluation.measures import MEASURES, measure, search_prompts, with_prompts


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


def values(rows, image, prompt, name):
    found = rows[(rows.image_id == image) & (rows.prompt == prompt) & (rows.measure == name)]
    assert len(found) == 1
    return found.iloc[0]["values"]


def test_every_measure_equals_its_metric(resnet, examples):
    rows = measure(resnet, examples, ["layercam"], list(MEASURES), points=4)
    assert len(rows) == 3 * len(MEASURES)
    assert rows["error"].isna().all()
    trace = resnet.trace(examples[0].image)
    dog, cat = (gs.heatmap(trace, p, "layercam").values for p in ("a dog", "a cat"))
    assert dog.max() == cat.max() == 1
    mask, boxes = examples[0].mask, examples[0].boxes
    target = gs.Target("a dog", against=["a cat"])
    curve = {"step": resnet.input_size**2 // 3}
    square = np.asarray(Image.fromarray(dog).resize((224, 224), Image.Resampling.BILINEAR))
    x, y = (224 / side for side in reversed(dog.shape))
    small = square, [(8 * x, 4 * y, 28 * x, 20 * y)]
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
        "deletion": metrics.area_under(faithfulness.deletion(trace, target, dog, **curve)),
        "randomization": faithfulness.randomization_check(
            resnet, [(examples[0].image, "a dog")], ["layercam"]
        )[-1].rank_correlation,
        "ious": metrics.ious_at_thresholds(*small),
        "ious_largest": metrics.ious_at_thresholds(*small, rule="largest_component"),
        "pixels": metrics.pixel_counts(dog, mask, bins=measures.BINS).ravel(),
    }
    assert set(expected) == set(MEASURES)
    for name, wanted in expected.items():
        found = values(rows, "1", "a dog", name)
        np.testing.assert_allclose(found, np.atleast_1d(wanted), atol=1e-5, err_msg=name)
    assert values(rows, "1", "a cat", "pixels") is None  # no mask
    assert values(rows, "2", "a dog", "prompt_sensitivity") is None  # one prompt alone


def test_what_is_there_is_not_measured_again(resnet, examples, tmp_path, monkeypatch):
    variants = {"by variance": {"method": "gscorecam", "k": 3, "ranking": "variance"}}
    first = measure(resnet, examples[:2], variants, ["iou"], out=tmp_path)
    asked = []
    monkeypatch.setattr(
        measures, "heatmap", lambda t, p, **o: asked.append(p) or gs.heatmap(t, p, **o)
    )
    again = measure(resnet, examples[:2], variants, ["iou"], out=tmp_path)
    assert asked == []
    assert again.to_dict("records") == first.to_dict("records")
    more = measure(resnet, examples, variants, ["iou", "energy"], out=tmp_path)
    assert len(more) == 6
    assert not more.duplicated(measures.KEY).any()
    other = {"by variance": {"method": "gscorecam", "k": 4, "ranking": "variance"}}
    assert len(measure(resnet, examples, other, ["iou"], out=tmp_path)) == 9
    with pytest.raises(ValueError, match="different runs"):
        measure(resnet, examples, variants, ["iou"], out=tmp_path, points=5)


def test_faults_become_rows(resnet, examples, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    bad = gs.Example(broken, "a dog", ((0, 0, 4, 4),), "dog", "9", "test")
    rows = measure(resnet, [bad, *examples], ["gradcam", "legrad"], ["iou", "energy"])
    assert len(rows) == 4 * 2 * 2
    wrong = rows[rows["error"].notna()]
    assert len(wrong) == 4 + 3 * 2  # the broken photo, and a method for other towers
    assert "cannot be read" in wrong.iloc[0]["error"]
    assert wrong[wrong.image_id == "1"]["error"].str.contains("legrad").all()


def test_unknown_names(resnet, examples):
    with pytest.raises(ValueError, match="There are: iou"):
        measure(resnet, examples, ["gradcam"], ["beauty"])
    with pytest.raises(ValueError, match="No method 'nope'"):
        measure(resnet, examples, ["nope"], ["iou"])
    with pytest.raises(ValueError, match="takes no ranking"):
        measure(resnet, examples, {"x": {"method": "gradcam", "ranking": "mean"}}, ["iou"])


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
