"""Which files are meant: by paths, URLs, patterns of either, and lists of them."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import split_protocol, url_to_fs

from h5zarr.errors import SourceError, SourceNotFoundError
from h5zarr.identity import source_errors
from h5zarr.prefetch import redact
from h5zarr.source import local_path


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One file that is meant, and where it stands among others."""

    source: str
    """Its path or URL: as it was given, or as the filesystem found it."""
    folders: tuple[str, ...]
    """The protocol, the host and the folders that it is in, the outermost first."""
    name: str
    """Its name in the last of them, without the query part of a URL."""
    base: tuple[str, ...]
    """Those of ``folders`` that were written out, not found by a pattern."""

    @property
    def key(self) -> str | tuple[str, ...]:
        """What is the same for two ways to write one path."""
        return self.source if local_path(self.source) is None else (*self.folders, self.name)


def read_list(lines: Iterable[str]) -> Iterator[str]:
    """Yield the paths, URLs and patterns of a list.

    Parameters
    ----------
    lines
        One entry each; empty ones, and those that begin with ``#``, are none.
    """
    for line in lines:
        entry = line.rstrip("\r\n")
        if entry.strip() and not entry.startswith("#"):
            yield entry


def expand(entry: str, *, storage_options: Mapping[str, Any] | None = None) -> list[InputFile]:
    """Return the files that a path, URL or pattern means, sorted.

    Parameters
    ----------
    entry
        Path, fsspec URL, or one with ``*``, ``**``, ``?`` or ``[…]``; what exists under just this
        name is no pattern. In HTTP URLs ``?`` begins the query.
    storage_options
        Options of the fsspec filesystem.

    Raises
    ------
    SourceNotFoundError
        A pattern that nothing matches.
    SourceError
        The folder of a pattern cannot be listed.
    """
    if not is_pattern(entry):
        return [_input_file(entry)]
    with source_errors(entry):
        sources = _matches(entry, local_path(entry), dict(storage_options or {}))
    if not sources:
        raise SourceNotFoundError(f"{redact(entry)}: no file matches; check the pattern")
    base = _fixed_folders(entry)
    return [_input_file(source, base=base if source != entry else None) for source in sorted(sources)]


def is_pattern(entry: str) -> bool:
    """Return whether a path or URL is a pattern; what exists under just this name is none."""
    path = local_path(entry)
    return _has_magic(entry) and not (path is not None and path.exists())


def _matches(entry: str, path: Path | None, storage_options: dict[str, Any]) -> list[str]:
    if path is not None:
        # As shells do it: Path.glob takes hidden files too, and no absolute patterns.
        found = glob.iglob(str(path), recursive=True)  # noqa: PTH207
        _check_listable(path.parent)
        return [name for name in found if not Path(name).is_dir()]
    if "::" in entry:
        raise SourceError(f"{redact(entry)}: patterns cannot be used in chained URLs; name each file")
    filesystem, pattern = url_to_fs(entry, **storage_options)
    filesystem.invalidate_cache()  # what was listed before may have changed
    if filesystem.exists(pattern):
        return [entry]
    infos = filesystem.glob(pattern, detail=True)
    names = [name for name, info in infos.items() if info["type"] != "directory"]
    if entry.endswith(pattern):  # keeps user and host, which some filesystems take out of paths
        return [entry.removesuffix(pattern) + name for name in names]
    return [filesystem.unstrip_protocol(name) for name in names]


def _check_listable(folders: Path) -> None:
    """Refuse a folder that may not be listed, which `glob` passes over."""
    for name in glob.iglob(str(folders), recursive=True):  # noqa: PTH207
        if Path(name).is_dir() and not os.access(name, os.R_OK | os.X_OK):
            raise SourceError(f"{name}: may not be listed; leave the folder out of the pattern")


def _has_magic(entry: str) -> bool:
    links = entry.split("::")  # one filesystem may read through another
    return any(
        glob.has_magic(link.partition("?")[0] if split_protocol(link)[0] in ("http", "https") else link)
        for link in links
    )


def _fixed_folders(pattern: str) -> tuple[str, ...]:
    folders = _folders_and_name(pattern)[:-1]
    patterned = (number for number, folder in enumerate(folders) if glob.has_magic(folder))
    return folders[: next(patterned, len(folders))]


def _input_file(source: str, *, base: tuple[str, ...] | None = None) -> InputFile:
    *folders, name = _folders_and_name(source)
    return InputFile(
        source=source, folders=tuple(folders), name=name, base=tuple(folders) if base is None else base
    )


def _folders_and_name(source: str) -> tuple[str, ...]:
    path = local_path(source)
    if path is not None:
        # A symbolic link keeps its own name, but what `..` means depends on where links lead.
        path = path.parent.resolve() / path.name if ".." in path.parts else path.absolute()
        return ("file", *filter(None, [path.drive.rstrip(":")]), *path.parts[1:])
    # The file in an archive, `zip://inner.h5::s3://bucket/outer.zip`, is as if in a folder.
    links = [split_protocol(link) for link in reversed(source.split("::")) if "://" in link]
    return tuple(part for protocol, path in links for part in (protocol, *_parts(path.partition("?")[0])))


def _parts(path: str) -> tuple[str, ...]:
    return tuple(posixpath.normpath(f"/{path.lstrip('/')}").strip("/").split("/"))
