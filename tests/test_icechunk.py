"""References in Icechunk repositories, read as users read them: by zarr-python and xarray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("ICECHUNK_NO_LOGS", "1")

import fsspec
import h5py
import http_server
import icechunk
import numpy as np
import pytest
import test_xarray
import xarray as xr
import zarr
from conftest import CODEC_WARNING, FIXTURE_NAMES, FIXTURES, open_zarr
from s3_server import serve_s3
from test_roundtrip import difference, expected_arrays, left_out

from h5zarr.converter import convert
from h5zarr.errors import OutputError, ReferencesError
from h5zarr.model import ArrayNode, GroupNode, Hierarchy, Manifest, Part, Selection, SourceIdentity
from h5zarr.references import icechunk_store
from h5zarr.references.provenance import NOTHING_KNOWN

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

VERSION = "1.2.3"
VALUES = np.arange(60, dtype="<i4").reshape(6, 10)
IS_FIRST_VERSION = icechunk.__version__.startswith("1.")
BUCKET = "h5zarr-icechunk"


def write_file(path: Path, values: Any = VALUES) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=values, chunks=(2, 5), compression="gzip")
        file["contiguous"] = values
        file.attrs["title"] = "something"
    # Icechunk compares whole seconds, rounded up: a file must be older than that.
    os.utime(path, (1_700_000_000, 1_700_000_000.25))
    return path


@pytest.fixture
def file_path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "source.h5")


def hierarchy_of(source: Any, **options: Any) -> Hierarchy:
    return convert(source, inline_threshold=0, **options).hierarchy


def commit(hierarchy: Hierarchy, out: Any, **options: Any) -> str:
    return icechunk_store.write(hierarchy, out, version=VERSION, **options)


def open_root(out: Any, **options: Any) -> zarr.Group:
    return zarr.open_group(icechunk_store.open_store(out, **options), mode="r")


def assert_reads_back(out: Any, values: Any = VALUES, **options: Any) -> None:
    root = open_root(out, **options)
    np.testing.assert_array_equal(root["group/x"][...], values)
    np.testing.assert_array_equal(root["contiguous"][...], values)
    assert dict(root.attrs) == {"title": "something"}


# Every fixture ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_fixture(name: str, tmp_path: Path) -> None:
    conversion = convert(FIXTURES / name, inline_threshold=100)
    commit(conversion.hierarchy, tmp_path / "repository")
    root = open_root(tmp_path / "repository")
    members = root.members(max_depth=None)
    arrays = {f"/{path}": node for path, node in members if isinstance(node, zarr.Array)}
    with contextlib.chdir(FIXTURES), h5py.File(name) as file:
        expected = expected_arrays(
            file, left_out(conversion) | {path for path, _ in REFUSED.get(name, ()) if _ is None}
        )
        assert arrays.keys() == expected.keys()
        for path, dataset in expected.items():
            assert difference(dataset, arrays[path]) == "", path
    assert attributes(root, name) == attributes(open_zarr(conversion.references()), name)


REFUSED: dict[str, set[tuple[str, str | None]]] = {
    "attributes.h5": {("/x", "infinities"), ("/x", "nan")},
    "names_reserved.h5": {("/zarr.json", None)},
}
"""What an Icechunk repository cannot hold: path and attribute, by fixture."""


def attributes(root: zarr.Group, fixture: str) -> dict[tuple[str, str], str]:
    """Return all attributes but those that are refused, as JSON."""
    nodes = {"/": root, **{f"/{path}": node for path, node in root.members(max_depth=None)}}
    refused = REFUSED.get(fixture, set())
    return {
        (path, name): json.dumps(value)
        for path, node in nodes.items()
        for name, value in node.attrs.items()
        if (path, name) not in refused and (path, None) not in refused
    }


def test_what_is_refused_is_a_problem() -> None:
    for name in FIXTURE_NAMES:
        hierarchy = convert(FIXTURES / name).hierarchy
        new = icechunk_store.expressible(hierarchy).problems[len(hierarchy.problems) :]
        assert {(problem.path, problem.attribute) for problem in new} == REFUSED.get(name, set())


def as_json(hierarchy: Hierarchy) -> dict[str, Any]:
    return {path: json.dumps(node.metadata, sort_keys=True) for path, node in hierarchy.nodes.items()}


def rows(manifest: Manifest) -> list[tuple[Any, ...]]:
    which = np.zeros(len(manifest.grid_position), int)
    if manifest.location_index is not None:
        which = manifest.location_index
    return [
        (position, manifest.locations[location], byte_offset, byte_length)
        for position, location, byte_offset, byte_length in zip(
            manifest.grid_position.tolist(),
            which.tolist(),
            manifest.byte_offset.tolist(),
            manifest.byte_length.tolist(),
            strict=True,
        )
    ]


def assert_same(found: Hierarchy, expected: Hierarchy) -> None:
    assert as_json(found) == as_json(expected)
    assert (found.source, found.selection) == (expected.source, expected.selection)
    assert (found.problems, found.parts) == (expected.problems, expected.parts)
    for array in expected.arrays():
        node = found.nodes[array.path]
        assert isinstance(node, ArrayNode)
        assert rows(node.manifest) == rows(array.manifest)
        assert node.manifest.inline == array.manifest.inline
        assert node.manifest.grid_shape == array.manifest.grid_shape


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_load(name: str, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(FIXTURES / name)
    commit(hierarchy, tmp_path / "repository")
    if IS_FIRST_VERSION:
        with pytest.raises(ReferencesError, match=r"cannot list .*; use Icechunk 2, which needs Python"):
            icechunk_store.load(tmp_path / "repository")
    else:
        assert_same(icechunk_store.load(tmp_path / "repository"), icechunk_store.expressible(hierarchy))


@pytest.mark.parametrize("name", test_xarray.NAMES)
def test_xarray_identical_to_h5netcdf(name: str, tmp_path: Path) -> None:
    commit(hierarchy_of(FIXTURES / name), tmp_path / "repository")
    store = icechunk_store.open_store(tmp_path / "repository")
    for group in test_xarray.groups_of(FIXTURES / name):
        with (
            xr.open_zarr(store, group=group, consolidated=False, chunks=None) as found,
            test_xarray.through_h5netcdf(FIXTURES / name, group) as expected,
        ):
            xr.testing.assert_identical(found.load(), expected.load())


# Repositories ----------------------------------------------------------------------------


def test_new_local_repository(file_path: Path, tmp_path: Path) -> None:
    snapshot = commit(hierarchy_of(file_path), str(tmp_path / "repository"))
    assert_reads_back(f"file://{tmp_path}/repository")
    assert_reads_back(tmp_path / "repository", version=snapshot)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "source.h5"]


def test_empty_folder_becomes_a_repository(file_path: Path, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    commit(hierarchy_of(file_path), tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")


def test_storage_of_icechunk_itself(file_path: Path) -> None:
    storage = icechunk.in_memory_storage()
    commit(hierarchy_of(file_path), storage)
    assert_reads_back(storage)
    commit(hierarchy_of(file_path), storage)
    assert_reads_back(storage)


def history(out: Path, branch: str = "main") -> list[str]:
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(out)))
    return [info.message for info in repository.ancestry(branch=branch)]


def test_branch_is_replaced_and_older_snapshots_stay(file_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    first = commit(hierarchy_of(file_path), out)
    other = write_file(tmp_path / "other.h5", VALUES + 1)
    with h5py.File(other, "a") as file:
        del file["group"]
        file["y"] = VALUES
    second = commit(hierarchy_of(other), out, message="something else")
    root = open_root(out)
    assert sorted(root) == ["contiguous", "y"]
    np.testing.assert_array_equal(root["contiguous"][...], VALUES + 1)
    assert_reads_back(out, version=first)
    assert sorted(open_root(out, version=second)) == ["contiguous", "y"]
    assert history(out)[:2] == ["something else", f"h5zarr {VERSION}: references to file://{file_path}"]


def test_new_branch_leaves_the_others_alone(file_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    commit(hierarchy_of(file_path), out)
    other = write_file(tmp_path / "other.h5", VALUES + 1)
    commit(hierarchy_of(other), out, branch="trial", message="tried")
    assert_reads_back(out)
    assert_reads_back(out, VALUES + 1, version="trial")
    assert history(out, "trial")[0] == "tried"
    assert history(out) == history(out, "trial")[1:]
    commit(hierarchy_of(file_path), out, branch="trial")
    assert_reads_back(out, version="trial")


def test_containers_of_others_stay(file_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=77)
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer("s3://theirs/", icechunk.s3_store(region="eu-west-1", anonymous=True))
    )
    storage = icechunk.local_filesystem_storage(str(out))
    icechunk.Repository.create(storage, config)
    commit(hierarchy_of(file_path), out)
    kept = icechunk.Repository.fetch_config(storage)
    assert kept is not None
    assert kept.inline_chunk_threshold_bytes == 77
    assert sorted(kept.virtual_chunk_containers or {}) == [f"file://{tmp_path}/", "s3://theirs/"]
    assert_reads_back(out)


def test_readers_choose_which_containers_they_trust(file_path: Path, tmp_path: Path) -> None:
    """What the documentation of Icechunk says of reading works with what is written here."""
    commit(hierarchy_of(file_path), tmp_path / "repository")
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    access = None if IS_FIRST_VERSION else icechunk.Credentials.LocalFileSystemAccess()
    allowed = {f"file://{tmp_path}/": access}
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)
    root = zarr.open_group(repository.readonly_session("main").store, mode="r")
    np.testing.assert_array_equal(root["contiguous"][...], VALUES)
    repository = icechunk.Repository.open(storage)
    root = zarr.open_group(repository.readonly_session("main").store, mode="r")
    with pytest.raises(icechunk.IcechunkError):
        root["contiguous"][...]


def test_store_is_read_only(file_path: Path, tmp_path: Path) -> None:
    commit(hierarchy_of(file_path), tmp_path / "repository")
    assert icechunk_store.open_store(tmp_path / "repository").read_only


def test_folder_of_something_else(file_path: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("content")
    with pytest.raises(OutputError, match="folder"):
        commit(hierarchy_of(file_path), tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["precious"]


def test_file_in_place_of_the_repository(file_path: Path) -> None:
    content = file_path.read_bytes()
    with pytest.raises(OutputError, match=r"source\.h5"):
        commit(hierarchy_of(file_path), file_path)
    assert file_path.read_bytes() == content


def test_no_folder_to_put_it_in(file_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no such folder"):
        commit(hierarchy_of(file_path), tmp_path / "nowhere" / "repository")


def test_url_of_another_kind(file_path: Path) -> None:
    with pytest.raises(OutputError, match="give a local path, a URL s3://"):
        commit(hierarchy_of(file_path), "gs://bucket/repository")


MISSING: dict[str, tuple[str, str | None, str]] = {
    "repository": ("nowhere", None, "no such folder; check the path"),
    "branch": (
        "repository",
        "nowhere",
        r"repository: no branch, tag or snapshot nowhere can be opened .*; its branches are main$",
    ),
    "snapshot": (
        "repository",
        "VY76P925PRY57WFEK410",
        "no branch, tag or snapshot VY76P925PRY57WFEK410 can be opened",
    ),
}


@pytest.mark.parametrize(("name", "version", "words"), MISSING.values(), ids=MISSING)
def test_nothing_to_open(name: str, version: str | None, words: str, file_path: Path, tmp_path: Path) -> None:
    commit(hierarchy_of(file_path), tmp_path / "repository")
    for function in (icechunk_store.open_store, icechunk_store.read_provenance):
        with pytest.raises(ReferencesError, match=words):
            function(tmp_path / name, version=version)
    assert not (tmp_path / "nowhere").exists()


def test_folder_without_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ReferencesError, match="doesn't exist"):
        icechunk_store.open_store(tmp_path)


# Provenance ------------------------------------------------------------------------------


def test_provenance(file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(file_path, group="/group", exclude=["/nothing*"])
    snapshot = commit(hierarchy, tmp_path / "repository")
    commit(hierarchy_of(file_path), tmp_path / "repository")
    told = icechunk_store.read_provenance(tmp_path / "repository", version=snapshot)
    assert (told.version, told.source, told.selection) == (VERSION, hierarchy.source, hierarchy.selection)
    assert icechunk_store.read_provenance(tmp_path / "repository").selection == Selection()


def test_provenance_of_a_commit_by_others(file_path: Path, tmp_path: Path) -> None:
    commit(hierarchy_of(file_path), tmp_path / "repository")
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="r+").attrs["edited"] = True
    session.commit("edited")
    assert icechunk_store.read_provenance(tmp_path / "repository") == NOTHING_KNOWN


# Sources that change ---------------------------------------------------------------------


def test_changed_local_file_is_noticed(file_path: Path, tmp_path: Path) -> None:
    commit(hierarchy_of(file_path), tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")
    os.utime(file_path, (1_700_000_002, 1_700_000_002))
    with pytest.raises(icechunk.IcechunkError, match="has changed"):
        open_root(tmp_path / "repository")["contiguous"][...]


def test_changed_local_file_of_which_nobody_told(file_path: Path, tmp_path: Path) -> None:
    commit(replace(hierarchy_of(file_path), source=None), tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")
    os.utime(file_path, (1_700_000_002, 1_700_000_002))
    with pytest.raises(icechunk.IcechunkError, match="has changed"):
        open_root(tmp_path / "repository")["contiguous"][...]


class Conditional(http_server._Handler):
    """Heeds what real HTTP servers heed (RFC 9110, section 13.1)."""

    def _answer(self, *, with_body: bool) -> None:
        status = (self.server.folder / self.path.lstrip("/")).stat()
        limit = self.headers.get("If-Unmodified-Since")
        is_late = limit is not None and parsedate_to_datetime(limit).timestamp() < int(status.st_mtime)
        if is_late or self.headers.get("If-Match") not in (None, f'"{status.st_mtime_ns:x}"'):
            self._send(412, {}, b"", with_body=with_body)
        else:
            super()._answer(with_body=with_body)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[http_server.RangeServer]:
    with http_server.serve(tmp_path) as server:
        server.RequestHandlerClass = Conditional
        yield server


def test_http(web: http_server.RangeServer, file_path: Path, tmp_path: Path) -> None:
    hierarchy = hierarchy_of(f"{web.url}/source.h5")
    if IS_FIRST_VERSION:
        with pytest.raises(OutputError, match="has a port, which Icechunk 1 leaves out; use Icechunk 2"):
            commit(hierarchy, tmp_path / "repository")
        return
    commit(hierarchy, tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")
    os.utime(file_path, (1_700_000_002, 1_700_000_002))
    with pytest.raises(icechunk.IcechunkError, match="has changed"):
        open_root(tmp_path / "repository")["contiguous"][...]


# S3 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    with serve_s3(BUCKET) as options:
        yield options


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> Any:
    return fsspec.filesystem("s3", **s3_options)


@pytest.mark.parametrize("key", ["folder/x.h5", "x.h5", "with space/per%20cent/hash#.h5", "ünï/côde.h5"])
def test_s3_source(
    key: str, bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path
) -> None:
    bucket.put_file(str(file_path), f"{BUCKET}/{key}")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/{key}", storage_options=s3_options)
    commit(hierarchy, tmp_path / "repository", source_options=s3_options)
    assert_reads_back(tmp_path / "repository", source_options=s3_options)
    write_file(file_path, VALUES + 1)
    bucket.put_file(str(file_path), f"{BUCKET}/{key}")
    with pytest.raises(icechunk.IcechunkError, match="has changed"):
        open_root(tmp_path / "repository", source_options=s3_options)["contiguous"][...]


def test_s3_key_with_an_empty_part(
    bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path
) -> None:
    bucket.put_file(str(file_path), f"{BUCKET}/empty//part.h5")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/empty//part.h5", storage_options=s3_options)
    if IS_FIRST_VERSION:
        with pytest.raises(OutputError, match="two slashes in a row, which Icechunk 1 leaves out"):
            commit(hierarchy, tmp_path / "repository", source_options=s3_options)
        return
    commit(hierarchy, tmp_path / "repository", source_options=s3_options)
    assert_reads_back(tmp_path / "repository", source_options=s3_options)


def test_s3_repository(s3_options: dict[str, Any], file_path: Path) -> None:
    out = f"s3://{BUCKET}/some/repository.icechunk"
    snapshot = commit(hierarchy_of(file_path), out, storage_options=s3_options)
    assert_reads_back(out, storage_options=s3_options)
    other = write_file(file_path.with_name("other.h5"), VALUES + 1)
    commit(hierarchy_of(other), out, storage_options=s3_options)
    assert_reads_back(out, VALUES + 1, storage_options=s3_options)
    assert_reads_back(out, version=snapshot, storage_options=s3_options)
    told = icechunk_store.read_provenance(out, storage_options=s3_options).source
    assert told is not None
    assert told.url == f"file://{other}"


def test_file_that_is_public_elsewhere(
    bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path
) -> None:
    """The time of the copy there is its own."""
    hierarchy = hierarchy_of(file_path, public_url=f"s3://{BUCKET}/elsewhere.h5")
    bucket.put_file(str(file_path), f"{BUCKET}/elsewhere.h5")
    commit(hierarchy, tmp_path / "repository", source_options=s3_options)
    assert_reads_back(tmp_path / "repository", source_options=s3_options)


def test_s3_credentials_from_the_environment(
    bucket: Any,
    s3_options: dict[str, Any],
    file_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The endpoint is kept in the repository, credentials are not."""
    bucket.put_file(str(file_path), f"{BUCKET}/environment.h5")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/environment.h5", storage_options=s3_options)
    commit(hierarchy, tmp_path / "repository", source_options=s3_options)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file())
    assert b"secret" not in kept
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert_reads_back(tmp_path / "repository")


