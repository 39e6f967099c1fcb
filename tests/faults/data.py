"""What do data files from strangers do? Thousands of each kind, drawn and mutated from a seed, through what reads them.

A reader may give a value or raise what its documentation promises, within a second or so; while it reads, nothing is
run, imported or written elsewhere: an audit hook listens to the interpreter.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import signal
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults.corpus import Scale
from safetensors.torch import save_file
from samples import npz
from tiny import SHAPE, SPEC, state

from gpupeak.check.affectgpt_yaml import read_document
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import resolve
from gpupeak.corpora.labels import read_names
from gpupeak.demo.corpus import au_info
from gpupeak.encode.vit import expected_state
from gpupeak.encode.weights.checkpoint import load_state
from gpupeak.encode.weights.identity import locate
from gpupeak.errors import UsageError, WeightsError
from gpupeak.peaks.reading import read_curve, read_peak
from gpupeak.types import SamplingRule

COUNT = {"small": 60, "full": 3000}
SECONDS = 10.0
"""What reading one file may take on a busy machine; all that were seen took less than one."""

Draw = random.Random


class Guard:
    """Hears what the interpreter is asked to do while it is on: `heard` is what no reader of data has a use for."""

    _IMPORTED = ("gpupeak", "numpy", "torch", "safetensors", "yaml", "omegaconf", "attr", "antlr4", "encodings")
    _RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess", "pty.spawn", "socket.connect", "ctypes")
    _FOUND = ("numpy", "torch", "collections", "_codecs")

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "import":
            name = str(arguments[0])
            known = name in sys.modules or name in sys.stdlib_module_names or name.startswith(self._IMPORTED)
            if not known or name.startswith(("payload", "antigravity", "this")):
                self.heard.append(f"import {name}")
        elif event == "pickle.find_class" and not str(arguments[0]).startswith(self._FOUND):
            self.heard.append(f"pickle asks for {arguments}")
        elif event.startswith(self._RUN):
            self.heard.append(f"{event} {arguments}"[:200])


def mutated(data: bytes, draw: Draw) -> bytes:
    """Flipped bits, ranges zeroed, removed, repeated and cut off; tokens that parsers trip over."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, length = draw.randrange(len(changed) + 1), draw.randint(1, 64)
        match draw.randrange(7):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                changed = changed[:at]
            case 2:
                changed[at : at + length] = bytes(length)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * draw.choice((1, 2, 100))
            case 5:
                changed[at : at + draw.choice((0, length))] = draw.choice(_TOKENS)
            case _:
                changed[at:at] = draw.randbytes(length)
    return bytes(changed)


_TOKENS = (
    b'"', b"'", b",", b"\n", b"\r", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"NaN", b"1e999",
    b"-0", b"9" * 5000, b"[" * 5000, b'{"a":' * 5000, b"null", b"true", b"- " * 3000, b"*a", b"&a", b"!!int ''",
    b"!!python/name:os.system ", b"<<: *a", b"${oc.env:HOME}", b"${", b"../" * 20, b"x" * 4000, b"\xe2\x80\xa8",
    b"=", b"{0.__class__}", b"%s%n",
)  # fmt: skip


def anything(draw: Draw, depth: int = 3) -> Any:
    kind = draw.randrange(9 if depth else 7)
    if kind == 7:
        return [anything(draw, depth - 1) for _ in range(draw.choice((0, 1, 3)))]
    if kind == 8:
        return {draw.choice(_WORDS): anything(draw, depth - 1) for _ in range(draw.choice((0, 1, 3)))}
    return draw.choice((*_NUMBERS, *_WORDS, None, True, False))


_NUMBERS = (0, 1, -1, 34, 34.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 10**40, -(10**40), 1e-320)
_WORDS = ("", "34", "frame", "index", "sample", "x" * 300, "\ud800", "a\nb", "</script>", "../x", "AU12_r", "样本")


def disturbed(document: Any, draw: Draw) -> Any:
    """The document with some of its values replaced, keys dropped and added."""
    if draw.random() < 0.07:
        return anything(draw)
    if isinstance(document, dict):
        changed = {key: disturbed(value, draw) for key, value in document.items() if draw.random() > 0.04}
        if draw.random() < 0.05:
            changed[draw.choice(_WORDS)] = anything(draw)
        return changed
    if isinstance(document, list):
        return [disturbed(value, draw) for value in document for _ in range(draw.choice((1, 1, 1, 1, 1, 0, 2)))]
    return document


def as_json(document: Any, draw: Draw) -> bytes:
    data = json.dumps(disturbed(document, draw)).encode()
    return mutated(data, draw) if draw.random() < 0.4 else data


@dataclass(frozen=True)
class Kind:
    """How a kind of file is made and read, and what reading it may raise."""

    make: Callable[[Draw, Path], Path]
    read: Callable[[Path], object]
    promised: tuple[type[Exception], ...] = (UsageError,)


