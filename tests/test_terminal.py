"""The terminal: trees and colours where somebody sees them, bars that leave no trace, help and completion."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import FIXTURE_NAMES, FIXTURES
from rich.cells import cell_len

from h5zarr.cli import main
from h5zarr.cli.help import Sectioned
from h5zarr.cli.tree import _segments
from h5zarr.errors import Problem
from h5zarr.inspection import Inspection, inspect
from h5zarr.outline import Branch, Column, Entry, Note, Outline, Row, problem_entries
from h5zarr.text import printable

REPOSITORY = str(Path(__file__).parents[1])
CODES = re.compile(r"\x1b\[[0-9;]*m")
BOXES = re.compile("[─-╿]")
HIDE_CURSOR = "\x1b[?25l"


def on_terminal(
    *command: str,
    width: int = 100,
    stdout_is_terminal: bool = True,
    expected: int = 0,
    environment: dict[str, str] | None = None,
) -> str:
    """Return what a program writes to a terminal of a width."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    unset = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    set_here = {"TERM": "xterm-256color", "PYTHONPATH": REPOSITORY, "PYTHONUTF8": "1", **(environment or {})}
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=its_end,
        stdout=its_end if stdout_is_terminal else subprocess.DEVNULL,
        stderr=its_end,
        env=kept | set_here,
    )
    os.close(its_end)
    text = everything(terminal)
    assert process.wait(timeout=60) == expected, text
    return text.replace("\r\n", "\n")


def everything(terminal: int) -> str:
    text = b""
    try:
        while block := os.read(terminal, 65536):
            text += block
    except OSError:  # Linux's way to say that the other end was closed
        pass
    finally:
        os.close(terminal)
    return text.decode()


def h5zarr(*arguments: object, **options: Any) -> str:
    code = "from h5zarr.cli import main; main()"
    return on_terminal("-c", code, *map(str, arguments), **options)


def drawn(outline: Outline, width: int = 100) -> list[str]:
    """Return the lines of a tree, without colours."""
    return "".join(segment.text for segment in _segments(outline, width)).splitlines()


def outline_of(inspection: Any) -> Outline:
    assert isinstance(inspection, Inspection)
    return inspection.outline()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/image", (10, 7), "i2", chunks=(4, 7), compression="gzip")[:4] = 1
        file["deep/er/number"] = 1.5
        file["last"] = np.arange(3)
        file["dangling"] = h5py.SoftLink("/nowhere")
    return path


# Where there is a tree ----------------------------------------------------------------------


def test_a_terminal_gets_a_coloured_tree(source: Path) -> None:
    shown = h5zarr("inspect", source, "--quiet", expected=1)
    lines = CODES.sub("", shown).splitlines()
    assert CODES.search(shown)
    assert HIDE_CURSOR not in shown
    names = [re.match("[│├└─ ]*[a-z/]*", line)[0].rstrip() for line in lines if "─ " in line]
    assert names == ["├─ last", "└─ deep/", "   ├─ image", "   └─ er/", "      └─ number"]
    assert "what convert would leave out:" in lines


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_terminals_that_want_plain_text_get_it(source: Path, environment: dict[str, str]) -> None:
    shown = h5zarr("inspect", source, "--quiet", expected=1, environment=environment)
    piped = CliRunner().invoke(main, ["inspect", str(source)]).stdout
    assert "\x1b" not in shown
    assert not BOXES.search(shown)
    assert shown == piped


def test_an_empty_no_color_asks_for_nothing(source: Path) -> None:
    assert CODES.search(h5zarr("inspect", source, "-q", expected=1, environment={"NO_COLOR": ""}))


def test_pipes_get_plain_text(source: Path) -> None:
    shown = h5zarr("inspect", source, "-q", stdout_is_terminal=False, expected=1)
    assert shown == ""
    result = CliRunner(env={"FORCE_COLOR": "1"}).invoke(main, ["inspect", str(source)])
    assert "\x1b" not in result.stdout
    assert not BOXES.search(result.stdout)


