"""Many files as one: references to all of them as if they were one file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Unpack

import numpy as np

from h5zarr.combining.arrays import Combiner, Compat, Rules
from h5zarr.combining.coordinates import read_coordinates
from h5zarr.combining.expand import check_patterns, expand
from h5zarr.combining.inputs import Input, Loading, load_tiles
from h5zarr.combining.places import Arrangement, Order, arrange
from h5zarr.combining.reader import Reader
from h5zarr.combining.tiles import Tile, part_key, tile
from h5zarr.combining.time import encode_dates
from h5zarr.combining.values import labels
from h5zarr.converter import Conversion
from h5zarr.dimensions import leaf
from h5zarr.errors import CombineError, Problem
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy, Part, Selection, SourceIdentity
from h5zarr.prefetch import redact
from h5zarr.references import formats
from h5zarr.references.formats import WriteOptions
from h5zarr.references.source_check import by_url, known_sources
from h5zarr.scanner import Progress

INLINE_LIMIT_BYTES = 2**20


def combine(
    inputs: Input | Iterable[Input],
    out: str | os.PathLike[str] | None = None,
    *,
    concat: str | Sequence[str] = (),
    new_dim: str | None = None,
    values: Sequence[Any] | None = None,
    data_vars: str | Sequence[str] | None = None,
    order: Order | None = None,
    compat: Compat = "identical",
    rectilinear: bool = False,
    inline_limit: int = INLINE_LIMIT_BYTES,
    append_to: Input | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    convert_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **writing: Unpack[WriteOptions],
) -> Conversion:
    """Combine many files into one Zarr hierarchy of references to all of them.

    As `xarray.open_mfdataset` with ``data_vars="minimal", coords="minimal", combine_attrs="override"``:
    arrays that have a joined dimension are joined along it, in all groups; others have to be the same
    in all files, or ``compat`` tells what becomes of them. Attributes are those of the first file.
    Those that tell what numbers mean (units, packing, fill values, flags), data types, fill values and
    codecs must be the same: what differs is an error that names two files and what each has.

    Parameters
    ----------
    inputs
        Paths, fsspec URLs, and patterns of either: of references, whose suffix tells their format, or
        of HDF5 files, which are scanned. Or what `convert` and `translate` return.
    out
        Path or fsspec URL to write, as of `h5zarr.convert`; None writes nothing.
    concat
        Names of the dimensions to join along, one or several. Of several, the coordinate variables tell
        each file's place, and every place needs one file.
    new_dim
        Name of a dimension that files do not have: each is one place along it.
    values
        Values of the coordinate variable of ``new_dim``, one for each input: numbers, texts, dates.
        Without them, a scalar variable of that name becomes its coordinate variable, if there is one.
    data_vars
        Shell patterns, one or several, of the absolute paths of arrays that get ``new_dim``; each must
        match one of any file. None: all that are no coordinates, as in `xarray.concat`.
    order
        How files follow one another: by the values of the coordinate variable (``"coordinate"``), which
        must go on in one direction from file to file, or as they are given (``"given"``). None: by
        coordinate where there is a coordinate variable and no ``values``.
    compat
        What becomes of arrays without a joined dimension. ``"identical"``: they must be the same in all
        files, bit for bit, with all attributes. ``"first"``: that of the first file, the others are not
        looked at. ``"drop"``: those that differ, or are not in all files, are left out, each with a
        problem.
    rectilinear
        Whether chunks may have different lengths along a joined dimension (months of 28, 30 and 31
        days), in a rectilinear chunk grid, which zarr-python reads from 3.4 on.
    inline_limit
        Coordinate variables, and arrays whose chunks do not fit, are read and put into the references,
        each up to so many bytes.
    append_to
        A combined result that inputs are added to; their coordinates must lie behind or before its own.
        Without ``concat``, along the dimensions that it was joined along.
    executor, jobs
        Where inputs are loaded and scanned, and how many at a time: an executor of threads or
        processes, or that of a Dask client. None: in this process, or in ``jobs`` processes.
    storage_options
        Options of the fsspec filesystem of inputs, and of the HDF5 files.
    convert_options
        Options of `h5zarr.convert` for inputs that are HDF5 files.
    progress
        Called with the number of inputs loaded and their total.
    **writing
        How to write ``out``, as of `h5zarr.references.formats.WriteOptions`.

    Returns
    -------
    Conversion
        The references. Its hierarchy's ``parts`` tell which file is where, its ``problems`` what could
        not be expressed of any file.

    Raises
    ------
    CombineError
        Files cannot be combined; it names them, and what stands in the way.
    ReferencesError
        References cannot be loaded.
    SourceError
        An HDF5 file cannot be read; or changed, so that two inputs tell of different files of one URL.
    OutputError
        ``out`` cannot be written.
    """
    to = formats.target("" if out is None else out, writing)  # what is wrong here is said at once
    job = _Job(
        concat=(concat,) if isinstance(concat, str) else tuple(concat),
        new_dim=new_dim,
        labels=None if values is None else list(values),
        data_vars=_patterns(data_vars),
        order=order,
        rules=Rules(compat=compat, rectilinear=rectilinear, inline_limit=inline_limit),
        storage_options=storage_options,
    )
    _check(job, appending=append_to is not None)
    loading = Loading(
        out=out,
        storage_options=storage_options,
        convert_options=convert_options,
        executor=executor,
        jobs=jobs,
        progress=progress,
    )
    tiles = load_tiles(inputs, loading)
    if append_to is None:
        hierarchy = _combine_new(tiles, job)
    else:
        hierarchy = _append(load_tiles([append_to], replace(loading, out=None, progress=None)), tiles, job)
    conversion = Conversion(
        hierarchy=formats.expressible(hierarchy, to), zarr_format=writing.get("zarr_format", "3")
    )
    if out is not None:
        conversion.write(out, storage_options=storage_options, **writing)
    return conversion


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What was asked for."""

    concat: tuple[str, ...]
    new_dim: str | None
    labels: list[Any] | None
    data_vars: tuple[str, ...] | None
    order: Order | None
    rules: Rules
    storage_options: Mapping[str, Any] | None

    @property
    def names(self) -> tuple[str, ...]:
        """The dimensions that are joined, the new one first, as it is in arrays."""
        return self.concat if self.new_dim is None else (self.new_dim, *self.concat)

    @property
    def orders(self) -> dict[str, Order | None]:
        """How files follow one another along each dimension."""
        orders: dict[str, Order | None] = {name: self.order for name in self.names}  # noqa: C420 - its type
        if self.new_dim is not None and self.labels is not None and self.order is None:
            orders[self.new_dim] = "given"
        return orders


