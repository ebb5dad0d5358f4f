"""An unpickler that can run no code: tensors and plain containers only.

A pickle is a program: it names functions and calls them. Here nothing is looked up or imported. Each name becomes a
stand-in of ours: the few that rebuild tensors note down where a tensor's bytes lie, classes become objects that keep
nothing, and calling anything else ends the reading.
"""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from typing import IO, Any

import torch

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}

# What training scripts store beside the weights. A call of these makes an object that keeps nothing.
_INERT_CALLS = {
    "_codecs": {"encode"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int"),
        *("list", "object", "range", "set", "slice", "str", "tuple"),
    },
    "collections": {"Counter", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "torch": {"Size", "device"},
    "torch._utils": {"_rebuild_meta_tensor_no_storage", "_rebuild_qtensor", "_rebuild_sparse_tensor"},
    "torch.serialization": {"_get_layout"},
}
# Their classes are not data: a file that names anything of theirs was made to do harm, also where it calls nothing.
_REFUSED_MODULES = {"builtins", "importlib", "nt", "os", "posix", "runpy", "subprocess", "sys"}


class AsksForCodeError(Exception):
    """The pickle names or calls something that is not data."""


class _StandInType(type):
    """The type of every stand-in: a pickle's call of a class ends in its `called`, and no pickle can change a class."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.called(*args, **kwargs)  # type: ignore[attr-defined]

    def __setattr__(cls, name: str, value: Any) -> None:
        raise AsksForCodeError(f"a change of {cls.__module__}.{cls.__qualname__}")


class _StandIn(metaclass=_StandInType):
    """Stands for a class or function that is not needed; its objects accept whatever a pickle does and keep nothing."""

    __slots__ = ()
    path = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _StandIn:
        return object.__new__(cls)

    @classmethod
    def called(cls, *_args: Any, **_kwargs: Any) -> Any:
        raise AsksForCodeError(cls.path)

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def add(self, item: Any) -> None: ...


class _InertStandIn(_StandIn):
    """Stands for something that may be called, to no effect."""

    __slots__ = ()

    @classmethod
    def called(cls, *_args: Any, **_kwargs: Any) -> _StandIn:
        return cls.__new__(cls)


class _Entries(dict):
    """Stands for an OrderedDict, without the attributes that a state dict hangs on it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None: ...


@dataclass(slots=True)
class StorageRef:
    """A run of bytes in the file, `numel` elements of `dtype`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(slots=True)
class TensorRef:
    """A tensor in the file, not read yet; whatever a hostile pickle put here is checked when it is read."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class _OrderedDict(_StandIn):
    __slots__ = ()

    @classmethod
    def called(cls, items: Any = ()) -> _Entries:
        return _Entries(items)


class _RebuildTensor(_StandIn):
    __slots__ = ()

    @classmethod
    def called(cls, storage: StorageRef, offset: int, size: Any, stride: Any, *_rest: Any) -> TensorRef:
        return TensorRef(storage, offset, tuple(size), tuple(stride), storage.dtype)


class _RebuildUntypedTensor(_StandIn):
    __slots__ = ()

    @classmethod
    def called(
        cls, storage: StorageRef, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_rest: Any
    ) -> TensorRef:
        return TensorRef(storage, offset, tuple(size), tuple(stride), dtype)


class _RebuildParameter(_StandIn):
    __slots__ = ()

    @classmethod
    def called(cls, data: Any, *_rest: Any) -> Any:
        return data


class _RebuildWithAttributes(_StandIn):
    __slots__ = ()

    @classmethod
    def called(cls, rebuild: Any, _type: Any, args: Any, _state: Any) -> Any:
        if rebuild not in _CALLS.values():
            raise AsksForCodeError(f"{getattr(rebuild, 'path', rebuild)} through torch._tensor._rebuild_from_type_v2")
        return rebuild(*args)


_CALLS: dict[tuple[str, str], type[_StandIn]] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildUntypedTensor,
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildWithAttributes,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Runs the pickle's own stack machine, which can reach nothing but stand-ins and plain values."""

    def __init__(self, file: IO[bytes]) -> None:
        # latin1 reads every byte string that Python 2 wrote; names and keys are ASCII.
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, StorageRef] = {}

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes the names of Python 2, as pickle does for its older protocols.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if (module, name) in _CALLS:
            return _CALLS[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        # vars, not getattr: torch imports submodules when asked for their names.
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        inert = name in _INERT_CALLS.get(module, ())
        if not inert and module.partition(".")[0] in _REFUSED_MODULES:
            raise AsksForCodeError(f"{module}.{name}")
        base = _InertStandIn if inert else _StandIn
        return _StandInType(name, (base,), {"__slots__": (), "path": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":
            return pid[1]
        _, dtype, key, _location, numel, *view = pid
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"tensors stored as {getattr(dtype, 'path', dtype)} are not read here")
        if any(view):
            raise ValueError("storages that are views of others are not read here")
        return self.storages.setdefault(key, StorageRef(key, dtype, numel))
