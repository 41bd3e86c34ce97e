"""The crawler ahead of libhdf5: what it misses (nothing, where it knows the structure), and what fails."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES
from slow_server import Fault, Request, SlowServer, slow_server

import h5zarr
from h5zarr.errors import DamagedFileError, SourceChangedError, SourceError, SourceNotFoundError
from h5zarr.libhdf5 import Identifier, library
from h5zarr.model import FetchStatistics
from h5zarr.prefetch import PrefetchedFile, Span, open_prefetched
from h5zarr.prefetch.cache import RangeCache
from h5zarr.prefetch.crawler import Crawler
from h5zarr.prefetch.fetch import Fetcher
from h5zarr.prefetch.ranges import (
    BLOCK_BYTES,
    LinkSpeed,
    block_numbers,
    is_worth_all,
    merge,
    plan_requests,
    total_bytes,
)
from h5zarr.prefetch.redact import redact
from h5zarr.prefetch.tasks import Interest

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

LOCAL = fsspec.filesystem("file")

ATTRIBUTES = 1 << 12
ALL_MESSAGES = ATTRIBUTES | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 11
"""`H5O_SHMESG_ATTR_FLAG` and `H5O_SHMESG_ALL_FLAG`."""

READS_DATA = {"filter_mask.h5": 2}
"""Fixtures of which the scan reads chunks that only it can choose, and how many."""


class StrictFile(PrefetchedFile):
    """A file in memory of which only those bytes count as foreseen that the crawler asked for exactly."""

    def __init__(self, path: Path) -> None:
        byte_length = path.stat().st_size
        super().__init__(Fetcher(LOCAL, str(path)), byte_length)
        self.foreseen = bytearray(byte_length)
        self.unforeseen: list[Span] = []

    @property
    def is_whole(self) -> bool:
        return False

    def prefetch(self, spans: Iterable[Span]) -> None:
        spans = list(spans)
        for span in spans:
            self.foreseen[span.byte_offset : span.end] = b"\1" * (
                min(span.end, self.byte_length) - span.byte_offset
            )
        super().prefetch(spans)

    def view(self, span: Span) -> memoryview | None:
        return super().view(span) if self._is_foreseen(span) else None

    def readinto(self, buffer: Any, /) -> int:
        byte_offset = self.tell()
        span = Span(byte_offset=byte_offset, byte_length=super().readinto(buffer))
        if not self._is_foreseen(span):
            self.unforeseen.append(span)
        return span.byte_length

    def _is_foreseen(self, span: Span) -> bool:
        return self.foreseen.find(0, span.byte_offset, span.end) < 0


def crawl_strictly(path: Path, interest: Interest | None = None) -> StrictFile:
    """Crawl a file from its first bytes alone: nothing is there by luck."""
    file = StrictFile(path)
    Crawler(file, interest or Interest(), first_bytes=8).run()
    return file


def references(source: Any, **options: Any) -> Any:
    """Return what h5zarr makes of a file, under a name that does not depend on where it is."""
    with h5py.File(source, "r") as file:
        return h5zarr.convert(file, public_url="memory://file", **options).references()["refs"]


def assert_foreseen(path: Path, *, misses: int = 0) -> StrictFile:
    """Check that a scan reads nothing that was not foreseen, and finds what a plain scan finds."""
    file = crawl_strictly(path)
    assert references(file) == references(path)
    assert len(file.unforeseen) == misses, file.unforeseen
    return file


# Every structure, nothing missed ---------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FIXTURE_NAMES if name != "virtual_dataset.h5"])
def test_fixture_is_foreseen(name: str) -> None:
    assert_foreseen(FIXTURES / name, misses=READS_DATA.get(name, 0))


def test_virtual_dataset_is_foreseen() -> None:
    file = crawl_strictly(FIXTURES / "virtual_dataset.h5")
    with h5py.File(file, "r") as opened:
        virtual = [item for item in opened.values() if isinstance(item, h5py.Dataset) and item.is_virtual]
        assert all(dataset.virtual_sources() for dataset in virtual)
    assert virtual
    assert not file.unforeseen


Maker = Callable[[h5py.File], None]


def many_attributes(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=np.arange(1000))
    for number in range(300):
        dataset.attrs[f"attribute {number}"] = f"text {number}"
    file.attrs["large"] = np.arange(7000)


def many_huge_attributes(file: h5py.File) -> None:
    for number in range(20):
        file.attrs[f"attribute {number}"] = np.arange(20_000) + number


def many_links(file: h5py.File) -> None:
    for number in range(1500):
        file.create_group(f"group with a rather long name {number}")


def many_links_in_order(file: h5py.File) -> None:
    group = file.create_group("ordered", track_order=True)
    for number in range(500):
        group.create_dataset(f"d{number}", data=number)


def nested_groups(file: h5py.File) -> None:
    for path in ("a/b/c/d/e/f", "a/b/x/y", "z"):
        file.create_group(path).create_dataset("data", data=np.arange(300.0))


def scattered_btrees(file: h5py.File) -> None:
    datasets = [
        file.create_dataset(f"v{number}", (0, 16, 16), "f4", maxshape=(None, 16, 16), chunks=(1, 4, 4))
        for number in range(4)
    ]
    for step in range(40):
        for dataset in datasets:
            dataset.resize(step + 1, axis=0)
            dataset[step] = step


def fixed_array(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(100.0), chunks=(7,))
    file.create_dataset("filtered", data=np.arange(100.0), chunks=(7,), compression="gzip")


def large_fixed_array(file: h5py.File) -> None:
    file.create_dataset("paged", data=np.arange(5000, dtype="u1"), chunks=(1,))
    sparse = file.create_dataset("sparse", (300_000,), "u1", chunks=(1,))
    sparse[4000:4010] = 1
    sparse[250_000] = 1
    file.create_dataset("filtered", data=np.zeros(3000, "u1"), chunks=(1,), compression="gzip")


def huge_fixed_array(file: h5py.File) -> None:
    sparse = file.create_dataset("sparse", (3_000_000,), "u1", chunks=(1,))
    for at in (0, 1_000_000, 2_999_999):
        sparse[at] = 1


def extensible_array(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(100.0), chunks=(7,), maxshape=(None,))
    file.create_dataset("y", data=np.arange(100.0), chunks=(7,), maxshape=(None,), compression="gzip")


def large_extensible_array(file: h5py.File) -> None:
    """Super blocks from 56 chunks on, data blocks in pages from 130,000 chunks on."""
    file.create_dataset("x", data=np.zeros(2000, "u1"), chunks=(1,), maxshape=(None,))
    sparse = file.create_dataset("sparse", (400_000,), "u1", chunks=(1,), maxshape=(None,))
    for at in (0, 100, 5000, 70_000, 140_000, 141_000, 399_999):
        sparse[at] = 1
    filtered = file.create_dataset("f", (200_000,), "u1", chunks=(1,), maxshape=(None,), compression="gzip")
    filtered[199_000] = 1


def btree_v2(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(36.0).reshape(6, 6), chunks=(2, 2), maxshape=(None, None))
    for compression in (None, "gzip"):
        file.create_dataset(
            f"deep {compression}",
            data=np.zeros((60, 60), "u1"),
            chunks=(1, 1),
            maxshape=(None, None),
            compression=compression,
        )


def deep_btree_v2(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros((120, 120), "u1"), chunks=(1, 1), maxshape=(None, None))


def single_and_implicit(file: h5py.File) -> None:
    file.create_dataset("single", data=np.arange(1000.0), chunks=(1000,))
    file.create_dataset("filtered", data=np.arange(1000.0), chunks=(1000,), compression="gzip")
    file.create_dataset("small", data=np.arange(10.0), chunks=(10,))
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((3,))
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    h5py.h5d.create(file.id, b"implicit", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((20,)), creation)


def variable_length(file: h5py.File) -> None:
    text = h5py.string_dtype()
    words = [f"word {number}" for number in range(3000)]
    file.create_dataset("contiguous", data=words, dtype=text)
    file.create_dataset("chunked", data=words, dtype=text, chunks=(100,))
    file.create_dataset("filtered", data=words, dtype=text, chunks=(500,), compression="gzip", shuffle=True)
    file.attrs["many"] = words
    nested = h5py.vlen_dtype(np.dtype([("a", "i4"), ("b", text)]))
    dataset = file.create_dataset("nested", (20,), nested)
    for number in range(20):
        dataset[number] = np.array([(number, "x" * 500)] * 3, dtype=[("a", "i4"), ("b", text)])


def committed_types(file: h5py.File) -> None:
    file["pad"] = np.arange(10_000)
    file["text"] = h5py.string_dtype()
    file.attrs.create("a", "of a committed type", dtype=file["text"])
    file.create_dataset("x", data=["one", "two"], dtype=file["text"])


def region_references(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=np.arange(5000))
    file.attrs["region"] = dataset.regionref[10:20]
    file.create_dataset("refs", data=[dataset.ref] * 3, dtype=h5py.ref_dtype)


def filtered_links(file: h5py.File) -> None:
    for name, count in (("few", 20), ("many", 600)):
        creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        assert library().H5Pset_deflate(Identifier(creation.id), ctypes.c_uint(6)) >= 0
        group = h5py.Group(h5py.h5g.create(file.id, name.encode(), gcpl=creation))
        for number in range(count):
            group.create_group(f"group with a rather long name {number}")


def small_data(file: h5py.File) -> None:
    file["pad"] = np.arange(3000)
    for number in range(100):
        file.create_dataset(f"g{number % 5}/d{number}", data=np.arange(number))


STRUCTURES = [
    many_attributes,
    many_huge_attributes,
    many_links,
    many_links_in_order,
    nested_groups,
    scattered_btrees,
    fixed_array,
    large_fixed_array,
    huge_fixed_array,
    extensible_array,
    large_extensible_array,
    btree_v2,
    deep_btree_v2,
    single_and_implicit,
    variable_length,
    committed_types,
    region_references,
    filtered_links,
    small_data,
]

WITHOUT_DENSE_ATTRIBUTES = ("earliest", "v110")
"""Formats that have no attributes over 64 KB."""

FORMATS: dict[str, dict[str, Any]] = {
    "earliest": {"libver": "earliest"},
    "v110": {"libver": ("earliest", "v110")},
    "v114": {"libver": ("v114", "v114")},
    "latest": {"libver": "latest"},
    "user block": {"libver": "latest", "userblock_size": 2048},
    "paged": {"libver": "latest", "fs_strategy": "page", "fs_page_size": 65536},
    "paged, persistent": {"libver": "latest", "fs_strategy": "page", "fs_persist": True},
}


CASES = [
    pytest.param(make, libver, id=f"{make.__name__}-{libver}")
    for make in STRUCTURES
    for libver in FORMATS
    if make is not many_huge_attributes or libver not in WITHOUT_DENSE_ATTRIBUTES
]


@pytest.mark.parametrize(("make", "libver"), CASES)
def test_structure_is_foreseen(make: Maker, libver: str, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", **FORMATS[libver]) as file:
        make(file)
    assert_foreseen(path)


def test_shared_messages_are_foreseen(tmp_path: Path) -> None:
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    identifier = Identifier(creation.id)
    assert library().H5Pset_shared_mesg_nindexes(identifier, 2) >= 0
    for number, kinds in enumerate([ATTRIBUTES, ALL_MESSAGES - ATTRIBUTES]):
        assert library().H5Pset_shared_mesg_index(identifier, number, kinds, 8) >= 0
    path = tmp_path / "file.h5"
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=creation)) as file:
        committed_types(file)
        for number in range(100):
            dataset = file.create_dataset(f"g{number % 4}/d{number}", data=np.arange(50.0) + number)
            dataset.attrs.update(units="m s-1", valid=[1.0, 2.0])
    assert_foreseen(path)


def test_levels_are_few(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(200):
            file.create_dataset(f"g/d{number}", data=np.arange(100), chunks=(10,), maxshape=(None,))
    file_ = crawl_strictly(path)
    assert file_.statistics.round_trips <= 9
    assert not file_.statistics.misses


# Only what is asked for ------------------------------------------------------------------


def make_two_groups(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for group in ("left/inner", "right"):
            for number in range(5):
                data = np.zeros((40, 40), "u1")
                dataset = file.create_dataset(f"{group}/d{number}", data=data, chunks=(1, 1))
                dataset.attrs["text"] = ["a", "b"]


@pytest.mark.parametrize(
    ("interest", "options"),
    [
        (Interest(root="/left"), {"group": "/left"}),
        (Interest(root="/left/inner"), {"group": "/left/inner"}),
        (Interest(wants=lambda path: path == "/right/d3"), {"include": ["/right/d3"]}),
        (Interest(wants=lambda path: not path.startswith("/left")), {"exclude": ["/left*"]}),
    ],
    ids=["group", "deeper group", "include", "exclude"],
)
def test_only_what_is_asked_for(interest: Interest, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    make_two_groups(path)
    file = crawl_strictly(path, interest)
    assert references(file, **options) == references(path, **options)
    assert not file.unforeseen
    assert sum(file.foreseen) < 0.6 * sum(crawl_strictly(path).foreseen)


# Files that are not as they should be ----------------------------------------------------


def damaged_copies(content: bytes, count: int) -> Iterable[bytes]:
    """Yield copies with a few bytes changed, always the same ones."""
    for number in range(count):
        random = np.random.default_rng(number)
        copy = bytearray(content)
        for at in random.integers(8, len(copy), 1 + number % 20):
            copy[at] = random.choice([0, 1, 8, 0x7F, 0xFF, copy[at] ^ 0x10])
        yield bytes(copy)


@pytest.mark.parametrize(
    "name",
    [
        "groups_dense.h5",
        "attributes_dense.h5",
        "chunk_index_btree_v1.h5",
        "chunk_index_btree_v2.h5",
        "chunk_index_fixed_array.h5",
        "chunk_index_extensible_array_first.h5",
        "datatype_variable_length_sequences.h5",
        "user_block_latest.h5",
    ],
)
def test_damaged_files_end_the_crawl_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    for content in damaged_copies((FIXTURES / name).read_bytes(), 60):
        path.write_bytes(content)
        file = StrictFile(path)
        Crawler(file, Interest(), first_bytes=8).run()
        assert file.statistics.byte_length <= 3 * len(content) + 2 * BLOCK_BYTES


@pytest.mark.parametrize("content", [b"", b"x", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 600])
def test_no_hdf5_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(content)
    with open_prefetched(Fetcher(LOCAL, str(path)), len(content)) as file:
        assert file.read() == content


def test_cyclic_links_end(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["a/b"] = h5py.SoftLink("/a")
        file["a/root"] = file["/"]
        file["a/self"] = file["a"]
    assert_foreseen(path)


@pytest.mark.parametrize("flags", [0x01, 0x05])
def test_file_that_is_open_for_writing_is_refused(flags: int, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1
    content = bytearray(path.read_bytes())
    content[11] = flags
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="h5clear"):
        open_prefetched(Fetcher(LOCAL, str(path)), len(content))


# Ranges and the cache --------------------------------------------------------------------


def speed(**changes: float) -> LinkSpeed:
    return LinkSpeed(**{"latency": 0.03, "bandwidth": 1e8, "connections": 100, **changes})


def test_merge() -> None:
    spans = merge([0, 1, 4, 5, 9], gap=2 * BLOCK_BYTES, file_end=9 * BLOCK_BYTES + 10)
    assert spans == [
        Span(byte_offset=0, byte_length=6 * BLOCK_BYTES),
        Span(byte_offset=9 * BLOCK_BYTES, byte_length=10),
    ]
    assert merge([], gap=0, file_end=1) == []


def test_merge_fetches_nothing_again() -> None:
    spans = merge([0, 3, 6], gap=4 * BLOCK_BYTES, file_end=7 * BLOCK_BYTES, present={4})
    assert [(span.byte_offset, span.byte_length) for span in spans] == [
        (0, 4 * BLOCK_BYTES),
        (6 * BLOCK_BYTES, BLOCK_BYTES),
    ]


def test_long_ranges_are_shared_by_connections() -> None:
    spans = merge(range(2000), gap=0, file_end=2000 * BLOCK_BYTES)
    assert len(spans) > 3
    assert total_bytes(spans) == 2000 * BLOCK_BYTES


def test_gap_follows_the_link() -> None:
    numbers = range(0, 6000, 10)
    end = 6000 * BLOCK_BYTES
    fast = plan_requests(numbers, speed(bandwidth=1e10, latency=0.3, connections=20), file_end=end)
    slow = plan_requests(numbers, speed(bandwidth=1e6), file_end=end)
    assert len(fast) <= len(slow) == 600
    near = plan_requests(range(0, 6000, 3), speed(bandwidth=1e10), file_end=end)
    assert len(near) < 50
    assert total_bytes(fast) <= 4.5 * 600 * BLOCK_BYTES


def test_all_is_fetched_where_that_takes_no_longer_than_to_crawl_on() -> None:
    fast, slow = speed(bandwidth=4e8), speed(bandwidth=1e7)
    assert is_worth_all(3_000_000, 10_000_000, fast)
    assert not is_worth_all(3_000_000, 10_000_000, slow)
    assert not is_worth_all(1_000_000, 10_000_000, fast)
    assert not is_worth_all(100_000_000, 100_000_000, speed(bandwidth=1e12))


def test_blocks_of_a_span() -> None:
    assert list(block_numbers(Span(byte_offset=4095, byte_length=2))) == [0, 1]
    assert list(block_numbers(Span(byte_offset=70_000, byte_length=1), 65_536)) == [1]


def test_cache_is_bounded() -> None:
    cache = RangeCache(most_bytes=4 * BLOCK_BYTES)
    cache.put(0, bytes(10 * BLOCK_BYTES))
    assert [number for number in range(10) if number in cache] == [6, 7, 8, 9]
    assert cache.get(Span(byte_offset=0, byte_length=1)) is None
    assert cache.get(Span(byte_offset=6 * BLOCK_BYTES - 1, byte_length=2)) is None


def test_file_object(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    file = PrefetchedFile(Fetcher(LOCAL, str(path)), len(content))
    file.prefetch([Span(byte_offset=5000, byte_length=10_000)])
    assert (file.seek(6000), file.read(5000)) == (6000, content[6000:11_000])
    assert file.statistics.misses == 0
    assert (file.seek(-10, 2), file.read()) == (2_999_990, content[-10:])
    assert (file.seek(-5, 1), file.read(100), file.read(1)) == (2_999_995, content[-5:], b"")
    assert file.statistics.misses == 1
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)


def test_small_file_is_fetched_whole_when_something_is_missing(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(500_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    file = PrefetchedFile(Fetcher(LOCAL, str(path)), len(content))
    file.prefetch([Span(byte_offset=5000, byte_length=10)])
    assert file.read() == content
    assert (file.statistics.requests, file.statistics.misses) == (1, 0)


def test_many_misses_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).bytes(4_000_000)
    path.write_bytes(content)
    file = PrefetchedFile(Fetcher(LOCAL, str(path)), len(content))
    assert b"".join(iter(lambda: file.read(4096), b"")) == content
    assert file.statistics.misses == 20 + 4


# Servers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file of several levels, too long to be fetched whole."""
    folder = tmp_path_factory.mktemp("served")
    with h5py.File(folder / "file.h5", "w") as file:
        for number in range(40):
            dataset = file.create_dataset(f"g{number % 4}/d{number}", (50, 1000), "f8", chunks=(1, 1000))
            dataset[...] = number
            dataset.attrs["unit"] = ["m", "s"]
    assert (folder / "file.h5").stat().st_size > 10 * 2**20
    return folder


