"""Remote files: changes while they are read, credentials, what is fetched, faults of servers, S3."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import pickle
import re
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from conftest import CODEC_WARNING, FIXTURES, open_zarr, storage_options
from http_server import RangeServer
from s3_server import serve_s3
from slow_server import Fault, Request, SlowServer, slow_server

import h5zarr
from h5zarr.cli import main
from h5zarr.errors import (
    DamagedFileError,
    NotHDF5Error,
    OutputError,
    ReferencesError,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
    UntranslatableError,
)
from h5zarr.model import FetchStatistics, SourceIdentity
from h5zarr.neighbours import Neighbourhood
from h5zarr.output import output_errors
from h5zarr.prefetch import holds_credentials, redact
from h5zarr.report import Kind
from h5zarr.source import identify, open_source
from h5zarr.versions import difference

pytestmark = pytest.mark.filterwarnings(CODEC_WARNING)

VALUES = np.arange(1, 61, dtype="<i4").reshape(6, 10)
PUBLIC = "https://example.org/folder/source.h5"
SIGNED = "?X-Amz-Algorithm=AWS4&X-Amz-Credential=AKID/2026/SECRET&X-Amz-Signature=SECRET"
SIGNED_ELSEWHERE = "?sv=2026-01-01&sp=r&sig=SECRET%2B"


def write_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=VALUES, chunks=(2, 5), compression="gzip")
        file["contiguous"] = VALUES


def locations(references: dict[str, Any]) -> set[str]:
    return {value[0] for value in references["refs"].values() if isinstance(value, list)}


def references_of(source: Any, **options: Any) -> dict[str, Any]:
    return h5zarr.convert(source, inline_threshold=0, **options).references()


@pytest.fixture
def file_path(tmp_path: Path) -> Path:
    path = tmp_path / "source.h5"
    write_file(path)
    return path


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5zarr.identity.time.sleep", lambda _seconds: None)


# A server with opinions ------------------------------------------------------------------

DROP = 0
"""Instead of a status: the connection is closed without an answer."""


class Server(RangeServer):
    """Serves a folder; what it says can be changed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = type("Handler", (_Handler, self.RequestHandlerClass), {})
        self.refusal: Callable[[str, str, HTTPMessage], int | None] = lambda method, path, headers: None
        """Returns with which status to refuse a request, told its method, path with query, and headers."""
        self.headers: dict[str, str | None] = {}
        """Headers to send, or to leave out."""
        self.asked = 0
        """How many requests came."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked += 1
        status = self.server.refusal(self.command, self.path, self.headers)
        if status == DROP:
            self.close_connection = True
        elif status is not None:
            self._send(status, {}, b"", with_body=with_body)
        else:
            self.path = self.path.partition("?")[0]
            super()._answer(with_body=with_body)  # type: ignore[misc]

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, with_body: bool) -> None:
        told = {**headers, **self.server.headers}
        kept = {name: value for name, value in told.items() if value is not None}
        super()._send(status, kept, body, with_body=with_body)  # type: ignore[misc]


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def http(file_path: Path) -> Iterator[Server]:
    with serve(file_path.parent) as server:
        yield server


# Identity --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "etag"),
    [('"abc"', "abc"), ('W/"abc"', "abc"), ('"W/"', "W/"), ("abc", "abc"), (None, None)],
    ids=["strong", "weak", "odd", "without quotes", "none"],
)
def test_identity_by_http(header: str | None, etag: str | None, http: Server, file_path: Path) -> None:
    http.headers = {"ETag": header, "Last-Modified": formatdate(1_700_000_000, usegmt=True)}
    source = references_of(f"{http.url}/source.h5")["h5zarr"]["source"]
    assert source["etag"] == etag
    assert source["modified"] == 1_700_000_000
    assert source["byte_length"] == file_path.stat().st_size


def test_time_that_cannot_be_read_is_none(http: Server) -> None:
    http.headers = {"Last-Modified": "yesterday"}
    assert identify(f"{http.url}/source.h5").modified is None


def identity(**fields: Any) -> SourceIdentity:
    return SourceIdentity(url="memory://x", **fields)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"byte_length": 1}, {"byte_length": 2}, "length in bytes was 1 and is 2"),
        ({"modified": 1.0}, {"modified": 2.0}, "time of modification"),
        ({"etag": "a"}, {"etag": "b"}, "ETag was a and is b"),
        ({"etag": "a", "byte_length": 1}, {"etag": "a", "byte_length": 2}, "length"),
        ({"etag": "a", "modified": 1.0}, {"etag": "a", "modified": 2.0}, None),
        ({"etag": "a", "modified": 1.0}, {"modified": 2.0}, "time"),
        ({"byte_length": 1}, {"etag": "a", "modified": 2.0}, None),
        ({}, {}, None),
    ],
)
def test_difference(before: dict[str, Any], after: dict[str, Any], found: str | None) -> None:
    told = difference(identity(**before), identity(**after))
    assert told is None if found is None else told is not None and found in told


def replace_file(path: Path) -> None:
    """Put another file of the same length in the place of one."""
    status = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    other.replace(path)


def replace_by_twin(path: Path) -> None:
    """Put another file of the same length and time in the place of one."""
    status = path.stat()
    replace_file(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[Path], None]] = {"replaced": replace_file, "longer": append, "gone": Path.unlink}


def during_scan(change: Callable[[Path], None], path: Path) -> Callable[[int, int], None]:
    """Return a progress callback that changes the file once, in the middle of a scan."""
    pending = [change]
    return lambda _done, _total: pending.pop()(path) if pending else None


SOURCES: dict[str, Callable[[Path, str], Any]] = {
    "path": lambda path, _url: contextlib.nullcontext(path),
    "URL": lambda _path, url: contextlib.nullcontext(f"{url}/source.h5"),
    "fsspec OpenFile": lambda _path, url: contextlib.nullcontext(fsspec.open(f"{url}/source.h5")),
    "local fsspec OpenFile": lambda path, _url: contextlib.nullcontext(fsspec.open(path.as_uri())),
    "open file": lambda path, _url: path.open("rb"),
    "h5py.File": lambda path, _url: h5py.File(path, "r"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("form", SOURCES.values(), ids=SOURCES)
def test_change_while_scanning(
    form: Callable[[Path, str], Any], change: Callable[[Path], None], http: Server, file_path: Path
) -> None:
    with (
        form(file_path, http.url) as source,
        pytest.raises(SourceChangedError, match=r"source\.h5: changed while it was read: it.*try again"),
    ):
        h5zarr.scan(source, progress=during_scan(change, file_path))


def test_local_file_is_told_from_its_twin(file_path: Path) -> None:
    with pytest.raises(SourceChangedError, match="another file"):
        h5zarr.scan(file_path, progress=during_scan(replace_by_twin, file_path))


def test_change_of_a_file_of_which_nothing_can_be_asked(file_path: Path) -> None:
    with h5py.File(file_path, "r+") as file:
        assert h5zarr.scan(file, progress=during_scan(os.utime, file_path)).datasets


def test_same_content_put_there_again_is_no_change(http: Server, file_path: Path) -> None:
    http.headers = {"ETag": '"of the content"'}
    h5zarr.scan(f"{http.url}/source.h5", progress=during_scan(replace_file, file_path))


def test_change_while_scanning_in_another_process(http: Server) -> None:
    def note(method: str, _path: str, _headers: HTTPMessage) -> None:
        seen.append(method)
        http.headers["ETag"] = f'"{seen.count("HEAD")}"'

    seen: list[str] = []
    http.refusal = note
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        h5zarr.scan(f"{http.url}/source.h5", isolate=True)


@pytest.mark.parametrize("url", ["", "http"], ids=["local", "by HTTP"])
def test_change_of_a_file_behind_an_external_link(url: str, http: Server, file_path: Path) -> None:
    outer = file_path.parent / "outer.h5"
    with h5py.File(outer, "w") as file:
        file["link"] = h5py.ExternalLink("source.h5", "/group")

    def change(done: int, _total: int) -> None:
        if done > 1:  # the root group is the only object of the outer file
            replace_file(file_path)

    with pytest.raises(SourceChangedError, match=r"source\.h5: changed"):
        h5zarr.scan(f"{http.url}/outer.h5" if url else outer, progress=change)


def test_what_looks_damaged_for_a_change_is_a_change(file_path: Path) -> None:
    def change_and_fail(_done: int, _total: int) -> None:
        append(file_path)
        raise DamagedFileError("libhdf5 cannot read it")

    with pytest.raises(SourceChangedError, match="length in bytes") as raised:
        h5zarr.scan(file_path, progress=change_and_fail)
    assert isinstance(raised.value.__cause__, DamagedFileError)


def test_damage_without_a_change_is_damage(file_path: Path) -> None:
    with pytest.raises(DamagedFileError), open_source(file_path):
        raise DamagedFileError("libhdf5 cannot read it")


def test_file_written_to_while_another_thread_has_it_open(file_path: Path) -> None:
    """libhdf5 would go on with the metadata that it read before."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(SourceChangedError))
        stack.enter_context(open_source(file_path))
        append(file_path)
        with pytest.raises(SourceChangedError, match="another thread"):
            stack.enter_context(open_source(file_path))
    assert h5zarr.scan(file_path).datasets


