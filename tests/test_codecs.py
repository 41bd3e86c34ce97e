"""Codec ``h5zarr.hdf5``: every pipeline and datatype against what h5py reads from the same file."""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import json
import pickle
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from h5py import h5d, h5p, h5s, h5t, h5z
from h5py._objects import phil
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import cpu
from zarr.core.buffer.core import default_buffer_prototype
from zarr.core.dtype import UInt8
from zarr.storage import MemoryStore

from h5zarr import file_image
from h5zarr.chunk_form import ChunkForm
from h5zarr.codecs import HDF5Codec
from h5zarr.errors import DamagedFileError, ReferencesError
from h5zarr.file_image import decode_chunk, unfilter_chunk
from h5zarr.filter_registry import filter_remedy, is_available, missing_plugin
from h5zarr.model import Filter

SHAPE = (40, 24)
CHUNK_SHAPE = (16, 24)
FLOATS = (np.sin(np.arange(960) / 60) * 1e3).astype("<f4").reshape(SHAPE)
DOUBLES = FLOATS.astype("<f8") / 3
INTEGERS = (np.arange(960, dtype="<i4") % 1000).reshape(SHAPE) - 300
SHORTS = INTEGERS.astype("<i2")
BYTES = (np.arange(960) % 251).astype("u1").reshape(SHAPE)
RECORDS = np.array([(i, i * 0.5, i % 7) for i in range(960)], [("a", "<i4"), ("b", "<f4"), ("c", "u1")])
RECORDS = RECORDS.reshape(SHAPE)

Stage = Callable[[Any], None]


def filtered(identifier: int, *client_data: int) -> Stage:
    return lambda dcpl: dcpl.set_filter(identifier, h5z.FLAG_OPTIONAL, client_data)


def plugin(options: Any) -> Stage:
    return filtered(options["compression"], *options["compression_opts"])


def deflate(dcpl: Any) -> None:
    dcpl.set_deflate(4)


def shuffle(dcpl: Any) -> None:
    dcpl.set_shuffle()


def fletcher32(dcpl: Any) -> None:
    dcpl.set_fletcher32()


def szip(dcpl: Any) -> None:
    dcpl.set_szip(h5z.SZIP_NN_OPTION_MASK, 8)


def nbit(dcpl: Any) -> None:
    dcpl.set_filter(h5z.FILTER_NBIT, h5z.FLAG_OPTIONAL)


def integer_offset(dcpl: Any) -> None:
    dcpl.set_scaleoffset(h5z.SO_INT, 0)


def decimal_scale(dcpl: Any) -> None:
    dcpl.set_scaleoffset(h5z.SO_FLOAT_DSCALE, 3)


lzf = filtered(h5z.FILTER_LZF)

PIPELINES: dict[str, tuple[npt.NDArray[Any], list[Stage]]] = {
    "none": (FLOATS, []),
    "deflate": (FLOATS, [deflate]),
    "shuffle": (FLOATS, [shuffle]),
    "shuffle of one byte": (BYTES, [shuffle]),
    "shuffle, deflate": (DOUBLES, [shuffle, deflate]),
    "deflate, shuffle": (FLOATS, [deflate, shuffle]),
    "deflate, deflate": (FLOATS, [deflate, deflate]),
    "shuffle, shuffle, deflate": (FLOATS, [shuffle, shuffle, deflate]),
    "fletcher32": (FLOATS, [fletcher32]),
    "fletcher32, deflate": (FLOATS, [fletcher32, deflate]),
    "fletcher32, shuffle, deflate": (DOUBLES, [fletcher32, shuffle, deflate]),
    "shuffle, deflate, fletcher32": (FLOATS, [shuffle, deflate, fletcher32]),
    "records, shuffle, deflate": (RECORDS, [shuffle, deflate]),
    "lzf": (INTEGERS, [lzf]),
    "shuffle, lzf, fletcher32": (INTEGERS, [shuffle, lzf, fletcher32]),
    "szip": (INTEGERS, [szip]),
    "szip of floats, shuffle": (FLOATS, [szip, shuffle]),
    "nbit": (INTEGERS, [nbit]),
    "nbit, deflate": (DOUBLES, [nbit, deflate]),
    "nbit of records": (RECORDS, [nbit]),
    "scaleoffset of integers": (INTEGERS, [integer_offset]),
    "scaleoffset of shorts, deflate": (SHORTS, [integer_offset, deflate]),
    "scaleoffset of floats": (FLOATS, [decimal_scale]),
    "scaleoffset of doubles": (DOUBLES, [decimal_scale]),
    "lz4": (FLOATS, [plugin(hdf5plugin.LZ4())]),
    "lz4 in blocks": (FLOATS, [plugin(hdf5plugin.LZ4(nbytes=1000))]),
    "bitshuffle": (FLOATS, [plugin(hdf5plugin.Bitshuffle(cname="none"))]),
    "bitshuffle lz4": (FLOATS, [plugin(hdf5plugin.Bitshuffle(cname="lz4"))]),
    "bitshuffle zstd": (DOUBLES, [plugin(hdf5plugin.Bitshuffle(cname="zstd"))]),
    "blosc zstd": (FLOATS, [plugin(hdf5plugin.Blosc(cname="zstd", shuffle=1))]),
    "blosc lz4 bits": (SHORTS, [plugin(hdf5plugin.Blosc(cname="lz4", shuffle=2))]),
    "blosc2": (FLOATS, [plugin(hdf5plugin.Blosc2())]),
    "blosc2 delta": (DOUBLES, [plugin(hdf5plugin.Blosc2(cname="zstd", filters=3))]),
    "bzip2": (INTEGERS, [plugin(hdf5plugin.BZip2())]),
    "zstd": (FLOATS, [plugin(hdf5plugin.Zstd())]),
    "shuffle, zstd": (FLOATS, [shuffle, plugin(hdf5plugin.Zstd())]),
    "zfp reversible": (FLOATS, [plugin(hdf5plugin.Zfp(reversible=True))]),
    "zfp rate": (DOUBLES, [plugin(hdf5plugin.Zfp(rate=16))]),
    "zfp accuracy": (FLOATS, [plugin(hdf5plugin.Zfp(accuracy=0.01))]),
    "sz": (FLOATS, [plugin(hdf5plugin.SZ(absolute=0.01))]),
    "sz of doubles": (DOUBLES, [plugin(hdf5plugin.SZ(pointwise_relative=0.01))]),
    "sz3": (FLOATS, [plugin(hdf5plugin.SZ3(absolute=0.01))]),
    "sz3 of doubles": (DOUBLES, [plugin(hdf5plugin.SZ3(relative=0.01))]),
    "sperr": (FLOATS, [plugin(hdf5plugin.Sperr(rate=16))]),
    "sperr of doubles": (DOUBLES, [plugin(hdf5plugin.Sperr(absolute=0.01))]),
    "fcidecomp": (BYTES, [plugin(hdf5plugin.FciDecomp())]),
    "fcidecomp of shorts": (SHORTS.astype("<u2"), [plugin(hdf5plugin.FciDecomp())]),
    "htj2k": (SHORTS.astype("<u2"), [plugin(hdf5plugin.Htj2k())]),
}


