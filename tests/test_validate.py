"""The validator is proved by mutants: each spoils sound references in one place, which must be named."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from conftest import CODEC_WARNING

from h5zarr.blocks import Grid, blocks, sample_chunks
from h5zarr.compare import ObjectName, equal, json_equal, same_data_type, show, unequal
from h5zarr.converter import convert
from h5zarr.errors import (
    DamagedFileError,
    GroupNotFoundError,
    NotHDF5Error,
    ReferencesError,
    SourceNotFoundError,
)
from h5zarr.report import Findings
from h5zarr.validator import Kind, Mismatch, ValidationReport, validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

Document = dict[str, Any]
RNG_SEED = 7


def no_names(_: Any) -> frozenset[str]:
    return frozenset()


# A file with one of each, and its references ---------------------------------------------


def write_file(path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.attrs["title"] = "one of each"
        values = rng.normal(size=(40, 24)).astype("<f4")
        deflated = file.create_dataset(
            "deflated", data=values, chunks=(10, 8), compression="gzip", shuffle=True
        )
        deflated.attrs["units"] = "K"
        deflated.attrs["scale"] = np.float32(0.1)
        deflated.attrs["levels"] = np.array([1.0, np.nan, -0.0])
        file.create_dataset("checked", data=values, chunks=(10, 8), fletcher32=True)
        file.create_dataset("plain", data=np.arange(960, dtype="<i4").reshape(40, 24), chunks=(10, 8))
        sparse = file.create_dataset("sparse", (40, 24), "<f4", chunks=(10, 8), fillvalue=-9.5)
        sparse[12:20, 3:9] = 7
        unlimited = file.create_dataset(
            "unlimited_second", (40, 24), "<f4", chunks=(10, 8), maxshape=(40, None), compression="gzip"
        )
        unlimited[:] = values
        fill_only = file.create_dataset("fill_only", (40, 24), "<f4", chunks=(10, 8), fillvalue=3)
        fill_only[:] = 3
        group = file.create_group("group")
        group.attrs["member"] = [1, 2]
        group.create_dataset("text", data=["a", "bé", ""], dtype=h5py.string_dtype())
        group.create_dataset("scalar", data=np.float64(3.25))
        file["again"] = file["deflated"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    path = tmp_path_factory.mktemp("validate") / "one_of_each.h5"
    write_file(path)
    return path, convert(path).references()


@pytest.fixture
def sound(original: tuple[Path, Document]) -> Document:
    return copy.deepcopy(original[1])


def by_hand(path: Path, name: str, codecs: list[Any]) -> Document:
    """Return references to one chunked float32 dataset, made without h5zarr."""
    with h5py.File(path) as file:
        dataset = file[name]
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": dataset.shape,
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": dataset.chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": float(dataset.fillvalue),
            "codecs": codecs,
            "attributes": {},
        }
        refs: Document = {
            "zarr.json": json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}),
            f"{name}/zarr.json": json.dumps(array),
        }

        def note(chunk: Any) -> None:
            cells = [
                start // length for start, length in zip(chunk.chunk_offset, dataset.chunks, strict=True)
            ]
            key = "/".join([name, "c", *map(str, cells)])
            refs[key] = [path.as_uri(), chunk.byte_offset, chunk.size]

        dataset.id.chunk_iter(note)
    return {"version": 1, "refs": refs}


def edit(document: Document, path: str, change: Callable[[Document], None]) -> None:
    """Change a node's metadata in both places where it stands."""
    refs = document["refs"]
    own = json.loads(refs[f"{path}/zarr.json".lstrip("/")])
    change(own)
    refs[f"{path}/zarr.json".lstrip("/")] = json.dumps(own)
    if path:
        root = json.loads(refs["zarr.json"])
        root["consolidated_metadata"]["metadata"][path] = own
        refs["zarr.json"] = json.dumps(root)


def remove(document: Document, path: str) -> None:
    root = json.loads(document["refs"]["zarr.json"])
    del root["consolidated_metadata"]["metadata"][path]
    document["refs"] = {
        key: value for key, value in document["refs"].items() if not key.startswith(f"{path}/")
    }
    document["refs"]["zarr.json"] = json.dumps(root)


def places(report: ValidationReport) -> set[tuple[Any, ...]]:
    return {(m.path, str(m.kind), m.chunk_coords) for m in report.mismatches}


# Mutants ---------------------------------------------------------------------------------


def moved_byte_offset(document: Document) -> None:
    document["refs"]["plain/c/1/2"][1] += 1


def moved_byte_offset_of_deflated(document: Document) -> None:
    document["refs"]["deflated/c/1/2"][1] += 1


def moved_byte_offset_of_checked(document: Document) -> None:
    document["refs"]["checked/c/3/0"][1] += 1


def moved_by_a_whole_element(document: Document) -> None:
    document["refs"]["plain/c/0/0"][1] += 4


def cut_length(document: Document) -> None:
    document["refs"]["plain/c/2/1"][2] -= 1


