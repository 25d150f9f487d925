"""Muon for the matrices and kernels of both towers, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

OTHERS = ("embedding", "projection", "visual.proj", "visual.conv1.weight")  # first, last, tables
ADAMW_SHARE = 0.3  # AdamW's learning rate as a share of Muon's


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a parameter or its gradient as (out, in * height * width), columns in memory order.

    A view, whether the kernel is channels_last or not: what is written there is written here.
    """
    if tensor.ndim == 2:
        return tensor
    if not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(tensor.shape[0], -1)


class TwoOptimizers:
    """torch.optim.Muon and AdamW, stepped as one.

    Muon (Jordan et al. 2024) makes the momentum of every matrix orthogonal, so that rare
    directions learn as fast as common ones. Kernels take part as matrices.
    """

    def __init__(self, towers: nn.Module, weight_decay: float) -> None:
        named = dict(towers.named_parameters())
        self.kernels = [p for name, p in named.items()
                        if p.ndim >= 2 and not any(part in name for part in OTHERS)]  # fmt: skip
        chosen = {id(p) for p in self.kernels}
        rest = [p for p in named.values() if id(p) not in chosen]
        self.matrices = [nn.Parameter(as_matrix(p.data)) for p in self.kernels]
        self.muon = torch.optim.Muon(self.matrices, lr=1e-3, weight_decay=weight_decay,
                                     adjust_lr_fn="match_rms_adamw")  # fmt: skip
        groups = [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
                  {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
        self.adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)

    def step(self, lr: float) -> None:
        """Update all parameters from their gradients; `lr` is Muon's rate."""
        for group in self.muon.param_groups:
            group["lr"] = lr
        for group in self.adamw.param_groups:
            group["lr"] = lr * ADAMW_SHARE
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            if kernel.grad is not None:
                grad = kernel.grad
                if grad.stride() != kernel.stride():  # compiled backwards choose their own layout
                    grad = torch.empty_like(kernel).copy_(grad)
                matrix.grad = as_matrix(grad)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of both."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
