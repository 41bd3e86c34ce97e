"""What a file costs to read over a network: the figures, and whether the advice helps."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES
from slow_server import SlowServer, slow_server

import h5zarr
from h5zarr.io_plan import IoPlan, io_plan
from h5zarr.model import ChunkIndex, Dataset, FetchStatistics, FileScan

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

MIB = 2**20


def plan_of(path: Path, **options: Any) -> IoPlan:
    return io_plan(h5zarr.scan(path, **options))


def write_by_steps(path: Path, *, steps: int = 60, **options: Any) -> None:
    """Write several datasets step by step, which puts the nodes of their B-trees between their chunks."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w", **options) as file:
        datasets = [
            file.create_dataset(f"v{n}", (0, 8, 4096), "f4", maxshape=(None, 8, 4096), chunks=(1, 2, 4096))
            for n in range(6)
        ]
        for step in range(steps):
            for dataset in datasets:
                dataset.resize(step + 1, axis=0)
                dataset[step] = random.random((8, 4096))


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "scattered.h5"
    write_by_steps(path)
    return path


def chunk_bytes(path: Path) -> np.ndarray[Any, Any]:
    """Return which bytes of a file are in chunks, as h5py tells it."""
    with h5py.File(path) as file:
        covered = np.zeros(file.id.get_filesize(), bool)
        for dataset in file.values():
            for number in range(dataset.id.get_num_chunks()):
                chunk = dataset.id.get_chunk_info(number)
                covered[chunk.byte_offset : chunk.byte_offset + chunk.size] = True
    return covered


# Figures ---------------------------------------------------------------------------------


def test_metadata_among_the_data(scattered: Path) -> None:
    plan = plan_of(scattered)
    covered = chunk_bytes(scattered)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], covered, [True]]).astype(np.int8)))
    holes = edges.reshape(-1, 2)
    holes = holes[holes[:, 1] - holes[:, 0] >= 512]
    assert plan.metadata_byte_length == (holes[:, 1] - holes[:, 0]).sum()
    assert plan.metadata_places == 1 + (holes[1:, 0] - holes[:-1, 1] > 65536).sum() > 8
    assert plan.verdict.startswith("not cloud-friendly: metadata scattered over")


def test_what_the_scan_cost(scattered: Path) -> None:
    with slow_server(SlowServer(folder=scattered.parent)) as server:
        found = h5zarr.scan(f"{server.url}/{scattered.name}")
        asked, byte_length = len(server.requests), server.byte_length
    plan = io_plan(found)
    document = plan.to_json()
    assert (document["requests"], document["fetched_byte_length"]) == (asked, byte_length)
    assert (document["misses"], document["retries"]) == (0, 0)
    assert document["round_trips"] >= 2
    assert f"{asked} requests" in plan.lines()[0]
    local = plan_of(scattered)
    assert local.to_json()["requests"] is None
    assert "nothing was fetched" in local.lines()[0]
    assert local.metadata_places == plan.metadata_places
    # What is foretold of a local file is about what a remote one takes.
    assert asked / 3 < local.metadata_places < 3 * asked


def test_chunk_lengths(scattered: Path) -> None:
    chunks = plan_of(scattered).chunks
    assert chunks.count == 6 * 60 * 4
    assert chunks.byte_length == chunk_bytes(scattered).sum()
    assert chunks.quantiles == (32768,) * 5
    assert (chunks.small_share, chunks.large_share) == (1.0, 0.0)


def test_lengths_of_compressed_chunks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = np.zeros((5, 300_000))
        values[:3] = random.random((3, 300_000))
        dataset = file.create_dataset("x", data=values, chunks=(1, 300_000), compression="gzip")
        sizes = sorted(dataset.id.get_chunk_info(n).size for n in range(5))
    chunks = plan_of(tmp_path / "x.h5").chunks
    assert chunks.quantiles == tuple(sizes)
    assert chunks.small_share == pytest.approx(0.4)


@pytest.mark.parametrize("options", [{"group": "/"}, {"include": ["/v1"]}, {"exclude": ["/v1"]}], ids=str)
def test_part_of_a_file(options: dict[str, Any], scattered: Path) -> None:
    plan = plan_of(scattered, **options)
    whole = options == {"group": "/"}
    assert (plan.metadata_places is not None) is whole
    assert (plan.metadata_byte_length is not None) is whole
    assert ("unknown" in plan.lines()[1]) is not whole


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_any_file(name: str) -> None:
    plan = plan_of(FIXTURES / name)
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()
    assert all(line.isprintable() for line in plan.lines())
    assert plan.metadata_byte_length is not None
    assert 0 < plan.metadata_byte_length <= (FIXTURES / name).stat().st_size
    assert plan.verdict == "cloud-friendly: so small that it is read whole"
    assert (plan.advice, plan.command) == ((), None)


def test_bytes_of_which_the_length_is_not_known(scattered: Path) -> None:
    with h5py.File.in_memory(scattered.read_bytes()) as file:
        plan = plan_of(file, public_url="https://example.org/x.h5")
    assert plan.metadata_byte_length is None
    assert plan.chunks.count == 6 * 60 * 4
    assert plan.verdict == "not cloud-friendly: most data in chunks below 1 MiB"