def _patterns(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)


def _check(job: _Job, *, appending: bool) -> None:
    if job.rules.compat not in ("identical", "first", "drop"):
        raise ValueError(f"compat is {job.rules.compat!r}; it is 'identical', 'first' or 'drop'")
    if job.order not in (None, "coordinate", "given"):
        raise ValueError(f"order is {job.order!r}; it is 'coordinate' or 'given'")
    if not job.names and not appending:
        raise CombineError(
            "name a dimension to join along (concat, --concat), or a new one (new_dim, --new-dim)"
        )
    if job.new_dim in job.concat or len(set(job.concat)) < len(job.concat):
        raise CombineError(f"a dimension is named twice: {', '.join(job.names)}")
    if job.new_dim is None and (job.labels is not None or job.data_vars is not None):
        raise CombineError("values and data_vars are for a new dimension; name it (new_dim)")


# Combining -------------------------------------------------------------------------------


def _combine_new(tiles: Sequence[Tile], job: _Job) -> Hierarchy:
    """Return files as one; each gets the new dimension, if one was asked for."""
    if job.new_dim is not None:
        tiles = _expanded(tiles, job.new_dim, job)
    return _combine(tiles, job)


def _expanded(tiles: Sequence[Tile], new_dim: str, job: _Job) -> list[Tile]:
    check_patterns(tiles, job.data_vars or ())
    own: Sequence[ArrayNode | None] = [None] * len(tiles)
    if job.labels is not None:
        if len(job.labels) != len(tiles):
            raise CombineError(f"{len(job.labels)} values of {new_dim}, for {len(tiles)} inputs")
        numbers, attributes = _label_values(job.labels)
        own = labels(new_dim, numbers, attributes)
        tiles = [_labelled(one, new_dim, number) for one, number in zip(tiles, numbers.tolist(), strict=True)]
    return [
        expand(tile, new_dim, data_vars=job.data_vars, label=label)
        for tile, label in zip(tiles, own, strict=True)
    ]


def _labelled(one: Tile, new_dim: str, value: JSON) -> Tile:
    """Return a file whose parts tell the value that they were given, for validation."""
    parts = [replace(part, labels={**part.labels, new_dim: value}) for part in _own_parts(one.hierarchy)]
    return replace(one, hierarchy=replace(one.hierarchy, parts=tuple(parts)))


def _label_values(given: Sequence[Any]) -> tuple[Any, dict[str, JSON]]:
    """Return values as an array, which NumPy would make of numbers and texts alike, and its attributes."""
    kinds = {_kind(value) for value in given}
    if len(kinds) > 1:
        raise CombineError(f"values are {' and '.join(sorted(kinds))}; give all of one kind")
    if kinds == {"times"}:
        return encode_dates(np.array(given, "datetime64[ns]"))
    return np.asarray(given), {}


def _kind(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, date | np.datetime64):
        if getattr(value, "tzinfo", None) is not None:
            raise CombineError(f"{value} has a time zone; give times in UTC, without one")
        return "times"
    kinds = {"b": "booleans", "i": "numbers", "u": "numbers", "f": "numbers", "U": "texts"}
    return kinds.get(np.asarray(value).dtype.kind, type(value).__name__)


