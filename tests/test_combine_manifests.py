"""Joined references are NumPy's concatenation of grids of chunks, whatever the shapes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from h5zarr.combining.grids import Joint, MisfitError, join_chunks
from h5zarr.combining.manifests import PlacedManifest, join_manifests
from h5zarr.combining.places import JoinedDimension
from h5zarr.combining.split import split_chunks
from h5zarr.combining.tiles import Piece, tile
from h5zarr.errors import CombineError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy, Manifest, Selection
from h5zarr.rectilinear import AxisGrid, axis_grids, chunk_grid, join_axes

Grid = np.ndarray[Any, Any]
"""A grid of chunks: where each is, its bytes where it stands inline, None where it is absent."""


def random_grid(shape: tuple[int, ...], rng: np.random.Generator, number: int) -> Grid:
    grid = np.empty(shape, object)
    for cell in np.ndindex(shape):
        kind = rng.integers(4)
        if kind == 0:
            grid[cell] = None
        elif kind == 1:
            grid[cell] = rng.bytes(3)
        else:
            url = f"file:///{number}-{rng.integers(2)}"
            grid[cell] = (url, int(rng.integers(2**40)), int(rng.integers(1, 100)))
    return grid


def manifest_of(grid: Grid) -> Manifest:
    flat = grid.reshape(-1)
    rows = [(position, *chunk) for position, chunk in enumerate(flat) if isinstance(chunk, tuple)]
    urls = sorted({row[1] for row in rows})
    return Manifest(
        grid_shape=grid.shape,
        locations=tuple(urls),
        location_index=np.array([urls.index(row[1]) for row in rows], np.uint32) if len(urls) > 1 else None,
        grid_position=np.array([row[0] for row in rows], np.uint64),
        byte_offset=np.array([row[2] for row in rows], np.uint64),
        byte_length=np.array([row[3] for row in rows], np.uint64),
        inline={position: chunk for position, chunk in enumerate(flat) if isinstance(chunk, bytes)},
    )


def grid_of(manifest: Manifest) -> Grid:
    position = manifest.grid_position
    assert (position[1:] > position[:-1]).all()
    flat = np.empty(int(np.prod(manifest.grid_shape, dtype=int)), object)
    which = manifest.location_index
    for row, cell in enumerate(position.tolist()):
        url = manifest.locations[0 if which is None else which[row]]
        flat[cell] = (url, int(manifest.byte_offset[row]), int(manifest.byte_length[row]))
    for cell, chunk in manifest.inline.items():
        assert flat[cell] is None
        flat[cell] = chunk
    return flat.reshape(manifest.grid_shape)


def same_grids(found: Grid, expected: Grid) -> bool:
    return found.shape == expected.shape and found.tolist() == expected.tolist()


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_joined_along_any_axes(data: st.DataObject) -> None:
    """Blocks along several axes, given in any order, are NumPy's block by block."""
    rank = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    counts = [data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)) for _ in range(rank)]
    blocks = list(itertools.product(*(range(len(axis)) for axis in counts)))
    grids = {
        block: random_grid(tuple(axis[at] for axis, at in zip(counts, block, strict=True)), rng, number)
        for number, block in enumerate(blocks)
    }
    shape = tuple(map(sum, counts))
    expected = np.empty(shape, object)
    pieces = []
    for block in data.draw(st.permutations(blocks)):
        first = tuple(sum(axis[:at]) for axis, at in zip(counts, block, strict=True))
        place = tuple(slice(at, at + n) for at, n in zip(first, grids[block].shape, strict=True))
        expected[place] = grids[block]
        pieces.append(PlacedManifest(manifest=manifest_of(grids[block]), first_cell=first))
    assert same_grids(grid_of(join_manifests(pieces, shape)), expected)


def test_joined_along_no_axis() -> None:
    grid = np.empty((), object)
    grid[()] = ("file:///a", 1, 2)
    joined = join_manifests([PlacedManifest(manifest=manifest_of(grid), first_cell=())], ())
    assert same_grids(grid_of(joined), grid)


def test_positions_beyond_32_bits() -> None:
    first = manifest_of(random_grid((1, 1), np.random.default_rng(1), 0))
    grid = (2**20, 2**40)
    joined = join_manifests([PlacedManifest(manifest=first, first_cell=(2**20 - 1, 2**40 - 1))], grid)
    assert [*joined.grid_position.tolist(), *joined.inline] == [2**60 - 1] * len(first)


def test_more_cells_than_64_bits_count() -> None:
    with pytest.raises(CombineError, match="64 bits"):
        join_manifests([], (2**32, 2**31))


# Axes ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_axes_join_and_survive_json(data: st.DataObject) -> None:
    """A grid says where every chunk begins, however it is written."""
    axes = [data.draw(whole_axis()) for _ in range(data.draw(st.integers(1, 5)))]
    last = data.draw(st.integers(0, 3))
    axes.append(AxisGrid(extent=last, chunk_length=4))
    joined = join_axes(axes)
    expected = [length for axis in axes for length in axis.lengths()]
    assert list(joined.lengths()) == expected
    assert joined.extent == sum(axis.extent for axis in axes)
    assert joined.cell_count == len(expected)
    document = {"shape": [joined.extent], "chunk_grid": chunk_grid([joined])}
    assert axis_grids(document) == (joined,)


@st.composite
def whole_axis(draw: st.DrawFn) -> AxisGrid:
    if draw(st.booleans()):
        length = draw(st.integers(1, 4))
        return AxisGrid(extent=length * draw(st.integers(0, 4)), chunk_length=length)
    lengths = tuple(
        draw(st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda x: len(set(x)) > 1))
    )
    return AxisGrid(extent=sum(lengths), chunk_length=None, chunk_lengths=lengths)


