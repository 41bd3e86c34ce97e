"""Files that are replaced while they are read: values of two versions never come without an error."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import h5netcdf
import numpy as np
import pytest
import xarray as xr
from conftest import CODEC_WARNING
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from http_server import RangeServer, serve
from s3_server import serve_s3

from h5zarr import source
from h5zarr.converter import convert
from h5zarr.errors import SourceChangedError, SourceError
from h5zarr.prefetch import Fetcher, Span, open_prefetched
from h5zarr.reading.looks import SharedLooks

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

BUCKET = "h5zarr-replaced"
NAME = "file.nc"
ROWS, COLUMNS, CHUNKS = 400, 500, 4
CHANGED = "is not the file that the references were made of|changed while it was read"


# Where files are replaced ----------------------------------------------------------------


@dataclass(kw_only=True)
class Place:
    """Where a file is, and how it is replaced."""

    url: str
    put: Callable[[bytes], None]
    """Puts a file there; the same bytes as the same version."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of its filesystem."""
    asked: list[str] = field(default_factory=list)
    """What was asked of it: the name of each request."""


class Shelf(AsyncFileSystem):  # type: ignore[misc]
    """Files in memory, of which answers tell nothing but their bytes, as those of gcsfs and adlfs."""

    protocol = "shelf"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    before_look: ClassVar[list[Callable[[], None]]] = []
    """What happens before the next looks."""

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_options: Any) -> bytes:
        self.asked.append("read")
        return self._found(path)[start:end]

    async def _info(self, path: str, **_options: Any) -> dict[str, Any]:
        self.asked.append("look")
        if self.before_look:
            self.before_look.pop()()
        content = self._found(path)
        tag = hashlib.sha256(content).hexdigest()
        return {"name": path, "size": len(content), "type": "file", "etag": tag}

    @classmethod
    def _found(cls, path: str) -> bytes:
        try:
            return cls.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None


class ThreadedShelf(AbstractFileSystem):  # type: ignore[misc]
    """The same without an event loop."""

    protocol = "threadedshelf"
    cachable = False

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_options: Any) -> bytes:
        return asyncio.run(Shelf._cat_file(Shelf, path, start, end))

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        return asyncio.run(Shelf._info(Shelf, path))


for _shelf in (Shelf, ThreadedShelf):
    fsspec.register_implementation(_shelf.protocol, _shelf, clobber=True)


def shelf(protocol: str = "shelf") -> Place:
    """Return an empty shelf."""
    Shelf.files.clear()
    Shelf.asked.clear()
    Shelf.before_look.clear()

    def put(content: bytes) -> None:
        Shelf.files[NAME] = content

    return Place(url=f"{protocol}://{NAME}", put=put, asked=Shelf.asked)


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    with serve_s3(BUCKET) as options:
        yield options


