#!/usr/bin/env python3
"""Measure h5zarr against its peers on files behind a slow server, all in one run.

The server is `tests/slow_server.py`, in a process of its own; every measurement runs in a fresh process,
which imports everything first. Readers take turns, and of several rounds the best counts, for each. Requests
and bytes are what the server counted, and exact; times are worth comparing within one run only.

VirtualiZarr is measured up to its `ManifestStore`, with its default reader: the fastest of those that do not
fetch the whole file. Its `to_virtual_datatree`, which users call next, takes minutes for 5,000 arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SERVER = Path(__file__).parent.parent / "tests" / "slow_server.py"
BANDWIDTH = 100e6
CHUNK = (1, 55, 55)
VARIABLES = 20
STEPS = 1600
PAGE_BYTES = 2**20

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


def write_latest(path: Path, scale: float) -> None:
    write_scattered(path, scale, libver="latest")


def write_paged(path: Path, scale: float) -> None:
    write_scattered(path, scale, fs_strategy="page", fs_page_size=PAGE_BYTES)


def write_many(path: Path, scale: float) -> None:
    """Write 5,000 small datasets in 50 groups."""
    with h5py.File(path, "w") as file:
        for number in range(int(5000 * scale)):
            values = np.arange(200.0) + number
            dataset = file.create_dataset(f"group_{number % 50:02d}/dataset_{number}", data=values)
            dataset.attrs.update(units="m s-1", long_name="a quantity", number=number, valid=[0.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a file, a latency, and what is to be reached."""

    file: str
    """Name of the file without its suffix."""
    write: Callable[[Path, float], None]
    """Writes the file, for a scale."""
    latency: float = 0.03
    """What every request waits (seconds)."""
    copies: int = 1
    """Files of the same contents that are converted, under names of their own."""
    faster: dict[str, float] = field(default_factory=dict)
    """How many times faster h5zarr is to be than other readers."""
    most_own_bytes: float | None = None
    """Bytes moved at most, where they are worth it, as a multiple of those that libhdf5 reads."""
    most_bytes_of: str | None = None
    """The reader that is not to move fewer bytes."""

    @property
    def names(self) -> list[str]:
        """Names of the copies, with suffix."""
        if self.copies == 1:
            return [f"{self.file}.h5"]
        return [f"{self.file}_copies/{number:03d}.h5" for number in range(self.copies)]


ROWS = {
    "scattered": Row(
        file="scattered",
        write=write_scattered,
        faster={"virtualizarr": 16, "kerchunk": 100},
        most_own_bytes=11,
    ),
    "latest": Row(
        file="latest", write=write_latest, faster={"virtualizarr": 12, "kerchunk": 90}, most_own_bytes=17
    ),
    "paged": Row(
        file="paged",
        write=write_paged,
        faster={"virtualizarr": 1.5, "kerchunk": 25},
        most_bytes_of="virtualizarr",
    ),
    "many": Row(
        file="many",
        write=write_many,
        faster={"virtualizarr": 3, "kerchunk": 12},
        most_bytes_of="virtualizarr",
    ),
    "far": Row(file="scattered", write=write_scattered, latency=0.1, faster={"virtualizarr": 25}),
    "fifty": Row(file="scattered", write=write_scattered, copies=50, faster={"virtualizarr": 20}),
}

# Readers, each in a process of its own ---------------------------------------------------

Work = Callable[[], dict[str, Any]]


def prepare_h5zarr(urls: list[str]) -> Work:
    import h5zarr
    import h5zarr.prefetch.http_transport
    from h5zarr.many import convert_many

    assert h5zarr.scan  # imported when they are first used
    assert h5zarr.translate

    def convert_one() -> dict[str, Any]:
        # What `h5zarr.convert` does, but for the look at what was fetched.
        found = h5zarr.scan(urls[0])
        conversion = h5zarr.Conversion(hierarchy=h5zarr.translate(found))
        assert sum(map(len, conversion.blocks()))
        return {"round_trips": found.fetched.round_trips, "misses": found.fetched.misses}

    def convert_all() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            reports = convert_many(urls, folder)
        assert all(report.ok for report in reports), reports
        return {"converted": len(reports)}

    return convert_one if len(urls) == 1 else convert_all


