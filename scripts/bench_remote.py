#!/usr/bin/env python3
"""Measure h5zarr against its peers on files behind a slow server, all in one run.

The server is `tests/slow_server.py`, in a process of its own; every measurement runs in a fresh process,
which imports everything first. Of several rounds the best counts. Requests and bytes are what the server
counted, and exact; times are worth comparing within one run only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SERVER = Path(__file__).parent.parent / "tests" / "slow_server.py"
BANDWIDTH = 100e6
CHUNK = (1, 55, 55)
VARIABLES = 20
STEPS = 1600

# Files -----------------------------------------------------------------------------------


def write_scattered(path: Path, scale: float, **options: Any) -> None:
    """Append time steps to 20 variables, a chunk of 12 KB each: 32,000 chunks in all at scale 1."""
    with h5py.File(path, "w", **options) as file:
        shape, most = (0, *CHUNK[1:]), (None, *CHUNK[1:])
        variables = [
            file.create_dataset(f"variable_{number:02d}", shape, "f4", maxshape=most, chunks=CHUNK)
            for number in range(VARIABLES)
        ]
        for variable in variables:
            variable.attrs.update(units="K", long_name="air temperature", scale=np.float32(2))
        for step in range(max(int(STEPS * scale), 2)):
            for variable in variables:
                variable.resize(step + 1, axis=0)
                variable[step] = np.float32(step)


def write_many(path: Path, scale: float) -> None:
    """Write 5,000 small datasets in 50 groups."""
    with h5py.File(path, "w") as file:
        for number in range(int(5000 * scale)):
            values = np.arange(200.0) + number
            dataset = file.create_dataset(f"group_{number % 50:02d}/dataset_{number}", data=values)
            dataset.attrs.update(units="m s-1", long_name="a quantity", number=number, valid=[0.0, 1.0])


FILES: dict[str, Callable[[Path, float], None]] = {
    "scattered": write_scattered,
    "latest": lambda path, scale: write_scattered(path, scale, libver="latest"),
    "paged": lambda path, scale: write_scattered(
        path, scale, libver="latest", fs_strategy="page", fs_page_size=2**20
    ),
    "many": write_many,
}

# Readers, each in a process of its own ---------------------------------------------------


def prepare_h5zarr(url: str) -> Callable[[], Any]:
    import aiohttp  # noqa: F401
    import fsspec.implementations.http

    import h5zarr
    from h5zarr.prefetch import connection_options, open_prefetched

    assert h5zarr.convert  # imported when it is first used

    def work() -> Any:
        filesystem = fsspec.filesystem("http", **connection_options("http", {}))
        file = open_prefetched(filesystem, url, filesystem.info(url)["size"])
        with h5py.File(file, "r") as opened:
            blocks = list(h5zarr.convert(opened, public_url=url).blocks())
        statistics = file.statistics
        assert blocks
        return {"round_trips": statistics.round_trips, "misses": statistics.misses}

    return work


def prepare_kerchunk(url: str, **cache: Any) -> Callable[[], Any]:
    import fsspec.implementations.http
    import kerchunk.hdf

    def work() -> Any:
        filesystem = fsspec.filesystem("http")
        with filesystem.open(url, "rb", **cache) as stream:
            kerchunk.hdf.SingleHdf5ToZarr(stream, url, inline_threshold=500).translate()
        return {}

    return work


def prepare_kerchunk_blocks(url: str) -> Callable[[], Any]:
    return prepare_kerchunk(url, block_size=2**20, cache_type="blockcache", cache_options={"maxblocks": 512})


def prepare_virtualizarr(url: str) -> Callable[[], Any]:
    import obstore.store
    from obspec_utils.registry import ObjectStoreRegistry
    from virtualizarr.parsers import HDFParser

    base, _, _ = url.rpartition("/")

    def work() -> Any:
        store = obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True})
        manifest_store = HDFParser()(url, ObjectStoreRegistry({base: store}))
        manifest_store.to_virtual_datatree(loadable_variables=[])
        return {}

    return work


READERS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "h5zarr": prepare_h5zarr,
    "virtualizarr": prepare_virtualizarr,
    "kerchunk": prepare_kerchunk,
    "kerchunk, 1 MB blocks": prepare_kerchunk_blocks,
}


def run_reader(reader: str, url: str) -> None:
    """Do one measurement and print it."""
    warnings.simplefilter("ignore")
    work = READERS[reader](url)
    started = time.perf_counter()
    found = work()
    print(json.dumps({"seconds": time.perf_counter() - started, **found}))


# Measuring -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one reader took for one file."""

    seconds: float
    """The best round (seconds)."""
    requests: int
    """Requests with a body."""
    byte_length: int
    """What they brought (bytes)."""
    found: dict[str, Any]
    """What the reader tells of itself."""


class Server:
    """The slow server, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(SERVER), str(folder), "--bandwidth", str(BANDWIDTH)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def set_latency(self, seconds: float) -> list[int]:
        """Set the latency (seconds); return requests, bytes and most at a time since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"latency {seconds}\n")
        self._process.stdin.flush()
        return [int(number) for number in self._answer().split()]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(server: Server, reader: str, name: str, latency: float, rounds: int) -> Measurement | None:
    """Return the best of some rounds; None where the reader fails."""
    best: Measurement | None = None
    for _ in range(rounds):
        server.set_latency(latency)
        command = [sys.executable, __file__, "--one", reader, f"{server.url}/{name}.h5"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        requests, byte_length, _ = server.set_latency(latency)
        if done.returncode:
            return None
        found = json.loads(done.stdout)
        seconds = found.pop("seconds")
        if best is None or seconds < best.seconds:
            best = Measurement(seconds=seconds, requests=requests, byte_length=byte_length, found=found)
    return best


def report(name: str, latency: float, results: dict[str, Measurement | None]) -> None:
    """Print one file's table."""
    print(f"\n{name}, {latency * 1000:.0f} ms a request")
    print(f"{'reader':24}{'seconds':>9}{'× h5zarr':>10}{'requests':>10}{'MB':>10}")
    ours = results["h5zarr"]
    for reader, result in results.items():
        if result is None or ours is None:
            print(f"{reader:24}   failed")
            continue
        ratio = result.seconds / ours.seconds
        numbers = f"{result.seconds:9.2f}{ratio:10.1f}{result.requests:10d}{result.byte_length / 1e6:10.2f}"
        print(f"{reader:24}{numbers}  {json.dumps(result.found) if result.found else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("READER", "URL"), help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0, help="length of the files, 1: as in the issue")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.03, 0.1], help="seconds a request")
    parser.add_argument("--files", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are kept from run to run")
    options = parser.parse_args()
    if options.one:
        run_reader(*options.one)
        return
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.folder or Path(temporary))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Make the files and measure all readers on them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.files:
        if not (folder / f"{name}.h5").exists():
            FILES[name](folder / f"{name}.h5", options.scale)
    server = Server(folder)
    try:
        for latency in options.latency:
            for name in options.files:
                results = {
                    reader: measure(server, reader, name, latency, options.rounds)
                    for reader in options.readers
                }
                report(name, latency, results)
    finally:
        server.close()


if __name__ == "__main__":
    main()
