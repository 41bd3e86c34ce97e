#!/usr/bin/env python3
"""Measure h5zarr against its peers and against libhdf5 itself; `scripts/bench` makes the environment.

Every measurement runs in a process of its own: it warms up on a small file, then works once on the big
one. Competitors take turns, and the best of their rounds counts. Targets are ratios within this run.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Work = Callable[[], object]
"""What is timed."""

MEBIBYTE = 2**20
CHUNK_COUNT = 1024 * 1024
DATASET_COUNT = 5000
COMPRESSED_BYTES = 500_000_000
PACKAGES = ("h5zarr", "h5py", "kerchunk", "virtualizarr", "hidefix", "zarr", "numpy")

C_CALLBACK = """
#include <stdint.h>
struct columns { uint64_t count, *row, *column, *address, *length; uint32_t *mask; };
int store(const uint64_t *offset, unsigned mask, uint64_t address, uint64_t length, void *data) {
    struct columns *to = data;
    uint64_t at = to->count++;
    to->row[at] = offset[0]; to->column[at] = offset[1];
    to->address[at] = address; to->length[at] = length; to->mask[at] = mask;
    return 0;
}
"""


# Files to measure on ---------------------------------------------------------------------


def write_chunks(path: Path, small: bool) -> None:
    """Write a dataset of many chunks."""
    extent = 32 if small else 4096
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (extent, extent), "<f4", chunks=(4, 4))
        slab = np.arange(4.0 * extent, dtype="<f4").reshape(4, extent)
        for row in range(0, extent, 4):
            dataset[row : row + 4] = slab + row


def write_datasets(path: Path, small: bool) -> None:
    """Write many small datasets with three attributes each."""
    per_group = DATASET_COUNT // 50
    with h5py.File(path, "w") as file:
        for number in range(10 if small else DATASET_COUNT):
            name = f"group_{number // per_group:02}/dataset_{number % per_group:03}"
            dataset = file.create_dataset(name, data=np.full((16, 20), number, "<f8"))
            dataset.attrs["units"] = "m s-1"
            dataset.attrs["long_name"] = f"measured quantity number {number}"
            dataset.attrs["scale_factor"] = 0.01 * number


def compressed_chunks(shape: tuple[int, int]) -> list[bytes]:
    """Return a few chunks as the shuffle and deflate filters store them, shrunk to four fifths or so."""
    random = np.random.default_rng(1)
    fields = (np.cumsum(random.normal(size=shape), axis=1).astype("<f4") for _ in range(8))
    shuffled = (field.reshape(-1).view("u1").reshape(-1, 4).T.tobytes() for field in fields)
    return [zlib.compress(stored, 4) for stored in shuffled]


def write_compressed(path: Path, small: bool) -> None:
    """Write a dataset behind shuffle and deflate, in chunks of 1 MiB."""
    shape = (512, 512)
    chunks = compressed_chunks(shape)
    bytes_stored = sum(map(len, chunks)) // len(chunks)
    steps = 2 if small else COMPRESSED_BYTES // (4 * bytes_stored)
    with h5py.File(path, "w") as file:
        options = {"chunks": (1, *shape), "compression": 4, "shuffle": True}
        dataset = file.create_dataset("x", (steps, 1024, 1024), "<f4", **options)
        for number, (step, row, column) in enumerate(np.ndindex(steps, 2, 2)):
            place = (step, 512 * row, 512 * column)
            dataset.id.write_direct_chunk(place, chunks[number % len(chunks)])


INPUTS: dict[str, Callable[[Path, bool], None]] = {
    "chunks": write_chunks,
    "datasets": write_datasets,
    "compressed": write_compressed,
}


def input_file(cache: Path, name: str, small: bool) -> Path:
    """Return a file to measure on, written where it is not there yet."""
    path = cache / f"{name}-{'small' if small else 'big'}.h5"
    if not path.exists():
        partial = path.with_suffix(".partial")
        INPUTS[name](partial, small)
        partial.rename(path)
    return path


# Competitors -----------------------------------------------------------------------------
# Each function imports and prepares, untimed, and returns the work; it may write to `output`.


def libhdf5_chunk_iter(source: Path, output: Path) -> Work:
    """Do the least that can be done: `H5Dchunk_iter` with a callback in C that stores into columns."""
    store = compile_callback(output.parent)
    iterate = ctypes.CDLL(h5py.h5d.__file__).H5Dchunk_iter

    def work() -> object:
        columns = [np.empty(CHUNK_COUNT, kind) for kind in ("u8", "u8", "u8", "u8", "u4")]
        data = (ctypes.c_uint64 * 6)(0, *(column.ctypes.data for column in columns))
        with h5py.File(source) as file, h5py._objects.phil:
            dataset = file["x"].id
            if iterate(ctypes.c_int64(dataset.id), ctypes.c_int64(0), store, data) < 0:
                raise RuntimeError("H5Dchunk_iter failed")
        return columns

    return work


def compile_callback(folder: Path) -> Any:
    """Return the C callback."""
    code, library = folder / "callback.c", folder / "callback.so"
    code.write_text(C_CALLBACK)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", code, "-o", library], check=True)
    return ctypes.CDLL(str(library)).store


def h5py_read(source: Path, output: Path) -> Work:
    """Read everything once, in slabs of whole chunks."""

    def work() -> None:
        with h5py.File(source) as file:
            dataset = file["x"]
            slab = np.empty(dataset.shape[1:], dataset.dtype)
            for step in range(dataset.shape[0]):
                dataset.read_direct(slab, np.s_[step])

    return work


def h5zarr_scan(source: Path, output: Path) -> Work:
    """Scan."""
    import h5zarr

    return lambda: h5zarr.scan(source)


def h5zarr_references(source: Path, output: Path) -> Work:
    """Convert to references in memory."""
    import h5zarr

    return lambda: h5zarr.convert(source).references()


def h5zarr_json(source: Path, output: Path) -> Work:
    """Convert to references on disk."""
    import h5zarr

    return lambda: h5zarr.convert(source, output)


def h5zarr_validate(source: Path, output: Path) -> Work:
    """Validate references on disk."""
    import h5zarr

    h5zarr.convert(source, output)

    def work() -> None:
        report = h5zarr.validate(output)
        if not report.ok:
            raise RuntimeError(f"not equal: {report}")

    return work


def kerchunk_translate(source: Path, output: Path) -> Work:
    """Convert to references in memory, without copying chunks into them."""
    from kerchunk.hdf import SingleHdf5ToZarr

    return lambda: SingleHdf5ToZarr(str(source), inline_threshold=0).translate()


def kerchunk_json(source: Path, output: Path) -> Work:
    """Convert to references on disk."""
    import ujson

    translate = kerchunk_translate(source, output)
    return lambda: output.write_text(ujson.dumps(translate()))


def virtualizarr_parse(source: Path, output: Path) -> Work:
    """Convert to a manifest store."""
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    return lambda: HDFParser()(f"file://{source}", registry)


def hidefix_index(source: Path, output: Path) -> Work:
    """Index."""
    import hidefix

    return lambda: hidefix.Index(str(source))


COMPETITORS: dict[str, Callable[[Path, Path], Work]] = {
    "H5Dchunk_iter in C": libhdf5_chunk_iter,
    "h5py, reading once": h5py_read,
    "h5zarr scan": h5zarr_scan,
    "h5zarr references": h5zarr_references,
    "h5zarr JSON": h5zarr_json,
    "h5zarr validate": h5zarr_validate,
    "kerchunk": kerchunk_translate,
    "kerchunk + ujson": kerchunk_json,
    "VirtualiZarr": virtualizarr_parse,
    "hidefix": hidefix_index,
}

SLOW = {"kerchunk", "kerchunk + ujson"}
"""Competitors that take so long that a round less does not change the ratio's first digit."""


