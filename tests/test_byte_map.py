"""The map of a file's bytes."""

from __future__ import annotations

import numpy as np
import pytest

from h5zarr.html.byte_map import ByteMap, Pieces, by_group, byte_map


def pieces(name: str, *spans: tuple[int, int]) -> Pieces:
    columns = np.array(spans, np.uint64).reshape(-1, 2)
    return Pieces(name=name, byte_offset=columns[:, 0], byte_length=columns[:, 1])


def owners(made: ByteMap) -> list[int | None]:
    return [run.owner for run in made.runs for _ in range(run.length)]


def owners_byte_by_byte(byte_length: int, cells: int, *all_pieces: Pieces) -> list[int | None]:
    ranked = sorted(all_pieces, key=lambda one: int(one.byte_length.sum()), reverse=True)
    width = byte_length // cells
    counts = np.zeros((len(ranked), byte_length), int)
    for number, one in enumerate(ranked):
        for start, length in zip(one.byte_offset.tolist(), one.byte_length.tolist(), strict=True):
            counts[number, start : start + length] += 1
    of_cells = counts.reshape(len(ranked), cells, width).sum(axis=2)
    return [int(cell.argmax()) if cell.max() > 0.02 * width else None for cell in of_cells.T]


def test_cells_have_the_owner_of_most_of_their_bytes() -> None:
    chooser = np.random.default_rng(1)
    starts = np.sort(chooser.choice(4900, 60, replace=False))
    spans = [(int(at), int(min(end - at, 90))) for at, end in zip(starts, [*starts[1:], 5000], strict=True)]
    parts = [pieces(f"/{number}", *spans[number::3]) for number in range(3)]
    assert owners(byte_map(5000, parts, cells=50)) == owners_byte_by_byte(5000, 50, *parts)


def test_cells_cover_the_file_once() -> None:
    made = byte_map(1000, [pieces("/a", (100, 300)), pieces("/b", (600, 50))], cells=10)
    assert owners(made) == [None, 0, 0, 0, None, None, 1, None, None, None]
    assert (made.names, made.byte_lengths, made.rest_bytes) == (("/a", "/b"), (300, 50), 650)


def test_small_datasets_are_one() -> None:
    many = [pieces(f"/{number}", (100 * number, 100 - number)) for number in range(20)]
    made = byte_map(2000, many, cells=20)
    assert made.names[-1] == "13 others"
    assert len(made.names) == 8
    assert owners(made)[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert sum(made.byte_lengths) == sum(100 - number for number in range(20))


def test_groups_stand_for_many_datasets() -> None:
    many = [pieces(f"/{number % 3}/{number}", (10 * number, 5)) for number in range(90)]
    assert [one.name for one in by_group(many)] == ["/0/", "/1/", "/2/"]
    assert sum(int(one.byte_length.sum()) for one in by_group(many)) == 90 * 5
    assert by_group(many[:3]) == many[:3]


@pytest.mark.parametrize("parts", [[], [pieces("/empty")]])
def test_no_data(parts: list[Pieces]) -> None:
    made = byte_map(1000, parts, cells=10)
    assert owners(made) == [None] * 10
    assert made.rest_bytes == 1000


def test_what_is_beyond_the_file_is_not_shown() -> None:
    made = byte_map(1000, [pieces("/a", (900, 500))], cells=10)
    assert owners(made) == [None] * 9 + [0]
    assert made.rest_bytes == 900
