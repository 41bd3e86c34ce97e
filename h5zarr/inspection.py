"""What is in an HDF5 file, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fsspec.utils import stringify_path

from h5zarr.attributes import is_boolean, is_dimension_placeholder, is_dimension_scale
from h5zarr.converter import refuse_options
from h5zarr.errors import Problem
from h5zarr.filter_registry import filter_name
from h5zarr.io_plan import IoPlan, io_plan
from h5zarr.model import (
    JSON,
    Dataset,
    Datatype,
    DatatypeClass,
    FileScan,
    Filter,
    Hierarchy,
    Layout,
    Shape,
    SourceIdentity,
    patterns,
)
from h5zarr.outline import (
    Column,
    Entry,
    Note,
    Outline,
    Row,
    branches_of,
    parent,
    problem_entries,
    times,
)
from h5zarr.prefetch import holds_credentials, redact
from h5zarr.references import formats
from h5zarr.references_inspection import ReferencesInspection, inspect_hierarchy
from h5zarr.scanner import INLINE_LIMIT_BYTES, INLINE_THRESHOLD_BYTES, Progress, scan
from h5zarr.source import Source
from h5zarr.text import count, human_bytes, printable
from h5zarr.translator import translate

_IEEE_FIELDS = {2: (5, 10), 4: (8, 23), 8: (11, 52)}
_MOST_NAMES = 4
_WIDEST_DATATYPE = 48
_PLAN_LABEL_WIDTH = 10
"""Characters before the text of a line of the I/O plan."""
_COLUMNS = (
    Column(title="shape"),
    Column(title="datatype", can_be_cut=True),
    Column(title="layout", rank=7),
    Column(title="chunk shape", rank=2),
    Column(title="chunks", is_number=True, rank=5),
    Column(title="filters", rank=3, can_be_cut=True),
    Column(title="stored", is_number=True, rank=1),
    Column(title="logical", is_number=True, rank=4, sign="→"),
    Column(title="ratio", is_number=True, rank=4),
    Column(title="dimension scales", rank=6, can_be_cut=True),
    Column(title="left out"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRow:
    """One dataset of the file."""

    path: str
    """Absolute path."""
    other_names: tuple[str, ...]
    """Absolute paths of further hard links to it."""
    shape: Shape | None
    """Shape in elements, () for a scalar; None for a null dataspace."""
    maximum_shape: tuple[int | None, ...] | None
    """Maximum shape in elements, None along unlimited dimensions; None for a null dataspace."""
    datatype: Datatype
    """Datatype in the file."""
    layout: Layout
    """Storage layout."""
    chunk_shape: Shape | None
    """Shape of a chunk in elements; None where it is not chunked."""
    chunks_stored: int
    """Number of chunks in the file."""
    chunks_total: int
    """Number of chunks that the shape has room for."""
    filters: tuple[Filter, ...]
    """Filter pipeline, in the order of writing."""
    stored_bytes: int
    """Bytes that it takes in the file."""
    logical_bytes: int
    """Bytes of its elements, uncompressed."""
    dimension_scales: tuple[tuple[str, ...], ...]
    """Absolute paths of the scales attached to each dimension."""
    is_scale: bool
    """Whether it is a dimension scale itself."""
    is_placeholder: bool
    """Whether it stands for a netCDF dimension that has no variable."""
    left_out: bool
    """Whether it would be left out of the references, with a problem."""
    attributes_left_out: tuple[str, ...]
    """Names of its attributes that would be left out."""

    def to_json(self) -> dict[str, JSON]:
        """Return the row as JSON; sizes are bytes."""
        return {
            "path": self.path,
            "other_names": list(self.other_names),
            "shape": _json_shape(self.shape),
            "maximum_shape": _json_shape(self.maximum_shape),
            "datatype": {
                "class": str(self.datatype.datatype_class),
                "byte_length": self.datatype.byte_length,
                "text": describe_datatype(self.datatype),
            },
            "layout": str(self.layout),
            "chunk_shape": _json_shape(self.chunk_shape),
            "chunks_stored": self.chunks_stored,
            "chunks_total": self.chunks_total,
            "filters": [_json_filter(stage) for stage in self.filters],
            "stored_bytes": self.stored_bytes,
            "logical_bytes": self.logical_bytes,
            "dimension_scales": [list(scales) for scales in self.dimension_scales],
            "is_scale": self.is_scale,
            "is_placeholder": self.is_placeholder,
            "left_out": self.left_out,
            "attributes_left_out": list(self.attributes_left_out),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What is in one HDF5 file, and what of it the references could not express."""

    source: SourceIdentity
    """The file."""
    groups: tuple[str, ...]
    """Absolute paths of the groups, parents first."""
    datasets: tuple[DatasetRow, ...]
    """The datasets, in the file's order."""
    other_names: Mapping[str, str]
    """Further names of groups and datasets, hard and soft links, with the paths they stand for."""
    problems: tuple[Problem, ...]
    """What `convert` would report."""
    scan: FileScan = field(compare=False, repr=False)
    """All that was scanned, the chunk indexes too."""
    io: IoPlan | None = None
    """What the file costs to read over a network; None where nobody asked."""

    def to_json(self) -> dict[str, JSON]:
        """Return all of it as JSON; ``io`` only where it was asked for."""
        document: dict[str, JSON] = {
            "source": {
                "url": self.source.url,
                "byte_length": self.source.byte_length,
                "modified": self.source.modified,
                "etag": self.source.etag,
            },
            "groups": list(self.groups),
            "datasets": [row.to_json() for row in self.datasets],
            "other_names": dict(self.other_names),
            "problems": [problem.to_json() for problem in self.problems],
        }
        if self.io is not None:
            document["io"] = self.io.to_json()
        return document

    def lines(self) -> list[str]:
        """Return a heading, an aligned table of groups and datasets, links, the I/O plan, and problems."""
        return self.outline().lines()

    def outline(self) -> Outline:
        """Return it laid out for people."""
        names = [Entry(text=f"{name} = {path}") for name, path in self.other_names.items()]
        return Outline(
            location=self.source.url,
            facts=self._facts(),
            columns=_COLUMNS,
            branches=branches_of(self.groups, self.datasets, _outline_row),
            notes=(
                Note(title="other names", entries=tuple(names)),
                Note(
                    title="over a network",
                    entries=() if self.io is None else _plan_entries(self.io),
                    hanging=_PLAN_LABEL_WIDTH,
                ),
                Note(
                    title="what convert would leave out",
                    entries=problem_entries(self.problems),
                    is_warning=True,
                ),
            ),
        )

    def _facts(self) -> tuple[str, ...]:
        length = self.source.byte_length
        return (
            *(() if length is None else (human_bytes(length),)),
            count(len(self.groups), "group"),
            count(len(self.datasets), "dataset"),
            count(len(self.problems), "problem"),
        )


