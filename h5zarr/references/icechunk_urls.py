"""URLs as Icechunk has them: percent-encoded locations, and the prefixes of their containers (pure).

Icechunk compares a container's prefix with the decoded location, so that prefixes are not encoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from fsspec.core import split_protocol

from h5zarr.errors import OutputError
from h5zarr.prefetch.redact import redact
from h5zarr.protocols import LOCAL

_S3 = ("s3", "s3a")
_WEB = ("http", "https")
_IN_WEB_URLS = "/%:@!$&'()*+,;=~[]"
"""What stands in the path of a URL as it is: a user's URL is encoded already."""
_DELETE = "\x7f"


def location_of(url: str) -> str:
    """Return an fsspec URL as Icechunk's references have it.

    Parameters
    ----------
    url
        ``file://``, ``s3://``, ``http://`` or ``https://``; or a local path.

    Raises
    ------
    OutputError
        Icechunk cannot read from it.
    """
    protocol, path = split_protocol(url)
    if any(letter < " " or letter == _DELETE for letter in path):
        raise _unreadable(url, "a name with control characters", "rename the file")
    if protocol in LOCAL:
        return "file://" + _quoted(url, _local_name(url, path))
    if protocol in _S3:
        if "?versionId=" in path:
            raise _unreadable(url, "one version of an object", "name the object itself")
        return "s3://" + _quoted(url, path)
    if protocol in _WEB:
        if urlsplit(url).query or urlsplit(url).fragment or urlsplit(url).username is not None:
            raise _unreadable(url, "a URL with a query, a fragment or a user", "give the bare URL")
        return f"{protocol}://{quote(path, safe=_IN_WEB_URLS)}"
    raise _unreadable(url, f"a URL {protocol}://", "write references as JSON or Parquet")


def url_of(location: str) -> str:
    """Return the fsspec URL of a location that `location_of` returned."""
    return location if location.startswith("http") else unquote(location)


def container_prefixes(locations: Iterable[str]) -> list[str]:
    """Return the prefixes of containers for locations: of each host, or the common folder of each bucket.

    Parameters
    ----------
    locations
        As `location_of` returns them.

    Raises
    ------
    OutputError
        A file is in the root folder, which Icechunk never reads.
    """
    folders: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for location in locations:
        scheme, _, path = url_of(location).partition("://")
        *folder, _ = path.split("/")
        if folder == [""]:
            raise _unreadable(url_of(location), "a file in the root folder", "move it into another folder")
        authority = folder[:2] if scheme == "file" else folder[:1]
        folders[scheme, *authority].append(authority if scheme in _WEB else folder)
    return sorted(f"{key[0]}://{'/'.join([*_common(below), ''])}" for key, below in folders.items())


def _common(folders: Iterable[list[str]]) -> list[str]:
    """Return the names with which all folders begin: those of the first and the last in the alphabet."""
    names = sorted(folders)
    pairs = zip(names[0], names[-1], strict=False)
    return [name for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _local_name(url: str, path: str) -> str:
    name = Path(path).absolute()
    if ".." in name.parts:
        name = name.resolve()
    if name.as_posix().startswith("//"):
        raise _unreadable(url, "a network path", "mount it")
    return name.as_posix()


def _quoted(url: str, name: str) -> str:
    try:
        return quote(name, safe="/")
    except UnicodeEncodeError as error:
        raise _unreadable(url, "a name that is not UTF-8", "rename the file") from error


def _unreadable(url: str, found: str, remedy: str) -> OutputError:
    name = redact(url).encode("utf-8", "backslashreplace").decode()
    return OutputError(f"{name}: is {found}, from which Icechunk does not read; {remedy}")
