"""How the image tower is computed: in which precision, and masked copies by which engine."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # products of fp32 numbers with 10 bits of them, on NVIDIA GPUs
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
ENGINES = ("torch", "openvino")
HINTS = {"fp32": "f32", "bf16": "bf16"}
APART = {"fp32": 1e-4, "bf16": 1e-2}  # cosine distance from torch's fp32 embedding, at most
LOG = logging.getLogger(__name__)
Encode = Callable[[Tensor], Tensor]
"""From preprocessed images (B, 3, S, S) to their embeddings (B, D), of any length."""


def check_arithmetic(precision: str, engine: str, device: str | None = None) -> None:
    """Raise ValueError for a precision or an engine that is not known, or not for this device.

    device: its type, None before the weights are anywhere.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Got precision={precision!r}; expected one of {', '.join(PRECISIONS)}.")
    if precision == "tf32" and device not in (None, "cuda"):
        raise ValueError(
            f"Got precision='tf32' on {device}; TF32 is a mode of NVIDIA GPUs (device='cuda'). "
            "Use 'fp32' here."
        )
    if engine not in ENGINES:
        raise ValueError(f"Got engine={engine!r}; expected one of {', '.join(ENGINES)}.")
    if engine == "torch":
        return
    if device not in (None, "cpu"):
        raise ValueError(
            f"Got engine='openvino' on {device}; it is for CPUs. Leave engine out, or use "
            "device='cpu'."
        )
    if precision not in HINTS:
        raise ValueError(
            f"Got engine='openvino' with precision={precision!r}; expected one of "
            f"{', '.join(HINTS)}."
        )
    _openvino()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let products of fp32 matrices and convolutions on CUDA use TF32, or not, for a while.

    The switches belong to the process, and PyTorch's defaults differ: no for matrices, yes for
    convolutions. Since 2.9 each has a second switch; the old one sets both.
    """
    matrices, images = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = [matrices, images.conv, images.rnn] if hasattr(images, "conv") else []
    before = [s.fp32_precision for s in switches]
    old = [p == "tf32" for p in before[:2]] or [matrices.allow_tf32, images.allow_tf32]
    matrices.allow_tf32 = images.allow_tf32 = allowed
    try:
        yield
    finally:
        matrices.allow_tf32, images.allow_tf32 = old
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _openvino() -> Any:
    """The package, kept from reporting its use over the network. Raises ValueError."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if not installed
    try:
        import openvino
    except ImportError as error:
        raise ValueError(
            "engine='openvino' needs the extra openvino: pip install 'gscam_lib[openvino]' "
            "(in a clone: pip install -e '.[openvino]')."
        ) from error
    return openvino


class _Images(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.network.encode_image(pixels)
        return found


@torch.inference_mode(False)
@torch.no_grad()
def openvino_encode(network: Any, size: tuple[int, int], precision: str, name: str) -> Encode:
    """A network's image tower as a program of OpenVINO, on the threads that torch has.

    network: from `folded`, in fp32 on the CPU; size: rows and columns of its input; precision: of
    the program's arithmetic, "fp32" or "bf16"; name: of the model, in messages. Takes seconds for
    small towers, a minute for large ones, and about their weights' memory once more. Raises
    ValueError where the tower cannot be converted, or where its embeddings come out otherwise.
    """
    start = time.perf_counter()
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    openvino = _openvino()
    try:
        with torch.autocast("cpu", enabled=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what tracing takes for constant: it is compared
            expected = network.encode_image(images)
            graph = openvino.convert_model(
                _Images(network).eval(), example_input=images[:2], input=[-1, 3, *size]
            )
        program: Any = openvino.Core().compile_model(graph, "CPU", settings)

        def encode(pixels: Tensor) -> Tensor:
            return torch.from_numpy(program(pixels.float().contiguous().numpy())[0].copy())

        apart = 1 - float(F.cosine_similarity(encode(images), expected).min())
    except Exception as error:  # of torch's tracing, of OpenVINO's reader, of its compiler
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"OpenVINO cannot run the image tower of {name} ({why}). Leave engine out."
        ) from error
    if not apart <= APART[precision]:
        raise ValueError(
            f"OpenVINO's embeddings of {name} are {apart:.1e} (cosine distance) from torch's; "
            f"expected {APART[precision]:.0e} at most. Leave engine out."
        )
    LOG.info("%s runs on OpenVINO in %s: ready in %.0f s, embeddings within %.0e of torch's",
             name, precision, time.perf_counter() - start, max(apart, 0))  # fmt: skip
    return encode