# Where metadata are ----------------------------------------------------------------------


def test_metadata_together(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(4):
            file.create_dataset(f"x{number}", (4, 1024, 512), "f8", chunks=(1, 1024, 512), fillvalue=1)
        for dataset in file.values():
            dataset[...] = 2
    plan = plan_of(tmp_path / "x.h5")
    assert plan.verdict == "cloud-friendly: metadata together, chunks of a good length"
    assert plan.command is None


@pytest.mark.parametrize("page_byte_length", [4096, MIB], ids=["4 KiB", "1 MiB"])
def test_pages(page_byte_length: int, tmp_path: Path) -> None:
    write_by_steps(tmp_path / "x.h5", fs_strategy="page", fs_page_size=page_byte_length)
    plan = plan_of(tmp_path / "x.h5")
    assert plan.page_byte_length == page_byte_length
    assert f"pages of {'1.05 MB' if page_byte_length == MIB else '4.1 kB'}" in plan.lines()[1]
    in_pages = page_byte_length == MIB
    assert ("metadata in pages" in plan.verdict) is in_pages
    assert ("-S" in shlex.split(plan.command or "")) is not in_pages


# Synthetic files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> FileScan:
    path = tmp_path_factory.mktemp("plan") / "template.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((4, 4)), chunks=(2, 2))
    return h5zarr.scan(path)


def dataset_of(
    template: FileScan, shape: tuple[int, ...], chunk_shape: tuple[int, ...], **fields: Any
) -> Dataset:
    """Return a dataset of float64 whose chunks are all stored, as long as they are."""
    grid = tuple(-(-extent // chunk) for extent, chunk in zip(shape, chunk_shape, strict=True))
    number, length = math.prod(grid), 8 * math.prod(chunk_shape)
    index = ChunkIndex(
        grid_shape=grid,
        grid_position=np.arange(number, dtype=np.uint64),
        byte_offset=np.arange(number, dtype=np.uint64) * np.uint64(length) + np.uint64(2048),
        byte_length=np.full(number, length, np.uint64),
        filter_mask=np.zeros(number, np.uint32),
    )
    like = template.datasets[0]
    return replace(
        like, shape=shape, maximum_shape=shape, chunk_shape=chunk_shape, chunk_index=index, **fields
    )


def file_of(template: FileScan, *datasets: Dataset, **fields: Any) -> FileScan:
    ends = [int(one.chunk_index.byte_offset[-1] + one.chunk_index.byte_length[-1]) for one in datasets]
    source = replace(template.source, url="https://example.org/a/it's.nc", byte_length=max(ends) + 2048)
    return replace(template, source=source, datasets=datasets, **fields)


SHAPES = {
    "many steps": ((100_000, 90, 180), (1, 90, 180)),
    "steps of a small grid": ((100_000, 7, 3), (1, 7, 3)),
    "tiny": ((1000, 1000), (10, 10)),
    "one axis": ((10_000_000,), (100,)),
    "odd extents": ((1009, 997, 13), (17, 19, 1)),
    "chunks longer than the array": ((100_000, 3), (16, 1024)),
    "huge": ((10_000, 20_000), (2000, 20_000)),
    "huge and flat": ((2, 30_000_000), (1, 30_000_000)),
}


@pytest.mark.parametrize(("shape", "chunk_shape"), SHAPES.values(), ids=SHAPES)
def test_proposed_chunk_shape(
    shape: tuple[int, ...], chunk_shape: tuple[int, ...], template: FileScan
) -> None:
    plan = io_plan(file_of(template, dataset_of(template, shape, chunk_shape)))
    (advice,) = plan.advice
    option, layout = advice.options
    assert option == "-l"
    path, _, extents = layout.partition(":CHUNK=")
    assert path == "/x"
    proposed = tuple(map(int, extents.split("x")))
    assert len(proposed) == len(shape)
    assert all(0 < chunk <= extent for chunk, extent in zip(proposed, shape, strict=True))
    length = 8 * math.prod(proposed)
    assert 4 * MIB <= length <= 16 * MIB or proposed == shape


GOOD_SHAPES = {
    "good": ((100, 1000, 1000), (1, 1000, 1000)),
    "few": ((4, 4_000_000), (4, 1_000_000)),
    "few small ones": ((15, 70_000), (1, 70_000)),
    "as large as the array": ((200_000,), (20_000,)),
}


@pytest.mark.parametrize(("shape", "chunk_shape"), GOOD_SHAPES.values(), ids=GOOD_SHAPES)
def test_chunk_shape_that_may_stay(
    shape: tuple[int, ...], chunk_shape: tuple[int, ...], template: FileScan
) -> None:
    assert io_plan(file_of(template, dataset_of(template, shape, chunk_shape))).advice == ()


def test_sparse_chunks_may_stay(template: FileScan) -> None:
    full = dataset_of(template, (100_000, 90, 180), (1, 90, 180))
    index = full.chunk_index
    stored = slice(None, len(index) // 3)
    sparse = ChunkIndex(
        grid_shape=index.grid_shape,
        grid_position=index.grid_position[stored],
        byte_offset=index.byte_offset[stored],
        byte_length=index.byte_length[stored],
        filter_mask=index.filter_mask[stored],
    )
    assert not io_plan(file_of(template, replace(full, chunk_index=sparse))).advice


def test_datasets_of_one_shape_share_an_option(template: FileScan) -> None:
    datasets = [dataset_of(template, (9000, 900), (1, 900), path=f"/g/{name}") for name in "abc"]
    plan = io_plan(file_of(template, *datasets))
    (advice,) = plan.advice
    assert advice.options[1].startswith("/g/a,/g/b,/g/c:CHUNK=")
    assert "/g/a and 2 others: 27,000 chunks of 7.2 kB on average" in advice.found


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/with space", True),
        ("/it's", True),
        ("/colon:name", True),
        ("/ünïcödé", True),
        ("/comma,name", False),
        ("/line\nbreak", False),
        ("/not utf-8 \udcff", False),
        ("/" + "x" * 300, False),
    ],
    ids=ascii,
)
def test_names_in_the_command(path: str, named: bool, template: FileScan) -> None:
    plan = io_plan(file_of(template, dataset_of(template, (9000, 900), (1, 900), path=path)))
    assert len(plan.advice) == 1
    assert all(line.isprintable() for line in plan.lines())
    if not named:
        assert plan.command is None
        return
    program, _, layout, source, target = shlex.split(plan.command or "")
    assert (program, source, target) == ("h5repack", "it's.nc", "it's_repacked.nc")
    assert layout.rpartition(":")[0] == path


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("https://host/a.nc?versionId=3", ("a.nc", "a_repacked.nc")),
        ("file:///data/a?b.nc", ("a?b.nc", "a?b_repacked.nc")),
    ],
)
def test_files_in_the_command(url: str, names: tuple[str, str], template: FileScan) -> None:
    scanned = file_of(template, dataset_of(template, (9000, 900), (1, 900)))
    plan = io_plan(replace(scanned, source=replace(scanned.source, url=url)))
    assert tuple(shlex.split(plan.command or "")[-2:]) == names


