"""References to data that have moved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

from h5zarr.converter import Conversion
from h5zarr.model import JSON
from h5zarr.references import formats
from h5zarr.references.formats import WriteOptions
from h5zarr.url_renames import Renames, with_new_urls


def rename(
    references: str | os.PathLike[str] | Mapping[str, JSON],
    out: str | os.PathLike[str] | None = None,
    *,
    renames: Renames,
    storage_options: Mapping[str, Any] | None = None,
    **writing: Unpack[WriteOptions],
) -> Conversion:
    """Point references to where their files are now.

    Parameters
    ----------
    references
        Path or fsspec URL of references, whose suffix tells their format; or the dict.
    out
        Path or fsspec URL to write, as of `h5zarr.convert`; None writes nothing.
    renames
        Old and new prefixes of URLs, as of `h5zarr.url_renames.with_new_urls`.
    storage_options
        Options of the fsspec filesystem of the references, and of the HDF5 files.
    **writing
        How to write ``out``, as of `h5zarr.references.formats.WriteOptions`.

    Returns
    -------
    Conversion
        The references. Of files with a new name they tell no longer the time of modification and the
        entity tag, which a copy does not share.

    Raises
    ------
    ReferencesError
        The references cannot be loaded; or a prefix is empty, one of no URL, or would give two files
        the same name.
    SourceError
        A new prefix holds credentials, or names a file inside of another one.
    OutputError
        ``out`` cannot be written.
    """
    to = formats.target("" if out is None else out, writing)
    hierarchy = with_new_urls(formats.load(references, storage_options=storage_options), renames)
    conversion = Conversion(
        hierarchy=formats.expressible(hierarchy, to), zarr_format=writing.get("zarr_format", "3")
    )
    if out is not None:
        conversion.write(out, storage_options=storage_options, **writing)
    return conversion
