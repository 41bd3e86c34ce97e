"""Where an HDF5 file can come from, what its references say, and what happens where it cannot be read."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from conftest import CODEC_WARNING, FIXTURES, open_zarr
from http_server import RangeServer, serve

from h5zarr.converter import convert
from h5zarr.errors import (
    DamagedFileError,
    GroupNotFoundError,
    H5zarrError,
    NotHDF5Error,
    OutputError,
    SourceError,
    SourceNotFoundError,
)
from h5zarr.output import Kind, write_whole
from h5zarr.source import identify

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

VALUES = np.arange(1, 61, dtype="<i4").reshape(6, 10)


@pytest.fixture
def file_path(tmp_path: Path) -> Path:
    path = tmp_path / "source.h5"
    write_file(path)
    return path


def write_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=VALUES, chunks=(2, 5), compression="gzip")
        file["contiguous"] = VALUES


def locations(references: dict[str, Any]) -> set[str]:
    return {value[0] for value in references["refs"].values() if isinstance(value, list)}


def assert_reads_back(references: dict[str, Any], url: str, protocol: str = "file", **remote: Any) -> None:
    assert locations(references) == {url}
    assert references["h5zarr"]["source"]["url"] == url
    root = open_zarr(references, protocol, **remote)
    np.testing.assert_array_equal(root["group/x"][...], VALUES)
    np.testing.assert_array_equal(root["contiguous"][...], VALUES)


def references_of(source: Any, **options: Any) -> dict[str, Any]:
    return convert(source, inline_threshold=0, **options).references()


# Local files -----------------------------------------------------------------------------

LOCAL: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "local URL": lambda path: f"local://{path}",
    "relative": os.path.relpath,
    "with dots": lambda path: f"{path.parent}/./{path.name}",
}


@pytest.mark.parametrize("form", LOCAL.values(), ids=LOCAL)
def test_local_path(form: Callable[[Path], Any], file_path: Path) -> None:
    references = references_of(form(file_path))
    assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size
    assert references["h5zarr"]["source"]["modified"] == file_path.stat().st_mtime
    (url,) = locations(references)
    assert Path(url.removeprefix("file://")).samefile(file_path)
    assert_reads_back(references, url)


@pytest.mark.parametrize(
    "name",
    [
        "with space.h5",
        "per%20cent.h5",
        "ünïcödé.h5",
        "hash#and?.h5",
        "a::b.h5",
        "{{u}}.h5",
        "~.h5",
        "[1]*.h5",
    ],
)
def test_names_that_mean_something_in_a_url(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name)
    assert_reads_back(references_of(tmp_path / name), f"file://{tmp_path}/{name}")


OPENED: dict[str, Callable[[Path], Any]] = {
    "binary file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "file of a relative name": lambda path: io.FileIO(os.path.relpath(path)),
    "fsspec file": lambda path: fsspec.filesystem("file").open(str(path)),
    "fsspec OpenFile": lambda path: fsspec.open(path.as_uri()).open(),
    "h5py.File": h5py.File,
    "h5py.File by stdio": lambda path: h5py.File(path, driver="stdio"),
}


@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
def test_open_file_knows_its_url(opened: Callable[[Path], Any], file_path: Path) -> None:
    with opened(file_path) as source:
        references = references_of(source)
        assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size
        (url,) = locations(references)
        assert Path(url.removeprefix("file://")).samefile(file_path)
        assert_reads_back(references, url)
        assert source  # h5py.File: still open
        assert not getattr(source, "closed", False)


def test_fsspec_open_file_that_is_not_entered(file_path: Path) -> None:
    assert_reads_back(references_of(fsspec.open(file_path.as_uri())), file_path.as_uri())


@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
def test_public_url_of_an_open_file(opened: Callable[[Path], Any], file_path: Path) -> None:
    with opened(file_path) as source:
        assert locations(references_of(source, public_url="s3://bucket/x.h5")) == {"s3://bucket/x.h5"}


def test_public_url_of_a_path(file_path: Path) -> None:
    references = references_of(file_path, public_url="https://example.org/x.h5")
    assert locations(references) == {"https://example.org/x.h5"}
    assert references["h5zarr"]["source"]["url"] == "https://example.org/x.h5"
    assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size


def compressed(path: Path) -> Any:
    with gzip.open(path.with_suffix(".gz"), "wb") as stream:
        stream.write(path.read_bytes())
    return gzip.open(path.with_suffix(".gz"))


def archived(path: Path) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, path.name)
        return archive.open(path.name)


def in_memory(path: Path) -> Any:
    return h5py.File(path, driver="core", backing_store=False)


NAMELESS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: io.BytesIO(path.read_bytes()),
    "descriptor": lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"),
    "compressed": compressed,
    "h5py.File of bytes": lambda path: h5py.File(io.BytesIO(path.read_bytes())),
    "h5py.File in memory": lambda path: h5py.File.in_memory(path.read_bytes()),
}


@pytest.mark.parametrize("opened", NAMELESS.values(), ids=NAMELESS)
def test_open_file_without_a_url_needs_one(opened: Callable[[Path], Any], file_path: Path) -> None:
    with opened(file_path) as source, pytest.raises(SourceError, match="public_url"):
        references_of(source)


@pytest.mark.parametrize("opened", NAMELESS.values(), ids=NAMELESS)
def test_open_file_with_public_url(opened: Callable[[Path], Any], file_path: Path) -> None:
    with opened(file_path) as source:
        assert_reads_back(references_of(source, public_url=file_path.as_uri()), file_path.as_uri())


def test_member_of_an_archive_is_no_local_file(file_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file_path.parent)
    (file_path.parent / "other").mkdir()
    member = archived(file_path)
    monkeypatch.chdir(file_path.parent / "other")
    with member, pytest.raises(SourceError, match="public_url"):
        references_of(member)


def test_file_that_is_being_written(file_path: Path) -> None:
    """What is still in libhdf5's buffers is no hole in the references."""
    with h5py.File(file_path, "w") as file:
        # A dataset that stays open keeps its small writes in memory.
        written = [file.create_dataset("group/x", VALUES.shape, "<i4", chunks=(2, 5), compression="gzip")]
        written.append(file.create_dataset("contiguous", VALUES.shape, "<i4"))
        for dataset in written:
            for row in range(len(VALUES)):
                dataset[row] = VALUES[row]
        references = references_of(file)
        assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size
        assert_reads_back(references, file_path.as_uri())


