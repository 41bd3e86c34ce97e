"""Scans in a process of their own: what kills the child is an error here."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES

from h5zarr.converter import convert
from h5zarr.errors import DamagedFileError, GroupNotFoundError, NotHDF5Error, SourceError
from h5zarr.isolation import call_isolated

FUZZ = Path(__file__).parent.parent / "scripts" / "fuzz.py"
HANGING_SEEDS = [
    "0/datatype_variable_length_strings.h5/1197",
    "0/datatype_compound_variable_length.h5/4928",
    "0/dimension_scales.h5/12143",
]
"""Findings of `scripts/fuzz.py`: global heaps in which libhdf5 2.0.0 searches for ever."""


@pytest.mark.parametrize("name", ["climate.nc", "links_external.h5", "datatype_references.h5"])
def test_isolated_is_the_same(name: str) -> None:
    assert convert(FIXTURES / name, isolate=True).references() == convert(FIXTURES / name).references()


def test_errors_come_through(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(NotHDF5Error, match=r"x\.h5"):
        convert(tmp_path / "x.h5", isolate=True)
    with pytest.raises(GroupNotFoundError, match="/nowhere"):
        convert(FIXTURES / "climate.nc", group="nowhere", isolate=True)


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e300)),
        {"inline_threshold": -1},
        {"inline_limit": -1},
        {"links": "foo"},
    ],
    ids=str,
)
def test_values_without_a_meaning(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} is "):
        convert(FIXTURES / "climate.nc", **options)


def test_a_crash_is_an_error() -> None:
    with pytest.raises(DamagedFileError, match=r"^x\.h5: .*SIGABRT"):
        call_isolated("os", "abort", "x.h5", {})


def test_a_bug_is_an_error() -> None:
    with pytest.raises(DamagedFileError, match=r"^x\.h5: .*AttributeError"):
        call_isolated("os", "no_such_function", "x.h5", {})


def test_an_open_file_cannot_be_isolated() -> None:
    with (FIXTURES / "climate.nc").open("rb") as file, pytest.raises(SourceError, match="path or URL"):
        convert(file, isolate=True)


@pytest.mark.parametrize("seed", HANGING_SEEDS)
def test_a_hang_is_an_error(seed: str, tmp_path: Path) -> None:
    fixture = seed.split("/")[1]
    damaged = runpy.run_path(str(FUZZ))["damage"]((FIXTURES / fixture).read_bytes(), seed)
    path = tmp_path / fixture
    path.write_bytes(damaged)
    with pytest.raises(DamagedFileError, match="longer than 3"):
        convert(path, timeout=3)