# What the tree shows ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_tree_shows_what_the_table_shows(name: str) -> None:
    outline = outline_of(inspect(FIXTURES / name, io=True))
    lines = drawn(outline, width=400)
    together = "\n".join(lines)
    for branch in outline.branches:
        for row in branch.rows:
            told = [printable(text) for text in (row.path.rpartition("/")[2], *row.cells)]
            assert any(all(text in line for text in told) for line in lines)
    for note in outline.notes:
        for entry in note.entries:
            words = printable(f"{entry.text} {entry.remedy}").split()
            assert all(word in together for word in words)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
def test_tree_is_not_wider_than_the_terminal(width: int) -> None:
    outline = outline_of(inspect(FIXTURES / "climate.nc"))
    lines = drawn(outline, width)
    table = [line for line in lines if "─ " in line]
    assert table
    assert all(cell_len(line) <= width for line in table)
    header = next(line for line in lines if line.startswith(" "))
    begin = next((number for number, line in enumerate(lines) if line.startswith("(no room for")), len(lines))
    hidden = " ".join(lines[begin : begin + 3])
    for column in outline.columns:
        has_content = any(
            row.cells[outline.columns.index(column)] for b in outline.branches for row in b.rows
        )
        assert not has_content or column.title in header or column.title in hidden
    assert bool(hidden) is (width < 160)


def test_tree_fits_the_terminal_that_it_is_on(source: Path) -> None:
    for width in (60, 90):
        shown = CODES.sub("", h5zarr("inspect", source, "-q", width=width, expected=1))
        assert max(cell_len(line) for line in shown.splitlines() if "─ " in line) <= width


def table_of(*rows: Row, **parts: Any) -> Outline:
    columns = (
        Column(title="shape"),
        Column(title="text", can_be_cut=True),
        Column(title="n", is_number=True),
    )
    return Outline(
        location="x",
        facts=(),
        columns=columns,
        branches=(Branch(path="/", rows=rows),),
        **{"notes": (), **parts},
    )


def test_cells_are_aligned_whatever_their_letters_are() -> None:
    rows = [
        Row(path=f"/{name}", cells=("3 x 4", text, number))
        for name, text, number in [("plain", "a", "1"), ("数据集", "b", "23"), ("ü", "全て", "456")]
    ]
    lines = [line for line in drawn(table_of(*rows)) if "─ " in line]
    assert len({cell_len(line[: line.index("3 x 4")]) for line in lines}) == 1
    assert len({cell_len(line) for line in lines}) == 1


def test_long_names_are_whole() -> None:
    long = "name" * 100
    rows = [Row(path=f"/{name}", cells=("3 x 4", "a", "1")) for name in ("short", long, "last")]
    lines = drawn(table_of(*rows), 80)
    number = next(number for number, line in enumerate(lines) if long in line)
    assert lines[number] == f"├─ {long}"
    assert lines[number + 1].startswith("│  ")
    assert lines[number + 1].index("3 x 4") == lines[number - 1].index("3 x 4")


def test_shapes_and_numbers_are_never_cut() -> None:
    shape = " x ".join(["1000000"] * 20)
    line = drawn(table_of(Row(path="/a", cells=(shape, "word " * 20, "12345"))), 60)[-1]
    assert shape in line
    assert "12345" in line
    assert "…" in line


def test_names_cannot_steer_the_terminal() -> None:
    rows = [Row(path="/\x1b[31mred\n[bold]x[/]", cells=("1", "\x1b]0;title\x07", "1"))]
    notes = (Note(title="problems", entries=(Entry(text="\x1b[2J", remedy="\x1b[H"),), is_warning=True),)
    text = "\n".join(drawn(table_of(*rows, notes=notes)))
    assert "\x1b" not in text
    assert r"\x1b[31mred\n[bold]x[/]" in text


def test_problems_are_shown_with_remedies() -> None:
    problem = Problem(path="/a", found="a strange " * 20 + "thing", remedy="do something", attribute="b")
    note = Note(title="problems", entries=problem_entries([problem]), is_warning=True)
    lines = drawn(table_of(notes=(note,)), 60)
    assert lines[-1] == "    → do something"
    assert all(len(line) <= 60 for line in lines)
    assert "/a @b: a strange" in lines[lines.index("problems:") + 1]


