"""The command line: what goes to stdout and stderr, exit codes, and what is left behind."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from h5zarr import report_html
from h5zarr.cli import main
from h5zarr.file_report import FileReport, Status
from h5zarr.references.formats import WriteOptions, load

REPOSITORY = str(Path(__file__).parents[1])
EQUAL, INCOMPLETE, FAILED, INTERRUPTED = 0, 1, 2, 130


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(600.0).reshape(20, 30), chunks=(10, 30), compression="gzip")
        file.create_dataset("deep/y", data=np.arange(200))
        file.attrs["title"] = "a title"
    return path


@pytest.fixture
def strange_source(tmp_path: Path) -> Path:
    """A file with something that references cannot express."""
    path = tmp_path / "strange.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        file["dangling"] = h5py.SoftLink("/nowhere")
    return path


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# convert ----------------------------------------------------------------------------------


def test_convert_writes_references(source: Path, tmp_path: Path) -> None:
    result = run("convert", source, "-o", tmp_path / "out.json")
    assert result.exit_code == EQUAL
    assert result.stdout == ""
    assert result.stderr == f"h5zarr: {tmp_path}/out.json: 2 arrays, 3 references, 0 inline\n"
    assert "x/zarr.json" in json.loads((tmp_path / "out.json").read_text())["refs"]


def test_convert_to_stdout_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    run("convert", source, "-o", tmp_path / "out.json")
    result = run("convert", source, "-o", "-")
    assert result.exit_code == EQUAL
    assert result.stdout_bytes == (tmp_path / "out.json").read_bytes()
    assert result.stderr.startswith("h5zarr: stdout: 2 arrays")


def test_convert_reports_problems_on_one_line_each(strange_source: Path, tmp_path: Path) -> None:
    result = run("convert", strange_source, "-o", tmp_path / "out.json")
    problem, summary = result.stderr.splitlines()
    assert result.exit_code == INCOMPLETE
    assert problem.startswith("h5zarr: /dangling: a soft link to /nowhere")
    assert summary.endswith("1 problem, listed above and in the references")
    assert len(json.loads((tmp_path / "out.json").read_text())["h5zarr"]["problems"]) == 1


@pytest.mark.parametrize("verb", ["convert", "inspect"])
def test_quiet_says_nothing(strange_source: Path, tmp_path: Path, verb: str) -> None:
    output = ["-o", tmp_path / "out.json"] if verb == "convert" else []
    result = run(verb, strange_source, *output, "--quiet")
    assert result.exit_code == INCOMPLETE
    assert result.stderr == ""


def test_quiet_does_not_hide_errors(tmp_path: Path) -> None:
    assert run("convert", tmp_path / "no.h5", "-o", "-", "--quiet").stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "arrays"),
    [
        (["--include", "/x"], {"x"}),
        (["--exclude", "/x", "--exclude", "/nothing"], {"deep/y"}),
        (["--include", "/x", "--include", "/deep/*"], {"x", "deep/y"}),
        (["--group", "/deep"], {"y"}),
        (["-g", "deep"], {"y"}),
    ],
)
def test_convert_takes_a_part(source: Path, options: list[str], arrays: set[str]) -> None:
    references = json.loads(run("convert", source, "-o", "-", *options).stdout)["refs"]
    documents = {name: text for name, text in references.items() if name.endswith("/zarr.json")}
    found = {name for name, text in documents.items() if json.loads(text)["node_type"] == "array"}
    assert found == {f"{name}/zarr.json" for name in arrays}


def test_convert_passes_its_other_options(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    module = import_module("h5zarr.converter")
    convert = module.convert

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return convert(source, None)

    monkeypatch.setattr(module, "convert", spy)
    numbers = ["--inline-threshold", "7", "--inline-limit", "8", "--links", "attributes"]
    names = [
        "--no-phony-dimensions",
        "--public-url",
        "s3://b/k",
        "--follow-external",
        "--isolate",
        "--timeout",
        "9",
        "-S",
        "anon=true",
        "-S",
        "key=a=b",
    ]
    writing = ["--format", "json", "-O", "key=1"]
    assert run("convert", source, "-o", "-", *numbers, *names, *writing).exit_code == EQUAL
    assert seen == {
        "format": "json",
        "output_options": {"key": 1},
        "zarr_format": "3",
        "record_size": None,
        "branch": None,
        "message": None,
        "shard_bytes": None,
        "portable": False,
        "storage_options": {"anon": True, "key": "a=b"},
        "public_url": "s3://b/k",
        "group": "/",
        "include": (),
        "exclude": (),
        "inline_threshold": 7,
        "inline_limit": 8,
        "follow_external": True,
        "isolate": True,
        "timeout": 9.0,
        "links": "attributes",
        "phony_dimensions": False,
        "progress": None,
    }


# Bad input --------------------------------------------------------------------------------


def write_text(path: Path) -> None:
    path.write_text("not HDF5 at all" * 100)


def write_truncated(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10000)
    path.write_bytes(path.read_bytes()[:1000])


def write_signature_only(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))


BAD_SOURCES = {
    "missing": lambda path: None,
    "not-hdf5": write_text,
    "empty": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "truncated": write_truncated,
    "signature-only": write_signature_only,
    "dangling-link": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture(params=BAD_SOURCES.values(), ids=BAD_SOURCES)
def bad_source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "bad.h5"
    request.param(path)
    return path


def assert_one_clear_line(result: Result, *words: str) -> None:
    assert result.exit_code == FAILED
    assert result.stdout == ""
    assert result.stderr.startswith("h5zarr: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words)


def test_bad_source_gets_one_line_and_leaves_nothing(bad_source: Path, tmp_path: Path) -> None:
    before = names_in(tmp_path)
    assert_one_clear_line(run("convert", bad_source, "-o", tmp_path / "out.json"), "bad.h5")
    assert names_in(tmp_path) == before


def test_bad_source_to_stdout_and_inspect(bad_source: Path) -> None:
    assert_one_clear_line(run("convert", bad_source, "-o", "-"), "bad.h5")
    assert_one_clear_line(run("inspect", bad_source), "bad.h5")


@pytest.mark.parametrize("verb", ["convert", "inspect"])
@pytest.mark.parametrize("group", ["/nowhere", "/x", "x/deeper"])
def test_group_that_is_none(source: Path, tmp_path: Path, verb: str, group: str) -> None:
    output = ["-o", tmp_path / "out.json"] if verb == "convert" else []
    assert_one_clear_line(run(verb, source, *output, "--group", group), group, "inspect")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("url", ["nosuchprotocol://a/b.h5", "memory://nothing.h5"])
def test_url_that_leads_nowhere(url: str) -> None:
    assert_one_clear_line(run("convert", url, "-o", "-"))


@pytest.mark.parametrize("out", ["nowhere/out.json", "folder.json", "source.h5/out.json"])
def test_output_that_cannot_be_written(source: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "folder.json").mkdir()
    assert_one_clear_line(run("convert", source, "-o", tmp_path / out), out)
    assert names_in(tmp_path) == {"source.h5", "folder.json"}
    assert names_in(tmp_path / "folder.json") == set()


def test_failure_keeps_an_older_output(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("older")
    assert run("convert", tmp_path / "no.h5", "-o", tmp_path / "out.json").exit_code == FAILED
    assert (tmp_path / "out.json").read_text() == "older"


def test_input_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "alias.h5").symlink_to(source)
    for out in (source, tmp_path / "alias.h5"):
        assert_one_clear_line(run("convert", source, "-o", out), "is the input")
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["source.h5", "notes.json"])
@pytest.mark.parametrize("verb", ["convert", "inspect", "validate"])
def test_other_files_are_not_overwritten(references: Path, source: Path, verb: str, name: str) -> None:
    (source.parent / "notes.json").write_text("notes")
    other = (references if verb == "validate" else source).with_name(f"other-{verb}")
    other.write_bytes((references if verb == "validate" else source).read_bytes())
    before = (source.parent / name).read_bytes()
    option = ("--format", "json", "-o") if verb == "convert" else ("--html",)
    result = run(verb, other, *option, source.parent / name)
    assert_one_clear_line(result, "is something else")
    assert (source.parent / name).read_bytes() == before


def test_traceback_has_no_credentials() -> None:
    result = run("convert", "http://user:secret@127.0.0.1:9/x.h5?token=secret", "-o", "-", "--debug")
    assert "Traceback" in result.stderr
    assert "127.0.0.1:9/x.h5" in result.stderr
    assert "secret" not in result.stderr


SECRET_URL = "memory://user:SECRET@h/{}?sig=SECRET"
SHOWN_URL = "memory://h/{}"


def assert_shown(name: str, result: Result) -> None:
    """What was said names the URL, and not what is secret in it."""
    assert result.exit_code == EQUAL
    assert SHOWN_URL.format(name) in result.output
    assert "SECRET" not in result.output


def test_summaries_and_pages_have_no_credentials(source: Path, tmp_path: Path) -> None:
    url, local = SECRET_URL.format("a.json"), tmp_path / "a.json"
    assert_shown("a.json", run("convert", source, "-o", url, "--format", "json"))
    run("convert", source, "-o", local)
    renamed = run("rename", local, "-o", url, "--format", "json", "--to", source, "https://h/x.h5")
    assert_shown("a.json", renamed)
    run("convert", source, "-o", url, "--format", "json")
    assert_shown("a.json", run("validate", url, "--html", tmp_path / "v.html"))
    assert_shown("a.json", run("combine", local, "-o", url, "--format", "json", "--new-dim", "run"))
    for page in ((tmp_path / "v.html").read_text(), report_html(load(local), url)):
        assert SHOWN_URL.format("a.json") in page
        assert "SECRET" not in page


def test_links_are_shown_without_credentials(tmp_path: Path) -> None:
    path, out = tmp_path / "x.h5", tmp_path / "x.json"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("https://user:pass@h/x.h5?sig=secret", "/a")
    result = run("convert", path, "-o", out)
    assert "an external link to /a in https://h/x.h5" in result.stderr
    document = json.loads(out.read_text())
    document["h5zarr"]["problems"] = []
    (tmp_path / "none.json").write_text(json.dumps(document))
    missing = run("validate", tmp_path / "none.json")
    assert "external link" in missing.stderr
    for text in (result.stderr, out.read_text(), missing.stderr):
        assert "pass" not in text
        assert "secret" not in text


@pytest.mark.parametrize("verb", ["combine", "rename"])
def test_remedies_name_what_the_verb_has(verb: str, references: Path) -> None:
    if verb == "combine":
        result = run("combine", "http://u:p@127.0.0.1:9/x.h5", "-o", "-", "--new-dim", "run")
    else:
        result = run("rename", references, "-o", "-", "--to", "file:///", "https://u:p@h/")
        assert "give the URL without them as the new prefix" in result.stderr
    assert result.exit_code == FAILED
    assert "by --public-url (" not in result.stderr


def test_validating_both_formats_gives_no_warning(source: Path, tmp_path: Path) -> None:
    run("convert", source, "-o", tmp_path / "both.json", "--zarr-format", "both")
    result = in_process("validate", tmp_path / "both.json", capture_output=True)
    assert result.stderr.decode().count("\n") == 1, result.stderr


def test_summary_of_several_has_no_credentials(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = SECRET_URL.format("a.json")
    done = FileReport(source=str(source), out=out, status=Status.CONVERTED)

    def convert_many(*_: Any, report: Any, **__: Any) -> list[FileReport]:
        report(done)
        return [done]

    monkeypatch.setattr(import_module("h5zarr.many"), "convert_many", convert_many)
    result = run("convert", source, source, "-o", SECRET_URL.format(""))
    assert_shown("a.json", result)
    assert f"{SHOWN_URL.format('')}: 1 file" in result.output


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run("convert", tmp_path / "no.h5", "-o", "-", "--debug")
    assert result.exit_code == FAILED
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("h5zarr: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert"],
        ["convert", "a.h5"],
        ["convert", "a.h5", "-o", "-", "--links", "nonsense"],
        *(["convert", "a.h5", "-o", "-", "--timeout", text] for text in ("0", "nan", "inf", "1e300")),
        ["convert", "a.h5", "-o", "-", "-S", "no-equals-sign"],
        ["convert", "a.h5", "-o", "-", "-S", "=value"],
        ["convert", "a.h5", "-o", "-", "--inline-threshold", "-1"],
        ["validate", "a.json", "--sample", "-1"],
        ["nonsense"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == FAILED
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_library_that_is_not_installed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("install h5zarr[s3] to read s3 URLs")

    monkeypatch.setattr(import_module("h5zarr.converter"), "convert", fail)
    assert_one_clear_line(run("convert", source, "-o", "-"), "h5zarr[s3]")


def test_unknown_failure_is_not_hidden(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(import_module("h5zarr.converter"), "convert", fail)
    assert isinstance(run("convert", source, "-o", "-").exception, ZeroDivisionError)


# Several inputs ---------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.h5", "b.h5"):
        with h5py.File(folder / name, "w") as file:
            file["x"] = np.arange(600)
    return folder


def test_several_inputs_become_a_folder(sources: Path, tmp_path: Path) -> None:
    result = run("convert", sources / "a.h5", sources / "b.h5", "-o", tmp_path / "out")
    assert result.exit_code == EQUAL
    assert names_in(tmp_path / "out") == {"a.json", "b.json"}
    lines = sorted(result.stderr.splitlines())
    assert lines[0] == f"h5zarr: {sources}/a.h5: converted {tmp_path}/out/a.json"
    assert lines[2] == f"h5zarr: {tmp_path}/out: 2 files: 2 converted"


@pytest.mark.parametrize("out", ["out/", "there"])
def test_a_folder_takes_one_input_too(sources: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "there").mkdir()
    assert run("convert", sources / "a.h5", "-o", f"{tmp_path}/{out}", "--quiet").exit_code == EQUAL
    assert names_in(tmp_path / out) == {"a.json"}


def test_bad_input_stops_no_other(sources: Path, tmp_path: Path) -> None:
    (sources / "c.h5").write_text("no HDF5")
    result = run("convert", f"{sources}/*.h5", "-o", f"{tmp_path}/out/", "-j", "2")
    assert result.exit_code == INCOMPLETE
    assert names_in(tmp_path / "out") == {"a.json", "b.json"}
    assert f"{sources}/c.h5: is not an HDF5 file" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("3 files: 2 converted, 1 failed")


def test_list_of_inputs(sources: Path, tmp_path: Path) -> None:
    listed = f"# a comment\n{sources}/a.h5\n\n{sources}/b.h5\n"
    arguments = ["convert", "--from-file", "-", "-o", f"{tmp_path}/out", "--format", "parquet"]
    assert CliRunner().invoke(main, arguments, input=listed).exit_code == EQUAL
    assert names_in(tmp_path / "out") == {"a.parq", "b.parq"}


def test_list_of_inputs_from_other_systems(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfone.h5\n two.h5 \n")
    result = run("convert", "--from-file", tmp_path / "list", "-o", f"{tmp_path}/out/", "--quiet")
    assert (result.exit_code, result.stderr.count("\n")) == (INCOMPLETE, 2)
    assert result.stderr.count("one.h5") == result.stderr.count("two.h5") == 1
    assert "\ufeff" not in result.stderr


def test_resume_leaves_what_is_done(sources: Path, tmp_path: Path) -> None:
    arguments = ["convert", f"{sources}/*.h5", "-o", f"{tmp_path}/out/", "--resume"]
    run(*arguments)
    before = (tmp_path / "out" / "a.json").stat().st_mtime_ns
    assert "2 files: 2 unchanged" in run(*arguments).stderr
    assert (tmp_path / "out" / "a.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.json"], "name an INPUT"),
        (["a.h5", "-o", "out.json", "--resume"], "for several inputs"),
        (["a.h5", "b.h5", "-o", "-"], "cannot go to stdout"),
        (["a.h5", "-o", "-", "--format", "parquet"], "only JSON"),
    ],
)
def test_what_several_inputs_cannot_do(arguments: list[str], message: str) -> None:
    result = run("convert", *arguments)
    assert result.exit_code == FAILED
    assert message in result.stderr


# combine and rename -----------------------------------------------------------------------


def test_combine_and_rename(sources: Path, tmp_path: Path) -> None:
    combined = run("combine", f"{sources}/*.h5", "-o", tmp_path / "all.json", "--new-dim", "run")
    assert combined.exit_code == EQUAL
    assert run("validate", tmp_path / "all.json").exit_code == EQUAL
    moved = tmp_path / "moved"
    sources.rename(moved)
    assert run("validate", tmp_path / "all.json").exit_code == FAILED
    renamed = run("rename", tmp_path / "all.json", "-o", tmp_path / "new.json", "--to", sources, moved)
    assert renamed.exit_code == EQUAL
    assert run("validate", tmp_path / "new.json").exit_code == EQUAL


def test_combine_and_rename_to_stdout(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = names_in(tmp_path)
    combined = run("combine", f"{sources}/*.h5", "-o", "-", "--new-dim", "run")
    assert "stdout: " in combined.stderr
    (tmp_path / "all.json").write_text(combined.stdout)
    renamed = run("rename", "all.json", "-o", "-", "--to", sources, "s3://bucket/in")
    assert "s3://bucket/in/" in renamed.stdout
    assert json.loads(renamed.stdout)["refs"].keys() == json.loads(combined.stdout)["refs"].keys()
    refused = run("rename", "all.json", "-o", "-", "--to", sources, "s3://b", "--format", "parquet")
    assert refused.exit_code == FAILED
    assert names_in(tmp_path) == {*before, "all.json"}


def test_combine_refuses_on_one_line(sources: Path, tmp_path: Path) -> None:
    result = run("combine", f"{sources}/*.h5", "-o", tmp_path / "all.json", "--concat", "time")
    assert_one_clear_line(result, "time")


# Interruption -----------------------------------------------------------------------------


def test_interruption(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("h5zarr.converter"), "convert", interrupt)
    result = run("convert", source, "-o", tmp_path / "out.json")
    assert result.exit_code == INTERRUPTED
    assert result.stderr.startswith("h5zarr: interrupted")


def test_interruption_while_writing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(*_: Any, **__: Any) -> Iterator[bytes]:
        yield b"{"
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("h5zarr.references.kerchunk_json"), "render", blocks)
    assert run("convert", source, "-o", tmp_path / "out.json").exit_code == INTERRUPTED
    assert names_in(tmp_path) == {"source.h5"}


# Another process --------------------------------------------------------------------------


def in_process(
    *arguments: object, prelude: str = "", encoding_of_stdout: str = "utf-8", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    code = f"{prelude}from h5zarr.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": REPOSITORY, "PYTHONIOENCODING": encoding_of_stdout}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60, env=environment, **options)


def test_stdout_is_data_only(strange_source: Path) -> None:
    result = in_process("convert", strange_source, "-o", "-", capture_output=True)
    assert result.returncode == INCOMPLETE
    assert json.loads(result.stdout)["version"] == 1
    assert result.stderr.startswith(b"h5zarr: /dangling")


def test_bad_source_in_another_process(tmp_path: Path) -> None:
    result = in_process("convert", tmp_path / "no.h5", "-o", tmp_path / "out.json", capture_output=True)
    assert (result.returncode, result.stdout) == (FAILED, b"")
    assert result.stderr.count(b"\n") == 1
    assert names_in(tmp_path) == set()


def test_signal_interrupts(source: Path, tmp_path: Path) -> None:
    prelude = "import os, signal; from importlib import import_module as load;"
    patch = "load('h5zarr.converter').convert = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT);"
    result = in_process(
        "convert", source, "-o", tmp_path / "out.json", prelude=prelude + patch, capture_output=True
    )
    assert result.returncode == INTERRUPTED
    assert result.stderr.startswith(b"h5zarr: interrupted")
    assert names_in(tmp_path) == {"source.h5"}


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "grün"), ("ascii", r"gr\xfcn")])
def test_names_survive_a_narrow_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["grün"] = 1
    result = in_process("inspect", tmp_path / "f.h5", capture_output=True, encoding_of_stdout=encoding)
    assert name in result.stdout.decode(encoding)


def redirected(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a verb from a shell, which can close streams."""
    code = "from h5zarr.cli import main; main()"
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    return subprocess.run(command, check=False, timeout=60, env=environment, capture_output=True, text=True)


