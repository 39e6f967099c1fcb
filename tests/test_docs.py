"""The documents keep what they promise: commands print what is shown, tables are true, translations in step."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from samples import write_features

import gpupeak
from gpupeak.cli.app import app, main
from gpupeak.cli.options import spread
from gpupeak.config import OPTIONS, ExtractConfig, keys_of, options_of
from gpupeak.corpora.corpus import resolve
from gpupeak.corpora.table import read_table
from gpupeak.errors import ConfigError
from gpupeak.features.packs import FeatureStore

REPOSITORY = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")
EVERY_README = pytest.mark.parametrize("name", READMES)
PLACES = ("docs", "examples", "bench/results")
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix() for place in PLACES for path in (REPOSITORY / place).glob("*.md")
)
DOCUMENTS = (*READMES, *PAGES)
EVERY_DOCUMENT = pytest.mark.parametrize("name", DOCUMENTS)
OTHERS_OPTIONS = {"--commit", "--dry-run", "--gil", "--outside_face_or_frame", "--requeue", "--time"}
"""Of benchmarks, py-spy, AffectGPT and Slurm, as far as a document's text names them."""


def _commands(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found |= _commands(command, f"{path}{name} ") if hasattr(command, "commands") else {f"{path}{name}": command}
    return found


COMMANDS = _commands(typer.main.get_command(app))


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def raw_blocks(document: str) -> list[tuple[str, str]]:
    """The code blocks, each with its language; those of a list without their indentation."""
    found = re.findall(r"^( *)```([a-z]+)\n(.*?)^\1```$", document, re.DOTALL | re.MULTILINE)
    return [(language, textwrap.dedent(text)) for _, language, text in found]


def blocks(document: str, language: str = "") -> list[str]:
    """The code blocks of a language, comments taken off and continued lines joined."""
    found = [text for kind, text in raw_blocks(document) if language in ("", kind)]
    return [re.sub(r" *#.*$", "", block, flags=re.MULTILINE).replace("\\\n", " ") for block in found]


def spans(document: str) -> list[str]:
    """What stands between single backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", document, flags=re.DOTALL | re.MULTILINE))


def commands(document: str) -> list[list[str]]:
    """Every gpupeak command line that is shown, its program's name left out, also behind another and within quotes."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    found = [shlex.split(line)[1:] for line in lines + spans(document) if line.startswith("gpupeak ")]
    inner = (re.search(r'[\s="/]gpupeak ([a-z][^"]*)', line) for line in lines)
    return found + [shlex.split(match[1]) for match in inner if match]


@EVERY_DOCUMENT
def test_every_command_parses(name: str) -> None:
    shown = commands(text(name))
    if name in READMES:
        assert {words[0] for words in shown} >= {"extract", "plan", "inspect"}
    for words in shown:
        depth = 1 if words[0] in COMMANDS else 2
        arguments = spread([word for word in words if word not in ("--help", "...")])[depth:]
        if arguments or shlex.join(["gpupeak", *words]) not in spans(text(name)):  # not where it is only named
            COMMANDS[" ".join(words[:depth])].make_context(words[depth - 1], arguments)


@EVERY_DOCUMENT
def test_every_option_exists(name: str) -> None:
    parameters = [parameter for command in COMMANDS.values() for parameter in command.params]
    there = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {span.split()[0] for span in spans(text(name)) if span.startswith("--")}
    assert named - there - OTHERS_OPTIONS == set()


def options_table() -> str:
    """The rows of the table in docs/options.md."""
    rows = []
    for field, option in OPTIONS.items():
        takers = ("extract", "plan", "doctor", "verify", "report", "inspect", "pack")
        taken = [command for command in takers if field in options_of(command)]
        commands = "all" if "pack" in taken else ", ".join(taken)
        words = f"{option.flag}`, `{option.off}" if bool in option.types else f"{option.flag} {option.metavar}"
        bounds = "{:,} to {:,}".format(*option.bounds) if option.bounds else ""
        key = "" if field == "config_file" else f"`{keys_of(field)[0]}`"
        rows.append(f"| `{words}` | {option.help} | {option.told} | {bounds} | {commands} | {key} |")
    return "\n".join(rows)


@pytest.mark.parametrize("name", ["docs/options.md", "docs/options.zh-CN.md"])
def test_the_table_of_options_is_current(name: str) -> None:
    assert text(name).endswith(f" |\n{options_table()}\n"), "docs/options.md says how the table is made"


@EVERY_README
def test_figures_are_those_of_the_record_that_is_linked(name: str) -> None:
    (record,) = re.findall(r"\]\((bench/results/[\w.-]+\.jsonl)\)", text(name))
    command = [sys.executable, "bench/tables.py", record]
    tables = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    shown = [
        line for line in text(name).splitlines() if re.match(r"\| [\w/. ,-]+ \| [\d.]+ \| [\d.]+ \| .*\d \|$", line)
    ]
    assert len(shown) == 12
    assert set(shown) <= set(tables)
    (hours,) = (line.split("|")[3].strip() for line in shown if "ViT-L/14" in line)
    assert f"| {hours} h |" in text(name)


def figures(value: object) -> Iterator[str]:
    """Every number of a record, as a page may write it."""
    if isinstance(value, dict):
        for each in value.values():
            yield from figures(each)
    elif isinstance(value, (int, float)):
        yield from (format(value, form) for form in ("", ",", ".0f", ",.0f", ".1f", ".2f"))


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/reliability.zh-CN.md"])
def test_what_is_survived_is_what_the_record_that_is_linked_says(page: str) -> None:
    (name,) = set(re.findall(r"\]\(\.\./(bench/results/faults-[\w.-]+\.json)\)", text(page)))
    record = json.loads((REPOSITORY / name).read_text())
    parts = record["parts"].values()
    assert record["conditions"]["commit"]
    assert all(part["ok"] and part["scale"] == "full" for part in parts)
    sums = [sum(part.get(key, 0) for part in parts) for key in ("kept_lines", "failed_and_made_again")]
    shown = re.findall(r"(?<![\w-])\d[\d.,]*\b", text(page)[text(page).index(name) + len(name) :].partition("\n## ")[0])
    assert len(shown) > 40
    assert set(shown) <= {*figures(record["parts"]), *map(str, sums)}


@EVERY_README
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    lines = [line for block in blocks(text(name), "bash") for line in block.splitlines()] + spans(text(name))
    shown = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"demo", "setup", "test", "check", "bench"} <= shown <= targets


