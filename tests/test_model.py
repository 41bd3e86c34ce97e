"""What holds for all results and modules: they pickle, threads may share them, imports point one way."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import FIXTURE_NAMES, FIXTURES

import h5zarr
from h5zarr.converter import Conversion, convert
from h5zarr.model import Selection
from h5zarr.scanner import scan
from h5zarr.translator import translate
from h5zarr.validator import validate

PACKAGE = Path(h5zarr.__file__).parent
THREADS = 8


def rendered(conversion: Conversion) -> bytes:
    return b"".join(conversion.blocks())


# Pickling --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_results_pickle(name: str) -> None:
    scanned = scan(FIXTURES / name)
    conversion = convert(FIXTURES / name)
    again = pickle.loads(pickle.dumps(scanned))
    assert rendered(Conversion(hierarchy=translate(again))) == rendered(conversion)
    assert rendered(pickle.loads(pickle.dumps(conversion))) == rendered(conversion)
    hierarchy = pickle.loads(pickle.dumps(conversion.hierarchy))
    assert rendered(Conversion(hierarchy=hierarchy)) == rendered(conversion)


def test_errors_pickle() -> None:
    with pytest.raises(h5zarr.H5zarrError) as raised:
        convert(FIXTURES / "none.h5")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again)) == (type(raised.value), str(raised.value))


def test_results_are_frozen() -> None:
    scanned = scan(FIXTURES / "climate.nc")
    conversion = convert(FIXTURES / "climate.nc")
    frozen = [scanned, scanned.datasets[0], scanned.groups[0], conversion, conversion.hierarchy]
    frozen += conversion.hierarchy.nodes.values()
    for result in frozen:
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            result.path = "changed"


# Threads ---------------------------------------------------------------------------------


def converted(name: str) -> bytes:
    return rendered(convert(FIXTURES / name))


def test_threads_convert_different_files() -> None:
    expected = [converted(name) for name in FIXTURE_NAMES]
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(converted, FIXTURE_NAMES)) == expected


@pytest.mark.parametrize("name", ["climate.nc", "chunk_index_extensible_array_last.h5", "filter_mask.h5"])
def test_threads_convert_the_same_file(name: str) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        assert set(threads.map(converted, [name] * 4 * THREADS)) == {converted(name)}


def test_threads_survive_strings_of_the_same_file(tmp_path: Path) -> None:
    """libhdf5 2.0.0 crashes where a handle is closed while another one of the file reads strings."""
    path = tmp_path / "strings.h5"
    with h5py.File(path, "w") as file:
        for number in range(30):
            file.create_dataset(f"x{number}", data=["a", "b"], dtype=h5py.string_dtype(), fillvalue="c")
    code = f"""if True:
        from concurrent.futures import ThreadPoolExecutor
        from h5zarr.converter import convert
        with ThreadPoolExecutor({THREADS}) as threads:
            conversions = list(threads.map(convert, [{str(path)!r}] * 150))
        print(len({{b"".join(conversion.blocks()) for conversion in conversions}}))
    """
    assert output_of(code) == ["1"]


def test_threads_share_an_open_file() -> None:
    with h5py.File(FIXTURES / "climate.nc") as file, ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda source: rendered(convert(source)), [file] * THREADS)
        assert set(results) == {converted("climate.nc")}


# Selections ------------------------------------------------------------------------------


@pytest.fixture
def file_path(tmp_path: Path) -> Path:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in ("top", "model/t", "model/u", "model/run/t", "model2/t"):
            file[name] = np.arange(3)
        file.attrs["on"] = "root"
        file["model"].attrs["on"] = "model"
        file["soft"] = h5py.SoftLink("/model/t")
        file["model/hard"] = file["top"]
    return path


def arrays(path: Path, **options: Any) -> set[str]:
    return {array.path for array in convert(path, **options).hierarchy.arrays()}


ALL = {"/top", "/model/t", "/model/u", "/model/run/t", "/model2/t", "/soft", "/model/hard"}
SELECTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing said": ({}, ALL),
    "one": ({"include": ["/model/t"]}, {"/model/t"}),
    "pattern": ({"include": ["*/t"]}, {"/model/t", "/model/run/t", "/model2/t"}),
    "one that is no list": ({"include": "/top"}, {"/top"}),
    "one to leave out": ({"exclude": "/model*"}, {"/top", "/soft"}),
    "patterns": ({"include": ["/top", "/model2/*"]}, {"/top", "/model2/t"}),
    "star crosses groups": (
        {"include": ["/model/*"]},
        {"/model/t", "/model/u", "/model/run/t", "/model/hard"},
    ),
    "all but": ({"exclude": ["/model*"]}, {"/top", "/soft"}),
    "both": ({"include": ["*/t"], "exclude": ["/model2/*"]}, {"/model/t", "/model/run/t"}),
    "other name of a hard link": ({"include": ["/model/hard"]}, {"/model/hard"}),
    "all but one hard link": ({"exclude": ["/top"]}, ALL - {"/top"}),
    "nothing left out": ({"exclude": ["/nothing"]}, ALL),
    "matched and left out": ({"include": "/top", "exclude": "/top"}, set()),
    "group": ({"group": "model"}, {"/t", "/u", "/run/t", "/hard"}),
    "group with slashes": ({"group": "/model/"}, {"/t", "/u", "/run/t", "/hard"}),
    "group below": ({"group": "/model/run"}, {"/t"}),
    "group and pattern": ({"group": "model", "include": ["/model/run/*"]}, {"/run/t"}),
    "root": ({"group": "/"}, ALL),
}


@pytest.mark.parametrize(("options", "expected"), SELECTIONS.values(), ids=SELECTIONS)
def test_selection(options: dict[str, Any], expected: set[str], file_path: Path) -> None:
    assert arrays(file_path, **options) == expected
    assert convert(file_path, **options).problems == ()


UNMATCHED: dict[str, tuple[dict[str, Any], list[str], set[str]]] = {
    "none": ({"include": ["/nothing"]}, ["/nothing"], set()),
    "relative": ({"include": ["top"]}, ["top"], set()),
    "case": ({"include": "/TOP"}, ["/TOP"], set()),
    "group": ({"include": ["/model"]}, ["/model"], set()),
    "outside of the group": ({"include": ["/top"], "group": "model/run"}, ["/top"], set()),
    "some of several": ({"include": ["/model", "/top", "u"]}, ["/model", "u"], {"/top"}),
    "isolated": ({"include": "top", "isolate": True}, ["top"], set()),
}


@pytest.mark.parametrize(("options", "unmatched", "expected"), UNMATCHED.values(), ids=UNMATCHED)
def test_patterns_that_match_nothing_are_problems(
    options: dict[str, Any], unmatched: list[str], expected: set[str], file_path: Path
) -> None:
    assert arrays(file_path, **options) == expected
    problems = convert(file_path, **options).problems
    assert {problem.path for problem in problems} == {"/"}
    assert [problem.found for problem in problems] == [
        f"no dataset matches the include pattern {pattern}" for pattern in unmatched
    ]


@pytest.mark.parametrize("name", ["/dangling", "/elsewhere", "/linked/x"])
def test_links_match_patterns(name: str, file_path: Path, tmp_path: Path) -> None:
    with h5py.File(file_path, "a") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        other["group/x"] = np.arange(3)
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["elsewhere"] = h5py.ExternalLink("no.h5", "/x")
        file["linked"] = h5py.ExternalLink("other.h5", "/group")
    problems = convert(file_path, include=name).problems
    assert {problem.path for problem in problems} == {"/dangling", "/elsewhere"}


def test_a_pattern_that_matches_nothing_hides_no_missing_dataset(file_path: Path, tmp_path: Path) -> None:
    """A problem of a group's path would tell that all in it is missing."""
    convert(file_path, tmp_path / "x.json", include=["/model", "/model/*"])
    references = json.loads((tmp_path / "x.json").read_text())
    del references["refs"]["model/u/zarr.json"]
    report = validate(references)
    assert "/model/u" in {mismatch.path for mismatch in report.mismatches}
    assert report.problems_reported == 1


