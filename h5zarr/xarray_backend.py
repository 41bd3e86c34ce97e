"""The xarray engine ``h5zarr``: HDF5 and netCDF-4 files, and references to them, read through Zarr.

xarray's own Zarr backend decodes. xarray imports this module whenever it opens anything, so that zarr and
h5py are imported only when the engine is used.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import posixpath
import threading
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint, ZarrStore
from xarray.backends.zarr import ZarrBackendEntrypoint

from h5zarr.errors import GroupNotFoundError, Problem

if TYPE_CHECKING:
    from h5zarr.reading.store_opening import OpenedStore

_DECODING = (
    "mask_and_scale",
    "decode_times",
    "concat_characters",
    "decode_coords",
    "drop_variables",
    "use_cftime",
    "decode_timedelta",
)
_OPENING = ("storage_options", "remote_options", "remote_protocol", "follow_external", "check_source")

_MOST_PROBLEMS_TOLD = 10
_MOST_CHUNKS_KEPT = 1000
"""Coordinates of more chunks than that take their time anyway, and those chunks are fetched together."""
_USER_LEVEL = 4
"""From a warning to the user's call: this module, the engine's method, and xarray's function are between."""
_REFERENCES_BEGIN = b'{"version":1,"refs":{\n'
_PROVENANCE_BEGINS = b'\n},\n"h5zarr":{"version":'


class ProblemWarning(UserWarning):
    """Something of the HDF5 file is not in the dataset."""


class H5zarrBackend(BackendEntrypoint):
    """Opens HDF5 and netCDF-4 files, and references to them, through Zarr.

    What is opened may be the path or fsspec URL of an HDF5 file, which is scanned; or references of h5zarr,
    kerchunk or VirtualiZarr, of Zarr v3 or v2: JSON, Parquet, or a dict. The content tells which.

    Besides xarray's own parameters there are:

    group
        Group to open.
    storage_options
        Options of the fsspec filesystem of what is opened. Of references, also of the files that they
        point into. Local files take none.
    remote_options
        Options of the fsspec filesystem of the files that references point into, where those of the
        references themselves are others.
    remote_protocol
        Protocol of URLs in references that have none. Without it they are local paths, relative ones
        from the current folder on.
    follow_external
        Whether a scan opens files outside of the source's own folder, which the source names.
    check_source
        Whether it is an error if a file is not the one any more that references were made of. Of remote
        files the answers to each read tell that, by ETag, or by time and length; where a filesystem passes on
        no more than bytes (any but S3 and HTTP), the file is looked at after each read.
    """

    description = "Open HDF5 and netCDF-4 files, and references to them, through Zarr with h5zarr"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = (
        "filename_or_obj",
        "group",
        *_DECODING,
        *_OPENING,
    )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether these are references that h5zarr wrote, on this machine."""
        if isinstance(filename_or_obj, Mapping):
            return {"refs", "h5zarr"} <= filename_or_obj.keys()
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        path = Path(filename_or_obj).expanduser()
        try:
            return _is_our_folder(path) if path.is_dir() else _is_our_json(path)
        except (OSError, ValueError):
            return False

    def open_dataset(self, filename_or_obj: Any, *, group: str | None = None, **options: Any) -> xr.Dataset:
        """Open one group; called by `xarray.open_dataset`.

        Raises
        ------
        SourceError
            It is neither an HDF5 file nor references, or cannot be read; the subclass tells why.
        ReferencesError
            It is references that cannot be opened.
        GroupNotFoundError
            There is no such group.
        """
        opened, path, decoding = _open(filename_or_obj, group, options)
        with _reading_metadata():
            store = _Store.open_group(
                opened.store, group=path, consolidated=opened.consolidated, zarr_format=opened.zarr_format
            )
        _warn_of_problems(_problems_in_group(opened, path), decoding)
        _keep_coordinates(opened, [store], decoding)
        return _decoded(store, decoding)

    def open_datatree(self, filename_or_obj: Any, *, group: str | None = None, **options: Any) -> xr.DataTree:
        """Open a group and all below it; called by `xarray.open_datatree`.

        Raises
        ------
        SourceError, ReferencesError, GroupNotFoundError
            As of `open_dataset`.
        """
        opened, path, decoding = _open(filename_or_obj, group, options)
        _warn_of_problems(_problems_below(opened, path), decoding)
        return xr.DataTree.from_dict(_datasets(opened, path, decoding))

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, group: str | None = None, **options: Any
    ) -> dict[str, xr.Dataset]:
        """Open a group and all below it; called by `xarray.open_groups`.

        Raises
        ------
        SourceError, ReferencesError, GroupNotFoundError
            As of `open_dataset`.
        """
        opened, path, decoding = _open(filename_or_obj, group, options)
        _warn_of_problems(_problems_below(opened, path), decoding)
        datasets = _datasets(opened, path, decoding)
        if not group:
            return datasets
        return {posixpath.relpath(name, "/"): dataset for name, dataset in datasets.items()}


# References of h5zarr --------------------------------------------------------------------


def _is_our_json(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(len(_REFERENCES_BEGIN)) != _REFERENCES_BEGIN:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(_PROVENANCE_BEGINS) >= 0


def _is_our_folder(path: Path) -> bool:
    document = json.loads((path / ".zmetadata").read_bytes())
    return isinstance(document, dict) and {"record_size", "h5zarr"} <= document.keys()


# Opening ---------------------------------------------------------------------------------


class _Store(ZarrStore):
    """xarray's view of a Zarr group, whose chunks h5zarr reads."""

    def open_store_variable(self, name: Any) -> Any:
        """Return an array as a variable that is read when its values are asked for."""
        from h5zarr.reading.chunk_pipeline import use_reference_pipeline

        array: Any = self.members[name]
        use_reference_pipeline(array)
        return super().open_store_variable(name)  # type: ignore[no-untyped-call]

    def index_keys(self, dropped: Container[str]) -> Iterator[str]:
        """Yield the keys of all chunks of which xarray makes indexes."""
        members: Mapping[str, Any] = self.members
        for name, array in members.items():
            if name not in dropped and _is_index(name, array):
                for cell in range(array.cdata_shape[0]):
                    yield f"{array.path}/{array.metadata.encode_chunk_key((cell,))}"


