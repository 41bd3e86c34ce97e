from typing import Any

import numpy as np

from h5zarr.model import Shape, UInt64Column

class Rows:
    key_start: bytearray
    key_end: bytearray
    byte_offset: bytearray
    byte_length: bytearray
    location_index: bytearray
    locations: dict[bytes, int]
    count: int

def scan_references(text: bytes) -> tuple[bytes, bytes, Rows] | None: ...
def grid_positions(
    text: bytes,
    key_start: np.ndarray[Any, np.dtype[np.int64]],
    key_end: np.ndarray[Any, np.dtype[np.int64]],
    prefix: bytes,
    separator: int,
    grid_shape: Shape,
    positions: UInt64Column,
) -> int: ...