def create(
    path: Path, datatype: Any, stages: list[Stage], shape: tuple[int, ...], chunk_shape: tuple[int, ...]
) -> Any:
    """Return a new dataset ``x`` in a new file."""
    dcpl = h5p.create(h5p.DATASET_CREATE)
    dcpl.set_chunk(chunk_shape)
    for stage in stages:
        stage(dcpl)
    file = h5py.h5f.create(str(path).encode())
    return h5d.create(file, b"x", datatype, h5s.create_simple(shape), dcpl)


def read_filters(dataset: h5py.Dataset) -> tuple[Filter, ...]:
    dcpl = dataset.id.get_create_plist()
    stages = [dcpl.get_filter(position) for position in range(dcpl.get_nfilters())]
    return tuple(
        Filter(identifier=number, flags=flags, client_data=tuple(values), name=name.decode())
        for number, flags, values, name in stages
    )


def read_form(dataset: h5py.Dataset, **more: Any) -> ChunkForm:
    byte_length = int(np.prod(dataset.chunks)) * dataset.id.get_type().get_size()
    return ChunkForm(filters=read_filters(dataset), chunk_byte_length=byte_length, **more)


def stored_chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """Return filter mask and stored bytes of each chunk, by its element offset."""
    chunks = {}
    for position in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(position)
        chunks[info.chunk_offset] = dataset.id.read_direct_chunk(info.chunk_offset)
    return chunks


def write_pipeline(path: Path, name: str) -> None:
    values, stages = PIPELINES[name]
    dataset = create(path, h5t.py_create(values.dtype), stages, SHAPE, CHUNK_SHAPE)
    dataset.write(h5s.ALL, h5s.ALL, values)


def read_through_zarr(dataset: h5py.Dataset, form: ChunkForm, data_type: Any, fill_value: Any) -> Any:
    """Return the values of a Zarr array whose chunks are the dataset's stored bytes."""
    documents = {
        "zarr.json": json.dumps(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": dataset.shape,
                "data_type": data_type,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": dataset.chunks}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": fill_value,
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    HDF5Codec(form=form).to_dict(),
                ],
                "attributes": {},
            }
        ).encode()
    }
    for offset, (_, stored) in stored_chunks(dataset).items():
        cells = (str(start // extent) for start, extent in zip(offset, dataset.chunks, strict=True))
        documents["/".join(("c", *cells))] = stored
    store = MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in documents.items()})
    return zarr.open_array(store, mode="r")[...]


def assert_chunks_equal(dataset: h5py.Dataset, form: ChunkForm, dtype: np.dtype[Any]) -> None:
    """Compare each decoded chunk with what h5py reads, bit for bit."""
    expected = dataset[...].astype(dtype)
    for offset, (mask, stored) in stored_chunks(dataset).items():
        chunk = decode_chunk(form, stored, mask).view(dtype).reshape(dataset.chunks)
        part = tuple(
            slice(start, start + extent) for start, extent in zip(offset, dataset.chunks, strict=True)
        )
        whole = expected[part]
        assert chunk[tuple(map(slice, whole.shape))].tobytes() == whole.tobytes()


