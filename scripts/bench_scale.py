#!/usr/bin/env python3
"""Measure what is done to many chunks and many files, against the tools that do the same.

Every measurement runs in a process of its own: it warms up on a small input, then works once on the big
one. Competitors take turns, and the best of their rounds counts. Targets are ratios of elapsed time within
this run; processor time, which other work on the machine disturbs less, is told too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bench import Figure, Work, at_most, input_file, peak_bytes

SERIES_FILES = 1000
KERCHUNK_FILES = 100
LONG_CHUNKS = 10_000
FIELDS = 128
SHARD = (8, 512, 1024)


# Inputs ----------------------------------------------------------------------------------


def write_step(path: Path, number: int) -> None:
    """Write a file of ten steps of time and 1,000 chunks."""
    values = {"time": np.arange(10.0) + 10 * number, "y": np.arange(40.0), "x": np.arange(40.0)}
    with h5py.File(path, "w") as file:
        for name, coordinate in values.items():
            file[name] = coordinate
            file[name].make_scale(name)
        file["time"].attrs["units"] = "days since 2000-01-01"
        v = file.create_dataset("v", (10, 40, 40), "<f4", chunks=(1, 4, 4))
        v[...] = number
        for axis, name in enumerate(values):
            v.dims[axis].attach_scale(file[name])


def write_series(folder: Path, count: int) -> None:
    """Write a series of files, references to each, and kerchunk's references to some."""
    from kerchunk.hdf import SingleHdf5ToZarr

    import h5zarr

    for number in range(count):
        path = folder / f"{number:04}.h5"
        write_step(path, number)
        h5zarr.convert(path, path.with_suffix(".json"))
        if number < KERCHUNK_FILES:
            translated = SingleHdf5ToZarr(str(path), inline_threshold=500).translate()
            path.with_suffix(".kerchunk").write_text(json.dumps(translated))


def write_fields(folder: Path, count: int) -> None:
    """Write a file of so many fields of 2 MiB, in chunks of 64 KiB."""
    rng = np.random.default_rng(0)
    with h5py.File(folder / "fields.h5", "w") as file:
        x = file.create_dataset(
            "x", (count, 512, 1024), "<f4", chunks=(1, 128, 128), compression="gzip", shuffle=True
        )
        for number in range(count):
            x[number] = np.round(rng.normal(280, 3, x.shape[1:]) * 64) / 64


def write_long_series(folder: Path, count: int) -> None:
    """Write references to 10,000 chunks of each of many files, which need not be there."""
    import h5zarr
    from h5zarr.model import ArrayNode, Hierarchy, Manifest
    from h5zarr.references import formats

    write_step(folder / "step.h5", 0)
    like = h5zarr.convert(folder / "step.h5").hierarchy
    (folder / "step.h5").unlink()
    position = np.arange(LONG_CHUNKS, dtype=np.uint64)
    steps = LONG_CHUNKS // 100
    for number in range(count):
        nodes = dict(like.nodes)
        v, coordinate = nodes["/v"], nodes["/time"]
        assert isinstance(v, ArrayNode)
        assert isinstance(coordinate, ArrayNode)
        manifest = Manifest(
            grid_shape=(steps, 10, 10),
            locations=(f"file:///data/{number:04}.h5",),
            grid_position=position,
            byte_offset=position * np.uint64(64),
            byte_length=np.full(LONG_CHUNKS, 64, np.uint64),
        )
        nodes["/v"] = replace(v, metadata={**v.metadata, "shape": [steps, 40, 40]}, manifest=manifest)
        grid = {"name": "regular", "configuration": {"chunk_shape": [steps]}}
        nodes["/time"] = replace(
            coordinate,
            metadata={**coordinate.metadata, "shape": [steps], "chunk_grid": grid},
            manifest=replace(
                coordinate.manifest, inline={0: (np.arange(float(steps)) + steps * number).tobytes()}
            ),
        )
        one = Hierarchy(nodes=nodes, source=None, selection=like.selection, problems=())
        target = formats.target(folder / f"{number:04}.json", {})
        formats.write(one, target, version="0")


FOLDERS: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "series": (write_series, SERIES_FILES),
    "long series": (write_long_series, SERIES_FILES),
    "fields": (write_fields, FIELDS),
}
"""What fills a folder, and with how many files."""


def input_path(cache: Path, name: str, small: bool) -> Path:
    """Return a file or folder to measure on, written where it is not there yet."""
    if name not in FOLDERS:
        return input_file(cache, name, small)
    path = cache / f"{name.replace(' ', '-')}-{'small' if small else 'big'}"
    if not path.exists():
        write, count = FOLDERS[name]
        partial = path.with_suffix(".partial")
        partial.mkdir()
        write(partial, 3 if small else count)
        partial.rename(path)
    return path


