"""References with Zarr v2's metadata, alone or beside v3's: values as in h5py, xarray as with h5netcdf."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr, storage_options
from test_metadata import same
from test_xarray import DECODINGS, NAMES, WRITERS, dtypes, groups_of, through_h5netcdf
from zarr.storage import FsspecStore

from h5zarr.converter import convert
from h5zarr.errors import Problem, ReferencesError, UntranslatableError
from h5zarr.model import Hierarchy, Selection
from h5zarr.references import kerchunk_json
from h5zarr.references.keys import ZarrFormat
from h5zarr.references.zarr_v2 import array_documents, with_zarr_v2

pytestmark = [
    pytest.mark.filterwarnings(CODEC_WARNING),
    pytest.mark.filterwarnings("ignore:Both zarr.json .* and .z(group|array)"),
]

VERSION = "0"
BOTH_FORMATS: list[ZarrFormat] = ["2", "both"]


def references_of(hierarchy: Hierarchy, zarr_format: ZarrFormat) -> dict[str, Any]:
    return kerchunk_json.references(hierarchy, version=VERSION, zarr_format=zarr_format)


def open_as(references: dict[str, Any], zarr_format: Any) -> zarr.Group:
    store = FsspecStore.from_url("reference://", storage_options=storage_options(references), read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=zarr_format)


def values_of(array: Any) -> Any:
    """Return the values of an array in a form that compares bit by bit."""
    values = np.asarray(array[...])
    if values.dtype.kind in "OT":
        return [text.tolist() if isinstance(text, np.ndarray) else text for text in values.ravel().tolist()]
    return values.astype(values.dtype.newbyteorder("=")).tobytes()


# Fixtures --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FIXTURE_NAMES)
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    return convert(FIXTURES / request.param, inline_threshold=64).hierarchy


@pytest.mark.parametrize("read", [2, 3])
def test_arrays_are_those_of_zarr_v3(read: int, hierarchy: Hierarchy) -> None:
    expected = open_zarr(references_of(hierarchy, "3"))
    found = open_as(references_of(hierarchy, "both"), read)
    nodes = (with_zarr_v2(hierarchy, "2") if read == 2 else hierarchy).nodes
    assert {path for path, _ in found.members(max_depth=None)} == {path.strip("/") for path in nodes} - {""}
    for array in (expected[path.strip("/")] for path in nodes if path != "/"):
        ours = found[array.path]
        if isinstance(array, zarr.Array):
            assert (ours.shape, ours.chunks) == (array.shape, array.chunks)
            assert values_of(ours) == values_of(array)


def test_format_2_is_a_part_of_both(hierarchy: Hierarchy) -> None:
    alone, both = (references_of(hierarchy, zarr_format)["refs"] for zarr_format in BOTH_FORMATS)
    assert alone.items() <= both.items()
    arrays = {array.path.strip("/") for array in with_zarr_v2(hierarchy, "2").arrays()}
    further = {key.rpartition("/")[0] for key in both.keys() - alone.keys() if not key.endswith("zarr.json")}
    assert further.isdisjoint(arrays)


@pytest.mark.parametrize("zarr_format", ["3", *BOTH_FORMATS])
def test_the_dict_is_the_written_json(zarr_format: ZarrFormat, hierarchy: Hierarchy) -> None:
    text = b"".join(kerchunk_json.render(hierarchy, version=VERSION, zarr_format=zarr_format))
    assert json.loads(text) == references_of(hierarchy, zarr_format)
    keys = [key for key, _ in json.loads(text, object_pairs_hook=list)[1][1]]
    assert len(keys) == len(set(keys))


def test_both_formats_load_again(hierarchy: Hierarchy) -> None:
    text = b"".join(kerchunk_json.render(hierarchy, version=VERSION, zarr_format="both"))
    assert same(kerchunk_json.load(text)) == same(with_zarr_v2(hierarchy, "both"))


def test_format_2_alone_does_not_load(hierarchy: Hierarchy) -> None:
    with pytest.raises(ReferencesError, match=r"not Zarr v3. Make them anew .* with Zarr format 3 or both"):
        kerchunk_json.from_references(references_of(hierarchy, "2"))


def test_problems_tell_what_is_left_out(hierarchy: Hierarchy) -> None:
    assert with_zarr_v2(hierarchy, "3") is hierarchy
    both, alone = with_zarr_v2(hierarchy, "both"), with_zarr_v2(hierarchy, "2")
    assert both.nodes == hierarchy.nodes
    assert both.problems == alone.problems
    assert with_zarr_v2(both, "both").problems == both.problems
    assert with_zarr_v2(alone, "2").problems == alone.problems
    told = [problem.path for problem in alone.problems[len(hierarchy.problems) :]]
    assert told == [path for path in hierarchy.nodes if path not in alone.nodes]
    documents = references_of(hierarchy, "both")["refs"]
    assert {path for path in hierarchy.nodes if f"{path}/.zattrs".strip("/") not in documents} == set(told)
    for zarr_format in BOTH_FORMATS:
        told_problems = references_of(hierarchy, zarr_format)["h5zarr"]["problems"]
        assert told_problems == [problem.to_json() for problem in alone.problems]


def test_problems_name_the_hdf5_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("group/lzf", data=np.zeros(2), compression="lzf")
    (problem,) = with_zarr_v2(convert(tmp_path / "x.h5", group="group").hierarchy, "2").problems
    assert problem == Problem(
        path="/group/lzf",
        found="codec h5zarr.hdf5, which Zarr v2 does not have: readers of Zarr v2 do not see it",
        remedy="read it as Zarr v3",
    )


# xarray ----------------------------------------------------------------------------------

FILES = [*NAMES, *WRITERS]


@pytest.fixture(params=FILES)
def netcdf_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param in NAMES:
        return FIXTURES / request.param
    WRITERS[request.param](tmp_path / "written.nc")
    return tmp_path / "written.nc"


def assert_same_datasets(path: Path, zarr_format: ZarrFormat, engine: str, **decoding: Any) -> None:
    hierarchy = convert(path, inline_threshold=64).hierarchy
    references = references_of(hierarchy, zarr_format)
    left_out = hierarchy.nodes.keys() - with_zarr_v2(hierarchy, "2").nodes.keys()
    # What is not consolidated is listed, and zarr-python 3.1 lists nothing in nested groups.
    lists_groups = engine != "kerchunk" or not zarr.__version__.startswith("3.1.")
    for group in groups_of(path) if lists_groups else ["/"]:
        names = [node.rpartition("/")[2] for node in left_out if (node.rpartition("/")[0] or "/") == group]
        with through_h5netcdf(path, group, **decoding) as expected:
            found = open_dataset(references, engine, group, **decoding)
            xr.testing.assert_identical(found, expected.drop_vars(names))
            assert dtypes(found) == dtypes(expected.drop_vars(names))


def open_dataset(references: dict[str, Any], engine: str, group: str, **decoding: Any) -> xr.Dataset:
    if engine == "kerchunk":
        return xr.open_dataset(references, engine="kerchunk", group=group, **decoding)
    options = {"storage_options": storage_options(references), "zarr_format": 2, "consolidated": True}
    return xr.open_dataset("reference://", engine="zarr", group=group, backend_kwargs=options, **decoding)


@pytest.mark.filterwarnings("ignore:Duplicate dimension names present")
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_opens_identically(netcdf_file: Path, decoding: dict[str, Any]) -> None:
    assert_same_datasets(netcdf_file, "2", "zarr", **decoding)


@pytest.mark.filterwarnings("ignore:Duplicate dimension names present")
def test_kerchunk_engine_opens_identically(netcdf_file: Path) -> None:
    assert_same_datasets(netcdf_file, "2", "kerchunk")


# All is listed, v3's documents too.
@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
@pytest.mark.parametrize("name", NAMES)
def test_kerchunk_engine_opens_both_formats_identically(name: str) -> None:
    assert_same_datasets(FIXTURES / name, "both", "kerchunk")


def test_xarray_chooses_the_engine_by_the_name(tmp_path: Path) -> None:
    text = b"".join(
        kerchunk_json.render(convert(FIXTURES / "climate.nc").hierarchy, version=VERSION, zarr_format="2")
    )
    (tmp_path / "x.json").write_bytes(text)
    with through_h5netcdf(FIXTURES / "climate.nc", "/") as expected:
        xr.testing.assert_identical(xr.open_dataset(str(tmp_path / "x.json")), expected)


def test_both_formats_open_as_v3_tree() -> None:
    references = references_of(convert(FIXTURES / "netcdf_groups.nc").hierarchy, "both")
    options = storage_options(references)
    found = xr.open_datatree("reference://", engine="zarr", storage_options=options, zarr_format=3)
    with xr.open_datatree(FIXTURES / "netcdf_groups.nc", engine="h5netcdf", phony_dims="sort") as expected:
        xr.testing.assert_identical(found, expected)


# Documents -------------------------------------------------------------------------------


def array(**changes: Any) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4, 6],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 3]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        **changes,
    }


def test_documents_of_an_array() -> None:
    codecs = [
        {"name": "bytes", "configuration": {"endian": "big"}},
        {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}},
        {"name": "numcodecs.zlib", "configuration": {"level": 5}},
    ]
    metadata = array(codecs=codecs, attributes={"units": "K"}, dimension_names=["y", "x"])
    assert array_documents(metadata, is_complete=True) == {
        ".zarray": {
            "zarr_format": 2,
            "shape": [4, 6],
            "chunks": [2, 3],
            "dtype": ">f4",
            "compressor": {"id": "zlib", "level": 5},
            "fill_value": None,
            "order": "C",
            "filters": [{"id": "shuffle", "elementsize": 4}],
            "dimension_separator": ".",
        },
        ".zattrs": {"units": "K", "_ARRAY_DIMENSIONS": ["y", "x"]},
    }


def named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


DTYPES: list[tuple[Any, Any]] = [
    ("bool", "|b1"),
    ("int8", "|i1"),
    ("uint8", "|u1"),
    ("int16", "<i2"),
    ("uint64", "<u8"),
    ("float16", "<f2"),
    ("complex64", "<c8"),
    ("complex128", "<c16"),
    ("string", "|O"),
    ("variable_length_bytes", "|O"),
    (named("null_terminated_bytes", length_bytes=5), "|S5"),
    (named("raw_bytes", length_bytes=3), "|V3"),
    (named("fixed_length_utf32", length_bytes=12), "<U3"),
    (named("numpy.datetime64", unit="s", scale_factor=10), "<M8[10s]"),
    (named("numpy.timedelta64", unit="ns", scale_factor=1), "<m8[ns]"),
    (
        named("structured", fields=[["a", "int32"], ["b", named("raw_bytes", length_bytes=2)]]),
        [["a", "<i4"], ["b", "|V2"]],
    ),
]


@pytest.mark.parametrize(("data_type", "dtype"), DTYPES)
def test_data_types(data_type: Any, dtype: Any) -> None:
    documents = array_documents(array(data_type=data_type, fill_value=None), is_complete=True)
    assert documents[".zarray"]["dtype"] == dtype


BYTES = named("bytes", endian="little")
SHUFFLE, FLETCHER = named("numcodecs.shuffle", elementsize=4), {"name": "numcodecs.fletcher32"}
CODECS: list[tuple[list[Any], Any, Any]] = [
    ([BYTES], None, None),
    (["bytes"], None, None),
    ([{"name": "vlen-utf8"}], [{"id": "vlen-utf8"}], None),
    (["vlen-bytes", named("zstd", level=1)], [{"id": "vlen-bytes"}], {"id": "zstd", "level": 1}),
    ([BYTES, SHUFFLE], [{"id": "shuffle", "elementsize": 4}], None),
    ([BYTES, named("zstd", level=3, checksum=False)], None, {"id": "zstd", "level": 3}),
    ([BYTES, named("zstd", level=3, checksum=True)], None, {"id": "zstd", "level": 3, "checksum": True}),
    ([BYTES, named("gzip", level=3)], None, {"id": "gzip", "level": 3}),
    ([BYTES, named("numcodecs.bz2", level=9)], None, {"id": "bz2", "level": 9}),
    (
        [BYTES, named("blosc", cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4, blocksize=0)],
        None,
        {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2, "blocksize": 0},
    ),
    (
        [BYTES, SHUFFLE, named("numcodecs.zlib", level=1), FLETCHER],
        [{"id": "shuffle", "elementsize": 4}, {"id": "zlib", "level": 1}, {"id": "fletcher32"}],
        None,
    ),
]


@pytest.mark.parametrize(("codecs", "filters", "compressor"), CODECS)
def test_codecs(codecs: list[Any], filters: Any, compressor: Any) -> None:
    zarray = array_documents(array(codecs=codecs), is_complete=True)[".zarray"]
    assert (zarray["filters"], zarray["compressor"]) == (filters, compressor)


UNTRANSLATABLE: list[tuple[dict[str, Any], str]] = [
    ({"data_type": named("h5zarr.numpy", descr="<f16")}, "data type h5zarr.numpy"),
    ({"data_type": "bfloat16"}, "data type bfloat16"),
    (
        {"data_type": named("structured", fields=[["a", named("structured", fields=[["b", "int8"]])]])},
        "a compound in a compound",
    ),
    ({"codecs": [BYTES, named("h5zarr.hdf5")]}, "codec h5zarr.hdf5"),
    ({"codecs": [named("h5zarr.sequence")]}, "codec h5zarr.sequence"),
    ({"codecs": [named("transpose", order=[1, 0]), BYTES]}, "codec transpose"),
    ({"codecs": [BYTES, named("crc32c")]}, "codec crc32c"),
    ({"codecs": [named("sharding_indexed", chunk_shape=[1, 1])]}, "codec sharding_indexed"),
    ({"chunk_grid": named("rectilinear", kind="inline", chunk_shapes=[[1, 3], 3])}, "different shapes"),
    ({"attributes": {"_ARRAY_DIMENSIONS": "something"}, "dimension_names": ["y", "x"]}, "_ARRAY_DIMENSIONS"),
    ({"future": {"must_understand": True}}, "a field 'future'"),
    ({"future": 5}, "a field 'future'"),
    ({"attributes": {"_FillValue": "no number"}}, "_FillValue 'no number'"),
]


@pytest.mark.parametrize(("changes", "words"), UNTRANSLATABLE)
def test_what_v2_cannot_express(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UntranslatableError, match=words) as raised:
        array_documents(array(**changes), is_complete=True)
    assert raised.value.remedy == "read it as Zarr v3"


def test_fields_that_readers_may_pass_over_stay() -> None:
    enumeration = {"must_understand": False, "members": {"sea": 0}}
    metadata = array(hdf5_enum=enumeration, storage_transformers=[])
    zarray = array_documents(metadata, is_complete=True)[".zarray"]
    assert zarray["hdf5_enum"] == enumeration
    assert "storage_transformers" not in zarray


def test_names_of_dimensions_that_are_not_all_there() -> None:
    metadata = array(dimension_names=[None, "x"])
    assert array_documents(metadata, is_complete=True)[".zattrs"] == {}


# Fill values -----------------------------------------------------------------------------


def double(number: float) -> str:
    return b64encode(struct.pack("<d", number)).decode()


REFUSED = "refused"
FILLS: list[tuple[str, Any, Any, bool, Any, Any]] = [
    # data type, fill value, _FillValue, complete: fill_value and _FillValue of v2
    ("float32", 0.0, None, True, None, None),
    ("float32", 0.0, None, False, None, None),
    ("float32", 9.0, None, True, None, None),
    ("float32", 9.0, None, False, REFUSED, None),
    ("float32", -0.0, None, False, REFUSED, None),
    ("float32", "NaN", None, False, "NaN", None),
    ("float32", "0x7fc00001", None, False, REFUSED, None),
    ("float32", "0x7fc00001", None, True, None, None),
    ("float32", 9.0, double(9.0), False, 9.0, None),
    ("float32", 0.0, double(9.0), True, 9.0, None),
    ("float32", 0.0, double(9.0), False, None, 9.0),
    ("float32", 1.0, double(9.0), False, REFUSED, None),
    ("float32", 0.0, double(-0.0), False, None, -0.0),
    ("float32", "NaN", double(math.nan), False, "NaN", None),
    ("float64", 0.0, double(-math.inf), True, "-Infinity", None),
    ("float32", 0.0, double(1e300), True, None, 1e300),
    ("float32", 0.0, double(1e300), False, None, 1e300),
    ("float32", 1.0, double(1e300), False, REFUSED, None),
    ("int16", -9, -9, False, -9, None),
    ("int16", 0, None, False, None, None),
    ("int16", 0, 5, False, None, 5),
    ("int16", 0, 99999, True, None, 99999),
    ("int16", 3, None, False, REFUSED, None),
    ("uint64", 2**64 - 1, 2**64 - 1, False, 2**64 - 1, None),
    ("bool", False, None, False, None, None),
    ("bool", True, None, False, REFUSED, None),
    ("bool", True, True, False, True, None),
    ("complex64", [0.0, 0.0], None, False, None, None),
    ("complex64", [1.0, 0.0], None, False, REFUSED, None),
    ("complex64", [1.0, "NaN"], [double(1.0), double(math.nan)], False, [1.0, "NaN"], None),
    ("complex64", [0.0, 0.0], [double(1.0), double(1.0)], False, REFUSED, None),
    ("string", "", None, False, None, None),
    ("string", "x", None, False, REFUSED, None),
    (named("raw_bytes", length_bytes=2), "AAA=", None, False, None, None),
    (named("raw_bytes", length_bytes=2), "AAE=", None, False, REFUSED, None),
    (named("null_terminated_bytes", length_bytes=2), "", None, False, None, None),
    (named("null_terminated_bytes", length_bytes=2), "YQ==", None, False, REFUSED, None),
    (named("numpy.datetime64", unit="s", scale_factor=1), -(2**63), None, False, None, None),
    (named("numpy.datetime64", unit="s", scale_factor=1), 0, None, False, REFUSED, None),
    (named("structured", fields=[["a", "int8"]]), "AA==", None, False, "AA==", None),
    (named("structured", fields=[["a", "int8"]]), "AA==", None, True, None, None),
]


@pytest.mark.parametrize(("data_type", "absent", "masked", "is_complete", "fill_value", "attribute"), FILLS)
def test_fill_values(
    data_type: Any, absent: Any, masked: Any, is_complete: bool, fill_value: Any, attribute: Any
) -> None:
    attributes = {} if masked is None else {"_FillValue": masked}
    metadata = array(data_type=data_type, fill_value=absent, attributes=attributes)
    if fill_value == REFUSED:
        with pytest.raises(UntranslatableError, match="absent chunks of fill value"):
            array_documents(metadata, is_complete=is_complete)
        return
    documents = array_documents(metadata, is_complete=is_complete)
    found = documents[".zarray"]["fill_value"], documents[".zattrs"].get("_FillValue")
    assert repr(found) == repr((fill_value, attribute))


@pytest.mark.parametrize("masked", [None, 0, 5, 9])
@pytest.mark.parametrize("fill", [None, 0, 5])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_absent_chunks_in_xarray(fill: int | None, masked: int | None, written: int, tmp_path: Path) -> None:
    """What is not refused is identical, values that are the fill value included."""
    path = tmp_path / "x.nc"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(6)
        file["x"].make_scale("x")
        data = file.create_dataset("data", (6,), "i2", chunks=(3,), fillvalue=fill)
        data.dims[0].attach_scale(file["x"])
        for chunk in range(written):
            data[3 * chunk : 3 * chunk + 3] = [0, 5, 9]
        if masked is not None:
            data.attrs["_FillValue"] = np.int16(masked)
    hierarchy = convert(path).hierarchy
    is_refused = bool(with_zarr_v2(hierarchy, "2").problems)
    assert is_refused == (written < 2 and bool(fill) and masked != fill)
    if not is_refused:
        for decoding in DECODINGS.values():
            assert_same_datasets(path, "both", "zarr", **decoding)


# Other manifests of Zarr v3 --------------------------------------------------------------


def with_encoding(references: dict[str, Any], name: str, separator: str) -> dict[str, Any]:
    """Return references of one version 3 array ``x`` with another chunk key encoding."""
    refs = {}
    for key, value in references["refs"].items():
        if key.endswith("zarr.json"):
            document = json.loads(value)
            document.pop("consolidated_metadata", None)
            if document["node_type"] == "array":
                document["chunk_key_encoding"] = {"name": name, "configuration": {"separator": separator}}
            refs[key] = json.dumps(document)
        else:
            path, _, cells = key.rpartition("/c/") if "/c/" in key else key.rpartition("/c")
            parts = [*(["c"] if name == "default" else []), *(cells.split("/") if cells else [])]
            refs[f"{path}/{separator.join(parts) or '0'}"] = value
    return {**references, "refs": refs}


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("name", ["default", "v2"])
@pytest.mark.parametrize("threshold", [0, 10**6])
def test_other_chunk_keys_load(name: str, separator: str, threshold: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["scalar"] = 5
        file["a.b/c"] = np.arange(4)
        file.create_dataset("a.b/0/x", data=np.arange(2700).reshape(3, 30, 30), chunks=(1, 4, 8))
        file.create_dataset("c/0/c/1.0", data=np.arange(600), chunks=(4,))
    hierarchy = convert(tmp_path / "x.h5", inline_threshold=threshold).hierarchy
    references = with_encoding(references_of(hierarchy, "3"), name, separator)
    found, expected = open_zarr(references), open_zarr(references_of(hierarchy, "3"))
    assert values_of(found["a.b/0/x"]) == values_of(expected["a.b/0/x"])
    assert same(kerchunk_json.from_references(references)) == same(hierarchy)
    interleaved = dict(sorted(references["refs"].items(), key=lambda item: item[0][::-1]))
    loaded = kerchunk_json.from_references({**references, "refs": interleaved})
    assert same(loaded)["manifests"] == same(hierarchy)["manifests"]


def refs_of(chunks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    root = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    return {"version": 1, "refs": {"zarr.json": json.dumps(root), "x/zarr.json": array(**changes), **chunks}}


def references_in(hierarchy: Hierarchy) -> list[tuple[str, int, int]]:
    (array,) = hierarchy.arrays()
    manifest = array.manifest
    which = np.zeros(len(manifest), int) if manifest.location_index is None else manifest.location_index
    columns = (manifest.byte_offset.tolist(), manifest.byte_length.tolist())
    return list(zip([manifest.locations[at] for at in which], *columns, strict=True))


def test_templates_are_expanded() -> None:
    chunks = {
        "x/c/0/0": ["{{u}}", 1, 2],
        "x/c/0/1": ["{{v}}/{a}/y.h5", 3, 4],
        "x/c/1/1": ["s3://b/{x}", 5, 6],
    }
    document = {**refs_of(chunks), "templates": {"u": "s3://b/x.h5", "v": "s3://c"}}
    expected = [("s3://b/x.h5", 1, 2), ("s3://c/{a}/y.h5", 3, 4), ("s3://b/{x}", 5, 6)]
    assert references_in(kerchunk_json.from_references(document)) == expected
    plain = refs_of({"x/c/0/0": ["file:///{{u}}.h5", 1, 2]})
    assert references_in(kerchunk_json.from_references(plain)) == [("file:///{{u}}.h5", 1, 2)]


def test_templates_are_those_of_fsspec(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    document = refs_of({"x/c/0/0": ["{{u}}/x.bin", 0, 24]}, shape=[2, 3])
    document["templates"] = {"u": f"file://{tmp_path}"}
    document["refs"]["x/zarr.json"] = json.dumps(document["refs"]["x/zarr.json"])
    loaded = kerchunk_json.references(kerchunk_json.from_references(document), version=VERSION)
    assert values_of(open_zarr(loaded)["x"]) == values_of(open_zarr(document)["x"])


REFUSED_DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no such template": ({**refs_of({"x/c/0/0": ["{{w}}", 1, 2]}), "templates": {"u": "s3://b"}}, "'w'"),
    "a function": (
        {**refs_of({"x/c/0/0": ["{{f(x=1)}}", 1, 2]}), "templates": {"f": "s3://{{x}}"}},
        "more than a name",
    ),
    "a template in a template": (
        {**refs_of({"x/c/0/0": ["{{u}}", 1, 2]}), "templates": {"u": "{{v}}", "v": "s3://b"}},
        "more than a name",
    ),
    "a rule": ({**refs_of({}), "gen": [{"key": "x/c/0/{{i}}"}]}, "made by a rule"),
    "no URL": (refs_of({"x/c/0/0": [None, 1, 2]}), "without a URL"),
    "a whole file": (refs_of({"x/c/0/0": ["s3://b/x.h5"]}), "URL, offset and length"),
    "the same chunk twice": (refs_of({"x/c/0/0": ["a", 1, 2], "x/c/0/00": ["b", 3, 4]}), "two references"),
    "keys of v2": (refs_of({"x/0.0": ["s3://b/x.h5", 1, 2]}), "x/0.0: is no chunk key"),
    "another encoding": (refs_of({}, chunk_key_encoding={"name": "new"}), "encoding 'new'"),
    "another grid": (refs_of({}, chunk_grid={"name": "new", "configuration": {}}), "grid"),
    "another node": (
        {"refs": {**refs_of({})["refs"], "y/zarr.json": json.dumps({"node_type": "new"})}},
        "type 'new'",
    ),
}


@pytest.mark.parametrize(("document", "words"), REFUSED_DOCUMENTS.values(), ids=REFUSED_DOCUMENTS)
def test_manifests_that_cannot_be_loaded(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ReferencesError, match=words) as raised:
        kerchunk_json.from_references(document)
    assert "\n" not in str(raised.value)


BAD_CELLS = [
    *("0", "0/0/0", "0//0", "/0/0", "0/0/", "0/a", "0/-1", "0/+1", "0/ 1", "0/1 ", "0/1\n", "0/٣"),
    *("0/2", "9/0", "0/99999999999999999999"),
]


@pytest.mark.parametrize("other", [None, "1/1"])
@pytest.mark.parametrize("cells", BAD_CELLS)
def test_cells_outside_of_the_grid_are_refused(cells: str, other: str | None) -> None:
    chunks = {f"x/c/{cell}": ["s3://b/x.h5", 1, 2] for cell in (other, cells) if cell is not None}
    with pytest.raises(ReferencesError):
        kerchunk_json.from_references(refs_of(chunks))


def test_manifests_of_pipelines_load() -> None:
    """In memory, references are tuples too, and inline chunks bytes."""
    chunks = {"x/c/1/1": ("b", 3, 4), "x/c/0/0": b"base64:eA==", "x/c/0/1": b"text", "x/c/1/0": ("a", 1, 2)}
    loaded = kerchunk_json.from_references(refs_of(chunks))
    (node,) = loaded.arrays()
    assert node.manifest.inline == {0: b"x", 1: b"text"}
    assert node.manifest.grid_position.tolist() == [2, 3]
    assert node.manifest.locations == ("b", "a")
    assert node.manifest.location_index.tolist() == [1, 0]  # type: ignore[union-attr]
    assert loaded.selection == Selection()
    assert loaded.source is None


def test_a_rectilinear_grid_loads() -> None:
    grid = named("rectilinear", kind="inline", chunk_shapes=[[[1, 2], 2], 3])
    loaded = kerchunk_json.from_references(refs_of({"x/c/2/1": ["b", 3, 4]}, chunk_grid=grid))
    (node,) = loaded.arrays()
    assert node.manifest.grid_shape == (3, 2)
    assert node.manifest.grid_position.tolist() == [5]


def test_fill_value_attribute_of_a_compound_is_not_lost() -> None:
    """References of others may have one; Zarr v2's metadata have no place for it that xarray reads."""
    data_type = named("structured", fields=[["a", "uint8"], ["b", "uint8"]])
    document = refs_of({}, data_type=data_type, fill_value="AAA=", attributes={"_FillValue": "AAE="})
    hierarchy = with_zarr_v2(kerchunk_json.from_references(document), "2")
    (problem,) = hierarchy.problems
    assert problem.path == "/x"
    assert problem.found.startswith("an attribute _FillValue of a compound")