def inspect(
    source: Source,
    *,
    storage_options: Mapping[str, Any] | None = None,
    group: str = "/",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    inline_threshold: int = INLINE_THRESHOLD_BYTES,
    inline_limit: int = INLINE_LIMIT_BYTES,
    follow_external: bool = False,
    isolate: bool = False,
    timeout: float | None = None,
    io: bool = False,
    progress: Progress | None = None,
) -> Inspection | ReferencesInspection:
    """Return what an HDF5 file holds and what of it references cannot express; or what references hold.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`; or path or URL of references, whose
        suffix tells their format.
    storage_options
        Options of the fsspec filesystem.
    group
        Look at this group and what is below it.
    include, exclude
        As of `h5zarr.scan`.
    inline_threshold, inline_limit, follow_external, isolate, timeout
        As there: they decide what would be a problem.
    io
        Whether to tell what the file costs to read over a network, and what would make it cost less.
    progress
        Called with the number of objects done and their total.

    Returns
    -------
    Inspection or ReferencesInspection
        The latter of references. Both have ``problems``, ``lines()`` and ``to_json()``. URLs in it are
        without credentials.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    GroupNotFoundError
        ``group`` is not in the file.
    ReferencesError
        ``source`` are references that cannot be loaded, or an option is given that chooses what is
        scanned of an HDF5 file.
    """
    scanning: dict[str, Any] = {
        "group": group,
        "include": patterns(include),
        "exclude": patterns(exclude),
        "inline_threshold": inline_threshold,
        "inline_limit": inline_limit,
        "follow_external": follow_external,
        "isolate": isolate,
        "timeout": timeout,
    }
    if isinstance(source, str | os.PathLike) and formats.format_of(source) is not None:
        refuse_options(source, inspect, {**scanning, "io": io})
        return _inspect_references(stringify_path(source), storage_options)
    found = scan(
        source,
        storage_options=storage_options,
        public_url=_public_url(source),
        progress=progress,
        **scanning,
    )
    return inspect_scan(found, translate(found), io=io)


