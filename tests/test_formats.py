"""Every format of references: written by `convert`, proved by `validate`, loaded and written anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import icechunk
import numpy as np
import pytest
import xarray
from conftest import CODEC_WARNING, FIXTURES
from http_server import serve

from h5zarr.converter import convert
from h5zarr.errors import OutputError, ReferencesError, SourceError
from h5zarr.inspection import inspect
from h5zarr.references import formats, icechunk_store
from h5zarr.report import Kind
from h5zarr.validator import validate

pytestmark = [
    pytest.mark.filterwarnings(CODEC_WARNING),
    # pandas says so to everybody who reads Parquet references through fsspec.
    pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated"),
]

SUFFIXES = [".json", ".parq", ".icechunk"]
SOURCES = [
    "climate.nc",
    "chunk_index_extensible_array_last.h5",
    "compact.h5",
    "datatype_compound_nested.h5",
    "filter_mask.h5",
    "links_hard.h5",
    "external_storage.h5",
    "scalar.h5",
    "user_block_latest.h5",
    "virtual_dataset.h5",
    "zero_length.h5",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/x", data=np.arange(600.0).reshape(20, 30), chunks=(10, 30))
        file["small"] = np.arange(5)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", SOURCES)
def test_every_format_is_equal_to_the_file(name: str, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    conversion = convert(FIXTURES / name, out)
    report = validate(out)
    assert (report.ok, report.bytes_moved) == (True, 0)
    assert report.arrays_compared == len(list(conversion.hierarchy.arrays()))
    assert report.problems_reported == len(conversion.problems)


@pytest.mark.parametrize("options", [{}, {"shard_bytes": 1000}], ids=["chunks", "shards"])
@pytest.mark.parametrize("name", ["climate.nc", "chunk_index_btree_v1.h5", "filter_mask.h5"])
def test_stores_are_equal_to_the_file(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    convert(FIXTURES / name, tmp_path / "out.zarr", **options)
    report = validate(tmp_path / "out.zarr")
    assert report.ok, report.mismatches


@pytest.mark.parametrize("suffix", [".json", ".parq"])
@pytest.mark.parametrize("name", SOURCES)
def test_formats_carry_all_into_one_another(name: str, suffix: str, tmp_path: Path) -> None:
    first = convert(FIXTURES / name, tmp_path / f"first{suffix}")
    convert(tmp_path / f"first{suffix}", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == b"".join(first.blocks())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_lost_reference_is_noticed_in_every_format(suffix: str, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "sound.json")
    document = json.loads((tmp_path / "sound.json").read_text())
    del document["refs"]["deep/x/c/1/0"]
    (tmp_path / "spoiled.json").write_text(json.dumps(document))
    convert(tmp_path / "spoiled.json", tmp_path / f"out{suffix}")
    report = validate(tmp_path / f"out{suffix}")
    found = {(one.path, one.kind, one.chunk_coords) for one in report.mismatches}
    assert found == {("/deep/x", kind, (1, 0)) for kind in (Kind.MISSING_REFERENCE, Kind.VALUES)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_provenance_is_the_same_in_every_format(suffix: str, source: Path, tmp_path: Path) -> None:
    conversion = convert(source, tmp_path / f"out{suffix}", exclude=["/small"])
    told = formats.read_provenance(str(tmp_path / f"out{suffix}"))
    assert (told.source, told.selection) == (conversion.hierarchy.source, conversion.hierarchy.selection)


def test_provenance_is_read_from_the_end_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(6000), chunks=(1,))
    convert(tmp_path / "a.h5", tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_size > formats.LARGEST_TAIL_BYTES
    read: list[int] = []
    loads = json.loads
    monkeypatch.setattr("json.loads", lambda text: [read.append(len(text)), loads(text)][1])
    assert formats.read_provenance(str(tmp_path / "a.json")).version is not None
    assert sum(read) < 1000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.json", {"record_size": 10}),
        ("x.parq", {"branch": "b"}),
        ("x.icechunk", {"shard_bytes": 10}),
        ("x.json", {"portable": True}),
    ],
)
def test_options_of_other_formats_are_refused(
    name: str, options: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=next(iter(options))):
        convert(source, tmp_path / name, **options)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["out.h5", "out.HDF5", "out.he5", "out.nc/", "out.nc4", "out.zip"])
def test_suffixes_of_other_files_are_refused(name: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"suffix .* choose one of \.json, \.parq, .*\.zarr, or name the format"
    ):
        convert(source, f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]


@pytest.mark.parametrize(("name", "options"), [("out.nc", {"format": "json"}), ("out.txt", {}), ("out", {})])
def test_other_suffixes_are_json(name: str, options: dict[str, Any], source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / name, **options)
    assert "refs" in json.loads((tmp_path / name).read_bytes())


def test_format_overrides_the_suffix(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "refs", format="parquet")
    assert (tmp_path / "refs" / ".zmetadata").is_file()


@pytest.mark.parametrize("options", [{"group": "/deep"}, {"links": "attributes"}, {"isolate": True}])
def test_references_cannot_be_scanned_again(options: dict[str, Any], source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a.json")
    with pytest.raises(ReferencesError, match=f"{next(iter(options))} can be chosen only where"):
        convert(tmp_path / "a.json", tmp_path / "b.json", **options)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_references_that_are_not_there(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ReferencesError, match="nowhere"):
        formats.load(tmp_path / f"nowhere{suffix}")


# Versions of a repository ----------------------------------------------------------------


@pytest.fixture
def repository(source: Path, tmp_path: Path) -> str:
    """Return a repository whose branch ``trial`` is of another file, and whose tag ``first`` of this."""
    out = tmp_path / "x.icechunk"
    convert(source, out)
    made = icechunk.Repository.open(icechunk.local_filesystem_storage(str(out)))
    made.create_tag("first", made.lookup_branch("main"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["y"] = np.arange(50_000.0)
    convert(tmp_path / "other.h5", out, branch="trial")
    return str(out)


def test_versions_of_a_repository(repository: str) -> None:
    made = icechunk.Repository.open(icechunk.local_filesystem_storage(repository))
    arrays = {
        "": {"/deep/x", "/small"},
        "/": {"/deep/x", "/small"},
        "@main": {"/deep/x", "/small"},
        "@trial": {"/y"},
        "/@trial": {"/y"},
        "@first": {"/deep/x", "/small"},
        f"@{made.lookup_branch('trial')}": {"/y"},
    }
    for version, paths in arrays.items():
        report = validate(repository + version)
        assert (report.ok, report.arrays_compared) == (True, len(paths)), version
        if icechunk_store.CAN_LIST:
            assert {array.path for array in formats.load(repository + version).arrays()} == paths


def test_version_that_is_not_there(repository: str) -> None:
    words = r"x\.icechunk: no branch, tag or snapshot none can be opened .*; its branches are main, trial"
    with pytest.raises(ReferencesError, match=words):
        validate(f"{repository}@none")


def test_version_is_not_written(repository: str, source: Path) -> None:
    with pytest.raises(OutputError, match=r"@trial: write to .*/x\.icechunk, with branch trial"):
        convert(source, f"{repository}@trial")


# Options and outputs that cannot be meant ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zarr_format": 2}, "zarr_format is 2; choose one of '3', '2', 'both'"),
        ({"zarr_format": "4"}, "zarr_format is '4'"),
        ({"format": "foo"}, "format is 'foo'; choose one of 'json'"),
        ({"shard_bytes": -5, "format": "zarr"}, "shard_bytes is -5; it has to be positive"),
        ({"record_size": 0, "format": "parquet"}, "record_size is 0; it has to be positive"),
    ],
    ids=str,
)
def test_options_that_do_not_exist_are_refused(
    options: dict[str, Any], words: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=words):
        convert(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_source_is_not_written_over(source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    (tmp_path / "link.h5").symlink_to(source)
    conversion = convert(source, tmp_path / "x.json")
    for out in (source, tmp_path / "link.h5", source.as_uri()):
        with pytest.raises(OutputError, match="a file that the references point into"):
            conversion.write(out, format="json")
        with pytest.raises(OutputError, match="a file that the references point into"):
            convert(tmp_path / "x.json", out, format="json")
    assert source.read_bytes() == content


def test_a_remote_source_is_not_written_over(source: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/over/x.h5", source.read_bytes())
    with pytest.raises(OutputError, match="a file that the references point into"):
        convert("memory://over/x.h5", "memory://over/x.h5", format="json")
    assert files.cat_file("/over/x.h5") == source.read_bytes()


def test_write_tells_what_only_this_format_cannot_express(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(1000)
        file["x"].attrs["v"] = np.nan
    conversion = convert(tmp_path / "x.h5")
    assert conversion.write(tmp_path / "x.json") == conversion.problems == ()
    (problem,) = conversion.write(tmp_path / "x.icechunk")
    assert (problem.path, problem.attribute) == ("/x", "v")


def test_write_keeps_its_options(source: Path, tmp_path: Path) -> None:
    convert(source).write(tmp_path / "x.json", zarr_format="2")
    told = formats.read_provenance(str(tmp_path / "x.json"))
    assert told.options == {"zarr_format": "2"}


@pytest.mark.parametrize("read", [formats.load, formats.read_provenance, validate])
def test_a_file_instead_of_references(read: Callable[[str], Any], source: Path) -> None:
    with pytest.raises(ReferencesError, match=r"source\.h5: is an HDF5 file; h5zarr convert makes"):
        read(str(source))


def test_a_branch_without_a_name(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="branch is empty"):
        convert(source, tmp_path / "x.icechunk", branch="")


def test_validation_of_a_branch_that_has_nothing(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "x.icechunk", branch="new")
    with pytest.raises(ReferencesError, match=r"x\.icechunk: does not tell .*x\.icechunk@BRANCH$"):
        validate(tmp_path / "x.icechunk")
    assert validate(f"{tmp_path}/x.icechunk@new").ok


# Servers that refuse ---------------------------------------------------------------------


def open_with_xarray(url: str) -> Any:
    return xarray.open_dataset(url, engine="h5zarr")


READERS: dict[str, Callable[[str], Any]] = {
    "load": formats.load,
    "provenance": formats.read_provenance,
    "validate": validate,
    "inspect": inspect,
    "xarray": open_with_xarray,
}


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("name", ["x.json", "x.parq"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_references_that_a_server_refuses(
    read: Callable[[str], Any], name: str, status: int, tmp_path: Path
) -> None:
    """Their client library raises errors of its own, which are no OSErrors."""
    convert(FIXTURES / "climate.nc", tmp_path / name)
    with serve(tmp_path, refuse=status) as server:
        url = f"{server.url}/{name}"
        with pytest.raises((ReferencesError, SourceError), match=rf"{name}.*: cannot be read: .*{status}"):
            read(url)


def test_parquet_references_of_which_only_the_content_is_refused(tmp_path: Path) -> None:
    """An object store has no folders: that there is none tells nothing."""
    (tmp_path / "x.parq").mkdir()
    with serve(tmp_path) as server:
        server.forbidden = frozenset({"/x.parq/.zmetadata"})
        with pytest.raises(SourceError, match=r"cannot be read: .*403"):
            open_with_xarray(f"{server.url}/x.parq")
