"""A function called in a process of its own, so that a crash of libhdf5 is an error and no more.

python -m h5zarr.isolation        # the child: a pickled call on stdin, a pickled answer on stdout
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from h5zarr.errors import DamagedFileError, H5zarrError
from h5zarr.prefetch import redact

LONGEST_TIMEOUT_SECONDS = 10**6
"""What systems can wait for is about twice as long."""


def call_isolated(
    module: str, function: str, subject: str, arguments: Mapping[str, Any], *, timeout: float | None = None
) -> Any:
    """Call a function in a child process and return what it returns.

    Parameters
    ----------
    module, function
        Names of an importable module and of a function in it.
    subject
        The file that is read, for messages.
    arguments
        Keyword arguments; they and the result are pickled.
    timeout
        Longest time to wait (seconds); None waits for ever.

    Raises
    ------
    DamagedFileError
        The child died or took too long.
    H5zarrError
        What the function raised.
    """
    subject = redact(subject)
    call = pickle.dumps((sys.path, module, function, dict(arguments)))
    # -P: the child finds the same modules as this process, whatever the current folder holds.
    command = [sys.executable, "-P", "-m", "h5zarr.isolation"]
    try:
        child = subprocess.run(command, input=call, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        message = f"{subject}: reading took longer than {timeout} s; the file may be damaged"
        raise DamagedFileError(message) from error
    if child.returncode:
        raise DamagedFileError(f"{subject}: reading it {_death(child)}; the file is damaged")
    answer = pickle.loads(child.stdout)
    if isinstance(answer, H5zarrError):
        raise answer
    return answer


def _death(child: subprocess.CompletedProcess[bytes]) -> str:
    if child.returncode < 0:
        return f"crashed libhdf5 ({signal.Signals(-child.returncode).name})"
    lines = child.stderr.decode("utf-8", "replace").splitlines() or ["no message"]
    return f"failed ({redact(lines[-1])})"


def main() -> None:
    """Answer the call on stdin."""
    path, module, function, arguments = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    # What libraries print must not get between the bytes of the answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        answer = getattr(importlib.import_module(module), function)(**arguments)
    except H5zarrError as error:
        answer = error
    with answers:
        pickle.dump(answer, answers)


if __name__ == "__main__":
    main()
