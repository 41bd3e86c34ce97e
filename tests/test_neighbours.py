"""Further files that a source names: what references tell of them, and who notices that one is another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
import zarr
from conftest import CODEC_WARNING, open_zarr
from http_server import RangeServer, serve

import h5zarr
from h5zarr.combiner import combine
from h5zarr.errors import (
    GroupNotFoundError,
    NotFollowedError,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.file_report import Status
from h5zarr.many import convert_many
from h5zarr.neighbours import Neighbourhood
from h5zarr.references import formats
from h5zarr.renamer import rename
from h5zarr.report import Kind

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

COUNT = 2000
"""Elements of each dataset: too many to stand in references."""


def write_values(path: Path, offset: int = 0, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(COUNT) + offset, **{"chunks": (100,), **options})


def write_link(folder: Path) -> None:
    write_values(folder / "other.h5")
    with h5py.File(folder / "main.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")


def write_link_to_group(folder: Path) -> None:
    write_values(folder / "other.h5")
    with h5py.File(folder / "main.h5", "w") as file:
        file["g"] = h5py.ExternalLink("other.h5", "/")


def write_link_over_link(folder: Path) -> None:
    write_values(folder / "other.h5")
    with h5py.File(folder / "middle.h5", "w") as file:
        file["y"] = h5py.ExternalLink("other.h5", "/x")
    with h5py.File(folder / "main.h5", "w") as file:
        file["x"] = h5py.ExternalLink("middle.h5", "/y")


def write_external_storage(folder: Path) -> None:
    np.arange(COUNT).tofile(folder / "other.h5")
    with h5py.File(folder / "main.h5", "w") as file:
        file.create_dataset("x", (COUNT,), np.int64, external=[("other.h5", 0, COUNT * 8)])


def write_virtual(folder: Path, names: str = "other.h5", start: int = 0) -> None:
    write_values(folder / "other.h5")
    layout = h5py.VirtualLayout((COUNT - start,), np.int64)
    layout[:] = h5py.VirtualSource(names, "x", (COUNT,))[start:]
    with h5py.File(folder / "main.h5", "w") as file:
        file.create_virtual_dataset("x", layout)


def write_virtual_between_chunks(folder: Path) -> None:
    write_virtual(folder, start=50)


def write_numbered_virtual(folder: Path) -> None:
    write_values(folder / "other.h5")
    write_values(folder / "part-0.h5")
    (folder / "other.h5").rename(folder / "part-1.h5")
    (folder / "other.h5").symlink_to("part-1.h5")
    with h5py.File(folder / "main.h5", "w") as file:
        space = h5py.h5s.create_simple((2 * COUNT,), (h5py.h5s.UNLIMITED,))
        space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (COUNT,), (COUNT,))
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_virtual(space, b"part-%b.h5", b"x", h5py.h5s.create_simple((COUNT,)))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT64, space, creation)


WRITERS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "external link": (write_link, ("other.h5",)),
    "external link to a group": (write_link_to_group, ("other.h5",)),
    "external link over another": (write_link_over_link, ("middle.h5", "other.h5")),
    "external storage": (write_external_storage, ("other.h5",)),
    "virtual, chunks of the source": (write_virtual, ("other.h5",)),
    "virtual, values": (write_virtual_between_chunks, ("other.h5",)),
    "virtual, numbered": (write_numbered_virtual, ("part-0.h5", "part-1.h5", "part-2.h5")),
}
"""What writes ``main.h5``, and the files that it names."""


def touch(folder: Path) -> None:
    os.utime(folder / "other.h5", (2e9, 2e9))


def lengthen(folder: Path) -> None:
    before = (folder / "other.h5").stat()
    with (folder / "other.h5").open("ab") as file:
        file.write(b"more")
    os.utime(folder / "other.h5", ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(folder: Path) -> None:
    (folder / "other.h5").resolve().unlink()


CHANGES = {"another time": touch, "another length": lengthen, "gone": remove}


def source_changes(report: h5zarr.ValidationReport) -> list[str]:
    return [one.found for one in report.mismatches if one.kind is Kind.SOURCE_CHANGED]


@pytest.mark.parametrize(("write", "names"), WRITERS.values(), ids=WRITERS)
def test_references_tell_of_them(
    write: Callable[[Path], None], names: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path)
    told = h5zarr.convert(tmp_path / "main.h5").references()["h5zarr"]["neighbours"]
    assert sorted(one["url"] for one in told) == [f"file://{tmp_path}/{name}" for name in names]
    for one in told:
        path = Path(one["url"].removeprefix("file://"))
        assert one["byte_length"] == (path.stat().st_size if path.exists() else 0)
        assert one["modified"] == (path.stat().st_mtime if path.exists() else None)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("write", [writer for writer, _ in WRITERS.values()], ids=WRITERS)
def test_validation_notices_another_one(
    write: Callable[[Path], None], change: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    references = h5zarr.convert(tmp_path / "main.h5").references()
    assert h5zarr.validate(references, sample=0).ok
    assert h5zarr.validate(references, source=tmp_path / "main.h5", sample=0).ok
    change(tmp_path)
    assert len(source_changes(h5zarr.validate(references, sample=0))) == 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("write", [writer for writer, _ in WRITERS.values()], ids=WRITERS)
def test_resuming_notices_another_one(
    write: Callable[[Path], None], change: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    statuses = []
    with ThreadPoolExecutor(1) as executor:
        for _ in range(2):
            again = [
                convert_many(tmp_path / "main.h5", tmp_path / "out", executor=executor, resume=True)[0]
                for _ in range(2)
            ]
            statuses += [report.status for report in again]
            change(tmp_path) if len(statuses) == 2 else None
    assert statuses[:3] == [Status.CONVERTED, Status.UNCHANGED, Status.CONVERTED]


OF_CHUNKS = {name: writer for name, (writer, _) in WRITERS.items() if name != "virtual, values"}


@pytest.mark.parametrize("format", ["json", "parquet"])
@pytest.mark.parametrize("write", OF_CHUNKS.values(), ids=OF_CHUNKS)
def test_the_engine_notices_another_one(write: Callable[[Path], None], format: Any, tmp_path: Path) -> None:
    write(tmp_path)
    references = tmp_path / ("main.json" if format == "json" else "main.parq")
    h5zarr.convert(tmp_path / "main.h5", references, format=format)
    group = "g" if write is write_link_to_group else None
    with xarray.open_dataset(references, engine="h5zarr", group=group) as dataset:
        assert dataset.x.values[-1] == COUNT - 1
    touch(tmp_path)
    with (
        xarray.open_dataset(references, engine="h5zarr", group=group) as dataset,
        pytest.raises(SourceChangedError, match="time of modification"),
    ):
        dataset.x.load()


WITH_MISSING: dict[str, Callable[[Path], None]] = {
    "external link": write_link,
    "virtual": write_virtual,
}


@pytest.mark.parametrize("write", WITH_MISSING.values(), ids=WITH_MISSING)
def test_one_that_was_missing_and_comes(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "other.h5").rename(tmp_path / "later.h5")
    references = h5zarr.convert(tmp_path / "main.h5").references()
    assert source_changes(h5zarr.validate(references, sample=0)) == []
    (tmp_path / "later.h5").rename(tmp_path / "other.h5")
    assert source_changes(h5zarr.validate(references, sample=0)) == ["another one: it was not there"]


@pytest.mark.parametrize("suffix", ["json", "parq", "icechunk"])
def test_formats_keep_what_is_known(suffix: str, tmp_path: Path) -> None:
    write_link_over_link(tmp_path)
    out = tmp_path / f"x.{suffix}"
    known = h5zarr.convert(tmp_path / "main.h5", out).hierarchy.neighbours
    assert len(known) == 2
    assert formats.read_provenance(str(out)).neighbours == known


def test_a_copy_of_all_files(tmp_path: Path) -> None:
    """Times of a copy are its own, lengths are not."""
    (tmp_path / "copy").mkdir()
    for folder in (tmp_path, tmp_path / "copy"):
        write_link(folder)
    touch(tmp_path / "copy")
    references = h5zarr.convert(tmp_path / "main.h5").references()
    assert h5zarr.validate(references, source=tmp_path / "copy" / "main.h5").ok
    lengthen(tmp_path / "copy")
    report = h5zarr.validate(references, source=tmp_path / "copy" / "main.h5")
    assert source_changes(report)[0].startswith("another one: its length in bytes")


def test_renamed_files(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write_link(tmp_path / "old")
    h5zarr.convert(tmp_path / "old/main.h5", tmp_path / "x.json")
    (tmp_path / "old").rename(tmp_path / "new")
    renamed = rename(tmp_path / "x.json", renames={f"{tmp_path}/old": f"{tmp_path}/new"})
    assert [one.url for one in renamed.hierarchy.neighbours] == [f"file://{tmp_path}/new/other.h5"]
    assert h5zarr.validate(renamed.references()).ok


def test_combined_files(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write_values(folder / "other.h5")
        with h5py.File(folder / "main.h5", "w") as file:
            file["x"] = h5py.ExternalLink("other.h5", "/x")
    combined = combine([folder / "main.h5" for folder in folders], new_dim="run")
    named = [one.url for part in combined.hierarchy.parts for one in part.neighbours]
    assert named == [f"file://{folder}/other.h5" for folder in folders]
    combined.write(tmp_path / "x.json")
    assert h5zarr.validate(tmp_path / "x.json", sample=0).ok
    touch(tmp_path / "b")
    assert len(source_changes(h5zarr.validate(tmp_path / "x.json", sample=0))) == 1


# Where they are -------------------------------------------------------------------------

PLACES = {
    "beside": ("file:///a/x.h5", "y.h5", "file:///a/y.h5"),
    "below": ("file:///a/x.h5", "b/y.h5", "file:///a/b/y.h5"),
    "above": ("file:///a/x.h5", "../y.h5", None),
    "in a folder with a longer name": ("file:///a/x.h5", "/ab/y.h5", None),
    "absolute": ("file:///a/x.h5", "/a/y.h5", "file:///a/y.h5"),
    "in the root folder": ("file:///x.h5", "y.h5", "file:///y.h5"),
    "of an object store": ("s3://bucket/x.h5", "y.h5", "s3://bucket/y.h5"),
    "in another bucket": ("s3://bucket/x.h5", "../other/y.h5", None),
    "of a filesystem without folders": ("memory://x.h5", "y.h5", "memory://y.h5"),
    "above a filesystem without folders": ("memory://x.h5", "../y.h5", None),
    "with a query": ("https://host/x.h5?a=/b", "y.h5", "https://host/y.h5"),
}
"""URL of a source, the name that it has of another file, and that file's URL; None: it is left alone."""


