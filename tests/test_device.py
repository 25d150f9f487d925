"""A second device without one; and the script for a machine that has one (tests/gpu.py)."""

import json

import gpu


def test_the_script_for_gpus_runs_here(tmp_path):
    assert gpu.main([str(tmp_path), "--quick", "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == []
    assert {"Machine", "Equality with the CPU", "Speed and memory"} <= found["tables"].keys()
    assert all(row["holds"] for row in found["tables"]["Equality with the CPU"])
    assert "| tiny-vit gradients |" in (tmp_path / "gpu.md").read_text()


def test_the_script_says_what_it_left_out(tmp_path):
    assert gpu.main([str(tmp_path), "--quick", "--device", "cpu", "--minutes", "0"]) == 0
    left = json.loads((tmp_path / "gpu.json").read_text())["tables"]["Left out for want of time"]
    assert [row["step"] for row in left] == ["equal"] * 3 + ["rougher", "speed"]
