"""Where a path leads whose parts are links: to an object of the same file, or out of it.

libhdf5 follows links into other files by itself, from which it returns objects that look like the
file's own: their addresses are those of another file. Who reads addresses follows links one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from h5py import h5f, h5g, h5l

_MOST_LINKS = 16
"""As many soft links libhdf5 follows by default (`H5Pset_nlinks`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ElsewhereTarget:
    """An object of another file."""

    filename: str
    """The other file, as the external link has it."""
    path: str
    """Path of the object in that file, which may lead further."""


def encode_path(path: str) -> bytes:
    """Return the bytes of a path as HDF5 has it, also where they are not UTF-8."""
    return path.encode("utf-8", "surrogateescape")


def decode_path(path: bytes) -> str:
    """Return a path of the bytes that HDF5 has, also where they are not UTF-8."""
    return path.decode("utf-8", "surrogateescape")


def follow_path(file: h5f.FileID, path: str) -> str | ElsewhereTarget:
    """Return a path of hard links to what an absolute path leads to, or where it leaves the file.

    Parameters
    ----------
    file
        An open file.
    path
        An absolute path, any part of which may be a link.

    Raises
    ------
    OSError, RuntimeError, ValueError, KeyError
        It leads nowhere.
    """
    reached, pending, soft_links = "/", _parts(path), 0
    while pending:
        name = pending.pop(0)
        group = h5g.open(file, encode_path(reached))  # its links are not without it
        kind = group.links.get_info(encode_path(name)).type
        if kind == h5l.TYPE_HARD:
            reached = f"{reached.rstrip('/')}/{name}"
            continue
        value = group.links.get_val(encode_path(name))
        if kind == h5l.TYPE_EXTERNAL:
            filename, target = map(decode_path, value)
            return ElsewhereTarget(filename=filename, path="/".join(["", *_parts(target), *pending]))
        soft_links += 1
        if kind != h5l.TYPE_SOFT or soft_links > _MOST_LINKS:
            raise ValueError(f"{path} leads over a user-defined link, or too many soft links")
        target = decode_path(value)
        reached, pending = "/" if target.startswith("/") else reached, _parts(target) + pending
    return reached


def leads_out(file: h5f.FileID, path: str) -> bool:
    """Return whether an absolute path leads to an object of another file."""
    try:
        return isinstance(follow_path(file, path), ElsewhereTarget)
    except (OSError, RuntimeError, ValueError, KeyError):
        return False


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
