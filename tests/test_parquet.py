"""Parquet references read as JSON references do, through stock fsspec: whatever the grid, name and reader."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import math
import os
import shutil
import string
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr, storage_options
from fsspec.implementations.reference import LazyReferenceMapper, ReferenceFileSystem
from http_server import serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import serve_s3
from test_metadata import same
from test_xarray import NAMES, through_h5netcdf
from zarr.storage import FsspecStore

from h5zarr import output
from h5zarr.converter import convert
from h5zarr.errors import OutputError, Problem, ReferencesError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy, Manifest, Part, Selection, SourceIdentity
from h5zarr.references import kerchunk_json, kerchunk_parquet, keys, parquet_records, provenance

pytestmark = [
    pytest.mark.filterwarnings(CODEC_WARNING),
    # fsspec's default engine
    pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated"),
]

VERSION = "0"
write = functools.partial(kerchunk_parquet.write, version=VERSION)


def mapper_of(folder: Path, engine: str = "fastparquet") -> LazyReferenceMapper:
    return LazyReferenceMapper(str(folder), engine=engine)


def hierarchy_of(*arrays: ArrayNode) -> Hierarchy:
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    paths = {"/", *(array.path.rpartition("/")[0] or "/" for array in arrays)}
    groups = {path: GroupNode(path=path, metadata=group) for path in sorted(paths)}
    nodes = {**groups, **{array.path: array for array in arrays}}
    return Hierarchy(nodes=nodes, source=None, selection=Selection(), problems=())


def bytes_array(path: str, grid: tuple[int, ...], references: dict[int, Any]) -> ArrayNode:
    """Return an array of single bytes; chunks by position are ``(url, offset, length)`` or inline."""
    rows = [(at, *value) for at, value in sorted(references.items()) if isinstance(value, tuple)]
    locations = tuple(dict.fromkeys(url for _, url, _, _ in rows))
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(grid),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(grid)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 7,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    manifest = Manifest(
        grid_shape=grid,
        locations=locations,
        grid_position=np.array([row[0] for row in rows], np.uint64),
        byte_offset=np.array([row[2] for row in rows], np.uint64),
        byte_length=np.array([row[3] for row in rows], np.uint64),
        location_index=np.array([locations.index(row[1]) for row in rows], np.uint32),
        inline={at: value for at, value in references.items() if isinstance(value, bytes)},
    )
    return ArrayNode(path=path, metadata=metadata, manifest=manifest)


# Every chunk is found --------------------------------------------------------------------


@pytest.fixture(scope="module", params=FIXTURE_NAMES)
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    return convert(FIXTURES / request.param, inline_threshold=64).hierarchy


def test_every_chunk_is_what_json_gives(hierarchy: Hierarchy, tmp_path: Path) -> None:
    write(hierarchy, tmp_path / "x.parq", record_size=50)
    lazy = ReferenceFileSystem(str(tmp_path / "x.parq"), remote_protocol="file", skip_instance_cache=True)
    references = kerchunk_json.references(hierarchy, version=VERSION)
    whole = ReferenceFileSystem(references, remote_protocol="file", skip_instance_cache=True)
    for array in kerchunk_parquet.with_parquet_names(hierarchy).arrays():
        for ours, theirs in zip(all_keys(array), all_keys(array, keys.DEFAULT), strict=True):
            assert found_reference(lazy, ours) == found_reference(whole, theirs)


def test_what_is_written_loads_again(hierarchy: Hierarchy, tmp_path: Path) -> None:
    write(hierarchy, tmp_path / "x.parq", record_size=50)
    loaded = kerchunk_parquet.load(tmp_path / "x.parq")
    assert same(loaded) == same(kerchunk_parquet.with_parquet_names(hierarchy))


URLS = st.sampled_from(["file:///a.h5", "s3://bucket/b c#%20.h5", "https://h/ü.h5"])
REFERENCES = st.tuples(URLS, st.sampled_from([0, 1, 2**53 + 1, 2**62]), st.sampled_from([0, 1, 2**40]))
INLINE = st.sampled_from([b"", b"x", b"\0\xff", b"base64:eA==", b"base64:\xff"])


@st.composite
def arrays(draw: st.DrawFn) -> ArrayNode:
    grid = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    cells = range(math.prod(grid))
    chunks = draw(st.dictionaries(st.sampled_from(cells), REFERENCES | INLINE)) if cells else {}
    return bytes_array("/group/x.y", grid, chunks)


@given(array=arrays(), record_size=st.integers(1, 70), engine=st.sampled_from(["fastparquet", "pyarrow"]))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest(array: ArrayNode, record_size: int, engine: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "x.parq", ignore_errors=True)
    write(hierarchy_of(array), tmp_path / "x.parq", record_size=record_size)
    assert same(kerchunk_parquet.load(tmp_path / "x.parq"))["manifests"] == expected_manifests(array)
    lazy = ReferenceFileSystem(mapper_of(tmp_path / "x.parq", engine), fs=fsspec.filesystem("file"))
    with objects_for_strings(engine):
        for position, name in enumerate(all_keys(array)):
            assert found_reference(lazy, name) == expected_reference(array, position)


def objects_for_strings(engine: str) -> contextlib.AbstractContextManager[Any]:
    """Give fsspec what it asks for: with the strings of pandas 3, it does not recognise absent paths."""
    if engine == "fastparquet":
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "The 'future.infer_string' option is deprecated")
    stack.enter_context(pd.option_context("future.infer_string", False))
    return stack


def all_keys(array: ArrayNode, chunk_keys: keys.ChunkKeys = keys.V2) -> list[str]:
    grid = array.manifest.grid_shape
    return chunk_keys.keys(array.path, grid, np.arange(math.prod(grid), dtype=np.uint64))


def found_reference(filesystem: ReferenceFileSystem, key: str) -> Any:
    try:
        found = filesystem._cat_common(key)
    except FileNotFoundError:
        return None
    return found[0] if isinstance(found[0], bytes) else (found[0], int(found[1]), int(found[2] - found[1]))


def expected_reference(array: ArrayNode, position: int) -> Any:
    manifest = array.manifest
    if position in manifest.inline:
        return manifest.inline[position]
    (rows,) = np.nonzero(manifest.grid_position == position)
    if not len(rows):
        return None
    assert manifest.location_index is not None
    url = manifest.locations[manifest.location_index[rows[0]]]
    byte_offset, byte_length = int(manifest.byte_offset[rows[0]]), int(manifest.byte_length[rows[0]])
    return (url, byte_offset, byte_length) if byte_length else b""


def expected_manifests(array: ArrayNode) -> Any:
    """Return what is loaded: references without a byte stand inline."""
    every = {at: expected_reference(array, at) for at in range(len(all_keys(array)))}
    there = {at: reference for at, reference in every.items() if reference is not None}
    again = bytes_array(array.path, array.manifest.grid_shape, there)
    return same(hierarchy_of(again))["manifests"]


def test_records_of_ten_million_rows_are_not_held_at_once() -> None:
    """Each file is made when it is asked for."""
    array = bytes_array("/x", (10_000, 10_000), {0: b"first", 99_999_999: ("file:///x", 1, 2)})
    files = parquet_records.encode(array.manifest, 10**8, 10**5)
    first, second, third = next(files), next(files), next(files)
    assert second is third
    assert parquet_records.decode(bytes(first), 0, 10**5).inline == {0: b"first"}


# Readers ---------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "protocol told": {"remote_protocol": "file"},
    "protocol found": {},
}
READABLE_BY_H5PY = ["filter_deflate.h5", "zero_length.h5", "filter_mask.h5", "chunk_index_single_chunk.h5"]


def lazy_options(folder: Path, **options: Any) -> dict[str, Any]:
    return {"fo": str(folder), "skip_instance_cache": True, **options}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", [name for name in READABLE_BY_H5PY if name in FIXTURE_NAMES])
def test_zarr_reads_what_h5py_reads(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    write(convert(FIXTURES / name).hierarchy, tmp_path / "x.parq", record_size=3)
    store = FsspecStore.from_url(
        "reference://", storage_options=lazy_options(tmp_path / "x.parq", **options), read_only=True
    )
    root = zarr.open_group(store, mode="r")
    compared = []
    with h5py.File(FIXTURES / name) as file:
        for path, array in root.members(max_depth=None):
            if isinstance(array, zarr.Array):
                np.testing.assert_array_equal(array[...], file[path][()])
                compared.append(path)
    assert compared


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_xarray_reads_what_h5netcdf_reads(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    write(convert(FIXTURES / name, inline_threshold=64).hierarchy, tmp_path / "x.parq", record_size=3)
    options = lazy_options(tmp_path / "x.parq", **options)
    with through_h5netcdf(FIXTURES / name, "/") as expected:
        found = xr.open_dataset("reference://", engine="zarr", backend_kwargs={"storage_options": options})
        xr.testing.assert_identical(found, expected)
        found = xr.open_zarr("reference://", storage_options=options, chunks={})
        xr.testing.assert_identical(found.compute(scheduler="sync"), expected)


# Of an array that is opened by its path; the one is what fsspec computes rows from.
@pytest.mark.filterwarnings("ignore:Both zarr.json .* and .zarray")
def test_trees_and_dask(tmp_path: Path) -> None:
    path = FIXTURES / "netcdf_groups.nc"
    write(convert(path).hierarchy, tmp_path / "x.parq")
    options = lazy_options(tmp_path / "x.parq")
    found = xr.open_datatree("reference://", engine="zarr", storage_options=options)
    with xr.open_datatree(path, engine="h5netcdf", phony_dims="sort") as expected:
        xr.testing.assert_identical(found, expected)
    with h5py.File(FIXTURES / "climate.nc") as file:
        write(convert(FIXTURES / "climate.nc").hierarchy, tmp_path / "y.parq")
        name = next(name for name, item in file.items() if isinstance(item, h5py.Dataset) and item.ndim == 3)
        options = lazy_options(tmp_path / "y.parq", remote_protocol="file")
        blocks = dask.array.from_zarr("reference://", component=name, storage_options=options)
        np.testing.assert_array_equal(blocks.compute(scheduler="sync"), file[name][()])


@pytest.mark.parametrize("engine", ["fastparquet", "pyarrow"])
def test_engines_of_pandas(engine: str, tmp_path: Path) -> None:
    write(convert(FIXTURES / "climate.nc").hierarchy, tmp_path / "x.parq", record_size=2)
    options = storage_options(mapper_of(tmp_path / "x.parq", engine))  # type: ignore[arg-type]
    found = xr.open_dataset("reference://", engine="zarr", backend_kwargs={"storage_options": options})
    with through_h5netcdf(FIXTURES / "climate.nc", "/") as expected, objects_for_strings(engine):
        xr.testing.assert_identical(found, expected)


def test_absent_chunks_are_no_fill_values_by_mistake(tmp_path: Path) -> None:
    """pyarrow with the strings of pandas 3 gives NaN for an absent URL: an error, never a wrong value."""
    write(hierarchy_of(bytes_array("/x", (2,), {0: b"1"})), tmp_path / "x.parq")
    root = open_zarr(mapper_of(tmp_path / "x.parq", "pyarrow"))  # type: ignore[arg-type]
    assert root["x"][0] == ord("1")
    with pytest.raises(TypeError):
        root["x"][1]
    with objects_for_strings("pyarrow"):
        assert open_zarr(mapper_of(tmp_path / "x.parq", "pyarrow"))["x"][1] == 7  # type: ignore[arg-type]


def test_columns_are_what_fsspec_wants(tmp_path: Path) -> None:
    array = bytes_array("/x", (5, 7), {0: ("file:///a", 5, 3), 8: ("file:///b", 9, 3), 9: b"inline"})
    write(hierarchy_of(array), tmp_path / "x.parq", record_size=30)
    first, last = (pq.ParquetFile(tmp_path / f"x.parq/x/refs.{record}.parq") for record in (0, 1))
    assert (first.metadata.num_rows, last.metadata.num_rows) == (30, 5)
    assert first.metadata.metadata is None
    types = [(column.name, column.physical_type, str(column.logical_type)) for column in first.schema]
    assert types == [
        ("path", "BYTE_ARRAY", "String"),
        ("offset", "INT64", "None"),
        ("size", "INT64", "None"),
        ("raw", "BYTE_ARRAY", "None"),
    ]
    assert "RLE_DICTIONARY" in first.metadata.row_group(0).column(0).encodings
    assert first.metadata.row_group(0).column(1).statistics.null_count == 0


# Over HTTP -------------------------------------------------------------------------------


def test_over_http(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "climate.nc", tmp_path / "climate.nc")
    with serve(tmp_path) as server:
        conversion = convert(tmp_path / "climate.nc", public_url=f"{server.url}/climate.nc")
        write(conversion.hierarchy, tmp_path / "x.parq", record_size=2)
        options = storage_options(f"{server.url}/x.parq", "http")
        found = xr.open_dataset("reference://", engine="zarr", backend_kwargs={"storage_options": options})
        with through_h5netcdf(FIXTURES / "climate.nc", "/") as expected:
            xr.testing.assert_identical(found, expected)
        assert same(kerchunk_parquet.load(f"{server.url}/x.parq")) == same(conversion.hierarchy)
        assert kerchunk_parquet.read_provenance(f"{server.url}/x.parq").source == conversion.hierarchy.source


class StaticFiles(http.server.SimpleHTTPRequestHandler):
    """Decodes paths as servers do."""

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""


ODD_NAMES = [
    *(f"x{character}y" for character in string.punctuation + " \t\n\x01" if character not in "/\\"),
    *("100%", "%", "50%25", "a%2Fb", "%zz", "..", "...", " x ", "日本 ü", "e\u0301", ".hidden", "x.0.0", "0"),
    *(".zebra", ".zarray", ".zattrs/x", "zarr.json", "refs.0.parq", "c", "{{u}}", "::", "a::b"),
]


@contextlib.contextmanager
def static_server(folder: Path) -> Iterator[str]:
    handler = functools.partial(StaticFiles, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def oddly_named() -> Hierarchy:
    return hierarchy_of(*(bytes_array(f"/{name}", (2, 2), {3: b"1"}) for name in ODD_NAMES if name != ".."))


def values_of(references: str, hierarchy: Hierarchy) -> dict[str, list[int]]:
    root = open_zarr(references)
    return {array.path: root[array.path.strip("/")][...].ravel().tolist() for array in hierarchy.arrays()}


def test_odd_names_are_read_or_left_out(oddly_named: Hierarchy, tmp_path: Path) -> None:
    write(oddly_named, tmp_path / "x.parq", record_size=3)
    written = kerchunk_parquet.load(tmp_path / "x.parq")
    expected = {array.path: [7, 7, 7, ord("1")] for array in written.arrays()}
    assert values_of(str(tmp_path / "x.parq"), written) == expected
    with static_server(tmp_path) as url:
        assert values_of(f"{url}/x.parq", written) == expected
    left_out = {array.path for array in oddly_named.arrays()} - expected.keys()
    assert {problem.path for problem in written.problems} == left_out


def test_only_names_that_fsspec_does_not_find_are_left_out(
    oddly_named: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rule, just these would be read as the fill value without a word."""
    written = {array.path for array in kerchunk_parquet.with_parquet_names(oddly_named).arrays()}
    monkeypatch.setattr(kerchunk_parquet, "_unreadable_name", lambda path: None)
    write(oddly_named, tmp_path / "x.parq")
    with static_server(tmp_path) as url:
        found = values_of(f"{url}/x.parq", oddly_named)
    assert {path for path, values in found.items() if values == [7, 7, 7, 7]} == found.keys() - written
    assert len(written) > 40


