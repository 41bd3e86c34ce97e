"""The compiled modules; each is None in an installation without a compiler."""

from __future__ import annotations

__all__ = ["json_rows", "native"]

try:
    from h5zarr import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

try:
    from h5zarr import _json_rows as json_rows
except ImportError:
    json_rows = None  # type: ignore[assignment]
