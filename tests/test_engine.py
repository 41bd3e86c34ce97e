"""The xarray engine opens files and references of any kind, local and remote, as h5netcdf opens the file."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import h5netcdf
import h5py
import kerchunk.df
import kerchunk.hdf
import numpy as np
import obstore.store
import pytest
import virtualizarr
import xarray as xr
import zarr
from conftest import CODEC_WARNING, FIXTURES, storage_options
from http_server import RangeServer, serve
from obspec_utils.registry import ObjectStoreRegistry
from s3_server import serve_s3
from slow_server import SlowServer, slow_server
from test_xarray import DECODINGS, NAMES, WRITERS, dtypes, groups_of, through_h5netcdf
from virtualizarr.accessor import VirtualiZarrDatasetAccessor
from virtualizarr.parsers import HDFParser

from h5zarr.combiner import combine
from h5zarr.converter import Conversion, convert
from h5zarr.errors import (
    GroupNotFoundError,
    H5zarrError,
    NotHDF5Error,
    ReferencesError,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.reading.chunk_pipeline import ReferencePipeline, use_reference_pipeline
from h5zarr.reading.store_opening import open_store
from h5zarr.references import kerchunk_json, kerchunk_parquet
from h5zarr.xarray_backend import H5zarrBackend, ProblemWarning

BUCKET = "h5zarr-engine"
ENGINE = "h5zarr"


def opened(source: Any, **options: Any) -> xr.Dataset:
    return xr.open_dataset(source, engine=ENGINE, **options)


def expected(path: Path, **options: Any) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf", **options) as dataset:
        return dataset.load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a netCDF-4 file."""
    shutil.copy(FIXTURES / "climate.nc", tmp_path / "climate.nc")
    return tmp_path


@pytest.fixture
def climate(folder: Path) -> Path:
    return folder / "climate.nc"


@pytest.fixture
def server(folder: Path) -> Iterator[RangeServer]:
    with serve(folder) as server:
        yield server


# As h5netcdf -----------------------------------------------------------------------------


def assert_same_as_h5netcdf(path: Path, **decoding: Any) -> None:
    for group in groups_of(path):
        with through_h5netcdf(path, group, **decoding) as wanted:
            found = opened(path, group=group, **decoding)
            xr.testing.assert_identical(found, wanted)
            assert dtypes(found) == dtypes(wanted)
            assert found.sizes == wanted.sizes


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
@pytest.mark.parametrize("name", NAMES)
def test_fixture_opens_identically(name: str, decoding: dict[str, Any]) -> None:
    assert_same_as_h5netcdf(FIXTURES / name, **decoding)


@pytest.mark.filterwarnings("ignore:Duplicate dimension names present")
@pytest.mark.parametrize("name", WRITERS)
def test_written_file_opens_identically(name: str, tmp_path: Path) -> None:
    path = tmp_path / "written.nc"
    WRITERS[name](path)
    for decoding in DECODINGS.values():
        assert_same_as_h5netcdf(path, **decoding)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "netcdf_dimensions_shadowed.nc"])
def test_fixture_opens_identically_as_tree(name: str) -> None:
    found = xr.open_datatree(FIXTURES / name, engine=ENGINE)
    with xr.open_datatree(FIXTURES / name, engine="h5netcdf", phony_dims="sort") as wanted:
        xr.testing.assert_identical(found, wanted)


@pytest.mark.parametrize("group", [None, "/", "outer", "/outer/inner"])
def test_groups_are_those_of_h5netcdf(group: str | None) -> None:
    path = FIXTURES / "netcdf_groups.nc"
    found = xr.open_groups(path, engine=ENGINE, group=group)
    wanted = xr.open_groups(path, engine="h5netcdf", group=group)
    assert found.keys() == wanted.keys()
    for name, dataset in wanted.items():
        xr.testing.assert_identical(found[name], dataset)
        dataset.close()


@pytest.mark.parametrize("group", ["outer", "/outer/", "/outer/inner"])
def test_tree_of_a_group(group: str) -> None:
    path = FIXTURES / "netcdf_groups.nc"
    found = xr.open_datatree(path, engine=ENGINE, group=group)
    with xr.open_datatree(path, engine="h5netcdf", group=group) as wanted:
        xr.testing.assert_identical(found, wanted)


@pytest.mark.parametrize("dropped", ["tas", ["tas", "orog"]])
def test_dropped_variables(dropped: str | list[str], climate: Path) -> None:
    xr.testing.assert_identical(
        opened(climate, drop_variables=dropped), expected(climate, drop_variables=dropped)
    )


