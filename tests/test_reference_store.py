"""The store of references and its way to read chunks give what fsspec and zarr-python give, sooner."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr, storage_options
from slow_server import Fault, Request, SlowServer, slow_server
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from h5zarr.converter import convert
from h5zarr.errors import SourceChangedError, SourceError
from h5zarr.reading import chunk_pipeline
from h5zarr.reading.chunk_pipeline import ReferencePipeline, use_reference_pipeline
from h5zarr.reading.data_files import DataFiles, DataPlaces
from h5zarr.reading.lookup import FsspecLookup
from h5zarr.reading.reference_store import ReferenceStore
from h5zarr.reading.store_opening import StoreOptions, open_store

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

Values = np.ndarray[Any, Any]
PROTOTYPE = default_buffer_prototype()


needs_native = pytest.mark.skipif(chunk_pipeline._native is None, reason="h5zarr._native is not compiled")


def opened(source: Any, **options: Any) -> zarr.Group:
    return zarr.open_group(open_store(source, StoreOptions(**options)).store, mode="r")


def array_of(source: Any, name: str = "x", **options: Any) -> zarr.Array[Any]:
    """Return an array that is read by the pipeline of references."""
    array = opened(source, **options)[name]
    assert isinstance(array, zarr.Array)
    use_reference_pipeline(array)
    assert type(array.async_array.codec_pipeline) is ReferencePipeline
    return array


def assert_same_bits(found: Any, wanted: Any) -> None:
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if found.dtype.kind == "T":
        assert found.tolist() == wanted.tolist()
    elif found.dtype.hasobject:
        for ours, theirs in zip(found.flat, wanted.flat, strict=True):
            assert type(ours) is type(theirs)
            assert np.array_equal(ours, theirs)
    else:
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()


# Everything that references can hold ------------------------------------------------------


def arrays_of(group: zarr.Group, path: str = "") -> Iterator[tuple[str, zarr.Array[Any]]]:
    for name, member in group.members():
        if isinstance(member, zarr.Array):
            yield path + name, member
        else:
            yield from arrays_of(member, f"{path}{name}/")


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_arrays_of_a_fixture(name: str) -> None:
    """With all codecs, data types and fill values there are; what zarr-python 3.1 reads wrongly, too."""
    references = convert(FIXTURES / name, inline_threshold=0).references()
    wanted, found = dict(arrays_of(open_zarr(references))), dict(arrays_of(opened(references)))
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        use_reference_pipeline(array)
        assert_same_bits(array[...], wanted[path][...])


LAYOUTS: dict[str, dict[str, Any]] = {
    "deflate and shuffle": {"chunks": (3, 7, 5), "compression": "gzip", "shuffle": True},
    "shuffle and checksum": {"chunks": (3, 7, 5), "shuffle": True, "fletcher32": True},
    "chunks without filters": {"chunks": (5, 8, 50)},
    "libhdf5's filters": {"chunks": (3, 7, 5), "compression": "lzf", "shuffle": True},
    "contiguous": {},
}
SHAPE = (11, 23, 64)
SELECTIONS: dict[str, Any] = {
    "all": np.s_[...],
    "one element": np.s_[3, 4, 5],
    "one plane": np.s_[-1],
    "one row": np.s_[4, 9],
    "one column": np.s_[4, :, 63],
    "one line": np.s_[:, 5, 7],
    "a box": np.s_[2:9, 5:6, 13:40],
    "every third": np.s_[::3, 1::2, ::5],
    "nothing": np.s_[3:3],
    "a list": np.s_[[0, 3, 10], :, 2:5],
    "a mask": np.s_[:, np.arange(23) % 3 == 0],
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Values]:
    values = np.random.default_rng(0).integers(0, 99, SHAPE).astype("<f4")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=values, **LAYOUTS[request.param])
        file.create_dataset("big", data=values.astype(">i8"), **LAYOUTS[request.param])
    return tmp_path / "x.h5", values


@pytest.mark.parametrize("zarr_format", ["3", "2"])
def test_selections(layout: tuple[Path, Values], zarr_format: Any) -> None:
    path, values = layout
    converted = convert(path, inline_threshold=0).hierarchy
    references = json_references(converted, zarr_format)
    for name in ("x", "big"):
        if name not in opened(references):
            assert zarr_format == "2"  # filters that Zarr v2 has no codec for
            continue
        array = array_of(references, name)
        native = array.dtype.newbyteorder("=")  # Zarr v2 keeps big-endian
        for selection in SELECTIONS.values():
            found = np.asarray(array.oindex[selection]).astype(native)
            assert_same_bits(found, values.astype(native)[selection])
        found = np.asarray(array.vindex[values > 90]).astype(native)
        assert_same_bits(found, values.astype(native)[values > 90])


def json_references(hierarchy: Any, zarr_format: Any) -> dict[str, Any]:
    from h5zarr.references import kerchunk_json

    return kerchunk_json.references(hierarchy, version="1", zarr_format=zarr_format)


def test_absent_chunks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (90, 90), "f8", chunks=(10, 10), fillvalue=-7.5)
        dataset[25:35, 40:60] = 1.5
        wanted = dataset[...]
    array = array_of(tmp_path / "x.h5")
    for selection in (np.s_[...], np.s_[0:5], np.s_[20:40, ::3], np.s_[29, 41]):
        assert_same_bits(array[selection], wanted[selection])


def test_missing_chunks_on_demand(tmp_path: Path) -> None:
    """Of zarr-python 3.4, which can be asked to raise; 3.1 does not know the option."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (90, 90), "f8", chunks=(10, 10))[:, :40] = 1.5
    with zarr.config.set({"array.read_missing_chunks": False}):
        array = array_of(tmp_path / "x.h5")
        if not hasattr(zarr.errors, "ChunkNotFoundError"):
            pytest.skip("of zarr-python 3.4")
        assert (array[:, :40] == 1.5).all()
        with pytest.raises(zarr.errors.ChunkNotFoundError, match="c/0/4"):
            array[0]


