"""A second device where there is none: tensors that say they are elsewhere and refuse to be mixed.

Within `Device()` the device "meta" computes: a tensor that is put there is wrapped, and keeps its
values on the CPU. Every operation is seen; one that mixes wrapped tensors with others raises, as on
a GPU, and so does reading values without bringing them back. What may be mixed there may be here:
numbers (tensors without axes), indices from the CPU, and copies between the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE, ELSEWHERE = torch.device("cpu"), torch.device("meta")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
           aten._index_put_impl_.default, aten._unsafe_index.Tensor}  # fmt: skip


class MixedError(RuntimeError):
    """Tensors of two devices in one operation."""


class Elsewhere(Tensor):
    """A tensor that is on the other device; its values are in `values`."""

    __slots__ = ["values"]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, layout=values.layout, device=ELSEWHERE,
        )  # fmt: skip

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"Elsewhere({self.values!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()  # PyTorch itself does not for subclasses

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MixedError(f"{func} on the other device, outside of Device()")


class Making(TorchFunctionMode):
    """Lists of numbers become tensors here, and then go there: PyTorch leaves the numbers out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            args = args[1:]
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            whole = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(x) if isinstance(x, list | range) else x for x in whole)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


class Device(TorchDispatchMode):
    """The other device: operations are counted by name, and its waits (`waits`) apart."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.waits = 0

    def __enter__(self) -> Device:
        self.making = Making()
        self.making.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.making.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, Elsewhere)]
        if any(x.device == ELSEWHERE for x in tensors if not isinstance(x, Elsewhere)):
            raise MixedError(f"{func} was given a tensor that was made past Device()")
        wanted = kwargs.get("device")
        wrap = bool(there) if wanted is None else torch.device(wanted) == ELSEWHERE
        if not there and not wrap:
            return func(*args, **kwargs)
        self.seen[str(func)] = self.seen.get(str(func), 0) + 1
        self.check(func, args, tensors)
        if func is aten._local_scalar_dense.default or (there and not wrap):
            self.waits += 1
        if wanted is not None:
            kwargs["device"] = HERE
        plain = tree_map(lambda x: x.values if isinstance(x, Elsewhere) else x, (args, kwargs))
        result = func(*plain[0], **plain[1])
        if func is aten.copy_.default:
            wrap = isinstance(args[0], Elsewhere)
        same = {id(x.values): x for x in there}  # what was changed in place is itself
        return tree_map(
            lambda x: same.get(id(x), Elsewhere(x)) if wrap and isinstance(x, Tensor) else x, result
        )

    @staticmethod
    def check(func: Any, args: Any, tensors: list[Tensor]) -> None:
        there = sum(isinstance(x, Elsewhere) for x in tensors)
        here = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim > 0]
        if not there or not here or func in COPIES:
            return
        if func in INDEXED and isinstance(args[0], Elsewhere):
            here = [x for x in here if x.dtype.is_floating_point or x is args[0]]
        if here:
            shapes = [tuple(x.shape) for x in here]
            raise MixedError(f"{func} mixes the other device with CPU tensors of shape {shapes}")


def put(module: nn.Module) -> nn.Module:
    """Put a module's weights and buffers on the other device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = nn.Parameter(Elsewhere(parameter.detach()), requires_grad=False)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Elsewhere(buffer)
    return module