def cut_length_of_deflated(document: Document) -> None:
    document["refs"]["deflated/c/2/1"][2] -= 1


def beyond_the_end(document: Document) -> None:
    document["refs"]["plain/c/2/1"][1] += 2**40


def swapped(document: Document) -> None:
    refs = document["refs"]
    refs["deflated/c/0/1"], refs["deflated/c/3/2"] = refs["deflated/c/3/2"], refs["deflated/c/0/1"]


def dropped(document: Document) -> None:
    del document["refs"]["deflated/c/0/1"]


def dropped_fill_only(document: Document) -> None:
    del document["refs"]["fill_only/c/3/2"]


def dropped_of_extensible_array(document: Document) -> None:
    del document["refs"]["unlimited_second/c/2/1"]


def dropped_and_invented(document: Document) -> None:
    """Move a reference into an absent chunk: as many references as chunks."""
    refs = document["refs"]
    refs["sparse/c/3/2"] = refs.pop("sparse/c/1/0")


def invented(document: Document) -> None:
    document["refs"]["sparse/c/3/2"] = document["refs"]["sparse/c/1/0"]


def dropped_inline(document: Document) -> None:
    del document["refs"]["group/text/c/0"]


def other_inline(document: Document) -> None:
    stored = base64.b64decode(document["refs"]["group/text/c/0"].removeprefix("base64:"))
    changed = stored.replace(b"a", b"b", 1)
    document["refs"]["group/text/c/0"] = "base64:" + base64.b64encode(changed).decode()


def other_file(document: Document) -> None:
    document["refs"]["plain/c/0/0"][0] += ".gone"


def reversed_bytes_codecs(document: Document) -> None:
    edit(document, "deflated", lambda own: own["codecs"].__setitem__(slice(1, 3), own["codecs"][2:0:-1]))


def reversed_all_codecs(document: Document) -> None:
    edit(document, "deflated", lambda own: own["codecs"].reverse())


def other_byte_order(document: Document) -> None:
    edit(document, "plain", lambda own: own["codecs"][0]["configuration"].update(endian="big"))


def unknown_codec(document: Document) -> None:
    edit(document, "plain", lambda own: own["codecs"].append({"name": "no.such", "configuration": {}}))


def other_fill_value(document: Document) -> None:
    edit(document, "sparse", lambda own: own.update(fill_value=-9.25))


def other_shape(document: Document) -> None:
    edit(document, "deflated", lambda own: own.update(shape=[40, 23]))


def other_rank(document: Document) -> None:
    def drop_dimension(own: Document) -> None:
        own["shape"].pop()
        own["chunk_grid"]["configuration"]["chunk_shape"].pop()
        own.pop("dimension_names", None)

    edit(document, "deflated", drop_dimension)


def other_chunk_shape(document: Document) -> None:
    edit(document, "plain", lambda own: own["chunk_grid"]["configuration"].update(chunk_shape=[8, 10]))


def other_data_type(document: Document) -> None:
    edit(document, "plain", lambda own: own.update(data_type="uint32"))


def chunk_grid_of_another_kind(document: Document) -> None:
    edit(document, "plain", lambda own: own["chunk_grid"]["configuration"].update(chunk_shape=[[40], 8]))


def changed_text_attribute(document: Document) -> None:
    edit(document, "deflated", lambda own: own["attributes"].update(units="degC"))


def rounded_attribute(document: Document) -> None:
    edit(document, "deflated", lambda own: own["attributes"].update(scale=0.1))


def unsigned_zero_attribute(document: Document) -> None:
    edit(document, "deflated", lambda own: own["attributes"].update(levels=[1.0, float("nan"), 0.0]))


def dropped_attribute(document: Document) -> None:
    edit(document, "group", lambda own: own["attributes"].pop("member"))


def added_attribute(document: Document) -> None:
    edit(document, "group", lambda own: own["attributes"].update(more=1))


def changed_root_attribute(document: Document) -> None:
    edit(document, "", lambda own: own["attributes"].update(title="two of each"))


def changed_own_metadata_only(document: Document) -> None:
    own = json.loads(document["refs"]["plain/zarr.json"])
    document["refs"]["plain/zarr.json"] = json.dumps({**own, "fill_value": 5})


def dropped_consolidated_entry(document: Document) -> None:
    root = json.loads(document["refs"]["zarr.json"])
    del root["consolidated_metadata"]["metadata"]["plain"]
    document["refs"]["zarr.json"] = json.dumps(root)


def removed_array(document: Document) -> None:
    remove(document, "plain")


def removed_array_in_group(document: Document) -> None:
    remove(document, "group/scalar")


def removed_group(document: Document) -> None:
    remove(document, "group")
    root = json.loads(document["refs"]["zarr.json"])
    metadata = root["consolidated_metadata"]["metadata"]
    root["consolidated_metadata"]["metadata"] = {
        path: node for path, node in metadata.items() if not path.startswith("group")
    }
    document["refs"]["zarr.json"] = json.dumps(root)


