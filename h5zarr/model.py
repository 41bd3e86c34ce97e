"""The two sides between which h5zarr translates, as frozen dataclasses.

HDF5's side is what `scan` returns: `FileScan`, `Group`, `Dataset`, `Attribute`, `Datatype`,
`Filter`, `ChunkIndex`. Zarr's side is what `translate` returns: `Hierarchy`, `GroupNode`,
`ArrayNode`, `Manifest`. Nothing here opens a file.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from h5zarr.errors import Problem

Shape = tuple[int, ...]
UInt64Column = npt.NDArray[np.uint64]
UInt32Column = npt.NDArray[np.uint32]
JSON = Any
"""What `json` reads and writes."""


def grid_shape(shape: Shape, chunk_shape: Shape) -> Shape:
    """Return the number of chunks along each dimension (grid cells)."""
    return tuple(-(-extent // chunk) for extent, chunk in zip(shape, chunk_shape, strict=True))


# HDF5's side -----------------------------------------------------------------------------


class DatatypeClass(StrEnum):
    """HDF5's datatype classes (`H5T_class_t`)."""

    INTEGER = "integer"
    FLOAT = "float"
    TIME = "time"
    STRING = "string"
    BITFIELD = "bitfield"
    OPAQUE = "opaque"
    COMPOUND = "compound"
    REFERENCE = "reference"
    ENUM = "enum"
    VLEN = "variable-length"
    ARRAY = "array"
    COMPLEX = "complex"


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatFields:
    """Where sign, exponent and mantissa stand in a floating-point datatype, in bits."""

    sign_position: int
    """Bit of the sign."""
    exponent_position: int
    """Lowest bit of the exponent."""
    exponent_length: int
    """Bits of the exponent."""
    exponent_bias: int
    """What is added to the exponent."""
    mantissa_position: int
    """Lowest bit of the mantissa."""
    mantissa_length: int
    """Bits of the mantissa."""
    implied_bit: bool
    """Whether the mantissa's leading 1 is not stored (`H5T_NORM_IMPLIED`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member of a compound datatype."""

    name: str
    """Its name."""
    byte_offset: int
    """Where it begins in the compound, in bytes."""
    datatype: Datatype
    """Its datatype."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Datatype:
    """An HDF5 datatype as it is on disk, which h5py's NumPy dtype does not always tell."""

    datatype_class: DatatypeClass
    """Its class."""
    byte_length: int
    """Size of one element in the file, bytes (`H5Tget_size`)."""
    byte_order: str | None = None
    """``little``, ``big`` or ``vax``; None where the class has none."""
    precision: int | None = None
    """Significant bits of a number or bitfield."""
    bit_offset: int | None = None
    """Lowest significant bit of a number or bitfield."""
    signed: bool | None = None
    """Two's complement or not; of integers only."""
    float_fields: FloatFields | None = None
    """Layout of the bits; of floating-point numbers only."""
    character_set: str | None = None
    """``ascii`` or ``utf-8``; of strings only."""
    padding: str | None = None
    """``null_terminated``, ``null_padded`` or ``space_padded``; of fixed-length strings only."""
    variable_length: bool = False
    """Whether a string is of variable length: elements are then pointers into a heap."""
    members: tuple[Member, ...] = ()
    """Members of a compound, in the order of the file."""
    enumeration: tuple[tuple[str, int], ...] = ()
    """Names and values of an enumeration."""
    base: Datatype | None = None
    """Type of the elements of an enumeration, array, complex number or variable-length sequence."""
    dimensions: Shape = ()
    """Dimensions of an array datatype, in elements."""
    tag: str | None = None
    """Tag of an opaque datatype."""
    reference_kind: str | None = None
    """``object``, ``region`` or ``standard`` (`H5R_ref_t`); of references only."""

    @property
    def on_heap(self) -> bool:
        """Whether stored elements hold addresses instead of values."""
        if self.datatype_class in (DatatypeClass.VLEN, DatatypeClass.REFERENCE):
            return True
        if self.variable_length:
            return True
        if any(member.datatype.on_heap for member in self.members):
            return True
        return self.base is not None and self.base.on_heap


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """One filter of a pipeline."""

    identifier: int
    """Registered number (`H5Z_filter_t`)."""
    name: str
    """Name in the file; often empty."""
    flags: int
    """Flags; bit 0: the filter is optional and may be skipped chunk by chunk."""
    client_data: tuple[int, ...]
    """The filter's parameters (`cd_values`)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkIndex:
    """Where the chunks of a dataset are stored: read-only columns, sorted by grid position."""

    grid_shape: Shape
    """Number of chunks along each dimension, absent ones too (grid cells)."""
    grid_position: UInt64Column
    """(n,) Linear position of each stored chunk in the grid, in C order (grid cells)."""
    byte_offset: UInt64Column
    """(n,) Where it begins in the file, user block included (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored length (bytes)."""
    filter_mask: UInt32Column
    """(n,) Bit i set: filter i of the pipeline was skipped."""

    def __post_init__(self) -> None:
        for column in (self.grid_position, self.byte_offset, self.byte_length, self.filter_mask):
            column.flags.writeable = False

    def __len__(self) -> int:
        return len(self.grid_position)

    @property
    def chunk_coords(self) -> UInt64Column:
        """(n, rank) Position of each chunk in the grid (grid cells); computed when asked for."""
        if not self.grid_shape:
            return np.zeros((len(self), 0), np.uint64)
        cells = np.unravel_index(self.grid_position.astype(np.int64), self.grid_shape)
        return np.stack(cells, axis=1).astype(np.uint64)


class Layout(StrEnum):
    """HDF5's storage layouts; external storage is contiguous storage in other files."""

    COMPACT = "compact"
    CONTIGUOUS = "contiguous"
    EXTERNAL = "external"
    CHUNKED = "chunked"
    VIRTUAL = "virtual"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attribute:
    """An attribute of a group or dataset."""

    name: str
    """Its name."""
    datatype: Datatype
    """Its datatype in the file."""
    shape: Shape | None
    """Its shape in elements; None for a null dataspace."""
    value: Any
    """NumPy array of ``shape`` as h5py reads it; strings as bytes, references as paths; None for null."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExternalFile:
    """One piece of external storage."""

    name: str
    """File name as the dataset has it."""
    url: str
    """Where that file is."""
    byte_offset: int
    """Where the piece begins in that file (bytes)."""
    byte_length: int
    """Its length, as far as the dataset's elements reach (bytes)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Everything about a dataset that its translation needs."""

    path: str
    """Absolute path, by the first name that leads to it."""
    other_names: tuple[str, ...]
    """Absolute paths of further links to it, hard and soft."""
    attributes: tuple[Attribute, ...]
    """Its attributes, in the file's order."""
    datatype: Datatype
    """Its datatype in the file."""
    shape: Shape | None
    """Current shape in elements, () for a scalar; None for a null dataspace."""
    maximum_shape: tuple[int | None, ...] | None
    """Maximum shape in elements, None along unlimited dimensions; None for a null dataspace."""
    layout: Layout
    """Its storage layout."""
    chunk_shape: Shape | None
    """Shape of a chunk in elements; of a virtual dataset, of its sources' chunks in it; None where it
    is not chunked."""
    filters: tuple[Filter, ...]
    """Its filter pipeline, in the order of writing."""
    memory_dtype: np.dtype[Any] | None
    """NumPy dtype of what h5py reads, packed and little-endian; None where h5py has none."""
    stored_type: bytes
    """Encoded datatype of the file (`H5Tencode`)."""
    memory_type: bytes | None
    """Encoded datatype of ``memory_dtype`` (`H5Tencode`); None where elements are on a heap."""
    fill_value: bytes | None
    """One element of ``memory_dtype`` for what was never written; None: undefined by the file."""
    chunk_index: ChunkIndex
    """Stored chunks; contiguous storage is one chunk of the whole shape, never written is none."""
    unfiltered_partial_chunks: bool = False
    """Whether partial edge chunks skip the pipeline (`H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS`)."""
    stored_bytes: Mapping[int, bytes] = field(default_factory=dict)
    """Stored bytes of chunks by grid position: of all where the dataset is small or compact, of
    those whose filter mask nothing else can tell in others."""
    values: Any = None
    """NumPy array of all values as h5py reads them (strings as bytes, references as paths), where
    stored bytes alone do not tell them; None where they do."""
    elements: bytes | None = None
    """All elements of ``memory_dtype`` in C order, of a virtual dataset whose sources' chunks do not
    fit; None of others."""
    urls: tuple[str, ...] = ()
    """The files that hold its chunks, of a virtual dataset or behind an external link; () for the
    scanned file."""
    url_index: UInt32Column | None = None
    """(n,) Which of ``urls`` holds each chunk of the index; None: the first."""
    dimension_scales: tuple[tuple[str, ...], ...] = ()
    """Absolute paths of the scales attached to each dimension (`DIMENSION_LIST`); () without any."""
    clean_padding: bool = False
    """Whether every fixed-length string is known to end at its first NUL; only small datasets are
    looked at."""
    external_files: tuple[ExternalFile, ...] = ()
    """Pieces of external storage."""
    problem: Problem | None = None
    """Why the dataset cannot be read, where it cannot."""

    @property
    def logical_byte_length(self) -> int:
        """Bytes of all its elements, uncompressed."""
        return 0 if self.shape is None else math.prod(self.shape) * self.datatype.byte_length

    @property
    def stored_byte_length(self) -> int:
        """Bytes that its stored chunks take in the file."""
        return int(self.chunk_index.byte_length.sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """A group; its members are told by their paths."""

    path: str
    """Absolute path, by the first name that leads to it."""
    other_names: tuple[str, ...]
    """Absolute paths of further links to it, hard and soft."""
    attributes: tuple[Attribute, ...]
    """Its attributes, in the file's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceIdentity:
    """What tells whether a file is still the one that was scanned."""

    url: str
    """Where the file is: an fsspec URL; local files as ``file://`` and an absolute path."""
    byte_length: int | None = None
    """Size of the file (bytes); None where the filesystem does not tell."""
    modified: float | None = None
    """Time of the last modification (seconds since 1970, UTC); None where it is not told."""
    etag: str | None = None
    """Entity tag of an object store or HTTP server; None where there is none."""
    is_local_copy: bool = False
    """Whether a copy on the machine that scanned it tells all this, whose times are not those at ``url``."""


def patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that were given: one, or several."""
    return (given,) if isinstance(given, str) else tuple(given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which part of a file was asked for."""

    root: str = "/"
    """Absolute path of the group that becomes the root of the hierarchy."""
    include: tuple[str, ...] = ()
    """Shell patterns of absolute dataset paths to take; () takes all."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of absolute dataset paths to leave out."""

    def selects(self, path: str) -> bool:
        """Return whether the dataset at the absolute HDF5 path was asked for."""
        if self.include and not any(fnmatch.fnmatchcase(path, glob) for glob in self.include):
            return False
        return not any(fnmatch.fnmatchcase(path, glob) for glob in self.exclude)

    def zarr_path(self, path: str) -> str:
        """Return the path in the hierarchy of an absolute HDF5 path under ``root``."""
        return path if self.root == "/" else path[len(self.root) :] or "/"

    def hdf5_path(self, path: str) -> str:
        """Return the absolute HDF5 path of a path in the hierarchy."""
        return path if self.root == "/" else self.root + path.rstrip("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchStatistics:
    """What reading a remote file has cost."""

    requests: int
    """Requests sent for ranges of the file, repeated ones included."""
    byte_length: int
    """Bytes that came."""
    round_trips: int
    """Times that all requests under way were waited for."""
    misses: int
    """Reads that were not foreseen, each of which waited for a request of its own."""
    retries: int
    """Requests that were repeated after a failure."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FileScan:
    """What one HDF5 file holds, in HDF5's words."""

    source: SourceIdentity
    """The file."""
    selection: Selection
    """The part of it that was scanned."""
    groups: tuple[Group, ...]
    """Every group from the selection's root down, parents first."""
    datasets: tuple[Dataset, ...]
    """Every selected dataset, in the file's order."""
    problems: tuple[Problem, ...]
    """What could not be read or followed: broken links, unreadable objects."""
    neighbours: tuple[SourceIdentity, ...] = ()
    """Further files that the file names, as far as the selection needs them; of 0 bytes: it was not there."""
    page_byte_length: int | None = None
    """Length of the pages that hold either metadata or data (bytes); None where the file has none."""
    fetched: FetchStatistics | None = None
    """What the scan has cost, links into other files not included; None where nothing was fetched."""


# Zarr's side -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Manifest:
    """The references of one array: columns, sorted by grid position; absent means fill value."""

    grid_shape: Shape
    """Number of chunks along each dimension (grid cells)."""
    locations: tuple[str, ...]
    """URLs that the references point into."""
    grid_position: UInt64Column
    """(n,) Linear position of each referenced chunk in the grid, C order (grid cells)."""
    byte_offset: UInt64Column
    """(n,) Where it begins in its file (bytes)."""
    byte_length: UInt64Column
    """(n,) Its stored length (bytes)."""
    location_index: UInt32Column | None = None
    """(n,) Which of ``locations`` holds it; None: all in the first."""
    inline: Mapping[int, bytes] = field(default_factory=dict)
    """Encoded bytes of the chunks that stand in the manifest itself, by grid position."""

    def __len__(self) -> int:
        return len(self.grid_position) + len(self.inline)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupNode:
    """A Zarr group."""

    path: str
    """Absolute path in the hierarchy."""
    metadata: Mapping[str, JSON]
    """Its ``zarr.json``, without consolidated metadata (Zarr v3 core, "Group metadata")."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArrayNode:
    """A Zarr array and the references of its chunks."""

    path: str
    """Absolute path in the hierarchy."""
    metadata: Mapping[str, JSON]
    """Its ``zarr.json`` (Zarr v3 core, "Array metadata")."""
    manifest: Manifest
    """Where its chunks are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one file gives to a combined hierarchy."""

    source: SourceIdentity
    """The HDF5 file."""
    selection: Selection
    """The part of that file that was asked for."""
    start: Mapping[str, int]
    """Where it begins along each joined dimension, by the dimension's name (elements)."""
    extent: Mapping[str, int]
    """How far it reaches along each joined dimension, by the dimension's name (elements)."""
    neighbours: tuple[SourceIdentity, ...] = ()
    """Further files that it names, as of `FileScan`."""
    labels: Mapping[str, JSON] = field(default_factory=dict)
    """What the coordinate variables of new dimensions hold for it, by the dimension's name; of those whose
    values were given."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hierarchy:
    """A Zarr hierarchy of references: a flat mapping from absolute path to node."""

    nodes: Mapping[str, GroupNode | ArrayNode]
    """Every node by its absolute path, ``/`` first, parents before children."""
    source: SourceIdentity | None
    """The HDF5 file it was made from; None where several were, or nobody told."""
    selection: Selection
    """The part of that file that was asked for."""
    problems: tuple[Problem, ...]
    """Everything of the file that could not be expressed."""
    parts: tuple[Part, ...] = ()
    """The files of a combined hierarchy, in their order; () where it was not combined."""
    neighbours: tuple[SourceIdentity, ...] = ()
    """Further files that ``source`` names, as of `FileScan`."""
    options: Mapping[str, JSON] = field(default_factory=dict)
    """Options of `h5zarr.convert` that shaped it, where they were not the defaults."""

    def arrays(self) -> Iterator[ArrayNode]:
        """Yield the arrays, in the order of ``nodes``."""
        for node in self.nodes.values():
            if isinstance(node, ArrayNode):
                yield node
