"""Methods that weight activations by gradients, without masking."""

from __future__ import annotations

import torch
from torch import Tensor

from gscam_lib.prompts import Prompt
from gscam_lib.trace import Trace


def gradcam(trace: Trace, prompt: Prompt) -> Tensor:
    """Grad-CAM: activations weighted by their mean gradients: (h, w) ≥ 0.

    Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    weights = trace.gradients(prompt).mean((1, 2))
    return torch.einsum("c,chw->hw", weights, trace.activations).relu()
