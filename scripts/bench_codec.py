#!/usr/bin/env python
"""Print what the codec h5zarr.hdf5 takes to decode a chunk, in microseconds, for each filter.

scripts/bench codec        # in an environment of its own
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from h5zarr.chunk_form import ChunkForm
from h5zarr.file_image import decode_chunk
from h5zarr.scanner import scan

CHUNK_ELEMENTS = {"5 KB": 1250, "1 MiB": 2**18}
FILTERS: dict[str, dict[str, Any]] = {
    "lzf": {"compression": "lzf"},
    "shuffle, lzf": {"compression": "lzf", "shuffle": True},
    "szip": {"compression": "szip"},
    "scale-offset": {"scaleoffset": 0, "dtype": "<i4"},
    "lz4": dict(hdf5plugin.LZ4()),
    "bitshuffle, lz4": dict(hdf5plugin.Bitshuffle()),
    "blosc2": dict(hdf5plugin.Blosc2()),
    "zfp": dict(hdf5plugin.Zfp(reversible=True)),
}
ROUNDS = 9
SECONDS_PER_ROUND = 0.05


def microseconds(elements: int, options: dict[str, Any]) -> float:
    """Return the time of the best round, for one chunk of small steps."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.integers(0, 3, elements)).astype(options.get("dtype", "<f4"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, chunks=(elements,), **options)
        (dataset,) = scan(path, inline_threshold=2**30).datasets
    form = ChunkForm(chunk_byte_length=values.nbytes, filters=dataset.filters)
    stored = dataset.stored_bytes[0]
    return 1e6 * min(one_round(form, stored) for _ in range(ROUNDS))


def one_round(form: ChunkForm, stored: bytes) -> float:
    """Return the seconds that one chunk takes, over many."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS_PER_ROUND or not count:
        decode_chunk(form, stored)
        count += 1
    return (time.perf_counter() - start) / count


def main() -> None:
    print(f"| filters | {' | '.join(CHUNK_ELEMENTS)} |\n|---|{'---|' * len(CHUNK_ELEMENTS)}")
    for name, options in FILTERS.items():
        times = [microseconds(elements, options) for elements in CHUNK_ELEMENTS.values()]
        print(f"| {name} | {' | '.join(f'{time:.0f} µs' for time in times)} |")


if __name__ == "__main__":
    main()
