"""Combined files open with xarray as what its own `open_mfdataset` and `concat` make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, open_zarr, storage_options
from zarr.core.metadata import v3

from h5zarr.combiner import combine
from h5zarr.converter import Conversion, convert
from h5zarr.model import ArrayNode, Hierarchy
from h5zarr.references import formats

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

RECTILINEAR = pytest.mark.skipif(
    not hasattr(v3, "RectilinearChunkGridMetadata"), reason="zarr-python reads rectilinear grids from 3.4 on"
)

Fill = Callable[[netCDF4.Dataset], None]


@dataclass
class Case:
    """Files, how they are combined, and how xarray combines them."""

    files: Sequence[Fill]
    options: dict[str, Any]
    along: Any = None
    """What `xarray.concat` takes; None: `xarray.combine_by_coords` finds out."""
    order: Sequence[int] = ()
    """The order of files that xarray is given, where it is another one."""
    group: str = "/"


def written(folder: Path, files: Sequence[Fill]) -> list[str]:
    paths = [str(folder / f"{number}.nc") for number in range(len(files))]
    for path, fill in zip(paths, files, strict=True):
        with netCDF4.Dataset(path, "w") as file:
            fill(file)
            file.history = f"made as {path}"
    return paths


def opened(conversion: Conversion, group: str = "/", **decoding: Any) -> xr.Dataset:
    return xr.open_dataset(
        "reference://",
        engine="zarr",
        group=group,
        backend_kwargs={
            "storage_options": storage_options(conversion.references()),
            "consolidated": True,
            "zarr_format": 3,
        },
        **decoding,
    )


def expected(paths: Sequence[str], case: Case, **decoding: Any) -> xr.Dataset:
    """Return what xarray makes of files: `open_mfdataset` with nothing lazy, or `concat`."""
    paths = [paths[number] for number in case.order] or paths
    files = [xr.load_dataset(path, engine="h5netcdf", group=case.group, **decoding) for path in paths]
    options: dict[str, Any] = {"coords": "minimal", "compat": "override", "join": "override"}
    if case.along is None:
        return xr.combine_by_coords(files, data_vars="minimal", combine_attrs="override", **options)
    data_vars = "all" if "new_dim" in case.options else "minimal"
    return xr.concat(files, case.along, data_vars=data_vars, combine_attrs="override", **options)


def values_of(start: int, *shape: int, dtype: Any = "f4") -> np.ndarray[Any, Any]:
    return (np.arange(np.prod(shape)) + 1000 * start).reshape(shape).astype(dtype)


# What files hold -------------------------------------------------------------------------


def records(
    start: int,
    count: int,
    *,
    units: str = "days since 2000-01-01",
    dtype: Any = "f4",
    chunk: int = 1,
    **how: Any,
) -> Fill:
    """Return what fills a file with an unlimited time, from a day on."""

    def fill(file: netCDF4.Dataset) -> None:
        for name, length in (("time", None), ("y", 3), ("x", 4)):
            file.createDimension(name, length)
        time = file.createVariable("time", "f8", ("time",))
        time.units = units
        time[:] = np.arange(start, start + count)
        for name, length in (("y", 3), ("x", 4)):
            file.createVariable(name, "f8", (name,))[:] = np.arange(length) / 2
        how.setdefault("zlib", True)
        variable = file.createVariable("t", dtype, ("time", "y", "x"), chunksizes=(chunk, 3, 4), **how)
        variable.set_auto_maskandscale(False)
        variable.long_name = f"from day {start}"
        variable[:] = values_of(start, count, 3, 4, dtype=dtype)
        file.createVariable("height", "f4", ("y", "x"))[:] = values_of(0, 3, 4)
        file.createVariable("crs", "i4")[:] = 7

    return fill


def tile(time: int, y: int, x: int) -> Fill:
    """Return what fills one of the tiles along three dimensions, of which y decreases."""

    def fill(file: netCDF4.Dataset) -> None:
        places = {"time": np.arange(2) + 2 * time, "y": -np.arange(3) - 3 * y, "x": np.arange(4) + 4 * x}
        for name, values in places.items():
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        variable = file.createVariable("v", "i4", ("time", "y", "x"), chunksizes=(1, 3, 2), zlib=True)
        variable[:] = places["time"][:, None, None] * 10000 + places["y"][:, None] * 100 + places["x"]
        file.createVariable("ground", "i4", ("y", "x"))[:] = places["y"][:, None] * 100 + places["x"]
        file.createVariable("row", "i4", ("y",))[:] = places["y"] * 7

    return fill


def strings(start: int) -> Fill:
    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("station", 3)
        file.createDimension("length", 5)
        names = np.array([f"station {start + number} ä" for number in range(3)], object)
        file.createVariable("station", str, ("station",))[:] = names
        file.createVariable("letters", "S1", ("station", "length"))[:] = np.full((3, 5), b"x")
        file.createVariable("note", str, ("station",))[:] = names[::-1]
        file.createVariable("v", "f4", ("station",), zlib=True)[:] = values_of(start, 3)

    return fill


def bounded(start: int, origin: str, count: int = 3) -> Fill:
    """Return what fills a file whose bounds count from where its time does, without saying so."""

    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("time", None)
        file.createDimension("nv", 2)
        time = file.createVariable("time", "i4", ("time",))
        time.units, time.bounds, time.calendar = f"days since {origin}", "time_bnds", "standard"
        time[:] = np.arange(start, start + count)
        bounds = file.createVariable("time_bnds", "i4", ("time", "nv"))
        bounds[:] = np.stack([np.arange(count), np.arange(count) + 1], 1) + start
        reference = file.createVariable("reference_time", "f8", ("time",), fill_value=-1.0)
        reference.units = f"hours since {origin}"
        reference[:] = np.arange(count) * 6.0
        file.createVariable("v", "f4", ("time",))[:] = values_of(start, count)

    return fill


def calendar(start: int, origin: str, name: str) -> Fill:
    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("time", None)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar = f"days since {origin}", name
        time[:] = np.arange(start, start + 2) + 0.5
        file.createVariable("v", "f4", ("time",))[:] = values_of(start, 2)

    return fill


def along_x(start: int, count: int = 4, *, coordinate: bool = True, step: int = 1) -> Fill:
    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("y", 5)
        file.createDimension("x", count)
        if coordinate:
            file.createVariable("x", "i8", ("x",))[:] = np.arange(start, start + count)[::step]
        v = file.createVariable("v", "i2", ("y", "x"), chunksizes=(2, 2), zlib=True, shuffle=True)
        v[:] = values_of(start, 5, count, dtype="i2")
        file.createVariable("across", "f8", ("x", "y"), chunksizes=(2, 5), fletcher32=True)[:] = 1.5

    return fill


def nested(start: int, count: int) -> Fill:
    """Return what fills a file whose groups see the root's time, and one that has its own."""

    def fill(file: netCDF4.Dataset) -> None:
        records(start, count)(file)
        model = file.createGroup("model")
        model.createVariable("u", "f4", ("time", "x"), chunksizes=(1, 4))[:] = values_of(start, count, 4)
        deep = model.createGroup("deep")
        deep.createVariable("w", "f4", ("time",), chunksizes=(1,))[:] = values_of(start, count)
        other = file.createGroup("other")
        other.createDimension("time", None)
        other.createVariable("time", "i4", ("time",))[:] = np.arange(2 * count) + 2 * start
        other.createVariable("v", "f4", ("time",), chunksizes=(1,))[:] = values_of(start, 2 * count)
        file.createGroup("empty")

    return fill


