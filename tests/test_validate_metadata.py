"""Validation of metadata: each mutant spoils one document of sound references, whose node must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from conftest import CODEC_WARNING

from h5zarr.converter import convert
from h5zarr.validator import validate

pytestmark = [
    pytest.mark.filterwarnings(CODEC_WARNING),
    pytest.mark.filterwarnings("ignore:Both zarr.json .* and .z(group|array)"),
]

Document = dict[str, Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.arange(4, dtype="<i2"), chunks=(2,))
        x.attrs["_FillValue"] = np.int16(2)
        x.attrs["count"] = 1
        # Zarr v2 cannot express what reads -5 where nothing is stored, and masks nothing.
        file.create_dataset("of_v3_only", (4,), "<i2", chunks=(2,), fillvalue=-5)
        group = file.create_group("group")
        group.attrs["title"] = "a group"
        group.create_dataset("deep", data=np.arange(3.0))
    return path


def found(document: Document) -> list[tuple[str, str]]:
    return [(one.path, str(one.kind)) for one in validate(document).mismatches]


def changed(key: str, **fields: Any) -> Callable[[Document], None]:
    """Return what changes fields of one document."""

    def change(document: Document) -> None:
        own = json.loads(document["refs"][key])
        document["refs"][key] = json.dumps({**own, **fields})

    return change


def in_both(key: str, **fields: Any) -> Callable[[Document], None]:
    """Return what changes fields of a document of Zarr v2, also among the consolidated ones."""

    def change(document: Document) -> None:
        changed(key, **fields)(document)
        consolidated = json.loads(document["refs"][".zmetadata"])
        consolidated["metadata"][key] = json.loads(document["refs"][key])
        document["refs"][".zmetadata"] = json.dumps(consolidated)

    return change


def dropped(*keys: str) -> Callable[[Document], None]:
    def drop(document: Document) -> None:
        for key in keys:
            del document["refs"][key]

    return drop


def without_consolidated(*keys: str) -> Callable[[Document], None]:
    def drop(document: Document) -> None:
        consolidated = json.loads(document["refs"][".zmetadata"])
        for key in keys:
            del consolidated["metadata"][key]
        document["refs"][".zmetadata"] = json.dumps(consolidated)

    return drop


V2_MUTANTS = [
    (changed("x/.zattrs", count=2), "/x"),
    (changed("x/.zattrs", count=1.0), "/x"),
    (changed("x/.zarray", dtype=">i2"), "/x"),
    (changed("group/.zattrs", title="another"), "/group"),
    (changed(".zattrs", title="another"), "/"),
    (dropped("x/.zattrs"), "/x"),
    (dropped("group/.zgroup"), "/group"),
    (without_consolidated("x/.zarray", "x/.zattrs"), "/x"),
    (without_consolidated("group/.zgroup"), "/group"),
]
BOTH_MUTANTS = [
    (in_both("x/.zattrs", count=2), "/x"),
    (in_both("x/.zattrs", _ARRAY_DIMENSIONS=["y"]), "/x"),
    (in_both("x/.zarray", fill_value=1), "/x"),
    (in_both("group/deep/.zarray", fill_value=0.0), "/group/deep"),
    (in_both("group/deep/.zarray", compressor={"id": "zlib", "level": 1}), "/group/deep"),
    (in_both("group/.zattrs", title="another"), "/group"),
]


@pytest.mark.parametrize("zarr_format", ["2", "both"])
@pytest.mark.parametrize(("mutate", "path"), V2_MUTANTS)
def test_consolidated_metadata_of_zarr_v2(
    zarr_format: Any, mutate: Callable[[Document], None], path: str, source: Path
) -> None:
    document = convert(source, zarr_format=zarr_format).references()
    assert found(document) == []
    mutate(document)
    assert (path, "metadata") in found(document)


@pytest.mark.parametrize(("mutate", "path"), BOTH_MUTANTS)
def test_two_versions_of_metadata(mutate: Callable[[Document], None], path: str, source: Path) -> None:
    document = convert(source, zarr_format="both").references()
    assert "of_v3_only/.zarray" not in document["refs"]
    assert found(document) == []
    mutate(document)
    assert found(document) == [(path, "metadata")]


def test_array_that_only_zarr_v2_has(source: Path) -> None:
    document = convert(source, zarr_format="both").references()
    refs = document["refs"]
    refs["of_v3_only/.zarray"] = refs["x/.zarray"]
    assert ("/of_v3_only", "metadata") in found(document)


def test_consolidated_metadata_below_the_root(source: Path) -> None:
    """zarr-python and xarray believe them where a group is opened by its path."""
    document = convert(source).references()
    deep = json.loads(document["refs"]["group/deep/zarr.json"]) | {"data_type": "int64"}
    told = {"kind": "inline", "must_understand": False, "metadata": {"deep": deep}}
    changed("group/zarr.json", consolidated_metadata=told)(document)
    assert found(document) == [("/group", "metadata")]


def test_nodes_that_are_not_listed(source: Path) -> None:
    """Without consolidated metadata, zarr-python 3.1 lists groups of reference filesystems as empty."""
    document = convert(source).references()
    root = json.loads(document["refs"]["zarr.json"])
    del root["consolidated_metadata"]
    document["refs"]["zarr.json"] = json.dumps(root)
    is_listed = zarr.__version__ >= "3.4"
    assert found(document) == ([] if is_listed else [("/group/deep", "metadata")])


# Fields of zarr.json -----------------------------------------------------------------------


def v3(path: str, **fields: Any) -> Callable[[Document], None]:
    """Return what changes fields of an array's zarr.json, also the consolidated one; None drops one."""

    def change(document: Document) -> None:
        root = json.loads(document["refs"]["zarr.json"])
        nodes = root["consolidated_metadata"]["metadata"]
        nodes[path] = {name: value for name, value in {**nodes[path], **fields}.items() if value is not None}
        document["refs"]["zarr.json"] = json.dumps(root)
        document["refs"][f"{path}/zarr.json"] = json.dumps(nodes[path])

    return change


