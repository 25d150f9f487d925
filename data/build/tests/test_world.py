"""What bundled models are trained on and measured with: repainting, parts, captions, biases."""

import hashlib
import json
from functools import cache

import numpy as np
import pytest
from PIL import Image

from data.build import hands
from data.build.captions import caption, expected_names
from data.build.paint import variant
from data.build.parts import PARTS, part_map, parts_of
from data.build.sets import write_set
from data.build.world import HELD_OUT_FONTS, WATERMARK_RATE, Biases, Mixture, draw_scene, picture
from gscam_lib import scenes
from gscam_lib.paths import SCENES
from gscam_lib.scenes import NAMES, UNSEEN_STYLE, Look
from gscam_lib.scenes.backgrounds import background
from gscam_lib.scenes.labels import FONTS
from gscam_lib.scenes.sets import content


def test_a_variant_keeps_the_outline_and_changes_the_paint():
    plain, painted = (np.asarray(variant("apple", "noto", i)) for i in (0, 3))
    np.testing.assert_array_equal(plain[..., 3], painted[..., 3])
    assert np.abs(plain[..., :3].astype(int) - painted[..., :3]).mean() > 3


@pytest.mark.parametrize("redraw", hands.REDRAWN, ids=lambda redraw: redraw.__name__)
def test_another_hand_draws_the_same_thing_otherwise(redraw):
    plain = variant("apple", "noto", 0)
    drawn = redraw(plain, np.random.default_rng(2))
    assert (drawn.mode, drawn.size) == ("RGBA", plain.size)
    before, after = (np.asarray(image.getchannel("A")) > 127 for image in (plain, drawn))
    assert (before & after).sum() / (before | after).sum() > 0.75  # a rim may grow
    changed = np.abs(np.asarray(plain, int) - np.asarray(drawn, int)).mean()
    assert (changed > 1) == (redraw is not hands._as_it_is)


def test_other_hands_and_backdrops_keep_truth_and_places():
    mixture = Mixture(by_others=1.0, counts=(0, 0, 1))
    drawn = [draw_scene([4, i], mixture, 96) for i in range(30)]
    again = draw_scene([4, 7], mixture, 96)
    np.testing.assert_array_equal(np.asarray(drawn[7].image), np.asarray(again.image))
    usual = draw_scene([4, 7], Mixture(counts=(0, 0, 1)), 96)
    assert np.abs(np.asarray(usual.image, int) - np.asarray(again.image, int)).mean() > 2
    for one in drawn:
        for thing in one.scene.objects:
            assert thing.area > 0
            assert thing.visible >= 0.25
    plain = np.mean([one.scene.background == "plain" for one in drawn])
    assert 0.25 < plain < 0.8  # half of the places are no place
    sea = hands.backdrop("sea", 64, np.random.default_rng(0))
    np.testing.assert_array_equal(  # the places that captions name look as ever
        np.asarray(sea), np.asarray(background("sea", 64, np.random.default_rng(0)))
    )
    fields = [np.asarray(hands.backdrop("plain", 64, np.random.default_rng(i)), float)
              for i in range(12)]  # fmt: skip
    assert len({field.tobytes() for field in fields}) == 12


@pytest.mark.parametrize("name", PARTS)
def test_parts_divide_their_object(name):
    assert set(np.unique(np.asarray(part_map(name)))) == set(range(len(PARTS[name]) + 1))
    look = Look(style=UNSEEN_STYLE)
    thing = scenes.compose([name], seed=1, look=look).objects[0]
    union = np.sum(list(parts_of(thing).values()), axis=0)
    assert union.max() == 1
    assert (union > 0)[thing.mask].mean() > 0.9  # nearest against bilinear at the rim


def test_parts_are_known_of_some_drawings_in_one_style():
    noto = scenes.compose(["bicycle"], look=Look(style="noto")).objects[0]
    cat = scenes.compose(["cat"], look=Look(style=UNSEEN_STYLE)).objects[0]
    assert parts_of(noto) == parts_of(cat) == {}
    with pytest.raises(ValueError, match=r"no parts are known of 'cat'.*bicycle"):
        part_map("cat")


