#!/usr/bin/env python3
"""Write the test files of `fixtures/`, each named for the property of HDF5 that it shows.

    python scripts/make_fixtures.py [FOLDER] [NAME...]

`FIXTURES` maps each file name to the function that writes it. Needs the `test` dependency group:
h5py with HDF5 2.0, hdf5plugin, h5netcdf and netCDF4. The same versions write the same bytes,
but for the time that netCDF-C stamps on the types that it commits (`climate.nc`, `netcdf_user_types.nc`).
"""

from __future__ import annotations

import ctypes
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import hdf5plugin
import netCDF4
import numpy as np
from h5py import h5d, h5p, h5s, h5t

Fill = Callable[[h5py.File], None]

FIXTURES: dict[str, Callable[[Path], None]] = {}

INDEX_KINDS = ("btree_v1", "single", "implicit", "fixed_array", "extensible_array", "btree_v2")
SHAPE = (18, 20)
CHUNKS = (4, 5)
DONT_FILTER_PARTIAL_CHUNKS = 2
HDF5 = ctypes.CDLL(h5d.__file__)


def hdf5_file(name: str, **options: Any) -> Callable[[Fill], Fill]:
    """Register a function that fills a new HDF5 file."""

    def register(fill: Fill) -> Fill:
        def write(path: Path) -> None:
            with h5py.File(path, "w", **options) as file:
                fill(file)

        FIXTURES[name] = write
        return fill

    return register