# Competitors -----------------------------------------------------------------------------
# Each function imports and prepares, untimed, and returns the work; it may write below `output`.


def h5zarr_combine_loaded(source: Path, output: Path) -> Work:
    """Combine references that are loaded."""
    from h5zarr.combiner import combine
    from h5zarr.references import formats

    loaded = [formats.load(path) for path in sorted(source.glob("*.json"))]
    return lambda: combine(loaded, concat="time")


def kerchunk_combine_loaded(source: Path, output: Path) -> Work:
    """Combine references that are loaded, up to a hundred."""
    paths = sorted(source.glob("*.kerchunk"))
    return kerchunk_multi([json.loads(path.read_text()) for path in paths])


def kerchunk_multi(references: list[Any]) -> Work:
    from kerchunk.combine import MultiZarrToZarr

    options: dict[str, Any] = {
        "concat_dims": ["time"],
        "identical_dims": ["y", "x"],
        "remote_protocol": "file",
    }
    return lambda: MultiZarrToZarr(references, **options).translate()


def h5zarr_combine_files(source: Path, output: Path) -> Work:
    """Load and combine references."""
    from h5zarr.combiner import combine

    paths = sorted(source.glob("*.json"))
    return lambda: combine(paths, concat="time")


def kerchunk_combine_files(source: Path, output: Path) -> Work:
    """Load and combine references, up to a hundred."""
    return kerchunk_multi([str(path) for path in sorted(source.glob("*.kerchunk"))])


def virtualizarr_combine_files(source: Path, output: Path) -> Work:
    """Load references as virtual datasets, and combine them with xarray."""
    import xarray as xr
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr import open_virtual_dataset
    from virtualizarr.parsers import KerchunkJSONParser

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    options: dict[str, Any] = {"registry": registry, "parser": KerchunkJSONParser()}
    loadable = ["time", "y", "x"]
    joined: dict[str, Any] = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}

    def work() -> object:
        files = [
            open_virtual_dataset(f"file://{path}", loadable_variables=loadable, **options)
            for path in sorted(source.glob("*.json"))
        ]
        return xr.concat(files, "time", combine_attrs="override", **joined)

    return work


def h5zarr_combine_parquet(source: Path, output: Path) -> Work:
    """Load and combine references, and write Parquet."""
    from h5zarr.combiner import combine

    paths = sorted(source.glob("*.json"))
    return lambda: combine(paths, output / "all.parq", concat="time")


def h5zarr_parquet(source: Path, output: Path) -> Work:
    """Convert to Parquet references."""
    import h5zarr

    return lambda: h5zarr.convert(source, output / "all.parq")


def kerchunk_parquet(source: Path, output: Path) -> Work:
    """Convert to Parquet references, which `LazyReferenceMapper` writes."""
    from kerchunk.df import refs_to_dataframe
    from kerchunk.hdf import SingleHdf5ToZarr

    def work() -> None:
        references = SingleHdf5ToZarr(str(source), inline_threshold=0).translate()
        refs_to_dataframe(references, str(output / "all.parq"))

    return work


def first_chunk(references: Path) -> Work:
    """Open references as zarr-python does, and read the first chunk of array ``x``."""
    import zarr
    from zarr.storage import FsspecStore

    def work() -> object:
        options = {"fo": str(references), "remote_protocol": "file", "skip_instance_cache": True}
        store = FsspecStore.from_url("reference://", storage_options=options, read_only=True)
        return zarr.open_group(store, mode="r")["x"][:4, :4]

    return work


def open_parquet(source: Path, output: Path) -> Work:
    """Open Parquet references and read a chunk."""
    h5zarr_parquet(source, output)()
    return first_chunk(output / "all.parq")


def open_json(source: Path, output: Path) -> Work:
    """Open the same as JSON and read a chunk."""
    import h5zarr

    h5zarr.convert(source, output / "all.json")
    return first_chunk(output / "all.json")


def h5zarr_icechunk(source: Path, output: Path) -> Work:
    """Commit references to a new repository."""
    import h5zarr

    return lambda: h5zarr.convert(source, output / "all.icechunk")


