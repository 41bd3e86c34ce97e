from typing import Any

from h5zarr.model import Shape, UInt32Column, UInt64Column

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