# Caches of filesystems -------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_old_copies_of_a_cache_are_not_read(
    cache: str, http: Server, file_path: Path, tmp_path: Path
) -> None:
    url, options = f"{cache}::{http.url}/source.h5", {cache: {"cache_storage": str(tmp_path / "cache")}}
    with fsspec.open(url, **options) as stream:
        stream.read()
    with h5py.File(file_path, "w") as file:
        file["new"] = VALUES
    references = references_of(url, storage_options=options)
    assert locations(references) == {f"{http.url}/source.h5"}
    np.testing.assert_array_equal(open_zarr(references, "http")["new"][...], VALUES)
    again = references_of(fsspec.open(url, **options))
    assert again["refs"] == references["refs"]


def archived(path: Path) -> str:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, path.name)
    return f"zip://{path.name}::{path.with_suffix('.zip').as_uri()}"


def test_member_of_an_archive_needs_a_public_url(file_path: Path) -> None:
    url = archived(file_path)
    with pytest.raises(SourceError, match="--public-url"):
        references_of(url)
    assert locations(references_of(url, public_url=PUBLIC)) == {PUBLIC}
    with pytest.raises(SourceError, match="public_url"):
        references_of(fsspec.open(url))
    assert locations(references_of(fsspec.open(url), public_url=PUBLIC)) == {PUBLIC}


