"""A loopback S3 server with one empty bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import fsspec
from moto.backends import get_backend
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def serve_s3(bucket: str, *, region: str = "us-east-1") -> Iterator[dict[str, Any]]:
    """Run a server until the context ends, and yield the options of filesystems that ask it."""
    for account in get_backend("s3").values():  # all servers of a process have the same buckets
        account["aws"].reset()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = {"endpoint_url": f"http://{host}:{port}", "region_name": region}
    options = {"key": "AKID", "secret": "SECRET", "client_kwargs": client}
    try:
        fsspec.filesystem("s3", **options).call_s3("create_bucket", Bucket=bucket, **_location(region))
        yield options
    finally:
        server.stop()


def _location(region: str) -> dict[str, Any]:
    if region == "us-east-1":  # the one that S3 does not let clients name
        return {}
    return {"CreateBucketConfiguration": {"LocationConstraint": region}}
