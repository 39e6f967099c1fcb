"""Videos, action units and features in stores: from list to .npy on a real S3 server on loopback, with its faults."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import Answer, Server
from samples import ENCODER, features, of_demo, words
from storage.conftest import calm  # noqa: F401 - a fixture

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.inspect import inspect_video
from gpupeak.check.plan import plan
from gpupeak.check.repair import repair
from gpupeak.check.verify import verify
from gpupeak.cli.app import main
from gpupeak.corpora.corpus import resolve
from gpupeak.corpora.samples import list_samples
from gpupeak.demo.corpus import CLIPS, DemoCorpus
from gpupeak.errors import ConfigError, RunError, WriteError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.writer import NpyWriter
from gpupeak.storage import remote
from gpupeak.storage.atomic import process_name
from gpupeak.storage.places import is_there, place
from gpupeak.tally import RunReport
from gpupeak.types import Sample, Saved, Url

HOME = "frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"
PARTS = "00001-of-00002"
RECORDS = ("run.json", "manifest.jsonl")
DEAD = f"{2**22 + 1}@{process_name().partition('@')[2]}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server
    server.close()


@pytest.fixture(scope="module")
def s3(server: Server, corpus: DemoCorpus) -> Any:
    """A client of the server, which holds the corpus in the bucket `data`."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    root = corpus.dataset_root.parent
    for path in root.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "data", f"mer/{path.relative_to(root)}")
    return client


