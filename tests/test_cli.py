"""cli.py: the commands as a person types them."""

import json
import re

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import gscam_lib as gs
from gscam_lib.cli import app
from gscam_lib.model.prompts import fill_all

PHOTO_LITE = ["--model", "photo-lite"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def cat(tmp_path):
    from skimage import data

    path = tmp_path / "chelsea.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


def test_heatmap_of_two_prompts(cat, tmp_path):
    out = tmp_path / "new" / "cat.png"
    result = run("heatmap", cat, "a tabby cat", "a golden retriever", "--k", 8, "-o", out)
    assert result.exit_code == 0, result.output
    trace = gs.load_model("photo-lite").trace(cat)
    box = gs.heatmap_to_box(gs.heatmap(trace, "a tabby cat", k=8))
    assert f"a tabby cat: logit {trace.logit('a tabby cat'):.2f}, box {box}" in result.output
    assert "a golden retriever: logit" in result.output
    with Image.open(out) as picture:
        assert picture.width > 2 * picture.height


def test_the_box_is_over_the_cat(cat, tmp_path):
    """The cat fills the photo but for its right edge; its outline was read off by eye."""
    result = run("heatmap", cat, "a tabby cat", "--k", 256, "-o", tmp_path / "cat.png")
    box = [int(n) for n in re.search(r"box \((.*?)\)", result.output)[1].split(", ")]
    assert gs.iou(box, (5, 0, 410, 300)) >= 0.5


def test_an_unknown_word_is_reported(cat, tmp_path):
    result = run("heatmap", cat, "a flurbified zorp", "--k", 2, "-o", tmp_path / "x.png")
    assert result.exit_code == 0
    assert "does not know 'flurbified', 'zorp'" in result.stderr
    assert "Nearest names" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg", "a cat"], "No photo at nowhere.jpg"),
        (["PHOTO", ""], "empty prompt"),
        (["PHOTO", "a cat", "--k", "99999"], "from 1 to 1280"),
        (["PHOTO", "a cat", "--method", "nope"], "No method 'nope'"),
        (["PHOTO", "a cat", "--method", "sscam:samples=0"], "Got samples=0"),
        (["PHOTO", "a cat", "--model", "nope"], "No model 'nope'"),
        (["~nobodyzz.jpg", "a cat"], "No photo at ~nobodyzz.jpg"),
        (["PHOTO", "a cat", "--model", "~nobodyzz/w.pt"], "No model '~nobodyzz/w.pt'"),
    ],
)
def test_errors_are_one_line_not_a_traceback(cat, arguments, message):
    result = run("heatmap", *[cat if a == "PHOTO" else a for a in arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_evaluate_prints_the_table(cat, tmp_path):
    content = {
        "images": [{"id": 7, "file_name": cat.name, "width": 451, "height": 300}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "zorp"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": i, "bbox": [60, 0, 391, 300], "area": 1}
            for i in (1, 2)
        ],
    }
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps(content))
    options = ["--root", tmp_path, "--annotations", annotations, "--methods", "gradcam,center"]
    kept = tmp_path / "run"
    result = run("evaluate", "--dataset", "coco", *options, "--out", kept)
    assert result.exit_code == 0, result.output
    assert "1 of 2 (image, class) pairs have a known class" in result.stdout
    for form in ("text", "markdown", "latex", "csv"):
        table = run("table", kept, "--format", form)
        assert table.exit_code == 0, table.output
        assert ("gradcam" if form == "csv" else "Grad-CAM") in table.stdout
    tests = run("table", kept, "--against", "center")
    assert "| iou       | Grad-CAM | " in tests.stdout
    assert run("table", kept, "--against", "nope").exit_code == 1
    assert run("table", kept, "--format", "xml").exit_code == 1
    assert run("merge", kept, "-o", tmp_path / "all.parquet").exit_code == 0
    exported = tmp_path / "results.json"
    options = ["--annotations", annotations, "--method", "gradcam", "-o", exported]
    assert run("export", kept, *options).exit_code == 0
    (result,) = json.loads(exported.read_text())
    assert result["image_id"] == 7
    assert result["segmentation"]["size"] == [300, 451]


def test_prompts_boxes_and_presets_are_options(cat, tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(f"file,prompt,x0,y0,x1,y1\n{cat.name},tabby cat,60,0,451,300\n")
    base = ["--dataset", "csv", "--root", tmp_path, "--annotations", table, "--methods", "gradcam"]
    asked = ["--template", "a photo of {a}", "--preset", "paper", "--threshold", "0.3"]
    more = ["--rule", "union", "--no-inclusive"]
    made = run("evaluate", *base, *asked, *more, "--out", tmp_path / "run")
    assert made.exit_code == 0, made.output
    (row,) = gs.merge(tmp_path / "run").itertuples()
    assert row.prompt == "a photo of a tabby cat"
    assert "threshold=0.3, rule='union'" in row.preset
    assert "inclusive=False, empty_box=(0, 0, 1, 1)" in row.preset
    trace = gs.load_model("photo-lite").trace(cat)
    squashed = gs.load_model("photo-lite").trace(cat, preprocess="paper")
    heat = gs.heatmap(squashed, "a photo of a tabby cat", "gradcam")
    box = gs.heatmap_to_box(heat, threshold=0.3, rule="union", rounding="nearest")
    assert (row.x0, row.y0, row.x1, row.y1) == box
    searched = run("evaluate", *base, "--search", "--out", tmp_path / "searched")
    assert searched.exit_code == 0, searched.output
    (found,) = gs.merge(tmp_path / "searched").itertuples()
    assert found.logit == pytest.approx(max(trace.logits(fill_all("tabby cat")).tolist()), abs=1e-2)
    for wrong, words in {
        "--threshold": "percentile",
        "--rule": "union",
        "--template": "{}",
    }.items():
        result = run("evaluate", *base, wrong, "nonsense")
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_typographic_folder_needs_no_annotations(cat, tmp_path):
    (tmp_path / "photos").mkdir()
    cat.rename(tmp_path / "photos" / "label=tabby cat_text=lemon.png")
    options = ["--dataset", "typographic", "--root", tmp_path / "photos", "--methods", "center"]
    result = run("evaluate", *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert gs.merge(tmp_path / "run")["category"].tolist() == ["tabby cat"]
    assert "1 pairs have no true box" in result.stderr


def test_evaluate_on_dask(cat, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra dask")
    table = tmp_path / "list.csv"
    table.write_text(f"file,prompt\n{cat.name},tabby cat\n{cat.name},lemon\nnone.png,lemon\n")
    base = ["--dataset", "csv", "--root", tmp_path, "--annotations", table, "--methods", "gradcam"]
    assert "needs --out" in run("evaluate", *base, "--dask", "local").stderr
    there = [*base, "--out", tmp_path / "dask", "--dask", "local", "--shards", "2"]
    result = run("evaluate", *there)
    assert result.exit_code == 0, result.output
    run("evaluate", *base, "--out", tmp_path / "here")
    pd.testing.assert_frame_equal(
        *(gs.merge(tmp_path / at).drop(columns="seconds") for at in ("dask", "here"))
    )
    assert "none.png" in result.stderr


def test_evaluate_says_what_a_data_set_needs():
    result = run("evaluate", "--dataset", "coco")
    assert result.exit_code == 1
    assert "needs --root and --annotations" in result.stderr
    assert "i/n" in run("evaluate", "--dataset", "single", "--shard", "x").stderr
    there = run("evaluate", "--dataset", "coco", "--root", "~nobodyzz/x", "--annotations", "x.json")
    assert "~nobodyzz/x" in there.stderr


def test_models_methods_and_doctor():
    listed = run("models").output
    assert "photo-lite" in listed
    assert "RN50x16-quickgelu/openai" in listed
    assert all(name in run("methods").output for name in gs.METHODS)
    doctor = run("doctor").output
    for word in ("torch", "threads", "fp32", "photo-lite: here"):
        assert word in doctor


def test_download_says_what_is_missing():
    result = run("download", "RN50-quickgelu/yfcc15m")
    assert result.exit_code == 1
    assert "Where there is a network" in result.stderr


def test_a_budget_is_kept_and_said(cat, tmp_path):
    asked = ("heatmap", cat, "a tabby cat", "-o", tmp_path / "cat.png", "--k", 9)
    said = run(*asked, "--budget", 3).output
    assert re.search(r"3 masked copies, band [01]\.\d\d,", said)
    assert "masked copies" not in run(*asked).output
