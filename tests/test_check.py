"""datasets/check.py: what is wrong with a data set is named, with its place and its consequence."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

import gscam_lib as gs
from gscam_lib.datasets import DataError, Selection, read_csv, read_typographic
from gscam_lib.datasets.check import check, table
from gscam_lib.datasets.placement import placed

SQUARE = [[10, 5, 30, 5, 30, 15, 10, 15]]
CORNERS = (10.0, 5.0, 30.0, 15.0)


def instances(folder, *, images=(), categories=(), annotations=(), photo=(60, 40), **keys):
    """A COCO file of one photo, one category and one box, with what is given instead."""
    Image.new("RGB", photo, "grey").save(folder / "1.jpg")
    image = {"id": 1, "file_name": "1.jpg", "width": 60, "height": 40}
    box = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 5, 20, 10],
        "segmentation": SQUARE,
    }
    content = {
        "images": [image | one for one in images or [{}]],
        "categories": [{"id": 1, "name": "cat"} | one for one in categories or [{}]],
        "annotations": [box | one for one in annotations or [{}]],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content | keys))
    return path


def read(folder, **changes):
    return gs.CocoDataset(folder, instances(folder, **changes))


def kinds(findings):
    return {(f.severity, f.what): (f.count, f.where) for f in findings}


def test_nothing_is_said_of_a_sound_data_set(tmp_path):
    assert check(read(tmp_path)) == []
    assert table([]) == "Nothing wrong was found."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"categories": [{}, {"name": "dog"}]}, r"categories that share an id: .*\[0\].*\[1\]"),
        (
            {"categories": [{}, {"id": 2}], "annotations": [{}, {"id": 2, "category_id": 2}]},
            "share a name: id 1 .*id 2",
        ),
        ({"categories": [{"name": ""}]}, r"without name: categories\[0\] \(id 1\)"),
        ({"categories": [{"name": None}]}, r"categories\[0\].*got `null`"),
        ({"images": [{}, {"file_name": "2.jpg"}]}, r"images that share an id: images\[0\]"),
        ({"images": [{}, {"id": "1"}]}, "images that share an id"),
        ({"annotations": [{}, {}]}, "annotations that share an id"),
        ({"images": [{"file_name": None}]}, r"without file_name: images\[0\] \(id 1\)"),
        ({"images": [{"file_name": "../1.jpg"}]}, r"outside the folder.*'\.\./1\.jpg'"),
        ({"images": [{"file_name": "a/../../1.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": "/etc/1.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": "C:\\1.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": "..\\1.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": None, "coco_url": "http://x/../1.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": "a\0b.jpg"}]}, "outside the folder"),
        ({"images": [{"file_name": "\ud800.jpg"}]}, "hex escape"),
        ({"annotations": [{"bbox": [0, 0, "9", 9]}]}, r"annotations\[0\].*got `str`.*bbox\[2\]"),
        ({"annotations": [{"bbox": [1e308, 0, 1e308, 9]}]}, r"without bound: annotations\[0\]"),
    ],
)
def test_what_is_refused_names_its_place(tmp_path, changes, words):
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "instances.json") in str(caught.value)
    assert {f.severity for f in caught.value.findings} >= {"refused"}
    assert "refused" in table(caught.value.findings)


def test_everything_wrong_is_listed_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read(
            tmp_path,
            images=[{}, {"id": 2, "file_name": "../2.jpg"}],
            categories=[{}, {}],
            annotations=[{"bbox": [0, 0, 0, 5]}, {"id": 2, "image_id": 7}],
        )
    assert len(caught.value.findings) == 4
    assert len([f for f in caught.value.findings if f.severity == "refused"]) == 3


def test_a_name_of_two_categories_of_which_one_is_asked_is_fine(tmp_path):
    (example,) = read(tmp_path, categories=[{}, {"id": 0}])  # as Roboflow exports them
    assert example.category == "cat"


def test_what_is_left_out_is_counted_and_named(tmp_path):
    boxes = [[10, 5, 20, 10], [0, 0, 0, 9], [60, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]]
    data = read(
        tmp_path,
        annotations=[{"id": i, "bbox": b, "iscrowd": i == 3} for i, b in enumerate(boxes)],
    )
    assert data.left_out == {"crowd": 1, "no area": 1, "outside its image": 1}
    found = kinds(check(data))
    assert found["left out", "There are boxes without area"][1].startswith("annotations[1] (id 1")
    assert found["left out", "There are boxes outside their image"][0] == 1
    assert [e.boxes for e in data] == [(CORNERS, (0, 0, 9, 9))]
    data = read(tmp_path, annotations=[{}, {"id": 2}])
    assert kinds(check(data))["noted", "There are boxes that are there twice"][0] == 1


def test_corners_in_place_of_sizes_are_noticed(tmp_path):
    data = read(
        tmp_path, annotations=[{"bbox": [40, 5, 55, 15]}, {"id": 2, "bbox": [0, 0, 60.5, 40]}]
    )
    found = kinds(check(data))
    (key,) = found
    assert key == ("noted", "There are boxes that reach beyond their image")
    assert found[key] == (1, "annotations[0] (id 1, bbox [40.0, 5.0, 55.0, 15.0])")


def test_a_mark_of_windows_is_read_over_and_utf_16_is_named(tmp_path):
    path = instances(tmp_path)
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    (example,) = gs.CocoDataset(tmp_path, path)
    assert example.mask.sum() == 200
    path.write_bytes(content.decode().encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16; save it as UTF-8"):
        gs.CocoDataset(tmp_path, path)


def test_a_mask_of_some_instances_only_is_none(tmp_path):
    data = read(tmp_path, annotations=[{}, {"id": 2, "segmentation": []}])
    assert data[0].mask is None
    assert ("noted", "There are annotations without segmentation") in kinds(check(data))


# ---------------------------------------------------------------- outlines


@pytest.mark.parametrize(
    "segmentation",
    [
        SQUARE,
        [[10, 5, 30, 15], *SQUARE],
        [*SQUARE, [10, 5, 30, 15]],
        [[], *SQUARE],
        SQUARE[0],
        [[[10, 5], [30, 5], [30, 15], [10, 15]]],
        {"size": [40, 60], "counts": [405, *[10, 30] * 19, 10, 2400 - 405 - 10 - 19 * 40]},
    ],
)
def test_polygons_of_every_form(tmp_path, segmentation):
    data = read(tmp_path, annotations=[{"segmentation": segmentation}])
    mask = data[0].mask
    assert (mask.shape, mask.sum()) == ((40, 60), 200)
    assert mask[5:15, 10:30].all()
    assert check(data) == []


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[10, 5, 30, 15]], "no area"),
        ([[]], None),
        ([[1, 2, 3, 4, 5]], "5 numbers"),
        ([[1, 2, 3, 4, 5, "6"]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, True]], "not a list of numbers"),
        ([[[1, 2], [3]]], "not pairs"),
        ([[1e12, 2, 3, 4, 5, 6]], r"reaches 1000000000000\.0, far outside 60 × 40"),
        ("polygon", "expected polygons or an RLE"),
        (12345, "expected polygons or an RLE"),
        ({"counts": [2400]}, "of size None, but its image of"),
        ({"size": [60, 40], "counts": [2400]}, r"of size \[60, 40\].*\[40, 60\]"),
        ({"size": [40, 60], "counts": [2399]}, "cover 2399 pixels, but its image has 2400"),
        ({"size": [40, 60], "counts": [-1, 2401]}, "no run lengths"),
        ({"size": [40, 60], "counts": [2400.0]}, "no run lengths"),
        ({"size": [40, 60], "counts": "PPYo1"}, "cover|no run lengths"),
        ({"size": [40, 60], "counts": "~~~~"}, "no run lengths"),
        ({"size": [40, 60], "counts": "o" * 99}, "no run lengths"),
        ({"size": [40, 60], "counts": "P"}, "end within a number"),
        ({"size": [40, 60]}, "no run lengths"),
    ],
)
def test_faulty_outlines_name_the_annotation_and_end_nothing(tmp_path, segmentation, words):
    data = read(tmp_path, annotations=[{"segmentation": segmentation}])
    if words is None:
        assert data[0].mask is None
        return
    with pytest.raises(ValueError, match=words) as caught:
        _ = data[0].mask
    assert "annotations[0]" in str(caught.value)
    ((severity, what),) = kinds(check(data))
    assert (severity, what) == ("left out", "There are outlines that cannot be drawn")
    assert check(data, masks=False) == []


def test_an_image_too_large_to_draw(tmp_path):
    data = read(tmp_path, images=[{"width": 2**30, "height": 2**30}])
    with pytest.raises(ValueError, match="too large"):
        _ = data[0].mask


# ---------------------------------------------------------------- photos


@pytest.mark.parametrize("orientation", range(1, 9))
def test_truth_of_stored_pixels_is_turned_with_the_photo(tmp_path, orientation):
    """A red thing, its box and mask, annotated before EXIF turns the photo: found where it is."""
    path = instances(tmp_path, images=[{"file_name": "phone.png"}])
    photo = Image.new("RGB", (60, 40), "white")
    photo.paste((255, 0, 0), tuple(map(int, CORNERS)))
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "phone.png", exif=exif)
    data = gs.CocoDataset(tmp_path, path)
    example = placed(data[0])
    found = [f.what for f in check(data)]
    if 2 <= orientation <= 4:  # sizes cannot tell; the truth is taken as of the photo as seen
        assert example is not None
        (what,) = found
        assert what.startswith("There are photos that EXIF turns, and no size says")
        return
    with Image.open(tmp_path / "phone.png") as opened:
        red = np.asarray(ImageOps.exif_transpose(opened))[..., 1] == 0
    assert (example.mask == red).all()
    y, x = np.where(red)
    assert example.boxes == ((x.min(), y.min(), x.max() + 1, y.max() + 1),)
    assert example.photo_size == red.shape[::-1]
    expected = [] if orientation == 1 else ["There is truth in pixels as stored, which EXIF turns"]
    assert found == expected


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        ((40, 60), "exchanged"),
        ((30, 20), r"resized by 0\.5 since"),
        ((80, 120), r"turned and resized by 2 since"),
        ((60, 50), "different photos"),
    ],
)
def test_truth_in_other_pixels_is_never_compared(tmp_path, photo, words):
    data = read(tmp_path, photo=photo)
    with pytest.raises(ValueError, match=rf"1\.jpg: the truth is of 60 × 40.*{words}"):
        placed(data[0])
    (finding,) = check(data)
    assert (finding.severity, finding.count) == ("left out", 1)
    assert words.replace("\\", "") in finding.where


def test_photos_that_are_absent_unreadable_or_links_elsewhere(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    annotations = [{"id": i, "image_id": i} for i in range(4)]
    path = instances(home, images=images, annotations=annotations)
    Image.new("RGB", (60, 40)).save(home / "0.png")
    (home / "1.png").write_bytes(b"no photo")
    Image.new("RGB", (60, 40)).save(tmp_path / "private.png")
    (home / "2.png").symlink_to(tmp_path / "private.png")
    data = gs.CocoDataset(home, path)
    found = kinds(check(data))
    assert [key[0] for key in found] == ["refused", "left out", "left out"]
    wheres = [where for _, where in found.values()]
    assert wheres[0] == "2.png"
    assert wheres[1] == "3.png"
    assert "1.png cannot be read as a photo" in wheres[2]
    assert check(data, photos=False) == []
    assert [f.where for f in check(data[3:])] == ["3.png"]
    assert check(Selection(data, [0])) == []
    linked = tmp_path / "linked"
    linked.symlink_to(home)  # a root may be a link
    assert check(gs.CocoDataset(linked, path)[:1]) == []


def test_boxes_beyond_a_photo_whose_size_nobody_gave(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "1.png")
    (tmp_path / "list.csv").write_text(
        "file,prompt,x0,y0,x1,y1\n1.png,a,0,0,9,9\n1.png,b,70,0,90,9\n"
    )
    (finding,) = check(read_csv(tmp_path, tmp_path / "list.csv"))
    assert "(70, 0, 90, 9; 60 × 40 pixels)" in finding.where


def test_examples_made_by_hand_that_could_not_be_told_apart(tmp_path):
    photos = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    same = [gs.Example(p, "cat", (CORNERS,), "cat", "1", "mine") for p in photos]
    found = kinds(check(same))
    assert found["refused", "There are photos that share an image id"] == (1, "'1' (2 photos)")
    assert found["refused", "There are questions that are there twice"][0] == 1


# ---------------------------------------------------------------- tables


def csv(folder, text, encoding="utf-8"):
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return read_csv(folder, path)


@pytest.mark.parametrize(
    ("head", "cells"),
    [
        ("x0,y0,x1,y1", "10,5,30,15"),
        ("X0,Y0,X1,Y1", "10,5,30,15"),
        ("xmin,ymin,xmax,ymax", "10,5,30,15"),
        ("xmax,ymax,xmin,ymin", "30,15,10,5"),
        ("x1,y1,x2,y2", "10,5,30,15"),
        ("left,top,right,bottom", "10,5,30,15"),
        ("x,y,w,h", "10,5,20,10"),
        ("x,y,width,height", "10,5,20,10"),
        ("Xmin, ymin, xmax, ymax", "10, 5, 30, 15"),
    ],
)
def test_columns_of_a_box_by_their_usual_names(tmp_path, head, cells):
    (example,) = csv(tmp_path, f"file,prompt,{head}\n1.png,a cat,{cells}\n")
    assert example.boxes == (CORNERS,)


def test_semicolons_tabs_and_marks(tmp_path):
    for separator in ";\t":
        text = "file,prompt,x0,y0,x1,y1\n1.png,a cat,10,5,30,15\n".replace(",", separator)
        (example,) = csv(tmp_path, text, "utf-8-sig")
        assert (example.prompt, example.boxes) == ("a cat", (CORNERS,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,prompt,xmin,ymin\n1.png,a,1,2\n", "not all of one: 'xmin', 'ymin'"),
        ("file,prompt,bbox\n1.png,a,1 2\n", "not all of one: 'bbox'"),
        ("file,prompt,x0,y0,x1,y1\n\n1.png,a,1,2,3\n", "line 3 .5 cells for 6 columns"),
        ("file,prompt\n1.png,a,b\n", "line 2 .3 cells for 2 columns"),
        ("file,prompt\n1.png,\n,b\n", r"line 2 \(no prompt\), line 3 \(no file\)"),
        ("file,file,prompt\n1,1,a\n", "columns of one name: file"),
        ("file,prompt,x0,y0,x1,y1\n1.png,a,1,2,3,nan\n", "line 2.*not finite"),
        ("file,prompt,x0,y0,x1,y1\n1.png,a,1,2,1,4\n", "line 2.*no area"),
        ("file,prompt,x0,y0,x1,y1\n1.png,a,1,2,,4\n", "line 2.*1.png"),
        ("file,prompt\n../1.png,a\n", "line 2.*outside|outside.*line 2"),
        ("file,prompt\n/1.png,a\n", "outside.*line 2"),
        ('file,prompt\n1.png,"a\n', "line 2|line 3"),
        ("", "expected file, prompt too"),
    ],
)
def test_tables_that_do_not_fit_name_the_line(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as caught:
        csv(tmp_path, text)
    assert "list.csv" in str(caught.value)


def test_other_encodings_name_file_line_and_remedy(tmp_path):
    for encoding in ("cp1252", "utf-16", "utf-16-be"):
        with pytest.raises(DataError, match=r"list\.csv.*[Ss]ave it as UTF-8"):
            csv(tmp_path, "file,prompt\n1.png,a café\n", encoding)
    with pytest.raises(DataError, match="line 2"):
        csv(tmp_path, "file,prompt\n1.png,a café\n", "cp1252")


def test_files_that_share_an_id_are_told_apart_and_named(tmp_path):
    text = "file,prompt,image_id\na/1.png,a cat,1\nb/1.png,a cat,1\nb/2.png,a cat,2\n"
    data = csv(tmp_path, text)
    assert [e.image_id for e in data] == ["a/1.png", "b/1.png", "2"]
    (finding,) = data.findings
    assert finding.where == "'1' is of a/1.png (line 2) and b/1.png (line 3)"
    assert finding.severity == "noted"


def test_one_prompt_for_two_categories_is_two_questions_and_other_columns_are_named(tmp_path):
    text = "file,prompt,category\n1.png,a pet,cat\n1.png,a pet,dog\n"
    assert [e.category for e in csv(tmp_path, text)] == ["cat", "dog"]
    (finding,) = csv(tmp_path, "file,prompt,Weather\n1.png,a,sun\n").findings
    assert (finding.severity, finding.where) == ("noted", "weather")


def test_typographic_lists_name_their_lines(tmp_path):
    for text, words in {
        "file,object,written_text\n1.png,a,b\n1.png,a,c\n": r"1\.png \(lines 2 and 3\)",
        "file,object,written_text\n../1.png,a,b\n": "outside.*line 2",
        "file,object,written_text\n1.png,,b\n": r"line 2 \(no object\)",
    }.items():
        (tmp_path / "index.csv").write_text(text)
        with pytest.raises(DataError, match=words):
            read_typographic(tmp_path)


# ---------------------------------------------------------------- tables whose boxes are odd


def a_table(tmp_path, text, photo=(60, 40), turned=1):
    image = Image.new("RGB", photo)
    exif = image.getexif()
    exif[0x0112] = turned
    image.save(tmp_path / "1.png", exif=exif)
    (tmp_path / "list.csv").write_text(text)
    return read_csv(tmp_path, tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("box", "severity", "words"),
    [
        ("0.1,0.2,0.4,0.5", "refused", "shares of its size"),
        ("5,5,9000,9000", "noted", "reach beyond their photo"),
        ("70,5,80,9", "left out", "without area inside"),
        ("5,5,20,20", None, ""),
    ],
)
def test_boxes_of_a_table_are_looked_at(tmp_path, box, severity, words):
    found = check(a_table(tmp_path, f"file,prompt,x0,y0,x1,y1\n1.png,a cat,{box}\n"))
    assert [(f.severity, words in f.what) for f in found] == (
        [(severity, True)] if severity else []
    )


def test_a_tables_width_and_height_are_the_photos(tmp_path):
    """Of a photo that EXIF turns: its boxes turn with it; of another photo: said so."""
    head = "file,prompt,x0,y0,x1,y1,width,height\n1.png,a cat,0,0,60,10,"
    stored = a_table(tmp_path, head + "60,40\n", turned=6)
    assert placed(stored[0]).boxes == ((30, 0, 40, 60),)
    assert [f.severity for f in check(stored)] == ["noted"]
    other = a_table(tmp_path, head + "120,80\n")
    assert "resized by 0.5" in check(other)[0].where
    of_box = a_table(tmp_path, head + "60,10\n")
    assert of_box[0].photo_size is None
    assert "columns of other meaning" in check(of_box)[0].what
    with pytest.raises(DataError, match=r"line 2 \(60 × 0"):
        a_table(tmp_path, head + "60,0\n")
    untold = a_table(tmp_path, "file,prompt,x0,y0,x1,y1\n1.png,a cat,0,0,30,10\n", turned=6)
    assert "no size says in whose pixels" in check(untold)[0].what


def test_cells_have_no_blanks_around_them_and_numbers_are_plain(tmp_path):
    data = a_table(
        tmp_path, "file,prompt,x0,y0,x1,y1\n1.png,a cat ,1,1,9,9\n1.png, a cat,1,1,9,9\n"
    )
    assert [(e.prompt, len(e.boxes)) for e in data] == [("a cat", 2)]
    assert ["boxes that are there twice" in f.what for f in check(data)] == [True]
    with pytest.raises(DataError, match="'1_0' is no number"):
        a_table(tmp_path, "file,prompt,x0,y0,x1,y1\n1.png,a cat,1,1,1_0,9\n")


def test_nothing_to_ask_is_refused_and_files_of_other_names_are_named(tmp_path):
    (finding,) = check([])
    assert finding.severity == "refused"
    for name in (
        "apple_text=iPod.jpg",
        "sign_text=route_66.jpg",
        "cup-text=a.jpg",
        "a_text=b.heic",
    ):
        Image.new("RGB", (8, 8)).save(tmp_path / f"label={name}", "PNG")
    data = read_typographic(tmp_path)
    assert [(e.prompt, e.word) for e in data] == [("apple", "iPod"), ("sign", "route")]
    names, numbered = check(data)
    assert (names.count, numbered.count) == (2, 1)
    assert "'route'" in numbered.where
