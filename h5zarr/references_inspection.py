"""What is in references, as a table for people and as JSON for programs (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from h5zarr.errors import Problem
from h5zarr.model import (
    JSON,
    ArrayNode,
    GroupNode,
    Hierarchy,
    Manifest,
    Part,
    Selection,
    Shape,
    SourceIdentity,
)
from h5zarr.outline import Column, Entry, Note, Outline, Row, branches_of, problem_entries, times
from h5zarr.prefetch.redact import holds_credentials, redact
from h5zarr.references import provenance
from h5zarr.text import count, human_bytes

_COLUMNS = (
    Column(title="shape"),
    Column(title="data type", can_be_cut=True),
    Column(title="chunk shape", rank=2),
    Column(title="codecs", rank=3, can_be_cut=True),
    Column(title="references", is_number=True),
    Column(title="inline", is_number=True, rank=4),
    Column(title="chunks", is_number=True, rank=4),
    Column(title="stored", is_number=True, rank=1),
    Column(title="dimensions", rank=5, can_be_cut=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayRow:
    """One array of the references."""

    path: str
    """Absolute path in the hierarchy."""
    shape: Shape
    """Shape in elements, () for a scalar."""
    data_type: JSON
    """Data type, as its ``zarr.json`` has it: a name, or a name with a configuration."""
    chunk_shape: Shape | None
    """Shape of a chunk in elements; None where chunks are of several shapes."""
    codecs: tuple[JSON, ...]
    """Codecs as its ``zarr.json`` has them, in the order of writing."""
    dimension_names: tuple[str | None, ...]
    """Names of its dimensions, None where one has none; () where no names are given."""
    chunks_total: int
    """Number of chunks that the shape has room for; those that are nowhere are fill values."""
    references: int
    """Number of chunks that are referenced."""
    referenced_bytes: int
    """Bytes of those, as stored."""
    inline: int
    """Number of chunks that stand in the references themselves."""
    inline_bytes: int
    """Bytes of those, as stored."""

    def to_json(self) -> dict[str, JSON]:
        """Return the row as JSON; sizes are bytes."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "data_type": self.data_type,
            "chunk_shape": None if self.chunk_shape is None else list(self.chunk_shape),
            "codecs": list(self.codecs),
            "dimension_names": list(self.dimension_names),
            "chunks_total": self.chunks_total,
            "references": self.references,
            "referenced_bytes": self.referenced_bytes,
            "inline": self.inline,
            "inline_bytes": self.inline_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRow:
    """One file that references point into."""

    url: str
    """Where it is, without credentials."""
    references: int
    """Number of references into it."""
    referenced_bytes: int
    """Bytes that they name."""

    def to_json(self) -> dict[str, JSON]:
        """Return the row as JSON."""
        return {
            "url": self.url,
            "references": self.references,
            "referenced_bytes": self.referenced_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencesInspection:
    """What is in references, and where they come from."""

    location: str
    """Where they are kept, without credentials."""
    format: str
    """How: ``json``, ``parquet`` or ``icechunk``."""
    version: str | None
    """Version of h5zarr that wrote them; None where it did not."""
    groups: tuple[str, ...]
    """Absolute paths of the groups, parents first."""
    arrays: tuple[ArrayRow, ...]
    """The arrays, in the order of the references."""
    files: tuple[FileRow, ...]
    """The files that they point into."""
    problems: tuple[Problem, ...]
    """What could not be expressed."""
    hierarchy: Hierarchy = field(compare=False, repr=False)
    """All that was loaded: source, selection, parts and the references themselves."""

    def to_json(self) -> dict[str, JSON]:
        """Return all of it as JSON."""
        return {
            "references": self.location,
            "format": self.format,
            **provenance.to_json(self.hierarchy, ""),
            "version": self.version,
            "groups": list(self.groups),
            "arrays": [row.to_json() for row in self.arrays],
            "files": [row.to_json() for row in self.files],
        }

    def lines(self) -> list[str]:
        """Return a heading, an aligned table of groups and arrays, provenance, files and problems."""
        return self.outline().lines()

    def outline(self) -> Outline:
        """Return it laid out for people."""
        return Outline(
            location=self.location,
            facts=self._facts(),
            columns=_COLUMNS,
            branches=branches_of(self.groups, self.arrays, _row_of),
            notes=(
                _note("provenance", self._provenance()),
                _note("files", map(_file_text, self.files)),
                Note(title="what they do not have", entries=problem_entries(self.problems), is_warning=True),
            ),
        )

    def _facts(self) -> tuple[str, ...]:
        references = count(sum(row.references for row in self.arrays), "reference")
        referenced = human_bytes(sum(row.referenced_bytes for row in self.arrays))
        inline = human_bytes(sum(row.inline_bytes for row in self.arrays))
        return (
            f"{self.format} references",
            count(len(self.groups), "group"),
            count(len(self.arrays), "array"),
            f"{references} to {referenced} in {count(len(self.files), 'file')}",
            f"{sum(row.inline for row in self.arrays):,} inline ({inline})",
            count(len(self.problems), "problem"),
        )

    def _provenance(self) -> Iterable[str]:
        source, selection = self.hierarchy.source, self.hierarchy.selection
        yield "written by another program" if self.version is None else f"written by h5zarr {self.version}"
        if source is not None:
            yield f"made from {_source_text(source, selection)}"
        yield from (f"joined from {_part_text(part)}" for part in self.hierarchy.parts)


def inspect_hierarchy(
    hierarchy: Hierarchy, *, location: str, format: str, version: str | None
) -> ReferencesInspection:
    """Return what is in references that have been loaded.

    Parameters
    ----------
    hierarchy
        The references.
    location
        Where they are kept.
    format
        How.
    version
        Version of h5zarr that wrote them; None where it did not.
    """
    arrays = list(hierarchy.arrays())
    return ReferencesInspection(
        location=redact(location),
        format=format,
        version=version,
        groups=tuple(path for path, node in hierarchy.nodes.items() if isinstance(node, GroupNode)),
        arrays=tuple(map(_array_row, arrays)),
        files=tuple(_files(array.manifest for array in arrays)),
        problems=hierarchy.problems,
        hierarchy=hierarchy,
    )


def _array_row(array: ArrayNode) -> ArrayRow:
    metadata, manifest = array.metadata, array.manifest
    return ArrayRow(
        path=array.path,
        shape=tuple(metadata["shape"]),
        data_type=metadata["data_type"],
        chunk_shape=_chunk_shape(metadata["chunk_grid"]),
        codecs=tuple(metadata["codecs"]),
        dimension_names=tuple(metadata.get("dimension_names") or ()),
        chunks_total=math.prod(manifest.grid_shape),
        references=len(manifest.grid_position),
        referenced_bytes=int(manifest.byte_length.sum()),
        inline=len(manifest.inline),
        inline_bytes=sum(map(len, manifest.inline.values())),
    )


def _chunk_shape(grid: Mapping[str, Mapping[str, Sequence[int]]]) -> Shape | None:
    """Return the chunk shape of a regular grid (Zarr v3 core, "Regular grids"); None of another one."""
    shape = grid["configuration"].get("chunk_shape")
    return None if shape is None else tuple(shape)


def _files(manifests: Iterable[Manifest]) -> Iterable[FileRow]:
    references: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for manifest in manifests:
        index = manifest.location_index
        if index is None:
            index = np.zeros(len(manifest.grid_position), np.uint32)
        totals = np.zeros(len(manifest.locations), np.uint64)
        np.add.at(totals, index, manifest.byte_length)
        numbers = np.bincount(index, minlength=len(manifest.locations))
        for location, number, total in zip(
            manifest.locations, numbers.tolist(), totals.tolist(), strict=True
        ):
            references[location] = references.get(location, 0) + number
            lengths[location] = lengths.get(location, 0) + total
    for location, number in references.items():
        if number:
            yield FileRow(
                url=without_credentials(location), references=number, referenced_bytes=lengths[location]
            )


def without_credentials(url: str) -> str:
    """Return a URL as it may be shown."""
    return redact(url) if holds_credentials(url) else url


# Text -------------------------------------------------------------------------------------


def extension_name(extension: str | Mapping[str, object]) -> str:
    """Return the name of a data type or codec (Zarr v3 core, "Extension definition")."""
    return extension if isinstance(extension, str) else str(extension["name"])


def _row_of(row: ArrayRow) -> Row:
    return Row(
        path=row.path,
        cells=(
            times(row.shape) or "scalar",
            extension_name(row.data_type),
            "several" if row.chunk_shape is None else times(row.chunk_shape),
            ", ".join(map(extension_name, row.codecs)),
            f"{row.references}",
            f"{row.inline}",
            f"{row.chunks_total}",
            human_bytes(row.referenced_bytes + row.inline_bytes),
            ", ".join("-" if name is None else name for name in row.dimension_names),
        ),
    )


def _note(title: str, texts: Iterable[str]) -> Note:
    return Note(title=title, entries=tuple(Entry(text=text) for text in texts))


def _source_text(source: SourceIdentity, selection: Selection) -> str:
    words = [without_credentials(source.url)]
    if source.byte_length is not None:
        words.append(human_bytes(source.byte_length))
    if source.modified is not None:
        words.append(f"modified {datetime.fromtimestamp(source.modified, UTC):%Y-%m-%dT%H:%M:%SZ}")
    if source.etag is not None:
        words.append(f"entity tag {source.etag}")
    return ", ".join([*words, *_selection_words(selection)])


def _selection_words(selection: Selection) -> Iterable[str]:
    if selection.root != "/":
        yield f"only {selection.root}"
    yield from (f"only {pattern}" for pattern in selection.include)
    yield from (f"without {pattern}" for pattern in selection.exclude)


def _part_text(part: Part) -> str:
    places = (f"{name} {start} to {start + part.extent[name]}" for name, start in part.start.items())
    return ", ".join([_source_text(part.source, part.selection), *places])


def _file_text(row: FileRow) -> str:
    return f"{row.url}: {count(row.references, 'reference')}, {human_bytes(row.referenced_bytes)}"
