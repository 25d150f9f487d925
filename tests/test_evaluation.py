"""evaluation.py: rows, errors that become rows, the table."""

import numpy as np
import pytest

import gscam_lib as gs


@pytest.fixture
def examples(photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photo")
    from PIL import Image

    image = Image.fromarray(photo)
    return [
        gs.Example(image, "cat", ((10, 5, 30, 25),), "cat", "1", "test"),
        gs.Example(image, "dog", ((0, 0, 70, 40),), "dog", "1", "test"),
        gs.Example(broken, "cat", ((0, 0, 5, 5),), "cat", "2", "test"),
        gs.Example(image, "", ((0, 0, 5, 5),), "nothing", "3", "test"),
    ]


def test_rows_agree_with_single_calls(resnet, examples):
    rows = gs.evaluate(resnet, examples[:2], ["gscorecam", "gradcam"], k=5)
    assert rows["method"].tolist() == ["gscorecam", "gradcam"] * 2
    trace = resnet.trace(examples[0].image)
    for row in rows.itertuples():
        k = 5 if row.method == "gscorecam" else None
        heat = gs.heatmap(trace, row.prompt, row.method, k=k)
        box = (row.x0, row.y0, row.x1, row.y1)
        assert box == (gs.heatmap_to_box(heat) or (0, 0, 1, 1))
        truth = next(e.boxes for e in examples if e.prompt == row.prompt)
        assert row.iou == gs.best_iou(box, truth)
        assert row.hit == (row.iou >= 0.5)
        assert row.logit == pytest.approx(heat.logit)
        assert row.error is None


def test_one_trace_for_an_image(resnet, examples, monkeypatch):
    count = []
    trace = gs.Model.trace
    monkeypatch.setattr(gs.Model, "trace", lambda *a, **o: count.append(1) or trace(*a, **o))
    gs.evaluate(resnet, examples[:2], ["gradcam"])
    assert len(count) == 1


def test_faults_become_rows(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["gradcam", "center"])
    assert len(rows) == 8
    bad = rows[rows["error"].notna()]
    assert bad["image_id"].tolist() == ["2", "2", "3", "3"]
    assert bad["error"].iloc[0].startswith("ValueError: ")
    assert "broken.jpg" in bad["error"].iloc[0]
    assert "empty prompt" in bad["error"].iloc[2]
    assert not bad["hit"].any()


def test_a_wrong_method_is_refused_before_the_work(resnet, examples):
    with pytest.raises(ValueError, match="No method 'nope'"):
        gs.evaluate(resnet, examples, ["center", "nope"])


def test_summary(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["center", "gradcam"])
    table = gs.summarize(rows)
    assert table.index.tolist() == ["center", "gradcam"]
    assert table["pairs"].tolist() == [4, 4]
    assert table["errors"].tolist() == [2, 2]
    mine = rows[rows["method"] == "center"]
    assert table.loc["center", "hits"] == np.mean(mine["hit"])
    assert table.loc["center", "median IoU"] == np.median(mine["iou"])


def test_known_examples(resnet, examples):
    closed = gs.Model(resnet.network, resnet.tokenizer, vocabulary=["cat"])
    assert [e.image_id for e in gs.known_examples(closed, examples[:3])] == ["1", "2"]
    assert gs.known_examples(resnet, examples[:3]) == examples[:3]
