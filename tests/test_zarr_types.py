"""Data types ``h5zarr.numpy`` and ``h5zarr.sequence``: what zarr reads is what h5py reads."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, open_zarr, storage_options
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.dtype import data_type_registry
from zarr.storage import FsspecStore, MemoryStore

from h5zarr import inline_values
from h5zarr.converter import convert
from h5zarr.dtype_json import dtype_from_json, dtype_to_json
from h5zarr.errors import ReferencesError
from h5zarr.sequence_codec import SequenceCodec
from h5zarr.sequences import decode_sequences, encode_sequences
from h5zarr.zarr_types import NumPyType, SequenceType

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

POINT = np.dtype([("a", "<i4"), ("b", "<f4", (3,))])
NESTED = np.dtype([("n", POINT, (2,)), ("s", "S3"), ("m", [("y", ">i2", (2, 2)), ("z", "?")])])
LONG = np.dtype(np.longdouble)
LONG_COMPLEX = np.dtype(np.clongdouble)
SELECTIONS: tuple[Any, ...] = (..., slice(0, 1), slice(2, 3), slice(1, None, 2), slice(None))


def values_of(dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if dtype.kind in "fc":
        return (np.arange(count, dtype=dtype) - 2) / 3
    filler = np.random.default_rng(7).integers(0, 2, count * dtype.itemsize, np.uint8)
    return filler.view(dtype)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def same_sequences(expected: Any, found: Any) -> bool:
    pairs = zip(np.asarray(expected).flat, np.asarray(found).flat, strict=True)
    return np.shape(expected) == np.shape(found) and all(
        type(right) is np.ndarray and left.dtype == right.dtype and np.array_equal(left, right)
        for left, right in pairs
    )


def sequences(*elements: list[float], dtype: str = "<f8") -> npt.NDArray[Any]:
    values = np.empty(len(elements), object)
    for position, element in enumerate(elements):
        values[position] = np.array(element, dtype)
    return values


# Dtypes as JSON --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [POINT, NESTED, LONG, LONG_COMPLEX, np.dtype("<M8[25s]"), np.dtype("V5")])
def test_dtype_survives_json(dtype: np.dtype[Any]) -> None:
    assert dtype_from_json(json.loads(json.dumps(dtype_to_json(dtype)))) == dtype


PLAIN = npst.scalar_dtypes() | npst.byte_string_dtypes(min_len=1) | npst.unicode_string_dtypes(min_len=1)


def compounds(members: st.SearchStrategy[np.dtype[Any]]) -> st.SearchStrategy[np.dtype[Any]]:
    shapes = npst.array_shapes(max_dims=2, max_side=3) | st.just(())
    field = st.tuples(st.text(min_size=1), members, shapes)
    return st.lists(field, min_size=1, max_size=4, unique_by=lambda item: item[0]).map(np.dtype)


@given(st.recursive(PLAIN, compounds, max_leaves=6))
def test_any_packed_dtype_survives_json(dtype: np.dtype[Any]) -> None:
    assert dtype_from_json(json.loads(json.dumps(dtype_to_json(dtype)))) == dtype


def test_dtype_json_is_readable() -> None:
    assert dtype_to_json(POINT) == [["a", "<i4"], ["b", "<f4", [3]]]


@pytest.mark.parametrize(
    "form",
    [
        *("|O", "float64", "f8", "i4,f4", "<f3", "|V0", "", None, 8, [], {}, [["a"]], [["a", "<i4", 3]]),
        *([["a", "<i4"], ["a", "<i4"]], [["a", "|O"]], [["", "<i4"]], [["a", "<i4", [-1]]], ["<i4"]),
    ],
)
def test_other_json_is_no_dtype(form: Any) -> None:
    with pytest.raises(ReferencesError):
        dtype_from_json(form)


# Registration ----------------------------------------------------------------------------


def test_entry_points_name_the_classes() -> None:
    loaded = {point.name: point.load() for point in entry_points(group="zarr.data_type")}
    assert loaded["h5zarr.numpy"] is NumPyType
    assert loaded["h5zarr.sequence"] is SequenceType
    (codec,) = entry_points(group="zarr.codecs", name="h5zarr.sequence")
    assert codec.load() is SequenceCodec


def test_reader_needs_h5zarr_installed_but_not_imported(tmp_path: Path) -> None:
    """zarr 3.1 does not load entry points of data types by itself."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["points"] = values_of(POINT, 4)
        file.create_dataset("sequences", (2,), h5py.vlen_dtype("<f8"))[0] = [0.0, 1.0]
    convert(tmp_path / "x.h5", tmp_path / "x.json")
    script = f"""
import zarr
store = zarr.storage.FsspecStore.from_url(
    "reference://", storage_options={storage_options(str(tmp_path / "x.json"))!r}, read_only=True)
group = zarr.open_group(store, mode="r")
assert group["points"].dtype.names == ("a", "b")
assert group["sequences"][0].item().tolist() == [0.0, 1.0]
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_zarr_chooses_data_types_as_before() -> None:
    pair = np.dtype([("a", "<i4"), ("b", "<f8")])
    for dtype in (np.dtype("<f8"), np.dtype("V5"), pair):
        chosen = type(zarr.create_array(MemoryStore(), shape=(2,), dtype=dtype).metadata.data_type)
        assert not issubclass(chosen, NumPyType | SequenceType)
    with pytest.raises(ValueError, match="No Zarr data type"):
        data_type_registry.match_dtype(LONG)


# h5zarr.numpy ----------------------------------------------------------------------------


@pytest.fixture(params=[POINT, NESTED, LONG, LONG_COMPLEX], ids=["point", "nested", "long", "complex"])
def fixed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[h5py.File, zarr.Group]]:
    """A file of one dtype, stored in several ways, and its references as zarr opens them."""
    values = values_of(request.param, 12)
    chunked = {"chunks": (3,), "dtype": request.param, "fillvalue": values[5]}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["contiguous"] = values
        file["scalar"] = values[3]
        file["table"] = values.reshape(3, 4)
        file.create_dataset("deflated", data=values, chunks=(5,), compression="gzip", shuffle=True)
        file.create_dataset("lzf", data=values, chunks=(5,), compression="lzf")
        file.create_dataset("partly", (10,), **chunked)[3:5] = values[:2]
        file.create_dataset("unwritten", (4,), **chunked)
        file.create_dataset("empty", (0,), maxshape=(None,), **chunked)
    converted = convert(tmp_path / "x.h5", inline_threshold=0)
    assert not converted.problems
    with h5py.File(tmp_path / "x.h5") as file:
        yield file, open_zarr(converted.references())


def test_fixed_size_arrays_read_as_h5py_reads_them(fixed: tuple[h5py.File, zarr.Group]) -> None:
    file, group = fixed
    for name in ("contiguous", "table", "deflated", "lzf", "partly", "unwritten", "empty"):
        expected, found = file[name], group[name]
        assert found.dtype == native(expected.dtype), name
        for selection in SELECTIONS:
            np.testing.assert_array_equal(found[selection], expected[selection], err_msg=name)


def test_fixed_size_scalars_read_as_h5py_reads_them(fixed: tuple[h5py.File, zarr.Group]) -> None:
    file, group = fixed
    assert group["scalar"][()] == file["scalar"][()]
    assert group["table"][1, 2] == file["table"][1, 2]
    np.testing.assert_array_equal(group["deflated"].oindex[[1, 9]], file["deflated"][[1, 9]])


def test_fixed_size_arrays_can_be_written_to_after_reading(fixed: tuple[h5py.File, zarr.Group]) -> None:
    found = fixed[1]["contiguous"][...]
    assert isinstance(found, np.ndarray)
    found[0] = found[1]


def test_fixed_size_metadata_survives(fixed: tuple[h5py.File, zarr.Group]) -> None:
    for _, array in fixed[1].members():
        assert isinstance(array, zarr.Array)
        document = array.metadata.to_dict()
        assert type(array.metadata).from_dict(json.loads(json.dumps(document))) == array.metadata
        assert pickle.loads(pickle.dumps(array)).metadata == array.metadata
        assert isinstance(array.metadata.data_type, NumPyType)
        assert array.nbytes == array.size * array.dtype.itemsize
        assert "shape=" in repr(array)


def test_compound_with_heap_data_and_arrays(tmp_path: Path) -> None:
    dtype = np.dtype([("text", h5py.string_dtype()), ("b", "<f4", (3,))])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.array([("hi", [1, 2, 3]), ("there", [4, 5, 6])], dtype)
    found = open_zarr(convert(tmp_path / "x.h5").references())["x"][...]
    assert found.dtype == np.dtype([("text", "S5"), ("b", "<f4", (3,))])
    assert found["text"].tolist() == [b"hi", b"there"]
    assert found["b"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_compounds_that_zarr_knows_stay_its_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros(2, [("a", "<i4"), ("s", "S3"), ("t", [("u", "<f8")])])
    document = json.loads(convert(tmp_path / "x.h5").references()["refs"]["x/zarr.json"])
    assert document["data_type"]["name"] == "structured"


@pytest.mark.parametrize(
    ("fill_value", "error"), [("AAAA", TypeError), ("?", TypeError), (0, TypeError), (None, TypeError)]
)
def test_fill_value_has_to_be_one_element(fill_value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_one(NumPyType(dtype=POINT).to_json(3), fill_value, [{"name": "bytes"}])


@pytest.mark.parametrize("dtype", [POINT, LONG])
def test_elements_are_cast(dtype: np.dtype[Any]) -> None:
    data_type = NumPyType(dtype=dtype)
    assert data_type.cast_scalar(0) == data_type.default_scalar()
    assert not data_type._check_scalar("no element")
    with pytest.raises(TypeError):
        data_type.cast_scalar("no element")


def test_padding_of_long_doubles_is_not_told() -> None:
    data_type = NumPyType(dtype=LONG_COMPLEX)
    texts = {data_type.to_json_scalar(complex(i, 1) * 0 + 1, zarr_format=3) for i in range(50)}
    assert len(texts) == 1


def test_padded_dtype_is_refused() -> None:
    with pytest.raises(ReferencesError, match="not a packed dtype"):
        NumPyType(dtype=np.dtype({"names": ["a", "b"], "formats": ["i1", "<i4"], "offsets": [0, 4]}))


# h5zarr.sequence -------------------------------------------------------------------------


BASES: dict[str, np.dtype[Any]] = {
    "floats": np.dtype("<f8"),
    "shorts": np.dtype("<i2"),
    "long doubles": LONG,
    "booleans": np.dtype("?"),
    "strings": np.dtype("S3"),
    "complex": np.dtype("<c8"),
    "compounds": POINT,
}


@pytest.fixture(params=BASES)
def ragged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[h5py.File, zarr.Group]]:
    base = BASES[request.param]
    vlen = h5py.vlen_dtype(base)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        line = file.create_dataset("line", (7,), vlen, chunks=(3,))
        for position, length in enumerate((2, 1, 0, 5)):
            line[position] = values_of(base, length)
        file.create_dataset("table", (2, 3), vlen)[1, 1] = values_of(base, 4)
        file.create_dataset("unwritten", (2,), vlen)
        file.create_dataset("empty", (0, 2), vlen, maxshape=(None, 2))
    converted = convert(tmp_path / "x.h5")
    assert not converted.problems
    with h5py.File(tmp_path / "x.h5") as file:
        yield file, open_zarr(converted.references())


def test_sequences_read_as_h5py_reads_them(ragged: tuple[h5py.File, zarr.Group]) -> None:
    file, group = ragged
    for name in ("line", "table", "unwritten", "empty"):
        expected, found = file[name], group[name]
        assert h5py.check_vlen_dtype(found.dtype) == h5py.check_vlen_dtype(expected.dtype), name
        for selection in SELECTIONS:
            assert same_sequences(expected[selection], found[selection]), name


def test_one_sequence_is_not_nested(ragged: tuple[h5py.File, zarr.Group]) -> None:
    file, group = ragged
    found = group["line"][0]
    assert found.shape == ()
    assert np.array_equal(found.item(), file["line"][0])
    assert np.array_equal(group["table"][1, 1].item(), file["table"][1, 1])


def test_sequence_metadata_survives(ragged: tuple[h5py.File, zarr.Group]) -> None:
    for _, array in ragged[1].members():
        assert isinstance(array, zarr.Array)
        document = array.metadata.to_dict()
        assert document["fill_value"] == []
        assert type(array.metadata).from_dict(json.loads(json.dumps(document))) == array.metadata
        assert pickle.loads(pickle.dumps(array)).metadata == array.metadata
        assert "shape=" in repr(array)


def test_scalar_sequence_keeps_the_shape_of_its_array(tmp_path: Path) -> None:
    """h5py gives the sequence itself for ``[()]``, whose shape xarray would not bear."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (), h5py.vlen_dtype("<f4"))[()] = np.array([1, 2, 3], "<f4")
        file["y"] = np.arange(3)
    references = convert(tmp_path / "x.h5").references()
    array = open_zarr(references)["x"]
    for found in (array[()], array[...]):
        assert found.shape == ()
        assert found.item().tolist() == [1, 2, 3]
    opened = xr.open_dataset("reference://", engine="zarr", storage_options=storage_options(references))
    assert opened["y"].values.tolist() == [0, 1, 2]
    assert opened["x"].values.item().tolist() == [1, 2, 3]