def prepare_kerchunk(urls: list[str], **cache: Any) -> Work:
    import fsspec.implementations.http
    import kerchunk.hdf

    def work() -> dict[str, Any]:
        filesystem = fsspec.filesystem("http")
        for url in urls:
            with filesystem.open(url, "rb", **cache) as stream:
                kerchunk.hdf.SingleHdf5ToZarr(stream, url, inline_threshold=500).translate()
        return {}

    return work


def prepare_kerchunk_blocks(urls: list[str]) -> Work:
    return prepare_kerchunk(urls, block_size=2**20, cache_type="blockcache", cache_options={"maxblocks": 512})


def prepare_virtualizarr(urls: list[str], reader: str = "BlockStoreReader") -> Work:
    import obspec_utils.readers
    import obstore.store
    from obspec_utils.registry import ObjectStoreRegistry
    from virtualizarr.parsers import HDFParser

    base = urls[0].rpartition("/")[0]
    parse = HDFParser(reader_factory=getattr(obspec_utils.readers, reader))

    def work() -> dict[str, Any]:
        for url in urls:
            store = obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True})
            parse(url, ObjectStoreRegistry({base: store}))
        return {}

    return work


def prepare_virtualizarr_whole(urls: list[str]) -> Work:
    return prepare_virtualizarr(urls, "EagerStoreReader")


READERS: dict[str, Callable[[list[str]], Work]] = {
    "h5zarr": prepare_h5zarr,
    "virtualizarr": prepare_virtualizarr,
    "kerchunk": prepare_kerchunk,
    "virtualizarr, whole file": prepare_virtualizarr_whole,
    "kerchunk, 1 MB blocks": prepare_kerchunk_blocks,
}
USUAL_READERS = ("h5zarr", "virtualizarr", "kerchunk")
FILES_TIMED = 3
"""Files that a reader is timed with that takes them one after another; the rest is scaled."""


def run_reader(reader: str, urls: list[str]) -> None:
    """Do one measurement and print it."""
    warnings.simplefilter("ignore")
    work = READERS[reader](urls)
    started, cpu_started = time.perf_counter(), time.process_time()
    found = work()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, **found}))


# Measuring -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one reader took for a row's files."""

    seconds: float
    """Its time (seconds)."""
    cpu_seconds: float
    """What of it its process worked, processes of its own not counted (seconds)."""
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


