"""Chunk indexes against the truth: what `read_direct_chunk` gives for every cell of the grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5f, h5p
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from h5zarr import _fallback, chunk_index, libhdf5
from h5zarr.chunk_index import library_reports_swizzled, read_chunk_index
from h5zarr.model import ChunkIndex

Extents = tuple[int, ...]
Limits = tuple[int | None, ...]
Stored = tuple[int, bytes]
"""Filter mask and bytes of a stored chunk."""

BTREE_V1, SINGLE, IMPLICIT, FIXED_ARRAY, EXTENSIBLE_ARRAY, BTREE_V2 = range(6)
COLUMNS = ("grid_position", "byte_offset", "byte_length", "filter_mask")

needs_native = pytest.mark.skipif(chunk_index._native is None, reason="h5zarr._native is not compiled")


@dataclass(frozen=True)
class Case:
    """One dataset: how it is made, and the index that libhdf5 is to choose for it."""

    name: str
    index: int
    shape: Extents
    chunks: Extents
    maxshape: Limits
    libver: str = "latest"
    written: tuple[tuple[slice, ...], ...] = ((slice(None),),)
    resize: Extents | None = None
    deflate: bool = False
    early: bool = False
    userblock_size: int = 0


CORNERS = ((slice(0, 5), slice(0, 3)), (slice(9, 12), slice(17, 20)))
NOWHERE: tuple[tuple[slice, ...], ...] = ()

SHAPE = (12, 20)
CHUNKS = (4, 5)
KINDS: list[tuple[str, int, Limits, str]] = [
    ("btree v1", BTREE_V1, (None, None), "earliest"),
    ("btree v1, fixed", BTREE_V1, (12, 20), "earliest"),
    ("fixed array", FIXED_ARRAY, (12, 20), "latest"),
    ("fixed array, maximum", FIXED_ARRAY, (31, 47), "latest"),
    ("extensible array, first", EXTENSIBLE_ARRAY, (None, 20), "latest"),
    ("extensible array, last", EXTENSIBLE_ARRAY, (12, None), "latest"),
    ("extensible array, first, maximum", EXTENSIBLE_ARRAY, (None, 47), "latest"),
    ("extensible array, last, maximum", EXTENSIBLE_ARRAY, (31, None), "latest"),
    ("btree v2", BTREE_V2, (None, None), "latest"),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "deflate": {"deflate": True},
    "partial chunks": {"chunks": (5, 7)},
    "sparse": {"written": CORNERS},
    "never written": {"written": NOWHERE},
    "user block": {"userblock_size": 1024},
    "many": {"chunks": (1, 1)},
    "shrunk": {"resize": (5, 6)},
}

CASES = [
    *(
        Case(f"{kind}-{variant}", index, SHAPE, options.get("chunks", CHUNKS), limits, libver, **more)
        for kind, index, limits, libver in KINDS
        for variant, options in VARIANTS.items()
        for more in [{name: value for name, value in options.items() if name != "chunks"}]
    ),
    Case("single", SINGLE, SHAPE, SHAPE, SHAPE),
    Case("single-deflate", SINGLE, SHAPE, SHAPE, SHAPE, deflate=True),
    Case("single-never written", SINGLE, SHAPE, SHAPE, SHAPE, written=NOWHERE),
    Case("implicit", IMPLICIT, SHAPE, CHUNKS, SHAPE, early=True),
    Case("implicit-partial chunks", IMPLICIT, SHAPE, (5, 7), SHAPE, early=True),
    Case("implicit-maximum", IMPLICIT, SHAPE, CHUNKS, (30, 31), early=True),
    Case("fixed array-grown", FIXED_ARRAY, SHAPE, CHUNKS, (31, 47), resize=(31, 47)),
    Case("extensible array, first-grown", EXTENSIBLE_ARRAY, SHAPE, CHUNKS, (None, 20), resize=(99, 20)),
    Case("extensible array, last-grown", EXTENSIBLE_ARRAY, SHAPE, CHUNKS, (12, None), resize=(12, 99)),
    Case("btree v2-grown", BTREE_V2, SHAPE, CHUNKS, (None, None), resize=(33, 41)),
    Case("extensible array, several blocks", EXTENSIBLE_ARRAY, (33, 60), (1, 1), (33, None)),
    Case("btree v2, several levels", BTREE_V2, (60, 60), (1, 1), (None, None)),
    Case("one dimension", EXTENSIBLE_ARRAY, (17,), (3,), (None,)),
    Case("extensible array, middle", EXTENSIBLE_ARRAY, (7, 11, 9), (2, 3, 4), (8, None, 13)),
    Case("extensible array, third of four", EXTENSIBLE_ARRAY, (4, 3, 7, 5), (2, 2, 2, 5), (9, 3, None, 6)),
    Case("larger than the array", BTREE_V1, (5, 3), (16, 12), (None, None), "earliest"),
    Case("larger than the array, v2", BTREE_V2, (5, 3), (16, 12), (None, None)),
    Case("larger than the array, last", EXTENSIBLE_ARRAY, (5, 3), (4, 12), (9, None)),
    Case("zero length", EXTENSIBLE_ARRAY, (0, 5), CHUNKS, (None, 5)),
    Case("zero length, last", EXTENSIBLE_ARRAY, (5, 0), CHUNKS, (5, None)),
    Case("emptied", BTREE_V1, SHAPE, CHUNKS, (None, None), "earliest", resize=(0, 20)),
    Case("emptied, v2", BTREE_V2, SHAPE, CHUNKS, (None, None), resize=(0, 20)),
]


def make_dataset(file: h5py.File, case: Case) -> h5py.Dataset:
    properties = h5p.create(h5p.DATASET_CREATE)
    if case.early:
        properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    return file.create_dataset(
        "x",
        case.shape,
        "<i4",
        chunks=case.chunks,
        maxshape=case.maxshape,
        compression=4 if case.deflate else None,
        dcpl=properties,
    )


def fill(dataset: h5py.Dataset, case: Case) -> None:
    """Write different values everywhere, so that no chunk is like another."""
    for region in case.written:
        values = np.arange(1, math.prod(dataset.shape) + 1, dtype="<i4").reshape(dataset.shape)
        dataset[region] = values[region]
    if case.resize is not None:
        dataset.resize(case.resize)


def write_case(path: Path, case: Case) -> None:
    with h5py.File(path, "w", libver=case.libver, userblock_size=case.userblock_size) as file:
        fill(make_dataset(file, case), case)


def grid_of(dataset: h5py.Dataset) -> Extents:
    return tuple(
        math.ceil(extent / chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True)
    )


def cells(dataset: h5py.Dataset) -> Iterator[Extents]:
    return itertools.product(*map(range, grid_of(dataset)))


def true_chunks(dataset: h5py.Dataset) -> dict[Extents, Stored]:
    """Return what is stored, by grid cell: libhdf5 reads rightly, also where it lists wrongly."""
    found: dict[Extents, Stored] = {}
    if dataset.id.get_storage_size() == 0:  # h5py 3.16 then gets no size and raises MemoryError
        return found
    for cell in cells(dataset):
        start = tuple(at * extent for at, extent in zip(cell, dataset.chunks, strict=True))
        try:
            found[cell] = dataset.id.read_direct_chunk(start)
        except (OSError, RuntimeError):  # no such chunk
            continue
    return found


def index_of(dataset: h5py.Dataset) -> ChunkIndex:
    return read_chunk_index(dataset.id, dataset.shape, dataset.maxshape, dataset.chunks)


def listed_chunks(index: ChunkIndex, raw: bytes) -> dict[Extents, Stored]:
    """Return what an index finds in the bytes of the file, by grid cell."""
    columns = (index.byte_offset, index.byte_length, index.filter_mask)
    rows = zip(index.chunk_coords.tolist(), *(column.tolist() for column in columns), strict=True)
    return {tuple(cell): (mask, raw[start : start + length]) for cell, start, length, mask in rows}


def fallback_index(dataset: h5py.Dataset) -> ChunkIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_index, "_native", None)
        return index_of(dataset)


def columns_of(index: ChunkIndex) -> dict[str, list[Any]]:
    return {name: [getattr(index, name).dtype.str, *getattr(index, name).tolist()] for name in COLUMNS}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_index_is_the_truth(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_case(path, case)
    with h5py.File(path) as file:
        dataset = file["x"]
        assert libhdf5.chunk_index_type(dataset.id) == case.index
        index = index_of(dataset)
        assert index.grid_shape == grid_of(dataset)
        assert listed_chunks(index, path.read_bytes()) == true_chunks(dataset)
        assert index.grid_position.tolist() == sorted(set(index.grid_position.tolist()))


@needs_native
def test_fallback_gives_the_same_columns(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_case(path, case)
    with h5py.File(path) as file:
        assert columns_of(fallback_index(file["x"])) == columns_of(index_of(file["x"]))


def test_cases_have_every_kind_of_index() -> None:
    assert {case.index for case in CASES} == set(range(6))


def test_filter_masks(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (8, 8), "u1", chunks=(2, 2), compression=4, shuffle=True)
        for number, cell in enumerate(itertools.product(range(0, 8, 2), repeat=2)):
            dataset.id.write_direct_chunk(cell, bytes([number]) * (number + 1), filter_mask=number % 4)
    with h5py.File(path) as file:
        index = index_of(file["x"])
        assert listed_chunks(index, path.read_bytes()) == true_chunks(file["x"])
        assert index.filter_mask.tolist() == [number % 4 for number in range(16)]


def test_columns_are_read_only(tmp_path: Path) -> None:
    write_case(tmp_path / "x.h5", CASES[0])
    with h5py.File(tmp_path / "x.h5") as file:
        index = index_of(file["x"])
    for name in COLUMNS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(index, name)[0] = 0


# libhdf5's bug ---------------------------------------------------------------------------


def reported_cells(dataset: h5py.Dataset) -> dict[int, Extents]:
    """Return the cell that the library tells for each chunk, by the chunk's byte offset."""
    listed = [dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks())]
    return {
        chunk.byte_offset: tuple(np.floor_divide(chunk.chunk_offset, dataset.chunks).tolist())
        for chunk in listed
    }