@pytest.fixture
def s3(s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Place:
    from s3fs import S3FileSystem

    filesystem = fsspec.filesystem("s3", **s3_options)
    url = f"s3://{BUCKET}/{NAME}"
    place = Place(url=url, put=lambda content: filesystem.pipe_file(url, content), options=s3_options)
    call = S3FileSystem._call_s3

    async def noted(self: Any, method: str, *args: Any, **options: Any) -> Any:
        place.asked.append(method)
        return await call(self, method, *args, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", noted)
    return place


class _Methods(list[Any]):
    """Methods of requests, as they are noted."""

    def append(self, request: Any) -> None:
        super().append(request[0])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        server.requests = _Methods()
        yield server


def served(server: RangeServer, *untold: str) -> Place:
    """Return a file of a server, whose answers are without some headers."""
    path = server.folder / NAME
    server.untold = frozenset(untold)

    def put(content: bytes) -> None:
        before = path.read_bytes() if path.exists() else None
        seconds = path.stat().st_mtime + (before != content) if before is not None else 1e9
        path.write_bytes(content)
        os.utime(path, (seconds, seconds))

    return Place(url=f"{server.url}/{NAME}", put=put, asked=server.requests)


PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "S3": lambda request: request.getfixturevalue("s3"),
    "HTTP, ETag": lambda request: served(request.getfixturevalue("server"), "Last-Modified"),
    "HTTP, time": lambda request: served(request.getfixturevalue("server"), "ETag"),
    "answers without identity": lambda _request: shelf(),
    "without event loop": lambda _request: shelf("threadedshelf"),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request)


# What is read ----------------------------------------------------------------------------


@functools.cache
def content(value: int, rows: int = ROWS) -> bytes:
    """Return a netCDF-4 file with one value everywhere; all of one shape have the same length."""
    made = io.BytesIO()
    with h5netcdf.File(made, "w") as file:
        file.dimensions = {"x": rows, "y": COLUMNS}
        values = np.full((rows, COLUMNS), value, "i4")
        file.create_variable("v", ("x", "y"), "i4", data=values, chunks=(ROWS // CHUNKS, COLUMNS))
    return made.getvalue()


def direct(place: Place, _folder: Path) -> Any:
    return place.url


def as_json(place: Place, folder: Path) -> Any:
    convert(place.url, storage_options=place.options).write(folder / "refs.json")
    return str(folder / "refs.json")


def as_parquet(place: Place, folder: Path) -> Any:
    convert(place.url, storage_options=place.options).write(folder / "refs.parq")
    return str(folder / "refs.parq")


def of_others(place: Place, _folder: Path) -> Any:
    """References that tell nothing of the file but where its chunks are."""
    references = dict(convert(place.url, storage_options=place.options).references())
    del references["h5zarr"]
    return references


def of_a_copy(place: Place, folder: Path) -> Any:
    """References of a file on this machine, which is read elsewhere."""
    filesystem, path = fsspec.url_to_fs(place.url, **place.options)
    (folder / "copy.nc").write_bytes(filesystem.cat_file(path))
    return convert(folder / "copy.nc", public_url=place.url).references()


SOURCES = [direct, as_json, as_parquet, of_others, of_a_copy]


def opened(place: Place, source: Any, **options: Any) -> xr.Dataset:
    storage = {"remote_options": place.options} if source != place.url else {"storage_options": place.options}
    return xr.open_dataset(source, engine="h5zarr", **storage, **options)


def first(dataset: xr.Dataset) -> set[int]:
    return set(np.unique(dataset.v[: ROWS // 2].values).tolist())


def second(dataset: xr.Dataset) -> set[int]:
    return set(np.unique(dataset.v[ROWS // 2 :].values).tolist())


# Tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SOURCES)
def test_replaced_between_reads(make: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path))
    assert first(dataset) == {1}
    place.put(content(2))
    for read in (second, first):
        with pytest.raises(SourceChangedError, match=CHANGED):
            read(dataset)


@pytest.mark.parametrize("make", SOURCES)
def test_put_again(make: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path))
    assert first(dataset) == {1}
    place.put(content(1))
    assert second(dataset) == {1}


@pytest.mark.parametrize("make", [direct, as_json, as_parquet])
def test_replaced_before_the_first_read(make: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path))
    place.put(content(2))
    with pytest.raises(SourceChangedError, match=CHANGED):
        first(dataset)


@pytest.mark.parametrize("make", SOURCES)
def test_length_tells_where_nothing_else_does(
    make: Callable[..., Any], server: RangeServer, tmp_path: Path
) -> None:
    place = served(server, "ETag", "Last-Modified")
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path))
    assert first(dataset) == {1}
    place.put(content(2) + b"longer")
    with pytest.raises(SourceChangedError, match=CHANGED):
        second(dataset)


def test_shorter_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5zarr.prefetch.fetch.time.sleep", lambda _seconds: None)
    place.put(content(1))
    dataset = opened(place, place.url)
    assert first(dataset) == {1}
    place.put(content(2, ROWS // 2))
    with pytest.raises(SourceError):
        second(dataset)


REQUESTS = {
    "S3": ["get_object"],
    "HTTP, ETag": ["GET"],
    "HTTP, time": ["GET"],
    "answers without identity": ["read", "look"],
    "without event loop": ["read", "look"],
}


@pytest.mark.parametrize("make", [direct, as_json])
@pytest.mark.parametrize("name", REQUESTS)
def test_requests_of_a_read(
    name: str, make: Callable[..., Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One for the chunks that are near, and one for a look only where answers tell nothing."""
    place = PLACES[name](request)
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path))
    for number in range(CHUNKS):
        place.asked.clear()
        rows = ROWS // CHUNKS
        assert (dataset.v[number * rows : (number + 1) * rows].values == 1).all()
        assert list(place.asked) == REQUESTS[name]


@pytest.mark.parametrize("make", [direct, as_json, of_others])
def test_no_looks_on_demand(make: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    place.put(content(1))
    dataset = opened(place, make(place, tmp_path), check_source=False)
    place.asked.clear()
    assert first(dataset) == {1}
    assert set(place.asked) <= {"get_object", "GET", "read"}


@pytest.mark.parametrize("cache", ["simplecache", "blockcache", "filecache"])
def test_references_of_others_through_a_cache(cache: str, server: RangeServer, tmp_path: Path) -> None:
    """Several threads see a copy of fsspec's caches while it is written, so that they are left out."""
    place = served(server)
    place.put(content(1))
    references = json.dumps(of_others(place, tmp_path)).replace(place.url, f"{cache}::{place.url}")
    dataset = opened(place, json.loads(references))
    assert first(dataset) == second(dataset) == {1}


def test_replaced_between_bytes_and_look(tmp_path: Path) -> None:
    """Bytes come first, then the file is replaced, then it is looked at."""
    place = shelf()
    place.put(content(1))
    dataset = opened(place, of_others(place, tmp_path))
    Shelf.before_look[:] = [lambda: place.put(content(2)), lambda: None]
    with pytest.raises(SourceChangedError, match=CHANGED):
        first(dataset)


def whole_file(url: str) -> dict[str, Any]:
    """Return references of which one is a whole file."""
    array = {
        "zarr_format": 2,
        "shape": [8],
        "chunks": [4],
        "dtype": "|u1",
        "fill_value": None,
        "order": "C",
        "compressor": None,
        "filters": None,
    }
    refs = {".zgroup": {"zarr_format": 2}, "v/.zarray": array, "v/.zattrs": {"_ARRAY_DIMENSIONS": ["x"]}}
    return {"version": 1, "refs": {**refs, "v/0": [url], "v/1": [url]}}


def test_whole_files(place: Place) -> None:
    place.put(b"\1" * 4)
    dataset = opened(place, whole_file(place.url))
    assert set(dataset.v[:4].values.tolist()) == {1}
    place.put(b"\1" * 4)
    assert set(dataset.v[4:].values.tolist()) == {1}
    place.put(b"\2" * 4)
    with pytest.raises(SourceChangedError, match=CHANGED):
        dataset.v[4:].load()


# S3 --------------------------------------------------------------------------------------


def spans(*offsets: int) -> list[Span]:
    return [Span(byte_offset=offset, byte_length=4) for offset in offsets]


def test_objects_are_told_apart_by_each_answer(s3: Place) -> None:
    fetcher = Fetcher(fsspec.filesystem("s3", **s3.options), s3.url)
    s3.put(b"one." * 8)
    assert fetcher.fetch(spans(0, 8)) == [b"one."] * 2
    s3.put(b"two." * 8)
    with pytest.raises(SourceChangedError, match=CHANGED):
        fetcher.fetch(spans(16))


def test_version_of_an_object(s3: Place, tmp_path: Path) -> None:
    """What a URL names by its version stays, whatever is put over it."""
    filesystem = fsspec.filesystem("s3", version_aware=True, **s3.options)
    filesystem.call_s3("put_bucket_versioning", Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put(content(1))
    version = filesystem.info(s3.url)["VersionId"]
    s3.options = {**s3.options, "version_aware": True}
    s3.url = f"{s3.url}?versionId={version}"
    dataset = opened(s3, s3.url)
    assert first(dataset) == {1}
    filesystem.pipe_file(f"{BUCKET}/{NAME}", content(2))
    assert second(dataset) == {1}


def test_options_of_requests_are_kept(s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("s3", requester_pays=True, **s3.options)
    s3.put(b"one." * 8)
    client = filesystem.s3
    told = []
    get_object = client.get_object

    @functools.wraps(get_object)
    def noted(**options: Any) -> Any:
        told.append(options)
        return get_object(**options)

    monkeypatch.setattr(client, "get_object", noted)
    assert Fetcher(filesystem, s3.url).fetch(spans(4)) == [b"one."]
    assert told == [{"Bucket": BUCKET, "Key": NAME, "Range": "bytes=4-7", "RequestPayer": "requester"}]


def test_object_that_was_another_one_during_the_scan(
    s3: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same before and after, and another one while it is read."""
    one, two = content(1), content(2)
    s3.put(one)

    def opened_between(*args: Any, **options: Any) -> Any:
        s3.put(two)
        file = open_prefetched(*args, **options)
        s3.put(one)
        return file

    monkeypatch.setattr(source, "open_prefetched", opened_between)
    with pytest.raises(SourceChangedError, match="ETag"):
        convert(s3.url, storage_options=s3.options)


# Looks that are shared -------------------------------------------------------------------


class Looking:
    """Looks that are counted, of which the first lasts until it is let go."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        self.begun.set()
        assert self.may_end.wait(timeout=10)
        if self.error is not None:
            raise self.error


def test_who_asks_during_a_look_shares_the_next_one() -> None:
    look = Looking()
    looks = SharedLooks(look)
    asking = threading.Semaphore(0)

    def ask() -> None:
        asking.release()
        looks.look()

    with ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(ask)]
        assert look.begun.wait(timeout=10)
        asked += [threads.submit(ask) for _ in range(8)]
        for _ in asked:
            assert asking.acquire(timeout=10)
        time.sleep(0.1)
        look.may_end.set()
        for one in asked:
            one.result(timeout=10)
    # A thread may have been late; without sharing there were nine.
    assert look.count in (2, 3)
    before = look.count
    looks.look()
    assert look.count == before + 1


def test_failed_looks_answer_nobody() -> None:
    look = Looking()
    look.error = SourceError("gone")
    look.may_end.set()
    looks = SharedLooks(look)
    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(looks.look) for _ in range(4)]:
            with pytest.raises(SourceError, match="gone"):
                one.result(timeout=10)
    assert look.count == 4
