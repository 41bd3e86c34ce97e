"""Files that links of a remote file lead to: libhdf5 would look for them on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import h5py

from h5zarr.link_paths import ElsewhereTarget, follow_path
from h5zarr.neighbours import Neighbourhood
from h5zarr.source import OpenSource, open_source

_MOST_FILES_DEEP = 16


@dataclass(kw_only=True, slots=True)
class LinkedFiles:
    """The files that links lead to, each opened once."""

    place: Neighbourhood
    """The file with the links."""
    storage_options: Mapping[str, Any]
    """Options of the fsspec filesystem of all of them."""
    stack: contextlib.ExitStack
    """What closes them."""
    opened: dict[str, OpenSource] = field(default_factory=dict)
    """Those that are open, by URL."""

    def find(self, file: h5py.File, path: str) -> tuple[h5py.File, str]:
        """Return the file that a path leads to, and a path of the object there that does not leave it.

        Raises
        ------
        OSError, RuntimeError, ValueError, KeyError
            It leads nowhere.
        SourceError
            A file cannot be opened.
        NotFollowedError
            A file may not be opened.
        """
        place, target = self.place, follow_path(file.id, path)
        for _ in range(_MOST_FILES_DEEP):
            if not isinstance(target, ElsewhereTarget):
                return file, target
            url = place.resolve(target.filename)
            file, place = self._open(url).file, replace(place, url=url, public_url=url)
            target = follow_path(file.id, target.path)
        raise ValueError(f"{path} leads over more than {_MOST_FILES_DEEP} files")

    def _open(self, url: str) -> OpenSource:
        if url not in self.opened:
            source = open_source(url, storage_options=self.storage_options)
            self.opened[url] = self.stack.enter_context(source)
        return self.opened[url]