@pytest.fixture
def of_all_kinds(tmp_path: Path) -> Path:
    path = tmp_path / "kinds.h5"
    colours = h5py.enum_dtype({"RED": 0, "GREEN": 1}, "i1")
    with h5py.File(path, "w") as file:
        for name in "xy":
            file.create_dataset(name, data=np.arange(4)).make_scale(name)
        field = file.create_dataset("field", data=np.zeros((4, 4)))
        for axis, name in enumerate("xy"):
            field.dims[axis].attach_scale(file[name])
        file.create_dataset("colour", data=np.zeros(2, "i1"), dtype=colours)
        file.create_dataset("flag", data=np.zeros(2, bool))
        file.create_dataset("pair", (2,), [("a", colours, (2,)), ("b", "f4")])
        file.create_dataset("null", data=h5py.Empty("f4"))
        file.create_dataset("null_text", data=h5py.Empty(h5py.string_dtype()))
        file.create_dataset("short", (4,), "S4", chunks=(2,))
        file.create_dataset("time", data=np.zeros(2, h5py.opaque_dtype(np.dtype("M8[s]"))))
        file.create_dataset("text", (4,), h5py.string_dtype(), chunks=(2,))
    return path


def enum(**told: Any) -> dict[str, Any]:
    return {"must_understand": False, **told}


FIELDS = [
    (v3("x", dimension_names=["y"]), "/x", "metadata"),
    (v3("x", dimension_names=["x_4"]), "/x", "metadata"),
    (v3("field", dimension_names=["x_4", "y"]), "/field", "metadata"),
    (v3("field", dimension_names=["y", "x"]), "/field", "metadata"),
    (v3("colour", hdf5_enum=enum(members={"RED": 1, "GREEN": 0})), "/colour", "metadata"),
    (v3("colour", hdf5_enum=enum(members={"RED": 0})), "/colour", "metadata"),
    (v3("colour", hdf5_enum=None), "/colour", "metadata"),
    (v3("flag", hdf5_enum=enum(members={"RED": 0})), "/flag", "metadata"),
    (v3("pair", hdf5_enum=enum(fields={"a": {"members": {"RED": 2}}})), "/pair", "metadata"),
    (v3("pair", hdf5_enum=None), "/pair", "metadata"),
    (v3("null", data_type="int64", fill_value=0), "/null", "data type"),
    (v3("null_text", data_type="int8"), "/null_text", "data type"),
    (
        v3("short", data_type={"name": "null_terminated_bytes", "configuration": {"length_bytes": 6}}),
        "/short",
        "data type",
    ),
    (
        v3(
            "time",
            data_type={"name": "raw_bytes", "configuration": {"length_bytes": 8}},
            fill_value="AAAAAAAAAAA=",
        ),
        "/time",
        "data type",
    ),
    (
        v3("text", data_type="variable_length_bytes", fill_value="", codecs=[{"name": "vlen-bytes"}]),
        "/text",
        "data type",
    ),
]


