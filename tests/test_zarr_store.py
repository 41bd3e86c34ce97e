"""Real Zarr stores with copies of stored chunks, read by zarr-python, tensorstore and zarrs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import google_crc32c
import h5py
import hdf5plugin
import http_server
import numpy as np
import pytest
import tensorstore
import test_xarray
import xarray as xr
import zarr
import zarrs
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr
from s3_server import serve_s3
from test_roundtrip import difference, expected_arrays, left_out

from h5zarr.converter import convert
from h5zarr.errors import OutputError, ReferencesError, SourceChangedError, SourceError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy, Manifest, Selection
from h5zarr.references import chunk_copy, zarr_store
from h5zarr.references.portable import PORTABLE_CODECS
from h5zarr.references.provenance import NOTHING_KNOWN
from h5zarr.references.shards import Sharding, choose_sharding
from h5zarr.references.stored_bytes import StoredBytes

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

VERSION = "1.2.3"
VALUES = np.arange(60, dtype="<i4").reshape(6, 10)
BUCKET = "h5zarr-stores"
MISSING = 2**64 - 1


def write_file(path: Path, values: Any = VALUES) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=values, chunks=(4, 4), **hdf5plugin.Zstd())
        file["contiguous"] = values
        file.attrs["title"] = "something"
    return path


@pytest.fixture
def file_path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "source.h5")


def hierarchy_of(source: Any, **options: Any) -> Hierarchy:
    return convert(source, inline_threshold=0, **options).hierarchy


def copy(hierarchy: Hierarchy, out: Any, **options: Any) -> None:
    zarr_store.write(hierarchy, out, version=VERSION, **options)


def assert_reads_back(out: Any, values: Any = VALUES) -> None:
    root = zarr.open_group(out, mode="r")
    np.testing.assert_array_equal(root["group/x"][...], values)
    np.testing.assert_array_equal(root["contiguous"][...], values)
    assert dict(root.attrs) == {"title": "something"}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Every fixture ---------------------------------------------------------------------------

Refused = set[tuple[str, str | None]]
"""Path and attribute."""

REFUSED: dict[str, Refused] = {"names_reserved.h5": {("/zarr.json", None)}}
NOT_PORTABLE: dict[str, Refused] = {
    **REFUSED,
    "attributes.h5": {("/x", "infinities"), ("/x", "nan")},
    "datatype_compound_nested.h5": {("/x", None), ("/x_chunked", None)},
    "datatype_floats_odd.h5": {("/long_double", None)},
    "datatype_variable_length_sequences.h5": {("/x", None)},
    "netcdf_user_types.nc": {("/ragged", None)},
}
"""What a Zarr store, or other readers than zarr-python with h5zarr, cannot hold, by fixture."""


def test_what_is_refused_is_a_problem() -> None:
    for name in FIXTURE_NAMES:
        hierarchy = convert(FIXTURES / name).hierarchy
        for portable, refused in ((False, REFUSED), (True, NOT_PORTABLE)):
            kept = zarr_store.expressible(hierarchy, portable=portable)
            new = kept.problems[len(hierarchy.problems) :]
            assert {(problem.path, problem.attribute) for problem in new} == refused.get(name, set())
            assert zarr_store.expressible(kept, portable=portable).problems == kept.problems


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_fixture(name: str, tmp_path: Path) -> None:
    conversion = convert(FIXTURES / name, inline_threshold=100)
    copy(conversion.hierarchy, tmp_path / "store", shard_bytes=300)
    root = zarr.open_group(tmp_path / "store", mode="r")
    assert_equal_to_h5py(name, root, left_out(conversion), REFUSED)
    same = open_zarr(conversion.references())
    assert attributes(root, REFUSED.get(name, set())) == attributes(same, REFUSED.get(name, set()))


def assert_equal_to_h5py(
    name: str, root: zarr.Group, reported: set[str], refused: Mapping[str, Refused]
) -> None:
    members = root.members(max_depth=None)
    arrays = {f"/{path}": node for path, node in members if isinstance(node, zarr.Array)}
    absent = {path for path, attribute in refused.get(name, ()) if attribute is None}
    with contextlib.chdir(FIXTURES), h5py.File(name) as file:
        expected = expected_arrays(file, reported | absent)
        assert arrays.keys() == expected.keys()
        for path, dataset in expected.items():
            assert difference(dataset, arrays[path]) == "", path


def attributes(root: zarr.Group, refused: Refused) -> dict[tuple[str, str], str]:
    """Return all attributes but those that are refused, as JSON."""
    nodes = {"/": root, **{f"/{path}": node for path, node in root.members(max_depth=None)}}
    return {
        (path, name): json.dumps(value)
        for path, node in nodes.items()
        for name, value in node.attrs.items()
        if (path, name) not in refused and (path, None) not in refused
    }


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_portable_fixture(name: str, tmp_path: Path) -> None:
    conversion = convert(FIXTURES / name, inline_threshold=0)
    copy(conversion.hierarchy, tmp_path / "store", shard_bytes=300, portable=True)
    root = zarr.open_group(tmp_path / "store", mode="r")
    assert_equal_to_h5py(name, root, left_out(conversion), NOT_PORTABLE)
    refused = NOT_PORTABLE.get(name, set())
    same = open_zarr(conversion.references())
    assert attributes(root, refused) == attributes(same, refused)
    for path, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array):
            assert codec_names(tmp_path / "store" / path) <= PORTABLE_CODECS
            if array.dtype.kind in "biufc":
                assert_other_readers_agree(tmp_path / "store" / path, array[...])


def codec_names(folder: Path) -> set[str]:
    """Return the names of all codecs of an array, those within shards too."""
    codecs = json.loads((folder / "zarr.json").read_text())["codecs"]
    inner = [codec["configuration"]["codecs"] for codec in codecs if codec["name"] == "sharding_indexed"]
    return {codec["name"] for codec in itertools.chain(codecs, *inner)}


def assert_other_readers_agree(folder: Path, values: Any) -> None:
    assert read_by_tensorstore(folder).tobytes() == np.asarray(values).tobytes()
    # zarrs finds no file with these in its name, and knows one NaN only as a fill value.
    if not {"?", "\n"} & set(str(folder)):
        np.testing.assert_array_equal(read_by_zarrs(folder), values)


def read_by_tensorstore(folder: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return tensorstore.open(spec, read=True).result().read().result()


def read_by_zarrs(folder: Path) -> Any:
    pipeline = f"{zarrs.__name__}.{zarrs.ZarrsCodecPipeline.__name__}"
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": True}):
        return zarr.open_array(folder, mode="r")[...]


STANDARD = ["chunk_index_btree_v1.h5", "filter_zstd.h5", "filter_blosc.h5", "chunks_larger_than_array.h5"]


@pytest.mark.parametrize("shard_bytes", [None, 300])
@pytest.mark.parametrize("name", STANDARD)
def test_standard_codecs_stay_for_other_readers(name: str, shard_bytes: int | None, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(FIXTURES / name)
    copy(hierarchy, tmp_path / "store", shard_bytes=shard_bytes)
    for array in hierarchy.arrays():
        folder = tmp_path / "store" / array.path.strip("/")
        if codec_names(folder) <= PORTABLE_CODECS:
            assert_other_readers_agree(folder, zarr.open_array(folder, mode="r")[...])


@pytest.mark.parametrize("name", test_xarray.NAMES)
def test_xarray_identical_to_h5netcdf(name: str, tmp_path: Path) -> None:
    copy(hierarchy_of(FIXTURES / name), tmp_path / "store.zarr")
    for group in test_xarray.groups_of(FIXTURES / name):
        with (
            xr.open_zarr(tmp_path / "store.zarr", group=group, chunks=None) as found,
            test_xarray.through_h5netcdf(FIXTURES / name, group) as expected,
        ):
            xr.testing.assert_identical(found.load(), expected.load())


# What is in the store --------------------------------------------------------------------


def stored_chunks(array: ArrayNode, content: bytes) -> dict[int, bytes]:
    """Return the stored bytes of an array's chunks, by grid position."""
    manifest = array.manifest
    columns = (manifest.grid_position, manifest.byte_offset, manifest.byte_length)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {position: content[first : first + length] for position, first, length in rows}


