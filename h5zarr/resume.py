"""Whether references are still those that would be written now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from h5zarr.errors import ReferencesError, SourceError
from h5zarr.model import JSON, Selection, SourceIdentity
from h5zarr.neighbours import Neighbourhood
from h5zarr.references.formats import read_provenance
from h5zarr.references.provenance import Provenance
from h5zarr.source import identify, local_path, local_url
from h5zarr.versions import difference


def provenance_if_current(
    references: str,
    source: str,
    *,
    selection: Selection,
    options: Mapping[str, JSON],
    public_url: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    output_options: Mapping[str, Any] | None = None,
) -> Provenance | None:
    """Return where references come from, if new ones would come from the same file, unchanged.

    Parameters
    ----------
    references
        Path or URL where they should be.
    source
        Path or URL of the HDF5 file.
    selection
        The part of it that is asked for now.
    options
        The options that shape references now, where they are not the defaults.
    public_url
        The URL by which they should name it, where it is not the one that is read from.
    storage_options, output_options
        Options of the fsspec filesystems of ``source`` and of ``references``.

    Returns
    -------
    Provenance or None
        None where there are no references, or they cannot be read, are of another version of h5zarr,
        of another file or an earlier state of it, of another part, or made with other options; and
        where nothing but its length tells whether the file has changed.
    """
    try:
        known = read_provenance(references, storage_options=output_options)
        now = identify(source, storage_options)
    except (ReferencesError, SourceError):
        return None  # making them again tells what is wrong, if anything is
    path = local_path(source)
    url = public_url or (now.url if path is None else local_url(path))
    asked = (version("h5zarr"), selection, options)
    if (known.version, known.selection, known.options) != asked:
        return None
    place = Neighbourhood(
        url=now.url if path is None else local_url(path), public_url=url, storage_options=storage_options
    )
    now = replace(now, url=url, is_local_copy=path is not None and url != place.url)
    is_same = _is_same(known.source, now) and not _are_others(known.neighbours, place)
    return known if is_same else None


def _are_others(before: Iterable[SourceIdentity], place: Neighbourhood) -> bool:
    try:
        return any(place.difference(one) is not None for one in before)
    except SourceError:
        return True


def _is_same(before: SourceIdentity | None, now: SourceIdentity) -> bool:
    if before is None or before.url != now.url:
        return False
    has_tag = before.etag is not None and now.etag is not None
    has_time = before.modified is not None and now.modified is not None
    return (has_tag or has_time) and difference(before, now) is None