def test_commands_stay_on_one_line() -> None:
    command = "h5repack " + "-l /some/dataset:CHUNK=1x2 " * 20 + "a.h5 b.h5"
    note = Note(title="plan", entries=(Entry(text=command, is_command=True),))
    assert f"  {command}" in drawn(table_of(notes=(note,)), 60)


def test_long_lists_are_cut_but_not_problems() -> None:
    entries = tuple(Entry(text=f"entry {number}") for number in range(50))
    notes = (
        Note(title="names", entries=entries),
        Note(title="problems", entries=entries, is_warning=True),
    )
    lines = drawn(table_of(notes=notes))
    assert sum("entry " in line for line in lines) == 20 + 50
    assert "  (and 30 others: use --json)" in lines


def test_groups_may_be_nested_deeper_than_calls() -> None:
    paths = ["/", *("/g" * depth for depth in range(1, 3000))]
    outline = Outline(
        location="x",
        facts=(),
        columns=(),
        branches=tuple(Branch(path=path, rows=()) for path in paths),
        notes=(),
    )
    assert sum(line.endswith("g/") for line in drawn(outline)) == 2999


def test_selected_group_is_the_root_of_the_tree(source: Path) -> None:
    lines = drawn(outline_of(inspect(source, group="/deep")))
    assert "/deep/" in [line.strip() for line in lines] or "deep/" in lines
    assert any(line.startswith("├─ image") for line in lines)


def test_ten_thousand_datasets_are_drawn_at_once() -> None:
    rows = [
        Branch(
            path=f"/group_{group}" if group else "/",
            rows=tuple(
                Row(path=f"/group_{group}/dataset_{number}", cells=("1000 x 1000", "float32", f"{number}"))
                for number in range(100)
            ),
        )
        for group in range(100)
    ]
    outline = table_of()
    many = Outline(location="x", facts=(), columns=outline.columns, branches=tuple(rows), notes=())
    start = time.process_time()
    assert len(drawn(many)) > 10_000
    assert time.process_time() - start < 2


# Progress -----------------------------------------------------------------------------------

BAR = """if True:
    import sys, time, click
    from h5zarr.cli.terminal import progress_bar
    with progress_bar("Scanning", quiet=False, unit=sys.argv[1]) as progress:
        {body}
"""
COUNT = "for n in range(2001): progress and progress(n, 2000); time.sleep(0.0003)"


def bar(body: str, *, unit: str = "objects", **options: Any) -> str:
    return on_terminal("-c", BAR.format(body=body), unit, **options)


class Screen:
    """What stands on a terminal after everything was written to it."""

    def __init__(self, text: str) -> None:
        self.lines = [""]
        self.row = self.column = 0
        for piece in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[^\x1b]", text.replace("\n", "\r\n")):
            self.take(piece)

    def take(self, piece: str) -> None:
        line = self.lines[self.row]
        if piece == "\r":
            self.column = 0
        elif piece == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif piece == "\x1b[1A":
            self.row -= 1
        elif piece == "\x1b[2K":
            self.lines[self.row] = ""
        elif not piece.startswith("\x1b"):
            self.lines[self.row] = line[: self.column].ljust(self.column) + piece + line[self.column + 1 :]
            self.column += 1

    @property
    def text(self) -> str:
        """What can be read."""
        return "\n".join(self.lines).rstrip()


def drawings(shown: str) -> list[str]:
    return [CODES.sub("", piece) for piece in re.split(r"\r(?:\x1b\[1A)?\x1b\[2K", shown)]


def test_bar_tells_number_rate_and_time_left() -> None:
    shown = drawings(bar(COUNT))
    told = re.compile(r"Scanning [━╸╺]+ [\d,]+ of 2,000 objects, [\d,]+/s, \d+:\d\d left")
    assert any(told.match(drawing) for drawing in shown)


def test_bar_of_bytes_has_units() -> None:
    shown = drawings(
        bar("for n in range(200): progress(n * 10**7, 2 * 10**9); time.sleep(0.003)", unit="bytes")
    )
    assert any(re.search(r"MB of 2 GB, [\d.]+ GB/s, 0:\d\d left", drawing) for drawing in shown)


