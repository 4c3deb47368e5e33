"""Reading CIFAR's pickles without executing them.

A pickle is a program: loading one calls whatever it names. Here the only names allowed are those in a pickled uint8
array, and they stand for inert stand-ins that note down what the pickle says; numpy sees the bytes after they have been
checked.
"""

import math
import pickle
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.errors import DataError


class PickledArray:
    """What a pickle says about a uint8 array."""

    __slots__ = ("_content", "_fortran_order", "_shape")

    def __init__(self) -> None:
        self._shape, self._fortran_order, self._content = (0,), False, b""  # until the state arrives

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Dtype", bool, bytes | str]) -> None:
        _, shape, dtype, fortran_order, content = state
        # Strings of Python 2 arrive as latin-1 text.
        self._set(shape, dtype, fortran_order, content.encode("latin1") if isinstance(content, str) else content)

    def _set(self, shape: tuple[int, ...], dtype: "_Dtype", fortran_order: bool, content: bytes | bytearray) -> None:
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not (sizes and isinstance(dtype, _Dtype) and isinstance(content, (bytes, bytearray))):
            raise pickle.UnpicklingError("an array with an invalid state")
        if len(content) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(content)} bytes")
        self._shape, self._fortran_order, self._content = shape, bool(fortran_order), bytes(content)

    def numpy(self) -> NDArray[np.uint8]:
        """The array, writable."""
        flat = np.frombuffer(bytearray(self._content), dtype=np.uint8)
        return flat.reshape(self._shape, order="F" if self._fortran_order else "C")


def load_pickled_arrays(content: bytes, path: str) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and uint8 arrays (``PickledArray``); bytes keys become text.

    Raises:
        DataError: the pickle names anything else (nothing of it is executed), is damaged, or is not a dictionary.
    """
    try:
        loaded = _ArrayUnpickler(BytesIO(content), encoding="latin1").load()
    except _RefusedError as error:
        raise DataError(
            f"{path} is a pickle that would run {error}; refused, nothing was executed. Get the file from its publisher"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(
            f"{path} is not a readable pickle ({type(error).__name__}: {error}); get the file again"
        ) from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds a {type(loaded).__name__}, expected a dictionary; get the file again")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in loaded.items()}


class _RefusedError(Exception):
    """The name of a global that is not allowed."""


class _Inert:
    """A callable that a pickle may name. It has no attributes, so that no pickle can change it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"a state for {type(self).__name__}")


class _Dtype(_Inert):
    """numpy.dtype("u1"). Its state holds the byte order, which one byte does not have."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _MakeDtype(_Inert):
    __slots__ = ()

    def __call__(self, code: object, *flags: object) -> _Dtype:
        if code not in ("u1", "|u1", "uint8"):
            raise pickle.UnpicklingError(f"an array of type {code!r}, expected uint8")
        return _Dtype()


class _ArrayType(_Inert):
    """numpy.ndarray, which pickles name only as an argument."""

    __slots__ = ()


class _Reconstruct(_Inert):
    """numpy's _reconstruct(type, shape, code): an array whose state follows."""

    __slots__ = ()

    def __call__(self, array_type: object, shape: object, code: object) -> PickledArray:
        return PickledArray()


class _FromBuffer(_Inert):
    """numpy's _frombuffer(buffer, dtype, shape, order): an array in pickle protocol 5."""

    __slots__ = ()

    def __call__(self, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> PickledArray:
        array = PickledArray()
        array._set(shape, dtype, order == "F", buffer)
        return array


class _Encode(_Inert):
    """codecs.encode, as which Python 3 writes bytes in protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
        return text.encode("latin1")


# numpy 2 renamed numpy.core; the original files were written by numpy 1.
_ALLOWED: dict[tuple[str, str], _Inert] = {
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise _RefusedError(f"{module_name}.{global_name}") from None
