"""The pages of reports: what stands on them, and that a real browser shows them without complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import FIXTURE_NAMES, FIXTURES
from slow_server import SlowServer, slow_server

from h5zarr.cli import main
from h5zarr.converter import convert
from h5zarr.html.page import Page, Section, render
from h5zarr.html.pictures import sizes_picture
from h5zarr.html.reports import inspection_page, references_page, validation_page
from h5zarr.inspection import inspect_scan
from h5zarr.io_plan import io_plan
from h5zarr.report import Kind, Mismatch, ValidationReport
from h5zarr.scanner import scan
from h5zarr.translator import translate

VOID = {"meta", "link", "br", "rect"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]


def page_of(path: Path) -> Page:
    found = scan(path)
    return inspection_page(inspect_scan(found, translate(found)))


def html_of(path: Path) -> str:
    return render(page_of(path), version="1")


def references_html(path: Path) -> str:
    return render(references_page(translate(scan(path)), "refs.json"), version="1")


def report(*mismatches: Mismatch) -> ValidationReport:
    return ValidationReport(
        source="file:///a.h5",
        arrays_compared=3,
        chunks_compared=10,
        chunks_total=12,
        bytes_compared=4000,
        bytes_moved=0,
        problems_reported=0,
        mismatch_count=len(mismatches),
        mismatches=mismatches,
    )


def mismatch(path: str) -> Mismatch:
    return Mismatch(path=path, kind=Kind.VALUES, expected="1", found="<b>2", chunk_coords=(0, 1))


class Outline(HTMLParser):
    """Notes what a page is made of; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_page_of_a_file_names_every_dataset(name: str) -> None:
    found = scan(FIXTURES / name)
    inspection = inspect_scan(found, translate(found))
    page = inspection_page(inspection)
    outline = Outline(render(page, version="1"))
    tables = [table for section in page.sections for table in section.tables if section.anchor == "datasets"]
    rows = [row[0].text for table in tables for row in table.rows]
    assert len(rows) == len(inspection.datasets)
    assert page.good is not bool(inspection.problems)
    assert all(problem.remedy in outline.text for problem in inspection.problems if problem.remedy.isascii())


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_page_of_references_names_every_array(name: str) -> None:
    hierarchy = translate(scan(FIXTURES / name))
    page = references_page(hierarchy, "refs.json")
    Outline(render(page, version="1"))
    rows = [row for section in page.sections for table in section.tables for row in table.rows]
    assert len(rows) == len(list(hierarchy.arrays())) + len(hierarchy.problems)


def cloud_section(page: Page) -> Section:
    return next(section for section in page.sections if section.anchor == "cloud")


