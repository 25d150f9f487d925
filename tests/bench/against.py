"""What ours is held against: bare forward passes, and what others do."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model


def plain_forward(model: Model, images: Tensor, size: int) -> None:
    """Embed images in batches, and nothing else."""
    with torch.inference_mode():
        for batch in images.split(size):
            model.network.encode_image(batch)


def naive(model: Model, image: Any, prompt: str, k: int) -> Tensor:
    """gScoreCAM as the paper's released code goes about it, from METHODS.md: nothing is kept.

    Every call runs the photo again, masks it by all C channels before it takes the k, and encodes
    the prompt anew for every batch.
    """
    trace = Trace(model, Image.fromarray(image), model.layer)
    tokens = model.tokenizer([prompt], context_length=model.network.context_length)
    tokens = tokens.to(model.device)
    text = nn.functional.normalize(model.network.encode_text(tokens), dim=-1)
    score = model.logit_scale * (trace._embedding @ text.T)[0, 0]
    (gradient,) = torch.autograd.grad(score, trace._output)
    chosen = gradient[0].mean((1, 2)).argsort(descending=True)[:k]
    every = trace.masks(torch.arange(len(trace.activations)))
    copies = (trace.pixels * every[:, None])[chosen]
    scores = torch.zeros(len(trace.activations), device=model.device)
    found = []
    with torch.no_grad():
        for batch in copies.split(model.batch_size):
            text = nn.functional.normalize(model.network.encode_text(tokens), dim=-1)
            images = nn.functional.normalize(model.network.encode_image(batch), dim=-1)
            found.append((model.logit_scale * images @ text.T)[:, 0])
    scores[chosen] = torch.cat(found)
    return torch.einsum("c,chw->hw", scores.softmax(0), trace.activations).relu()


def gradcam_scorecam(model: Model, image: Any, prompt: str) -> Any:
    """ScoreCAM of the package grad-cam for one prompt. Needs the extra `dev`."""
    from pytorch_grad_cam import ScoreCAM

    text = model.encode_text([prompt])
    network, scale = model.network, model.logit_scale

    class Logit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = network.visual

        def forward(self, pixels: Tensor) -> Tensor:
            return scale * nn.functional.normalize(self.visual(pixels), dim=-1) @ text.T

    wrapped = Logit()
    with ScoreCAM(wrapped, [model.layer.module]) as cam:
        cam.batch_size = model.batch_size
        return cam(model.preprocess(Image.fromarray(image))[None], [lambda logits: logits[0]])
