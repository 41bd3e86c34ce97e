"""What the compiled module reads of attributes and datasets against h5py, which reads all of it too."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import FIXTURE_NAMES, FIXTURES
from h5py import h5, h5a, h5d, h5p, h5s, h5t
from h5py._objects import phil
from test_attributes import KINDS

from h5zarr import libhdf5
from h5zarr.errors import SourceError
from h5zarr.model import Attribute, FileScan
from h5zarr.read_values import ReferenceNames, TypeCache, list_attributes, read_attribute
from h5zarr.scanner import scan

pytestmark = pytest.mark.skipif(libhdf5._native is None, reason="h5zarr._native is not compiled")

NOTHING: frozenset[bytes] = frozenset()


def described(value: Any) -> Any:
    """Return everything of a description in a form that can be compared, bits and dtypes included."""
    if is_dataclass(value):
        return {field.name: described(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.dtype):
        return value, value.descr, value.metadata
    if isinstance(value, np.ndarray):
        bits = value.tolist() if value.dtype.hasobject else value.tobytes()
        return described(value.dtype), value.shape, described(bits)
    if isinstance(value, list | tuple):
        return [described(element) for element in value]
    return value


def read_both_ways(thing: Any) -> list[tuple[Attribute | None, Attribute]]:
    """Return each attribute as the compiled module reads it, if it does, and as h5py does."""
    types, names = TypeCache(), ReferenceNames(thing.file.id, {})
    listed = list_attributes(thing.id, h5.INDEX_NAME, NOTHING, types)
    attributes = [read_attribute(thing.id, name, types, names) for name, _ in listed]
    again = list_attributes(thing.id, h5.INDEX_NAME, NOTHING, types)
    return [(plain, attribute) for (_, plain), attribute in zip(again, attributes, strict=True)]


def with_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libhdf5, "object_reader", lambda: None)


# Attributes ------------------------------------------------------------------------------

LEFT_TO_H5PY = {
    *("compound-of-everything", "references", "region", "variable-length", "variable-length-characters"),
}
"""Kinds of `test_attributes.KINDS` whose elements h5py has to convert."""


@pytest.mark.parametrize(
    ("name", "write"), [(case.id, case.values[0]) for case in KINDS.cases], ids=[c.id for c in KINDS.cases]
)
def test_attribute_is_as_h5py_reads_it(
    name: str, write: Callable[[h5py.Group], object], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write(file)
        [(plain, attribute)] = read_both_ways(file)
    assert (plain is None) == (name in LEFT_TO_H5PY)
    assert plain is None or described(plain) == described(attribute)


def write_reduced_precision(file: h5py.File) -> None:
    datatype = h5t.STD_I16BE.copy()
    datatype.set_precision(12)
    datatype.set_offset(2)
    attribute = h5a.create(file.id, b"a", datatype, h5s.create_simple((3,)))
    attribute.write(np.array([-5, 0, 2047], "<i2"))


def write_padded_compound(file: h5py.File) -> None:
    dtype = np.dtype({"names": ["x", "y"], "formats": ["u1", ">f8"], "offsets": [3, 8], "itemsize": 24})
    file.attrs.create("a", np.array([(1, 0.5), (2, -1.0)], dtype))


def write_unwritten(file: h5py.File) -> None:
    for name, datatype in ((b"number", h5t.STD_I32LE), (b"text", h5t.py_create(h5py.string_dtype()))):
        h5a.create(file.id, name, datatype, h5s.create_simple((2,)))


def write_many(file: h5py.File) -> None:
    for number in range(40):
        file.attrs[f"{number:02}"] = np.arange(number) if number % 2 else f"text {number}"


def write_names(file: h5py.File) -> None:
    for name in (b"\xff\xfe", "Größe".encode(), b"a/b", b"."):
        h5a.create(file.id, name, h5t.STD_U8LE, h5s.create(h5s.SCALAR)).write(np.array(7, "u1"))


WRITERS = [write_reduced_precision, write_padded_compound, write_unwritten, write_many, write_names]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_attributes_are_as_h5py_reads_them(
    write: Callable[[h5py.File], None], libver: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "f.h5", "w", libver=libver) as file:
        write(file)
    with h5py.File(tmp_path / "f.h5") as file:
        read = read_both_ways(file)
    assert [described(plain) for plain, _ in read] == [described(attribute) for _, attribute in read]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(9000),
        np.zeros((90, 100)),
        np.bytes_(b"x" * 70_000),
        np.zeros((), [(f"a member with quite a long name {number}", "i4") for number in range(40)]),
    ],
    ids=["long", "large", "long string", "long datatype"],
)
def test_what_takes_much_room_is_left_to_h5py(value: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w", libver="latest") as file:
        file.attrs["a"] = value
        [(plain, attribute)] = read_both_ways(file)
    assert plain is None
    assert attribute.value.tobytes() == np.asarray(value).tobytes()


def test_similar_datatypes_are_told_apart(tmp_path: Path) -> None:
    """Encoded datatypes may end in zeros, which the keys of the cache leave out."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for code in ("i1", "u1", "<i2", ">i2", "<i4", "<i8", "<f4", "<f8", "S1", "S2", "S256", "?", "<c8"):
            file.attrs[code] = np.ones(2, code)
        read = read_both_ways(file)
    assert [described(plain) for plain, _ in read] == [described(attribute) for _, attribute in read]
    assert len({str(attribute.datatype) for _, attribute in read}) == len(read)


