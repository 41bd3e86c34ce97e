"""Values that are put into references read back as h5py reads them, whatever their data type."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import CODEC_WARNING, open_zarr
from http_server import serve
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from zarr.core.metadata import v3

from h5zarr.combiner import combine
from h5zarr.combining.time import fill_numbers
from h5zarr.converter import convert
from h5zarr.errors import CombineError, SourceChangedError, SourceError, SourceNotFoundError
from h5zarr.model import ArrayNode
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

READS_RECTILINEAR = hasattr(v3, "RectilinearChunkGridMetadata")
RNG = np.random.default_rng(5)
VLEN = h5py.vlen_dtype(np.dtype("<i4"))


def objects(*elements: Any) -> np.ndarray[Any, Any]:
    values = np.empty(len(elements), object)
    values[:] = elements
    return values


def records(dtype: Any) -> np.ndarray[Any, Any]:
    return np.array([(1, 2.5, b"ab"), (3, -0.0, b""), (-5, np.inf, b"xyz")], dtype)


VALUES: dict[str, Any] = {
    "int": np.array([-1, 0, 2**31 - 1], "<i4"),
    "big-endian": np.array([-1, 0, 2**40], ">i8"),
    "float, any bits": RNG.integers(0, 2**63, 3).view("<f8"),
    "NaN with a payload": np.array([0x7FC00001, 0x80000000, 0x7F800000], "<u4").view("<f4"),
    "bool": np.array([True, False, True]),
    "complex": np.array([1 + 2j, -0.0, complex(0, np.nan)]),
    "fixed string": np.array([b"abc", b"", b"\xc3\xa4"], "S4"),
    "opaque": np.array([b"abc", b"\0\1\2", b"   "], "V3"),
    "compound": records([("a", "<i4"), ("b", "<f8"), ("c", "S3")]),
    "compound, big-endian": records([("a", ">i4"), ("b", ">f8"), ("c", "S3")]),
    "two axes": np.arange(12.0).reshape(3, 4),
    "text": objects("a", "", "ä\U0001f600"),
    "bytes": objects(b"\xff", b"", b"\x80abc"),
    "sequences": objects(*(np.arange(length, dtype="<i4") for length in (2, 0, 3))),
}
DTYPES = {
    "text": h5py.string_dtype(),
    "bytes": h5py.string_dtype("ascii"),
    "sequences": VLEN,
}


def write(path: Path, start: int, values: Any, dtype: Any, **how: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(start, start + len(values))
        file["time"].make_scale("time")
        v = file.create_dataset("v", shape=values.shape, dtype=dtype or values.dtype, **how)
        if values.dtype.kind != "V" or values.dtype.names is not None:
            v[...] = values
        else:
            v.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values), mtype=v.id.get_type())
        v.dims[0].attach_scale(file["time"])
    return path


def plain(values: np.ndarray[Any, Any]) -> Any:
    """Return what is to be compared: bits, and members and objects one by one."""
    if values.dtype.names is not None:
        return [plain(np.ascontiguousarray(values[name])) for name in values.dtype.names]
    if values.dtype.kind in "OT":
        return [value.tolist() if isinstance(value, np.ndarray) else as_bytes(value) for value in values]
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def as_bytes(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


HOW: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks that do not fit": {"chunks": 2},
    "compressed": {"chunks": 2, "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": 2, "compression": "lzf"},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("name", VALUES)
def test_values_of_any_type(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    values = VALUES[name]
    if "chunks" in how:
        how = {**how, "chunks": (2, *values.shape[1:])}
    paths = [
        write(tmp_path / "0.h5", 0, values, DTYPES.get(name), **how),
        write(tmp_path / "1.h5", 3, values[::-1], DTYPES.get(name), **how),
    ]
    combined = combine(paths, concat="time", convert_options={"inline_threshold": 0})
    v = combined.hierarchy.nodes["/v"]
    assert isinstance(v, ArrayNode)
    assert (len(v.manifest.inline), len(v.manifest.grid_position)) in ((1, 0), (0, 2))
    found = np.asarray(open_zarr(combined.references())["v"][...])
    assert plain(found) == plain(np.concatenate([values, values[::-1]]))


def test_absent_chunks_are_fill_values(tmp_path: Path) -> None:
    paths = [tmp_path / "0.h5", tmp_path / "1.h5"]
    for number, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file["time"] = np.arange(5) + 5 * number
            file["time"].make_scale("time")
            v = file.create_dataset("v", (5,), "f4", chunks=(2,), fillvalue=-7)
            v.dims[0].attach_scale(file["time"])
            v[2:4] = 1
    found = open_zarr(combine(paths, concat="time").references())["v"][...]
    np.testing.assert_array_equal(found, [-7, -7, 1, 1, -7] * 2)


# Where values are read from ----------------------------------------------------------------


def series(folder: Path) -> list[Path]:
    values = np.arange(900.0).reshape(3, 300)
    return [
        write(folder / f"{number}.h5", 3 * number, values, None, chunks=(1, 300), compression="gzip")
        for number in range(3)
    ]


def test_files_behind_a_server(tmp_path: Path) -> None:
    paths = series(tmp_path)
    with serve(tmp_path) as server:
        urls = [f"{server.url}/{path.name}" for path in paths]
        options = {"storage_options": {"block_size": 2**16}, "convert_options": {"inline_threshold": 0}}
        combined = combine(urls, concat="time", **options)
        root = open_zarr(combined.references(), "http")
        assert root["time"][:].tolist() == list(range(9))
        np.testing.assert_array_equal(root["v"][3:6], np.arange(900.0).reshape(3, 300))


def test_file_that_is_gone_is_named(tmp_path: Path) -> None:
    conversions = [convert(path, inline_threshold=0) for path in series(tmp_path)]
    (tmp_path / "1.h5").unlink()
    with pytest.raises(SourceNotFoundError, match=r"1\.h5"):
        combine(conversions, concat="time")


@pytest.mark.parametrize("name", ["0.h5", "2.h5"])
def test_file_that_has_changed_is_named(name: str, tmp_path: Path) -> None:
    """Its coordinates would be those of another file; a copy with the same length is one, too."""
    conversions = [convert(path, inline_threshold=0) for path in series(tmp_path)]
    path = tmp_path / name
    path.write_bytes(path.read_bytes())
    os.utime(path, (0, 0))
    with pytest.raises(SourceChangedError, match=rf"{name}: is not the file that was scanned: its time"):
        combine(conversions, concat="time")


def test_file_that_nothing_is_known_of(tmp_path: Path) -> None:
    """References of other tools do not tell what file they were made of; its end is seen all the same."""
    hierarchies = [convert(path, inline_threshold=0).hierarchy for path in series(tmp_path)]
    nameless = [replace(hierarchy, source=None) for hierarchy in hierarchies]
    assert combine(nameless, concat="time").hierarchy.parts == ()
    (tmp_path / "2.h5").write_bytes(b"short")
    with pytest.raises(SourceError, match=r"2\.h5: ends at byte"):
        combine(nameless, concat="time")


def test_contents_are_compared_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Static arrays are not in memory at once; here not even two of their chunks are."""
    monkeypatch.setattr("h5zarr.combining.reader._BATCH_BYTES", 100)
    paths = series(tmp_path)
    for path in paths:
        with h5py.File(path, "a") as file:
            file.create_dataset("static", data=np.arange(100.0), chunks=(9,))
    combine(paths, concat="time", convert_options={"inline_threshold": 0})
    with h5py.File(paths[1], "a") as file:
        file["static"][50] = -1
    with pytest.raises(CombineError, match=r"0\.h5 and .*1\.h5 differ in values of /static"):
        combine(paths, concat="time", convert_options={"inline_threshold": 0})