def test_compressed_file_needs_a_public_url(file_path: Path) -> None:
    packed = file_path.with_suffix(".h5.gz")
    with fsspec.open(str(packed), "wb", compression="gzip") as stream:
        stream.write(file_path.read_bytes())
    with pytest.raises(SourceError, match="public_url"):
        references_of(fsspec.open(str(packed), compression="gzip"))
    opened = fsspec.open(str(packed), compression="gzip")
    assert locations(references_of(opened, public_url=PUBLIC)) == {PUBLIC}


# Credentials -----------------------------------------------------------------------------

BASIC = "Basic " + base64.b64encode(b"user:SECRET").decode()


def only_signed(method: str, path: str, _headers: HTTPMessage) -> int | None:
    """Refuse what is not signed; a signature is of one method alone, as S3's are."""
    return None if method == "GET" and "SECRET" in path else 403


def only_with_password(_method: str, _path: str, headers: HTTPMessage) -> int | None:
    return None if headers.get("Authorization") == BASIC else 401


def with_password(url: str) -> str:
    return url.replace("://", "://user:SECRET@")


SECRETS: dict[str, tuple[Callable[..., int | None], Callable[[str], str]]] = {
    "signed as for S3": (only_signed, lambda url: url + SIGNED),
    "signed as for Azure": (only_signed, lambda url: url + SIGNED_ELSEWHERE),
    "password": (only_with_password, with_password),
}

secret_urls = pytest.mark.parametrize(("refusal", "secret"), SECRETS.values(), ids=SECRETS)


def assert_no_secrets(thing: Any) -> None:
    text = thing if isinstance(thing, str) else json.dumps(thing)
    for secret in ("SECRET", "AKID", "X-Amz", "sig=", "user:"):
        assert secret not in text


@secret_urls
def test_public_url_stands_for_one_with_credentials(
    refusal: Callable[..., int | None], secret: Callable[[str], str], http: Server, file_path: Path
) -> None:
    http.refusal = refusal
    url = secret(f"{http.url}/source.h5")
    conversion = h5zarr.convert(url, public_url=PUBLIC, inline_threshold=0)
    references = conversion.references()
    assert references["refs"] == references_of(file_path, public_url=PUBLIC)["refs"]
    assert locations(references) == {PUBLIC}
    assert_no_secrets(references)
    found = h5zarr.scan(url, public_url=PUBLIC)
    for pickled in (pickle.dumps(found), pickle.dumps(conversion)):
        assert b"SECRET" not in pickled
        assert b"AKID" not in pickled


@secret_urls
@pytest.mark.parametrize("form", [str, fsspec.open, "stream"], ids=["URL", "OpenFile", "open file"])
def test_url_with_credentials_is_not_recorded(
    form: Any, refusal: Callable[..., int | None], secret: Callable[[str], str], http: Server
) -> None:
    http.refusal = refusal
    url = secret(f"{http.url}/source.h5")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(fsspec.open(url)) if form == "stream" else form(url)
        with pytest.raises(SourceError, match="--public-url") as raised:
            h5zarr.convert(source)
        assert_no_secrets(str(raised.value))
        with pytest.raises(SourceError, match="--public-url"):
            h5zarr.convert(source, public_url=secret(PUBLIC))


