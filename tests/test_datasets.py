"""datasets/: COCO files, whole and broken."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import shared, tiny_clip
from PIL import Image
from pycocotools.coco import COCO

import gscam_lib as gs
from gscam_lib.datasets.outlines import to_rle


@pytest.fixture
def coco(tmp_path):
    """Two photos, two classes, a crowd region, a box without area."""
    for i in (1, 2):
        Image.new("RGB", (60, 40), "grey").save(tmp_path / f"{i}.jpg")
    boxes = [(1, 1, [10, 5, 20, 10]), (1, 1, [30, 5, 4, 4]), (1, 2, [0, 0, 60, 40])]
    boxes += [(2, 1, [1, 1, 5, 5]), (2, 2, [5, 5, 0, 3]), (2, 2, [0, 0, 60, 40])]
    annotations = [
        {"id": i, "image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3]}
        | {"iscrowd": int(i == 5), "segmentation": _outline(*b) if i < 2 else []}
        for i, (image, c, b) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "tennis racket"}],
        "annotations": annotations,
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def _outline(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def test_one_example_for_each_image_and_class(coco):
    data = gs.CocoDataset(coco.parent, coco)
    examples = list(data)
    found = [(e.image_id, e.category, e.prompt, e.boxes) for e in examples]
    assert len(data) == len(found)
    assert found == [
        ("1", "cat", "cat", ((10, 5, 30, 15), (30, 5, 34, 9))),
        ("1", "tennis racket", "tennis racket", ((0, 0, 60, 40),)),
        ("2", "cat", "cat", ((1, 1, 6, 6),)),
    ]
    mask = np.zeros((40, 60), bool)
    mask[5:15, 10:30] = mask[5:9, 30:34] = True
    assert (examples[0].mask == mask).all()
    assert examples[2].mask is None


def test_crowds_and_boxes_without_area_are_left_out(coco):
    content = json.loads(coco.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    coco.write_text(json.dumps(content))
    assert list(gs.CocoDataset(coco.parent, coco)) == []


def test_what_is_not_there_or_not_coco(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder of images"):
        gs.CocoDataset(tmp_path / "none", coco)
    with pytest.raises(FileNotFoundError, match="instances file"):
        gs.CocoDataset(tmp_path, tmp_path / "none.json")
    lists = '{"images": [], "categories": [], "annotations": '
    for text in ("", "{", "[]", "{}", '{"annotations": [{}]}', lists + "[{}]}", lists + "[NaN]}"):
        coco.write_text(text)
        with pytest.raises(ValueError, match="not a COCO instances file") as caught:
            gs.CocoDataset(tmp_path, coco)
        assert str(coco) in str(caught.value)


def test_what_was_left_out_is_counted(coco):
    assert gs.CocoDataset(coco.parent, coco).left_out == {"crowd": 1, "no area": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, r"annotations\[0\] \(id 0, image 99, category 1\)"),
        ({"category_id": 99}, r"annotations\[0\] \(id 0, image 1, category 99\)"),
        ({"bbox": [1, 2, 3]}, r"annotations\[0\].*length 4"),
        ({"bbox": None}, r"annotations\[0\].*got `null`"),
        ({"bbox": [1, 2, 3, 1e999]}, "line 1, near .*Infinity"),
    ],
)
def test_annotations_that_point_nowhere_are_refused(coco, change, message):
    content = json.loads(coco.read_text())
    content["annotations"][0] |= change
    coco.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        gs.CocoDataset(coco.parent, coco)


def test_no_annotations_is_an_empty_data_set(coco, resnet):
    content = json.loads(coco.read_text()) | {"annotations": []}
    coco.write_text(json.dumps(content))
    empty = gs.CocoDataset(coco.parent, coco)
    assert (len(empty), list(empty)) == (0, [])
    rows = gs.evaluate(resnet, empty, ["center"])
    assert len(rows) == 0
    assert gs.summarize(rows).empty


def test_a_missing_photo_is_a_row_with_its_error(coco, resnet):
    (coco.parent / "2.jpg").unlink()
    rows = gs.evaluate(resnet, gs.CocoDataset(coco.parent, coco), ["center"])
    assert rows["error"].notna().tolist() == [False, False, True]
    assert "No photo at" in rows["error"].iloc[2]


def test_masks_in_all_of_cocos_forms_and_decoded_when_asked_for(coco):
    """Polygons, run lengths as a list, and as a string: all as pycocotools decodes them."""
    content = json.loads(coco.read_text())
    polygon = [[3.2, 4.1, 25.0, 6.7, 18.3, 33.9]]
    plain = {"size": [40, 60], "counts": [130, 25, 15, 25, 40 * 60 - 195]}
    y, x = np.mgrid[:40, :60]
    packed = to_rle((x - 40) ** 2 + (y - 20) ** 2 < 90)
    for annotation, form in zip(content["annotations"], (polygon, plain, packed), strict=False):
        annotation["segmentation"] = form
    coco.write_text(json.dumps(content))
    data = gs.CocoDataset(coco.parent, coco)
    cat, racket, _ = data
    reference = COCO(str(coco))
    masks = [reference.annToMask(reference.anns[i]).astype(bool) for i in range(3)]
    assert (cat.mask == (masks[0] | masks[1])).all()
    assert (racket.mask == masks[2]).all()
    asked = pickle.loads(pickle.dumps(cat)).asked("a cat")
    assert (asked.prompt, cat.prompt) == ("a cat", "cat")
    assert (asked.mask == cat.mask).all()
    assert len(pickle.dumps(cat)) < 2000  # 2,400 pixels are not in it
    content["annotations"][2]["segmentation"] = [[1, 2]]
    coco.write_text(json.dumps(content))
    rows = gs.evaluate(tiny_clip("resnet"), gs.CocoDataset(coco.parent, coco), ["center"])
    assert rows["error"].notna().tolist() == [False, True, False]


def test_an_id_twice_is_refused(coco):
    content = json.loads(coco.read_text())
    content["annotations"][1]["id"] = 0
    coco.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotations that share an id"):
        gs.CocoDataset(coco.parent, coco)


def test_lvis_and_partimagenet_forms(tmp_path):
    """LVIS: a URL for a file name, no iscrowd, names with remarks. PartImageNet: capitals."""
    content = {
        "info": {"version": "v1.0"},
        "licenses": [],
        "images": [
            {
                "id": 1,
                "coco_url": "http://images.cocodataset.org/val2017/000000000009.jpg",
                "height": 20,
                "width": 30,
                "license": 3,
                "neg_category_ids": [4],
                "not_exhaustive_category_ids": [],
            }
        ],
        "categories": [
            {"id": 3, "name": "bow_(decorative_ribbons)"},
            {"id": 4, "name": "aerosol_can"},
            {"id": 5, "name": "Quadruped Head"},
        ],
        "annotations": [
            {"id": c, "image_id": 1, "category_id": c, "bbox": [1, 2, 3, 4], "area": 12}
            for c in (3, 4, 5)
        ],
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    examples = list(gs.CocoDataset(tmp_path, path, name="lvis"))
    assert [e.prompt for e in examples] == ["bow", "aerosol can", "quadruped head"]
    assert examples[0].category == "bow_(decorative_ribbons)"
    assert examples[0].image == tmp_path / "val2017" / "000000000009.jpg"
    assert examples[0].source == "lvis"


def test_partimagenet_parts_with_their_masks(tmp_path):
    """Its JSON: ids from 0, file names in synset folders, one annotation for each part."""
    corners = {0: [10, 5, 30, 25], 3: [40, 20, 60, 30]}
    content = {
        "images": [
            {"id": 0, "file_name": "n02100583/n02100583_7814.JPEG", "height": 40, "width": 70}
        ],
        "categories": [
            {"id": i, "name": f"Quadruped {part}", "supercategory": "Quadruped"}
            for i, part in enumerate(("Head", "Body", "Foot", "Tail"))
        ],
        "annotations": [
            {
                "id": i, "image_id": 0, "category_id": c, "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": float((x1 - x0) * (y1 - y0)),
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
            for i, (c, (x0, y0, x1, y1)) in enumerate(corners.items())
        ],
    }  # fmt: skip
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    head, tail = gs.datasets.read("partimagenet", tmp_path, path)
    assert (head.prompt, tail.prompt) == ("quadruped head", "quadruped tail")
    assert head.image == tmp_path / "n02100583" / "n02100583_7814.JPEG"
    assert head.boxes == ((10, 5, 30, 25),)
    expected = np.zeros((40, 70), bool)
    expected[20:30, 40:60] = True
    assert (tail.mask == expected).all()


def test_csv_rows_of_one_question_are_one_example(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(
        "file,prompt,x0,y0,x1,y1\na.jpg,a cat,1,2,3,4\na.jpg,a cat,5,5,9,9\na.jpg,a dog,,,,\n"
    )
    found = gs.datasets.read_csv(tmp_path, table)
    assert [(e.prompt, e.boxes) for e in found] == [
        ("a cat", ((1, 2, 3, 4), (5, 5, 9, 9))),
        ("a dog", ()),
    ]
    table.write_text("file,prompt,x0,y0,x1,y1\na.jpg,a cat,1,2,three,4\n")
    with pytest.raises(ValueError, match=r"a\.jpg.*three"):
        gs.datasets.read_csv(tmp_path, table)
    table.write_text("name,prompt\n")
    with pytest.raises(ValueError, match="expected file too"):
        gs.datasets.read_csv(tmp_path, table)


def test_typographic_folders(tmp_path):
    for name in ("label=dog_text=cat.jpg", "label=teddy bear_text=hot dog_2.png", "other.jpg"):
        (tmp_path / name).touch()
    found = gs.datasets.read_typographic(tmp_path)
    assert [(e.prompt, e.word) for e in found] == [("dog", "cat"), ("teddy bear", "hot dog")]
    (tmp_path / "index.csv").write_text("file,object,written_text\nother.jpg,apple,iPod\n")
    (only,) = gs.datasets.read_typographic(tmp_path)
    assert (only.prompt, only.word, only.image.name) == ("apple", "iPod", "other.jpg")
    assert gs.datasets.read("typographic", tmp_path)[0].word == "iPod"
    with pytest.raises(ValueError, match="No form 'voc'"):
        gs.datasets.read("voc", tmp_path)
    with pytest.raises(ValueError, match="needs its annotations"):
        gs.datasets.read("coco", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="label=OBJECT_text=WORD"):
        gs.datasets.read_typographic(tmp_path / "empty")


def test_the_227_distill_photos():
    found = gs.datasets.read_typographic(shared("typographic", "distill"))
    assert len(found) == 227
    assert all(e.image.is_file() for e in found)
    assert sum(e.word == "" for e in found) == 16


def test_wsol_files(tmp_path):
    (tmp_path / "class_labels.txt").write_text("val2/0/0.jpeg,1\nval2/1/7.jpeg,0\n")
    (tmp_path / "localization.txt").write_text("val2/0/0.jpeg,10,20,29,59\n")
    found = gs.datasets.read_wsol(tmp_path, tmp_path, ["tench", "goldfish"])
    assert [(e.category, e.boxes) for e in found] == [
        ("goldfish", ((10, 20, 30, 60),)),
        ("tench", ()),
    ]
    assert found[0].image == tmp_path / "val2" / "0" / "0.jpeg"
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "0.jpeg").touch()  # as the archive of ImageNet-v2 has it
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764" / "7.jpeg").touch()  # in a folder of its synset
    moved = gs.datasets.read("wsol", tmp_path, tmp_path, class_names=["tench", "goldfish"])
    places = [e.image.relative_to(tmp_path).as_posix() for e in moved]
    assert places == ["0/0.jpeg", "n01440764/7.jpeg"]
    assert [e.image_id for e in moved] == ["val2/0/0.jpeg", "val2/1/7.jpeg"]
    with pytest.raises(FileNotFoundError, match=r"class_names\.txt"):
        gs.datasets.read("wsol", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="label 1; expected 0 to 0"):
        gs.datasets.read_wsol(tmp_path, tmp_path, ["tench"])
    (tmp_path / "localization.txt").write_text("val2/0/0.jpeg,10,20\n")
    with pytest.raises(ValueError, match=r"line 1: got 3 fields, expected 5"):
        gs.datasets.read_wsol(tmp_path, tmp_path, ["tench", "goldfish"])


def test_wsol_names_and_sizes_are_looked_at(tmp_path):
    for file, text in {
        "class_labels.txt": "a.jpg,1\nb.jpg,0\n", "localization.txt": "a.jpg,1,2,3,4\n",
        "image_sizes.txt": "a.jpg,9,9\n", "class_names.txt": "crane\ncrane\n\n",
    }.items():  # fmt: skip
        (tmp_path / file).write_text(text)
    found = gs.datasets.read("wsol", tmp_path, tmp_path)
    assert ["labels of one name" in f.what for f in found.findings] == [False, True]
    for file, text, words in (
        ("image_sizes.txt", "a.jpg,0,0\n", "line 1 .0, 0."),
        ("image_sizes.txt", "a.jpg,9,9\na.jpg,8,9\n", "line 2 .8, 9."),
        ("image_sizes.txt", f"a.jpg,{'9' * 5000},9\n", "line 1"),
        ("class_names.txt", "\ntench\n", "labels without a name: line 1"),
        ("class_labels.txt", f"a.jpg,{'9' * 5000}\n", "line 1"),
    ):
        before = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text)
        with pytest.raises(gs.datasets.DataError, match=words):
            gs.datasets.read("wsol", tmp_path, tmp_path)
        (tmp_path / file).write_text(before)
    (tmp_path / "class_names.txt").write_text("a\u2028b\ntench\n")
    assert [e.prompt for e in gs.datasets.read("wsol", tmp_path, tmp_path)] == ["tench", "a\u2028b"]


def test_real_coco_is_read_whole(capsys):
    path = shared("coco", "instances.json")
    examples = list(gs.CocoDataset(path.parent / "images", path))
    assert capsys.readouterr().out == ""
    reference = COCO(str(path))
    pairs = {(a["image_id"], a["category_id"]) for a in reference.anns.values() if not a["iscrowd"]}
    assert len(examples) == len(pairs)
    count = sum(len(e.boxes) for e in examples)
    assert count == sum(not a["iscrowd"] for a in reference.anns.values())
    for example in examples[:20]:
        assert example.image.is_file()
        x0, y0, x1, y1 = np.array(example.boxes).T
        inside = example.mask[int(y0.min()) : int(y1.max()) + 1, int(x0.min()) : int(x1.max()) + 1]
        assert inside.sum() >= 0.99 * example.mask.sum()


# ---------------------------------------------------------------- identity, and some of a data set


def test_a_fingerprint_changes_with_question_truth_and_photo_and_with_nothing_else(coco):
    def prints(folder=coco.parent):
        return [e.fingerprint() for e in gs.CocoDataset(folder, folder / coco.name)]

    before = prints()
    assert len(set(before)) == 3
    assert {len(p) for p in before} == {16}
    assert before == prints()
    moved = coco.parent.parent / "moved"
    coco.parent.rename(moved)
    assert prints(moved) == before  # names count below the root only
    moved.rename(coco.parent)
    example = gs.CocoDataset(coco.parent, coco)[0]
    assert example.asked("a cat").fingerprint() != before[0]
    content = json.loads(coco.read_text())
    for change in ({"bbox": [10, 5, 20, 11]}, {"segmentation": [[0, 0, 9, 0, 9, 9]]}):
        content["annotations"][0] |= change
        coco.write_text(json.dumps(content))
        after = prints()
        assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, True]
        before = after
    Image.new("RGB", (600, 400), "grey").save(coco.parent / "2.jpg")
    assert [a == b for a, b in zip(prints(), before, strict=True)] == [True, True, False]


def test_fingerprints_of_photos_in_memory():
    photo = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))

    def print_of(image, **about):
        return gs.Example(image, "a", ((0, 0, 2, 2),), "a", "1", "t", **about).fingerprint()

    same = print_of(photo)
    assert print_of(photo.copy()) == same
    mask = np.eye(4, 5, dtype=bool)
    others = [
        print_of(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), print_of(photo.convert("L")),
        print_of(photo, mask=mask), print_of(photo, mask=~mask), print_of(photo, word="a"),
        print_of("nowhere.png"), print_of("nowhere.png", file="here.png"), print_of("\ud800.png"),
    ]  # fmt: skip
    assert len({same, *others}) == 9


def test_a_selection_is_a_view(coco):
    data = gs.CocoDataset(coco.parent, coco)
    some = gs.datasets.Selection(data, [2, 0], ["a cat", "one cat"])
    assert [(e.image_id, e.prompt) for e in some] == [("2", "a cat"), ("1", "one cat")]
    assert [e.prompt for e in some[1:]] == ["one cat"]
    assert (some[-1].prompt, len(some), data[-1].image_id) == ("one cat", 2, "2")
    assert [e.category for e in data[1:]] == ["tennis racket", "cat"]
    assert [e.prompt for e in gs.datasets.Selection(data[1:], range(1))] == ["tennis racket"]
    assert [e.prompt for e in pickle.loads(pickle.dumps(some))] == ["a cat", "one cat"]
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(ValueError, match="1 prompts for 2 examples"):
        gs.datasets.Selection(data, [0, 1], ["a"])


def test_a_file_that_changed_since_it_was_read_gives_no_mask_of_another(coco):
    example = gs.CocoDataset(coco.parent, coco)[0]
    coco.write_text(coco.read_text().replace("30, 5", "31, 5"))
    with pytest.raises(ValueError, match="has changed since it was read"):
        _ = example.mask


def test_files_opened_by_many_threads_leave_print_as_it_was(coco, capsys):
    """Nothing of the whole process is changed, and put back in another order, by reading."""
    before = sys.stdout
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda _: len(gs.CocoDataset(coco.parent, coco)), range(40))
        assert set(read) == {3}
    assert sys.stdout is before
    print("still here")
    assert capsys.readouterr().out == "still here\n"
