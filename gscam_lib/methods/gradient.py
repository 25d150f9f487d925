"""Methods that combine activations A with their gradients G, both (C, h, w); no masking."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gscam_lib.methods.method import finite, method
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace


@method("Grad-CAM", "Selvaraju et al., ICCV", 2017, backward="1", as_released={}, parity="2e-6")
def gradcam(trace: Trace, prompt: Prompt) -> Tensor:
    """Grad-CAM: activations weighted by their mean gradients: (h, w) ≥ 0.

    L = ReLU(Σ_c w_c A_c), w_c the mean of G_c over places; A activations and G = ∂s/∂A (C, h, w).
    Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    weights = trace.gradients(prompt).mean((1, 2))
    return torch.einsum("c,chw->hw", weights, trace.activations).relu()


@method(
    "Grad-CAM++", "Chattopadhay et al., WACV", 2018, name="gradcam++", backward="1",
    as_released={}, parity="2e-6 (grad-cam, large gradients)",
)  # fmt: skip
def gradcam_plus_plus(trace: Trace, prompt: Prompt) -> Tensor:
    """Grad-CAM++: positive gradients, each weighted by its share α in the score: (h, w) ≥ 0.

    L = ReLU(Σ_c w_c A_c), w_c = Σ α_c ReLU(G_c), α = G² / (2 G² + ΣA_c G³): the score is taken as
    the exponent, so that α needs first derivatives only. G² cancels, which spares the 1e-6 that the
    package grad-cam adds below and that hides small gradients; torchcam follows another equation.
    Chattopadhay et al., Grad-CAM++, WACV 2018, equations 5, 7 and 19.
    """
    A, G = trace.activations, trace.gradients(prompt)
    alpha = 1 / (2 + A.sum((1, 2), keepdim=True) * G)
    weights = (alpha * G.relu()).sum((1, 2))
    return torch.einsum("c,chw->hw", weights, A).relu()


@method("XGrad-CAM", "Fu et al., BMVC", 2020, backward="1", as_released={}, parity="2e-6")
def xgradcam(trace: Trace, prompt: Prompt) -> Tensor:
    """XGrad-CAM: gradients averaged with the activations as weights: (h, w) ≥ 0.

    L = ReLU(Σ_c w_c A_c), w_c = Σ(A_c G_c) / ΣA_c, the sums over places.
    Fu et al., Axiom-based Grad-CAM, BMVC 2020.
    """
    A, G = trace.activations, trace.gradients(prompt)
    weights = (A * G).sum((1, 2)) / (A.sum((1, 2)) + 1e-7)
    return torch.einsum("c,chw->hw", weights, A).relu()


@method(
    "HiResCAM", "Draelos and Carin, arXiv 2011.08891", 2020, backward="1",
    as_released={}, parity="3e-6 (grad-cam)",
)  # fmt: skip
def hirescam(trace: Trace, prompt: Prompt) -> Tensor:
    """HiResCAM: activation times gradient, place by place, no averaging: (h, w) ≥ 0.

    L = ReLU(Σ_c A_c G_c).
    Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020.
    """
    return (trace.activations * trace.gradients(prompt)).sum(0).relu()


@method("LayerCAM", "Jiang et al., IEEE TIP", 2021, backward="1", as_released={}, parity="2e-6")
def layercam(trace: Trace, prompt: Prompt) -> Tensor:
    """LayerCAM: activation times positive gradient, place by place: (h, w) ≥ 0.

    L = ReLU(Σ_c A_c ReLU(G_c)).
    Jiang et al., LayerCAM, IEEE TIP 2021.
    """
    return (trace.activations * trace.gradients(prompt).relu()).sum(0).relu()


@method("Eigen-CAM", "Muhammad and Yeasin, IJCNN", 2020, uses_prompt=False)
def eigencam(trace: Trace, prompt: Prompt) -> Tensor:
    """Eigen-CAM: activations along their first principal component; no prompt: (h, w) ≥ 0.

    L = ReLU(± σ₁ u₁) of A as a matrix places × C, each channel's mean taken off.
    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020. The paper does not centre the activations; grad-cam
    does, and so do we, since the first component is close to the mean activation otherwise.
    """
    return _first_component(finite(trace, trace.activations, "layer")).relu()