def test_public_bucket(bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path) -> None:
    bucket.put_file(str(file_path), f"{BUCKET}/public/x.h5")
    bucket.call_s3("put_object_acl", Bucket=BUCKET, Key="public/x.h5", ACL="public-read")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/public/x.h5", storage_options=s3_options)
    anonymous = {"anon": True, "client_kwargs": s3_options["client_kwargs"]}
    commit(hierarchy, tmp_path / "repository", source_options=anonymous)
    assert_reads_back(tmp_path / "repository")


def test_same_bucket_at_another_endpoint(
    bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path
) -> None:
    bucket.put_file(str(file_path), f"{BUCKET}/twice/x.h5")
    hierarchy = hierarchy_of(f"s3://{BUCKET}/twice/x.h5", storage_options=s3_options)
    commit(hierarchy, tmp_path / "repository", source_options=s3_options)
    elsewhere = {**s3_options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    with pytest.raises(OutputError, match=rf"s3://{BUCKET}/twice/ already, at another endpoint"):
        commit(hierarchy, tmp_path / "repository", source_options=elsewhere)
    assert_reads_back(tmp_path / "repository", source_options=s3_options)


# Locations -------------------------------------------------------------------------------

NAMES = [
    "with space",
    "per%20cent",
    "%",
    "hash#and?",
    "ünïcödé",
    "a::b",
    "{{u}}",
    "[1]*",
    "back\\slash",
    "plus+&=;,",
    "~",
    "q\"u'o|t^`<>e",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_mean_something_in_a_url(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    path = write_file(tmp_path / name / f"{name}.h5")
    hierarchy = hierarchy_of(path)
    commit(hierarchy, tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")
    if not IS_FIRST_VERSION:
        assert_same(icechunk_store.load(tmp_path / "repository"), hierarchy)


def test_path_with_dots(file_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    commit(hierarchy_of(tmp_path / "a" / ".." / "source.h5"), tmp_path / "repository")
    assert_reads_back(tmp_path / "repository")


def array_node(url: str, *, inline: dict[int, bytes] | None = None, **columns: Any) -> ArrayNode:
    """Return ``/x``: bytes in chunks of one element, whose references are given."""
    count = len(columns.get("grid_position", ()))
    shape = columns.pop("shape", [8])
    defaults = {name: np.arange(count) for name in ("grid_position", "byte_offset")}
    defaults["byte_length"] = np.ones(count)
    given = {name: np.asarray(column, np.uint64) for name, column in (defaults | columns).items()}
    manifest = Manifest(grid_shape=tuple(shape), locations=(url,), inline=inline or {}, **given)
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 255,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    return ArrayNode(path="/x", metadata=metadata, manifest=manifest)


def hierarchy_with(array: ArrayNode, **options: Any) -> Hierarchy:
    group = GroupNode(path="/", metadata={"zarr_format": 3, "node_type": "group", "attributes": {}})
    fields = {"source": None, "selection": Selection(), "problems": (), **options}
    return Hierarchy(nodes={"/": group, array.path: array}, **fields)


REFUSED_URLS = {
    "gs://bucket/x.h5": r"gs://bucket/x\.h5: .* JSON or Parquet",
    "https://example.org/x.h5?sig=secret": r"https://example\.org/x\.h5: .* query",
    "https://user:secret@example.org/x.h5": r"https://example\.org/x\.h5: .* user",
    "s3://bucket/x.h5?versionId=3": "one version of an object",
    "file:///x.h5": "a file in the root folder",
    "file:///a\nb/x.h5": "control characters",
    "file:///caf\udce9/x.h5": r"caf\\udce9.*not UTF-8",
}


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_url_from_which_icechunk_cannot_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=REFUSED_URLS[url]) as error:
        commit(hierarchy_with(array_node(url, grid_position=[0])), tmp_path / "repository")
    assert "secret" not in str(error.value)
    assert not (tmp_path / "repository").exists()


# What Icechunk refuses -------------------------------------------------------------------


def test_chunk_of_no_bytes(file_path: Path, tmp_path: Path) -> None:
    for array in (
        array_node(f"file://{file_path}", grid_position=[3], byte_length=[0]),
        array_node(f"file://{file_path}", inline={2: b""}),
    ):
        with pytest.raises(OutputError, match=r"/x: .*a chunk of no bytes; leave it out with --exclude"):
            commit(hierarchy_with(array), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_metadata_that_icechunk_refuses(file_path: Path, tmp_path: Path) -> None:
    array = array_node(f"file://{file_path}")
    broken = replace(array, metadata={**array.metadata, "shape": "long"})
    with pytest.raises(OutputError, match=r"/x: Icechunk refuses its metadata: .*; leave it out"):
        commit(hierarchy_with(broken), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_attributes_that_are_not_standard_json(file_path: Path, tmp_path: Path) -> None:
    array = array_node(f"file://{file_path}")
    attributes = {"a": 1.5, "nan": float("nan"), "nested": {"list": [1, float("-inf")]}, "text": "NaN"}
    hierarchy = hierarchy_with(replace(array, metadata={**array.metadata, "attributes": attributes}))
    kept = icechunk_store.expressible(hierarchy)
    assert [(problem.path, problem.attribute) for problem in kept.problems] == [
        ("/x", "nan"),
        ("/x", "nested"),
    ]
    assert as_json(icechunk_store.expressible(kept)) == as_json(kept)
    assert icechunk_store.expressible(kept).problems == kept.problems
    commit(hierarchy, tmp_path / "repository")
    assert dict(open_root(tmp_path / "repository")["x"].attrs) == {"a": 1.5, "text": "NaN"}
    assert icechunk_store.read_provenance(tmp_path / "repository").problems == kept.problems


# Grids -----------------------------------------------------------------------------------


def numbered_file(path: Path, first: int = 0) -> SourceIdentity:
    """Write bytes 0, 1, 2, … from ``first`` on, modified as many seconds after the others."""
    path.write_bytes(bytes(range(first, first + 50)))
    os.utime(path, (1_700_000_000 + first, 1_700_000_000 + first))
    return SourceIdentity(url=f"file://{path}", modified=1_700_000_000.0 + first)


def test_sparse_grid(tmp_path: Path) -> None:
    source = numbered_file(tmp_path / "numbers")
    positions = [0, 1, 7, 999_999_999_999]
    array = array_node(source.url, shape=[1_000_000, 1_000_000], grid_position=positions)
    hierarchy = hierarchy_with(array, source=source)
    commit(hierarchy, tmp_path / "repository")
    found = open_root(tmp_path / "repository")["x"]
    assert found[0, :9].tolist() == [0, 1, 255, 255, 255, 255, 255, 2, 255]
    assert found[-1, -2:].tolist() == [255, 3]
    if not IS_FIRST_VERSION:
        assert_same(icechunk_store.load(tmp_path / "repository"), hierarchy)


@pytest.mark.parametrize("shape", [[24], [4, 6], [2, 3, 4], [24, 1]])
def test_absent_inline_and_referenced_chunks(shape: list[int], tmp_path: Path) -> None:
    source = numbered_file(tmp_path / "numbers")
    inline = {2: b"\x65", 23: b"\x66"}
    array = array_node(source.url, shape=shape, inline=inline, grid_position=[3, 4, 5, 20, 22])
    hierarchy = hierarchy_with(array, source=source)
    commit(hierarchy, tmp_path / "repository")
    expected = np.full(24, 255)
    expected[[3, 4, 5, 20, 22, 2, 23]] = [0, 1, 2, 3, 4, 0x65, 0x66]
    found = open_root(tmp_path / "repository")["x"]
    np.testing.assert_array_equal(found[...], expected.reshape(shape))
    if not IS_FIRST_VERSION:
        assert_same(icechunk_store.load(tmp_path / "repository"), hierarchy)


def test_several_sources_each_with_its_own_time(tmp_path: Path) -> None:
    """References of different files stand side by side and in between; each file is watched."""
    sources = [numbered_file(tmp_path / name, first) for name, first in [("a", 0), ("b", 100), ("c", 200)]]
    array = array_node(sources[0].url, shape=[3, 4], grid_position=range(12), byte_offset=range(12))
    which = np.array([0, 1, 0, 1, 2, 2, 2, 2, 0, 0, 1, 2], np.uint32)
    urls = tuple(source.url for source in sources)
    array = replace(array, manifest=replace(array.manifest, locations=urls, location_index=which))
    parts = tuple(
        Part(source=source, selection=Selection(), start={"t": number}, extent={"t": 1})
        for number, source in enumerate(sources)
    )
    hierarchy = hierarchy_with(array, parts=parts)
    commit(hierarchy, tmp_path / "repository")
    expected = (which * 100 + np.arange(12)).reshape(3, 4)
    np.testing.assert_array_equal(open_root(tmp_path / "repository")["x"][...], expected)
    assert history(tmp_path / "repository")[0] == f"h5zarr {VERSION}: references to 3 files"
    if not IS_FIRST_VERSION:
        assert_same(icechunk_store.load(tmp_path / "repository"), hierarchy)
    os.utime(tmp_path / "b", (1_700_000_102, 1_700_000_102))
    found = open_root(tmp_path / "repository")["x"]
    assert found[0, 0] == 0
    assert found[1].tolist() == [204, 205, 206, 207]
    for cell in ((0, 1), (0, 3), (2, 2)):
        with pytest.raises(icechunk.IcechunkError, match="has changed"):
            found[cell]


# Killed on the way -----------------------------------------------------------------------

FORKS = """
import json, os, signal, sys
os.environ["ICECHUNK_NO_LOGS"] = "1"
import icechunk
import h5zarr.output
from h5zarr.converter import convert
from h5zarr.references import icechunk_manifests, icechunk_store

source, folder = sys.argv[1:3]
hierarchy = convert(source, inline_threshold=0).hierarchy

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(function, left, when):
    def call(*arguments, **options):
        nonlocal left
        left -= 1
        if not left and isinstance(when, float):
            signal.setitimer(signal.ITIMER_REAL, when or 1e-6)
        if not left and when == "before":
            kill()
        result = function(*arguments, **options)
        if not left and when == "after":
            kill()
        return result
    return call

signal.signal(signal.SIGALRM, signal.SIG_DFL)
for owner, name, count, when, out in json.loads(sys.argv[3]):
    child = os.fork()
    if not child:
        owner = eval(owner)
        setattr(owner, name, deadly(getattr(owner, name), count, when))
        icechunk_store.write(hierarchy, f"{folder}/{out}", version="1.2.3")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Writes in children of its own, each killed at another moment; imports take longer than all of them."""

Moment = tuple[str, str, int, str | float]
"""Whose function, its name, which call of it, and when: before, after, or seconds from then on."""

WHILE_NEW: dict[str, Moment] = {
    "made": ("icechunk.Repository", "create", 1, "after"),
    "cleared": ("icechunk.IcechunkStore", "clear", 1, "after"),
    "some metadata": ("icechunk_store", "set_values", 3, "after"),
    "some chunks": ("icechunk_store", "write_chunks", 1, "after"),
    "before the commit": ("icechunk.Session", "commit", 1, "before"),
    "after the commit": ("icechunk.Session", "commit", 1, "after"),
    "before the folder is in place": ("h5zarr.output", "_put_in_place", 1, "before"),
}
WHILE_REPLACED: dict[str, Moment] = {
    "configured": ("icechunk.Repository", "save_config", 1, "after"),
    **{name: WHILE_NEW[name] for name in ("cleared", "some metadata", "some chunks", "before the commit")},
    **{f"{seconds} s later": ("icechunk.Session", "commit", 1, seconds) for seconds in (0.0, 0.002, 0.01)},
}


def write_killed(source: Path, folder: Path, moments: dict[str, Moment]) -> None:
    tasks = json.dumps([(*moment, name) for name, moment in moments.items()])
    command = [sys.executable, "-W", "ignore", "-c", FORKS, source, folder, tasks]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    statuses = dict(zip(moments, map(int, run.stdout.split()), strict=True))
    chosen = {name: status for name, status in statuses.items() if not isinstance(moments[name][3], float)}
    assert set(chosen.values()) == {-signal.SIGKILL}, run.stderr


def test_killed_while_a_new_repository_is_written(file_path: Path, tmp_path: Path) -> None:
    write_killed(file_path, tmp_path, WHILE_NEW)
    for name in WHILE_NEW:
        assert not (tmp_path / name).exists()
        commit(hierarchy_of(file_path), tmp_path / name)
        assert_reads_back(tmp_path / name)


def test_killed_while_a_repository_is_written(file_path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_file(tmp_path / "other" / "other.h5", VALUES + 1)
    for name in WHILE_REPLACED:
        commit(hierarchy_of(file_path), tmp_path / name)
    write_killed(other, tmp_path, WHILE_REPLACED)
    for name, (*_, when) in WHILE_REPLACED.items():
        is_new = len(history(tmp_path / name)) == 3
        assert not is_new or isinstance(when, float)
        assert_reads_back(tmp_path / name, VALUES + 1 if is_new else VALUES)
        commit(hierarchy_of(other), tmp_path / name)
        assert_reads_back(tmp_path / name, VALUES + 1)


# Imports ---------------------------------------------------------------------------------


def test_icechunk_is_imported_only_when_it_is_used() -> None:
    code = "import sys, h5zarr.converter, h5zarr.references.formats; print('icechunk' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
