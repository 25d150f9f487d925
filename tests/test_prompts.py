"""prompts.py: forms and the choice among them."""

import pytest

from gscam_lib.model import prompts


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


def test_best_prompt_has_the_highest_mean():
    assert prompts.best_prompt(["a", "b", "c"], [[9, 5, 0], [0, 5, 1]]) == "b"
    assert prompts.best_prompt(["a", "b"], [[1, 1]]) == "a"
    for bad in ([], [[1, 2], [1]], [[1]]):
        with pytest.raises(ValueError, match="one logit for each"):
            prompts.best_prompt(["a", "b"], bad)
