"""From a `FileScan` to a `Hierarchy`: HDF5's words into Zarr's, once, without any I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from h5zarr.attributes import enumeration_fields, is_dimension_placeholder, translate_attributes
from h5zarr.chunk_form import ChunkForm
from h5zarr.datatypes import ZarrDataType, fill_value_json, is_signalling, translate_datatype
from h5zarr.dimensions import dimension_names, leaf
from h5zarr.errors import Problem, ReferencesError, UntranslatableError
from h5zarr.file_image import check_conversion, unfilter_chunk
from h5zarr.filter_registry import missing_plugin
from h5zarr.filters import MaskPlan, plan_masks, standard_codecs
from h5zarr.inline_values import InlineArray, inline_array
from h5zarr.model import (
    JSON,
    ArrayNode,
    ChunkIndex,
    Dataset,
    ExternalFile,
    FileScan,
    Group,
    GroupNode,
    Hierarchy,
    Layout,
    Manifest,
    Shape,
    grid_shape,
)

Links = Literal["arrays", "attributes"]
"""What becomes of further names of a dataset: arrays of their own, or an attribute of the first."""

_LINKS_ATTRIBUTE = "hdf5_links"
_LARGEST_CONTIGUOUS_CHUNK_BYTES = 64 * 2**20
_LARGEST_INLINE_CHUNK_BYTES = 4 * 2**20
_MOST_DIVISORS_TRIED = 100_000
_UNREADABLE_SEGMENTS = frozenset({".", ".."})
_UNMASKED = MaskPlan(
    filter_mask=0,
    mask_by_byte_length=(),
    untold=np.zeros(0, np.uint64),
    untold_mask=np.zeros(0, np.uint32),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Storage:
    """How the chunks of one array are laid out and decoded."""

    shape: Shape
    chunk_shape: Shape
    data_type: JSON
    fill_value: JSON
    codecs: list[JSON]
    manifest: Manifest


def translate(scan: FileScan, *, links: Links = "arrays", phony_dimensions: bool = True) -> Hierarchy:
    """Return the Zarr hierarchy of references that reads back as the scanned file.

    Parameters
    ----------
    scan
        What `h5zarr.scan` returned.
    links
        ``"arrays"``: each further hard or soft link to a dataset is an array with the same
        references. ``"attributes"``: each object once, its other names in an attribute, where those
        of groups always are.
    phony_dimensions
        Whether axes without a dimension scale are named ``phony_dim_N``, as netCDF tools do;
        xarray opens no array without names.

    Returns
    -------
    Hierarchy
        Its ``problems`` list everything that could not be expressed.

    Raises
    ------
    ValueError
        ``links`` is something else.
    """
    if links not in get_args(Links):
        raise ValueError(f"links is {links!r}; choose one of {', '.join(map(repr, get_args(Links)))}")
    names = dimension_names(scan, phony=phony_dimensions)
    problems = list(scan.problems)
    nodes: dict[str, GroupNode | ArrayNode] = {}
    for group in scan.groups:
        _add_group(nodes, group, scan, problems)
    for dataset in scan.datasets:
        own: list[Problem] = []
        named = _with_readable_names(dataset, links, problems)
        if named is not None:
            array = _array_or_problem(named, names.get(dataset.path, ()), scan, own)
            if array is not None:
                _add_array(nodes, array, named.other_names, scan, links, problems)
            problems.extend(_of_all_names(own, named, links))
    return Hierarchy(
        nodes=_with_parents(nodes),
        source=scan.source,
        selection=scan.selection,
        problems=tuple(problems),
        neighbours=scan.neighbours,
    )


def _with_parents(nodes: dict[str, GroupNode | ArrayNode]) -> dict[str, GroupNode | ArrayNode]:
    """Return the nodes, parents before children, with groups that a link's path needs."""
    complete: dict[str, GroupNode | ArrayNode] = {}
    for path, node in nodes.items():
        parts = path.strip("/").split("/")
        for depth in range(len(parts)):
            above = "/" + "/".join(parts[:depth])
            if above not in complete:
                complete[above] = nodes.get(above) or _group_node(above, {})
        complete[path] = node
    return complete


