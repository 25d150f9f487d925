"""typography.py: notes on photos, probabilities over names, the attack report, covering."""

import numpy as np
import pytest
import torch
from PIL import Image

from gscam_lib import typography
from gscam_lib.datasets import Example


def test_label_lies_where_it_is_asked_for():
    blank = np.full((100, 200, 3), 90, np.uint8)
    labelled = np.asarray(
        typography.put_label(blank, "iPod", at=(0.25, 0.5), width=0.4, paper="white")
    )
    changed = np.argwhere((labelled != blank).any(-1))
    (y0, x0), (y1, x1) = changed.min(0), changed.max(0) + 1
    assert x1 - x0 == 80
    assert abs((x0 + x1) / 2 - 50) <= 1
    assert abs((y0 + y1) / 2 - 50) <= 1
    assert labelled.min() < 30  # ink
    assert labelled.max() > 250  # paper
    assert (blank == 90).all(), "the photo given is left as it is"


def test_bare_letters_leave_the_photo_between_them():
    blank = np.full((100, 200, 3), 90, np.uint8)
    bare = np.asarray(typography.put_label(blank, "l l", paper=None, ink="black"))
    note = np.asarray(typography.put_label(blank, "l l", ink="black"))
    assert (bare != blank).any(-1).sum() < (note != blank).any(-1).sum()
    assert bare.max() == 90


@pytest.mark.parametrize(
    "wrong",
    [
        {"word": " "},
        {"word": "猫"},
        {"word": "a", "width": 0.0},
        {"word": "a", "at": (0.5, 1.2)},
        {"word": "a", "at": "center"},
        {"word": "a", "at": ("0", "1")},
        {"word": "a", "at": 0.5},
        {"word": "a", "width": "wide"},
    ],
)
def test_label_errors(wrong, photo):
    with pytest.raises(ValueError, match="Got"):
        typography.put_label(photo, **wrong)


def test_probabilities_are_the_softmax_of_the_logits(resnet, photo):
    trace = resnet.trace(photo)
    found = typography.probabilities(trace, ["cat", "dog"], template="{}!")
    expected = torch.tensor([trace.logit("cat!"), trace.logit("dog!")]).softmax(0)
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-6)
    with pytest.raises(ValueError, match="two or more"):
        typography.probabilities(trace, ["cat"])
    with pytest.raises(ValueError, match="two or more"):
        typography.probabilities(trace, ["cat", "cat"])
    with pytest.raises(ValueError, match="Got 'cat'; expected two or more"):
        typography.probabilities(trace, "cat")
    with pytest.raises(ValueError, match="where the name goes"):
        typography.probabilities(trace, ["cat", "dog"], template="a photo")


def _example(image, thing, word):
    return Example(image, thing, (), thing, f"{thing}-{word}", "test", word=word)


class _Told:
    """A trace whose logits are told by the brightness of its photo."""

    def __init__(self, image):
        self.bright = np.asarray(image).mean() > 128
        self.image = np.asarray(image)

    def logits(self, prompts):
        return torch.tensor([5.0 if ("word" in p) == self.bright else 1.0 for p in prompts])


def test_attack_counts_what_the_model_says():
    dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    examples = [
        _example(dark, "thing", None),
        _example(bright, "thing", "word"),
        _example(dark, "thing", "word"),
        _example(bright, "word", "word"),  # its own name is no attack
    ]
    rows = typography.attack(_Told, examples)
    assert rows["top"].tolist() == ["thing", "word", "thing", "word"]
    assert rows["object_found"].tolist() == [True, False, True, True]
    assert rows["word_read"].tolist() == [False, True, False, False]
    assert rows["word_beats_object"].tolist() == [False, True, False, False]
    np.testing.assert_allclose(rows["p_word"][1], np.exp(5) / (np.exp(5) + np.exp(1)))

    def darken(trace, example):
        return trace.image // 4

    defended = typography.attack(_Told, examples, alter=darken)
    assert defended["top"].tolist() == ["thing"] * 4


def test_attack_on_a_model(resnet, photo):
    examples = [_example(typography.put_label(photo, "dog"), "cat", "dog")]
    (row,) = typography.attack(resnet.trace, examples, candidates=["cat", "dog", "car"]).to_dict(
        "records"
    )
    assert 0 < row["p_object"] < 1
    assert row["word_beats_object"] == (row["p_word"] > row["p_object"])


def test_cover_takes_the_mean_colour_and_keeps_the_rest():
    photo = np.random.default_rng(0).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    values = np.zeros((6, 5))
    values[2, 3] = 0.5
    covered = typography.cover(photo, values)
    np.testing.assert_array_equal(covered[2, 3], photo.reshape(-1, 3).mean(0).round())
    covered[2, 3] = photo[2, 3]
    np.testing.assert_array_equal(covered, photo)
    assert isinstance(Image.fromarray(covered), Image.Image)
    with pytest.raises(ValueError, match="6"):
        typography.cover(photo, values.T)