AU_DOCUMENT = {
    **au_info(100, 34),
    "per_frame_au_descriptions": [
        {"frame": i + 1, "active_aus": {"AU12_r": i / 10, "AU06_r": 1.5}, "is_peak_frame": i == 7} for i in range(12)
    ],
    "overall_peak_frame_info": {"frame_number": 35, "total_au_intensity": 12.5},
}


def _au_json(draw: Draw, directory: Path) -> Path:
    name = draw.choice(("s_au_analysis.json", "s_merr_data.json"))
    for old in directory.glob("s_*.json"):
        old.unlink()
    return _put(directory / name, as_json(AU_DOCUMENT, draw))


def _au_csv(draw: Draw, directory: Path) -> Path:
    columns = "frame, face_id, timestamp, confidence, success, AU01_r, AU02_r, AU04_r, AU12_r, AU45_r"
    rows = [[str(i + 1), "0", "0.1", "0.9", "1", *(f"{draw.random() * 5:.2f}" for _ in range(5))] for i in range(20)]
    for row in rows:
        if draw.random() < 0.2:
            row[draw.randrange(len(row))] = str(anything(draw, 0))
    text = "\n".join([columns, *map(", ".join, rows)])
    return _put(directory / "s.csv", mutated(text.encode("utf-8", "replace"), draw))


def _read_au(file: Path) -> object:
    for source in ("auto", "per_frame", "openface"):
        read_peak("s", (file.parent,), SamplingRule(peak_source=source))
    return read_curve("s", (file.parent,))


LABELS = {f"sample_{i:08}": {"emo": np.str_("happy"), "val": np.float64(0.5), "n": i} for i in range(5)}


def _labels(draw: Draw, directory: Path) -> Path:
    """An .npz whose object array is a mutated pickle, or an attack."""
    body = pickle.dumps(np.array(LABELS, dtype=object), protocol=draw.choice((2, 3, 4, 5)))
    at = draw.randrange(len(body))
    body = draw.choice((mutated(body, draw), draw.choice(attacks()), body[:at] + draw.choice(attacks()) + body[at:]))
    file = npz(directory / "label.npz", test_corpus=body, train_corpus=body)
    if draw.random() < 0.25:
        file.write_bytes(mutated(file.read_bytes(), draw))
    return file


def attacks() -> list[bytes]:
    """Pickles that run something when they are unpickled the usual way."""
    called = [
        ("os", "system", ("touch payload",)),
        ("builtins", "eval", ("__import__('payload')",)),
        ("payload", "x", ()),
        ("subprocess", "Popen", (["touch", "payload"],)),
        ("builtins", "getattr", ("os", "system")),
        ("numpy", "load", ("payload.npy",)),
        ("importlib", "import_module", ("payload",)),
        ("numpy.f2py.crackfortran", "myeval", ("1",)),
        ("numpy.core", "payload.x", ()),
    ]
    made = []
    for module, name, arguments in called:
        given = pickle.dumps(arguments, 2)[2:-1]
        made.append(b"\x80\x02c" + f"{module}\n{name}\n".encode() + given + b"R.")  # GLOBAL, REDUCE
        names = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
        made += [b"\x80\x04" + names + b"\x93" + given + end for end in (b"R.", b"\x81.")]  # STACK_GLOBAL, NEWOBJ
        made.append(b"(i" + f"{module}\n{name}\n".encode() + b".")  # INST
        made.append(b"(c" + f"{module}\n{name}\n".encode() + b"o.")  # OBJ
    made += [b"\x80\x02\x82\x01.", b"Ppayload\n.", b"\x80\x02X\x01\0\0\0aQ."]  # extension registry, persistent ids
    made += [b"\x80\x02cnumpy\ndtype\nU\x02O8\x85R}b(cos\nsystem\nS'touch payload'\ntR.", b"\x80\x05\x97."]
    return made


def _list(draw: Draw, directory: Path) -> Path:
    names = [draw.choice(_WORDS) for _ in range(8)]
    suffix = draw.choice((".txt", ".csv", ".json"))
    if suffix == ".json":
        document = draw.choice((names, [{"name": name} for name in names], dict.fromkeys(names, 1)))
        return _put(directory / "list.json", as_json(document, draw))
    rows = [f'{name},"{anything(draw, 0)}"' for name in names] if suffix == ".csv" else names
    text = "\n".join(["name,sentence", *rows] if suffix == ".csv" else rows)
    return _put(directory / f"list{suffix}", mutated(text.encode("utf-8", "replace"), draw))


def _settings(draw: Draw, directory: Path) -> Path:
    text = f'dataset_root = "{directory}"\nsampling = "uniform"\n[datasets.mycorpus]\nvideos = "x"\nn_frms = 3\n'
    lines = [*text.splitlines(), "[datasets.mer2024]", 'fallback = "middle"']
    if draw.random() < 0.5:
        at = draw.randrange(len(lines))
        lines[at] = lines[at].partition("=")[0] + "= " + json.dumps(anything(draw))
    return _put(directory / "config.toml", mutated("\n".join(lines).encode(), draw))