def run(number: int, *, scalar: bool = False) -> Fill:
    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("time", 3)
        file.createVariable("time", "i4", ("time",))[:] = range(3)
        v = file.createVariable("v", "f4", ("time",), zlib=True)
        v[:] = values_of(number, 3)
        v.coordinates = "place run" if scalar else "place"
        file.createVariable("place", "f4")[:] = 5
        file.createVariable("total", "f8")[:] = number
        file.createVariable("label", str)[...] = np.array(f"number {number}", object)
        if scalar:
            file.createVariable("run", "i4")[:] = number

    return fill


def month(start: int, count: int, *, chunk: int | None = None, **how: Any) -> Fill:
    def fill(file: netCDF4.Dataset) -> None:
        file.createDimension("time", count)
        file.createDimension("x", 300)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2000-01-01"
        time[:] = np.arange(start, start + count)
        chunks = {} if chunk is None else {"chunksizes": (chunk, 100)}
        v = file.createVariable("v", "f4", ("time", "x"), **how, **chunks)
        v[:] = np.random.default_rng(start).random((count, 300))

    return fill


def months(*lengths: int, **how: Any) -> list[Fill]:
    """Return what fills files of a month each, in chunks as long as the file."""
    return [
        month(sum(lengths[:number]), length, chunk=None if how.get("contiguous") else length, **how)
        for number, length in enumerate(lengths)
    ]


