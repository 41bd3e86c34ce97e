"""The README's recipes are run, as they stand, with servers on this machine in the place of the world."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
from conftest import FIXTURES
from http_server import serve
from s3_server import serve_s3

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
CHAPTER = README.partition("\n## Recipes\n")[2]
RECIPES = re.findall(r"^### (.*?)\n(.*?)(?=^##)", CHAPTER, re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)
RUN = {title: text for title, text in RECIPES if BLOCK.search(text)}
FILL_S3 = """if True:
    import s3fs
    s3 = s3fs.S3FileSystem(s3_additional_kwargs={"ACL": "public-read"})
    s3.chmod("bucket", acl="public-read")
    s3.put("climate.nc", "bucket/climate.nc")
    s3.put("2020/", "bucket/2020/", recursive=True)
"""
PUBLIC = "https://data.example.org"


def write_year(folder: Path) -> None:
    folder.mkdir()
    for month in range(3):
        with h5netcdf.File(folder / f"{month + 1:02d}.nc", "w") as file:
            file.dimensions = {"time": 4, "lat": 10, "lon": 20}
            times = file.create_variable("time", ("time",), "i4", data=4 * month + np.arange(4))
            times.attrs["units"] = "days since 2020-01-01"
            for name in ("lat", "lon"):
                file.create_variable(name, (name,), "f4", data=np.arange(file.dimensions[name].size))
            values = np.arange(800.0).reshape(4, 10, 20) + month
            file.create_variable("tas", ("time", "lat", "lon"), "f8", data=values, chunks=(1, 10, 20))


def write_session(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["units/spike_times"] = np.sort(np.random.default_rng(1).random(1000))
        file["acquisition/series/data"] = np.arange(1000)
        file["stimulus/left_out"] = np.arange(1000)


def write_series(folder: Path) -> None:
    for number in range(2):
        with h5py.File(folder / f"series_data_{number}.h5", "w") as file:
            data = np.arange(4 * 10 * 10, dtype="u4").reshape(4, 10, 10) + number
            file.create_dataset("entry/data", data=data, chunks=(1, 10, 10), compression="lzf")
    with h5py.File(folder / "series_master.h5", "w") as file:
        for number in range(2):
            link = h5py.ExternalLink(f"series_data_{number}.h5", "/entry/data")
            file[f"entry/data_{number}"] = link
        file["entry/wavelength"] = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "climate.nc").write_bytes((FIXTURES / "climate.nc").read_bytes())
    (tmp_path / "new").mkdir()
    write_year(tmp_path / "2020")
    write_session(tmp_path / "session.nwb")
    write_series(tmp_path)
    return tmp_path


@dataclass(frozen=True, kw_only=True)
class World:
    """What the recipes run in."""

    folder: Path
    web: str
    environment: dict[str, str]

    def run(self, *command: str, **options: Any) -> str:
        run = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=240,
            **options,
        )
        assert run.returncode == 0, run.stdout
        return run.stdout


@pytest.fixture
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with serve_s3("bucket") as options, serve(folder) as server:
        environment = environment_of(options["client_kwargs"]["endpoint_url"])
        made = World(folder=folder, web=server.url.rstrip("/"), environment=environment)
        made.run(sys.executable, "-c", FILL_S3)
        yield made


def environment_of(endpoint_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.parametrize("title", RUN)
def test_recipe(title: str, world: World) -> None:
    """Sessions print what the README shows; programs, all of a recipe as one, end without an error."""
    programs = ""
    for kind, block in BLOCK.findall(RUN[title]):
        local = block.replace(PUBLIC, world.web)
        if kind == "console":
            check_session(local, world)
        else:
            programs += local
            world.run(sys.executable, "-W", "ignore", "-c", guarded(programs.replace('"https"', '"http"')))


def guarded(program: str) -> str:
    """Return a program that workers may import."""
    return "if __name__ == '__main__':\n" + re.sub(r"^", "    ", program, flags=re.MULTILINE)


def check_session(session: str, world: World) -> None:
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        shown += f"$ {command}\n{world.run('bash', '-c', command)}"
    assert shown == session


def test_there_are_recipes() -> None:
    assert len(RUN) >= 8
