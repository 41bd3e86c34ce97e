"""What several test modules need: the fixture files, and references opened as a consumer opens them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import hdf5plugin  # noqa: F401 - before netCDF4, whose plugins are for another libhdf5
import zarr
from zarr.storage import FsspecStore

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(__file__).parent.parent / "fixtures"
FIXTURE_NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.suffix in (".h5", ".nc"))
NETCDF_NAMES = [name for name in FIXTURE_NAMES if name.endswith(".nc")]

CODEC_WARNING = "ignore:Numcodecs codecs are not in the Zarr version 3 specification:UserWarning"
"""zarr-python 3.1 warns of every ``numcodecs.*`` codec that it reads."""


def storage_options(
    references: dict[str, Any] | str, protocol: str = "file", **remote: Any
) -> dict[str, Any]:
    """Return the options with which fsspec opens references: a dict, or the path of the JSON."""
    options: dict[str, Any] = {"fo": references, "remote_protocol": protocol, "skip_instance_cache": True}
    if protocol != "file":
        # Both filesystems need the same `asynchronous`.
        options |= {"remote_options": {"asynchronous": True, **remote}, "asynchronous": True}
    return options


def open_zarr(references: dict[str, Any] | str, protocol: str = "file", **remote: Any) -> zarr.Group:
    """Open references as zarr-python does: through fsspec's reference filesystem."""
    options = storage_options(references, protocol, **remote)
    store = FsspecStore.from_url("reference://", storage_options=options, read_only=True)
    return zarr.open_group(store, mode="r")