@dataclass
class Store:
    """A bucket of one test's own for features, on a server that also holds the corpus."""

    client: Any
    server: Server
    bucket: str
    corpus: DemoCorpus
    cache: Path

    def config(self, **changes: object) -> ExtractConfig:
        given: dict[str, object] = {
            "dataset_root": "s3://data/mer/dataset",
            "mer_factory_output": "s3://data/mer/mer-factory-output",
            "cache": self.cache,
        }
        return of_demo(self.corpus, f"s3://{self.bucket}/features", **given | changes)

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"features/{name}", Body=data)

    def objects(self) -> dict[str, bytes]:
        """What lies in the bucket below `features/`."""
        keys = [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]
        return {
            key.removeprefix("features/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
        }

    def npy(self) -> dict[str, bytes]:
        return {name: data for name, data in self.objects().items() if name.endswith(".npy")}

    def manifest(self) -> list[dict[str, Any]]:
        files = self.objects().items()
        return [json.loads(line) for name, data in files if "manifest" in name for line in data.splitlines()]

    def whole(self, plain: dict[str, bytes]) -> bool:
        """Whether the bucket holds these features, a line of each sample, and nothing else."""
        records = {f"{dataset}/{HOME}/{name}" for dataset in self.corpus.datasets for name in RECORDS}
        lines = sorted(line["sample"] for line in self.manifest())
        names = sorted(clip.name for clip in CLIPS)
        return (self.npy(), self.objects().keys() - plain.keys(), lines) == (plain, records, names)


@pytest.fixture
def store(
    s3: Any, server: Server, corpus: DemoCorpus, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Store]:
    name = f"out-{abs(hash(request.node.name)):x}"
    s3.create_bucket(Bucket=name)
    server.requests.clear()
    yield Store(s3, server, name, corpus, tmp_path)
    server.fault = healthy


def healthy(method: str, path: str, query: str) -> None:
    """No fault."""


@pytest.fixture(scope="module")
def plain(corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("plain")
    assert gpupeak.extract(of_demo(corpus, out)).exit_code == 0
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.npy")}


def counts(report: RunReport) -> tuple[int, int, int]:
    told = report.to_json()
    return told["saved"], told["skipped"], told["failed"]


def upload(root: Path, place: str) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            fsspec.filesystem("memory").pipe_file(f"{place}/{path.relative_to(root)}", path.read_bytes())


def test_a_run_from_a_store_to_a_store_saves_what_a_local_one_does(corpus: DemoCorpus, tmp_path: Path) -> None:
    upload(corpus.dataset_root.parent, "/mer")
    there = {"dataset_root": "memory://mer/dataset", "mer_factory_output": "memory://mer/mer-factory-output"}
    for out, changes in ((tmp_path / "out", {}), ("memory://out", {**there, "cache": tmp_path})):
        assert counts(gpupeak.extract(of_demo(corpus, out, datasets=("iemocap",), **changes))) == (2, 0, 0)
    stored = {name: file.getvalue() for name, file in MemoryFileSystem.store.items() if name.endswith("npy")}
    plain = {f"/{path.relative_to(tmp_path)}": path.read_bytes() for path in tmp_path.rglob("*.npy")}
    assert {name: data for name, data in stored.items() if name.startswith("/out")} == plain


@pytest.mark.slow
def test_a_run_from_s3_to_s3_saves_what_a_local_one_does(store: Store, plain: dict[str, bytes]) -> None:
    config, server = store.config(), store.server
    report = gpupeak.extract(config)
    assert counts(report) == (5, 0, 0)
    assert [str(tally.directory) for tally in report.datasets] == [
        f"s3://{store.bucket}/features/{dataset}/{HOME}" for dataset in config.datasets
    ]
    assert store.whole(plain)
    assert not any(request.startswith("HEAD") for request in server.requests), "what is not listed is not asked for"
    asked = Counter(request for request in server.requests if request.startswith("GET /data/mer"))
    assert {count for request, count in asked.items() if request.endswith((".mp4", ".avi"))} == {1}
    assert max(asked.values()) <= 2, "an action-unit file is looked into before the run begins"

    written = b"".join(data for name, data in store.objects().items() if not name.endswith(".npy")).decode()
    assert str(store.cache) not in written + json.dumps(report.to_json())
    for line in store.manifest():
        if line["peak"] is not None:
            assert line["peak"]["file"].startswith("s3://data/mer/mer-factory-output/")
        else:
            assert line["fallback"]["reason"] == "no AU file"
            assert "s3://data/mer/mer-factory-output/MER2023" in line["fallback"]["detail"]

    server.requests.clear()
    assert counts(gpupeak.extract(config)) == (0, 5, 0)
    put = {request.rpartition("/")[2] for request in server.requests if request.startswith("PUT")}
    assert put == {".gpupeak.lock"}, "nothing was left to do"
    assert not any(request.endswith((".mp4", ".avi", ".npy")) for request in server.requests)


@pytest.mark.slow
def test_what_a_store_lacks_is_made_and_what_it_has_is_kept(store: Store, plain: dict[str, bytes]) -> None:
    _, second, *rest = sorted(plain)
    for name in rest:
        store.put(name, plain[name])
    store.put(second, plain[second][:-1])  # torn by another tool
    store.server.requests.clear()
    config = store.config()
    report = gpupeak.extract(config)
    assert counts(report) == (2, 3, 0)
    assert any(f"files in s3://{store.bucket}/features" in notice for notice in report.notices)
    assert store.npy() == plain
    assert {f"PUT /{store.bucket}/features/{name}" for name in rest}.isdisjoint(store.server.requests)

    with pytest.raises(ConfigError, match=f"^s3://{store.bucket}/features/iemocap/.*features made with --weights"):
        gpupeak.extract(replace(config, weights="random:1"))
    assert counts(gpupeak.extract(replace(config, weights="random:1", overwrite=True))) == (5, 0, 0)
    assert not store.npy().items() & plain.items()
    run = json.loads(store.objects()[f"mer2023/{HOME}/run.json"])
    assert (run["settings"]["weights"], run["overwriting"]) == ("random:1", False)


@pytest.mark.slow
def test_shards_in_a_store_are_merged_there(store: Store, plain: dict[str, bytes]) -> None:
    configs = [store.config(num_shards=2, shard_index=index) for index in range(2)]
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(gpupeak.extract, configs))
    assert sum(counts(report)[0] for report in reports) == 5 and all(counts(report)[2] == 0 for report in reports)
    assert store.npy() == plain
    assert not any(name.endswith(RECORDS) for name in store.objects()), "each has records of its own"
    assert counts(gpupeak.extract(store.config())) == (0, 5, 0)
    assert store.whole(plain)


@pytest.mark.slow
def test_faults_that_pass_change_nothing(store: Store, plain: dict[str, bytes]) -> None:
    seen: Counter[str] = Counter()
    locked = threading.Lock()

    def fault(method: str, path: str, query: str) -> Answer | None:
        with locked:
            key = f"{method} {path} {query}"
            number = seen[key]
            seen[key] += 1
        if number == 0:
            return store.server.unavailable
        if method == "GET" and number == 1 and path.endswith((".mp4", ".avi", ".json", ".csv", ".npz")):
            return store.server.cut_off
        if method == "GET" and number == 2 and path.endswith(".mp4"):
            return store.server.slow
        return None

    store.server.fault = fault
    assert counts(gpupeak.extract(store.config())) == (5, 0, 0)
    # Of a directory that is not there, s3fs lists the parent, too, and does not mind if that fails.
    assert min(number for key, number in seen.items() if "list-type" not in key) >= 2, "every request failed once"
    store.server.fault = healthy
    assert store.npy() == plain


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["video/sample_00000001.mp4", "sample_00000001_merr_data.json"])
def test_a_file_that_cannot_be_fetched_fails_its_sample_alone(
    suffix: str, store: Store, plain: dict[str, bytes]
) -> None:
    store.server.fault = lambda method, path, query: store.server.unavailable if path.endswith(suffix) else None
    report = gpupeak.extract(store.config(datasets=("mer2023",)))
    assert counts(report) == (2, 0, 1) and report.exit_code == 1
    (failed,) = report.datasets[0].failed_first
    assert (failed.sample.name, failed.stage) == ("sample_00000001", "find")
    assert re.match(rf"s3://data/mer/.*{suffix}: Please reduce your request rate., 6 times$", failed.reason)
    store.server.fault = healthy
    assert store.npy() == {name: data for name, data in plain.items() if "mer2023" in name and "00000001" not in name}