def test_isolated_scan_of_a_url_with_credentials(http: Server) -> None:
    url = with_password(f"{http.url}/source.h5")
    assert b"SECRET" not in pickle.dumps(h5zarr.scan(url, public_url=PUBLIC, isolate=True))
    with pytest.raises(DamagedFileError, match=r"source\.h5: .*longer than") as raised:
        h5zarr.scan(url, public_url=PUBLIC, isolate=True, timeout=0.001)
    assert_no_secrets(str(raised.value))


def test_identity_of_a_url_with_credentials_can_be_asked(http: Server, file_path: Path) -> None:
    http.refusal = only_signed
    assert identify(f"{http.url}/source.h5{SIGNED}").byte_length == file_path.stat().st_size


def test_ordinary_queries_stay(http: Server) -> None:
    url = f"{http.url}/source.h5?version=3"
    http.refusal = lambda _method, path, _headers: None if path.endswith("?version=3") else 404
    references = references_of(url)
    assert locations(references) == {url}
    np.testing.assert_array_equal(open_zarr(references, "http")["contiguous"][...], VALUES)


@pytest.fixture
def linked(file_path: Path) -> Path:
    """Return a file with a link to another one beside it."""
    path = file_path.parent / "outer.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("source.h5", "/contiguous")
    return path


def test_public_url_of_files_beside(linked: Path, http: Server) -> None:
    http.refusal = only_with_password
    url = with_password(f"{http.url}/{linked.name}")
    public_url = "https://example.org/a/outer.h5?version=x/y"
    conversion = h5zarr.convert(url, public_url=public_url, inline_threshold=0)
    assert not conversion.problems
    references = conversion.references()
    assert locations(references) == {"https://example.org/a/source.h5"}
    assert_no_secrets(references)


def test_signature_is_of_one_file_alone(linked: Path, http: Server) -> None:
    """What is beside a signed URL is asked for without the signature, and reported where that fails."""
    http.refusal = only_signed
    conversion = h5zarr.convert(f"{http.url}/{linked.name}{SIGNED}", public_url=PUBLIC)
    (problem,) = conversion.problems
    assert "source.h5: cannot be read: 403" in problem.found
    assert_no_secrets(conversion.references())


def test_file_elsewhere_with_credentials_has_no_public_url() -> None:
    place = Neighbourhood(url=with_password(PUBLIC), public_url=PUBLIC, follow_external=True)
    outside = place.resolve("../other/x.h5")
    with pytest.raises(UntranslatableError, match="credentials") as raised:
        place.publish(outside)
    assert_no_secrets(str(raised.value))
    assert place.publish(place.resolve("x.h5")) == "https://example.org/folder/x.h5"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/x.h5", False),
        ("https://h/x.h5?version=3&versionId=a", False),
        ("https://h:8080/a@b/x.h5", False),
        ("abfs://container@account.dfs.core.windows.net/x.h5", False),
        ("sftp://user@h/x.h5", False),
        ("file:///x?token=1.h5", False),
        ("https://h/x.h5?sig=a", True),
        ("https://h/x.h5?a=1&X-Goog-Signature=a", True),
        ("https://h/x.h5?AWSAccessKeyId=a&Expires=1&Signature=b", True),
        ("https://h/x.h5?%73ig=a", True),
        ("https://h/x.h5?access_token=a", True),
        ("https://h/x.h5?sv=a;token=b", True),
        ("https://user:password@h/x.h5", True),
        ("https://token@h/x.h5", True),
        ("ftp://user:pa@ss@h/x.h5", True),
        ("s3://key:sec/ret@bucket/x.h5", True),
        ("simplecache::https://user:password@h/x.h5", True),
        ("zip://x.h5::https://h/x.zip?sig=a", True),
        ("http://me:pa'ss@h/x.h5", True),
        ('http://me:pa"s<s@h/x.h5', True),
        ("http://me:pa::ss@h/x.h5", True),
        ("https://h/it's.h5?a='", False),
        ("https://h/x.h5?a='&sig=b", True),
        ("https://h/x.h5?auth_key=a", True),
        ("https://h/x.h5?authkey=a", True),
        ("https://h/x.h5?sign=a", True),
        ("https://h/x.h5?design=a", False),
    ],
)
def test_which_urls_hold_credentials(url: str, expected: bool) -> None:
    assert holds_credentials(url) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:p@h/a.h5?sig=SECRET#f: gone", "https://h/a.h5 gone"),
        ("404, url='http://u:pa@ss@h/a?b=c'", "404, url='http://h/a'"),
        ("Max retries exceeded with url: /x?sig=SECRET (Caused", "Max retries exceeded with url: /x (Caused"),
        ("simplecache::https://u:p@h/x?sig=1", "simplecache::https://h/x"),
        ("zip://x.h5::https://u:p/q@h/x.zip?sig=a", "zip://x.h5::https://h/x.zip"),
        ("abfs://container@account/x.h5", "abfs://container@account/x.h5"),
        ("file:///data/what?#.h5", "file:///data/what?#.h5"),
        ("/data/what?#.h5: is this right? yes", "/data/what?#.h5: is this right? yes"),
        ("http://[::1]:80/x?sig=SECRET", "http://[::1]:80/x"),
        ("http://me:pa'SECRET@h/x: gone", "http://h/x: gone"),
        ("http://me:pa'::b:SECRET@h/x", "http://h/x"),
        ("https://h/x?a='&sig=SECRET", "https://h/x"),
        ("with url: /x?a='&sig=SECRET (Caused", "with url: /x (Caused"),
        ("['http://h/x?a=SECRET', 'http://me:pa'SECRET@h/it's.h5'].", "['http://h/x', 'http://h/it's.h5']."),
        ("url=URL('http://h/x?a=SECRET'))", "url=URL('http://h/x'))"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (with_password("https://h/new"), "https://h/new: the URL holds credentials"),
        (f"https://h/new{SIGNED}", "https://h/new: the URL holds credentials"),
        ("zip://x.h5::https://h/new", "zip://x.h5::https://h/new: no reader"),
    ],
)
def test_new_urls_hold_no_credentials(new: str, words: str, file_path: Path) -> None:
    references = references_of(file_path)
    with pytest.raises(SourceError, match=re.escape(words)) as raised:
        h5zarr.rename(references, renames={str(file_path): new})
    assert_no_secrets(str(raised.value))


