"""What the references of many files are called, and where the files are published.

Names depend on the files that are meant only, not on what becomes of them: a second run finds what
the first one wrote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import quote, unquote

from fsspec.core import split_protocol

from h5zarr.errors import OutputError
from h5zarr.inputs import InputFile
from h5zarr.prefetch import redact

Key = TypeVar("Key", bound=Hashable)

_HTTP = ("http", "https")


def output_names(files: Sequence[InputFile]) -> list[str]:
    """Return the name of each file's references, without the suffix of their format.

    It is the file's own name without its suffix. Files that share it keep the folders below the one
    that they have in common; files of one folder that share it keep their suffixes.

    Parameters
    ----------
    files
        All files. Two still get the same name where only the queries of their URLs differ, or where
        one has the other's suffix in its stem (``a.nc.h5`` beside ``a.nc`` and ``a.h5``).
    """
    names = [""] * len(files)
    for alike in _grouped(range(len(files)), lambda number: _stem(files[number])):
        common = _shared([files[number].folders for number in alike])
        for beside in _grouped(alike, lambda number: files[number].folders):
            for number in beside:
                file = files[number]
                own = _stem(file) if len(beside) == 1 else file.name
                names[number] = "/".join([*file.folders[common:], own])
    return names


def public_urls(files: Sequence[InputFile], folder: str) -> list[str]:
    """Return the URLs under which files are published.

    Parameters
    ----------
    files
        All files.
    folder
        URL of the folder that they have in common. Folders that only a pattern found lie below it:
        of ``data/*/x.nc`` it is that of ``data``, whatever matches.

    Raises
    ------
    OutputError
        They have no folder in common.
    """
    common = _shared([file.base for file in files])
    if files and not common:
        raise OutputError(f"{redact(folder)}: the files to publish there have no folder in common")
    return [f"{folder.rstrip('/')}/{_path_in_url(file, common, folder)}" for file in files]


def _path_in_url(file: InputFile, common: int, folder: str) -> str:
    path = "/".join([*file.folders[common:], file.name])
    is_encoded, encoded = file.folders[0] in _HTTP, split_protocol(folder)[0] in _HTTP
    if is_encoded == encoded:
        return path
    return quote(path) if encoded else unquote(path)


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many folders paths begin with that are the same in all of them."""
    levels = enumerate(zip(*paths, strict=False))
    shortest = min(map(len, paths), default=0)
    return next((level for level, folders in levels if len(set(folders)) > 1), shortest)


def _stem(file: InputFile) -> str:
    return PurePosixPath(file.name).stem or file.name


def _grouped(numbers: Iterable[int], key: Callable[[int], Key]) -> Iterable[list[int]]:
    groups: defaultdict[Key, list[int]] = defaultdict(list)
    for number in numbers:
        groups[key(number)].append(number)
    return groups.values()
