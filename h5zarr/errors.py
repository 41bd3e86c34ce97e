"""Everything that h5zarr raises or reports.

The exception tree::

    H5zarrError
    ├── SourceError               the HDF5 file cannot be read
    │   ├── SourceNotFoundError   there is nothing at the URL
    │   ├── NotHDF5Error          there is something, but not an HDF5 file
    │   ├── DamagedFileError      an HDF5 file that libhdf5 cannot open or walk
    │   └── SourceChangedError    the file is not the one that was scanned
    ├── GroupNotFoundError        the group asked for is not in the file
    ├── ReferencesError           references that cannot be loaded or opened
    ├── CombineError              files that cannot be combined into one
    ├── OutputError               the output cannot be written
    └── UntranslatableError       one object has no Zarr form; becomes a `Problem` of it
        └── NotFollowedError      it is in a file that may not be opened

What concerns one dataset or attribute is not raised but collected, as a `Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass


class H5zarrError(Exception):
    """Base class of everything that h5zarr raises on purpose."""


class SourceError(H5zarrError):
    """The HDF5 file cannot be read."""


class SourceNotFoundError(SourceError):
    """There is no file at the URL."""


class NotHDF5Error(SourceError):
    """The file has no HDF5 signature."""


class DamagedFileError(SourceError):
    """The file has an HDF5 signature, but libhdf5 cannot open it or walk its groups."""


class SourceChangedError(SourceError):
    """The file is not the one that was scanned."""


class GroupNotFoundError(H5zarrError):
    """The group asked for is not in the file."""


class ReferencesError(H5zarrError):
    """The references cannot be loaded or opened."""


class CombineError(H5zarrError):
    """Files cannot be combined into one without a wrong value."""


class OutputError(H5zarrError):
    """The output cannot be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing of the HDF5 file that the Zarr side does not have."""

    path: str
    """Absolute path of the dataset, group or link, as HDF5 names it."""

    found: str
    """What is there, in HDF5's words, and why it cannot be expressed."""

    remedy: str
    """What the user can do about it."""

    attribute: str | None = None
    """Name of the attribute that was left out; None where the object itself was left out."""

    def to_json(self) -> dict[str, str]:
        """Return the problem as it stands in a manifest; ``attribute`` only where there is one."""
        document = {"path": self.path, "found": self.found, "remedy": self.remedy}
        if self.attribute is not None:
            document["attribute"] = self.attribute
        return document

    @classmethod
    def from_json(cls, document: dict[str, str]) -> Problem:
        """Return the problem that `to_json` wrote."""
        return cls(**document)

    def __str__(self) -> str:
        place = self.path if self.attribute is None else f"{self.path} @{self.attribute}"
        return f"{place}: {self.found}; {self.remedy}"


class UntranslatableError(H5zarrError):
    """Something of one object has no Zarr form; becomes a `Problem` of that object.

    Raised by the pure translators, which do not know the path; caught in `translate` only.
    """

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}")
        self.found = found
        self.remedy = remedy


class NotFollowedError(UntranslatableError):
    """An object is in a file that may not be opened."""
