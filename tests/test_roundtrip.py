"""Every dataset of every fixture, read through its references by zarr-python, is what h5py reads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - h5py has to read what was written with its filters
import numpy as np
import pytest
import zarr
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr

from h5zarr.converter import Conversion, convert
from h5zarr.errors import Problem
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

PLACEHOLDER = b"This is a netCDF dimension but not a netCDF variable"

PROBLEMS: dict[str, dict[str, str]] = {
    "attributes_odd.h5": {"/x @long_double": "a long double that no double is equal to"},
    "datatype_integers_reduced_precision.h5": {"/three_bytes": "datatype 24-bit integer"},
    "fill_value_special_floats.h5": {"/signalling": "signalling", "/signalling_big": "signalling"},
    "fill_value_variable_length_string.h5": {"/x": "no write intent on file"},
    "filter_unregistered.h5": {"/x": "HDF5 filter 299 (unregistered)"},
    "links_cyclic.h5": {
        "/ping": "a soft link to /pong, where nothing is",
        "/pong": "a soft link to /ping, where nothing is",
    },
    "links_dangling.h5": {
        "/dangling": "a soft link to /nowhere, where nothing is",
        "/external": "an external link to /x in no_such_file.h5",
    },
    "names.h5": {
        "/back\\slash": "has a backslash",
        "/group back\\slash": "has a backslash",
        "/group back\\slash/back\\slash": "has a backslash",
    },
    "names_not_utf8.h5": {"/caf\\xe9": "a name that is not UTF-8", "/x @na\\xefve": "its name"},
    "names_reserved.h5": {"/..": "a name that is '.' or '..'"},
}
"""What cannot be expressed: path, with the attribute's name where it is one, and words of `found`."""


# What h5py reads -------------------------------------------------------------------------


def datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset under each of its names, by hard, soft and external links, but every group once."""
    seen = {h5py.h5o.get_info(file.id).addr}
    pending = [("", file["/"])]
    while pending:
        parent, group = pending.pop()
        for name in group:
            path = f"{parent}/{as_text(name)}"
            target = target_of(group, name)
            if isinstance(target, h5py.Dataset):
                yield path, target
            elif isinstance(target, h5py.Group):
                address = h5py.h5o.get_info(target.id).addr
                is_hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
                if is_hard and address not in seen:
                    seen.add(address)
                    pending.append((path, target))


def as_text(name: str | bytes) -> str:
    """Return a name; h5py gives those that are not UTF-8 as bytes."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def target_of(group: h5py.Group, name: str | bytes) -> Any:
    try:
        return group.get(name)
    except (OSError, RuntimeError):  # links that lead nowhere, or in a circle
        return None


def is_placeholder(dataset: h5py.Dataset) -> bool:
    """Return whether it stands for a netCDF dimension that has no variable."""
    return "NAME" in dataset.attrs and np.bytes_(dataset.attrs["NAME"]).startswith(PLACEHOLDER)


def expected_arrays(file: h5py.File, reported: set[str]) -> dict[str, h5py.Dataset]:
    return {
        path: dataset
        for path, dataset in datasets(file)
        if readable_name(path) not in reported and not is_placeholder(dataset)
    }