# Filter pipelines ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_decodes_to_what_h5py_reads(name: str, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "x.h5", name)
    with h5py.File(tmp_path / "x.h5") as file:
        assert_chunks_equal(file["x"], read_form(file["x"]), PIPELINES[name][0].dtype)


@pytest.mark.parametrize(
    "name", ["none", "fletcher32, deflate", "lzf", "szip", "nbit", "bitshuffle lz4", "sz3"]
)
def test_zarr_reads_stored_chunks(name: str, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "x.h5", name)
    with h5py.File(tmp_path / "x.h5") as file:
        dataset, dtype = file["x"], PIPELINES[name][0].dtype
        # libhdf5 leaves the optional lzf filter out where it does not compress.
        masks = {len(stored): mask for mask, stored in stored_chunks(dataset).values() if mask}
        form = read_form(dataset, mask_by_byte_length=tuple(masks.items()))
        values = read_through_zarr(dataset, form, dtype.name, 0)
        assert values.dtype == dtype
        assert values.tobytes() == dataset[...].tobytes()


def test_chunks_beyond_what_is_kept_open(tmp_path: Path) -> None:
    values = np.arange(3 * file_image._LARGEST_KEPT_OPEN // 4, dtype="<i4")
    extent = file_image._LARGEST_KEPT_OPEN // 2
    create(tmp_path / "x.h5", h5t.STD_I32LE, [shuffle, deflate], values.shape, (extent,)).write(
        h5s.ALL, h5s.ALL, values
    )
    with h5py.File(tmp_path / "x.h5") as file:
        assert_chunks_equal(file["x"], read_form(file["x"]), values.dtype)


def test_codec_is_found_by_its_entry_point() -> None:
    (found,) = (point for point in entry_points(group="zarr.codecs") if point.name == "h5zarr.hdf5")
    assert found.load() is HDF5Codec


# Filter masks ----------------------------------------------------------------------------

MASKS = {
    "none skipped": 0,
    "shuffle skipped": 1,
    "deflate skipped": 2,
    "all skipped": 3,
    "beyond the pipeline": 4,
}


def write_masked(path: Path, masks: list[int]) -> npt.NDArray[np.int32]:
    """Write one chunk of 100 elements for each mask of the pipeline shuffle, deflate."""
    values = np.arange(100 * len(masks), dtype="<i4")
    dataset = create(path, h5t.STD_I32LE, [shuffle, deflate], values.shape, (100,))
    for position, mask in enumerate(masks):
        stored = values[100 * position :][:100].tobytes()
        if not mask & 1:
            stored = np.frombuffer(stored, "u1").reshape(-1, 4).T.tobytes()
        if not mask & 2:
            stored = zlib.compress(stored)
        dataset.write_direct_chunk((100 * position,), stored, mask)
    return values


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_one_mask_for_all_chunks(mask: int, tmp_path: Path) -> None:
    values = write_masked(tmp_path / "x.h5", [mask] * 3)
    with h5py.File(tmp_path / "x.h5") as file:
        form = read_form(file["x"], filter_mask=mask)
        assert np.array_equal(file["x"][...], values)
        assert np.array_equal(read_through_zarr(file["x"], form, "int32", 0), values)


def test_mask_by_stored_length(tmp_path: Path) -> None:
    values = write_masked(tmp_path / "x.h5", [0, 3, 0, 1, 3])
    with h5py.File(tmp_path / "x.h5") as file:
        chunks = stored_chunks(file["x"]).values()
        pairs = {len(stored): mask for mask, stored in chunks}
        form = read_form(file["x"], mask_by_byte_length=tuple(pairs.items()))
        assert {form.mask_of(len(stored)) == mask for mask, stored in chunks} == {True}
        assert np.array_equal(read_through_zarr(file["x"], form, "int32", 0), values)


def test_unfiltered_chunk_padded_to_a_length_of_its_own() -> None:
    form = ChunkForm(
        chunk_byte_length=8,
        filters=(Filter(identifier=1, flags=1, name="", client_data=(4,)),),
        filter_mask=0,
    )
    assert form.mask_of_unfiltered == 1
    assert unfilter_chunk(form, b"abcdefgh\0\0\0", form.mask_of_unfiltered).tobytes() == b"abcdefgh"


# Datatypes -------------------------------------------------------------------------------


def integer(byte_length: int, precision: int, bit_offset: int, *, signed: bool, big: bool = False) -> Any:
    datatype = (h5t.STD_I64LE if signed else h5t.STD_U64LE).copy()
    datatype.set_precision(precision)
    datatype.set_offset(bit_offset)
    datatype.set_size(byte_length)
    datatype.set_order(h5t.ORDER_BE if big else h5t.ORDER_LE)
    return datatype


def floating(byte_length: int, fields: tuple[int, ...], bias: int) -> Any:
    datatype = h5t.IEEE_F64LE.copy()
    datatype.set_fields(*fields)
    datatype.set_size(byte_length)
    datatype.set_ebias(bias)
    return datatype


def compound(byte_length: int, *members: tuple[bytes, int, Any]) -> Any:
    datatype = h5t.create(h5t.COMPOUND, byte_length)
    for name, byte_offset, member in members:
        datatype.insert(name, byte_offset, member)
    return datatype


TWELVE_BITS = integer(2, 12, 4, signed=True)
DATATYPES = {
    "12 bits at bit 4, unsigned": (integer(2, 12, 4, signed=False), "<u2"),
    "12 bits at bit 4, signed": (TWELVE_BITS, "<i2"),
    "12 bits at bit 4, big-endian": (integer(2, 12, 4, signed=True, big=True), "<i2"),
    "24 bits, signed": (integer(3, 24, 0, signed=True), "<i4"),
    "24 bits, big-endian": (integer(3, 24, 0, signed=False, big=True), "<u4"),
    "big-endian integer": (h5t.STD_I32BE, "<i4"),
    "bitfield": (h5t.STD_B16LE, "<u2"),
    "big-endian bitfield": (h5t.STD_B16BE, "<u2"),
    "bfloat16": (floating(2, (15, 7, 8, 0, 7), 127), "<f4"),
    "float8 E4M3": (floating(1, (7, 3, 4, 0, 3), 7), "<f2"),
    "float8 E5M2": (floating(1, (7, 2, 5, 0, 2), 15), "<f2"),
    "float of 29 bits": (floating(4, (28, 20, 8, 4, 16), 127), "<f4"),
    "float of 3 bytes": (floating(3, (23, 16, 7, 0, 16), 63), "<f4"),
    "big-endian compound": (
        compound(12, (b"a", 0, h5t.STD_I32BE), (b"b", 4, h5t.IEEE_F64BE)),
        [("a", "<i4"), ("b", "<f8")],
    ),
    "mixed-endian compound": (
        compound(6, (b"a", 0, h5t.STD_U16LE), (b"b", 2, h5t.IEEE_F32BE)),
        [("a", "<u2"), ("b", "<f4")],
    ),
    "padded compound": (
        compound(24, (b"a", 1, h5t.STD_I8LE), (b"b", 8, h5t.IEEE_F64LE)),
        [("a", "i1"), ("b", "<f8")],
    ),
    "nested compound with arrays": (
        compound(
            32,
            (b"a", 0, h5t.array_create(h5t.STD_I16BE, (2, 3))),
            (b"b", 16, compound(8, (b"c", 4, TWELVE_BITS), (b"d", 0, h5t.STD_I16LE))),
        ),
        [("a", "<i2", (2, 3)), ("b", [("c", "<i2"), ("d", "<i2")])],
    ),
    "compound with a big-endian bitfield": (
        compound(4, (b"a", 0, h5t.STD_B16BE), (b"b", 2, h5t.STD_U8LE)),
        [("a", "<u2"), ("b", "u1")],
    ),
    "array": (h5t.array_create(TWELVE_BITS, (3,)), ("<i2", (3,))),
}


def write_elements(path: Path, datatype: Any) -> None:
    """Write 100 elements of any bits in chunks of 32, through a filter."""
    dataset = create(path, datatype, [deflate], (100,), (32,))
    generator = np.random.default_rng(7)
    for start in range(0, 100, 32):
        data = generator.integers(0, 256, 32 * datatype.get_size(), dtype="u1")
        dataset.write_direct_chunk((start,), zlib.compress(data.tobytes()))


def read_values(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the values as h5py reads them; of 24 bits, for which h5py has no dtype, as 32."""
    if dataset.id.get_type().get_size() != 3 or dtype.kind == "f":
        return dataset[...].astype(dtype.base)
    values = np.empty(dataset.shape, dtype)
    dataset.id.read(h5s.ALL, h5s.ALL, values)
    return values


@pytest.mark.parametrize("name", DATATYPES)
def test_elements_are_converted_as_h5py_does(name: str, tmp_path: Path) -> None:
    datatype, in_memory = DATATYPES[name]
    dtype = np.dtype(in_memory)
    write_elements(tmp_path / "x.h5", datatype)
    with h5py.File(tmp_path / "x.h5") as file:
        memory_type = h5t.py_create(dtype)
        form = read_form(file["x"], stored_type=datatype.encode(), memory_type=memory_type.encode())
        expected = read_values(file["x"], dtype)
        chunks = [decode_chunk(form, stored, mask) for mask, stored in stored_chunks(file["x"]).values()]
    values = np.concatenate(chunks)[: 100 * dtype.itemsize]
    assert values.tobytes() == expected.tobytes()


def test_conversion_without_filters_through_zarr(tmp_path: Path) -> None:
    dataset = create(tmp_path / "x.h5", TWELVE_BITS, [], (50,), (16,))
    dataset.write(h5s.ALL, h5s.ALL, np.arange(-25, 25, dtype="i2"))
    del dataset
    with h5py.File(tmp_path / "x.h5") as file:
        types = {"stored_type": TWELVE_BITS.encode(), "memory_type": h5t.STD_I16LE.encode()}
        values = read_through_zarr(file["x"], read_form(file["x"], **types), "int16", 0)
    assert np.array_equal(values, np.arange(-25, 25))


def test_records_through_zarr(tmp_path: Path) -> None:
    dtype = np.dtype([("a", "<i4"), ("b", "<f8")])
    write_elements(tmp_path / "x.h5", DATATYPES["big-endian compound"][0])
    with h5py.File(tmp_path / "x.h5") as file:
        types = {
            "stored_type": file["x"].id.get_type().encode(),
            "memory_type": h5t.py_create(dtype).encode(),
        }
        data_type = {"name": "structured", "configuration": {"fields": [["a", "int32"], ["b", "float64"]]}}
        values = read_through_zarr(file["x"], read_form(file["x"], **types), data_type, "AAAAAAAAAAAAAAAA")
        assert values.tobytes() == file["x"][...].astype(dtype).tobytes()


def test_padding_becomes_zero() -> None:
    stored = compound(4, (b"a", 0, h5t.STD_U8LE), (b"b", 2, h5t.STD_U16BE))
    memory = compound(8, (b"a", 0, h5t.STD_U8LE), (b"b", 4, h5t.STD_U16LE))
    form = ChunkForm(chunk_byte_length=4, stored_type=stored.encode(), memory_type=memory.encode())
    assert decode_chunk(form, b"\x01\xff\x02\x03").tobytes() == b"\x01\0\0\0\x03\x02\0\0"


ADDRESSES = {
    "variable-length string": h5t.py_create(h5py.string_dtype(), logical=True),
    "variable-length sequence": h5t.vlen_create(h5t.STD_I32LE),
    "reference": h5t.STD_REF_OBJ,
    "reference in an array in a compound": compound(16, (b"a", 0, h5t.array_create(h5t.STD_REF_OBJ, (2,)))),
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_are_not_converted(name: str) -> None:
    encoded = ADDRESSES[name].encode()
    form = ChunkForm(chunk_byte_length=ADDRESSES[name].get_size(), stored_type=encoded, memory_type=encoded)
    with pytest.raises(ReferencesError):
        decode_chunk(form, bytes(form.chunk_byte_length))


NUMBER = h5t.STD_I32LE.encode()


def test_numbers_are_converted() -> None:
    form = ChunkForm(chunk_byte_length=4, stored_type=NUMBER, memory_type=h5t.IEEE_F64LE.encode())
    assert decode_chunk(form, b"\x07\0\0\0").view("<f8") == 7


@pytest.mark.parametrize(
    ("stored_type", "memory_type"),
    [(NUMBER, h5t.array_create(h5t.STD_I8LE, (4,)).encode()), (b"\3\0nonsense", NUMBER)],
    ids=["number to array", "no datatype"],
)
def test_impossible_conversion_is_an_error(stored_type: bytes, memory_type: bytes) -> None:
    form = ChunkForm(chunk_byte_length=4, stored_type=stored_type, memory_type=memory_type)
    with pytest.raises(ReferencesError, match=r"cannot convert|datatype"):
        decode_chunk(form, bytes(4))


def test_datatype_with_parts_larger_than_the_whole_is_an_error() -> None:
    encoded = h5t.array_create(TWELVE_BITS, (3,)).encode()
    position = encoded.rindex(struct.pack("<IHH", 2, 4, 12))
    damaged = encoded[: position + 2] + b"\xff" + encoded[position + 3 :]
    form = ChunkForm(chunk_byte_length=6, stored_type=damaged, memory_type=encoded)
    with pytest.raises(ReferencesError, match="larger than the whole"):
        decode_chunk(form, bytes(6))


def test_part_of_an_element_is_an_error() -> None:
    encoded = h5t.STD_I32LE.encode()
    form = ChunkForm(chunk_byte_length=6, stored_type=encoded, memory_type=encoded)
    with pytest.raises(ReferencesError, match="chunk of 6 bytes, elements of 4 bytes"):
        decode_chunk(form, bytes(6))


# Damage ----------------------------------------------------------------------------------


def stage(identifier: int, *client_data: int, name: str = "") -> Filter:
    return Filter(identifier=identifier, flags=1, name=name, client_data=client_data)


DAMAGED = {
    "empty": ([stage(1, 4)], b""),
    "not deflated": ([stage(1, 4)], b"nonsense"),
    "deflated, truncated": ([stage(1, 4)], zlib.compress(bytes(range(256)) * 4)[:-20]),
    "less than a chunk": ([stage(1, 4)], zlib.compress(b"a" * 1023)),
    "less than a chunk, shuffled": ([stage(2, 4), stage(1, 4)], zlib.compress(b"a")),
    "less than a chunk, not filtered": ([], bytes(1023)),
    "shuffled, truncated": ([stage(2, 4)], bytes(1000)),
    "wrong checksum": ([stage(3)], b"\1" * 1028),
    "less than a checksum": ([stage(3)], b"abc"),
    "less than a checksum, deflated": ([stage(3), stage(1, 4)], zlib.compress(b"abc")),
    "bzip2, truncated": ([stage(307, 9)], bz2.compress(bytes(range(256)) * 4)[:-20]),
    "bzip2, less than a chunk": ([stage(307, 9)], bz2.compress(b"a")),
    "not bzip2": ([stage(307, 9)], b"nonsense"),
    "bitshuffle lz4, header only": ([stage(32008, 0, 3, 4, 0, 2)], b"\0\0\0\0\0\0\4\0\0\0\4\0"),
    "bitshuffle lz4, block too long": ([stage(32008, 0, 3, 4, 0, 2)], b"\0\0\0\0\0\0\4\0\0\0\4\0\1\0\0\0xx"),
    "bitshuffle lz4, no block size": ([stage(32008, 0, 3, 4, 0, 2)], bytes(100)),
    "blosc, truncated": (
        [stage(32001, 2, 2, 4, 1024, 5, 1, 1)],
        b"\2\1\1\4\0\4\0\0\0\4\0\0\x99\0\0\0" + bytes(8),
    ),
    "blosc, less than a header": ([stage(32001, 2, 2, 4, 1024, 5, 1, 1)], b"\2\1"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_chunk_is_an_error(name: str) -> None:
    filters, stored = DAMAGED[name]
    with pytest.raises(DamagedFileError, match=f"chunk of {len(stored)} stored bytes"):
        decode_chunk(ChunkForm(chunk_byte_length=1024, filters=tuple(filters)), stored)


def test_damage_does_not_outlast_its_chunk() -> None:
    form = ChunkForm(chunk_byte_length=1024, filters=(stage(2, 4), stage(1, 4), stage(3)))
    whole = ChunkForm(chunk_byte_length=1024, filters=(stage(1, 6),))
    for number in range(20):
        with pytest.raises(DamagedFileError):
            decode_chunk(form, bytes([number]) * 50)
        data = bytes([number]) * 1024
        assert decode_chunk(whole, zlib.compress(data)).tobytes() == data


# What crashes or hangs inside the plugin on bytes that it did not write: SZ ends the process on a
# double free, SZ3 and SPERR on a segmentation fault or an uncaught C++ exception; ZFP and HTJ2K read
# beyond the stored bytes where they are truncated.
FRAGILE = ("sz", "sz of doubles", "sz3", "sz3 of doubles", "sperr", "sperr of doubles", "htj2k")
FRAGILE += tuple(name for name in PIPELINES if name.startswith("zfp"))
ROBUST = sorted(PIPELINES.keys() - set(FRAGILE))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ChunkForm, bytes]]:
    """Return form and first stored chunk of every robust pipeline."""
    folder, chunks = tmp_path_factory.mktemp("written"), {}
    for number, name in enumerate(ROBUST):
        write_pipeline(folder / f"{number}.h5", name)
        with h5py.File(folder / f"{number}.h5") as file:
            chunks[name] = read_form(file["x"]), stored_chunks(file["x"])[(0, 0)][1]
    return chunks


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_or_raise(data: st.DataObject, written: dict[str, tuple[ChunkForm, bytes]]) -> None:
    form, stored = written[data.draw(st.sampled_from(ROBUST))]
    replaced = data.draw(st.dictionaries(st.integers(0, len(stored) - 1), st.integers(0, 255), max_size=4))
    damaged = bytes(replaced.get(position, byte) for position, byte in enumerate(stored))
    length = data.draw(st.integers(0, len(stored)) | st.just(len(stored)))
    drawn = data.draw(st.just(damaged[:length]) | st.binary())
    with contextlib.suppress(DamagedFileError):
        assert decode_chunk(form, drawn, 0).shape == (form.chunk_byte_length,)


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.binary(min_size=700, max_size=700), min_size=1, max_size=5), mask=st.integers(0, 3))
def test_chunks_one_after_the_other(chunks: list[bytes], mask: int) -> None:
    form = ChunkForm(chunk_byte_length=700, filters=(stage(2, 3), stage(1, 4)), filter_mask=mask)
    for data in chunks:
        shuffled = data if mask & 1 else shuffle_bytes(data, 3)
        assert decode_chunk(form, shuffled if mask & 2 else zlib.compress(shuffled)).tobytes() == data


def shuffle_bytes(data: bytes, element: int) -> bytes:
    """Return the bytes as HDF5's shuffle stores them: what is no whole element stays at the end."""
    whole = len(data) // element * element
    return np.frombuffer(data[:whole], "u1").reshape(-1, element).T.tobytes() + data[whole:]


# Filters that are not there --------------------------------------------------------------


def test_missing_plugin_is_named() -> None:
    missing = missing_plugin([stage(1, 4), stage(32003, name="snappy of ours")])
    assert missing is not None
    assert missing.identifier == 32003
    assert missing.found == (
        'HDF5 filter 32003 (Snappy, "snappy of ours" in the file), which libhdf5 does not have here'
    )
    assert "HDF5_PLUGIN_PATH" in missing.remedy
    with pytest.raises(ReferencesError, match=r"filter 32003 \(Snappy\).*HDF5_PLUGIN_PATH"):
        decode_chunk(ChunkForm(chunk_byte_length=4, filters=(stage(32003),)), b"abcd")


def test_nothing_is_missing() -> None:
    assert missing_plugin([stage(1, 4), stage(32015), stage(32008)]) is None
    assert missing_plugin([]) is None


@pytest.mark.parametrize(
    ("identifier", "package"),
    [(32026, "hdf5plugin"), (32020, "vbz-h5py-plugin"), (4, "h5py"), (40000, "HDF5_PLUGIN_PATH")],
)
def test_remedy_names_the_package(identifier: int, package: str) -> None:
    assert package in filter_remedy(identifier)


def test_package_is_imported_only_where_it_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(
        "h5py.h5z.filter_avail", lambda number: number in (1, 307) and bool(imported or number < 256)
    )
    monkeypatch.setattr("importlib.import_module", imported.append)
    assert is_available(1)
    assert imported == []
    assert is_available(307)
    assert imported == ["hdf5plugin"]
    assert not is_available(32003)
    assert imported == ["hdf5plugin"]


def test_skipped_filter_need_not_be_there() -> None:
    form = ChunkForm(chunk_byte_length=4, filters=(stage(32003), stage(1, 4)), filter_mask=1)
    assert decode_chunk(form, zlib.compress(b"abcd")).tobytes() == b"abcd"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (ChunkForm(chunk_byte_length=1 << 32, filters=(stage(1),)), "4294967296 bytes"),
        (ChunkForm(chunk_byte_length=4, filters=(stage(1),) * 32), "32 filters"),
        (ChunkForm(chunk_byte_length=4, filters=(stage(2, *range(20000)),)), "longer than a header message"),
    ],
)
def test_more_than_libhdf5_allows(form: ChunkForm, words: str) -> None:
    with pytest.raises(ReferencesError, match=words):
        decode_chunk(form, b"abcd")