def test_sequences_of_arrays(tmp_path: Path) -> None:
    """h5py reads such sequences, but writes only empty ones."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (2,), h5py.vlen_dtype(np.dtype(("<f4", (3,)))))
        expected = file["x"][...]
    array = open_zarr(convert(tmp_path / "x.h5").references())["x"]
    assert array.metadata.to_dict()["data_type"]["configuration"] == {"base": "<f4", "base_shape": [3]}
    assert same_sequences(expected, array[...])


def test_array_datatype_of_sequences(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = sequences([], [1], [2, 3], [4], dtype="<i4").reshape(2, 2)
        file.create_dataset("x", (2,), np.dtype((h5py.vlen_dtype("<i4"), (2,))))[...] = values
    assert same_sequences(values, open_zarr(convert(tmp_path / "x.h5").references())["x"][...])


def test_sequences_on_the_heap_themselves_stay_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        texts = file.create_dataset("x", (1,), h5py.vlen_dtype(h5py.string_dtype()))
        texts[0] = np.array([b"a", b"bc"], object)
    assert open_zarr(convert(tmp_path / "x.h5").references())["x"][...].tolist() == ['["a","bc"]']


def test_many_sequences_are_split_into_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_values, "_CHUNK_BYTES", 150)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (10, 2), h5py.vlen_dtype("<f8"))
        for row in range(10):
            dataset[row, 1] = np.arange(row)
        expected = dataset[...]
    array = open_zarr(convert(tmp_path / "x.h5").references())["x"]
    assert 1 < array.chunks[0] < 10
    assert 10 % array.chunks[0]
    assert same_sequences(expected, array[...])


# The codec -------------------------------------------------------------------------------


def open_one(data_type: Any, fill_value: Any, codecs: list[Any], chunk: bytes = b"") -> zarr.Array[Any]:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3],
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": codecs,
        "attributes": {},
    }
    encoded = "base64:" + base64.b64encode(chunk).decode()
    references = {"version": 1, "refs": {"zarr.json": json.dumps(document), "c/0": encoded}}
    store = FsspecStore.from_url("reference://", storage_options=storage_options(references), read_only=True)
    return zarr.open_array(store, mode="r")


SEQUENCE = {"name": "h5zarr.sequence", "configuration": {"base": "<f4"}}
CODEC = {"name": "h5zarr.sequence"}


def test_bytes_of_a_chunk_are_as_documented() -> None:
    encoded = encode_sequences(sequences([1.0, 2.0], []), np.dtype("<f4"))
    assert encoded.hex() == "0200000000000000" + "0000803f00000040"


@given(st.lists(npst.arrays("<i4", st.integers(0, 5)), max_size=6))
def test_sequences_survive_encoding(elements: list[npt.NDArray[np.int32]]) -> None:
    values = np.empty(len(elements), object)
    for position, element in enumerate(elements):
        values[position] = element
    base = np.dtype("<i4")
    chunk = np.frombuffer(encode_sequences(values, base), np.uint8)
    assert same_sequences(values, decode_sequences(chunk, base, len(elements)))


def test_absent_chunks_are_empty_sequences() -> None:
    chunk = encode_sequences(sequences([1.0, 2.0], [3.0]), np.dtype("<f4"))
    found = open_one(SEQUENCE, [], [CODEC], chunk)[...]
    assert same_sequences(sequences([1, 2], [3], [], dtype="<f4"), found)
    assert h5py.check_vlen_dtype(open_one(SEQUENCE, [], [CODEC], chunk).dtype) == np.dtype("<f4")


@pytest.mark.parametrize("chunk", [b"\1", bytes(7), b"\1" + bytes(7), bytes(9), b"\xff" * 8])
def test_damaged_chunk_is_an_error(chunk: bytes) -> None:
    with pytest.raises(ReferencesError, match="not as long as its counts tell"):
        open_one(SEQUENCE, [], [CODEC], chunk)[...]


def test_sequences_can_be_written_by_zarr() -> None:
    array = zarr.create_array(
        MemoryStore(),
        shape=(5,),
        chunks=(2,),
        dtype=SequenceType(base=np.dtype("<f4")),
        serializer=SequenceCodec(),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    values = sequences([1], [], [2, 3], [], [4], dtype="<f4")
    array[...] = values
    assert same_sequences(values, array[...])


def test_zarr_does_not_write_sequences_without_the_codec() -> None:
    with pytest.raises(ValueError, match=r"unknown object codec: 'h5zarr\.sequence'"):
        zarr.create_array(MemoryStore(), shape=(5,), dtype=SequenceType(base=np.dtype("<f4")))


# Metadata that cannot be understood -------------------------------------------------------


@pytest.mark.parametrize(
    "data_type",
    [
        {"name": "h5zarr.numpy", "configuration": {}},
        {"name": "h5zarr.numpy", "configuration": {"descr": "<f8", "more": 1}},
        {"name": "h5zarr.numpy", "configuration": {"descr": [["a", "|O"]]}},
        {"name": "h5zarr.sequence", "configuration": {}},
        {"name": "h5zarr.sequence", "configuration": {"base": "|O"}},
        {"name": "h5zarr.sequence", "configuration": {"base": "<f4", "base_shape": ["x"]}},
        {"name": "h5zarr.sequence", "configuration": {"base": "<f4", "base_shape": 3}},
        "h5zarr.numpy",
    ],
)
def test_malformed_data_type_is_an_error(data_type: Any) -> None:
    with pytest.raises((ReferencesError, ValueError)):
        open_one(data_type, "", [{"name": "bytes"}])


@pytest.mark.parametrize("fill_value", [[1.0], "", 0])
def test_sequences_have_one_fill_value(fill_value: Any) -> None:
    with pytest.raises(TypeError, match="Invalid fill_value"):
        open_one(SEQUENCE, fill_value, [CODEC])


def test_fill_value_other_than_the_empty_sequence_is_refused() -> None:
    with pytest.raises(TypeError, match="other than the empty sequence"):
        SequenceType(base=np.dtype("<f4")).cast_scalar(np.arange(2))


def test_codec_has_no_configuration() -> None:
    with pytest.raises(ReferencesError, match="no configuration"):
        open_one(SEQUENCE, [], [{**CODEC, "configuration": {"base": "<f4"}}])


def test_codec_is_for_sequences_only() -> None:
    with pytest.raises(ReferencesError, match="is for that data type"):
        open_one("float32", 0, [CODEC], bytes(8))[...]


@pytest.mark.parametrize("data_type", [NumPyType(dtype=LONG), SequenceType(base=LONG)])
def test_there_is_no_form_in_zarr_v2(data_type: NumPyType | SequenceType) -> None:
    with pytest.raises(ValueError, match="of Zarr v3"):
        data_type.to_json(2)
    with pytest.raises(ValueError, match="of Zarr v3"):
        data_type.from_json(data_type.to_json(3), zarr_format=2)


# xarray ----------------------------------------------------------------------------------


def test_xarray_opens_all_of_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["points"] = values_of(POINT, 4)
        file["long"] = values_of(LONG, 4)
        file["plain"] = np.arange(4.0)
        file.create_dataset("ragged", (2, 2), h5py.vlen_dtype("<f8"))[0, 1] = [0.0, 1.0]
    options = storage_options(convert(tmp_path / "x.h5").references())
    opened = xr.open_dataset("reference://", engine="zarr", storage_options=options)
    assert opened["plain"].values.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(opened["points"].values, values_of(POINT, 4))
    assert opened["long"].values.tolist() == values_of(LONG, 4).tolist()
    assert opened["ragged"].values[0, 1].tolist() == [0, 1]
