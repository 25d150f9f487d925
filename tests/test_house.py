"""The house rules: what is imported when, what files say about each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gscam_lib as gs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("module", ["gscam_lib", "gscam_lib.cli"])
def test_import_is_light(module):
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'numpy', 'pandas'}} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_public_names_are_there_after_any_import():
    code = """
import gscam_lib.heatmaps, gscam_lib.evaluation, gscam_lib.boxes, gscam_lib as gs
assert all(callable(getattr(gs, n)) for n in gs.__all__ if n[0].islower() and not hasattr(
    getattr(gs, n), "__path__") and n != "figures")
assert set(gs.__all__) <= set(dir(gs))
try:
    gs.nonsense
except AttributeError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no attribute 'nonsense'" in found.stdout


def test_public_functions_have_docstrings():
    for name in gs.__all__:
        assert getattr(gs, name).__doc__, name


def test_environment_yml_equals_pyproject():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^ +- ([\w.\[\],-]+)((?:[<>=~!]=?[\w.,<>=]+)?)$", text, re.M)
    named = {name for name, _ in listed}
    assert {"python", "pip"} <= named
    python = dict(listed)["python"].lstrip("=")
    assert f">={python}" == PROJECT["requires-python"]
    assert "-e .[dev]" in text
    pins = dict(re.findall(r"- ([\w-]+)==([\w.]+)", text))
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)", _constraints(), re.M))
    assert {"torch", "torchvision"} == set(pins)
    assert all(constraints[name] == version for name, version in pins.items())
    assert not re.search(r"=\w+_\d+\s*$", text, re.M), "build strings"


def _constraints():
    return (ROOT / ".ci" / "constraints.txt").read_text()


def test_constraints_pin_what_pyproject_asks_for():
    pinned = {
        n.lower().replace("_", "-") for n in re.findall(r"^([\w.-]+)==", _constraints(), re.M)
    }
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    names = {re.match(r"[\w-]+", w)[0].lower().replace("_", "-") for w in wanted}
    assert names <= pinned
    assert "://" not in _constraints()


def test_nothing_names_a_path_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".ipynb", ".json", ".txt"}:
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"[A-Za-z0-9+/=]{60,}", "", text)  # pictures in notebooks
            assert not re.search(r"/(home|Users|root|work)/\w", text), name


def test_an_installed_package_without_data_says_where_it_is(tmp_path):
    """As a wheel holds it: the package alone. Errors name GSCAM_DATA, caches are the user's."""
    shutil.copytree(ROOT / "gscam_lib", tmp_path / "gscam_lib")
    code = """
import os, gscam_lib as gs
from gscam_lib.paths import CACHE
print(gs.__file__, CACHE)
for call in (gs.load_model, lambda: gs.scenes.load("multi")):
    try:
        call()
    except (ValueError, FileNotFoundError) as error:
        print("GSCAM_DATA" in str(error))
"""
    environment = {k: v for k, v in os.environ.items() if k != "GSCAM_DATA"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
    ).stdout.split("\n")  # fmt: skip
    assert found[0].startswith(str(tmp_path))
    assert "site-packages" not in found[0]
    assert found[1:3] == ["True", "True"]


def test_the_readmes_table_of_methods_is_the_real_one():
    from gscam_lib.methods import methods_table

    assert methods_table() in (ROOT / "README.md").read_text(), "paste `gscam methods`"