def fetch_file(server: SlowServer, folder: Path, **client: Any) -> PrefetchedFile:
    """Return the served file, prefetched through a filesystem of its own."""
    filesystem = fsspec.filesystem("http", skip_instance_cache=True, use_listings_cache=False, **client)
    url = f"{server.url}/file.h5?signature=SECRET"
    return open_prefetched(Fetcher(filesystem, url), (folder / "file.h5").stat().st_size)


def test_http(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, latency=0.01)) as server:
        file = fetch_file(server, folder)
        assert references(file) == references(folder / "file.h5")
        assert file.statistics == FetchStatistics(
            requests=len(server.requests),
            byte_length=server.byte_length,
            round_trips=file.statistics.round_trips,
            misses=0,
            retries=0,
        )
        assert file.statistics.round_trips <= 5
        assert server.byte_length < 3_000_000


def test_all_is_fetched_of_a_file_of_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        for number in range(1500):
            file.create_dataset(f"g{number % 20}/d{number}", data=np.arange(100))
    assert path.stat().st_size > 2**20
    with slow_server(SlowServer(folder=tmp_path, latency=0.1)) as server:
        fetched = fetch_file(server, tmp_path)
        assert fetched.read() == path.read_bytes()
        assert (fetched.statistics.round_trips, fetched.statistics.misses) == (2, 0)
        assert server.byte_length == path.stat().st_size