def test_page_tells_how_a_file_is_read_in_the_cloud(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        values = np.random.default_rng(0).random((64, 8192))
        file.create_dataset("<x>", data=values, chunks=(1, 8192))
    with slow_server(SlowServer(folder=tmp_path)) as server:
        found = scan(f"{server.url}/f.h5")
        requests = len(server.requests)
    plan = io_plan(found)
    for inspection in (inspect_scan(found, translate(found)), inspect_scan(found, translate(found), io=True)):
        section = cloud_section(inspection_page(inspection))
        assert section.texts[0] == "Not cloud-friendly: metadata together, most data in chunks below 1 MiB."
        assert section.texts[1] == f"{plan.advice[0].found}."
        assert section.commands == (plan.command,)
        assert dict(section.facts)["requests of the scan"] == f"{requests}"
        assert dict(section.facts)["chunks below 1 MiB"] == "100%"
        assert plan.command in Outline(render(inspection_page(inspection), version="1")).text


def test_page_of_a_file_that_is_well_has_no_advice() -> None:
    section = cloud_section(page_of(FIXTURES / "climate.nc"))
    assert section.texts == ("Cloud-friendly: so small that it is read whole.",)
    assert section.commands == ()
    assert "requests of the scan" not in dict(section.facts)


def test_page_of_a_validation() -> None:
    good = Outline(render(validation_page(report(), "refs.json"), version="1"))
    bad = Outline(render(validation_page(report(mismatch("/a")), "refs.json"), version="1"))
    assert "equal to what h5py reads" in good.text
    assert "1 mismatch: do not use these references" in bad.text
    assert "/a chunk (0, 1)" in bad.text


ALL_PAGES = {
    "file": lambda: html_of(FIXTURES / "climate.nc"),
    "file with problems": lambda: html_of(FIXTURES / "links_dangling.h5"),
    "references": lambda: references_html(FIXTURES / "climate.nc"),
    "validation": lambda: render(validation_page(report(mismatch("/a")), "refs.json"), version="1"),
}


@pytest.mark.parametrize("name", ALL_PAGES)
def test_page_needs_neither_network_nor_scripts(name: str) -> None:
    text = ALL_PAGES[name]()
    outline = Outline(text)
    assert outline.all("script") == []
    assert not re.search(r"\bon\w+=", text)
    links = [at.get("src") or at.get("href") or "" for _, at in outline.seen if "src" in at or "href" in at]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("name", ALL_PAGES)
def test_page_can_be_read_aloud(name: str) -> None:
    outline = Outline(ALL_PAGES[name]())
    assert outline.all("html") == [{"lang": "en"}]
    assert len(outline.all("h1")) == 1
    assert all(heading.get("scope") in ("row", "col") for heading in outline.all("th"))
    assert all(picture.get("role") == "img" and picture.get("aria-label") for picture in outline.all("svg"))
    regions = [at for at in outline.all("div") if at.get("class") == "scroll"]
    assert all(at.get("tabindex") == "0" and at.get("aria-label") for at in regions)
    identifiers = [at["id"] for _, at in outline.seen if "id" in at]
    assert len(set(identifiers)) == len(identifiers)


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["<script>alert(1)</script>"] = np.arange(1000)
        file['"><img src=x onerror=alert(1)>/y'] = 1
        file.create_group("a").create_dataset(b"\xff\xfe", data=2)
    for text in (html_of(path), references_html(path)):
        outline = Outline(text)
        assert outline.all("script") == []
        assert outline.all("img") == []
        assert "<script>alert(1)<" in outline.text


def test_histogram_counts_every_chunk() -> None:
    lengths = np.array([1, 1000, 1023, 1024, 70000, 0], np.uint64)
    picture = sizes_picture(lengths)
    assert picture is not None
    assert [text.text for text in picture.texts if text.text.isdigit()] == ["1", "2", "1", "1"]
    assert picture.caption.startswith("5 chunks, from 1 B to 70 kB, the median is 1.02 kB")
    assert sizes_picture(lengths[-1:]) is None


# In a browser ------------------------------------------------------------------------------


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    command = [CHROMIUM, *QUIET_OPTIONS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@needs_chromium
@pytest.mark.parametrize("name", ALL_PAGES)
def test_browser_shows_the_page(name: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(ALL_PAGES[name]())
    shown = browse(path, "--dump-dom")
    assert b"CONSOLE" not in shown.stderr
    assert Outline(shown.stdout.decode()).text.split() == Outline(path.read_text()).text.split()


@needs_chromium
def test_browser_takes_ten_thousand_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for number in range(10_000):
            file[f"group_{number // 200}/dataset_{number}"] = number
    path = tmp_path / "page.html"
    path.write_text(html_of(tmp_path / "many.h5"))
    assert path.stat().st_size < 10e6
    picture = tmp_path / "page.png"
    assert b"CONSOLE" not in browse(path, f"--screenshot={picture}", "--window-size=1200,900").stderr
    assert picture.stat().st_size > 10_000


# From the command line ---------------------------------------------------------------------


def test_inspect_and_validate_write_pages(tmp_path: Path) -> None:
    source, refs = FIXTURES / "climate.nc", tmp_path / "climate.json"
    convert(source, refs)
    run = CliRunner().invoke
    inspected = run(main, ["inspect", str(source), "--html", str(tmp_path / "file.html")])
    referenced = run(main, ["inspect", str(refs), "--html", "-"])
    validated = run(main, ["validate", str(refs), "--html", "-", "--quiet"])
    assert (inspected.exit_code, inspected.stdout) == (0, "")
    assert "All of it can be read" in Outline((tmp_path / "file.html").read_text()).text
    assert "They have all of what was asked for" in Outline(referenced.stdout).text
    assert validated.exit_code == 0
    assert "Validation of climate.json" in Outline(validated.stdout).text


def test_page_and_json_together(tmp_path: Path) -> None:
    page = tmp_path / "file.html"
    done = CliRunner().invoke(main, ["inspect", str(FIXTURES / "climate.nc"), "--html", str(page), "--json"])
    assert json.loads(done.stdout)["datasets"]
    assert page.read_text().startswith("<!")