@pytest.mark.slow
def test_a_run_killed_while_it_uploads_leaves_whole_files_only(
    store: Store, plain: dict[str, bytes], tmp_path: Path
) -> None:
    uploading, killed = threading.Event(), threading.Event()
    puts: list[str] = []

    def fault(method: str, path: str, query: str) -> Answer | None:
        if method == "PUT" and path.endswith(".npy"):
            puts.append(path)
            if len(puts) == 2:
                uploading.set()
                killed.wait(60)
                return store.server.unavailable
        return None

    store.server.fault = fault
    arguments = [sys.executable, "-m", "gpupeak", "extract", *words(store.config())]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # where what it cannot remove will lie
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    assert uploading.wait(120), process.communicate()
    process.kill()
    process.communicate()
    killed.set()
    store.server.fault = healthy
    left = store.npy()
    assert 0 < len(left) < len(plain) and left.items() <= plain.items()
    assert counts(gpupeak.extract(store.config())) == (len(plain) - len(left), len(left), 0)
    assert store.whole(plain)


@pytest.mark.slow
def test_features_that_cannot_be_put_are_not_saved(store: Store) -> None:
    store.server.fault = lambda method, path, query: store.server.refused if method == "PUT" else None
    with pytest.raises(WriteError, match=rf"^s3://{store.bucket}/features/mer2023/{HOME}: cannot be written"):
        gpupeak.extract(store.config())
    assert not any(request.endswith((".mp4", ".avi")) for request in store.server.requests), "nothing is fetched"

    def fault(method: str, path: str, query: str) -> Answer | None:
        return store.server.unavailable if method == "PUT" and path.endswith("00000001.npy") else None

    store.server.fault = fault
    with pytest.raises(WriteError, match=r"sample_00000001\.npy: cannot be written: Please reduce .* 6 times"):
        gpupeak.extract(store.config(datasets=("mer2023",)))
    store.server.fault = healthy
    assert f"mer2023/{HOME}/sample_00000001.npy" not in store.npy()
    assert {f"mer2023/{HOME}/{line['sample']}.npy" for line in store.manifest()} <= store.npy().keys()


