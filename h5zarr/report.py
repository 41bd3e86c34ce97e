"""What `validate` finds, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from h5zarr.compare_attributes import readable
from h5zarr.model import JSON, Shape

_LISTED_PER_OBJECT = 20


class Kind(StrEnum):
    """What is wrong."""

    SOURCE_CHANGED = "source changed"
    """The file is not the one that was scanned."""
    METADATA = "metadata"
    """The consolidated metadata and a node's own do not say the same."""
    MISSING_GROUP = "missing group"
    """A group of the file is not in the references."""
    UNEXPECTED_GROUP = "unexpected group"
    """A group of the references is not in the file."""
    MISSING_ARRAY = "missing array"
    """A dataset or link of the file is neither an array nor reported as a problem."""
    UNEXPECTED_ARRAY = "unexpected array"
    """An array of the references is no dataset of the file."""
    ATTRIBUTE = "attribute"
    """An attribute differs."""
    SHAPE = "shape"
    """The shape differs; values were not compared."""
    DATA_TYPE = "data type"
    """The data type differs; values were not compared."""
    FILL_VALUE = "fill value"
    """Chunks are absent, and the fill value, which takes their place, differs."""
    MISSING_REFERENCE = "missing reference"
    """A chunk is stored in the file, but has no reference: it reads as fill values."""
    VALUES = "values"
    """Values of a chunk differ."""
    UNREADABLE = "unreadable"
    """An object or chunk cannot be read through the references."""
    UNREADABLE_SOURCE = "unreadable source"
    """h5py cannot read an object or chunk, so that there is nothing to compare with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """One thing that is not the same on both sides."""

    path: str
    """Absolute HDF5 path; ``/`` where it concerns the whole file."""
    kind: Kind
    """What is wrong."""
    expected: str
    """What h5py reads."""
    found: str
    """What the references give."""
    attribute: str | None = None
    """Name of the attribute, of kind ``attribute``."""
    chunk_coords: Shape | None = None
    """Position of the chunk (grid cells of the Zarr array); None where it concerns no single chunk."""
    element: Shape | None = None
    """Position of the first element of the chunk, in C order, that differs (elements of the array)."""

    def to_json(self) -> dict[str, JSON]:
        """Return it as a JSON object; what does not apply is left out."""
        document = {name: getattr(self, name) for name in ("path", "kind", "expected", "found")}
        for name in ("attribute", "chunk_coords", "element"):
            value = getattr(self, name)
            if value is not None:
                document[name] = list(value) if isinstance(value, tuple) else value
        return {**document, "kind": str(self.kind)}

    def __str__(self) -> str:
        place = readable(self.path)
        if self.attribute is not None:
            place += f" @{readable(self.attribute)}"
        if self.chunk_coords is not None:
            place += f" chunk {_coordinates(self.chunk_coords)}"
        if self.element is not None:
            place += f" element {_coordinates(self.element)}"
        return f"{place}: {self.kind}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What `validate` compared, and what was not the same."""

    source: str
    """URL of the HDF5 file that was read."""
    arrays_compared: int
    """Arrays whose values were compared; those of no elements too."""
    chunks_compared: int
    """Chunks whose values were compared (grid cells): absent ones too, but for huge sparse arrays, where
    one absent chunk stands for all."""
    chunks_total: int
    """Chunks of those arrays, absent ones too (grid cells)."""
    bytes_compared: int
    """Size of the values that were compared, as h5py has them in memory (bytes)."""
    bytes_moved: int
    """What came from elsewhere for it, on both sides together (bytes); 0 where all is local."""
    problems_reported: int
    """Problems that the references tell of."""
    mismatch_count: int
    """Everything that was not the same: `mismatches` lists at most 20 of one object."""
    mismatches: tuple[Mismatch, ...]
    """What was not the same, object by object."""

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is equal, and everything else reported."""
        return self.mismatch_count == 0

    def to_json(self) -> dict[str, JSON]:
        """Return the report as a JSON object."""
        names = (
            "ok",
            "source",
            "arrays_compared",
            "chunks_compared",
            "chunks_total",
            "bytes_compared",
            "bytes_moved",
            "problems_reported",
            "mismatch_count",
        )
        document: dict[str, JSON] = {name: getattr(self, name) for name in names}
        return {**document, "mismatches": [mismatch.to_json() for mismatch in self.mismatches]}


def summed(reports: Sequence[ValidationReport], *, source: str, problems_reported: int) -> ValidationReport:
    """Return the reports of several files as one.

    Parameters
    ----------
    reports
        One of each file.
    source
        What to call the files.
    problems_reported
        Problems that the references tell of.
    """
    return ValidationReport(
        source=source,
        arrays_compared=max((report.arrays_compared for report in reports), default=0),
        chunks_compared=sum(report.chunks_compared for report in reports),
        chunks_total=sum(report.chunks_total for report in reports),
        bytes_compared=sum(report.bytes_compared for report in reports),
        bytes_moved=sum(report.bytes_moved for report in reports),
        problems_reported=problems_reported,
        mismatch_count=sum(report.mismatch_count for report in reports),
        mismatches=tuple(mismatch for report in reports for mismatch in report.mismatches),
    )


def _coordinates(position: Shape) -> str:
    return f"({', '.join(map(str, position))})"


class Findings:
    """Collects mismatches: counts all, keeps some of each object."""

    def __init__(self) -> None:
        self.listed: list[Mismatch] = []
        self._counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Number of all mismatches."""
        return self._counts.total()

    def extend(self, mismatches: Iterable[Mismatch]) -> None:
        """Note mismatches."""
        for mismatch in mismatches:
            self._counts[mismatch.path] += 1
            if self._counts[mismatch.path] <= _LISTED_PER_OBJECT:
                self.listed.append(mismatch)

    def add(self, path: str, kind: Kind, expected: str, found: str, **place: Any) -> None:
        """Note one mismatch."""
        self.extend([Mismatch(path=path, kind=kind, expected=expected, found=found, **place)])
