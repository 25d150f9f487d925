"""audits/: planted shortcuts are found and others not; wrong tables; resumed runs; the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from chromium import launched
from PIL import Image
from typer.testing import CliRunner

import gscam_lib as gs
from data.build.browser.bundle import LANGUAGES
from gscam_lib.audits import copies, cost, evidence, groups, leaderboard, regions, truth
from gscam_lib.audits.looking import look
from gscam_lib.audits.photos import Collection, collect
from gscam_lib.audits.run import _asked
from gscam_lib.cli import app
from gscam_lib.evaluation.statistics import holm
from gscam_lib.explorer import bias_lab
from gscam_lib.explorer.controls import texts
from gscam_lib.model.photo import load_photo
from gscam_lib.scenes import shortcuts
from gscam_lib.trace import Model, Trace

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"method": "gradcam", "fills": ["mean"], "stability": 2}
LISTED = json.loads((ROOT / "data/scenes/biases/instances.json").read_text())
MARKS = {i["file_name"]: i["watermark"] for i in LISTED["images"] if i["watermark"]}


@pytest.fixture(scope="module")
def model():
    return gs.load_model("mini-rn")


@pytest.fixture(scope="module")
def horses(model):
    """24 scenes in pairs, with the watermark and without, audited for two names."""
    pairs = [p for p in gs.scenes.pairs("biases") if p.asked == "horse"][::3][:12]
    files = [f for p in pairs for f in (p.with_cue, p.without_cue)]
    table = pd.DataFrame(
        {"file": [f.name for f in files], "mark": ["yes", "no"] * 12,
         "half": np.random.default_rng(1).permutation(["a", "b"] * 12),
         "<script>alert(1)</script>": ["x & y", "<i>z</i>"] * 12}
    )  # fmt: skip
    boxes = {f.name: _corners(MARKS[f.name]) for f in files if f.name in MARKS}
    found = gs.audit(
        model, files, ["horse", "cat"], table, regions={"watermark": boxes},
        contrasts=[("horse", "cat")], **QUICK,
    )  # fmt: skip
    return found


def _corners(box):
    x, y, w, h = box
    return x, y, x + w, y + h


def test_what_training_planted_is_found_and_the_rest_is_not(horses):
    found = horses.suspects
    mark = found[found["suspect"] == "watermark"].set_index("prompt")
    assert mark.loc["horse", "found"]
    assert mark.loc["horse", "low"] > 2  # the card of mini-rn: 2.6 to 4 units of the logit
    assert not mark.loc["cat", "found"]
    assert not found[found["suspect"].str.startswith("half")]["found"].any()
    assert {"prompt", "suspect", "effect", "low", "high", "p", "found"} <= set(found)
    assert found["found"].dtype == bool


def test_between_groups(horses):
    table = horses.groups
    wanted = {"prompt", "measure", "group", "other", "difference", "low", "high", "p", "decided"}
    assert wanted <= set(table)
    row = table[(table["prompt"] == "horse") & (table["measure"] == "score")]
    scores = horses.rows[horses.rows["prompt"] == "horse"].groupby("mark")["score"].mean()
    mark = row[row["column"] == "mark"].iloc[0]
    assert mark["difference"] == pytest.approx(scores["yes"] - scores["no"], abs=1e-5)
    assert not table[table["column"] == "half"]["decided"].any()
    assert {"score", "probability", "rank", "cover", "alone", "heat on watermark"} == set(
        table["measure"]
    )


def test_pairs_decide_what_single_photos_do_not(horses):
    whole = horses.collection
    table = whole.groups[["mark"]].assign(pair=np.repeat(np.arange(12), 2))
    rng = np.random.default_rng(0)  # pairs differ much, the two of a pair little
    score = {("horse", "score"): np.repeat(rng.normal(0, 5, 12), 2) + [0.5, 0] * 12}
    score["horse", "score"] += rng.normal(0, 0.1, 24)
    rows = horses.seen.rows
    for given, decided in ((table, True), (table[["mark"]], False)):
        collection = Collection(whole.items, given)
        row = groups.compare(score, collection, rows, samples=2000).iloc[0]
        assert row["photos"] == row["other photos"] == 12
        assert row["paired"] == row["decided"] == decided


def test_suspects_take_pairs_and_copies_of_a_photo_for_what_they_are(horses):
    seen, whole = horses.seen, horses.collection
    mark = whole.groups[["mark"]]
    pairs = mark.assign(pair=np.repeat(np.arange(12), 2))
    p = {}
    for name, table in (("pairs", pairs), ("single", mark)):
        rows = evidence.suspects(seen, 0, Collection(whole.items, table))
        p[name] = {row["suspect"]: row for row in rows}
    row = p["pairs"]["mark = yes"]
    gap = seen.scores[::2] - seen.scores[1::2]  # plain: with the mark less without, pair by pair
    assert row["photos"] == 12
    assert row["effect"] == pytest.approx((gap[:, 0] - gap[:, seen.controls].mean(1)).mean(), 1e-4)
    assert row["p photos"] <= p["single"]["mark = yes"]["p photos"]
    assert row["high"] - row["low"] < 0.7 * np.ptp(
        [p["single"]["mark = yes"][end] for end in ("low", "high")]
    )
    six = mark.assign(unit=np.repeat(np.arange(6), 4))  # four copies each are no four photos
    few, many = (evidence.suspects(seen, 0, Collection(whole.items, t))[0] for t in (six, mark))
    assert (few["suspect"], few["photos"], many["photos"]) == ("watermark", 6, 12)
    assert few["effect"] == pytest.approx(many["effect"])
    assert few["p photos"] > many["p photos"]


def test_a_word_among_others_keeps_its_level():
    rng = np.random.default_rng(0)
    drawn = rng.normal(1, 2, (20_000, 33))
    p = np.array([evidence.among(x, 0, np.arange(1, 33)) for x in drawn])
    for tests in (1, 15):  # one side of two counts, so half of the level
        level = 0.05 / tests
        assert (p < level).mean() == pytest.approx(level / 2, rel=0.35)
        above = (drawn[:, 0] - drawn[:, 1:].mean(1)) / drawn[:, 1:].std(1, ddof=1)
        assert ((p < level) == (above > evidence.needed(tests, 32))).all()
    assert np.isnan(evidence.among(np.zeros(4), 0, np.arange(1, 4)))


def test_difference_is_that_of_plain_loops():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2)) + np.array([0, 1])
    inside = np.arange(30) < 12
    values[inside, 1] += 3
    found = groups.difference(values, inside, ~inside, samples=400)
    for k in range(2):
        a, b = values[inside, k], values[~inside, k]
        gap = a.mean() - b.mean()
        assert found["difference"][k] == pytest.approx(gap)
        assert found["d"][k] == pytest.approx(gap / values[:, k].std())
        shuffled = np.array([_shuffled(values[:, k], 12, i) for i in range(400)])
        p = (1 + (np.abs(shuffled) >= abs(gap)).sum()) / 401
        assert found["p"][k] == pytest.approx(p, abs=0.08)
    assert found["low"][1] > 2 > 0 > found["low"][0]


def _shuffled(values, n, seed):
    drawn = np.random.default_rng(seed).permutation(values)
    return drawn[:n].mean() - drawn[n:].mean()


def test_units_are_averaged_and_skew_is_geyiks():
    table = pd.DataFrame({"g": ["a", "a", "a", "b"], "unit": ["x", "x", "y", "z"]})
    inside = (table["g"] == "a").to_numpy()
    values, within, outside = groups._by_unit(np.array([1.0, 3, 5, 7]), inside, ~inside, table)
    assert sorted(zip(values, within, strict=True)) == [(2, True), (5, True), (7, False)]
    assert outside.sum() == 1
    of = np.array([[1, 0]] * 5 + [[0, 1]] * 15, float)
    scores = np.arange(20, 0, -1.0)  # all of the first group at the top
    assert groups._skew(of, scores, 5)[0] == pytest.approx(np.log(1 / 0.25))


def test_suspects_need_five_photos_and_agreeing_fills():
    row = dict.fromkeys(evidence.SUSPECTS) | {
        "prompt": "p", "suspect": "s", "kind": "region", "photos": 9, "effect": 1.0, "low": 0.5,
        "high": 1.5, "p photos": 0.001, "p words": 0.001, "p": 0.001, "fills": "", "words": "",
    }  # fmt: skip
    bad = [{"photos": 4}, {"fills": "mean +1.00, blur −0.10"}, {"low": -0.1}, {"p": 0.06}]
    rows = [row, *(row | change for change in bad)]
    table = evidence.decide(rows)
    assert table["found"].tolist() == [True, False, False, False, False]
    tested = table["photos"] >= 5
    assert np.allclose(table["p (Holm)"][tested], holm([0.001, 0.001, 0.001, 0.06]))


def test_windows_are_equally_large_and_have_controls():
    masks = copies.window_masks(200, 300)
    assert np.allclose(masks.mean((1, 2)), 0.117, atol=0.004)
    weights = copies.apart()
    assert np.allclose(weights.sum(1), 1)
    for window, row in zip(masks, weights, strict=True):
        assert not any((window & masks[other]).any() for other in np.flatnonzero(row))


@pytest.mark.parametrize("how", copies.FILLS)
def test_covers_change_the_part_and_nothing_else(how):
    photo = np.random.default_rng(0).integers(0, 255, (40, 70, 3), dtype=np.uint8)
    mask = np.zeros(photo.shape[:2], bool)
    mask[10:30, 20:50] = True
    (cover,) = copies.covered(photo, [mask], how)
    assert (cover[~mask] == photo[~mask]).all()
    assert cover[mask].std(0).mean() < photo[mask].std(0).mean()


def test_elsewhere_keeps_the_shape():
    mask = np.zeros((40, 60), bool)
    mask[0:10, 0:15] = True
    others = copies.elsewhere(mask, 5)
    assert len(others) == 5
    assert all(other.sum() == mask.sum() and not (other & mask).any() for other in others)
    assert copies.elsewhere(np.ones((10, 10), bool), 3) == []


# ---------------------------------------------------------------- what readers give


@pytest.fixture
def folder(tmp_path, photo):
    for name in ("one/a.png", "one/b.png", "two/c.png", "two/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    return tmp_path / "photos"


def test_folders_are_groups_and_tables_are_read(folder, tmp_path):
    found = collect(folder)
    assert found.groups["folder"].tolist() == ["one", "one", "two", "two"]
    names = [item.name for item in found.items]
    table = pd.DataFrame({"file": names, "age": [1, 1, 2, 2], "who": list("xxyy")})
    table.to_parquet(tmp_path / "g.parquet")
    table.to_csv(tmp_path / "g.csv", index=False)
    for form in (table, table.set_index("file"), tmp_path / "g.parquet", tmp_path / "g.csv"):
        assert collect(folder, form).columns == ["folder", "age", "who"]
    table.to_csv(folder / "all.csv", index=False)
    assert collect(folder / "all.csv").columns == ["age", "who"]
    coco = collect(ROOT / "data/scenes/parts/instances.json")
    assert len(coco.items) == 102
    assert coco.items[0].regions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file,g\none/a.png,x\nmissing.png,x\n",
            "names 1 photo that is not among the 4 given: 'missing.png'",
        ),
        (
            b"file,g\none/a.png,x\none/b.png,x\ntwo/c.png,y\n",
            "In column 'g' stand groups of one photo: 'y'",
        ),
        (b"name,g\none/a.png,x\n", "no column that says which photo.*its columns: name, g"),
        (b"file,g\none/a.png,x\none/a.png,y\n", "csv: 'one/a.png' more than once"),
        ("file,g\none/a.png,größe\n".encode("latin-1"), "not UTF-8"),
        (b"file\none/a.png\n", "no column of groups"),
        (b"file,pair\none/a.png,1\none/b.png,2\n", "Pairs are two photos each"),
    ],
)
def test_wrong_groups_are_one_clear_sentence(folder, tmp_path, content, message):
    (tmp_path / "g.csv").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        collect(folder, tmp_path / "g.csv")


def test_wrong_photos_are_one_clear_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"2 photos that are not there.*x\.png"):
        collect([folder / "x.png", folder / "y.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No photos in"):
        collect(tmp_path / "empty")
    (tmp_path / "t.csv").write_text("file\n../../etc/passwd\n")
    with pytest.raises(ValueError, match="outside its folder"):
        collect(tmp_path / "t.csv")


def test_a_table_cannot_leave_its_folder(folder, tmp_path, monkeypatch, photo):
    Image.fromarray(photo).save(tmp_path / "secret.png")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("../secret.png", str(tmp_path / "secret.png"), "~/secret.png"):
        Path("t.csv").write_text(f"file\none/a.png\n{name}\n")
        for table in ("t.csv", folder / "t.csv"):
            with pytest.raises(ValueError, match="outside its folder"):
                collect(table)
    assert len(collect(pd.DataFrame({"file": ["one/a.png", "~/secret.png"]})).items) == 2


def test_what_a_folder_passes_over_is_said(folder, tmp_path):
    picture = (folder / "one" / "a.png").read_bytes()
    for name in ("one/x.heic", "y.HEIF", "one/._a.png", "__MACOSX/one/a.png", "two/e.jfif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture)
    (folder / "linked").symlink_to(folder / "one")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    bad = os.fsencode(folder) + b"/two/bad\xff.png"
    Path(os.fsdecode(bad)).write_bytes(picture)
    for name in ("suspects.png", "suspects.pdf", "suspects.csv", "rows.csv"):
        (folder / "audit" / name).parent.mkdir(exist_ok=True)
        (folder / "audit" / name).write_bytes(picture)
    found = collect(folder)
    names = [item.name for item in found.items]
    assert names == ["one/a.png", "one/b.png", "two/bad\\udcff.png", "two/c.png", "two/d.png",
                     "two/e.jfif"]  # fmt: skip
    assert set(found.groups["folder"]) == {"one", "two"}
    notes = "\n".join(found.notes)
    assert (
        "2 passed over in photos, in formats that not every computer opens: 'one/x.heic'" in notes
    )
    assert "2 passed over in photos, links to folders, or to nothing: 'gone.png', 'linked'" in notes
    assert "1 passed over in photos, figures of an audit's report: 'audit/suspects.png'" in notes
    assert "5 of 6 photos are copies of others" in notes
    whole = pd.DataFrame({"file": names, "unit": "x"})
    assert "copies" not in " ".join(collect(folder, whole).notes)


def test_tables_that_cannot_be_joined(folder, tmp_path):
    names = [item.name for item in collect(folder).items]
    table = pd.DataFrame({"file": names, "folder": list("xyxy")})
    with pytest.raises(ValueError, match="'folder', which the photos bring already"):
        collect(folder, table)
    with pytest.raises(ValueError, match="several columns called 'g'"):
        collect(folder, pd.DataFrame([[n, 1, 2] for n in names], columns=["file", "g", "g"]))
    with pytest.raises(ValueError, match="'prompt', as a column of the audit's own tables"):
        collect(folder, pd.DataFrame({"file": names, "prompt": list("xyxy")}))
    both = pd.DataFrame({"file": names, "g": list("xyxy")}, index=names)
    assert collect(folder, both).columns == ["folder", "g"]
    for wrong in (dict.fromkeys(names, 1), pd.Series(1, names)):
        with pytest.raises(ValueError, match="as a table; expected a CSV"):
            collect(folder, wrong)


def _coco(path, files, size, box, bare=()):
    images = [{"id": i, "file_name": f, "width": size[0], "height": size[1]}
              for i, f in enumerate([*files, *bare])]  # fmt: skip
    things = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in range(len(files))]
    about = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "r"}]}
    path.write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_of_a_coco_file_turn_with_their_photo(tmp_path, orientation):
    stored = np.zeros((60, 80, 3), np.uint8)
    stored[8:24, 16:48] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "p.jpg", exif=exif, quality=100)
    upright = load_photo(tmp_path / "p.jpg")
    box, size = [16, 8, 32, 16], (80, 60)
    if orientation in (2, 3, 4):  # a size that tells nothing: truth is of the photo as it is seen
        y, x = np.nonzero(np.asarray(upright)[..., 0] > 127)
        box = [int(x.min()), int(y.min()), 32, 16]
    file = _coco(tmp_path / "i.json", ["p.jpg"], size, box)
    found = (collect(file).items[0].regions["r"],
             regions.read_regions(file, {"p.jpg": tmp_path / "p.jpg"})["p.jpg"]["r"])  # fmt: skip
    for region in found:
        assert (region.mask(upright) == (np.asarray(upright)[..., 0] > 127)).all()
    other = collect(_coco(tmp_path / "o.json", ["p.jpg"], (800, 600), box)).items[0]
    with pytest.raises(ValueError, match=r"truth is of 800 × 600 pixels.*resized by 0\.1"):
        other.regions["r"].mask(upright)


def test_an_outline_of_another_shape_is_refused():
    example = gs.Example(Image.new("RGB", (9, 6)), "r", ((0, 0, 3, 3),), "r", "1", "s",
                         mask=np.ones((3, 3), bool))  # fmt: skip
    with pytest.raises(ValueError, match="3 × 3 pixels on a photo of 9 × 6"):
        regions.from_example(example).mask(example.image)


def test_images_without_annotation_are_photos(folder):
    file = _coco(folder / "i.json", ["one/a.png"], (64, 64), [1, 1, 5, 5], ["one/b.png", "no.png"])
    found = collect(file)
    assert [(item.name, list(item.regions)) for item in found.items] == [
        ("one/a.png", ["r"]), ("one/b.png", []),
    ]  # fmt: skip
    assert "1 of 3 images have no annotation and are not there" in " ".join(found.notes)
    things = json.loads(file.read_text())
    things["annotations"].append({"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0]})
    file.write_text(json.dumps(things))
    assert "boxes without area: annotations[1]" in " ".join(collect(file).notes)


def test_files_of_one_name_are_not_mixed_up(folder, tmp_path):
    photos = {f"{where}/0.jpg": tmp_path / where / "0.jpg" for where in "ab"}
    photos["a/1.jpg"] = tmp_path / "a/1.jpg"
    box = ((80, 60), [0, 0, 9, 9])
    notes = []
    file = _coco(tmp_path / "i.json", ["a/0.jpg", "1.jpg", "c/0.jpg"], *box)
    assert list(regions.read_regions(file, photos, notes)) == ["a/0.jpg", "a/1.jpg"]
    assert "1 of 3 images are none of the photos, so their regions are left out: 'c/0" in notes[0]
    for given, message in (
        (["0.jpg"], "'0.jpg' may be 'a/0.jpg', 'b/0.jpg'"),
        (["c/0.jpg"], "none of them among the photos: 'c/0.jpg'"),
        (["x/a/0.jpg", "y/a/0.jpg"], "may all be 'a/0.jpg'"),
    ):
        with pytest.raises(ValueError, match=message):
            regions.read_regions(_coco(tmp_path / "i.json", given, *box), photos)
    file = _coco(tmp_path / "i.json", ["a/0.jpg", "b/0.jpg"], *box)  # called 0.jpg, and b's
    assert len(regions.read_regions(file, {"0.jpg": tmp_path / "b" / "0.jpg"})) == 1
    (tmp_path / "m").mkdir()
    Image.new("1", (80, 60), 1).save(tmp_path / "m" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png may be of 'a/0.jpg', 'b/0.jpg'"):
        regions.read_regions({"r": tmp_path / "m"}, photos)
    for where in "ab":  # photos of one name in a list are called by their whole paths
        (tmp_path / "m" / where).mkdir()
        Image.new("1", (80, 60), where == "a").save(tmp_path / "m" / where / "0.png")
    paths = [folder / "one" / "a.png", *(tmp_path / "set" / where / "0.png" for where in "ab")]
    for path in paths[1:]:
        path.parent.mkdir(parents=True)
        Image.new("L", (80, 60), 200).save(path)
    masks = [
        item.regions["r"].mask(Image.open(item.image)).all()
        for item in collect(paths, None, {"r": tmp_path / "m"}).items[1:]
    ]
    assert masks == [True, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.nan, 0, 5, 5], r"box \(nan, 0, 5, 5\) of the region 'r' of a.png is not finite"),
        ([0, 0, np.inf, 5], "is not finite"),
        ([30, 30, 10, 40], r"\(30, 30, 10, 40\) of the region 'r' of a.png has no area"),
        ([0.1, 0.1, 0.5, 0.5], "a.png is in shares of the photo"),
        (None, "Got None .* for the region 'r' of a.png"),
        ([[99, 0, 120, 9]], r"box \(99.0, 0.0, 120.0, 9.0\) of 'r' has no area inside the photo"),
    ],
)
def test_boxes_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        regions.read_regions({"r": {"a.png": given}}, ["a.png"])["a.png"]["r"].mask(
            Image.new("RGB", (80, 60))
        )


def test_masks_of_every_kind(tmp_path):
    wanted = np.zeros((6, 8), bool)
    wanted[2:4, 1:5] = True
    clear = np.zeros((6, 8, 4), np.uint8)
    clear[..., 3] = 255 * wanted
    whole = np.dstack([np.repeat(255 * wanted[..., None], 3, 2), np.full((6, 8), 255)])
    one = wanted.astype(np.uint8)
    for content in (
        255 * one,
        one,
        wanted,
        clear,
        whole.astype(np.uint8),
        65535 * one.astype("<u2"),
    ):
        Image.fromarray(content).save(tmp_path / "a.png")
        region = regions.read_regions({"r": tmp_path}, ["a.jpg"])["a.jpg"]["r"]
        assert (region.mask(Image.new("RGB", (8, 6))) == wanted).all()
    Image.fromarray(one + np.eye(6, 8, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="the values 0, 1, 2"):
        region.mask(Image.new("RGB", (8, 6)))


def test_regions_of_all_forms_are_the_same(folder, tmp_path, photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[5:15, 10:30] = True
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    pd.DataFrame({"file": ["one/a.png"], "x0": [10], "y0": [5], "x1": [30], "y1": [15]}).to_csv(
        tmp_path / "boxes.csv", index=False
    )
    runs = np.flatnonzero(np.diff(np.r_[0, mask.ravel(order="F"), 1 - mask[-1, -1]]))
    counts = np.diff(np.r_[0, runs, mask.size]).tolist()
    forms = [
        {"one/a.png": (10, 5, 30, 15)}, {"one/a.png": [[10, 5, 30, 15]]}, {"one/a.png": mask},
        {"one/a.png": {"size": list(mask.shape), "counts": counts}},
        tmp_path / "masks", tmp_path / "boxes.csv",
    ]  # fmt: skip
    for form in forms:
        found = regions.read_regions({"r": form}, ["one/a.png", "two/c.png"])
        assert list(found) == ["one/a.png"]
        assert (found["one/a.png"]["r"].mask(Image.fromarray(photo)) == mask).all()
    with pytest.raises(ValueError, match="not among those given"):
        regions.read_regions({"r": {"z.png": (0, 0, 1, 1)}}, ["a.png"])


def test_a_face_is_found():
    from skimage import data

    mask = regions.find_faces(Image.fromarray(data.astronaut()))
    assert mask[100, 225]  # her nose
    assert mask.mean() < 0.3


def test_people_need_another_model(model, folder):
    about = (model, ["a cat", "a doctor"], (), "gradcam", ["mean"], 3, None, 2, None, 4)
    with pytest.warns(gs.UnknownPromptWarning, match="never taught “a doctor”"):
        asked, notes = _asked(*about)
    assert asked.prompts == ["a cat"]
    assert "RN50x16" in notes[0]
    with (
        pytest.warns(gs.UnknownPromptWarning),
        pytest.raises(ValueError, match="never taught “a doctor”"),
    ):
        gs.audit(model, folder, ["a doctor"], **QUICK)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        *(({"maps": n}, "Got maps=") for n in (0, -1, 1.5, "5")),
        ({"stability": -3}, "Got stability=-3; expected a whole number from 0"),
        *(({"controls": n}, "Got controls=") for n in (-2, True, 1.5)),
        ({"method": "gscorecam:k=99999"}, "Got k=99999; expected a whole number of channels"),
        ({"prompts": ["a cat", "a cat "]}, "several prompts called 'a cat'"),
        ({"fills": ["mean", "mean"]}, "each once"),
        ({"vocabulary": "cupdog"}, "Got vocabulary='cupdog'; expected a list of words"),
    ],
)
def test_wrong_settings_are_refused_before_a_photo_is_scored(
    resnet, folder, monkeypatch, how, message
):
    monkeypatch.setattr("gscam_lib.audits.run.look", lambda *_: pytest.fail("a photo was scored"))
    with pytest.raises(ValueError, match=message):
        gs.audit(resnet, folder, **{"prompts": ["a cat"], **QUICK, **how})


# ---------------------------------------------------------------- runs


KILLED = """
import sys, gscam_lib as gs
from conftest import tiny_clip
from gscam_lib.evaluation import rows
rows.SECONDS = 0.0  # every photo is a part
gs.audit(tiny_clip("resnet"), sys.argv[1], ["horse"], out=sys.argv[2], controls=5,
         method="gradcam", fills=["mean"], stability=2)
