"""An independent, slow gScoreCAM: for loops, nothing shared, no hooks. From METHODS.md alone."""

import math

import numpy as np
import torch
from PIL import Image


def pixels_of(image, size, mean, std):
    squashed = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    out = np.zeros((3, size, size))
    for c in range(3):
        out[c] = (np.asarray(squashed, dtype=float)[:, :, c] / 255 - mean[c]) / std[c]
    return out


def split_tower(model):
    """Two functions: pixels -> (C, h, w) as a leaf, and the leaf -> embedding."""
    visual = model.network.visual
    if model.name == "tiny-resnet":

        def first(x):
            x = visual.layer1(visual.stem(x))
            return visual.layer4(visual.layer3(visual.layer2(x)))

        return first, visual.attnpool
    if model.name == "tiny-timm-cnn":
        return visual.trunk.forward_features, lambda a: visual.head(visual.trunk.forward_head(a))
    if model.name == "tiny-vit":
        block = visual.transformer.resblocks[-1]

        def before(x):
            x = visual.ln_pre(visual._embeds(x))
            for other in visual.transformer.resblocks[:-1]:
                x = other(x)
            return x

        return _token_tower(block, block.ln_1, before, visual)
    raise NotImplementedError(model.name)


def _token_tower(block, norm, before, visual):
    state = {}

    def first(x):
        state["residual"] = before(x).detach()
        tokens = norm(state["residual"])
        state["cls"] = tokens[:, :1].detach()
        return tokens[:, 1:].transpose(1, 2).unflatten(2, visual.grid_size)

    def rest(a):
        tokens = torch.cat([state["cls"], a.flatten(2).transpose(1, 2)], 1)
        attended, _ = block.attn(tokens, tokens, tokens, need_weights=False)
        x = state["residual"] + attended
        x = x + block.mlp(block.ln_2(x))
        return visual.ln_post(x)[:, 0] @ visual.proj

    return first, rest


def logit_of(model, features, prompt):
    text = model.network.encode_text(model.tokenizer([prompt], context_length=16))[0]
    cosine = (features @ text) / (features.norm() * text.norm())
    return math.exp(float(model.network.logit_scale.detach())) * cosine


def activations_and_gradients(model, image, prompt):
    mean = model.preprocessing.mean
    std = model.preprocessing.std
    pixels = torch.tensor(pixels_of(image, model.input_size, mean, std), dtype=torch.float32)
    first, rest = split_tower(model)
    leaf = first(pixels[None]).detach().requires_grad_(True)
    logit_of(model, rest(leaf)[0], prompt).backward()
    return pixels, leaf.detach()[0].numpy(), leaf.grad[0].numpy()


def upsample(small, size):
    """Bilinear with aligned corners, one pixel at a time."""
    h, w = small.shape
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * (h - 1) / (size - 1), j * (w - 1) / (size - 1)
            y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
            dy, dx = y - y0, x - x0
            top = small[y0, x0] * (1 - dx) + small[y0, x0 + 1] * dx
            bottom = small[y0 + 1, x0] * (1 - dx) + small[y0 + 1, x0 + 1] * dx
            out[i, j] = top * (1 - dy) + bottom * dy
    return out


@torch.no_grad()
def masked_score(model, pixels, activation, prompt):
    large = upsample(activation, model.input_size)
    mask = (large - large.min()) / (large.max() - large.min() + 1e-6)
    masked = pixels * torch.tensor(mask, dtype=torch.float32)
    return float(logit_of(model, model.network.encode_image(masked[None])[0], prompt))


def gscorecam(model, image, prompt, k):
    pixels, activations, gradients = activations_and_gradients(model, image, prompt)
    count = len(activations)
    means = [gradients[c].mean() for c in range(count)]
    chosen = sorted(range(count), key=lambda c: -means[c])[:k]
    scores = [0.0] * count
    for c in chosen:
        score = masked_score(model, pixels, activations[c], prompt)
        scores[c] = 0.0 if math.isnan(score) else score
    total = sum(math.exp(s) for s in scores)
    out = np.zeros(activations.shape[1:])
    for c in range(count):
        out += math.exp(scores[c]) / total * activations[c]
    return np.maximum(out, 0)


