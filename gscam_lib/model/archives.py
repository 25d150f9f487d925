"""Archives of tensors: what a weight file holds, read without running anything that is in it.

Knows the forms of files (zip archives of torch.save and TorchScript, safetensors, the pickles of
old PyTorch); not which network the tensors belong to. Tensors are read one at a time, so that a
file costs no more memory than what is taken from it.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from torch import Tensor

ACCEPTED = (
    "weights in a .safetensors file, an archive of torch.save (.pt, .pth, .bin, .ckpt) or a "
    "TorchScript archive such as OpenAI's"
)


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read yet; `read` gives it, in memory of its own, on the CPU.

    Half precision is widened to fp32 when it is read, which is exact.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


Tensors: TypeAlias = dict[str, Stored]


@dataclass(frozen=True)
class Archive:
    """What a file holds: nested dicts of tensors and plain values.

    classes: names of the modules' classes, which only a TorchScript archive tells.
    """

    content: Any
    classes: frozenset[str] = frozenset()


def _wide(dtype: torch.dtype) -> torch.dtype:
    short = dtype.is_floating_point and dtype.itemsize < 4
    return torch.float32 if short else dtype


def held(tensor: Tensor) -> Stored:
    """A tensor that is in memory already; what is read from it is a copy."""
    value = tensor.detach()
    return Stored(
        tuple(value.shape), value.dtype, lambda: value.to("cpu", _wide(value.dtype), copy=True)
    )


def read_archive(path: Path) -> Archive:
    """Read a weight file of any form, told apart by its first bytes. Raises ValueError."""
    with path.open("rb") as file:
        start = file.read(256)
    try:
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if start[8:9] == b"{":
            return Archive(_read_safetensors(path))
        if start.startswith(b"\x80"):
            return Archive(_read_old_pickle(path))
    except Exception as error:  # a damaged or hostile file can break its reader in any way
        raise ValueError(_unreadable(path, error)) from error
    raise ValueError(f"{path} holds no weights: it {_looks_like(start)}. Expected {ACCEPTED}.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object; ValueError if it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected JSON.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object {{…}}.")
    return content


def _unreadable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Refused):
        return (
            f"{path} is not read: {reason}. Weights need no code; keep only them, where the file "
            "comes from, with safetensors.torch.save_file(network.state_dict(), "
            "'model.safetensors')."
        )
    return (
        f"{path} is damaged or incomplete ({os.path.getsize(path):,} bytes; {reason}). Copy or "
        f"download it again. Expected {ACCEPTED}."
    )


def _looks_like(start: bytes) -> str:
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself (run `git lfs pull`)"
    if start.lstrip()[:1] == b"<":
        return "is a web page, as a failed download leaves it"
    if start.startswith(b"GGUF"):
        return "is in the form GGUF, of which this library reads nothing"
    if start.startswith(b"\x89HDF"):
        return "is in the form HDF5 (Keras)"
    if start.lstrip()[:1] == b"{":
        return "is a JSON text"
    return f"begins with {start[:12]!r}"


# ---------------------------------------------------------------- safetensors

SAFETENSORS_PIECE = 1 << 26  # bytes read between two openings: what was mapped is given back


def _read_safetensors(path: Path) -> Tensors:
    current: list[Any] = [None, 0]

    def reader(name: str, size: int) -> Callable[[], Tensor]:
        def read() -> Tensor:
            if current[0] is None or current[1] > SAFETENSORS_PIECE:
                current[:] = [None, 0]
                current[:] = [safe_open(path, framework="pt"), 0]
            current[1] += size
            value: Tensor = current[0].get_tensor(name)
            return value.to(_wide(value.dtype), copy=True)

        return read

    tensors = {}
    with safe_open(path, framework="pt") as file:  # checks the header against the file's size
        with path.open("rb") as raw:
            header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
        for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            shape, kind = tuple(header[name]["shape"]), header[name]["dtype"]
            if kind not in SAFETENSORS_DTYPES:
                raise Refused(f"the tensor {name} is of the type {kind}; expected a plain one")
            dtype = SAFETENSORS_DTYPES[kind]
            tensors[name] = Stored(shape, dtype, reader(name, math.prod(shape) * dtype.itemsize))
    return tensors


SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


# ---------------------------------------------------------------- torch.save and TorchScript


class Refused(pickle.UnpicklingError):
    """The file asks for something that is no tensor."""


class Inert:
    """Stands for an object of a class that is not imported; keeps its state, does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Named(dict[str, Any]):
    """Stands for an OrderedDict; what is to be set on it is let go."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    record: str
    dtype: torch.dtype


HARMLESS = {  # named in training checkpoints beside the weights; none of them is needed
    ("argparse", "Namespace"), ("numpy", "dtype"), ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"), ("_codecs", "encode"), ("torch", "Size"),
    ("torch", "device"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"),
    ("collections", "defaultdict"), ("builtins", "set"), ("__builtin__", "set"),
}  # fmt: skip


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing: every name is one of those below, or an error.

    scripted: in a TorchScript archive the modules' own classes (`__torch__…`) are inert too.
    """

    def __init__(self, file: Any, archive: _ZipTensors, scripted: bool) -> None:
        super().__init__(file)
        self._archive = archive
        self._scripted = scripted
        self.classes: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Named
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return self._archive.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module == "torch.jit._pickle":
            return _first
        if module == "torch" and name.endswith("Storage"):
            return _storage_dtype(name)
        if module == "torch.storage" and name == "UntypedStorage":
            return torch.uint8
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if self._scripted and module.startswith("__torch__"):
            self.classes.add(name)
            return Inert
        if (module, name) in HARMLESS:
            return Inert
        raise Refused(f"it asks to run {module}.{name}, and a file of weights asks for no code")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise Refused("it refers to something that is no tensor")
        return _Storage(f"data/{key}", dtype)


