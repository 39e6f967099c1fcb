"""Files from strangers are data: in small what `data.run` does in full, drawn by Hypothesis, and each defect found."""

from __future__ import annotations

import ast
import json
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import pytest
from data import NAMES, Guard, attacks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import read_manifest

from gpupeak.config import ExtractConfig
from gpupeak.corpora.datasets import resolve
from gpupeak.corpora.labels import _Unlike, _unpickled, read_names
from gpupeak.errors import ConfigError, LabelError, RunError
from gpupeak.features import directory as store
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.packs import unpack
from gpupeak.storage.atomic import replace_file

REPOSITORY = Path(__file__).resolve().parents[2]
MANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", data.KINDS)
def test_files_of_strangers(name: str, guard: Guard, tmp_path: Path) -> None:
    count = max(5, data.COUNT["small"] // data.SLOW.get(name, 1))
    found = data.fuzz(data.KINDS[name], count, f"11/{name}", tmp_path / "fuzz", guard)
    assert found["faults"] == []
    assert found["longest_s"] < data.SECONDS
    assert found.get("read", 0) + found.get("refused", 0) == count


def test_names(tmp_path: Path) -> None:
    found = data.names(tmp_path / "names")
    assert found["faults"] == []
    assert found["saved"] + found["refused"] == found["tried"] == len(NAMES)


def test_the_guard_hears(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard of an unguarded reader: silence above means something."""
    (tmp_path / "payload.py").write_text("x = print")
    monkeypatch.syspath_prepend(tmp_path)
    for pickled, heard in ((b"cos\nsystem\n.", "pickle asks for"), (b"cpayload\nx\n.", "import payload")):
        guard.heard.clear()
        with guard.on():
            pickle.loads(pickled)
        assert any(event.startswith(heard) for event in guard.heard), guard.heard
    monkeypatch.delitem(__import__("sys").modules, "payload")


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: repr(attack[:40]))
def test_a_pickle_that_would_run_something_is_refused(attack: bytes) -> None:
    with pytest.raises(
        (_Unlike, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError)
    ):
        _contents = _unpickled(attack)
        raise ValueError(f"read as {_contents!r}")  # data at most: `read_names` wants a dict or a list of strings


@MANY
@given(st.lists(st.tuples(st.sampled_from(data.pickletools.opcodes), st.binary(max_size=12)), max_size=30))
def test_opcodes_in_any_order_build_data_or_nothing(drawn: list[tuple[Any, bytes]]) -> None:
    pickled = b"\x80\x04" + b"".join(opcode.code.encode("latin-1") + argument for opcode, argument in drawn) + b"."
    try:
        found = _unpickled(pickled)
    except Exception:  # `read_names` makes a LabelError of all of them
        return
    assert type(found).__module__ in ("builtins", "gpupeak.corpora.labels")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@MANY
@given(run=_JSON, entries=st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(data.ENTRY, _JSON)), max_size=3))
def test_whatever_json_a_record_holds(run: Any, entries: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("record")
    file = data.KINDS["manifest, run.json"].make(data.Draw(0), root)
    file.write_text(json.dumps(run))
    lines = [json.dumps({**entry, "sample": "a"}) for entry in entries]
    file.with_name("manifest.jsonl").write_text("\n".join(lines))
    try:
        data.KINDS["manifest, run.json"].read(file)
    except ConfigError as error:
        assert "\n" not in str(error)


# Each defect found on the way


@pytest.mark.parametrize("number", range(len(data._bombs())))
def test_yaml_that_is_gigabytes_once_written_out_is_refused_at_once(number: int, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(data._bombs()[number])
    signal.alarm(20)
    try:
        with pytest.raises(ConfigError) as caught:
            resolve(ExtractConfig(config_file=tmp_path / "c.yaml", datasets=("mycorpus",)))
    finally:
        signal.alarm(0)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("tagged", ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!python/name:os.system x"])
def test_yaml_tags_that_its_parser_trips_over(tagged: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"sampling: {tagged}\n")
    with pytest.raises(ConfigError):
        resolve(ExtractConfig(config_file=tmp_path / "c.yaml"))


def test_a_control_character_in_a_settings_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"sampling: \0\n")
    with pytest.raises(ConfigError, match="special characters are not allowed"):
        resolve(ExtractConfig(config_file=tmp_path / "c.yaml"))


def test_records_that_are_no_files_or_too_deep(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.jsonl")
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunError, match=r"manifest\.jsonl: cannot be read: not a regular file"):
        list(read_manifest(tmp_path))
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read \(.*not a regular file.*\); move it away"):
        FeatureDirectory(tmp_path, 8, 768)
    for name in ("manifest.jsonl", "run.json"):
        (tmp_path / name).unlink()
        (tmp_path / name).write_text('{"sample": "a"}\n' if name.startswith("m") else "")
        with (tmp_path / name).open("a") as file:
            file.write("[" * 100_000 + "\n")
    assert [entry["sample"] for entry in read_manifest(tmp_path)] == ["a"]
    with pytest.raises(ConfigError, match="recursion"):
        FeatureDirectory(tmp_path, 8, 768)


def test_a_file_is_never_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(store, "temporary_name", lambda: ".gpupeak-guessed.tmp")
    (tmp_path / ".gpupeak-guessed.tmp").symlink_to("precious")
    replace_file(tmp_path / "page.html", [b"page"])
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "page.html").read_bytes() == b"page"


def test_a_packed_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "frame_X_uniform_8frms.safetensors")
    with pytest.raises(ConfigError, match="not a regular file"):
        unpack(tmp_path / "frame_X_uniform_8frms", 8)


# No code path unpickles


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _dangers(source: str) -> list[str]:
    """Calls that run what is in a file, or could."""
    found = []
    for name, call in _calls(ast.parse(source)):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "__import__") or last in (
            "Unpickler",
            "unsafe_load",
            "full_load",
            "unsafe_load_all",
        ):
            found.append(name)
        if (
            name.split(".")[0] in ("pickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle")
            and last != "dumps"
        ):
            found.append(name)
        admits = keywords.get("allow_pickle", "False") != "False"
        if admits and name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            found.append(f"{name} that admits pickles")
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        if name.startswith("torch.jit.load") or name in ("yaml.load", "yaml.load_all", "os.system", "os.popen"):
            found.append(name)
        if keywords.get("shell") == "True":
            found.append(f"{name} in a shell")
    return found


def test_no_code_path_loads_a_pickle() -> None:
    found = {}
    for path in (
        *REPOSITORY.glob("gpupeak/**/*.py"),
        *REPOSITORY.glob("kernels/*.py"),
        *REPOSITORY.glob("bench/**/*.py"),
    ):
        if dangers := _dangers(path.read_text()):
            found[path.relative_to(REPOSITORY).as_posix()] = dangers
    # What the processes of one Ray job send each other, which Ray itself unpickles on the way: no file.
    assert found == {"gpupeak/rayline.py": ["pickle.loads", "pickle.loads"]}


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "pickle.Unpickler(f).load()",
        "np.load(p, allow_pickle=trusted)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "yaml.load(t)",
        "eval(x)",
        "subprocess.run(c, shell=True)",
        "torch.jit.load(p)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert _dangers(source)


def test_a_label_file_with_code_is_refused_by_the_name_of_what_it_asks_for(tmp_path: Path) -> None:
    draw = data.Draw(0)
    seen = 0
    for _ in range(300):
        file = data._labels(draw, tmp_path)
        try:
            read_names(file, "test_corpus")
        except LabelError as error:
            seen += "nothing was run" in str(error)
    assert seen > 20
