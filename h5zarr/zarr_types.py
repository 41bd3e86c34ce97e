"""The Zarr data types that zarr-python lacks, so that a reader gets what h5py gives.

``h5zarr.numpy`` is any NumPy dtype of fixed size: compounds that bear arrays, long doubles. An element
is stored as NumPy has it in memory, whatever the codec ``bytes`` says of byte order, which the dtype
itself tells. The fill value is the base64 of one element::

    {"name": "h5zarr.numpy", "configuration": {"descr": [["time", "<f8"], ["position", "<f4", [3]]]}}

``h5zarr.sequence`` is a sequence of variable length: an array of objects, each a NumPy array of the base
dtype. Items that are arrays themselves have a ``base_shape``. The only fill value is the empty sequence,
``[]``; the codec is ``h5zarr.sequence``::

    {"name": "h5zarr.sequence", "configuration": {"base": "<f4", "base_shape": [3]}}

`h5zarr.dtype_json` tells how dtypes are written. zarr finds both by the entry point group
``zarr.data_type``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from zarr.core.buffer.cpu import Buffer
from zarr.core.dtype.common import HasItemSize, HasObjectCodec
from zarr.dtype import ZDType, data_type_registry

from h5zarr.dtype_json import (
    NUMPY_TYPE,
    SEQUENCE_TYPE,
    dtype_from_json,
    dtype_to_json,
    numpy_data_type,
    sequence_data_type,
)
from h5zarr.errors import ReferencesError
from h5zarr.model import JSON
from h5zarr.sequences import empty_sequence

try:
    from zarr.errors import DataTypeValidationError
except ImportError:  # zarr 3.1
    from zarr.dtype import DataTypeValidationError  # type: ignore[no-redef]

_X87_MANTISSA_BITS = 63
_X87_BYTES = 10

__all__ = ["Buffer", "NumPyType", "SequenceType"]


class _ZarrV3Type(ZDType[Any, Any]):
    """What both data types do not do: Zarr v2, and standing for a NumPy dtype of their own accord."""

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[Any]) -> Self:
        """Raise DataTypeValidationError: zarr's own choice of data types for new arrays stays as it is."""
        raise DataTypeValidationError(f"{cls._zarr_v3_name} has to be asked for by name")

    @classmethod
    def _from_json_v2(cls, data: JSON) -> Self:
        raise DataTypeValidationError(f"{cls._zarr_v3_name} is a data type of Zarr v3")

    @classmethod
    def _from_json_v3(cls, data: JSON) -> Self:
        if not isinstance(data, Mapping) or data.get("name") != cls._zarr_v3_name:
            raise DataTypeValidationError(f"not {cls._zarr_v3_name}: {data!r}")
        # Any other error is not taken for "some other data type": zarr shows it
        return cls._from_configuration(data.get("configuration"))

    @classmethod
    def _from_configuration(cls, configuration: JSON) -> Self:
        raise NotImplementedError

    def to_json(self, zarr_format: int) -> JSON:
        """Return the ``data_type`` of a metadata document (Zarr v3 core, "Data types").

        Raises
        ------
        ValueError
            It was asked for in Zarr v2, which has no such data type.
        """
        if zarr_format != 3:
            raise ValueError(f"{self._zarr_v3_name} is a data type of Zarr v3")
        return self._v3_json()

    def _v3_json(self) -> JSON:
        raise NotImplementedError

    def _check_scalar(self, data: object) -> bool:
        try:
            self.cast_scalar(data)
        except TypeError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class NumPyType(_ZarrV3Type, HasItemSize):
    """Data type ``h5zarr.numpy``: any packed NumPy dtype of fixed size."""

    dtype_cls: ClassVar[type[np.dtype[Any]]] = np.dtype
    _zarr_v3_name: ClassVar[str] = NUMPY_TYPE

    dtype: np.dtype[Any]
    """Dtype of one element; no subarray."""

    def __post_init__(self) -> None:
        _check_packed(self.dtype)

    @classmethod
    def _from_configuration(cls, configuration: JSON) -> Self:
        _check_keys(configuration, {"descr"}, {"descr"})
        return cls(dtype=dtype_from_json(configuration["descr"]))

    def _v3_json(self) -> JSON:
        return numpy_data_type(self.dtype)

    @property
    def item_size(self) -> int:
        """Size of an element in bytes."""
        return self.dtype.itemsize

    def to_native_dtype(self) -> np.dtype[Any]:
        """Return the NumPy dtype that a reader gives the array."""
        return self.dtype

    def default_scalar(self) -> Any:
        """Return an element of zeros."""
        return np.zeros((), self.dtype)[()]

    def cast_scalar(self, data: object) -> Any:
        """Return an element from whatever NumPy makes one of.

        Raises
        ------
        TypeError
            NumPy cannot.
        """
        try:
            return np.array(data, self.dtype).reshape(())[()]
        except ValueError as error:
            raise TypeError(f"not an element of {self.dtype}: {data!r}") from error

    def to_json_scalar(self, data: object, *, zarr_format: int) -> JSON:
        """Return a fill value: base64 of the element's bytes."""
        element = self.cast_scalar(data).tobytes()
        if self.dtype.char in "gG":
            element = _without_padding(element)
        return base64.b64encode(element).decode()

    def from_json_scalar(self, data: JSON, *, zarr_format: int) -> Any:
        """Return the element of a fill value.

        Raises
        ------
        ValueError
            It is not base64 of one element.
        """
        if not isinstance(data, str):
            raise ValueError(f"not base64: {data!r}")
        element = base64.b64decode(data, validate=True)
        if len(element) != self.dtype.itemsize:
            raise ValueError(f"{len(element)} bytes, where an element has {self.dtype.itemsize}")
        return np.frombuffer(element, self.dtype)[0]