def test_bytes_that_cannot_be_decoded(tmp_path: Path) -> None:
    conversions = [convert(path, inline_threshold=0) for path in series_compressed(tmp_path)]
    v = conversions[0].hierarchy.nodes["/v"]
    assert isinstance(v, ArrayNode)
    damaged = replace(v.manifest, byte_offset=v.manifest.byte_offset + np.uint64(1))
    nodes = {**conversions[0].hierarchy.nodes, "/v": replace(v, manifest=damaged)}
    inputs = [replace(conversions[0].hierarchy, nodes=nodes), *conversions[1:]]
    with pytest.raises(CombineError, match=r"/v of file://.*0\.h5.* cannot be decoded"):
        combine(inputs, concat="time")


def series_compressed(folder: Path) -> list[Path]:
    """Write files whose chunks do not fit."""
    values = np.arange(3.0)
    return [write(folder / f"{n}.h5", 3 * n, values, None, chunks=(2,), compression="gzip") for n in range(2)]


def test_array_that_is_transposed(tmp_path: Path) -> None:
    """References of other tools may have codecs that know an array's rank."""
    inputs = []
    for number, rows in enumerate((3, 2)):
        values = np.arange(rows * 4, dtype="<f8").reshape(rows, 4) + 100 * number
        path = write(tmp_path / f"{number}.h5", 3 * number, values, None)
        hierarchy = convert(path).hierarchy
        v = hierarchy.nodes["/v"]
        assert isinstance(v, ArrayNode)
        transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
        metadata = {**v.metadata, "codecs": [transpose, *v.metadata["codecs"]]}
        manifest = replace(v.manifest, inline={0: values.T.tobytes()})
        v = replace(v, metadata=metadata, manifest=manifest)
        inputs.append(replace(hierarchy, nodes={**hierarchy.nodes, "/v": v}))
    found = open_zarr(combine(inputs, concat="time").references())["v"][...]
    np.testing.assert_array_equal(found, np.r_[np.arange(12), np.arange(8) + 100].reshape(5, 4))
    with pytest.raises(CombineError, match="codecs transpose, bytes of /v let it have no new dimension"):
        combine(inputs, new_dim="run")


