#!/usr/bin/env python
"""Convert damaged copies of the fixtures, and see that nothing crashes, hangs or comes out wrong.

    scripts/fuzz.py --count 20000 [--jobs 2] [--seed 0] [--only REGEX] [--keep FOLDER]

Each copy is damaged in a way that its number and the seed tell, so that a finding can be made again.
A conversion may succeed, with or without problems, or fail with an `H5zarrError`; anything else is a
finding: another exception, a crash of the process, more than the time limit, more than the memory limit.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

FIXTURES = Path(__file__).parent.parent / "fixtures"
TIME_LIMIT_SECONDS = 20
MEMORY_LIMIT_BYTES = 4 * 2**30
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def damage(content: bytes, seed: str) -> bytes:
    """Return the content with bytes changed, cut off or moved."""
    rng = random.Random(seed)
    damaged = bytearray(content)
    ways = rng.choices(
        (flip, overwrite_word, repeat_elsewhere, truncate), (6, 4, 2, 1), k=rng.choice((1, 1, 2, 4, 16))
    )
    for way in ways:
        if damaged:
            way(damaged, rng)
    return bytes(damaged)


def place(damaged: bytearray, rng: random.Random) -> int:
    """Return a position, mostly one near to the beginning, where the metadata are."""
    most = len(damaged) if rng.random() < 0.3 else min(len(damaged), 4096)
    return rng.randrange(most)


def flip(damaged: bytearray, rng: random.Random) -> None:
    at = place(damaged, rng)
    damaged[at] = rng.choice(INTERESTING) if rng.random() < 0.5 else damaged[at] ^ (1 << rng.randrange(8))


def overwrite_word(damaged: bytearray, rng: random.Random) -> None:
    """Put an address or a length where one may have been."""
    at = place(damaged, rng)
    word = rng.choice(
        (0, 1, 2**63, 2**64 - 1, len(damaged), rng.randrange(len(damaged)), rng.getrandbits(32))
    )
    width = rng.choice((2, 4, 8))
    damaged[at : at + width] = (word % 2 ** (8 * width)).to_bytes(width, "little")[: len(damaged) - at]


def repeat_elsewhere(damaged: bytearray, rng: random.Random) -> None:
    """Copy a piece over another: cycles of addresses, structures in the wrong place."""
    source, target, length = place(damaged, rng), place(damaged, rng), rng.choice((8, 24, 64, 256))
    piece = damaged[source : source + length]
    damaged[target : target + len(piece)] = piece


def truncate(damaged: bytearray, rng: random.Random) -> None:
    del damaged[rng.randrange(len(damaged)) :]


def work() -> None:
    """Convert each file that stdin names, one line a file, and answer with one line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import h5zarr

    for line in sys.stdin:
        try:
            conversion = h5zarr.convert(line.rstrip("\n"))
            for _ in conversion.blocks():
                pass
            answer = "problems" if conversion.problems else "converted"
        except h5zarr.H5zarrError as error:
            answer = f"refused {type(error).__name__}"
        except BaseException as error:  # noqa: BLE001 - whatever else it is, it is the finding
            answer = f"FINDING {type(error).__name__}: {error}".replace("\n", " ")
        answers.write(answer + "\n")
        answers.flush()


class Worker:
    """A child process that converts files, started again when it dies."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None

    def convert(self, path: Path) -> str:
        if self.child is None or self.child.poll() is not None:
            command = [sys.executable, __file__, "--worker"]
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        child = self.child
        timer = threading.Timer(TIME_LIMIT_SECONDS, child.kill)
        timer.start()
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
        answer = child.stdout.readline().rstrip("\n")
        timed_out = not timer.is_alive()
        timer.cancel()
        if answer:
            return answer
        return "FINDING hang" if timed_out else f"FINDING crash, exit status {child.wait()}"


def tasks(arguments: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    fixtures = sorted(path for path in FIXTURES.iterdir() if re.search(arguments.only, path.name))
    for number in range(arguments.count):
        fixture = fixtures[number % len(fixtures)]
        yield fixture, f"{arguments.seed}/{fixture.name}/{number}"


def run(
    todo: Iterator[tuple[Path, str]], lock: threading.Lock, found: collections.Counter[str], keep: Path
) -> None:
    worker = Worker()
    with tempfile.TemporaryDirectory() as folder:
        while True:
            with lock:
                task = next(todo, None)
            if task is None:
                return
            fixture, seed = task
            damaged = Path(folder) / fixture.name
            damaged.write_bytes(damage(fixture.read_bytes(), seed))
            answer = worker.convert(damaged)
            with lock:
                found[answer.split(":")[0]] += 1
                if answer.startswith("FINDING"):
                    keep.mkdir(exist_ok=True)
                    damaged.rename(keep / seed.replace("/", "_"))
                    print(f"{seed}: {answer}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", default=r"\.(h5|nc)$")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    todo, lock, found = tasks(arguments), threading.Lock(), collections.Counter[str]()
    threads = [
        threading.Thread(target=run, args=(todo, lock, found, arguments.keep)) for _ in range(arguments.jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(found.most_common(), indent=1))
    sys.exit(any(answer.startswith("FINDING") for answer in found))


if __name__ == "__main__":
    main()