def extra_array(document: Document) -> None:
    for key, value in list(document["refs"].items()):
        if key.startswith("plain/"):
            document["refs"][key.replace("plain/", "invented/")] = value
    edit(document, "invented", lambda _: None)


def extra_group(document: Document) -> None:
    document["refs"]["invented/zarr.json"] = document["refs"]["group/zarr.json"]
    edit(document, "invented", lambda _: None)


def array_instead_of_group(document: Document) -> None:
    remove(document, "group/scalar")
    document["refs"]["group/scalar/zarr.json"] = document["refs"]["group/zarr.json"]
    edit(document, "group/scalar", lambda _: None)


def other_byte_length_of_source(document: Document) -> None:
    document["h5zarr"]["source"]["byte_length"] += 1


def older_source(document: Document) -> None:
    document["h5zarr"]["source"]["modified"] -= 1


def spoiled_second_name(document: Document) -> None:
    document["refs"]["again/c/0/0"] = document["refs"]["deflated/c/1/1"]


MUTANTS: list[tuple[Callable[[Document], None], str, Kind, tuple[int, ...] | None]] = [
    (moved_byte_offset, "/plain", Kind.VALUES, (1, 2)),
    (moved_byte_offset_of_deflated, "/deflated", Kind.UNREADABLE, (1, 2)),
    (moved_byte_offset_of_checked, "/checked", Kind.UNREADABLE, (3, 0)),
    (moved_by_a_whole_element, "/plain", Kind.VALUES, (0, 0)),
    (cut_length, "/plain", Kind.UNREADABLE, (2, 1)),
    (cut_length_of_deflated, "/deflated", Kind.UNREADABLE, (2, 1)),
    (beyond_the_end, "/plain", Kind.UNREADABLE, (2, 1)),
    (swapped, "/deflated", Kind.VALUES, (0, 1)),
    (swapped, "/deflated", Kind.VALUES, (3, 2)),
    (dropped, "/deflated", Kind.MISSING_REFERENCE, (0, 1)),
    (dropped, "/deflated", Kind.VALUES, (0, 1)),
    (dropped_fill_only, "/fill_only", Kind.MISSING_REFERENCE, (3, 2)),
    (dropped_of_extensible_array, "/unlimited_second", Kind.MISSING_REFERENCE, (2, 1)),
    (dropped_and_invented, "/sparse", Kind.MISSING_REFERENCE, (1, 0)),
    (dropped_and_invented, "/sparse", Kind.VALUES, (3, 2)),
    (invented, "/sparse", Kind.VALUES, (3, 2)),
    (dropped_inline, "/group/text", Kind.MISSING_REFERENCE, (0,)),
    (other_inline, "/group/text", Kind.VALUES, (0,)),
    (other_file, "/plain", Kind.UNREADABLE, (0, 0)),
    (reversed_bytes_codecs, "/deflated", Kind.UNREADABLE, (0, 0)),
    (reversed_all_codecs, "/deflated", Kind.UNREADABLE, None),
    (other_byte_order, "/plain", Kind.VALUES, (0, 0)),
    (unknown_codec, "/plain", Kind.UNREADABLE, None),
    (other_fill_value, "/sparse", Kind.FILL_VALUE, (0, 0)),
    (other_fill_value, "/sparse", Kind.VALUES, (3, 2)),
    (other_shape, "/deflated", Kind.SHAPE, None),
    (other_rank, "/deflated", Kind.SHAPE, None),
    (other_chunk_shape, "/plain", Kind.VALUES, (0, 0)),
    (other_data_type, "/plain", Kind.DATA_TYPE, None),
    (changed_text_attribute, "/deflated", Kind.ATTRIBUTE, None),
    (rounded_attribute, "/deflated", Kind.ATTRIBUTE, None),
    (unsigned_zero_attribute, "/deflated", Kind.ATTRIBUTE, None),
    (dropped_attribute, "/group", Kind.ATTRIBUTE, None),
    (added_attribute, "/group", Kind.ATTRIBUTE, None),
    (changed_root_attribute, "/", Kind.ATTRIBUTE, None),
    (changed_own_metadata_only, "/plain", Kind.METADATA, None),
    (dropped_consolidated_entry, "/plain", Kind.METADATA, None),
    (removed_array, "/plain", Kind.MISSING_ARRAY, None),
    (removed_array_in_group, "/group/scalar", Kind.MISSING_ARRAY, None),
    (removed_group, "/group", Kind.MISSING_GROUP, None),
    (removed_group, "/group/text", Kind.MISSING_ARRAY, None),
    (extra_array, "/invented", Kind.UNEXPECTED_ARRAY, None),
    (extra_group, "/invented", Kind.UNEXPECTED_GROUP, None),
    (array_instead_of_group, "/group/scalar", Kind.UNEXPECTED_GROUP, None),
    (other_byte_length_of_source, "/", Kind.SOURCE_CHANGED, None),
    (older_source, "/", Kind.SOURCE_CHANGED, None),
    (spoiled_second_name, "/again", Kind.VALUES, (0, 0)),
]


