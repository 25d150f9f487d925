"""Controls: maps that do not ask the model anything. A method has to beat them."""

from __future__ import annotations

import torch
from torch import Tensor

from gscam_lib.prompts import Prompt
from gscam_lib.trace import Trace


def center(trace: Trace, prompt: Prompt) -> Tensor:
    """A Gaussian on the middle of the photo, σ a quarter of its sides: (h, w) ≥ 0."""
    rows, columns = trace.activations.shape[1:]
    y = torch.linspace(-2, 2, 2 * rows + 1)[1::2]
    x = torch.linspace(-2, 2, 2 * columns + 1)[1::2]
    return torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2)