def test_bar_is_drawn_ten_times_a_second_at_most() -> None:
    start = time.monotonic()
    shown = bar(COUNT)
    seconds = time.monotonic() - start
    assert 2 <= len(drawings(shown)) <= 10 * seconds + 5


def test_bar_leaves_no_trace() -> None:
    shown = bar(COUNT)
    assert "Scanning" in shown
    assert HIDE_CURSOR not in shown
    assert Screen(shown).text == ""


def test_messages_stand_above_the_bar() -> None:
    long = "a message " * 20 + "[bold]x[/]"
    body = f"""for n in range(40):
            progress(n, 40); time.sleep(0.01)
            if n % 10 == 5: click.echo({long!r} + str(n), err=True)"""
    assert Screen(bar(body, width=400)).text == "\n".join(f"{long}{number}" for number in (5, 15, 25, 35))


@pytest.mark.parametrize(("error", "code"), [("ValueError", 1), ("KeyboardInterrupt", 130)])
def test_errors_and_interruptions_leave_no_bar(error: str, code: int) -> None:
    body = f"""progress(3, 7); time.sleep(0.2)
        try: raise {error}
        finally: sys.excepthook = lambda *_: sys.stderr.write("the end")"""
    expected = code if error == "ValueError" else -2
    assert Screen(bar(body, expected=expected)).text == "the end"


def test_ctrl_c_of_a_verb(source: Path) -> None:
    code = """if True:
        import os, signal, time
        from importlib import import_module as load
        def inspect(source, progress, **_):
            progress(3, 7); time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT); time.sleep(5)
        load("h5zarr.inspection").inspect = inspect
        from h5zarr.cli import main; main()
    """
    shown = on_terminal("-c", code, "inspect", str(source), expected=130)
    assert "3 of 7 objects" in shown
    assert Screen(shown).text == "h5zarr: interrupted; run it again to have a result"


def test_something_else_counted_has_its_own_rate() -> None:
    body = f"""{COUNT}
        for n in range(10): progress(n, 10); time.sleep(0.1)"""
    rates = re.findall(r"(\d+) of 10 objects, ([\d,.]+)/s", CODES.sub("", bar(body)))
    assert rates
    assert all(float(rate.replace(",", "")) < 50 for _, rate in rates)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_bar_on_plain_terminals(environment: dict[str, str]) -> None:
    shown = bar(COUNT, environment=environment)
    assert ("Scanning" in shown) is ("NO_COLOR" in environment)
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown)


@pytest.mark.parametrize("option", [(), ("--quiet",)])
def test_verb_draws_unless_quiet(source: Path, option: tuple[str, ...]) -> None:
    shown = h5zarr("inspect", source, *option, stdout_is_terminal=False, expected=1)
    assert ("Scanning" in shown) is not bool(option)
    assert Screen(shown).text == ""


# Messages ------------------------------------------------------------------------------------

RED = "\x1b[31m\x1b[1mh5zarr:\x1b[0m "


@pytest.mark.parametrize(
    ("environment", "is_red"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_errors_begin_in_red(environment: dict[str, str], is_red: bool, tmp_path: Path) -> None:
    shown = h5zarr("inspect", tmp_path / "none.h5", environment=environment, expected=2)
    assert (RED in shown) is is_red
    assert Screen(shown).text.startswith("h5zarr: ")


def test_errors_have_no_colour_in_a_pipe(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "none.h5")])
    assert result.stderr.startswith("h5zarr: ")
    assert "\x1b" not in result.stderr


def test_success_is_not_red(tmp_path: Path) -> None:
    shown = h5zarr("convert", FIXTURES / "climate.nc", "-o", tmp_path / "a.json")
    assert "a.json: 14 arrays" in Screen(shown).text
    assert RED not in shown


@pytest.mark.parametrize("name", ["links_dangling.h5", "climate.nc"])
def test_validation_draws_bytes(name: str, tmp_path: Path) -> None:
    h5zarr("convert", FIXTURES / name, "-o", tmp_path / "a.json", "-q", expected=int("dangling" in name))
    shown = h5zarr("validate", tmp_path / "a.json")
    assert "Comparing" in shown
    assert Screen(shown).text.startswith(f"h5zarr: {tmp_path}/a.json: ")