def test_requests_are_under_way_together(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, latency=0.05, bandwidth=1e7)) as server:
        fetch_file(server, folder)
        assert server.most_at_a_time > 10


def test_speed_of_the_link_is_seen(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, latency=0.05, bandwidth=4e6)) as server:
        fetcher = Fetcher(fsspec.filesystem("http", skip_instance_cache=True), f"{server.url}/file.h5")
        fetcher.fetch([Span(byte_offset=0, byte_length=200_000)])
    assert 0.05 <= fetcher.speed.latency < 0.1
    assert 1e6 < fetcher.speed.bandwidth < 4e7


def test_answers_free_connections_for_others(folder: Path) -> None:
    spans = [Span(byte_offset=at * 4096, byte_length=10) for at in range(500)]
    with slow_server(SlowServer(folder=folder)) as server:
        fetcher = Fetcher(fsspec.filesystem("http", skip_instance_cache=True), f"{server.url}/file.h5")
        fetcher.fetch(spans)
        assert len(server.requests) == len(spans)
        assert server.most_at_a_time < 250


# The beginning, while the length is asked for --------------------------------------------


def begin(server: SlowServer, folder: Path, name: str = "file.h5") -> tuple[Fetcher, PrefetchedFile]:
    """Begin to fetch a served file, as when its length and entity tag are asked for meanwhile."""
    fetcher = Fetcher(fsspec.filesystem("http", skip_instance_cache=True), f"{server.url}/{name}")
    fetcher.begin()
    return fetcher, PrefetchedFile(fetcher, (folder / name).stat().st_size)


