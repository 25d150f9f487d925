"""Readers against odd and broken files: a right answer, or an error of ours that names the value.

Examples are drawn by hypothesis; how many were tried, and what they gave, is printed at the end
(`pytest -s tests/test_readers_fuzz.py`).
"""

import csv
import io
import json
import pickle
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools.coco import COCO

import gscam_lib as gs
from gscam_lib.datasets import DataError, downloads, read_csv, read_typographic, read_wsol
from gscam_lib.datasets.check import check
from gscam_lib.datasets.findings import escapes
from gscam_lib.datasets.outlines import OutlineError, draw, to_rle
from gscam_lib.datasets.outlines import check as check_outline
from gscam_lib.datasets.placement import Header, header, turn_box, turn_mask
from gscam_lib.model.photo import load_photo

TRIED: Counter[tuple[str, str]] = Counter()
WIDTH, HEIGHT = 24, 18
few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
many = settings(few, max_examples=300)

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
numbers = st.floats(-30, 60, allow_nan=False).map(lambda x: round(x, 2))
polygons = st.lists(numbers, min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0)
masks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3
)
outlines = st.one_of(
    st.lists(polygons, min_size=1, max_size=3),
    masks.map(to_rle),
    masks.map(lambda mask: {"size": [HEIGHT, WIDTH], "counts": _runs(mask)}),
)


def _runs(mask):
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


@pytest.fixture(scope="module", autouse=True)
def _say_what_was_tried():
    yield
    for (reader, gave), count in sorted(TRIED.items()):
        print(f"\n{reader}: {count} inputs, {gave}", end="")


def outcome(reader, read, path):
    """Read; the answer, or None where it was refused by an error of ours that names the file."""
    answer, said = None, ""
    try:
        answer = read()
    except ValueError as error:
        said = str(error)
    TRIED[reader, "refused with the file's name" if said else "read"] += 1
    assert path.name in said or not said
    return answer


# ---------------------------------------------------------------- COCO, against pycocotools


@st.composite
def instances(draw):
    """A sound COCO file: ids in any order, crowds, flat boxes, outlines of all forms."""
    ids = st.integers(0, 2**40)
    images = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    names = draw(
        st.lists(
            words.filter(str.strip),
            min_size=len(classes),
            max_size=len(classes),
            unique_by=lambda name: " ".join(name.split()),
        )
    )
    boxes = st.tuples(st.integers(0, 20), st.integers(0, 15), st.integers(0, 9), st.integers(0, 9))
    annotations = [
        {
            "id": i, "image_id": draw(st.sampled_from(images)), "bbox": list(draw(boxes)),
            "category_id": draw(st.sampled_from(classes)), "iscrowd": draw(st.integers(0, 1)),
            "area": 1.0, "segmentation": draw(outlines),
        }
        for i in range(draw(st.integers(0, 8)))
    ]  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in images
        ],
        "categories": [{"id": c, "name": n} for c, n in zip(classes, names, strict=True)],
        "annotations": annotations,
    }


def twin(root, path):
    """Pairs, boxes and masks as pycocotools has them."""
    coco = COCO(str(path))
    found = {}
    for annotation in coco.anns.values():
        x, y, w, h = annotation["bbox"]
        if annotation.get("iscrowd") or w <= 0 or h <= 0:
            continue
        pair = annotation["image_id"], annotation["category_id"]
        boxes, mask = found.setdefault(pair, ([], False))
        boxes.append((x, y, x + w, y + h))
        found[pair] = boxes, mask | (coco.annToMask(annotation) > 0)
    names = {i: c["name"] for i, c in coco.cats.items()}
    return [
        (str(i), names[c], root / coco.imgs[i]["file_name"], *found[i, c]) for i, c in sorted(found)
    ]


def same(data, expected):
    assert len(data) == len(expected)
    for example, (image_id, name, photo, boxes, mask) in zip(data, expected, strict=True):
        assert (example.image_id, example.category, example.image) == (image_id, name, photo)
        assert example.boxes == tuple(boxes)
        assert (example.mask == mask).all()


