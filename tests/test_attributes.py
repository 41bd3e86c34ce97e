"""HDF5 attributes to JSON: every kind of value, the netCDF conventions, and xarray's view of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

from h5zarr.attributes import (
    encode_fill_value,
    enumeration_fields,
    is_dimension_placeholder,
    is_dimension_scale,
    translate_attributes,
)
from h5zarr.converter import convert
from h5zarr.errors import UntranslatableError
from h5zarr.model import Attribute, Datatype, DatatypeClass, Member
from h5zarr.read_values import ReferenceNames, TypeCache, read_attribute
from h5zarr.validator import validate


def attributes_of(thing: Any) -> list[Attribute]:
    types, names = TypeCache(), ReferenceNames(thing.file.id, {})
    count = h5py.h5a.get_num_attrs(thing.id)
    found = (h5py.h5a.open(thing.id, index=position).name for position in range(count))
    # The reader keeps these to itself where they are those of dimension scales, as in all files here.
    kept = (name for name in found if name not in (b"DIMENSION_LIST", b"REFERENCE_LIST"))
    return [read_attribute(thing.id, name, types, names) for name in kept]


class Kinds:
    """Named writers of one attribute `a`, and the JSON that must come out."""

    def __init__(self) -> None:
        self.cases: list[Any] = []

    def add(self, name: str, expected: Any, write: Callable[[h5py.Group], object]) -> None:
        self.cases.append(pytest.param(write, expected, id=name))

    def value(self, name: str, expected: Any, value: Any, dtype: Any = None) -> None:
        self.add(name, expected, lambda group: group.attrs.create("a", value, dtype=dtype))


def low_level(type_of: Callable[[], Any], stored: np.ndarray[Any, Any]) -> Callable[[h5py.Group], object]:
    def write(group: h5py.Group) -> None:
        space = h5py.h5s.create_simple(stored.shape) if stored.shape else h5py.h5s.create(h5py.h5s.SCALAR)
        attribute = h5py.h5a.create(group.id, b"a", type_of(), space)
        attribute.write(stored, mtype=type_of())

    return write


def fixed_string(length: int, padding: int, character_set: int = h5py.h5t.CSET_ASCII) -> Any:
    datatype = h5py.h5t.C_S1.copy()
    datatype.set_size(length)
    datatype.set_strpad(padding)
    datatype.set_cset(character_set)
    return datatype


def write_compound_of_everything(group: h5py.Group) -> None:
    fields = np.dtype(
        [("number", "<f4"), ("name", h5py.string_dtype()), ("code", "S3"), ("grid", "<i2", (2, 2))]
    )
    value = np.zeros((), fields)
    value["number"], value["name"], value["code"], value["grid"] = 0.5, "ü", b"ab", [[1, 2], [3, 4]]
    group.attrs.create("a", value, dtype=fields)


def write_references(group: h5py.Group) -> None:
    group.create_group("there")
    group.attrs.create("a", [group["there"].ref, h5py.Reference()], dtype=h5py.ref_dtype)


def write_region(group: h5py.Group) -> None:
    data = group.create_dataset("d", data=np.arange(4))
    group.attrs.create("a", data.regionref[1:2], dtype=h5py.regionref_dtype)


def write_ragged(group: h5py.Group) -> None:
    values = np.empty(2, object)
    values[0], values[1] = np.array([1, 2], "i4"), np.array([], "i4")
    group.attrs.create("a", values, dtype=h5py.vlen_dtype(np.dtype("i4")))


def write_character_sequences(group: h5py.Group) -> None:
    values = np.empty(2, object)
    values[0], values[1] = np.array([b"x", b"y"], "S1"), np.array([b"z"], "S1")
    group.attrs.create("a", values, dtype=h5py.vlen_dtype(np.dtype("S1")))


KINDS = Kinds()
for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
    limits = np.iinfo(code)
    KINDS.value(f"{code}-limits", [limits.min, limits.max], np.array([limits.min, limits.max], code))
KINDS.value("u8-beyond-int64", 2**63 + 5, np.uint64(2**63 + 5))
KINDS.value("big-endian", [1, 258], np.array([1, 258], ">i4"))
KINDS.value("float16", 0.0999755859375, np.float16(0.1))
KINDS.value("float32", 0.10000000149011612, np.float32(0.1))
KINDS.value("float64", 0.1, 0.1)
KINDS.value("float64-extremes", [5e-324, 1.7976931348623157e308], np.array([5e-324, 1.7976931348623157e308]))
KINDS.value("negative-zero", [-0.0, 0.0], np.array([-0.0, 0.0]))
KINDS.value(
    "nan-and-infinities", [float("nan"), float("inf"), float("-inf")], np.array([np.nan, np.inf, -np.inf])
)
KINDS.value("long-double-that-is-a-double", 1.5, np.longdouble("1.5"))
KINDS.value("long-double-nan", [float("nan"), float("-inf")], np.array([np.nan, -np.inf], np.longdouble))
KINDS.value("bool", True, np.bool_(True))
KINDS.value("bool-array", [True, False], np.array([True, False]))
KINDS.value("complex64", [1.0, -2.0], np.complex64(1 - 2j))
KINDS.value("complex128-array", [[1.0, 2.0], [0.0, 1.0]], np.array([1 + 2j, 1j]))
KINDS.value("enum", 7, 7, h5py.enum_dtype({"low": 1, "high": 7}, basetype="u2"))
KINDS.value("one-element", 5, np.array([5]))
KINDS.value("one-by-one", [[5]], np.array([[5]]))
KINDS.value("one-row", [[5, 6]], np.array([[5, 6]]))
KINDS.value("matrix", [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]))
KINDS.value("zero-length", [], np.zeros((0,)))
KINDS.value("zero-rows", [[], []], np.zeros((2, 0)))
KINDS.value("null-number", [], h5py.Empty("f4"))
KINDS.value("null-character", "", h5py.Empty("S1"))
KINDS.value("null-fixed-string", [], h5py.Empty("S5"))
KINDS.value("null-text", [], h5py.Empty(h5py.string_dtype()))
KINDS.value("text", "Größe", "Größe")
KINDS.value("text-empty", "", "")
KINDS.value("text-array", ["a", "ü", ""], np.array(["a", "ü", ""], object), h5py.string_dtype())
KINDS.value("text-one", "a", np.array(["a"], object), h5py.string_dtype())
KINDS.value("text-matrix", [["a"], ["b"]], np.array([["a"], ["b"]], object), h5py.string_dtype())
KINDS.value("text-ascii", "m s-1", "m s-1", h5py.string_dtype("ascii"))
KINDS.value("text-not-utf8", {"base64": "//4="}, b"\xff\xfe", h5py.string_dtype())
KINDS.value("fixed", "m s-1", np.bytes_(b"m s-1"))
KINDS.value("fixed-array", ["ab", "c"], np.array([b"ab", b"c"]))
KINDS.value("fixed-utf8", "°C", "°C".encode(), h5py.string_dtype("utf-8", 3))
KINDS.value("fixed-ascii-with-utf8-in-it", "°C", np.bytes_("°C".encode()))
KINDS.value("fixed-not-utf8", {"base64": "sEM="}, np.bytes_(b"\xb0C"))
KINDS.value("fixed-some-not-utf8", ["K", {"base64": "sEM="}], np.array([b"K", b"\xb0C"]))
KINDS.value("character", "x", np.bytes_(b"x"))
KINDS.value("characters", ["a", "b"], np.array([b"a", b"b"]))
KINDS.add(
    "fixed-null-padded",
    "ab",
    low_level(lambda: fixed_string(4, h5py.h5t.STR_NULLPAD), np.array(b"ab\0\0", "S4")),
)
KINDS.add(
    "fixed-space-padded",
    "ab",
    low_level(lambda: fixed_string(4, h5py.h5t.STR_SPACEPAD), np.array(b"ab  ", "S4")),
)
KINDS.value("opaque", {"base64": "AAEC/w=="}, np.void(b"\0\1\2\xff"))
KINDS.value("opaque-array", [{"base64": "AQI="}, {"base64": "AwA="}], np.array([b"\1\2", b"\3"], "V2"))
KINDS.value(
    "datetime64",
    {"base64": "AQAAAAAAAAA="},
    np.array(1, "<M8[s]").view(),
    h5py.opaque_dtype(np.dtype("<M8[s]")),
)
KINDS.value("array-datatype", [1, 2, 3], np.array((1, 2, 3)), np.dtype(("i4", (3,))))
KINDS.value("compound", {"a": 1, "b": 2.0}, np.array((1, 2.0), [("a", "i4"), ("b", "f8")]))
KINDS.value("compound-array", [{"a": 1}, {"a": 2}], np.array([(1,), (2,)], [("a", ">i4")]))
KINDS.value(
    "compound-nested",
    {"p": {"x": 1.0, "on": True}, "z": [0.0, 1.0]},
    np.array(((1.0, True), 1j), [("p", [("x", "f4"), ("on", "?")]), ("z", "c8")]),
)
KINDS.add(
    "compound-of-everything",
    {"number": 0.5, "name": "ü", "code": "ab", "grid": [[1, 2], [3, 4]]},
    write_compound_of_everything,
)
KINDS.add("references", ["/there", ""], write_references)
KINDS.add("region", "/d", write_region)
KINDS.add("variable-length", [[1, 2], []], write_ragged)
KINDS.add("variable-length-characters", [["x", "y"], ["z"]], write_character_sequences)
KINDS.add("bitfield", 170, low_level(lambda: h5py.h5t.STD_B8LE, np.array(170, "u1")))


@pytest.mark.parametrize(("write", "expected"), KINDS.cases)
def test_kind(write: Callable[[h5py.Group], object], expected: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write(file)
        found, problems = translate_attributes(attributes_of(file), path="/")
    assert problems == ()
    # As text: 1, 1.0 and True are equal in Python, NaN is not even equal to itself.
    assert json.dumps(found) == json.dumps({"a": expected})


def number(name: str, value: Any) -> Attribute:
    values = np.asarray(value)
    kind = {"f": DatatypeClass.FLOAT, "c": DatatypeClass.COMPLEX, "V": DatatypeClass.COMPOUND}
    datatype = Datatype(
        datatype_class=kind.get(values.dtype.kind, DatatypeClass.INTEGER),
        byte_length=values.dtype.itemsize,
    )
    return Attribute(name=name, datatype=datatype, shape=values.shape, value=values)


def text(name: str, value: bytes) -> Attribute:
    datatype = Datatype(datatype_class=DatatypeClass.STRING, byte_length=max(len(value), 1))
    return Attribute(name=name, datatype=datatype, shape=(), value=np.array(value))


LONG = np.longdouble(1) + np.finfo(np.longdouble).eps


@pytest.mark.skipif(np.finfo(np.longdouble).eps == np.finfo(float).eps, reason="long double is double here")
@pytest.mark.parametrize(
    "value", [LONG, np.array([1, LONG]), np.clongdouble(LONG * 1j), np.longdouble("1e400")]
)
def test_long_double_that_is_no_double_is_a_problem_of_that_attribute_alone(value: Any) -> None:
    found, problems = translate_attributes([number("a", value), number("b", 1)], path="/x")
    assert found == {"b": 1}
    assert [(problem.path, problem.attribute) for problem in problems] == [("/x", "a")]
    assert "long double" in problems[0].found


def test_name_that_is_not_utf8_is_a_problem() -> None:
    found, problems = translate_attributes(
        [number(b"\xe9t\xe9".decode("utf-8", "surrogateescape"), 1)], path="/x"
    )
    assert found == {}
    assert problems[0].attribute == r"\xe9t\xe9"
    assert "UTF-8" in problems[0].found
    json.dumps(problems[0].to_json(), ensure_ascii=False).encode("utf-8")


def test_unknown_type_is_a_problem() -> None:
    _, problems = translate_attributes([number("a", np.array([1, None], object))], path="/x")
    assert "no form in JSON" in problems[0].found


def test_order_is_kept() -> None:
    names = ["z", "a", "m"]
    assert list(translate_attributes([number(name, 1) for name in names], path="/")[0]) == names


# Dimension scales -------------------------------------------------------------------------


def test_bookkeeping_of_netcdf_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / "f.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        file.createDimension("alone", 2)
        file.createVariable("x", "f4", ("x",)).units = "m"
        file.createVariable("v", "f4", ("alone", "x")).units = "K"
        file.title = "t"
    with h5py.File(path) as file:
        data_types = {"/": None, "x": np.dtype("f4"), "v": np.dtype("f4")}
        shown = {
            name: translate_attributes(attributes_of(file[name]), path=name, data_type=data_type)
            for name, data_type in data_types.items()
        }
        assert shown == {"/": ({"title": "t"}, ()), "x": ({"units": "m"}, ()), "v": ({"units": "K"}, ())}
        assert is_dimension_placeholder(attributes_of(file["alone"]))
        assert is_dimension_scale(attributes_of(file["x"]))
        assert not is_dimension_placeholder(attributes_of(file["x"]))
        assert not is_dimension_scale(attributes_of(file["v"]))


@pytest.mark.parametrize("stored", [b"CARRAY", b"IMAGE", b"GROUP"])
def test_class_of_other_conventions_is_kept(stored: bytes) -> None:
    found, _ = translate_attributes([text("CLASS", stored), text("NAME", b"n")], path="/x")
    assert found == {"CLASS": stored.decode(), "NAME": "n"}


def test_class_that_is_not_text_is_kept() -> None:
    assert translate_attributes([number("CLASS", 3)], path="/x")[0] == {"CLASS": 3}


def write_object_reference_list(node: h5py.Dataset | h5py.Group, name: str) -> None:
    """As the dimension scale API has it, but on a group or as a scalar."""
    values = np.empty(1, object)
    values[0] = np.array([node.file["scale"].ref], h5py.ref_dtype)
    node.attrs.create(name, values, dtype=h5py.vlen_dtype(h5py.ref_dtype))


def write_back_reference(node: h5py.Dataset | h5py.Group, shape: tuple[int, ...]) -> None:
    fields = np.dtype([("dataset", h5py.ref_dtype), ("dimension", "<i4")])
    value = np.empty(shape, fields)
    value["dataset"], value["dimension"] = node.file["scale"].ref, 0
    node.attrs.create("REFERENCE_LIST", value, dtype=fields)


# Name, object, what to write, and what must come out.
OWN_ATTRIBUTES: dict[str, tuple[str, str, Any, Any]] = {
    "group-text-reference-list": ("REFERENCE_LIST", "/", "my notes", "my notes"),
    "group-text-dimension-list": ("DIMENSION_LIST", "/", ["ab", "cd"], ["ab", "cd"]),
    "group-scalar-dimension-list": ("DIMENSION_LIST", "g", 5, 5),
    "group-empty-dimension-list": ("DIMENSION_LIST", "g", h5py.Empty("f4"), []),
    "dataset-number-reference-list": ("REFERENCE_LIST", "d", 7, 7),
    "dataset-text-reference-list": ("REFERENCE_LIST", "d", "mine", "mine"),
    "dataset-compound-reference-list": (
        "REFERENCE_LIST",
        "d",
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        {"a": 1, "b": 2.0},
    ),
    "dataset-float-dimension-list": ("DIMENSION_LIST", "d", [1.5], 1.5),
    "dataset-text-dimension-list": ("DIMENSION_LIST", "d", ["user"], "user"),
    "dataset-scalar-dimension-list": ("DIMENSION_LIST", "d", 5, 5),
    "group-of-real-type-dimension-list": (
        "DIMENSION_LIST",
        "g",
        lambda node: write_object_reference_list(node, "DIMENSION_LIST"),
        ["/scale"],
    ),
    "group-of-real-type-reference-list": (
        "REFERENCE_LIST",
        "g",
        lambda node: write_back_reference(node, (1,)),
        {"dataset": "/scale", "dimension": 0},
    ),
    "dataset-scalar-of-back-reference": (
        "REFERENCE_LIST",
        "d",
        lambda node: write_back_reference(node, ()),
        {"dataset": "/scale", "dimension": 0},
    ),
    "dataset-reference-list-of-the-other-type": (
        "REFERENCE_LIST",
        "d",
        lambda node: write_object_reference_list(node, "REFERENCE_LIST"),
        ["/scale"],
    ),
}


@pytest.mark.parametrize(("name", "owner", "write", "expected"), OWN_ATTRIBUTES.values(), ids=OWN_ATTRIBUTES)
def test_attribute_that_is_only_named_as_those_of_dimension_scales_is_kept(
    name: str, owner: str, write: Any, expected: Any, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["d"], file["scale"] = [1, 2], [1, 2]
        node = file[owner] if owner in file else file.create_group(owner)
        node.attrs["k"] = 1
        write(node) if callable(write) else node.attrs.create(name, write)
    converted = convert(tmp_path / "f.h5", tmp_path / "f.json")
    assert converted.problems == ()
    document = json.loads((tmp_path / "f.json").read_text())["refs"]
    found = json.loads(document[f"{owner}/zarr.json".lstrip("/")])["attributes"]
    assert {key: found.get(key) for key in ("k", name)} == {"k": 1, name: expected}
    assert validate(tmp_path / "f.json").ok


def test_attributes_of_dimension_scales_are_hidden(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["d"], file["scale"] = [1, 2], [1, 2]
        file["scale"].make_scale("scale")
        file["d"].dims[0].attach_scale(file["scale"])
        assert "DIMENSION_LIST" in file["d"].attrs
        assert "REFERENCE_LIST" in file["scale"].attrs
    convert(tmp_path / "f.h5", tmp_path / "f.json")
    document = json.loads((tmp_path / "f.json").read_text())["refs"]
    array = json.loads(document["d/zarr.json"])
    assert (array["attributes"], array["dimension_names"]) == ({}, ["scale"])
    assert json.loads(document["scale/zarr.json"])["attributes"] == {}
    assert validate(tmp_path / "f.json").ok


# Enumerations -----------------------------------------------------------------------------


def enumeration(**members: int) -> Datatype:
    base = Datatype(datatype_class=DatatypeClass.INTEGER, byte_length=1)
    pairs = tuple(members.items())
    return Datatype(datatype_class=DatatypeClass.ENUM, byte_length=1, enumeration=pairs, base=base)


PLAIN = Datatype(datatype_class=DatatypeClass.INTEGER, byte_length=4)
CLOUD = enumeration(clear=0, cumulus=1)


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [
        pytest.param(CLOUD, {"members": {"clear": 0, "cumulus": 1}}, id="enum"),
        pytest.param(
            Datatype(datatype_class=DatatypeClass.ARRAY, byte_length=3, dimensions=(3,), base=CLOUD),
            {"members": {"clear": 0, "cumulus": 1}},
            id="array-of-enum",
        ),
        pytest.param(
            Datatype(
                datatype_class=DatatypeClass.COMPOUND,
                byte_length=5,
                members=(
                    Member(name="n", byte_offset=0, datatype=PLAIN),
                    Member(name="cloud", byte_offset=4, datatype=CLOUD),
                ),
            ),
            {"fields": {"cloud": {"members": {"clear": 0, "cumulus": 1}}}},
            id="compound",
        ),
    ],
)
def test_names_of_an_enumeration_are_kept(datatype: Datatype, expected: dict[str, Any]) -> None:
    assert enumeration_fields(datatype) == {"hdf5_enum": {"must_understand": False, **expected}}


@pytest.mark.parametrize("datatype", [PLAIN, enumeration(FALSE=0, TRUE=1)], ids=["integer", "bool"])
def test_no_enumeration_no_field(datatype: Datatype) -> None:
    assert enumeration_fields(datatype) == {}


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_zarr_reads_the_names_of_an_enumeration(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(2,), dtype="i1")
    document = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    fields = enumeration_fields(CLOUD)
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(document | fields))
    assert zarr.open_array(tmp_path / "a.zarr", mode="r").metadata.extra_fields == fields


# Fill values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [
        pytest.param(np.float32(1e20), "f4", id="float32"),
        pytest.param(np.float64(np.nan), "f8", id="nan"),
        pytest.param(np.array([-9999.0]), "f8", id="one-element"),
        pytest.param(np.int16(-999), "f4", id="integer-for-floats"),
        pytest.param(np.int16(-999), "i2", id="int16"),
        pytest.param(np.float64(-999), "i2", id="whole-float-for-integers"),
        pytest.param(np.uint64(2**64 - 1), "u8", id="uint64"),
        pytest.param(np.bool_(True), "?", id="bool"),
        pytest.param(np.complex64(1 - 1j), "c8", id="complex"),
    ],
)
def test_xarray_decodes_the_fill_value(attribute: Any, dtype: str) -> None:
    from xarray.backends.zarr import FillValueCoder

    encoded = json.loads(json.dumps(encode_fill_value(attribute, np.dtype(dtype))))
    np.testing.assert_equal(FillValueCoder.decode(encoded, np.dtype(dtype)), attribute.reshape(()).item())


@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [
        (np.array([1, 2]), "i4"),
        (np.float64(0.5), "i4"),
        (np.float64(np.nan), "i4"),
        (np.int32(300), "u1"),
        (np.int64(2**53 + 1), "f8"),
        (np.complex64(1j), "f8"),
        (np.complex64(1j), "i4"),
        (np.int8(2), "?"),
        (np.array(b"x"), "f4"),
        (np.array(b"x"), "S1"),
    ],
)
def test_fill_value_that_the_type_does_not_have(attribute: Any, dtype: str) -> None:
    with pytest.raises(UntranslatableError):
        encode_fill_value(attribute, np.dtype(dtype))


def test_fill_value_of_a_group_is_an_attribute_like_others() -> None:
    assert translate_attributes([number("_FillValue", 1.5)], path="/")[0] == {"_FillValue": 1.5}


UNREADABLE_FILLS = [
    pytest.param(text("_FillValue", b" "), "S1", id="characters"),
    pytest.param(text("missing_value", b"\xff"), "T", id="missing-value-not-utf8"),
    pytest.param(number("_FillValue", np.array((1,), [("a", "i4")])), [("a", "i4")], id="compound"),
    pytest.param(number("missing_value", np.complex64(1j)), "c8", id="complex-missing-value"),
    pytest.param(number("_FillValue", np.complex64(1j)), "f4", id="complex-for-floats"),
]


@pytest.mark.parametrize(("attribute", "dtype"), UNREADABLE_FILLS)
def test_fill_value_that_xarray_cannot_have_is_a_problem(attribute: Attribute, dtype: Any) -> None:
    data_type = np.dtypes.StringDType() if dtype == "T" else np.dtype(dtype)
    found, problems = translate_attributes([attribute], path="/x", data_type=data_type)
    assert found == {}
    assert [problem.attribute for problem in problems] == [attribute.name]
    assert "Dataset.where" in problems[0].remedy


def test_fill_value_does_not_replace_a_missing_value() -> None:
    attributes = [number("_FillValue", 0.5), number("missing_value", 3)]
    found, problems = translate_attributes(attributes, path="/x", data_type=np.dtype("i4"))
    assert found == {"missing_value": 3}
    assert [problem.attribute for problem in problems] == ["_FillValue"]


def test_fill_value_of_signed_numbers_does_not_replace_a_missing_value() -> None:
    attributes = [
        number("_FillValue", np.uint8(255)),
        number("missing_value", np.uint8(3)),
        text("_Unsigned", b"false"),
    ]
    found, problems = translate_attributes(attributes, path="/x", data_type=np.dtype("u1"))
    assert found == {"missing_value": 3, "_Unsigned": "false"}
    assert [problem.attribute for problem in problems] == ["_FillValue"]


# xarray -----------------------------------------------------------------------------------


def as_zarr(path: Path) -> xr.Dataset:
    """The root of a netCDF-4 file through Zarr, with h5zarr's attributes."""
    store = zarr.storage.MemoryStore()
    with h5py.File(path) as file, h5netcdf.File(path) as named:
        root = zarr.create_group(store, attributes=translated(file, "/"))
        for name, variable in named.variables.items():
            values = file[name][()]
            data_type = np.dtype("T") if values.dtype.kind == "O" else values.dtype
            if values.dtype.kind == "O":
                values = file[name].asstr()[()].astype(data_type)
            array = root.create_array(
                name, shape=values.shape, dtype=data_type, dimension_names=variable.dimensions
            )
            array[...] = values
            array.update_attributes(translated(file, name, data_type))
    return xr.open_dataset(store, engine="zarr", consolidated=False)