def entity_tag(path: Path) -> str:
    """Return the tag that the slow server gives a file."""
    return f"{path.stat().st_mtime_ns:x}"


@pytest.mark.parametrize("name", ["file.h5", "small.h5"])
def test_beginning_is_taken(name: str, folder: Path) -> None:
    (folder / "small.h5").write_bytes((FIXTURES / "climate.nc").read_bytes())
    with slow_server(SlowServer(folder=folder)) as server:
        fetcher, file = begin(server, folder, name)
        file.take_beginning(entity_tag(folder / name))
        assert file.entity_tag == entity_tag(folder / name)
        Crawler(file, Interest()).run()
        assert references(file) == references(folder / name)
        assert [request.byte_offset for request in server.requests].count(0) == 1
        assert fetcher.requests == len(server.requests)
        assert fetcher.byte_length == server.byte_length
        assert file.statistics.misses == 0


def tag_of_another(path: Path) -> str:
    return "0" + entity_tag(path)


@pytest.mark.parametrize("tell", [lambda _path: None, tag_of_another], ids=["no tag", "another tag"])
def test_beginning_of_another_version_is_not_taken(tell: Callable[[Path], str | None], folder: Path) -> None:
    with slow_server(SlowServer(folder=folder)) as server:
        fetcher, file = begin(server, folder)
        file.take_beginning(tell(folder / "file.h5"))
        assert file.view(Span(byte_offset=0, byte_length=8)) is None
        assert (fetcher.requests, fetcher.byte_length) == (1, 0)