TILES = [tile(time, y, x) for x in (1, 0) for y in (0, 1) for time in (1, 0, 2)]
JOINED = {"concat": "time"}

CASES: dict[str, Case] = {
    "records": Case([records(0, 31), records(31, 29), records(60, 31)], JOINED),
    "one file": Case([records(0, 3)], JOINED),
    "given in another order": Case([records(60, 31), records(0, 31), records(31, 29)], JOINED),
    "in chunks that fit": Case([records(0, 6, chunk=3), records(6, 9, chunk=3)], JOINED),
    "last chunk partial": Case([records(0, 6, chunk=3), records(6, 4, chunk=3)], JOINED),
    "big-endian": Case(
        [records(0, 2, dtype=">f8", endian="big"), records(2, 2, dtype=">f8", endian="big")], JOINED
    ),
    "as given": Case(
        [records(5, 2), records(0, 3)],
        {"concat": ["time"], "order": "given"},
        "time",
    ),
    "the same twice": Case(
        [records(0, 2), records(0, 2)],
        {"concat": "time", "order": "given"},
        "time",
    ),
    "never written": Case([records(0, 2), records(2, 0), records(2, 3)], JOINED, "time"),
    "units of time differ": Case(
        [
            records(0, 2),
            records(0, 2, units="days since 2000-01-03"),
            records(96, 24, units="hours since 2000-01-01"),
        ],
        JOINED,
    ),
    "bounds in the units of their time": Case([bounded(0, "2000-01-01"), bounded(0, "2000-02-01")], JOINED),
    "calendars of other names": Case(
        [calendar(0, "2000-01-01", "noleap"), calendar(0, "2000-03-01", "365_day")], JOINED
    ),
    "calendars that agree": Case(
        [calendar(0, "2000-01-01", "standard"), calendar(5, "2000-01-01", "proleptic_gregorian")], JOINED
    ),
    "along the second axis": Case([along_x(0), along_x(4), along_x(8, 2)], {"concat": "x"}),
    "without a coordinate": Case(
        [along_x(0, coordinate=False), along_x(4, coordinate=False)],
        {"concat": "x"},
        "x",
    ),
    "decreasing": Case([tile(0, 0, 0), tile(0, 2, 0), tile(0, 1, 0)], {"concat": "y"}),
    "tiles": Case([tile(0, y, x) for x in (1, 0) for y in (0, 1)], {"concat": ["y", "x"]}),
    "tiles of three dimensions": Case(TILES, {"concat": ["time", "y", "x"]}),
    "strings": Case([strings(3), strings(0), strings(6)], {"concat": "station"}),
    "months uncompressed": Case(months(31, 28, 31, contiguous=True), JOINED),
    "nested, the root": Case([nested(0, 3), nested(3, 2)], JOINED),
    "nested, a group": Case([nested(0, 3), nested(3, 2)], JOINED, "time", group="/model"),
    "nested, a group in it": Case([nested(0, 3), nested(3, 2)], JOINED, "time", group="/model/deep"),
    "nested, a group with its own": Case([nested(0, 3), nested(3, 2)], JOINED, None, group="/other"),
    "runs": Case([run(5), run(1), run(3)], {"new_dim": "run"}, "run"),
    "runs with texts": Case(
        [run(5), run(1)],
        {"new_dim": "run", "values": ["b", "a"]},
        pd.Index(["b", "a"], name="run"),
    ),
    "runs with numbers": Case(
        [run(5), run(1)],
        {"new_dim": "run", "values": [2.5, 1]},
        pd.Index([2.5, 1], name="run"),
    ),
    "runs with dates": Case(
        [run(5), run(1)],
        {
            "new_dim": "run",
            "values": [np.datetime64("2001-01-01", "ns"), np.datetime64("2000-01-01T06", "ns")],
        },
        pd.DatetimeIndex(["2001-01-01", "2000-01-01T06"], name="run").as_unit("ns"),
    ),
    "runs sorted": Case(
        [run(5), run(1)],
        {"new_dim": "run", "values": [20, 10], "order": "coordinate"},
        pd.Index([10, 20], name="run"),
        order=(1, 0),
    ),
    "runs that tell": Case([run(1, scalar=True), run(3, scalar=True)], {"new_dim": "run"}, "run"),
}