def test_shuffle_twice(tmp_path: Path) -> None:
    """Each of them has a buffer of its own."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((40, 25))
    for _ in range(2):
        creation.set_filter(h5py.h5z.FILTER_SHUFFLE, 0, (8,))
    creation.set_deflate(3)
    values = np.arange(10000.0).reshape(200, 50)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        identifier = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, creation)
        h5py.Dataset(identifier)[...] = values
    assert_same_bits(array_of(tmp_path / "x.h5")[...], values)


@needs_native
@pytest.mark.parametrize("length", [0, 1, 8, 24, 100_002, 1_000_000])
@pytest.mark.parametrize("element_size", [1, 2, 3, 4, 8, 12, 16, 99])
def test_unshuffle(element_size: int, length: int) -> None:
    """What is left over at the end of a chunk stays where it is, as libhdf5 does it."""
    elements = np.random.default_rng(0).integers(0, 256, length, np.uint8).tobytes()
    whole = length - length % element_size
    shuffled = bytes(numcodecs.Shuffle(element_size).encode(elements[:whole])) + elements[whole:]
    found = bytearray(length)
    chunk_pipeline._native.unshuffle(shuffled, memoryview(found), element_size)
    assert found == elements


@needs_native
@pytest.mark.parametrize(("length", "element_size"), [(7, 4), (9, 4), (8, 0), (8, -1)])
def test_unshuffle_refuses(length: int, element_size: int) -> None:
    with pytest.raises(ValueError, match="of the same length, and elements have bytes"):
        chunk_pipeline._native.unshuffle(bytes(8), memoryview(bytearray(length)), element_size)


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "not compiled"])
@pytest.mark.parametrize("code", ["u1", "<i2", ">i2", "<f4", ">f8", "S3", "<c16"])
def test_shuffle(code: str, is_compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_compiled:
        monkeypatch.setattr(chunk_pipeline, "_native", None)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = np.random.default_rng(0).integers(0, 99, (90, 70)).astype(code)
        file.create_dataset("x", data=values, chunks=(40, 25), shuffle=True, compression="gzip")
        wanted = file["x"][...]
    native = wanted.astype(wanted.dtype.newbyteorder("="))
    assert_same_bits(array_of(tmp_path / "x.h5")[...], native)


@pytest.mark.parametrize("kept", [0.4, 0.999], ids=["far", "near"])
def test_file_that_ends_too_early(kept: float, tmp_path: Path) -> None:
    """Its time is as it was, so that only the missing bytes tell."""
    values = np.random.default_rng(0).random(100_000)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(1000,))
    array = array_of(tmp_path / "x.h5", check_source=False)
    assert_same_bits(array[...], values)
    os.truncate(tmp_path / "x.h5", int((tmp_path / "x.h5").stat().st_size * kept))
    assert_same_bits(array[:10], values[:10])
    with pytest.raises(SourceChangedError, match=r"where references tell of 8000: it is not the file"):
        array[...]


def test_shapes_of_chunks(tmp_path: Path) -> None:
    """Whatever the numbers of chunks, batches and threads are."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number, count in enumerate([1, 2, 3, 7, 8, 9, 63, 200]):
            values = rng.integers(0, 9, count * 1000)
            file.create_dataset(str(number), data=values, chunks=(1000,), compression="gzip")
    group = opened(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        for threads in (None, 1, 3):
            with zarr.config.set({"threading.max_workers": threads}):
                for name in group:
                    use_reference_pipeline(group[name])
                    assert_same_bits(array_of(tmp_path / "x.h5", name)[...], file[name][...])


# The store -------------------------------------------------------------------------------


@pytest.fixture(params=["climate.nc", "netcdf_groups.nc", "scalar.h5", "groups_nested.h5"])
def stores(request: pytest.FixtureRequest) -> tuple[ReferenceStore, FsspecStore]:
    """The store, and that of fsspec for the same references."""
    references = convert(FIXTURES / request.param, inline_threshold=64).references()
    theirs = FsspecStore.from_url("reference://", storage_options=storage_options(references), read_only=True)
    return open_store(references).store, theirs


def listed(keys: Any) -> list[str]:
    async def gather() -> list[str]:
        return [key async for key in keys]

    return sorted(sync(gather()))


def test_keys_are_those_of_fsspec(stores: tuple[ReferenceStore, FsspecStore]) -> None:
    ours, theirs = stores
    keys = listed(theirs.list_prefix(""))
    assert listed(ours.list()) == keys
    assert len(set(keys)) == len(ours.lookup)
    for key in keys:
        assert sync(ours.exists(key))
    parts = [key.split("/") for key in keys]
    for folder in {"/".join(part[:depth]) for part in parts for depth in range(len(part))}:
        inside = [key for key in keys if key.startswith(f"{folder}/" if folder else "")]
        names = {key.removeprefix(f"{folder}/").partition("/")[0] for key in inside}
        assert listed(ours.list_dir(folder)) == sorted(names)
        assert listed(ours.list_prefix(folder)) == [key for key in keys if key.startswith(folder)]


RANGES = [
    None,
    RangeByteRequest(0, 1),
    RangeByteRequest(3, 9),
    RangeByteRequest(2, 10**9),
    OffsetByteRequest(0),
    OffsetByteRequest(5),
    SuffixByteRequest(1),
    SuffixByteRequest(7),
]


def test_values_are_those_of_fsspec(stores: tuple[ReferenceStore, FsspecStore]) -> None:
    ours, theirs = stores
    for key in [key for key in listed(ours.list()) if not key.endswith("zarr.json")]:
        wanted = [sync(theirs.get(key, PROTOTYPE, part)).to_bytes() for part in RANGES]
        assert [sync(ours.get(key, PROTOTYPE, part)).to_bytes() for part in RANGES] == wanted
        together = sync(ours.get_partial_values(PROTOTYPE, [(key, part) for part in RANGES]))
        assert [value.to_bytes() for value in together] == wanted


def test_no_such_keys(stores: tuple[ReferenceStore, FsspecStore]) -> None:
    ours, _ = stores
    names = {key.partition("/")[0] for key in listed(ours.list())}
    ends = ["", "/c", "/c/", "/c/9999", "/c/0/0/0/0/0", "/c/-1", "/c/0/", "/c/x", "/0", "/c/²"]
    scalars = [name for name in names if isinstance(ours.lookup.get(f"{name}/c"), bytes)]
    for key in ["", "c/0", "none/c/0", *(name + end for name in names for end in ends)]:
        if key == "zarr.json" or key.removesuffix("/c") in scalars:
            continue
        assert sync(ours.get(key, PROTOTYPE)) is None, key
        assert not sync(ours.exists(key))


def test_read_only(stores: tuple[ReferenceStore, FsspecStore]) -> None:
    ours, _ = stores
    assert ours.read_only
    assert ours.with_read_only(True) == ours
    for write in (
        lambda: sync(ours.set("x", PROTOTYPE.buffer.from_bytes(b""))),
        lambda: sync(ours.delete("x")),
        lambda: ours.with_read_only(False),
    ):
        with pytest.raises(ValueError, match="read-only"):
            write()


def test_references_to_whole_files(tmp_path: Path) -> None:
    values = np.arange(1000, dtype="<i4")
    (tmp_path / "a").write_bytes(values.tobytes())
    (tmp_path / "b").write_bytes(values[::-1].tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(2000, "<i4"), chunks=(1000,))
    with slow_server(SlowServer(folder=tmp_path)) as server:
        for folder in (str(tmp_path), server.url):
            refs = json_references(convert(tmp_path / "x.h5", inline_threshold=0).hierarchy, "2")["refs"]
            refs |= {"x/0": [f"{folder}/a"], "x/1": [f"{folder}/b"]}
            assert_same_bits(array_of({"version": 1, "refs": refs})[...], np.append(values, values[::-1]))
            store = open_store({"version": 1, "refs": refs}).store
            got = sync(store.get("x/1", PROTOTYPE, SuffixByteRequest(8)))
            assert got.to_bytes() == values[1::-1].tobytes()


def test_inline_bytes_of_fsspec() -> None:
    """As text, as bytes and as base64."""
    values = {"a": "text", "b": b"bytes", "c": "base64:" + base64.b64encode(b"\xff\x00").decode()}
    store = ReferenceStore(FsspecLookup(values), DataFiles(DataPlaces()))
    assert [sync(store.get(key, PROTOTYPE)).to_bytes() for key in values] == [b"text", b"bytes", b"\xff\x00"]


# Over the network -------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[SlowServer]:
    with slow_server(SlowServer(folder=tmp_path)) as server:
        yield server


def write_remote(server: SlowServer, **options: Any) -> tuple[zarr.Array[Any], Values]:
    """Return the array of a file on the server, of which nothing but metadata was read, and its values."""
    values = np.random.default_rng(0).integers(0, 2**31, (64, 256, 64)).astype("<i4")
    with h5py.File(server.folder / "x.h5", "w") as file:
        file.create_dataset("x", data=values, **options)
    array = array_of(f"{server.url}/x.h5")
    server.requests.clear()
    server.byte_length = server.most_at_a_time = 0
    return array, values


def test_near_chunks_come_in_one_request(remote: SlowServer) -> None:
    array, values = write_remote(remote, chunks=(1, 32, 64))  # 512 chunks of 8 KiB
    assert_same_bits(array[...], values)
    assert len(remote.requests) < 40
    assert remote.byte_length < values.nbytes * 1.1


def test_requests_are_under_way_together(remote: SlowServer) -> None:
    remote.latency = 0.05
    array, values = write_remote(remote, chunks=(1, 256, 64))
    assert_same_bits(array[::8], values[::8])
    assert len(remote.requests) == 8
    assert remote.most_at_a_time > 4


def test_large_chunk_comes_in_pieces(remote: SlowServer) -> None:
    remote.latency = 0.05
    array, values = write_remote(remote, chunks=(64, 256, 64), shuffle=True)
    assert array.nchunks == 1
    assert_same_bits(array[...], values)
    assert len(remote.requests) == -(-array.nbytes // 2**20)
    assert remote.most_at_a_time > 2


@pytest.mark.parametrize("options", [{}, {"chunks": (32, 256, 64)}], ids=["contiguous", "chunked"])
def test_only_wanted_bytes_of_plain_values_come(remote: SlowServer, options: dict[str, Any]) -> None:
    array, values = write_remote(remote, **options)
    for selection in (np.s_[40], np.s_[40, 20:30], np.s_[40:42, 7, 5:9], np.s_[40, 100, 3]):
        remote.byte_length = 0
        assert_same_bits(array[selection], values[selection])
        rows = np.arange(values.size).reshape(values.shape)[selection]
        assert remote.byte_length == (rows.max() - rows.min() + 1) * 4


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.DROP, Fault.SHORT])
def test_failed_requests_are_repeated(fault: Fault, remote: SlowServer) -> None:
    array, values = write_remote(remote, chunks=(1, 256, 64))
    failing: set[int] = set()

    def first_attempt_fails(request: Request) -> Fault | None:
        again = request.byte_offset in failing
        failing.add(request.byte_offset)
        return None if again else fault

    remote.fault = first_attempt_fails
    assert_same_bits(array[:4], values[:4])


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.NO_RANGES, Fault.WRONG_RANGE, Fault.CHANGED])
def test_wrong_answers_are_errors(fault: Fault, remote: SlowServer) -> None:
    array, _ = write_remote(remote, chunks=(1, 256, 64))
    remote.fault = lambda _request: fault
    with pytest.raises(SourceChangedError if fault is Fault.CHANGED else SourceError, match=r"x\.h5"):
        array[...]


