"""The main job: an HDF5 file in, references out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from inspect import signature
from typing import Any, Unpack

from h5zarr.errors import OutputError, Problem, ReferencesError
from h5zarr.model import JSON, Hierarchy, patterns
from h5zarr.references import formats, kerchunk_json
from h5zarr.references.formats import WriteOptions
from h5zarr.references.keys import ZarrFormat
from h5zarr.scanner import INLINE_LIMIT_BYTES, INLINE_THRESHOLD_BYTES, Progress, scan
from h5zarr.source import Source, local_path
from h5zarr.translator import Links, translate

_SHAPING: Mapping[str, JSON] = {
    "inline_threshold": INLINE_THRESHOLD_BYTES,
    "inline_limit": INLINE_LIMIT_BYTES,
    "follow_external": False,
    "links": "arrays",
    "phony_dimensions": True,
    "zarr_format": "3",
    "record_size": None,
    "shard_bytes": None,
    "portable": False,
}
"""The defaults of options that shape references; what is selected, `Selection` tells."""
_WRITING = WriteOptions.__optional_keys__


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conversion:
    """What `convert` made of a file, or `combine` of several."""

    hierarchy: Hierarchy
    """The Zarr hierarchy of references."""
    zarr_format: ZarrFormat = "3"
    """Which versions of Zarr's metadata `references` and `blocks` have."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything of the file that could not be expressed."""
        return self.hierarchy.problems

    def references(self) -> dict[str, JSON]:
        """Return the references as ``{"version": 1, "refs": {…}, "h5zarr": {…}}``."""
        return kerchunk_json.references(
            self.hierarchy, version=version("h5zarr"), zarr_format=self.zarr_format
        )

    def blocks(self) -> Iterator[bytes]:
        """Yield the references as blocks of JSON text."""
        return kerchunk_json.render(self.hierarchy, version=version("h5zarr"), zarr_format=self.zarr_format)

    def write(
        self,
        out: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **writing: Unpack[WriteOptions],
    ) -> tuple[Problem, ...]:
        """Write the references to a path or fsspec URL, whole or not at all.

        Parameters
        ----------
        out
            Where to write.
        storage_options
            Options of the fsspec filesystem of the HDF5 file, of which a Zarr store gets a copy.
        progress
            Called with the bytes copied and their total, of a Zarr store.
        **writing
            As of `h5zarr.references.formats.WriteOptions`.

        Returns
        -------
        tuple of Problem
            Everything that could not be expressed; it is more than `problems` where the format cannot
            express what others can.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        to = formats.target(out, writing)
        options = {**self.hierarchy.options, **shaping_options(writing)}
        hierarchy = formats.expressible(replace(self.hierarchy, options=options), to)
        formats.write(
            hierarchy,
            to,
            version=version("h5zarr"),
            source_options=storage_options,
            progress=progress,
        )
        return hierarchy.problems


def convert(
    source: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    group: str = "/",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    inline_threshold: int = INLINE_THRESHOLD_BYTES,
    inline_limit: int = INLINE_LIMIT_BYTES,
    follow_external: bool = False,
    isolate: bool = False,
    timeout: float | None = None,
    links: Links = "arrays",
    phony_dimensions: bool = True,
    progress: Progress | None = None,
    **writing: Unpack[WriteOptions],
) -> Conversion:
    """Make an HDF5 file readable as Zarr v3 through references to its chunks.

    Parameters
    ----------
    source
        Path, fsspec URL, open binary file, or open `h5py.File`; or path or URL of references, whose
        suffix tells their format, to be written in another one.
    out
        Path or fsspec URL to write, whose suffix tells the format: JSON, ``.parq``, ``.icechunk``, or
        ``.zarr`` for a copy of the chunks; None writes nothing.
    storage_options
        Options of the fsspec filesystem of ``source``.
    public_url, group, include, exclude, inline_threshold, inline_limit, follow_external, isolate,
    timeout, progress
        As of `h5zarr.scan`.
    links, phony_dimensions
        As of `h5zarr.translate`.
    **writing
        How to write ``out``, as of `h5zarr.references.formats.WriteOptions`.

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
    ReferencesError
        ``source`` are references that cannot be loaded, or an option is given that chooses what is
        scanned of an HDF5 file.
    OutputError
        ``out`` cannot be written.
    """
    if out is not None:
        _refuse_overwriting(source, out)
        formats.target(out, writing)  # what cannot be written is said before the scan
    scanning: dict[str, Any] = {
        "public_url": public_url,
        "group": group,
        "include": patterns(include),
        "exclude": patterns(exclude),
        "inline_threshold": inline_threshold,
        "inline_limit": inline_limit,
        "follow_external": follow_external,
        "isolate": isolate,
        "timeout": timeout,
    }
    translating: dict[str, Any] = {"links": links, "phony_dimensions": phony_dimensions}
    if isinstance(source, str | os.PathLike) and formats.format_of(source) is not None:
        refuse_options(source, scan, scanning)
        refuse_options(source, translate, translating)
        hierarchy = formats.load(source, storage_options=storage_options)
    else:
        scanned = scan(source, storage_options=storage_options, progress=progress, **scanning)
        hierarchy = translate(scanned, **translating)
    shaped = {name: value for name, value in hierarchy.options.items() if name not in _WRITING}
    shaped |= shaping_options({**scanning, **translating, **writing})
    hierarchy = replace(hierarchy, options=shaped)
    to = formats.target("" if out is None else out, writing)
    conversion = Conversion(
        hierarchy=formats.expressible(hierarchy, to), zarr_format=writing.get("zarr_format", "3")
    )
    if out is not None:
        conversion.write(out, storage_options=storage_options, progress=progress, **writing)
    return conversion


def shaping_options(given: Mapping[str, Any]) -> dict[str, JSON]:
    """Return those options of `convert` that shape references, where they are not the defaults."""
    return {name: given[name] for name, usual in _SHAPING.items() if given.get(name, usual) != usual}


def refuse_options(
    source: str | os.PathLike[str], function: Callable[..., Any], given: Mapping[str, Any]
) -> None:
    """Refuse what has no meaning for references that exist already."""
    defaults = signature(function).parameters
    names = [name for name, value in given.items() if value != defaults[name].default]
    if names:
        raise ReferencesError(
            f"{os.fspath(source)}: are references already; {', '.join(names)} can be chosen only where"
            " the HDF5 file is scanned"
        )


def _refuse_overwriting(source: Source, out: str | os.PathLike[str]) -> None:
    """Refuse to write over the source, also through another name of it."""
    read, written = local_path(source), local_path(out)
    if read is None or written is None or not (read.is_file() and written.is_file()):
        return
    if written.samefile(read):
        raise OutputError(f"{out}: is the input; choose another name for the references")