@EVERY_DOCUMENT
def test_every_link_leads_somewhere(name: str) -> None:
    other = "English" if ".zh-CN" in name else "中文"
    for shown, link in re.findall(r"\[([^][]*)\]\(([^)]+)\)", text(name)):
        file, _, anchor = link.partition("#")
        if ((REPOSITORY / name).parent / file).with_suffix(".zh-CN.md").exists() or ".zh-CN" in file:
            assert (".zh-CN" in file) == (".zh-CN" in name) or shown.startswith(other), f"{link}: the other language"
        if "://" in link:
            continue
        target = (REPOSITORY / name).parent / file if file else REPOSITORY / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], link


@EVERY_DOCUMENT
def test_nothing_is_installed_that_is_not_published(name: str) -> None:
    lines = [line for line in text(name).splitlines() if "pip install" in line and "--no-index" not in line]
    assert [line for line in lines if re.search(r"pip install '?gpupeak", line)] == []


def test_the_site_has_every_page_and_every_public_name() -> None:
    pages = set(re.findall(r": ([\w./-]+\.md)$", text("mkdocs.yml"), re.MULTILINE))
    assert pages - {"CONTRIBUTING.md", "CHANGELOG.md"} == {name for name in DOCUMENTS if ".zh-CN" not in name}
    shown = re.findall(r"^from (gpupeak[\w.]*) import (\w+)$", text("README.md"), re.MULTILINE)
    public = {f"gpupeak.{name}" for name in gpupeak.__all__} | {".".join(name) for name in shown}
    for page in ("docs/api.md", "docs/api.zh-CN.md"):
        assert public == set(re.findall(r"^\| `([\w.]+)` \|", text(page), re.MULTILINE))
        assert public - {"gpupeak.__version__"} == set(re.findall(r"^<!-- ::: ([\w.]+) -->$", text(page), re.MULTILINE))


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs adds it")
    command = [sys.executable, "docs/build_site.py", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in ("docs/api/index.html", "zh-CN/docs/api/index.html"):
        assert 'id="gpupeak.FeatureStore.as_torch_dataset"' in (tmp_path / page).read_text(encoding="utf-8")


def test_the_training_loop_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(tmp_path / "mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms", "a", "b", "c")
    runpy.run_path(str(REPOSITORY / "examples/train.py"))["train"](tmp_path, "mer2023", epochs=5)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


@EVERY_README
def test_the_table_of_datasets_is_the_one_in_use(name: str) -> None:
    table = read_table(None)
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d,]+) \| `([^`]+)`[,\uff0c] ?(.+) \| `([^`]+)` \| `(\w+)` \|$", text(name), re.MULTILINE
    )
    assert [row[0] for row in rows] != []
    assert {row[0] for row in rows} == set(table.default)
    for dataset, expected, labels, keys, videos, consumer in rows:
        entry = table.entries[dataset]
        shown = [key.strip("*") for key in re.findall("`([^`]+)`", keys)]
        told = (int(expected.replace(",", "")), labels, videos, consumer)
        assert told == (entry.expected, entry.labels, entry.videos, entry.consumer)
        assert shown == [key for key in (entry.key, entry.test_prefix) if key]
    named = set(spans(text(name)))
    assert set(table.entries) <= named


@EVERY_README
def test_the_configuration_file_is_one(name: str, tmp_path: Path) -> None:
    (block,) = blocks(text(name), "toml")
    for directory in ("MER/mycorpus/clips", "MER/mer2024-dataset-process/video", "openface/mycorpus"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "MER/mycorpus/list.txt").write_text("a\n")
    (tmp_path / "MER/mer2024-dataset-process/label-6way.npz").write_bytes(b"")
    file = tmp_path / "datasets.toml"
    file.write_text(block.replace("/data/", f"{tmp_path}/"))
    mer2024, mycorpus = resolve(ExtractConfig(datasets=("mer2024", "mycorpus"), config_file=file))
    assert mer2024.rule.method == "uniform"
    assert (mycorpus.rule.n, mycorpus.rule.method) == (16, "emotion_peak")
    assert mycorpus.au_dirs == (tmp_path / "openface/mycorpus",)
    file.write_text("[datasets.mer2024]\nnothing = 1\n")
    with pytest.raises(ConfigError, match="unknown key 'nothing'") as caught:
        resolve(ExtractConfig(config_file=file))
    allowed = set(str(caught.value).partition("allowed: ")[2].split(", "))
    assert {"samples", "n_frms"} <= allowed <= set(spans(text(name)))


@EVERY_README
def test_the_python_shown_calls_what_there_is(name: str) -> None:
    block = "\n".join(blocks(text(name), "python"))
    names: dict[str, Any] = {}
    for node in ast.parse(block).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(ast.unparse(node), names)
            continue
        assert isinstance(node, ast.Assign)
        for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
            function = eval(ast.unparse(call.func), names)
            inspect.signature(function).bind(*call.args, **{str(k.arg): k.value for k in call.keywords})
            if function is FeatureStore:
                exec(ast.unparse(node), names)  # what is made of constants alone is asked for its methods further on
    assert names["emotion_peak"](peak=61, before=61, after=38, total=100) == [0, 31, 59, 60, 61, 62, 63, 68]


@EVERY_README
def test_the_map_names_modules_that_are_there(name: str) -> None:
    section = re.split(r"^## ", text(name), flags=re.MULTILINE)
    rows = [line for part in section for line in part.splitlines() if line.startswith("| ") and "`pipeline`" in line]
    assert len(rows) == 1
    (part,) = (part for part in section if rows[0] in part)
    named = {span for line in part.splitlines() if line.startswith("|") for span in re.findall(r"`([\w/.]+)`", line)}
    for span in named:
        assert (REPOSITORY / "gpupeak" / span).exists() or (REPOSITORY / f"gpupeak/{span}.py").exists(), span


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if ".zh-CN" not in name])
def test_the_translation_is_in_step(name: str) -> None:
    english, chinese = text(name), text(name.replace(".md", ".zh-CN.md"))
    assert blocks(english) == blocks(chinese)
    for pattern in (r"^#+ ", r"^\|", r"^- ", r"^\d+\. ", r"^ *```[a-z]+"):
        assert re.findall(pattern, english, re.MULTILINE) == re.findall(pattern, chinese, re.MULTILINE), pattern
    assert set(spans(english)) == set(spans(chinese))


def test_what_is_shown_of_a_configuration_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for dataset, count in (("mer2023", 411), ("sims", 200)):
        directory = tmp_path / "preextracted_features" / dataset / "frame_CLIP_VIT_LARGE_emotion_peak_8frms"
        write_features(directory, *map(str, range(count)))
    shown = raw_blocks(text("docs/affectgpt.md"))
    for language, block in shown:
        if language == "yaml":
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    printed = 0
    for (kind, command), (language, output) in itertools.pairwise(shown):
        if (kind, language) == ("bash", "text"):
            (words,) = commands(f"```bash\n{command}```")
            main(words)
            assert capfd.readouterr().out.replace(str(tmp_path), "/data/AffectGPT/AffectGPT") == output, command
            printed += 1
    assert printed >= 10


if __name__ == "__main__":
    print(options_table())
