"""The two towers while they train: a small vocabulary, sizes that grow, weights averaged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transformer import text_global_pool
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.build.captions import (
    NAME_TEMPLATES,
    OBJECT_TEMPLATES,
    PLACES,
    WORD_TEMPLATES,
    with_article,
)
from gscam_lib.model.prompts import FILLERS
from gscam_lib.scenes import BACKGROUNDS, NAMES

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
SIMPLE_TOKENIZER = open_clip.SimpleTokenizer()


def used_tokens() -> list[int]:
    """Return the ids of all tokens that a caption can hold, in order."""
    sentences = [*NAMES, *(with_article(name) for name in NAMES), "an empty place , and"]
    sentences += [t.replace("#", "").replace("{}", "") for t in
                  (*NAME_TEMPLATES, *OBJECT_TEMPLATES, *WORD_TEMPLATES)]  # fmt: skip
    sentences += [PLACES[place] for place in BACKGROUNDS]
    ids = {0, SIMPLE_TOKENIZER.sot_token_id, SIMPLE_TOKENIZER.eot_token_id}
    for sentence in sentences:
        ids.update(SIMPLE_TOKENIZER.encode(sentence))
    return sorted(ids)  # the end-of-text id stays the largest: pooling looks for it


def vocabulary() -> list[str]:
    """Return what captions speak of, in lower case: the names, places and words for writing."""
    places = [words for place in PLACES.values() for words in place.split() if words]
    templates = " ".join((*OBJECT_TEMPLATES, *WORD_TEMPLATES)).replace("#", "").replace("{}", "")
    extra = dict.fromkeys([*places, *templates.split(), "pair", "empty", "place"])
    return [name.lower() for name in NAMES] + [word for word in extra if word not in FILLERS]


class Towers(nn.Module):
    """A CLIP whose token table holds only the tokens that captions use.

    It computes what open_clip.CLIP computes; `export` gives the full model's state.
    """

    def __init__(self, config: Mapping[str, Any], size: int) -> None:
        super().__init__()
        self.tokens = used_tokens()
        self._row = {token: row for row, token in enumerate(self.tokens)}
        text = {**config["text_cfg"], "vocab_size": len(self.tokens)}
        vision = {**config["vision_cfg"], "image_size": size}
        self.clip = open_clip.CLIP(config["embed_dim"], vision, text)
        self.context = int(text["context_length"])
        self.size = size
        self.clip.visual.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.clip.logit_scale.device
        return device

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return (N, context) rows of the small token table."""
        out = torch.zeros(len(texts), self.context, dtype=torch.long)
        start, end = self._row[SIMPLE_TOKENIZER.sot_token_id], len(self.tokens) - 1
        for i, text in enumerate(texts):
            rows = [self._row[token] for token in SIMPLE_TOKENIZER.encode(text)]
            rows = [start, *rows[: self.context - 2], end]
            out[i, : len(rows)] = torch.tensor(rows)
        return out

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return normalized embeddings (N, D); computed no longer than the longest text."""
        ids, clip = self.tokenize(texts).to(self.device), self.clip
        length = int(ids.argmax(dim=-1).max()) + 1  # attention is causal: the rest is unseen
        x = clip.token_embedding(ids[:, :length]) + clip.positional_embedding[:length]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        x = text_global_pool(clip.ln_final(x), ids[:, :length], clip.text_pool_type)
        return F.normalize(x @ clip.text_projection, dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return normalized embeddings (N, D) of uint8 images (N, H, W, 3)."""
        x = images.to(self.device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.clip.visual(x).float(), dim=-1)

    def resize(self, size: int) -> None:
        """Interpolate the visual positional embedding for images of `size` pixels."""
        self.size, visual = size, self.clip.visual
        if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
            holder, side = visual.attnpool, size // 32
        else:
            holder, side = visual, size // visual.patch_size[0]
        old = holder.positional_embedding.detach()
        if old.shape[0] == side * side + 1:
            return
        before = round((old.shape[0] - 1) ** 0.5)
        grid = old[1:].T.reshape(1, -1, before, before)
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        new = torch.cat([old[:1], grid.reshape(old.shape[1], -1).T])
        holder.positional_embedding = nn.Parameter(new.contiguous())

    def full_state(self, vocabulary: int) -> dict[str, Tensor]:
        """Return the state of the open_clip model in fp16; unused tokens are zero."""
        state = {k: v.detach().cpu().clone() for k, v in self.clip.state_dict().items()}
        table = torch.zeros(vocabulary, state["token_embedding.weight"].shape[1])
        table[self.tokens] = state["token_embedding.weight"]
        state["token_embedding.weight"] = table
        half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        return {k: v.contiguous() for k, v in half.items()}


def read(folder: Path) -> Towers:
    """Return the towers of an exported folder. Errors: FileNotFoundError where it has no model."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"no model.safetensors in {folder.name}: train that model first")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    towers = Towers(config, config["vision_cfg"]["image_size"])
    state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][towers.tokens]
    towers.clip.load_state_dict(state)
    return towers.requires_grad_(False).eval()


def export(towers: Towers, config: Mapping[str, Any], folder: Path) -> None:
    """Write open_clip_config.json and model.safetensors (fp16) that open_clip loads as it is.

    The input size is the one that the towers were last trained at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "squash",
    }  # fmt: skip
    vision = {**config["vision_cfg"], "image_size": towers.size}
    model = {**config, "vision_cfg": vision, "quick_gelu": False}
    content = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "vocabulary.json").write_text(json.dumps({"names": vocabulary()}, indent=0) + "\n")
    save_file(towers.full_state(config["text_cfg"]["vocab_size"]), folder / "model.safetensors")


@torch.no_grad()
def similarities(towers: Towers, images: NDArray[np.uint8], texts: Sequence[str]
                 ) -> NDArray[np.float32]:  # fmt: skip
    """Return the cosines (N, len(texts)) of uint8 images (N, H, W, 3) with texts."""
    towers.eval()
    with torch.autocast(towers.device.type, torch.bfloat16):
        table = towers.encode_text(texts).float()
        rows = [towers.encode_image(torch.from_numpy(images[i : i + 64])).float() @ table.T
                for i in range(0, len(images), 64)]  # fmt: skip
    return torch.cat(rows).float().cpu().numpy()