def _combine(tiles: Sequence[Tile], job: _Job) -> Hierarchy:
    reader = Reader(storage_options=job.storage_options or {}, sources=_sources(tiles))
    coordinates = read_coordinates(tiles, job.names, reader)
    arrangement = arrange(tiles, coordinates.axes, job.orders)
    stored = {
        path: [values[number] for number in arrangement.numbers]
        for path, values in coordinates.stored.items()
    }
    combiner = Combiner(arrangement=arrangement, coordinates=stored, rules=job.rules, reader=reader)
    nodes: dict[str, GroupNode | ArrayNode] = {}
    problems = [problem for tile in arrangement.tiles for problem in _problems(tile)]
    for path, node in _all_nodes(arrangement.tiles).items():
        combined = combiner.combine(path) if isinstance(node, ArrayNode) else node
        if isinstance(combined, Problem):
            problems.append(combined)
        else:
            nodes[path] = combined
    return Hierarchy(
        nodes=nodes,
        source=None,
        selection=_selection(arrangement.tiles),
        problems=tuple(problems),
        parts=_parts(arrangement),
    )


def _sources(tiles: Sequence[Tile]) -> dict[str, SourceIdentity]:
    """Return what is known of the files, by URL; a file may be in several inputs."""
    return by_url(source for one in tiles for source in known_sources(one.hierarchy).values())


def _all_nodes(tiles: Sequence[Tile]) -> dict[str, GroupNode | ArrayNode]:
    """Return the nodes of all files by path, each as the first file has it that has it as an array."""
    nodes: dict[str, GroupNode | ArrayNode] = {}
    for one in tiles:
        for path, node in one.hierarchy.nodes.items():
            known = nodes.setdefault(path, node)
            if isinstance(node, ArrayNode) and isinstance(known, GroupNode):
                nodes[path] = node
    return nodes


def _selection(tiles: Sequence[Tile]) -> Selection:
    """Return the selection of all files, where it is the same."""
    selections = {one.hierarchy.selection for one in tiles}
    return selections.pop() if len(selections) == 1 else Selection()


def _problems(one: Tile) -> tuple[Problem, ...]:
    """Return the problems of a file, each with the file in it; those of a combined result have theirs."""
    hierarchy = one.hierarchy
    if hierarchy.parts and hierarchy.source is None:
        return hierarchy.problems
    name = one.name if hierarchy.source is None else redact(hierarchy.source.url)
    return tuple(replace(problem, found=f"in {name}: {problem.found}") for problem in hierarchy.problems)


def _parts(arrangement: Arrangement) -> tuple[Part, ...]:
    """Return which file is where, as far as files are known."""
    parts: list[Part] = []
    starts = {path: dimension.starts for path, dimension in arrangement.dimensions.items()}
    for one, blocks in zip(arrangement.tiles, arrangement.blocks, strict=True):
        start, extent = {}, {}
        for path, dimension in arrangement.dimensions.items():
            block = blocks[dimension.name]
            start[part_key(path)] = starts[path][block]
            extent[part_key(path)] = dimension.extents[block]
        parts += [_moved(part, start, extent) for part in _own_parts(one.hierarchy)]
    return tuple(parts)


def _own_parts(hierarchy: Hierarchy) -> tuple[Part, ...]:
    if hierarchy.parts or hierarchy.source is None:
        return hierarchy.parts
    only = Part(
        source=hierarchy.source,
        selection=hierarchy.selection,
        start={},
        extent={},
        neighbours=hierarchy.neighbours,
    )
    return (only,)


def _moved(part: Part, start: Mapping[str, int], extent: Mapping[str, int]) -> Part:
    moved = {key: part.start.get(key, 0) + at for key, at in start.items()}
    return replace(part, start={**part.start, **moved}, extent={**extent, **part.extent})


# Appending -------------------------------------------------------------------------------


def _append(existing: Sequence[Tile], tiles: Sequence[Tile], job: _Job) -> Hierarchy:
    """Return a combined result with further files; those that it has are not read again."""
    if len(existing) > 1:
        raise CombineError(f"{existing[0].name} and others match append_to; name one result")
    old = existing[0]
    if not job.names:
        job = replace(job, concat=_joined_names(old))
    _check_new(old, tiles)
    added = _combine_new(tiles, job)
    name = tiles[0].name if len(tiles) == 1 else f"{len(tiles)} new files ({tiles[0].name}, …)"
    return _combine([old, tile(name, added)], job)


def _joined_names(old: Tile) -> tuple[str, ...]:
    keys = {key: None for part in old.hierarchy.parts for key in part.start}
    if not keys:
        raise CombineError(f"{old.name}: does not tell what it was joined along; name the dimension (concat)")
    return tuple(dict.fromkeys(leaf(f"/{key}") for key in keys))


def _check_new(old: Tile, tiles: Sequence[Tile]) -> None:
    """Check that no file is in the result already."""
    known = {part.source.url for part in old.hierarchy.parts}
    for one in tiles:
        for part in _own_parts(one.hierarchy):
            if part.source.url in known:
                url = redact(part.source.url)
                raise CombineError(f"{one.name}: {url} is in {old.name} already; leave it out")
