"""evaluation/: rows, errors that become rows, resuming, shards, whose folder it is."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.filters import threshold_otsu

import gscam_lib as gs
from gscam_lib.datasets.outlines import to_rle
from gscam_lib.evaluation import folder as run_folder
from gscam_lib.evaluation import jobs, report, runner
from gscam_lib.evaluation import rows as parts
from gscam_lib.evaluation.measures import PRESETS
from gscam_lib.evaluation.questions import tabulate
from gscam_lib.trace import trace as trace_module


@pytest.fixture
def examples(photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photo")
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
        expected = gs.heatmap_to_box(heat)
        assert pd.isna(row.x0) if expected is None else box == expected
        truth = next(e.boxes for e in examples if e.prompt == row.prompt)
        assert row.iou == gs.best_iou(expected, truth)
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


def test_options_stand_behind_the_method(resnet, examples):
    own = ["gscorecam:ranking=variance", "gscorecam:k=2:weighting=uniform"]
    methods = ["gscorecam", *own, "center"]
    one = examples[:1]
    rows = gs.evaluate(resnet, one, methods, k=4)
    assert rows["method"].tolist() == methods
    assert rows["k"].tolist()[:3] == [4, 4, 2]
    trace = resnet.trace(one[0].image)
    options = {"k": 4}, {"k": 4, "ranking": "variance"}, {"k": 2, "weighting": "uniform"}
    for row, how in zip(rows.itertuples(), options, strict=False):
        box = gs.heatmap_to_box(gs.heatmap(trace, one[0].prompt, **how))
        assert (row.x0, row.y0, row.x1, row.y1) == box
    for wrong, message in {
        "gscorecam:ranking": "name and options such as",
        "gscorecam:rank=mean": "takes no rank",
        "gscorecam:k=many": "Got k='many'",
        "center:k=3": "takes no k",
    }.items():
        with pytest.raises(ValueError, match=message):
            gs.evaluate(resnet, one, [wrong])


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0}, {"limit": -1}, {"limit": 2.5}, {"limit": "3"}, {"slow_images": -1},
        {"measured_images": True}, {"points": 2**40}, {"shard": (0.5, 2)},
        {"methods": ["center", "-rize"]},
    ],
)  # fmt: skip
def test_numbers_and_names_that_mean_nothing_are_refused(resnet, examples, wrong, tmp_path):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"Got {name}=" if name != "methods" else "Got '-rize'"):
        gs.evaluate(resnet, examples, **{"methods": ["center"]} | wrong)
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match="expected a folder"):
        gs.evaluate(resnet, examples, ["center"], out=tmp_path / "a.csv")


def test_an_edit_of_an_uncompressed_photo_is_another_photo(resnet, tmp_path):
    pixels = np.full((90, 90, 3), 80, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    example = gs.Example(tmp_path / "a.bmp", "a cat", (), "cat", "1", "mine")
    before = example.fingerprint()
    pixels[40:50, 40:50] = 200
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    assert example.fingerprint() != before


def test_half_a_run_says_so(resnet, examples, tmp_path):
    gs.evaluate(resnet, examples, ["center"], out=tmp_path, shard=(0, 2))
    half = report.read(tmp_path)
    words = f"only {len(half)} of the run's {len(examples)} pairs"
    assert 0 < len(half) < len(examples)
    assert words in report.unanswered(half)
    assert words in report.report(half)
    gs.evaluate(resnet, examples, ["center"], out=tmp_path, shard=(1, 2))
    assert report.unanswered(report.read(tmp_path)) == ""


def same(a, b):
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))


def alike(a, b):
    """The same rows and boxes; floats up to what a batch of another size changes in a network."""
    less = [frame.drop(columns=["seconds", "mask"]) for frame in (a, b)]
    pd.testing.assert_frame_equal(*less, rtol=1e-4, atol=1e-6)


def test_presets(resnet, examples, monkeypatch):
    monkeypatch.setitem(
        gs.METHODS,
        "gradcam",
        replace(gs.METHODS["gradcam"], function=lambda t, p: t.activations[0] * 0),
    )
    clean = gs.evaluate(resnet, examples[:1], ["gradcam"])
    paper = gs.evaluate(resnet, examples[:1], ["gradcam"], preset="paper")
    assert clean[["x0", "y0", "x1", "y1"]].isna().all(axis=None)
    assert paper[["x0", "y0", "x1", "y1"]].iloc[0].tolist() == [0, 0, 1, 1]
    assert paper["preset"].tolist() == ["paper"]
    with pytest.raises(ValueError, match="No preset 'papers'"):
        gs.evaluate(resnet, examples, ["center"], preset="papers")


def test_masks_are_used_for_pointing(resnet, examples):
    mask = np.zeros((40, 70), bool)
    mask[20, 35] = True
    hit = gs.Example(examples[0].image, "cat", ((0, 0, 1, 1),), "cat", "1", "t", mask=mask)
    miss = gs.Example(examples[0].image, "cat", ((0, 0, 1, 1),), "cat", "2", "t")
    rows = gs.evaluate(resnet, [hit, miss], ["center"])
    assert rows["pointing"].tolist() == [True, False]
    assert rows["energy"].iloc[0] > 0


def test_a_run_goes_on_where_it_ended(resnet, examples, tmp_path, monkeypatch):
    whole = gs.evaluate(resnet, examples, ["gradcam", "center"])
    gs.evaluate(resnet, examples[:2], ["gradcam"], out=tmp_path)
    count = []
    monkeypatch.setattr(gs.Model, "trace", _counted(gs.Model.trace, count))
    rows = gs.evaluate(resnet, examples, ["gradcam", "center"], out=tmp_path)
    assert len(count) == 2  # image 1 for its centre, image 3; image 2 cannot be read
    same(rows, whole)
    gs.evaluate(resnet, examples, ["gradcam", "center"], out=tmp_path)
    assert len(count) == 2
    same(gs.merge(tmp_path), whole)


def _counted(function, count):
    return lambda *a, **o: count.append(1) or function(*a, **o)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_shards_equal_one(resnet, examples, tmp_path, n):
    methods = ["gradcam", "gscorecam", "center"]
    for i in reversed(range(n)):
        gs.evaluate(resnet, examples, methods, k=2, out=tmp_path, shard=(i, n))
    alike(gs.merge(tmp_path), gs.evaluate(resnet, examples, methods, k=2))
    with pytest.raises(ValueError, match="0 ≤ i < n"):
        gs.evaluate(resnet, examples, ["center"], shard=(n, n))


def test_an_executor_runs_the_shards(resnet, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("gscam_lib.evaluation.runner._loaded", lambda name: resnet)
    with ThreadPoolExecutor(2) as pool:
        rows = gs.evaluate_shards(pool, "tiny", examples, ["center"], tmp_path, shards=2)
    same(rows, gs.evaluate(resnet, examples, ["center"]))


# ---------------------------------------------------------------- batches shared by photos


@pytest.fixture
def many(photo):
    """12 photos of one or two questions each."""
    return [
        gs.Example(Image.fromarray(np.roll(photo, 7 * i, 1)), prompt, ((2, 2, 30, 30),), prompt,
                   str(i), "t")
        for i in range(12)
        for prompt in ("cat", "dog")[: 1 + i % 2]
    ]  # fmt: skip


@pytest.fixture
def batches(resnet, monkeypatch):
    """The sizes of the batches of masked copies, at most 16 at once."""
    monkeypatch.setitem(resnet.__dict__, "batch_size", 16)
    sizes, embed = [], trace_module._embed_batch
    monkeypatch.setattr(
        trace_module, "_embed_batch", lambda batch: sizes.append(len(batch)) or embed(batch)
    )
    return sizes


def test_photos_share_batches_where_k_is_small(resnet, many, batches, monkeypatch):
    rows = gs.evaluate(resnet, many, ["gradcam", "gscorecam"], k=3)
    packed = batches.copy()
    batches.clear()
    monkeypatch.setattr(jobs, "prefetch", lambda *asked: None)
    plain = gs.evaluate(resnet, many, ["gradcam", "gscorecam"], k=3)
    assert plain["error"].isna().all()
    alike(rows, plain)
    assert sum(packed) == sum(batches)  # the same copies
    assert len(packed) <= len(batches) / 3
    assert max(packed) <= 16
    assert rows.loc[rows["method"] == "gscorecam", "seconds"].gt(0).all()


def test_a_photo_that_fills_its_batches_waits_for_no_other(resnet, many, batches, monkeypatch):
    packs = []
    share = jobs._share_batches
    monkeypatch.setattr(jobs, "_share_batches", lambda pack: packs.append(len(pack)) or share(pack))
    gs.evaluate(resnet, many, ["gscorecam"], k=16)
    assert packs[:12] == [1] * 12
    packs.clear()
    gs.evaluate(resnet, many, ["gradcam"])
    assert packs[:12] == [1] * 12
    packs.clear()
    gs.evaluate(resnet, many, ["gscorecam"], k=1)
    assert packs == [8, 4]


def test_few_traces_live_at_once(resnet, many, monkeypatch):
    born, most = [], []
    trace, answer = gs.Model.trace, runner._answer

    def watched(*a, **o):
        made = trace(*a, **o)
        born.append(weakref.ref(made))
        return made

    def counted(*a):
        most.append(sum(ref() is not None for ref in born))
        return answer(*a)

    monkeypatch.setattr(gs.Model, "trace", watched)
    monkeypatch.setattr(runner, "_answer", counted)
    monkeypatch.setattr(jobs, "PACK", 3)
    gs.evaluate(resnet, many, ["gscorecam"], k=1)
    assert len(born) == 12
    assert max(most) <= 4  # the three of a pack, and the one that is being dropped


def test_a_fault_of_one_photo_harms_no_other(resnet, many, examples, batches, monkeypatch):
    alone = gs.evaluate(resnet, many, ["gscorecam"], k=2)
    gradients = gs.Trace.gradients

    def failing(self, prompt):
        if prompt == "boom":
            raise RuntimeError("no gradient today")
        return gradients(self, prompt)

    monkeypatch.setattr(gs.Trace, "gradients", failing)
    bad = [
        replace(e, prompt=p, image_id=f"bad {p}") for e, p in zip(many, ("boom", ""), strict=False)
    ]
    mixed = [bad[0], *many[:5], examples[2], *many[5:], bad[1]]
    rows = gs.evaluate(resnet, mixed, ["gscorecam"], k=2)
    wrong = rows[rows["error"].notna()]
    assert wrong["image_id"].tolist() == ["bad boom", "2", "bad "]
    assert "no gradient today" in wrong["error"].iloc[0]
    good = rows[rows["error"].isna() & rows["image_id"].ne("2")].assign(example=0)
    expected = alone[alone["image_id"].ne("2")].assign(example=0)
    alike(good.reset_index(drop=True), expected.reset_index(drop=True))


def test_shared_batches_that_fail_are_made_alone(resnet, many, monkeypatch):
    expected = gs.evaluate(resnet, many, ["gscorecam"], k=2)

    def full(*asked):
        raise MemoryError("no room for so many")

    monkeypatch.setattr(jobs, "prefetch", full)
    alike(gs.evaluate(resnet, many, ["gscorecam"], k=2), expected)


# ---------------------------------------------------------------- resuming, writers


def test_finished_photos_are_not_even_opened(resnet, many, tmp_path, monkeypatch):
    gs.evaluate(resnet, many, ["center"], out=tmp_path)
    opened = []
    monkeypatch.setattr(jobs, "load_photo", lambda image: opened.append(1) or image)
    gs.evaluate(resnet, many, ["center"], out=tmp_path)
    assert opened == []


def test_retry_does_the_rows_with_errors_again(resnet, examples, tmp_path, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("no memory today")

    with monkeypatch.context() as today:
        today.setattr(gs.Model, "trace", failing)
        first = gs.evaluate(resnet, examples, ["center"], out=tmp_path)
    assert first["error"].notna().all()
    assert gs.evaluate(resnet, examples, ["center"], out=tmp_path)["error"].notna().all()
    again = gs.evaluate(resnet, examples, ["center"], out=tmp_path, retry=True)
    assert again["error"].notna().tolist() == [False, False, True, True]
    same(gs.merge(tmp_path), again)


def test_a_photo_put_right_is_asked_again(resnet, examples, tmp_path):
    first = gs.evaluate(resnet, examples, ["center"], out=tmp_path)
    Image.new("RGB", (20, 20)).save(examples[2].image)
    again = gs.evaluate(resnet, examples, ["center"], out=tmp_path)
    assert first["error"].notna().tolist() == [False, False, True, True]
    assert again["error"].notna().tolist() == [False, False, False, True]
    same(gs.merge(tmp_path), again)
    Image.new("RGB", (30, 20)).save(examples[2].image)  # it was answered: now it is other data
    with pytest.raises(ValueError, match="other data"):
        gs.evaluate(resnet, examples, ["center"], out=tmp_path)


def test_true_boxes_that_cannot_be_true_are_errors(resnet, examples):
    boxes = [(0, 0, 0, 9), (9, 9, 3, 3), (70, 0, 80, 9), (-9, -9, 0, 0), (0, 0, float("nan"), 9)]
    bad = [replace(examples[0], boxes=(box,), image_id=str(i)) for i, box in enumerate(boxes)]
    over = replace(examples[0], boxes=((60, 30, 71, 44),), image_id="over the edge")
    rows = gs.evaluate(resnet, [*bad, over], ["center"])
    assert (
        rows["error"].str.contains("no area inside the photo of 70 × 40").tolist()[:5] == [True] * 5
    )
    assert rows["error"].iloc[5] is None


def test_two_writers_on_one_folder(resnet, examples, tmp_path):
    whole = gs.evaluate(resnet, examples, ["center"])
    questions, run = tabulate(examples), runner.manifest(resnet, PRESETS["clean"])
    writers = [parts.Rows(tmp_path, run, questions) for _ in range(2)]
    for writer in writers:
        for row in whole.astype(object).where(whole.notna(), None).to_dict("records"):
            writer.add(row)
        writer.flush()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2
    same(gs.merge(tmp_path), whole)


def test_a_folder_is_refused_to_another_run(resnet, examples, tmp_path):
    gs.evaluate(resnet, examples[:1], ["center"], out=tmp_path)
    with pytest.raises(ValueError, match="preset name clean, not paper"):
        gs.evaluate(resnet, examples[:1], ["center"], out=tmp_path, preset="paper")
    with pytest.raises(FileNotFoundError, match="No part"):
        gs.merge(tmp_path / "b")
    said = json.loads((tmp_path / run_folder.MANIFEST).read_text())
    assert said["model"]["weights"] == resnet.weights_sha
    assert said["preset"]["threshold"] == "otsu"
    (tmp_path / run_folder.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        gs.evaluate(resnet, examples[:1], ["center"], out=tmp_path)
    (tmp_path / run_folder.MANIFEST).unlink()
    with pytest.raises(ValueError, match="parts but no"):
        gs.evaluate(resnet, examples[:1], ["center"], out=tmp_path)


def change(example, **what):
    return replace(example, **what)


@pytest.mark.parametrize(
    ("what", "methods"),
    [
        ({"boxes": ((0, 0, 64, 40),)}, ["center"]),
        ({"prompt": "a photo of a cat"}, ["center"]),
        ({"mask": np.ones((40, 70), bool)}, ["center"]),
        ({"image": Image.new("RGB", (70, 40), "red")}, ["center"]),
        ({}, ["gscorecam:k=3"]),
        ({}, ["gscorecam:k=2:ranking=variance"]),
        (None, ["gscorecam:k=2"]),
    ],
)
def test_a_folder_gives_what_a_fresh_one_gives_or_refuses(
    resnet, examples, tmp_path, what, methods
):
    """Corrected truth, other photos, prompts, options, fewer questions: never another's rows."""
    before = examples[:2]
    after = before[:1] if what is None else [change(e, **what) for e in before]
    gs.evaluate(resnet, before, ["gscorecam:k=2", "center"], out=tmp_path)
    if what:
        with pytest.raises(ValueError, match="other data: of the 2 questions that are asked 2"):
            gs.evaluate(resnet, after, methods, out=tmp_path)
        return
    again = gs.evaluate(resnet, after, methods, out=tmp_path)
    same(again, gs.evaluate(resnet, after, methods))