def virtualizarr_icechunk(source: Path, output: Path) -> Work:
    """Commit references to a new repository."""
    import icechunk
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr import open_virtual_dataset
    from virtualizarr.parsers import HDFParser

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    container = f"file://{source.parent}/"
    files = icechunk.local_filesystem_store(str(source.parent))
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(container, files))
    storage = icechunk.local_filesystem_storage(str(output / "all.icechunk"))

    def work() -> None:
        repository = icechunk.Repository.create(storage, config=config)
        session = repository.writable_session("main")
        dataset = open_virtual_dataset(
            f"file://{source}", registry=registry, parser=HDFParser(), loadable_variables=[]
        )
        dataset.vz.to_icechunk(session.store)
        session.commit("all")

    return work


def h5zarr_shards(source: Path, output: Path) -> Work:
    """Copy the stored chunks into shards of 16 MiB of elements."""
    import h5zarr

    path, shard_bytes = source / "fields.h5", 4 * int(np.prod(SHARD))
    return lambda: h5zarr.convert(path, output / "all.zarr", shard_bytes=shard_bytes)


def zarr_shards(source: Path, output: Path) -> Work:
    """Copy through zarr-python, which decodes and encodes, into shards of 16 MiB of elements."""
    import zarr
    from numcodecs.zarr3 import Shuffle, Zlib
    from zarr.storage import FsspecStore

    import h5zarr

    references = h5zarr.convert(source / "fields.h5").references()
    options = {"fo": references, "remote_protocol": "file", "skip_instance_cache": True}
    store = FsspecStore.from_url("reference://", storage_options=options, read_only=True)
    x = zarr.open_group(store, mode="r")["x"]

    def work() -> None:
        made = zarr.create_array(
            output / "all.zarr",
            name="x",
            shape=x.shape,
            dtype=x.dtype,
            chunks=x.chunks,
            shards=SHARD,
            filters=None,
            compressors=[Shuffle(elementsize=4), Zlib(level=4)],
        )
        for start in range(0, x.shape[0], SHARD[0]):
            made[start : start + SHARD[0]] = x[start : start + SHARD[0]]

    return work


COMPETITORS: dict[str, Callable[[Path, Path], Work]] = {
    "h5zarr, loaded": h5zarr_combine_loaded,
    "kerchunk, 100 loaded": kerchunk_combine_loaded,
    "h5zarr, JSON": h5zarr_combine_files,
    "kerchunk, 100 JSON": kerchunk_combine_files,
    "VirtualiZarr + xarray": virtualizarr_combine_files,
    "h5zarr, to Parquet": h5zarr_combine_parquet,
    "h5zarr": h5zarr_parquet,
    "kerchunk": kerchunk_parquet,
    "Parquet": open_parquet,
    "JSON": open_json,
    "h5zarr, Icechunk": h5zarr_icechunk,
    "VirtualiZarr, Icechunk": virtualizarr_icechunk,
    "h5zarr, shards": h5zarr_shards,
    "zarr, shards": zarr_shards,
}


# Rows ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one process reports."""

    seconds: float
    """Elapsed time of the work alone."""
    processor_seconds: float
    """Processor time of the work alone, in all threads."""
    peak_bytes: int
    """Peak resident memory at the end."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Competitors that take turns on one input, and what is concluded."""

    input: str
    """Name of a file or folder."""
    competitors: tuple[str, ...]
    """Who takes turns, the one that is judged first."""
    conclude: Callable[[dict[str, Measurement]], list[Figure]]
    """Returns figures from the best measurement of each."""
    rounds: int = 3


def faster(work: str, ours: str, theirs: str, target: float, *, scale: float = 1) -> Callable[[Any], Figure]:
    """Return what tells how many times faster we are; ``scale``: by how much they did less."""

    def conclude(best: dict[str, Measurement]) -> Figure:
        ratio = scale * best[theirs].seconds / best[ours].seconds
        words = f"{work}, {theirs}"
        return Figure(work=words, value=ratio, target=target, unit="× faster", at_most=False)

    return conclude


def all_of(*figures: Callable[[Any], Figure]) -> Callable[[dict[str, Measurement]], list[Figure]]:
    """Return what concludes several figures."""
    return lambda best: [figure(best) for figure in figures]


def peak(work: str, name: str, megabytes: float) -> Callable[[Any], Figure]:
    """Return what judges the peak memory."""
    return lambda best: at_most(work, best[name].peak_bytes / 1e6, megabytes, "MB")


SCALE = SERIES_FILES / KERCHUNK_FILES
MANIFESTS = "combine 1,000 manifests of 1,000 chunks"
FROM_JSON = "load and combine 1,000 manifests of 1,000 chunks"