GRIDS: dict[str, Any] = {
    "neither": {"name": "hexagonal", "configuration": {}},
    "too short": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[2, 3]]}},
    "too long": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[4, 4, 4, 4]]}},
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_grids_that_are_refused(grid: Any) -> None:
    with pytest.raises(ValueError, match="chunk"):
        axis_grids({"shape": [10], "chunk_grid": grid})


# Uncompressed chunks ---------------------------------------------------------------------


def stored_array(
    path: Path, values: np.ndarray[Any, Any], chunks: tuple[int, ...], inline: bool
) -> ArrayNode:
    """Write whole chunks one after the other, the edges padded, and return references to them."""
    grid = tuple(-(-extent // chunk) for extent, chunk in zip(values.shape, chunks, strict=True))
    padding = [(0, n * chunk - extent) for n, chunk, extent in zip(grid, chunks, values.shape, strict=True)]
    padded = np.pad(values, padding, constant_values=255)
    stored = [
        padded[
            tuple(slice(at * chunk, (at + 1) * chunk) for at, chunk in zip(cell, chunks, strict=True))
        ].tobytes()
        for cell in np.ndindex(grid)
    ]
    path.write_bytes(b"".join(stored))
    length = len(stored[0]) if stored else 1
    position = np.arange(0 if inline else len(stored), dtype=np.uint64)
    manifest = Manifest(
        grid_shape=grid,
        locations=(str(path),),
        grid_position=position,
        byte_offset=position * np.uint64(length),
        byte_length=np.full(len(position), length, np.uint64),
        inline=dict(enumerate(stored)) if inline else {},
    )
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(values.shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
        "dimension_names": ["t", "y", "x"][: values.ndim],
    }
    return ArrayNode(path="/v", metadata=metadata, manifest=manifest)


def read_back(array: ArrayNode) -> np.ndarray[Any, Any]:
    """Read an uncompressed array chunk by chunk."""
    chunks = tuple(axis.chunk_length or 0 for axis in axis_grids(array.metadata))
    padded = np.zeros(
        [n * chunk for n, chunk in zip(array.manifest.grid_shape, chunks, strict=True)], np.uint8
    )
    grid = grid_of(array.manifest)
    for cell in np.ndindex(grid.shape):
        entry = grid[cell]
        if isinstance(entry, tuple):
            url, offset, length = entry
            entry = Path(url).read_bytes()[offset : offset + length]
        place = tuple(slice(at * chunk, (at + 1) * chunk) for at, chunk in zip(cell, chunks, strict=True))
        padded[place] = np.frombuffer(entry, np.uint8).reshape(chunks)
    return padded[tuple(map(slice, array.metadata["shape"]))]


def joint(arrays: list[ArrayNode], axis: int) -> Joint:
    root = GroupNode(path="/", metadata={"zarr_format": 3, "node_type": "group", "attributes": {}})
    pieces = []
    for number, array in enumerate(arrays):
        nodes = {"/": root, array.path: array}
        hierarchy = Hierarchy(nodes=nodes, source=None, selection=Selection(), problems=())
        pieces.append(Piece(tile=tile(f"{number}.nc", hierarchy), array=array, blocks=(number,)))
    extents = tuple(array.metadata["shape"][axis] for array in arrays)
    dimension = JoinedDimension(name="t", path="/t", extents=extents)
    return Joint(path="/v", pieces=tuple(pieces), axes=(axis,), dimensions=(dimension,))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_uncompressed_chunks_are_split(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the lengths of files and chunks, what is joined reads as NumPy's concatenation."""
    folder = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    axis = data.draw(st.integers(0, 1))
    arrays, values = [], []
    for number in range(data.draw(st.integers(1, 4))):
        extent = data.draw(st.integers(0, 12))
        shape = [3, 2050] if axis == 0 else [2, 3, 1025]
        shape[axis] = extent
        chunks = [max(length, 1) for length in shape]
        chunks[0] = 1 if axis else chunks[0]
        chunks[axis] = data.draw(st.integers(1, max(extent, 1) + 2))
        values.append(rng.integers(0, 256, shape, np.uint8))
        inline = data.draw(st.booleans())
        arrays.append(stored_array(folder / str(number), values[-1], tuple(chunks), inline))
    assume(any(value.size for value in values))
    whole = joint(arrays, axis)
    split = split_chunks(whole)
    assert split is not None
    joined = join_chunks(split, rectilinear=False)
    np.testing.assert_array_equal(read_back(joined), np.concatenate(values, axis))


def test_tiny_chunks_are_not_split(tmp_path: Path) -> None:
    values = np.zeros((7, 10), np.uint8)
    arrays = [stored_array(tmp_path / "0", values, (7, 10), False)]
    arrays.append(stored_array(tmp_path / "1", values[:6], (6, 10), False))
    assert split_chunks(joint(arrays, 0)) is None


def test_chunks_across_the_axis_are_not_split(tmp_path: Path) -> None:
    values = np.zeros((2, 7, 2000), np.uint8)
    arrays = [stored_array(tmp_path / "0", values, (2, 7, 2000), False)]
    arrays.append(stored_array(tmp_path / "1", values[:, :6], (2, 6, 2000), False))
    assert split_chunks(joint(arrays, 1)) is None


@pytest.mark.parametrize("rectilinear", [False, True])
def test_nothing_follows_a_partial_chunk(rectilinear: bool, tmp_path: Path) -> None:
    values = np.zeros((7, 10), np.uint8)
    arrays = [stored_array(tmp_path / str(number), values, (4, 10), False) for number in range(2)]
    with pytest.raises(
        MisfitError, match=r"0\.nc: /v ends within a chunk along t: 7 elements in chunks of 4"
    ):
        join_chunks(joint(arrays, 0), rectilinear=rectilinear)
