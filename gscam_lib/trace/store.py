"""Embeddings of masked copies on disk, one safetensors file for each photo, model and layer."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gscam_lib.paths import whole_file


class Store:
    """The embeddings of one key, channel by channel, in one file of a folder.

    key: names weights, photo, layer and version; it is kept in the file and checked. Writes are
    atomic, and join what another process wrote in the meantime.
    """

    def __init__(self, folder: Path | str, key: str) -> None:
        self.key = key
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        self.file = Path(folder) / f"{digest}.safetensors"

    def read(self) -> dict[int, Tensor]:
        """Return what is kept: channel -> (D,). A damaged file counts as empty, with a warning."""
        if not self.file.is_file():
            return {}
        try:
            with safe_open(self.file, "pt") as content:
                if (content.metadata() or {}).get("key") != self.key:
                    raise ValueError("it was written for another photo or model")
                channels = content.get_tensor("channels").tolist()
                embeddings = content.get_tensor("embeddings")
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(
                f"The cache file {self.file.name} cannot be used ({error}); its embeddings are "
                "computed again and the file is replaced.",
                stacklevel=2,
            )
            return {}
        return dict(zip(channels, embeddings, strict=True))

    def write(self, embeddings: Mapping[int, Tensor]) -> None:
        """Keep the embeddings of these channels, beside those that are kept already."""
        whole = self.read() | {c: e.detach().cpu() for c, e in embeddings.items()}
        channels = sorted(whole)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            "channels": torch.tensor(channels),
            "embeddings": torch.stack([whole[c] for c in channels]).float().contiguous(),
        }
        with whole_file(self.file) as file:
            save_file(tensors, file, metadata={"key": self.key})