def test_skipped_names_and_order(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        group = file.create_group("g", track_order=True)
        for name in "zay":
            group.attrs[name] = 1
        for index_type, expected in ((h5.INDEX_NAME, [b"a", b"z"]), (h5.INDEX_CRT_ORDER, [b"z", b"a"])):
            listed = list_attributes(group.id, index_type, frozenset({b"y"}), TypeCache())
            assert [name for name, _ in listed] == expected


# Whole files -----------------------------------------------------------------------------


def scan_quietly(source: Any) -> FileScan:
    return scan(source, inline_threshold=1000, follow_external=True)


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_scan_is_as_with_h5py(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = scan_quietly(FIXTURES / name)
    with_h5py(monkeypatch)
    assert described(compiled) == described(scan_quietly(FIXTURES / name))


def test_datasets_are_read_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of each datatype is left to h5py."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for number in range(4):
            file.create_dataset(f"{number}", (8, 6), "<i2", chunks=(4, 3), compression=4, fillvalue=number)
    opened: list[object] = []
    original = libhdf5.fill_value
    monkeypatch.setattr(libhdf5, "fill_value", lambda *given: opened.append(given) or original(*given))
    scanned = scan(tmp_path / "f.h5")
    assert [dataset.fill_value for dataset in scanned.datasets] == [
        number.to_bytes(2, "little") for number in range(4)
    ]
    assert len(opened) == 1


def test_many_parameters_of_a_filter(tmp_path: Path) -> None:
    parameters = tuple(range(100, 180))
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (4,))
    properties.set_filter(305, h5py.h5z.FLAG_OPTIONAL, parameters)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in (b"a", b"b"):
            h5d.create(file.id, name, h5t.STD_U8LE, h5s.create_simple((4,)), properties)
    for dataset in scan(tmp_path / "f.h5").datasets:
        assert [one.client_data for one in dataset.filters] == [(4,), parameters]


# Errors ----------------------------------------------------------------------------------


def write_texts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(3):
            dataset = file.create_dataset(f"{number}", (4,), "<f8", fillvalue=0.5)
            dataset.attrs["number"], dataset.attrs["text"] = number, f"text {number}"


def identifier_count() -> int:
    """Return how many identifiers are open in libhdf5, of files, datatypes, attributes and so on."""
    count = ctypes.c_uint64()
    found = 0
    for kind in range(1, 16):
        if libhdf5.library().H5Inmembers(kind, ctypes.byref(count)) >= 0:
            found += count.value
    return found


@pytest.mark.parametrize("signature", [b"none", b"GCOL"], ids=["whole", "heap damaged"])
def test_nothing_stays_open(signature: bytes, tmp_path: Path) -> None:
    write_texts(tmp_path / "f.h5")
    damage(tmp_path / "f.h5", signature)
    reader, types = libhdf5.object_reader(), TypeCache()
    with h5py.File(tmp_path / "f.h5") as file, phil:
        dataset = file["0"].id
        types[dataset.get_type()], types[h5a.open(dataset, b"text").get_type()]
        types[h5a.open(dataset, b"number").get_type()]
        before = identifier_count()
        found = reader.attributes(dataset.id, h5.INDEX_NAME, NOTHING, types.known)
        storage = reader.storage(dataset.id, types.known)
        assert identifier_count() == before
    assert storage is not None
    assert [plain is None for _, plain in found] == [False, signature == b"GCOL"]


def damage(path: Path, signature: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(signature, b"\0" * len(signature)))


def test_identifiers_that_are_none_are_errors() -> None:
    reader, before = libhdf5.object_reader(), identifier_count()
    with phil, pytest.raises(RuntimeError):
        reader.attributes(-1, h5.INDEX_NAME, NOTHING, {})
    with phil, pytest.raises(RuntimeError):
        reader.storage(-1, {})
    assert identifier_count() == before


def test_damaged_attributes_are_problems_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "f.h5")
    damage(tmp_path / "f.h5", b"GCOL")
    scans: list[FileScan] = []
    thread = threading.Thread(target=lambda: scans.append(scan(tmp_path / "f.h5")))
    thread.start()
    thread.join()
    with_h5py(monkeypatch)
    scans.append(scan(tmp_path / "f.h5"))
    assert [problem.attribute for problem in scans[0].problems] == ["text"] * 3
    assert described(scans[0]) == described(scans[1])
    assert capfd.readouterr() == ("", "")


class FailingFile(BytesIO):
    """A file of which one read fails, and all that follow."""

    def __init__(self, stored: bytes, reads: int, error: BaseException) -> None:
        super().__init__(stored)
        self.remaining, self.error = reads, error

    def read(self, count: int | None = -1) -> bytes:
        self._count_down()
        return super().read(count)

    def readinto(self, buffer: Any) -> int:
        self._count_down()
        return super().readinto(buffer)

    def _count_down(self) -> None:
        self.remaining -= 1
        if self.remaining < 0:
            raise self.error


@pytest.mark.parametrize("error", [OSError("gone"), LookupError("odd"), KeyboardInterrupt()], ids=repr)
def test_errors_of_file_objects_are_raised(error: BaseException, tmp_path: Path) -> None:
    write_texts(tmp_path / "f.h5")
    stored, reads = (tmp_path / "f.h5").read_bytes(), 0
    while isinstance(outcome := scan_failing(FailingFile(stored, reads, error)), BaseException):
        assert error in (outcome, outcome.__cause__)
        reads += 1
    assert reads > 5
    assert outcome.problems == ()


def scan_failing(file: FailingFile) -> FileScan | BaseException:
    try:
        return scan(file, public_url="file:///f.h5")
    except (SourceError, KeyboardInterrupt) as error:
        return error
