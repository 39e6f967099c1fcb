"""What `--weights` means, and the SHA-256 of it: read once, then remembered."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SPEC

from gpupeak.encode.weights import cache
from gpupeak.encode.weights.identity import WeightsId, identify, locate
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import WeightsError


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def one_line(spec: EncoderSpec, weights: str | None) -> str:
    with pytest.raises(WeightsError) as caught:
        identify(spec, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "clip.pt"
    file.write_bytes(b"PKbefore")
    return file


def test_random_weights_are_known_by_their_seed() -> None:
    assert identify(SPEC, "random:7") == identify(SPEC, "random:007") == WeightsId("random:7", seed=7)


def test_a_file_is_known_by_its_absolute_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    expected = WeightsId(str(file), sha256(b"PKbefore"), (file,))
    assert identify(SPEC, "clip.pt") == identify(SPEC, "~/clip.pt") == identify(SPEC, str(file)) == expected


def test_a_directory_means_the_weight_file_in_it(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes(b"PK" + name.encode())
        found = identify(SPEC, str(tmp_path))
        assert (found.source, found.sha256, found.files) == (
            str(tmp_path),
            sha256(b"PK" + name.encode()),
            (tmp_path / name,),
        )


def test_shards_are_hashed_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(b"PK" + name.encode())
    index = {"weight_map": {"a": names[1], "b": names[0], "c": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = identify(SPEC, str(tmp_path))
    assert found.files == tuple(tmp_path / name for name in names)
    command = "sha256sum model-*.safetensors | cut -c1-64 | sha256sum | cut -c1-64"
    shell = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.sha256 == shell.stdout.strip()
    assert identify(SPEC, str(tmp_path / "model.safetensors.index.json")).sha256 == found.sha256


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[" * 100_000,
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "missing.safetensors"}}',
        '{"weight_map": {"a": "../secret"}}',
        '{"weight_map": {"a": "x\\u0000"}}',
    ],
)
def test_an_index_that_names_no_files_beside_it(index: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(b"")
    (home / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in one_line(SPEC, str(home))


def test_none_means_the_encoders_own_tag() -> None:
    assert identify(SPEC, None) == identify(SPEC, "openai") == WeightsId("openai", tag="openai")
    spec = encoder_spec("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert identify(spec, None) == identify(spec, "laion2B-s34B-b79K")


def test_a_word_is_a_path_if_one_is_there_but_openai_never_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(SPEC, "metaclip_400m").tag == "metaclip_400m"
    for name in ("metaclip_400m", "openai"):
        (tmp_path / name).write_bytes(b"")
    assert locate(SPEC, "metaclip_400m").files == (tmp_path / "metaclip_400m",)
    assert locate(SPEC, "openai").tag == locate(SPEC, None).tag == "openai"
    assert locate(SPEC, "./openai").files == (tmp_path / "openai",)


@pytest.mark.parametrize(
    "weights",
    ["", "./missing", "openai/clip-vit-large-patch14", "~nobody-here/x", "a\0b", "x" * 5000 + ".pt"],
)
def test_weights_that_are_not_there(weights: str) -> None:
    line = one_line(SPEC, weights)
    assert "no such file or directory" in line and "random:SEED" in line


def test_a_pipe_cannot_be_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "neither a file nor a directory" in one_line(SPEC, str(tmp_path / "pipe.pt"))


def in_another_process(file: Path, before: str = "") -> str:
    """The SHA-256 that one finds, after `before`."""
    code = (
        f"import hashlib, sys; {before}\n"
        "from gpupeak.encode.weights.identity import identify; from gpupeak.encoders import encoder_spec\n"
        "print(identify(encoder_spec('CLIP_VIT_LARGE'), sys.argv[1]).sha256)"
    )
    return subprocess.check_output([sys.executable, "-c", code, str(file)], text=True).strip()


def test_a_hash_is_remembered_and_the_file_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha256(b"PKbefore")
    assert identify(SPEC, str(file)).sha256 == before
    monkeypatch.setattr(hashlib, "sha256", None)
    assert identify(SPEC, str(file)).sha256 == before
    assert in_another_process(file, "hashlib.sha256 = None") == before, "which reads what is saved"


def test_another_time_size_or_inode_is_hashed_again(tmp_path: Path, file: Path) -> None:
    identify(SPEC, str(file))
    status = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"PKafter!")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identify(SPEC, str(file)).sha256 == sha256(b"PKafter!"), "its ctime tells"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert identify(SPEC, str(file)).sha256 == sha256(b"PKafter!")
    status = file.stat()
    (tmp_path / "new").write_bytes(b"PKnewest")
    (tmp_path / "new").replace(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identify(SPEC, str(file)).sha256 == sha256(b"PKnewest")
    with file.open("ab") as stream:
        stream.write(b"!")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identify(SPEC, str(file)).sha256 == sha256(b"PKnewest!")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, '{"files": {"PATH": {"sha256": "x"}}, "tags": 3}', "\udcff"],
)
def test_a_torn_cache_is_no_cache(content: str, file: Path, empty_cache: Path) -> None:
    saved = empty_cache / "gpupeak" / "weights.json"
    saved.parent.mkdir(parents=True)
    saved.write_text(content.replace("PATH", str(file)), errors="surrogateescape")
    assert identify(SPEC, str(file)).sha256 == sha256(b"PKbefore")
    assert locate(SPEC, "openai").files == ()
    assert sha256(b"PKbefore") in json.loads(saved.read_text()).values(), "the cache was mended"


def test_a_cache_that_is_a_link_is_replaced_not_followed(tmp_path: Path, file: Path, empty_cache: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    identify(SPEC, str(file))
    saved = empty_cache / "gpupeak/weights.json"
    elsewhere.write_text(json.dumps(dict.fromkeys(json.loads(saved.read_text()), "forged")))
    saved.unlink()
    saved.symlink_to(elsewhere)
    assert in_another_process(file) == sha256(b"PKbefore")
    assert not saved.is_symlink() and "forged" in elsewhere.read_text()


def test_a_cache_that_cannot_be_written_still_serves_this_process(
    file: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.write_text("a file where the directory belongs")
    before = sha256(b"PKbefore")
    assert identify(SPEC, str(file)).sha256 == before
    monkeypatch.setattr(hashlib, "sha256", None)
    assert identify(SPEC, str(file)).sha256 == before


def test_a_fetched_tag_is_found_and_hashed_until_its_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "open_clip_model.safetensors"
    file.write_bytes(b"PKfetched")
    cache.remember_tag(SPEC.model, "openai", file)
    assert identify(SPEC, None) == WeightsId("openai", sha256(b"PKfetched"), (file,), tag="openai")
    file.unlink()
    assert identify(SPEC, None) == WeightsId("openai", tag="openai")
