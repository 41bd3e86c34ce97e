"""Ways into Icechunk: its storage, the containers of virtual chunks, and credentials for both.

Options are fsspec's: ``key``, ``secret``, ``token``, ``anon``, ``endpoint_url``, ``requester_pays`` and
``client_kwargs`` of s3fs. Without credentials among them, S3's client looks for them in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import icechunk
from fsspec.core import split_protocol
from fsspec.utils import stringify_path

from h5zarr.errors import OutputError
from h5zarr.prefetch.redact import redact
from h5zarr.protocols import LOCAL

Out = str | os.PathLike[str] | icechunk.Storage
"""A repository: a local path, a URL ``s3://bucket/prefix``, or any storage of Icechunk itself."""

_WEB = ("http", "https")
_IS_FIRST_VERSION = icechunk.__version__.startswith("1.")


def name_of(out: Out) -> str:
    """Return what messages call a repository."""
    return "the Icechunk storage" if isinstance(out, icechunk.Storage) else redact(stringify_path(out))


def local_folder(out: Out) -> str | None:
    """Return the path of a repository on this machine; None where it has none."""
    if isinstance(out, icechunk.Storage):
        return None
    protocol, path = split_protocol(stringify_path(out))
    return path if protocol in LOCAL else None


def open_storage(out: Out, storage_options: Mapping[str, Any]) -> icechunk.Storage:
    """Return the storage of a repository.

    Raises
    ------
    ValueError
        Its URL is of a kind that is not known here.
    """
    if isinstance(out, icechunk.Storage):
        return out
    folder = local_folder(out)
    if folder is not None:
        return icechunk.local_filesystem_storage(folder)
    protocol, path = split_protocol(stringify_path(out))
    if protocol not in ("s3", "s3a"):
        raise ValueError(
            f"no Icechunk repository can be at a URL {protocol}:// here; give a local path, a URL s3://,"
            " or in Python an icechunk.Storage"
        )
    bucket, _, prefix = path.partition("/")
    keys = _credential_keys(storage_options)
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix.rstrip("/"),
        from_env=None if keys else True,
        **_s3(storage_options),
        **keys,
    )


# Containers ------------------------------------------------------------------------------


def check_locations(locations: Iterable[str]) -> None:
    """Refuse locations that this version of Icechunk reads as others.

    Raises
    ------
    OutputError
        There is one.
    """
    if not _IS_FIRST_VERSION:
        return
    for location in locations:
        scheme, _, path = location.partition("://")
        if "//" in path:
            found = "two slashes in a row"
        elif scheme in _WEB and urlsplit(location).port is not None:
            found = "a port"
        else:
            continue
        raise OutputError(
            f"{location}: has {found}, which Icechunk 1 leaves out; use Icechunk 2, which needs Python 3.12"
        )


def containers(
    prefixes: Iterable[str], source_options: Mapping[str, Any]
) -> list[icechunk.VirtualChunkContainer]:
    """Return containers of virtual chunks.

    Parameters
    ----------
    prefixes
        As of `h5zarr.references.icechunk_urls.container_prefixes`.
    source_options
        Options of the fsspec filesystem below them: the endpoint and region of S3 are kept in the
        repository, credentials are not.
    """
    return [
        icechunk.VirtualChunkContainer(prefix, _object_store(prefix, source_options)) for prefix in prefixes
    ]


def _object_store(prefix: str, source_options: Mapping[str, Any]) -> Any:
    scheme, _, path = prefix.partition("://")
    if scheme == "file":
        return icechunk.local_filesystem_store(path)
    if scheme == "s3":
        options = _s3(source_options)
        return icechunk.s3_store(**{**options, "anonymous": bool(options["anonymous"])})
    return icechunk.http_store()


def credentials(
    config: icechunk.RepositoryConfig | None, source_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return credentials for all containers of a repository, by prefix.

    Parameters
    ----------
    config
        What the repository has saved.
    source_options
        Options of the fsspec filesystem of the files that references point into.
    """
    saved = {} if config is None else config.virtual_chunk_containers or {}
    return {prefix: _credential(prefix, container, source_options) for prefix, container in saved.items()}


def _credential(
    prefix: str, container: icechunk.VirtualChunkContainer, source_options: Mapping[str, Any]
) -> Any:
    scheme = prefix.partition("://")[0]
    if scheme == "s3":
        return icechunk.Credentials.S3(_s3_credential(container.store, source_options))
    if _IS_FIRST_VERSION:
        return None
    if scheme == "file":
        return icechunk.Credentials.LocalFileSystemAccess()
    return icechunk.Credentials.HttpAccess() if scheme in _WEB else None


def _s3_credential(store: Any, source_options: Mapping[str, Any]) -> Any:
    keys = _credential_keys(source_options)
    if keys:
        return icechunk.s3_credentials(**keys)
    if source_options.get("anon") or _is_anonymous(store):
        return icechunk.s3_credentials(anonymous=True)
    return icechunk.s3_credentials(from_env=True)


def _is_anonymous(store: Any) -> bool:
    kinds: Any = icechunk.ObjectStoreConfig
    match store:
        case kinds.S3(options) | kinds.S3Compatible(options):
            return bool(options.anonymous)
    return False


# Options of S3 ---------------------------------------------------------------------------


def _s3(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Icechunk needs to find a bucket."""
    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    return {
        "endpoint_url": endpoint,
        "region": client.get("region_name"),
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "anonymous": True if options.get("anon") else None,
        "force_path_style": endpoint is not None,
        "requester_pays": bool(options.get("requester_pays")),
    }


def _credential_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return Icechunk's names for the credentials among s3fs's options; {} without any."""
    names = {"key": "access_key_id", "secret": "secret_access_key", "token": "session_token"}
    return {name: options[key] for key, name in names.items() if options.get(key)}