TO_STDOUT = [("convert", "-o", "-"), ("inspect",), ("inspect", "--json"), ("inspect", "--html", "-")]


@pytest.mark.parametrize(("verb", "options"), [(verb, options) for verb, *options in TO_STDOUT], ids=str)
def test_closed_stdout_is_an_error(verb: str, options: list[str], source: Path) -> None:
    result = redirected(">&-", verb, source, *options)
    assert result.stderr == "h5zarr: stdout: is closed; open it, or name a file\n"
    assert result.returncode == FAILED


def test_closed_streams_are_not_needed(source: Path, tmp_path: Path) -> None:
    assert redirected(">&-", "convert", source, "-o", tmp_path / "a.json").returncode == EQUAL
    assert redirected("2>&-", "convert", source, "-o", tmp_path / "b.json").returncode == EQUAL
    assert redirected("2>&-", "convert", source, "-o", f"{tmp_path}/many/").returncode == EQUAL
    assert redirected("2>&-", "convert", tmp_path / "no.h5", "-o", "-").returncode == FAILED
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "convert --help", "completion bash", "inspect {source}"])
def test_stdout_that_is_full(arguments: str, source: Path) -> None:
    result = redirected("> /dev/full", *arguments.format(source=source).split())
    assert result.stderr == "h5zarr: stdout: cannot be written: No space left on device\n"
    assert result.returncode == FAILED