def test_sound_references_are_equal(sound: Document) -> None:
    report = validate(sound)
    assert report.mismatches == ()
    assert report.ok
    assert report.arrays_compared == 9
    assert report.chunks_compared == report.chunks_total == 7 * 12 + 2
    assert report.bytes_compared == 7 * 960 * 4 + 3 * 8 + 8
    assert report.problems_reported == 0


@pytest.mark.parametrize(("mutate", "path", "kind", "chunk_coords"), MUTANTS)
def test_mutant_is_caught_and_its_place_named(
    sound: Document,
    mutate: Callable[[Document], None],
    path: str,
    kind: Kind,
    chunk_coords: tuple[int, ...] | None,
) -> None:
    mutate(sound)
    report = validate(sound)
    assert not report.ok
    assert (path, str(kind), chunk_coords) in places(report)


@pytest.mark.filterwarnings("ignore:.*which only a rectilinear chunk grid can declare")
def test_grid_that_is_regular_by_name_only(sound: Document) -> None:
    """zarr-python from 3.4 on reads it with a warning, but has no chunk shape then."""
    chunk_grid_of_another_kind(sound)
    assert ("/plain", "unreadable", None) in places(validate(sound))


@pytest.mark.parametrize("mutate", [moved_byte_offset, swapped, other_inline, dropped_fill_only])
def test_nothing_else_is_accused(sound: Document, mutate: Callable[[Document], None]) -> None:
    expected = {place[1:] for place in MUTANTS if place[0] is mutate}
    mutate(sound)
    assert places(validate(sound)) == {(path, str(kind), cell) for path, kind, cell in expected}


def test_first_differing_element_is_named(original: tuple[Path, Document], sound: Document) -> None:
    refs = sound["refs"]
    _, byte_offset, byte_length = refs["plain/c/1/2"]
    with original[0].open("rb") as stream:
        stream.seek(byte_offset)
        stored = np.frombuffer(stream.read(byte_length), "<i4").reshape(10, 8).copy()
    stored[4, 3] = stored[6, 1] = -1
    refs["plain/c/1/2"] = "base64:" + base64.b64encode(stored.tobytes()).decode()
    (mismatch,) = validate(sound).mismatches
    assert mismatch.chunk_coords == (1, 2)
    assert mismatch.element == (14, 19)
    assert (mismatch.expected, mismatch.found) == (str(14 * 24 + 19), "-1")


# Without h5zarr's own references -----------------------------------------------------------

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
SHUFFLE = {"name": "numcodecs.shuffle", "configuration": {"elementsize": 4}}
ZLIB = {"name": "numcodecs.zlib", "configuration": {"level": 4}}


def write_alone(path: Path) -> None:
    with h5py.File(path, "w") as file:
        values = np.arange(960, dtype="<f4").reshape(40, 24)
        file.create_dataset("x", data=values, chunks=(10, 8), compression="gzip", shuffle=True)


def test_references_without_provenance(tmp_path: Path) -> None:
    path = tmp_path / "alone.h5"
    write_alone(path)
    references = by_hand(path, "x", [LITTLE, SHUFFLE, ZLIB])
    assert validate(references, source=path).ok
    with pytest.raises(ReferencesError, match="source"):
        validate(references)


def test_version_2_keys(tmp_path: Path) -> None:
    path = tmp_path / "alone.h5"
    write_alone(path)
    refs = by_hand(path, "x", [])["refs"]
    second = {key.replace("/c/", "/").replace("x/", "x/", 1): value for key, value in refs.items()}
    chunks = {
        "x/" + key[2:].replace("/", "."): value for key, value in second.items() if isinstance(value, list)
    }
    array = {
        "zarr_format": 2,
        "shape": [40, 24],
        "chunks": [10, 8],
        "dtype": "<f4",
        "fill_value": None,
        "order": "C",
        "compressor": {"id": "zlib", "level": 4},
        "filters": [{"id": "shuffle", "elementsize": 4}],
    }
    metadata = {
        ".zgroup": '{"zarr_format": 2}',
        "x/.zarray": json.dumps(array),
        "x/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["y", "x"]}),
    }
    document = {"version": 1, "refs": {**metadata, **chunks}}
    report = validate(document, source=path)
    assert report.mismatches == ()
    assert report.chunks_compared == 12
    # xarray would mask zeros, which the file does not.
    masking = {**document["refs"], "x/.zarray": json.dumps({**array, "fill_value": 0.0})}
    assert places(validate({"version": 1, "refs": masking}, source=path)) == {("/x", "attribute", None)}
    del document["refs"]["x/2.1"]
    assert ("/x", "missing reference", (2, 1)) in places(validate(document, source=path))


# Values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0x7FC00001, 0x80000000, 0xFFC00000])
def test_bits_of_floats_count(bits: int) -> None:
    expected = np.array([0x7FC00000, 0, 0x7FC00000], "<u4").view("<f4")
    found = expected.copy()
    assert not unequal(expected, found, expected.dtype, no_names).any()
    position = 1 if bits == 0x80000000 else 0
    found.view("<u4")[position] = bits
    assert np.flatnonzero(unequal(expected, found, expected.dtype, no_names)).tolist() == [position]