def test_problems_of_names(oddly_named: Hierarchy) -> None:
    once = kerchunk_parquet.with_parquet_names(oddly_named)
    assert kerchunk_parquet.with_parquet_names(once).problems == once.problems
    assert all("JSON" in problem.remedy for problem in once.problems)


# Large grids -----------------------------------------------------------------------------


def test_a_large_grid_without_references_needs_no_files(tmp_path: Path) -> None:
    array = bytes_array("/x", (10**6, 10**6), {})
    write(hierarchy_of(array), tmp_path / "x.parq")
    assert [path.name for path in (tmp_path / "x.parq/x").iterdir()] == []
    root = open_zarr(str(tmp_path / "x.parq"))
    assert root["x"].shape == (10**6, 10**6)
    assert root["x"][-1, -1] == root["x"][0, 0] == 7
    (loaded,) = kerchunk_parquet.load(tmp_path / "x.parq").arrays()
    assert (loaded.manifest.grid_shape, len(loaded.manifest)) == ((10**6, 10**6), 0)
    open_zarr_without_protocol = FsspecStore.from_url(
        "reference://", storage_options=lazy_options(tmp_path / "x.parq"), read_only=True
    )
    assert zarr.open_group(open_zarr_without_protocol, mode="r")["x"][5, 5] == 7