def otsu_box(values):
    """The paper's box by plain search: best threshold, flood fill, largest bounding rectangle."""
    grey = (values * 255).astype(int)
    best, threshold = -1.0, 0
    for t in range(grey.min(), grey.max()):
        low, high = grey[grey <= t], grey[grey > t]
        between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
        if between > best * (1 + 1e-12):
            best, threshold = between, t
    todo = {(int(i), int(j)) for i, j in np.argwhere(grey > threshold)}
    boxes = []
    while todo:
        region, front = [], [todo.pop()]
        while front:
            i, j = front.pop()
            region.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & todo
            todo -= near
            front.extend(near)
        ys, xs = zip(*region, strict=True)
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))


# ---------------------------------------------------------------- a ViT with nothing hidden


def vit(model, image, bumps=None, attention=None):
    """open_clip's ViT step by step and head by head: all it computes, as lists over the blocks.

    bumps: zeros (heads, N, N) added to each block's attention, so that gradients by it are theirs;
    attention: for the last block, a function of one head's (q, k, v) instead of softmax(qk/√d).
    """
    visual = model.network.visual
    mean, std = model.preprocessing.mean, model.preprocessing.std
    pixels = torch.tensor(pixels_of(image, model.input_size, mean, std), dtype=torch.float32)[None]
    patches = visual.conv1(pixels).flatten(2)[0].T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(x)
    blocks = visual.transformer.resblocks
    seen = {key: [] for key in ("x", "normed", "q", "k", "v", "A", "o", "out")}
    for b, block in enumerate(blocks):
        normed = block.ln_1(x)
        width, heads = normed.shape[1], block.attn.num_heads
        d = width // heads
        W, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        q, k, v = (normed @ W[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
                   for i in range(3))  # fmt: skip
        maps, parts = [], []
        for h in range(heads):
            own = [t[:, h * d : (h + 1) * d] for t in (q, k, v)]
            if attention is not None and b == len(blocks) - 1:
                A = attention(*own)
            else:
                A = softmax_attention(*own)
            A = A if bumps is None else A + bumps[b][h]
            maps.append(A)
            parts.append(A @ own[2])
        o = torch.cat(parts, 1)
        out = x + o @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
        out = out + block.mlp(block.ln_2(out))
        for key, value in zip(seen, (x, normed, q, k, v, torch.stack(maps), o, out), strict=True):
            seen[key].append(value)
        x = out
    return seen


def softmax_attention(q, k, v):
    return ((q @ k.T) / math.sqrt(q.shape[1])).softmax(1)


def joint(model, tokens):
    """Tokens (n, W) in the joint space, not normalized: (n, D)."""
    visual = model.network.visual
    return torch.stack([visual.ln_post(t[None])[0] @ visual.proj for t in tokens])


def vit_logit(model, seen, prompt):
    return logit_of(model, joint(model, seen["out"][-1][:1])[0], prompt)


def zero_bumps(model):
    blocks = model.network.visual.transformer.resblocks
    n = model.network.visual.positional_embedding.shape[0]
    return [torch.zeros(b.attn.num_heads, n, n, requires_grad=True) for b in blocks]


def minmax(values):
    values = np.asarray(values, dtype=np.float64)
    assert values.max() > values.min(), "a flat map would agree with anything"
    return (values - values.min()) / (values.max() - values.min())


def rise_mask(grid, shift, size):
    """One RISE mask: bilinear with half-pixel centres to one cell more than the photo, then cut."""
    cells = len(grid)
    large = (cells + 1) * math.ceil(size / cells)
    where = ((np.arange(large) + 0.5) * cells / large - 0.5).clip(0, cells - 1)
    rows = np.stack([np.interp(where, range(cells), row) for row in grid])
    up = np.stack([np.interp(where, range(cells), column) for column in rows.T]).T
    return up[shift[0] : shift[0] + size, shift[1] : shift[1] + size]


class Scalar(torch.nn.Module):
    """A CLIP as other packages want it: from pixels to one score, (B, 1)."""

    def __init__(self, model, prompt):
        super().__init__()
        self.network, self.scale = model.network, model.logit_scale
        self.text = model.encode_target(prompt)[0].clone()

    def forward(self, pixels):
        features = self.network.encode_image(pixels)
        return (self.scale * features @ self.text / features.norm(dim=1))[:, None]
