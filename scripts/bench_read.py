#!/usr/bin/env python
"""Time reading through the xarray engine against h5netcdf, VirtualiZarr and plain h5py.

    scripts/bench read                         # in an environment of its own, with all of them
    scripts/bench read --scale 0.2 --cases local remote --rounds 5

Each reader opens the file and reads the values in a process of its own, which has read a small file of the
same kind before, so that everything is imported. "h5zarr" scans the file, "h5zarr, JSON" has references.
Rounds are interleaved, the best of each reader counts, and all must read the same. CPU time tells how much
of a reader's time is work; with other work on the machine, it and the ratios mean more than the seconds.

Cases, float32 with gzip 4 and shuffle, stored 3.5 times as small:

local           500 MB in chunks of 1 MiB
small chunks    100 MB in chunks of 16 KiB
remote          100 MB in chunks of 256 KiB, over HTTP with 30 ms a request, 100 MB/s a connection: a
                quarter of a file, in its order
remote series   of the same file, the values at one place: one of 16 chunks of each step
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bench_remote import Server

LATENCY = 0.03
SIDE = 1024
Values = np.ndarray[Any, Any]
Selection = tuple[Any, ...]

# Files -----------------------------------------------------------------------------------


def write(path: Path, steps: int, chunk_side: int) -> None:
    """Write fields as of a temperature, with noise, in steps of 1/128."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 8, SIDE), np.linspace(0, 8, SIDE), indexing="ij")
    with h5py.File(path, "w") as file:
        shape, chunks = (steps, SIDE, SIDE), (1, chunk_side, chunk_side)
        values = file.create_dataset(
            "t", shape, "f4", chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
        )
        for step in range(steps):
            field = 280 + 15 * np.sin(x + step / 9) * np.cos(y - step / 7) + rng.normal(0, 0.3, x.shape)
            values[step] = np.round(field * 128) / 128
        for axis, name in enumerate(("time", "y", "x")):
            file[name] = np.arange(float(shape[axis]))
            file[name].make_scale(name)
            values.dims[axis].attach_scale(file[name])


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is read."""

    file: str
    """Name of the file."""
    steps: int
    """Steps in it at scale 1."""
    chunk_side: int
    """Side of its square chunks (elements)."""
    is_remote: bool = False
    """Whether it is read over HTTP."""
    selection: Callable[[int], Selection] = lambda _steps: ()
    """What of it is read, of so many steps."""


CASES = {
    "local": Case(file="large.h5", steps=120, chunk_side=512),
    "small chunks": Case(file="small.h5", steps=24, chunk_side=64),
    "remote": Case(
        file="remote.h5",
        steps=96,
        chunk_side=256,
        is_remote=True,
        selection=lambda steps: (slice(steps // 4),),
    ),
    "remote series": Case(
        file="remote.h5",
        steps=96,
        chunk_side=256,
        is_remote=True,
        selection=lambda _steps: (slice(None), 300, 300),
    ),
}

# Readers, each in a process of its own ---------------------------------------------------


def prepare_h5zarr(url: str) -> Callable[[Selection], Values]:
    import xarray as xr

    import h5zarr.reading.chunk_pipeline
    import h5zarr.reading.store_opening
    import h5zarr.xarray_backend  # noqa: F401 - imported before the clock starts

    return lambda selection: xr.open_dataset(url, engine="h5zarr")["t"][selection].values


def prepare_h5zarr_json(url: str) -> Callable[[Selection], Values]:
    from h5zarr.converter import convert

    with tempfile.NamedTemporaryFile(suffix=".json", delete=False) as file:
        convert(url).write(file.name)
    return prepare_h5zarr(file.name)


def prepare_h5netcdf(url: str) -> Callable[[Selection], Values]:
    import fsspec
    import h5netcdf  # noqa: F401
    import xarray as xr

    def read(selection: Selection) -> Values:
        source = fsspec.open(url).open() if url.startswith("http") else url
        with xr.open_dataset(source, engine="h5netcdf") as dataset:
            return dataset["t"][selection].values

    return read


def prepare_virtualizarr(url: str) -> Callable[[Selection], Values]:
    import obstore.store
    import xarray as xr
    from obspec_utils.registry import ObjectStoreRegistry
    from virtualizarr.parsers import HDFParser

    def read(selection: Selection) -> Values:
        if url.startswith("http"):
            base = url.rpartition("/")[0]
            store = obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True})
            registry, target = ObjectStoreRegistry({base: store}), url
        else:
            registry, target = ObjectStoreRegistry({"file://": obstore.store.LocalStore()}), f"file://{url}"
        manifest_store = HDFParser()(target, registry)
        with xr.open_zarr(manifest_store, consolidated=False, zarr_format=3, chunks=None) as dataset:
            return dataset["t"][selection].values

    return read


def prepare_h5py(url: str) -> Callable[[Selection], Values]:
    import fsspec

    def read(selection: Selection) -> Values:
        source = fsspec.open(url).open() if url.startswith("http") else url
        with h5py.File(source) as file:
            return file["t"][selection]

    return read


READERS = {
    "h5zarr": prepare_h5zarr,
    "h5zarr, JSON": prepare_h5zarr_json,
    "h5netcdf": prepare_h5netcdf,
    "virtualizarr": prepare_virtualizarr,
    "h5py": prepare_h5py,
}
BASIS = "h5netcdf"
WARM_FILE = "warm.h5"
WARM_STEPS = 4


def run_reader(reader: str, url: str, case: str, steps: int) -> None:
    """Do one measurement and print it."""
    warnings.simplefilter("ignore")
    READERS[reader](f"{url.rpartition('/')[0]}/{WARM_FILE}")(CASES[case].selection(WARM_STEPS))
    read = READERS[reader](url)
    selection = CASES[case].selection(steps)
    started, worked = time.perf_counter(), time.process_time()
    values = read(selection)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    checksum = zlib.crc32(np.ascontiguousarray(values))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "checksum": checksum}))


# Measuring -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of a reader."""

    seconds: float
    """What it took (seconds)."""
    cpu_seconds: float
    """What of all cores' time it took (seconds)."""
    checksum: int
    """Of the values."""
    requests: int = 0
    """Requests with a body."""
    byte_length: int = 0
    """What they brought (bytes)."""