# Configuration ---------------------------------------------------------------------------

FORM = ChunkForm(
    chunk_byte_length=400,
    filters=(stage(2, 4, name="shuffle"), stage(32015, 3, name="zstd")),
    filter_mask=1,
    mask_by_byte_length=((400, 3), (100, 2)),
    stored_type=h5t.STD_I32BE.encode(),
    memory_type=h5t.STD_I32LE.encode(),
)
CONFIGURATION = {
    "filters": [
        {"id": 2, "flags": 1, "name": "shuffle", "client_data": [4]},
        {"id": 32015, "flags": 1, "name": "zstd", "client_data": [3]},
    ],
    "filter_mask": 1,
    "filter_mask_by_length": {"100": 2, "400": 3},
    "chunk_byte_length": 400,
    "stored_type": base64.b64encode(h5t.STD_I32BE.encode()).decode(),
    "memory_type": base64.b64encode(h5t.STD_I32LE.encode()).decode(),
}


def test_configuration_is_canonical() -> None:
    configuration = FORM.to_configuration()
    assert json.dumps(configuration) == json.dumps(CONFIGURATION)
    assert ChunkForm.from_configuration(json.loads(json.dumps(configuration))) == FORM
    assert ChunkForm(chunk_byte_length=1).to_configuration() == {"filters": [], "chunk_byte_length": 1}


