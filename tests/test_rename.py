"""URLs of references are renamed by prefix, everywhere and only where it is meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import h5py
import numpy as np
import pytest
import zarr
from conftest import CODEC_WARNING, FIXTURES, open_zarr
from fsspec.implementations.memory import MemoryFileSystem
from test_metadata import same
from test_parquet import bytes_array, hierarchy_of

from h5zarr.converter import convert
from h5zarr.errors import OutputError, ReferencesError
from h5zarr.model import Hierarchy, Part, Selection, SourceIdentity
from h5zarr.references import kerchunk_json
from h5zarr.renamer import rename
from h5zarr.url_renames import with_new_urls


def hierarchy_at(*urls: str) -> Hierarchy:
    """Return a hierarchy with a reference to each URL."""
    return hierarchy_of(
        bytes_array("/x", (len(urls),), {at: (url, at, 5) for at, url in enumerate(urls)}),
        bytes_array("/inline", (1,), {0: b"s3://a/b"}),
    )


def urls_of(hierarchy: Hierarchy) -> list[str]:
    return [url for array in hierarchy.arrays() for url in array.manifest.locations]


RENAMES: list[tuple[str, Any, str]] = [
    ("s3://a/b/x.h5", {"s3://a/b": "gs://c"}, "gs://c/x.h5"),
    ("s3://a/b/x.h5", {"s3://a/b/": "gs://c/"}, "gs://c/x.h5"),
    ("s3://a/b/x.h5", {"s3://a/b/": "gs://c"}, "gs://c/x.h5"),
    ("s3://a/b/x.h5", {"s3://a/b": "gs://c/"}, "gs://c/x.h5"),
    ("s3://a/b/x.h5", {"s3://a/b/x.h5": "gs://c/y.h5"}, "gs://c/y.h5"),
    ("s3://a/b/x.h5", {"s3://": "gs://"}, "gs://a/b/x.h5"),
    ("s3://a/b/x.h5", {"s3://a": "s3://a/b", "s3://a/b": "s3://c"}, "s3://c/x.h5"),
    ("s3://a/b/x.h5", [("s3://a/b", "s3://c"), ("s3://a", "s3://d")], "s3://c/x.h5"),
    ("s3://a/b/x.h5", {"s3://a/b": "s3://a/b/archive"}, "s3://a/b/archive/x.h5"),
    ("s3://a/b c#%20.h5", {"s3://a": "https://h"}, "https://h/b c#%20.h5"),
    ("file:///old/x.h5", {"/old": "/new"}, "file:///new/x.h5"),
    ("file:///old/x.h5", {"/old/": "s3://new"}, "s3://new/x.h5"),
    ("file:///old/x.h5", {"file:///old": "file:///new"}, "file:///new/x.h5"),
    ("file:///old/x.h5", {"file:///": "s3://b/"}, "s3://b/old/x.h5"),
    ("file:///old/x.h5", {"/": "s3://b"}, "s3://b/old/x.h5"),
    ("/old/x.h5", {"/old": "/new"}, "/new/x.h5"),
    ("/old/x.h5", {"/old": "file:///new"}, "file:///new/x.h5"),
]


@pytest.mark.parametrize(("url", "renames", "expected"), RENAMES)
def test_prefixes(url: str, renames: Any, expected: str) -> None:
    hierarchy = hierarchy_at(url)
    renamed = with_new_urls(hierarchy, renames)
    assert urls_of(renamed) == [expected]
    assert urls_of(hierarchy) == [url]
    assert same(renamed)["metadata"] == same(hierarchy)["metadata"]


def test_a_prefix_ends_where_a_part_of_the_path_does() -> None:
    urls = ("s3://a/b/x.h5", "s3://a/bc/x.h5", "s3://a/b", "s3://a/b.h5", "s3://z/s3://a/b/x.h5")
    renamed = with_new_urls(hierarchy_at(*urls), {"s3://a/b": "gs://n"})
    assert urls_of(renamed) == ["gs://n/x.h5", "s3://a/bc/x.h5", "gs://n", "s3://a/b.h5", urls[4]]
    renamed = with_new_urls(hierarchy_at(*urls), {"s3://a/b/": "gs://n/"})
    assert urls_of(renamed) == ["gs://n/x.h5", *urls[1:]]


def test_nothing_to_rename() -> None:
    hierarchy = hierarchy_at("s3://a/b/x.h5")
    assert same(with_new_urls(hierarchy, {})) == same(hierarchy)


def test_names_may_be_exchanged() -> None:
    renames = {"s3://a": "s3://b", "s3://b": "s3://a"}
    assert urls_of(with_new_urls(hierarchy_at("s3://a/x", "s3://b/x"), renames)) == ["s3://b/x", "s3://a/x"]


REFUSED: dict[str, tuple[Any, str]] = {
    "no URL has it": ({"s3://c": "gs://c"}, "no URL .* begins with s3://c; they are s3://a/b/x.h5, s3://a/"),
    "one of two": ({"s3://a": "gs://c", "/local": "/new"}, "begins with /local"),
    "not up to the end of a part": ({"s3://a/b/x": "gs://c"}, "begins with s3://a/b/x;"),
    "empty": ({"": "gs://c"}, "is empty"),
    "two new names": ([("s3://a", "gs://c"), ("s3://a", "gs://d")], "two new names"),
    "one name for two": ({"s3://a/b": "s3://a/c"}, "would both become s3://a/c/x.h5"),
}


@pytest.mark.parametrize(("renames", "words"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused(renames: Any, words: str) -> None:
    with pytest.raises(ReferencesError, match=words):
        with_new_urls(hierarchy_at("s3://a/b/x.h5", "s3://a/c/x.h5"), renames)


def test_a_prefix_that_a_longer_one_hides_is_no_mistake() -> None:
    renames = {"s3://a": "s3://c", "s3://a/b": "s3://d"}
    assert urls_of(with_new_urls(hierarchy_at("s3://a/b/x.h5"), renames)) == ["s3://d/x.h5"]


def test_credentials_are_not_shown() -> None:
    with pytest.raises(ReferencesError) as raised:
        with_new_urls(hierarchy_at("https://user:secret@h/x.h5?token=secret"), {"s3://a": "s3://b"})
    assert "secret" not in str(raised.value)


def test_provenance_is_renamed() -> None:
    here = SourceIdentity(url="s3://a/x.h5", byte_length=5, modified=1.0, etag="e")
    there = SourceIdentity(url="s3://z/x.h5", byte_length=6, modified=2.0, etag="f")
    place: dict[str, Any] = {"selection": Selection(), "start": {"t": 0}, "extent": {"t": 1}}
    parts = tuple(Part(source=source, **place) for source in (here, there))
    hierarchy = Hierarchy(
        nodes=hierarchy_of().nodes, source=here, selection=Selection(), problems=(), parts=parts
    )
    renamed = with_new_urls(hierarchy, {"s3://a": "gs://b"})
    moved = SourceIdentity(url="gs://b/x.h5", byte_length=5)
    assert renamed.source == moved
    assert [part.source for part in renamed.parts] == [moved, there]


@pytest.mark.filterwarnings(CODEC_WARNING)
def test_moved_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    values = np.arange(2000).reshape(40, 50)
    with h5py.File(tmp_path / "old/x.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(10, 10), compression="gzip")
    hierarchy = convert(tmp_path / "old/x.h5").hierarchy
    shutil.move(tmp_path / "old", tmp_path / "new")
    renamed = with_new_urls(hierarchy, {str(tmp_path / "old"): str(tmp_path / "new")})
    references = kerchunk_json.references(renamed, version="0")
    np.testing.assert_array_equal(open_zarr(references)["x"][...], values)


class Guarded(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A filesystem that gives files to those who have a token."""

    protocol = "guarded"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self, token: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.token = token

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("guarded://", "memory://")))

    def _open(self, *args: Any, **options: Any) -> Any:
        self._ask()
        return super()._open(*args, **options)

    def cat_file(self, *args: Any, **options: Any) -> Any:
        self._ask()
        return super().cat_file(*args, **options)

    def _ask(self) -> None:
        if self.token is None:
            raise PermissionError("no token")


