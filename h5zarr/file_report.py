"""What became of one file of many, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from h5zarr.errors import Problem
from h5zarr.model import JSON
from h5zarr.prefetch import redact
from h5zarr.source import local_path


class Status(StrEnum):
    """What became of one file."""

    CONVERTED = "converted"
    UNCHANGED = "unchanged"
    """Its references were there already, and it is still the file that they were made from."""
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """What `convert_many` made of one file."""

    source: str
    """Its path or URL, with credentials if it has any; or a pattern that means no file."""
    out: str | None
    """Path or URL of its references; None where it failed."""
    status: Status
    """What became of it."""
    error: str | None = None
    """Why it failed; None where it did not."""
    problems: tuple[Problem, ...] = ()
    """What of it could not be expressed."""
    arrays: int | None = None
    """How many arrays the references have; None where they were not made now."""
    references: int | None = None
    """How many chunks they refer to; None where they were not made now."""
    inline: int | None = None
    """How many chunks stand in them; None where they were not made now."""
    seconds: float | None = None
    """How long it took (seconds); None where nothing was begun."""

    @property
    def ok(self) -> bool:
        """Whether there are references of the whole file."""
        return self.status is not Status.FAILED and not self.problems

    @property
    def name(self) -> str:
        """The source without credentials."""
        return without_credentials(self.source)

    def to_json(self) -> dict[str, JSON]:
        """Return the report as JSON, without credentials."""
        return {
            "source": self.name,
            "out": None if self.out is None else without_credentials(self.out),
            "status": self.status.value,
            "error": self.error,
            "problems": [problem.to_json() for problem in self.problems],
            "arrays": self.arrays,
            "references": self.references,
            "inline": self.inline,
            "seconds": self.seconds,
        }


def without_credentials(url: str) -> str:
    """Return a path or URL as it may be shown."""
    return redact(url) if local_path(url) is None else url