@pytest.mark.slow
def test_wrong_credentials_and_no_server_are_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.server.fault = lambda method, path, query: store.server.refused
    with pytest.raises(RunError, match=r"^s3://data/mer/dataset: cannot be listed: There is no such access key\.$"):
        gpupeak.extract(store.config())
    assert len(store.server.requests) == 1, "it is not tried again"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RunError, match=r"^s3://far/mer: cannot be listed: Could not connect .*, 6 times$"):
        gpupeak.extract(store.config(dataset_root="s3://far/mer"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"^s3://locked/mer: cannot be listed: Unable to locate credentials$"):
        gpupeak.extract(store.config(dataset_root="s3://locked/mer"))


def test_a_store_is_listed_as_a_directory_is(tmp_path: Path) -> None:
    root = tmp_path / "mer"
    faces = root / "mer2023-dataset-process/openface_face"
    faces.mkdir(parents=True)
    (root / "mer2023-dataset-process/list.txt").write_text("a\nb\nc\nd.avi\n-\n")
    for name in ("a.npy", "b/b.npy", "c/a.npy", "d.npy", "d/d.npy", ".e.npy", "f.txt", "g/h/g.npy"):
        (faces / name).parent.mkdir(exist_ok=True, parents=True)
        (faces / name).write_bytes(b"x")
    videos = root / "mer2023-dataset-process/video"
    videos.mkdir()
    for name in ("a.mp4", "a.avi", "b.AVI", "c.txt", "d.mp4", "d.avi", ".e.mp4", "h.mkv", "-.mov"):
        (videos / name).write_bytes(b"x")
    upload(root, "/mer")
    own = tmp_path / "own.toml"
    for labels in ("", 'labels = "mer2023-dataset-process/list.txt"'):
        own.write_text(f'[datasets.mine]\nvideos = "mer2023-dataset-process/video"\n{labels}\n')
        for stream in ("frame", "face"):
            given = {"datasets": ("mine",), "config_file": own, "stream": stream, "cache": tmp_path / "cache"}
            listings = []
            for where in (root, "memory://mer"):
                (found,) = resolve(ExtractConfig(dataset_root=where, **given))  # type: ignore[arg-type]
                listing = list_samples(found, tmp_path)
                shown = [(str(each), str(each.video)) for each in listing.samples if isinstance(each, Sample)]
                listings.append(([(n, v.replace(f"{root}/", "memory://mer/")) for n, v in shown], listing.warnings))
            assert listings[0] == listings[1] and len(listings[0][0]) > 2


@pytest.mark.slow
def test_looking_goes_by_url_too(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = plan(of_demo(store.corpus, tmp_path / "none")), plan(store.config())
    assert [replace(each, directory=tmp_path) for each in here] == [replace(each, directory=tmp_path) for each in there]
    assert is_there(place(f"s3://{store.bucket}")) and not is_there(place("s3://there-is-none"))
    assert str(there[0].directory) == f"s3://{store.bucket}/features/mer2023/{HOME}"
    video = "s3://data/mer/dataset/mer2023-dataset-process/video/sample_00000000.mp4"
    look = ["inspect", video, "--mer-factory-output", "s3://data/mer/mer-factory-output/MER2023"]
    assert main([*look, "--cache", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["video"], told["peak"]["index"]) == (video, CLIPS[0].peak)
    assert told["peak"]["file"].startswith("s3://data/mer/mer-factory-output/MER2023/")
    assert inspect_video(store.config(), "mer2023/sample_00000000").plan.indices == tuple(told["indices"])


@pytest.mark.slow
def test_verify_finds_and_mends_what_is_broken_in_a_store(store: Store, plain: dict[str, bytes]) -> None:
    config, root = store.config(), f"s3://{store.bucket}/features"
    broken = f"mer2023/{HOME}/sample_00000001.npy"
    for name, data in {**plain, broken: plain[broken][:128] + bytes(len(plain[broken]) - 128)}.items():
        store.put(name, data)
    found = verify(config, deep=1)
    assert [(fault.sample, fault.kind) for each in found for fault in each.faults] == [("sample_00000001", "broken")]
    assert all(each.deep is not None and each.deep.compared == 1 for each in found)
    store.server.requests.clear()
    assert counts(repair(config, found)) == (1, 4, 0)
    assert sum(request.startswith("PUT") and request.endswith(".npy") for request in store.server.requests) == 1
    assert all(each.ok for each in verify(config)) and store.npy() == plain
    loaded = gpupeak.load_features(root, "mer2023", "sample_00000001", encoder=ENCODER)
    np.testing.assert_array_equal(loaded, np.frombuffer(plain[broken], np.float32, offset=128).reshape(8, -1))
    with pytest.raises(FileNotFoundError, match=rf"^{root}/mer2023/.*/nobody\.npy"):
        gpupeak.load_features(root, "mer2023", "nobody", encoder=ENCODER)


def test_the_writer_puts_several_at_once_and_releases_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=20)
    put, released = remote.put, []

    def slow(url: Url, data: bytes) -> None:
        together.wait()
        put(url, data)

    monkeypatch.setattr(remote, "put", slow)
    target = Url("memory", "features")
    batches = [features(target, f"a{n}", f"b{n}") for n in range(4)]  # type: ignore[arg-type]
    for batch in batches:
        object.__setattr__(batch, "release", lambda: released.append(1))
    local = features(tmp_path, "local")
    outcomes = list(NpyWriter().write([*batches, local]))
    assert all(isinstance(outcome, Saved) and "write" in outcome.seconds for outcome in outcomes)
    assert sorted(outcome.sample.name for outcome in outcomes) == sorted(
        [f"{x}{n}" for x in "ab" for n in range(4)] + ["local"]
    )
    assert len(released) == 4
    stored = MemoryFileSystem.store["/features/b3.npy"].getvalue()
    list(NpyWriter().write([features(tmp_path, "a3", "b3")]))
    assert stored == (tmp_path / "b3.npy").read_bytes() and (tmp_path / "local.npy").exists()


def test_records_of_a_store_are_put_when_they_have_changed(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({"/out/mine/run.json": b'{"settings": {}}', "/out/mine/a.npy": b"x"})
    url = Url("memory", "out/mine")
    with FeatureDirectory(url, 8, 4, copies=tmp_path) as directory:
        assert os.listdir(directory.path) == ["run.json"], "features are not copied"
        assert fs.exists("/out/mine/.gpupeak.lock")
        with pytest.raises(RunError, match=r"^memory://out/mine: another gpupeak run is writing here since 20"):
            FeatureDirectory(url, 8, 4, copies=tmp_path / "b").__enter__()
        with pytest.raises(RunError, match="another gpupeak run is writing here"):
            FeatureDirectory(url, 8, 4, PARTS, copies=tmp_path / "c").__enter__()
        directory.begin({"settings": {}}, done={"a"}, overwrite=False)
        assert json.loads(fs.cat_file("/out/mine/manifest.jsonl"))["outcome"] == "kept"
        remote.forget()
        directory.finish(["a"])
    assert sorted(fs.find("/out")) == [f"/out/mine/{name}" for name in ("a.npy", "manifest.jsonl", "run.json")]


@pytest.mark.parametrize(("process", "taken_over"), [(DEAD, True), ("1@elsewhere.4", False), ("torn", False)])
def test_a_lock_that_a_killed_run_left(process: str, taken_over: bool, tmp_path: Path) -> None:
    """On this machine the next run sees that its owner is gone; else it names what to remove."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/out/mine/.gpupeak.lock", b"{" if process == "torn" else json.dumps({"process": process}).encode())
    directory = FeatureDirectory(Url("memory", "out/mine"), 8, 4, PARTS, copies=tmp_path)
    if taken_over:
        with directory:
            assert not fs.exists("/out/mine/.gpupeak.lock")
    else:
        with pytest.raises(RunError, match=r"If it is dead, remove memory://out/mine/\.gpupeak\.lock$"):
            directory.__enter__()
    assert not fs.exists(f"/out/mine/.gpupeak-{PARTS}.lock")


def test_of_several_that_find_a_dead_lock_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, create, remove, one = fsspec.filesystem("memory"), remote.create, remote.remove, threading.Lock()

    def atomic(url: Url, data: bytes) -> bool:  # as S3's is; that of memory is not
        with one:
            return create(url, data)

    def slow(url: Url) -> None:
        threading.Event().wait(0.02 * random.random())
        remove(url)

    monkeypatch.setattr(remote, "create", atomic)
    monkeypatch.setattr(remote, "remove", slow)
    together = threading.Barrier(6, timeout=30)

    def enter(number: int) -> bool:
        directory = FeatureDirectory(Url("memory", "out/mine"), 8, 4, copies=tmp_path / str(number))
        together.wait()
        try:
            directory.__enter__()
        except RunError:
            return bool(together.wait() < 0)
        together.wait()
        directory.__exit__(None, None, None)
        return True

    for _ in range(10):
        fs.pipe_file("/out/mine/.gpupeak.lock", json.dumps({"process": DEAD}).encode())
        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(enter, range(6))) == 1
