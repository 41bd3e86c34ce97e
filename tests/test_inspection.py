"""What `h5zarr inspect` shows."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import zarr
from conftest import CODEC_WARNING, FIXTURES, open_zarr
from slow_server import SlowServer, slow_server

from h5zarr.combiner import combine
from h5zarr.converter import convert
from h5zarr.errors import Problem, ReferencesError
from h5zarr.inspection import Inspection, _ratio_text, describe_datatype, inspect, inspect_scan
from h5zarr.io_plan import io_plan
from h5zarr.model import Hierarchy
from h5zarr.read_datatype import read_datatype
from h5zarr.references import icechunk_store
from h5zarr.references_inspection import ReferencesInspection
from h5zarr.scanner import scan
from h5zarr.text import count, human_bytes, printable

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)


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
    with h5py.File(path) as file:
        stored = file["deep/image"].id.get_storage_size()
    assert found[13:] == [str(stored), "B", "140", "B", f"{140 / stored:.3g}x"]


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
    ("stored", "logical", "text"),
    [(0, 8, ""), (8, 0, ""), (1, 1, "1x"), (3, 100, "33.3x"), (1, 12345, "12,345x"), (30, 1, "0.03x")],
)
def test_ratio_of_lengths(stored: int, logical: int, text: str, path: Path) -> None:
    row = inspection_of(path).datasets[0]
    assert _ratio_text(replace(row, stored_bytes=stored, logical_bytes=logical)) == text


# What it costs over a network -------------------------------------------------------------


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with small chunks, and its metadata in many places."""
    path = tmp_path_factory.mktemp("io") / "scattered.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(20):
            values = random.random((16, 8192), np.float32)
            file.create_group(f"g{number}").create_dataset("x", data=values, chunks=(1, 8192))
    return path


def test_io_plan_only_where_asked_for(scattered: Path) -> None:
    plan = io_plan(scan(scattered))
    plain, asked = inspect(scattered), inspect(scattered, io=True)
    assert plan.command is not None
    assert "io" not in plain.to_json()
    assert asked.to_json() == {**plain.to_json(), "io": plan.to_json()}
    lines = asked.lines()
    begin = lines.index("over a network:") + 1
    assert lines[begin : begin + len(plan.lines())] == [f"  {line}" for line in plan.lines()]
    assert "over a network:" not in plain.lines()


def test_io_plan_of_a_remote_file(scattered: Path) -> None:
    with slow_server(SlowServer(folder=scattered.parent)) as server:
        document = inspect(f"{server.url}/{scattered.name}", io=True).to_json()["io"]
        asked, byte_length = len(server.requests), server.byte_length
    assert (document["requests"], document["fetched_byte_length"]) == (asked, byte_length)
    assert document["misses"] == 0
    assert document["round_trips"] >= 1


def test_signed_url_is_inspected_and_not_shown(scattered: Path) -> None:
    with slow_server(SlowServer(folder=scattered.parent)) as server:
        public = f"{server.url}/{scattered.name}"
        inspection = inspect(f"{public}?X-Amz-Signature=secret", io=True)
    assert isinstance(inspection, Inspection)
    assert inspection.source.url == public
    told = "\n".join([*inspection.lines(), json.dumps(inspection.to_json()), repr(inspection)])
    assert "secret" not in told
    assert "h5repack -S PAGE" in told or "h5repack -l" in told


# References -------------------------------------------------------------------------------

LOCATIONS = {"json": "refs.json", "parquet": "refs.parq", "icechunk": "refs.icechunk"}


@pytest.mark.parametrize(("chosen", "name"), LOCATIONS.items(), ids=LOCATIONS)
@pytest.mark.parametrize("source", ["climate.nc", "filter_mask.h5", "links_dangling.h5"])
def test_references_of_any_format(chosen: str, name: str, source: str, tmp_path: Path) -> None:
    if chosen == "icechunk" and not icechunk_store.CAN_LIST:
        pytest.skip("this version of Icechunk cannot list references")
    out = str(tmp_path / name)
    conversion = convert(FIXTURES / source, out)
    manifests = {array.path: array.manifest for array in conversion.hierarchy.arrays()}
    found = inspect(out)
    assert isinstance(found, ReferencesInspection)
    assert (found.location, found.format, found.version) == (out, chosen, version("h5zarr"))
    assert {row.path: row.references for row in found.arrays} == {
        path: len(manifest.grid_position) for path, manifest in manifests.items()
    }
    assert [problem.path for problem in found.problems] == [problem.path for problem in conversion.problems]
    referenced = sum(int(manifest.byte_length.sum()) for manifest in manifests.values())
    assert sum(row.referenced_bytes for row in found.arrays) == referenced
    url = (FIXTURES / source).as_uri()
    assert [(row.url, row.referenced_bytes) for row in found.files] == (
        [(url, referenced)] if referenced else []
    )
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert found.to_json()["source"]["url"] == url
    assert all(line.isprintable() for line in found.lines())