@pytest.mark.filterwarnings(CODEC_WARNING)
def test_moved_data_are_copied_with_the_options_of_their_filesystem(tmp_path: Path) -> None:
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(5000)
    for folder in ("old", "new"):
        Guarded(token="t").pipe_file(f"/{folder}/x.h5", (tmp_path / "x.h5").read_bytes())
    options = {"token": "t"}
    convert("guarded://old/x.h5", tmp_path / "x.json", storage_options=options)
    renames = {"guarded://old": "guarded://new"}
    rename(tmp_path / "x.json", tmp_path / "x.zarr", renames=renames, storage_options=options)
    root = zarr.open_group(tmp_path / "x.zarr", mode="r")
    np.testing.assert_array_equal(root["x"][...], np.arange(5000))


@pytest.mark.parametrize("suffix", ["json", "parq", "icechunk", "zarr"])
def test_credentials_of_other_tools_are_not_written_again(suffix: str, tmp_path: Path) -> None:
    """kerchunk writes URLs down as they are."""
    document = convert(FIXTURES / "climate.nc", inline_threshold=0).references()
    public = document["h5zarr"]["source"]["url"]
    secret = "https://data.example.org/climate.nc?X-Amz-Signature=topsecret"
    text = json.dumps(document).replace(public, secret)
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(OutputError, match=r"climate\.nc by a URL that holds credentials.*rename") as raised:
        convert(tmp_path / "in.json", tmp_path / f"out.{suffix}")
    assert "topsecret" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
    renamed = rename(tmp_path / "in.json", tmp_path / "out.json", renames={secret: public})
    assert renamed.references() == json.loads((tmp_path / "out.json").read_text())
    assert "topsecret" not in (tmp_path / "out.json").read_text()
