"""netCDF-4 files opened by xarray through their references are identical to what h5netcdf gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import CODEC_WARNING, FIXTURES, open_zarr, storage_options

from h5zarr.converter import convert

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

DECODINGS: dict[str, dict[str, Any]] = {
    "decoded": {},
    "raw": {"decode_cf": False},
    "not masked": {"mask_and_scale": False},
}


@pytest.fixture(params=DECODINGS.values(), ids=DECODINGS)
def decoding(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def groups_of(path: Path) -> list[str]:
    """Return the path of every group of a file."""
    groups = ["/"]
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: groups.append(f"/{name}") if isinstance(item, h5py.Group) else None
        )
    return groups


def through_references(path: Path, group: str, **decoding: Any) -> xr.Dataset:
    options = storage_options(convert(path, inline_threshold=64).references())
    return xr.open_dataset(
        "reference://",
        engine="zarr",
        group=group,
        backend_kwargs={"storage_options": options, "consolidated": True, "zarr_format": 3},
        **decoding,
    )


def through_h5netcdf(path: Path, group: str, **decoding: Any) -> xr.Dataset:
    return xr.open_dataset(
        path, engine="h5netcdf", group=group, backend_kwargs={"phony_dims": "sort"}, **decoding
    )


def assert_same_datasets(path: Path, **decoding: Any) -> None:
    for group in groups_of(path):
        with through_h5netcdf(path, group, **decoding) as expected:
            found = through_references(path, group, **decoding)
            xr.testing.assert_identical(found, expected)
            assert dtypes(found) == dtypes(expected)
            assert found.sizes == expected.sizes


def dtypes(dataset: xr.Dataset) -> dict[Any, Any]:
    """Return the dtypes, which `identical` does not compare."""
    return {name: dtype_of(variable.dtype) for name, variable in dataset.variables.items()}


def dtype_of(dtype: Any) -> Any:
    """Return what is to be compared of a dtype: not whether strings are objects or byte order."""
    return "string" if dtype.kind in "OTU" else np.dtype(dtype).newbyteorder("=")


NAMES = [
    "climate.nc",
    "dimension_scales.h5",
    "dimensions_anonymous.h5",
    "netcdf_character_coordinate.nc",
    "netcdf_dimensions_shadowed.nc",
    "netcdf_groups.nc",
    "netcdf_h5netcdf.nc",
    "netcdf_never_written.nc",
]


@pytest.mark.parametrize("name", NAMES)
def test_fixture_opens_identically(name: str, decoding: dict[str, Any]) -> None:
    assert_same_datasets(FIXTURES / name, **decoding)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "netcdf_dimensions_shadowed.nc"])
def test_fixture_opens_identically_as_tree(name: str, decoding: dict[str, Any]) -> None:
    references = convert(FIXTURES / name).references()
    options = storage_options(references)
    found = xr.open_datatree("reference://", engine="zarr", storage_options=options, **decoding)
    with xr.open_datatree(FIXTURES / name, engine="h5netcdf", phony_dims="sort", **decoding) as expected:
        xr.testing.assert_identical(found, expected)


# Files written here ----------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], None]] = {}


def written(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function that fills a new file of netCDF-C's."""

    def register(fill: Callable[[Any], None]) -> Callable[[Any], None]:
        def write(path: Path) -> None:
            with netCDF4.Dataset(path, "w") as file:
                fill(file)

        WRITERS[name] = write
        return fill

    return register


