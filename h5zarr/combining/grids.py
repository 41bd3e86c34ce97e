"""Chunks of several files as one chunk grid, where they fit one (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from h5zarr.combining.codecs import common_codecs
from h5zarr.combining.manifests import PlacedManifest, join_manifests
from h5zarr.combining.places import JoinedDimension
from h5zarr.combining.rules import same_json, shown
from h5zarr.combining.tiles import Piece
from h5zarr.errors import CombineError
from h5zarr.model import JSON, ArrayNode, Shape
from h5zarr.rectilinear import AxisGrid, axis_grids, chunk_grid, join_axes


class MisfitError(CombineError):
    """Chunks of several files do not make a chunk grid."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Joint:
    """The arrays of one path that are joined."""

    path: str
    """Their path."""
    pieces: tuple[Piece, ...]
    """The arrays, one for each place."""
    axes: tuple[int, ...]
    """The axes that they are joined along."""
    dimensions: tuple[JoinedDimension, ...]
    """The dimension of each of these axes."""

    @property
    def shape(self) -> Shape:
        """Shape of the joined array (elements)."""
        shape = list(self.pieces[0].array.metadata["shape"])
        for axis, dimension in zip(self.axes, self.dimensions, strict=True):
            shape[axis] = dimension.extent
        return tuple(shape)

    @property
    def filled(self) -> tuple[Piece, ...]:
        """The arrays that have elements; the others may be stored in any way."""
        return tuple(piece for piece in self.pieces if 0 not in piece.array.metadata["shape"])

    def places(self) -> Iterator[tuple[Piece, tuple[slice, ...]]]:
        """Yield each array, and where it stands in the joined one (elements)."""
        starts = [dimension.starts for dimension in self.dimensions]
        whole = [slice(None)] * len(self.shape)
        for piece in self.pieces:
            place = list(whole)
            for number, (axis, block) in enumerate(zip(self.axes, piece.blocks, strict=True)):
                start = starts[number][block]
                place[axis] = slice(start, start + self.dimensions[number].extents[block])
            yield piece, tuple(place)


def join_chunks(joint: Joint, *, rectilinear: bool) -> ArrayNode:
    """Return arrays as one, whose chunks are all of theirs.

    Parameters
    ----------
    joint
        The arrays.
    rectilinear
        Whether chunks may have different lengths along an axis (Zarr extensions, "rectilinear").

    Raises
    ------
    MisfitError
        Codecs differ, or chunks do not fit; it names the files.
    """
    # What has no elements may be stored in any way, where anything has some.
    pieces = joint.filled or joint.pieces[:1]
    grids = {id(piece): _axis_grids(piece) for piece in pieces}
    codecs = _codecs(joint, pieces)
    _check_other_axes(joint, pieces, grids)
    axes = list(grids[id(pieces[0])])
    first_cells: list[list[int]] = []
    for number, axis in enumerate(joint.axes):
        along = _axis_by_block(joint, number, pieces, grids)
        axes[axis] = replace(
            _joined_axis(joint, number, along, rectilinear=rectilinear),
            extent=joint.dimensions[number].extent,
        )
        first_cells.append(_first_cells(along))
    whole = (0,) * len(axes)
    return ArrayNode(
        path=joint.path,
        metadata={
            **joint.pieces[0].array.metadata,
            "shape": list(joint.shape),
            "chunk_grid": chunk_grid(axes),
            "codecs": codecs,
        },
        manifest=join_manifests(
            [_placed(joint, piece, first_cells, whole) for piece in pieces],
            tuple(axis.cell_count for axis in axes),
        ),
    )


_Grids = dict[int, tuple[AxisGrid, ...]]
"""The chunk grid of each array, by the identity of its piece."""


def _axis_grids(piece: Piece) -> tuple[AxisGrid, ...]:
    try:
        return axis_grids(piece.array.metadata)
    except ValueError as error:
        raise CombineError(f"{piece.tile.name}: {piece.array.path} has {error}") from error


