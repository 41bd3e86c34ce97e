"""Many files at a time: which are meant, what their references are called, and what stops whom."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import distributed
import fsspec
import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, FIXTURES, open_zarr
from slow_server import SlowServer, slow_server

from h5zarr.converter import convert
from h5zarr.errors import OutputError, SourceError, SourceNotFoundError
from h5zarr.file_report import FileReport, Status
from h5zarr.inputs import expand, is_pattern, read_list
from h5zarr.many import convert_many
from h5zarr.output_names import output_names, public_urls

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)


def write_file(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=np.arange(60) + value, chunks=(10,))
        file["small"] = value
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_file(tmp_path / "in" / f"{letter}.h5", number) for number, letter in enumerate("abc")]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def statuses(reports: tuple[FileReport, ...]) -> list[Status]:
    return [report.status for report in reports]


def assert_reads_back(report: FileReport, protocol: str = "file", **remote: Any) -> None:
    """Hold that references of a file by `write_file` give the values that h5py reads."""
    assert report.status is not Status.FAILED, report.error
    assert report.out is not None
    references = json.loads(Path(report.out).read_bytes())
    root = open_zarr(references, protocol, **remote)
    value = root["small"][()]
    np.testing.assert_array_equal(root["group/x"][:], np.arange(60) + value)


# Which files are meant -------------------------------------------------------------------

TREE = ["a.h5", "b.nc", "b[1].h5", ".hidden.h5", "2020/a.h5", "2020/deep/c.h5", "2021/a.h5", "2021/b.h5"]

PATTERNS = {
    "name": ("a.h5", ["a.h5"]),
    "missing file": ("none.h5", ["none.h5"]),
    "star": ("*.h5", ["a.h5", "b[1].h5"]),
    "folders are no files": ("*", ["a.h5", "b.nc", "b[1].h5"]),
    "in folders": ("*/a.h5", ["2020/a.h5", "2021/a.h5"]),
    "any depth": ("**/*.h5", ["2020/a.h5", "2020/deep/c.h5", "2021/a.h5", "2021/b.h5", "a.h5", "b[1].h5"]),
    "one character": ("202?/b.h5", ["2021/b.h5"]),
    "set": ("202[0-5]/a.h5", ["2020/a.h5", "2021/a.h5"]),
    "file with brackets": ("b[1].h5", ["b[1].h5"]),
}


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_local_patterns(
    pattern: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    absolute = [file.source for file in expand(f"{tmp_path}/{pattern}")]
    assert absolute == [f"{tmp_path}/{name}" for name in expected]
    monkeypatch.chdir(tmp_path)
    assert [file.source for file in expand(pattern)] == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a.h5", False),
        ("b[1].h5", False),
        ("file://{}/b[1].h5", False),
        ("b[2].h5", True),
        ("file://{}/b[2].h5", True),
        ("*.h5", True),
        ("s3://bucket/b[1].h5", True),
        ("https://host/a.h5?list=*", False),
    ],
)
def test_what_is_a_pattern(
    entry: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b[1].h5").touch()
    assert is_pattern(entry.format(tmp_path)) is expected


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/many", recursive=True)


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_remote_patterns(pattern: str, expected: list[str], memory: Any) -> None:
    for name in TREE:
        memory.pipe_file(f"/many/{name}", b"")
    found = [file.source for file in expand(f"memory://many/{pattern}")]
    shown = [url for url in found if "hidden" not in url]  # on object stores nothing is hidden
    assert shown == [f"memory://many/{name}" for name in expected]


def test_new_files_are_seen(memory: Any) -> None:
    for name in ("a", "b"):
        memory.pipe_file(f"/many/{name}.h5", b"")
        assert expand("memory://many/*.h5")[-1].source == f"memory://many/{name}.h5"


@pytest.mark.parametrize(
    "url",
    ["https://host/a.h5?list=*", "http://host/a.h5?x=[1]&y=?", "simplecache::https://host/a.h5?list=*"],
)
def test_query_is_no_pattern(url: str) -> None:
    assert [(file.source, file.name) for file in expand(url)] == [(url, "a.h5")]


@pytest.mark.parametrize("pattern", ["none*.h5", "none/*.h5", "none/**/*.h5", "memory://none/*.h5"])
def test_pattern_without_a_match(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        expand(pattern)


def test_pattern_over_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`glob` passes over such folders without a word; root, who may run this, may list all."""
    for name in ("open", "locked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.h5").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    assert [file.name for file in expand(f"{tmp_path}/open/*.h5")] == ["a.h5"]
    for pattern in ("*/*.h5", "locked/*.h5", "**/*.h5"):
        with pytest.raises(SourceError, match="locked: may not be listed"):
            expand(f"{tmp_path}/{pattern}")


