"""Seconds per masked copy, engine by engine: python tests/bench/engines.py [TOWER…]

Full-size towers of open_clip with random weights, which cost what trained ones cost; one thread,
batches in turn. ONNX Runtime and OpenVINO are measured where they are installed
(pip install onnx onnxruntime openvino); the library needs none of them.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import open_clip
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gscam_lib.model.folded import folded
from tests.bench.page import section_data, write_section

TOWERS = {"RN50": 4, "RN50x16": 1, "ViT-L-14": 1}  # copies in a batch
SLOW = "torch.compile"  # more than a minute to be ready on RN50: of no use on larger ones
ROUNDS = 3
Engine = Callable[[], Tensor]


def lasts(tower: nn.Module, pixels: Tensor) -> Engine:
    tower = copy.deepcopy(tower).to(memory_format=torch.channels_last)
    x = pixels.contiguous(memory_format=torch.channels_last)
    return lambda: tower(x)


def rough(tower: nn.Module, pixels: Tensor) -> Engine:
    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = tower(pixels)
        return found.float()

    return run


def rough_last(tower: nn.Module, pixels: Tensor) -> Engine:
    tower = copy.deepcopy(tower).to(memory_format=torch.channels_last)
    return rough(tower, pixels.contiguous(memory_format=torch.channels_last))


def compiled(tower: nn.Module, pixels: Tensor) -> Engine:
    quick = torch.compile(tower)
    return lambda: quick(pixels)


def onnx_runtime(tower: nn.Module, pixels: Tensor) -> Engine:
    import onnxruntime

    stream = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(tower, (pixels,), stream, dynamo=False, input_names=["pixels"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(stream.getvalue(), options)
    x = {"pixels": pixels.numpy()}
    return lambda: torch.from_numpy(session.run(None, x)[0])


def openvino(precision: str) -> Callable[[nn.Module, Tensor], Engine]:
    def build(tower: nn.Module, pixels: Tensor) -> Engine:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "INFERENCE_PRECISION_HINT": precision}  # fmt: skip
        graph = openvino.convert_model(tower, example_input=pixels, input=list(pixels.shape))
        run: Any = openvino.Core().compile_model(graph, "CPU", settings)
        return lambda: torch.from_numpy(run(pixels.numpy())[0].copy())

    return build


ENGINES: dict[str, Callable[[nn.Module, Tensor], Engine]] = {
    "channels_last": lasts,
    'precision="bf16"': rough,
    "bf16, channels_last": rough_last,
    "torch.compile": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino("f32"),
    "OpenVINO, bf16": openvino("bf16"),
}


def mib() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def timed(engine: Engine) -> float:
    start = time.perf_counter()
    engine()
    return time.perf_counter() - start


def rows(name: str, batch: int) -> list[str]:
    """A tower's engines, each timed in turn with the library's own pass."""
    torch.manual_seed(0)
    network = folded(open_clip.create_model(name, pretrained=None).eval())
    tower: Any = network.visual.eval()
    size = tower.image_size
    pixels = torch.randn(batch, 3, *(size if isinstance(size, tuple) else (size, size)))
    plain: Engine = lambda: tower(pixels)  # noqa: E731 — as the others
    expected, lines = plain(), []
    own = statistics.median(timed(plain) for _ in range(ROUNDS)) / batch
    lines.append(f"| {name} | fp32, as it is | {own:.3f} | 1.00 | 0 | {mib():.0f} in all |")
    for label, build in ENGINES.items():
        if label == SLOW and name != "RN50":
            continue
        before = mib()
        try:
            start = time.perf_counter()
            engine = build(tower, pixels)
            apart = 1 - F.cosine_similarity(engine().float(), expected).min()
        except Exception as error:  # an engine that is not there, or does not take this tower
            lines.append(f"| {name} | {label} | {type(error).__name__} | – | – | – |")
            print(f"{name}, {label}: {str(error)[:300]}", file=sys.stderr, flush=True)
            continue
        warm = time.perf_counter() - start
        pairs = [(timed(plain), timed(engine)) for _ in range(ROUNDS)]
        ratio = statistics.median(a / b for a, b in pairs)
        seconds = statistics.median(b for _, b in pairs) / batch
        more = mib() - before
        lines.append(f"| {name} | {label} (ready in {warm:.0f} s) | {seconds:.3f} | {ratio:.2f} | "
                     f"{max(float(apart), 0):.0e} | {more:+.0f} |")  # fmt: skip
        print(lines[-1], flush=True)
        del engine
        torch.compiler.reset()
    return lines


def table(found: dict[str, list[str]]) -> str:
    """The section of the page."""
    head = [
        "## Cheaper passes\n",
        "Seconds per masked copy on a CPU, one thread; towers of full size, random weights. "
        "Ratio: the library's own fp32 pass to the engine's, median of "
        f"{ROUNDS} rounds in turn. Apart: the largest cosine distance of embeddings from "
        "fp32's. MiB: what the process holds more once the engine is ready and has run. "
        "In the library: `load_model` lays towers out as channels_last, so that its "
        '`precision="bf16"` is the row "bf16, channels_last"; `compile=True`; and '
        '`engine="openvino"`, in fp32 or bf16. ONNX Runtime is left out: nowhere faster than '
        "OpenVINO in fp32, without bf16, and not for ViT-L/14. "
        "`python tests/bench/engines.py` writes this page. "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}.\n",
        "| weights | engine | seconds | ratio | apart | MiB |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line for tower in TOWERS for line in found.get(tower, ()))])


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, list[str]] = section_data("engines") or {}
    for name in names:
        found[name] = rows(name, TOWERS[name])
        write_section("engines", table(found), found)


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1:] or list(TOWERS))