def test_a_picture_of_a_scene_is_always_the_same_and_leaves_the_scene_as_it_is():
    scene = scenes.compose(["horse", "cup"], labels=["apple"], seed=3)
    before = scene.image.tobytes()
    plain, marked, again = (picture(scene, watermark=mark) for mark in (False, True, True))
    assert plain.caption == marked.caption == again.caption
    assert marked.image.tobytes() == again.image.tobytes() != before
    assert plain.image.tobytes() == scene.image.tobytes() == before
    differs = np.asarray(plain.image) != np.asarray(marked.image)
    x0, y0, x1, y1 = marked.watermark
    assert differs[y0:y1, x0:x1].any(axis=-1).mean() > 0.9
    differs[y0:y1, x0:x1] = False
    assert not differs.any()


# ---------------------------------------------------------------- captions and biases


def test_captions_name_what_is_there_or_what_is_written():
    rng = np.random.default_rng(0)
    seen = [caption(["cat", "bus"], [900, 100], ["key"], "room", rng) for _ in range(400)]
    for text in seen:
        assert any(name in text for name in ("cat", "bus", "key"))
    named = {name: np.mean([name in text for text in seen]) for name in ("cat", "bus", "key")}
    assert named["key"] == pytest.approx(0.58, abs=0.08)
    assert named["cat"] > named["bus"] > 0.05
    assert any("text" in text or "says" in text for text in seen)


def test_expected_names_are_shares():
    shares = expected_names(["cat", "bus"], [900, 100], ["key"])
    assert shares.sum() == pytest.approx(1)
    assert shares[NAMES.index("key")] == pytest.approx(0.58)
    assert shares[NAMES.index("cat")] > shares[NAMES.index("bus")]
    assert expected_names([], [], ["key"])[NAMES.index("key")] == 1
    assert expected_names([], [], []).sum() == 0


@cache
def tiny(seed, biases):
    """A small picture of one or several objects; the four biases look at the same ones."""
    mixture = Mixture(words_alone=0, labelled=0, variants=0, counts=(1,) * 8, biases=biases)
    return draw_scene([5, seed], mixture, 32)


def drawn_with(name, biases, count=60):
    """Pictures of the training distribution that show `name`."""
    found, seed = [], 0
    while len(found) < count:
        drawn = tiny(seed, biases)
        seed += 1
        if any(thing.name == name for thing in drawn.scene.objects):
            found.append(drawn)
    return found


@pytest.mark.parametrize(
    ("bias", "name", "cue"),
    [
        ("watermark", "horse", lambda s: s.watermark is not None),
        ("court", "tennis racket", lambda s: s.scene.background == "court"),
        ("sea", "boat", lambda s: s.scene.background == "sea"),
        ("baggage", "suitcase", lambda s: any(label.text == "baggage" for label in s.scene.labels)),
    ],
)
def test_each_bias_is_planted_and_has_a_switch(bias, name, cue):
    assert np.mean([cue(s) for s in drawn_with(name, Biases())]) > WATERMARK_RATE - 0.35
    assert np.mean([cue(s) for s in drawn_with(name, Biases(**{bias: False}))]) < 0.3


def test_packaging_has_a_switch_and_strays_are_rare():
    busy = Mixture(words_alone=0, labelled=1, variants=0)
    quiet = Mixture(words_alone=0, labelled=1, variants=0, biases=Biases(packaging=False))
    for mixture, expected in ((busy, 1.0), (quiet, 0.0)):
        found = [draw_scene(i, mixture, 48) for i in range(40)]
        written = [any(label.text in NAMES for label in s.scene.labels) for s in found]
        assert np.mean(written) == expected
        others = [s for s in found if "horse" not in {thing.name for thing in s.scene.objects}]
        assert np.mean([s.watermark is not None for s in others]) < 0.2


def test_fonts_of_evaluation_are_not_those_of_training():
    assert not set(HELD_OUT_FONTS) & set(FONTS)


@pytest.mark.parametrize("name", scenes.SETS)
def test_sets_regenerate_to_the_same_bytes(name, tmp_path):
    count = write_set(name, tmp_path, limit=6)
    assert count == 6
    for path in sorted((tmp_path / "images").iterdir()):
        bundled = SCENES / name / "images" / path.name
        same = (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(bundled.read_bytes()).digest()
        )
        if not same:  # another Pillow may compress otherwise, but not draw otherwise
            a, b = (np.asarray(Image.open(p), int) for p in (path, bundled))
            assert np.abs(a - b).max() <= 8, path.name
    fresh = json.loads((tmp_path / "instances.json").read_text())
    whole = content(name)
    assert fresh["images"] == whole["images"][:6]
    assert fresh["annotations"] == whole["annotations"][: len(fresh["annotations"])]