@pytest.mark.parametrize(("url", "name", "expected"), PLACES.values(), ids=PLACES)
def test_where_other_files_are(url: str, name: str, expected: str | None) -> None:
    place = Neighbourhood(url=url, public_url=url)
    if expected is not None:
        assert place.resolve(name) == expected
        return
    with pytest.raises(NotFollowedError, match="outside of the source's own folder"):
        place.resolve(name)
    assert replace(place, follow_external=True).resolve(name)


# Links that lead over others ------------------------------------------------------------


def external(filename: str, path: str) -> h5py.ExternalLink:
    return h5py.ExternalLink(filename, path)


LINKS: dict[str, dict[str, Any]] = {
    "external over external": {"a": external("middle.h5", "/out")},
    "external over a soft link": {"a": external("middle.h5", "/soft")},
    "external over a soft link over external": {"a": external("middle.h5", "/soft_out")},
    "external through a group": {"a": external("middle.h5", "/group_out/x")},
    "external to a group over external": {"a": external("middle.h5", "/group_out")},
    "external with a relative path": {"a": external("middle.h5", "group_out/./x")},
    "soft over external": {"a": external("other.h5", "/x"), "b": h5py.SoftLink("/a")},
    "soft through a group of another file": {"g": external("other.h5", "/"), "b": h5py.SoftLink("g/x")},
    "soft over soft over external": {
        "c": external("other.h5", "/x"),
        "b": h5py.SoftLink("c"),
        "a": h5py.SoftLink("b"),
    },
    "soft to a group of another file": {"g": external("other.h5", "/"), "b": h5py.SoftLink("/g")},
    "back into the own file": {"y": external("middle.h5", "/back")},
}
"""The links of ``main.h5``. All files have ``x`` with other values at the same address."""