def test_one_id_for_two_photos_is_two_questions(resnet, photo):
    """Photos that share an id are told apart; a question that comes twice is refused."""
    other = Image.fromarray(photo[:, ::-1].copy())
    pair = [gs.Example(image, "cat", ((10, 5, 30, 25),), "cat", "1", "t")
            for image in (Image.fromarray(photo), other)]  # fmt: skip
    rows = gs.evaluate(resnet, pair, ["sobel"])
    assert len(rows) == 2
    alone = [gs.evaluate(resnet, [e], ["sobel"]).iou[0] for e in pair]
    assert rows.iou.tolist() == alone
    with pytest.raises(ValueError, match="each question once"):
        gs.evaluate(resnet, [pair[0], pair[0]], ["sobel"])


def test_a_damaged_part_is_computed_again(resnet, many, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SECONDS", -1.0)
    whole = gs.evaluate(resnet, many, ["center"], out=tmp_path)
    first, second, third, *_ = sorted(tmp_path.glob("part-*.parquet"))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"")
    (tmp_path / "part-foreign.parquet").write_bytes(third.read_bytes())
    parts.pq.write_table(parts.pa.table({"a": [1]}), tmp_path / "part-other.parquet")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert len(gs.merge(tmp_path)) == len(many) - 2
    with pytest.warns(RuntimeWarning, match="is set aside"):
        again = gs.evaluate(resnet, many, ["center"], out=tmp_path)
    same(again, whole)
    assert len(list(tmp_path.glob("*.damaged"))) == 2