def test_missing_group(climate: Path) -> None:
    for group in ("none", "/tas", "tas/none"):
        with pytest.raises(GroupNotFoundError, match=r"climate\.nc: has no group"):
            opened(climate, group=group)


def test_unknown_option(climate: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        opened(climate, colour="red")


# Kinds of references ---------------------------------------------------------------------


def without_provenance(references: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in references.items() if key != "h5zarr"}


def as_references(conversion: Conversion, zarr_format: Any = "3") -> dict[str, Any]:
    return kerchunk_json.references(conversion.hierarchy, version="1", zarr_format=zarr_format)


def write_json(conversion: Conversion, folder: Path) -> str:
    conversion.write(folder / "refs.json")
    return "refs.json"


def write_renamed(conversion: Conversion, folder: Path) -> str:
    conversion.write(folder / "references.nc", format="json")
    return "references.nc"


def write_pretty(conversion: Conversion, folder: Path) -> str:
    text = json.dumps(as_references(conversion), indent=2)
    (folder / "pretty").write_text(f"\ufeff \n{text}", encoding="utf-8")
    return "pretty"


def write_others(conversion: Conversion, folder: Path) -> str:
    references = without_provenance(as_references(conversion))
    (folder / "others.json").write_text(json.dumps(references))
    return "others.json"


def write_v2(conversion: Conversion, folder: Path) -> str:
    (folder / "v2.json").write_text(json.dumps(as_references(conversion, "2")))
    return "v2.json"


def write_unconsolidated(conversion: Conversion, folder: Path) -> str:
    references = without_provenance(as_references(conversion, "2"))
    del references["refs"][".zmetadata"]
    (folder / "old.json").write_text(json.dumps(references))
    return "old.json"


def write_version_0(conversion: Conversion, folder: Path) -> str:
    (folder / "version0.json").write_text(json.dumps(as_references(conversion)["refs"]))
    return "version0.json"


def write_v2_version_0(conversion: Conversion, folder: Path) -> str:
    refs = as_references(conversion, "2")["refs"]
    (folder / "v2version0.json").write_text(json.dumps(refs))
    return "v2version0.json"


def write_both(conversion: Conversion, folder: Path) -> str:
    (folder / "both.json").write_text(json.dumps(as_references(conversion, "both")))
    return "both.json"


def write_parquet(conversion: Conversion, folder: Path) -> str:
    kerchunk_parquet.write(conversion.hierarchy, folder / "refs.parq", version="1", record_size=5)
    return "refs.parq"


def write_v2_parquet(conversion: Conversion, folder: Path) -> str:
    kerchunk_parquet.write(conversion.hierarchy, folder / "v2.parq", version="1", zarr_format="2")
    return "v2.parq"


REFERENCES: dict[str, Callable[[Conversion, Path], str]] = {
    "JSON": write_json,
    "JSON under the name of a netCDF file": write_renamed,
    "JSON with white space": write_pretty,
    "JSON of others": write_others,
    "JSON of version 0": write_version_0,
    "JSON with both metadata": write_both,
    "JSON with Zarr v2": write_v2,
    "JSON with Zarr v2 without consolidated metadata": write_unconsolidated,
    "JSON of version 0 with Zarr v2": write_v2_version_0,
    "Parquet": write_parquet,
    "Parquet with Zarr v2": write_v2_parquet,
}


@pytest.mark.parametrize("write", REFERENCES.values(), ids=REFERENCES)
def test_local_references(write: Callable[[Conversion, Path], str], climate: Path) -> None:
    name = write(convert(climate, inline_threshold=64), climate.parent)
    wanted = expected(climate)
    for source in (climate.parent / name, str(climate.parent / name), (climate.parent / name).as_uri()):
        xr.testing.assert_identical(opened(source), wanted)


@pytest.mark.parametrize("write", REFERENCES.values(), ids=REFERENCES)
def test_http_references(
    write: Callable[[Conversion, Path], str], climate: Path, server: RangeServer
) -> None:
    name = write(convert(f"{server.url}/climate.nc"), climate.parent)
    xr.testing.assert_identical(opened(f"{server.url}/{name}"), expected(climate))


@pytest.mark.parametrize("zarr_format", ["3", "2", "both"])
def test_references_as_dict(zarr_format: str, climate: Path) -> None:
    references = as_references(convert(climate), zarr_format)
    wanted = expected(climate)
    for document in (references, without_provenance(references), references["refs"]):
        xr.testing.assert_identical(opened(document), wanted)


@pytest.mark.parametrize("write", [write_json, write_v2_parquet])
def test_groups_through_references(write: Callable[[Conversion, Path], str], tmp_path: Path) -> None:
    path = FIXTURES / "netcdf_groups.nc"
    source = tmp_path / write(convert(path), tmp_path)
    with xr.open_datatree(path, engine="h5netcdf") as wanted:
        xr.testing.assert_identical(xr.open_datatree(source, engine=ENGINE), wanted)
    xr.testing.assert_identical(opened(source, group="outer/inner"), expected(path, group="outer/inner"))
    with pytest.raises(GroupNotFoundError):
        opened(source, group="none")


def through_fsspec(references: dict[str, Any]) -> xr.Dataset:
    """Open references as xarray does without this engine."""
    options = {"storage_options": storage_options(references), "consolidated": False}
    return xr.open_dataset("reference://", engine="zarr", backend_kwargs=options)


@pytest.fixture
def kerchunk_references(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "x.nc"
    WRITERS["two unlimited dimensions"](path)
    with path.open("rb") as stream:
        references = kerchunk.hdf.SingleHdf5ToZarr(stream, str(path), inline_threshold=100).translate()
    assert {type(value) for value in references["refs"].values()} == {str, list}
    return dict(references)


def test_references_of_kerchunk(kerchunk_references: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kerchunk.json").write_text(json.dumps(kerchunk_references))
    wanted = through_fsspec(kerchunk_references)
    xr.testing.assert_identical(opened(kerchunk_references), wanted)
    xr.testing.assert_identical(opened(tmp_path / "kerchunk.json"), wanted)


@pytest.mark.parametrize("stub", [None, {"shape": [1, 1], "chunks": [1, 1]}])
def test_parquet_stub_of_another_grid(stub: Any, tmp_path: Path) -> None:
    """Chunks without a row would read as fill values, and nobody would be told."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.ones((4, 4)), chunks=(2, 2))
    out = tmp_path / "refs.parq"
    convert(tmp_path / "x.h5", out, inline_threshold=0)
    document = json.loads((out / ".zmetadata").read_text())
    if stub is None:
        del document["metadata"]["x/.zarray"]
    else:
        document["metadata"]["x/.zarray"] = stub
    (out / ".zmetadata").write_text(json.dumps(document))
    with pytest.raises(ReferencesError, match=r"x/\.zarray"):
        xr.open_dataset(out, engine="h5zarr")


@pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated")
def test_parquet_references_of_kerchunk(kerchunk_references: dict[str, Any], tmp_path: Path) -> None:
    kerchunk.df.refs_to_dataframe(kerchunk_references, str(tmp_path / "kerchunk.parq"), record_size=7)
    wanted = through_fsspec(kerchunk_references)
    xr.testing.assert_identical(opened(tmp_path / "kerchunk.parq"), wanted)


# VirtualiZarr 2.5, the last for Python 3.11, writes version 2 alone.
TAKES_FORMAT = "zarr_format" in inspect.signature(VirtualiZarrDatasetAccessor.to_kerchunk).parameters


@pytest.mark.filterwarnings(CODEC_WARNING)
@pytest.mark.parametrize(
    "options", [{"zarr_format": 2}, {"zarr_format": 3}] if TAKES_FORMAT else [{}], ids=str
)
def test_references_of_virtualizarr(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.nc"
    WRITERS["filters"](path)
    registry = ObjectStoreRegistry({"file://": obstore.store.LocalStore()})
    dataset = virtualizarr.open_virtual_dataset(
        path.as_uri(), registry=registry, parser=HDFParser(), loadable_variables=[]
    )
    references = dataset.vz.to_kerchunk(format="dict", **options)
    xr.testing.assert_identical(opened(references), through_fsspec(references))


def test_templates_and_rules(climate: Path) -> None:
    references = without_provenance(as_references(convert(climate, inline_threshold=0), "2"))
    moved = {
        key: ["{{file}}", *value[1:]] if isinstance(value, list) else value
        for key, value in references["refs"].items()
    }
    document = {**references, "refs": moved, "templates": {"file": str(climate)}}
    xr.testing.assert_identical(opened(document), expected(climate))


def test_urls_without_a_protocol(server: RangeServer, climate: Path) -> None:
    references = as_references(convert(f"{server.url}/climate.nc", inline_threshold=0), "2")
    bare = {
        key: [value[0].removeprefix("http://"), *value[1:]] if isinstance(value, list) else value
        for key, value in references["refs"].items()
    }
    found = opened({"version": 1, "refs": bare}, remote_protocol="http")
    xr.testing.assert_identical(found, expected(climate))


NO_REFERENCES: dict[str, tuple[Any, type[H5zarrError], str]] = {
    "an empty dict": ({}, ReferencesError, "no references to a Zarr group"),
    "other JSON": ({"type": "FeatureCollection"}, ReferencesError, "no references to a Zarr group"),
    "no metadata": ({"version": 1, "refs": {"x/0": "text"}}, ReferencesError, "no references to a Zarr"),
    "a later version": ({"version": 2, "refs": {".zgroup": "{}"}}, ReferencesError, "version: 2"),
    "no JSON": (b"{not JSON}", ReferencesError, "not JSON"),
    "a list": (b"[1, 2]", NotHDF5Error, "is not an HDF5 file"),
    "text": (b"some text", NotHDF5Error, "is not an HDF5 file"),
    "netCDF-3": (b"CDF\x01" + bytes(100), NotHDF5Error, "is not an HDF5 file"),
    "nothing": (b"", NotHDF5Error, "is empty"),
}


@pytest.mark.parametrize(("content", "error", "words"), NO_REFERENCES.values(), ids=NO_REFERENCES)
def test_what_is_nothing_of_it(content: Any, error: type[H5zarrError], words: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(error, match=words) as raised:
        opened(tmp_path / "x")
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path: Path, server: RangeServer) -> None:
    for source in (tmp_path / "none.json", f"{server.url}/none.nc", "memory://none.parq"):
        with pytest.raises(SourceNotFoundError, match="none"):
            opened(source)


def test_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(NotHDF5Error, match="is a folder"):
        opened(tmp_path)
    zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    zarr.consolidate_metadata(tmp_path / "x.zarr")
    with pytest.raises(ReferencesError, match="engine zarr"):
        opened(tmp_path / "x.zarr")


def test_damaged_parquet(climate: Path) -> None:
    folder = climate.parent / write_parquet(convert(climate, inline_threshold=0), climate.parent)
    dataset = opened(folder)
    (folder / "tas" / "refs.0.parq").write_bytes(b"garbage")
    with pytest.raises(ReferencesError, match=r"refs\.0\.parq is damaged"):
        dataset["tas"].load()
    (folder / "pr" / "refs.0.parq").unlink()
    with pytest.raises(ReferencesError, match=r"lack a file, pr/refs\.0\.parq"):
        dataset["pr"].load()


# Remote files ----------------------------------------------------------------------------


def test_http(server: RangeServer, climate: Path) -> None:
    xr.testing.assert_identical(opened(f"{server.url}/climate.nc"), expected(climate))


def test_memory(climate: Path) -> None:
    fsspec.filesystem("memory").pipe("/climate.nc", climate.read_bytes())
    xr.testing.assert_identical(opened("memory://climate.nc"), expected(climate))


def test_url_with_a_signature(climate: Path) -> None:
    """Such URLs must not stand in references; the engine keeps them to itself."""
    with slow_server(SlowServer(folder=climate.parent)) as server:
        url = f"{server.url}/climate.nc?X-Amz-Signature=secret"
        xr.testing.assert_identical(opened(url), expected(climate))
        dataset = opened(url)
        climate.unlink()
        with pytest.raises(SourceError) as raised:
            dataset["tas"].load()
        assert "secret" not in str(raised.value)


def test_member_of_an_archive(climate: Path) -> None:
    shutil.make_archive(str(climate.parent / "x"), "zip", climate.parent, climate.name)
    found = opened(f"zip://climate.nc::{climate.parent / 'x.zip'}")
    xr.testing.assert_identical(found, expected(climate))


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    """Options of an S3 filesystem that a server on this machine plays."""
    with serve_s3(BUCKET, region="eu-central-1") as options:
        yield options


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> Any:
    filesystem = fsspec.filesystem("s3", **s3_options)
    filesystem.invalidate_cache()
    return filesystem


def test_s3(bucket: Any, s3_options: dict[str, Any], climate: Path) -> None:
    bucket.put_file(str(climate), f"{BUCKET}/climate.nc")
    found = opened(f"s3://{BUCKET}/climate.nc", storage_options=s3_options)
    xr.testing.assert_identical(found, expected(climate))


@pytest.mark.parametrize("write", [write_json, write_parquet, write_v2])
def test_references_on_s3(
    write: Callable[[Conversion, Path], str], bucket: Any, s3_options: dict[str, Any], climate: Path
) -> None:
    bucket.put_file(str(climate), f"{BUCKET}/climate.nc")
    conversion = convert(f"s3://{BUCKET}/climate.nc", storage_options=s3_options)
    name = write(conversion, climate.parent)
    bucket.put(str(climate.parent / name), f"{BUCKET}/{name}", recursive=True)
    wanted = expected(climate)
    xr.testing.assert_identical(opened(climate.parent / name, storage_options=s3_options), wanted)
    xr.testing.assert_identical(opened(f"s3://{BUCKET}/{name}", storage_options=s3_options), wanted)


def test_references_elsewhere_than_their_file(
    bucket: Any, s3_options: dict[str, Any], climate: Path, server: RangeServer
) -> None:
    bucket.put_file(str(climate), f"{BUCKET}/climate.nc")
    write_json(convert(f"s3://{BUCKET}/climate.nc", storage_options=s3_options), climate.parent)
    found = opened(f"{server.url}/refs.json", remote_options=s3_options)
    xr.testing.assert_identical(found, expected(climate))


# Paths -----------------------------------------------------------------------------------


def test_relative_paths_begin_at_the_current_folder(climate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fsspec has it, whatever folder the references are in; the folder of when they were opened."""
    wanted = expected(climate)
    references = without_provenance(as_references(convert(climate, inline_threshold=0)))
    for key, value in references["refs"].items():
        if isinstance(value, list):
            references["refs"][key] = ["climate.nc", *value[1:]]
    (climate.parent / "elsewhere").mkdir()
    (climate.parent / "elsewhere" / "refs.json").write_text(json.dumps(references))
    monkeypatch.chdir(climate.parent)
    dataset = opened("./elsewhere/refs.json")
    monkeypatch.chdir("/")
    xr.testing.assert_identical(dataset, wanted)


def test_home_folder(climate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(climate.parent))
    xr.testing.assert_identical(opened("~/climate.nc"), expected(climate))


# Dask, other processes -------------------------------------------------------------------


def mean_of(dataset: xr.Dataset) -> float:
    return float(dataset["tas"].mean())


def test_chunks_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.nc"
    values = np.arange(50 * 40.0).reshape(50, 40)
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=values, chunks=(20, 15), compression="gzip")
    dataset = opened(path, chunks={})
    assert dataset["v"].chunks == ((20, 20, 10), (15, 15, 10))
    np.testing.assert_array_equal(dataset["v"].values, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferencePipeline, "read", None)
        with pytest.raises(TypeError):
            dataset["v"].sum().compute()


def test_many_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nc" for number in range(4)]
    for number, path in enumerate(paths):
        data = xr.Dataset({"v": ("time", np.arange(3.0) + number)}, {"time": np.arange(3) + 3 * number})
        data.to_netcdf(path, engine="h5netcdf")
    references = [path.with_suffix(".json") for path in paths]
    for path, out in zip(paths, references, strict=True):
        convert(path).write(out)
    with xr.open_mfdataset(paths, engine="h5netcdf") as wanted:
        for sources in (paths, references):
            for parallel in (False, True):
                with xr.open_mfdataset(sources, engine=ENGINE, parallel=parallel) as found:
                    xr.testing.assert_identical(found.load(), wanted.load())


@pytest.fixture
def months(tmp_path: Path) -> tuple[list[Path], Path]:
    """Files of 4, 3 and 5 steps in one chunk each, in two groups, and references to them as one."""
    pytest.importorskip("zarr", minversion="3.4", reason="zarr reads rectilinear grids from 3.4 on")
    rng, paths, out = np.random.default_rng(1), [], tmp_path / "year.json"
    for number, (start, length) in enumerate(((0, 4), (4, 3), (7, 5))):
        paths.append(tmp_path / f"{number}.nc")
        with h5netcdf.File(paths[-1], "w") as file:
            file.dimensions = {"time": length, "x": 40}
            file.create_variable("time", ("time",), "i4", data=start + np.arange(length))
            for group in (file, file.create_group("deep")):
                how: Any = {"data": rng.random((length, 40)), "chunks": (length, 40), "compression": "gzip"}
                group.create_variable("v", ("time", "x"), **how)
    combine(paths, out, concat="time", rectilinear=True, inline_limit=1000)
    document = json.loads(json.loads(out.read_text())["refs"]["v/zarr.json"])
    assert document["chunk_grid"]["name"] == "rectilinear"
    return paths, out


def sum_of(dataset: xr.Dataset) -> float:
    return float(dataset["v"].sum())


def test_chunks_of_different_lengths(months: tuple[list[Path], Path]) -> None:
    paths, references = months
    for group in (None, "deep"):
        how: Any = {"group": group, "combine": "nested", "concat_dim": "time"}
        with xr.open_mfdataset(paths, engine="h5netcdf", **how) as wanted:
            found = opened(references, group=group)
            np.testing.assert_array_equal(found["v"][3:8].values, wanted["v"][3:8].values)
            xr.testing.assert_equal(found, wanted.load())
            lazy = opened(references, group=group, chunks={})
            assert lazy["v"].chunks == ((4, 3, 5), (40,))
            for scheduler in ("threads", "processes"):
                assert float(lazy["v"].sum().compute(scheduler=scheduler)) == pytest.approx(sum_of(wanted))
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
                (total,) = processes.map(sum_of, [opened(references, group=group)])
            assert total == pytest.approx(sum_of(wanted))
    tree = xr.open_datatree(references, engine=ENGINE)
    np.testing.assert_array_equal(tree["deep/v"].values, lazy["v"].values)
    assert zarr.config.get("array.rectilinear_chunks") is False


def test_chunks_of_different_lengths_in_threads(months: tuple[list[Path], Path]) -> None:
    """zarr has one configuration for all of them."""
    with ThreadPoolExecutor(8) as threads:
        datasets = list(threads.map(opened, [months[1]] * 40))
    assert len({sum_of(dataset) for dataset in datasets}) == 1
    assert zarr.config.get("array.rectilinear_chunks") is False


def sources_of(climate: Path, server: RangeServer) -> list[Any]:
    conversion = convert(climate, inline_threshold=0)
    names = [write(conversion, climate.parent) for write in (write_json, write_v2, write_parquet)]
    return [climate, f"{server.url}/climate.nc", *(climate.parent / name for name in names)]


def test_lazy_dataset_pickles(climate: Path, server: RangeServer) -> None:
    wanted = expected(climate)
    for source in sources_of(climate, server):
        dataset = opened(source)
        again = pickle.loads(pickle.dumps(dataset))
        assert not again["tas"]._in_memory
        xr.testing.assert_identical(again, wanted)
        dataset["tas"].load()
        xr.testing.assert_identical(pickle.loads(pickle.dumps(dataset)), wanted)


def test_dask_reads_in_other_processes(climate: Path, server: RangeServer) -> None:
    wanted = float(expected(climate)["tas"].sum())
    for source in (climate, f"{server.url}/climate.nc"):
        total = opened(source, chunks={})["tas"].sum()
        again = pickle.loads(pickle.dumps(total))
        assert float(again.compute(scheduler="processes", num_workers=1)) == pytest.approx(wanted)


def test_other_processes_read(climate: Path, server: RangeServer) -> None:
    wanted = mean_of(expected(climate))
    datasets = [opened(source) for source in sources_of(climate, server)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert list(processes.map(mean_of, datasets)) == [wanted] * len(datasets)


def test_forked_process_reads(climate: Path, server: RangeServer) -> None:
    """Threads and event loops do not survive a fork; what was read before must not matter."""
    code = f"""if True:
        import os, warnings, xarray as xr
        warnings.simplefilter("ignore")
        sources = {[str(climate), f"{server.url}/climate.nc"]!r}
        datasets = [xr.open_dataset(source, engine="h5zarr") for source in sources]
        before = [float(dataset["tas"].mean()) for dataset in datasets]
        child = os.fork()
        if child == 0:
            os._exit(0 if [float(dataset["tas"].mean()) for dataset in datasets] == before else 9)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "0\n", run.stderr


def test_threads_share_a_dataset(climate: Path, server: RangeServer) -> None:
    wanted = mean_of(expected(climate))
    for source in sources_of(climate, server):
        dataset = opened(source, cache=False)
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(mean_of, [dataset] * 24)) == {wanted}


# What is not in the dataset ---------------------------------------------------------------


@pytest.fixture
def with_problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.h5"
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(3)
        file["null"] = h5py.Empty("f4")
        file["lost"] = h5py.ExternalLink("none.h5", "/x")
        file["group/good"] = np.arange(3)
        file["group/lost"] = h5py.ExternalLink("none.h5", "/x")
    return path


def test_problems_are_warned_of(with_problems: Path) -> None:
    conversion = convert(with_problems)
    lost = {problem.path for problem in conversion.problems}
    assert {"/lost", "/group/lost"} <= lost
    for source in (with_problems, conversion.references()):
        with pytest.warns(ProblemWarning) as told:
            opened(source)
        assert len(told) == 1
        assert told[0].filename == __file__
        text = str(told[0].message)
        assert "/lost: an external link" in text
        assert "put the file beside" in text
        assert "/group/lost" not in text
        with pytest.warns(ProblemWarning, match="/group/lost") as told:
            opened(source, group="group")
        assert "\n/lost" not in str(told[0].message)
        for open_all in (xr.open_datatree, xr.open_groups):
            with pytest.warns(ProblemWarning, match=r"(?s)/lost.*/group/lost|/group/lost.*/lost") as told:
                open_all(source, engine=ENGINE)
            assert told[0].filename == __file__


def test_no_warning_of_what_was_dropped(with_problems: Path) -> None:
    names = [problem.path.strip("/") for problem in convert(with_problems).problems]
    opened(with_problems, drop_variables=names)


def test_only_some_of_many_problems_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(15):
            file[f"lost{number:02}"] = h5py.ExternalLink("none.h5", "/x")
    with pytest.warns(ProblemWarning, match="and 5 more, which h5zarr inspect lists"):
        opened(tmp_path / "x.h5")


# Files that changed -----------------------------------------------------------------------


def rewrite(path: Path) -> None:
    """Write other values, in the same places, a second later."""
    before = path.stat()
    with h5py.File(path, "r+") as file:
        file["tas"][...] = 0
    os.utime(path, (before.st_atime, before.st_mtime + 1))


CHANGED = "not the file that the references were made of|changed while it was read"


def test_changed_file_is_noticed(climate: Path, server: RangeServer) -> None:
    """Also where the references were opened, or the file scanned, before it changed."""
    sources = [*sources_of(climate, server), convert(f"{server.url}/climate.nc").references()]
    datasets = [opened(source) for source in sources]
    rewrite(climate)
    for dataset in datasets:
        with pytest.raises(SourceChangedError, match=CHANGED):
            dataset["tas"].load()
    for source in sources[2:]:
        with pytest.raises(SourceChangedError, match=CHANGED):
            opened(source).load()


def test_changed_file_on_demand(climate: Path, server: RangeServer) -> None:
    sources = [convert(climate).references(), convert(f"{server.url}/climate.nc").references()]
    os.utime(climate, (0, 0))
    for source in sources:
        found = opened(source, check_source=False)
        xr.testing.assert_identical(found, expected(climate))


def test_changed_object_is_noticed(bucket: Any, s3_options: dict[str, Any], climate: Path) -> None:
    bucket.put_file(str(climate), f"{BUCKET}/changing.nc")
    dataset = opened(f"s3://{BUCKET}/changing.nc", storage_options=s3_options)
    rewrite(climate)
    bucket.put_file(str(climate), f"{BUCKET}/changing.nc")
    with pytest.raises(SourceChangedError, match="changing"):
        dataset["tas"].load()


@pytest.mark.parametrize("zarr_format", ["2", "3"])
def test_coordinates_are_fetched_together(zarr_format: str, tmp_path: Path) -> None:
    """xarray makes one index after another: in a round trip for each, were they not there already."""
    names = [f"x{number}" for number in range(6)]
    with h5netcdf.File(tmp_path / "x.nc", "w") as file:
        file.dimensions = {**dict.fromkeys(names, 20_000), "far": 100_000}
        for name in names:
            file.create_variable(name, (name,), "f8", data=np.arange(20_000.0))
            file.create_variable(f"far of {name}", ("far",), "u1", data=np.ones(100_000, "u1"))
    with slow_server(SlowServer(folder=tmp_path, latency=0.1)) as server:
        conversion = convert(f"{server.url}/x.nc", inline_threshold=0, zarr_format=zarr_format)
        server.requests.clear()
        server.most_at_a_time = 0
        found = opened(conversion.references(), drop_variables="x5")
        assert server.most_at_a_time == len(server.requests) == 5
        xr.testing.assert_identical(found, expected(tmp_path / "x.nc").drop_vars("x5"))


def test_missing_source(climate: Path, server: RangeServer) -> None:
    datasets = [opened(source) for source in sources_of(climate, server)]
    climate.unlink()
    for dataset in datasets:
        with pytest.raises(SourceError, match=r"climate\.nc"):
            dataset["tas"].load()


def test_truncated_source(climate: Path, server: RangeServer) -> None:
    """References of others tell nothing of the file but where its chunks are."""
    conversions = (
        convert(climate, inline_threshold=0),
        convert(f"{server.url}/climate.nc", inline_threshold=0),
    )
    datasets = [opened(without_provenance(conversion.references())) for conversion in conversions]
    content = climate.read_bytes()
    climate.write_bytes(content[: len(content) // 4])
    for dataset in datasets:
        with pytest.raises(SourceError, match=r"climate\.nc"):
            dataset.load()


def test_undecodable_chunk_is_named(climate: Path) -> None:
    references = as_references(convert(climate, inline_threshold=0))
    key = next(key for key in references["refs"] if key.startswith("tas/c/"))
    references["refs"][key][1] += 1
    with pytest.raises(Exception, match="decompress") as raised:
        opened(references)["tas"].load()
    assert f"in the chunk {key}" in raised.value.__notes__[0]


# Guessing --------------------------------------------------------------------------------


def test_own_references_need_no_engine(climate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = convert(climate)
    monkeypatch.chdir(climate.parent)
    for write in (write_json, write_parquet, write_v2_parquet, write_renamed):
        name = write(conversion, climate.parent)
        for source in (name, climate.parent / name):
            assert H5zarrBackend().guess_can_open(source)
    assert H5zarrBackend().guess_can_open(conversion.references())
    xr.testing.assert_identical(xr.open_dataset("refs.json"), expected(climate))
    xr.testing.assert_identical(xr.open_dataset("refs.parq"), expected(climate))


def test_nothing_else_is_claimed(climate: Path, server: RangeServer) -> None:
    conversion = convert(climate)
    for write in (write_others, write_version_0, write_unconsolidated):
        assert not H5zarrBackend().guess_can_open(climate.parent / write(conversion, climate.parent))
    (climate.parent / "x.geojson").write_text("{}")
    (climate.parent / "folder").mkdir()
    zarr.create_group(climate.parent / "x.zarr")
    names = ["climate.nc", "x.geojson", "folder", "x.zarr", "none.json", "none.parq"]
    others = [server.url + "/refs.json", "s3://bucket/refs.json", b"CDF", b"{", 3, None, "", "x" * 5000, {}]
    for source in [*(climate.parent / name for name in names), *others]:
        assert not H5zarrBackend().guess_can_open(source)
    assert server.requests == []


# Side effects -----------------------------------------------------------------------------


def output_of(code: str, *arguments: str) -> str:
    command = [sys.executable, *arguments, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_other_engines_do_not_wait_for_imports() -> None:
    """xarray imports every engine whenever it opens a file."""
    code = "import sys, h5zarr.xarray_backend; print(*sorted({'zarr', 'h5py'} & set(sys.modules)))"
    assert output_of(code) == "\n"


def test_no_warnings_without_problems(climate: Path) -> None:
    """zarr-python 3.1 would warn of codecs; the filters that keep it from that do not stay."""
    code = f"""if True:
        import warnings, xarray as xr
        for _ in range(2):
            filters = list(warnings.filters)  # libraries add some when they are imported
            xr.open_dataset({str(climate)!r}, engine="h5zarr").load()
            xr.open_datatree({str(climate)!r}, engine="h5zarr").load()
        assert warnings.filters == filters
        print("quiet")
    """
    assert output_of(code, "-Werror") == "quiet\n"


def test_configuration_stays(climate: Path) -> None:
    before = dict(zarr.config.config)
    opened(climate).load()
    assert zarr.config.config == before


@pytest.mark.filterwarnings(CODEC_WARNING)
def test_configured_pipeline_stays(climate: Path) -> None:
    class Pipeline(zarr.core.codec_pipeline.BatchedCodecPipeline):
        pass

    zarr.registry.register_pipeline(Pipeline)
    with zarr.config.set({"codec_pipeline.path": f"{Pipeline.__module__}.{Pipeline.__qualname__}"}):
        array = zarr.open_group(open_store(climate).store, mode="r")["orog"]
    assert type(array.async_array.codec_pipeline) is Pipeline
    use_reference_pipeline(array)
    assert type(array.async_array.codec_pipeline) is Pipeline
