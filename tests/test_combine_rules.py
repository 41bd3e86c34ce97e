"""What differs between files is refused, with the names of two files and what each has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import CODEC_WARNING, open_zarr

from h5zarr.combiner import combine
from h5zarr.converter import convert
from h5zarr.errors import CombineError, OutputError, Problem, SourceChangedError, SourceError
from h5zarr.model import Hierarchy, SourceIdentity
from h5zarr.references.source_check import by_url
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

Change = Callable[[netCDF4.Dataset], None]


def make(path: Path, start: int, count: int = 4, change: Change | None = None, **how: Any) -> Path:
    """Write a file with variables along time and others; ``how`` tells how ``v`` is stored."""
    options = {"datatype": "i2", "chunksizes": (2, 300), "zlib": True, **how}
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 300)
        file.createDimension("nv", 2)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "days since 2000-01-01"
        time[:] = np.arange(start, start + count)
        v = file.createVariable("v", dimensions=("time", "x"), **options)
        v.scale_factor, v.long_name = 0.5, f"from day {start}"
        v.set_auto_maskandscale(False)
        v[:] = np.arange(count * 300).reshape(count, 300) + start
        area = file.createVariable("area", "f8", ("x",))
        area.units = "m2"
        area[:] = np.arange(300)
        file.createVariable("small", "i4")[:] = 1
        if change is not None:
            change(file)
    return path


def attribute(variable: str, name: str, value: Any) -> Change:
    def change(file: netCDF4.Dataset) -> None:
        file[variable].setncattr(name, value)

    return change


def time_of(*values: float) -> Change:
    def change(file: netCDF4.Dataset) -> None:
        file["time"][:] = values

    return change


def added(name: str, dimensions: Sequence[str] = (), datatype: Any = "i4") -> Change:
    def change(file: netCDF4.Dataset) -> None:
        file.createVariable(name, datatype, dimensions)[...] = 1

    return change


def wide(file: netCDF4.Dataset) -> None:
    file.createDimension("z", 300)
    file.createVariable("w", "f4", ("time", "z"), chunksizes=(1, 300))[:] = 1


def narrow(file: netCDF4.Dataset) -> None:
    file.createDimension("z", 299)
    file.createVariable("w", "f4", ("time", "z"), chunksizes=(1, 299))[:] = 1


ONE: dict[str, Any] = {"start": 0}
OTHER: dict[str, Any] = {"start": 4}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "scale_factor": (
        ONE,
        OTHER | {"change": attribute("v", "scale_factor", 0.25)},
        ["scale_factor of /v", "0.5 and 0.25"],
    ),
    "add_offset": (
        ONE,
        OTHER | {"change": attribute("v", "add_offset", 1.0)},
        ["add_offset of /v", "nothing and 1.0"],
    ),
    "add_offset of the first": (
        ONE | {"change": attribute("v", "add_offset", 1.0)},
        OTHER,
        ["add_offset of /v", "1.0 and nothing"],
    ),
    "units": (ONE, OTHER | {"change": attribute("v", "units", "K")}, ["units of /v", 'nothing and "K"']),
    "missing_value": (
        ONE | {"change": attribute("v", "missing_value", np.int16(3))},
        OTHER | {"change": attribute("v", "missing_value", np.int16(4))},
        ["missing_value of /v", "3 and 4"],
    ),
    "_FillValue": (ONE | {"fill_value": 5}, OTHER | {"fill_value": 6}, ["_FillValue of /v", "5 and 6"]),
    "_FillValue that is a negative zero": (
        ONE | {"fill_value": 0.0, "datatype": "f4"},
        OTHER | {"fill_value": -0.0, "datatype": "f4"},
        ["_FillValue of /v", "0.0 and -0.0"],
    ),
    "missing_value that is text": (
        ONE | {"change": attribute("v", "missing_value", "n/\u00e9")},
        OTHER | {"change": attribute("v", "missing_value", "none")},
        ["missing_value of /v"],
    ),
    "_FillValue of floats": (
        ONE | {"fill_value": 5.5, "datatype": "f4"},
        OTHER | {"fill_value": np.nan, "datatype": "f4"},
        ["_FillValue of /v", "5.5 and nan"],
    ),
    "valid_range": (
        ONE | {"change": attribute("v", "valid_range", [0, 9])},
        OTHER | {"change": attribute("v", "valid_range", [0, 8])},
        ["valid_range of /v", "[0, 9] and [0, 8]"],
    ),
    "flag_meanings": (
        ONE,
        OTHER | {"change": attribute("v", "flag_meanings", "a b")},
        ["flag_meanings of /v", '"a b"'],
    ),
    "calendar and units": (
        ONE,
        OTHER | {"change": attribute("time", "calendar", "noleap")},
        ["/time", "(standard)", "(noleap)", "different days"],
    ),
    "units of time that are none": (
        ONE,
        OTHER | {"change": attribute("time", "units", "days")},
        ["units of /time", '"days since 2000-01-01" and "days"'],
    ),
    "data type": (ONE, OTHER | {"datatype": "i4"}, ["data_type of /v", '"int16" and "int32"']),
    "codecs": (
        ONE,
        OTHER | {"shuffle": True, "zlib": False},
        ["codecs of /v", "numcodecs.zlib", "numcodecs.shuffle"],
    ),
    "byte order": (ONE | {"datatype": ">i2", "endian": "big"}, OTHER, ["codecs of /v", '"big"', '"little"']),
    "chunks along another axis": (
        ONE,
        OTHER | {"chunksizes": (2, 150)},
        ["chunks of /v along axis 1", "300 and 150"],
    ),
    "chunks along the joined axis": (
        ONE,
        OTHER | {"chunksizes": (4, 300)},
        ["chunks of different lengths along time in /v", "2 and 4", "rectilinear=True", "--rectilinear"],
    ),
    "a partial chunk that is not the last": (
        ONE | {"chunksizes": (3, 300)},
        OTHER | {"chunksizes": (3, 300)},
        [
            "0.nc: /v ends within a chunk along time",
            "4 elements in chunks of 3",
            "1.nc cannot follow",
            "nccopy",
        ],
    ),
    "overlapping": (
        {"start": 0},
        {"start": 3},
        ["overlap along /time", "0.0 to 3.0", "3.0 to 6.0"],
    ),
    "the same": ({"start": 0}, {"start": 0}, ["overlap along /time", "0.0 to 3.0"]),
    "within": (
        {"start": 0, "count": 6},
        {"start": 2, "count": 2},
        ["overlap along /time", "0.0 to 5.0", "2.0 to 3.0"],
    ),
    "not monotonic": (
        ONE,
        OTHER | {"change": time_of(4, 5, 7, 6)},
        ["1.nc: /time neither increases nor decreases", "5.0 then 7.0 then 6.0"],
    ),
    "a value twice": (
        ONE,
        OTHER | {"change": time_of(4, 5, 5, 6)},
        ["1.nc: /time neither increases nor decreases"],
    ),
    "NaN": (ONE, OTHER | {"change": time_of(4, 5, np.nan, 7)}, ["1.nc: /time has values that are NaN"]),
    "directions": (
        ONE,
        OTHER | {"change": time_of(7, 6, 5, 4)},
        ["/time increases in", "decreases in"],
    ),
    "an array that one has not, joined": (
        ONE,
        OTHER | {"change": added("w", ("time",))},
        ["1.nc has /w", "0.nc has not"],
    ),
    "an array that one has not": (ONE | {"change": added("w")}, OTHER, ["0.nc has /w", "1.nc has not"]),
    "dimensions": (
        ONE | {"change": added("w", ("time", "nv"))},
        OTHER | {"change": added("w", ("nv", "time"))},
        ["dimensions of /w", '["/time", "/nv"] and ["/nv", "/time"]'],
    ),
    "a length": (
        ONE | {"change": wide},
        OTHER | {"change": narrow},
        ["length of /w along z", "300 and 299"],
    ),
    "a dimension twice": (
        ONE | {"change": added("w", ("time", "time"))},
        OTHER | {"change": added("w", ("time", "time"))},
        ["0.nc: /w has a dimension twice"],
    ),
    "a group and an array": (
        ONE | {"change": added("w")},
        OTHER | {"change": lambda file: file.createGroup("w")},
        ["1.nc: /w is a group"],
    ),
    "other values": (
        ONE,
        OTHER | {"change": lambda file: file["area"].__setitem__(3, -1)},
        ["differ in values of /area", "compat='drop'"],
    ),
    "other values inline": (
        ONE,
        OTHER | {"change": lambda file: file["small"].__setitem__(..., 2)},
        ["differ in values of /small"],
    ),
    "other attributes": (
        ONE,
        OTHER | {"change": attribute("area", "comment", "new")},
        ["comment of /area", 'nothing and "new"'],
    ),
}
"""Two files, and what the error says besides their names."""


@pytest.mark.parametrize(("one", "other", "words"), REFUSED.values(), ids=REFUSED)
def test_difference_is_refused(
    one: dict[str, Any], other: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    paths = [make(tmp_path / "0.nc", **one), make(tmp_path / "1.nc", **other)]
    with pytest.raises(CombineError) as raised:
        combine(paths, concat="time", inline_limit=1000)
    for word in [*words, *([] if any(".nc" in word for word in words) else ["0.nc", "1.nc"])]:
        assert word in str(raised.value)


def test_third_file_is_named(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 4 * number) for number in range(2)]
    paths.append(make(tmp_path / "2.nc", 8, change=attribute("v", "scale_factor", 3.0)))
    with pytest.raises(CombineError, match=r"0\.nc and .*2\.nc differ in scale_factor of /v: 0\.5 and 3\.0"):
        combine(paths, concat="time")


# What may be the same in another form ------------------------------------------------------


ALIKE: dict[str, dict[str, Any]] = {
    "other compression": {"compression": "gzip"},
    "other chunks": {"chunks": (7,)},
    "chunks and compression": {"chunks": (300,), "compression": "lzf", "shuffle": True},
}


@pytest.mark.parametrize("how", ALIKE.values(), ids=ALIKE)
def test_values_are_the_same_however_stored(how: dict[str, Any], tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 4)]
    with h5py.File(paths[1], "a") as file:
        old = file["area"]
        attributes = {"units": old.attrs["units"]}
        values = old[:]
        del file["area"]
        new = file.create_dataset("area", data=values, **how)
        new.attrs.update(attributes)
        new.dims[0].attach_scale(file["x"])
    combine(paths, concat="time")


def write_filled(path: Path, start: int, fill: int, *, count: int = 4, stored: int | None = None) -> Path:
    """Write an array in chunks of two steps, of which so many steps are stored, and a coordinate."""
    with h5py.File(path, "w") as file:
        how = {"dtype": "i4", "fillvalue": fill, "maxshape": (None,)}
        time = file.create_dataset("time", data=np.arange(start, start + count), chunks=(2,), **how)
        time.make_scale("time")
        for name, rows in (("v", stored), ("whole", None)):
            v = file.create_dataset(name, (count,), chunks=(2,), **how)
            v.dims[0].attach_scale(time)
            v[:rows] = np.arange(start, start + count)[:rows] * 7
    return path


UNSEEN: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "chunks": ([{"start": 0}, {"start": 4}], {}),
    "chunks in their files": ([{"start": 0}, {"start": 4}], {"inline_limit": 0}),
    "an edge chunk": ([{"start": 0}, {"start": 4, "count": 3}], {"inline_limit": 0}),
    "no elements": ([{"start": 0, "count": 0}, {"start": 4}], {"order": "given"}),
}
"""Files that store all their elements, and how to combine them."""


@pytest.mark.parametrize("threshold", [0, 500])
@pytest.mark.parametrize("append", [False, True], ids=["at once", "appended"])
@pytest.mark.parametrize(("files", "options"), UNSEEN.values(), ids=UNSEEN)
def test_fill_value_that_no_element_has(
    files: list[dict[str, Any]], options: dict[str, Any], append: bool, threshold: int, tmp_path: Path
) -> None:
    """Libraries write other ones where nobody asks for any."""
    paths = [write_filled(tmp_path / f"{n}.h5", fill=-n, **how) for n, how in enumerate(files)]
    options = {**options, "concat": "time", "convert_options": {"inline_threshold": threshold}}
    if append:
        combined = combine(paths[1:], append_to=combine(paths[0], **options), **options)
    else:
        combined = combine(paths, **options)
    with xr.open_mfdataset(paths, combine="nested", concat_dim="time", engine="h5netcdf") as expected:
        np.testing.assert_array_equal(open_zarr(combined.references())["v"][...], expected.v.values)
    report = validate(combined.references())
    assert report.ok, report.mismatches


@pytest.mark.parametrize("lacking", [0, 1])
def test_fill_value_that_elements_have(lacking: int, tmp_path: Path) -> None:
    stored = [2 if n == lacking else None for n in range(2)]
    paths = [write_filled(tmp_path / f"{n}.h5", 4 * n, -n, stored=stored[n]) for n in range(2)]
    words = rf"0\.h5 and .*1\.h5 differ in fill_value of /v: 0 and -1, .*{lacking}\.h5 .* write it again"
    options: Any = {"concat": "time", "inline_limit": 0, "convert_options": {"inline_threshold": 0}}
    with pytest.raises(CombineError, match=words):
        combine(paths, **options)
    with pytest.raises(CombineError, match="differ in fill_value of /v: 0 and -1"):
        combine(paths[1], append_to=combine(paths[0], **options), **options)
    again = write_filled(tmp_path / "2.h5", 4, 0, stored=stored[1])
    assert validate(combine([paths[0], again], **options).references()).ok


def test_shards_may_lack_chunks_inside(tmp_path: Path) -> None:
    paths = [write_filled(tmp_path / f"{n}.h5", 4 * n, -n) for n in range(2)]
    inputs = []
    for path in paths:
        hierarchy = convert(path).hierarchy
        v = hierarchy.nodes["/v"]
        inner = {"chunk_shape": [1], "codecs": v.metadata["codecs"], "index_codecs": []}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
        sharded = replace(v, metadata={**v.metadata, "codecs": codecs})
        inputs.append(replace(hierarchy, nodes={**hierarchy.nodes, "/v": sharded}))
    with pytest.raises(CombineError, match="differ in fill_value of /v"):
        combine(inputs, concat="time")


def write_masked(path: Path, start: int, incompressible: Sequence[int], length: int = 4000) -> Path:
    """Write chunks of which lzf leaves out those that are noise."""
    rng = np.random.default_rng(start)
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(start, start + 4.0)
        file["time"].make_scale("time")
        v = file.create_dataset("v", (4, length), "u1", chunks=(1, length), compression="lzf")
        v.dims[0].attach_scale(file["time"])
        for row in range(4):
            v[row] = rng.integers(0, 256, length) if row in incompressible else np.arange(length) // 100
    return path


MASKED: dict[str, list[list[int]]] = {
    "none and some": [[], [1, 2]],
    "some and none": [[0], []],
    "all and none": [[0, 1, 2, 3], []],
    "some each": [[0, 3], [1]],
}


@pytest.mark.parametrize("rows", MASKED.values(), ids=MASKED)
def test_filter_masks_of_all_files(rows: list[list[int]], tmp_path: Path) -> None:
    paths = [write_masked(tmp_path / f"{n}.h5", 4 * n, own) for n, own in enumerate(rows)]
    combined = combine(paths, concat="time", inline_limit=100)
    assert len(combined.hierarchy.nodes["/v"].manifest.inline) == 0  # type: ignore[union-attr]
    found = open_zarr(combined.references())["v"][:]
    np.testing.assert_array_equal(found, np.concatenate([h5py.File(path)["v"][:] for path in paths]))


def test_filter_masks_that_lengths_do_not_tell(tmp_path: Path) -> None:
    """The same stored length cannot tell that a filter was left out in one file only."""
    inputs = [convert(write_masked(tmp_path / f"{n}.h5", 4 * n, [])).hierarchy for n in range(2)]
    v = inputs[1].nodes["/v"]
    serializer, codec = v.metadata["codecs"]
    masked = {"name": codec["name"], "configuration": {**codec["configuration"], "filter_mask": 1}}
    v = replace(v, metadata={**v.metadata, "codecs": [serializer, masked]})
    inputs[1] = replace(inputs[1], nodes={**inputs[1].nodes, "/v": v})
    with pytest.raises(CombineError, match=r"0\.h5 and .*1\.h5 differ in the codecs of /v"):
        combine(inputs, concat="time", inline_limit=100)


def test_values_in_the_same_place_are_not_read(tmp_path: Path) -> None:
    """References that are the same need no file; that of one array is gone here."""
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 4)]
    hierarchies = [convert(path).hierarchy for path in paths]
    shared = hierarchies[0].nodes["/area"]
    gone = replace(shared, manifest=replace(shared.manifest, locations=("file:///gone",)))  # type: ignore[call-arg,union-attr]
    inputs = [replace(one, nodes={**one.nodes, "/area": gone}) for one in hierarchies]
    combined = combine(inputs, concat="time").hierarchy
    assert combined.nodes["/area"] is gone
    with pytest.raises(SourceError, match="gone"):
        combine([hierarchies[0], inputs[1]], concat="time")


def test_attributes_are_those_of_the_first(tmp_path: Path) -> None:
    paths = [make(tmp_path / "1.nc", 4), make(tmp_path / "0.nc", 0)]
    v = combine(paths, concat="time").hierarchy.nodes["/v"]
    assert v.metadata["attributes"]["long_name"] == "from day 0"


# compat ------------------------------------------------------------------------------------


def differing(folder: Path) -> list[Path]:
    def change(file: netCDF4.Dataset) -> None:
        file["area"][0] = 9
        file["area"].units = "km2"
        added("extra")(file)

    return [make(folder / "0.nc", 0), make(folder / "1.nc", 4, change=change)]


def test_first_is_taken(tmp_path: Path) -> None:
    combined = combine(differing(tmp_path), concat="time", compat="first")
    root = open_zarr(combined.references())
    assert root["area"][0] == 0
    assert root["area"].attrs["units"] == "m2"
    assert root["extra"][()] == 1
    assert combined.problems == ()


def test_first_is_the_first_in_order(tmp_path: Path) -> None:
    combined = combine(differing(tmp_path)[::-1], concat="time", compat="first")
    assert open_zarr(combined.references())["area"][0] == 0


@pytest.mark.parametrize("compat", ["first", "drop"])
def test_coordinates_of_other_dimensions_are_the_same(compat: Any, tmp_path: Path) -> None:
    """Were that of the first taken, values of the others would be in the wrong place."""

    def change(file: netCDF4.Dataset) -> None:
        file.createVariable("x", "f8", ("x",))[:] = np.arange(300)

    def reverse(file: netCDF4.Dataset) -> None:
        file.createVariable("x", "f8", ("x",))[:] = np.arange(300)[::-1]
        file["x"].comment = "from the other end"

    paths = [make(tmp_path / "0.nc", 0, change=change), make(tmp_path / "1.nc", 4, change=reverse)]
    with pytest.raises(CombineError, match=r"0\.nc and .*1\.nc differ in values of /x, which tells where"):
        combine(paths, concat="time", compat=compat)
    only_first = convert(paths[1], exclude=["/x"])
    combined = combine([paths[0], only_first], concat="time", compat="first").hierarchy
    assert "/x" in combined.nodes


def test_differing_are_dropped(tmp_path: Path) -> None:
    combined = combine(differing(tmp_path), concat="time", compat="drop")
    assert {array.path for array in combined.hierarchy.arrays()} == {"/time", "/v", "/small"}
    assert [problem.path for problem in combined.problems] == ["/area", "/extra"]
    assert all("0.nc" in problem.found and "1.nc" in problem.found for problem in combined.problems)


def test_meaning_is_never_dropped(tmp_path: Path) -> None:
    paths = [
        make(tmp_path / "0.nc", 0),
        make(tmp_path / "1.nc", 4, change=attribute("v", "scale_factor", 3.0)),
    ]
    for compat in ("first", "drop"):
        with pytest.raises(CombineError, match="scale_factor"):
            combine(paths, concat="time", compat=compat)


def test_joined_array_that_a_file_lacks_is_dropped(tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 4, change=added("w", ("time",)))]
    with pytest.raises(CombineError, match=r"1\.nc has /w, and .*0\.nc has not"):
        combine(paths, concat="time", compat="first")
    (problem,) = combine(paths, concat="time", compat="drop").problems
    assert problem.path == "/w"


def test_what_was_not_expressed_in_one_file_is_told(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 4 * number, change=added("w")) for number in range(2)]
    whole, part = (convert(path).hierarchy for path in paths)
    nodes = {path: node for path, node in part.nodes.items() if path != "/w"}
    torn = Problem(path="/w", found="a torn page", remedy="none")
    lacking = replace(part, nodes=nodes, problems=(torn,))
    with pytest.raises(CombineError, match=r"1\.nc has not \(a torn page\)"):
        combine([whole, lacking], concat="time")


# Places ------------------------------------------------------------------------------------


def tile(path: Path, y: Sequence[float], x: Sequence[float]) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        for name, values in (("y", y), ("x", x)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        file.createVariable("v", "f4", ("y", "x"))[:] = np.add.outer(y, x)
    return path


PLACES: dict[str, tuple[list[tuple[list[float], list[float]]], list[str]]] = {
    "one is missing": (
        [([0], [0]), ([0], [1]), ([1], [0])],
        ["no file has the y of", "2.nc and the x of", "1.nc"],
    ),
    "one is twice": ([([0], [0]), ([0], [0])], ["0.nc", "1.nc", "same place along y and x"]),
    "one overlaps": ([([0, 1], [0]), ([1, 2], [0])], ["0.nc", "1.nc", "overlap along /y", "0.0 to 1.0"]),
    "one is longer": (
        [([0, 1], [0]), ([0, 1, 2], [1])],
        ["0.nc", "1.nc", "overlap along /y", "0.0 to 1.0", "0.0 to 2.0"],
    ),
}


@pytest.mark.parametrize(("tiles", "words"), PLACES.values(), ids=PLACES)
def test_places_are_refused(
    tiles: list[tuple[list[float], list[float]]], words: list[str], tmp_path: Path
) -> None:
    paths = [tile(tmp_path / f"{number}.nc", *places) for number, places in enumerate(tiles)]
    with pytest.raises(CombineError) as raised:
        combine(paths, concat=["y", "x"])
    assert all(word in str(raised.value) for word in words)


# Options -----------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no dimension": ({}, CombineError, "name a dimension to join along"),
    "one that is not there": (
        {"concat": "depth"},
        CombineError,
        "no dimension depth; its dimensions are: time, x",
    ),
    "one twice": ({"concat": ["time", "time"]}, CombineError, "named twice"),
    "old and new": ({"concat": ["time"], "new_dim": "time"}, CombineError, "named twice"),
    "a new one that is there": ({"new_dim": "time"}, CombineError, "has the dimension time already"),
    "a new one that is a variable": ({"new_dim": "v"}, CombineError, "/v is no scalar"),
    "a value too few": ({"new_dim": "run", "values": [1]}, CombineError, "1 values of run, for 2 inputs"),
    "values without a dimension": ({"concat": "time", "values": [1, 2]}, CombineError, "for a new dimension"),
    "values of no kind": ({"new_dim": "run", "values": [1j, 2j]}, CombineError, "numbers, booleans, texts"),
    "no place along time": (
        {"concat": "time", "new_dim": "run"},
        CombineError,
        "no coordinate variable that tells where files belong",
    ),
    "a coordinate that is not there": (
        {"new_dim": "run", "order": "coordinate"},
        CombineError,
        "no coordinate variable that tells where files belong",
    ),
    "compat": ({"concat": "time", "compat": "equals"}, ValueError, "compat is 'equals'"),
    "order": ({"concat": "time", "order": "sorted"}, ValueError, "order is 'sorted'"),
}


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS.values(), ids=OPTIONS)
def test_options_are_refused(
    options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 4)]
    with pytest.raises(error) as raised:
        combine(paths, **options)
    assert words in str(raised.value)


@pytest.mark.parametrize("append", [False, True])
def test_input_is_not_overwritten(append: bool, tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 4)]
    before = paths[1].read_bytes()
    (tmp_path / "link.nc").symlink_to(paths[1])
    options: dict[str, Any] = {"append_to": combine(paths[:1], concat="time")} if append else {}
    with pytest.raises(OutputError, match="is an input"):
        combine(paths[1:], tmp_path / "link.nc", concat="time", format="json", **options)
    assert paths[1].read_bytes() == before


def test_nothing_is_combined() -> None:
    with pytest.raises(CombineError, match="nothing to combine"):
        combine([], concat="time")


def test_something_is_no_input() -> None:
    with pytest.raises(CombineError, match="a int cannot be combined"):
        combine([1], concat="time")  # type: ignore[list-item]


def test_new_dimension_of_chosen_arrays(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 0) for number in range(3)]
    combined = combine(paths, new_dim="run", data_vars=["/v"]).hierarchy
    names = {array.path: array.metadata["dimension_names"] for array in combined.arrays()}
    assert names == {"/time": ["time"], "/v": ["run", "time", "x"], "/area": ["x"], "/small": []}


def test_one_pattern_of_arrays(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 0) for number in range(2)]
    combined = combine(paths, new_dim="run", data_vars="/[vs]*").hierarchy
    ranks = {array.path: len(array.metadata["shape"]) for array in combined.arrays()}
    assert ranks == {"/time": 1, "/v": 3, "/area": 1, "/small": 1}


@pytest.mark.parametrize("data_vars", ["v", ["/v", "/aera"]])
def test_pattern_of_no_array(data_vars: Any, tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 0) for number in range(2)]
    with pytest.raises(CombineError, match=r"0\.nc and .*matches '(v|/aera)'.*/area, /small, /time, /v"):
        combine(paths, new_dim="run", data_vars=data_vars, compat="first")


def test_pattern_of_an_array_that_one_file_has(tmp_path: Path) -> None:
    paths = [make(tmp_path / "0.nc", 0), make(tmp_path / "1.nc", 0, change=added("w"))]
    combined = combine(paths, new_dim="run", data_vars=["/v", "/w"], compat="drop").hierarchy
    assert "/w" not in combined.nodes


def without_axis(file: netCDF4.Dataset) -> None:
    file.createVariable("odd", "f4", ())[...] = 7


def with_axis(file: netCDF4.Dataset) -> None:
    file.createVariable("odd", "f4", ("x",))[:] = np.arange(300)


def with_time(file: netCDF4.Dataset) -> None:
    file.createVariable("odd", "f4", ("time",))[:] = np.arange(4)


@pytest.mark.parametrize(
    ("changes", "compat", "expected"),
    [
        ((without_axis, with_axis), "identical", None),
        ((without_axis, with_axis), "drop", ()),
        ((without_axis, with_axis), "first", 7),
        ((with_axis, without_axis), "first", np.arange(300)),
        ((without_axis, with_time), "first", None),
        ((without_axis, with_time), "drop", ()),
    ],
)
def test_arrays_with_other_dimensions(
    changes: tuple[Change, Change], compat: Any, expected: Any, tmp_path: Path
) -> None:
    paths = [make(tmp_path / f"{n}.nc", 4 * n, change=change) for n, change in enumerate(changes)]
    if expected is None:
        with pytest.raises(CombineError, match="differ in the dimensions of /odd"):
            combine(paths, concat="time", compat=compat)
        return
    combined = combine(paths, concat="time", compat=compat)
    root = open_zarr(combined.references())
    if compat == "drop":
        assert "odd" not in root
        assert [problem.path for problem in combined.problems if "dimensions" in problem.found] == ["/odd"]
    else:
        np.testing.assert_array_equal(root["odd"][...], expected)
    assert validate(combined.references()).ok


VALUES: dict[str, tuple[list[Any], str | None]] = {
    "numbers": ([1, 2.5], None),
    "texts": (["a", "longer"], None),
    "booleans": ([True, False], None),
    "dates": ([date(2020, 1, 1), date(2020, 1, 3)], None),
    "times": ([datetime(2020, 1, 1, 6), datetime(2020, 1, 1, 12)], None),
    "pandas' times": ([pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-01T00:00:00.5")], None),
    "NumPy's times": ([np.datetime64("2020-01-01"), np.datetime64("2020-01-02")], None),
    "numbers and texts": ([1, "2"], "numbers and texts"),
    "numbers and booleans": ([1, True], "booleans and numbers"),
    "numbers and times": ([1, date(2020, 1, 1)], "numbers and times"),
    "times of a zone": ([datetime(2020, 1, 1, tzinfo=UTC)] * 2, "time zone"),
    "objects": ([{}, {}], "numbers, booleans, texts or dates"),
}


@pytest.mark.parametrize(("values", "refused"), VALUES.values(), ids=VALUES)
def test_values_of_a_new_dimension(values: list[Any], refused: str | None, tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{number}.nc", 0) for number in range(2)]
    if refused is not None:
        with pytest.raises(CombineError, match=refused):
            combine(paths, new_dim="run", values=values)
        return
    combine(paths, new_dim="run", values=values).write(tmp_path / "x.json")
    with xr.open_dataset(tmp_path / "x.json", engine="h5zarr") as dataset:
        expected = np.array(values, None if isinstance(values[0], bool | int | str) else "datetime64[ns]")
        np.testing.assert_array_equal(dataset.run.values, expected)


def contradicting(tmp_path: Path, **other: Any) -> list[Hierarchy]:
    """Return two times of one file, with identities that tell otherwise."""
    hierarchies = [convert(make(tmp_path / "0.nc", start)).hierarchy for start in (0, 4)]
    told = SourceIdentity(url="s3://a/0.nc", byte_length=9, etag="old")
    return [replace(hierarchies[0], source=told), replace(hierarchies[1], source=replace(told, **other))]


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("other", [{"byte_length": 10}, {"etag": "new"}], ids=["length", "tag"])
def test_file_that_changed_between_scans(other: dict[str, Any], turn: int, tmp_path: Path) -> None:
    with pytest.raises(SourceChangedError, match=r"s3://a/0\.nc: .* was .* and is .*; convert it again"):
        combine(contradicting(tmp_path, **other)[::turn], concat="time")


@pytest.mark.parametrize("turn", [1, -1])
def test_the_most_complete_identity_counts(turn: int) -> None:
    url = "https://h/x.h5"
    told = [
        SourceIdentity(url=url, byte_length=3, modified=5.0, is_local_copy=True),
        SourceIdentity(url=url, byte_length=3, etag="e", modified=7.0),
    ]
    assert by_url(told[::turn]) == {url: told[1]}


def test_runs_of_several_files(tmp_path: Path) -> None:
    """A new dimension and an old one: values tell the run of a file, its coordinate the rest."""
    paths = [make(tmp_path / f"{number}.nc", start) for number, start in enumerate([4, 0, 0, 4])]
    combined = combine(paths, concat="time", new_dim="run", values=["b", "b", "a", "a"], data_vars=["/v"])
    root = open_zarr(combined.references())
    assert root["run"][:].tolist() == ["b", "a"]
    assert root["v"].shape == (2, 8, 300)
    with h5py.File(paths[3]) as file:
        np.testing.assert_array_equal(root["v"][1, 4:], file["v"][:])
    starts = [dict(part.start) for part in combined.hierarchy.parts]
    assert starts == [{"run": run, "time": time} for run in (0, 1) for time in (0, 4)]


def test_file_without_a_name(tmp_path: Path) -> None:
    """References that do not tell their source are called by their number, and are no part."""
    hierarchies = [convert(make(tmp_path / f"{n}.nc", n)).hierarchy for n in range(2)]
    nameless: list[Hierarchy] = [replace(hierarchies[0], source=None), hierarchies[1]]
    with pytest.raises(CombineError, match=r"input 1 and file://.*1\.nc overlap"):
        combine(nameless, concat="time")
    combined = combine(nameless, concat="time", order="given").hierarchy
    assert [part.start for part in combined.parts] == [{"time": 4}]


def test_credentials_are_not_told(tmp_path: Path) -> None:
    hierarchy = convert(make(tmp_path / "0.nc", 0)).hierarchy
    secret = replace(hierarchy, source=SourceIdentity(url="https://me:secret@host/a.nc?sig=secret"))
    with pytest.raises(CombineError) as raised:
        combine([secret, secret], concat="time")
    assert "https://host/a.nc" in str(raised.value)
    assert "secret" not in str(raised.value)