def test_rows_that_cannot_be_stored_as_they_are_are_kept(resnet, many, tmp_path):
    """A lone surrogate in an error or a file name is written with an escape, its neighbours too."""
    bad = replace(many[0], image=tmp_path / "no\udcff.jpg", image_id="odd")
    with pytest.raises(ValueError, match="cannot be stored as text"):
        gs.evaluate(resnet, [bad, *many[1:]], ["center"], out=tmp_path)
    numbers = [replace(e, image_id=int(e.image_id)) for e in many]
    rows = gs.evaluate(resnet, numbers, ["center"])
    assert rows["image_id"].tolist() == [e.image_id for e in many]
    table = parts._as_table([{"error": "no \udcff", "image_id": 3}, {"error": None}])
    assert table["error"].to_pylist() == ["no \\udcff", None]
    assert table["image_id"].to_pylist() == ["3", None]


def test_measures_can_be_added_to_a_run(resnet, many, tmp_path):
    gs.evaluate(resnet, many, ["center", "gradcam"], out=tmp_path)
    wanted = {"measures": ["localization", "entropy"], "measured_images": 3}
    more = gs.evaluate(resnet, many, ["center", "gradcam"], out=tmp_path, **wanted)
    assert more["entropy"].notna().sum() == 2 * 4  # three photos with four questions
    same(more, gs.evaluate(resnet, many, ["center", "gradcam"], **wanted))
    same(gs.merge(tmp_path), more)