# Names -----------------------------------------------------------------------------------


def _unreadable_name(path: str) -> Problem | None:
    """Return why zarr-python could not open a path, None where it can."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        readable = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        found = "a name that is not UTF-8, which Zarr's keys are"
        return Problem(path=readable, found=found, remedy="rename it with h5py")
    if "\\" in path or not _UNREADABLE_SEGMENTS.isdisjoint(path.split("/")):
        found = "a name that is '.' or '..' or has a backslash, which no Zarr reader can open"
        return Problem(path=path, found=found, remedy="rename it with h5py")
    return None


# Groups ----------------------------------------------------------------------------------


def _add_group(
    nodes: dict[str, GroupNode | ArrayNode],
    group: Group,
    scan: FileScan,
    problems: list[Problem],
) -> None:
    unreadable = _unreadable_name(group.path)
    if unreadable is not None:
        problems.append(unreadable)
        return
    attributes, lost = translate_attributes(group.attributes, path=group.path)
    problems.extend(lost)
    if group.other_names:
        _tell_names(attributes, group.path, group.other_names, problems)
    path = scan.selection.zarr_path(group.path)
    nodes[path] = _group_node(path, attributes)


def _tell_names(
    attributes: dict[str, JSON], path: str, other_names: Sequence[str], problems: list[Problem]
) -> None:
    """Put the further names of an object into its attributes; one of a user's own stays."""
    if attributes.setdefault(_LINKS_ATTRIBUTE, list(other_names)) != list(other_names):
        problems.append(
            Problem(
                path=path,
                attribute=_LINKS_ATTRIBUTE,
                found=f"the attribute that would tell of {', '.join(other_names)}, but is taken",
                remedy="rename the attribute in the HDF5 file",
            )
        )