# Anything ----------------------------------------------------------------------------------


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Return the shapes of files that are joined along an axis, and how each is stored."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = draw(st.integers(0, len(shape) - 1))
    common = [draw(st.integers(1, extent)) for extent in shape]
    stored = []
    for _ in range(draw(st.integers(1, 4))):
        own = [*shape[:axis], draw(st.integers(0, 7)), *shape[axis + 1 :]]
        chunks = [
            *common[:axis],
            draw(st.sampled_from([common[axis], own[axis] or 1, 2])),
            *common[axis + 1 :],
        ]
        is_chunked = draw(st.booleans())
        maximum = [None if at == axis else extent for at, extent in enumerate(own)]
        how = {"chunks": tuple(chunks), "maxshape": tuple(maximum)} if is_chunked else {}
        compression = draw(st.sampled_from([None, "gzip", "lzf"])) if is_chunked else None
        stored.append((own, how | {"compression": compression}, draw(st.floats(0, 1))))
    return {"axis": axis, "files": stored}


def dated(path: Path, origin: str, group: str = "/", bounds: Any = "time_bnds", **attributes: Any) -> Path:
    """Write times, their bounds in the root without units, and another variable of times."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", 3)
        file.createDimension("nv", 2)
        time = file.createVariable(f"{group}/time", "f8", ("time",))
        time.units = f"days since {origin}"
        if bounds is not None:
            time.bounds = bounds
        time[:] = np.arange(3)
        file.createVariable("time_bnds", "f8", ("time", "nv"))[:] = np.stack(
            [np.arange(3), np.arange(1, 4)], 1
        )
        observed = file.createVariable("observed", "f8", ("time",))
        observed.setncatts({"units": f"days since {origin}", **attributes})
        observed[:] = [5, -999, -9999]
    return path


def two_months(tmp_path: Path, **how: Any) -> list[Path]:
    months = ("2000-01-01", "2000-02-01")
    return [dated(tmp_path / f"{number}.nc", month, **how) for number, month in enumerate(months)]


@pytest.mark.parametrize(
    ("group", "bounds"),
    [("/", "/time_bnds"), ("/g", "/time_bnds"), ("/g", "time_bnds"), ("/g/h", "time_bnds")],
)
def test_bounds_anywhere_follow_their_times(group: str, bounds: str, tmp_path: Path) -> None:
    combined = combine(two_months(tmp_path, group=group, bounds=bounds), concat="time")
    found = open_zarr(combined.references())["time_bnds"][:, 0]
    assert found.tolist() == [0, 1, 2, 31, 32, 33]


@pytest.mark.parametrize("which", [0, 1])
def test_bounds_that_one_file_does_not_name(which: int, tmp_path: Path) -> None:
    bounds = [None, "time_bnds"]
    paths = [
        dated(tmp_path / "0.nc", "2000-01-01", bounds=bounds[which]),
        dated(tmp_path / "1.nc", "2000-02-01", bounds=bounds[1 - which]),
    ]
    with pytest.raises(CombineError, match=r"0\.nc and .*1\.nc differ in .* of /time_bnds: .*nothing"):
        combine(paths, concat="time")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (-999.0, [36, -999, -9968]),
        (np.array([-999.0, -9999.0]), [36, -999, -9999]),
    ],
    ids=["one", "several"],
)
def test_numbers_that_stand_for_no_time_stay(missing: Any, expected: list[float], tmp_path: Path) -> None:
    combined = combine(two_months(tmp_path, missing_value=missing), concat="time")
    assert open_zarr(combined.references())["observed"][3:].tolist() == expected


def observed(path: Path, origin: str, times: Any, seen: Any, dtype: str, **attributes: Any) -> Path:
    """Write times, and others beside them that ``attributes`` belong to as well."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        for name, values in (("time", times), ("seen", seen)):
            fill = attributes.get("_FillValue")
            variable = file.createVariable(name, dtype, ("time",), fill_value=fill)
            variable.set_auto_mask(False)
            variable.units = f"days since {origin}"
            variable.setncatts({key: value for key, value in attributes.items() if key != "_FillValue"})
            variable[:] = values
    return path