@pytest.mark.parametrize("kind", ["<i2", ">i2", ">f8", "<c16", ">c8", "?", "V3", "S4"])
def test_byte_order_does_not_count(kind: str) -> None:
    dtype = np.dtype(kind)
    stored = np.frombuffer(np.arange(dtype.itemsize * 4, dtype="u1").tobytes(), dtype)
    if kind == "?":
        stored = np.array([True, False, False, True])
    native = stored.astype(dtype.newbyteorder("="))
    assert not unequal(stored, native, dtype, no_names).any()
    assert same_data_type(dtype, native.dtype)


@pytest.mark.parametrize(
    ("dtype", "found"),
    [
        ("<i4", "<u4"),
        ("<i4", "<i8"),
        ("<f4", "<f8"),
        ("S4", "S3"),
        ("S4", "S5"),
        ("M8[s]", "V8"),
        ("V4", "V5"),
        ("<f4", "V4"),
        ([("a", "<i4")], [("b", "<i4")]),
        ([("a", "<i4")], [("a", "<f4")]),
        ([("a", "<i4")], [("a", "<i4"), ("b", "<i4")]),
        ([("a", "<i4", (2,))], [("a", "<i4", (3,))]),
        ([("a", "<i4")], "V4"),
    ],
)
def test_other_data_types(dtype: Any, found: Any) -> None:
    assert not same_data_type(np.dtype(dtype), np.dtype(found))


@pytest.mark.parametrize(("length", "count"), [(3, 4), (8, 2), (12, 2), (12, 3), (16, 1), (20, 2)])
def test_opaque_values(length: int, count: int) -> None:
    expected = np.frombuffer(bytes(range(length * count)), f"V{length}")
    found = np.frombuffer(bytes(range(length * count)), f"V{length}").copy()
    assert equal(expected, found, expected.dtype, no_names)
    found.view("u1")[-1] ^= 1
    assert not equal(expected, found, expected.dtype, no_names)
    assert unequal(expected, found, expected.dtype, no_names).tolist() == [False] * (count - 1) + [True]


def test_members_of_compounds() -> None:
    dtype = np.dtype([("a", "<i4"), ("b", [("c", ">f8", (2,))]), ("s", "S3")])
    expected = np.zeros((2, 3), dtype)
    found = np.zeros((2, 3), [("a", "<i4"), ("b", [("c", "<f8", (2,))]), ("s", "S5")])
    assert not unequal(expected, found, dtype, no_names).any()
    found["b"]["c"][1, 2, 1] = -0.0
    found["s"][0, 1] = b"x"
    assert np.argwhere(unequal(expected, found, dtype, no_names)).tolist() == [[0, 1], [1, 2]]


def test_variable_length_values() -> None:
    text, sequence = h5py.string_dtype(), h5py.vlen_dtype(np.dtype("<f4"))
    texts = np.array([b"a", "é".encode(), b""], object)
    assert unequal(texts, np.array(["a", "é", "x"], object), text, no_names).tolist() == [False, False, True]
    expected = np.empty(3, object)
    expected[:] = [np.array([1, np.nan], "f4"), np.array([], "f4"), np.array([-0.0], "f4")]
    found = np.array(["[1, NaN]", "[]", "[0.0]"], object)
    assert unequal(expected, found, sequence, no_names).tolist() == [False, False, True]
    found = np.array(["[1", "{}", "[-0.0]"])
    assert unequal(expected, found, sequence, no_names).tolist() == [True, True, False]


def test_sequences_as_arrays() -> None:
    expected, found = np.empty(4, object), np.empty(4, object)
    nan = np.array([0x7FC00001], "<u4").view("<f4")
    expected[:] = [nan, np.array([1, 2], ">f4"), np.array([1], "<f4"), np.array([1], "<f4")]
    found[:] = [nan.copy(), np.array([1, 2], "<f4"), np.array([1, 1], "<f4"), np.array([1], "<f8")]
    mask = unequal(expected, found, h5py.vlen_dtype(np.dtype("<f4")), no_names)
    assert mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 0.0, False),
        (-0.0, 0.0, False),
        (2**63 + 5, 2**63 + 5, True),
        (2**63 + 5, float(2**63), False),
        ([1], 1, False),
        ([1, [2]], [1, [2]], True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("NaN", float("nan"), False),
        (ObjectName(names=frozenset({"/a", "/b"})), "/b", True),
        (ObjectName(names=frozenset({"/a"})), ["/a"], False),
    ],
)
def test_json_equality(expected: Any, found: Any, same: bool) -> None:
    assert json_equal(expected, found) is same