@pytest.mark.parametrize(
    "fault", [Fault.UNAVAILABLE, Fault.SHORT, Fault.DROP, Fault.WRONG_RANGE, Fault.NO_RANGES]
)
def test_beginning_that_fails_is_fetched_again(fault: Fault, folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, fault=failing(fault, 0))) as server:
        _, file = begin(server, folder)
        file.take_beginning(entity_tag(folder / "file.h5"))
        Crawler(file, Interest()).run()
        assert references(file) == references(folder / "file.h5")
        assert file.statistics.misses == 0


def test_beginning_is_not_begun_where_no_tag_is_told(folder: Path) -> None:
    fetcher = Fetcher(LOCAL, str(folder / "file.h5"))
    fetcher.begin()
    assert fetcher.beginning(10**6, "tag") == b""
    assert fetcher.requests == 0


def failing(fault: Fault, *numbers: int) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.number in numbers or not numbers else None


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.DROP, Fault.SHORT])
def test_passing_faults_are_tried_again(fault: Fault, folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, fault=failing(fault, 0, 3, 4))) as server:
        file = fetch_file(server, folder)
        assert file.statistics.retries == 3
        assert references(file) == references(folder / "file.h5")
        assert file.statistics.misses == 0


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault.UNAVAILABLE, SourceError, "attempts failed.*503"),
        (Fault.TOO_MANY, SourceError, "attempts failed.*429"),
        (Fault.DROP, SourceError, "attempts failed"),
        (Fault.SHORT, SourceError, "a short answer"),
        (Fault.NO_RANGES, SourceError, "does not support range requests"),
        (Fault.WRONG_RANGE, SourceError, "Content-Range"),
        (Fault.FORBIDDEN, SourceError, "credentials"),
    ],
)
def test_lasting_faults_are_told(
    fault: Fault, error: type[Exception], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h5zarr.prefetch.fetch.time.sleep", lambda _seconds: None)
    with (
        slow_server(SlowServer(folder=folder, fault=failing(fault))) as server,
        pytest.raises(error, match=words) as raised,
    ):
        fetch_file(server, folder)
    assert "SECRET" not in str(raised.value)


def test_change_while_reading_is_told(folder: Path) -> None:
    with (
        slow_server(SlowServer(folder=folder, fault=failing(Fault.CHANGED, 5))) as server,
        pytest.raises(SourceChangedError, match="changed"),
    ):
        fetch_file(server, folder)


def test_missing_file_is_told(folder: Path) -> None:
    filesystem = fsspec.filesystem("http", skip_instance_cache=True)
    with (
        slow_server(SlowServer(folder=folder)) as server,
        pytest.raises(SourceNotFoundError, match=r"absent\.h5"),
    ):
        open_prefetched(Fetcher(filesystem, f"{server.url}/absent.h5"), 1000)


def test_server_down_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5zarr.prefetch.fetch.time.sleep", lambda _seconds: None)
    with slow_server(SlowServer(folder=folder)) as server:
        url = server.url
    filesystem = fsspec.filesystem("http", skip_instance_cache=True)
    with pytest.raises(SourceError, match="attempts failed"):
        open_prefetched(Fetcher(filesystem, f"{url}/file.h5"), 10_000)


def test_small_file_of_a_server_without_ranges(tmp_path: Path) -> None:
    content = (FIXTURES / "climate.nc").read_bytes()
    (tmp_path / "file.h5").write_bytes(content)
    with slow_server(SlowServer(folder=tmp_path, fault=failing(Fault.NO_RANGES))) as server:
        file = fetch_file(server, tmp_path)
        assert file.read() == content
        assert file.statistics.requests == 1


def test_filesystem_without_event_loop(folder: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/prefetch/file.h5", (folder / "file.h5").read_bytes())
    file = open_prefetched(Fetcher(filesystem, "/prefetch/file.h5"), (folder / "file.h5").stat().st_size)
    assert references(file) == references(folder / "file.h5")
    assert file.statistics.misses == 0
    filesystem.rm("/prefetch/file.h5")
    with pytest.raises(SourceNotFoundError):
        open_prefetched(Fetcher(filesystem, "/prefetch/file.h5"), 100)


def test_texts_hold_no_credentials() -> None:
    text = "GET https://user:pass@host/a.h5?X-Amz-Signature=abc&b=1#frag, url='http://h/b?c' failed"
    for secret in ("pass", "abc", "X-Amz", "?c"):
        assert secret not in redact(text)