MASKING: dict[str, tuple[str, dict[str, Any]]] = {
    "_FillValue": ("i4", {"_FillValue": 11}),
    "missing_value": ("i2", {"missing_value": np.int16(11)}),
    "several": ("i8", {"missing_value": np.array([-999, 11])}),
    "floats": ("f8", {"_FillValue": 11.0}),
    "both": ("f4", {"_FillValue": np.float32(1e20), "missing_value": np.float32(11)}),
    "of another type": ("i4", {"missing_value": 11.0}),
}
"""The data type of times, and attributes by which 11 stands for none."""


@pytest.mark.parametrize("name", ["seen", "time"])
@pytest.mark.parametrize(("dtype", "masking"), MASKING.values(), ids=MASKING)
def test_time_whose_number_would_stand_for_none(
    dtype: str, masking: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Day 20 of the one is day 11 of the other."""
    numbers = {"time": [15, 16], "seen": [8, 9], name: [19, 20]}
    paths = [
        observed(tmp_path / "0.nc", "2000-01-10", [2, 3], [5, 6], dtype, **masking),
        observed(tmp_path / "1.nc", "2000-01-01", numbers["time"], numbers["seen"], dtype, **masking),
    ]
    words = rf"0\.nc and .*1\.nc differ in the units of /{name}: .* 20.* 11.* stands for no time.*; write"
    with pytest.raises(CombineError, match=words):
        combine(paths, concat="time")


@pytest.mark.filterwarnings("ignore:.*multiple (fill|missing) values:xarray.SerializationWarning")
@pytest.mark.parametrize(("dtype", "masking"), MASKING.values(), ids=MASKING)
def test_no_times_stay_none(dtype: str, masking: dict[str, Any], tmp_path: Path) -> None:
    paths = [
        observed(tmp_path / "0.nc", "2000-01-10", [2, 3], [11, 6], dtype, **masking),
        observed(tmp_path / "1.nc", "2000-01-01", [15, 16], [9, 11], dtype, **masking),
    ]
    combine(paths, tmp_path / "all.json", concat="time")
    with (
        xr.open_dataset(tmp_path / "all.json", engine="h5zarr") as found,
        xr.open_mfdataset(paths, engine="h5netcdf") as expected,
    ):
        np.testing.assert_array_equal(found.seen.values, expected.seen.values)
    report = validate(tmp_path / "all.json")
    assert report.ok, report.mismatches


@pytest.mark.parametrize("packing", [{"scale_factor": 0.5}, {"_Unsigned": "true"}], ids=str)
def test_packed_times_are_not_converted(packing: dict[str, Any], tmp_path: Path) -> None:
    paths = [
        observed(tmp_path / "0.nc", "2000-01-10", [2, 3], [5, 6], "i2", **packing),
        observed(tmp_path / "1.nc", "2000-01-01", [15, 16], [-1, 8], "i2", **packing),
    ]
    with pytest.raises(CombineError, match=r"0\.nc and .*1\.nc differ in the units .* are packed"):
        combine(paths, concat="time")


def test_text_stands_for_no_number(tmp_path: Path) -> None:
    path = dated(tmp_path / "0.nc", "2000-01-01", missing_value="n/\u00e9")
    array = convert(path).hierarchy.nodes["/observed"]
    assert isinstance(array, ArrayNode)
    assert fill_numbers(array).tolist() == []


def test_absent_chunks_of_negative_zeros(tmp_path: Path) -> None:
    """What is not stored is the fill value: no stored byte tells 0.0 from -0.0."""
    paths = [tmp_path / "0.h5", tmp_path / "1.h5"]
    for path, fill in zip(paths, (0.0, -0.0), strict=True):
        with h5py.File(path, "w") as file:
            file["time"] = [float(path.stem)]
            file["time"].make_scale("time")
            file.create_dataset("v", (4,), "f8", chunks=(4,), fillvalue=fill)
            file.create_dataset("w", (1,), "f8").dims[0].attach_scale(file["time"])
    with pytest.raises(CombineError, match="differ in values of /v"):
        combine(paths, concat="time")


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=files(),
    limit=st.sampled_from([0, 60, 2**20]),
    threshold=st.sampled_from([0, 100]),
    rectilinear=st.booleans(),
)
def test_combined_is_right_or_refused(
    files: dict[str, Any], limit: int, threshold: int, rectilinear: bool, tmp_path: Path
) -> None:
    """Whatever files are like, what is joined reads as NumPy's concatenation, or is refused."""
    paths, values = [], []
    for number, (shape, how, written) in enumerate(files["files"]):
        paths.append(tmp_path / f"{number}.h5")
        with h5py.File(paths[-1], "w") as file:
            v = file.create_dataset("v", shape, "<i4", fillvalue=9, **how)
            rows = slice(0, round(shape[0] * written))
            v[rows] = RNG.integers(0, 1000, v[rows].shape)
            for at in range(len(shape)):
                v.dims[at].label = f"d{at}"
                scale = file.create_dataset(f"d{at}", (shape[at],), "f4")
                scale.make_scale("This is a netCDF dimension but not a netCDF variable")
                v.dims[at].attach_scale(scale)
            values.append(v[...])
    options: dict[str, Any] = {"inline_limit": limit, "convert_options": {"inline_threshold": threshold}}
    try:
        combined = combine(paths, concat=f"d{files['axis']}", rectilinear=rectilinear, **options)
    except CombineError:
        event("refused")
        return
    grid = combined.hierarchy.nodes["/v"].metadata["chunk_grid"]["name"]
    event(grid)
    if grid == "rectilinear" and not READS_RECTILINEAR:
        return
    with zarr.config.set({"array.rectilinear_chunks": True}):
        found = open_zarr(combined.references())["v"][...]
    np.testing.assert_array_equal(found, np.concatenate(values, files["axis"]))
