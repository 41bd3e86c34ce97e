"""Files that other people made, where they lie beside this repository: every one equal, or named."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from conftest import CODEC_WARNING
from test_roundtrip import differences, left_out

from h5zarr.converter import convert
from h5zarr.errors import DamagedFileError
from h5zarr.report import Kind
from h5zarr.validator import validate

SHARED = Path(__file__).parent.parent.parent / "shared"
TORTURE = SHARED / "torture" / "make_torture.py"
CORPUS = SHARED / "corpus" / "files"
TORTURE_NAMES = re.findall(r"case\('(\w+)'", TORTURE.read_text()) if TORTURE.is_file() else []
CORPUS_SECONDS = 60
EVERY_NTH = 7

pytestmark = [
    pytest.mark.skipif(not TORTURE.is_file(), reason="needs the files of ../shared"),
    pytest.mark.filterwarnings(CODEC_WARNING),
]

TORTURE_PROBLEMS = {"dangling": {"/bad"}}
"""Paths that are named as problems; all else is equal."""

TRUNCATED_CHUNKS = {"rle_example.fast5"}
"""Files whose last chunk is stored shorter than a chunk; libhdf5 reads on behind its end."""


@pytest.fixture(scope="session")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torture")
    subprocess.run([sys.executable, TORTURE, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", TORTURE_NAMES)
def test_torture(name: str, torture: Path) -> None:
    path = torture / f"{name}.h5"
    conversion = convert(path)
    assert left_out(conversion) == TORTURE_PROBLEMS.get(name, set())
    assert differences(path, conversion.references(), left_out(conversion)) == {}


def test_corpus() -> None:
    """Validate every seventh file, as far as the time goes."""
    end = time.monotonic() + CORPUS_SECONDS
    files = [path for path in sorted(CORPUS.rglob("*")) if path.is_file() and h5py.is_hdf5(path)]
    wrong: dict[str, list[str]] = {}
    compared = 0
    for path in files[::EVERY_NTH]:
        if time.monotonic() > end:
            break
        if path.name not in TRUNCATED_CHUNKS:
            compared += 1
            wrong[str(path)] = mismatches(path)
    assert {path: found for path, found in wrong.items() if found} == {}
    assert compared > 10


def mismatches(path: Path) -> list[str]:
    """Return what differs, of what h5py reads."""
    try:
        conversion = convert(path)
    except DamagedFileError:
        return []
    report = validate(conversion.references())
    return [str(one) for one in report.mismatches if one.kind is not Kind.UNREADABLE_SOURCE]