def translated(file: h5py.File, name: str, data_type: np.dtype[Any] | None = None) -> dict[str, Any]:
    found, problems = translate_attributes(attributes_of(file[name]), path=name, data_type=data_type)
    assert problems == ()
    return json.loads(json.dumps(found))


def write_masked(file: netCDF4.Dataset) -> None:
    for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        variable = file.createVariable(f"v_{code}", code, ("x",), fill_value=np.dtype(code).type(7))
        variable[:] = [1, 7, 3]
    for code in ("f4", "f8"):
        file.createVariable(f"nan_{code}", code, ("x",), fill_value=np.nan)[:] = [1, np.nan, 3]
        variable = file.createVariable(f"big_{code}", code, ("x",), fill_value=1e20)
        variable.missing_value = np.dtype(code).type(1e20)
        variable[:] = [1, 1e20, 3]


def write_packed(file: netCDF4.Dataset) -> None:
    variable = file.createVariable("packed", "i2", ("x",), fill_value=-9)
    variable.scale_factor, variable.add_offset = 0.1, 273.15
    variable.set_auto_maskandscale(False)
    variable[:] = [1, -9, 3]
    variable = file.createVariable("unsigned", "i1", ("x",), fill_value=-1)
    variable._Unsigned = "true"
    variable.set_auto_maskandscale(False)
    variable[:] = np.array([1, -1, -3], "i1")


