"""Read HDF5 and netCDF-4 files as Zarr v3 without copying them, and prove that they read back equal."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h5zarr.converter import Conversion, convert
    from h5zarr.errors import H5zarrError, Problem
    from h5zarr.model import FileScan, Hierarchy
    from h5zarr.scanner import scan
    from h5zarr.translator import translate
    from h5zarr.validator import ValidationReport, validate

__version__ = version("h5zarr")

# Modules are named otherwise than functions: importing h5zarr.scan would put the module in place of
# the function h5zarr.scan.
_HOMES = {
    "Conversion": "converter",
    "FileScan": "model",
    "H5zarrError": "errors",
    "Hierarchy": "model",
    "Problem": "errors",
    "Inspection": "inspection",
    "ValidationReport": "report",
    "convert": "converter",
    "inspect": "inspection",
    "scan": "scanner",
    "translate": "translator",
    "validate": "validator",
}

__all__ = [
    "Conversion",
    "FileScan",
    "H5zarrError",
    "Hierarchy",
    "Inspection",
    "Problem",
    "ValidationReport",
    "convert",
    "inspect",
    "scan",
    "translate",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: most callers need no zarr, some no h5py."""
    if name not in _HOMES:
        raise AttributeError(f"module 'h5zarr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"h5zarr.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