def test_only_the_soft_link_of_a_dataset(file_path: Path) -> None:
    """A name that was asked for is there, whatever kind of link it is."""
    assert arrays(file_path, include=["/soft"]) == {"/soft"}


def test_selected_group_is_the_root(file_path: Path) -> None:
    hierarchy = convert(file_path, group="model").hierarchy
    assert hierarchy.nodes["/"].metadata["attributes"] == {"on": "model"}
    assert hierarchy.selection.root == "/model"
    assert set(hierarchy.nodes) == {"/", "/run", "/t", "/u", "/run/t", "/hard"}


def test_selection_is_in_the_provenance(file_path: Path) -> None:
    conversion = convert(file_path, group="model", include=["*/t"], exclude=["*/run/*"])
    expected = {"root": "/model", "include": ["*/t"], "exclude": ["*/run/*"]}
    assert conversion.references()["h5zarr"]["selection"] == expected


@pytest.mark.parametrize("path", ["/", "/x", "/x/y"])
@pytest.mark.parametrize("root", ["/", "/model", "/model/run"])
def test_paths_of_both_sides_lead_back(root: str, path: str) -> None:
    selection = Selection(root=root)
    assert selection.zarr_path(selection.hdf5_path(path)) == path


def test_progress_counts_up_to_the_total(file_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(file_path, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total in calls} == {len(calls)}


# Imports ---------------------------------------------------------------------------------

ORDER_TEXT = """
    errors model text versions protocols
    _native _json_rows compiled _fallback libhdf5
    filter_registry fragile_filters chunk_form filters file_image
    sequences dtype_json attributes dimensions datatypes inline_values translator
    prefetch isolation identity streams source neighbours chunk_index virtual
    read_datatype read_values link_paths walk read_storage read_data read_object scanner
    output rectilinear references
    codecs zarr_types sequence_codec rectilinear_setting
    converter inputs output_names file_report resume workers many
    url_renames renamer
    combining combiner
    blocks placement block_fetch object_names linked_files
    compare compare_attributes compare_documents compare_times report compare_arrays
    consumer object_check validator
    reading xarray_backend
    io_plan outline references_inspection inspection
    html
    cli
"""
ORDER = ORDER_TEXT.split()
"""Modules and packages from the lowest to the highest: each may import those before it."""

PURE = {"errors", "model", "filters", "attributes", "dimensions", "datatypes", "inline_values", "chunk_form"}
"""Modules that work on what was scanned: they import nothing that opens files."""

READERS_OF_ZARR = {
    "codecs",
    "combining",
    "compare_arrays",
    "compare_times",
    "consumer",
    "inline_values",
    "object_check",
    "reading",
    "rectilinear_setting",
    "references",
    "sequence_codec",
    "validator",
    "xarray_backend",
    "zarr_types",
}
"""The only modules that import zarr or numcodecs, which takes longer than scanning most files."""
USERS_OF_XARRAY = {"combining", "compare_times", "xarray_backend"}
"""The only modules that import xarray, which need not be installed for the others."""


def unit(path: Path) -> str:
    """Return the module or package directly in `h5zarr` that a source file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Return the full names of what a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_module_has_a_place_in_the_order() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) == {unit(path) for path in SOURCES} | {"_native", "_json_rows"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = [name.split(".")[1] for name in imported(path) if name.startswith("h5zarr.")]
    allowed = {*ORDER[: ORDER.index(unit(path)) + 1]}
    assert set(own) <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_of_others(path: Path) -> None:
    others = {name.split(".")[0] for name in imported(path)}
    module = unit(path)
    assert module not in PURE or others.isdisjoint({"h5py", "fsspec", "os", "io"})
    assert module in READERS_OF_ZARR or others.isdisjoint({"zarr", "numcodecs"})
    assert module == "cli" or "click" not in others
    assert module in USERS_OF_XARRAY or "xarray" not in others


def test_public_names_are_no_modules() -> None:
    """Importing a module puts it in the place of a function of the same name."""
    assert set(h5zarr.__all__).isdisjoint(ORDER)
    assert all(callable(getattr(h5zarr, name)) for name in h5zarr.__all__)


def output_of(code: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_package_imports_little() -> None:
    code = (
        "import sys, h5zarr; print(*sorted({'h5py', 'numpy', 'zarr', 'fsspec', 'click'} & set(sys.modules)))"
    )
    assert output_of(code) == []


def test_converting_imports_no_zarr() -> None:
    start = "import sys; from h5zarr.converter import convert"
    code = f"{start}; convert({str(FIXTURES / 'filter_deflate.h5')!r}); print('zarr' in sys.modules)"
    assert output_of(code) == ["False"]
