"""The documents: links lead somewhere, commands and their options exist, the README is short and its Python runs."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

typer = pytest.importorskip("typer")

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "models/*.md")


@pytest.fixture(scope="module")
def pages(checkout: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for pattern in PAGES for path in sorted(checkout.glob(pattern))}


def anchors(text: str) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The words behind ``program`` in code blocks and in code within sentences, comments left out."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [
        " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    for line in (*lines, *inline):
        if re.match(rf"\s*{program} ", line):
            yield shlex.split(line, comments=True)[len(program.split()) :]


def test_links_lead_somewhere(pages: dict[Path, str], checkout: Path) -> None:
    lost = []
    for path, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            known = other.exists() and (not anchor or anchor in anchors(other.read_text(encoding="utf-8")))
            lost += [] if known else [f"{path.relative_to(checkout)}: {target}"]
    assert not lost


def test_every_page_can_be_reached_from_the_readme_and_the_index(checkout: Path) -> None:
    for start in ("README.md", "docs/index.md"):
        path = checkout / start
        linked = {(path.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", path.read_text())}
        assert {page for page in (checkout / "docs").glob("*.md") if page.name != "index.md"} <= linked, start


def test_commands_and_their_options_exist(pages: dict[Path, str]) -> None:
    from drive_seg.cli import app

    known = typer.main.get_command(app).commands
    options = {
        name: {option for p in command.params for option in p.opts + p.secondary_opts}
        for name, command in known.items()
    }
    wrong, seen = [], set()
    for path, text in pages.items():
        for command, *words in commands(text, "drive-seg"):
            if command == "--help":
                continue
            seen.add(command)
            given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            has = options.get(command, set()) | {"--help"}
            wrong += [f"{path.name}: drive-seg {command} {option}" for option in given if option not in has]
            wrong += [] if command in known else [f"{path.name}: drive-seg {command}"]
    assert not wrong
    assert set(known) <= seen, "commands that no page shows"


def test_launch_files_and_their_arguments_exist(pages: dict[Path, str], checkout: Path) -> None:
    files = {path.name: path.read_text() for path in (checkout / "launch").glob("*.launch.py")}
    arguments = {name for text in files.values() for name in re.findall(r'"(\w+)"', text)}
    shown = [words for text in pages.values() for words in commands(text, "ros2 launch drive_seg")]
    assert {name for name, *_ in shown} == set(files)
    given = {word.partition(":=")[0] for _, *words in shown for word in words if ":=" in word}
    assert given <= arguments


def test_make_targets_exist(pages: dict[Path, str], checkout: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (checkout / "Makefile").read_text(), re.MULTILINE))
    shown = {words[0] for text in pages.values() for words in commands(text, "make") if words}
    assert {"demo", "test", "docs", "lint"} <= shown <= targets


def test_pre_commit_runs_the_ruff_that_is_pinned(checkout: Path) -> None:
    hooks = yaml.safe_load((checkout / ".pre-commit-config.yaml").read_text())
    (rev,) = (repo["rev"] for repo in hooks["repos"] if repo["repo"].endswith("ruff-pre-commit"))
    assert f"\nruff=={rev.removeprefix('v')}\n" in (checkout / "constraints.txt").read_text()


def test_ci_runs_the_script_of_the_repository(checkout: Path) -> None:
    workflow = yaml.safe_load((checkout / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_the_readme_is_short(pages: dict[Path, str], checkout: Path) -> None:
    assert pages[checkout / "README.md"].count("\n") <= 200


def test_the_readme_s_python_runs(
    pages: dict[Path, str],
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", pages[checkout / "README.md"], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("frame.png", np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8))
    found: dict = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["result"].label.shape == (96, 160) and found["result"].confidence.dtype == np.uint8
    assert cv2.imread("mask.png").shape == (96, 160, 3)
    assert capsys.readouterr().out.startswith("(96, 160) ")


def test_python_in_the_docs_is_python(pages: dict[Path, str]) -> None:
    for path, text in pages.items():
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            ast.parse(code, str(path))
