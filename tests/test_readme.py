"""The README says what is true: its sessions are run, its table is made again."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
SESSIONS = re.findall(r"```console\n(.*?)```", README.partition("\n## Recipes\n")[0], re.DOTALL)


def test_there_are_sessions() -> None:
    assert len(SESSIONS) >= 2


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.splitlines()[0])
def test_session(session: str, tmp_path: Path) -> None:
    """Every command prints what the README shows, on stdout and stderr together."""
    (tmp_path / "fixtures").symlink_to(TOP / "fixtures")
    commands = re.findall(r"^\$ (.*)$", session, re.MULTILINE)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = ""
    for command in commands:
        run = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": programs},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        shown += f"$ {command}\n{run.stdout}"
    assert shown == session


def test_accuracy_table() -> None:
    replaced = runpy.run_path(str(TOP / "scripts" / "accuracy.py"))["replaced"]
    assert replaced(README) == README, "run scripts/accuracy.py --write"
