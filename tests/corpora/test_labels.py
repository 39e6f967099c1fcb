"""Lists of names in every form, and label files that try to do something."""

from __future__ import annotations

import collections
import itertools
import json
import pickle
import re
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from samples import npz

from gpupeak.corpora.labels import read_names
from gpupeak.errors import LabelError

NAMES = ["sample_00001998", "-3g5yACwYnA_1", "片段 一", "a clip"]
LABELS = {name: {"emo": "happy", "val": 0.5 * i} for i, name in enumerate(NAMES)}


def boxed(value: object) -> np.ndarray:
    array = np.empty((), dtype=object)
    array[()] = value
    return array


def refused(path: Path, key: str | None = None) -> str:
    with pytest.raises(LabelError) as caught:
        read_names(path, key)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 1000
    return line


class TestNpz:
    def test_as_numpy_saves_it(self, tmp_path: Path) -> None:
        path = tmp_path / "label-6way.npz"
        np.savez_compressed(path, test1_corpus=boxed(LABELS), train_corpus=boxed({"other": {}}))
        assert read_names(path, "test1_corpus") == NAMES
        assert read_names(path, "train_corpus") == ["other"]

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_every_protocol_and_what_labels_hold(self, tmp_path: Path, protocol: int) -> None:
        shared = [1, 2.5, None, True, "text", b"bytes", b"", 2**80, -1, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
        content = {
            NAMES[0]: {"emo": shared, "val": np.float32(1.5), "again": shared},
            np.str_(NAMES[1]): {"array": np.arange(5), "names": np.array(["a", "bc"]), "empty": np.zeros(0)},
            NAMES[2]: {"set": {1, 2}, "frozen": frozenset("ab"), "ordered": collections.OrderedDict(a=1)},
            np.str_(NAMES[3]): np.array([1, "x", None], dtype=object),
            **{f"clip_{i}": {i: float(i)} for i in range(400)},
        }
        pickled = pickle.dumps(boxed(content), protocol)
        # Protocols that name a global in plain text can be respelt as another version of NumPy writes it.
        for module in (b"numpy._core", b"numpy.core") if protocol < 4 else ():
            path = npz(tmp_path / "a.npz", k=re.sub(rb"numpy\._?core", module, pickled))
            assert read_names(path) == [*NAMES, *(f"clip_{i}" for i in range(400))]
        assert read_names(npz(tmp_path / "a.npz", k=pickled))[:4] == NAMES

    @pytest.mark.parametrize(
        "array",
        [
            np.array(NAMES),
            np.array(NAMES).astype(">U20"),
            np.array([name.encode() for name in NAMES]),
            np.array(NAMES, dtype=object),
            boxed(NAMES),
            boxed(tuple(NAMES)),
            boxed(collections.OrderedDict.fromkeys(NAMES)),
        ],
    )
    def test_arrays_of_strings(self, tmp_path: Path, array: np.ndarray) -> None:
        np.savez(tmp_path / "a.npz", names=array)
        assert read_names(tmp_path / "a.npz") == NAMES

    def test_no_such_key_names_those_there_are(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", test1_corpus=boxed(LABELS), train_corpus=boxed(LABELS))
        assert refused(tmp_path / "a.npz", "test_corpus").endswith(
            "no key 'test_corpus', there is 'test1_corpus', 'train_corpus'"
        )
        assert "several arrays and no key" in refused(tmp_path / "a.npz")

    @pytest.mark.parametrize("value", [5, None, np.arange(4), [1, 2], [["a"]], np.array([1, 2]), boxed(3)])
    def test_what_holds_no_names(self, tmp_path: Path, value: object) -> None:
        np.savez(tmp_path / "a.npz", k=boxed(value))
        refused(tmp_path / "a.npz")


SET = b"cbuiltins\nset\nh\x00\x85R"
# A zero-dimensional array of what comes next, up to the opcodes that end a list, a tuple and the array.
ARRAY_OF = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)NN]"