def other_file(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a function that writes a file by other means than h5py."""

    def register(write: Callable[[Path], None]) -> Callable[[Path], None]:
        FIXTURES[name] = write
        return write

    return register


def ramp(shape: tuple[int, ...] = SHAPE, dtype: Any = "<i4") -> np.ndarray:
    """Return different values everywhere, so that a misplaced chunk shows."""
    return np.arange(1, math.prod(shape) + 1).reshape(shape).astype(dtype)


def noise(shape: tuple[int, ...], dtype: Any, seed: int = 20) -> np.ndarray:
    """Return random bytes as an array."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def creation_list(chunks: tuple[int, ...] | None = CHUNKS) -> Any:
    """Return a dataset creation property list."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    if chunks:
        properties.set_chunk(chunks)
    return properties


def create(file: h5py.File, name: str, datatype: Any, properties: Any, shape: Any = SHAPE) -> Any:
    """Create a dataset through the low-level API."""
    return h5d.create(file.id, name.encode(), datatype, h5s.create_simple(shape), properties)


def write(file: h5py.File, name: str, values: np.ndarray, properties: Any, datatype: Any = None) -> Any:
    """Create and write a dataset through the low-level API."""
    dataset = create(
        file, name, datatype or h5t.py_create(values.dtype, logical=True), properties, values.shape
    )
    dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(values))
    return dataset


# Chunk indexes ---------------------------------------------------------------------------


def index_kind(dataset: h5py.Dataset) -> str:
    """Return the kind of chunk index that libhdf5 chose."""
    kind = ctypes.c_int(-1)
    if HDF5.H5Dget_chunk_index_type(ctypes.c_int64(dataset.id.id), ctypes.byref(kind)) < 0:
        raise RuntimeError("H5Dget_chunk_index_type failed")
    return INDEX_KINDS[kind.value]


def check_index(file: h5py.File, kind: str) -> None:
    """Fail where a file does not have the index that its name promises."""
    for name, dataset in file.items():
        if index_kind(dataset) != kind:
            raise RuntimeError(f"{file.filename} {name}: {index_kind(dataset)}, not {kind}")


def add_full(file: h5py.File, maxshape: Any, shape: Any = SHAPE, chunks: Any = CHUNKS) -> None:
    """Add datasets with every chunk stored, the last ones partial."""
    options = {"data": ramp(shape), "maxshape": maxshape, "chunks": chunks}
    file.create_dataset("full", **options)
    file.create_dataset("deflate", compression=4, shuffle=True, **options)


def add_sparse(file: h5py.File, maxshape: Any) -> None:
    """Add datasets with few chunks stored."""
    for name, options in (("sparse", {}), ("sparse_deflate", {"compression": 4})):
        dataset = file.create_dataset(
            name, SHAPE, "<i4", maxshape=maxshape, chunks=CHUNKS, fillvalue=-3, **options
        )
        dataset[5:9, 0:5] = 7
        dataset[16:18, 11:20] = ramp((2, 9))


def add_resized(file: h5py.File, maxshape: Any, larger: Any) -> None:
    """Add datasets that were larger or smaller when they were written."""
    options = {"maxshape": maxshape, "chunks": CHUNKS, "fillvalue": -3}
    file.create_dataset("shrunk", data=ramp(larger), **options).resize(SHAPE)
    smaller = tuple(extent - 11 if extent != new else new for extent, new in zip(SHAPE, larger, strict=True))
    file.create_dataset("grown", data=ramp(smaller), **options).resize(SHAPE)


def add_many(file: h5py.File, maxshape: Any, shape: Any = (20, 20)) -> None:
    """Add a dataset with so many chunks that the index needs several blocks or levels."""
    file.create_dataset("many", data=ramp(shape, "i1"), maxshape=maxshape, chunks=(1, 1))


@hdf5_file("chunk_index_btree_v1.h5")
def _(file: h5py.File) -> None:
    maxshape = (None, None)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 31))
    add_many(file, maxshape)
    check_index(file, "btree_v1")


@hdf5_file("chunk_index_single.h5", libver="latest")
def _(file: h5py.File) -> None:
    add_full(file, None, chunks=SHAPE)
    file.create_dataset("never_written", SHAPE, "<i4", chunks=SHAPE, fillvalue=-3)
    check_index(file, "single")


@hdf5_file("chunk_index_implicit.h5", libver="latest")
def _(file: h5py.File) -> None:
    properties = creation_list()
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    write(file, "full", ramp(), properties)
    create(file, "never_written", h5t.STD_I32LE, properties)
    maximum = h5s.create_simple(SHAPE, (30, 31))
    grown = h5d.create(file.id, b"maximum", h5t.STD_I32LE, maximum, properties)
    grown.write(h5s.ALL, h5s.ALL, ramp())
    check_index(file, "implicit")


@hdf5_file("chunk_index_fixed_array.h5", libver="latest")
def _(file: h5py.File) -> None:
    add_full(file, None)
    add_sparse(file, None)
    add_many(file, None, (33, 34))
    check_index(file, "fixed_array")


@hdf5_file("chunk_index_fixed_array_maximum.h5", libver="latest")
def _(file: h5py.File) -> None:
    """The maximum shape is larger than the shape: the index is laid out for the maximum."""
    maxshape = (30, 41)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 31))
    check_index(file, "fixed_array")


@hdf5_file("chunk_index_extensible_array_first.h5", libver="latest")
def _(file: h5py.File) -> None:
    maxshape = (None, 20)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 20))
    add_many(file, (None, 34), (33, 34))
    check_index(file, "extensible_array")


@hdf5_file("chunk_index_extensible_array_last.h5", libver="latest")
def _(file: h5py.File) -> None:
    """libhdf5 2.0.0 reports wrong chunk coordinates for it."""
    maxshape = (18, None)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (18, 31))
    add_many(file, (33, None), (33, 34))
    check_index(file, "extensible_array")


@hdf5_file("chunk_index_extensible_array_middle.h5", libver="latest")
def _(file: h5py.File) -> None:
    """libhdf5 2.0.0 reports wrong chunk coordinates for it."""
    add_full(file, (7, None, 9), (7, 11, 9), (2, 3, 4))
    add_full(file.create_group("four"), (4, None, 6, 5), (4, 7, 6, 5), (2, 2, 2, 5))
    check_index(file["four"], "extensible_array")


@hdf5_file("chunk_index_extensible_array_maximum.h5", libver="latest")
def _(file: h5py.File) -> None:
    """The index is laid out for the maximum of the limited dimension, which is not its extent."""
    maxshape = (33, None)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 31))
    check_index(file, "extensible_array")


@hdf5_file("chunk_index_extensible_array_maximum_first.h5", libver="latest")
def _(file: h5py.File) -> None:
    maxshape = (None, 41)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 31))
    check_index(file, "extensible_array")


@hdf5_file("chunk_index_btree_v2.h5", libver="latest")
def _(file: h5py.File) -> None:
    maxshape = (None, None)
    add_full(file, maxshape)
    add_sparse(file, maxshape)
    add_resized(file, maxshape, (23, 31))
    add_many(file, maxshape)
    check_index(file, "btree_v2")


# Layouts and dataspaces ------------------------------------------------------------------


@hdf5_file("contiguous.h5")
def _(file: h5py.File) -> None:
    file["x"] = ramp(dtype="<f4")
    file["three_dimensions"] = ramp((3, 5, 7), "<i2")


@hdf5_file("contiguous_never_written.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("x", SHAPE, "<i4", fillvalue=-7)
    file.create_dataset("default_fill_value", SHAPE, "<f8")


@hdf5_file("compact.h5")
def _(file: h5py.File) -> None:
    properties = creation_list(None)
    properties.set_layout(h5d.COMPACT)
    write(file, "x", ramp(dtype="<f4"), properties)
    write(file, "small", ramp((3,), ">i2"), properties)
    create(file, "never_written", h5t.STD_I16LE, properties, (4,))


@hdf5_file("user_block_chunked.h5", userblock_size=1024)
def _(file: h5py.File) -> None:
    add_full(file, None)


@hdf5_file("user_block_contiguous.h5", userblock_size=512)
def _(file: h5py.File) -> None:
    file["x"] = ramp()


@hdf5_file("user_block_latest.h5", userblock_size=1024, libver="latest")
def _(file: h5py.File) -> None:
    add_full(file, (None, 20))
    file["contiguous"] = ramp()


@hdf5_file("chunks_larger_than_array.h5")
def _(file: h5py.File) -> None:
    options = {"maxshape": (None, None), "chunks": (16, 12)}
    file.create_dataset("x", data=ramp((5, 3)), **options)
    file.create_dataset("deflate", data=ramp((5, 3)), compression=4, shuffle=True, **options)
    file.create_dataset("one_dimension", data=ramp((20, 3)), **options)


@hdf5_file("chunks_never_written.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("x", SHAPE, "<f4", chunks=CHUNKS)
    file.create_dataset("deflate", SHAPE, "<i2", chunks=CHUNKS, compression=4, fillvalue=9)


@hdf5_file("chunks_allocated_early.h5")
def _(file: h5py.File) -> None:
    properties = creation_list()
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_value(np.array(-3, "<i4"))
    create(file, "never_written", h5t.STD_I32LE, properties)
    properties.set_deflate(4)
    create(file, "deflate", h5t.STD_I32LE, properties)


@hdf5_file("many_dimensions.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("x", data=ramp((2, 3, 1, 2, 3, 1, 2), "<i2"), chunks=(1, 2, 1, 2, 2, 1, 1))
    file["contiguous"] = ramp((2,) * 8, "<i2")


@hdf5_file("zero_length.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("chunked", (0, 5), "<f4", maxshape=(None, 5), chunks=(4, 5))
    file.create_dataset("contiguous", (3, 0), "<i4")
    file.create_dataset("string", (0,), h5py.string_dtype())
    emptied = file.create_dataset("emptied", data=ramp(), maxshape=(None, None), chunks=CHUNKS)
    emptied.resize((0, 20))


@hdf5_file("scalar.h5")
def _(file: h5py.File) -> None:
    file["float"] = np.float64(3.25)
    file["big_endian"] = np.array(-5, ">i4")
    file["string"] = "héllo"
    file["fixed_string"] = np.bytes_(b"abc")
    file["compound"] = np.array((1, 2.5), [("a", "<i4"), ("b", "<f8")])
    file.create_dataset("never_written", (), "<i4", fillvalue=42)


@hdf5_file("null_dataspace.h5")
def _(file: h5py.File) -> None:
    file["x"] = h5py.Empty("<f4")
    file["string"] = h5py.Empty(h5py.string_dtype())
    file["present"] = ramp()


# Filters ---------------------------------------------------------------------------------


def add_pipeline(file: h5py.File, name: str, filters: str, dtype: Any = "<f4") -> None:
    """Add a dataset whose pipeline is spelt in letters: s(huffle), d(eflate), f(letcher32)."""
    properties = creation_list()
    add = {
        "s": properties.set_shuffle,
        "d": lambda: properties.set_deflate(4),
        "f": properties.set_fletcher32,
    }
    for letter in filters:
        add[letter]()
    write(file, name, ramp(dtype=dtype), properties)


def add_compressed(file: h5py.File, name: str, dtype: Any = "<f4", **options: Any) -> None:
    """Add a compressible dataset."""
    file.create_dataset(name, data=ramp(dtype=dtype), chunks=(6, 10), **options)


@hdf5_file("filter_deflate.h5")
def _(file: h5py.File) -> None:
    for level in (0, 1, 9):
        add_compressed(file, f"level_{level}", compression=level)
    file.create_dataset("incompressible", data=noise(SHAPE, "<u4"), chunks=CHUNKS, compression=4)


@hdf5_file("filter_shuffle.h5")
def _(file: h5py.File) -> None:
    for dtype in ("i1", "<i2", "<f4", ">f4", "<f8", "<c16", "S3"):
        add_compressed(file, np.dtype(dtype).str.strip("<|").replace(">", "big_"), dtype, shuffle=True)


@hdf5_file("filter_fletcher32.h5")
def _(file: h5py.File) -> None:
    for dtype in ("i1", "<i2", "<f8"):
        add_compressed(file, np.dtype(dtype).str.strip("<|"), dtype, fletcher32=True)
    file.create_dataset("odd_length", data=ramp((15,), "i1"), chunks=(5,), fletcher32=True)


@hdf5_file("filter_orders.h5")
def _(file: h5py.File) -> None:
    for filters in ("sd", "sdf", "fsd", "sfd", "fd", "df", "sf", "fs"):
        add_pipeline(file, filters, filters)
    add_pipeline(file, "sd_big_endian", "sd", ">i2")


@hdf5_file("filter_orders_odd.h5")
def _(file: h5py.File) -> None:
    """Repeated filters, and a shuffle of bytes that are no multiple of its element size."""
    for filters in ("dd", "ds", "dsd", "ss", "ff", "fsd"):
        add_pipeline(file, filters, filters, "<f8")


@hdf5_file("filter_zstd.h5")
def _(file: h5py.File) -> None:
    add_compressed(file, "x", **hdf5plugin.Zstd(clevel=5))
    add_compressed(file, "shuffle", shuffle=True, **hdf5plugin.Zstd())
    add_compressed(file, "fletcher32", fletcher32=True, **hdf5plugin.Zstd())
    add_compressed(file, "big_endian", ">i2", shuffle=True, **hdf5plugin.Zstd())


@hdf5_file("filter_blosc.h5")
def _(file: h5py.File) -> None:
    for compressor in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"):
        add_compressed(file, compressor, **hdf5plugin.Blosc(cname=compressor, shuffle=1))
    add_compressed(file, "bit_shuffle", **hdf5plugin.Blosc(cname="zstd", shuffle=2))
    add_compressed(file, "no_shuffle", "<f8", **hdf5plugin.Blosc(cname="lz4", shuffle=0))
    add_compressed(file, "big_endian", ">i4", **hdf5plugin.Blosc(cname="lz4"))


@hdf5_file("filter_bzip2.h5")
def _(file: h5py.File) -> None:
    add_compressed(file, "x", **hdf5plugin.BZip2(blocksize=5))
    add_compressed(file, "shuffle", shuffle=True, **hdf5plugin.BZip2())


def write_masked(file: h5py.File, name: str, masks: tuple[int, ...]) -> None:
    """Write chunks behind shuffle and deflate with these filter masks in turn."""
    values = ramp((16, 20))
    dataset = file.create_dataset(name, (16, 20), "<i4", chunks=CHUNKS, compression=4, shuffle=True)
    for number, (row, column) in enumerate((r, c) for r in range(0, 16, 4) for c in range(0, 20, 5)):
        mask = masks[number % len(masks)]
        chunk = np.ascontiguousarray(values[row : row + 4, column : column + 5])
        stored = chunk.tobytes() if mask & 1 else chunk.reshape(-1).view("u1").reshape(-1, 4).T.tobytes()
        dataset.id.write_direct_chunk((row, column), stored if mask & 2 else zlib.compress(stored), mask)


@hdf5_file("filter_mask.h5")
def _(file: h5py.File) -> None:
    write_masked(file, "no_shuffle", (1,))
    write_masked(file, "no_deflate", (2,))
    write_masked(file, "no_filter", (3,))
    write_masked(file, "mixed", (0, 2, 0, 3, 1))
    write_masked(file, "unmasked", (0,))


@hdf5_file("filter_mask_blosc.h5")
def _(file: h5py.File) -> None:
    """The filter itself declines chunks that do not shrink."""
    values = np.concatenate([noise((6, 20), "<u4"), np.zeros((12, 20), "<u4")])
    file.create_dataset("x", data=values, chunks=(6, 10), **hdf5plugin.Blosc(cname="lz4", shuffle=0))


@hdf5_file("filter_lzf.h5")
def _(file: h5py.File) -> None:
    add_compressed(file, "x", compression="lzf")
    add_compressed(file, "shuffle", compression="lzf", shuffle=True)


@hdf5_file("filter_scaleoffset.h5")
def _(file: h5py.File) -> None:
    add_compressed(file, "x", "<i4", scaleoffset=0)
    add_compressed(file, "nbit", "<i4", compression=5)


@hdf5_file("filter_unregistered.h5")
def _(file: h5py.File) -> None:
    """No library knows the filter: not even h5py can read it."""
    properties = creation_list((4,))
    properties.set_filter(299, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    dataset = create(file, "x", h5t.STD_I32LE, properties, (8,))
    dataset.write_direct_chunk((0,), b"sixteen bytes !!")
    file["present"] = ramp()


@hdf5_file("unfiltered_partial_chunks.h5", libver="latest")
def _(file: h5py.File) -> None:
    properties = creation_list()
    properties.set_deflate(4)
    if HDF5.H5Pset_chunk_opts(ctypes.c_int64(properties.id), ctypes.c_uint(DONT_FILTER_PARTIAL_CHUNKS)) < 0:
        raise RuntimeError("H5Pset_chunk_opts failed")
    write(file, "x", ramp(), properties)
    write(file, "no_partial_chunk", ramp((16, 20)), properties)


# Datatypes -------------------------------------------------------------------------------


def add_contiguous_and_chunked(file: h5py.File, name: str, values: np.ndarray, datatype: Any = None) -> None:
    """Add the same one-dimensional values twice."""
    write(file, name, values, creation_list(None), datatype)
    write(file, f"{name}_chunked", values, creation_list((4,)), datatype)


@hdf5_file("datatype_integers.h5")
def _(file: h5py.File) -> None:
    for dtype in (
        "i1",
        "u1",
        *(f"{order}{kind}{width}" for order in "<>" for kind in "iu" for width in (2, 4, 8)),
    ):
        limits = np.iinfo(dtype)
        values = np.array([limits.min, limits.max, 0, 1, 2, 77], dtype)
        name = np.dtype(dtype).name + ("_big" if dtype[0] == ">" else "")
        add_contiguous_and_chunked(file, name, values)


@hdf5_file("datatype_floats.h5")
def _(file: h5py.File) -> None:
    for dtype in (f"{order}f{width}" for order in "<>" for width in (2, 4, 8)):
        limits = np.finfo(dtype)
        special = [-0.0, np.inf, -np.inf, np.nan, limits.smallest_subnormal, limits.max, 0.1]
        name = np.dtype(dtype).name + ("_big" if dtype[0] == ">" else "")
        add_contiguous_and_chunked(file, name, np.array(special, dtype))
        bits = noise((9,), f"{dtype[0]}u{dtype[2]}")
        write(file, f"{name}_any_bits", bits.view(dtype), creation_list((4,)))


@hdf5_file("datatype_bool.h5")
def _(file: h5py.File) -> None:
    add_contiguous_and_chunked(file, "x", ramp((11,)) % 3 == 0)
    file["scalar"] = np.True_
    file.create_dataset("never_written", (4,), "bool", fillvalue=True)


@hdf5_file("datatype_enum.h5")
def _(file: h5py.File) -> None:
    colours = h5py.enum_dtype({"RED": 0, "GREEN": 1, "BLUE": 42}, "i1")
    file.create_dataset("x", data=np.array([0, 42, 1, 1, 0], "i1"), dtype=colours)
    signs = h5py.enum_dtype({"plus": 500, "minus": -500, "näught": 0}, ">i2")
    file.create_dataset("big_endian", data=[500, 0, -500, 7], dtype=signs, chunks=(3,), compression=4)
    file.create_dataset("sparse", (9,), colours, chunks=(3,), fillvalue=42)[4] = 1
    file.create_dataset(
        "u8", data=[2**63 - 1, 0], dtype=h5py.enum_dtype({"most": 2**63 - 1, "none": 0}, "<u8")
    )
    file.create_dataset("like_bool", data=[1, 0, 1], dtype=h5py.enum_dtype({"TRUE": 1, "FALSE": 0}, "<i4"))


@hdf5_file("datatype_complex.h5")
def _(file: h5py.File) -> None:
    for dtype in ("<c8", "<c16", ">c8", ">c16"):
        values = np.array([1 + 2j, complex(-0.0, np.inf), complex(np.nan, 3), 0, 0.1 - 0.2j], dtype)
        add_contiguous_and_chunked(file, np.dtype(dtype).name + ("_big" if dtype[0] == ">" else ""), values)
    file.create_dataset("sparse", (9,), "<c16", chunks=(3,), fillvalue=1 - 1j)[4] = 5j


@hdf5_file("datatype_complex_native.h5", libver="latest")
def _(file: h5py.File) -> None:
    """HDF5 2.0's own complex datatype class."""
    kinds = {"<c8": h5t.COMPLEX_IEEE_F32LE, ">c8": h5t.COMPLEX_IEEE_F32BE, "<c16": h5t.COMPLEX_IEEE_F64LE}
    for dtype, datatype in kinds.items():
        dataset = create(file, dtype.replace(">", "big_").strip("<"), datatype, creation_list((4,)), (5,))
        dataset.write(h5s.ALL, h5s.ALL, (ramp((5,)) * (1 + 2j)).astype(dtype), mtype=datatype)


PADDINGS = {
    "null_terminated": h5t.STR_NULLTERM,
    "null_padded": h5t.STR_NULLPAD,
    "space_padded": h5t.STR_SPACEPAD,
}


def fixed_string(padding: int, character_set: int, length: int = 6) -> Any:
    """Return a fixed-length string datatype."""
    datatype = h5t.C_S1.copy()
    datatype.set_size(length)
    datatype.set_strpad(padding)
    datatype.set_cset(character_set)
    return datatype


@hdf5_file("datatype_fixed_strings.h5")
def _(file: h5py.File) -> None:
    for padding, code in PADDINGS.items():
        for charset, texts in (("ascii", ["abc", "", "abcde"]), ("utf8", ["é", "", "añb"])):
            datatype = fixed_string(code, h5t.CSET_UTF8 if charset == "utf8" else h5t.CSET_ASCII)
            fill = b" " if code == h5t.STR_SPACEPAD else b"\0"
            values = np.frombuffer(b"".join(t.encode().ljust(6, fill) for t in texts), "V6")
            dataset = create(file, f"{padding}_{charset}", datatype, creation_list((2,)), (3,))
            dataset.write(h5s.ALL, h5s.ALL, values.view("S6"), mtype=datatype)


@hdf5_file("datatype_fixed_strings_odd.h5")
def _(file: h5py.File) -> None:
    """Full length, null bytes inside, trailing spaces, bytes that are not UTF-8, a length of 1."""
    datatype = fixed_string(h5t.STR_NULLPAD, h5t.CSET_ASCII)
    stored = [b"abcdef", b"a\0b\0c\0", b"ab  \0\0", b"\xff\xfe\0\0\0\0"]
    dataset = create(file, "x", datatype, creation_list((3,)), (4,))
    dataset.write(h5s.ALL, h5s.ALL, np.frombuffer(b"".join(stored), "S6"), mtype=datatype)
    file["characters"] = np.array([list("rain"), list("snow")], "S1")
    file.create_dataset("never_written", (3,), "S4", fillvalue=b"none")


@hdf5_file("datatype_variable_length_strings.h5")
def _(file: h5py.File) -> None:
    texts = ["one", "", "zwölf", "日本語", "a longer text, " * 20, "😀"]
    utf8, ascii_ = h5py.string_dtype(), h5py.string_dtype("ascii")
    file.create_dataset("x", data=texts, dtype=utf8)
    file.create_dataset("chunked", data=texts, dtype=utf8, chunks=(4,), compression=4)
    file.create_dataset("ascii", data=[b"plain", b"text"], dtype=ascii_)
    file.create_dataset("two_dimensions", data=[["a", "b"], ["c", "d"], ["e", ""]], dtype=utf8, chunks=(2, 1))
    file.create_dataset("never_written", (3,), utf8)


@hdf5_file("datatype_variable_length_strings_not_utf8.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("x", data=[b"fine", b"caf\xe9"], dtype=h5py.string_dtype("ascii"))


@hdf5_file("datatype_compound.h5")
def _(file: h5py.File) -> None:
    packed = np.dtype([("number", "<i4"), ("value", "<f8"), ("name", "S3")])
    rows = np.array([(i, i / 4, b"ab") for i in range(11)], packed)
    add_contiguous_and_chunked(file, "x", rows)
    file.create_dataset("deflate", data=rows, chunks=(4,), compression=4, shuffle=True)
    file.create_dataset("sparse", (9,), packed, chunks=(3,), fillvalue=np.array((7, 0.5, b"xyz"), packed))[
        4
    ] = rows[2]


@hdf5_file("datatype_compound_nested.h5")
def _(file: h5py.File) -> None:
    point = np.dtype([("x", "<f4"), ("y", "<f4")])
    dtype = np.dtype([("at", point), ("history", "<i2", (2, 3)), ("path", point, (2,)), ("on", "i1")])
    add_contiguous_and_chunked(file, "x", noise((5,), dtype))


@hdf5_file("datatype_compound_big_endian.h5")
def _(file: h5py.File) -> None:
    rows = [(i, i / 4) for i in range(9)]
    add_contiguous_and_chunked(file, "x", np.array(rows, [("a", ">i4"), ("b", ">f8")]))
    add_contiguous_and_chunked(file, "mixed", np.array(rows, [("a", "<i4"), ("b", ">f8")]))


@hdf5_file("datatype_compound_members.h5")
def _(file: h5py.File) -> None:
    """Members of every class that has a fixed length."""
    state = h5py.enum_dtype({"off": 0, "on": 1}, "i1")
    members = [
        ("flag", "bool"),
        ("state", state),
        ("z", "<c8"),
        ("raw", "V3"),
        ("half", "<f2"),
        ("ünïcode", "<u8"),
    ]
    dtype = np.dtype(members)
    values = np.zeros(5, dtype)
    values["flag"], values["state"], values["z"] = [1, 0, 1, 1, 0], [0, 1, 1, 0, 0], ramp((5,), "<c8")
    values["raw"], values["half"], values["ünïcode"] = (
        noise((5,), "V3"),
        ramp((5,), "<f2"),
        noise((5,), "<u8"),
    )
    add_contiguous_and_chunked(file, "x", values)


@hdf5_file("datatype_compound_padded.h5")
def _(file: h5py.File) -> None:
    values = np.zeros(9, np.dtype([("a", "i1"), ("b", "<f8")], align=True))
    values["a"], values["b"] = ramp((9,)), ramp((9,)) / 4
    add_contiguous_and_chunked(file, "x", values)


@hdf5_file("datatype_compound_variable_length.h5")
def _(file: h5py.File) -> None:
    dtype = np.dtype([("id", "<i4"), ("name", h5py.string_dtype())])
    file.create_dataset("x", data=np.array([(1, "one"), (2, "zwei")], dtype), chunks=(2,))


@hdf5_file("datatype_array.h5")
def _(file: h5py.File) -> None:
    for name, base, dtype in (("f4", h5t.IEEE_F32LE, "<f4"), ("big_i2", h5t.STD_I16BE, ">i2")):
        datatype = h5t.array_create(base, (3, 2))
        for suffix, chunks in (("", None), ("_chunked", (4,))):
            dataset = create(file, name + suffix, datatype, creation_list(chunks), (9,))
            dataset.write(h5s.ALL, h5s.ALL, ramp((9, 3, 2), dtype), mtype=datatype)
    file.create_dataset("scalar", (), np.dtype(("<f8", (3,))))[()] = ramp((3,), "<f8")
    file.create_dataset("never_written", (4,), np.dtype(("<i4", (2,))))


@hdf5_file("datatype_opaque.h5")
def _(file: h5py.File) -> None:
    add_contiguous_and_chunked(file, "x", noise((6,), "V5"))
    moments = (ramp((6,), "<i8") * 86400).view("<M8[s]")
    file.create_dataset("datetime", data=moments.astype(h5py.opaque_dtype("<M8[s]")))


@hdf5_file("datatype_opaque_tagged.h5")
def _(file: h5py.File) -> None:
    """h5py reads it through the low-level API only: NumPy's void has no tag."""
    datatype = h5t.create(h5t.OPAQUE, 5)
    datatype.set_tag(b"five bytes")
    dataset = create(file, "x", datatype, creation_list((4,)), (6,))
    dataset.write(h5s.ALL, h5s.ALL, noise((6,), "V5"), mtype=datatype)


@hdf5_file("datatype_named.h5")
def _(file: h5py.File) -> None:
    """A committed datatype is an object of its own, neither group nor dataset."""
    file["temperature"] = np.dtype(">f4")
    file.create_dataset("x", data=ramp(dtype="f4"), dtype=file["temperature"])


@hdf5_file("datatype_integers_reduced_precision.h5")
def _(file: h5py.File) -> None:
    unsigned = h5t.STD_U16LE.copy()
    unsigned.set_precision(12)
    unsigned.set_offset(4)
    write(file, "unsigned", ramp(dtype="<u2"), creation_list(), unsigned)
    signed = h5t.STD_I32LE.copy()
    signed.set_precision(20)
    write(file, "signed", -ramp(), creation_list(), signed)
    three_bytes = h5t.STD_I32LE.copy()
    three_bytes.set_precision(24)
    three_bytes.set_size(3)
    write(file, "three_bytes", -ramp(), creation_list(), three_bytes)


def long_doubles(shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of 80 bits, with nothing left to chance in their padding."""
    values = ramp(shape, np.longdouble) / 10
    values.view("u1").reshape(-1, values.itemsize)[:, 10:] = 0
    return values


@hdf5_file("datatype_floats_odd.h5")
def _(file: h5py.File) -> None:
    bfloat16 = h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_size(2)
    bfloat16.set_ebias(127)
    write(file, "bfloat16", ramp(dtype="<f4"), creation_list(), bfloat16)
    file.create_dataset("long_double", data=long_doubles(SHAPE), chunks=CHUNKS)


@hdf5_file("datatype_bitfield.h5")
def _(file: h5py.File) -> None:
    for name, datatype, dtype in (("x", h5t.STD_B16LE, "<u2"), ("big_endian", h5t.STD_B32BE, ">u4")):
        dataset = create(file, name, datatype, creation_list((4,)), (9,))
        dataset.write(h5s.ALL, h5s.ALL, noise((9,), dtype), mtype=datatype)


@hdf5_file("datatype_references.h5")
def _(file: h5py.File) -> None:
    target = file.create_dataset("target", data=ramp())
    references = np.array([target.ref, file.ref, h5py.Reference()], h5py.ref_dtype)
    file.create_dataset("objects", data=references)
    file.create_dataset("regions", data=np.array([target.regionref[2:4, 1:3]], h5py.regionref_dtype))


@hdf5_file("datatype_variable_length_sequences.h5")
def _(file: h5py.File) -> None:
    dataset = file.create_dataset("x", (5,), h5py.vlen_dtype("<i4"))
    for row in range(5):
        dataset[row] = np.arange(row)


# Fill values -----------------------------------------------------------------------------


@hdf5_file("fill_value_user.h5")
def _(file: h5py.File) -> None:
    fills = {"<i4": -3, ">i2": 258, "<u8": 2**64 - 1, "<f4": 0.1, ">f8": -1e300, "<f2": 6e-8}
    for dtype, fill in fills.items():
        name = np.dtype(dtype).name + ("_big" if dtype[0] == ">" else "")
        file.create_dataset(name, SHAPE, dtype, chunks=CHUNKS, fillvalue=fill)[5:7, 2:9] = 7
        file.create_dataset(f"{name}_never_written", (3,), dtype, fillvalue=fill)


@hdf5_file("fill_value_special_floats.h5")
def _(file: h5py.File) -> None:
    patterns = {
        "nan": 0x7FC00000,
        "payload": 0x7FC12345,
        "negative_nan": 0xFFC00000,
        "negative_zero": 1 << 31,
    }
    for name, bits in {**patterns, "infinity": 0x7F800000, "signalling": 0x7FA00001}.items():
        properties = creation_list()
        properties.set_fill_value(np.array(bits, "<u4").view("<f4"))
        h5py.Dataset(create(file, name, h5t.IEEE_F32LE, properties))[5:7, 2:9] = 7
        properties.set_fill_value(np.array(bits, ">u4").view(">f4"))
        h5py.Dataset(create(file, f"{name}_big", h5t.IEEE_F32BE, properties))[5:7, 2:9] = 7


@hdf5_file("fill_value_variable_length_string.h5")
def _(file: h5py.File) -> None:
    """libhdf5 2.0.0 can read what was never written only from a file that is open for writing."""
    texts = file.create_dataset("x", (7,), h5py.string_dtype(), chunks=(2,), fillvalue="fill")
    texts[3] = "stored"


@hdf5_file("fill_value_undefined.h5")
def _(file: h5py.File) -> None:
    properties = creation_list()
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5py.Dataset(create(file, "fill_time_never", h5t.STD_I32LE, properties))[4:8, 0:10] = 7
    undefined = creation_list()
    if HDF5.H5Pset_fill_value(ctypes.c_int64(undefined.id), ctypes.c_int64(-1), None) < 0:
        raise RuntimeError("H5Pset_fill_value failed")
    write(file, "undefined", ramp(), undefined)


@hdf5_file("fill_value_attribute_differs.h5")
def _(file: h5py.File) -> None:
    """The netCDF attribute says one thing, HDF5's own fill value another."""
    dataset = file.create_dataset("x", SHAPE, "<f4", chunks=CHUNKS, fillvalue=-9.5)
    dataset[5:7, 2:9] = 7
    dataset.attrs["_FillValue"] = np.array([1e20], "<f4")


# Attributes ------------------------------------------------------------------------------


def attribute_numbers() -> dict[str, Any]:
    """Return numbers of every width, as scalars and arrays."""
    limits = {
        f"{dtype}_limits": [np.iinfo(dtype).min, np.iinfo(dtype).max] for dtype in ("i1", "u1", "i8", "u8")
    }
    arrays: dict[str, Any] = {name: np.array(values, name[:2]) for name, values in limits.items()}
    scalars = {dtype: np.array(3, dtype) for dtype in ("i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8")}
    specials = {"float32_tenth": np.float32(0.1), "nan": np.nan, "infinities": [np.inf, -np.inf, -0.0, 0.1]}
    shapes = {"one_element": [5], "zero_length": np.zeros(0), "two_dimensions": ramp((2, 3), "<i2")}
    return {
        **arrays,
        **scalars,
        **specials,
        **shapes,
        "complex": 1 + 2j,
        "bool": True,
        "bools": [True, False],
    }


def attribute_texts() -> dict[str, Any]:
    """Return strings of every kind."""
    fixed_utf8 = np.array("é".encode(), h5py.string_dtype("utf-8", 4))
    lists = {
        "texts": ["a", "", "日本"],
        "fixed_texts": np.array([b"ab", b"c"]),
        "characters": np.array([b"a"], "S1"),
    }
    scalars = {"text": "zwölf 😀", "empty": "", "fixed": np.bytes_(b"fixed"), "fixed_utf8": fixed_utf8}
    return {
        **lists,
        **scalars,
        "newline": "two\nlines",
        "quotes": '"\\/\b\x01\x7f',
        "not_utf8": np.bytes_(b"\xff\xfe"),
    }


def attribute_oddities(target: h5py.Dataset) -> dict[str, Any]:
    """Return values that JSON has no natural form for."""
    compound = np.array([(1, 2.5)], [("a", "<i4"), ("b", "<f8")])
    references = {"reference": target.ref, "region": target.regionref[1:2, 1:2]}
    empties = {"null": h5py.Empty("<f4"), "null_text": h5py.Empty(h5py.string_dtype())}
    return {**references, **empties, "compound": compound, "opaque": noise((2,), "V3")}


def set_attributes(target: Any, attributes: dict[str, Any]) -> None:
    """Set attributes."""
    for name, value in attributes.items():
        target.attrs[name] = value


@hdf5_file("attributes.h5")
def _(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=ramp())
    set_attributes(dataset, {**attribute_numbers(), **attribute_texts()})
    set_attributes(file, {"title": "on the root", "units": "m s⁻¹"})
    set_attributes(file.create_group("group"), {"level": np.int16(1), "a.b/c ü%20": "odd name"})


@hdf5_file("attributes_odd.h5")
def _(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=ramp())
    set_attributes(dataset, attribute_oddities(dataset))
    dataset.attrs.create("enum", 1, dtype=h5py.enum_dtype({"low": 0, "high": 1}, "i1"))
    dataset.attrs.create("sequences", [np.arange(2), np.arange(3)], (2,), h5py.vlen_dtype("<i4"))
    dataset.attrs.create("array_datatype", ramp((2, 3)), (2, 3), np.dtype(("<i4", (3,))))
    dataset.attrs.create("long_double", long_doubles((1,)))


@hdf5_file("attributes_dense.h5", libver="latest", track_order=True)
def _(file: h5py.File) -> None:
    """So many that they leave the object header, in an order that is not the alphabet's."""
    dataset = file.create_dataset("x", data=ramp(), track_order=True)
    set_attributes(dataset, {f"{letter}_attribute": ord(letter) for letter in "qwertyuiopasdfghjkl"})


@hdf5_file("attributes_reserved_names.h5")
def _(file: h5py.File) -> None:
    """Names that mean something on the Zarr side."""
    names = ("_ARRAY_DIMENSIONS", "zarr_format", "shape", "attributes", "_FillValue", "coordinates")
    set_attributes(file.create_dataset("x", data=ramp()), {name: f"the {name}" for name in names})


# Groups, links and names -----------------------------------------------------------------


@hdf5_file("groups_nested.h5")
def _(file: h5py.File) -> None:
    file["a/b/c/x"] = ramp()
    file["a/y"] = ramp((3,))
    file.create_group("empty/inner")


@hdf5_file("groups_dense.h5", libver="latest", track_order=True)
def _(file: h5py.File) -> None:
    """So many links that they leave the object header, in an order that is not the alphabet's."""
    for letter in "qwertyuiopasdfghjkl":
        file[f"{letter}_dataset"] = np.int32(ord(letter))


@hdf5_file("links_soft.h5")
def _(file: h5py.File) -> None:
    file["group/real"] = ramp()
    file["absolute"] = h5py.SoftLink("/group/real")
    file["group/relative"] = h5py.SoftLink("real")
    file["to_group"] = h5py.SoftLink("/group")
    file["chain"] = h5py.SoftLink("/absolute")


@hdf5_file("links_hard.h5")
def _(file: h5py.File) -> None:
    file["group/real"] = ramp()
    file["same"] = file["group/real"]
    file["same_group"] = file["group"]


@hdf5_file("links_dangling.h5")
def _(file: h5py.File) -> None:
    file["x"] = ramp()
    file["dangling"] = h5py.SoftLink("/nowhere")
    file["external"] = h5py.ExternalLink("no_such_file.h5", "/x")


@hdf5_file("links_external.h5")
def _(file: h5py.File) -> None:
    file["x"] = ramp()
    file["external"] = h5py.ExternalLink("contiguous.h5", "/x")


@hdf5_file("links_cyclic.h5")
def _(file: h5py.File) -> None:
    group = file.create_group("group")
    group["x"] = ramp()
    group["root"] = file["/"]
    group["self"] = group
    file["ping"] = h5py.SoftLink("/pong")
    file["pong"] = h5py.SoftLink("/ping")
    file["soft_cycle"] = h5py.SoftLink("/")


@hdf5_file("names.h5", libver="latest")
def _(file: h5py.File) -> None:
    """Names that need care in JSON, in URLs or in a store's keys."""
    names = (
        "with space",
        "dotted.name",
        ".hidden",
        "per%20cent",
        "ünïcödé 日本",
        'quo"te',
        "back\\slash",
        "{{u}}",
    )
    for number, name in enumerate((*names, "question?#", "c", "0", "c.0.0", "new\nline", "*", "[1]")):
        file.create_dataset(name, data=ramp((6, 5)) + number, chunks=CHUNKS)
        file.create_dataset(f"group {name}/{name}", data=ramp((3,)) - number)


@hdf5_file("names_reserved.h5")
def _(file: h5py.File) -> None:
    """Names that a Zarr node cannot have, or that its store uses itself."""
    for name in ("zarr.json", "..", "...", "__reserved", ".zarray", ".zgroup", ".zattrs", ".zmetadata"):
        file[name] = ramp()
    file["present"] = ramp()


@hdf5_file("names_not_utf8.h5")
def _(file: h5py.File) -> None:
    file[b"caf\xe9"] = ramp()
    file["x"] = ramp()
    file["x"].attrs[b"na\xefve"] = 1


# Data that lies elsewhere ----------------------------------------------------------------


@other_file("external_storage.raw")
def _(path: Path) -> None:
    path.write_bytes(b"16 bytes before " + ramp().tobytes())


@hdf5_file("external_storage.h5")
def _(file: h5py.File) -> None:
    pieces = [("external_storage.raw", 16, 400), ("external_storage.raw", 416, ramp().nbytes - 400)]
    file.create_dataset("x", SHAPE, "<i4", external=pieces)
    file["present"] = ramp()


@hdf5_file("virtual_source.h5")
def _(file: h5py.File) -> None:
    file.create_dataset("x", data=ramp(), chunks=CHUNKS)


@hdf5_file("virtual_dataset.h5", libver="latest")
def _(file: h5py.File) -> None:
    """The second half's source does not exist."""
    properties, source = creation_list(None), h5s.create_simple(SHAPE)
    properties.set_fill_value(np.array(-3, "<i4"))
    for row, name in ((0, b"virtual_source.h5"), (18, b"no_such_file.h5")):
        target = h5s.create_simple((36, 20))
        target.select_hyperslab((row, 0), SHAPE)
        properties.set_virtual(target, name, b"x", source)
    create(file, "x", h5t.STD_I32LE, properties, (36, 20))
    file["present"] = ramp()


# netCDF-4 --------------------------------------------------------------------------------


def add_scale(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Add a dimension scale."""
    file[name] = values
    file[name].make_scale(name)


@hdf5_file("dimension_scales.h5")
def _(file: h5py.File) -> None:
    """HDF5's dimension scales without netCDF: two on one dimension, and a label."""
    dataset = file.create_dataset("x", data=ramp((6, 4)))
    for name, values in (("row", np.arange(6.0)), ("feet", np.arange(6.0) * 3.25), ("column", np.arange(4))):
        add_scale(file, name, values)
        dataset.dims[name == "column"].attach_scale(file[name])
    dataset.dims[1].label = "label"


@hdf5_file("dimension_scales_partial.h5")
def _(file: h5py.File) -> None:
    """One dimension has a scale, the other has none: h5netcdf refuses the file."""
    dataset = file.create_dataset("x", data=ramp((6, 4)))
    add_scale(file, "row", np.arange(6.0))
    dataset.dims[0].attach_scale(file["row"])


@hdf5_file("dimensions_anonymous.h5")
def _(file: h5py.File) -> None:
    """No dimension scale anywhere: netCDF readers make up names from the extents."""
    file["square"] = ramp((5, 5))
    file["group/line"] = ramp((5,))
    file["group/other"] = ramp((3, 4))


@other_file("netcdf_h5netcdf.nc")
def _(path: Path) -> None:
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": None, "x": 4}
        file.attrs["title"] = "written by h5netcdf"
        file.create_variable("x", ("x",), data=np.arange(4.0)).attrs["units"] = "m"
        pressure = file.create_variable("pressure", ("time", "x"), "<f4", chunks=(2, 4), fillvalue=-999.0)
        file.resize_dimension("time", 5)
        pressure[:4] = ramp((4, 4), "<f4")
        group = file.create_group("forecast")
        group.dimensions["lead"] = 3
        group.create_variable("error", ("lead", "x"), data=ramp((3, 4)), compression="gzip", shuffle=True)


PACKED = {"zlib": True, "complevel": 4, "shuffle": True}
CALENDAR = {"units": "days since 1990-01-01", "calendar": "standard", "axis": "T", "bounds": "time_bnds"}
CRS = {
    "grid_mapping_name": "latitude_longitude",
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563,
}


def new_variable(
    group: Any, name: str, datatype: Any, dimensions: tuple[str, ...], values: Any, **options: Any
) -> Any:
    """Create a netCDF variable and write its stored values; `attributes` among the options."""
    attributes = options.pop("attributes", {})
    variable = group.createVariable(name, datatype, dimensions, **options)
    variable.setncatts(attributes)
    variable.set_auto_maskandscale(False)
    if values is not None:
        variable[:] = values
    return variable


def climate_axes(file: Any) -> None:
    """Add dimensions and coordinates."""
    for name, length in (
        ("time", None),
        ("lat", 18),
        ("lon", 36),
        ("bnds", 2),
        ("station", 4),
        ("name_length", 8),
    ):
        file.createDimension(name, length)
    days = np.arange(24) * 30 + 15.0
    new_variable(file, "time", "f8", ("time",), days, chunksizes=(512,), attributes=CALENDAR)
    new_variable(file, "time_bnds", "f8", ("time", "bnds"), np.stack([days - 15, days + 15], 1), **PACKED)
    new_variable(
        file, "lat", "f8", ("lat",), np.arange(18) * 10 - 85.0, attributes={"units": "degrees_north"}
    )
    new_variable(file, "lon", "f4", ("lon",), np.arange(36) * 10 + 5, attributes={"units": "degrees_east"})


def packed_attributes(name: str, units: str, scale: float, shift: float) -> dict[str, Any]:
    """Return the attributes of a packed variable."""
    names = {"standard_name": name, "units": units, "grid_mapping": "crs", "cell_methods": "time: mean"}
    return {
        **names,
        "scale_factor": scale,
        "add_offset": shift,
        "valid_range": np.array([-32000, 32000], "i2"),
    }


def climate_fields(file: Any) -> None:
    """Add packed variables; some months of `pr` were never written."""
    random = np.random.default_rng(4)
    seasons = np.round(1000 * np.cos(np.arange(24) * np.pi / 6))[:, None, None]
    tas = (seasons + random.integers(-300, 300, (24, 18, 36))).astype("i2")
    tas[random.random(tas.shape) < 0.02] = -32767
    shared = {"fill_value": np.int16(-32767), "chunksizes": (6, 9, 18), **PACKED}
    dimensions = ("time", "lat", "lon")
    about_tas = packed_attributes("air_temperature", "K", 0.01, 273.15)
    new_variable(file, "tas", "i2", dimensions, tas, attributes=about_tas, **shared)
    about_pr = packed_attributes("precipitation_flux", "kg m-2 s-1", 1e-7, 0.003)
    pr = new_variable(file, "pr", "i2", dimensions, None, attributes=about_pr, **shared)
    pr[:12] = random.integers(-30000, 30000, (12, 18, 36))
    pr[18:] = random.integers(-30000, 30000, (6, 18, 36))


def climate_others(file: Any) -> None:
    """Add a scalar, big-endian and checksummed numbers, an enumeration, strings and characters."""
    new_variable(file, "crs", "i4", (), 0, attributes=CRS)
    options = {"endian": "big", "fletcher32": True, "chunksizes": (18, 36)}
    new_variable(file, "orog", ">f4", ("lat", "lon"), ramp((18, 36)), **options)
    cover = file.createEnumType(np.uint8, "cover_t", {"sea": 0, "land": 1, "ice": 2, "unknown": 255})
    codes = ramp((18, 36)) % 3
    new_variable(file, "cover", cover, ("lat", "lon"), codes, fill_value=255, **PACKED)
    new_variable(
        file, "station_name", str, ("station",), np.array(["Zürich", "Reykjavík", "Nuuk", ""], object)
    )
    codes = netCDF4.stringtochar(np.array([b"ZRH", b"REK", b"NUUK", b"LONGNAME"], "S8"))
    new_variable(file, "station_code", "S1", ("station", "name_length"), codes)


def numeric_attributes() -> dict[str, Any]:
    """Return an attribute of every netCDF type."""
    types = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    scalars = {f"scalar_{dtype}": np.array(7, dtype)[()] for dtype in types}
    arrays = {f"array_{dtype}": np.array([1, 2, 3], dtype) for dtype in types}
    return {**scalars, **arrays, "tenth": np.float32(0.1), "u8_limit": np.uint64(2**64 - 1)}


def climate_ocean(file: Any) -> None:
    """Add a group with dimensions of its own, the parent's time, and coordinates of two dimensions."""
    ocean = file.createGroup("ocean")
    ocean.setncatts({"title": "curvilinear grid", **numeric_attributes()})
    ocean.createDimension("y", 7)
    ocean.createDimension("x", 11)
    rows, columns = np.mgrid[:7, :11].astype("f8")
    new_variable(
        ocean, "nav_lat", "f8", ("y", "x"), rows * 5 + columns / 8, attributes={"units": "degrees_north"}
    )
    new_variable(
        ocean, "nav_lon", "f8", ("y", "x"), columns * 5 - rows / 8, attributes={"units": "degrees_east"}
    )
    about = {"coordinates": "nav_lat nav_lon", "missing_value": np.float32(1e20)}
    sst = np.where(ramp((24, 7, 11)) % 5 == 0, 1e20, ramp((24, 7, 11)) / 100).astype("f4")
    options = {"fill_value": np.float32(1e20), "chunksizes": (10, 7, 11), **PACKED}
    new_variable(ocean, "sst", "f4", ("time", "y", "x"), sst, attributes=about, **options)


@other_file("climate.nc")
def _(path: Path) -> None:
    """What a climate model's output looks like, written by netCDF-C."""
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"Conventions": "CF-1.8", "title": "A made-up climate", "institution": "Füßen"})
        file.setncattr_string("sources", ["model", "observations"])
        climate_axes(file)
        climate_fields(file)
        climate_others(file)
        climate_ocean(file)


@other_file("netcdf_groups.nc")
def _(path: Path) -> None:
    """Nested groups with variables along their parents' dimensions."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 5)
        new_variable(
            file, "time", "i4", ("time",), np.arange(4), attributes={"units": "hours since 2000-01-01"}
        )
        outer = file.createGroup("outer")
        new_variable(outer, "x", "f8", ("x",), np.arange(5) / 2)
        new_variable(outer, "inherited", "f8", ("time", "x"), ramp((4, 5)))
        inner = outer.createGroup("inner")
        inner.createDimension("depth", 3)
        new_variable(inner, "depth", "f4", ("depth",), [0.5, 1.5, 2.5])
        new_variable(inner, "mixed", "i2", ("time", "depth", "x"), ramp((4, 3, 5)), **PACKED)
        file.createGroup("empty").setncattr("comment", "nothing but an attribute")


@other_file("netcdf_dimensions_shadowed.nc")
def _(path: Path) -> None:
    """An inner dimension has the name of an outer one but another length: no DataTree can hold it."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 5)
        inner = file.createGroup("inner")
        inner.createDimension("x", 3)
        new_variable(file, "outside", "i4", ("x",), ramp((5,)))
        new_variable(inner, "x", "f4", ("x",), [0.5, 1.5, 2.5])
        new_variable(inner, "inside", "i4", ("x",), ramp((3,)))


@other_file("netcdf_records_missing.nc")
def _(path: Path) -> None:
    """Variables that are shorter than their unlimited dimension: netCDF readers fill them up."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 4)
        new_variable(file, "all", "i4", ("time",), np.arange(6))
        new_variable(file, "none", "f4", ("time", "x"), None, fill_value=99)
        some = new_variable(file, "some", "i2", ("time", "x"), None, fill_value=-1, chunksizes=(2, 4))
        some[:3] = ramp((3, 4))


@other_file("netcdf_character_coordinate.nc")
def _(path: Path) -> None:
    """A coordinate variable of two dimensions: only its first is its own."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("station", 3)
        file.createDimension("length", 4)
        names = netCDF4.stringtochar(np.array([b"abcd", b"ef", b""], "S4"))
        new_variable(file, "station", "S1", ("station", "length"), names)
        new_variable(file, "height", "f4", ("station",), [1, 2, 3])


@other_file("netcdf_never_written.nc")
def _(path: Path) -> None:
    """netCDF's default fill values, own ones, and none."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 4)
        for dtype in ("i1", "u2", "i4", "f4", "f8"):
            new_variable(file, dtype, dtype, ("x",), None)
            new_variable(file, f"{dtype}_own", dtype, ("x",), None, fill_value=99, chunksizes=(2,))
        new_variable(file, "no_fill", "i4", ("x",), ramp((4,)), fill_value=False)
        new_variable(file, "text", str, ("x",), None)


@other_file("netcdf_user_types.nc")
def _(path: Path) -> None:
    """A compound and a variable-length type, as netCDF-C commits them."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        point_dtype = np.dtype([("lat", "<f8"), ("lon", "<f8")])
        point = file.createCompoundType(point_dtype, "point_t")
        new_variable(file, "points", point, ("x",), np.array([(1, 2), (3, 4), (5, 6)], point_dtype))
        ragged = file.createVLType(np.int32, "ragged_t")
        rows = np.empty(3, object)
        rows[:] = [np.arange(n, dtype="i4") for n in (1, 2, 3)]
        new_variable(file, "ragged", ragged, ("x",), rows)


def main(folder: str = "", *names: str) -> None:
    """Write all files, or those that are named."""
    target = Path(folder) if folder else Path(__file__).resolve().parent.parent / "fixtures"
    target.mkdir(parents=True, exist_ok=True)
    for name in names or FIXTURES:
        FIXTURES[name](target / name)
    print(f"{len(names or FIXTURES)} files in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