def test_a_large_grid_with_references_is_refused(tmp_path: Path) -> None:
    array = bytes_array("/x", (10**6, 10**6), {5: b"1"})
    with pytest.raises(OutputError, match=r"/x: a grid of 1000000000000 chunks.*record size"):
        write(hierarchy_of(array), tmp_path / "x.parq")
    assert list(tmp_path.iterdir()) == []


def test_offsets_beyond_63_bits_are_refused(tmp_path: Path) -> None:
    array = bytes_array("/x", (1,), {0: ("file:///x", 2**63, 5)})
    with pytest.raises(OutputError, match="x: an offset"):
        write(hierarchy_of(array), tmp_path / "x.parq")
    assert list(tmp_path.iterdir()) == []


# Loading ---------------------------------------------------------------------------------


def test_provenance(tmp_path: Path) -> None:
    parts = tuple(
        Part(
            source=SourceIdentity(url=f"s3://b/{number}.nc", byte_length=5, modified=1.5, etag="e"),
            selection=Selection(root="/g", include=("/a*",)),
            start={"time": number},
            extent={"time": 1},
        )
        for number in range(3)
    )
    problem = Problem(path="/x", found="NaN", remedy="none", attribute="a")
    hierarchy = Hierarchy(
        nodes=hierarchy_of().nodes, source=None, selection=Selection(), problems=(problem,), parts=parts
    )
    write(hierarchy, tmp_path / "x.parq")
    told = kerchunk_parquet.read_provenance(tmp_path / "x.parq")
    assert told == provenance.Provenance(
        version=VERSION, source=None, selection=Selection(), problems=(problem,), parts=parts
    )
    loaded = kerchunk_parquet.load(tmp_path / "x.parq")
    assert (loaded.problems, loaded.parts) == ((problem,), parts)


