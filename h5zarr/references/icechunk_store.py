"""References in an Icechunk repository: virtual chunks, and native ones where the bytes stand inline.

Each write is one commit: readers of a branch find what it pointed to before, or all of the new. Where
the references come from is in the metadata of the commit, under the key ``h5zarr``.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from h5zarr.errors import OutputError, ReferencesError
from h5zarr.model import JSON, ArrayNode, GroupNode, Hierarchy, SourceIdentity
from h5zarr.output import whole_folder
from h5zarr.prefetch.redact import redact
from h5zarr.references import icechunk_access, keys, provenance
from h5zarr.references.icechunk_access import Out
from h5zarr.references.icechunk_manifests import (
    CAN_LIST,
    Checksum,
    read_manifest,
    set_values,
    write_chunks,
)
from h5zarr.references.icechunk_urls import container_prefixes, location_of, url_of
from h5zarr.references.provenance import NOTHING_KNOWN, Provenance
from h5zarr.references.source_check import known_sources
from h5zarr.references.store_limits import (
    strict_text,
    with_strict_attributes,
    without_metadata_names,
)

MAIN = "main"
"""The branch that every repository has."""

_PROVENANCE_KEY = "h5zarr"


def expressible(hierarchy: Hierarchy) -> Hierarchy:
    """Return a hierarchy without what Icechunk cannot hold; its problems tell of it.

    The result of a result is the same.
    """
    return with_strict_attributes(without_metadata_names(hierarchy), "Icechunk")


def write(
    hierarchy: Hierarchy,
    out: Out,
    *,
    version: str,
    branch: str = MAIN,
    message: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> str:
    """Commit references to an Icechunk repository, in place of all that the branch had.

    A repository is made where there is none; so is the branch. Earlier snapshots stay as they are.
    Containers of virtual chunks are added to the repository's configuration, one for each bucket or
    host, or the common folder of local files.

    Icechunk refuses to read a source that has changed: on S3 where the entity tag is another one, of
    local files where the time of modification is later, in whole seconds; of HTTP only where the server
    heeds ``If-Unmodified-Since``. A local file that was replaced by an older one, it does not notice.

    Parameters
    ----------
    hierarchy
        What to write; `expressible` tells what will be left out.
    out
        Local path, URL ``s3://bucket/prefix``, or an `icechunk.Storage`.
    version
        Version of h5zarr, for the provenance.
    branch
        Branch of the repository.
    message
        Message of the commit; None: tells the source.
    storage_options
        Options of the fsspec filesystem of ``out``.
    source_options
        Options of the fsspec filesystem of the sources: the repository keeps endpoint and region of S3.

    Returns
    -------
    str
        The new snapshot's identifier.

    Raises
    ------
    OutputError
        It cannot be written, or Icechunk cannot read from a source or refuses an array.
    """
    hierarchy = expressible(hierarchy)
    name = icechunk_access.name_of(out)
    locations = {url: location_of(url) for array in hierarchy.arrays() for url in array.manifest.locations}
    icechunk_access.check_locations(locations.values())
    prefixes = container_prefixes(locations.values())
    containers = icechunk_access.containers(prefixes, dict(source_options or {}))
    writer = _Writer(name=name, locations=locations, checksums=_checksums(hierarchy, locations))
    metadata = {_PROVENANCE_KEY: provenance.to_json(hierarchy, version)}
    with (
        _icechunk_errors(name, OutputError),
        _repository(out, containers, dict(storage_options or {}), name) as repository,
    ):
        is_new = branch not in repository.list_branches()
        session = repository.writable_session(MAIN if is_new else branch)
        writer.write(hierarchy, session.store)
        text = message or f"h5zarr {version}: references to {_source_words(hierarchy)}"
        if not is_new:
            return session.commit(text, metadata)
        snapshot: str = session.flush(text, metadata=metadata)
        repository.create_branch(branch, snapshot)
        return snapshot


def _source_words(hierarchy: Hierarchy) -> str:
    if hierarchy.source is not None:
        return redact(hierarchy.source.url)
    return f"{len(hierarchy.parts)} files" if hierarchy.parts else "files that nobody told of"


# Repositories ----------------------------------------------------------------------------


@contextlib.contextmanager
def _repository(
    out: Out,
    containers: Sequence[icechunk.VirtualChunkContainer],
    storage_options: Mapping[str, Any],
    name: str,
) -> Iterator[icechunk.Repository]:
    """Open a repository for writing, or make one; a new local one appears with its first commit."""
    folder = icechunk_access.local_folder(out)
    if folder is not None and not _has_files(Path(folder)):
        with whole_folder(folder, last="repo") as new:
            storage = icechunk.local_filesystem_storage(str(new))
            yield icechunk.Repository.create(storage, _with_containers(None, containers, name))
        return
    storage = icechunk_access.open_storage(out, storage_options)
    if icechunk.Repository.exists(storage):
        yield _open_with_containers(storage, containers, name)
    else:
        yield icechunk.Repository.create(storage, _with_containers(None, containers, name))


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _open_with_containers(
    storage: icechunk.Storage, containers: Sequence[icechunk.VirtualChunkContainer], name: str
) -> icechunk.Repository:
    saved = icechunk.Repository.fetch_config(storage)
    known = {} if saved is None else saved.virtual_chunk_containers or {}
    new = {container.url_prefix: container for container in containers}
    if all(known.get(prefix) == container for prefix, container in new.items()):
        return icechunk.Repository.open(storage)
    repository = icechunk.Repository.open(storage, _with_containers(saved, containers, name))
    repository.save_config()
    return repository


def _with_containers(
    saved: icechunk.RepositoryConfig | None,
    containers: Sequence[icechunk.VirtualChunkContainer],
    name: str,
) -> icechunk.RepositoryConfig:
    """Return the configuration of a repository with containers besides those that it has."""
    config = saved or icechunk.RepositoryConfig.default()
    known = dict(config.virtual_chunk_containers or {})
    for container in containers:
        if known.get(container.url_prefix, container) != container:
            raise OutputError(
                f"{name}: has references below {container.url_prefix} already, at another endpoint or"
                " region; write into another repository"
            )
        config.set_virtual_chunk_container(container)
    return config


@contextlib.contextmanager
def _icechunk_errors(name: str, kind: type[OutputError | ReferencesError]) -> Iterator[None]:
    """Raise what Icechunk refuses as one error that names the repository."""
    try:
        yield
    except (icechunk.IcechunkError, ValueError) as error:
        raise kind(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the first line of an error of Icechunk, which tells what; the others tell where."""
    lines = (line.strip(" |×x") for line in str(error).splitlines())
    return redact(next(filter(None, lines), type(error).__name__))