def scattered_like(template: FileScan, chunk_length: int, hole: int = 4096) -> FileScan:
    """Return a scan of 100 chunks with a hole after each."""
    index = template.datasets[0].chunk_index
    begin = np.arange(100, dtype=np.uint64) * np.uint64(chunk_length + hole) + np.uint64(2048)
    index = ChunkIndex(
        grid_shape=(100, 1),
        grid_position=np.arange(100, dtype=np.uint64),
        byte_offset=begin,
        byte_length=np.full(100, chunk_length, np.uint64),
        filter_mask=np.zeros(100, np.uint32),
    )
    return file_of(template, replace(template.datasets[0], chunk_index=index))


@pytest.mark.parametrize(
    ("chunk_length", "hole", "page_byte_length"),
    [
        (1_100_000, 4096, 64 * 1024),  # longer pages would have more behind each chunk
        (4 * MIB, 4096, 512 * 1024),  # as long as the metadata
        (4 * MIB, 100_000, 4 * MIB),
        (100_000, 300, None),  # padding
    ],
)
def test_page_length(chunk_length: int, hole: int, page_byte_length: int | None, template: FileScan) -> None:
    plan = io_plan(scattered_like(template, chunk_length, hole))
    command = shlex.split(plan.command or "")
    assert (int(command[command.index("-G") + 1]) if "-G" in command else None) == page_byte_length


def test_fetching_tells_better_than_holes(template: FileScan) -> None:
    """Chunks may also be aligned, with nothing in between."""
    found = scattered_like(template, 4 * MIB)
    fetched = FetchStatistics(requests=3, byte_length=300_000, round_trips=2, misses=0, retries=0)
    assert io_plan(found).verdict == (
        "not cloud-friendly: metadata scattered over 101 places, chunks of a good length"
    )
    assert io_plan(replace(found, fetched=fetched)).verdict == (
        "cloud-friendly: metadata together, chunks of a good length"
    )


# h5repack itself -------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("h5repack") is None, reason="h5repack is not installed")
def test_the_command_helps(scattered: Path) -> None:
    plan = plan_of(scattered)
    assert plan.command is not None
    subprocess.run(plan.command, shell=True, check=True, cwd=scattered.parent)
    repacked = scattered.with_name("scattered_repacked.h5")
    with slow_server(SlowServer(folder=scattered.parent)) as server:
        before = h5zarr.scan(f"{server.url}/{scattered.name}").fetched
        after = h5zarr.scan(f"{server.url}/{repacked.name}").fetched
    assert before is not None
    assert after is not None
    assert after.requests * 5 < before.requests
    assert plan_of(repacked).verdict == "cloud-friendly: metadata in pages, chunks of a good length"
    with h5py.File(scattered) as old, h5py.File(repacked) as new:
        for name in old:
            np.testing.assert_array_equal(old[name][...], new[name][...])