def test_chunks_are_copied_byte_for_byte(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path)
    copy(hierarchy, tmp_path / "store")
    found = files(tmp_path / "store")
    array = hierarchy.nodes["/group/x"]
    assert isinstance(array, ArrayNode)
    chunks = stored_chunks(array, file_path.read_bytes())
    assert [found[f"group/x/c/{cell // 3}/{cell % 3}"] for cell in range(6)] == list(chunks.values())
    assert json.loads(found["group/x/zarr.json"]) == array.metadata
    assert sorted(key for key in found if "/c/" not in key) == [
        "contiguous/zarr.json",
        "group/x/zarr.json",
        "group/zarr.json",
        "zarr.json",
    ]


def test_consolidated_metadata(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path)
    copy(hierarchy, tmp_path / "store", shard_bytes=100)
    found = files(tmp_path / "store")
    together = json.loads(found["zarr.json"])["consolidated_metadata"]["metadata"]
    assert together.keys() == {"group", "group/x", "contiguous"}
    for path, document in together.items():
        assert document == json.loads(found[f"{path}/zarr.json"])
    for use_consolidated in (True, False):
        root = zarr.open_group(tmp_path / "store", mode="r", use_consolidated=use_consolidated)
        assert {path for path, _ in root.members(max_depth=None)} == together.keys()


