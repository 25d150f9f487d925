"""Masked copies in int8, which the library does not offer: python tests/bench/int8.py

Needs pip install openvino nncf. Quantized after training on eight photos' copies; maps are made of
other photos, and compared with fp32's; times are of the same engine's bf16, in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from gscam_lib import scenes
from gscam_lib.boxes import heatmap_to_box
from gscam_lib.evaluation.metrics import iou
from gscam_lib.heatmaps import heatmap
from gscam_lib.model.engines import _Images, _openvino
from gscam_lib.trace.model import Model, load_model
from tests.bench.page import write_section

PHOTOS, CALIBRATING, ROUNDS = 12, range(100, 108), 9


def programs(model: Model, copies: list[np.ndarray[Any, Any]]) -> list[Any]:
    """The tower in bf16 and in int8, as programs of OpenVINO."""
    openvino = _openvino()
    import nncf

    size, network = model.preprocessing.size, model._folded()
    kind = nncf.ModelType.TRANSFORMER if model.tower == "vit" else None
    with torch.no_grad():
        graph = openvino.convert_model(
            _Images(network).eval(), example_input=torch.randn(2, 3, *size), input=[-1, 3, *size]
        )
    rough = nncf.quantize(graph, nncf.Dataset(copies), subset_size=len(copies), model_type=kind)
    how = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "bf16"}
    return [openvino.Core().compile_model(g, "CPU", how) for g in (graph, rough)]


def seconds(program: Any, pixels: np.ndarray[Any, Any]) -> float:
    start = time.perf_counter()
    program(pixels)
    return time.perf_counter() - start


def row(name: str) -> str:
    """A model's row: how much faster than bf16, and how near its maps stay to fp32's."""
    model, other = load_model(name, device="cpu"), load_model(name, device="cpu")
    asked = list({e.image_id: e for e in scenes.load("multi")}.values())
    copies = []
    for example in (asked[i] for i in CALIBRATING):
        trace = model.trace(example.image)
        copies.append(
            (trace.pixels * trace.masks(trace.ranking(example.prompt)[:8])[:, None]).numpy()
        )
    bf16, int8 = programs(other, copies)
    other._encode = lambda x: torch.from_numpy(int8(x.contiguous().numpy())[0].copy())
    seconds(int8, copies[0])
    gain = statistics.median(
        seconds(bf16, copies[0]) / seconds(int8, copies[0]) for _ in range(ROUNDS)
    )
    like, same = [], []
    for example in asked[:PHOTOS]:
        a, b = (heatmap(m.trace(example.image), example.prompt) for m in (model, other))
        like.append(np.corrcoef(a.values.flat, b.values.flat)[0, 1])
        boxes = heatmap_to_box(a), heatmap_to_box(b)
        same.append(float(None not in boxes and iou(*boxes)))
    return (f"| {name} | {gain:.2f} | {np.mean(like):.4f} | {min(like):.4f} "
            f"| {np.mean(same):.3f} |")  # fmt: skip


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "## Masked copies in int8\n",
        f"Tried, and left out: OpenVINO after NNCF's quantization on {len(CALIBRATING)} photos' "
        f"copies, one thread. Ratio: bf16's seconds to int8's. Map: correlation with fp32's for "
        f"{PHOTOS} other questions. It needs photos to calibrate on and a second package, and "
        "boxes move. `python tests/bench/int8.py` writes "
        "this.\n",
        "| weights | ratio | map, mean | map, least | IoU of boxes |",
        "|---|---|---|---|---|",
        *(row(name) for name in names),
    ]
    write_section("int8", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:] or ["mini-rn", "mini-vit"])