# Versions, completion, help -----------------------------------------------------------------


def test_version_names_what_h5zarr_stands_on() -> None:
    lines = CliRunner().invoke(main, ["--version"]).stdout.splitlines()
    told = dict(line.split(", version ") for line in lines)
    assert lines[0].startswith("h5zarr, version ")
    assert told["libhdf5"] == h5py.version.hdf5_version
    assert told["h5py"] == h5py.__version__
    assert told["Python"] == sys.version.split()[0]
    assert {"zarr", "numcodecs", "fsspec", "xarray"} <= told.keys()


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5zarr.cli.versions._PACKAGES", ("h5py", "no-such-package-anywhere"))
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("h5py, ")


def completions(*words: str) -> list[tuple[str, str]]:
    found = ShellComplete(main, {}, "h5zarr", "_H5ZARR_COMPLETE").get_completions([*words[:-1]], words[-1])
    return [(item.type, item.value) for item in found]


def test_verbs_and_options_complete() -> None:
    assert completions("insp") == [("plain", "inspect")]
    assert ("plain", "--include") in completions("inspect", "--in")
    assert completions("completion", "z") == [("plain", "zsh")]
    assert completions("convert", "--links", "att") == [("plain", "attributes")]


def test_paths_complete_and_urls_are_taken() -> None:
    path = ("file", "some/fol")
    for verb in ("inspect", "convert", "validate", "combine", "rename"):
        assert completions(verb, "some/fol") == [path]
    assert completions("convert", "a.h5", "-o", "some/fol") == [path]
    assert completions("inspect", "a.h5", "--html", "some/fol") == [path]
    assert completions("validate", "--source", "some/fol") == [path]
    assert completions("combine", "a.h5", "--append-to", "some/fol") == [path]


def test_completion_in_another_process() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": REPOSITORY,
        "_H5ZARR_COMPLETE": "bash_complete",
        "COMP_WORDS": "h5zarr val",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv[0] = 'h5zarr'; from h5zarr.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert run.stdout == b"plain,validate\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_H5ZARR_COMPLETE={shell}_complete" in result.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True)


def test_completion_tells_where_to_put_it() -> None:
    text = CliRunner().invoke(main, ["completion", "--help"]).stdout
    assert "bash-completion/completions" in text
    assert "fpath" in text
    assert "fish/completions/h5zarr.fish" in text


@pytest.mark.parametrize("verb", ["", *main.commands])
def test_help_fits_eighty_columns(verb: str) -> None:
    result = CliRunner().invoke(main, [*([verb] if verb else []), "--help"])
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for option in main.commands[verb].params if verb else main.params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None)


@pytest.mark.parametrize("verb", [verb for verb in main.commands if verb != "completion"])
def test_help_has_examples(verb: str) -> None:
    assert f"\n    h5zarr {verb} " in CliRunner().invoke(main, [verb, "--help"]).stdout


def test_verbs_come_in_the_order_of_use_with_whole_sentences() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(main.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_options_come_in_sections() -> None:
    @click.command(cls=Sectioned)
    @click.argument("name", metavar="NAME")
    @click.option("--own", help="Its own.")
    @click.option("--group", help="Of the file.")
    @click.option("--quiet", is_flag=True, help="Nothing.")
    def command(name: str) -> None:
        pass

    text = CliRunner().invoke(command, ["--help"]).stdout
    titles = [
        "Options:",
        "--own TEXT",
        "--help",
        "What goes into the references:",
        "--group TEXT",
        "What is shown:",
        "--quiet",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "How files are read" not in text
    assert text.count("NAME") == 1


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"],
        env={**os.environ, "PYTHONPATH": REPOSITORY},
        capture_output=True,
        check=True,
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_rich_is_imported_only_to_draw() -> None:
    runs = "from h5zarr.cli import main\n"
    slow = {"rich", "numpy", "h5py", "fsspec", "zarr", "jinja2", "asyncio"}
    assert not slow & modules_after(runs)
    path = str(FIXTURES / "climate.nc")
    piped = f"{runs}main(['inspect', {path!r}], standalone_mode=False)"
    assert not {"rich", "zarr", "jinja2"} & modules_after(piped)
