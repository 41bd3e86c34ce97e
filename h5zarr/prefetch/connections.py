"""Options with which filesystems allow as many connections as the crawler has use for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from h5zarr.prefetch.transports import ASYNC_CONNECTIONS


def connection_options(protocol: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filesystem's options with its limit of connections raised, where the caller set none.

    aiohttp allows 100 connections, botocore 10.

    Parameters
    ----------
    protocol
        The filesystem's protocol.
    storage_options
        The caller's options.
    """
    options = dict(storage_options)
    if protocol in ("http", "https") and "connector" not in options.get("client_kwargs", {}):
        options.setdefault("get_client", open_client)
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {
            "max_pool_connections": ASYNC_CONNECTIONS,
            **options.get("config_kwargs", {}),
        }
    return options


async def open_client(**options: Any) -> Any:
    """Return aiohttp's session, with more connections than its default."""
    # aiohttp need not be installed for other filesystems.
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=ASYNC_CONNECTIONS), **options)