def _codecs(joint: Joint, pieces: Sequence[Piece]) -> list[JSON]:
    """Return codecs that decode the chunks of all files."""
    common = common_codecs([piece.array for piece in pieces])
    if common is not None:
        return common
    own = [piece.array.metadata["codecs"] for piece in pieces]
    other = next((n for n, codecs in enumerate(own) if not same_json(codecs, own[0])), 0)
    raise MisfitError(
        f"{pieces[0].tile.name} and {pieces[other].tile.name} differ in the codecs of {joint.path}: "
        f"{shown(own[0])} and {shown(own[other])}"
    )


def _check_other_axes(joint: Joint, pieces: Sequence[Piece], grids: _Grids) -> None:
    """Check that chunks are the same along the axes that are not joined."""
    first = pieces[0]
    for other in pieces[1:]:
        for axis, (one, another) in enumerate(zip(grids[id(first)], grids[id(other)], strict=True)):
            if axis not in joint.axes and one != another:
                raise MisfitError(
                    f"{first.tile.name} and {other.tile.name} differ in the chunks of {joint.path} along "
                    f"axis {axis}: {_lengths(one)} and {_lengths(another)}"
                )


def _lengths(axis: AxisGrid) -> str:
    return shown(axis.to_json())


def _axis_by_block(
    joint: Joint, number: int, pieces: Sequence[Piece], grids: _Grids
) -> dict[int, tuple[Piece, AxisGrid]]:
    """Return the chunks along one of the joined axes, by block, which has them in all its files."""
    axis = joint.axes[number]
    along: dict[int, tuple[Piece, AxisGrid]] = {}
    for piece in pieces:
        own = grids[id(piece)][axis]
        first, expected = along.setdefault(piece.blocks[number], (piece, own))
        if own != expected:
            raise MisfitError(
                f"{first.tile.name} and {piece.tile.name} differ in the chunks of {joint.path} along "
                f"{joint.dimensions[number].name}: {_lengths(expected)} and {_lengths(own)}"
            )
    return dict(sorted(along.items()))


def _joined_axis(
    joint: Joint, number: int, along: dict[int, tuple[Piece, AxisGrid]], *, rectilinear: bool
) -> AxisGrid:
    name = joint.dimensions[number].name
    for (piece, axis), (following, _) in itertools.pairwise(along.values()):
        if not axis.is_whole:
            raise MisfitError(
                f"{piece.tile.name}: {joint.path} ends within a chunk along {name}: {axis.extent} elements "
                f"in chunks of {_lengths(axis)}, so that those of {following.tile.name} cannot follow; "
                f"rewrite it in chunks that fit, e.g. with nccopy -c {name}/1"
            )
    joined = join_axes([axis for _, axis in along.values()])
    if joined.chunk_length is None and not rectilinear:
        (first, length), (other, another) = _unlike([*along.values()])
        raise MisfitError(
            f"{first.tile.name} and {other.tile.name} have chunks of different lengths along {name} in "
            f"{joint.path}: {_lengths(length)} and {_lengths(another)}; ask for a rectilinear chunk grid "
            "(rectilinear=True, --rectilinear), which zarr-python reads from 3.4 on"
        )
    return joined


def _unlike(along: Sequence[tuple[Piece, AxisGrid]]) -> Iterator[tuple[Piece, AxisGrid]]:
    """Yield the first file, and the first whose chunks have another length."""
    yield along[0]
    lengths = [axis.chunk_length for _, axis in along]
    yield next(
        (entry for entry, length in zip(along, lengths, strict=True) if length != lengths[0]), along[-1]
    )


def _first_cells(along: dict[int, tuple[Piece, AxisGrid]]) -> list[int]:
    """Return the first grid cell of each block, by block; those without elements have none."""
    counts = [along[block][1].cell_count if block in along else 0 for block in range(1 + max(along))]
    return list(itertools.accumulate(counts, initial=0))


def _placed(joint: Joint, piece: Piece, first_cells: Sequence[Sequence[int]], whole: Shape) -> PlacedManifest:
    """Return the references of an array; ``whole`` is the first cell of one that covers all axes."""
    first_cell = list(whole)
    for number, axis in enumerate(joint.axes):
        first_cell[axis] = first_cells[number][piece.blocks[number]]
    return PlacedManifest(manifest=piece.array.manifest, first_cell=tuple(first_cell))