def test_two_event_loops_read(remote: SlowServer) -> None:
    """A dataset may be loaded in the user's own event loops."""
    write_remote(remote, chunks=(8, 256, 64))
    with h5py.File(remote.folder / "x.h5") as file:
        total = file["x"][...].sum()
    dataset = xr.open_dataset(f"{remote.url}/x.h5", engine="h5zarr", cache=False)

    async def read() -> int:
        loaded = await dataset.copy().load_async()
        return int(loaded["x"].sum())

    assert [asyncio.run(read()) for _ in range(2)] == [total, total]
    assert int(dataset["x"].sum()) == total


# What it costs ----------------------------------------------------------------------------


def test_codecs_in_threads_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No coroutine for a chunk: what takes an event loop is left to zarr-python's pipeline."""
    values = np.arange(90000.0).reshape(300, 300)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(10, 10), compression="gzip", shuffle=True)
    array = array_of(tmp_path / "x.h5")
    monkeypatch.setattr(ReferencePipeline.__base__, "read", None)
    monkeypatch.setattr(ReferenceStore, "get", None)
    assert_same_bits(array[...], values)


def test_lookup_keeps_no_object_for_a_chunk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (500, 100), "i1", chunks=(1, 1))[...] = 1
    store = open_store(tmp_path / "x.h5").store
    assert len(store.lookup) == 50000 + 2
    assert sync(store.exists("x/c/499/99"))
    sizes = [len(value) for value in vars(store.lookup).values()]
    assert max(sizes) < 10