class _EmptySequence(np.ndarray[Any, Any]):
    """The empty sequence as a fill value: zarr compares and hashes them, which arrays refuse."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _EmptySequence)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(_EmptySequence)


@dataclass(frozen=True, kw_only=True)
class SequenceType(_ZarrV3Type, HasObjectCodec):
    """Data type ``h5zarr.sequence``: sequences of variable length."""

    dtype_cls: ClassVar[type[np.dtype[Any]]] = np.dtypes.ObjectDType
    _zarr_v3_name: ClassVar[str] = SEQUENCE_TYPE
    # Makes zarr refuse to create an array without this codec: `bytes` cannot store objects
    object_codec_id: ClassVar[str] = SEQUENCE_TYPE

    base: np.dtype[Any]
    """Dtype of an item; a subarray dtype where items are arrays."""

    def __post_init__(self) -> None:
        _check_packed(self.base.base)

    @classmethod
    def _from_configuration(cls, configuration: JSON) -> Self:
        _check_keys(configuration, {"base"}, {"base", "base_shape"})
        base = dtype_from_json(configuration["base"])
        try:
            return cls(base=np.dtype((base, tuple(configuration.get("base_shape", ())))))
        except (TypeError, ValueError) as error:
            raise ReferencesError(f"base_shape is not a shape: {configuration['base_shape']!r}") from error

    def _v3_json(self) -> JSON:
        return sequence_data_type(self.base)

    def to_native_dtype(self) -> np.dtype[Any]:
        """Return NumPy's dtype of objects, with the base where `h5py.check_vlen_dtype` finds it."""
        return np.dtype(object, metadata={"vlen": self.base})

    def default_scalar(self) -> npt.NDArray[Any]:
        """Return the empty sequence."""
        return empty_sequence(self.base).view(_EmptySequence)

    def cast_scalar(self, data: object) -> npt.NDArray[Any]:
        """Return the empty sequence, the only fill value.

        Raises
        ------
        TypeError
            It is another one.
        """
        element = data[()] if isinstance(data, np.ndarray) and data.ndim == 0 else data
        if not isinstance(element, Sized) or len(element):
            raise TypeError(f"a fill value other than the empty sequence: {data!r}")
        return self.default_scalar()

    def to_json_scalar(self, data: object, *, zarr_format: int) -> JSON:
        """Return the fill value."""
        return []

    def from_json_scalar(self, data: JSON, *, zarr_format: int) -> npt.NDArray[Any]:
        """Return the fill value's element.

        Raises
        ------
        ValueError
            It is another one than the empty sequence.
        """
        if data != []:
            raise ValueError(f"a fill value other than the empty sequence: {data!r}")
        return self.default_scalar()


def _without_padding(long_doubles: bytes) -> bytes:
    """Return long doubles with zeros where the 80 bits of x86 leave bytes unused, which hold anything."""
    numbers = np.frombuffer(long_doubles, np.uint8).reshape(-1, np.dtype(np.longdouble).itemsize).copy()
    if np.finfo(np.longdouble).nmant == _X87_MANTISSA_BITS:
        numbers[:, _X87_BYTES:] = 0
    return numbers.tobytes()


def _check_packed(dtype: np.dtype[Any]) -> None:
    if dtype_from_json(dtype_to_json(dtype)) != dtype:
        raise ReferencesError(f"not a packed dtype: {dtype!r}")


def _check_keys(configuration: JSON, required: set[str], known: set[str]) -> None:
    if not isinstance(configuration, Mapping) or not required <= configuration.keys() <= known:
        raise ReferencesError(f"not a configuration with {sorted(required)}: {configuration!r}")


# zarr 3.1 collects the entry points of data types and never loads them. Those of the group
# `zarr.buffer` it loads before it reads any metadata: one names zarr's own `Buffer` in this module.
data_type_registry.register(NUMPY_TYPE, NumPyType)
data_type_registry.register(SEQUENCE_TYPE, SequenceType)