def written_by_h5netcdf(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(fill: Callable[[Any], None]) -> Callable[[Any], None]:
        def write(path: Path) -> None:
            with h5netcdf.File(path, "w") as file:
                fill(file)

        WRITERS[name] = write
        return fill

    return register


def written_by_h5py(name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(fill: Callable[[Any], None]) -> Callable[[Any], None]:
        def write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                fill(file)

        WRITERS[name] = write
        return fill

    return register


def ramp(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)


def add(file: Any, name: str, datatype: Any, dimensions: tuple[str, ...], values: Any, **options: Any) -> Any:
    """Add a netCDF variable with its values as stored."""
    attributes = options.pop("attributes", {})
    variable = file.createVariable(name, datatype, dimensions, **options)
    variable.setncatts(attributes)
    variable.set_auto_maskandscale(False)
    if values is not None:
        variable[...] = values
    return variable


@written("two unlimited dimensions")
def _(file: Any) -> None:
    file.createDimension("time", None)
    file.createDimension("ensemble", None)
    file.createDimension("x", 3)
    add(file, "time", "f8", ("time",), [0.5, 1.5], attributes={"units": "days since 2001-01-01"})
    add(file, "t", "f4", ("time", "ensemble", "x"), ramp(2, 5, 3), chunksizes=(1, 2, 3), zlib=True)
    add(file, "number", "i8", ("ensemble",), ramp(5))


@written("unlimited dimension of no records")
def _(file: Any) -> None:
    file.createDimension("time", None)
    file.createDimension("x", 3)
    add(file, "time", "f8", ("time",), None, attributes={"units": "days since 2001-01-01"})
    add(file, "t", "f4", ("time", "x"), None)
    add(file, "x", "i4", ("x",), ramp(3))


@written("packed")
def _(file: Any) -> None:
    file.createDimension("x", 6)
    scaling = {"scale_factor": 0.5, "add_offset": 10.0}
    values = [0, 1, -9, 3, -5, 127]
    add(file, "i1", "i1", ("x",), values, fill_value=np.int8(-9), attributes=scaling)
    add(file, "u1", "i1", ("x",), values, fill_value=np.int8(-9), attributes={"_Unsigned": "true", **scaling})
    add(file, "missing", "i2", ("x",), values, attributes={"missing_value": np.int16(-5)})
    add(file, "both", "i2", ("x",), values, fill_value=-9, attributes={"missing_value": np.int16([-9])})
    add(file, "limits", "i2", ("x",), values, attributes={"valid_range": np.array([0, 99], "i2")})


@written("fill values of every type")
def _(file: Any) -> None:
    file.createDimension("x", 4)
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        add(file, dtype, dtype, ("x",), [1, 2, 77, 4], fill_value=np.array(77, dtype)[()])
        add(file, f"{dtype}_default", dtype, ("x",), [1, 2, 77, 4])
        add(file, f"{dtype}_sparse", dtype, ("x",), None, chunksizes=(2,), fill_value=77)[0] = 5
    add(file, "nan", "f4", ("x",), [1, np.nan, 3, 4], fill_value=np.nan)
    add(file, "huge", "f8", ("x",), [1, 1e300, 3, 4], fill_value=1e300)
    add(file, "u8_limit", "u8", ("x",), [1, 2**64 - 1, 3, 4], fill_value=np.uint64(2**64 - 1))


@written("times")
def _(file: Any) -> None:
    file.createDimension("time", 4)
    add(file, "time", "i4", ("time",), ramp(4), attributes={"units": "hours since 1999-12-31 23:00"})
    noleap = {"units": "days since 2000-02-27", "calendar": "noleap"}
    add(file, "noleap", "f8", ("time",), ramp(4), attributes=noleap)
    add(file, "delta", "i8", ("time",), ramp(4), attributes={"units": "seconds"})
    masked = {"units": "days since 2000-01-01"}
    add(file, "masked", "f8", ("time",), [1, np.nan, 3, 4], fill_value=np.nan, attributes=masked)


@written("characters")
def _(file: Any) -> None:
    for name, extent in (("station", 3), ("letter", 5), ("one", 1)):
        file.createDimension(name, extent)
    codes = netCDF4.stringtochar(np.array([b"ZRH", b"", b"LONGE"], "S5"))
    add(file, "code", "S1", ("station", "letter"), codes)
    add(file, "utf8", "S1", ("station", "letter"), codes, attributes={"_Encoding": "utf-8"})
    add(file, "flag", "S1", ("station",), np.array([b"a", b"", b"c"], "S1"))
    add(file, "short", "S1", ("station", "one"), np.array([[b"a"], [b"b"], [b"c"]], "S1"))
    add(file, "scalar", "S1", (), np.bytes_(b"q"))


@written("strings")
def _(file: Any) -> None:
    file.createDimension("x", 3)
    file.createDimension("y", 2)
    texts = np.array([["a", "", "Zürich"], ["日本", "😀", "long " * 50]], object)
    add(file, "two", str, ("y", "x"), texts)
    add(file, "x", str, ("x",), texts[1])
    add(file, "scalar", str, (), np.array("alone", object))
    add(file, "never", str, ("x",), None)
    file.setncattr_string("one_text", "text")
    file.setncattr_string("texts", ["one", "two"])
    file.setncattr("empty", "")


@written("attributes")
def _(file: Any) -> None:
    variable = add(file, "scalar", "f8", (), 4.5)
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        for target in (file, variable):
            target.setncattr(f"{dtype}_scalar", np.array(7, dtype)[()])
            target.setncattr(f"{dtype}_array", np.array([1, 2, 3], dtype))
    variable.setncatts({"nan": np.nan, "infinities": [np.inf, -np.inf], "tenth": np.float32(0.1)})
    variable.setncatts({"title": "Füße", "no_elements": np.zeros(0), "lines": "one\ntwo"})


@written("enumeration")
def _(file: Any) -> None:
    file.createDimension("x", 5)
    cover = file.createEnumType("u1", "cover_t", {"sea": 0, "land": 1, "missing": 255})
    add(file, "cover", cover, ("x",), [0, 1, 255, 1, 0], fill_value=255)
    signed = file.createEnumType("i2", "sign_t", {"plus": 500, "minus": -500})
    add(file, "sign", signed, ("x",), [500, -500, 500, 500, -500], chunksizes=(2,))


@written("coordinates of two dimensions")
def _(file: Any) -> None:
    file.createDimension("y", 3)
    file.createDimension("x", 4)
    add(file, "lat", "f8", ("y", "x"), ramp(3, 4), attributes={"units": "degrees_north"})
    add(file, "lon", "f8", ("y", "x"), -ramp(3, 4), attributes={"units": "degrees_east"})
    add(file, "sst", "f4", ("y", "x"), ramp(3, 4), attributes={"coordinates": "lat lon"})


@written("a coordinate of two dimensions under the name of one")
def _(file: Any) -> None:
    file.createDimension("y", 3)
    file.createDimension("x", 4)
    add(file, "y", "f8", ("y", "x"), ramp(3, 4))
    add(file, "z", "f4", ("y",), ramp(3))


@written("dimensions defined after their variables, and square ones")
def _(file: Any) -> None:
    file.createDimension("b", 4)
    add(file, "first", "i4", ("b",), ramp(4))
    file.createDimension("a", 4)
    add(file, "square", "i4", ("a", "b"), ramp(4, 4))
    add(file, "transposed", "i4", ("b", "a"), ramp(4, 4))
    add(file, "twice", "i4", ("a", "a"), ramp(4, 4))
    add(file, "a", "i4", ("a",), ramp(4))


@written("groups")
def _(file: Any) -> None:
    file.createDimension("time", None)
    file.createDimension("x", 3)
    add(file, "time", "i4", ("time",), ramp(5), attributes={"units": "hours since 2000-01-01"})
    model = file.createGroup("model")
    model.createDimension("level", 2)
    add(model, "level", "f4", ("level",), [0.5, 1.5])
    add(model, "t", "f4", ("time", "level", "x"), ramp(5, 2, 3), zlib=True, shuffle=True)
    run = model.createGroup("run")
    add(run, "x", "i2", ("x",), ramp(3))
    add(run, "u", ">f8", ("level", "x"), ramp(2, 3), endian="big")
    file.createGroup("nothing")


@written("filters")
def _(file: Any) -> None:
    file.createDimension("y", 30)
    file.createDimension("x", 20)
    for name, options in {
        "deflate": {"zlib": True, "complevel": 9, "shuffle": False},
        "shuffle": {"zlib": True, "shuffle": True},
        "fletcher32": {"zlib": True, "fletcher32": True},
        "zstd": {"compression": "zstd"},
        "quantized": {"zlib": True, "significant_digits": 3},
        "contiguous": {"contiguous": True},
    }.items():
        add(file, name, "f4", ("y", "x"), ramp(30, 20) / 7, **options)
    add(file, "big_endian", ">f8", ("y", "x"), ramp(30, 20), zlib=True, endian="big")


@written_by_h5netcdf("by h5netcdf")
def _(file: Any) -> None:
    file.dimensions = {"time": None, "x": 4, "unused": 7}
    file.resize_dimension("time", 3)
    file.create_variable("x", ("x",), data=ramp(4) / 2)
    file.create_variable("t", ("time", "x"), "<f4", data=ramp(3, 4), chunks=(2, 4), fillvalue=-1.0)
    file.create_variable(
        "text", ("x",), data=np.array(["a", "b", "c", "dé"], object), dtype=h5py.string_dtype()
    )
    group = file.create_group("deep/deeper")
    group.dimensions["z"] = 2
    group.create_variable("v", ("z", "x"), data=ramp(2, 4), compression="gzip", fletcher32=True)
    group.create_variable("scalar", (), data=np.int16(3))
    file.attrs["conventions"] = ["CF-1.8", "ACDD-1.3"]


@written_by_h5py("anonymous dimensions")
def _(file: Any) -> None:
    file["a"] = ramp(4, 5)
    file["b"] = ramp(5, 5, 2)
    file["scalar"] = 3.5
    file["zero"] = np.zeros((0, 4))
    file["group/c"] = ramp(5, 4, 4)
    file["group/inner/d"] = ramp(7)
    file["z"] = ramp(2, 3)


@written_by_h5py("anonymous dimensions in many groups")
def _(file: Any) -> None:
    file["b/x"] = ramp(3)
    file["a/inner/deep/x"] = ramp(4, 3)
    file["a/x"] = ramp(5, 5)
    file["a/inner/scale"] = np.arange(4.0)
    file["a/inner/scale"].make_scale("scale")
    file["c/x"] = ramp(6)
    file["z"] = ramp(7)


@written_by_h5py("scales on some datasets")
def _(file: Any) -> None:
    file["x"] = np.arange(4.0)
    file["x"].make_scale("x")
    file["labelled"] = ramp(4)
    file["labelled"].dims[0].attach_scale(file["x"])
    file["other"] = ramp(4, 5)
    file["square"] = ramp(4, 4)
    file["group/inside"] = ramp(4, 5)


@written_by_h5py("scales with names of their own")
def _(file: Any) -> None:
    for name in ("longitude", "latitude"):
        file[name] = np.arange(3.0)
        file[name].make_scale(f"the {name}")
    file["data"] = ramp(3, 3)
    file["data"].dims[0].attach_scale(file["latitude"])
    file["data"].dims[1].attach_scale(file["longitude"])
    file["data"].dims[0].label = "north"


@pytest.fixture(params=WRITERS)
def netcdf_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "written.nc"
    WRITERS[request.param](path)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate dimension names present")
def test_written_file_opens_identically(netcdf_file: Path, decoding: dict[str, Any]) -> None:
    assert_same_datasets(netcdf_file, **decoding)


def test_written_files_open_identically_as_trees(tmp_path: Path) -> None:
    path = tmp_path / "written.nc"
    WRITERS["groups"](path)
    options = storage_options(convert(path).references())
    with xr.open_datatree(path, engine="h5netcdf") as expected:
        found = xr.open_datatree("reference://", engine="zarr", storage_options=options)
        xr.testing.assert_identical(found, expected)


def test_sequences_are_those_of_h5netcdf(decoding: dict[str, Any]) -> None:
    """xarray itself does not compare arrays of arrays."""
    path = FIXTURES / "netcdf_user_types.nc"
    found = through_references(path, "/", **decoding)
    with through_h5netcdf(path, "/", **decoding) as expected:
        xr.testing.assert_identical(found.drop_vars("ragged"), expected.drop_vars("ragged"))
        assert found["ragged"].attrs == expected["ragged"].attrs
        pairs = zip(found["ragged"].values, expected["ragged"].values, strict=True)
        assert all(ours.dtype == theirs.dtype and (ours == theirs).all() for ours, theirs in pairs)


def test_variables_with_fewer_records_keep_their_length() -> None:
    """h5netcdf fills them up; here such an axis is a dimension of its own, so that xarray opens the file."""
    path = FIXTURES / "netcdf_records_missing.nc"
    found = through_references(path, "/")
    with through_h5netcdf(path, "/") as expected:
        assert (found.sizes["time"], found.sizes["time_3"], found.sizes["time_0"]) == (6, 3, 0)
        xr.testing.assert_identical(found["all"], expected["all"])
        xr.testing.assert_identical(found["some"].rename(time_3="time"), expected["some"][:3])
        xr.testing.assert_identical(found["none"].rename(time_0="time"), expected["none"][:0])


# Where h5netcdf is no oracle -------------------------------------------------------------


def test_scales_on_some_dimensions_of_a_dataset(tmp_path: Path) -> None:
    """h5netcdf refuses such a file."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4.0)
        file["x"].make_scale("x")
        file["data"] = ramp(4, 5, 4)
        file["data"].dims[0].attach_scale(file["x"])
    found = through_references(path, "/")
    names = found["data"].dims
    assert names[0] == "x"
    assert len(set(names)) == 3
    assert found["data"].shape == (4, 5, 4)


def test_scale_in_another_group(tmp_path: Path) -> None:
    """h5netcdf refuses such a file."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["axes/x"] = np.arange(3.0)
        file["axes/x"].make_scale("x")
        file["data/v"] = ramp(3)
        file["data/v"].dims[0].attach_scale(file["axes/x"])
    assert through_references(path, "data")["v"].dims == ("x",)
    assert through_references(path, "axes")["x"].dims == ("x",)


def test_float32_scaling_is_computed_in_float64(tmp_path: Path) -> None:
    """JSON numbers have no width, and xarray takes that of the result from the attributes."""
    path = tmp_path / "x.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 4)
        narrow = {"scale_factor": np.float32(0.1), "add_offset": np.float32(1)}
        add(file, "v", "i2", ("x",), ramp(4), attributes=narrow)
    assert_same_datasets(path, decode_cf=False)
    found = through_references(path, "/")["v"]
    with through_h5netcdf(path, "/") as expected:
        assert (found.dtype, expected["v"].dtype) == (np.dtype("f8"), np.dtype("f4"))
        np.testing.assert_allclose(found, expected["v"], rtol=1e-7)


def test_fill_value_of_characters_is_a_problem(tmp_path: Path) -> None:
    """xarray opens no variable of characters in Zarr v3 that has the attribute."""
    path = tmp_path / "x.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        add(file, "v", "S1", ("x",), None, fill_value=b"x")
    (problem,) = convert(path).problems
    assert (problem.path, problem.attribute) == ("/v", "_FillValue")
    assert through_references(path, "/", decode_cf=False)["v"].values.tolist() == [b"x"] * 3


def test_hidden_coordinate_keeps_its_hdf5_name(tmp_path: Path) -> None:
    """netCDF-C renames a variable that has a dimension's name but not its shape."""
    path = tmp_path / "x.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        file.createDimension("y", 2)
        add(file, "x", "i4", ("y",), ramp(2))
    found = through_references(path, "/")
    assert found["_nc4_non_coord_x"].dims == ("y",)


def test_without_phony_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = ramp(4, 5)
    root = open_zarr(convert(path, phony_dimensions=False).references())
    assert root["x"].metadata.dimension_names in (None, (None, None))
    np.testing.assert_array_equal(root["x"][...], ramp(4, 5))
