"""The main job: an HDF5 file in, references out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from h5zarr.errors import OutputError, Problem
from h5zarr.model import JSON, Hierarchy
from h5zarr.output import write_whole
from h5zarr.references import kerchunk_json
from h5zarr.scanner import INLINE_LIMIT_BYTES, INLINE_THRESHOLD_BYTES, Progress, scan
from h5zarr.source import Source, local_path
from h5zarr.translator import Links, translate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conversion:
    """What `convert` made of one file."""

    hierarchy: Hierarchy
    """The Zarr hierarchy of references."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything of the file that could not be expressed."""
        return self.hierarchy.problems

    def references(self) -> dict[str, JSON]:
        """Return the references as ``{"version": 1, "refs": {…}, "h5zarr": {…}}``."""
        return kerchunk_json.references(self.hierarchy, version=version("h5zarr"))

    def blocks(self) -> Iterator[bytes]:
        """Yield the references as blocks of JSON text."""
        return kerchunk_json.render(self.hierarchy, version=version("h5zarr"))

    def write(self, out: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> None:
        """Write the references to a path or fsspec URL, whole or not at all.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        write_whole(out, self.blocks(), storage_options=storage_options)


def convert(
    source: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    group: str = "/",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    inline_threshold: int = INLINE_THRESHOLD_BYTES,
    inline_limit: int = INLINE_LIMIT_BYTES,
    follow_external: bool = False,
    isolate: bool = False,
    timeout: float | None = None,
    links: Links = "arrays",
    phony_dimensions: bool = True,
    progress: Progress | None = None,
) -> Conversion:
    """Make an HDF5 file readable as Zarr v3 through references to its chunks.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`.
    out
        Path or fsspec URL of the JSON to write; None writes nothing.
    storage_options
        Options of the fsspec filesystem of ``source``.
    public_url, group, include, exclude, inline_threshold, inline_limit, follow_external, isolate,
    timeout, progress
        As of `h5zarr.scan`.
    links, phony_dimensions
        As of `h5zarr.translate`.

    Returns
    -------
    Conversion
        The references, and the ``problems``: what could not be expressed.

    Raises
    ------
    SourceError
        The file cannot be read; the subclass tells why.
    GroupNotFoundError
        ``group`` is not in the file.
    OutputError
        ``out`` cannot be written.
    """
    if out is not None:
        _refuse_overwriting(source, out)
    scanned = scan(
        source,
        storage_options=storage_options,
        public_url=public_url,
        group=group,
        include=include,
        exclude=exclude,
        inline_threshold=inline_threshold,
        inline_limit=inline_limit,
        follow_external=follow_external,
        isolate=isolate,
        timeout=timeout,
        progress=progress,
    )
    hierarchy = translate(scanned, links=links, phony_dimensions=phony_dimensions)
    conversion = Conversion(hierarchy=hierarchy)
    if out is not None:
        conversion.write(out)
    return conversion


def _refuse_overwriting(source: Source, out: str | os.PathLike[str]) -> None:
    """Refuse to write over the source, also through another name of it."""
    read, written = local_path(source), local_path(out)
    if read is None or written is None or not (read.is_file() and written.is_file()):
        return
    if written.samefile(read):
        raise OutputError(f"{out}: is the input; choose another name for the references")
