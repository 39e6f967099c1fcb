"""Videos, action units and features in stores: a real S3 server on loopback, with faults in front of it, and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import boto3
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from samples import features
from werkzeug.serving import make_server

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.survey import examine, survey
from gpupeak.check.verify import repair, verify
from gpupeak.cli.app import main
from gpupeak.corpora.datasets import list_samples, resolve
from gpupeak.decode.worker import Planned, prepare
from gpupeak.demo.corpus import CLIPS, Corpus
from gpupeak.errors import ConfigError, RunError, SampleError, UsageError, WriteError
from gpupeak.features import hold, spool
from gpupeak.features.writer import NpyWriter
from gpupeak.storage import fetching as fetch
from gpupeak.storage import remote
from gpupeak.storage.mirror import Mirror
from gpupeak.tally import RunReport
from gpupeak.types import Fetch, Sample, SamplingRule, Saved, StoredFile

ENCODER = "open_clip:ViT-S-32-alt"
HOME = "frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"
Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Server:
    """moto's S3 server. `fault` is asked first about every request: what it returns answers, None lets it pass."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fault: Callable[[str, str, str], Answer | None] = lambda method, path, query: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()

    def pass_on(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environment, start)
        return answer

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path, query = (environment[key] for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        self.requests.append(f"{method} {path}" + (f"?{query}" if query else ""))
        return (self.fault(method, path, query) or self.pass_on)(environment, start)

    def unavailable(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return _error(start, "503 Service Unavailable", "ServiceUnavailable", "Please reduce your request rate.")

    def refused(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return _error(start, "403 Forbidden", "InvalidAccessKeyId", "There is no such access key.")

    def cut_off(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Half of the body, then the connection is closed."""
        body = b"".join(self.pass_on(environment, start))
        yield body[: len(body) // 2]
        raise ConnectionAbortedError

    def slow(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Ten pieces, a tenth of a second before each."""
        body = b"".join(self.pass_on(environment, start))
        for place in range(10):
            time.sleep(0.1)
            yield body[len(body) * place // 10 : len(body) * (place + 1) // 10]


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None: ...

    def log_request(self, code: object = "-", size: object = "-") -> None: ...


def _error(start: Callable[..., Any], status: str, code: str, message: str) -> Iterable[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for another run's answer: all are on this machine."""
    monkeypatch.setattr(hold, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(hold, "_LOOK_SECONDS", 0.3)
    monkeypatch.setattr(hold, "_ANSWER_SECONDS", 2.0)


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


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses between tries, in this process; and nothing left behind for the next test."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.01)
    yield
    remote._filesystem.cache_clear()
    remote.forget()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def s3(server: Server, corpus: Corpus) -> Any:
    """A client of the server, which holds the corpus in the bucket `data`."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    root = corpus.dataset_root.parent
    for path in root.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "data", f"mer/{path.relative_to(root)}")
    return client


@pytest.fixture
def bucket(s3: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an empty bucket for one test's features, at whose end the server is itself again."""
    name = f"out-{abs(hash(request.node.name)):x}"
    s3.create_bucket(Bucket=name)
    server.requests.clear()
    yield name
    server.fault = lambda method, path, query: None


def settings(corpus: Corpus, **changes: object) -> ExtractConfig:
    given: dict[str, Any] = {
        "datasets": corpus.datasets,
        "dataset_root": corpus.dataset_root,
        "mer_factory_output": corpus.mer_factory_output,
        "config_file": corpus.config_file,
        "encoder": ENCODER,
        "weights": "random:0",
        "device": "cpu",
        "workers": 1,
    }
    return ExtractConfig(**given | changes)


def in_s3(corpus: Corpus, bucket: str, cache: Path, **changes: object) -> ExtractConfig:
    given: dict[str, Any] = {
        "dataset_root": "s3://data/mer/dataset",
        "mer_factory_output": "s3://data/mer/mer-factory-output",
        "output_root": f"s3://{bucket}/features",
        "cache": cache,
    }
    return settings(corpus, **given | changes)


@pytest.fixture(scope="module")
def plain(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without any store makes."""
    out = tmp_path_factory.mktemp("plain")
    assert gpupeak.extract(settings(corpus, output_root=out)).exit_code == 0
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.npy")}


def objects(s3: Any, bucket: str) -> dict[str, bytes]:
    """What lies in the bucket below `features/`."""
    listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    read = {each["Key"]: s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed}
    return {key.removeprefix("features/"): data for key, data in read.items()}


def npy(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".npy")}


def counts(report: RunReport) -> tuple[int, int, int]:
    told = report.to_json()
    return told["saved"], told["skipped"], told["failed"]


# From a store to a store


def test_a_run_from_s3_to_s3_saves_what_a_local_one_does(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    config = in_s3(corpus, bucket, tmp_path)
    report = gpupeak.extract(config)
    assert counts(report) == (5, 0, 0)
    assert [str(tally.directory) for tally in report.datasets] == [
        f"s3://{bucket}/features/{dataset}/{HOME}" for dataset in corpus.datasets
    ]
    files = objects(s3, bucket)
    assert npy(files) == plain
    assert files.keys() - plain.keys() == {
        f"{dataset}/{HOME}/{name}" for dataset in corpus.datasets for name in ("run.json", "manifest.jsonl")
    }
    assert not any(request.startswith("HEAD") for request in server.requests), "what is not listed is not asked for"
    asked = Counter(request for request in server.requests if request.startswith("GET /data/mer"))
    assert set(asked.values()) == {1}, "every file is fetched once"

    records = b"".join(data for name, data in files.items() if not name.endswith(".npy")).decode()
    assert str(tmp_path) not in records and "gpupeak-urls" not in records + json.dumps(report.to_json())
    lines = [json.loads(line) for name, data in files.items() if "manifest" in name for line in data.splitlines()]
    assert len(lines) == len(CLIPS)
    for line in lines:
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


def test_what_a_store_lacks_is_made_and_what_it_has_is_kept(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    _, second, *rest = sorted(plain)
    for name in rest:
        s3.put_object(Bucket=bucket, Key=f"features/{name}", Body=plain[name])
    s3.put_object(Bucket=bucket, Key=f"features/{second}", Body=plain[second][:-1])  # torn by another tool
    server.requests.clear()
    config = in_s3(corpus, bucket, tmp_path)
    report = gpupeak.extract(config)
    assert counts(report) == (2, 3, 0)
    assert any(f"files in s3://{bucket}/features" in notice for notice in report.notices)
    assert npy(objects(s3, bucket)) == plain
    assert {f"PUT /{bucket}/features/{name}" for name in rest}.isdisjoint(server.requests)

    with pytest.raises(ConfigError, match=f"^s3://{bucket}/features/iemocap/.*holds features made with weights"):
        gpupeak.extract(dataclasses.replace(config, weights="random:1"))
    other = dataclasses.replace(config, weights="random:1", overwrite=True)
    assert counts(gpupeak.extract(other)) == (5, 0, 0)
    files = objects(s3, bucket)
    assert not any(npy(files)[name] == data for name, data in plain.items())
    run = json.loads(files[f"mer2023/{HOME}/run.json"])
    assert (run["settings"]["weights"], run["overwriting"]) == ("random:1", False)


def test_shards_in_a_store_are_merged_there(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    configs = [in_s3(corpus, bucket, tmp_path, num_shards=2, shard_index=index) for index in range(2)]
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(gpupeak.extract, configs))
    assert sum(counts(report)[0] for report in reports) == 5 and all(counts(report)[2] == 0 for report in reports)
    files = objects(s3, bucket)
    assert npy(files) == plain
    assert not any(name.endswith(("/run.json", "/manifest.jsonl")) for name in files), "each has records of its own"

    whole = in_s3(corpus, bucket, tmp_path)
    assert counts(gpupeak.extract(whole)) == (0, 5, 0)
    files = objects(s3, bucket)
    assert files.keys() - plain.keys() == {
        f"{dataset}/{HOME}/{name}" for dataset in corpus.datasets for name in ("run.json", "manifest.jsonl")
    }
    lines = [json.loads(line) for name, data in files.items() if "manifest" in name for line in data.splitlines()]
    assert sorted(line["sample"] for line in lines) == sorted(clip.name for clip in CLIPS)


def test_two_runs_at_one_url_do_not_both_go_on(
    corpus: Corpus, s3: Any, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    config = in_s3(corpus, bucket, tmp_path)

    def run(config: ExtractConfig) -> RunReport | RunError:
        try:
            return gpupeak.extract(config)
        except RunError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(run, [config, dataclasses.replace(config, overwrite=True)]))
    (refused,) = (str(end) for end in ended if isinstance(end, RunError))
    (report,) = (end for end in ended if isinstance(end, RunReport))
    assert counts(report) == (5, 0, 0)
    assert re.match(rf"s3://{bucket}/\S+: another gpupeak run is writing here; let it end", refused)
    files = objects(s3, bucket)
    assert npy(files) == plain
    assert not [name for name in files if name.endswith(".lock")]


def test_a_plain_run_waits_for_no_shard_that_runs(corpus: Corpus, s3: Any, bucket: str, tmp_path: Path) -> None:
    gpupeak.extract(in_s3(corpus, bucket, tmp_path, num_shards=2, shard_index=0))
    before = objects(s3, bucket)
    (record,) = {name.rpartition("/")[0] for name in before if "/run." in name and name.startswith("mer2023/")}
    running = hold.Hold(remote.mirror_path(tmp_path / "other", f"s3://{bucket}/features/{record}"), "00001-of-00002")
    running.take()
    with pytest.raises(RunError, match="another gpupeak run is writing here"):
        gpupeak.extract(in_s3(corpus, bucket, tmp_path))
    running.check()
    running.release()
    assert objects(s3, bucket) == before
    assert counts(gpupeak.extract(in_s3(corpus, bucket, tmp_path)))[2] == 0


def test_faults_that_pass_change_nothing(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    locked = threading.Lock()

    def fault(method: str, path: str, query: str) -> Answer | None:
        with locked:
            key = f"{method} {path} {query}"
            number = seen[key]
            seen[key] += 1
        if number == 0:
            return server.unavailable
        if method == "GET" and number == 1 and path.endswith((".mp4", ".avi", ".json", ".csv", ".npz")):
            return server.cut_off
        if method == "GET" and number == 2 and path.endswith(".mp4"):
            return server.slow
        return None

    server.fault = fault
    assert counts(gpupeak.extract(in_s3(corpus, bucket, tmp_path))) == (5, 0, 0)
    # Of a directory that is not there, s3fs lists the parent, too, and does not mind if that fails.
    assert min(number for key, number in seen.items() if "list-type" not in key) >= 2, "every request failed once"
    server.fault = lambda method, path, query: None
    assert npy(objects(s3, bucket)) == plain


def test_a_server_that_hangs_is_not_waited_for(
    corpus: Corpus,
    s3: Any,
    server: Server,
    bucket: str,
    plain: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 2}})
    hangs, released = ["/data/mer/dataset/mer2023-dataset-process/label-6way.npz"], threading.Event()
    hung: list[bool] = []

    def hang(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        released.wait(120)
        hung.append(released.is_set())
        return server.pass_on(environment, start)

    def fault(method: str, path: str, query: str) -> Answer | None:
        if path in hangs:
            hangs.remove(path)
            return hang
        return None

    server.fault = fault
    assert counts(gpupeak.extract(in_s3(corpus, bucket, tmp_path, datasets=("mer2023",)))) == (3, 0, 0)
    assert not hangs and not hung, "one request still has no answer"
    released.set()


@pytest.mark.parametrize("suffix", ["video/sample_00000001.mp4", "sample_00000001_merr_data.json"])
def test_a_file_that_cannot_be_fetched_fails_its_sample_alone(
    suffix: str, corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    server.fault = lambda method, path, query: server.unavailable if path.endswith(suffix) else None
    report = gpupeak.extract(in_s3(corpus, bucket, tmp_path, datasets=("mer2023",)))
    assert counts(report) == (2, 0, 1) and report.exit_code == 1
    (failed,) = report.datasets[0].failed_first
    assert failed.sample.name == "sample_00000001" and failed.stage == "find"
    assert failed.reason.startswith("s3://data/mer/") and failed.reason.endswith(
        f"{suffix}: Please reduce your request rate., 6 times"
    )
    server.fault = lambda method, path, query: None
    assert npy(objects(s3, bucket)) == {
        name: data for name, data in plain.items() if "mer2023" in name and "00000001" not in name
    }


def test_a_bucket_itself_is_a_directory(
    s3: Any, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote.is_there(remote.mirror_path(tmp_path, f"s3://{bucket}"))
    assert not remote.is_there(remote.mirror_path(tmp_path, "s3://there-is-none"))
    s3.put_object(Bucket=bucket, Key="a.mp4", Body=b"no video")
    words = ["plan", "--name", "mine", "--sampling", "uniform", "--cache", str(tmp_path / "cache"), "--videos"]
    assert main([*words, f"s3://{bucket}", "--output-root", str(tmp_path / "out")]) in (0, 1)
    assert "please report" not in capsys.readouterr().err
    assert main([*words, "foo://x"]) == 2
    assert "foo://" in capsys.readouterr().err


def test_a_file_that_has_changed_since_it_was_listed_is_not_taken(
    s3: Any, server: Server, bucket: str, tmp_path: Path
) -> None:
    s3.put_object(Bucket=bucket, Key="a.mp4", Body=b"first")
    path = remote.mirror_path(tmp_path, f"s3://{bucket}/a.mp4")
    stored = listed(path)
    s3.put_object(Bucket=bucket, Key="a.mp4", Body=b"a longer second")
    with pytest.raises(remote.StoreError, match=r"a\.mp4: is larger than the 5 bytes it was listed with"), held(stored):
        pass
    s3.put_object(Bucket=bucket, Key="a.mp4", Body=b"3rd")
    with pytest.raises(remote.StoreError, match=r"3 bytes came, expected 5, 6 times"), held(stored):
        pass
    s3.delete_object(Bucket=bucket, Key="a.mp4")
    with pytest.raises(remote.StoreError, match="does not exist") as caught, held(stored):
        pass
    assert caught.value.missing
    assert list(tmp_path.rglob("*.part")) == []


def test_a_large_file_comes_in_pieces_and_only_the_lost_one_again(
    s3: Any, server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_CHUNK", 1 << 20)
    data = np.random.default_rng(0).bytes((5 << 20) + 7)
    s3.put_object(Bucket=bucket, Key="large.mp4", Body=data)
    stored = listed(remote.mirror_path(tmp_path, f"s3://{bucket}/large.mp4"))
    gets = []

    def fault(method: str, path: str, query: str) -> Answer | None:
        gets.append(method)
        return server.cut_off if method == "GET" and gets.count("GET") == 3 else None

    server.fault = fault
    with held(stored):
        assert stored.path.read_bytes() == data
    assert Counter(gets) == {"GET": 6 + 1, "HEAD": 1}


# Killed, and what a store does not take


def command(config: ExtractConfig, *more: str) -> list[str]:
    return [
        *("extract", *config.datasets, "--dataset-root", str(config.dataset_root)),
        *("--mer-factory-output", str(config.mer_factory_output), "--output-root", str(config.output_root)),
        *("--config", str(config.config_file), "--visual-encoder", config.encoder, "--weights", "random:0"),
        *("--device", "cpu", "--workers", "1", "--cache", str(config.cache), *more),
    ]


def test_a_run_killed_while_it_uploads_leaves_whole_files_only(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    uploading, killed = threading.Event(), threading.Event()
    puts: list[str] = []

    def half(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Take half of what is put, and the rest when its sender is dead."""
        first = environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"]) // 2)
        uploading.set()
        killed.wait(60)
        environment["wsgi.input"] = _Rest(first, environment["wsgi.input"])
        return server.pass_on(environment, start)

    def fault(method: str, path: str, query: str) -> Answer | None:
        if method == "PUT" and path.endswith(".npy"):
            puts.append(path)
            return half if len(puts) == 2 else None
        return None

    server.fault = fault
    config = in_s3(corpus, bucket, tmp_path)
    arguments = [sys.executable, "-m", "gpupeak", *command(config)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # where what it cannot remove will lie
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    assert uploading.wait(120), process.communicate()
    process.kill()
    process.communicate()
    killed.set()
    server.fault = lambda method, path, query: None
    left = npy(objects(s3, bucket))
    assert 0 < len(left) < len(plain) and left.items() <= plain.items()

    report = gpupeak.extract(config)
    assert counts(report) == (len(plain) - len(left), len(left), 0)
    files = objects(s3, bucket)
    assert npy(files) == plain
    lines = [json.loads(line) for name, data in files.items() if "manifest" in name for line in data.splitlines()]
    assert sorted(line["sample"] for line in lines) == sorted(clip.name for clip in CLIPS)


class _Rest:
    """A request's body of which a part has been read."""

    def __init__(self, first: bytes, rest: Any) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> bytes:
        data, self._first = self._first, b""
        more: bytes = self._rest.read(size - len(data) if size >= 0 else -1)
        return data + more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)


def test_a_store_that_takes_nothing_ends_the_run_before_anything_is_decoded(
    corpus: Corpus, s3: Any, server: Server, bucket: str, tmp_path: Path
) -> None:
    server.fault = lambda method, path, query: server.refused if method == "PUT" else None
    with pytest.raises(WriteError, match=rf"^s3://{bucket}/features/mer2023/{HOME}/\.gpupeak\.lock: cannot be written"):
        gpupeak.extract(in_s3(corpus, bucket, tmp_path))
    assert not any(request.endswith((".mp4", ".avi")) for request in server.requests)


def test_features_that_cannot_be_put_are_not_saved(
    corpus: Corpus, s3: Any, server: Server, bucket: str, tmp_path: Path
) -> None:
    server.fault = lambda method, path, query: (
        server.unavailable if method == "PUT" and path.endswith("00000001.npy") else None
    )
    with pytest.raises(WriteError, match=r"sample_00000001\.npy: cannot be written: Please reduce .* 6 times"):
        gpupeak.extract(in_s3(corpus, bucket, tmp_path, datasets=("mer2023",)))
    server.fault = lambda method, path, query: None
    files = objects(s3, bucket)
    assert f"mer2023/{HOME}/sample_00000001.npy" not in files
    lines = [json.loads(line) for line in files[f"mer2023/{HOME}/manifest.jsonl"].splitlines()]
    assert all(f"mer2023/{HOME}/{line['sample']}.npy" in files for line in lines)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"dataset_root": "s3://no-such-bucket/x"}, 2, "dataset root s3://no-such-bucket/x is not a directory"),
        ({"dataset_root": "s3://data/nothing"}, 2, "dataset root s3://data/nothing is not a directory"),
        ({"mer_factory_output": "s3://data/no"}, 2, "mer2023: no action-unit directory at s3://data/no/MER2023, "),
        (
            {"output_root": "s3://no-such-bucket/x"},
            3,
            f"s3://no-such-bucket/x/mer2023/{HOME}/.gpupeak.lock: cannot be",
        ),
        ({"dataset_root": "foo://data/x"}, 2, "foo://data: fsspec knows no foo://, as it knows s3:// and gs://"),
        ({"dataset_root": "gs://data/x"}, 2, "gs://data: gs:// needs gcsfs: pip install gcsfs"),
        ({"output_root": "s3://me:secret@out/x"}, 2, "s3://...@out: a URL with a password ends up in logs"),
        ({"dataset_root": "s3://"}, 2, "'s3://' names no place in a store, expected s3://BUCKET/DIRECTORY"),
        ({"dataset_root": "s3://data/a/../b"}, 2, "'s3://data/a/../b' names no place in a store"),
    ],
)
def test_wrong_use_is_one_line(
    changes: dict[str, object],
    code: int,
    message: str,
    corpus: Corpus,
    s3: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = in_s3(corpus, "unused", tmp_path / "cache", datasets=("mer2023",))
    words = command(config, "--quiet")
    for option, value in changes.items():
        words[words.index(f"--{option.replace('_', '-')}") + 1] = str(value)
    assert main(words) == code
    printed = capsys.readouterr()
    (line,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {message}") and "secret" not in printed.err + printed.out
    assert "gpupeak-urls" not in printed.err


def test_wrong_credentials_are_one_line(
    corpus: Corpus, s3: Any, server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_s3(corpus, bucket, tmp_path)
    server.fault = lambda method, path, query: server.refused
    with pytest.raises(RunError, match=r"^s3://data/mer/dataset: cannot be listed: There is no such access key\.$"):
        gpupeak.extract(config)
    assert len(server.requests) == 1, "it is not tried again"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    remote._filesystem.cache_clear()
    with pytest.raises(RunError, match=r"^s3://data/mer/dataset: cannot be listed: Unable to locate credentials$"):
        gpupeak.extract(config)


def test_a_store_that_cannot_be_reached_is_one_line(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(RunError, match=r"^s3://data/mer/dataset: cannot be listed: Could not connect .*, 6 times$"):
        gpupeak.extract(in_s3(corpus, "out", tmp_path))


def test_a_store_that_goes_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [stored_sample(tmp_path, f"memory://gone/{number}.mp4") for number in range(100)]
    got = []
    with pytest.raises(RunError, match=r"^64 samples in a row cannot be fetched, the last one: memory://gone/"):
        for _, error in fetch.fetched(samples):
            got.append(error)
    assert len(got) == 63 and all(isinstance(error, SampleError) for error in got)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"URLs need fsspec: pip install 'gpupeak\[remote\]'"):
        remote.listing(remote.mirror_path(tmp_path, "s3://data/x"))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    with pytest.raises(UsageError, match=r"s3:// needs s3fs: pip install 'gpupeak\[remote\]'"):
        remote.listing(remote.mirror_path(tmp_path, "s3://data/x"))


def test_without_a_url_fsspec_is_not_imported(corpus: Corpus, tmp_path: Path) -> None:
    words = ["plan", *corpus.datasets, "--dataset-root", str(corpus.dataset_root), "--output-root", str(tmp_path)]
    words += ["--mer-factory-output", str(corpus.mer_factory_output), "--weights", "random:0", "--json"]
    code = "import sys; from gpupeak.cli.app import main; "
    code += f"code = main({words!r}); sys.exit(code or 'fsspec' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# The cache


def listed(path: Path) -> StoredFile:
    remote.forget()
    there = remote.listing(path.parent)
    assert there is not None
    entry = there[path.name]
    assert entry.size is not None
    return StoredFile(path, entry.size, entry.changed)


def held(*files: StoredFile, limit: int = 1 << 30) -> contextlib.AbstractContextManager[None]:
    return Mirror(remote.base_of(files[0].path), limit).holding(files)


def stored_sample(base: Path, url: str, size: int = 5) -> Sample:
    video = remote.mirror_path(base, url)
    files = (StoredFile(video, size, 1),)
    return Sample(
        "mine", video.stem, video, (), SamplingRule("uniform"), base / "x.npy", fetch=Fetch(files, (), 1 << 20)
    )


def in_memory(base: Path, **contents: bytes) -> list[StoredFile]:
    fs = fsspec.filesystem("memory")
    for name, data in contents.items():
        fs.pipe_file(f"/store/{name}.mp4", data)
    return [listed(remote.mirror_path(base, f"memory://store/{name}.mp4")) for name in contents]


def kept(base: Path) -> int:
    return sum(path.stat().st_size for path in base.rglob("*") if path.is_file() and path.name != ".bytes")


def test_a_small_cache_holds_no_more_than_it_may(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    videos = [path for path in corpus.dataset_root.rglob("*") if path.suffix in (".mp4", ".avi")]
    aus = [path.stat().st_size for path in corpus.mer_factory_output.rglob("*.*")]
    largest, total = max(path.stat().st_size for path in videos), sum(path.stat().st_size for path in videos)
    limit = largest + sum(aus)
    assert limit < total
    sizes: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(kept(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = gpupeak.extract(in_s3(corpus, bucket, tmp_path, cache_size=limit))
    finally:
        ended.set()
        watcher.join()
    assert counts(report) == (5, 0, 0) and npy(objects(s3, bucket)) == plain
    assert 0 < max(sizes) <= limit

    report = gpupeak.extract(in_s3(corpus, bucket, tmp_path, overwrite=True, cache_size=largest - 1))
    assert counts(report)[2] >= 1
    reasons = [failed.reason for tally in report.datasets for failed in tally.failed_first]
    assert all(
        reason.endswith(f"bytes at once, the cache takes {largest - 1:,}; --cache-size sets that") for reason in reasons
    )


def test_the_least_recently_used_go_first_and_none_in_use(tmp_path: Path) -> None:
    a, b, c, d = in_memory(tmp_path, a=b"a" * 100, b=b"b" * 100, c=b"c" * 100, d=b"d" * 100)
    for file in (a, b, c):
        with held(file, limit=300):
            pass
    with held(a, limit=300), held(d, limit=300):
        assert not b.path.exists() and a.path.exists() and d.path.exists()
        assert d.path.read_bytes() == b"d" * 100
    assert kept(tmp_path) <= 300


def test_whoever_finds_no_room_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = in_memory(tmp_path, a=b"a" * 100, b=b"b" * 100)
    with ThreadPoolExecutor(1) as threads:
        with held(a, limit=150):

            def second() -> bytes:
                with held(b, limit=150):
                    return b.path.read_bytes()

            waiting = threads.submit(second)
            while not (tmp_path / "gpupeak-urls" / ".bytes").exists():
                pass
            assert not waiting.done()
        assert waiting.result(30) == b"b" * 100
    monkeypatch.setattr("gpupeak.storage.mirror._PATIENCE", 0.1)
    with held(a, limit=150), pytest.raises(remote.StoreError, match="no room in the cache"), held(b, limit=150):
        pass
    with pytest.raises(remote.StoreError, match="200 bytes at once, the cache takes 150"), held(a, b, limit=150):
        pass


def test_a_file_replaced_in_the_store_is_fetched_again(tmp_path: Path) -> None:
    (a,) = in_memory(tmp_path, a=b"first")
    with held(a):
        assert a.path.read_bytes() == b"first"
    (a,) = in_memory(tmp_path, a=b"other")
    with held(a):
        assert a.path.read_bytes() == b"other"


def test_what_a_killed_process_left_is_removed_and_counted_anew(tmp_path: Path) -> None:
    a, b = in_memory(tmp_path, a=b"a" * 100, b=b"b" * 100)
    with held(a, limit=250):
        pass
    root = tmp_path / "gpupeak-urls"
    orphan, downloading = a.path.with_name(".gpupeak-1-1.part"), a.path.with_name(".gpupeak-1-2.part")
    orphan.write_bytes(bytes(100))
    downloading.write_bytes(bytes(40))
    (root / ".bytes").write_text("00000000000000000240")
    with downloading.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with held(b, limit=250):
            assert not orphan.exists() and downloading.exists() and a.path.exists()
    (root / ".bytes").write_text("torn")
    with held(a, limit=250):
        assert int((root / ".bytes").read_text()) == kept(tmp_path)


HAMMER = """
import random, sys
from pathlib import Path
from gpupeak.storage.mirror import Mirror
from gpupeak.types import StoredFile
from gpupeak.storage import remote
import gpupeak.storage.remote

def fetch(path, size, changed, descriptor):
    import os, time
    data = bytes([int(path.stem)]) * size
    os.pwrite(descriptor, data[: size // 2], 0)
    time.sleep(random.random() / 1000)
    os.pwrite(descriptor, data[size // 2 :], size // 2)

remote.fetch = fetch
base, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
files = [StoredFile(remote.mirror_path(base, f"s3://x/{n}.mp4"), 1000 + n, 5) for n in range(12)]
mirror = Mirror(remote.base_of(files[0].path), 6000)
for _ in range(120):
    some = random.sample(files, random.choice([1, 1, 2]))
    with mirror.holding(some):
        for file in some:
            assert file.path.read_bytes() == bytes([int(file.path.stem)]) * file.size, file
"""


def test_processes_share_a_cache_without_harm(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path), str(seed)]) for seed in range(3)]
    sizes = []
    while any(process.poll() is None for process in started):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(kept(tmp_path))
    assert [process.returncode for process in started] == [0, 0, 0]
    assert max(sizes) <= 6000
    assert list(tmp_path.rglob("*.part")) == []


def test_a_cache_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (a,) = in_memory(tmp_path, a=b"first")
    (tmp_path / "file").touch()
    file = dataclasses.replace(a, path=remote.mirror_path(tmp_path / "file", "memory://store/a.mp4"))
    with (
        pytest.raises(RunError, match=r"^the cache .*/file: cannot be used: Not a directory; --cache names another"),
        held(file),
    ):
        pass


# Samples


def upload(fs: Any, root: Path, place: str) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{place}/{path.relative_to(root)}", path.read_bytes())


def test_a_store_is_listed_as_a_directory_is(corpus: Corpus, tmp_path: Path) -> None:
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
    upload(fsspec.filesystem("memory"), root, "/mer")
    own = tmp_path / "own.toml"
    for labels in ("", 'labels = "mer2023-dataset-process/list.txt"'):
        own.write_text(f'[datasets.mine]\nvideos = "mer2023-dataset-process/video"\n{labels}\n')
        for stream in ("frame", "face"):
            given = {"datasets": ("mine",), "config_file": own, "stream": stream, "cache": tmp_path / "cache"}
            listings = []
            for place in (root, "memory://mer"):
                (found,) = resolve(ExtractConfig(dataset_root=place, **given))  # type: ignore[arg-type]
                listing = list_samples(found, tmp_path)
                shown = [(str(each), remote.shown(each.video)) for each in listing.samples if isinstance(each, Sample)]
                listings.append(([(n, v.replace(f"{root}/", "memory://mer/")) for n, v in shown], listing.warnings))
            assert listings[0] == listings[1] and len(listings[0][0]) > 2


def test_a_sample_sent_to_another_machine_fetches_what_it_needs(
    corpus: Corpus, s3: Any, server: Server, bucket: str, tmp_path: Path
) -> None:
    (found,) = resolve(in_s3(corpus, bucket, tmp_path / "here", datasets=("mer2023",)))
    sample, _, third = list_samples(found, tmp_path).samples
    sent = pickle.loads(pickle.dumps(sample))
    assert sent == sample and isinstance(sent, Sample)
    shutil.rmtree(tmp_path / "here")
    server.requests.clear()
    planned = prepare(sent, None)
    assert isinstance(planned, Planned) and planned.plan.peak is not None and planned.plan.peak.index == CLIPS[0].peak
    assert len(server.requests) == 2, "a video and an action-unit file, no look around"
    prepare(sent, None)
    assert len(server.requests) == 2
    assert fetch.video_bytes(sent) == sent.video.stat().st_size  # type: ignore[union-attr]

    # An action-unit file that is no longer in the store is not found in the cache either.
    stale = sent.au_dirs[0] / f"{third.name}/{third.name}_au_analysis.json"  # type: ignore[union-attr]
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"au_info": {"peak_frames": [{"peak_index": 3}]}}))
    assert isinstance(third, Sample)
    planned = prepare(third, None)
    assert isinstance(planned, Planned) and planned.plan.fallback is not None
    assert planned.plan.fallback.reason == "no AU file"


def test_what_is_ready_does_not_wait_for_more(tmp_path: Path) -> None:
    in_memory(tmp_path, **{str(number): b"x" * 5 for number in range(10)})
    more = threading.Event()

    def source() -> Iterator[Sample]:
        """Whoever gives the samples waits for outcomes of the first of them, as a supervisor does."""
        for number in range(10):
            if number == 3:
                assert more.wait(30)
            file = listed(remote.mirror_path(tmp_path, f"memory://store/{number}.mp4"))
            found = Fetch((file,), (), 1 << 20)
            yield Sample("mine", str(number), file.path, (), SamplingRule("uniform"), tmp_path / "x", fetch=found)

    ready = fetch.fetched(source())
    first = {next(ready)[0].name for _ in range(3)}
    assert first == {"0", "1", "2"}
    more.set()
    assert first | {sample.name for sample, error in ready if error is None} == set(map(str, range(10)))

    def broken() -> Iterator[Sample]:
        yield stored_sample(tmp_path, "memory://store/1.mp4")
        raise RunError("no more of them")

    with pytest.raises(RunError, match="no more of them"):
        list(fetch.fetched(broken()))
    mixed = [Sample("mine", "local", None, (), SamplingRule("uniform"), tmp_path / "x")]
    assert [sample.name for sample, _ in fetch.fetched(mixed * 3)] == ["local"] * 3


def test_looking_goes_by_url_too(
    corpus: Corpus, s3: Any, server: Server, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_s3(corpus, bucket, tmp_path)
    here = survey(settings(corpus, output_root=tmp_path / "none"))
    there = survey(config)
    assert [dataclasses.replace(each, directory="") for each in here] == [
        dataclasses.replace(each, directory="") for each in there
    ]
    assert there[0].directory == f"s3://{bucket}/features/mer2023/{HOME}"
    video = "s3://data/mer/dataset/mer2023-dataset-process/video/sample_00000000.mp4"
    words = ["inspect", video, "--mer-factory-output", "s3://data/mer/mer-factory-output/MER2023", "--json"]
    assert main([*words, "--cache", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["video"], told["peak"]["index"]) == (video, CLIPS[0].peak)
    assert told["peak"]["file"].startswith("s3://data/mer/mer-factory-output/MER2023/")
    assert main([*words[:-1], "--cache", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert video in printed and "gpupeak-urls" not in printed
    assert examine(config, "mer2023/sample_00000000").plan.indices == tuple(told["indices"])


def test_verify_finds_and_mends_what_is_broken_in_a_store(
    corpus: Corpus, s3: Any, server: Server, bucket: str, plain: dict[str, bytes], tmp_path: Path
) -> None:
    config = in_s3(corpus, bucket, tmp_path)
    for name, data in plain.items():
        s3.put_object(Bucket=bucket, Key=f"features/{name}", Body=data)
    broken = f"mer2023/{HOME}/sample_00000001.npy"
    s3.put_object(Bucket=bucket, Key=f"features/{broken}", Body=plain[broken][:128] + bytes(len(plain[broken]) - 128))
    found = verify(config, deep=1)
    assert [(fault.sample, fault.kind) for each in found for fault in each.faults] == [("sample_00000001", "broken")]
    assert all(each.deep is not None and each.deep.compared == 1 for each in found)
    server.requests.clear()
    assert counts(repair(config, found)) == (1, 4, 0)
    assert sum(request.startswith("PUT") and request.endswith(".npy") for request in server.requests) == 1
    assert all(each.ok for each in verify(config)) and npy(objects(s3, bucket)) == plain
    loaded = gpupeak.load_features(f"s3://{bucket}/features", "mer2023", "sample_00000001", encoder=ENCODER)
    np.testing.assert_array_equal(loaded, np.frombuffer(plain[broken], np.float32, offset=128).reshape(8, -1))
    with pytest.raises(FileNotFoundError, match=rf"^s3://{bucket}/features/mer2023/.*/nobody\.npy"):
        gpupeak.load_features(f"s3://{bucket}/features", "mer2023", "nobody", encoder=ENCODER)
    with pytest.raises(ConfigError, match="features are mapped from a local directory"):
        gpupeak.FeatureStore(f"s3://{bucket}/features")
    with pytest.raises(ConfigError, match="a local directory is expected"):
        verify(config, against=f"s3://{bucket}/features")


def test_memory_serves_one_process(corpus: Corpus, plain: dict[str, bytes], tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    upload(fs, corpus.dataset_root.parent, "/mer")
    config = settings(
        corpus,
        dataset_root="memory://mer/dataset",
        mer_factory_output="memory://mer/mer-factory-output",
        output_root="memory://features",
        cache=tmp_path,
    )
    assert counts(gpupeak.extract(config)) == (5, 0, 0)
    made = {path.removeprefix("/features/"): fs.cat_file(path) for path in fs.find("/features")}
    assert npy(made) == plain
    assert counts(gpupeak.extract(config)) == (0, 5, 0)


def test_a_file_url_is_a_path(corpus: Corpus, tmp_path: Path) -> None:
    config = settings(corpus, dataset_root=f"file://{corpus.dataset_root}", output_root=f"file://{tmp_path}/out")
    assert config.path(config.dataset_root or "") == corpus.dataset_root
    assert config.path(config.output_root) == tmp_path / "out"
    assert gpupeak.FeatureStore(f"file://{tmp_path}/out").root == tmp_path / "out"
    (found,) = resolve(dataclasses.replace(config, datasets=("mer2023",)))
    samples = [each for each in list_samples(found, tmp_path).samples if isinstance(each, Sample)]
    assert all(each.fetch is None for each in samples)
    assert config.path("file://localhost/data/clips") == Path("/data/clips")
    assert config.path("file://~/clips") == Path.home() / "clips"


@pytest.mark.parametrize(
    ("url", "told"), [("file://host/data", "names the machine host"), ("file://", "names no place")]
)
def test_a_file_url_of_another_machine_is_no_directory_here(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"{told}, expected file:///PATH"):
        remote.mirror_path(Path("/base"), url)


# Writing


class Plain(MemoryFileSystem):
    """A store without whole puts: what is cut off leaves a part."""

    protocol = "plain"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cuts = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("plain://", "memory://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if Plain.cuts:
            Plain.cuts -= 1
            super().pipe_file(path, value[:10])
            raise ConnectionResetError("cut off")
        super().pipe_file(path, value)


def test_where_puts_are_not_whole_a_file_is_renamed(tmp_path: Path) -> None:
    fsspec.register_implementation("plain", Plain, clobber=True)
    path = remote.mirror_path(tmp_path, "plain://host/features/a.npy")
    remote.put(path, b"before" * 10)
    Plain.cuts = 2
    remote.put(path, b"after" * 10)
    assert {place: file.getvalue() for place, file in Plain.store.items()} == {"/host/features/a.npy": b"after" * 10}
    Plain.cuts = 100
    with pytest.raises(remote.StoreError, match=r"plain://host/features/a\.npy: cut off, 6 times"):
        remote.put(path, b"never" * 10)
    assert {place: file.getvalue() for place, file in Plain.store.items()} == {"/host/features/a.npy": b"after" * 10}
    Plain.cuts = 0


def test_the_writer_puts_several_at_once_and_releases_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=20)
    put, released = remote.put, []

    def slow(path: Path, data: bytes) -> None:
        together.wait()
        put(path, data)

    monkeypatch.setattr(remote, "put", slow)
    target = remote.mirror_path(tmp_path, "memory://features")
    batches = [features(target, f"a{n}", f"b{n}") for n in range(4)]
    for batch in batches:
        object.__setattr__(batch, "release", lambda: released.append(1))
    local = features(tmp_path, "local")
    outcomes = list(spool.StoreWriter(NpyWriter()).write([*batches, local]))
    assert all(isinstance(outcome, Saved) and "write" in outcome.seconds for outcome in outcomes)
    assert sorted(outcome.sample.name for outcome in outcomes) == sorted(
        [f"{x}{n}" for x in "ab" for n in range(4)] + ["local"]
    )
    assert len(released) == 4
    stored = MemoryFileSystem.store["/features/b3.npy"].getvalue()
    list(NpyWriter().write([features(tmp_path, "a3", "b3")]))
    assert stored == (tmp_path / "b3.npy").read_bytes() and (tmp_path / "local.npy").exists()
    assert not (tmp_path / "gpupeak-urls").exists(), "nothing lies here in between"


def test_records_are_put_when_they_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/out/run.json", b"{}")
    fs.pipe_file("/out/manifest.00000-of-00002.jsonl", b"old")
    fs.pipe_file("/out/a.npy", b"x")
    path = remote.mirror_path(tmp_path, "memory://out")
    puts: list[str] = []
    put_file = remote.put_file
    monkeypatch.setattr(remote, "put_file", lambda path: (puts.append(path.name), put_file(path)))
    with spool.Spool(path) as records:
        assert sorted(os.listdir(path)) == ["manifest.00000-of-00002.jsonl", "run.json"]
        records.keep_in_step()
        (path / "manifest.jsonl").write_bytes(b"1\n")
        records.keep_in_step()  # a moment after the last time
        assert puts == []
        records.push()
        (path / "manifest.jsonl").write_bytes(b"1\n2\n")
        (path / "manifest.00000-of-00002.jsonl").unlink()
    assert puts == ["manifest.jsonl", "manifest.jsonl"]
    assert {place: fs.cat_file(place) for place in fs.find("/out")} == {
        "/out/manifest.jsonl": b"1\n2\n",
        "/out/run.json": b"{}",
        "/out/a.npy": b"x",
    }
    with spool.Spool(tmp_path / "local") as records:  # a directory on this machine needs no spool
        records.push()
    assert not (tmp_path / "local").exists()


# Names


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a b/喜 怒.mp4",
        "gs://bucket/%2F/q?x=1#y",
        "memory://a/b",
        "hdfs:///user/me",
        "sftp://me@host:22/data/x",
        "abfs://container@account.dfs.core.windows.net/x",
    ],
)
def test_a_mirror_path_stands_for_its_url(url: str, tmp_path: Path) -> None:
    path = remote.mirror_path(tmp_path, url)
    assert path.is_relative_to(tmp_path / "gpupeak-urls")
    assert remote.url_of(path) == url == remote.shown(path)
    assert remote.shown(f"a {path}, 'b' {path}/c.npy: no") == f"a {url}, 'b' {url}/c.npy: no"
    assert remote.url_of(remote.mirror_path(tmp_path, f"{url}/")) == url
    assert remote.base_of(path) == tmp_path / "gpupeak-urls"


@pytest.mark.parametrize("url", ["s3://b//a", "s3://b/./a", "s3://b/../a", "s3://b/a\0", "s3://", "memory://"])
def test_a_url_that_could_lead_elsewhere_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no place in a store"):
        remote.mirror_path(tmp_path, url)


def test_names_in_a_store_lead_nowhere_else(tmp_path: Path) -> None:
    infos = [f"out/{name}" for name in ("a.mp4", "..", ".", "", "b/", "../c.mp4", "x\0.mp4")]
    entries = [remote._entry({"name": name, "size": 1, "type": "file"}, "out") for name in infos]
    assert [entry.name for entry in entries if entry is not None] == ["a.mp4", "b"]


@pytest.mark.parametrize("text", ["C:/videos", "a:b", "./s3:/x", "data", "~/x", "s3:/bucket"])
def test_what_is_no_url_is_a_path(text: str) -> None:
    assert not remote.is_url(text) and ExtractConfig(dataset_root=text).path(text) == Path(text).expanduser()


def test_a_url_in_a_path_is_noticed() -> None:
    with pytest.raises(ConfigError, match="was a URL: give it as text"):
        ExtractConfig(dataset_root=Path("s3://bucket/x"))