def measure(server: Server, reader: str, row: Row) -> Measurement | None:
    """Measure once, in a fresh process; None where the reader fails."""
    names = row.names if reader == "h5zarr" else row.names[:FILES_TIMED]
    scaled = len(row.names) / len(names)
    server.set_latency(row.latency)
    command = [sys.executable, __file__, "--one", reader, *(f"{server.url}/{name}" for name in names)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    requests, byte_length, _ = server.set_latency(row.latency)
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    return Measurement(
        seconds=found.pop("seconds") * scaled,
        cpu_seconds=found.pop("cpu_seconds") * scaled,
        requests=int(requests * scaled),
        byte_length=int(byte_length * scaled),
        found=found,
    )


def measure_all(
    server: Server, row: Row, readers: Iterable[str], rounds: int
) -> dict[str, Measurement | None]:
    """Return each reader's best round; they take turns."""
    best: dict[str, Measurement | None] = dict.fromkeys(readers)
    failed: set[str] = set()
    for _ in range(rounds):
        for reader, before in best.items():
            now = None if reader in failed else measure(server, reader, row)
            if now is None:
                failed.add(reader)
            elif before is None or now.seconds < before.seconds:
                best[reader] = now
    return {reader: None if reader in failed else result for reader, result in best.items()}


class _CountingStream:
    """A local file that notes what is read of it."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb", buffering=0)
        self.spans: set[tuple[int, int]] = set()

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(at, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, byte_length: int = -1) -> bytes:
        self.spans.add((self._stream.tell(), byte_length))
        return self._stream.read(byte_length)


def own_bytes(path: Path) -> int:
    """Return how much of a file libhdf5 reads for a conversion, each byte counted once."""
    import h5zarr

    stream = _CountingStream(path)
    with h5py.File(stream, "r") as file:
        h5zarr.convert(file, public_url="file")
    total = end = 0
    for byte_offset, byte_length in sorted(stream.spans):
        total += max(byte_offset + byte_length - max(byte_offset, end), 0)
        end = max(end, byte_offset + byte_length)
    return total


# Reporting -------------------------------------------------------------------------------


def report(name: str, row: Row, results: dict[str, Measurement | None], own: int) -> None:
    """Print one row's table."""
    copies = f" × {row.copies}" if row.copies > 1 else ""
    print(f"\n{name}: {row.file}{copies}, {row.latency * 1000:.0f} ms a request")
    print(f"{'reader':26}{'seconds':>9}{'CPU':>9}{'× h5zarr':>10}{'to reach':>10}{'requests':>10}{'MB':>10}")
    ours = results["h5zarr"]
    for reader, result in results.items():
        if result is None or ours is None:
            print(f"{reader:26}   failed")
            continue
        target = row.faster.get(reader, "")
        times = (
            f"{result.seconds:9.2f}{result.cpu_seconds:9.2f}{result.seconds / ours.seconds:10.1f}{target:>10}"
        )
        told = json.dumps(result.found) if result.found else ""
        print(f"{reader:26}{times}{result.requests:10d}{result.byte_length / 1e6:10.2f}  {told}", flush=True)
    if ours is not None:
        report_bytes(row, ours, results, own)


def report_bytes(row: Row, ours: Measurement, results: dict[str, Measurement | None], own: int) -> None:
    moved = ours.byte_length / row.copies / own
    to_reach = f", to reach: {row.most_own_bytes} ×" if row.most_own_bytes else ""
    print(f"libhdf5 reads {own / 1e6:.2f} MB; h5zarr moves {moved:.1f} × that{to_reach}", flush=True)
    other = results.get(row.most_bytes_of or "")
    if other is not None:
        more = ours.byte_length - other.byte_length
        print(f"h5zarr moves {more:+d} bytes against {row.most_bytes_of}, to reach: not more", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--one", nargs="+", metavar=("READER", "URL"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(USUAL_READERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="length of the files, 1: as in the issue")
    parser.add_argument("--folder", type=Path, help="where files are kept from run to run")
    options = parser.parse_args()
    if options.one:
        run_reader(options.one[0], options.one[1:])
        return
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.folder or Path(temporary))


def make_files(row: Row, folder: Path, scale: float) -> Path:
    """Make a row's files, unless they are there; copies are links to one file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row.file}.h5"
    if not path.exists():
        row.write(path, scale)
    for copy in (folder / name for name in row.names):
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            copy.hardlink_to(path)
    return path


def run(options: argparse.Namespace, folder: Path) -> None:
    """Make the files and measure all readers on them."""
    server = Server(folder)
    try:
        for name in options.rows:
            row = ROWS[name]
            path = make_files(row, folder, options.scale)
            # The reader of a whole file would fetch all copies; for many files only two are compared.
            readers = [
                reader for reader in options.readers if row.copies == 1 or reader in ("h5zarr", *row.faster)
            ]
            results = measure_all(server, row, readers, options.rounds)
            report(name, row, results, own_bytes(path))
    finally:
        server.close()


if __name__ == "__main__":
    main()
