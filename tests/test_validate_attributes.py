"""Validation of attributes: each mutant spoils one attribute of sound references, which must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING

from h5zarr.converter import convert
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

Document = dict[str, Any]


def write_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.arange(4, dtype="<i2"), chunks=(2,))
        x.attrs["_FillValue"] = np.int16(2)
        x.attrs["count"] = np.int32(1)
        x.attrs["factor"] = np.float64(2)
        x.attrs["nested"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
        x.attrs["null"] = h5py.Empty("f4")
        x.attrs["null_text"] = h5py.Empty("S1")
        file["z_again"] = x
        file["z_soft"] = h5py.SoftLink("/x")
        file.create_dataset("y", data=np.arange(4, dtype="<i2"), chunks=(2,))
        file.create_dataset("f", data=np.arange(4, dtype="<f4")).attrs["_FillValue"] = np.float32(0.1)
        file.create_group("group").create_dataset("deep", data=np.arange(3))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_file(tmp_path / "attributes.h5")
    return tmp_path / "attributes.h5"


def edit(document: Document, key: str, change: Callable[[Document], None]) -> None:
    """Change a document of metadata, also where it stands among the consolidated ones."""
    refs, (path, _, name) = document["refs"], key.rpartition("/")
    for place in (key, "zarr.json" if name == "zarr.json" else ".zmetadata"):
        whole = own = json.loads(refs[place])
        if place != key:
            known = (whole.get("consolidated_metadata") or whole)["metadata"]
            own = known[path if name == "zarr.json" else key]
        change(own)
        refs[place] = json.dumps(whole)


def found(document: Document) -> list[tuple[str, str, str | None]]:
    return [(one.path, str(one.kind), one.attribute) for one in validate(document).mismatches]


SPOILED = [
    ("count", 1.0),
    ("count", True),
    ("factor", 2),
    ("nested", {"a": 1.0, "b": 2.0}),
    ("_FillValue", 2.0),
    ("_FillValue", 3),
    ("null", ""),
    ("null", None),
    ("null_text", []),
    ("flag_values", [1, 2]),
    ("flag_meanings", "a b"),
    ("hdf5_anything", 1),
    ("h5zarr_anything", 1),
    ("hdf5_links", ["/nowhere"]),
    ("hdf5_links", ["/y"]),
    ("hdf5_links", "/z_again"),
    ("missing_value", 1),
]


@pytest.mark.parametrize("links", ["arrays", "attributes"])
@pytest.mark.parametrize(("name", "value"), SPOILED)
def test_spoiled_attribute(links: Any, name: str, value: Any, source: Path) -> None:
    document = convert(source, links=links).references()
    assert validate(document).ok
    edit(document, "x/zarr.json", lambda own: own["attributes"].update({name: value}))
    assert found(document) == [("/x", "attribute", name)]


def test_other_names_may_be_told(source: Path) -> None:
    document = convert(source).references()
    told = {"hdf5_links": ["/z_again", "/z_soft"]}
    edit(document, "x/zarr.json", lambda own: own["attributes"].update(told))
    assert found(document) == []


def test_reported_attribute_has_no_other_value(source: Path) -> None:
    document = convert(source).references()
    problem = {"path": "/x", "attribute": "count", "found": "something", "remedy": "nothing"}
    document["h5zarr"]["problems"].append(problem)
    assert found(document) == []
    edit(document, "x/zarr.json", lambda own: own["attributes"].update(count=7))
    assert found(document) == [("/x", "attribute", "count")]
    edit(document, "x/zarr.json", lambda own: own["attributes"].pop("count"))
    assert found(document) == []


FILL_VALUES = [
    ("<i4", np.float64(-0.0)),
    ("<i4", np.float32(5)),
    ("<i4", np.bool_(True)),
    ("<u1", np.array([[1]], "i8")),
    ("<f8", np.array([[1]], "i8")),
    ("<f4", np.array([[0.5]])),
    ("<c8", np.array([[1 + 2j]], "<c16")),
    ("<c8", np.float32(3)),
    ("?", np.int8(1)),
]


@pytest.mark.parametrize("zarr_format", ["2", "3"])
@pytest.mark.parametrize(("dtype", "fill"), FILL_VALUES)
def test_fill_value_of_another_type(zarr_format: Any, dtype: str, fill: Any, tmp_path: Path) -> None:
    """The array's type decides how the number is written, not that of the attribute."""
    with h5py.File(tmp_path / "fill.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(3, dtype)).attrs.create("_FillValue", fill)
    document = convert(tmp_path / "fill.h5", zarr_format=zarr_format).references()
    assert document["h5zarr"]["problems"] == []
    assert found(document) == []


# What xarray masks in Zarr v2 --------------------------------------------------------------


MASKS: list[tuple[str, dict[str, Any], str, str]] = [
    ("x/.zarray", {"fill_value": 1}, "/x", "_FillValue"),
    ("x/.zarray", {"fill_value": None}, "/x", "_FillValue"),
    ("y/.zarray", {"fill_value": 0}, "/y", "_FillValue"),
    ("f/.zarray", {"fill_value": 0.25}, "/f", "_FillValue"),
    ("f/.zarray", {"fill_value": "NaN"}, "/f", "_FillValue"),
    ("y/.zattrs", {"_FillValue": 1}, "/y", "_FillValue"),
    ("y/.zattrs", {"missing_value": 1}, "/y", "missing_value"),
    ("x/.zattrs", {"missing_value": 1}, "/x", "missing_value"),
]


@pytest.mark.parametrize(("key", "fields", "path", "attribute"), MASKS)
def test_other_mask_in_zarr_v2(
    key: str, fields: dict[str, Any], path: str, attribute: str, source: Path
) -> None:
    document = convert(source, zarr_format="2").references()
    assert found(document) == []
    edit(document, key, lambda own: own.update(fields))
    assert found(document) == [(path, "attribute", attribute)]


@pytest.mark.parametrize("fill", [0.1, -5])
def test_mask_that_the_data_type_does_not_have(fill: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "fill.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(3, "<u2" if fill == -5 else "<f4")).attrs["_FillValue"] = fill
    document = convert(tmp_path / "fill.h5", zarr_format="2").references()
    assert found(document) == []
    name = "missing_value" if fill == -5 else "_FillValue"
    edit(document, "x/.zattrs", lambda own: own.update({name: 1}))
    assert found(document) == [("/x", "attribute", "_FillValue")]


def test_nan_masks_nothing_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "fill.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(3, "<f4"))
    document = convert(tmp_path / "fill.h5", zarr_format="2").references()
    edit(document, "x/.zarray", lambda own: own.update(fill_value="NaN"))
    assert found(document) == []
