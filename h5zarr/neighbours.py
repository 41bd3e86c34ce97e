"""Other files that an HDF5 file names: of external links, external storage and virtual datasets.

A file may name any path of the machine that opens it. What lies outside of the file's own folder is
left alone unless the user follows such names.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from fsspec.core import split_protocol

from h5zarr.errors import UntranslatableError
from h5zarr.prefetch import holds_credentials

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
        UntranslatableError
            It lies outside of the source's folder, and such files are not followed.
        """
        scheme, separator, path = self.folder.partition("://")
        target = posixpath.normpath(posixpath.join(path, name))
        if not (target + "/").startswith(posixpath.normpath(path) + "/") and not self.follow_external:
            raise UntranslatableError(
                f"the file {name}, which is outside of the source's own folder",
                "allow it with --follow-external, if you trust the file",
            )
        return f"{scheme}{separator}{target}"

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


def _folder(url: str) -> str:
    """Return the URL of a file's folder, with a slash at its end; a query belongs to the file alone."""
    bare = url.partition("?")[0] if split_protocol(url)[0] in _WITH_QUERIES else url
    return bare.rpartition("/")[0] + "/"
