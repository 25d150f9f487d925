"""bench.py: it runs, it writes what it says, and what it is held against computes the same."""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from conftest import tiny_clip

import gscam_lib as gs
from tests.bench import bench


def test_the_naive_one_computes_the_same():
    model = tiny_clip("resnet")
    slow = bench.naive(model, bench.photo(), "a cat", 20)
    torch.testing.assert_close(
        slow, gs.METHODS["gscorecam"](model.trace(bench.photo()), "a cat", k=20)
    )


def test_grad_cams_scorecam_runs_on_the_same_tower():
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is a dev dependency")
    model = tiny_clip("resnet")
    (cam,) = bench.gradcam_scorecam(model, bench.photo(), "a cat")
    assert cam.shape == (model.input_size, model.input_size)


def test_ratio_is_the_median_over_rounds():
    assert bench.ratio([2, 9, 4], [1, 3, 4]) == 2
    order = []
    seconds = bench.alternate(2, lambda: order.append("a"), lambda: order.append("b"))
    assert order == ["a", "b", "a", "b"]
    assert np.shape(seconds) == (2, 2)


def test_a_quick_report_has_every_row(tmp_path, monkeypatch):
    model = tiny_clip("resnet")
    monkeypatch.setattr(bench, "load_model", lambda name, **how: model)
    memory = bench.Row("memory", "tiny", "", "", 1, "")
    monkeypatch.setattr(bench, "memory_row", lambda name, device: memory)
    plan = bench.plan
    monkeypatch.setattr(bench, "plan", lambda: "## on paper")
    text = bench.report(tmp_path, quick=True, models=("tiny",))
    content = json.loads((tmp_path / "bench.json").read_text())
    assert [row["met"] for row in content["rows"]].count(None) < len(content["rows"])
    assert len(content["rows"]) == 3 + 2 + 1 + 2 + 1 + 3 + 2
    assert set(content["scaling"]["tiny"]) == {"k", "C", "P", "megapixels of the photo"}
    assert (tmp_path / "bench.md").read_text() == text
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    model.name = "other"
    bench.report(tmp_path, quick=True, models=("other",))
    both = json.loads((tmp_path / "bench.json").read_text())
    assert set(both["scaling"]) == {"tiny", "other"}
    assert len(both["rows"]) == 2 * (len(content["rows"]) - 2) + 2  # importing has no weights
    monkeypatch.setattr(bench, "paper_k", lambda channels: 3)
    monkeypatch.setattr(bench, "COCO_PAIRS", 1_000_000)
    assert "| 4.00 million |" in plan()


def held_for_a_while():
    held = np.ones((64, 2**20), np.uint8)
    time.sleep(0.1)
    return held


def test_the_highest_memory_is_seen():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # no one else's memory
        risen = process.submit(bench.highest, held_for_a_while).result()
    assert 60 < risen < 90


def test_peak_memory_is_measured():
    row = bench.memory_row("mini-rn")
    assert row.ours.endswith("MiB")
    if sys.platform == "linux":  # elsewhere freed memory may seem to be in use
        assert 0.9 < row.value < 1.3, f"gScoreCAM needs {row.ours}, plain batches {row.against}"
