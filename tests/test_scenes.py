"""The miniature world as readers meet it; how it is made is tested in data/build/tests."""

import subprocess
import sys

import numpy as np
import pytest

from gscam_lib import scenes
from gscam_lib.paths import SCENES
from gscam_lib.scenes import NAMES, STYLES, Look
from gscam_lib.scenes.sets import content
from gscam_lib.scenes.sprites import has_sprite, index, sprite


def test_importing_scenes_needs_no_torch():
    code = "import sys, gscam_lib.scenes as s; s.compose(['cat']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- sprites


def test_there_are_81_names_and_an_ipod_among_them():
    assert len(NAMES) == len(set(NAMES)) == 81
    assert {"iPod", "apple", "suitcase", "tennis racket", "laptop", "cell phone"} <= set(NAMES)


@pytest.mark.parametrize("style", STYLES)
def test_every_sprite_is_there_but_the_declared_gaps(style):
    for name in NAMES:
        if has_sprite(name, style):
            alpha = np.asarray(sprite(name, style))[..., 3]
            assert 0.1 < (alpha > 127).mean() < 0.98, name
    assert index()["styles"][style]["license"] in ("Apache-2.0", "CC-BY-4.0", "MIT")


def test_only_twemoji_lacks_an_object_and_says_so():
    gaps = {style: index()["styles"][style]["missing"] for style in STYLES}
    assert gaps == {"noto": [], "twemoji": ["tennis racket"], "fluent-flat": [], "fluent-3d": []}
    with pytest.raises(ValueError, match=r"does not draw 'tennis racket'"):
        sprite("tennis racket", "twemoji")


def test_no_two_sprites_of_a_style_are_alike():
    for style in STYLES:
        prints = [sprite(n, style).tobytes() for n in NAMES if has_sprite(n, style)]
        assert len(set(prints)) == len(prints)


# ---------------------------------------------------------------- compose


def test_the_same_arguments_give_the_same_scene():
    a, b = (scenes.compose(["apple", "cup"], labels=["iPod"], seed=[3, 1]) for _ in range(2))
    assert a.image.tobytes() == b.image.tobytes()
    assert a.objects[0].box == b.objects[0].box
    other = scenes.compose(["apple", "cup"], labels=["iPod"], seed=[3, 2])
    assert a.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_half_open_and_tight_and_masks_do_not_overlap(seed):
    scene = scenes.compose(["dog", "cake", "bus", "key"], labels=["cat"], seed=seed, size=160)
    total = np.zeros((160, 160), int)
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        assert thing.mask.shape == (160, 160)
        assert thing.mask[y0:y1, x0:x1].sum() == thing.mask.sum() == thing.area
        for edge in (thing.mask[y0], thing.mask[y1 - 1], thing.mask[:, x0], thing.mask[:, x1 - 1]):
            assert edge.any()
        total += thing.mask
        assert 0.35 <= thing.visible <= 1
    assert total.max() == 1
    x0, y0, x1, y1 = scene.labels[0].box
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 160


def test_a_mask_covers_the_pixels_that_the_object_changed():
    look = Look(style="noto", shadow=0.0)
    empty = np.asarray(scenes.compose([], background="sea", seed=5, look=look).image, int)
    scene = scenes.compose(["bear"], background="sea", seed=5, look=look)
    changed = np.abs(np.asarray(scene.image, int) - empty).sum(axis=-1) > 0
    mask = scene.objects[0].mask
    assert changed[mask].mean() > 0.995
    assert (changed & ~mask).sum() < 0.2 * mask.sum()  # the soft rim


def test_the_unlabelled_twin_differs_at_the_label_alone():
    look = Look(min_visible=0.0)
    bare = scenes.compose(["apple"], background="table", seed=9, look=look)
    marked = scenes.compose(["apple"], labels=["iPod"], background="table", seed=9, look=look)
    differs = (np.asarray(bare.image) != np.asarray(marked.image)).any(axis=-1)
    x0, y0, x1, y1 = marked.labels[0].box
    differs[max(y0 - 4, 0) : y1 + 12, max(x0 - 4, 0) : x1 + 8] = False  # its shadow falls there
    assert not differs.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": ["aple"]}, "no object 'aple'.*apple"),
        ({"objects": ["apple"], "background": "moon"}, "no background 'moon'.*room"),
        ({"objects": ["apple"], "size": 8}, "size 8 is too small"),
        ({"objects": ["bed"] * 12, "look": Look(scale=(0.9, 0.9))}, "left no room"),
        ({"objects": ["apple"], "look": Look(style="crayon")}, "no sprite style 'crayon'"),
    ],
)
def test_errors_say_what_came_in_and_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes.compose(**arguments)


# ---------------------------------------------------------------- evaluation sets


@pytest.mark.parametrize(
    ("name", "images"),
    [("single", 324), ("multi", 300), ("typographic", 486), ("biases", 320), ("parts", 102)],
)
def test_sets_hold_what_the_card_says(name, images):
    whole = content(name)
    assert len(whole["images"]) == images == len(list((SCENES / name / "images").iterdir()))
    for image in whole["images"]:
        assert (SCENES / name / "images" / image["file_name"]).exists()
    for a in whole["annotations"]:
        assert a["area"] > 0
        assert a["bbox"][2] > 0


def test_loaded_sets_are_examples_with_boxes_and_masks():
    dataset = scenes.load("multi")
    example = next(iter(dataset))
    assert example.prompt in NAMES
    assert example.source == "scenes/multi"
    (x0, y0, x1, y1), mask = example.boxes[0], example.mask
    assert mask.shape == (224, 224)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (x0, y0, x1, y1)
    assert len(dataset) == 300 // 4 * (3 + 4 + 5 + 6)


def test_pairs_and_written_labels():
    known = scenes.pairs("typographic")
    assert len(known) == 162
    assert any((pair.asked, pair.cue) == ("apple", "iPod") for pair in known)
    assert all(pair.asked != pair.cue for pair in known)
    assert len(scenes.pairs("biases")) == 160
    labels = scenes.written("typographic")
    assert len(labels) == 324
    assert labels[0].prompt in NAMES
    with pytest.raises(ValueError, match="no pairs"):
        scenes.pairs("multi")


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="no bundled set 'triple'"):
        scenes.load("triple")