@pytest.mark.parametrize("verb", ["inspect", "validate"])
def test_page_and_json_are_not_mixed(verb: str, references: Path) -> None:
    result = run(verb, references, "--json", "--html", "-")
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert "both write to stdout" in result.stderr


def test_reader_that_goes_away_is_no_error(source: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = in_process("inspect", source, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert result.stderr == b""


@pytest.mark.parametrize(("option", "drawn"), [((), True), (("--quiet",), False)])
def test_progress_is_drawn_on_a_terminal_only(source: Path, option: tuple[str, ...], drawn: bool) -> None:
    terminal, its_end = pty.openpty()
    result = in_process("inspect", source, *option, stdout=subprocess.PIPE, stderr=its_end)
    os.close(its_end)
    assert result.returncode == EQUAL
    assert (b"Scanning" in everything(terminal)) is drawn
    assert b"Scanning" not in result.stdout


def everything(terminal: int) -> bytes:
    text = b""
    try:
        while block := os.read(terminal, 4096):
            text += block
    except OSError:  # Linux's way to say that the other end was closed
        pass
    finally:
        os.close(terminal)
    return text


def test_help_and_version_need_neither_h5py_nor_zarr() -> None:
    code = "import sys, h5zarr.cli; print(sorted({'h5py', 'zarr', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert result.stdout == b"[]\n"


def test_version() -> None:
    assert run("--version").stdout.startswith("h5zarr, version ")


@pytest.mark.parametrize("verb", main.commands)
def test_help(verb: str) -> None:
    assert run(verb, "--help").stdout.startswith("Usage: ")


# inspect ----------------------------------------------------------------------------------


def test_inspect_prints_a_table(source: Path) -> None:
    result = run("inspect", source)
    assert result.exit_code == EQUAL
    assert result.stderr == ""
    assert any(line.startswith("/deep/y") for line in result.stdout.splitlines())


def test_inspect_gives_json(source: Path) -> None:
    document = json.loads(run("inspect", source, "--json", "--include", "/x").stdout)
    assert [entry["path"] for entry in document["datasets"]] == ["/x"]
    assert document["problems"] == []


def test_inspect_shows_what_would_be_a_problem(strange_source: Path) -> None:
    result = run("inspect", strange_source)
    assert result.exit_code == INCOMPLETE
    assert "what convert would leave out:\n  /dangling: a soft link" in result.stdout
    assert len(json.loads(run("inspect", strange_source, "--json").stdout)["problems"]) == 1


# validate ---------------------------------------------------------------------------------


@pytest.fixture
def references(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out.json"
    assert run("convert", source, "-o", path).exit_code == EQUAL
    return path


@pytest.fixture
def wrong_references(references: Path) -> Path:
    """References of which one points into the wrong place, and one is lost."""
    document = json.loads(references.read_text())
    document["refs"]["deep/y/c/0"][1] += 8
    del document["refs"]["x/c/1/0"]
    references.write_text(json.dumps(document))
    return references


def test_validate_says_that_all_is_equal(references: Path) -> None:
    result = run("validate", references)
    assert result.exit_code == EQUAL
    assert result.stdout == ""
    assert result.stderr == (
        f"h5zarr: {references}: 2 arrays, 3 of 3 chunks, 6.4 kB: all equal to what h5py reads\n"
    )


def test_validate_names_what_differs(wrong_references: Path) -> None:
    result = run("validate", wrong_references)
    *mismatches, summary = result.stderr.splitlines()
    assert result.exit_code == INCOMPLETE
    assert any(line.startswith("h5zarr: /deep/y chunk (0)") for line in mismatches)
    assert any(line.startswith("h5zarr: /x chunk (1, 0)") for line in mismatches)
    assert "mismatches; do not use these references" in summary


def test_validate_gives_json(wrong_references: Path) -> None:
    result = run("validate", wrong_references, "--json", "--quiet")
    document = json.loads(result.stdout)
    assert result.exit_code == INCOMPLETE
    assert result.stderr == ""
    assert not document["ok"]
    assert {entry["path"] for entry in document["mismatches"]} == {"/x", "/deep/y"}


def test_validate_tells_of_problems_that_references_list(strange_source: Path, tmp_path: Path) -> None:
    run("convert", strange_source, "-o", tmp_path / "out.json")
    result = run("validate", tmp_path / "out.json")
    assert result.exit_code == EQUAL
    assert result.stderr.endswith("; not compared: 1 problem that the references list\n")


def test_validate_reads_the_source_elsewhere(references: Path, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(source.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["deep/y"][0] = -1
    assert run("validate", references, "--source", source).exit_code == EQUAL
    assert run("validate", references, "--source", copy).exit_code == INCOMPLETE


def test_validate_compares_a_sample(references: Path) -> None:
    result = run("validate", references, "--sample", 1, "--seed", 5)
    assert result.exit_code == EQUAL
    assert "1 of 3 chunks" in result.stderr


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": 1, "refs": {}}', "[1]", "\x00\x01"])
def test_validate_what_are_no_references(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "bad.json").write_text(content)
    assert_one_clear_line(run("validate", tmp_path / "bad.json"), "bad.json")


def test_validate_a_folder(tmp_path: Path) -> None:
    assert_one_clear_line(run("validate", tmp_path), str(tmp_path))


def test_validate_without_its_source(references: Path, source: Path) -> None:
    source.unlink()
    assert_one_clear_line(run("validate", references), "source.h5")


# All verbs --------------------------------------------------------------------------------


CALLABLE = {"progress", "report", "executor", "convert_options"}
"""Parameters that no command line has."""
ONLY_HERE = {"quiet", "debug", "as_json", "html", "io", "jobs", "resume", "from_file"}


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        ("convert", "converter"),
        ("convert", "many"),
        ("validate", "validator"),
        ("inspect", "inspection"),
        ("combine", "combiner"),
        ("rename", "renamer"),
    ],
)
def test_verb_mirrors_its_function(verb: str, module: str) -> None:
    name = "convert_many" if module == "many" else verb
    function = signature(getattr(import_module(f"h5zarr.{module}"), name))
    expected = {name: each.default for name, each in function.parameters.items() if name not in CALLABLE}
    if "source" in expected and verb == "convert":
        expected["sources"] = expected.pop("source")
    if expected.pop("writing", None) is not None:
        expected |= dict.fromkeys(WriteOptions.__annotations__) | {"zarr_format": "3", "portable": False}
    options = {each.name: each for each in main.commands[verb].params}
    assert expected.keys() <= options.keys()
    assert options.keys() - expected.keys() <= ONLY_HERE
    told = {
        name: value for name, value in expected.items() if isinstance(value, int | str) and value is not False
    }
    assert {name: options[name].default for name in told} == told