def test_library_reports_swizzled_is_what_the_library_does(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(240).reshape(12, 20), chunks=(4, 5), maxshape=(12, None))
    with h5py.File(path) as file:
        dataset, raw = file["x"], path.read_bytes()
        reported = {cell: raw[start : start + 160] for start, cell in reported_cells(dataset).items()}
        truth = {cell: stored for cell, (_, stored) in true_chunks(dataset).items()}
    assert library_reports_swizzled() == (reported != truth)


def test_a_library_without_the_bug_is_not_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(240).reshape(12, 20), chunks=(4, 5), maxshape=(12, None))
    monkeypatch.setattr(chunk_index, "library_reports_swizzled", lambda: False)
    with h5py.File(path) as file:
        index = index_of(file["x"])
        cells_by_offset = dict(
            zip(index.byte_offset.tolist(), map(tuple, index.chunk_coords.tolist()), strict=True)
        )
        inside = {
            start: cell for start, cell in reported_cells(file["x"]).items() if cell[0] < 3 and cell[1] < 4
        }
    assert cells_by_offset == inside


# Any dataset -----------------------------------------------------------------------------


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(1, 4))
    axes = st.tuples(*[st.integers(1, 4)] * rank)
    chunks = draw(axes)
    shape = tuple(draw(st.integers(0, 8)) for _ in range(rank))
    maxshape = tuple(draw(st.one_of(st.none(), st.integers(max(n, 1), n + 9))) for n in shape)
    resize = draw(st.none() | st.tuples(*(st.integers(0, limit or 12) for limit in maxshape)))
    written = draw(st.lists(st.tuples(*(region(n) for n in shape)), max_size=4))
    return Case(
        name="any",
        index=-1,
        shape=shape,
        chunks=chunks,
        maxshape=maxshape,
        libver=draw(st.sampled_from(["earliest", "latest"])),
        written=tuple(written),
        resize=resize,
        deflate=draw(st.booleans()),
        early=draw(st.booleans()),
    )