WRONG = {
    "no filters": {"filters": None},
    "unknown key": {"filter_masks": 1},
    "negative mask": {"filter_mask": -1},
    "mask of 33 bits": {"filter_mask": 1 << 32},
    "mask is true": {"filter_mask": True},
    "lengths in a list": {"filter_mask_by_length": [1]},
    "length is no number": {"filter_mask_by_length": {"x": 1}},
    "no bytes": {"chunk_byte_length": 0},
    "filter is no object": {"filters": [2]},
    "filter without client data": {"filters": [{"id": 2, "flags": 1, "name": ""}]},
    "filter number of 17 bits": {"filters": [{"id": 1 << 16, "flags": 1, "name": "", "client_data": []}]},
    "name is no string": {"filters": [{"id": 2, "flags": 1, "name": 1, "client_data": []}]},
    "client data of floats": {"filters": [{"id": 2, "flags": 1, "name": "", "client_data": [1.0]}]},
    "not base64": {"stored_type": "!"},
    "type is no string": {"stored_type": 1},
    "one type only": {"memory_type": None},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configuration_is_an_error(name: str) -> None:
    with pytest.raises(ReferencesError):
        ChunkForm.from_configuration({**CONFIGURATION, **WRONG[name]})


@pytest.mark.parametrize("key", ["filters", "chunk_byte_length"])
def test_incomplete_configuration_is_an_error(key: str) -> None:
    with pytest.raises(ReferencesError, match=key):
        ChunkForm.from_configuration({name: CONFIGURATION[name] for name in CONFIGURATION if name != key})


# The codec in zarr -----------------------------------------------------------------------


def test_codec_round_trips_through_its_document() -> None:
    codec = HDF5Codec(form=FORM)
    document = json.loads(json.dumps(codec.to_dict()))
    assert document["name"] == "h5zarr.hdf5"
    again = HDF5Codec.from_dict(document)
    assert again == codec
    assert hash(again) == hash(codec)
    assert again != HDF5Codec(form=ChunkForm(chunk_byte_length=400))
    with pytest.raises(ReferencesError, match="zstd"):
        HDF5Codec.from_dict({"name": "zstd", "configuration": {}})


def test_codec_is_pickled() -> None:
    codec = HDF5Codec(form=ChunkForm(chunk_byte_length=4, filters=(stage(1, 4),)))
    assert decode_chunk(codec.form, zlib.compress(b"abcd")).tobytes() == b"abcd"
    again = pickle.loads(pickle.dumps(codec))
    assert again == codec
    assert decode_chunk(again.form, zlib.compress(b"efgh")).tobytes() == b"efgh"


def array_spec(byte_length: int) -> ArraySpec:
    return ArraySpec(
        shape=(byte_length,),
        dtype=UInt8(),
        fill_value=np.uint8(0),
        config=ArrayConfig(order="C", write_empty_chunks=False),
        prototype=default_buffer_prototype(),
    )


def test_codec_alone() -> None:
    codec, spec = HDF5Codec(form=ChunkForm(chunk_byte_length=4, filters=(stage(1, 4),))), array_spec(4)
    stored = cpu.Buffer.from_bytes(zlib.compress(b"abcd"))
    assert codec.evolve_from_array_spec(spec) == codec
    assert codec.resolve_metadata(spec) == spec
    assert codec._decode_sync(stored, spec).to_bytes() == b"abcd"
    assert asyncio.run(codec._decode_single(stored, spec)).to_bytes() == b"abcd"
    (decoded,) = asyncio.run(codec.decode([(stored, spec)]))
    assert decoded.to_bytes() == b"abcd"


def test_event_loop_does_not_wait_for_h5py() -> None:
    codec, spec = HDF5Codec(form=ChunkForm(chunk_byte_length=4, filters=(stage(1, 4),))), array_spec(4)
    stored, held, done = cpu.Buffer.from_bytes(zlib.compress(b"abcd")), threading.Event(), threading.Event()

    def hold() -> None:
        with phil:
            held.set()
            assert done.wait(10)

    async def decode() -> bytes:
        decoding = asyncio.ensure_future(codec._decode_single(stored, spec))
        await asyncio.sleep(0.01)
        assert not decoding.done()
        done.set()
        return (await decoding).to_bytes()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    assert asyncio.run(decode()) == b"abcd"
    holder.join()


def test_codec_only_reads() -> None:
    codec, spec = HDF5Codec(form=FORM), array_spec(4)
    with pytest.raises(NotImplementedError):
        codec.compute_encoded_size(4, spec)
    with pytest.raises(NotImplementedError, match="only reads"):
        asyncio.run(codec._encode_single(cpu.Buffer.from_bytes(b"abcd"), spec))


def test_many_threads_decode_at_once() -> None:
    forms = [
        ChunkForm(chunk_byte_length=600, filters=(stage(2, 4), stage(1, level))) for level in range(1, 4)
    ]
    file_image._decoder.cache_clear()

    def decode(number: int) -> bool:
        data = bytes([number % 256]) * 600
        return decode_chunk(forms[number % 3], zlib.compress(data)).tobytes() == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(decode, range(2000)))