def _public_url(source: Source) -> str | None:
    """Return the URL to show instead of one with a signature or password in it."""
    return redact(source) if isinstance(source, str) and holds_credentials(source) else None


def _inspect_references(url: str, storage_options: Mapping[str, Any] | None) -> ReferencesInspection:
    hierarchy = formats.load(url, storage_options=storage_options)
    told = formats.read_provenance(url, storage_options=storage_options)
    return inspect_hierarchy(
        hierarchy, location=url, format=formats.format_of(url) or "json", version=told.version
    )


def _other_names(found: FileScan) -> dict[str, str]:
    groups = {name: group.path for group in found.groups for name in group.other_names}
    return groups | {name: dataset.path for dataset in found.datasets for name in dataset.other_names}


def inspect_scan(found: FileScan, hierarchy: Hierarchy, *, io: bool = False) -> Inspection:
    """Return what a scanned file holds.

    Parameters
    ----------
    found
        The scanned file.
    hierarchy
        Its translation, which knows what cannot be expressed.
    io
        Whether to tell what it costs to read over a network.
    """
    problems: dict[str, list[Problem]] = {}
    for problem in hierarchy.problems:
        problems.setdefault(_utf8(problem.path), []).append(problem)
    return Inspection(
        source=found.source,
        groups=tuple(group.path for group in found.groups),
        datasets=tuple(_row(dataset, problems.get(_utf8(dataset.path), ())) for dataset in found.datasets),
        other_names=_other_names(found),
        problems=hierarchy.problems,
        scan=found,
        io=io_plan(found) if io else None,
    )