def _group_node(path: str, attributes: Mapping[str, JSON]) -> GroupNode:
    return GroupNode(
        path=path, metadata={"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    )


# Arrays ----------------------------------------------------------------------------------


def _add_array(
    nodes: dict[str, GroupNode | ArrayNode],
    array: ArrayNode,
    other_names: Sequence[str],
    scan: FileScan,
    links: Links,
    problems: list[Problem],
) -> None:
    if links == "attributes" and other_names:
        named = dict(array.metadata["attributes"])
        _tell_names(named, array.path, other_names, problems)
        array = replace(array, metadata={**array.metadata, "attributes": named})
    nodes[array.path] = array
    if links == "arrays":
        for name in other_names:
            path = scan.selection.zarr_path(name)
            nodes[path] = replace(array, path=path)


def _with_readable_names(dataset: Dataset, links: Links, problems: list[Problem]) -> Dataset | None:
    """Return a dataset under the names that Zarr can have; None where no array is made of it."""
    if is_dimension_placeholder(dataset.attributes):
        return None
    names = (dataset.path, *dataset.other_names)
    if len(names) == 1 and _unreadable_name(dataset.path) is None:  # as nearly all
        return dataset
    unreadable = {name: _unreadable_name(name) for name in names}
    readable = [name for name in names if unreadable[name] is None]
    told = names if links == "arrays" or not readable else names[: names.index(readable[0])]
    problems.extend(problem for name in told if (problem := unreadable[name]) is not None)
    if not readable:
        return None
    others = readable[1:] if links == "arrays" else [name for name in names if name != readable[0]]
    return replace(dataset, path=readable[0], other_names=tuple(others))


def _of_all_names(own: Iterable[Problem], dataset: Dataset, links: Links) -> Iterator[Problem]:
    """Yield the problems of a dataset under each of its names: who opens a group looks for those in it."""
    for problem in own:
        yield problem
        if links == "arrays":
            yield from (replace(problem, path=name) for name in dataset.other_names)


def _array_or_problem(
    dataset: Dataset, names: Sequence[str | None], scan: FileScan, problems: list[Problem]
) -> ArrayNode | None:
    if dataset.problem is not None:
        problems.append(dataset.problem)
        return None
    try:
        array, lost = _array(dataset, names, scan)
    except UntranslatableError as reason:
        problems.append(Problem(path=dataset.path, found=reason.found, remedy=reason.remedy))
        return None
    problems.extend(lost)
    return array


def _array(
    dataset: Dataset, names: Sequence[str | None], scan: FileScan
) -> tuple[ArrayNode, Sequence[Problem]]:
    storage, dtype = _storage(dataset, scan.source.url)
    attributes, lost = translate_attributes(dataset.attributes, path=dataset.path, data_type=dtype)
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(storage.shape),
        "data_type": storage.data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(storage.chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": storage.fill_value,
        "codecs": storage.codecs,
        "attributes": attributes,
        "dimension_names": _all_names(names, storage.shape, dataset),
        **enumeration_fields(dataset.datatype),
    }
    path = scan.selection.zarr_path(dataset.path)
    return ArrayNode(path=path, metadata=metadata, manifest=storage.manifest), lost


def _all_names(names: Sequence[str | None], shape: Shape, dataset: Dataset) -> list[str | None]:
    """Return the dimension names, with names for the dimensions of an array datatype."""
    trailing = range(len(names), len(shape))
    return [*names, *(f"{leaf(dataset.path)}_element_{axis}" for axis in trailing)]


def _storage(dataset: Dataset, url: str) -> tuple[_Storage, np.dtype[np.generic]]:
    """Return how the array is stored, and the NumPy dtype that a reader gives it.

    Raises
    ------
    UntranslatableError
        Zarr cannot express it.
    """
    if dataset.shape is None:
        return _null_storage(dataset)
    if dataset.values is not None:
        inline = inline_array(dataset.values, dataset.datatype)
        return _inline_storage(inline), _reader_dtype(inline)
    data_type = translate_datatype(
        dataset.datatype, dataset.memory_dtype, clean_padding=dataset.clean_padding
    )
    if dataset.elements is not None:
        return _elements_storage(dataset, data_type), data_type.dtype
    if dataset.layout is Layout.EXTERNAL:
        return _external_storage(dataset, data_type), data_type.dtype
    return _referenced_storage(dataset, data_type, dataset.urls or (url,)), data_type.dtype


def _reader_dtype(inline: InlineArray) -> np.dtype[np.generic]:
    return np.dtypes.StringDType() if inline.data_type == "string" else np.dtype("V1")


def _null_storage(dataset: Dataset) -> tuple[_Storage, np.dtype[np.generic]]:
    """A null dataspace has no elements: an array of length 0, of one byte where the type has no form."""
    data_type: JSON = "uint8"
    dtype: np.dtype[np.generic] = np.dtype(np.uint8)
    if dataset.memory_dtype is not None and not dataset.datatype.on_heap:
        translated = translate_datatype(dataset.datatype, dataset.memory_dtype, clean_padding=True)
        data_type, dtype = translated.data_type, translated.dtype
    storage = _Storage(
        shape=(0,),
        chunk_shape=(1,),
        data_type=data_type,
        fill_value=fill_value_json(None, dtype),
        codecs=[_bytes_codec("little" if dtype.itemsize > 1 and dtype.kind != "S" else None)],
        manifest=_empty_manifest((0,)),
    )
    return storage, dtype


def _empty_manifest(grid: Shape, inline: Mapping[int, bytes] | None = None) -> Manifest:
    empty = np.zeros(0, np.uint64)
    return Manifest(
        grid_shape=grid,
        locations=(),
        grid_position=empty,
        byte_offset=empty,
        byte_length=empty,
        inline=inline or {},
    )


def _inline_storage(inline: InlineArray) -> _Storage:
    return _Storage(
        shape=inline.shape,
        chunk_shape=inline.chunk_shape,
        data_type=inline.data_type,
        fill_value=inline.fill_value,
        codecs=inline.codecs,
        manifest=_empty_manifest(grid_shape(inline.shape, inline.chunk_shape), inline.chunks),
    )


def _elements_storage(dataset: Dataset, data_type: ZarrDataType) -> _Storage:
    """Return a virtual dataset's elements inline, in one chunk or several of equal size."""
    assert dataset.shape is not None
    assert dataset.elements is not None
    byte_length = math.prod(data_type.trailing_shape) * data_type.dtype.itemsize
    chunk_shape = _split(dataset.shape, byte_length, _LARGEST_INLINE_CHUNK_BYTES)
    grid = grid_shape(dataset.shape, chunk_shape)
    length = math.prod(chunk_shape) * byte_length
    inline = {
        position: dataset.elements[position * length : (position + 1) * length]
        for position in range(math.prod(grid))
    }
    trailing = data_type.trailing_shape
    return _Storage(
        shape=dataset.shape + trailing,
        chunk_shape=chunk_shape + trailing,
        data_type=data_type.data_type,
        fill_value=_fill_value(dataset, data_type),
        codecs=[_bytes_codec("little" if data_type.endian else None)],
        manifest=_empty_manifest(grid + (1,) * len(trailing), inline),
    )


def _external_storage(dataset: Dataset, data_type: ZarrDataType) -> _Storage:
    """Return external storage as chunks none of which lies in two pieces."""
    assert dataset.shape is not None
    trailing = data_type.trailing_shape
    pieces = dataset.external_files
    row = dataset.datatype.byte_length
    boundaries = [piece.byte_length for piece in pieces]
    largest = min(math.gcd(*boundaries), _LARGEST_CONTIGUOUS_CHUNK_BYTES) if pieces else row
    chunk_shape = _split(dataset.shape, row, max(largest, row), divides=math.gcd(*boundaries))
    form = ChunkForm(
        chunk_byte_length=math.prod(chunk_shape) * row,
        stored_type=dataset.stored_type if data_type.needs_conversion else None,
        memory_type=dataset.memory_type if data_type.needs_conversion else None,
    )
    _check_conversion(form)
    if any(boundary % form.chunk_byte_length for boundary in boundaries):
        raise UntranslatableError(
            "external storage in pieces that end within an element", "copy the dataset with h5repack -l CONTI"
        )
    return _Storage(
        shape=dataset.shape + trailing,
        chunk_shape=chunk_shape + trailing,
        data_type=data_type.data_type,
        fill_value=_fill_value(dataset, data_type),
        codecs=_codec_pipeline(data_type, form),
        manifest=_external_manifest(
            grid_shape(dataset.shape, chunk_shape) + (1,) * len(trailing), pieces, form.chunk_byte_length
        ),
    )


def _external_manifest(grid: Shape, pieces: Sequence[ExternalFile], chunk_byte_length: int) -> Manifest:
    counts = [piece.byte_length // chunk_byte_length for piece in pieces]
    byte_offset = [
        np.uint64(piece.byte_offset) + np.arange(count, dtype=np.uint64) * np.uint64(chunk_byte_length)
        for piece, count in zip(pieces, counts, strict=True)
    ]
    return Manifest(
        grid_shape=grid,
        locations=tuple(piece.url for piece in pieces),
        grid_position=np.arange(sum(counts), dtype=np.uint64),
        byte_offset=np.concatenate(byte_offset) if byte_offset else np.zeros(0, np.uint64),
        byte_length=np.full(sum(counts), chunk_byte_length, np.uint64),
        location_index=np.repeat(np.arange(len(pieces), dtype=np.uint32), counts),
    )


def _bytes_codec(endian: str | None) -> JSON:
    if endian is None:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": endian}}


def _referenced_storage(dataset: Dataset, data_type: ZarrDataType, urls: tuple[str, ...]) -> _Storage:
    assert dataset.shape is not None
    chunk_shape = _chunk_shape(dataset)
    masks = _masks(dataset, dataset.shape, chunk_shape)
    codecs, form = _codecs(dataset, data_type, chunk_shape, masks)
    trailing = data_type.trailing_shape
    return _Storage(
        shape=dataset.shape + trailing,
        chunk_shape=chunk_shape + trailing,
        data_type=data_type.data_type,
        fill_value=_fill_value(dataset, data_type),
        codecs=codecs,
        manifest=_manifest(dataset, chunk_shape, trailing, masks, form, urls),
    )


def _masks(dataset: Dataset, shape: Shape, chunk_shape: Shape) -> MaskPlan:
    if not dataset.filters:
        return _UNMASKED
    partial = dataset.unfiltered_partial_chunks
    return plan_masks(dataset.chunk_index, dataset.filters, shape, chunk_shape, partial)


def _chunk_shape(dataset: Dataset) -> Shape:
    """Return the chunk shape; contiguous storage is split where it is large (elements)."""
    assert dataset.shape is not None
    if dataset.chunk_shape is not None:
        return dataset.chunk_shape
    if dataset.stored_bytes:
        return tuple(max(extent, 1) for extent in dataset.shape)
    return _split(dataset.shape, dataset.datatype.byte_length, _LARGEST_CONTIGUOUS_CHUNK_BYTES)


def _split(shape: Shape, element_byte_length: int, largest: int, divides: int = 0) -> Shape:
    """Split contiguous elements into equal chunks that are contiguous themselves and not too large.

    The leading axes are cut into single rows, as many as needed, and the next into a divisor of
    its length, so that every chunk is whole. An axis without a suitable divisor stays whole.

    Parameters
    ----------
    shape
        (rank,) in elements.
    element_byte_length
        Bytes of one element.
    largest
        Bytes of a chunk at most, unless one element takes more.
    divides
        Bytes of which a chunk must be a divisor, where one exists; 0 for any.
    """
    chunk = [max(extent, 1) for extent in shape]
    for axis, extent in enumerate(chunk):
        row = math.prod(chunk[axis + 1 :]) * element_byte_length
        most = max(largest // row, 1)
        if extent <= most and divides % (extent * row) == 0:
            break
        fewest = -(-extent // most)
        counts = (count for count in range(fewest, fewest + _MOST_DIVISORS_TRIED) if extent % count == 0)
        lengths = (extent // count for count in counts)
        length = next((length for length in lengths if divides % (length * row) == 0), None)
        if length is None:
            break
        chunk[axis] = length
        if divides % (chunk[axis] * row) == 0 and chunk[axis] * row <= largest:
            break
    return tuple(chunk)


def _fill_value(dataset: Dataset, data_type: ZarrDataType) -> JSON:
    """Return the fill value; that of an array datatype has to be the same in all its elements."""
    element = dataset.fill_value
    is_seen = len(dataset.chunk_index) < math.prod(dataset.chunk_index.grid_shape)
    if is_seen and is_signalling(element, data_type.dtype):
        raise UntranslatableError(
            "a fill value that is a signalling NaN, which zarr-python makes a quiet one",
            "write the missing chunks, e.g. with h5repack",
        )
    if element is None or not data_type.trailing_shape:
        return fill_value_json(element, data_type.dtype)
    length = data_type.dtype.itemsize
    first = element[:length]
    if element != first * (len(element) // length):
        raise UntranslatableError(
            "a fill value of an array datatype whose elements differ, and Zarr has one for all",
            "rewrite the dataset with another fill value",
        )
    return fill_value_json(first, data_type.dtype)


# Codecs ----------------------------------------------------------------------------------


def _codecs(
    dataset: Dataset, data_type: ZarrDataType, chunk_shape: Shape, masks: MaskPlan
) -> tuple[list[JSON], ChunkForm]:
    """Return the codec pipeline, and the form of the stored chunks that it undoes."""
    byte_length = math.prod(chunk_shape) * dataset.datatype.byte_length
    form = ChunkForm(
        chunk_byte_length=byte_length,
        filters=dataset.filters,
        filter_mask=masks.filter_mask,
        mask_by_byte_length=masks.mask_by_byte_length + _untold_length(dataset, masks, byte_length),
        stored_type=dataset.stored_type if data_type.needs_conversion else None,
        memory_type=dataset.memory_type if data_type.needs_conversion else None,
    )
    _check_conversion(form)
    return _codec_pipeline(data_type, form), form


def _check_conversion(form: ChunkForm) -> None:
    """Refuse elements that libhdf5 cannot convert: each chunk would be an error when it is read."""
    try:
        check_conversion(form)
    except ReferencesError as error:
        found = f"a datatype that cannot be converted: {error}"
        raise UntranslatableError(found, "read it with h5dump") from error


def _codec_pipeline(data_type: ZarrDataType, form: ChunkForm) -> list[JSON]:
    applied = form.applied_filters(form.filter_mask)
    standard = standard_codecs(applied, form.chunk_byte_length)
    first = _bytes_codec(data_type.endian)
    if standard is not None and not form.mask_by_byte_length and not data_type.needs_conversion:
        return [first, *standard]
    missing = missing_plugin(applied)
    if missing is not None:
        raise UntranslatableError(missing.found, missing.remedy)
    return [first, {"name": "h5zarr.hdf5", "configuration": form.to_configuration()}]


def _untold_length(dataset: Dataset, masks: MaskPlan, chunk_byte_length: int) -> tuple[tuple[int, int], ...]:
    """Return the length that tells unfiltered inline chunks, and the mask of such chunks."""
    if not len(masks.untold):
        return ()
    return ((_padded_byte_length(dataset, chunk_byte_length), (1 << len(dataset.filters)) - 1),)


def _padded_byte_length(dataset: Dataset, chunk_byte_length: int) -> int:
    """Return a length that no stored chunk has (bytes)."""
    return max(chunk_byte_length, int(dataset.chunk_index.byte_length.max())) + 1


# Manifests -------------------------------------------------------------------------------


def _manifest(
    dataset: Dataset,
    chunk_shape: Shape,
    trailing: Shape,
    masks: MaskPlan,
    form: ChunkForm,
    urls: tuple[str, ...],
) -> Manifest:
    assert dataset.shape is not None
    index = dataset.chunk_index
    grid = grid_shape(dataset.shape, chunk_shape) + (1,) * len(trailing)
    inline = dict(dataset.stored_bytes)
    if len(masks.untold):
        inline |= _unfiltered_chunks(dataset, masks, form)
    if dataset.chunk_shape is None and not inline and len(index) and math.prod(grid) > 1:
        return _contiguous_manifest(grid, int(index.byte_offset[0]), form.chunk_byte_length, urls)
    kept = _referenced_rows(index, inline)
    return Manifest(
        grid_shape=grid,
        locations=urls,
        location_index=None if dataset.url_index is None else dataset.url_index[kept],
        grid_position=index.grid_position[kept],
        byte_offset=index.byte_offset[kept],
        byte_length=index.byte_length[kept],
        inline=inline,
    )


def _referenced_rows(index: ChunkIndex, inline: Mapping[int, bytes]) -> Any:
    """Return what selects the rows of the index that do not stand inline."""
    if not inline:
        return slice(None)
    if len(inline) == len(index):
        return slice(0)
    return ~np.isin(index.grid_position, np.fromiter(inline, np.uint64, len(inline)))


def _contiguous_manifest(
    grid: Shape, byte_offset: int, chunk_byte_length: int, urls: tuple[str, ...]
) -> Manifest:
    position = np.arange(math.prod(grid), dtype=np.uint64)
    return Manifest(
        grid_shape=grid,
        locations=urls,
        grid_position=position,
        byte_offset=np.uint64(byte_offset) + position * np.uint64(chunk_byte_length),
        byte_length=np.full(len(position), chunk_byte_length, np.uint64),
    )


def _unfiltered_chunks(dataset: Dataset, masks: MaskPlan, form: ChunkForm) -> dict[int, bytes]:
    """Undo the filters of chunks whose mask their length does not tell."""
    length = _padded_byte_length(dataset, form.chunk_byte_length)
    chunks: dict[int, bytes] = {}
    for position, mask in zip(masks.untold.tolist(), masks.untold_mask.tolist(), strict=True):
        stored = dataset.stored_bytes.get(position)
        if stored is None:
            raise UntranslatableError(
                f"{len(masks.untold)} chunks with a filter mask of their own, more than may go inline",
                "raise --inline-limit, or rewrite the dataset with h5repack",
            )
        chunks[position] = unfilter_chunk(form, stored, mask).tobytes().ljust(length, b"\0")
    return chunks