@pytest.fixture
def three_files(tmp_path: Path) -> Path:
    for number, name in enumerate(["main", "middle", "other"]):
        write_values(tmp_path / f"{name}.h5", 10_000 * number)
    with h5py.File(tmp_path / "middle.h5", "a") as file:
        file["out"] = external("other.h5", "/x")
        file["group_out"] = external("other.h5", "/")
        file["back"] = external("main.h5", "/x")
        file["soft"] = h5py.SoftLink("/x")
        file["soft_out"] = h5py.SoftLink("out")
    return tmp_path


def arrays_of(group: zarr.Group, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, node in group.members():
        below = arrays_of(node, f"{prefix}{name}/") if isinstance(node, zarr.Group) else {prefix + name: node}
        found |= below
    return found


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_that_lead_over_others(links: dict[str, Any], three_files: Path) -> None:
    with h5py.File(three_files / "main.h5", "a") as file:
        for name, link in links.items():
            file[name] = link
    conversion = h5zarr.convert(three_files / "main.h5")
    assert conversion.problems == ()
    references = conversion.references()
    found = arrays_of(open_zarr(references))
    with h5py.File(three_files / "main.h5") as file:
        for name in links:
            expected = {name} if isinstance(file[name], h5py.Dataset) else {f"{name}/{x}" for x in file[name]}
            assert expected <= found.keys()
        for path, array in found.items():
            np.testing.assert_array_equal(array[:], file[path][:])
    assert h5zarr.validate(references).ok


@pytest.mark.parametrize("group", ["g", "s", "g/in", "over"])
def test_a_group_in_another_file(group: str, tmp_path: Path) -> None:
    for number, name in enumerate(["main", "other"]):
        write_values(tmp_path / f"{name}.h5", 10_000 * number)
    with h5py.File(tmp_path / "other.h5", "a") as file:
        file.create_dataset("in/x", data=np.arange(COUNT) * 7, chunks=(100,))
    with h5py.File(tmp_path / "main.h5", "a") as file:
        file["g"] = external("other.h5", "/")
        file["s"] = h5py.SoftLink("g")
        file["over"] = external("other.h5", "in")
    references = h5zarr.convert(tmp_path / "main.h5", group=group).references()
    root = open_zarr(references)
    with h5py.File(tmp_path / "main.h5") as file:
        np.testing.assert_array_equal(root["x"][:], file[group]["x"][:])
    assert h5zarr.validate(references).ok


def test_a_group_in_a_file_that_is_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file["g"] = external("gone.h5", "/")
        file["up"] = external("../gone.h5", "/")
    with pytest.raises(SourceNotFoundError, match="gone"):
        h5zarr.convert(tmp_path / "main.h5", group="g")
    with pytest.raises(GroupNotFoundError, match=r"outside of the source's own folder.*--follow-external"):
        h5zarr.convert(tmp_path / "main.h5", group="up")


def test_references_to_what_no_link_leads_to(tmp_path: Path) -> None:
    """Their path in the other file may be that of another object here."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g/d"] = file["h/d"] = 1
        file["h/r"] = np.array([file["g/d"].ref, file["h/d"].ref], h5py.ref_dtype)
        file["h"].attrs["r"] = file["g/d"].ref
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file["g/d"] = 2
        file["l"] = external("other.h5", "/h")
        file["r"] = external("other.h5", "/h/r")
    references = h5zarr.convert(tmp_path / "main.h5").references()
    root = open_zarr(references)
    assert root["l/r"][:].tolist() == ["other.h5:/g/d", "/l/d"]
    assert root["r"][:].tolist() == ["other.h5:/g/d", "other.h5:/h/d"]
    assert root["l"].attrs["r"] == "other.h5:/g/d"


@pytest.mark.parametrize("start", [0, 50], ids=["chunks", "values"])
@pytest.mark.parametrize("path", ["out", "soft", "soft_out", "group_out/x"])
def test_virtual_datasets_over_links(path: str, start: int, three_files: Path) -> None:
    layout = h5py.VirtualLayout((COUNT - start,), np.int64)
    layout[:] = h5py.VirtualSource("middle.h5", path, (COUNT,))[start:]
    with h5py.File(three_files / "main.h5", "a") as file:
        file.create_virtual_dataset("v", layout, fillvalue=-1)
    conversion = h5zarr.convert(three_files / "main.h5")
    names = {Path(one.url).name for one in conversion.hierarchy.neighbours}
    assert names == ({"middle.h5"} if path == "soft" else {"middle.h5", "other.h5"})
    with h5py.File(three_files / "main.h5") as file:
        expected = file["v"][:]
    np.testing.assert_array_equal(open_zarr(conversion.references())["v"][:], expected)
    assert expected.min() >= 10_000


@pytest.mark.parametrize("start", [0, 50], ids=["chunks", "values"])
@pytest.mark.parametrize("kind", ["link", "virtual dataset"])
def test_virtual_datasets_over_files_elsewhere(kind: str, start: int, tmp_path: Path) -> None:
    """A file beside the source may name one that is elsewhere, which libhdf5 would open."""
    (tmp_path / "in").mkdir()
    write_values(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "in/middle.h5", "w") as file:
        if kind == "link":
            file["x"] = external("../secret.h5", "/x")
        else:
            inner = h5py.VirtualLayout((COUNT,), np.int64)
            inner[:] = h5py.VirtualSource("../secret.h5", "x", (COUNT,))
            file.create_virtual_dataset("x", inner)
    layout = h5py.VirtualLayout((COUNT - start,), np.int64)
    layout[:] = h5py.VirtualSource("middle.h5", "x", (COUNT,))[start:]
    with h5py.File(tmp_path / "in/main.h5", "w") as file:
        file.create_virtual_dataset("v", layout)
    (problem,) = h5zarr.convert(tmp_path / "in/main.h5").problems
    assert (problem.path, problem.remedy) == ("/v", "allow it with --follow-external, if you trust the file")
    conversion = h5zarr.convert(tmp_path / "in/main.h5", follow_external=True)
    assert conversion.problems == ()
    np.testing.assert_array_equal(open_zarr(conversion.references())["v"][:], np.arange(start, COUNT))


def test_links_without_an_end(tmp_path: Path) -> None:
    write_values(tmp_path / "main.h5")
    with h5py.File(tmp_path / "main.h5", "a") as file:
        file["a"] = h5py.SoftLink("b")
        file["b"] = h5py.SoftLink("a")
        file["c"] = external("middle.h5", "/c")
    with h5py.File(tmp_path / "middle.h5", "w") as file:
        file["c"] = external("main.h5", "/c")
    layout = h5py.VirtualLayout((COUNT,), np.int64)
    layout[:] = h5py.VirtualSource("middle.h5", "c", (COUNT,))
    with h5py.File(tmp_path / "main.h5", "a") as file:
        file.create_virtual_dataset("v", layout, fillvalue=-1)
    conversion = h5zarr.convert(tmp_path / "main.h5")
    assert {problem.path for problem in conversion.problems} == {"/a", "/b", "/c"}
    assert (open_zarr(conversion.references())["v"][:] == -1).all()


@pytest.mark.parametrize(
    "write", [write_numbered_virtual, write_virtual_between_chunks, write_external_storage]
)
def test_files_that_cannot_be_looked_at(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, who may run this, may look at all. Of numbered sources, none would be the last."""
    write(tmp_path)

    def refuse(url: str, _: Any) -> Any:
        raise SourceError(f"{url}: cannot be read: Permission denied")

    monkeypatch.setattr("h5zarr.neighbours.identify", refuse)
    (problem,) = h5zarr.convert(tmp_path / "main.h5").problems
    assert problem.path == "/x"
    assert "Permission denied" in problem.found


# By HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def http(tmp_path: Path) -> Iterator[RangeServer]:
    with serve(tmp_path) as server:
        yield server


def test_remote_ones(http: RangeServer, tmp_path: Path) -> None:
    write_link(tmp_path)
    references = h5zarr.convert(f"{http.url}/main.h5").references()
    (told,) = references["h5zarr"]["neighbours"]
    assert (told["url"], told["etag"]) == (
        f"{http.url}/other.h5",
        f"{(tmp_path / 'other.h5').stat().st_mtime_ns:x}",
    )
    assert h5zarr.validate(references, sample=0).ok
    touch(tmp_path)
    assert source_changes(h5zarr.validate(references, sample=0))[0].startswith("another one: its ETag")


def test_remote_external_storage_that_is_too_short(http: RangeServer, tmp_path: Path) -> None:
    write_external_storage(tmp_path)
    conversion = h5zarr.convert(f"{http.url}/main.h5")
    assert not conversion.problems
    os.truncate(tmp_path / "other.h5", COUNT * 8 - 1)
    (problem,) = h5zarr.convert(f"{http.url}/main.h5").problems
    assert "other.h5, which is missing or ends before byte" in problem.found


def test_files_that_are_public_elsewhere(http: RangeServer, tmp_path: Path) -> None:
    """A server has its own times and tags for files that were scanned here."""
    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        write_link(folder)
    touch(tmp_path / "here")
    conversion = h5zarr.convert(
        tmp_path / "here/main.h5", tmp_path / "x.json", public_url=f"{http.url}/main.h5"
    )
    assert h5zarr.validate(tmp_path / "x.json").ok
    with xarray.open_dataset(tmp_path / "x.json", engine="h5zarr") as dataset:
        np.testing.assert_array_equal(dataset.x, np.arange(COUNT))
    for one in (conversion.hierarchy.source, *conversion.hierarchy.neighbours):
        assert one is not None
        assert one.is_local_copy
    lengthen(tmp_path)
    assert source_changes(h5zarr.validate(tmp_path / "x.json", sample=0))[0].startswith(
        "another one: its length"
    )
    with (
        xarray.open_dataset(tmp_path / "x.json", engine="h5zarr") as dataset,
        pytest.raises(SourceChangedError, match="length in bytes"),
    ):
        dataset.x.load()


def test_resuming_with_a_public_url(tmp_path: Path) -> None:
    write_link(tmp_path)
    statuses = []
    with ThreadPoolExecutor(1) as executor:
        for change in (None, touch, None):
            if change is not None:
                change(tmp_path)
            report = convert_many(
                tmp_path / "main.h5",
                tmp_path / "out",
                executor=executor,
                resume=True,
                public_url="https://example.org/data",
            )[0]
            statuses.append(report.status)
    assert statuses == [Status.CONVERTED, Status.CONVERTED, Status.UNCHANGED]
    told = json.loads((tmp_path / "out/main.json").read_bytes())["h5zarr"]
    assert told["neighbours"][0]["url"] == "https://example.org/data/other.h5"


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_of_remote_files(
    links: dict[str, Any], http: RangeServer, three_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libhdf5 would look for the other files in the current folder, where others have these names."""
    with h5py.File(three_files / "main.h5", "a") as file:
        for name, link in links.items():
            file[name] = link
    (three_files / "here").mkdir()
    monkeypatch.chdir(three_files / "here")
    for name in ("middle.h5", "other.h5"):
        write_values(Path(name), -1)
    conversion = h5zarr.convert(f"{http.url}/main.h5")
    assert conversion.problems == ()
    found = arrays_of(open_zarr(conversion.references(), "http"))
    with h5py.File(three_files / "main.h5") as file:
        for path, array in found.items():
            np.testing.assert_array_equal(array[:], file[path][:])
    assert h5zarr.validate(conversion.references()).ok


def test_a_group_behind_a_link_of_a_remote_file(http: RangeServer, three_files: Path) -> None:
    with h5py.File(three_files / "main.h5", "a") as file:
        file["g"] = external("other.h5", "/")
    references = h5zarr.convert(f"{http.url}/main.h5", group="g").references()
    np.testing.assert_array_equal(open_zarr(references, "http")["x"][:], np.arange(COUNT) + 20_000)
    with pytest.raises(GroupNotFoundError, match="give a local copy as source"):
        h5zarr.validate(references)
    assert h5zarr.validate(references, source=three_files / "main.h5").ok
