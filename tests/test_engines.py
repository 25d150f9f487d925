"""model/engines.py: masked copies by OpenVINO.

Its interface is tested on torch's own tracing, which is what OpenVINO reads; the package itself
where it is installed.
"""

import importlib.util
import logging
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import TOWERS, tiny_clip
from typer.testing import CliRunner

import gscam_lib as gs
from gscam_lib.cli import app
from gscam_lib.evaluation.runner import identity

PROMPT = "a cat"
REAL = "needs the extra openvino: pip install -e '.[openvino]'"


class Pretended(ModuleType):
    """What the library asks of the package, with torch.jit in its place."""

    def __init__(self):
        super().__init__("openvino")
        self.asked, self.converted, self.off, self.refuses = [], 0, 0.0, ""

    def convert_model(self, module, *, example_input, input):
        if self.refuses:
            raise RuntimeError(self.refuses)
        assert input == [-1, *example_input.shape[1:]]
        self.converted += 1
        return torch.jit.trace(module, (example_input,), check_trace=False)

    def Core(self):  # noqa: N802 — its name there
        return self

    def compile_model(self, graph, device, settings):
        self.asked.append((device, settings))
        return lambda pixels: [graph(torch.from_numpy(pixels)).numpy() + self.off]


@pytest.fixture
def openvino(monkeypatch):
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", Pretended())
    return sys.modules["openvino"]


def on_engine(tower, **how):
    exact = tiny_clip(tower)
    return exact, gs.Model(exact.network, exact.tokenizer, engine="openvino", **how)


def agree(exact, quick, photo, atol):
    """Maps of both, from copies in batches of unlike lengths, and gradients that are torch's."""
    a, b = exact.trace(photo), quick.trace(photo, batch_size=7)
    if quick.precision == "fp32":
        np.testing.assert_allclose(b.gradients(PROMPT), a.gradients(PROMPT), atol=1e-6)
    channels = a.ranking(PROMPT)[:10]
    near = a.masked_embeddings(channels) * b.masked_embeddings(channels)
    assert float(near.sum(1).min()) > 1 - atol
    one, two = (gs.heatmap(t, PROMPT, k=20).values for t in (a, b))
    assert np.corrcoef(one.flat, two.flat)[0, 1] > 0.999


@pytest.mark.parametrize("tower", TOWERS)
def test_copies_go_through_the_engine(openvino, photo, tower, caplog):
    caplog.set_level(logging.INFO, "gscam_lib")
    exact, quick = on_engine(tower)
    agree(exact, quick, photo, 1e-6)
    assert openvino.converted == 1  # once in the model's life
    ((device, settings),) = openvino.asked
    assert (device, settings["INFERENCE_PRECISION_HINT"]) == ("CPU", "f32")
    assert settings["INFERENCE_NUM_THREADS"] == torch.get_num_threads()
    assert "on OpenVINO in fp32: ready in" in caplog.text
    with torch.no_grad():
        next(exact.network.visual.parameters()).mul_(1.5)  # of both: they share their weights
    agree(exact, quick, photo, 1e-6)
    assert openvino.converted == 2


def test_runs_name_the_engine(openvino):
    exact, quick = on_engine("resnet")
    rough = gs.Model(exact.network, exact.tokenizer, engine="openvino", precision="bf16")
    assert [identity(m)["precision"] for m in (exact, quick, rough)] == [
        "fp32", "fp32 by openvino", "bf16 by openvino",
    ]  # fmt: skip
    assert len({m.weights_sha for m in (exact, quick, rough)}) == 3


def test_an_engine_that_cannot_says_so(openvino, photo):
    for how, message in (
        ({"engine": "onnx"}, "engine='onnx'; expected one of torch, openvino"),
        ({"engine": "openvino", "precision": "fp16"}, "expected one of fp32, bf16"),
        ({"engine": "openvino", "compile": True}, "expected one of the two"),
        ({"engine": "openvino", "device": "meta"}, "device='meta', which is not here"),
    ):
        with pytest.raises(ValueError, match=message):
            gs.load_model("mini-rn", **how)
    from gscam_lib.model.engines import check_arithmetic

    with pytest.raises(ValueError, match="on cuda; it is for CPUs"):
        check_arithmetic("bf16", "openvino", "cuda")
    _, quick = on_engine("resnet")
    openvino.refuses = "No translation for operation aten::odd"
    with pytest.raises(ValueError, match=r"cannot run the image tower of custom \(No translation"):
        gs.heatmap(quick.trace(photo), PROMPT)
    openvino.refuses, openvino.off = "", 100.0
    with pytest.raises(ValueError, match="cosine distance"):
        gs.heatmap(quick.trace(photo), PROMPT)
    openvino.off = 0.0
    gs.heatmap(quick.trace(photo), PROMPT)  # nothing wrong was kept


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = CliRunner().invoke(app, ["heatmap", "photo.jpg", PROMPT, "--engine", "openvino"])
    assert result.exit_code == 1
    assert "pip install 'gscam_lib[openvino]'" in result.stderr
    elsewhere = ["evaluate", "--dataset", "multi", "--dask", "local", "--engine", "openvino"]
    assert "--dask loads models by their name alone" in CliRunner().invoke(app, elsewhere).stderr


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason=REAL)
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("bf16", 1e-3)])
def test_openvino_itself(photo, precision, atol):
    exact = gs.load_model("mini-rn", device="cpu")
    quick = gs.load_model("mini-rn", device="cpu", engine="openvino", precision=precision)
    agree(exact, quick, photo, atol)
    assert "openvino_telemetry.main" not in sys.modules  # nothing was reported