def _first(value: Any = None, *others: Any) -> Any:
    return value


def _storage_dtype(name: str) -> torch.dtype:
    names = {"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
             "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
             "Bool": "bool"}  # fmt: skip
    if (kind := name.removesuffix("Storage")) not in names:
        raise Refused(f"it holds tensors of the type torch.{name}; expected plain ones")
    dtype: torch.dtype = getattr(torch, names[kind])
    return dtype


@dataclass
class _ZipTensors:
    """The tensors of one zip archive; the bytes of a storage are checked against their CRC."""

    path: Path
    prefix: str
    sizes: Mapping[str, int]
    last: list[Any] = field(default_factory=lambda: ["", None])

    @cached_property
    def _open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)  # closed with the last tensor that needs it

    def tensor(self, storage: Any, offset: int, shape: Any, stride: Any, *ignored: Any) -> Stored:
        shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
        if not isinstance(storage, _Storage) or offset < 0 or min((*shape, *stride, 0)) < 0:
            raise Refused("it holds a tensor that is not well formed")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        name = self.prefix + storage.record
        if math.prod(shape) and (last + 1) * storage.dtype.itemsize > self.sizes.get(name, -1):
            raise EOFError(f"a tensor of shape {shape} is longer than {name}")

        def read() -> Tensor:
            if not math.prod(shape):
                return torch.empty(shape, dtype=storage.dtype)
            whole = self.sizes[name] // storage.dtype.itemsize
            dtype = _wide(storage.dtype)
            alone = math.prod(shape) == whole and dtype == storage.dtype
            flat = self._bytes(name, alone)[: whole * storage.dtype.itemsize]
            found = flat.view(storage.dtype).as_strided(shape, stride, offset)
            if alone and found.is_contiguous():
                return found  # it keeps these bytes, nobody else does
            return found.to(dtype, copy=True, memory_format=torch.contiguous_format)

        return Stored(shape, storage.dtype, read)

    def _bytes(self, name: str, alone: bool) -> Tensor:
        """Bytes of a record; alone: in memory that is used for nothing else afterwards."""
        size = self.sizes[name]
        if alone:
            return self._read_into(torch.empty(size, dtype=torch.uint8), name)
        if self.last[0] != name:  # tensors that share a storage follow one another
            if self.last[1] is None or len(self.last[1]) < size:
                self.last[:] = "", None
                self.last[1] = torch.empty(size, dtype=torch.uint8)
            self.last[0] = ""
            self._read_into(self.last[1][:size], name)
            self.last[0] = name
        found: Tensor = self.last[1][:size]
        return found

    def _read_into(self, buffer: Tensor, name: str) -> Tensor:
        try:
            with self._open.open(name) as record:
                view = memoryview(buffer.numpy())  # type: ignore[arg-type]
                while len(view):
                    count = record.readinto(view)  # type: ignore[attr-defined]
                    if not count:
                        raise EOFError(f"{name} ends too early")
                    view = view[count:]
                record.read()  # the end of the record is where its CRC is checked
        except Exception as error:  # as above
            raise ValueError(_unreadable(self.path, error)) from error
        return buffer


def _read_zip(path: Path) -> Archive:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"it is a zip archive without the tensors of PyTorch ({_few(entries)})")
        prefix = pickles[0].removesuffix("data.pkl")
        order = prefix + "byteorder"
        if order in entries and archive.read(order) == b"big":
            raise Refused("its numbers are in big-endian order")
        scripted = f"{prefix}constants.pkl" in entries
        room = os.path.getsize(path)
        plain = {n: e for n, e in entries.items() if e.compress_type == zipfile.ZIP_STORED}
        sizes = {n: e.file_size for n, e in plain.items() if e.file_size <= room}
        tensors = _ZipTensors(path, prefix, sizes)
        with archive.open(pickles[0]) as file:
            reader = _Reader(file, tensors, scripted)
            content = reader.load()
    return Archive(dict(_flat(content)) if scripted else content, frozenset(reader.classes))


def _flat(module: Any, prefix: str = "") -> Iterable[tuple[str, Stored]]:
    """Tensors of a TorchScript module and those inside it, by their dotted names."""
    for name, value in getattr(module, "state", {}).items():
        if isinstance(value, Stored):
            yield prefix + name, value
        elif isinstance(value, Inert):
            yield from _flat(value, f"{prefix}{name}.")


def _read_old_pickle(path: Path) -> Any:
    """Read what torch.save wrote before version 1.6; torch's own restricted unpickler does it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused("it asks for more than tensors, or is no archive of PyTorch") from error
    return content


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
