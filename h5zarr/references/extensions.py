"""Names of data types and codecs in metadata documents (pure)."""

from __future__ import annotations

from h5zarr.model import JSON


def name_of(extension: JSON) -> str:
    """Return the name of a data type or codec, which may stand for itself (Zarr v3 core, "Extensions")."""
    name: str = extension if isinstance(extension, str) else extension["name"]
    return name
