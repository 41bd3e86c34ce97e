"""What `h5zarr inspect` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest

from h5zarr.errors import Problem
from h5zarr.inspection import Inspection, describe_datatype, inspect_scan
from h5zarr.model import Hierarchy
from h5zarr.read_datatype import read_datatype
from h5zarr.scanner import scan
from h5zarr.text import count, human_bytes, printable


def inspection_of(path: Path, *problems: Problem) -> Inspection:
    found = scan(path)
    hierarchy = Hierarchy(
        nodes={}, source=found.source, selection=found.selection, problems=(*found.problems, *problems)
    )
    return inspect_scan(found, hierarchy)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "f.h5"
    with h5py.File(target, "w") as file:
        image = file.create_dataset(
            "deep/image", (10, 7), "i2", chunks=(4, 7), maxshape=(None, 7), compression="gzip", shuffle=True
        )
        image[:4] = 1
        file["deep/again"] = image
        file["soft"] = h5py.SoftLink("/deep/image")
        file["number"] = 1.5
        file["nothing"] = h5py.Empty("f4")
        file["text\nline"] = "ü"
    return target


def line_of(inspection: Inspection, path: str) -> list[str]:
    return next(line.split() for line in inspection.lines() if line.split()[:1] == [path])


def test_table_says_what_a_dataset_is(path: Path) -> None:
    found = line_of(inspection_of(path), "/deep/again")
    assert found[:9] == ["/deep/again", "10/inf", "x", "7", "int16", "chunked", "4", "x", "7"]
    assert found[9:13] == ["1/3", "shuffle,", "deflate", "4"]
    assert found[-2:] == ["140", "B"]


@pytest.mark.parametrize(("name", "shape"), [("/number", "scalar"), ("/nothing", "null")])
def test_table_shows_shapes_without_extent(path: Path, name: str, shape: str) -> None:
    assert line_of(inspection_of(path), name)[1] == shape


def test_table_is_aligned(path: Path) -> None:
    lines = inspection_of(path).lines()
    header = next(line for line in lines if line.startswith("path"))
    rows = [line for line in lines if line.startswith("/") and not line.endswith("/")]
    column = header.index("layout")
    assert rows
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


def test_every_line_is_one_line(path: Path) -> None:
    lines = inspection_of(path).lines()
    assert any(r"/text\nline" in line for line in lines)
    assert not any("\n" in line for line in lines)


def test_groups_come_before_their_datasets(path: Path) -> None:
    lines = inspection_of(path).lines()
    assert lines.index("/deep/") < lines.index(next(line for line in lines if line.startswith("/deep/again")))


def test_other_names_are_shown(path: Path) -> None:
    lines = inspection_of(path).lines()
    assert "  /deep/image = /deep/again" in lines
    assert "  /soft = /deep/again" in lines


def test_problems_are_shown_at_their_dataset_and_below(path: Path) -> None:
    lost = Problem(path="/number", found="a strange thing", remedy="do something")
    part = Problem(path="/nothing", found="a strange thing", remedy="do something", attribute="a")
    inspection = inspection_of(path, lost, part)
    assert line_of(inspection, "/number")[-1] == "dataset"
    assert line_of(inspection, "/nothing")[-2:] == ["1", "attribute"]
    assert inspection.lines()[-2:] == [
        "  /number: a strange thing; do something",
        "  /nothing @a: a strange thing; do something",
    ]


def test_json_holds_the_same(path: Path) -> None:
    document = json.loads(json.dumps(inspection_of(path).to_json()))
    image = next(entry for entry in document["datasets"] if entry["path"] == "/deep/again")
    assert document["source"]["byte_length"] == path.stat().st_size
    assert document["groups"] == ["/", "/deep"]
    assert document["other_names"]["/soft"] == "/deep/again"
    assert image["shape"] == [10, 7]
    assert image["maximum_shape"] == [None, 7]
    assert image["datatype"] == {"class": "integer", "byte_length": 2, "text": "int16"}
    assert (image["chunks_stored"], image["chunks_total"]) == (1, 3)
    assert [stage["name"] for stage in image["filters"]] == ["shuffle", "deflate"]
    assert image["logical_bytes"] == 140
    assert image["other_names"] == ["/deep/image", "/soft"]
    assert not image["left_out"]


def test_dimension_scales_are_named(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        file.createDimension("x", 2)
        file.createDimension("bare", 3)
        file.createVariable("x", "f4", ("x",))
        file.createGroup("g").createVariable("v", "f4", ("bare", "x"))
    inspection = inspection_of(tmp_path / "f.nc")
    assert line_of(inspection, "/x")[-1] == "(scale)"
    assert line_of(inspection, "/bare")[-2:] == ["(netCDF", "dimension)"]
    assert line_of(inspection, "/g/v")[-2:] == ["/bare,", "/x"]


@pytest.mark.parametrize(
    ("byte_length", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_999, "1 MB"), (5 * 10**12, "5 TB")],
)
def test_human_bytes(byte_length: int, text: str) -> None:
    assert human_bytes(byte_length) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("ü /x", "ü /x"), ("a\x1b[31m", r"a\x1b[31m"), ("b\udcff", r"b\xff"), ("\ud800", r"\ud800")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_count() -> None:
    assert [count(number, "array") for number in (0, 1, 1024)] == ["0 arrays", "1 array", "1,024 arrays"]


def twelve_bits() -> Any:
    datatype = h5py.h5t.STD_I16LE.copy()
    datatype.set_precision(12)
    datatype.set_offset(2)
    return datatype


def bfloat16() -> Any:
    datatype = h5py.h5t.IEEE_F32LE.copy()
    datatype.set_fields(15, 7, 8, 0, 7)
    datatype.set_size(2)
    datatype.set_precision(16)
    return datatype


def created(dtype: Any) -> Any:
    return h5py.h5t.py_create(np.dtype(dtype), logical=True)


def tagged() -> Any:
    datatype = h5py.h5t.create(h5py.h5t.OPAQUE, 4)
    datatype.set_tag(b"label")
    return datatype


MANY = {f"name{number}": number for number in range(9)}
DATATYPES: dict[str, Any] = {
    "int8": h5py.h5t.STD_I8BE,
    "uint16": created("<u2"),
    "int32 big-endian": created(">i4"),
    "int16 (12 bits from bit 2)": twelve_bits(),
    "float16": created("f2"),
    "float64": created("<f8"),
    "float16 (exponent 8, mantissa 7 bits)": bfloat16(),
    "bitfield8": h5py.h5t.STD_B8LE,
    "string": created(h5py.string_dtype()),
    "string[5]": created("S5"),
    'opaque[4] "label"': tagged(),
    "object reference": created(h5py.ref_dtype),
    "region reference": created(h5py.regionref_dtype),
    "bool": created("?"),
    "enum uint8 {low, high}": created(h5py.enum_dtype({"low": 0, "high": 3}, basetype="u1")),
    "enum uint8 {name0, name1, name2, name3, …}": created(h5py.enum_dtype(MANY, basetype="u1")),
    "{x: float32, y: {z: int8}}": created([("x", "<f4"), ("y", [("z", "i1")])]),
    "float64[3, 2]": created(("<f8", (3, 2))),
    "sequence of int32": created(h5py.vlen_dtype(np.dtype("<i4"))),
}


@pytest.mark.parametrize(("text", "datatype"), DATATYPES.items(), ids=DATATYPES)
def test_datatype_in_words(text: str, datatype: Any) -> None:
    assert describe_datatype(read_datatype(datatype)) == text
