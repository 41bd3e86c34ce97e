"""The pictures of a report: the map of a file's bytes and the sizes of chunks (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from h5zarr.html.byte_map import ByteMap, Pieces, Run, by_group, byte_map
from h5zarr.html.page import Bar, Picture, PictureText
from h5zarr.text import count, human_bytes, printable

_ROWS = 8
_CELLS_PER_ROW = 240
_CELL_WIDTH = 4
_ROW_HEIGHT = 18
_ROW_DISTANCE = 22
_REST = "--rest"
_COLORS = tuple(f"--c{number}" for number in range(8))
_HISTOGRAM_WIDTH = 960
_HISTOGRAM_HEIGHT = 150
_TALLEST = 105
_BASE = 125


def map_picture(byte_length: int, pieces: Sequence[Pieces]) -> Picture:
    """Return a picture of who owns which part of a file.

    Parameters
    ----------
    byte_length
        Length of the file (bytes).
    pieces
        The data of each dataset.
    """
    made = byte_map(byte_length, by_group(pieces), cells=_ROWS * _CELLS_PER_ROW)
    rest = f"metadata and free space: {human_bytes(made.rest_bytes)}"
    names = [
        f"{printable(name)}: {human_bytes(length)}"
        for name, length in zip(made.names, made.byte_lengths, strict=True)
    ]
    cell = human_bytes(max(1, byte_length // made.cells))
    return Picture(
        width=_CELLS_PER_ROW * _CELL_WIDTH,
        height=_ROWS * _ROW_DISTANCE,
        bars=tuple(bar for run in made.runs for bar in _bars(run, made, byte_length)),
        label="Map of the file's bytes. " + "; ".join([*names, rest]) + ".",
        caption=f"The file from its beginning to its end, line by line; a step is {cell}.",
        legend=(*zip(_COLORS, names, strict=False), (_REST, rest)),
    )


def _bars(run: Run, made: ByteMap, byte_length: int) -> list[Bar]:
    """Return a run as rectangles, one in each line that it reaches."""
    first = run.start * byte_length // made.cells
    last = (run.start + run.length) * byte_length // made.cells
    name = "metadata or free space" if run.owner is None else printable(made.names[run.owner])
    bars = []
    start, end = run.start, run.start + run.length
    while start < end:
        row, column = divmod(start, _CELLS_PER_ROW)
        length = min(end - start, _CELLS_PER_ROW - column)
        bars.append(
            Bar(
                x=column * _CELL_WIDTH,
                y=row * _ROW_DISTANCE,
                width=length * _CELL_WIDTH,
                height=_ROW_HEIGHT,
                color=_REST if run.owner is None else _COLORS[run.owner],
                title=f"{name}: bytes {first:,} to {last:,}",
            )
        )
        start += length
    return bars


def sizes_picture(stored_lengths: npt.NDArray[np.uint64]) -> Picture | None:
    """Return a histogram of the sizes of chunks; None where there are none.

    Parameters
    ----------
    stored_lengths
        (n,) stored length of each chunk (bytes).
    """
    lengths = stored_lengths[stored_lengths > 0]
    if not len(lengths):
        return None
    powers = np.floor(np.log2(lengths.astype(np.float64))).astype(int)
    first = int(powers.min())
    counts = np.bincount(powers - first).tolist()
    step = _HISTOGRAM_WIDTH / max(len(counts), 6)
    bars, texts = [], []
    for number, amount in enumerate(counts):
        bar = _column(number, amount, max(counts), first + number, step)
        bars.append(bar)
        middle = bar.x + bar.width / 2
        texts.append(PictureText(x=middle, y=_BASE + 16, text=f"{human_bytes(2 ** (first + number))}…"))
        if amount:
            texts.append(PictureText(x=middle, y=bar.y - 4, text=f"{amount:,}"))
    median = human_bytes(int(np.median(lengths)))
    told = f"{count(len(lengths), 'chunk')}, from {human_bytes(int(lengths.min()))} to"
    told += f" {human_bytes(int(lengths.max()))}, the median is {median}."
    return Picture(
        width=_HISTOGRAM_WIDTH,
        height=_HISTOGRAM_HEIGHT,
        bars=tuple(bar for bar in bars if bar.height),
        texts=tuple(texts),
        label=f"Histogram of chunk sizes. {told}",
        caption=f"{told} Each bar reaches to twice the size that it begins with; heights are square roots.",
    )


def _column(number: int, amount: int, most: int, power: int, step: float) -> Bar:
    """Return a bar; square roots of the counts keep single chunks visible beside a million."""
    height = round(_TALLEST * math.sqrt(amount / most), 1)
    return Bar(
        x=round(number * step + step * 0.08, 1),
        y=round(_BASE - height, 1),
        width=round(step * 0.84, 1),
        height=height,
        color="--c0",
        title=f"{count(amount, 'chunk')} of {human_bytes(2**power)} to {human_bytes(2 ** (power + 1))}",
    )
