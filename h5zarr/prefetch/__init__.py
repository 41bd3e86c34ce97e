"""Reading a remote HDF5 file's metadata in as many round trips as it is deep.

libhdf5 reads metadata piece by piece, each read waiting for the last. The crawler knows just enough
of the file format to follow addresses ahead of it, many ranges at a time, into memory; libhdf5 then reads
from there, and stays the only authority on what the file means.
"""

from __future__ import annotations

from h5zarr.errors import DamagedFileError
from h5zarr.prefetch.cache import PrefetchedFile
from h5zarr.prefetch.connections import connection_options
from h5zarr.prefetch.crawler import Crawler
from h5zarr.prefetch.fetch import Fetcher
from h5zarr.prefetch.ranges import Span
from h5zarr.prefetch.redact import holds_credentials, one_line, redact
from h5zarr.prefetch.tasks import Interest

__all__ = [
    "Fetcher",
    "Interest",
    "PrefetchedFile",
    "Span",
    "connection_options",
    "holds_credentials",
    "one_line",
    "open_prefetched",
    "redact",
]


def open_prefetched(
    fetcher: Fetcher,
    byte_length: int,
    *,
    entity_tag: str | None = None,
    interest: Interest | None = None,
) -> PrefetchedFile:
    """Open a remote HDF5 file with all metadata in memory that libhdf5 will ask for.

    Parameters
    ----------
    fetcher
        Brings ranges of the file; what it has begun to fetch is taken.
    byte_length
        Length of the file (bytes).
    entity_tag
        Entity tag of the file, without quotes: tells whether what was begun is of the same file.
    interest
        What of the file will be read; nothing else is fetched. None: everything.

    Returns
    -------
    PrefetchedFile
        The file, for `h5py.File`. What was not foreseen is fetched when it is read; ``statistics``
        tells how often that was.

    Raises
    ------
    SourceError
        The file cannot be read.
    DamagedFileError
        It is open for writing, or was not closed; libhdf5 finds that in local files only.
    """
    file = PrefetchedFile(fetcher, byte_length)
    file.take_beginning(entity_tag)
    crawler = Crawler(file, interest or Interest())
    crawler.run()
    if crawler.superblock is not None and crawler.superblock.open_for_writing:
        raise DamagedFileError(
            f"{file.name}: is open for writing, or was not closed; close it there, or run h5clear -s on it"
        )
    return file
