"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fsspec.core import split_protocol, url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError
from h5zarr.identity import is_of_filesystem
from h5zarr.prefetch.redact import one_line, redact
from h5zarr.protocols import LOCAL

Kind = Literal["JSON", "HTML"]
"""What a file holds."""
_OPENINGS: Mapping[Kind, bytes] = {"JSON": b"{", "HTML": b"<!doctype"}
"""How files begin that may be replaced, in lower case and after blanks."""
_LOOKED_AT_BYTES = 1024
_UNFINISHED = ".unfinished"
"""What is in a remote folder while it is written, and stays there where this fails."""
_MAGIC = frozenset("*?[]")
_MOST_SYNCHRONISED = 1000
"""Files that are synchronised one by one."""
_AT_FDCWD = -100
_EXCHANGE = 2
"""`RENAME_EXCHANGE` of Linux and `RENAME_SWAP` of macOS."""


def write_whole(
    out: str | os.PathLike[str],
    blocks: Iterable[bytes],
    *,
    kind: Kind,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write blocks of bytes to a path or fsspec URL; an old file there stays until all are written.

    A local file is written under a temporary name beside it, synchronised and renamed, with the
    permissions of the old one; a symbolic link goes on leading to it. A remote one is put in one piece from
    a temporary local file. What is no file but a pipe or a device is written into as the blocks come.

    Parameters
    ----------
    out
        Path or fsspec URL of the file.
    blocks
        Its bytes.
    kind
        What they are. An old file is replaced only where it is of the same kind, or empty: anything
        else was not meant, such as the second file in ``-o *.nc``.
    storage_options
        Options of the fsspec filesystem of ``out``.

    Raises
    ------
    OutputError
        It cannot be written, or what is there is something else. Nothing is left behind.
    """
    target = stringify_path(out)
    protocol, path = split_protocol(target)
    with output_errors(redact(target)):
        if protocol in LOCAL:
            _write_local(Path(path), blocks, kind)
        else:
            _write_remote(target, blocks, kind, dict(storage_options or {}))


@contextlib.contextmanager
def whole_folder(
    out: str | os.PathLike[str],
    *,
    last: str,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Give an empty local folder, whose contents are at ``out`` once the block has ended.

    Where the block raises, all stays as it was.

    Locally the new folder is filled under a temporary name beside ``out``, synchronised, and exchanged
    with the old one in one step (`renameat2`): a process that is killed leaves the old folder or the
    new one, and perhaps a hidden one beside. On a file system that cannot exchange folders the old
    one is moved aside first; killed between these two steps, it leaves both under hidden names.

    Object stores have no folders that could be renamed. There, the old folder's file ``last`` goes
    first, then its other files; then the new files come, and ``last`` at the very end. Whoever opens
    the folder at ``last`` finds the old one, none, or the new one, never a mixture; who had it open
    before may. Under a new name nothing is at risk. What was left unfinished may be written again.

    Parameters
    ----------
    out
        Path or fsspec URL of the folder.
    last
        Path in it of the file that readers open first. An old folder is replaced only where it has
        that file, or none at all: what else is there was not written by this program.
    storage_options
        Options of the fsspec filesystem of ``out``.

    Raises
    ------
    OutputError
        It cannot be written, or what is there is something else. What the block itself raises passes
        through; `output_errors` translates what comes of writing.
    """
    target = stringify_path(out)
    protocol, path = split_protocol(target)
    if protocol in LOCAL:
        folder = _local_folder(Path(os.path.realpath(path)), last, target)
    else:
        folder = _remote_folder(target, last, dict(storage_options or {}))
    with folder as new:
        yield new


@contextlib.contextmanager
def output_errors(target: str) -> Iterator[None]:
    """Raise what a filesystem refuses in the block as an OutputError of ``target``, without credentials."""
    try:
        yield
    except FileNotFoundError as error:
        raise OutputError(f"{target}: there is no such folder; make it first") from error
    except Exception as error:
        if not is_of_filesystem(error):
            raise
        raise OutputError(f"{target}: cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return why something failed; of what the system refuses, without the temporary name."""
    words = error.strerror if isinstance(error, OSError) else None
    return one_line(Exception(words) if words else error) or type(error).__name__


# Files -----------------------------------------------------------------------------------


def _write_local(path: Path, blocks: Iterable[bytes], kind: Kind) -> None:
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.writelines(blocks)
        return
    if path.is_file():
        with path.open("rb") as stream:
            _check_kind(stream.read(_LOOKED_AT_BYTES), kind, str(path))
    _replace(Path(os.path.realpath(path)), blocks)


def _check_kind(beginning: bytes, kind: Kind, target: str) -> None:
    """Refuse to replace a file of another kind."""
    text = beginning.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if beginning and not text.startswith(_OPENINGS[kind]):
        raise _something_else(target, f"no {kind}")


def _replace(path: Path, blocks: Iterable[bytes]) -> None:
    temporary = _beside(path)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(temporary.open("xb"))
        stack.callback(temporary.unlink, missing_ok=True)
        if path.exists():
            shutil.copymode(path, temporary)
        stream.writelines(blocks)
        stream.flush()
        os.fsync(stream.fileno())
        temporary.replace(path)


def _beside(path: Path) -> Path:
    """Return a hidden name beside a path that nobody else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _write_remote(url: str, blocks: Iterable[bytes], kind: Kind, storage_options: dict[str, Any]) -> None:
    filesystem, path = _filesystem(url, storage_options)
    _check_kind(_beginning(filesystem, path), kind, url)
    with tempfile.NamedTemporaryFile(suffix=".h5zarr") as stream:
        stream.writelines(blocks)
        stream.flush()
        filesystem.put_file(stream.name, path)


def _beginning(filesystem: Any, path: str) -> bytes:
    """Return the first bytes of a file; none where there is no file, or one that may only be written."""
    try:
        content: bytes = filesystem.cat_file(path, start=0, end=_LOOKED_AT_BYTES)
    except Exception as error:
        if not is_of_filesystem(error):
            raise
        return b""
    return content


def _filesystem(url: str, storage_options: dict[str, Any]) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL, and the path there."""
    try:
        filesystem, path = url_to_fs(url, **storage_options)
    except (ImportError, ValueError) as error:
        raise OutputError(f"{redact(url)}: {one_line(error)}") from error
    return filesystem, path


# Local folders ---------------------------------------------------------------------------


@contextlib.contextmanager
def _local_folder(path: Path, last: str, target: str) -> Iterator[Path]:
    new = _beside(path)
    with output_errors(redact(target)):
        if path.exists() and (not path.is_dir() or any(path.iterdir())) and not (path / last).is_file():
            raise _something_else(target, f"without {last}")
        new.mkdir()
    try:
        yield new
        with output_errors(redact(target)):
            _synchronise(new)
            _put_in_place(new, path)
            _synchronise_one(path.parent)
    finally:
        # What has this name now is what was written in part, or the old folder.
        shutil.rmtree(new, ignore_errors=True)


def _something_else(target: str, what: str) -> OutputError:
    return OutputError(f"{redact(target)}: is something else, {what}; choose another name, or remove it")


def _synchronise(folder: Path) -> None:
    """Wait until a folder, with all that is below it, is on the disk."""
    paths = [folder, *folder.rglob("*")]
    if len(paths) <= _MOST_SYNCHRONISED or not _synchronise_filesystem(folder):
        for path in paths:
            _synchronise_one(path)


def _synchronise_one(path: Path) -> None:
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


def _synchronise_filesystem(path: Path) -> bool:
    """Do so for all of a path's file system, in one call; return False where the system has none."""
    library = ctypes.CDLL(None)
    with _descriptor(path) as descriptor:
        return hasattr(library, "syncfs") and bool(library.syncfs(descriptor) == 0)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _put_in_place(new: Path, out: Path) -> None:
    """Rename a folder; where there is one of that name, it gets the new one's former name."""
    if not out.exists():
        new.rename(out)
    elif not _exchange(new, out):
        aside = _beside(out)
        out.rename(aside)
        try:
            new.rename(out)
        except OSError:
            aside.rename(out)
            raise
        aside.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False where the system cannot."""
    library = ctypes.CDLL(None)
    first, second = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        return bool(library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE) == 0)
    return hasattr(library, "renamex_np") and bool(library.renamex_np(first, second, _EXCHANGE) == 0)


# Remote folders --------------------------------------------------------------------------


@contextlib.contextmanager
def _remote_folder(url: str, last: str, storage_options: dict[str, Any]) -> Iterator[Path]:
    filesystem, root = _filesystem(url, storage_options)
    with output_errors(redact(url)):
        old = _files(filesystem, root)
        if old and {f"{root}/{last}", f"{root}/{_UNFINISHED}"}.isdisjoint(old):
            raise _something_else(url, f"without {last}")
    with tempfile.TemporaryDirectory(suffix=".h5zarr") as name:
        folder, empty = Path(name, "folder"), Path(name, "empty")
        folder.mkdir()
        yield folder
        with output_errors(redact(url)):
            empty.touch()
            filesystem.put_file(str(empty), f"{root}/{_UNFINISHED}")
            _remove(filesystem, root, last)
            _put(filesystem, folder, root, last)
            filesystem.rm_file(f"{root}/{_UNFINISHED}")


def _files(filesystem: Any, root: str) -> list[str]:
    """Return all files at and below a path; [] where there is nothing."""
    filesystem.invalidate_cache()
    try:
        return list(filesystem.find(root))
    except FileNotFoundError:
        return []


def _remove(filesystem: Any, root: str, last: str) -> None:
    """Remove the old files, ``last`` before all others."""
    old = set(_files(filesystem, root)) - {f"{root}/{_UNFINISHED}"}
    if f"{root}/{last}" in old:
        filesystem.rm_file(f"{root}/{last}")
        old.remove(f"{root}/{last}")
    plain = [name for name in old if not _MAGIC.intersection(name)]
    if plain:
        filesystem.rm(plain)
    for name in old.difference(plain):  # of which `rm` would take others too
        filesystem.rm_file(name)


def _put(filesystem: Any, folder: Path, root: str, last: str) -> None:
    """Put all files of a local folder, ``last`` after all others."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    others = [name for name in names if name != last]
    if others:
        filesystem.put([str(folder / name) for name in others], [f"{root}/{name}" for name in others])
    filesystem.put_file(str(folder / last), f"{root}/{last}")