"""


def test_a_killed_run_goes_on_and_is_that_of_an_undisturbed_one(resnet, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for pair in gs.scenes.pairs("biases")[:6]:
        (photos / pair.with_cue.name).write_bytes(pair.with_cue.read_bytes())
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(photos), str(out)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    while process.poll() is None and len(list(out.glob("part-*.parquet"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name for path in out.glob("part-*.parquet")}
    how = {"controls": 5, **QUICK}
    found = gs.audit(resnet, photos, ["horse"], out=out, **how)
    assert kept <= {path.name for path in out.glob("part-*.parquet")}
    parts = [pq.read_table(path)["photo"].to_pylist() for path in out.glob("part-*.parquet")]
    measured = sorted(name for part in parts for name in part)
    assert measured == sorted(p.name for p in photos.iterdir())  # none twice, none lost
    pd.testing.assert_frame_equal(found.rows, gs.audit(resnet, photos, ["horse"], **how).rows)
    with pytest.raises(ValueError, match="holds another run"):
        gs.audit(resnet, photos, ["cat"], out=out, **how)


def test_scores_of_all_and_maps_of_some(resnet, folder):
    table = pd.DataFrame({"file": ["one/a.png", "one/b.png", "two/c.png", "two/d.png"],
                          "g": list("xxyy")})  # fmt: skip
    whole, part = (
        gs.audit(
            resnet, folder, ["a cat"], table, controls=3, maps=maps, **QUICK | {"method": "center"}
        )
        for maps in (None, 2)
    )
    assert part.seen.mapped.tolist() == [0, 3]
    assert np.allclose(whole.rows["score"], part.rows["score"])
    covers = part.rows["cover"].to_numpy()
    assert np.isnan(covers).tolist() == [False, True, True, False]
    assert np.allclose(covers[[0, 3]], whole.rows["cover"].to_numpy()[[0, 3]])


def test_the_cost_counts_every_kind_of_pass(resnet, folder, monkeypatch):
    """With a clock that ticks once for each picture in the tower, minutes are what is used."""
    ticks = [0.0]
    for name in ("embed_copies", "embed_activations"):
        own = getattr(Trace, name)

        def counted(trace, make, count, *, own=own, **how):
            ticks[0] += count
            return own(trace, make, count, **how)

        monkeypatch.setattr(Trace, name, counted)
    traced = Model.trace

    def trace(model, *given, **how):
        ticks[0] += 1
        return traced(model, *given, **how)

    monkeypatch.setattr(Model, "trace", trace)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: ticks[0])
    photos = collect(folder, None, {"spot": {"one/a.png": (2, 2, 20, 20)}})
    asked, _ = _asked(resnet, ["cat", "dog"], (), "gscorecam:k=3", ["mean"], 3, None, 2, 3, 4)
    said = 60 * cost.minutes(resnet, asked, photos.items, range(4))
    ticks[0] = 0
    for i, item in enumerate(photos.items):
        look(resnet, item, i, asked)
    assert ticks[0] > 3 * 2 * copies.WINDOWS  # three photos: covered once, and cut out
    assert said == pytest.approx(ticks[0], rel=0.03)


def test_a_broken_photo_is_a_note(resnet, folder):
    (folder / "one" / "broken.png").write_bytes(b"no picture")
    found = gs.audit(resnet, folder, ["a cat"], controls=3, **QUICK)
    assert len(found.seen.names) == 4
    assert "one/broken.png" in " ".join(found.notes)
    (folder / "one" / "a.png").write_bytes(b"no picture")  # the first, whose time would be taken
    gs.audit(resnet, folder, ["a cat"], controls=3, progress=True, **QUICK)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"first failed with: one/a\.png: .* cannot be read"):
        gs.audit(resnet, folder, ["a cat"], controls=3, **QUICK)


def test_regions_without_a_pixel_are_a_note(resnet, folder):
    given = {"one/a.png": (2, 2, 20, 20), "two/c.png": (5.1, 5.1, 5.3, 5.3)}
    how = {"controls": 3, **QUICK, "method": "center"}
    found = gs.audit(resnet, folder, ["a cat"], regions={"r": given}, **how)
    assert found.seen.regions["r"].photos.tolist() == [0]
    assert "“r” has no pixel in what the model sees of 1 photos" in " ".join(found.notes)
    assert "'two/c.png'" in " ".join(found.notes)


# ---------------------------------------------------------------- the report


def test_the_report_escapes_names_and_shows_photos_only_if_asked(horses, tmp_path):
    page = horses.report(tmp_path / "r.html", beside=True).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "data:image/jpeg" not in page
    assert {"r.md", "suspects.csv", "groups.csv", "rows.csv", "suspects.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    text = (tmp_path / "r.md").read_text()
    assert "\\<script\\>" in text
    assert "<script" not in text.replace("\\<", "")
    assert "<i>" not in text.replace("\\<", "")
    shown = horses.report(tmp_path / "p.html", photos=True, blur_faces=True).read_text()
    assert "data:image/jpeg" in shown
    assert "It misses turned and small faces" in shown
    with pytest.raises(ValueError, match=r"ends in \.html"):
        horses.report(tmp_path / "r.pdf")


def test_the_report_opens_in_a_browser(horses, tmp_path):
    path = horses.report(tmp_path / "r.html", photos=True)
    with launched() as chromium:
        page = chromium.new_page()
        wrong, fetched = [], []
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: fetched.append(r.url) if "data:" not in r.url else None)
        page.goto(path.as_uri())
        assert page.locator("h1").inner_text().startswith("What does mini-rn look at")
        assert page.locator("#found + ul li").first.is_visible()
        assert page.locator("tr.yes td", has_text="watermark").first.is_visible()
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert wrong == []
        assert fetched == [path.as_uri()]


def test_the_command(folder, tmp_path):
    (tmp_path / "g.csv").write_text("file,g\none/a.png,x\none/b.png,x\ntwo/c.png,y\ntwo/d.png,y\n")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app,
        ["audit", str(folder), "a cat", "--groups", str(tmp_path / "g.csv"), "--model", "mini-rn",
         "--out", str(out), "--method", "sobel", "--fills", "mean"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "suspects found" in result.output
    assert "note: 4 photos decide nothing: it takes 5 at least." in result.stderr
    assert (out / "report.html").is_file()
    assert (out / "groups.csv").is_file()
    taken = ["audit", str(folder), "a cat", "--model", "mini-rn", "-o", str(tmp_path / "g.csv")]
    result = CliRunner().invoke(app, taken)
    assert result.exit_code == 1
    assert "g.csv is a file; expected a folder" in result.stderr
    assert "minutes" not in result.output  # nothing was measured
    wrong = CliRunner().invoke(app, ["audit", str(tmp_path / "no"), "a cat", "--out", str(out)])
    assert wrong.exit_code == 1
    assert "error: No file at" in wrong.stderr


# ---------------------------------------------------------------- scenes of the benchmark


def test_cues_go_with_no_other():
    table = pd.DataFrame([cues for _, cues in shortcuts.design(48, 2)]).astype(float)
    apart = table.corr().to_numpy() - np.eye(10)
    grounds = [list(table).index(kind) for kind in ("court", "sea")]
    apart[np.ix_(grounds, grounds)] = 0  # a scene has one ground
    assert np.abs(apart).max() < 0.15


def test_a_scene_shows_its_cues():
    scene = shortcuts.draw("dog", dict.fromkeys(shortcuts.KINDS, True) | {"sea": False}, (3, 1))
    assert set(scene.regions) == set(shortcuts.LOCAL)
    assert np.flatnonzero(scene.thing.any(0)).mean() < shortcuts.SIZE / 2
    plain = shortcuts.draw("dog", dict.fromkeys(shortcuts.KINDS, False), (3, 1))
    assert plain.regions == {}


def test_planting_raises_the_score_by_as_much_as_was_asked(model):
    scenes = shortcuts.pool(96, 5)
    embedded = truth.embeddings(model, scenes, False)
    held_out = np.array_split(np.random.default_rng([0, 12]).permutation(96), 2)[1]
    cue = np.array([scene.cues["court"] for scene in scenes])[held_out]
    for strength in (1.0, 2.0):
        target = truth.plant(model, embedded, scenes, "dog", "court", strength, (0,))
        scores = model.logit_scale * embedded[held_out] @ model.encode_target(target)[0].numpy()
        assert scores[cue].mean() - scores[~cue].mean() == pytest.approx(strength, abs=0.15)
    x = np.random.default_rng(0).normal(size=(400, 3))
    found = truth.direction(x, x[:, 1] > 0, 1.0)
    assert np.abs(found).argmax() == 1
    assert found[1] > 0


def test_an_alarm_is_borne_out_by_scenes_that_say_the_same():
    scenes = shortcuts.pool(64, 7)
    scores = np.random.default_rng(0).normal(size=(64, 20))
    scores[:, 0] += [4 * scene.cues["sea"] - 4 * scene.cues["colour"] for scene in scenes]
    found = truth.borne_out(scores, scenes)  # a scene at sea stands on no other ground
    assert found - {"no court", "no other"} == {"sea", "no colour"}
    scores[:] += [[4.0 * scene.cues["word"]] for scene in scenes]  # every word's: no shortcut
    assert "word" not in truth.borne_out(scores, scenes)


def test_the_leaderboard_counts_worlds(tmp_path):
    about = {"model": "m", "name": "dog", "asked": 9, "pull": 0.5, "others": 0.1, "spread": 0.2,
             "controls": 30, "real": 0}  # fmt: skip
    rows = [
        {**about, "way": way, "kind": kind, "strength": strength, "trained": False,
         "right": bool(kind) and strength > 0.3, "wrong": int(way == "gradcam" and not kind)}
        for way in ("named", "gradcam") for kind in ("sea", "word", "") for strength in (0.2, 0.6)
        if kind or strength == 0.2
    ]  # fmt: skip
    rows.append(rows[0] | {"trained": True, "strength": np.nan, "right": True})
    path = leaderboard.write(pd.DataFrame(rows), tmp_path)
    text = path.read_text()
    assert (tmp_path / "biases.png").is_file()
    table = text.split("false alarms")[1]
    assert "| m       | named" in table
    assert "100 % [34, 100]" in table  # two worlds of two, Wilson
    assert "100 % [21, 100]" in text.split("## No shortcut")[1].split("## By kind")[0]


def test_the_lab_with_widgets(resnet, folder, tmp_path):
    lab = bias_lab(resnet, str(folder), ["a cat"], out=tmp_path / "lab", controls=3,
                   **QUICK | {"method": "center"})  # fmt: skip
    found = lab.wait()
    assert lab.bar.value == lab.bar.max == 4
    assert found.collection.columns == ["folder"]
    lab.photos.value = "no/such/<b>folder</b>"
    lab.start()
    lab._thread.join()
    assert "&lt;b&gt;" in lab.said.value
    with pytest.raises(FileNotFoundError, match="No file at"):
        lab.wait()
    for language in LANGUAGES:  # not a word of it stands in code
        lab, says = bias_lab(resnet, [1, 2], language=language), texts(language)["lab"]
        seen = [part.description for part in (lab.photos, lab.prompts, lab.groups, lab.button)]
        assert seen == [says[name] for name in ("photos", "prompts", "groups", "audit")]
        assert lab.photos.placeholder == says["given"].format(count=2, hint=says["photos_hint"])
