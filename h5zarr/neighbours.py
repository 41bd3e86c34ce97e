"""Other files that an HDF5 file names: of external links, external storage and virtual datasets.

A file may name any path of the machine that opens it. What lies outside of the file's own folder is
left alone unless the user follows such names.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fsspec.core import split_protocol

from h5zarr.errors import (
    NotFollowedError,
    NotHDF5Error,
    SourceError,
    SourceNotFoundError,
    UntranslatableError,
)
from h5zarr.model import SourceIdentity
from h5zarr.prefetch import holds_credentials, one_line
from h5zarr.source import identify
from h5zarr.versions import difference

_WITH_QUERIES = ("http", "https")


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhood:
    """Where the files are that a source may name."""

    url: str
    """URL of the source: ``file://`` and an absolute path, or remote."""
    public_url: str
    """URL under which references name the source."""
    follow_external: bool = False
    """Whether files outside of the source's own folder may be opened."""
    storage_options: Mapping[str, Any] | None = None
    """Options of the fsspec filesystem of all of them."""
    met: dict[str, SourceIdentity] = field(default_factory=dict)
    """What is known of those that were looked at, by the URL under which references name them."""

    @property
    def is_local(self) -> bool:
        """Whether the source is a local file."""
        return bool(split_protocol(self.url)[0] == "file")

    @property
    def folder(self) -> str:
        """URL of the source's folder, with a slash at its end."""
        return _folder(self.url)

    def resolve(self, name: str) -> str:
        """Return the URL of a file that the source names.

        Relative names are relative to the source's folder, as libhdf5 takes those of links and
        virtual datasets, and those of external storage with the prefix ``${ORIGIN}``.

        Raises
        ------
        NotFollowedError
            It lies outside of the source's folder, and such files are not followed.
        """
        scheme, separator, path = self.folder.partition("://")
        target = posixpath.normpath(posixpath.join(path, name))
        folders = [posixpath.normpath(path)]
        if self.is_local:  # a symbolic link is where it stands, and where it leads
            folders.append(posixpath.dirname(os.path.realpath(split_protocol(self.url)[1])))
        if not any(_is_below(target, folder) for folder in folders) and not self.follow_external:
            raise NotFollowedError(
                f"the file {name}, which is outside of the source's own folder",
                "allow it with --follow-external, if you trust the file",
            )
        return f"{scheme}{separator}{target}"

    def find(self, name: str, variable: str) -> str:
        """Return the URL of a file that a link or virtual dataset names, where libhdf5 looks for it.

        That is, for local files, at the absolute path; else by the name, or of an absolute path by its
        last part, in the folders of an environment variable, in the source's own folder, in the current
        one, and in that of the file that the source is a symbolic link to.

        Parameters
        ----------
        name
            File name as the source has it.
        variable
            The environment variable.

        Raises
        ------
        NotFollowedError
            It lies outside of the source's folder, and such files are not followed.
        """
        if not self.is_local:
            return self.resolve(name)
        return self.resolve(next(filter(os.path.isfile, self._places(name, variable)), name))

    def _places(self, name: str, variable: str) -> Iterator[str]:
        """Yield the paths where libhdf5 looks for a file (`H5Pset_virtual_prefix`, `H5Pset_elink_prefix`)."""
        own = split_protocol(self.url)[1]
        if posixpath.isabs(name):
            yield name
            name = posixpath.basename(name)
        folders = filter(None, os.environ.get(variable, "").split(":"))
        origin = posixpath.dirname(own)
        yield from (posixpath.join(folder.replace("${ORIGIN}", origin), name) for folder in folders)
        yield posixpath.join(origin, name)
        yield posixpath.abspath(name)
        yield posixpath.join(posixpath.dirname(os.path.realpath(own)), name)

    def publish(self, url: str) -> str:
        """Return the URL under which references name a file; beside the source, it moves with it.

        Raises
        ------
        UntranslatableError
            It is elsewhere, and its URL holds credentials.
        """
        if url.startswith(self.folder):
            return _folder(self.public_url) + url.removeprefix(self.folder)
        if holds_credentials(url):
            raise UntranslatableError(
                f"the file {posixpath.basename(url)}, whose URL holds credentials",
                "put the file beside the one that names it, where --public-url tells of both",
            )
        return url

    def read_from(self, public_url: str) -> str:
        """Return the URL where a file is read that references name; what `publish` does, undone."""
        folder = _folder(self.public_url)
        return self.folder + public_url.removeprefix(folder) if public_url.startswith(folder) else public_url

    def note(self, url: str, identity: SourceIdentity | None) -> SourceIdentity:
        """Keep what is known of a file for the references, and return it; None: it is not there.

        Raises
        ------
        UntranslatableError
            References may not name it.
        """
        public = self.publish(url)
        absent = SourceIdentity(url=public, byte_length=0)
        is_copy = self.is_local and public != url
        noted = absent if identity is None else replace(identity, url=public, is_local_copy=is_copy)
        return self.met.setdefault(public, noted)

    def look(self, url: str) -> SourceIdentity:
        """Return what is known of a file, which is looked at if nobody has.

        Raises
        ------
        NotFollowedError
            It cannot be looked at: nobody knows what libhdf5 would read there.
        UntranslatableError
            References may not name it.
        """
        known = self.met.get(self.publish(url))
        try:
            return known or self.note(url, identity_if_there(url, self.storage_options))
        except SourceError as error:
            raise NotFollowedError(f"the file {one_line(error)}", "make it readable") from error

    def difference(self, before: SourceIdentity) -> str | None:
        """Return what tells that a file is another one than references tell of; None where nothing does.

        Raises
        ------
        SourceError
            It cannot be looked at.
        """
        url = self.read_from(before.url)
        now = identity_if_there(url, self.storage_options)
        if now is None:
            return "it is gone" if before.byte_length else None
        if before.byte_length == 0:
            return "it was not there"
        return difference(before, replace(now, is_local_copy=self.is_local and url != before.url))


def identity_if_there(url: str, storage_options: Mapping[str, Any] | None) -> SourceIdentity | None:
    """Return what tells a file from a later version of it; None where there is no file.

    Raises
    ------
    SourceError
        It cannot be asked.
    """
    try:
        return identify(url, storage_options)
    except (SourceNotFoundError, NotHDF5Error):
        return None


def _is_below(path: str, folder: str) -> bool:
    """Return whether a path is below a folder; both are normal, ``.`` is that of `memory://x`."""
    if folder == ".":
        return not posixpath.isabs(path) and path.partition("/")[0] != ".."
    return path.startswith(folder.rstrip("/") + "/")


def _folder(url: str) -> str:
    """Return the URL of a file's folder, with a slash at its end; a query belongs to the file alone."""
    bare = url.partition("?")[0] if split_protocol(url)[0] in _WITH_QUERIES else url
    return bare.rpartition("/")[0] + "/"