LITTLE_INLINE: dict[str, Any] = {"inline_limit": 1000, "convert_options": {"inline_threshold": 0}}
"""Puts nothing into references that can be referenced, as small as it is."""


@pytest.mark.parametrize("inline", [{}, LITTLE_INLINE], ids=["usual", "little inline"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opens_as_xarray_combines(case: Case, inline: dict[str, Any], tmp_path: Path) -> None:
    paths = written(tmp_path, case.files)
    combined = combine(paths, **case.options, **inline)
    for decoding in ({}, {"mask_and_scale": False}):
        assert_same(opened(combined, case.group, **decoding), expected(paths, case, **decoding))


def assert_same(found: xr.Dataset, oracle: xr.Dataset) -> None:
    xr.testing.assert_identical(found, oracle)
    assert found.sizes == oracle.sizes
    for name, variable in oracle.variables.items():
        assert kind(found[name].dtype) == kind(variable.dtype), name


def kind(dtype: Any) -> str:
    """Return what is to be compared of a dtype: not whether texts are objects, nor byte order."""
    return "text" if dtype.kind in "OTU" else np.dtype(dtype).newbyteorder("=").str


# Rectilinear grids -----------------------------------------------------------------------

RECTILINEAR_CASES: dict[str, Case] = {
    "months": Case(months(31, 28, 31, zlib=True), {**JOINED, "rectilinear": True}),
    "last chunk partial": Case(
        [*months(31, zlib=True), month(31, 33, chunk=20, zlib=True)], {**JOINED, "rectilinear": True}
    ),
    "where a regular one does": Case([records(0, 4), records(4, 3)], {**JOINED, "rectilinear": True}),
}


@RECTILINEAR
@pytest.mark.parametrize("case", RECTILINEAR_CASES.values(), ids=RECTILINEAR_CASES)
def test_rectilinear_grid_opens_as_xarray_combines(case: Case, tmp_path: Path) -> None:
    paths = written(tmp_path, case.files)
    with zarr.config.set({"array.rectilinear_chunks": True}):
        assert_same(opened(combine(paths, **case.options, **LITTLE_INLINE)), expected(paths, case))


@RECTILINEAR
def test_rectilinear_grid_survives_json(tmp_path: Path) -> None:
    paths = written(tmp_path, months(31, 28, 31, zlib=True))
    combined = combine(paths, tmp_path / "all.json", concat="time", rectilinear=True, **LITTLE_INLINE)
    loaded = formats.load(tmp_path / "all.json")
    assert grid(loaded, "/v")["configuration"]["chunk_shapes"] == [[31, 28, 31], 100]
    assert Conversion(hierarchy=loaded).references() == combined.references()


def grid(hierarchy: Hierarchy, path: str) -> Any:
    return hierarchy.nodes[path].metadata["chunk_grid"]


def test_grid_is_regular_where_it_can_be(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 4), records(4, 3)])
    combined = combine(paths, concat="time", rectilinear=True, **LITTLE_INLINE).hierarchy
    assert grid(combined, "/t") == {"name": "regular", "configuration": {"chunk_shape": [1, 3, 4]}}


def test_uncompressed_chunks_are_split_where_they_differ(tmp_path: Path) -> None:
    paths = written(tmp_path, months(30, 24, contiguous=True))
    combined = combine(paths, concat="time", **LITTLE_INLINE).hierarchy
    assert grid(combined, "/v")["configuration"]["chunk_shape"] == [6, 300]


# Inputs and output -----------------------------------------------------------------------


def as_references(paths: list[str], folder: Path) -> list[Any]:
    for number, path in enumerate(paths):
        convert(path, folder / f"{number}.json")
    return [folder / f"{number}.json" for number in range(len(paths))]


INPUTS: dict[str, Callable[[list[str], Path], Any]] = {
    "paths": lambda paths, folder: paths,
    "pattern": lambda paths, folder: str(folder / "*.nc"),
    "URLs": lambda paths, folder: [f"file://{path}" for path in paths],
    "references": as_references,
    "dicts": lambda paths, folder: [convert(path).references() for path in paths],
    "conversions": lambda paths, folder: map(convert, paths),
    "hierarchies": lambda paths, folder: [convert(path).hierarchy for path in paths],
    "some of each": lambda paths, folder: [convert(paths[0]), *as_references(paths, folder)[1:]],
}


