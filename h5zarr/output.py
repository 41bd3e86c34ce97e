"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fsspec.core import split_protocol, url_to_fs
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError


def write_whole(
    out: str | os.PathLike[str],
    blocks: Iterable[bytes],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write blocks of bytes to a path or fsspec URL; an old file there stays until all are written.

    A local file is written under a temporary name beside it, synchronised and renamed; a remote
    one is put in one piece from a temporary local file.

    Raises
    ------
    OutputError
        It cannot be written. Nothing is left behind.
    """
    target = stringify_path(out)
    protocol, path = split_protocol(target)
    try:
        if protocol in (None, "file", "local"):
            _write_local(Path(path), blocks)
        else:
            _write_remote(target, blocks, dict(storage_options or {}))
    except FileNotFoundError as error:
        raise OutputError(f"{target}: there is no such folder; make it first") from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


def _write_local(path: Path, blocks: Iterable[bytes]) -> None:
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(temporary.open("xb"))
        stack.callback(temporary.unlink, missing_ok=True)
        stream.writelines(blocks)
        stream.flush()
        os.fsync(stream.fileno())
        temporary.replace(path)


def _write_remote(url: str, blocks: Iterable[bytes], storage_options: dict[str, Any]) -> None:
    try:
        filesystem, path = url_to_fs(url, **storage_options)
    except (ImportError, ValueError) as error:
        raise OutputError(f"{url}: {error}") from error
    with tempfile.NamedTemporaryFile(suffix=".h5zarr") as stream:
        stream.writelines(blocks)
        stream.flush()
        filesystem.put_file(stream.name, path)