def damaged(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Return what changes the document ``.zmetadata``."""

    def damage(folder: Path) -> None:
        document = json.loads((folder / ".zmetadata").read_text())
        change(document)
        (folder / ".zmetadata").write_text(json.dumps(document))

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a record": (
        lambda folder: (folder / "g/x/refs.1.parq").unlink(),
        "there is no .*refs.1.parq; copy",
    ),
    "all of an array": (lambda folder: shutil.rmtree(folder / "g/x"), "there is no .*refs.0.parq"),
    "half of a record": (lambda folder: truncate(folder / "g/x/refs.0.parq"), "no Parquet references"),
    "rows": (
        lambda folder: shutil.copy(folder / "g/x/refs.1.parq", folder / "g/x/refs.0.parq") and None,
        "2 rows of .* where 3 chunks",
    ),
    "the metadata": (lambda folder: (folder / ".zmetadata").unlink(), "there is no .*zmetadata"),
    "no JSON": (lambda folder: truncate(folder / ".zmetadata"), "no Parquet references"),
    "no object": (lambda folder: (folder / ".zmetadata").write_text("[]") and None, "no Parquet references"),
    "no record size": (damaged(lambda document: document.pop("record_size")), "no Parquet references"),
    "no stub": (damaged(lambda document: document["metadata"].pop("g/x/.zarray")), "no Parquet references"),
    "another stub": (
        damaged(lambda document: document["metadata"]["g/x/.zarray"].update(shape=[4])),
        "/g/x: .*where the grid is",
    ),
    "no root": (damaged(lambda document: document["metadata"].pop("zarr.json")), "not Zarr v3"),
    "provenance": (damaged(lambda document: document.update(h5zarr=5)), "provenance"),
    "chunk keys": (
        damaged(lambda document: document["metadata"]["g/x/zarr.json"].pop("chunk_key_encoding")),
        "no Parquet references",
    ),
    "other chunk keys": (
        damaged(
            lambda document: document["metadata"]["g/x/zarr.json"].update(
                chunk_key_encoding={"name": "default"}
            )
        ),
        "/g/x: chunk keys",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_references_are_refused(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    array = bytes_array("/g/x", (5,), {0: ("file:///a", 0, 5), 4: ("file:///b", 5, 5)})
    write(hierarchy_of(array), tmp_path / "x.parq", record_size=3)
    damage(tmp_path / "x.parq")
    with pytest.raises(ReferencesError, match=words) as raised:
        kerchunk_parquet.load(tmp_path / "x.parq")
    assert str(raised.value).startswith(f"{tmp_path}/x.parq: ")
    assert "\n" not in str(raised.value)


def test_padded_records_load(tmp_path: Path) -> None:
    """kerchunk fills the last one up."""
    array = bytes_array("/x", (2,), {0: b"1", 1: ("file:///a", 4, 5)})
    write(hierarchy_of(array), tmp_path / "x.parq")
    long = bytes_array("/x", (9,), {0: b"1", 1: ("file:///a", 4, 5)})
    (padded,) = parquet_records.encode(long.manifest, 9, 9)
    (tmp_path / "x.parq/x/refs.0.parq").write_bytes(padded)
    assert same(kerchunk_parquet.load(tmp_path / "x.parq")) == same(hierarchy_of(array))


def test_names_with_brackets_are_no_patterns(tmp_path: Path) -> None:
    names = ["a[1]", "a1", "a*", "a?"[:1] + "{b}"]
    written = hierarchy_of(*(bytes_array(f"/{name}", (1,), {0: name.encode()}) for name in names))
    for folder in (tmp_path / "x.parq", "memory://x.parq"):
        write(written, folder)
        assert same(kerchunk_parquet.load(folder)) == same(written)
    fsspec.filesystem("memory").rm("/x.parq", recursive=True)


# Zarr v2 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "netcdf_groups.nc"])
def test_zarr_v2(name: str, tmp_path: Path) -> None:
    write(convert(FIXTURES / name).hierarchy, tmp_path / "x.parq", record_size=3, zarr_format="2")
    options = lazy_options(tmp_path / "x.parq", remote_protocol="file")
    found = xr.open_dataset(
        "reference://", engine="zarr", backend_kwargs={"storage_options": options, "zarr_format": 2}
    )
    problems = kerchunk_parquet.read_provenance(tmp_path / "x.parq").problems
    with through_h5netcdf(FIXTURES / name, "/") as expected:
        missing = {problem.path.strip("/") for problem in problems if problem.attribute is None}
        xr.testing.assert_identical(found, expected.drop_vars(missing & set(expected.variables)))
    with pytest.raises(ReferencesError, match="not Zarr v3: make them anew"):
        kerchunk_parquet.load(tmp_path / "x.parq")


def test_both_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="one Zarr format"):
        write(hierarchy_of(), tmp_path / "x.parq", zarr_format="both")


@pytest.mark.parametrize("record_size", [0, -1])
def test_records_have_rows(record_size: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="at least one row"):
        write(hierarchy_of(), tmp_path / "x.parq", record_size=record_size)


# Whole or not at all ---------------------------------------------------------------------


@pytest.fixture
def versions() -> tuple[Hierarchy, Hierarchy]:
    """Two hierarchies, of which the first has more files."""
    first = bytes_array("/g/x", (9,), {8: b"1"}), bytes_array("/y", (2,), {0: b"2"})
    return hierarchy_of(*first), hierarchy_of(bytes_array("/g/x", (2,), {1: b"3"}))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_new_references_replace_the_old_ones(versions: tuple[Hierarchy, Hierarchy], tmp_path: Path) -> None:
    for hierarchy in versions * 2:
        write(hierarchy, tmp_path / "x.parq", record_size=3)
        assert same(kerchunk_parquet.load(tmp_path / "x.parq")) == same(hierarchy)
    assert files_of(tmp_path) == {"x.parq/.zmetadata", "x.parq/g/x/refs.0.parq"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.parq"]


def test_an_open_file_goes_on_to_be_read(versions: tuple[Hierarchy, Hierarchy], tmp_path: Path) -> None:
    write(versions[0], tmp_path / "x.parq")
    descriptor = os.open(tmp_path / "x.parq/y/refs.0.parq", os.O_RDONLY)
    write(versions[1], tmp_path / "x.parq")
    assert os.read(descriptor, 4) == b"PAR1"
    os.close(descriptor)


def test_a_link_to_the_folder_stays_one(versions: tuple[Hierarchy, Hierarchy], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write(versions[0], tmp_path / "real/x.parq")
    (tmp_path / "link.parq").symlink_to("real/x.parq")
    write(versions[1], tmp_path / "link.parq")
    assert (tmp_path / "link.parq").is_symlink()
    assert same(kerchunk_parquet.load(tmp_path / "real/x.parq")) == same(versions[1])


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("midway")], ids=repr)
def test_old_references_stay_where_writing_fails(
    error: Exception,
    exchanges: bool,
    versions: tuple[Hierarchy, Hierarchy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(*_: Any) -> Iterator[bytes]:
        yield b"half"
        raise error

    write(versions[0], tmp_path / "x.parq")
    monkeypatch.setattr(kerchunk_parquet, "encode", encode)
    if not exchanges:
        monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    expected = OutputError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=r"No space|midway"):
        write(versions[1], tmp_path / "x.parq")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parq"]
    assert same(kerchunk_parquet.load(tmp_path / "x.parq")) == same(versions[0])


def test_file_systems_that_cannot_exchange_folders(
    versions: tuple[Hierarchy, Hierarchy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_exchange", lambda one, other: False)
    for hierarchy in versions * 2:
        write(hierarchy, tmp_path / "x.parq")
        assert same(kerchunk_parquet.load(tmp_path / "x.parq")) == same(hierarchy)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parq"]


def test_many_files_are_synchronised_at_once(
    versions: tuple[Hierarchy, Hierarchy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_MOST_SYNCHRONISED", 2)
    write(versions[0], tmp_path / "x.parq", record_size=1)
    assert same(kerchunk_parquet.load(tmp_path / "x.parq")) == same(versions[0])


def make_file(path: Path) -> None:
    path.write_text("something")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("something")


def make_store(path: Path) -> None:
    zarr.create_group(path, zarr_format=2)
    (path / ".zmetadata").write_text('{"zarr_consolidated_format": 1, "metadata": {}}')


@pytest.mark.parametrize("make", [make_file, make_folder, make_store])
def test_something_else_is_not_overwritten(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x.parq")
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=r"is something else|is a Zarr store"):
        write(hierarchy_of(), tmp_path / "x.parq")
    assert files_of(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x.parq").mkdir()
    write(hierarchy_of(), tmp_path / "x.parq")
    assert list(kerchunk_parquet.load(tmp_path / "x.parq").nodes) == ["/"]


@pytest.mark.parametrize("name", ["no/x.parq", "x.json.parq", "{x}.parq", "x.parq}"])
def test_places_that_fsspec_could_not_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no such folder|reads no Parquet references"):
        write(hierarchy_of(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


KILLED = f"""if True:
    import os, pathlib, random, signal, sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from test_parquet import KILLED_WRITERS, digest, hierarchy_of, bytes_array
    writer, out, marks = KILLED_WRITERS[sys.argv[1]], pathlib.Path(sys.argv[2]), set()
    versions = [
        hierarchy_of(bytes_array("/a", (400,), dict.fromkeys(range(0, 400, step), b"x" * 1000)))
        for step in (2, 3)
    ]
    for version in versions:
        writer(version, out)
        marks.add(digest(out))
    assert len(marks) == 2
    random.seed(int(sys.argv[3]))
    for _ in range(15):
        child = os.fork()
        if child == 0:
            while True:
                for version in versions:
                    writer(version, out)
        time.sleep(random.uniform(0.002, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert digest(out) in marks, "a mixture"
"""


def write_json(hierarchy: Hierarchy, out: Path) -> None:
    output.write_whole(out, kerchunk_json.render(hierarchy, version=VERSION), kind="JSON")


KILLED_WRITERS: dict[str, Callable[[Hierarchy, Path], None]] = {
    "Parquet": lambda hierarchy, out: write(hierarchy, out, record_size=50),
    "JSON": write_json,
}


def digest(path: Path) -> str:
    """Return what tells one version of a file or folder from another."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    content = b"".join(file.relative_to(path).as_posix().encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("writer", KILLED_WRITERS)
def test_a_killed_writer_leaves_the_old_or_the_new(writer: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, writer, str(tmp_path / "x.parq"), "0"]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


# Remote ----------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/", recursive=True)


def test_remote_references_are_replaced(versions: tuple[Hierarchy, Hierarchy], memory: Any) -> None:
    for hierarchy in versions * 2:
        write(hierarchy, "memory://b/x.parq", record_size=3)
        assert same(kerchunk_parquet.load("memory://b/x.parq")) == same(hierarchy)
    assert memory.find("/b") == ["/b/x.parq/.zmetadata", "/b/x.parq/g/x/refs.0.parq"]


def test_remote_references_open_whole_or_not_at_all(
    versions: tuple[Hierarchy, Hierarchy], memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the upload ends, there are the old ones, the new ones, or none that open."""
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        method = getattr(type(memory), name)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == last:
                raise OSError(5, "killed")
            return method(self, *arguments, **options)

        return call

    write(versions[0], "memory://b/x.parq", record_size=3)
    for name in ("_rm", "put_file"):
        monkeypatch.setattr(type(memory), name, noted(name))
    states = set()
    for last in range(1, 50):
        calls.clear()
        with contextlib.suppress(OutputError):
            write(versions[1], "memory://b/x.parq", record_size=3)
        try:
            state = same(kerchunk_parquet.load("memory://b/x.parq"))
        except ReferencesError:
            states.add("none")
            continue
        states.add("new" if state == same(versions[1]) else "old")
        assert state in (same(versions[0]), same(versions[1]))
        if len(calls) < last:
            break
    assert states == {"old", "none", "new"}


@pytest.fixture
def s3_options() -> Iterator[dict[str, Any]]:
    """Options of an S3 filesystem that a server on this machine plays."""
    with serve_s3("bucket") as options:
        yield options


def test_s3(s3_options: dict[str, Any], versions: tuple[Hierarchy, Hierarchy], tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **s3_options)
    for hierarchy in versions * 2:
        write(hierarchy, "s3://bucket/c/x.parq", record_size=3, storage_options=s3_options)
        loaded = kerchunk_parquet.load("s3://bucket/c/x.parq", storage_options=s3_options)
        assert same(loaded) == same(hierarchy)
    filesystem.invalidate_cache()
    assert filesystem.find("bucket/c/x.parq") == [
        "bucket/c/x.parq/.zmetadata",
        "bucket/c/x.parq/g/x/refs.0.parq",
    ]
    filesystem.put_file(str(FIXTURES / "climate.nc"), "bucket/climate.nc")
    conversion = convert("s3://bucket/climate.nc", storage_options=s3_options)
    write(conversion.hierarchy, "s3://bucket/y.parq", storage_options=s3_options)
    options = storage_options("s3://bucket/y.parq", "s3", **s3_options)
    found = xr.open_dataset(
        "reference://",
        engine="zarr",
        backend_kwargs={"storage_options": {**options, "target_options": s3_options}},
    )
    with through_h5netcdf(FIXTURES / "climate.nc", "/") as expected:
        xr.testing.assert_identical(found, expected)


def test_remote_folders_of_others_stay(memory: Any) -> None:
    memory.pipe_file("/b/x.parq/thesis.tex", b"something")
    with pytest.raises(OutputError, match="is something else"):
        write(hierarchy_of(), "memory://b/x.parq")
    assert memory.find("/b") == ["/b/x.parq/thesis.tex"]