def test_closing_every_hdf5_object_does_no_harm() -> None:
    form = ChunkForm(chunk_byte_length=4, filters=(stage(1, 5),))
    assert decode_chunk(form, zlib.compress(b"abcd")).tobytes() == b"abcd"
    dataset = file_image._decoder(form.filters, 4)._dataset
    while dataset:
        h5py.h5i.dec_ref(dataset)
    assert decode_chunk(form, zlib.compress(b"efgh")).tobytes() == b"efgh"


def test_memory_stays_bounded() -> None:
    form = ChunkForm(chunk_byte_length=100_000, filters=(stage(1, 7),))
    generator = np.random.default_rng(0)
    for length in generator.integers(1, 100_000, 300):
        decode_chunk(form, zlib.compress(generator.bytes(length) + bytes(100_000 - length)))
    dataset = file_image._decoder(form.filters, 100_000)._dataset
    assert h5py.h5i.get_file_id(dataset).get_filesize() < 400_000


def test_bitshuffle_with_a_number_of_no_compression(tmp_path: Path) -> None:
    """The plugin only shuffles then, and writes such numbers where it stands twice in a pipeline."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = np.arange(1000, dtype="<i4")
        options = hdf5plugin.Bitshuffle(cname="none")
        dataset = file.create_dataset("x", data=values, chunks=(1000,), compression=options)
        stored = dataset.id.read_direct_chunk((0,))[1]
    form = ChunkForm(chunk_byte_length=values.nbytes, filters=(stage(32008, 0, 3, 4, 0, 8),))
    assert decode_chunk(form, stored).tobytes() == values.tobytes()
