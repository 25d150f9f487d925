"""Sentences made of numbers: shown, recorded, and collected from notebooks run with any setting."""

import os
import re
import sys

import IPython.display
import numpy as np
import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_notebook, new_output

from gscam_lib.figures import CLAIM, say
from notebooks import run as runner
from notebooks.build import ROOT, notebooks
from notebooks.run import NUMBER, Claim

FIRST = (
    'import os\nMODEL, OTHER = "one", "two"\nK = 3  # channels\nPROMPTS = ["a", "b"]\nHOME = os.sep'
)
SECOND = """from gscam_lib.figures import say
hits = {"one": 0.5, "two": 0.25}[MODEL]
say(f"{hits:.0%} of {K + len(PROMPTS)} are more than 40 %.", hits > 0.4, MODEL)
say("Always.", True, MODEL)"""


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: (Markdown, metadata)."""
    seen = []
    monkeypatch.setattr(
        IPython.display, "display", lambda what, metadata: seen.append((what.data, metadata[CLAIM]))
    )
    return seen


def test_a_sentence_that_holds_is_shown_as_it_is(shown, resnet):
    say("gScoreCAM 3, Grad-CAM 2.", np.float32(3) > 2, resnet)
    text = "gScoreCAM 3, Grad-CAM 2."
    assert shown == [(text, {"text": text, "holds": True, "model": resnet.name})]


def test_a_sentence_that_does_not_hold_says_so(shown):
    say("More: 2 and 3.", 2 > 3, "mini-vit")
    say("More: 2 and 3.", False, "mini-vit", otherwise="Less: 2 and 3.")
    assert [text for text, _ in shown] == ["**Not true of mini-vit:** More: 2 and 3.",
                                           "Less: 2 and 3."]  # fmt: skip
    assert not any(record["holds"] for _, record in shown)


@pytest.mark.parametrize("holds", [None, float("nan"), "yes", 1, np.array([True, False])])
def test_what_is_neither_true_nor_false_is_refused(shown, holds):
    with pytest.raises(ValueError, match="expected True or False"):
        say("More.", holds, "mini-rn")
    assert not shown


@pytest.fixture
def notebook(tmp_path):
    first = new_code_cell(FIRST, metadata={"tags": ["parameters"], "nbmake": {"mock": {"K": 1}}})
    path = tmp_path / "00_one.ipynb"
    write(new_notebook(cells=[first, new_code_cell(SECOND)]), path)
    return path


def test_a_notebook_runs_with_other_settings_and_its_claims_are_found(notebook):
    before = notebook.read_bytes()
    found = list(runner.claims(runner.run(notebook, {}), "00_one"))
    assert found == [Claim("00_one", 2, 1, "50% of 3 are more than 40 %.", True, "one"),
                     Claim("00_one", 2, 2, "Always.", True, "one")]  # fmt: skip
    other = list(runner.claims(runner.run(notebook, {"MODEL": "two", "PROMPTS": []}), "00_one"))
    assert other[0].text == "**Not true of two:** 25% of 1 are more than 40 %."
    assert notebook.read_bytes() == before
    lines = runner.table([*found, *other]).splitlines()[2:]
    assert lines == [
        "| 00_one | 2 | 50% of 3 are more than 40 %. | one | two (25%, 1, 40 %) |",
        "| 00_one | 2 | Always. | one, two |  |",
    ]


def test_names_that_a_notebook_does_not_set_are_refused(notebook):
    with pytest.raises(ValueError, match="has no PHOTO; it sets: MODEL, OTHER, K, PROMPTS"):
        runner.run(notebook, {"PHOTO": "me.jpg"})


def test_cases_are_every_model_and_a_readers_settings(notebook, tmp_path):
    found = list(runner.cases(notebook, ["one", "two", "three"], tmp_path / "me.jpg"))
    assert found == [{}, {"MODEL": "two"}, {"MODEL": "three"}, {"PROMPTS": ["a cup"], "K": 1}]
    content = runner.read(notebook)
    content.metadata["gscam_models"] = ["one", "three"]
    write(content, notebook)
    assert {"MODEL": "two"} not in list(runner.cases(notebook, ["one", "two", "three"], tmp_path))


def test_computed_settings_are_known_by_name(notebook):
    assert runner.settings(notebook) == {
        "MODEL": "one", "OTHER": "two", "K": 3, "PROMPTS": ["a", "b"], "HOME": ...,
    }  # fmt: skip
    write(new_notebook(cells=[new_code_cell("a = 1")]), notebook)
    with pytest.raises(ValueError, match="tagged 'parameters'"):
        runner.settings(notebook)


def test_the_table_of_claims_is_written_and_names_what_does_not_run(
    notebook, tmp_path, monkeypatch
):
    content = runner.read(notebook)
    content.cells[1].source = 'assert MODEL != "mini-vit"\n' + SECOND.replace('"two"', '"mini-rn"')
    content.cells[1].outputs = [
        new_output("display_data", metadata={CLAIM: {"text": "As committed.", "holds": True,
                                                     "model": "one"}})
    ]  # fmt: skip
    content.metadata["gscam_models"] = ["mini-rn", "mini-vit"]
    write(content, notebook)
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    runner.main(str(tmp_path / "claims.md"))
    text = (tmp_path / "claims.md").read_text()
    assert (
        "| 00_one | 2 | As committed. | one, one (50%, 2, 40 %) | mini-rn (25%, 3, 40 %) |" in text
    )
    assert "- 00_one with MODEL = 'mini-vit': AssertionError" in text


def test_the_committed_table_has_every_claim_of_the_notebooks():
    """Its sentences; numbers follow when `make claims` runs the notebooks again."""

    def words(text):
        return NUMBER.sub("#", re.sub(r"\\?[|\n]", " ", text))

    table = words((ROOT / "figures" / "table_claims.md").read_text())
    for path in notebooks():
        for claim in runner.claims(runner.read(path), path.stem):
            assert words(claim.text) in table, f"run make claims: {claim}"