def test_new_name_of_a_local_file_may_look_like_a_signature(file_path: Path) -> None:
    references = references_of(file_path)
    renamed = h5zarr.rename(references, renames={str(file_path): "/data/x?sig=1.h5"}).references()
    assert locations(renamed) == {"file:///data/x?sig=1.h5"}


def refuse_put(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers answer so to what is written."""

    def do_put(handler: Any) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.close_connection = True
        handler._send(status, {}, b"", with_body=True)

    for method in ("do_PUT", "do_POST"):
        monkeypatch.setattr(_Handler, method, do_put, raising=False)


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("secret", [lambda url: url + SIGNED, with_password], ids=["signed", "password"])
def test_failure_to_write_holds_no_credentials(
    status: int, secret: Callable[[str], str], http: Server, file_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_put(status, monkeypatch)
    out = secret(f"{http.url}/new.json")
    with pytest.raises(OutputError, match=rf"/new\.json: cannot be written: {status}") as raised:
        h5zarr.convert(file_path, out)
    assert_no_secrets(str(raised.value))
    result = CliRunner().invoke(main, ["convert", str(file_path), "-o", out])
    assert result.exit_code == 2
    assert result.stderr == f"h5zarr: {raised.value}\n"


class ClientError(Exception):
    """What a filesystem's client library raises, as botocore's, which is no OSError."""


def test_what_the_system_refuses_holds_no_credentials() -> None:
    for error in (PermissionError(f"no\n{PUBLIC}{SIGNED}"), PermissionError(13, f"no {PUBLIC}{SIGNED}")):
        with pytest.raises(OutputError) as raised, output_errors("x"):
            raise error
        assert str(raised.value) == f"x: cannot be written: no {PUBLIC}"
    with pytest.raises(OutputError) as raised, output_errors("x"):
        raise ClientError
    assert str(raised.value) == "x: cannot be written: ClientError"
    for error in (ReferencesError("as it is"), ZeroDivisionError("as it is")):
        with pytest.raises(type(error), match="as it is"), output_errors("x"):
            raise error


def refuse_with(status: int) -> Callable[..., int | None]:
    return lambda *_: status


FAILURES: dict[str, tuple[Callable[[Server], None], type[SourceError]]] = {
    "forbidden": (lambda http: setattr(http, "refusal", refuse_with(403)), SourceError),
    "missing": (lambda http: setattr(http, "refusal", refuse_with(404)), SourceNotFoundError),
    "broken": (lambda http: setattr(http, "refusal", refuse_with(500)), SourceError),
    "dropped": (lambda http: setattr(http, "refusal", refuse_with(DROP)), SourceError),
    "empty": (lambda http: (http.folder / "source.h5").write_bytes(b"") and None, NotHDF5Error),
    "text": (lambda http: (http.folder / "source.h5").write_bytes(b"no") and None, NotHDF5Error),
    "damaged": (
        lambda http: (http.folder / "source.h5").write_bytes(b"\x89HDF\r\n\x1a\n" * 100) and None,
        DamagedFileError,
    ),
}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("secret", [lambda url: url + SIGNED, with_password], ids=["signed", "password"])
@pytest.mark.parametrize(("fail", "expected"), FAILURES.values(), ids=FAILURES)
def test_errors_hold_no_credentials(
    fail: Callable[[Server], None],
    expected: type[SourceError],
    secret: Callable[[str], str],
    http: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(http)
    with caplog.at_level(logging.DEBUG, "h5zarr"), pytest.raises(SourceError) as raised:
        h5zarr.convert(secret(f"{http.url}/source.h5"), public_url=PUBLIC)
    assert type(raised.value) is expected
    assert f"{http.url}/source.h5: " in str(raised.value)
    assert_no_secrets(str(raised.value))
    assert_no_secrets("".join(traceback.format_exception(raised.value)))
    assert not [record for record in caplog.records if record.name.startswith("h5zarr")]


def test_storage_options_are_not_told(http: Server, file_path: Path) -> None:
    http.refusal = only_with_password
    options = {"headers": {"Authorization": BASIC}}
    url = f"{http.url}/source.h5"
    assert BASIC not in json.dumps(references_of(url, storage_options=options))
    options = {"headers": {"Authorization": f"{BASIC}x"}}
    with pytest.raises(SourceError, match="401") as raised:
        h5zarr.convert(url, storage_options=options)
    assert BASIC not in "".join(traceback.format_exception(raised.value))


# What is fetched -------------------------------------------------------------------------


KINDS = {
    "small": np.arange(100),
    "medium": np.arange(2000),
    "text": np.array(["a", "bc"] * 5000, object),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file whose datasets of different kinds are far from one another."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    with h5py.File(path, "w") as file:
        for name, values in KINDS.items():
            dtype = h5py.string_dtype() if name == "text" else values.dtype
            file.create_dataset(f"{name}/x", values.shape, dtype).attrs["unit"] = "m"
            file.create_dataset(f"{name}/gap", (500_000,), "f8")
        # Contiguous data stand where they are first written.
        for name, values in KINDS.items():
            file[name]["gap"][...] = 1
            file[name]["x"][...] = values
    return path


@pytest.mark.parametrize(
    ("thresholds", "read", "unread"),
    [
        ({}, ["text"], ["small", "medium"]),
        ({"inline_threshold": 1000}, ["small", "text"], ["medium"]),
        ({"inline_threshold": 20_000}, ["small", "medium", "text"], []),
        ({"inline_limit": 1000, "inline_threshold": 20_000}, ["small"], ["medium", "text"]),
        ({"inline_limit": 0}, [], ["small", "medium", "text"]),
    ],
    ids=["default", "small", "medium", "limit", "nothing"],
)
def test_only_what_goes_inline_is_fetched(
    thresholds: dict[str, int], read: list[str], unread: list[str], large: Path
) -> None:
    with slow_server(SlowServer(folder=large.parent)) as server:
        found = h5zarr.scan(f"{server.url}/large.h5", **thresholds)
        asked = list(server.requests)
    assert found.fetched is not None
    assert found.fetched.misses == 0
    with h5py.File(large) as file:
        spans = {name: (file[name]["x"].id.get_offset(), file[name]["x"].nbytes) for name in KINDS}
    for name in read:
        assert _covers(asked, *spans[name])
    for name in unread:
        # The edges may lie in a block with metadata.
        assert not _covers(asked, *spans[name])


def _covers(asked: list[Request], byte_offset: int, byte_length: int) -> bool:
    fetched = {
        at
        for request in asked
        for at in range(request.byte_offset // 512, -(-(request.byte_offset + request.byte_length) // 512))
    }
    return set(range(byte_offset // 512, -(-(byte_offset + byte_length) // 512))) <= fetched


def test_statistics(large: Path) -> None:
    with slow_server(SlowServer(folder=large.parent)) as server:
        found = h5zarr.scan(f"{server.url}/large.h5")
        assert found.fetched is not None
        assert found.fetched == FetchStatistics(
            requests=len(server.requests),
            byte_length=server.byte_length,
            round_trips=found.fetched.round_trips,
            misses=0,
            retries=0,
        )
        opened = h5zarr.scan(fsspec.open(f"{server.url}/large.h5"))
        isolated = h5zarr.scan(f"{server.url}/large.h5", isolate=True)
    for other in (opened, isolated, pickle.loads(pickle.dumps(found))):
        assert other.fetched is not None
        assert other.fetched.misses == 0
    assert h5zarr.scan(large).fetched is None
    with large.open("rb") as stream:
        assert h5zarr.scan(stream).fetched is None


@pytest.mark.parametrize("page_byte_length", [None, 4096, 65536])
def test_pages(page_byte_length: int | None, tmp_path: Path) -> None:
    paged = {} if page_byte_length is None else {"fs_strategy": "page", "fs_page_size": page_byte_length}
    with h5py.File(tmp_path / "x.h5", "w", **paged) as file:
        file["x"] = VALUES
    assert h5zarr.scan(tmp_path / "x.h5").page_byte_length == page_byte_length


# Faults of servers -----------------------------------------------------------------------


def failing(fault: Fault, *numbers: int) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.number in numbers or not numbers else None


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.DROP, Fault.SHORT])
def test_passing_faults_do_no_harm(fault: Fault, large: Path) -> None:
    with slow_server(SlowServer(folder=large.parent, fault=failing(fault, 0, 1, 2, 4))) as server:
        conversion = h5zarr.convert(f"{server.url}/large.h5", public_url=PUBLIC)
        assert len(server.requests) > 4
    assert conversion.references()["refs"] == h5zarr.convert(large, public_url=PUBLIC).references()["refs"]


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("status", [408, 429, 500, 503, DROP])
def test_passing_faults_of_the_first_requests(status: int, http: Server, file_path: Path) -> None:
    http.refusal = lambda *_: status if http.asked <= 4 else None
    assert identify(f"{http.url}/source.h5").byte_length == file_path.stat().st_size
    assert 4 < http.asked < 8


def test_waiting_grows(http: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("h5zarr.identity.time.sleep", waits.append)
    http.refusal = refuse_with(503)
    with pytest.raises(SourceError, match="503"):
        identify(f"{http.url}/source.h5")
    waits = [seconds for seconds in waits if seconds]
    assert len(waits) == 6
    assert sorted(set(waits)) == waits


def test_refusals_are_not_repeated(http: Server) -> None:
    http.refusal = refuse_with(403)
    with pytest.raises(SourceError, match="403"):
        identify(f"{http.url}/source.h5")
    assert http.asked == 2  # HEAD, and GET in case that HEAD is not allowed


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.UNAVAILABLE, "attempts failed.*503"),
        (Fault.TOO_MANY, "attempts failed.*429"),
        (Fault.DROP, "attempts failed"),
        (Fault.SHORT, "a short answer"),
        (Fault.NO_RANGES, "does not support range requests"),
        (Fault.WRONG_RANGE, "Content-Range"),
        (Fault.FORBIDDEN, "credentials"),
    ],
)
@pytest.mark.parametrize("number", [(), (2,)], ids=["from the first on", "later"])
def test_lasting_faults_are_errors(fault: Fault, words: str, number: tuple[int, ...], large: Path) -> None:
    with slow_server(SlowServer(folder=large.parent)) as server:
        server.fault = lambda request: fault if request.number >= sum(number) else None
        with pytest.raises(SourceError, match=rf"large\.h5: .*{words}") as raised:
            h5zarr.convert(f"{server.url}/large.h5{SIGNED}", public_url=PUBLIC)
    assert "\n" not in str(raised.value)
    assert_no_secrets("".join(traceback.format_exception(raised.value)))


def test_change_between_ranges(large: Path) -> None:
    with (
        slow_server(SlowServer(folder=large.parent, fault=failing(Fault.CHANGED, 1))) as server,
        pytest.raises(SourceChangedError, match=r"large\.h5"),
    ):
        h5zarr.convert(f"{server.url}/large.h5")


@pytest.mark.usefixtures("no_waiting")
def test_connection_that_ends_is_no_missing_file(http: Server) -> None:
    http.refusal = refuse_with(DROP)
    with pytest.raises(SourceError, match="disconnected") as raised:
        identify(f"{http.url}/source.h5")
    assert type(raised.value) is SourceError


# S3 --------------------------------------------------------------------------------------

BUCKET = "h5zarr-tests"


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    """Options of an S3 filesystem that a server on this machine plays."""
    with serve_s3(BUCKET) as options:
        yield options


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> Any:
    """Return a filesystem of its own: what it does, the one that is tested does not know."""
    return fsspec.filesystem("s3", skip_instance_cache=True, **s3_options)


@pytest.fixture
def climate(bucket: Any) -> str:
    """Return the URL of a netCDF-4 file in the bucket."""
    bucket.put_file(str(FIXTURES / "climate.nc"), f"{BUCKET}/folder/climate.nc")
    return f"s3://{BUCKET}/folder/climate.nc"


def test_s3(bucket: Any, s3_options: dict[str, Any], climate: str) -> None:
    conversion = h5zarr.convert(climate, storage_options=s3_options)
    references = conversion.references()
    info = bucket.info(climate)
    assert references["h5zarr"]["source"] == {
        "url": climate,
        "byte_length": (FIXTURES / "climate.nc").stat().st_size,
        "modified": info["LastModified"].timestamp(),
        "etag": info["ETag"].strip('"'),
    }
    assert locations(references) == {climate}
    local = h5zarr.convert(FIXTURES / "climate.nc", public_url=climate)
    assert references["refs"] == local.references()["refs"]
    assert_no_secrets(references)
    assert b"SECRET" not in pickle.dumps(conversion)
    assert h5zarr.validate(references, storage_options=s3_options).ok


def test_s3_is_read_by_xarray(s3_options: dict[str, Any], climate: str) -> None:
    references = references_of(climate, storage_options=s3_options)
    options = storage_options(references, "s3", **s3_options)
    with (
        xr.open_dataset("reference://", engine="zarr", storage_options=options) as found,
        xr.open_dataset(FIXTURES / "climate.nc", engine="h5netcdf") as expected,
    ):
        xr.testing.assert_identical(found.load(), expected.load())


def test_s3_object_that_was_replaced(
    bucket: Any, s3_options: dict[str, Any], file_path: Path, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/replaced.h5"
    bucket.put_file(str(file_path), url)
    references = references_of(url, storage_options=s3_options)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["other"] = VALUES
    bucket.put_file(str(tmp_path / "other.h5"), url)
    report = h5zarr.validate(references, storage_options=s3_options)
    assert not report.ok
    assert {mismatch.kind for mismatch in report.mismatches} >= {Kind.SOURCE_CHANGED}


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_s3_object_that_is_replaced_while_scanning(
    change: str, bucket: Any, s3_options: dict[str, Any], file_path: Path
) -> None:
    url = f"s3://{BUCKET}/changing.h5"
    content = file_path.read_bytes()
    bucket.pipe_file(url, content)

    def progress(_done: int, _total: int) -> None:
        if change == "gone":
            bucket.rm_file(url)
        else:
            bucket.pipe_file(url, content[:-1] + b"x")

    expected = "it is gone" if change == "gone" else "its ETag was"
    with pytest.raises(SourceChangedError, match=rf"changing\.h5: changed while it was read: {expected}"):
        h5zarr.scan(url, storage_options=s3_options, progress=progress)


def test_s3_listings_are_not_believed(bucket: Any, s3_options: dict[str, Any], file_path: Path) -> None:
    """What a filesystem has listed before may be of an older object."""
    url = f"s3://{BUCKET}/listed/x.h5"
    bucket.pipe_file(url, b"an older object")
    shared = fsspec.filesystem("s3", **s3_options)
    assert shared.ls(f"{BUCKET}/listed")
    bucket.put_file(str(file_path), url)
    assert shared.info(url)["size"] < file_path.stat().st_size
    references = references_of(url, storage_options=s3_options)
    assert references["h5zarr"]["source"]["byte_length"] == file_path.stat().st_size


def test_s3_failures(bucket: Any, s3_options: dict[str, Any], file_path: Path) -> None:
    bucket.pipe_file(f"{BUCKET}/empty.h5", b"")
    bucket.pipe_file(f"{BUCKET}/folder/text.h5", b"text")
    for name, expected in {
        "none.h5": SourceNotFoundError,
        "empty.h5": NotHDF5Error,
        "folder": NotHDF5Error,
        "folder/text.h5": NotHDF5Error,
    }.items():
        with pytest.raises(SourceError, match=rf"s3://{BUCKET}/{name}: ") as raised:
            h5zarr.convert(f"s3://{BUCKET}/{name}", storage_options=s3_options)
        assert type(raised.value) is expected
        assert_no_secrets("".join(traceback.format_exception(raised.value)))


def test_s3_output(bucket: Any, s3_options: dict[str, Any], file_path: Path) -> None:
    conversion = h5zarr.convert(file_path)
    conversion.write(f"s3://{BUCKET}/refs.json", output_options=s3_options)
    assert bucket.cat_file(f"{BUCKET}/refs.json") == b"".join(conversion.blocks())
    with pytest.raises(OutputError):
        conversion.write("s3://no-such-bucket/refs.json", output_options=s3_options)