@few
@given(instances(), st.sampled_from([None, 1, 4]), st.booleans())
def test_coco_reads_as_pycocotools_does(tmp_path, content, indent, marked):
    path = tmp_path / "instances.json"
    text = json.dumps(content, indent=indent).encode()
    path.write_bytes(text)
    expected = twin(tmp_path, path)
    path.write_bytes(b"\xef\xbb\xbf" * marked + text)
    data = gs.CocoDataset(tmp_path, path)
    same(data, expected)
    found = check(data, photos=False)
    assert found[: len(data.findings)] == data.findings
    new = [f.what for f in found[len(data.findings) :]]  # no outline is called faulty
    assert new == ([] if len(data) else ["There is nothing to ask"])
    TRIED["COCO beside pycocotools", "equal"] += 1


def test_real_coco_reads_as_pycocotools_does():
    path = shared("coco", "instances.json")
    same(gs.CocoDataset(path.parent / "images", path), twin(path.parent / "images", path))


# ---------------------------------------------------------------- COCO, broken

odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from([[], {}, "", "../x", "/x", 0, -1, 1e400, 2**63, [[1, 2]], {"counts": "~"}]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def places(content, at=()):
    """All places in a JSON content."""
    yield at
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))
        else:
            yield (*at, key)


def replaced(content, at, value):
    content = json.loads(json.dumps(content))
    inner = content
    if not at:
        return value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return content


def read_coco(tmp_path, path):
    data = gs.CocoDataset(tmp_path, path)
    check(data, photos=False)
    for example in data:
        example.fingerprint()
        assert example.image.is_relative_to(tmp_path)
        assert ".." not in example.image.parts
        for x0, y0, x1, y1 in example.boxes:
            assert x0 < x1
            assert y0 < y1
        mask = outcome("COCO, their masks", lambda e=example: e.mask, path)
        assert mask is None or mask.shape == example.photo_size[::-1]
    return data


@many
@given(st.data())
def test_coco_with_any_value_replaced(tmp_path, data):
    content = data.draw(instances())
    at = data.draw(st.sampled_from(list(places(content))))
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(replaced(content, at, data.draw(odd))))
    outcome("COCO, a value replaced", lambda: read_coco(tmp_path, path), path)


@many
@given(instances(), st.data())
def test_coco_truncated_and_with_bytes_changed(tmp_path, content, data):
    text = bytearray(json.dumps(content).encode())
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if text:
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "instances.json"
    path.write_bytes(text)
    outcome("COCO, bytes changed", lambda: read_coco(tmp_path, path), path)


def test_bytes_that_are_no_text_in_an_outline_are_named(tmp_path):
    """Found by the test above: a changed byte in the run lengths of a small mask."""
    content = {
        "images": [{"id": 0, "file_name": "0.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 0, "name": "0"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 5, 5],
                         "segmentation": {"size": [HEIGHT, WIDTH], "counts": "0~"}}],
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_bytes(json.dumps(content).encode().replace(b"~", b"\x80"))
    data = gs.CocoDataset(tmp_path, path)
    (finding,) = check(data, photos=False)
    assert finding.where.startswith("annotations[0]: its segmentation cannot be read (")
    with pytest.raises(ValueError, match=r"instances\.json, annotations\[0\]: .*UTF-8"):
        data[0].mask  # noqa: B018


@many
@given(st.one_of(odd, outlines, st.fixed_dictionaries({
    "size": st.just([HEIGHT, WIDTH]) | odd,
    "counts": st.lists(st.integers(-3, 500)) | st.text(max_size=9) | odd,
})))  # fmt: skip
def test_outlines_of_every_kind_are_drawn_or_refused_and_check_says_which(outline):
    try:
        text = json.dumps(outline, allow_nan=False).encode()
    except ValueError:
        return  # no JSON
    wrong = check_outline(text, (HEIGHT, WIDTH))
    TRIED["outlines", "refused" if wrong else "drawn"] += 1
    if wrong:
        with pytest.raises(OutlineError) as caught:
            draw(json.loads(text), (HEIGHT, WIDTH))
        assert str(caught.value) == wrong
        return
    mask = draw(json.loads(text), (HEIGHT, WIDTH))
    assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), bool)


@many
@given(masks)
def test_run_lengths_there_and_back(mask):
    for outline in (to_rle(mask), {"size": [HEIGHT, WIDTH], "counts": _runs(mask)}):
        assert (draw(outline, mask.shape) == mask).all()
    TRIED["run lengths", "equal"] += 1


# ---------------------------------------------------------------- tables

cells = st.one_of(words, st.sampled_from(["", "1.png", "../1.png", "/1.png", "nan", "1e999", "-1",
                                          "5", "9", '"', "a,b", "é", "猫"]))  # fmt: skip