def region(extent: int) -> st.SearchStrategy[slice]:
    ends = st.tuples(st.integers(0, extent), st.integers(0, extent)).map(sorted)
    return ends.map(lambda pair: slice(*pair))


def image_of(case: Case) -> bytes:
    with h5py.File("any", "w", driver="core", backing_store=False, libver=case.libver) as file:
        try:
            dataset = make_dataset(file, case)
        except ValueError:  # h5py refuses chunks that are larger than a limited dimension
            assume(False)
        fill(dataset, case)
        file.flush()
        return file.id.get_file_image()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(any_case())
def test_any_index_is_the_truth(case: Case) -> None:
    image = image_of(case)
    with h5py.File(h5f.open_file_image(image)) as file:
        dataset, truth = file["x"], true_chunks(file["x"])
        assert listed_chunks(index_of(dataset), image) == truth
        assert listed_chunks(fallback_index(dataset), image) == truth


# References as JSON ----------------------------------------------------------------------


def random_columns(rows: int, grid: Extents, location_count: int, seed: int = 5) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    position = np.sort(random.integers(0, math.prod(grid), rows, dtype=np.uint64))
    widths = random.integers(0, 64, (2, rows)).astype(np.uint64)
    offset, length = random.integers(0, 2**64, (2, rows), dtype=np.uint64) >> widths
    which = random.integers(0, location_count, rows, dtype=np.uint32)
    return position, offset, length, which


@needs_native
@pytest.mark.parametrize(
    ("grid", "location_count", "rows"),
    [
        ((), 1, 1),
        ((7,), 1, 0),
        ((2**40,), 1, 500),
        ((5, 1, 3), 1, 500),
        ((300, 4000), 1, 200_000),
        ((12, 31, 17, 2), 3, 5000),
        ((2,) * 32, 2, 500),
    ],
    ids=str,
)
def test_native_and_fallback_render_the_same(grid: Extents, location_count: int, rows: int) -> None:
    position, offset, length, which = random_columns(rows, grid, location_count)
    locations = tuple(f'"file:///dätä/{number}.h5"'.encode() for number in range(location_count))
    index = which if location_count > 1 else None
    arguments = (b'"a/\\"b/c', grid, position, offset, length, locations, index)
    rendered = chunk_index._native.render_references(*arguments)
    assert rendered == _fallback.render_references(*arguments)
    assert rendered.count(b"\n") == rows


@needs_native
def test_rendered_numbers() -> None:
    columns = [np.array(values, np.uint64) for values in ([0, 11], [0, 2**64 - 1], [10, 2**63])]
    rendered = chunk_index._native.render_references(b'"x/c', (3, 4), *columns, (b'"u"',))
    assert rendered == b'"x/c/0/0":["u",0,10],\n"x/c/2/3":["u",18446744073709551615,9223372036854775808],\n'
