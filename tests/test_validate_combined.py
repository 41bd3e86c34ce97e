"""Validation of many files as one: every file of it is looked at, and every mistake found."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING

from h5zarr.combiner import combine
from h5zarr.report import Kind, ValidationReport
from h5zarr.validator import validate

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

Document = dict[str, Any]
STEPS = 4


def write_file(
    path: Path, number: int, *, units: str = "days since 2020-01-01", first: int | None = None
) -> None:
    """Write 4 time steps of a field in two groups."""
    first = STEPS * number if first is None else first
    with h5netcdf.File(path, "w") as file:
        file.attrs["history"] = f"run {number}"
        file.dimensions = {"time": STEPS, "x": 30}
        time = file.create_variable("time", ("time",), "i4", data=first + np.arange(STEPS))
        time.attrs["units"] = units
        file.create_variable("x", ("x",), "f4", data=np.arange(30))
        values = np.arange(STEPS * 30.0).reshape(STEPS, 30) + 1000 * number
        file.create_variable("field", ("time", "x"), "f8", data=values, chunks=(2, 30))
        deep = file.create_group("deep")
        deep.create_variable("other", ("time", "x"), "f8", data=-values, chunks=(4, 30))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.nc" for number in range(3)]
    for number, path in enumerate(paths):
        write_file(path, number)
    return paths


def document_of(paths: list[Path], **options: Any) -> Document:
    return copy.deepcopy(combine(paths, **options).references())


def kinds(report: ValidationReport) -> set[tuple[str, Kind]]:
    return {(one.path, one.kind) for one in report.mismatches}


def test_joined_along_time(files: list[Path]) -> None:
    report = validate(document_of(files, concat="time"))
    assert report.ok, report.mismatches
    assert report.source == "3 files"
    assert report.arrays_compared == 4
    # The coordinate x is compared with the first file alone.
    assert report.bytes_compared == 3 * STEPS * (4 + 2 * 30 * 8) + 30 * 4


def test_metadata_of_zarr_v2_alone(files: list[Path], tmp_path: Path) -> None:
    """Version 2 names dimensions in an attribute."""
    combine(files, tmp_path / "x.json", concat="time", zarr_format="2")
    report = validate(tmp_path / "x.json")
    assert report.ok, report.mismatches
    assert report.bytes_compared == 3 * STEPS * (4 + 2 * 30 * 8) + 30 * 4


def test_joined_along_a_new_dimension(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nc" for number in range(3)]
    for number, path in enumerate(paths):
        write_file(path, number, first=0)
    report = validate(document_of(paths, new_dim="run", values=[10, 20, 30]))
    assert report.ok, report.mismatches
    assert report.bytes_compared == 3 * STEPS * 2 * 30 * 8 + STEPS * 4 + 30 * 4


def other_label(document: Document) -> None:
    spoil_inline(document, "run/", np.array([10, 21, 30], "i8"))


def no_labels(document: Document) -> None:
    root = json.loads(document["refs"]["zarr.json"])
    del root["consolidated_metadata"]["metadata"]["run"]
    document["refs"]["zarr.json"] = json.dumps(root)
    document["refs"] = {key: row for key, row in document["refs"].items() if not key.startswith("run/")}


def labels_of_another_dimension(document: Document) -> None:
    change_field(document, "run", lambda own: own.update(dimension_names=["x"]))


def labels_of_another_type(document: Document) -> None:
    change_field(document, "run", lambda own: own.update(data_type="float64", fill_value=0.0))


LABELS = {
    other_label: Kind.VALUES,
    no_labels: Kind.MISSING_ARRAY,
    labels_of_another_dimension: Kind.METADATA,
    labels_of_another_type: Kind.VALUES,
}


@pytest.mark.parametrize("mutate", LABELS, ids=lambda mutate: mutate.__name__)
def test_labels_of_a_new_dimension(mutate: Callable[[Document], None], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nc" for number in range(3)]
    for number, path in enumerate(paths):
        write_file(path, number, first=0)
    document = document_of(paths, new_dim="run", values=[10, 20, 30])
    assert [part["labels"] for part in document["h5zarr"]["parts"]] == [{"run": n} for n in (10, 20, 30)]
    mutate(document)
    assert ("/run", LABELS[mutate]) in kinds(validate(document))


@pytest.mark.parametrize(
    "values", [["a", "bé"], [1.5, float("nan")], [True, False], [date(2020, 1, 1), date(2021, 1, 1)]]
)
@pytest.mark.parametrize("order", ["given", None])
def test_labels_of_all_kinds(values: Any, order: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nc" for number in range(2)]
    for number, path in enumerate(paths):
        write_file(path, number, first=0)
    report = validate(document_of(paths, new_dim="run", values=values, order=order))
    assert report.ok, report.mismatches


def test_other_units_of_time(tmp_path: Path) -> None:
    paths = [tmp_path / "0.nc", tmp_path / "1.nc"]
    write_file(paths[0], 0)
    write_file(paths[1], 1, units="days since 2020-01-03", first=2)
    document = document_of(paths, concat="time")
    assert validate(document).ok
    spoil_inline(document, "time/", np.array([0, 1, 2, 3, 4, 5, 6, 8], "i4"))
    assert kinds(validate(document)) == {("/time", Kind.VALUES)}


MASKED: dict[str, tuple[list[int], set[tuple[str, Kind]]]] = {
    "as it is": ([7, -1, -1, 9], set()),
    "a time that is masked": ([7, -1, -1, -1], {("/seen", Kind.VALUES)}),
    "a masked number that is converted": ([7, -1, -3, 9], {("/seen", Kind.VALUES)}),
}
"""Numbers in the references, of which -1 stands for no time, and what is wrong with them."""


@pytest.mark.parametrize("zarr_format", ["3", "2"])
@pytest.mark.parametrize(("numbers", "expected"), MASKED.values(), ids=MASKED)
def test_times_that_are_masked(
    numbers: list[int], expected: set[tuple[str, Kind]], zarr_format: Any, tmp_path: Path
) -> None:
    paths = [tmp_path / "0.nc", tmp_path / "1.nc"]
    for number, (path, seen) in enumerate(zip(paths, ([7, -1], [-1, 11]), strict=True)):
        with h5netcdf.File(path, "w") as file:
            file.dimensions = {"time": 2}
            units = f"days since 2020-01-0{3 - 2 * number}"
            for name, values in (("time", np.arange(2) + 9 * number), ("seen", np.array(seen))):
                variable = file.create_variable(name, ("time",), data=values.astype("i4"), fillvalue=-1)
                variable.attrs["units"] = units
    combine(paths, tmp_path / "x.json", concat="time", zarr_format=zarr_format)
    document = json.loads((tmp_path / "x.json").read_text())
    spoil_inline(document, "seen/", np.array(numbers, "i4"))
    assert kinds(validate(document)) == expected


def test_chunks_of_different_lengths(tmp_path: Path) -> None:
    pytest.importorskip("zarr", minversion="3.4", reason="zarr reads rectilinear grids from 3.4 on")
    paths = []
    for number, length in enumerate((28, 31, 30)):
        paths.append(tmp_path / f"{number}.h5")
        with h5netcdf.File(paths[-1], "w") as file:
            file.dimensions = {"time": length, "x": 40}
            file.create_variable("time", ("time",), "i4", data=100 * number + np.arange(length))
            data = np.random.default_rng(number).random((length, 40))
            file.create_variable("field", ("time", "x"), "f8", data=data, chunks=(length, 40))
    document = document_of(paths, concat="time", rectilinear=True, inline_limit=1000)
    assert validate(document).ok
    refs = document["refs"]
    del refs["field/c/1/0"]
    report = validate(document)
    assert kinds(report) == {("/field", Kind.MISSING_REFERENCE), ("/field", Kind.VALUES)}
    assert {one.chunk_coords for one in report.mismatches} == {(1, 0)}


def spoil_inline(document: Document, prefix: str, values: Any) -> None:
    refs = document["refs"]
    key = next(key for key in refs if key.startswith((f"{prefix}c", f"{prefix}0")))
    refs[key] = "base64:" + base64.b64encode(values.tobytes()).decode()


def dropped(document: Document) -> None:
    del document["refs"]["field/c/5/0"]


def swapped(document: Document) -> None:
    refs = document["refs"]
    refs["field/c/0/0"], refs["field/c/3/0"] = refs["field/c/3/0"], refs["field/c/0/0"]


def swapped_files(document: Document) -> None:
    refs = document["refs"]
    refs["deep/other/c/1/0"], refs["deep/other/c/2/0"] = refs["deep/other/c/2/0"], refs["deep/other/c/1/0"]


def other_time(document: Document) -> None:
    spoil_inline(document, "time/", np.array([*range(11), 12], "i4"))


def other_attribute(document: Document) -> None:
    root = json.loads(document["refs"]["zarr.json"])
    root["attributes"]["history"] = "none"
    document["refs"]["zarr.json"] = json.dumps(root)


MUTANTS = {
    dropped: {("/field", Kind.MISSING_REFERENCE), ("/field", Kind.VALUES)},
    swapped: {("/field", Kind.VALUES)},
    swapped_files: {("/deep/other", Kind.VALUES)},
    other_time: {("/time", Kind.VALUES)},
    other_attribute: {("/", Kind.ATTRIBUTE)},
}


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutant_is_caught(mutate: Callable[[Document], None], files: list[Path]) -> None:
    document = document_of(files, concat="time")
    mutate(document)
    assert kinds(validate(document)) == MUTANTS[mutate]


def change_length(document: Document, path: str, length: int) -> None:
    change_field(document, path, lambda own: own["shape"].__setitem__(0, length))


def change_field(document: Document, path: str, change: Callable[[Document], None]) -> None:
    root = json.loads(document["refs"]["zarr.json"])
    own = root["consolidated_metadata"]["metadata"][path]
    change(own)
    document["refs"][f"{path}/zarr.json"] = json.dumps(own)
    document["refs"]["zarr.json"] = json.dumps(root)


def longer(document: Document) -> None:
    change_length(document, "field", 3 * STEPS + 2)


def shorter(document: Document) -> None:
    change_length(document, "field", 3 * STEPS - 1)


def without_last_file(document: Document) -> None:
    document["h5zarr"]["parts"].pop()


def without_second_file(document: Document) -> None:
    refs, _ = document["refs"], document["h5zarr"]["parts"].pop(1)
    refs["field/c/2/0"], refs["field/c/3/0"] = refs["field/c/0/0"], refs["field/c/1/0"]


def overlapping(document: Document) -> None:
    document["h5zarr"]["parts"][1]["start"]["time"] -= 1


NOT_COVERED = {
    longer: {"/field"},
    shorter: {"/field"},
    without_last_file: {"/field", "/deep/other", "/time"},
    without_second_file: {"/field", "/deep/other", "/time"},
    overlapping: {"/field", "/deep/other", "/time"},
}


@pytest.mark.parametrize("mutate", NOT_COVERED, ids=lambda mutate: mutate.__name__)
def test_files_have_to_cover_what_they_were_joined_to(
    mutate: Callable[[Document], None], files: list[Path]
) -> None:
    document = document_of(files, concat="time")
    mutate(document)
    report = validate(document)
    assert {path for path, kind in kinds(report) if kind == Kind.SHAPE} == NOT_COVERED[mutate]


def test_joined_in_zarr_v2(files: list[Path], tmp_path: Path) -> None:
    combine(files, tmp_path / "all.json", concat="time", zarr_format="2")
    document = json.loads((tmp_path / "all.json").read_text())
    report = validate(document)
    assert report.ok, report.mismatches
    document["h5zarr"]["parts"].pop()
    assert ("/field", Kind.SHAPE) in kinds(validate(document))


def test_parts_of_several_dimensions(tmp_path: Path) -> None:
    paths = []
    for number, (row, column) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        paths.append(tmp_path / f"{number}.h5")
        with h5py.File(paths[-1], "w") as file:
            for name, values in (("y", row + np.arange(2)), ("x", column + np.arange(3))):
                file.create_dataset(name, data=values).make_scale(name)
            field = file.create_dataset("field", data=np.full((2, 3), number), chunks=(2, 3))
            for axis, name in enumerate("yx"):
                field.dims[axis].attach_scale(file[name])
    document = document_of(paths, concat=["y", "x"])
    assert validate(document).ok
    document["h5zarr"]["parts"].pop(1)
    assert kinds(validate(document)) == {("/field", Kind.SHAPE)}


def test_mismatch_names_the_file_and_the_place_in_the_array(files: list[Path]) -> None:
    document = document_of(files, concat="time")
    swapped(document)
    found = {(one.chunk_coords, one.element) for one in validate(document).mismatches}
    assert found == {((0, 0), (0, 0)), ((3, 0), (6, 0))}
    assert any(str(files[1]) in str(one) for one in validate(document).mismatches)


def test_changed_file_and_new_dataset_are_noticed(files: list[Path]) -> None:
    document = document_of(files, concat="time")
    with h5py.File(files[1], "a") as file:
        file["more"] = 1
    expected = {("/", Kind.SOURCE_CHANGED), ("/more", Kind.MISSING_ARRAY)}
    assert kinds(validate(document)) == expected


@pytest.mark.parametrize("suffix", [".json", ".parq"])
@pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated")
def test_executor_finds_the_same(suffix: str, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / f"all{suffix}"
    combine(files, out, concat="time")
    with h5py.File(files[2], "a") as file:
        file["field"][2, 3] = 0
    alone = validate(out)
    with ThreadPoolExecutor(2) as threads:
        together = validate(out, executor=threads)
    assert not alone.ok
    assert together == alone


@pytest.mark.parametrize("sample", [0, 1, 2, 7])
def test_sample_is_spread_over_files(sample: int, files: list[Path]) -> None:
    report = validate(document_of(files, concat="time"), sample=sample)
    assert report.ok
    assert report.chunks_compared == sample


def write_records(path: Path, values: list[int], units: str | None = "days since 2000-01-01") -> None:
    with h5py.File(path, "w") as file:
        time = file.create_dataset("time", data=np.array(values, "f8"), maxshape=(None,), chunks=(2,))
        time.make_scale("time")
        if units is not None:
            time.attrs["units"] = units
        x = file.create_dataset("x", data=np.array(values, "i4"), maxshape=(None,), chunks=(2,))
        x.dims[0].attach_scale(time)


def test_first_file_without_records(tmp_path: Path) -> None:
    paths = [tmp_path / "0.h5", tmp_path / "1.h5"]
    write_records(paths[0], [])
    write_records(paths[1], [1, 2, 3, 4])
    document = document_of(paths, concat="time", order="given")
    assert validate(document).ok
    # The second file's box is as large as the array, but it is not the first file's.
    spoil_inline(document, "x/", np.array([9, 9], "i4"))
    assert kinds(validate(document)) == {("/x", Kind.VALUES)}


@pytest.mark.parametrize("length", [3, STEPS, 3 * STEPS])
def test_group_with_a_dimension_of_the_same_name(length: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nc" for number in range(3)]
    for number, path in enumerate(paths):
        write_file(path, number)
        with h5netcdf.File(path, "a") as file:
            group = file.create_group("own")
            group.dimensions = {"time": length}
            group.create_variable("y", ("time",), "f8", data=np.arange(length) + 0.5)
        with h5py.File(path, "a") as file:  # the dimension of the group above
            file.create_dataset("own/z", data=np.arange(STEPS) - number).dims[0].attach_scale(file["time"])
    document = document_of(paths, concat="time")
    shapes = [json.loads(document["refs"][f"own/{name}/zarr.json"])["shape"] for name in "yz"]
    assert shapes == [[3 * length], [3 * STEPS]]
    report = validate(document)
    assert report.ok, report.mismatches
    for name, count in (("y", 3 * length), ("z", 3 * STEPS)):
        spoiled = copy.deepcopy(document)
        spoil_inline(spoiled, f"own/{name}/", np.full(count, -1.0))
        assert kinds(validate(spoiled)) == {(f"/own/{name}", Kind.VALUES)}


def test_file_that_has_lost_its_units(tmp_path: Path) -> None:
    paths = [tmp_path / "0.h5", tmp_path / "1.h5"]
    write_records(paths[0], [0, 1])
    write_records(paths[1], [2, 3])
    document = document_of(paths, concat="time")
    write_records(paths[1], [2, 4], units=None)
    expected = {("/", Kind.SOURCE_CHANGED), ("/time", Kind.VALUES), ("/x", Kind.VALUES)}
    assert kinds(validate(document)) == expected
