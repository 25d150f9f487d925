"""datasets/: COCO files, whole and broken."""

import json

import numpy as np
import pytest
from conftest import shared
from PIL import Image
from pycocotools.coco import COCO

import gscam_lib as gs


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
    for text in ("{", "[]", '{"annotations": [{}]}'):
        coco.write_text(text)
        with pytest.raises(ValueError, match="not a COCO instances file"):
            gs.CocoDataset(tmp_path, coco)


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