def write_signed(file: netCDF4.Dataset) -> None:
    """Numbers that are stored as unsigned ones, and meant as signed."""
    for code in ("u1", "u2", "u4", "u8"):
        most = np.iinfo(code).max
        for name, fill in (("most", most), ("half", most // 2 + 1), ("less", most // 2), ("few", 7)):
            for unsigned in ("false", "true"):
                variable = file.createVariable(f"{code}_{name}_{unsigned}", code, ("x",), fill_value=fill)
                variable._Unsigned = unsigned
                variable.set_auto_maskandscale(False)
                variable[:] = np.array([1, fill, most - 3], code)
    variable = file.createVariable("scaled", "u1", ("x",), fill_value=255)
    variable._Unsigned, variable.scale_factor = "false", 0.5
    variable.set_auto_maskandscale(False)
    variable[:] = np.array([1, 255, 254], "u1")


def write_global(file: netCDF4.Dataset) -> None:
    file.setncatts({"title": "t", "one": "x", "empty": "", "uni": "°C", "list": ["a", "b"], "single": ["a"]})
    file.setncatts({"u8": np.uint64(2**64 - 1), "f4": np.float32(0.1), "nan": np.nan, "i1": np.int8(-3)})
    file.setncatts(
        {
            "vector": np.arange(3, dtype="f4"),
            "nans": np.array([np.nan, 1, np.inf]),
            "none": np.array([], "f4"),
        }
    )
    file.setncattr_string("vlen", "abc")


def write_times(file: netCDF4.Dataset) -> None:
    variable = file.createVariable("time", "f8", ("x",), fill_value=-1.0)
    variable.units, variable.calendar = "days since 2000-01-01", "standard"
    variable[:] = [0, 1.5, -1.0]


def write_enumeration(file: netCDF4.Dataset) -> None:
    kind = file.createEnumType(np.int8, "cloud", {"clear": 0, "cumulus": 1, "missing": 127})
    file.createVariable("enum", kind, ("x",))[:] = [0, 1, 1]
    file.createVariable("enum_fill", kind, ("x",), fill_value=127)[:] = [0, 127, 1]


def write_text(file: netCDF4.Dataset) -> None:
    variable = file.createVariable("text", str, ("x",))
    variable.missing_value = "n/a"
    variable[:] = np.array(["ä", "n/a", ""], object)


def write_coordinates(file: netCDF4.Dataset) -> None:
    file.createVariable("x", "f4", ("x",))[:] = [1, 2, 3]
    file.createVariable("lat", "f4", ("x",))[:] = [1, 2, 3]
    variable = file.createVariable("v", "f4", ("x",))
    variable.coordinates, variable[:] = "lat", [1, 2, 3]


@pytest.mark.parametrize(
    "write",
    [
        write_masked,
        write_packed,
        write_signed,
        write_global,
        write_times,
        write_enumeration,
        write_text,
        write_coordinates,
    ],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_identical_to_h5netcdf(write: Callable[[netCDF4.Dataset], None], tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        file.createDimension("x", 3)
        write(file)
    compare(tmp_path / "f.nc")


def compare(path: Path) -> None:
    with xr.open_dataset(path, engine="h5netcdf") as expected, as_zarr(path) as found:
        xr.testing.assert_identical(found.load(), expected.load())


STRANGE_FILLS: dict[str, tuple[str, Any]] = {
    "float-for-integers": ("i2", np.float64(0.5)),
    "nan-for-integers": ("i2", np.float32(np.nan)),
    "out-of-range": ("u1", np.int16(-999)),
    "whole-float": ("i2", np.float64(2.0)),
    "double-for-floats": ("f4", np.float64(0.1)),
    "two-values": ("f4", np.array([1.0, 2.0], "f4")),
    "text-for-floats": ("f4", "NaN"),
    "big-integer": ("f8", np.int64(2**53 + 1)),
}


@pytest.mark.parametrize(("code", "fill"), STRANGE_FILLS.values(), ids=STRANGE_FILLS)
def test_fill_value_of_another_type_masks_as_in_h5netcdf(code: str, fill: Any, tmp_path: Path) -> None:
    with h5netcdf.File(tmp_path / "f.nc", "w") as file:
        file.dimensions = {"x": 3}
        file.create_variable("v", ("x",), code, data=np.array([1, 2, 0], code))
    with h5py.File(tmp_path / "f.nc", "r+") as file:
        file["v"].attrs["_FillValue"] = fill
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)
        compare(tmp_path / "f.nc")


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_fill_value_of_text_masks_as_in_h5netcdf(tmp_path: Path) -> None:
    with h5netcdf.File(tmp_path / "f.nc", "w") as file:
        file.dimensions = {"x": 3}
        variable = file.create_variable("v", ("x",), h5py.string_dtype())
        variable[...] = np.array(["a", "n/a", ""], object)
        variable.attrs["_FillValue"] = "n/a"
    compare(tmp_path / "f.nc")


def test_packing_in_float32_unpacks_in_float64_through_zarr(tmp_path: Path) -> None:
    """JSON has one kind of number, and xarray takes the type of unpacked data from scale_factor."""
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        file.createDimension("x", 3)
        variable = file.createVariable("v", "i2", ("x",))
        variable.scale_factor = np.float32(0.1)
        variable.set_auto_maskandscale(False)
        variable[:] = [1, 2, 3]
    with (
        xr.open_dataset(tmp_path / "f.nc", engine="h5netcdf") as expected,
        as_zarr(tmp_path / "f.nc") as found,
    ):
        assert (found.v.dtype, expected.v.dtype) == (np.float64, np.float32)
        np.testing.assert_array_equal(found.v.astype(np.float32), expected.v)
