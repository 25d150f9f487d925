"""Forms of others: models of transformers, the hub's folders, and objects a program holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from tests.bench.forms import (
    Made,
    OpenAI,
    form,
    half,
    network,
    open_clip_folder,
    saved,
    scripted,
    write,
)


class Theirs:
    """A model of transformers behind the two calls of open_clip's."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        if self.model.config.model_type == "siglip2":
            patches = images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 4, 5, 1)
            count, rows, columns = patches.shape[:3]
            mask = torch.ones(count, rows * columns, dtype=torch.long)
            grid = torch.tensor([[rows, columns]] * count)
            flat = patches.reshape(count, rows * columns, -1)
            return self.model.get_image_features(flat, mask, grid).pooler_output
        return self.model.get_image_features(images).pooler_output

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(tokens).pooler_output


@lru_cache
def theirs(kind: str, act: str) -> Any:
    """A CLIPModel, SiglipModel or Siglip2Model with random weights."""
    import transformers

    size = {"num_patches": 16} if kind == "Siglip2" else {"image_size": 64}
    common = {"num_hidden_layers": 2, "hidden_act": act}
    vision = {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 3,
              "patch_size": 16, **size, **common}  # fmt: skip
    text = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "max_position_embeddings": 16, **common}  # fmt: skip
    if kind == "CLIP":
        text |= {"vocab_size": 49408, "eos_token_id": 49407}
        more: dict[str, Any] = {"projection_dim": 32}
    else:
        text |= {"vocab_size": 60, "projection_size": 96, "bos_token_id": 1, "eos_token_id": 1}
        more = {}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def processor(kind: str) -> Any:
    """The processor that goes with it, with CLIP's vocabulary or one of six words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    if kind == "CLIP":
        ours = open_clip.SimpleTokenizer()
        vocabulary = {k.replace("_of_", "of"): v for k, v in ours.encoder.items()}
        renamed = {"<startoftext>": "<|startoftext|>", "<endoftext>": "<|endoftext|>"}
        vocabulary = {renamed.get(k, k): v for k, v in vocabulary.items()}
        tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=list(ours.bpe_ranks))
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
        return transformers.CLIPProcessor(images, tokenizer)
    words = {w: i for i, w in enumerate("<pad> </s> <unk> a cat dog".split())}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    images = transformers.SiglipImageProcessor(size={"height": 64, "width": 64}, resample=2)
    return transformers.SiglipProcessor(images, tokenizer)


def their_folder(d: Path, kind: str, act: str, **how: Any) -> Path:
    theirs(kind, act).save_pretrained(d, **how)
    processor(kind).save_pretrained(d)
    return d


def their_tokens(kind: str) -> int:
    return 49408 if kind == "CLIP" else 60


for _kind, _act in (("CLIP", "quick_gelu"), ("CLIP", "gelu"), ("Siglip", "gelu_pytorch_tanh"),
                    ("Siglip2", "gelu_pytorch_tanh")):  # fmt: skip
    form("transformers", f"{_kind}Model folder, {_act}")(
        lambda d, kind=_kind, act=_act: Made(
            their_folder(d, kind, act), Theirs(theirs(kind, act)), tokens=their_tokens(kind)
        )
    )


@form("transformers", "CLIPModel folder, weights in several files")
def _(d: Path) -> Made:
    folder = their_folder(d, "CLIP", "gelu", max_shard_size="5MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return Made(folder, Theirs(theirs("CLIP", "gelu")))


@form("transformers", "pytorch_model.bin alone, names of transformers", warns="GELU is assumed")
def _(d: Path) -> Made:
    import transformers

    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 1, "hidden_act": "gelu", "eos_token_id": 49407}  # fmt: skip
    vision = {**text, "image_size": 64, "patch_size": 16}
    del vision["eos_token_id"]
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = transformers.CLIPModel(config).eval()
    return Made(saved(model.state_dict(), d / "pytorch_model.bin"), Theirs(model))


@form("transformers", "folder of another kind of model", refused="type 'blip'.*clip, siglip")
def _(d: Path) -> Made:
    write(d / "config.json", '{"model_type": "blip"}')
    return Made(d)


# ---------------------------------------------------------------- the hub


def hub_cache(folder: Path, fill: Callable[[Path], Any]) -> Path:
    """The hub's cache of one model: models--org--name with refs and one snapshot."""
    repository = folder / "models--org--name"
    write(repository / "refs" / "main", "a" * 40)
    fill(repository / "snapshots" / ("a" * 40))
    return repository


form("hub", "folder of its cache, open_clip")(
    lambda d: Made(hub_cache(d, open_clip_folder), network())
)
form("hub", "snapshot in its cache, open_clip")(
    lambda d: Made(next((hub_cache(d, open_clip_folder) / "snapshots").iterdir()), network())
)
form("hub", "folder of its cache, transformers")(
    lambda d: Made(
        hub_cache(d, lambda s: their_folder(s, "CLIP", "gelu")), Theirs(theirs("CLIP", "gelu"))
    )
)


@form("hub", "hf-hub:org/name, in the cache")
def _(d: Path) -> Made:
    hub_cache(d, open_clip_folder)
    return Made("hf-hub:org/name", network())


form("hub", "hf-hub:org/name, not here", refused="gscam download hf-hub:org/absent")(
    lambda d: Made("hf-hub:org/absent")
)


# ---------------------------------------------------------------- live objects


form("live", "open_clip network")(lambda d: Made(network(), network()))
form("live", "open_clip network in fp16")(
    lambda d: Made(copy.deepcopy(network()).half(), copy.deepcopy(network()).half().float())
)
form("live", "open_clip network through torch.compile")(
    lambda d: Made(torch.compile(network()), network())
)
form("live", "open_clip network in DataParallel")(
    lambda d: Made(nn.DataParallel(network()), network())
)


@form("live", "open_clip: (network, preprocess, tokenizer)")
def _(d: Path) -> Made:
    steps = open_clip.image_transform(64, is_train=False, mean=[0.5] * 3, std=[0.5] * 3)
    return Made((network(), steps, open_clip.SimpleTokenizer(context_length=16)), network())


@form("live", "model of OpenAI's package clip, fp16")
def _(d: Path) -> Made:
    low, twin = half(network("rn", quick=True))
    return Made(OpenAI(low), twin)


@form("live", "torch.jit.load of OpenAI's archive")
def _(d: Path) -> Made:
    made = scripted("vit", d)
    return Made(torch.jit.load(made.what), made.twin)


for _kind, _act in (("CLIP", "gelu"), ("Siglip", "gelu_pytorch_tanh"),
                    ("Siglip2", "gelu_pytorch_tanh")):  # fmt: skip
    form("live", f"(model, processor) of transformers: {_kind}Model")(
        lambda d, kind=_kind, act=_act: Made(
            (theirs(kind, act), processor(kind)), Theirs(theirs(kind, act)),
            tokens=their_tokens(kind),
        )
    )  # fmt: skip
form("live", "SiglipModel without its tokenizer", refused="without a tokenizer")(
    lambda d: Made((theirs("Siglip", "gelu"), processor("Siglip").image_processor))
)
form("live", "state dict in memory", warns="GELU is assumed")(
    lambda d: Made(network().state_dict(), network())
)
form("live", "a network that is no CLIP", refused="class Linear")(lambda d: Made(nn.Linear(2, 2)))