def _is_index(name: str, array: Any) -> bool:
    """Return whether an array has the values of the dimension of its name, in not too many chunks."""
    if getattr(array, "ndim", None) != 1 or array.cdata_shape[0] > _MOST_CHUNKS_KEPT:
        return False
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return list(named) == [name]


def _open(source: Any, group: str | None, options: dict[str, Any]) -> tuple[OpenedStore, str, dict[str, Any]]:
    """Return the store, the absolute path of the group in it, and how xarray decodes."""
    from h5zarr.reading.store_opening import StoreOptions, open_store

    opening = {name: options.pop(name) for name in _OPENING if name in options}
    opened = open_store(source, StoreOptions(**opening))
    path = "/" + (group or "").strip("/")
    if not opened.has_group(path):
        name = "the references" if isinstance(source, Mapping) else os.fspath(source)
        raise GroupNotFoundError(f"{name}: has no group {path}; h5zarr inspect lists what it has")
    return opened, path, options


def _decoded(store: ZarrStore, decoding: Mapping[str, Any]) -> xr.Dataset:
    return ZarrBackendEntrypoint().open_dataset(store.zarr_group.path, store=store, **decoding)


def _datasets(opened: OpenedStore, path: str, decoding: Mapping[str, Any]) -> dict[str, xr.Dataset]:
    """Return a group and all below it, by their paths from this group on."""
    with _reading_metadata():
        stores = _Store.open_store(
            opened.store, group=path, consolidated=opened.consolidated, zarr_format=opened.zarr_format
        )
    _keep_coordinates(opened, stores.values(), decoding)
    below = path.rstrip("/")
    return {name[len(below) :] or "/": _decoded(store, decoding) for name, store in stores.items()}


def _keep_coordinates(opened: OpenedStore, stores: Iterable[_Store], decoding: Mapping[str, Any]) -> None:
    """Read what xarray reads to make indexes, which it does one by one."""
    keys = [key for store in stores for key in store.index_keys(_dropped(decoding))]
    opened.store.keep(keys)


def _dropped(decoding: Mapping[str, Any]) -> set[str]:
    """Return the names of variables that the user does not want."""
    dropped = decoding.get("drop_variables") or ()
    return {dropped} if isinstance(dropped, str) else set(dropped)


@contextlib.contextmanager
def _reading_metadata() -> Iterator[None]:
    """Let zarr read metadata of all that can be read."""
    from h5zarr.rectilinear_setting import reading_all_grids

    with reading_all_grids(), _without_codec_warnings():
        yield


# Warnings --------------------------------------------------------------------------------

_filtering = threading.Lock()


@contextlib.contextmanager
def _without_codec_warnings() -> Iterator[None]:
    """Keep zarr-python 3.1 from warning, of every codec of numcodecs, that other readers may lack it.

    Python has one list of filters for all threads: it is changed by one of them at a time, only where it
    has to be, and for as long as it takes to read metadata from memory.
    """
    if not _codecs_warn():
        yield
        return
    with _filtering, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
        yield


@functools.cache
def _codecs_warn() -> bool:
    from zarr.codecs.numcodecs import Zlib

    with _filtering, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Zlib()
    return bool(told)


def _problems_in_group(opened: OpenedStore, path: str) -> list[Problem]:
    """Return the problems of a group itself and of the datasets in it."""
    group = opened.selection.hdf5_path(path)
    return [
        problem for problem in opened.problems if group in (problem.path, posixpath.dirname(problem.path))
    ]


def _problems_below(opened: OpenedStore, path: str) -> list[Problem]:
    """Return the problems of a group and of all below it."""
    group = opened.selection.hdf5_path(path)
    folder = group.rstrip("/") + "/"
    return [
        problem for problem in opened.problems if problem.path == group or problem.path.startswith(folder)
    ]


def _warn_of_problems(problems: Iterable[Problem], decoding: Mapping[str, Any]) -> None:
    names = _dropped(decoding)
    told = [str(problem) for problem in problems if posixpath.basename(problem.path) not in names]
    if not told:
        return
    more = len(told) - _MOST_PROBLEMS_TOLD
    lines = ["not everything of the file is in the dataset:", *told[:_MOST_PROBLEMS_TOLD]]
    if more > 0:
        lines.append(f"and {more} more, which h5zarr inspect lists")
    warnings.warn("\n".join(lines), ProblemWarning, stacklevel=_USER_LEVEL)