def test_pattern_of_a_chained_url() -> None:
    with pytest.raises(SourceError, match="name each file"):
        expand("simplecache::s3://bucket/*.h5")


def test_list() -> None:
    text = "# files\na.h5\n\n  \r\nhttp://host/b.h5#part\r\n with space.h5\n#c.h5\nlast.h5"
    expected = ["a.h5", "http://host/b.h5#part", " with space.h5", "last.h5"]
    assert list(read_list(io.StringIO(text))) == expected


# Names -----------------------------------------------------------------------------------

NAMES = {
    "one": (["/d/a.nc"], ["a"]),
    "no suffix": (["/d/a"], ["a"]),
    "dots": (["/d/a.b.nc", "/d/.nc"], ["a.b", ".nc"]),
    "different folders": (["/d/2020/a.nc", "/d/2021/b.nc"], ["a", "b"]),
    "same name": (["/d/2020/a.nc", "/d/2021/a.nc"], ["2020/a", "2021/a"]),
    "same name deeper": (["/d/2020/v/a.nc", "/d/2021/v/a.nc"], ["2020/v/a", "2021/v/a"]),
    "same name below": (["/d/a.nc", "/d/2021/a.nc"], ["a", "2021/a"]),
    "same stem": (["/d/2020/a.nc", "/d/2021/a.h5"], ["2020/a", "2021/a"]),
    "same stem beside": (["/d/a.nc", "/d/a.h5"], ["a.nc", "a.h5"]),
    "both": (["/d/1/a.nc", "/d/1/a.h5", "/d/2/a.nc"], ["1/a.nc", "1/a.h5", "2/a"]),
    "others keep theirs": (["/d/1/a.nc", "/d/2/a.nc", "/e/b.nc"], ["1/a", "2/a", "b"]),
    "folders that begin alike": (["/d/20/a.nc", "/d/2/a.nc"], ["20/a", "2/a"]),
    "up and down": (["/d/1/../2/a.nc", "/d/1/a.nc"], ["2/a", "1/a"]),
    "query": (["https://host/a.nc?sig=b/c.h5"], ["a"]),
    "hosts": (["https://one/d/a.nc", "https://two/d/a.nc"], ["one/d/a", "two/d/a"]),
    "protocols": (["s3://d/a.nc", "gs://d/a.nc"], ["s3/d/a", "gs/d/a"]),
    "local and remote": (["/d/a.nc", "s3://d/a.nc"], ["file/d/a", "s3/d/a"]),
    "out of the folder": (["s3://d/../../a.nc", "s3://e/a.nc"], ["a", "e/a"]),
    "chained": (["simplecache::s3://d/a.nc", "simplecache::s3://e/a.nc"], ["d/a", "e/a"]),
    "in archives": (["zip://a.nc::s3://d/x.zip", "zip://a.nc::s3://d/y.zip"], ["x.zip/zip/a", "y.zip/zip/a"]),
}


@pytest.mark.parametrize(("sources", "expected"), NAMES.values(), ids=NAMES)
def test_names(sources: list[str], expected: list[str]) -> None:
    files = [file for source in sources for file in expand(source)]
    assert output_names(files) == expected
    assert output_names(files[::-1]) == expected[::-1]