def test_slow_methods_and_limits(resnet, many, tmp_path):
    rows = gs.evaluate(resnet, many, ["scorecam", "center"], slow_images=1, limit=4, out=tmp_path)
    assert rows.groupby("method")["image_id"].nunique().to_dict() == {"center": 4, "scorecam": 1}
    whole = gs.evaluate(resnet, many, ["center"], out=tmp_path)
    assert len(whole) == len(many)
    alone = gs.evaluate(resnet, many[:1], ["scorecam"])
    assert rows[rows.method == "scorecam"].iou.tolist() == alone.iou.tolist()


def test_a_full_disk_loses_nothing(resnet, examples, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(parts.pq, "write_table", full)
        with pytest.warns(RuntimeWarning, match="Make room"):
            rows = gs.evaluate(resnet, examples, ["center"], out=tmp_path)
    same(rows, gs.evaluate(resnet, examples, ["center"]))
    assert not list(tmp_path.glob("part*"))
    gs.evaluate(resnet, examples, ["center"], out=tmp_path)
    same(gs.merge(tmp_path), rows)


def test_nan_weights_become_rows(photo, tmp_path):
    from conftest import tiny_clip

    model = tiny_clip("resnet")
    model.network.visual.layer4[0].conv1.weight.data[:] = float("nan")
    example = gs.Example(Image.fromarray(photo), "cat", ((0, 0, 5, 5),), "cat", "1", "test")
    rows = gs.evaluate(model, [example], ["gradcam", "gscorecam", "center"], k=2)
    assert rows["error"].notna().tolist()[:2] == [True, True]


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from conftest import tiny_clip
from PIL import Image
import numpy as np
import gscam_lib as gs
from gscam_lib.evaluation import rows as parts
parts.SECONDS = 0.0
rng = np.random.default_rng(0)
images = [Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(40)]
examples = [gs.Example(x, "cat", ((0, 0, 9, 9),), "cat", str(i), "t") for i, x in enumerate(images)]
methods = ["gradcam", "gscorecam", "center"]
gs.evaluate(tiny_clip("resnet"), examples, methods, k=2, out=sys.argv[1])
print("done", flush=True)
"""


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    def start(folder):
        here = os.path.dirname(__file__)
        command = [sys.executable, "-c", KILLED, str(tmp_path / folder), here]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = start("killed")
    while not list((tmp_path / "killed").glob("part-*.parquet")) and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(gs.merge(tmp_path / "killed"))
    assert 0 < kept < 120
    for folder in ("killed", "undisturbed"):
        assert start(folder).communicate()[0].strip() == "done"
    assert len(gs.merge(tmp_path / "killed")) == 120
    alike(gs.merge(tmp_path / "killed"), gs.merge(tmp_path / "undisturbed"))


def test_compare(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["center", "gradcam"])
    found = gs.compare(rows, "center", "gradcam")
    wide = rows.pivot(index="example", columns="method", values="iou")
    assert found["difference"] == pytest.approx((wide["center"] - wide["gradcam"]).mean())
    with pytest.raises(ValueError, match="these rows have center, gradcam"):
        gs.compare(rows, "center", "nope")


def test_boxes_and_iou_agree_with_pycocotools_on_real_photos(resnet, tmp_path):
    from conftest import shared
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    annotations = shared("coco", "instances.json")
    dataset = gs.CocoDataset(annotations.parent / "images", annotations)
    some = [example for example, _ in zip(dataset, range(25), strict=False)]
    rows = gs.evaluate(resnet, some, ["center"])
    results = dataset.results(rows, "center")
    judge = COCO(str(annotations))
    loaded = judge.loadRes(results)
    assert len(loaded.anns) == len(rows)
    for result, row in zip(results, rows.itertuples(), strict=True):
        ids = judge.getAnnIds(result["image_id"], result["category_id"], iscrowd=False)
        truth = [a["bbox"] for a in judge.loadAnns(ids)]
        bbox = [[float(v) for v in result["bbox"]]]
        overlaps = coco_mask.iou(bbox, truth, [0] * len(truth))
        assert row.iou == pytest.approx(overlaps.max())
    with pytest.raises(ValueError, match="No rows of 'nope'"):
        dataset.results(rows, "nope")


@pytest.fixture
def coco(photo, tmp_path):
    """Three photos with an ellipse and a box each, as a COCO data set with masks."""
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}]}
    for i in range(3):
        Image.fromarray(np.roll(photo, 15 * i, 1)).save(tmp_path / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 70, "height": 40})
        y, x = np.mgrid[:40, :70]
        mask = ((x - 30 - 5 * i) / 16) ** 2 + ((y - 20) / 9) ** 2 < 1
        rows, columns = np.where(mask)
        x0, y0 = int(columns.min()), int(rows.min())
        box = [x0, y0, int(columns.max()) + 1 - x0, int(rows.max()) + 1 - y0]
        content["annotations"].append(
            {"id": i + 1, "image_id": i, "category_id": 3, "bbox": box, "iscrowd": 0,
             "area": int(mask.sum()), "segmentation": to_rle(mask)}
        )  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return gs.CocoDataset(tmp_path, tmp_path / "instances.json")


def test_pycocotools_own_evaluator_takes_boxes_and_masks(resnet, coco, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    reference = COCO(str(coco.file))
    rows = gs.evaluate(resnet, coco, ["center"])
    results = json.loads(json.dumps(coco.results(rows, "center")))
    truth = {e.image_id: e.mask for e in coco}
    for kind in ("bbox", "segm"):
        judge = COCOeval(reference, reference.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert 0 <= judge.stats[1] <= 1
        for row in rows.itertuples():
            found = judge.ious[int(row.image_id), 3].max()
            expected = row.iou
            if kind == "segm":
                heat = gs.heatmap(resnet.trace(coco.root / f"{row.image_id}.png"), "cat", "center")
                inside = np.zeros((40, 70), bool)
                inside[row.y0 : row.y1, row.x0 : row.x1] = True
                hot = heat.values * 255 > threshold_otsu((heat.values * 255).astype("uint8")) + 1
                mine = inside & hot
                expected = (mine & truth[row.image_id]).sum() / (mine | truth[row.image_id]).sum()
            assert found == pytest.approx(expected, abs=0.02 if kind == "segm" else 1e-6)
    capsys.readouterr()  # the evaluator prints
    other = rows.assign(image_id="77")
    with pytest.raises(ValueError, match="3 of 3 rows are of images"):
        coco.results(other, "center")


def test_summary(resnet, examples):
    rows = gs.evaluate(resnet, examples, ["center", "gradcam"])
    table = gs.summarize(rows).set_index("method")
    assert table.index.tolist() == ["center", "gradcam"]
    assert table["pairs"].tolist() == [4, 4]
    assert table["errors"].tolist() == [2, 2]
    mine = rows[rows["method"] == "center"]
    assert table.loc["center", "hits"] == np.mean(mine["hit"])
    assert table.loc["center", "median IoU"] == np.median(mine["iou"])


def test_known_examples(resnet, examples):
    closed = gs.Model(resnet.network, resnet.tokenizer, vocabulary=["cat"])
    assert [e.image_id for e in gs.known_examples(closed, examples[:3])] == ["1", "2"]
    assert list(gs.known_examples(resnet, examples[:3])) == examples[:3]


@pytest.fixture
def saved(tmp_path):
    """A tiny CLIP as a folder, which workers load by its name."""
    import torch
    from conftest import TEXT, VISION, tiny_clip

    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {"embed_dim": 24, "vision_cfg": VISION["resnet"], "text_cfg": TEXT}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    torch.save(tiny_clip("resnet").network.state_dict(), folder / "model.bin")
    return folder


METHODS = ["gradcam", "gscorecam", "center"]


def test_dask_equals_the_plain_loop(saved, examples, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
        distributed.Client(c) as client,
    ):
        rows = gs.evaluate_shards(
            client.get_executor(), str(saved), examples, METHODS, tmp_path / "out", shards=3, k=2
        )
    alike(rows, gs.evaluate(gs.load_model(saved), examples, METHODS, k=2))


def test_submitit_equals_the_plain_loop(saved, examples, tmp_path):
    submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
    executor = submitit.AutoExecutor(tmp_path / "log", cluster="local")
    executor.update_parameters(timeout_min=5)
    rows = gs.evaluate_shards(
        executor, str(saved), examples, METHODS, tmp_path / "out", shards=2, k=2
    )
    alike(rows, gs.evaluate(gs.load_model(saved), examples, METHODS, k=2))


def test_threads_of_one_worker_take_turns(saved, many, tmp_path):
    """Two threads share a model, whose hooks would otherwise catch each other's outputs."""
    runner._loaded.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        rows = gs.evaluate_shards(
            pool, str(saved), many, METHODS, tmp_path / "out", shards=6, k=2, preset="paper"
        )
    expected = gs.evaluate(gs.load_model(saved), many, METHODS, k=2, preset="paper")
    alike(rows, expected)
    assert rows["error"].isna().all()


def test_a_failed_shard_raises_and_keeps_the_rest(saved, examples, tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="No model 'nowhere'"):
        gs.evaluate_shards(pool, "nowhere", examples, ["center"], tmp_path, shards=2)


def test_photos_in_memory_are_told_apart_and_files_read_once(tmp_path, monkeypatch):
    """Pixels make the difference between arrays; questions that follow each other share a file."""
    from gscam_lib.datasets import example
    from gscam_lib.evaluation.questions import tabulate

    grey, other = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    other[0] = 9
    images = [grey, other, other, Image.fromarray(grey), Image.fromarray(other)]
    asked = [gs.Example(image, "a cat", ((0, 0, 1, 1),), "cat", str(i), "mine")
             for i, image in enumerate(images)]  # fmt: skip
    told = tabulate(asked)["question"].to_pylist()
    assert told == [one.fingerprint().hex() for one in asked]
    assert asked[0].photo != asked[1].photo == asked[2].photo

    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file, image in zip(files, (grey, other), strict=True):
        Image.fromarray(image).save(file)
    read, reader = [], example._bytes_of
    monkeypatch.setattr(example, "_bytes_of", lambda path: read.append(path) or reader(path))
    asked = [gs.Example(file, name, ((0, 0, 1, 1),), name, file.stem, "mine")
             for file in files for name in ("a cat", "a dog")]  # fmt: skip
    told = tabulate(asked)["question"].to_pylist()
    assert read == files
    assert told == [one.fingerprint().hex() for one in asked]
