"""The versions that matter for what h5zarr does: its own, and those of what it stands on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

_PACKAGES = (
    "h5py",
    "zarr",
    "numcodecs",
    "numpy",
    "fsspec",
    "hdf5plugin",
    "pyarrow",
    "icechunk",
    "xarray",
)
"""Packages to tell of, where they are installed; the last ones need not be."""


def show_versions(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Write the versions to stdout and end, where that was asked for."""
    if not asked or context.resilient_parsing:
        return
    for name, number in _versions():
        click.echo(f"{name}, version {number}")
    context.exit()


def _versions() -> Iterator[tuple[str, str]]:
    # Only h5py knows the version of libhdf5, and takes a while to import.
    import h5py

    yield "h5zarr", version("h5zarr")
    yield "Python", platform.python_version()
    yield "libhdf5", h5py.version.hdf5_version
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