def parse_shard(shard: bytes, count: int) -> list[bytes | None]:
    """Return the chunks of a shard (Zarr v3 core, "Sharding codec")."""
    index = shard[-16 * count - 4 :]
    assert google_crc32c.value(index[:-4]).to_bytes(4, "little") == index[-4:]
    table = np.frombuffer(index[:-4], "<u8").reshape(count, 2).tolist()
    return [None if first == MISSING else shard[first : first + length] for first, length in table]


def array_node(url: str, shape: list[int], chunk_shape: list[int], **fields: Any) -> ArrayNode:
    """Return ``/x``: bytes whose references are given."""
    given = {name: np.asarray(fields.pop(name), np.uint64) for name in COLUMNS if name in fields}
    empty = dict.fromkeys(COLUMNS, np.zeros(0, np.uint64))
    grid = tuple(-(-extent // length) for extent, length in zip(shape, chunk_shape, strict=True))
    manifest = Manifest(grid_shape=grid, locations=(url,), **{**empty, **given}, **fields)
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 255,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    return ArrayNode(path="/x", metadata=metadata, manifest=manifest)


COLUMNS = ("grid_position", "byte_offset", "byte_length")


def hierarchy_with(array: ArrayNode, **options: Any) -> Hierarchy:
    group = GroupNode(path="/", metadata={"zarr_format": 3, "node_type": "group", "attributes": {}})
    fields = {"source": None, "selection": Selection(), "problems": (), **options}
    return Hierarchy(nodes={"/": group, array.path: array}, **fields)


def test_shards(tmp_path: Path) -> None:
    """Chunks that are absent, inline, in any order in the file, with holes between, at the edge."""
    (tmp_path / "bytes").write_bytes(bytes(range(100)))
    positions = [0, 1, 2, 4, 5, 9, 11, 13]
    offsets = [40, 42, 10, 0, 99 - 4, 20, 12, 44]
    array = array_node(
        *(str(tmp_path / "bytes"), [5, 5], [1, 2]),
        grid_position=positions,
        byte_offset=offsets,
        byte_length=[2] * 8,
        inline={7: b"\xc8\xc9", 14: b"\xca\xcb"},
    )
    copy(hierarchy_with(array), tmp_path / "store", shard_bytes=8)
    metadata = json.loads((tmp_path / "store/x/zarr.json").read_text())
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [1, 6]
    chunks = {
        position: bytes(range(first, first + 2)) for position, first in zip(positions, offsets, strict=True)
    }
    chunks |= array.manifest.inline
    for row in range(5):
        shard = (tmp_path / f"store/x/c/{row}/0").read_bytes()
        assert parse_shard(shard, 3) == [chunks.get(3 * row + column) for column in range(3)]
    expected = np.full((5, 6), 255, np.uint8)
    for position, chunk in chunks.items():
        expected[position // 3, position % 3 * 2 :][:2] = list(chunk)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "store/x", mode="r")[...], expected[:, :5])
    assert_other_readers_agree(tmp_path / "store/x", expected[:, :5])


def test_shard_without_chunks_is_absent(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"abcd")
    array = array_node(
        *(str(tmp_path / "bytes"), [8], [1]), grid_position=[4, 5], byte_offset=[2, 0], byte_length=[1, 1]
    )
    copy(hierarchy_with(array), tmp_path / "store", shard_bytes=2)
    assert sorted(path.name for path in (tmp_path / "store/x/c").iterdir()) == ["2"]
    found = zarr.open_array(tmp_path / "store/x", mode="r")[...]
    assert bytes(found) == b"\xff\xff\xff\xffca\xff\xff"


SHARDINGS: dict[str, tuple[list[int], int, int, tuple[int, ...] | None]] = {
    "rows": ([10, 10, 10], 1000, 50, (1, 5, 10)),
    "part of a row": ([10, 10], 100, 7, (1, 7)),
    "several rows": ([10, 10], 100, 35, (3, 10)),
    "everything": ([4, 4], 16, 10**9, (4, 4)),
    "a chunk each": ([4, 4], 16, 1, None),
    "one chunk": ([1, 1], 1, 10**9, None),
    "half absent": ([10, 10], 50, 20, (2, 10)),
    "most that a shard may have": ([300_000], 300_000, 10**9, (16384,)),
    "no dimensions": ([], 1, 100, None),
    "no chunks": ([4, 4], 0, 100, None),
}


@pytest.mark.parametrize(("grid", "count", "shard_bytes", "counts"), SHARDINGS.values(), ids=SHARDINGS)
def test_choice_of_shards(
    grid: list[int], count: int, shard_bytes: int, counts: tuple[int, ...] | None
) -> None:
    array = array_node(
        *("x", grid, [1] * len(grid)),
        grid_position=np.arange(count),
        byte_offset=np.arange(count),
        byte_length=np.ones(count),
    )
    expected = None if counts is None else Sharding(grid_shape=tuple(grid), counts=counts)
    assert choose_sharding(array.metadata, array.manifest, shard_bytes) == expected


def test_rectilinear_chunks_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"abcdefgh")
    array = array_node(
        *(str(tmp_path / "bytes"), [6], [1]),
        grid_position=[0, 1, 2],
        byte_offset=[5, 0, 2],
        byte_length=[1, 2, 3],
    )
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 2, 3]]}}
    array = replace(
        array,
        metadata={**array.metadata, "chunk_grid": grid},
        manifest=replace(array.manifest, grid_shape=(3,)),
    )
    copy(hierarchy_with(array), tmp_path / "store", shard_bytes=100)
    found = files(tmp_path / "store/x")
    assert {key: found[key] for key in found if "c/" in key} == {"c/0": b"f", "c/1": b"ab", "c/2": b"cde"}
    assert json.loads(found["zarr.json"])["chunk_grid"] == grid