def measure(server: Server, reader: str, case: str, path: Path, steps: int) -> Measurement | None:
    """Run one reader; return None where it fails."""
    url = f"{server.url}/{path.name}" if CASES[case].is_remote else str(path)
    server.set_latency(LATENCY)
    command = [sys.executable, __file__, "--one", reader, url, case, str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    requests, byte_length, _ = server.set_latency(LATENCY)
    if done.returncode:
        return None
    return Measurement(**json.loads(done.stdout), requests=requests, byte_length=byte_length)


def report(case: str, results: dict[str, list[Measurement]]) -> None:
    """Print one case's table: of each reader the best of its rounds."""
    checksums = {result.checksum for rounds in results.values() for result in rounds}
    assert len(checksums) == 1, f"{case}: not all read the same"
    print(f"\n{case}")
    print(
        f"{'reader':16}{'seconds':>9}{'CPU':>7}{f'× {BASIS}':>12}{'× its CPU':>11}{'requests':>10}{'MB':>8}"
    )
    basis = [min(getattr(run, name) for run in results[BASIS]) for name in ("seconds", "cpu_seconds")]
    for reader, rounds in results.items():
        if not rounds:
            print(f"{reader:16}   failed")
            continue
        seconds, cpu = (min(getattr(run, name) for run in rounds) for name in ("seconds", "cpu_seconds"))
        ratios = f"{basis[0] / seconds:12.2f}{basis[1] / cpu:11.2f}"
        moved = f"{rounds[0].requests:10d}{rounds[0].byte_length / 1e6:8.1f}"
        print(f"{reader:16}{seconds:9.2f}{cpu:7.2f}{ratios}{moved}", flush=True)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Make the files and measure all readers on them."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / WARM_FILE, WARM_STEPS, 256)
    server = Server(folder)
    try:
        for name in options.cases:
            case = CASES[name]
            steps = max(int(case.steps * options.scale), 4)
            if not (folder / case.file).exists():
                write(folder / case.file, steps, case.chunk_side)
            results: dict[str, list[Measurement]] = {reader: [] for reader in options.readers}
            for _ in range(options.rounds):
                for reader, rounds in results.items():
                    rounds.extend(filter(None, [measure(server, reader, name, folder / case.file, steps)]))
            report(name, results)
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--one", nargs=4, metavar=("READER", "URL", "CASE", "STEPS"), help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0, help="length of the files, 1: as told above")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are kept from run to run")
    options = parser.parse_args()
    if options.one:
        reader, url, case, steps = options.one
        run_reader(reader, url, case, int(steps))
        return
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.folder or Path(temporary))


if __name__ == "__main__":
    main()