def _utf8(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(dataset: Dataset, problems: Iterable[Problem]) -> DatasetRow:
    lost = [problem.attribute for problem in problems]
    return DatasetRow(
        path=dataset.path,
        other_names=dataset.other_names,
        shape=dataset.shape,
        maximum_shape=dataset.maximum_shape,
        datatype=dataset.datatype,
        layout=dataset.layout,
        chunk_shape=dataset.chunk_shape,
        chunks_stored=len(dataset.chunk_index),
        chunks_total=0 if dataset.shape is None else math.prod(dataset.chunk_index.grid_shape),
        filters=dataset.filters,
        stored_bytes=dataset.stored_byte_length,
        logical_bytes=dataset.logical_byte_length,
        dimension_scales=dataset.dimension_scales,
        is_scale=is_dimension_scale(dataset.attributes),
        is_placeholder=is_dimension_placeholder(dataset.attributes),
        left_out=None in lost,
        attributes_left_out=tuple(name for name in lost if name is not None),
    )


def _json_shape(shape: Sequence[int | None] | None) -> list[int | None] | None:
    return None if shape is None else list(shape)


def _json_filter(stage: Filter) -> dict[str, JSON]:
    return {
        "identifier": stage.identifier,
        "name": filter_name(stage.identifier),
        "optional": bool(stage.flags & 1),
        "client_data": list(stage.client_data),
    }


# Text -------------------------------------------------------------------------------------


def describe_datatype(datatype: Datatype) -> str:
    """Return a datatype in a few words, such as ``int16 big-endian`` or ``{x: float32, y: float32}``."""
    match datatype.datatype_class:
        case DatatypeClass.INTEGER:
            return _number("int" if datatype.signed else "uint", datatype)
        case DatatypeClass.FLOAT:
            return _number("float", datatype) + _odd_float(datatype)
        case DatatypeClass.BITFIELD | DatatypeClass.TIME:
            return _number(str(datatype.datatype_class), datatype)
        case DatatypeClass.STRING | DatatypeClass.OPAQUE | DatatypeClass.REFERENCE:
            return _text_or_bytes(datatype)
        case DatatypeClass.ENUM:
            return _enumeration(datatype)
        case DatatypeClass.COMPOUND:
            return (
                "{" + ", ".join(f"{m.name}: {describe_datatype(m.datatype)}" for m in datatype.members) + "}"
            )
    return _based(datatype)


def _number(kind: str, datatype: Datatype) -> str:
    bits = 8 * datatype.byte_length
    order = f" {datatype.byte_order}-endian" if datatype.byte_order == "big" and bits > 8 else ""
    if datatype.precision in (None, bits):
        return f"{kind}{bits}{order}"
    return f"{kind}{bits}{order} ({datatype.precision} bits from bit {datatype.bit_offset})"


def _odd_float(datatype: Datatype) -> str:
    fields = datatype.float_fields
    if datatype.byte_order == "vax":
        return " VAX"
    if fields is None or (fields.exponent_length, fields.mantissa_length) == _IEEE_FIELDS.get(
        datatype.byte_length
    ):
        return ""
    return f" (exponent {fields.exponent_length}, mantissa {fields.mantissa_length} bits)"


def _text_or_bytes(datatype: Datatype) -> str:
    if datatype.datatype_class is DatatypeClass.REFERENCE:
        return f"{datatype.reference_kind} reference"
    if datatype.variable_length:
        return "string"
    tag = f' "{datatype.tag}"' if datatype.tag else ""
    return f"{datatype.datatype_class}[{datatype.byte_length}]{tag}"


def _enumeration(datatype: Datatype) -> str:
    if is_boolean(datatype):
        return "bool"
    names = [name for name, _ in sorted(datatype.enumeration, key=lambda member: member[1])]
    shown = names[:_MOST_NAMES] + (["…"] if len(names) > _MOST_NAMES else [])
    base = describe_datatype(datatype.base) if datatype.base is not None else "integer"
    return f"enum {base} {{{', '.join(shown)}}}"


def _based(datatype: Datatype) -> str:
    if datatype.datatype_class is DatatypeClass.COMPLEX:
        return _number("complex", datatype)
    base = describe_datatype(datatype.base) if datatype.base is not None else "?"
    if datatype.datatype_class is DatatypeClass.VLEN:
        return f"sequence of {base}"
    return f"{base}{list(datatype.dimensions)}"


def _plan_entries(plan: IoPlan) -> tuple[Entry, ...]:
    command = printable(plan.command or "")
    return tuple(Entry(text=line, is_command=line.strip() == command) for line in plan.lines())


def _outline_row(row: DatasetRow) -> Row:
    loss = _loss_text(row)
    return Row(path=row.path, cells=(*_dataset_cells(row), loss), is_lost=bool(loss))


def _dataset_cells(row: DatasetRow) -> tuple[str, ...]:
    chunked = row.chunk_shape is not None
    return (
        shape_text(row),
        textwrap.shorten(describe_datatype(row.datatype), _WIDEST_DATATYPE, placeholder=" …"),
        str(row.layout),
        times(row.chunk_shape or ()),
        f"{row.chunks_stored}/{row.chunks_total}" if chunked else "",
        ", ".join(map(filter_text, row.filters)),
        human_bytes(row.stored_bytes),
        human_bytes(row.logical_bytes),
        _ratio_text(row),
        _scales_text(row),
    )


def _ratio_text(row: DatasetRow) -> str:
    """Return how many times shorter it is stored than it is."""
    if not row.stored_bytes or not row.logical_bytes:
        return ""
    ratio = row.logical_bytes / row.stored_bytes
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x" if ratio >= 1 else f"{ratio:.2f}x"


def shape_text(row: DatasetRow) -> str:
    """Return a shape, with the maximum shape where that is another one, such as ``10/inf x 7``."""
    if row.shape is None:
        return "null"
    limits = row.maximum_shape or row.shape
    extents = (
        f"{extent}" if extent == limit else f"{extent}/{'inf' if limit is None else limit}"
        for extent, limit in zip(row.shape, limits, strict=True)
    )
    return times(extents) or "scalar"


def filter_text(stage: Filter) -> str:
    """Return a filter's name, with the level of deflate."""
    name = filter_name(stage.identifier)
    if name == "unregistered":
        return f"filter {stage.identifier}"
    return f"{name} {stage.client_data[0]}" if name == "deflate" and stage.client_data else name


def _scales_text(row: DatasetRow) -> str:
    if row.is_scale:
        return "(netCDF dimension)" if row.is_placeholder else "(scale)"
    if not any(row.dimension_scales):
        return ""
    folder = parent(row.path)
    return ", ".join(
        "/".join(_short(scale, folder) for scale in scales) or "-" for scales in row.dimension_scales
    )


def _short(path: str, folder: str) -> str:
    return path.rpartition("/")[2] if parent(path) == folder else path


def _loss_text(row: DatasetRow) -> str:
    if row.left_out:
        return "dataset"
    return count(len(row.attributes_left_out), "attribute") if row.attributes_left_out else ""