def test_arrays_are_what_zarr_opens(tmp_path: Path) -> None:
    out = str(tmp_path / "refs.json")
    refs = convert(FIXTURES / "climate.nc", out).references()["refs"]
    found = inspect(out)
    assert isinstance(found, ReferencesInspection)
    opened = dict(open_zarr(out).members(max_depth=None))
    assert found.groups == (
        "/",
        *(f"/{name}" for name, node in opened.items() if isinstance(node, zarr.Group)),
    )
    arrays = {f"/{name}": node for name, node in opened.items() if isinstance(node, zarr.Array)}
    assert {row.path for row in found.arrays} == arrays.keys()
    for row in found.arrays:
        array = arrays[row.path]
        assert (row.shape, row.chunk_shape) == (array.shape, array.chunks)
        assert row.dimension_names == (array.metadata.dimension_names or ())
        assert row.chunks_total == array.nchunks
        stored = [value for key, value in refs.items() if key.startswith(f"{row.path[1:]}/c")]
        assert row.references == sum(isinstance(value, list) for value in stored)
        assert row.inline == sum(isinstance(value, str) for value in stored)


def test_table_of_references(tmp_path: Path) -> None:
    out = str(tmp_path / "refs.json")
    convert(FIXTURES / "climate.nc", out)
    lines = inspect(out).lines()
    assert lines[0].startswith(f"{out}, json references, 2 groups, ")
    row = next(line.split() for line in lines if line.startswith("/ocean/sst "))
    assert row[1:8] == ["24", "x", "7", "x", "11", "float32", "10"]
    assert f"  written by h5zarr {version('h5zarr')}" in lines
    assert any(line.startswith(f"  made from {(FIXTURES / 'climate.nc').as_uri()}, ") for line in lines)
    assert any(line.startswith(f"  {(FIXTURES / 'climate.nc').as_uri()}: ") for line in lines)


def test_selection_and_problems_of_references(tmp_path: Path) -> None:
    out = str(tmp_path / "refs.json")
    convert(FIXTURES / "links_dangling.h5", out, include=["/x*"], exclude=["/y"])
    lines = inspect(out).lines()
    assert any(line.endswith(", only /x*, without /y") for line in lines)
    assert any(line.startswith("  /dangling: a soft link") for line in lines)


def test_references_that_another_program_wrote(tmp_path: Path) -> None:
    metadata = {"zarr_format": 3, "node_type": "group"}
    signed = "https://example.org/a.h5?X-Amz-Signature=secret"
    array = {
        **metadata,
        "node_type": "array",
        "shape": [4],
        "data_type": "int8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }
    refs = {
        "zarr.json": json.dumps(metadata),
        "x/zarr.json": json.dumps(array),
        "x/c/0": [signed, 0, 2],
        "x/c/1": [signed, 10, 2],
    }
    (tmp_path / "refs.json").write_text(json.dumps({"version": 1, "refs": refs}))
    found = inspect(tmp_path / "refs.json")
    assert isinstance(found, ReferencesInspection)
    assert found.version is None
    assert "  written by another program" in found.lines()
    assert [row.to_json() for row in found.files] == [
        {"url": "https://example.org/a.h5", "references": 2, "referenced_bytes": 4}
    ]
    assert "secret" not in "\n".join([*found.lines(), json.dumps(found.to_json())])


def test_references_to_several_files(tmp_path: Path) -> None:
    for step in range(3):
        with h5py.File(tmp_path / f"{step}.h5", "w") as file:
            data = np.arange(2000.0).reshape(2, 1000) + step
            file.create_dataset("v", data=data, chunks=(1, 1000)).dims[0].label = "t"
            file["t"] = np.arange(2.0) + 2 * step
            file["t"].make_scale("t")
            file["v"].dims[0].attach_scale(file["t"])
    out = str(tmp_path / "all.json")
    combine([str(tmp_path / f"{step}.h5") for step in range(3)], out, concat=["t"])
    found = inspect(out)
    assert isinstance(found, ReferencesInspection)
    urls = [(tmp_path / f"{step}.h5").as_uri() for step in range(3)]
    assert [(row.url, row.references, row.referenced_bytes) for row in found.files] == [
        (url, 2, 16000) for url in urls
    ]
    joined = [line for line in found.lines() if line.startswith("  joined from ")]
    assert [line.split(", ")[0] for line in joined] == [f"  joined from {url}" for url in urls]
    assert [line.split(", ")[-1] for line in joined] == ["t 0 to 2", "t 2 to 4", "t 4 to 6"]
    assert len(found.to_json()["parts"]) == 3


@pytest.mark.parametrize(
    "options", [{"group": "/a"}, {"io": True}, {"include": ["/x"]}, {"isolate": True}], ids=str
)
def test_references_are_not_scanned(options: dict[str, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "refs.json")
    convert(FIXTURES / "climate.nc", out)
    with pytest.raises(ReferencesError, match=f"{next(iter(options))} can be chosen only where"):
        inspect(out, **options)


def test_a_zarr_store_is_no_references(tmp_path: Path) -> None:
    with pytest.raises(ReferencesError, match="a Zarr store holds its chunks itself"):
        inspect(tmp_path / "x.zarr")


# Words ------------------------------------------------------------------------------------


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