def test_closed_file(file_path: Path) -> None:
    with h5py.File(file_path) as file:
        pass
    with pytest.raises(SourceError, match="closed"):
        references_of(file)


@pytest.mark.parametrize("thing", [5, None, b"bytes.h5"], ids=repr)
def test_what_is_no_source(thing: Any) -> None:
    with pytest.raises(TypeError, match="give a path, URL, open binary file"):
        references_of(thing)


# Remote files ----------------------------------------------------------------------------


def test_memory_filesystem(file_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/folder/x.h5", file_path.read_bytes())
    try:
        references = references_of("memory://folder/x.h5")
        assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size
        assert_reads_back(references, "memory://folder/x.h5", "memory")
    finally:
        memory.rm("/folder", recursive=True)


@pytest.fixture
def http(file_path: Path) -> Iterator[RangeServer]:
    with serve(file_path.parent) as server:
        yield server


def test_http(http: RangeServer, file_path: Path) -> None:
    url = f"{http.url}/source.h5"
    references = references_of(url)
    source = references["h5zarr"]["source"]
    assert source["byte_length"] == file_path.stat().st_size
    assert source["etag"] == f"{file_path.stat().st_mtime_ns:x}"
    http.requests.clear()
    assert_reads_back(references, url, "http")
    assert {method for method, _, asked in http.requests if asked is not None} == {"GET"}


@pytest.mark.parametrize("name", ["climate.nc", "chunk_index_extensible_array_last.h5"])
def test_http_gives_what_the_local_file_gives(name: str) -> None:
    with serve(FIXTURES) as server:
        url = f"{server.url}/{name}"
        remote = references_of(url)
        local = references_of(FIXTURES / name, public_url=url)
        assert remote["refs"] == local["refs"]


def test_http_open_file(http: RangeServer) -> None:
    url = f"{http.url}/source.h5"
    with fsspec.open(url) as stream:
        assert_reads_back(references_of(stream), url, "http")


def test_http_public_url(http: RangeServer) -> None:
    references = references_of(f"{http.url}/source.h5", public_url="s3://bucket/source.h5")
    assert locations(references) == {"s3://bucket/source.h5"}


def test_http_identity_tells_a_changed_file(http: RangeServer, file_path: Path) -> None:
    url = f"{http.url}/source.h5"
    before = identify(url)
    assert identify(url) == before
    os.utime(file_path, ns=(1, 1))
    assert identify(url) != before


def test_http_storage_options_reach_the_filesystem(http: RangeServer) -> None:
    with pytest.raises(SourceError):
        references_of(f"{http.url}/source.h5", storage_options={"client_kwargs": {"no_such_option": 1}})


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, SourceNotFoundError),
        (401, SourceError),
        (403, SourceError),
        (500, SourceError),
        (503, SourceError),
    ],
)
def test_http_refusal(
    status: int, expected: type[SourceError], file_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h5zarr.identity.time.sleep", lambda _seconds: None)
    with serve(file_path.parent, refuse=status) as server:
        fails_with(expected, f"{server.url}/source.h5", "source.h5")


def test_http_server_that_is_gone(file_path: Path) -> None:
    with serve(file_path.parent) as server:
        url = f"{server.url}/source.h5"
    fails_with(SourceError, url, "source.h5")


def test_http_server_without_ranges(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("x", data=np.arange(700_000), chunks=(700_000,))
        file["y"] = np.arange(700_000)
    with serve(tmp_path, ranges=False) as server:
        fails_with(SourceError, f"{server.url}/large.h5", "large.h5")


def test_file_that_is_not_hdf5_by_http(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "empty.h5").touch()
    with serve(tmp_path) as server:
        fails_with(NotHDF5Error, f"{server.url}/text.h5", "text.h5")
        fails_with(NotHDF5Error, f"{server.url}/empty.h5", "empty.h5")


def test_truncated_file_by_http(file_path: Path) -> None:
    file_path.write_bytes(file_path.read_bytes()[:-500])
    with serve(file_path.parent) as server:
        fails_with(DamagedFileError, f"{server.url}/source.h5", "source.h5")


# Bad input -------------------------------------------------------------------------------


def fails_with(expected: type[H5zarrError], source: Any, words: str, **options: Any) -> None:
    """Hold that the source is refused by one line that names it."""
    with pytest.raises(expected) as raised:
        convert(source, **options)
    assert type(raised.value) is expected
    assert "\n" not in str(raised.value)
    assert words in str(raised.value)


BAD_FILES: dict[str, tuple[bytes, type[SourceError]]] = {
    "empty": (b"", NotHDF5Error),
    "text": (b"not HDF5 at all\n" * 100, NotHDF5Error),
    "netCDF-3": (b"CDF\x01" + bytes(100), NotHDF5Error),
    "half a signature": (b"\x89HDF", NotHDF5Error),
    "signature in the wrong place": (bytes(100) + b"\x89HDF\r\n\x1a\n" + bytes(5000), NotHDF5Error),
    "signature alone": (b"\x89HDF\r\n\x1a\n", DamagedFileError),
    "signature and zeros": (b"\x89HDF\r\n\x1a\n" + bytes(5000), DamagedFileError),
    "signature and garbage": (b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 9, DamagedFileError),
    "signature after a user block": (bytes(512) + b"\x89HDF\r\n\x1a\n", DamagedFileError),
}


@pytest.mark.parametrize(("content", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(content: bytes, expected: type[SourceError], tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(content)
    fails_with(expected, tmp_path / "bad.h5", "bad.h5")
    with (tmp_path / "bad.h5").open("rb") as stream:
        fails_with(expected, stream, "bad.h5")


def test_missing_file(tmp_path: Path) -> None:
    fails_with(SourceNotFoundError, tmp_path / "none.h5", "none.h5")
    fails_with(SourceNotFoundError, tmp_path / "none" / "none.h5", "none.h5")
    fails_with(SourceNotFoundError, "memory://none.h5", "none.h5")


def test_folder(tmp_path: Path) -> None:
    fails_with(NotHDF5Error, tmp_path, "is a folder")
    fails_with(NotHDF5Error, tmp_path.as_uri(), "is a folder")


@pytest.mark.parametrize("url", ["nosuchprotocol://x.h5", "file.h5/below", "bad\0name.h5", "x" * 5000])
def test_impossible_name(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.h5").touch()
    with pytest.raises(SourceError) as raised:
        convert(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["climate.nc", "chunk_index_btree_v2.h5", "user_block_latest.h5"])
def test_truncated_file(name: str, tmp_path: Path) -> None:
    whole = (FIXTURES / name).read_bytes()
    for byte_length in {*range(1500, len(whole), len(whole) // 20), len(whole) - 1}:
        (tmp_path / "cut.h5").write_bytes(whole[:byte_length])
        fails_with(DamagedFileError, tmp_path / "cut.h5", "cut.h5")


class FailingStream(io.BytesIO):
    """A file that cannot be read any more after some reads."""

    def __init__(self, content: bytes, reads: int) -> None:
        super().__init__(content)
        self.reads = reads

    def read(self, size: int | None = -1) -> bytes:
        self._count()
        return super().read(size)

    def readinto(self, buffer: Any) -> int:
        self._count()
        return super().readinto(buffer)

    def _count(self) -> None:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("the connection was\nlost")


def test_connection_that_breaks(file_path: Path) -> None:
    """Whatever libhdf5 makes of it: what could not be read is no damaged dataset."""
    content = file_path.read_bytes()
    whole = FailingStream(content, 1000)
    convert(whole, public_url="https://example.org/x.h5")
    needed = 1000 - whole.reads
    assert needed > 10
    for reads in range(needed):
        with pytest.raises(SourceError, match=r"x\.h5: cannot be read: the connection was lost$"):
            convert(FailingStream(content, reads), public_url="https://example.org/x.h5")


@pytest.mark.parametrize("group", ["nowhere", "/group/nowhere", "contiguous", "group/x"])
def test_group_that_is_none(group: str, file_path: Path) -> None:
    fails_with(GroupNotFoundError, file_path, group, group=group)


def test_nothing_is_written_where_the_input_is_bad(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    fails_with(SourceNotFoundError, tmp_path / "none.h5", "none.h5", out=out)
    assert list(tmp_path.iterdir()) == []


# Output ----------------------------------------------------------------------------------


def test_output(file_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "refs.json"
    conversion = convert(file_path, out)
    assert json.loads(out.read_bytes()) == conversion.references()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refs.json", "source.h5"]
    assert out.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_output_by_url(file_path: Path, tmp_path: Path) -> None:
    conversion = convert(file_path, f"file://{tmp_path}/refs.json")
    assert json.loads((tmp_path / "refs.json").read_bytes()) == conversion.references()
    convert(file_path, "memory://refs.json")
    memory = fsspec.filesystem("memory")
    assert memory.cat_file("/refs.json") == b"".join(conversion.blocks())
    memory.rm("/refs.json")


@pytest.mark.parametrize("out", ["none/refs.json", "", "source.h5/refs.json", "nosuchprotocol://refs.json"])
def test_output_that_cannot_be_written(out: str, file_path: Path, tmp_path: Path) -> None:
    target = out if "://" in out else f"{tmp_path}/{out}"
    fails_with(OutputError, file_path, "", out=target)
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]


OLD_OUTPUT = '{"old": "output"}'


def test_old_output_is_replaced_at_once(tmp_path: Path) -> None:
    """Who has opened the old references goes on reading them whole."""
    out = tmp_path / "refs.json"
    out.write_text(OLD_OUTPUT)
    with out.open() as old:
        write_whole(out, [b"the ", b"new one"], kind="JSON")
        assert old.read() == OLD_OUTPUT
    assert out.read_text() == "the new one"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("midway")], ids=repr)
def test_old_output_stays_where_writing_fails(error: Exception, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half of "
        raise error

    out = tmp_path / "refs.json"
    out.write_text(OLD_OUTPUT)
    expected = OutputError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=r"No space|midway"):
        write_whole(out, blocks(), kind="JSON")
    assert out.read_text() == OLD_OUTPUT
    assert list(tmp_path.iterdir()) == [out]


def test_old_output_stays_where_synchronising_fails(
    file_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    out = tmp_path / "refs.json"
    out.write_text(OLD_OUTPUT)
    monkeypatch.setattr(os, "fsync", fail)
    fails_with(OutputError, file_path, "Input/output error", out=out)
    assert out.read_text() == OLD_OUTPUT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refs.json", "source.h5"]


def test_writing_leaves_the_umask_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the process: other threads create files too."""
    monkeypatch.delattr(os, "umask")
    write_whole(tmp_path / "refs.json", [b"x"], kind="JSON")
    assert (tmp_path / "refs.json").read_bytes() == b"x"


def test_a_link_goes_on_leading_to_the_output(tmp_path: Path) -> None:
    real, link = tmp_path / "folder" / "real.json", tmp_path / "link.json"
    real.parent.mkdir()
    link.symlink_to(real)
    for content in (b"{}", b"{} "):  # the link leads to nothing, then to a file
        write_whole(link, [content], kind="JSON")
        assert link.is_symlink()
        assert real.read_bytes() == content
    assert list(real.parent.iterdir()) == [real]


def test_an_output_keeps_its_permissions(tmp_path: Path) -> None:
    out = tmp_path / "refs.json"
    out.touch()
    for mode in (0o600, 0o664):
        out.chmod(mode)
        write_whole(out, [b"{}"], kind="JSON")
        assert out.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_pipe_is_written_into(tmp_path: Path, is_linked: bool) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        write_whole(link if is_linked else pipe, [b"the ", b"output"], kind="JSON")
        assert os.read(reader, 100) == b"the output"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


OTHER_CONTENT = {"HDF5": b"\x89HDF\r\n\x1a\n", "text": b"notes", "blanks": b"\n \n", "rows": b"[{}]"}


@pytest.mark.parametrize("protocol", ["", "memory://"])
@pytest.mark.parametrize("content", [*OTHER_CONTENT.values(), b"<html>", b" <!DOCTYPE html>"], ids=repr)
def test_what_is_something_else_is_not_replaced_by_json(
    content: bytes, protocol: str, tmp_path: Path
) -> None:
    out = f"{protocol}{tmp_path}/refs.json"
    filesystem, path = fsspec.url_to_fs(out)
    filesystem.pipe_file(path, content)
    with pytest.raises(OutputError, match=r"refs\.json: is something else, no JSON; choose another name"):
        write_whole(out, [b"{}"], kind="JSON")
    assert filesystem.cat_file(path) == content
    filesystem.rm(path)


@pytest.mark.parametrize("content", [*OTHER_CONTENT.values(), b"<html>", b"{}"], ids=repr)
def test_what_is_something_else_is_not_replaced_by_a_page(content: bytes, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_bytes(content)
    with pytest.raises(OutputError, match="is something else, no HTML"):
        write_whole(out, [b"<!doctype html>"], kind="HTML")
    assert out.read_bytes() == content


REPLACED: list[tuple[Kind, bytes]] = [
    ("JSON", b""),
    ("JSON", b"{"),
    ("JSON", b"\xef\xbb\xbf\n {}"),
    ("HTML", b""),
    ("HTML", b"<!doctype html><p>"),
    ("HTML", b"\n<!DOCTYPE HTML>"),
]


@pytest.mark.parametrize(("kind", "content"), REPLACED, ids=repr)
@pytest.mark.parametrize("protocol", ["", "memory://"])
def test_what_is_of_the_same_kind_is_replaced(
    kind: Kind, content: bytes, protocol: str, tmp_path: Path
) -> None:
    out = f"{protocol}{tmp_path}/out"
    filesystem, path = fsspec.url_to_fs(out)
    filesystem.pipe_file(path, content)
    write_whole(out, [b"new"], kind=kind)
    assert filesystem.cat_file(path) == b"new"
    filesystem.rm(path)


SAME_FILE: dict[str, Callable[[Path], Any]] = {
    "str": lambda path: contextlib.nullcontext(str(path)),
    "Path": contextlib.nullcontext,
    "URL": lambda path: contextlib.nullcontext(path.as_uri()),
    "open file": lambda path: path.open("rb"),
    "h5py.File": h5py.File,
}


@pytest.mark.parametrize("out", [str, Path.as_uri], ids=["path", "URL"])
@pytest.mark.parametrize("form", SAME_FILE.values(), ids=SAME_FILE)
def test_the_input_is_not_overwritten(
    form: Callable[[Path], Any], out: Callable[[Path], str], file_path: Path
) -> None:
    before = file_path.read_bytes()
    with form(file_path) as source, pytest.raises(OutputError, match="is the input"):
        convert(source, out(file_path))
    assert file_path.read_bytes() == before