def bombs() -> list[bytes]:
    """YAML of a few hundred bytes that is gigabytes once somebody walks through it."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    merged = ["m0: &m0 {x: 1}", *(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 8))]
    return ["\n".join([*lists, "inference: *a11"]).encode(), "\n".join(merged).encode(), b"inference: &a {b: *a}"]


def _resolve(file: Path) -> object:
    return resolve(ExtractConfig(config_file=file, datasets=("mycorpus",)))


CONSUMER = """\
model:
  vis_processor: {train: {n_frms: 8}}
datasets:
  mercaptionplus: {face_or_frame: multiface_audio_face_frame_text, use_preextracted_frame: True}
inference:
  frame_sampling: emotion_peak
  frame_n_frms: ${model.vis_processor.train.n_frms}
  preextracted_root: ./preextracted_features
"""


def _consumer(draw: Draw, directory: Path) -> Path:
    data = draw.choice(bombs()) if draw.random() < 0.1 else mutated(CONSUMER.encode(), draw)
    return _put(directory / "eval.yaml", data)


def _weights(draw: Draw, directory: Path) -> Path:
    for old in directory.glob("clip.*"):
        old.unlink()
    kind = draw.randrange(4)
    if kind == 0:  # safetensors with a header that lies
        tensors = {"visual.x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}}
        header = json.dumps(disturbed(tensors, draw)).encode()
        header = mutated(header, draw) if draw.random() < 0.3 else header
        length = draw.choice((len(header), len(header), 0, 1, 2**31, 2**63, 2**64 - 1, len(header) + 8))
        rest = bytes(draw.choice((24, 0, 23, 10**6)))
        return _put(directory / "clip.safetensors", struct.pack("<Q", length) + header + rest)
    if kind == 1:
        save_file(state(), directory / "clip.safetensors")
        return _put(directory / "clip.safetensors", mutated_head((directory / "clip.safetensors").read_bytes(), draw))
    file = directory / "clip.bin"
    if kind == 2:  # code where the tensors' names should be
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", draw.choice(attacks()))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
        return file
    torch.save(state(), file, _use_new_zipfile_serialization=draw.random() < 0.7)
    return _put(file, mutated_head(file.read_bytes(), draw))


def mutated_head(data: bytes, draw: Draw) -> bytes:
    """Mutated where the structure is: at the start, or at the end, where a zip archive has its directory."""
    at = draw.choice((4096, len(data) - 4096, 0))
    return mutated(data[:at], draw) + data[at:] if draw.random() < 0.6 else data[:at] + mutated(data[at:], draw)


def _read_weights(file: Path) -> object:
    return load_state(SPEC, locate(SPEC, str(file)), expected_state(SHAPE), quick_gelu=True)


def _put(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


KINDS = {
    "action units, JSON": Kind(_au_json, _read_au, ()),
    "action units, CSV": Kind(_au_csv, _read_au, ()),
    "labels, npz": Kind(_labels, lambda file: read_names(file, "test_corpus")),
    "lists of samples": Kind(_list, read_names),
    "settings, TOML": Kind(_settings, _resolve),
    "configuration of AffectGPT": Kind(_consumer, read_document),
    "weights": Kind(_weights, _read_weights, (WeightsError,)),
}


def fuzz(name: str, scale: Scale, seed: int, work: Path, guard: Guard) -> dict[str, Any]:
    """Files of a kind: how many were read, refused, and what should not have been."""
    kind, count = KINDS[name], COUNT[scale.name]
    inside = work / "inside"
    inside.mkdir(parents=True)
    told: Counter[str] = Counter()
    faults: list[str] = []
    longest = 0.0
    for number in range(count):
        file = kind.make(random.Random(f"{seed}/{name}/{number}"), inside)
        began = time.monotonic()
        guard.heard.clear()
        try:
            with guard.on(), alarm():
                kind.read(file)
            told["read"] += 1
        except kind.promised as error:
            told["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 8000:
                faults.append(f"{number}: says {str(error)[:100]!r}")
        except Exception as error:
            faults.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
        longest = max(longest, time.monotonic() - began)
        faults += [f"{number}: {event}" for event in guard.heard]
        outside = [path.name for path in work.iterdir() if path != inside]
        if outside or "payload" in sys.modules or Path("payload").exists():
            faults.append(f"{number}: left {outside or 'its mark'}")
            break
    return {"tried": count, **told, "longest_s": round(longest, 3), "faults": faults}


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Have what takes far too long end with an exception, so that the rest is tried as well; on the main thread."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {2 * SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    guard = Guard()
    found: dict[str, Any] = {}
    for name in KINDS:
        found[name] = fuzz(name, scale, seed, work / name.replace(" ", "_"), guard)
    return {
        "seed": seed,
        "kinds": found,
        "files": sum(each["tried"] for each in found.values()),
        "faults": [f"{name}: {fault}" for name, each in found.items() for fault in each["faults"]],
        "longest_s": max(each["longest_s"] for each in found.values()),
        "ok": not any(each["faults"] or each["longest_s"] > SECONDS for each in found.values()),
    }