@pytest.mark.parametrize("form", INPUTS.values(), ids=INPUTS)
def test_inputs_of_any_form(form: Callable[[list[str], Path], Any], tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 2), records(2, 1)])
    found = combine(form(paths, tmp_path), concat="time")
    assert found.references() == combine(paths, concat="time").references()


def test_loaded_by_an_executor(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 2), records(2, 1)])
    calls: list[tuple[int, int]] = []
    with ThreadPoolExecutor(2) as threads:
        found = combine(
            paths, concat="time", executor=threads, progress=lambda done, total: calls.append((done, total))
        )
    assert found.references() == combine(paths, concat="time").references()
    assert calls == [(1, 2), (2, 2)]


def test_loaded_by_processes(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 2), records(2, 1)])
    assert combine(paths, concat="time", jobs=2).references() == combine(paths, concat="time").references()


def test_options_for_hdf5_files(tmp_path: Path) -> None:
    paths = written(tmp_path, [nested(0, 2), nested(2, 1)])
    found = combine(paths, concat="time", convert_options={"include": ["/time", "/t"]})
    assert {array.path for array in found.hierarchy.arrays()} == {"/time", "/t"}
    assert found.hierarchy.selection.include == ("/time", "/t")


def test_written(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 2), records(2, 1)])
    combined = combine(paths, tmp_path / "all.json", concat="time")
    assert json.loads((tmp_path / "all.json").read_text()) == combined.references()
    values = open_zarr(str(tmp_path / "all.json"))["t"][:]
    np.testing.assert_array_equal(values[2], values_of(2, 3, 4))


# What is known of the result -------------------------------------------------------------


def test_parts_tell_which_file_is_where(tmp_path: Path) -> None:
    paths = written(tmp_path, [nested(3, 2), nested(0, 3)])
    combined = combine(paths, concat="time").hierarchy
    assert combined.source is None
    found = [(part.source, dict(part.start), dict(part.extent)) for part in combined.parts]
    sources = [convert(path).hierarchy.source for path in paths]
    assert found == [
        (sources[1], {"time": 0, "other/time": 0}, {"time": 3, "other/time": 6}),
        (sources[0], {"time": 3, "other/time": 6}, {"time": 2, "other/time": 4}),
    ]


def test_parts_of_tiles(tmp_path: Path) -> None:
    paths = written(tmp_path, [tile(0, y, x) for y in (1, 0) for x in (0, 1)])
    combined = combine(paths, concat=["y", "x"]).hierarchy
    assert [part.source.url.rpartition("/")[2] for part in combined.parts] == ["2.nc", "3.nc", "0.nc", "1.nc"]
    assert [tuple(part.start.values()) for part in combined.parts] == [(0, 0), (0, 4), (3, 0), (3, 4)]
    assert {tuple(part.extent.items()) for part in combined.parts} == {(("y", 3), ("x", 4))}


def test_problems_tell_which_file(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(0, 2), records(2, 1)])
    with h5py.File(paths[1], "a") as file:
        file["nowhere"] = h5py.SoftLink("/not/there")
    (problem,) = combine(paths, concat="time").problems
    assert problem.path == "/nowhere"
    assert paths[1] in problem.found


def test_coordinates_stand_in_one_chunk(tmp_path: Path) -> None:
    paths = written(tmp_path, [records(day, 1) for day in range(5)])
    time = combine(paths, concat="time").hierarchy.nodes["/time"]
    assert isinstance(time, ArrayNode)
    assert time.manifest.grid_shape == (1,)
    assert len(time.manifest.inline) == 1


def test_large_coordinates_are_referenced(tmp_path: Path) -> None:
    paths = written(tmp_path, [along_x(0), along_x(4)])
    x = combine(paths, concat="x", inline_limit=0).hierarchy.nodes["/x"]
    assert isinstance(x, ArrayNode)
    assert x.manifest.grid_shape == (2,)


@pytest.mark.parametrize("limit", [1, 2**20])
def test_values_in_several_chunks(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that stand inline are cut into chunks; here into tiny ones."""
    monkeypatch.setattr("h5zarr.combining.values._CHUNK_BYTES", limit)
    paths = written(tmp_path, [strings(0), strings(3)])
    assert_same(opened(combine(paths, concat="station")), expected(paths, Case([], {}, "station")))