heads = st.sampled_from([
    "file prompt x0 y0 x1 y1", "file prompt x y w h", "file prompt image_id", "file prompt bbox",
    "file object written_text", "file prompt xmin ymin xmax", "prompt category", "file prompt sky",
]).map(str.split)  # fmt: skip
SOUND = {"x0": "0", "y0": "1", "x": "0", "y": "1", "x1": "5", "y1": "6", "w": "3", "h": "3"}


@st.composite
def tables(draw):
    head = draw(heads)
    plain = st.tuples(*[st.just(SOUND[c]) if c in SOUND else words for c in head])
    lines = draw(st.lists(plain | plain | plain | st.lists(cells, max_size=7), max_size=3))
    separator = draw(st.sampled_from(",;\t"))
    text = "\n".join(separator.join(line) for line in [head, *lines])
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "cp1252", "utf-16"]))
    return text.encode(encoding, "replace")


@many
@given(tables() | st.binary(max_size=80))
def test_csv_of_every_kind(tmp_path, content):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    data = outcome("CSV", lambda: read_csv(tmp_path, path), path)
    for example in data or ():
        assert not escapes(example.file)
        assert example.prompt.strip()
        assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in example.boxes)
        example.fingerprint()
    if data is not None:
        check(data)


names = words.filter(lambda word: word.strip() and not escapes(word))
sides = st.integers(1, 9)


@many
@given(
    st.lists(st.tuples(names, names, sides, sides, sides, sides), min_size=1, max_size=5),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_csv_there_and_back(tmp_path, rows, encoding):
    """Whatever names and prompts are, what was written is read, but for blanks at their ends."""
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding=encoding) as opened:
        writer = csv.writer(opened)
        writer.writerow(["file", "prompt", "x", "y", "w", "h"])
        writer.writerows(rows)
    found = {(e.file, e.prompt): e.boxes for e in read_csv(tmp_path, path)}
    expected = {}
    for file, prompt, x, y, w, h in rows:
        expected.setdefault((file.strip(), prompt.strip()), []).append((x, y, x + w, y + h))
    assert found == {key: tuple(boxes) for key, boxes in expected.items()}
    TRIED["CSV, written and read", "equal"] += 1


@many
@given(tables() | st.binary(max_size=60))
def test_typographic_lists_of_every_kind(tmp_path, content):
    path = tmp_path / "index.csv"
    path.write_bytes(content)
    data = outcome("typographic list", lambda: read_typographic(tmp_path), tmp_path)
    for example in data or ():
        assert not escapes(example.file)
        assert example.prompt.strip()


ids = st.sampled_from(["val2/0/0.jpeg", "val2/1/1.jpeg", "val2/1/2.jpeg"])
odd_lines = st.lists(st.sampled_from(["../x", "/x", "7", "-1", "٣", "nan", "1e999", "", "x"]),
                     min_size=1, max_size=6).map(",".join)  # fmt: skip


def lists(*fields):
    """Lines of a list, mostly sound ones."""
    sound = st.tuples(*fields).map(lambda line: ",".join(map(str, line)))
    return st.lists(sound | sound | sound | odd_lines, max_size=3, unique=True).map("\n".join)


low, high = st.integers(0, 9), st.integers(9, 20)


@many
@given(
    lists(ids, st.integers(0, 1)),
    lists(ids, low, low, high, high),
    lists(ids, high, high),
    lists(ids.map(lambda i: i[5:]), st.just("0/a31041.jpeg")),
)
def test_wsol_lists_of_every_kind(tmp_path, labels, boxes, sizes, mapping):
    names = ("class_labels.txt", "localization.txt", "image_sizes.txt", "mapping.txt")
    for name, text in zip(names, (labels, boxes, sizes, mapping), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    data = outcome("WSOL", lambda: read_wsol(tmp_path, tmp_path, ["tench", "goldfish"]), tmp_path)
    for example in data or ():
        assert not escapes(example.file)
        assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in example.boxes)


# ---------------------------------------------------------------- archives


