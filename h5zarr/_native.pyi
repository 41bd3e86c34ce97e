from collections.abc import Callable
from typing import Any

from h5zarr.model import Shape, UInt32Column, UInt64Column
from h5zarr.read_values import KnownType

class ObjectReader:
    def __init__(self, address_of: Callable[[str], int]) -> None: ...
    def attributes(
        self, owner: int, index_type: int, skipped: frozenset[bytes], known_types: dict[bytes, KnownType]
    ) -> list[tuple[bytes, tuple[KnownType, Shape | None, Any] | None]]: ...
    def storage(self, dataset: int, known_types: dict[bytes, KnownType]) -> tuple[Any, ...] | None: ...

def iterate_chunks(
    function_address: int, dataset_id: int, chunk_shape: Shape, grid_shape: Shape, strides: Shape
) -> tuple[int, tuple[Any, ...], bool, int]: ...
def render_references(
    key_prefix: bytes,
    grid_shape: Shape,
    grid_position: UInt64Column,
    byte_offset: UInt64Column,
    byte_length: UInt64Column,
    locations: tuple[bytes, ...],
    location_index: UInt32Column | None = None,
) -> bytes: ...
def unshuffle(source: bytes | memoryview, target: memoryview, element_size: int) -> None: ...