# Checksums -------------------------------------------------------------------------------


def _checksums(hierarchy: Hierarchy, urls: Mapping[str, str]) -> dict[str, Checksum]:
    """Return what tells a changed source, by URL."""
    known = known_sources(hierarchy)
    return {url: _checksum(location, known.get(url)) for url, location in urls.items()}


def _checksum(location: str, source: SourceIdentity | None) -> Checksum:
    scheme = location.partition("://")[0]
    if source is None or source.is_local_copy:
        return _whole_second(_modified(location)) if scheme == "file" else None
    if scheme == "file":
        return _whole_second(source.modified)
    # Icechunk sends the tag without quotes, with which it matches nothing on most HTTP servers.
    return source.etag if scheme == "s3" else _whole_second(source.modified)


def _modified(location: str) -> float | None:
    """Return the time of modification of a local file of which the references do not tell."""
    try:
        return Path(url_of(location).removeprefix("file://")).stat().st_mtime
    except OSError:
        return None


def _whole_second(modified: float | None) -> datetime | None:
    """Return a time rounded up: Icechunk compares whole seconds."""
    return None if modified is None else datetime.fromtimestamp(math.ceil(modified), UTC)


# Writing ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Writer:
    """Writes a hierarchy into the store of a session."""

    name: str
    """The repository, for messages."""
    locations: Mapping[str, str]
    """Icechunk's form of each URL."""
    checksums: Mapping[str, Checksum]
    """What tells that the file at a URL has changed."""

    def write(self, hierarchy: Hierarchy, store: icechunk.IcechunkStore) -> None:
        """Write a hierarchy in place of all that the session has."""
        sync(store.clear())
        for node in hierarchy.nodes.values():
            with self._refusals(node.path, "its metadata"):
                key = keys.store_key(node.path, keys.METADATA_KEY)
                set_values(store, {key: strict_text(node.metadata)})
            if isinstance(node, ArrayNode):
                with self._refusals(node.path, "its chunks"):
                    write_chunks(store, node, self.locations, self.checksums)

    @contextlib.contextmanager
    def _refusals(self, path: str, what: str) -> Iterator[None]:
        try:
            yield
        except (icechunk.IcechunkError, ValueError) as error:
            raise OutputError(
                f"{self.name}: {path}: Icechunk refuses {what}: {_reason(error)}; leave it out with --exclude"
            ) from error


# Reading ---------------------------------------------------------------------------------