def test_values_that_look_alike_are_shown_with_their_bytes() -> None:
    quiet, signalling = np.array([0x7FC00000, 0x7FA00000], "<u4").view("<f4")
    assert show(quiet, signalling) == ("nan (bytes 0000c07f)", "nan (bytes 0000a07f)")
    assert show(1, 2) == ("1", "2")
    assert len(show("x" * 1000, "y")[0]) == 120


# Names, links, problems --------------------------------------------------------------------


def validated(path: Path, **options: Any) -> ValidationReport:
    return validate(convert(path, **options).references())


def test_problems_are_no_mismatches(sound: Document) -> None:
    problem = {"path": "/plain", "found": "something", "remedy": "nothing"}
    removed_array(sound)
    sound["h5zarr"]["problems"].append(problem)
    report = validate(sound)
    assert report.ok
    assert report.problems_reported == 1


def test_reported_group_covers_what_is_in_it(sound: Document) -> None:
    removed_group(sound)
    sound["h5zarr"]["problems"].append({"path": "/group", "found": "something", "remedy": "nothing"})
    assert validate(sound).ok


def test_reported_attribute_is_no_mismatch(sound: Document) -> None:
    dropped_attribute(sound)
    sound["h5zarr"]["problems"].append(
        {"path": "/group", "attribute": "member", "found": "something", "remedy": "nothing"}
    )
    assert validate(sound).ok


def test_one_name_is_enough(sound: Document) -> None:
    remove(sound, "again")
    assert validate(sound).ok
    remove(sound, "deflated")
    assert ("/deflated", "missing array", None) in places(validate(sound)) or (
        "/again",
        "missing array",
        None,
    ) in places(validate(sound))


def test_links_that_lead_nowhere_must_be_reported(tmp_path: Path) -> None:
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        file["soft"] = h5py.SoftLink("/x")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["external"] = h5py.ExternalLink("gone.h5", "/x")
        file["loop"] = file["/"]
    document = convert(path).references()
    assert validate(document).ok
    document["h5zarr"]["problems"] = []
    assert places(validate(document)) == {
        ("/dangling", "missing array", None),
        ("/external", "missing array", None),
    }


def test_references_inside_a_group_of_another_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "inner.h5", "w") as file:
        file["padding"] = np.arange(100)
        file["g/x"] = np.arange(3)
        file["g"].attrs["to"] = file["g/x"].ref
        file.create_dataset("g/r", (2,), h5py.ref_dtype)[0] = file["g/x"].ref
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        file["link"] = h5py.ExternalLink("inner.h5", "/g")
    report = validated(tmp_path / "outer.h5", group="/link")
    assert report.ok, report.mismatches


def test_selection(original: tuple[Path, Document]) -> None:
    path = original[0]
    assert validated(path, exclude=["/plain"]).arrays_compared == 8
    assert validated(path, include=["/group/*"]).arrays_compared == 2
    report = validated(path, group="/group")
    assert report.ok
    assert report.arrays_compared == 2


def test_mismatch_below_a_selected_group_has_its_hdf5_path(original: tuple[Path, Document]) -> None:
    document = convert(original[0], group="/group").references()
    del document["refs"]["scalar/c"]
    assert ("/group/scalar", "missing reference", ()) in places(validate(document))


# Blocks and samples --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 9, 4)])
@pytest.mark.parametrize("element_bytes", [1, 2**15, 2**24])
def test_blocks_cover_every_element_once(shape: tuple[int, ...], element_bytes: int) -> None:
    counted = np.zeros(shape, int)
    grid = Grid(shape=shape, chunk_shape=(3, 2, 4)[: len(shape)])
    chunks = 0
    for block in blocks(grid, element_bytes):
        counted[block.selection] += 1
        chunks += block.chunk_count
        assert block.element_count == counted[block.selection].size
    assert (counted == 1).all()
    assert chunks == grid.chunk_count


def test_blocks_are_bounded() -> None:
    grid = Grid(shape=(1000, 100, 100), chunk_shape=(1, 10, 10))
    assert all(block.element_count * 8 <= 2**25 for block in blocks(grid, 8))
    assert sum(1 for _ in blocks(grid, 8)) < 200


@pytest.mark.parametrize("count", [0, 1, 3, 10, 100])
def test_sample_is_repeatable_and_spread(count: int) -> None:
    grids = [Grid(shape=(n,), chunk_shape=(1,)) for n in (1, 0, 30, 5)]
    chosen = sample_chunks(grids, count, 1)
    assert chosen == sample_chunks(grids, count, 1)
    assert sum(map(len, chosen)) == min(count, 36)
    if count >= 3:
        assert [bool(chunks) for chunks in chosen] == [True, False, True, True]
    for grid, chunks in zip(grids, chosen, strict=True):
        assert all(chunk.first[0] < grid.chunk_count for chunk in chunks)


def test_sample_compares_so_many_chunks(sound: Document) -> None:
    report = validate(sound, sample=11, seed=3)
    assert report.ok
    assert report.chunks_compared == 11
    assert report.chunks_total == 86
    assert validate(sound, sample=10**6).chunks_compared == 86