# One measurement -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one process reports."""

    seconds: float
    """Time of the work alone."""
    warm_bytes: int
    """Peak resident memory after the imports and the work on the small file."""
    peak_bytes: int
    """Peak resident memory at the end."""


def peak_bytes() -> int:
    """Return the peak resident memory of this process (`ru_maxrss` is inherited from the parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("peak memory is read from /proc, on Linux only")


def measure_here(competitor: str, small: Path, big: Path, output: Path) -> Measurement:
    """Measure in this process."""
    warnings.simplefilter("ignore")
    COMPETITORS[competitor](small, output)()
    warm_bytes = peak_bytes()
    work = COMPETITORS[competitor](big, output)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return Measurement(seconds=seconds, warm_bytes=warm_bytes, peak_bytes=peak_bytes())


def measure(competitor: str, name: str, cache: Path) -> Measurement:
    """Measure in a process of its own."""
    files = [str(input_file(cache, name, small)) for small in (True, False)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, __file__, "--measure", competitor, *files, f"{folder}/references.json"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{competitor} failed on {name}")
    return Measurement(**json.loads(done.stdout))


# Figures ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All rounds of one competitor on one file."""

    competitor: str
    input: str
    rounds: tuple[Measurement, ...]

    @property
    def best(self) -> float:
        """Best time in seconds: what a busy machine adds is no part of the work."""
        return min(measurement.seconds for measurement in self.rounds)

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(measurement.seconds for measurement in self.rounds)

    @property
    def peak_mebibytes(self) -> float:
        """Largest peak memory."""
        return max(measurement.peak_bytes for measurement in self.rounds) / MEBIBYTE

    @property
    def bytes_per_chunk(self) -> float:
        """Peak memory above the warm process, for each chunk."""
        return max(done.peak_bytes - done.warm_bytes for done in self.rounds) / CHUNK_COUNT


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the result."""

    work: str
    value: float
    target: float
    unit: str
    at_most: bool

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        bound = "≤" if self.at_most else "≥"
        verdict = "pass" if self.reached else "FAIL"
        return f"{self.work:58} {self.value:8.2f} {bound} {self.target:5g} {self.unit:14} {verdict}"


def at_most(work: str, value: float, target: float, unit: str) -> Figure:
    """Return a figure that should be low."""
    return Figure(work=work, value=value, target=target, unit=unit, at_most=True)


def faster(work: str, ours: Timing, theirs: Timing, target: float) -> Figure:
    """Return how many times faster we are."""
    ratio = theirs.best / ours.best
    return Figure(
        work=f"{work}, {theirs.competitor}", value=ratio, target=target, unit="× faster", at_most=False
    )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Competitors that take turns on one file, and what is concluded."""

    input: str
    competitors: tuple[str, ...]
    conclude: Callable[[dict[str, Timing]], list[Figure]]
    rounds: int = 5