def packed(kind):
    made = io.BytesIO()
    if kind == "toy.zip":
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("images/a.txt", "images/b.txt"):
                archive.writestr(name, "photo" * 50)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w:gz" if kind.endswith("gz") else "w") as archive:
        for name in ("images/a.txt", "images/b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 250
            archive.addfile(info, io.BytesIO(b"photo" * 50))
    return made.getvalue()


@many
@given(st.sampled_from(["toy.zip", "toy.tar.gz", "toy.tar"]), st.data())
def test_archives_with_bytes_changed_unpack_inside_their_folder_or_are_called_damaged(kind, data):
    content = bytearray(packed(kind))
    content = content[: data.draw(st.integers(len(content) // 2, 2 * len(content)))]
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        file, inside = Path(folder) / kind, Path(folder) / "inside"
        inside.mkdir()
        file.write_bytes(content)
        archive = downloads.Archive(f"http://localhost/{kind}", len(content))
        unpack = partial(downloads._unpack, file, archive, inside)
        outcome(f"archive {kind}", unpack, file)
        assert {p.name for p in Path(folder).iterdir()} <= {kind, "inside"}


# ---------------------------------------------------------------- pixels


@many
@given(masks, st.integers(1, 8))
def test_boxes_turn_as_masks_do_and_masks_as_photos(mask, orientation):
    photo = Image.fromarray(mask)
    photo.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(photo))
    assert (turn_mask(mask, orientation) == upright).all()
    y, x = (int(v[0]) for v in np.where(mask | (np.arange(mask.size) == 0).reshape(mask.shape)))
    one = np.zeros_like(mask)
    one[y, x] = True
    turned = np.argwhere(turn_mask(one, orientation))[0]
    box = turn_box((x, y, x + 1, y + 1), Header((WIDTH, HEIGHT), orientation))
    assert box == (turned[1], turned[0], turned[1] + 1, turned[0] + 1)
    TRIED["EXIF turns", "equal"] += 1


# ---------------------------------------------------------------- photos

FORMS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"), "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"), "BMP": ("1", "L", "P", "RGB"),
}  # fmt: skip
UNTURNED = {"GIF", "BMP"}  # which hold no EXIF


@st.composite
def photos(draw):
    """A photo's bytes, its size and orientation, and its picture where nothing is lost."""
    form = draw(st.sampled_from(sorted(FORMS)))
    mode, size = draw(st.sampled_from(FORMS[form])), (draw(sides), draw(sides))
    noise = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*size[::-1], 4))
    image = Image.fromarray(noise.astype(np.uint8), "RGBA")
    if mode == "I;16":
        image = Image.fromarray((noise[..., 0] * 257).astype(np.uint16))
    elif mode == "LAB":
        image = Image.fromarray(noise[..., :3].astype(np.uint8), "LAB")
    else:
        image = image.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else \
            image.convert(mode)  # fmt: skip
    turn = 1 if form in UNTURNED else draw(st.integers(1, 8))
    exif = Image.Exif()
    exif[0x0112] = turn
    held = io.BytesIO()
    image.save(held, form, **({} if form in UNTURNED else {"exif": exif}))
    image.getexif()[0x0112] = turn
    return held.getvalue(), size, turn, image if form in ("PNG", "TIFF", "BMP") else None


@many
@given(photos())
def test_photos_of_every_form_are_seen_upright(tmp_path, photo):
    content, size, turn, picture = photo
    path = tmp_path / "photo.bin"  # what it is stands in the file, not in its name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # dark 16-bit photos are called 12-bit
        seen = load_photo(path)
        if picture is not None:
            assert (np.asarray(seen) == np.asarray(load_photo(picture))).all()
    assert (seen.mode, seen.size) == ("RGB", size[::-1] if turn >= 5 else size)
    assert header(path) == Header(size, turn)
    assert header(path).seen == seen.size
    TRIED["photo", "upright"] += 1


@many
@given(photos(), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
       st.floats(0.05, 1))  # fmt: skip
def test_photos_truncated_and_with_bytes_changed(tmp_path, photo, changes, kept):
    content = bytearray(photo[0])
    for place, byte in changes:
        content[int(place * (len(content) - 1))] = byte
    path = tmp_path / "photo.bin"
    path.write_bytes(content[: int(kept * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = outcome("photo, damaged", lambda: load_photo(path), path)
        about = outcome("photo's header, damaged", lambda: header(path), path)
    if seen is not None:
        assert about.seen == seen.size


def test_an_error_can_be_handed_over_by_a_worker(tmp_path):
    (tmp_path / "list.csv").write_text("file,prompt\n../1.png,a\n")
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path, tmp_path / "list.csv")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.findings) == (str(caught.value), caught.value.findings)