HTTP, S3 = "https://host/x/", "s3://bucket/x"
PUBLIC = {
    "one": (["/d/a.nc"], HTTP, ["a.nc"]),
    "one folder": (["/d/a.nc", "/d/b.nc"], HTTP, ["a.nc", "b.nc"]),
    "folders": (["/d/1/a.nc", "/d/2/b.nc"], S3, ["1/a.nc", "2/b.nc"]),
    "to be encoded": (["/d/50 %#.nc"], HTTP, ["50%20%25%23.nc"]),
    "as it is": (["/d/50 %#.nc"], S3, ["50 %#.nc"]),
    "encoded already": (["http://inside/d/a%20b.nc?token=1"], HTTP, ["a%20b.nc"]),
    "to be decoded": (["http://inside/d/a%20b.nc?token=1"], S3, ["a b.nc"]),
}


@pytest.mark.parametrize(("sources", "folder", "expected"), PUBLIC.values(), ids=PUBLIC)
def test_public_urls(sources: list[str], folder: str, expected: list[str]) -> None:
    files = [file for source in sources for file in expand(source)]
    assert public_urls(files, folder) == [f"{folder.rstrip('/')}/{name}" for name in expected]


@pytest.mark.parametrize("pattern", ["*/*.nc", "**/*.nc", "1/a.nc"])
def test_public_url_of_a_pattern_is_that_of_its_fixed_part(pattern: str, tmp_path: Path) -> None:
    """What it means must not depend on how many folders match today."""
    write_file(tmp_path / "1" / "a.nc")
    expected = "s3://b/a.nc" if pattern == "1/a.nc" else "s3://b/1/a.nc"
    assert public_urls(expand(f"{tmp_path}/{pattern}"), "s3://b") == [expected]


def test_public_url_of_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder in common"):
        convert_many(["/d/a.nc", "s3://d/b.nc"], tmp_path, public_url="https://host")


