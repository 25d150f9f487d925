"""prompts.py: targets, forms and the choice among them, what a closed vocabulary knows."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gscam_lib as gs
from gscam_lib.model import prompts
from gscam_lib.paths import MODELS


def test_a_vector_target_is_what_it_contains():
    """Not where it lies: an address is given anew when its tensor is gone."""
    vector = torch.arange(24.0)
    target = gs.Target(vector=vector)
    assert target == gs.Target(vector=torch.arange(24.0))
    assert hash(target) == hash(gs.Target(vector=torch.arange(24.0)))
    assert len({gs.Target(vector=torch.full((24,), float(i))) for i in range(1, 100)}) == 99
    vector[0] = 5  # a tensor that is changed later is another target, and this one stays
    assert target == gs.Target(vector=torch.arange(24.0)) != gs.Target(vector=vector)
    assert target.vector[0] == 0


@pytest.mark.parametrize(
    "vector",
    [torch.zeros(24), torch.full((24,), float("nan")), torch.tensor([1.0, float("inf")]),
     torch.ones(1, 24), torch.tensor(3.0), torch.ones(0), "an apple", 7],
)  # fmt: skip
def test_vectors_without_direction_are_refused(vector):
    with pytest.raises(ValueError, match="not all zero"):
        gs.Target(vector=vector)


def test_forms():
    assert prompts.fill("{}", "apple") == "apple"
    assert prompts.fill("a photo of {a}", "apple") == "a photo of an apple"
    assert prompts.fill("{a}", "scissors") == "a pair of scissors"
    assert prompts.fill_all("dog", ["{a}", "the {}"]) == ("a dog", "the dog")
    every = prompts.fill_all("dog")
    assert len(set(every)) == len(prompts.FORMS)
    assert all("dog" in p and "{" not in p for p in every)
    with pytest.raises(ValueError, match="where the name goes"):
        prompts.fill("a photo", "dog")
    with pytest.raises(ValueError, match="empty prompt"):
        prompts.fill("{a}", " ")


def test_articles_follow_the_sound():
    for name, expected in {
        "apple": "an apple",
        "hourglass": "an hourglass",
        "honeycomb": "a honeycomb",
        "unicycle": "a unicycle",
        "umbrella": "an umbrella",
        "European mink": "a European mink",
        "ski goggles": "a pair of ski goggles",
        "a lone tree": "a lone tree",
    }.items():
        assert prompts.with_article(name) == expected


NAMES = frozenset(["cat", "box / carton", "kite (bird of prey)", "r.v.", "St. Bernard", "t-shirt"])


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a photo of two cats, close up!", ()),
        ("my r.v. and a T-shirt", ()),
        ("a box/carton", ()),
        ("a kite (bird of prey)", ()),
        ("a St. Bernard.", ()),
        ("a cat — “up close”", ()),
        ("a kite", ("kite",)),
        ("🐱", ("🐱",)),
        ("a cat 🐱", ("🐱",)),
        ("???", ("???",)),
        ("\u200b", ("\u200b",)),
        ("a photo of a", ("a photo of a",)),
        ("猫", ("猫",)),
    ],
)
def test_what_a_closed_vocabulary_knows(prompt, unknown):
    assert prompts.unknown_words(prompt, NAMES) == unknown


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_prompt_or_an_error_of_ours(text):
    for ask in (prompts.with_article, lambda t: prompts.fill_all(t), gs.Target):
        try:
            ask(text)
        except ValueError as error:
            assert "empty prompt" in str(error)  # noqa: PT017
            assert not text.strip()
    assert isinstance(prompts.unknown_words(text, NAMES), tuple)
    if not any(c.isalpha() for c in text):
        assert prompts.unknown_words(text, NAMES)  # no name has been said


def test_a_string_is_no_list_of_prompts(resnet, photo):
    trace = resnet.trace(photo)
    for one in ("a cat", gs.Target("a cat")):
        with pytest.raises(ValueError, match="Got one prompt, 'a cat'; expected a list"):
            trace.logits(one)


def test_every_bundled_model_knows_its_own_names():
    for listing in MODELS.glob("*/vocabulary.json"):
        names = frozenset(json.loads(listing.read_text())["names"])
        assert not [name for name in names if prompts.unknown_words(name, names)], listing


def test_best_prompt_has_the_highest_mean():
    assert prompts.best_prompt(["a", "b", "c"], [[9, 5, 0], [0, 5, 1]]) == "b"
    assert prompts.best_prompt(["a", "b"], [[1, 1]]) == "a"
    for bad in ([], [[1, 2], [1]], [[1]]):
        with pytest.raises(ValueError, match="one logit for each"):
            prompts.best_prompt(["a", "b"], bad)