def open_store(
    url: Out,
    *,
    version: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> icechunk.IcechunkStore:
    """Open a snapshot of a repository as a read-only Zarr store, with access to all its virtual chunks.

    References are followed wherever they point, local files included, as those in JSON are: open only
    repositories that are trusted.

    Parameters
    ----------
    url
        Local path, URL ``s3://bucket/prefix``, or an `icechunk.Storage`.
    version
        Branch or tag whose snapshot is opened, or the identifier of a snapshot; None: the branch ``main``.
    storage_options
        Options of the fsspec filesystem of the repository.
    source_options
        Options of the fsspec filesystem of the files that the references point into; None: as
        ``storage_options``.

    Raises
    ------
    ReferencesError
        There is no such repository, branch or snapshot, or it cannot be read.
    """
    options = dict(storage_options or {})
    access = options if source_options is None else dict(source_options)
    with _icechunk_errors(icechunk_access.name_of(url), ReferencesError):
        _, session = _open(url, version, options, access)
        return session.store


def read_provenance(
    url: Out,
    *,
    version: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Provenance:
    """Return where the references of a snapshot come from; that nothing is known where others made it.

    Parameters
    ----------
    url, version, storage_options
        As of `open_store`.

    Raises
    ------
    ReferencesError
        As of `open_store`.
    """
    options = dict(storage_options or {})
    with _icechunk_errors(icechunk_access.name_of(url), ReferencesError):
        return _provenance(*_open(url, version, options, options))


def load(
    url: Out,
    *,
    version: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Hierarchy:
    """Return the hierarchy of references of a snapshot; native chunks become inline ones.

    Parameters
    ----------
    url, version, storage_options
        As of `open_store`.

    Raises
    ------
    ReferencesError
        As of `open_store`; or the version of Icechunk has no way to list references.
    """
    name = icechunk_access.name_of(url)
    if not CAN_LIST:
        raise ReferencesError(
            f"{name}: Icechunk {icechunk.__version__} cannot list the references of a repository; use"
            " Icechunk 2, which needs Python 3.12"
        )
    options = dict(storage_options or {})
    with _icechunk_errors(name, ReferencesError):
        repository, session = _open(url, version, options, options)
        origin = _provenance(repository, session)
        nodes = sync(_nodes(session.store))
    return origin.hierarchy(nodes)


def _open(
    url: Out,
    version: str | None,
    storage_options: Mapping[str, Any],
    source_options: Mapping[str, Any],
) -> tuple[icechunk.Repository, icechunk.Session]:
    folder = icechunk_access.local_folder(url)
    if folder is not None and not Path(folder).is_dir():  # Icechunk 1 would make one
        raise ReferencesError(f"{icechunk_access.name_of(url)}: no such folder; check the path")
    storage = icechunk_access.open_storage(url, storage_options)
    config = icechunk.Repository.fetch_config(storage)
    allowed = icechunk_access.credentials(config, source_options)
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)
    return repository, _session(repository, version or MAIN)


def _session(repository: icechunk.Repository, version: str) -> icechunk.Session:
    branches = repository.list_branches()
    if version in branches:
        return repository.readonly_session(version)
    if version in repository.list_tags():
        return repository.readonly_session(tag=version)
    try:
        return repository.readonly_session(snapshot_id=version)
    # Icechunk has one class for a snapshot that is not there and one that cannot be read.
    except (icechunk.IcechunkError, ValueError) as error:
        raise ValueError(
            f"no branch, tag or snapshot {version} can be opened ({_reason(error)}); its branches are"
            f" {', '.join(sorted(branches))}"
        ) from error


def _provenance(repository: icechunk.Repository, session: icechunk.Session) -> Provenance:
    info = next(iter(repository.ancestry(snapshot_id=session.snapshot_id)))
    told = info.metadata.get(_PROVENANCE_KEY)
    return NOTHING_KNOWN if told is None else provenance.from_json(told)


async def _nodes(store: icechunk.IcechunkStore) -> dict[str, GroupNode | ArrayNode]:
    """Return all nodes by path, parents before children."""
    nodes: dict[str, GroupNode | ArrayNode] = {}
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        metadata = await _metadata(store, path)
        if metadata["node_type"] == "array":
            manifest = await read_manifest(store, path, metadata)
            nodes[path] = ArrayNode(path=path, metadata=metadata, manifest=manifest)
            continue
        nodes[path] = GroupNode(path=path, metadata=metadata)
        below = [name async for name in store.list_dir(path.strip("/")) if name != keys.METADATA_KEY]
        waiting += [f"{path.rstrip('/')}/{name}" for name in sorted(below, reverse=True)]
    return nodes


async def _metadata(store: icechunk.IcechunkStore, path: str) -> dict[str, JSON]:
    content = await store.get(keys.store_key(path, keys.METADATA_KEY), default_buffer_prototype())
    if content is None:
        raise ReferencesError(f"{path}: the repository has no Zarr group there")
    metadata: dict[str, JSON] = json.loads(content.to_bytes())
    return metadata