def test_sample_finds_missing_references_anywhere(sound: Document) -> None:
    dropped_fill_only(sound)
    assert places(validate(sound, sample=0)) == {("/fill_only", "missing reference", (3, 2))}


def test_negative_sample(sound: Document) -> None:
    with pytest.raises(ValueError, match="negative"):
        validate(sound, sample=-1)


def test_progress_ends_with_everything(sound: Document) -> None:
    seen: list[tuple[int, int]] = []
    report = validate(sound, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (report.bytes_compared, report.bytes_compared)


def test_from_threads(sound: Document) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert all(report.ok for report in pool.map(validate, [sound] * 4))


# The report ------------------------------------------------------------------------------------


def test_report_can_be_pickled_and_written(sound: Document) -> None:
    swapped(sound)
    report = validate(sound)
    assert pickle.loads(pickle.dumps(report)) == report
    document = json.loads(json.dumps(report.to_json()))
    assert document["ok"] is False
    assert document["mismatch_count"] == 2
    assert document["mismatches"][0].keys() == {
        "path",
        "kind",
        "expected",
        "found",
        "chunk_coords",
        "element",
    }
    assert str(report.mismatches[0]).startswith("/deflated chunk (0, 1) element (0, 8): values: expected ")


def test_mismatches_are_counted_beyond_the_list() -> None:
    findings = Findings()
    findings.extend(
        Mismatch(path="/x", kind=Kind.VALUES, expected="1", found="2", chunk_coords=(cell,))
        for cell in range(1000)
    )
    assert findings.total == 1000
    assert len(findings.listed) == 20


# What cannot be checked ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no references"),
        ("{}", "no references"),
        ('{"version": 1, "refs": {}}', "no references"),
        ('{"version": 1, "refs": {"zarr.json": "{}"}, "h5zarr": {}}', "provenance"),
        ('{"version": 1, "refs": {"zarr.json": "{}"}, "h5zarr": 3}', "provenance"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ReferencesError, match=message):
        validate(path)


def test_references_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ReferencesError, match="no such file"):
        validate(tmp_path / "gone.json")
    with pytest.raises(ReferencesError, match="cannot be read"):
        validate(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReferencesError, match="not JSON"):
        validate(tmp_path / "binary.json")


def test_root_that_is_no_group(sound: Document) -> None:
    sound["refs"]["zarr.json"] = sound["refs"]["plain/zarr.json"]
    with pytest.raises(ReferencesError, match="root group"):
        validate(sound)