@pytest.mark.parametrize(("mutate", "path", "kind"), FIELDS)
def test_other_field_of_an_array(
    mutate: Callable[[Document], None], path: str, kind: str, of_all_kinds: Path
) -> None:
    document = convert(of_all_kinds).references()
    assert found(document) == []
    mutate(document)
    assert (path, kind) in found(document)


def test_axes_shorter_than_their_dimension(tmp_path: Path) -> None:
    """netCDF-C leaves the scale of an unlimited dimension short: the longest variable is as long as it."""
    path = tmp_path / "short.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(4)).make_scale("x")
        for name, length in (("long", 6), ("same", 4), ("short", 2)):
            file.create_dataset(name, data=np.arange(length)).dims[0].attach_scale(file["x"])
    document = convert(path).references()
    names = {
        name: json.loads(document["refs"][f"{name}/zarr.json"])["dimension_names"]
        for name in ("long", "same", "short")
    }
    assert names == {"long": ["x"], "same": ["x_4"], "short": ["x_2"]}
    assert found(document) == []
    v3("long", dimension_names=["x_6"])(document)
    assert found(document) == [("/long", "metadata")]


def test_enumerations_that_h5py_takes_for_bool(tmp_path: Path) -> None:
    path = tmp_path / "like_bool.h5"
    names = h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, "<i4")
    with h5py.File(path, "w") as file:
        low = h5py.h5t.enum_create(h5py.h5t.STD_I32LE)
        for name, value in ((b"FALSE", 0), (b"TRUE", 1)):
            low.enum_insert(name, value)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"x", low, space)
        file.create_dataset("pair", (2,), [("a", names), ("b", "f4")])
    assert found(convert(path).references()) == []


def test_scale_of_several_dimensions(tmp_path: Path) -> None:
    """netCDF-4 names the dimensions of such a coordinate variable by number."""
    path = tmp_path / "two.nc"
    with h5py.File(path, "w") as file:
        for number, name in enumerate("xy"):
            file.create_dataset(name, data=np.arange(4)).make_scale(name)
            file[name].attrs["_Netcdf4Dimid"] = np.int32(number)
        file["y"].attrs["_Netcdf4Coordinates"] = np.array([1], "i4")
        file.create_dataset("t", data=np.zeros((4, 4))).make_scale("t")
        file["t"].attrs["_Netcdf4Coordinates"] = np.array([0, 1], "i4")
    assert found(convert(path).references()) == []


# Parquet of Zarr v2 ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated")
def test_parquet_of_zarr_v2(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as file:
        file.create_dataset("group/sparse", (40,), "<i4", chunks=(4,))[8:12] = 7
        file["scalar"] = 3.5
    out = tmp_path / "references.parq"
    convert(source, out, zarr_format="2", inline_threshold=0)
    report = validate(out)
    assert report.ok, report.mismatches
    assert report.arrays_compared == 4
    text = (out / ".zmetadata").read_text()
    document = json.loads(text)
    document["metadata"]["x/.zarray"]["fill_value"] = 1
    (out / ".zmetadata").write_text(json.dumps(document))
    assert [(one.path, one.attribute) for one in validate(out).mismatches] == [("/x", "_FillValue")]
    (out / ".zmetadata").write_text(text)
    (out / "x/refs.0.parq").write_bytes((out / "group/sparse/refs.0.parq").read_bytes())
    assert ("/x", "missing reference") in [(one.path, str(one.kind)) for one in validate(out).mismatches]