def conclude_scan(timings: dict[str, Timing]) -> list[Figure]:
    """Compare the scan of many chunks."""
    ours, bare = timings["h5zarr scan"], timings["H5Dchunk_iter in C"]
    work = "scan of 1,048,576 chunks"
    targets = {"kerchunk": 80, "VirtualiZarr": 35, "hidefix": 1.5}
    limit = at_most(f"{work}, {bare.competitor}", ours.best / bare.best, 1.3, "× its time")
    return [limit, *(faster(work, ours, timings[name], target) for name, target in targets.items())]


def conclude_json(timings: dict[str, Timing]) -> list[Figure]:
    """Compare the way to references on disk."""
    return [faster("1,048,576 chunks to JSON", timings["h5zarr JSON"], timings["kerchunk + ujson"], 40)]


def conclude_many(timings: dict[str, Timing]) -> list[Figure]:
    """Compare a file of many datasets."""
    ours, targets = timings["h5zarr references"], {"kerchunk": 15, "VirtualiZarr": 3.5}
    return [faster("5,000 datasets", ours, timings[name], target) for name, target in targets.items()]


def conclude_memory(timings: dict[str, Timing]) -> list[Figure]:
    """Judge the peak memory."""
    whole, scan = timings["h5zarr JSON"].peak_mebibytes, timings["h5zarr scan"].bytes_per_chunk
    return [
        at_most("peak memory, 1,048,576 chunks to JSON", whole * MEBIBYTE / 1e6, 300, "MB"),
        at_most("peak memory of the scan above the import", scan, 48, "bytes a chunk"),
    ]


def conclude_validate(timings: dict[str, Timing]) -> list[Figure]:
    """Compare validation with reading."""
    ratio = timings["h5zarr validate"].best / timings["h5py, reading once"].best
    return [at_most("validate 500 MB of shuffle + deflate, h5py, reading once", ratio, 1.6, "× its time")]