def test_source_is_gone(tmp_path: Path, sound: Document) -> None:
    with pytest.raises(SourceNotFoundError):
        validate(sound, source=tmp_path / "gone.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(NotHDF5Error):
        validate(sound, source=tmp_path / "empty.h5")


def test_group_is_gone(sound: Document) -> None:
    sound["h5zarr"]["selection"]["root"] = "/gone"
    with pytest.raises(GroupNotFoundError):
        validate(sound)


def test_truncated_source(tmp_path: Path) -> None:
    path = tmp_path / "source.h5"
    write_file(path)
    document = convert(path).references()
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(DamagedFileError):
        validate(document)


def test_references_into_a_truncated_file(tmp_path: Path, original: tuple[Path, Document]) -> None:
    """The whole file is given as the source; that of the references was cut."""
    whole, cut = original[0], tmp_path / "cut.h5"
    shutil.copy(whole, cut)
    document = convert(cut).references()
    last = max(value[1] for value in document["refs"].values() if isinstance(value, list))
    os.truncate(cut, last + 1)
    report = validate(document, source=whole)
    assert {mismatch.kind for mismatch in report.mismatches} == {Kind.UNREADABLE}


def test_changed_source(tmp_path: Path) -> None:
    path = tmp_path / "source.h5"
    write_file(path)
    document = convert(path).references()
    with h5py.File(path, "r+") as file:
        file["plain"][13, 5] = 12345
    os.utime(path, (1, 1))
    found = places(validate(document))
    assert ("/", "source changed", None) in found
    copied = tmp_path / "copied.h5"
    shutil.copy(path, copied)
    assert ("/", "source changed", None) not in places(validate(document, source=copied))


def test_references_from_a_path(tmp_path: Path, sound: Document) -> None:
    path = tmp_path / "references.json"
    path.write_text(json.dumps(sound))
    assert validate(path).ok
    assert validate(str(path)).ok
    assert validate(path.as_uri()).ok


def test_huge_sparse_array_is_compared_where_something_is(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        huge = file.create_dataset("huge", (2**33, 2**20), "<i2", chunks=(64, 64), fillvalue=5)
        huge[2**32, 77] = 1
    document = convert(path).references()
    report = validate(document)
    assert report.mismatches == ()
    assert report.chunks_compared == 2
    edit(document, "huge", lambda own: own.update(fill_value=6))
    assert {mismatch.kind for mismatch in validate(document).mismatches} == {Kind.FILL_VALUE, Kind.VALUES}
    edit(document, "huge", lambda own: own.update(fill_value=5))
    del document["refs"][f"huge/c/{2**26}/1"]
    assert places(validate(document)) == {("/huge", "missing reference", (2**26, 1))}


def test_many_chunks_in_shards_are_all_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5zarr.compare_arrays._SPARSE_CHUNKS", 64)
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file.create_dataset("x", data=np.arange(200, dtype="<i4"), chunks=(2,))
    convert(tmp_path / "many.h5", tmp_path / "many.zarr", shard_bytes=200)
    report = validate(tmp_path / "many.zarr")
    assert report.ok
    assert report.chunks_compared == 100
    shards = sorted((tmp_path / "many.zarr/x/c").iterdir(), key=lambda path: int(path.name))
    assert 1 < len(shards) < 50
    stored = shards[-2].read_bytes()
    shards[-2].write_bytes(b"\xff" * 4 + stored[4:])
    assert {kind for _, kind, _ in places(validate(tmp_path / "many.zarr"))} == {"values"}


def test_chunks_that_are_never_filled(tmp_path: Path) -> None:
    path = tmp_path / "never.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4,), "<i4", chunks=(2,), fillvalue=-99, fill_time="never")
    document = convert(path).references()
    edit(document, "x", lambda own: own.update(fill_value=0))
    assert validate(document).ok
    edit(document, "x", lambda own: own.update(fill_value=-99))
    assert not validate(document).ok


def test_external_storage_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outer.h5"
    monkeypatch.chdir(tmp_path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(6, dtype="<i4"), external=[("outer.raw", 0, 24)])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    document = convert(path).references()
    assert validate(document).ok


def test_external_storage_under_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        stored = file.create_dataset("x", data=np.arange(6, dtype="<i4"), external=[("outer.raw", 0, 24)])
        file["y"] = stored
        file.create_dataset("z", (2,), h5py.ref_dtype)[0] = stored.ref
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    report = validated(tmp_path / "outer.h5")
    assert report.ok, report.mismatches
    assert report.arrays_compared == 3


def test_sparse_virtual_dataset_is_compared_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h5zarr.compare_arrays._SPARSE_CHUNKS", 64)
    length = 100
    with h5py.File(tmp_path / "stored.h5", "w") as file:
        file.create_dataset("s", (length,), "i4", chunks=(1,), fillvalue=-1)[:40:2] = 7
    layout = h5py.VirtualLayout((length,), "i4")
    layout[:] = h5py.VirtualSource(tmp_path / "stored.h5", "s", (length,), "i4")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout, fillvalue=-1)
    document = convert(tmp_path / "virtual.h5").references()
    assert validate(document).ok
    # Of virtual datasets, no stored chunks are known that would tell of the missing reference.
    del document["refs"]["x/c/10"]
    assert places(validate(document)) == {("/x", "values", (10,))}


@pytest.mark.parametrize("zarr_format", ["2", "3"])
def test_names_of_dimensions(zarr_format: Any, tmp_path: Path) -> None:
    path = tmp_path / "named.h5"
    with h5py.File(path, "w") as file:
        field = file.create_dataset("deep/field", data=np.arange(18).reshape(3, 3, 2))
        for axis, name in enumerate(("lat", "lon")):
            file.create_dataset(name, data=np.arange(3.0) + axis).make_scale(name)
            field.dims[axis].attach_scale(file[name])
        file["other_name"] = file["lat"]
    convert(path, tmp_path / "named.json", zarr_format=zarr_format)
    text = (tmp_path / "named.json").read_text()
    assert validate(json.loads(text)).ok
    swapped = re.sub(r'(\\"lat\\")(, *)(\\"lon\\")', r"\3\2\1", text)
    assert swapped != text
    report = validate(json.loads(swapped))
    assert [(m.path, m.expected, m.found) for m in report.mismatches] == [
        ("/deep/field", "dimension 0 is lat or other_name", "lon"),
        ("/deep/field", "dimension 1 is lon", "lat"),
    ]


@pytest.mark.parametrize("code", ["u1", "u2", "u8"])
def test_fill_value_of_signed_numbers(code: str, tmp_path: Path) -> None:
    """xarray compares the largest unsigned number as -1, and can be told of it as missing_value alone."""
    path = tmp_path / "f.h5"
    most = np.iinfo(code).max
    with h5py.File(path, "w") as file:
        v = file.create_dataset("v", data=np.array([1, most, most - 1], code))
        v.attrs["_FillValue"] = np.array([most], code)
        v.attrs["_Unsigned"] = "false"
    document = copy.deepcopy(convert(path).references())
    assert validate(document).ok
    with (
        xr.open_dataset(path, engine="h5netcdf", phony_dims="sort") as expected,
        xr.open_dataset(document, engine="h5zarr") as found,
    ):
        xr.testing.assert_identical(found, expected)
        assert found.v.isnull().values.tolist() == [False, True, False]
    for number in (-2, most):
        edit(document, "v", lambda metadata, own=number: metadata["attributes"].update(missing_value=own))
        assert places(validate(document)) == {("/v", "attribute", None)}