class TestHostilePickles:
    @pytest.mark.parametrize(
        "pickled",
        [
            # An array of 2**60 objects that is not there.
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nL1152921504606846976L\nS'O'\ntR.",
            # A dtype of 10**12 objects.
            b"\x80\x02cnumpy\ndtype\nU\x0f(999999999999)O\x85R.",
            # A memo slot, a string and a frame of 4 GB or more.
            b"\x80\x02Nr\xff\xff\xff\x7f.",
            b"Np2147483647\n.",
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00.",
            b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
            # A hundred thousand sets, each of the same hundred thousand numbers.
            b"](" + b"".join(b"J%b" % struct.pack("<i", i) for i in range(10**5)) + b"eq\x000" + SET * 10**5 + b"N.",
            # A tuple that holds a tuple twice, forty levels down.
            b"\x80\x02]" + b"q\x00h\x00\x86" * 40 + b".",
            b"\x80\x02N" + b"q\x00cnumpy\ndtype\nh\x00h\x00\x86R" * 40 + b"q\x00" + ARRAY_OF + b"]h\x00aatb.",
            # The same, as a key.
            b"\x80\x02}Nq\x000" + b"h\x00h\x00\x86q\x000" * 40 + b"h\x00Ns.",
            # One that holds itself, and tuples a hundred thousand levels deep.
            b"\x80\x02]q\x00h\x00a.",
            b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
            b"I" + b"9" * 100_000 + b"\n.",
            *(b"\x80\x02.", b"\x80\x02h\x07.", b"\x80\x02N", b"\x80\x02}(NNNu.", b"\x80\x02cnumpy\ndtype\nNb."),
        ],
        ids=itertools.count(),
    )
    def test_what_would_exhaust_or_confuse_an_unpickler(self, tmp_path: Path, pickled: bytes) -> None:
        path = npz(tmp_path / "a.npz", k=pickled)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB

    def test_what_it_asks_for_is_named_and_not_run(self, tmp_path: Path) -> None:
        path = npz(tmp_path / "a.npz", k=f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode())
        assert "its pickle asks for 'os.system', which no list of names needs; nothing was run" in refused(path)
        assert not (tmp_path / "ran").exists()

    def test_a_name_as_long_as_a_book(self, tmp_path: Path) -> None:
        # One string shared by many scalars would be decoded many times over.
        path = npz(tmp_path / "a.npz", k=pickle.dumps(boxed({np.str_("a" * 300_000): 1}), 2))
        assert "a string of 1,200,000 bytes found where a name belongs" in refused(path)

    def test_a_zip_bomb_is_not_unpacked(self, tmp_path: Path) -> None:
        path = npz(tmp_path / "a.npz", k=b"N" * (9 << 20))
        assert path.stat().st_size < 1 << 20
        assert "k is larger than 8,388,608 bytes" in refused(path)

    @pytest.mark.parametrize(
        "header",
        [
            b"{'descr': '|O', 'fortran_order': False}",
            b"__import__('os').system('touch {}')",
            b"[" * 5000,
            b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': ()}",
            b"{'descr': '<U999999999999', 'fortran_order': False, 'shape': ()}",
            b"{'descr': '<U9', 'fortran_order': False, 'shape': (99999999999,)}",
            b"{'descr': '<U0', 'fortran_order': False, 'shape': (5,)}",
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}",
            b"\xff\xff",
        ],
    )
    def test_headers_of_another_kind(self, tmp_path: Path, header: bytes) -> None:
        mark = tmp_path / "ran"
        header = header.replace(b"{}", str(mark).encode())
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("k.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        refused(tmp_path / "a.npz")
        assert not mark.exists()


class TestText:
    def test_txt(self, tmp_path: Path) -> None:
        path = tmp_path / "list.txt"
        listed = "\r\n".join(NAMES)
        path.write_bytes(f"\ufeff# clips\r\n\r\n{listed}\n  spaced  \n#a comment\rold\rno end".encode())
        assert read_names(path) == [*NAMES, "spaced", "old", "no end"]

    def test_csv_with_the_column_name(self, tmp_path: Path) -> None:
        path = tmp_path / "subtitle_eng.CSV"
        rows = ['id, Name ,english\r\n1,00012,"one,\r\ntwo"', '2,"a clip",x', "3,,y", "4", "", "5,片段 一"]
        path.write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
        assert read_names(path) == read_names(path, "name") == ["00012", "a clip", "片段 一"]
        assert read_names(path, "id") == ["1", "2", "3", "4", "5"]

    @pytest.mark.parametrize(
        "written",
        [
            "name;label\n00001;happy\n示例;sad, at last\n",
            "label\tname\nx\t00001\ny\t示例\n",
            "name,label\n00001,\n示例,x\n",
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
    def test_csv_of_a_spreadsheet(self, tmp_path: Path, written: str, encoding: str) -> None:
        (tmp_path / "a.csv").write_bytes(written.encode(encoding))
        assert read_names(tmp_path / "a.csv") == ["00001", "示例"]

    @pytest.mark.parametrize("header", ["video_id,clip_id", "ID;x", "filename", "Sample Name\tx"])
    def test_a_header_without_the_column_name_is_no_sample(self, tmp_path: Path, header: str) -> None:
        (tmp_path / "a.csv").write_text(f"{header}\nvideo_0001\n")
        assert refused(tmp_path / "a.csv").endswith(": call the one with the videos' names so")

    def test_csv_without_the_column_name_lists_its_first(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("clip_1,happy\nclip_2,sad\n")
        assert read_names(tmp_path / "a.csv") == ["clip_1", "clip_2"]
        assert refused(tmp_path / "a.csv", "name").endswith("no column 'name', only 'clip_1', 'happy'")

    @pytest.mark.parametrize("document", [NAMES, [{"name": name, "emo": 1} for name in NAMES], LABELS])
    def test_json(self, tmp_path: Path, document: object) -> None:
        (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
        assert read_names(tmp_path / "a.json") == NAMES
        (tmp_path / "a.json").write_text("\ufeff" + json.dumps({"test": document, "train": []}), encoding="utf-8")
        assert read_names(tmp_path / "a.json", "test") == NAMES
        assert refused(tmp_path / "a.json", "val").endswith("no key 'val', only 'test', 'train'")

    def test_more_values_than_any_list_has(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[" + "," * 4_000_000)
        assert refused(tmp_path / "a.json").endswith("more than 4,000,000 values")
        (tmp_path / "a.txt").write_text("a\n" * 1_000_001)
        assert refused(tmp_path / "a.txt").endswith("more than 1,000,000 names")

    def test_a_txt_has_no_keys(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("a")
        assert "no key 'test'" in refused(tmp_path / "a.txt", "test")
