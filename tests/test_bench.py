"""tests/bench: it runs, it writes what it says, and what it is held against computes the same."""

import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_clip

import gscam_lib as gs
from tests.bench import against, bench, growth, page, speed, timing


def test_the_naive_one_computes_the_same():
    model = tiny_clip("resnet")
    slow = against.naive(model, timing.photo(), "a cat", 20)
    torch.testing.assert_close(
        slow, gs.METHODS["gscorecam"](model.trace(timing.photo()), "a cat", k=20)
    )


def test_grad_cams_scorecam_runs_on_the_same_tower():
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is a dev dependency")
    model = tiny_clip("resnet")
    (cam,) = against.gradcam_scorecam(model, timing.photo(), "a cat")
    assert cam.shape == (model.input_size, model.input_size)


def test_ratio_is_the_median_over_rounds():
    assert timing.ratio([2, 9, 4], [1, 3, 4]) == 2
    order = []
    seconds = timing.alternate(2, lambda: order.append("a"), lambda: order.append("b"))
    assert order == ["a", "b", "a", "b"]
    assert np.shape(seconds) == (2, 2)


def test_a_quick_report_has_every_row(tmp_path, monkeypatch):
    model = tiny_clip("resnet")
    for module in (bench, speed, growth):
        monkeypatch.setattr(module, "load_model", lambda name, **how: model)
    memory = timing.Row("memory", "tiny", "", "", 1, "")
    monkeypatch.setattr(speed, "memory_row", lambda name, device: memory)
    monkeypatch.setattr(growth, "plan", lambda: "## On paper")
    text = bench.report(tmp_path, quick=True, models=("tiny",))
    content = page.section_data("speed", out=tmp_path)
    assert [row["met"] for row in content["rows"]].count(None) < len(content["rows"])
    assert len(content["rows"]) == 3 + 3 + 1 + 2 + 1 + 3 + 2
    assert set(content["scaling"]["tiny"]) == {"k", "C", "P", "megapixels of the photo"}
    assert (tmp_path / "bench.md").read_text() == text
    assert text.index("## Speed") < text.index("| memory | tiny |") < text.index("## On paper")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    model.name = "other"
    bench.report(tmp_path, quick=True, models=("other",))
    both = page.section_data("speed", out=tmp_path)
    assert set(both["scaling"]) == {"tiny", "other"}
    assert len(both["rows"]) == 2 * (len(content["rows"]) - 2) + 2  # importing has no weights


def test_the_plan_counts_passes(monkeypatch):
    model = tiny_clip("resnet")
    monkeypatch.setattr(growth, "load_model", lambda name, **how: model)
    monkeypatch.setattr(growth, "paper_k", lambda channels: 3)
    monkeypatch.setattr(growth, "COCO_PAIRS", 1_000_000)
    assert "| 4.00 million |" in growth.plan()


def test_the_page_is_put_together_from_its_sections(tmp_path):
    page.write_section("scale", "## At scale\n\nlines", {"rows": 3}, out=tmp_path)
    page.write_section("about", "## About\n", out=tmp_path)
    text = page.write_section("speed", "## Speed", out=tmp_path)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Speed", "## At scale", "## About",
    ]  # fmt: skip
    assert (tmp_path / "bench.md").read_text() == text
    assert page.section_data("scale", out=tmp_path) == {"rows": 3}
    assert page.section_data("about", out=tmp_path) is None
    with pytest.raises(ValueError, match="expected a heading"):
        page.write_section("scale", "At scale", out=tmp_path)


def test_the_committed_page_is_that_of_its_sections(tmp_path):
    figures = Path(__file__).resolve().parents[1] / "figures"
    for part in (figures / "bench").glob("*.md"):
        text = page.write_section(part.stem, part.read_text(), out=tmp_path)
    assert text == (figures / "bench.md").read_text()
    assert page.section_data("speed", out=figures)["rows"]


def test_the_command_says_its_options():
    command = [sys.executable, bench.__file__, "--help"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    for option in ("--quick", "--models", "--out"):
        assert option in said


def held_for_a_while():
    held = np.ones((64, 2**20), np.uint8)
    time.sleep(0.1)
    return held


def test_the_highest_memory_is_seen():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # no one else's memory
        risen = process.submit(timing.highest, held_for_a_while).result()
    assert 60 < risen < 90


def test_peak_memory_is_measured():
    row = speed.memory_row("mini-rn")
    assert row.ours.endswith("MiB")
    if sys.platform == "linux":  # elsewhere freed memory may seem to be in use
        assert 0.9 < row.value < 1.3, f"gScoreCAM needs {row.ours}, plain batches {row.against}"