BENCHMARKS: dict[str, Benchmark] = {
    "scan": Benchmark(
        input="chunks",
        competitors=("H5Dchunk_iter in C", "h5zarr scan", "hidefix", "VirtualiZarr", "kerchunk"),
        conclude=conclude_scan,
    ),
    "json": Benchmark(
        input="chunks", competitors=("h5zarr JSON", "kerchunk + ujson"), conclude=conclude_json, rounds=3
    ),
    "many": Benchmark(
        input="datasets",
        competitors=("h5zarr references", "VirtualiZarr", "kerchunk"),
        conclude=conclude_many,
    ),
    "memory": Benchmark(
        input="chunks", competitors=("h5zarr JSON", "h5zarr scan"), conclude=conclude_memory, rounds=2
    ),
    "validate": Benchmark(
        input="compressed",
        competitors=("h5py, reading once", "h5zarr validate"),
        conclude=conclude_validate,
        rounds=3,
    ),
}


def take_turn(name: str, input_name: str, cache: Path) -> list[Measurement]:
    """Measure once, or three times where it takes so little that chance would decide."""
    done = [measure(name, input_name, cache)]
    if done[0].seconds < 1:
        done += [measure(name, input_name, cache) for _ in range(2)]
    return done


def run(benchmark: Benchmark, cache: Path, rounds: int | None) -> dict[str, Timing]:
    """Let the competitors take turns."""
    total = rounds or benchmark.rounds
    taken: dict[str, list[Measurement]] = {name: [] for name in benchmark.competitors}
    for number in range(total):
        for name in benchmark.competitors:
            if name not in SLOW or number < max(1, total // 2):
                taken[name] += take_turn(name, benchmark.input, cache)
                print(f"  {name}: {taken[name][-1].seconds:.3f} s", file=sys.stderr)
    return {
        name: Timing(competitor=name, input=benchmark.input, rounds=tuple(done))
        for name, done in taken.items()
    }


# Output ----------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        "processors": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "hdf5": h5py.version.hdf5_version,
        **versions,
    }


def describe(timing: Timing) -> str:
    """Return the line of one competitor."""
    times = f"{timing.best:9.3f} {timing.median:9.3f} {len(timing.rounds):6}"
    return f"{timing.competitor:22} {timing.input:12} {times} {timing.peak_mebibytes:9.0f}"


def print_tables(timings: Iterable[Timing], figures: Iterable[Figure]) -> None:
    """Print what a person reads."""
    print("  ".join(f"{key} {value}" for key, value in machine().items()), end="\n\n")
    print(f"{'competitor':22} {'file':12} {'best s':>9} {'median s':>9} {'rounds':>6} {'peak MiB':>9}")
    print(*map(describe, timings), sep="\n", end="\n\n")
    print(f"{'figure':58} {'measured':>8}   target")
    print(*figures, sep="\n")


def print_json(timings: Iterable[Timing], figures: Iterable[Figure]) -> None:
    """Print what a program reads."""
    concluded = [{**asdict(figure), "reached": figure.reached} for figure in figures]
    document = {"machine": machine(), "timings": [asdict(timing) for timing in timings], "figures": concluded}
    print(json.dumps(document, indent=2))


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(BENCHMARKS)}")
    parser.add_argument("--cache", type=Path, help="folder that keeps the input files (2 GB) between runs")
    parser.add_argument("--rounds", type=int, help="rounds of every competitor; slow ones do half")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return arguments


def run_all(names: Iterable[str], cache: Path, rounds: int | None) -> tuple[list[Timing], list[Figure]]:
    """Run the named benchmarks."""
    timings: list[Timing] = []
    figures: list[Figure] = []
    for name in names:
        print(name, file=sys.stderr)
        done = run(BENCHMARKS[name], cache, rounds)
        timings += done.values()
        figures += BENCHMARKS[name].conclude(done)
    return timings, figures


def main() -> int:
    """Measure, print, and return 1 where a target is missed."""
    arguments = parse_arguments()
    if arguments.measure:
        competitor, *paths = arguments.measure
        print(json.dumps(asdict(measure_here(competitor, *map(Path, paths)))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        timings, figures = run_all(arguments.names or BENCHMARKS, cache.resolve(), arguments.rounds)
    (print_json if arguments.json else print_tables)(timings, figures)
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