ROWS: dict[str, Row] = {
    "combine": Row(
        input="series",
        competitors=("h5zarr, loaded", "kerchunk, 100 loaded"),
        conclude=all_of(faster(MANIFESTS, "h5zarr, loaded", "kerchunk, 100 loaded", 50, scale=SCALE)),
    ),
    "combine-files": Row(
        input="series",
        competitors=("h5zarr, JSON", "kerchunk, 100 JSON", "VirtualiZarr + xarray"),
        conclude=all_of(
            faster(FROM_JSON, "h5zarr, JSON", "kerchunk, 100 JSON", 50, scale=SCALE),
            faster(FROM_JSON, "h5zarr, JSON", "VirtualiZarr + xarray", 5),
        ),
        rounds=1,
    ),
    "combine-memory": Row(
        input="long series",
        competitors=("h5zarr, to Parquet",),
        conclude=all_of(
            peak("peak memory, 10 million chunks combined to Parquet", "h5zarr, to Parquet", 2000)
        ),
        rounds=1,
    ),
    "parquet": Row(
        input="chunks",
        competitors=("h5zarr", "kerchunk"),
        conclude=all_of(faster("1,048,576 chunks to Parquet", "h5zarr", "kerchunk", 60)),
        rounds=1,
    ),
    "open": Row(
        input="chunks",
        competitors=("Parquet", "JSON"),
        conclude=all_of(faster("1,048,576 chunks, open and read one", "Parquet", "JSON", 20)),
    ),
    "icechunk": Row(
        input="chunks",
        competitors=("h5zarr, Icechunk", "VirtualiZarr, Icechunk"),
        conclude=all_of(
            faster("1,048,576 chunks to Icechunk", "h5zarr, Icechunk", "VirtualiZarr, Icechunk", 2)
        ),
        rounds=2,
    ),
    "materialise": Row(
        input="fields",
        competitors=("h5zarr, shards", "zarr, shards"),
        conclude=all_of(faster("256 MiB copied into shards", "h5zarr, shards", "zarr, shards", 5)),
        rounds=2,
    ),
}


# Measuring -------------------------------------------------------------------------------


def measure_here(competitor: str, small: Path, big: Path, output: Path) -> Measurement:
    """Measure in this process."""
    warnings.simplefilter("ignore")
    for folder in ("small", "big"):
        (output / folder).mkdir()
    COMPETITORS[competitor](small, output / "small")()
    work = COMPETITORS[competitor](big, output / "big")
    start, processor_start = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    del result
    return Measurement(seconds=seconds, processor_seconds=processor_seconds, peak_bytes=peak_bytes())


def measure(competitor: str, inputs: Iterable[Path]) -> Measurement:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, __file__, "--measure", competitor, *map(str, inputs), folder]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{competitor} failed")
    return Measurement(**json.loads(done.stdout))


def run(row: Row, cache: Path, rounds: int | None) -> dict[str, Measurement]:
    """Let the competitors take turns, and return the best measurement of each."""
    inputs = [input_path(cache, row.input, small) for small in (True, False)]
    best: dict[str, Measurement] = {}
    for _ in range(rounds or row.rounds):
        for name in row.competitors:
            done = measure(name, inputs)
            times = f"{done.seconds:.3f} s, {done.processor_seconds:.3f} s of processor time"
            print(f"  {name}: {times}, {done.peak_bytes / 1e6:.0f} MB", file=sys.stderr)
            best[name] = min(best.get(name, done), done, key=lambda measured: measured.seconds)
    return best


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps the inputs (1 GB) between runs")
    parser.add_argument("--rounds", type=int, help="rounds of every competitor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def report(cache: Path, arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 where a target is missed."""
    figures: list[Figure] = []
    for name in arguments.rows:
        print(name, file=sys.stderr)
        figures += ROWS[name].conclude(run(ROWS[name], cache, arguments.rounds))
    if arguments.json:
        print(json.dumps([{**asdict(figure), "reached": figure.reached} for figure in figures], indent=2))
    else:
        print(*figures, sep="\n")
    return 0 if all(figure.reached for figure in figures) else 1


def main() -> int:
    """Measure, print, and return 1 where a target is missed."""
    arguments = parse_arguments()
    if arguments.measure:
        competitor, *paths = arguments.measure
        print(json.dumps(asdict(measure_here(competitor, *map(Path, paths)))))
        return 0
    if arguments.cache is not None:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        return report(arguments.cache, arguments)
    with tempfile.TemporaryDirectory() as folder:
        return report(Path(folder), arguments)


if __name__ == "__main__":
    sys.exit(main())
