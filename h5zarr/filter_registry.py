"""What is behind the filter numbers of HDF5, and where a missing filter comes from.

The numbers are those of The HDF Group's list "Registered Filter Plugins". Nothing here imports zarr.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass

import h5py

from h5zarr.model import Filter

_NAMES = {
    1: "deflate",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    257: "hzip",
    258: "fpzip",
    305: "LZO",
    307: "BZIP2",
    32000: "LZF",
    32001: "Blosc",
    32002: "MAFISC",
    32003: "Snappy",
    32004: "LZ4",
    32005: "APAX",
    32006: "CBF",
    32007: "JPEG-XR",
    32008: "bitshuffle",
    32009: "SPDP",
    32010: "LPC-Rice",
    32011: "CCSDS-123",
    32012: "JPEG-LS",
    32013: "ZFP",
    32014: "fpzip",
    32015: "Zstandard",
    32016: "B3D",
    32017: "SZ",
    32018: "FCIDECOMP",
    32019: "JPEG",
    32020: "VBZ",
    32021: "FAPEC",
    32022: "BitGroom",
    32023: "Granular BitRound",
    32024: "SZ3",
    32025: "Delta-Rice",
    32026: "Blosc2",
    32027: "FLAC",
    32028: "SPERR",
    32029: "TERSE/PROLIX",
    32030: "FFMPEG",
    32033: "HTJ2K",
}
_IN_LIBHDF5 = frozenset(range(1, 7))
_IN_H5PY = frozenset({32000})
_PACKAGES = dict.fromkeys(
    (307, 32001, 32004, 32008, 32013, 32015, 32017, 32018, 32024, 32026, 32028, 32033), "hdf5plugin"
) | {32020: "vbz-h5py-plugin"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingPlugin:
    """A filter that the libhdf5 of this process does not have."""

    identifier: int
    """Registered number of the filter."""
    found: str
    """What the pipeline asks for, in HDF5's words; fits `Problem.found`."""
    remedy: str
    """What to install; fits `Problem.remedy`."""


def filter_name(identifier: int) -> str:
    """Return the registered name of a filter, or ``unregistered``."""
    return _NAMES.get(identifier, "unregistered")


def filter_remedy(identifier: int) -> str:
    """Return what to install so that libhdf5 can undo a filter."""
    if identifier in _PACKAGES:
        return f"install the Python package {_PACKAGES[identifier]}"
    if identifier in _IN_LIBHDF5 | _IN_H5PY:
        return "install h5py with a libhdf5 that was built with this filter, such as h5py's wheels from PyPI"
    return "install the filter's HDF5 plugin and name its folder in the environment variable HDF5_PLUGIN_PATH"


def is_available(identifier: int) -> bool:
    """Return whether libhdf5 has a filter, after the package that brings it was imported.

    Parameters
    ----------
    identifier
        Registered number of the filter, 0 to 65535.
    """
    if h5py.h5z.filter_avail(identifier):
        return True
    if identifier in _PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(_PACKAGES[identifier].replace("-", "_"))
    return bool(h5py.h5z.filter_avail(identifier))


def missing_plugin(filters: Iterable[Filter]) -> MissingPlugin | None:
    """Return the first filter of a pipeline that libhdf5 does not have; None where it has all.

    The Python package that may bring a filter is imported; nothing else happens.
    """
    for stage in filters:
        if not is_available(stage.identifier):
            return _describe(stage)
    return None


def _describe(stage: Filter) -> MissingPlugin:
    """Return the words for a filter that is not there."""
    in_file = f', "{stage.name}" in the file' if stage.name else ""
    name = filter_name(stage.identifier)
    return MissingPlugin(
        identifier=stage.identifier,
        found=f"HDF5 filter {stage.identifier} ({name}{in_file}), which libhdf5 does not have here",
        remedy=filter_remedy(stage.identifier),
    )