def readable_name(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_dataset(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Return all values of a dataset as h5py reads them."""
    if dataset.shape is None:
        return np.zeros(0)
    if dataset.id.get_type().get_class() == h5py.h5t.OPAQUE:
        # NumPy's void has no tag, and libhdf5 converts only between equal tags.
        values = np.zeros(dataset.shape, dataset.dtype)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values, dataset.id.get_type())
        return values
    return np.asarray(dataset[()], dtype=dataset.dtype.base)


# Comparing -------------------------------------------------------------------------------


def difference(dataset: h5py.Dataset, array: zarr.Array[Any]) -> str:
    """Return how an array differs from a dataset; nothing where it does not."""
    expected, found = read_dataset(dataset), np.asarray(array[...])
    if found.shape != expected.shape:
        return f"shape {found.shape}, not {expected.shape}"
    if dataset.shape is None:
        return ""
    return value_difference(expected, found, dataset)


def value_difference(
    expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], dataset: h5py.Dataset
) -> str:
    if expected.dtype.names is not None:
        return member_differences(expected, found, dataset)
    if expected.dtype.kind == "O":
        pairs = zip(expected.ravel(), found.ravel(), strict=True)
        words = (element_difference(value, element, dataset) for value, element in pairs)
        return next(filter(None, words), "")
    if expected.dtype.kind == "S":
        # Trailing NULs are padding, and NumPy drops them.
        return "" if expected.tolist() == found.tolist() else f"{found}, not {expected}"
    if found.dtype != expected.dtype.newbyteorder("="):
        return f"{found.dtype}, not {expected.dtype}"
    return "" if native_bytes(found) == native_bytes(expected) else f"{found}, not {expected}"


def member_differences(
    expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any], dataset: h5py.Dataset
) -> str:
    if found.dtype.names != expected.dtype.names:
        return f"members {found.dtype.names}, not {expected.dtype.names}"
    members = {name: value_difference(expected[name], found[name], dataset) for name in found.dtype.names}
    return "; ".join(f"{name}: {words}" for name, words in members.items() if words)


def native_bytes(values: np.ndarray[Any, Any]) -> bytes:
    """Return the bits in native byte order; `byteswap` keeps those of signalling NaN."""
    return (values if values.dtype.isnative else values.byteswap()).tobytes()


def element_difference(expected: Any, found: Any, dataset: h5py.Dataset) -> str:
    """Return how an element differs that lies on HDF5's heap: a string, a reference or a sequence."""
    if isinstance(expected, np.ndarray):
        return value_difference(expected, np.asarray(found), dataset)
    text = text_of(expected, dataset)
    stored = found.encode() if isinstance(found, str) else found
    return "" if stored == text else f"{stored!r}, not {text!r}"


def text_of(value: Any, dataset: h5py.Dataset) -> bytes:
    """Return what stands for a string or a reference, which becomes a path."""
    if isinstance(value, (h5py.Reference, h5py.RegionReference)):
        return h5py.h5r.get_name(value, dataset.file.id) or b"" if value else b""
    return value if isinstance(value, bytes) else b""


# Every fixture ---------------------------------------------------------------------------


def reported(problems: tuple[Problem, ...]) -> dict[str, str]:
    return {
        problem.path if problem.attribute is None else f"{problem.path} @{problem.attribute}": problem.found
        for problem in problems
    }


def differences(path: Path, references: dict[str, Any] | str, left_out: set[str]) -> dict[str, str]:
    """Return, by path, what is missing in the references, differs, or should not be there."""
    root = open_zarr(references)
    arrays = {f"/{name}": node for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}
    # External storage is found from the current folder.
    with contextlib.chdir(path.parent), h5py.File(path) as file:
        expected = expected_arrays(file, left_out)
        found = dict.fromkeys(expected.keys() - arrays.keys(), "missing")
        found |= dict.fromkeys(arrays.keys() - expected.keys(), "unexpected")
        for name in expected.keys() & arrays.keys():
            found[name] = difference(expected[name], arrays[name])
    return {name: words for name, words in found.items() if words}


def left_out(conversion: Conversion) -> set[str]:
    return {problem.path for problem in conversion.problems if problem.attribute is None}


@pytest.mark.parametrize("inline_threshold", [0, 10**6], ids=["by reference", "inline"])
@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_every_dataset_reads_back_equal(name: str, inline_threshold: int) -> None:
    conversion = convert(FIXTURES / name, inline_threshold=inline_threshold)
    assert differences(FIXTURES / name, conversion.references(), left_out(conversion)) == {}


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_references_on_disk_read_back_equal(name: str, tmp_path: Path) -> None:
    out = tmp_path / "references.json"
    conversion = convert(FIXTURES / name, out)
    assert differences(FIXTURES / name, str(out), left_out(conversion)) == {}


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_problems_are_those_expected(name: str) -> None:
    found = reported(convert(FIXTURES / name).problems)
    expected = PROBLEMS.get(name, {})
    assert found.keys() == expected.keys()
    for place, words in expected.items():
        assert words in found[place]


def test_every_dataset_is_compared() -> None:
    """The comparison finds what it is to find."""
    references = convert(FIXTURES / "contiguous.h5", inline_threshold=0).references()
    x = references["refs"]["x/c/0/0"]
    references["refs"]["x/c/0/0"] = [x[0], x[1] + 1, x[2]]
    references["refs"]["extra/zarr.json"] = references["refs"]["three_dimensions/zarr.json"]
    del references["refs"]["three_dimensions/c/0/0/0"]
    root = json.loads(references["refs"]["zarr.json"])
    listed = root["consolidated_metadata"]["metadata"]
    listed["extra"] = listed.pop("three_dimensions")
    references["refs"]["zarr.json"] = json.dumps(root)
    found = differences(FIXTURES / "contiguous.h5", references, set())
    assert found.pop("/x").startswith("[[")
    assert found == {"/extra": "unexpected", "/three_dimensions": "missing"}


# Links -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("links_soft.h5", "group/real", ["absolute", "group/relative", "chain"]),
        ("links_hard.h5", "group/real", ["same"]),
    ],
)
def test_links_as_arrays(name: str, first: str, others: list[str]) -> None:
    root = open_zarr(convert(FIXTURES / name, inline_threshold=0, links="arrays").references())
    for other in others:
        assert root[other].metadata == root[first].metadata
        np.testing.assert_array_equal(root[other][...], root[first][...])
    assert "hdf5_links" not in root[first].attrs


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("links_soft.h5", "group/real", ["/absolute", "/chain", "/group/relative"]),
        ("links_hard.h5", "same", ["/group/real"]),
    ],
)
def test_links_as_attributes(name: str, first: str, others: list[str]) -> None:
    root = open_zarr(convert(FIXTURES / name, links="attributes").references())
    assert sorted(root[first].attrs["hdf5_links"]) == others
    arrays = [path for path, node in root.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert arrays == [first]


@pytest.mark.parametrize(
    ("name", "other"), [("links_soft.h5", "/to_group"), ("links_hard.h5", "/same_group")]
)
@pytest.mark.parametrize("links", ["arrays", "attributes"])
def test_other_names_of_groups_are_told(name: str, other: str, links: Any) -> None:
    """Nothing disappears: another name of a group is in its attributes or among the problems."""
    conversion = convert(FIXTURES / name, links=links)
    group = open_zarr(conversion.references())["group"]
    told = [*group.attrs.get("hdf5_links", []), *(problem.path for problem in conversion.problems)]
    assert other in told


def write_lost_dataset(file: h5py.File) -> None:
    file.create_dataset("x", (3,), "i4", external=[("../gone.raw", 0, 12)])


def write_lost_type(file: h5py.File) -> None:
    h5py.h5d.create(file.id, b"x", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((3,)))


def write_lost_attribute(file: h5py.File) -> None:
    file["x"] = np.arange(3)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5a.create(file["x"].id, b"a", h5py.h5t.UNIX_D32LE, space)


LOSSES = {"dataset": write_lost_dataset, "type": write_lost_type, "attribute": write_lost_attribute}


@pytest.mark.parametrize("write", LOSSES.values(), ids=LOSSES)
def test_problems_stand_under_each_name(write: Callable[[h5py.File], None], tmp_path: Path) -> None:
    """Who opens the other group would not hear of what is missing there."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file)
        file.create_group("group")
        file.id.links.create_hard(b"group/y", file.id, b"x")
    problems = convert(tmp_path / "x.h5").problems
    assert {problem.path for problem in problems} == {"/x", "/group/y"}
    assert len({(problem.found, problem.attribute) for problem in problems}) == 1
    assert validate(convert(tmp_path / "x.h5").references()).ok
    told = convert(tmp_path / "x.h5", links="attributes").problems
    assert "/x" in {problem.path for problem in told}


@pytest.mark.parametrize("links", ["arrays", "attributes"])
def test_a_dataset_of_which_one_name_cannot_be_read(links: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["good"] = np.arange(3)
        file["a\\b"] = file["good"]
    conversion = convert(tmp_path / "x.h5", links=links)
    assert [problem.path for problem in conversion.problems] == ["/a\\b"]
    root = open_zarr(conversion.references())
    np.testing.assert_array_equal(root["good"][:], np.arange(3))
    assert list(root) == ["good"]
    assert root["good"].attrs.get("hdf5_links", []) == (["/a\\b"] if links == "attributes" else [])
    assert validate(conversion.references()).ok


def test_small_contiguous_data_are_not_split_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large contiguous data are split into chunks; read with the scan, they are one chunk."""
    monkeypatch.setattr("h5zarr.translator._LARGEST_CONTIGUOUS_CHUNK_BYTES", 64)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(1, 65, dtype="<i4").reshape(16, 4)
    for inline_threshold in (0, 1000):
        conversion = convert(path, inline_threshold=inline_threshold)
        assert differences(path, conversion.references(), set()) == {}
