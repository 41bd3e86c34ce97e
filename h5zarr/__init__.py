"""Read HDF5 and netCDF-4 files as Zarr v3 without copying them, and prove that they read back equal."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h5zarr.combiner import combine
    from h5zarr.converter import Conversion, convert
    from h5zarr.errors import H5zarrError, Problem
    from h5zarr.file_report import FileReport
    from h5zarr.html.reports import report_html
    from h5zarr.inspection import Inspection, inspect
    from h5zarr.many import convert_many
    from h5zarr.model import FileScan, Hierarchy
    from h5zarr.references_inspection import ReferencesInspection
    from h5zarr.renamer import rename
    from h5zarr.scanner import scan
    from h5zarr.translator import translate
    from h5zarr.validator import ValidationReport, validate

__version__ = version("h5zarr")

# Modules are named otherwise than functions: importing h5zarr.scan would put the module in place of
# the function h5zarr.scan.
_HOMES = {
    "Conversion": "converter",
    "FileReport": "file_report",
    "FileScan": "model",
    "H5zarrError": "errors",
    "Hierarchy": "model",
    "Problem": "errors",
    "Inspection": "inspection",
    "ReferencesInspection": "references_inspection",
    "ValidationReport": "report",
    "combine": "combiner",
    "convert": "converter",
    "convert_many": "many",
    "inspect": "inspection",
    "rename": "renamer",
    "report_html": "html.reports",
    "scan": "scanner",
    "translate": "translator",
    "validate": "validator",
}

__all__ = [
    "Conversion",
    "FileReport",
    "FileScan",
    "H5zarrError",
    "Hierarchy",
    "Inspection",
    "Problem",
    "ReferencesInspection",
    "ValidationReport",
    "combine",
    "convert",
    "convert_many",
    "inspect",
    "rename",
    "report_html",
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