@method("Eigen-Grad-CAM", "Gildenblat et al., package grad-cam", 2021, backward="1")
def eigengradcam(trace: Trace, prompt: Prompt) -> Tensor:
    """Eigen-Grad-CAM: activation times gradient along its first component: (h, w) ≥ 0.

    L as `eigencam`'s, of A ⊙ G instead of A.
    Gildenblat et al., the package grad-cam, 2021: Eigen-CAM made to depend on the prompt.
    """
    maps = trace.activations * trace.gradients(prompt)
    return _first_component(finite(trace, maps, "gradient")).relu()


def _first_component(maps: Tensor) -> Tensor:
    """Centred (C, h, w) maps along their first singular vector: (h, w)."""
    rows = maps.flatten(1).T
    rows = rows - rows.mean(0)
    u, s, _ = torch.linalg.svd(rows, full_matrices=False)
    along: Tensor = u[:, 0] * s[0]
    return (_sign(along, rows) * along).reshape(maps.shape[1:])


def _sign(along: Tensor, rows: Tensor) -> int:
    """The sign of a component, which means nothing by itself; never a matter of rounding.

    High shall be where the channels' sum is high. After a layer norm that sum is the same at every
    place: then where the component is furthest from zero, for objects are smaller than backgrounds.
    """
    agreement = along @ rows.sum(1)
    if agreement.abs() > 1e-4 * along.norm() * rows.norm() * rows.shape[1] ** 0.5:
        return 1 if agreement > 0 else -1
    far = (along.abs() > (1 - 1e-4) * along.abs().max()).nonzero()[0]  # the first of equals
    return 1 if along[far] > 0 else -1


@method(
    "FullGrad", "Srinivas and Fleuret, NeurIPS", 2019,
    forward="2", backward="1", towers=("resnet", "cnn"), parity="2e-6 (grad-cam)",
)  # fmt: skip
def fullgrad(trace: Trace, prompt: Prompt) -> Tensor:
    """FullGrad: gradient times input, and gradient times bias of every layer: (S, S) ≥ 0.

    L = ψ(G_x ⊙ x) + Σ_layers Σ_c ψ(G_c b_c), ψ the absolute value, min-maxed and resized. The
    biases b of convolutions and batch norms, the implicit ones of running means included. ψ is
    applied channel by channel, as the equation reads and as in the package grad-cam; the authors'
    code min-maxes all channels of a layer together.
    Srinivas and Fleuret, Full-Gradient Representation, NeurIPS 2019; for
    piecewise linear networks, so no ViTs (on ours, smooth activations make it approximate).
    """
    sites, biases = trace.keep("biases", lambda: _biases(trace.model.network.visual))
    pixels, outputs, embedding = trace.keep("fullgrad", lambda: trace.keep_outputs(sites))
    with torch.enable_grad(), trace.model.running():
        score = trace.model.scores(embedding, prompt)[0]
        at_input, *grads = torch.autograd.grad(score, [pixels, *outputs], retain_graph=True)
    size = trace.pixels.shape[1:]
    total = _rescaled((at_input * pixels.detach())[0], size)
    for bias, grad in zip(biases, grads, strict=True):
        total = total + _rescaled(grad[0] * bias[:, None, None], size)
    return total


def _biases(visual: nn.Module) -> tuple[list[nn.Module], list[Tensor]]:
    """Modules whose output has just got a bias for each channel, and these biases (C,)."""
    sites: list[nn.Module] = []
    biases: list[Tensor] = []
    for module in visual.modules():
        bias = module.bias if isinstance(module, nn.Conv2d | nn.BatchNorm2d) else None
        if bias is None:
            continue
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None  # the two come together
            deviation = (module.running_var + module.eps).sqrt()
            bias = bias - module.running_mean * module.weight / deviation
        # timm's batch norms go on to an activation; the identity before it has what we need.
        drop = getattr(module, "drop", None)
        sites.append(drop if isinstance(drop, nn.Module) else module)
        biases.append(bias.detach())
    return sites, biases


def _rescaled(maps: Tensor, size: torch.Size) -> Tensor:
    """|maps| (C, h, w), each min-maxed and resized, and their sum: (S, S)."""
    maps = maps.abs()
    maps = maps - maps.amin((1, 2), keepdim=True)
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-7)
    # Resizing is linear, so the sum may come first.
    return F.interpolate(maps.sum(0)[None, None], size, mode="bilinear")[0, 0]
