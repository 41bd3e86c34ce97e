"""Any combination of datatype, shape, chunks, filters, masks and fill value reads back equal."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from conftest import CODEC_WARNING, open_zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h5zarr.converter import convert

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

DTYPES = (
    *("i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">u8", "<f2", "<f4", ">f4", "<f8", ">f8"),
    *("?", "<c8", ">c16", "S1", "S5", "V3"),
)
COMPOUNDS = (
    [("a", "<i4"), ("b", "<f8")],
    [("a", ">i4"), ("b", "<f8")],
    [("a", "i1"), ("b", "S3"), ("c", [("d", ">f4"), ("e", "u1")])],
    [("a", "<f4", (2,)), ("b", "u1")],
)
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate": {"compression": "gzip"},
    "shuffle, deflate": {"compression": "gzip", "shuffle": True},
    "shuffle, deflate, fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "fletcher32": {"fletcher32": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "zstd": dict(hdf5plugin.Zstd()),
    "lz4": dict(hdf5plugin.LZ4()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
}


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Return shape, chunks and maximum shape, as h5py takes them."""
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    if not shape or draw(st.booleans()):
        return {"shape": shape}
    chunks = tuple(draw(st.integers(1, extent)) for extent in shape)
    maximum = tuple(draw(st.sampled_from([extent, extent + 3, None])) for extent in shape)
    return {"shape": shape, "chunks": chunks, "maxshape": maximum}


def random_values(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Return values of any bits, where any bits are a value."""
    rng = np.random.default_rng(seed)
    if dtype.names is not None:
        values = np.zeros(shape, dtype)
        for name in dtype.names:
            values[name] = random_values(dtype[name].base, values[name].shape, seed + 1)
        return values
    if dtype.kind == "?" or dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "S":
        return rng.choice([b"", b"a", b"xyz", b"\xc3\xa4"], shape).astype(dtype)
    octets = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return octets.view(dtype).reshape(shape)


def bits(values: np.ndarray[Any, Any]) -> list[bytes] | bytes:
    """Return what has to be equal: members one by one, numbers in native byte order."""
    if values.dtype.names is not None:
        return [bits(np.ascontiguousarray(values[name])) for name in values.dtype.names]  # type: ignore[misc]
    return (values if values.dtype.isnative else values.byteswap()).tobytes()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from([*DTYPES, *COMPOUNDS]),
    layout=layouts(),
    filters=st.sampled_from(list(FILTERS)),
    libver=st.sampled_from(["earliest", "latest"]),
    fill=st.booleans(),
    part=st.floats(0, 1),
    inline_threshold=st.sampled_from([0, 500]),
    seed=st.integers(0, 2**32 - 3),
)
def test_any_dataset_reads_back_equal(
    tmp_path: Path,
    dtype: Any,
    layout: dict[str, Any],
    filters: str,
    libver: str,
    fill: bool,
    part: float,
    inline_threshold: int,
    seed: int,
) -> None:
    element = np.dtype(dtype)
    options = FILTERS[filters] if "chunks" in layout else {}
    values = random_values(element, layout["shape"], seed)
    fillvalue = random_values(element, (), seed)[()] if fill and element.kind in "iub" else None
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset("x", dtype=element, fillvalue=fillvalue, **layout, **options)
        if layout["shape"]:
            rows = int(part * layout["shape"][0])
            dataset[:rows] = values[:rows]
        else:
            dataset[()] = values
    conversion = convert(path, inline_threshold=inline_threshold)
    assert not conversion.problems
    found = np.asarray(open_zarr(conversion.references())["x"][...])
    with h5py.File(path) as file:
        expected = np.asarray(file["x"][()])
    assert found.shape == expected.shape
    assert bits(found) == bits(expected)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    masks=st.lists(st.sampled_from([0, 1, 2, 3]), min_size=6, max_size=6),
    width=st.sampled_from([3, 40]),
    filters=st.sampled_from(["sg", "s", "g"]),
)
def test_any_filter_masks_read_back_equal(tmp_path: Path, masks: list[int], width: int, filters: str) -> None:
    path = tmp_path / "x.h5"
    write_masked(path, np.arange(6 * 4 * width, dtype="<i4").reshape(24, width), masks, filters)
    conversion = convert(path, inline_threshold=0)
    assert not conversion.problems
    with h5py.File(path) as file:
        np.testing.assert_array_equal(open_zarr(conversion.references())["x"][...], file["x"][()])


def write_masked(path: Path, values: np.ndarray[Any, Any], masks: list[int], filters: str) -> None:
    """Write six chunks of four rows, each with a filter mask of its own."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((4, values.shape[1]))
    for one in filters:
        creation.set_shuffle() if one == "s" else creation.set_deflate(4)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, space, creation)
        for number, bits_of_mask in enumerate(masks):
            mask = bits_of_mask & ((1 << len(filters)) - 1)
            stored = values[4 * number : 4 * number + 4].tobytes()
            for position, one in enumerate(filters):
                if not mask & (1 << position):
                    stored = shuffled(stored) if one == "s" else zlib.compress(stored)
            dataset.write_direct_chunk((4 * number, 0), stored, mask)


def shuffled(stored: bytes) -> bytes:
    return np.frombuffer(stored, np.uint8).reshape(-1, 4).T.tobytes()