# Portable --------------------------------------------------------------------------------


def portable_array(tmp_path: Path, values: Any, **options: Any) -> tuple[Any, dict[str, bytes]]:
    """Return what comes of a dataset that is compressed with lzf, which only h5zarr decodes."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset(
            "x", shape=values.shape, dtype=values.dtype, compression="lzf", **options
        )
        dataset[: len(values) // 2] = values[: len(values) // 2]
    copy(hierarchy_of(tmp_path / "x.h5"), tmp_path / "store", portable=True)
    return zarr.open_array(tmp_path / "store/x", mode="r"), files(tmp_path / "store/x")


def test_portable_edges_and_absent_chunks(tmp_path: Path) -> None:
    values = np.arange(7 * 5, dtype="i2").reshape(7, 5)
    found, stored = portable_array(tmp_path, values, chunks=(2, 3), fillvalue=-1)
    values[3:] = -1
    np.testing.assert_array_equal(found[...], values)
    assert_other_readers_agree(tmp_path / "store/x", values)
    assert sorted(stored) == ["c/0/0", "c/0/1", "c/1/0", "c/1/1", "zarr.json"]


def test_portable_chunk_of_other_zeros_and_nans_than_the_fill_value(tmp_path: Path) -> None:
    values = np.zeros(12, "f4")
    values.view("u4")[:6] = [0x80000000] * 2 + [0] * 2 + [0x7FC00001] * 2
    found, stored = portable_array(tmp_path, values, chunks=(2,))
    assert found[...].tobytes() == values.tobytes()
    assert sorted(stored) == ["c/0", "c/1", "c/2", "zarr.json"]


def test_portable_array_of_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from h5zarr.references import transcode

    monkeypatch.setattr(transcode, "_ELEMENTS_AT_ONCE", 100)
    monkeypatch.setattr(chunk_copy, "_BATCH_CHUNKS", 7)
    values = np.random.default_rng(0).integers(0, 9, (60, 6)).astype(">u2")
    found, _ = portable_array(tmp_path, values, chunks=(2, 4))
    values[30:] = 0
    np.testing.assert_array_equal(found[...], values)
    assert_other_readers_agree(tmp_path / "store/x", found[...])


def test_portable_chunk_that_cannot_be_decoded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(1000), compression="lzf", chunks=(1000,))
    hierarchy = hierarchy_of(tmp_path / "x.h5")
    (array,) = hierarchy.arrays()
    manifest = replace(array.manifest, byte_length=array.manifest.byte_length - np.uint64(2))
    broken = {**hierarchy.nodes, "/x": replace(array, manifest=manifest)}
    with pytest.raises(SourceError, match="/x: its chunks cannot be decoded"):
        copy(replace(hierarchy, nodes=broken), tmp_path / "store", portable=True)
    assert not (tmp_path / "store").exists()


# Reading stored bytes --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_ranges_with_holes_and_overlaps(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    content = rng.bytes(3 * 2**20)
    (tmp_path / "bytes").write_bytes(content)
    largest = int(rng.choice([100, 5000, 200_000]))
    lengths = rng.integers(0, largest, 200).astype(np.uint64)
    offsets = np.sort(rng.integers(0, len(content) - largest, 200)).astype(np.uint64)
    found = StoredBytes({}).read(str(tmp_path / "bytes"), offsets, lengths)
    for piece, first, length in zip(found, offsets.tolist(), lengths.tolist(), strict=True):
        assert bytes(piece) == content[first : first + length]


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_copy, "_BATCH_BYTES", 1000)
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    array = array_node(
        *("x", [50, 10], [1, 1]),
        grid_position=np.arange(500),
        byte_offset=np.cumsum(lengths)[::-1],
        byte_length=lengths,
    )
    for sharding in (None, Sharding(grid_shape=(50, 10), counts=(1, 5))):
        whole = chunk_copy.ArrayCopy(array=array, sharding=sharding, transcoder=None)
        batches = list(whole.batches())
        assert sorted(np.concatenate([batch.position for batch in batches])) == list(range(500))
        objects = [set(batch.number.tolist()) for batch in batches]
        assert len(set().union(*objects)) == sum(map(len, objects))
        assert max(int(batch.byte_length.sum()) for batch in batches) <= 1000 + 300 * 5


# Sources ---------------------------------------------------------------------------------


def test_changed_source(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path)
    copy(hierarchy, tmp_path / "store")
    before = files(tmp_path / "store")
    write_file(file_path, VALUES + 1)
    with pytest.raises(SourceChangedError, match=r"source\.h5: is not the file that was scanned: its time"):
        copy(hierarchy, tmp_path / "store")
    assert files(tmp_path / "store") == before


def test_source_that_changes_meanwhile(
    file_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hierarchy = hierarchy_of(file_path)

    def change(done: int, total: int) -> None:
        os.utime(file_path, (1, 1))

    with pytest.raises(SourceChangedError, match=r"source\.h5: changed while it was read"):
        copy(hierarchy, tmp_path / "store", progress=change)
    assert not (tmp_path / "store").exists()


def test_source_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"0123456789")
    array = array_node(
        *(f"file://{tmp_path}/bytes", [4], [1]), grid_position=[2], byte_offset=[8], byte_length=[4]
    )
    with pytest.raises(SourceError, match="bytes: ends at byte 10, where references reach to byte 12"):
        copy(hierarchy_with(array), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_short_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"0123456789")
    with pytest.raises(SourceError, match="bytes: ends at byte 10, where references reach to byte 12"):
        StoredBytes({}).read(str(tmp_path / "bytes"), np.array([8], np.uint64), np.array([4], np.uint64))


def test_missing_source(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path)
    file_path.unlink()
    with pytest.raises(SourceError, match=r"source\.h5: no such file"):
        copy(hierarchy, tmp_path / "store")


def test_references_without_a_source(file_path: Path, tmp_path: Path) -> None:
    copy(replace(hierarchy_of(file_path), source=None), tmp_path / "store")
    assert_reads_back(tmp_path / "store")


@pytest.mark.parametrize("shard_bytes", [None, 100])
def test_http_source(shard_bytes: int | None, file_path: Path, tmp_path: Path) -> None:
    with http_server.serve(tmp_path) as web:
        hierarchy = hierarchy_of(f"{web.url}/source.h5")
        copy(hierarchy, tmp_path / "store", shard_bytes=shard_bytes)
        assert_reads_back(tmp_path / "store")
        write_file(file_path, VALUES + 1)
        with pytest.raises(SourceChangedError, match="is not the file that was scanned"):
            copy(hierarchy, tmp_path / "store")


def test_file_that_is_public_elsewhere(file_path: Path, tmp_path: Path) -> None:
    """The time of the copy there is its own."""
    with http_server.serve(tmp_path) as web:
        hierarchy = hierarchy_of(file_path, public_url=f"{web.url}/source.h5")
        os.utime(file_path, (1, 1))
        copy(hierarchy, tmp_path / "store")
    assert_reads_back(tmp_path / "store")


# S3 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    with serve_s3(BUCKET) as options:
        yield options


def test_from_s3_to_s3(s3_options: dict[str, Any], file_path: Path) -> None:
    bucket = fsspec.filesystem("s3", **s3_options)
    bucket.put_file(str(file_path), f"{BUCKET}/source.h5")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/source.h5", storage_options=s3_options)
    out = f"s3://{BUCKET}/some/store.zarr"
    for shard_bytes in (None, 10**6):
        options = {"source_options": s3_options, "storage_options": s3_options}
        copy(hierarchy, out, shard_bytes=shard_bytes, **options)
        store = zarr.storage.FsspecStore.from_url(out, storage_options=s3_options, read_only=True)
        assert_reads_back(store)
        told = zarr_store.read_provenance(out, storage_options=s3_options)
        assert told.source == hierarchy.source
    bucket.invalidate_cache()
    assert not any("group/x/c/0/1" in name for name in bucket.find(f"{BUCKET}/some"))


# The store as a whole --------------------------------------------------------------------


def test_old_store_is_replaced(file_path: Path, tmp_path: Path) -> None:
    copy(hierarchy_of(file_path), tmp_path / "store")
    other = write_file(tmp_path / "other.h5", VALUES + 1)
    with h5py.File(other, "a") as file:
        del file["group"]
    copy(hierarchy_of(other), tmp_path / "store")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["contiguous", "zarr.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.h5", "source.h5", "store"]


def test_folder_of_something_else(file_path: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("content")
    with pytest.raises(OutputError, match="folder"):
        copy(hierarchy_of(file_path), tmp_path / "folder")
    assert files(tmp_path / "folder") == {"precious": b"content"}


def test_no_folder_to_put_it_in(file_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no such folder"):
        copy(hierarchy_of(file_path), tmp_path / "nowhere" / "store")


def test_name_that_is_too_long(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["n" * 300] = VALUES
    with pytest.raises(OutputError, match=r"store: nnn.* cannot be written: File name too long"):
        copy(hierarchy_of(tmp_path / "x.h5"), tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("path", ["/../x", "/a/../../x", "/./x", "/a//x", "/x\0", "/caf\udce9"])
def test_name_that_leads_out_of_the_store(path: str, tmp_path: Path) -> None:
    """h5zarr makes none, but references may come from anybody."""
    (tmp_path / "bytes").write_bytes(b"0123")
    array = array_node(f"{tmp_path}/bytes", [4], [4], grid_position=[0], byte_offset=[0], byte_length=[4])
    with pytest.raises(OutputError, match="is no name of a node"):
        copy(hierarchy_with(replace(array, path=path)), tmp_path / "folder" / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes"]


def test_progress(file_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_copy, "_BATCH_CHUNKS", 2)
    hierarchy = hierarchy_of(file_path)
    seen: list[tuple[int, int]] = []
    copy(hierarchy, tmp_path / "store", progress=lambda done, total: seen.append((done, total)))
    total = sum(int(array.manifest.byte_length.sum()) for array in hierarchy.arrays())
    assert len(seen) == 4
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {known for _, known in seen} == {total}
    assert seen[-1] == (total, total)


# Provenance ------------------------------------------------------------------------------


def test_provenance(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path, group="/group")
    copy(hierarchy, tmp_path / "store", portable=True)
    told = zarr_store.read_provenance(tmp_path / "store")
    assert (told.version, told.source, told.selection) == (VERSION, hierarchy.source, hierarchy.selection)


def test_provenance_of_a_store_that_was_edited(file_path: Path, tmp_path: Path) -> None:
    copy(hierarchy_of(file_path), tmp_path / "store")
    zarr.open_group(tmp_path / "store", mode="r+").attrs["edited"] = True
    assert zarr_store.read_provenance(tmp_path / "store") == NOTHING_KNOWN


def test_provenance_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ReferencesError, match=r"has no zarr\.json"):
        zarr_store.read_provenance(tmp_path)
    (tmp_path / "zarr.json").write_text("nonsense")
    with pytest.raises(ReferencesError, match="cannot be read: JSONDecodeError"):
        zarr_store.read_provenance(tmp_path)


# Killed on the way -----------------------------------------------------------------------

FORKS = """
import json, os, signal, sys
import h5zarr.output
from h5zarr.converter import convert
from h5zarr.references import chunk_copy, zarr_store