def test_public_url_is_in_the_references(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    write_file(tmp_path / "in" / "d" / "a.h5")
    pattern = f"{tmp_path}/in/**/*.h5"
    reports = convert_many(pattern, tmp_path / "out", executor=threads, public_url="https://host/x")
    urls = [json.loads(Path(str(report.out)).read_bytes())["h5zarr"]["source"]["url"] for report in reports]
    assert urls == [f"https://host/x/{name}.h5" for name in ("a", "b", "c", "d/a")]


# Converting ------------------------------------------------------------------------------


def test_many_are_as_one(tmp_path: Path) -> None:
    names = ["climate.nc", "filter_mask.h5", "chunk_index_btree_v1.h5", "attributes_odd.h5"]
    sources = [FIXTURES / name for name in names if (FIXTURES / name).exists()]
    reports = convert_many(sources, tmp_path / "new" / "out", include=["*"], links="attributes")
    for source, report in zip(sources, reports, strict=True):
        one = convert(source, include=["*"], links="attributes")
        assert Path(str(report.out)) == tmp_path / "new" / "out" / f"{source.stem}.json"
        assert Path(str(report.out)).read_bytes() == b"".join(one.blocks())
        arrays = list(one.hierarchy.arrays())
        assert (report.status, report.problems) == (Status.CONVERTED, one.problems)
        assert report.arrays == len(arrays)
        assert report.references is not None
        assert report.inline is not None
        assert report.references + report.inline == sum(len(array.manifest) for array in arrays)
        assert report.ok == (not one.problems)
        assert json.loads(json.dumps(report.to_json()))["source"] == str(source)


BAD = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "not HDF5": (lambda path: path.write_text("text"), "not an HDF5 file"),
    "damaged": (lambda path: os.truncate(path, 700), "cannot open"),
    "empty": (lambda path: os.truncate(path, 0), "is empty"),
    "folder": (lambda path: path.unlink() or path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_stops_no_other(
    spoil: Callable[[Path], Any], words: str, paths: list[Path], tmp_path: Path, threads: Executor
) -> None:
    spoil(paths[1])
    reports = convert_many(paths, tmp_path / "out", executor=threads)
    assert [report.source for report in reports] == list(map(str, paths))
    assert statuses(reports) == [Status.CONVERTED, Status.FAILED, Status.CONVERTED]
    assert words in str(reports[1].error)
    assert str(paths[1]) in str(reports[1].error)
    assert (reports[1].out, reports[1].ok) == (None, False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "c.json"]


def test_a_pattern_without_a_match_stops_no_other(
    paths: list[Path], tmp_path: Path, threads: Executor
) -> None:
    sources = [f"{tmp_path}/in/[ab].h5", f"{tmp_path}/none*.h5", paths[2], paths[0]]
    reports = convert_many(sources, tmp_path / "out", executor=threads)
    assert [report.source for report in reports] == [
        *map(str, paths[:2]),
        f"{tmp_path}/none*.h5",
        str(paths[2]),
    ]
    assert statuses(reports) == [Status.CONVERTED, Status.CONVERTED, Status.FAILED, Status.CONVERTED]
    assert "no file matches" in str(reports[2].error)


def test_each_file_once(paths: list[Path], tmp_path: Path, threads: Executor, memory: Any) -> None:
    memory.pipe_file("/many/a.h5", paths[0].read_bytes())
    again = [paths[0].parent / ".." / "in" / "a.h5", f"file://{paths[0]}", "memory://many/a.h5"]
    reports = convert_many([paths[0], *again, again[-1]], tmp_path / "out", executor=threads)
    assert [report.source for report in reports] == [str(paths[0]), "memory://many/a.h5"]


def test_no_output_replaces_another(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    with slow_server(SlowServer(folder=paths[0].parent)) as server:
        urls = [f"{server.url}/a.h5?version={number}" for number in (1, 2)]
        reports = convert_many(urls, tmp_path / "out", executor=threads)
    assert statuses(reports) == [Status.CONVERTED, Status.FAILED]
    assert "would replace" in str(reports[1].error)


def test_nothing_to_do(tmp_path: Path) -> None:
    assert convert_many([], tmp_path / "out") == ()


def test_open_files_are_none_of_many(paths: list[Path], tmp_path: Path) -> None:
    with paths[0].open("rb") as stream, pytest.raises(TypeError, match="BufferedReader"):
        convert_many([stream], tmp_path / "out")  # type: ignore[list-item]


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_that_are_none(jobs: int, tmp_path: Path, threads: Executor) -> None:
    with pytest.raises(ValueError, match="jobs"):
        convert_many([], tmp_path, jobs=jobs, executor=threads)


def test_output_is_a_folder(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name a folder"):
        convert_many(paths, tmp_path / "all.json")
    with pytest.raises(OutputError, match="cannot be made"):
        convert_many(paths, paths[0])
    with pytest.raises(OutputError, match="no folder"):
        convert_many(paths, "")


def test_remote_output(paths: list[Path], memory: Any, threads: Executor) -> None:
    reports = convert_many(paths, "memory://many/out/", executor=threads)
    assert [report.out for report in reports] == [f"memory://many/out/{name}.json" for name in "abc"]
    assert memory.cat_file("/many/out/a.json") == b"".join(convert(paths[0]).blocks())


def test_folders_that_tell_files_apart_are_made(tmp_path: Path, threads: Executor) -> None:
    sources = [write_file(tmp_path / "in" / year / "a.h5", int(year)) for year in ("2020", "2021")]
    reports = convert_many(sources, tmp_path / "out", executor=threads)
    expected = [str(tmp_path / "out" / year / "a.json") for year in ("2020", "2021")]
    assert [report.out for report in reports] == expected
    for report in reports:
        assert_reads_back(report)


def test_callbacks(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    counts: list[tuple[int, int]] = []
    seen: list[tuple[str, threading.Thread]] = []
    reports = convert_many(
        [*paths, f"{tmp_path}/none*"],
        tmp_path / "out",
        executor=threads,
        progress=lambda done, total: counts.append((done, total)),
        report=lambda report: seen.append((report.source, threading.current_thread())),
    )
    assert counts == [(done, 4) for done in (1, 2, 3, 4)]
    assert {source for source, _ in seen} == {report.source for report in reports}
    assert {thread for _, thread in seen} == {threading.main_thread()}


def test_credentials_are_not_told(tmp_path: Path, threads: Executor) -> None:
    urls = ["http://user:secret@127.0.0.1:9/a.h5?signature=secret", "http://127.0.0.1:9/*.h5?token=secret"]
    for report in convert_many(urls, tmp_path / "out", executor=threads):
        assert report.status is Status.FAILED
        assert "127.0.0.1:9" in report.name
        assert "secret" not in f"{report.error} {report.to_json()}"


# Doing again what is not done ------------------------------------------------------------


def touch(path: Path, out: Path) -> None:
    os.utime(path, (1e9, 1e9))


def change(path: Path, out: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("ab") as stream:
        stream.write(b"more")
    os.utime(path, ns=times)


def rewrite(out: Path, old: bytes, new: bytes) -> None:
    content = out.read_bytes()
    assert old in content
    out.write_bytes(content.replace(old, new))


CHANGES: dict[str, tuple[Callable[[Path, Path], Any], dict[str, Any]]] = {
    "time": (touch, {}),
    "length": (change, {}),
    "output gone": (lambda _, out: out.unlink(), {}),
    "output empty": (lambda _, out: os.truncate(out, 0), {}),
    "output truncated": (lambda _, out: os.truncate(out, out.stat().st_size - 20), {}),
    "output of others": (lambda _, out: out.write_text('{"version": 1, "refs": {}}'), {}),
    "other version": (lambda _, out: rewrite(out, b'"h5zarr":{"version":"', b'"h5zarr":{"version":"0'), {}),
    "other file": (lambda _, out: shutil.copy(out.with_name("b.json"), out), {}),
    "other group": (lambda *_: None, {"group": "group"}),
    "other include": (lambda *_: None, {"include": ["/small"]}),
    "other exclude": (lambda *_: None, {"exclude": ["/small"]}),
    "other URL": (lambda *_: None, {"public_url": "https://host/x"}),
    "other links": (lambda *_: None, {"links": "attributes"}),
    "other inline chunks": (lambda *_: None, {"inline_threshold": 0}),
    "other dimensions": (lambda *_: None, {"phony_dimensions": False}),
    "other Zarr format": (lambda *_: None, {"zarr_format": "2"}),
}


@pytest.mark.parametrize(("disturb", "options"), CHANGES.values(), ids=CHANGES)
def test_resume(
    disturb: Callable[[Path, Path], Any],
    options: dict[str, Any],
    paths: list[Path],
    tmp_path: Path,
    threads: Executor,
) -> None:
    out = tmp_path / "out"
    first = convert_many(paths, out, executor=threads)
    assert statuses(convert_many(paths, out, executor=threads, resume=True)) == [Status.UNCHANGED] * 3
    disturb(paths[0], out / "a.json")
    again = convert_many(paths, out, executor=threads, resume=True, **options)
    assert again[0].status is Status.CONVERTED
    others = Status.CONVERTED if options else Status.UNCHANGED
    assert statuses(again[1:]) == [others] * 2
    assert [report.out for report in again] == [report.out for report in first]
    assert (out / "a.json").read_bytes() == b"".join(
        convert(paths[0], **{**options, "public_url": f"{options['public_url']}/a.h5"}).blocks()
        if "public_url" in options
        else convert(paths[0], **options).blocks()
    )


@pytest.mark.parametrize(
    ("name", "suffix"), [("parquet", ".parq"), ("icechunk", ".icechunk")], ids=["parquet", "icechunk"]
)
def test_resume_of_other_formats(
    name: Any, suffix: str, paths: list[Path], tmp_path: Path, threads: Executor
) -> None:
    for expected in (Status.CONVERTED, Status.UNCHANGED):
        reports = convert_many(paths, tmp_path / "out", executor=threads, format=name, resume=True)
        assert statuses(reports) == [expected] * 3, reports[0].error
        assert [str(report.out) for report in reports] == [f"{tmp_path}/out/{x}{suffix}" for x in "abc"]


def test_resume_after_a_failure(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    content = paths[1].read_bytes()
    paths[1].write_text("not yet")
    expected = [Status.UNCHANGED, Status.CONVERTED, Status.UNCHANGED]
    convert_many(paths, tmp_path / "out", executor=threads)
    paths[1].write_bytes(content)
    assert statuses(convert_many(paths, tmp_path / "out", executor=threads, resume=True)) == expected


def test_resume_fails_for_a_file_that_is_gone(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    convert_many(paths, tmp_path / "out", executor=threads)
    paths[1].unlink()
    expected = [Status.UNCHANGED, Status.FAILED, Status.UNCHANGED]
    assert statuses(convert_many(paths, tmp_path / "out", executor=threads, resume=True)) == expected


def test_resume_tells_problems_again(tmp_path: Path, threads: Executor) -> None:
    source = FIXTURES / "attributes_odd.h5"
    first = convert_many(source, tmp_path / "out", executor=threads)[0]
    again = convert_many(source, tmp_path / "out", executor=threads, resume=True)[0]
    assert (again.status, again.problems, again.ok) == (Status.UNCHANGED, first.problems, False)
    assert first.problems


def test_resume_by_http(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    with slow_server(SlowServer(folder=paths[0].parent)) as server:
        urls = [f"{server.url}/{path.name}" for path in paths]
        convert_many(urls, tmp_path / "out", executor=threads)
        write_file(paths[2], 5)
        reports = convert_many(urls, tmp_path / "out", executor=threads, resume=True)
    assert statuses(reports) == [Status.UNCHANGED, Status.UNCHANGED, Status.CONVERTED]


def test_resume_where_nothing_tells_a_change(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    """The memory filesystem of fsspec tells no time under a name that h5zarr knows."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/many/a.h5", paths[0].read_bytes())
    for _ in range(2):
        report = convert_many("memory://many/a.h5", tmp_path / "out", executor=threads, resume=True)[0]
        assert report.status is Status.CONVERTED
    memory.rm("/many", recursive=True)


# Workers that die ------------------------------------------------------------------------

POISON = """if True:
    import os
    import fsspec

    class Poison(fsspec.AbstractFileSystem):
        protocol = "poison"

        def info(self, path, **options):
            os._exit(7)
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a filesystem that kills the process that asks it for anything."""
    (tmp_path / "site" / "poison-1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "h5zarr_poison.py").write_text(POISON)
    (tmp_path / "site" / "poison-1.dist-info" / "METADATA").write_text("Name: poison\nVersion: 1\n")
    points = "[fsspec.specs]\npoison = h5zarr_poison:Poison\n"
    (tmp_path / "site" / "poison-1.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("poison")
def test_a_file_that_kills_its_process_is_found(paths: list[Path], tmp_path: Path) -> None:
    sources = [paths[0], "poison://x/bad.h5", *paths[1:], "poison://x/worse.h5"]
    reports = convert_many(sources, tmp_path / "out", jobs=2)
    assert [report.source for report in reports] == list(map(str, sources))
    for report in reports:
        if report.source.startswith("poison"):
            assert report.status is Status.FAILED
            assert f"{report.source}: the process that read it died" in str(report.error)
        else:
            assert_reads_back(report)


@pytest.mark.usefixtures("poison")
def test_an_executor_that_breaks(paths: list[Path], tmp_path: Path) -> None:
    sources = [paths[0], "poison://x/bad.h5", *paths[1:]]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        reports = convert_many(sources, tmp_path / "out", executor=executor)
        more = convert_many(paths, tmp_path / "more", executor=executor)
    assert reports[0].status is Status.CONVERTED
    assert [report.source for report in reports] == list(map(str, sources))
    for report in (*reports[1:], *more):
        assert report.status is Status.FAILED
        assert f"{report.source}: the executor is broken" in str(report.error)


def test_workers_in_another_folder(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: Any = {"initializer": os.chdir, "initargs": (paths[0].parent,)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), **options) as executor:
        for expected in (Status.CONVERTED, Status.UNCHANGED):
            report = convert_many("in/a.h5", "out", executor=executor, resume=True)[0]
            assert (report.source, report.out, report.status) == ("in/a.h5", "out/a.json", expected)
            assert_reads_back(report)


def test_an_executor_that_is_shut_down(paths: list[Path], tmp_path: Path, threads: Executor) -> None:
    threads.shutdown()
    for report in convert_many(paths, tmp_path / "out", executor=threads):
        assert report.status is Status.FAILED
        assert "after shutdown" in str(report.error)


class Counting(Executor):
    """Notes how many calls it has at most at a time."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.futures: list[Future[Any]] = []
        self.most = 0

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        self.futures = [future for future in self.futures if not future.done()]
        self.futures.append(self.executor.submit(*arguments, **options))
        self.most = max(self.most, len(self.futures))
        return self.futures[-1]


def test_few_calls_are_given_at_a_time(tmp_path: Path, threads: Executor) -> None:
    executor = Counting(threads)
    sources = [write_file(tmp_path / "in" / f"{number}.h5") for number in range(40)]
    reports = convert_many(sources, tmp_path / "out", executor=executor, jobs=2)
    assert statuses(reports) == [Status.CONVERTED] * 40
    assert 2 <= executor.most <= 8


def test_little_comes_back_from_a_worker(tmp_path: Path, threads: Executor) -> None:
    report = convert_many(FIXTURES / "climate.nc", tmp_path / "out", executor=threads)[0]
    assert len(pickle.dumps(report)) < 1000


def test_interrupted(paths: list[Path], tmp_path: Path) -> None:
    def interrupt(report: FileReport) -> None:
        raise KeyboardInterrupt

    sources = [write_file(tmp_path / "in" / f"{number}.h5") for number in range(50)]
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        convert_many(sources, tmp_path / "out", executor=executor, report=interrupt)
    written = list((tmp_path / "out").iterdir())
    assert len(written) < 50
    for path in written:
        assert json.loads(path.read_bytes())["version"] == 1


SCRIPT = """if True:
    import sys
    from h5zarr.many import convert_many

    if {guard}:
        def tell(report):
            print(report.status, flush=True)

        convert_many(sys.argv[1:-1], sys.argv[-1], jobs=1, report=tell)
"""


def run_script(tmp_path: Path, guard: str, sources: list[Path]) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    command = [sys.executable, str(script), *map(str, sources), str(tmp_path / "out")]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    sources = [write_file(tmp_path / "in" / f"{number}.h5") for number in range(300)]
    with run_script(tmp_path, "__name__ == '__main__'", sources) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "converted\n"
        os.killpg(run.pid, signal.SIGINT)
        _, told = run.communicate()
    assert told.count("Traceback") == 1, "of this process, and of no worker"
    assert told.endswith("KeyboardInterrupt\n")
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(names) < 300
    assert not [name for name in names if name.startswith(".")]


def test_script_without_a_guard(paths: list[Path], tmp_path: Path) -> None:
    with run_script(tmp_path, "True", paths) as run:
        _, told = run.communicate()
    assert run.returncode == 1
    assert "H5zarrError: worker processes cannot start" in told


# Past one machine ------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two worker processes of Dask, and its client."""
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None, "silence_logs": "CRITICAL"}
    # As the default, the client would stay in the configuration of dask for the tests that follow.
    client_options = {"set_as_default": False}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster, **client_options) as client,
    ):
        yield client


def test_dask_loses_nothing_with_a_worker(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    sources = [write_file(folder / f"{number}.h5", number) for number in range(24)]
    pids = list(cluster.run(os.getpid).values())
    assert len(set(pids)) == 2
    seen: list[FileReport] = []

    def kill(report: FileReport) -> None:
        seen.append(report)
        if len(seen) == 3:
            os.kill(pids[0], signal.SIGKILL)

    with slow_server(SlowServer(folder=folder, latency=0.2)) as server:
        urls = [f"{server.url}/{path.name}" for path in sources]
        reports = convert_many(urls, tmp_path / "out", executor=cluster.get_executor(), report=kill)
        assert [report.source for report in reports] == urls
        for report in reports:
            assert_reads_back(report, "http")
    assert len(seen) == 24
    assert pids[0] not in cluster.run(os.getpid).values()


def test_dask_client_that_is_closed(cluster: Any, paths: list[Path], tmp_path: Path) -> None:
    executor = cluster.get_executor()
    cluster.close()
    reports = convert_many(paths, tmp_path / "out", executor=executor)
    assert statuses(reports) == [Status.FAILED] * 3
