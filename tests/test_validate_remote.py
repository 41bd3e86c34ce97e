"""Validation of remote references: what is read, how much of it at a time, and what it moves."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING
from slow_server import SlowServer, slow_server

from h5zarr.converter import convert
from h5zarr.report import Kind
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

CHUNKS = 60
NOISE = np.random.default_rng(1).random((CHUNKS * 50, 100))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    with h5py.File(served / "a.h5", "w") as file:
        file.create_dataset("chunked", data=NOISE, chunks=(50, 100), compression="gzip", shuffle=True)
        file.create_dataset("contiguous", data=NOISE[:100])
        file.create_dataset("text", data=["a", "bc"] * 50, dtype=h5py.string_dtype())
    return served


def test_both_sides_read_many_chunks_at_a_time(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder, latency=0.02)) as server:
        references = convert(f"{server.url}/a.h5").references()
        requests, moved = len(server.requests), server.byte_length
        server.most_at_a_time = 0
        report = validate(references)
        made, moved = len(server.requests) - requests, server.byte_length - moved
    assert report.ok, report.mismatches
    assert server.most_at_a_time >= 5
    # zarr asks for each chunk; what h5py reads of one block after the other comes in few requests.
    assert made <= CHUNKS + 25
    assert report.bytes_moved == pytest.approx(moved, rel=0.01)
    assert moved < 2.2 * (folder / "a.h5").stat().st_size


def test_sample_moves_little(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder)) as server:
        references = convert(f"{server.url}/a.h5").references()
        whole, few = validate(references), validate(references, sample=4)
    assert few.ok
    assert few.bytes_moved < whole.bytes_moved / 3


def test_references_and_source_of_a_server(folder: Path, tmp_path: Path) -> None:
    with slow_server(SlowServer(folder=folder)) as server:
        convert(f"{server.url}/a.h5", folder / "a.json")
        assert validate(f"{server.url}/a.json").ok


def test_local_files_move_nothing(folder: Path) -> None:
    assert validate(convert(folder / "a.h5").references()).bytes_moved == 0


def test_replaced_file_is_noticed(folder: Path) -> None:
    with slow_server(SlowServer(folder=folder)) as server:
        references = convert(f"{server.url}/a.h5").references()
        with h5py.File(folder / "a.h5", "a") as file:
            file["contiguous"][3, 4] = 7
            file["more"] = np.arange(1000)
        report = validate(references)
    kinds = {(one.path, one.kind) for one in report.mismatches}
    assert ("/", Kind.SOURCE_CHANGED) in kinds
    assert ("/more", Kind.MISSING_ARRAY) in kinds
