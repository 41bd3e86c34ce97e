"""Adding files to a combined result gives what combining all of them at once gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, open_zarr

from h5zarr.combiner import combine
from h5zarr.converter import Conversion, convert
from h5zarr.errors import CombineError
from h5zarr.model import ArrayNode
from h5zarr.references import formats
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

LITTLE_INLINE: dict[str, Any] = {"inline_limit": 1000, "convert_options": {"inline_threshold": 0}}


def make(
    path: Path, time: int, x: int = 0, *, count: int = 2, units: str = "days since 2000-01-01", **how: Any
) -> Path:
    """Write a tile: some steps of time, and four places along x."""
    with h5py.File(path, "w") as file:
        for name, values in (("time", np.arange(time, time + count)), ("x", np.arange(4) + 4 * x)):
            file[name] = values.astype("f8")
            file[name].make_scale(name)
        file["time"].attrs["units"] = units
        values = file["time"][:][:, None] * 100 + file["x"][:]
        file.create_dataset("v", data=values, **{"chunks": (1, 4), "compression": "gzip", **how})
        file["ground"] = file["x"][:] * 7
        file["constant"] = np.arange(3)
        for name, scales in (("v", ("time", "x")), ("ground", ("x",))):
            for axis, scale in enumerate(scales):
                file[name].dims[axis].attach_scale(file[scale])
    return path


def series(folder: Path, *starts: int, **how: Any) -> list[Path]:
    return [make(folder / f"{start}.h5", start, **how) for start in starts]


def comparable(references: dict[str, Any]) -> dict[str, Any]:
    return {"refs": references["refs"], "parts": references["h5zarr"]["parts"]}


APPENDED: dict[str, tuple[Callable[[Path], list[Path]], int, dict[str, Any]]] = {
    "behind": (lambda folder: series(folder, 0, 2, 4, 6), 2, {"concat": "time"}),
    "one behind one": (lambda folder: series(folder, 0, 2), 1, {"concat": "time"}),
    "as given": (lambda folder: series(folder, 6, 0, 4), 2, {"concat": "time", "order": "given"}),
    "split chunks": (
        lambda folder: [
            make(folder / f"{start}.h5", start, count=count, chunks=None, compression=None)
            for start, count in ((0, 6), (6, 4))
        ],
        1,
        {"concat": "time"},
    ),
    "rectilinear grid": (
        lambda folder: [
            make(folder / f"{start}.h5", start, count=count, chunks=(count, 4))
            for start, count in ((0, 6), (6, 4), (10, 5))
        ],
        2,
        {"concat": "time", "rectilinear": True, "inline_limit": 128},
    ),
    "tiles": (
        lambda folder: [make(folder / f"{t}{x}.h5", t, x) for t in (0, 2, 4) for x in (1, 0)],
        4,
        {"concat": ["time", "x"]},
    ),
    "runs": (
        lambda folder: [make(folder / f"{run}.h5", 0) for run in range(4)],
        2,
        {"new_dim": "run", "data_vars": ["/v"]},
    ),
}
"""Files, how many are combined first, and how."""


@pytest.mark.parametrize("inline", [{}, LITTLE_INLINE], ids=["usual", "little inline"])
@pytest.mark.parametrize(("files", "count", "options"), APPENDED.values(), ids=APPENDED)
def test_appended_is_combined(
    files: Callable[[Path], list[Path]],
    count: int,
    options: dict[str, Any],
    inline: dict[str, Any],
    tmp_path: Path,
) -> None:
    paths = files(tmp_path)
    options = {**inline, **options}
    first = combine(paths[:count], **options)
    again = combine(paths[count:], append_to=first, **options)
    everything = combine(paths, **options)
    assert comparable(again.references()) == comparable(everything.references())


def test_texts_of_runs_are_appended(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{run}.h5", 0) for run in range(3)]
    first = combine(paths[:2], new_dim="run", values=["r9", "r10"])
    again = combine(paths[2:], append_to=first, new_dim="run", values=["r11"])
    assert open_zarr(again.references())["run"][:].tolist() == ["r9", "r10", "r11"]


def test_put_before(tmp_path: Path) -> None:
    paths = series(tmp_path, 0, 2, 4)
    again = combine(paths[:1], append_to=combine(paths[1:], concat="time"), concat="time")
    assert comparable(again.references()) == comparable(combine(paths, concat="time").references())


@pytest.mark.parametrize("name", ["all.json", "all.parq"])
def test_result_replaces_itself(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    paths = series(tmp_path, 0, 2, 4)
    combine(paths[:1], out, concat="time")
    for path in paths[1:]:
        combine(path, out, append_to=out)
    expected = combine(paths, concat="time").references()
    found = {"refs": references_in(out), "parts": expected["h5zarr"]["parts"]}
    assert found == comparable(expected)
    assert len(formats.load(out).parts) == 3


def references_in(out: Path) -> Any:
    return Conversion(hierarchy=formats.load(out)).references()["refs"]


def test_old_files_are_not_read(tmp_path: Path) -> None:
    paths = series(tmp_path, 0, 2, 4)
    expected = comparable(combine(paths, concat="time").references())
    first = combine(paths[:2], concat="time")
    for path in paths[:2]:
        path.unlink()
    assert comparable(combine(paths[2:], append_to=first).references()) == expected


def write_steps(path: Path, start: int, values: Any, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(start, start + len(values), dtype="f8")
        file["time"].make_scale("time")
        how = {"chunks": (1, *values.shape[1:]), "compression": "gzip", "shuffle": True, **how}
        file.create_dataset("v", data=values, **how).dims[0].attach_scale(file["time"])
    return path


NOISE = np.random.default_rng(3).random((3, 100, 100))
ZEROS = np.zeros((1, 100, 100))
STORED: dict[str, list[Any]] = {
    "noise, then zeros": [NOISE, ZEROS],
    "zeros, then noise": [ZEROS, NOISE],
    "zeros": [ZEROS, ZEROS],
    "noise, then two files of zeros": [NOISE, ZEROS, ZEROS],
    "zeros, then both": [ZEROS, NOISE, ZEROS],
}


@pytest.mark.parametrize("how", [{}, {"compression": "lzf"}], ids=["gzip", "lzf"])
@pytest.mark.parametrize("steps", STORED.values(), ids=STORED)
def test_chunks_small_enough_to_be_inline_stay_chunks(
    steps: list[Any], how: dict[str, Any], tmp_path: Path
) -> None:
    paths = [write_steps(tmp_path / f"{n}.h5", 3 * n, values, **how) for n, values in enumerate(steps)]
    out = tmp_path / "all.json"
    options: dict[str, Any] = {"concat": "time", "inline_limit": 150_000}
    combine(paths[0], out, **options)
    again = combine(paths[1:], append_to=out, **options).references()
    np.testing.assert_array_equal(open_zarr(again)["v"][...], np.concatenate(steps))
    assert comparable(again) == comparable(combine(paths, **options).references())
    assert validate(again).ok


def test_inline_chunks_that_do_not_fit_are_joined_by_value(tmp_path: Path) -> None:
    """Compressed in other ways, and none of them in a file of its own."""
    values = np.zeros((2, 30))
    paths = [
        write_steps(tmp_path / "0.h5", 0, values),
        write_steps(tmp_path / "1.h5", 3, values + 1, chunks=(2, 15), shuffle=False),
    ]
    found = combine(paths, concat="time").hierarchy.nodes["/v"]
    assert isinstance(found, ArrayNode)
    assert len(found.manifest.inline) == 1


def test_units_of_time_are_those_of_the_result(tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.h5", 0), make(tmp_path / "1.h5", 0, units="days since 2000-02-01")]
    again = combine(paths[1], append_to=combine(paths[0], concat="time"), concat="time")
    assert open_zarr(again.references())["time"][:].tolist() == [0, 1, 31, 32]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "overlapping": (
        {"time": 3},
        r"all\.json \(file://.*2\.h5\) and .*new\.h5 overlap along /time.* 3\.0 to 4\.0",
    ),
    "between": ({"time": 1, "count": 1}, r"overlap along /time"),
    "other chunks": (
        {"time": 4, "chunks": (2, 4)},
        r"all\.json and .*new\.h5 have chunks of different lengths",
    ),
    "another constant": ({"time": 4, "x": 1}, r"all\.json and .*new\.h5 differ in values of /"),
}


@pytest.mark.parametrize(("how", "words"), REFUSED.values(), ids=REFUSED)
def test_appending_is_refused(how: dict[str, Any], words: str, tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    combine(series(tmp_path, 0, 2), out, concat="time")
    before = out.read_bytes()
    new = make(tmp_path / "new.h5", **how)
    with pytest.raises(CombineError, match=words):
        combine(new, out, append_to=out, inline_limit=100)
    assert out.read_bytes() == before


def test_file_that_is_in_the_result_is_refused(tmp_path: Path) -> None:
    paths = series(tmp_path, 0, 2)
    first = combine(paths, concat="time", order="given")
    with pytest.raises(CombineError, match=re.escape(f"file://{paths[1]} is in")):
        combine(paths[1], append_to=first, order="given")


def test_result_that_does_not_tell(tmp_path: Path) -> None:
    paths = series(tmp_path, 0, 2)
    with pytest.raises(CombineError, match="does not tell what it was joined along"):
        combine(paths[1], append_to=convert(paths[0]))
    expected = combine(paths, concat="time").references()
    assert combine(paths[1], append_to=convert(paths[0]), concat="time").references() == expected


def test_several_results_are_refused(tmp_path: Path) -> None:
    paths = series(tmp_path, 0, 2)
    with pytest.raises(CombineError, match="match append_to"):
        combine(paths[0], append_to=str(tmp_path / "*.h5"), concat="time")