source, folder = sys.argv[1:3]
hierarchy = convert(source, inline_threshold=0).hierarchy

def deadly(function, left, when):
    def call(*arguments, **options):
        nonlocal left
        left -= 1
        if not left and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for owner, name, count, when, out in json.loads(sys.argv[3]):
    child = os.fork()
    if not child:
        owner = eval(owner)
        setattr(owner, name, deadly(getattr(owner, name), count, when))
        zarr_store.write(hierarchy, f"{folder}/{out}", version="1.2.3", shard_bytes=100)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Writes in children of its own, each killed at another moment; imports take longer than all of them."""

MOMENTS: dict[str, tuple[str, str, int, str]] = {
    "begun": ("zarr_store", "_copy_all", 1, "before"),
    "some chunks": ("zarr_store._Writer", "put", 2, "after"),
    "some metadata": ("zarr_store._Writer", "put", 6, "after"),
    "before the folder is in place": ("h5zarr.output", "_put_in_place", 1, "before"),
    "after the folder is in place": ("h5zarr.output", "_put_in_place", 1, "after"),
}


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "replaced"])
def test_killed_while_a_store_is_written(is_new: bool, file_path: Path, tmp_path: Path) -> None:
    other = write_file(tmp_path / "other.h5", VALUES + 1)
    copy(hierarchy_of(file_path), tmp_path / "old")
    if not is_new:
        for name in MOMENTS:
            shutil.copytree(tmp_path / "old", tmp_path / name)
    tasks = json.dumps([(*moment, name) for name, moment in MOMENTS.items()])
    command = [sys.executable, "-W", "ignore", "-c", FORKS, other, tmp_path, tasks]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert list(map(int, run.stdout.split())) == [-signal.SIGKILL] * len(MOMENTS), run.stderr
    for name in MOMENTS:
        if name.startswith("after"):
            assert_reads_back(tmp_path / name, VALUES + 1)
        elif is_new:
            assert not (tmp_path / name).exists()
        else:
            assert files(tmp_path / name) == files(tmp_path / "old")
        copy(hierarchy_of(other), tmp_path / name)
        assert_reads_back(tmp_path / name, VALUES + 1)


def test_zarr_is_imported_only_where_chunks_are_decoded(file_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from h5zarr.converter import convert; from h5zarr.references import zarr_store;"
        f" zarr_store.write(convert({str(file_path)!r}).hierarchy, {str(tmp_path / 'store')!r}, version='0');"
        " print('zarr' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
