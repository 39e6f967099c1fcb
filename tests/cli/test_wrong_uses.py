"""What cannot be meant is refused: one line on standard error, one exit code, and the same in JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gpupeak.cli.app import main

OWN = "--videos videos --name mine"
UNIFORM = f"{OWN} --sampling uniform"
LARGE = "--visual-encoder open_clip:ViT-SO400M-16-SigLIP2-512"
RAY = "extract --engine ray"
USES = [
    # words that no command has
    ("extrat", 2, "No such command 'extrat'. Did you mean 'extract'? (see gpupeak --help)"),
    ("extract --dataset-rot x", 2, "No such option: --dataset-rot (Possible options: --dataset-root"),
    ("extract --limit many", 2, "--limit is 'many', expected a whole number from 1"),
    ("extract --limit", 2, "Option '--limit' requires an argument"),
    ("report --show -1", 2, "Invalid value for '--show'"),
    ("inspect", 2, "Missing argument"),
    ("pack --seed 1", 2, "No such option: --seed"),
    ("inspect x --engine ray", 2, "No such option: --engine"),
    # values that an option cannot have
    ("extract --n-frms 0", 2, "--n-frms is 0, expected a whole number from 1 to 1,024"),
    (f"verify --limit {10**20}", 2, f"--limit is {10**20}, expected a whole number from 1 to 1,000,000,000"),
    (f"doctor --cache-size {'9' * 400}TB", 2, "--cache-size is '999"),
    (f"{RAY} --actors 10000", 2, "--actors is '10000', expected N or MIN:MAX, from 1 to 9999"),
    ("extract --seed a", 2, "--seed is 'a', expected a whole number"),
    ("extract --time-limit 0", 2, "--time-limit is 0.0, expected a number from 0.001 to 86,400"),
    ("extract --sampling even", 2, "--sampling is 'even', expected one of emotion_peak, uniform, headtail"),
    ("extract --stream faces", 2, "--stream is 'faces', expected one of frame, face, face-rgb"),
    ("extract --peak-source x", 2, "--peak-source is 'x', expected one of auto, au_info, per_frame, merr_data, "),
    ("extract --device gpu", 2, "--device is 'gpu', expected auto, cpu or cuda:N, or several: cuda:0,cuda:1"),
    ("extract --device cuda:0,cuda:00", 2, "--device is 'cuda:0,cuda:00', expected every GPU once"),
    ("extract --cache-size much", 2, "--cache-size is 'much', expected bytes (20GB, 512MiB) from 1"),
    ("extract --engine dask", 2, "--engine is 'dask', expected one of ray"),
    (f"{RAY} --actors 4:2", 2, "--actors is '4:2', expected N or MIN:MAX, from 1 to 9999"),
    (f"{RAY} --actors 0", 2, "--actors is '0', expected N or MIN:MAX, from 1 to 9999"),
    (f"{RAY} --gpus-per-actor 2", 2, "--gpus-per-actor is 2.0, expected a number from 0.01 to 1"),
    (f"{RAY} --address ray://head:1", 2, "--address is 'ray://head:1', expected auto, HOST or HOST:PORT, on a"),
    ("extract --visual-encoder CLIP_VIT_HUGE", 2, "--visual-encoder is 'CLIP_VIT_HUGE', expected CLIP_VIT_LARGE, "),
    ("extract --samples s3://", 2, "'s3://' names no place in a store, expected s3://BUCKET/DIRECTORY"),
    # options that do not go together
    ("extract --videos clips", 2, "a corpus of your own takes both --videos and --name"),
    (f"extract meld {OWN}", 2, "--videos describes one corpus of your own; it cannot be joined with meld"),
    ("extract --aus aus", 2, "--aus goes with --videos and --name; for the datasets, use --mer-factory-output"),
    ("extract --stream face --sampling headtail", 2, "--sampling is 'headtail', expected uniform: AffectGPT samples"),
    ("extract --num-shards 4", 2, "--num-shards is 4; --shard-index says which of them, from 0"),
    ("extract --shard-index 1", 2, "--shard-index is 1; --num-shards says of how many"),
    ("extract --num-shards 4 --shard-index 4", 2, "--shard-index is 4, expected 0 to 3"),
    ("extract --address auto", 2, "--address goes with --engine ray, and there is no engine"),
    ("extract --actors 2", 2, "--actors goes with --engine ray, and there is no engine"),
    (f"{RAY} --num-shards 2 --shard-index 0", 2, "--num-shards divides a run without an engine; with --engine ray,"),
    (f"{RAY} --device cuda:1", 2, "--device is 'cuda:1', expected auto, cpu or cuda: Ray gives each actor its GPU"),
    (f"{RAY} --device cpu --gpus-per-actor 1", 2, "--gpus-per-actor is 1.0, and --device is 'cpu'"),
    (f"plan {UNIFORM} --workers 400", 2, "--n-frms 8, --batch-size 32, --workers 400: 4,256 frames of 224x224 "),
    (f"extract {UNIFORM} --batch-size 4096", 2, "--n-frms 8, --batch-size 4096, --workers 1: 131,112 frames of 224x"),
    (f"inspect text {UNIFORM} --workers 90", 2, "--n-frms 8, --batch-size 32, --workers 90: "),
    (f"doctor {OWN} --n-frms 1024 {LARGE}", 2, "--n-frms 1024, --batch-size 1, --workers 1: 9,216 frames of 512x"),
    # what is not there, or is something else
    ("config check list.txt --dataset ,", 2, "dataset is ',', expected a name; without any, all are meant"),
    ("extract mer2032", 2, "unknown dataset 'mer2032', did you mean mer2024 or mer2023 or mer2026ov?"),
    ("plan --dataset-root nowhere", 2, "dataset root nowhere is not a directory"),
    ("plan mer2023", 2, "mer2023: "),
    (f"plan {OWN}", 2, "mine: emotion_peak needs action-unit files; --mer-factory-output (or --aus) says where"),
    ("plan --videos nowhere --name mine", 2, "mine: nowhere is not there"),
    ("plan --config nowhere.toml", 2, "nowhere.toml: No such file or directory"),
    ("plan --config list.txt", 2, "list.txt: settings are TOML; write "),
    ("plan --config wrong.toml", 2, "wrong.toml: unknown key 'n_frame', did you mean n_frms or name?; allowed: "),
    (f"plan {UNIFORM} --samples nowhere.txt", 2, "mine: nowhere.txt is not there"),
    ("inspect nowhere.mp4", 2, "there is no video nowhere.mp4"),
    ("inspect /dev/null", 2, "there is no video /dev/null"),
    ("inspect videos/text.mp4", 1, "plan: videos/text.mp4: cannot be opened, is no video or is cut short"),
    (f"inspect nobody {OWN}", 2, "'nobody' is neither a video file nor a sample of the datasets"),
    ("inspect x/y --datasets mer2023 meld", 2, "unknown dataset 'x'"),
    ("inspect videos/text.mp4 --show", 2, "--show without a file draws on a terminal, and standard output is none"),
    (f"verify {UNIFORM} --against nowhere", 2, "--against nowhere: there is no nowhere/mine/frame_CLIP_VIT_LARGE_uni"),
    ("pack --output-root nested", 2, "nested: no dataset with features; --output-root says where they lie"),
    ("unpack mine", 2, "preextracted_features/mine holds no packed features; those that do: cut, page, shape"),
    ("config check nowhere.yaml", 2, "nowhere.yaml: "),
    ("demo x", 2, "Got unexpected extra argument"),
    ("demo --out videos", 2, "videos: is not empty and holds no demo; give another --out"),
]

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
CUT = '\x44\0\0\0\0\0\0\0{"features": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
PAGE = "\n<!DOCTYPE html>\n<title>404</title>\n"
GIVES = {
    "lfs": "is a pointer of Git LFS: `git lfs pull` fetches the file itself",
    "page": "is a web page (HTML): the d",
}
# Files, what is in them, and how what is said of them begins.
LISTS: dict[str, tuple[str | bytes, str]] = {
    **{f"{kind}{end}": ("", told) for kind, told in GIVES.items() for end in (".txt", ".csv", ".json", ".npz")},
    "gif.npz": ("GIF89a", "is a GIF: `ffmpeg -i IN.gif OUT.mp4` makes a video of it"),
    "empty.txt": ("", "names no sample"),
    "wide.txt": ("x" * 2000, "'xxxxxxxxxxxx...xxxxxxxxxxxxx' of 2,000 characters found where a name belongs"),
    "up.txt": ("../x", "mine: none of 1 sample of up.txt has a video in videos (../x: the name holds a path sepa"),
    "upper.txt": ("TEXT", "mine: none of 1 sample of upper.txt has a video in videos (TEXT); 'TEXT' differs from"),
    "row.txt": ("text;1", "mine: none of 1 sample of row.txt has a video in videos (text;1); 'text;1' is a row of cel"),
    "header.csv": ("name,label\n", "names no sample"),
    "semicolons.csv": ("name;label\nb;1\n", "mine: none of 1 sample of semicolons.csv has a video in videos (b)"),
    "gbk.csv": ("name,情感\n中,1\n".encode("gbk"), "mine: none of 1 sample of gbk.csv has a video in videos (中)"),
    "id.csv": ("video_id,label\na,1\n", "no column 'name', only 'video_id', 'label': call the one with the videos' "),
    "utf16.txt": ("片段".encode("utf-16"), "not UTF-8 at byte 0, nor GB 18030: save it as UTF-8"),
    "torn.json": ("[", "Expecting value: line 1 column 2"),
    "number.json": ("3", "3 found where names belong"),
    "records.json": ('[{"clip": "a"}]', "entry 0 is None, expected a string"),
    "mixed.json": ('["a", 3]', "entry 1 is 3, expected a string"),
    "deep.json": ("[" * 100_000, "maximum recursion depth exceeded"),
    "cut.npz": (b"PK\3\4", "damaged .npz: BadZipFile"),
    "list.xlsx": ("PK", "expected a list that ends in .npz, .csv, .json, .txt"),
    "list": ("a", "expected a list that ends in .npz, .csv, .json, .txt"),
}
TOMLS: dict[str, tuple[str | bytes, str]] = {
    **{f"{kind}.toml": ("", told) for kind, told in GIVES.items()},
    "torn.toml": ("a = [", ": Invalid value"),
    "utf16.toml": ("a = 1".encode("utf-16"), ": 'utf-8' codec can't decode"),
    "type.toml": ("n_frms = 'x'", ": n_frms is 'x', expected a whole number from 1 to 1,024"),
    "many.toml": ("datasets = 3", ": datasets is 3, expected a list, or a section for each dataset"),
    "own.toml": ("[datasets.mine]\nlabels = 'x'", ", datasets.mine: no such dataset; one of your own needs videos"),
    "name.toml": ("[datasets.'a/b']\nvideos = 'x'", ", datasets.a/b: the name holds a path separator"),
    "typo.toml": ("[datasets.mer2032]\nlabels = 'x'", ", datasets.mer2032: no such dataset, did you mean mer2024"),
    "key.toml": ("[datasets.meld]\nkeys = 'x'", ", datasets.meld: unknown key 'keys', did you mean key?"),
    "number.toml": ("[datasets.meld]\nlabels = 7", ", datasets.meld: labels is 7, expected text of 1 to 4,096 char"),
    "nul.toml": ('[datasets.meld]\nvideos = "a\\u0000"', ", datasets.meld: videos is 'a\\x00', expected text"),
    "true.toml": ("[datasets.meld]\nn_frms = true", ", datasets.meld: n_frms is True, expected a whole number"),
    "rule.toml": ("sampling = 'random'", ": sampling is 'random', expected one of emotion_peak, uniform, headtail"),
    "none.toml": ("[datasets.meld]\nfallback = 'none'", ", datasets.meld: fallback is 'none', expected one of uni"),
    "list_and_section.toml": (
        "datasets = ['meld']\n[datasets.meld]\nn_frms = 4",
        ": Cannot declare ('datasets', 'meld') twice (at line 2, column 15); beside sections, the list of names",
    ),
    "list.toml": ("dataset = [1]", ": dataset is [1], expected a list of names"),
    "no_names.toml": ("dataset = []", ": dataset is [], expected a list of names, at least one"),
    "class.toml": ("[datasets.iemocap]\n[datasets.IEMOCAPFour]", ", datasets.IEMOCAPFour: the same dataset as datase"),
    "section.toml": ("[datasets]\nmeld = 3", ", datasets.meld: 3 found where settings belong"),
    "twins.toml": ("[datasets.A]\nvideos='x'\n[datasets.a]\nvideos='x'", ", datasets.a: the same dataset as datas"),
}
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
LAUGHS += f"inference: {{d: [{','.join(['*c'] * 20)}]}}"
DOUBLED = "inference:\n  frame_sampling: ${inference.z0}\n  z40: x\n"
DOUBLED += "".join(f"  z{i}: '${{inference.z{i + 1}}}${{inference.z{i + 1}}}'\n" for i in range(40))
CODE = "inference.frame_sampling cannot be resolved: Unsupported interpolation type oc.coerce"
YAMLS: dict[str, tuple[str | bytes, str]] = {
    **{f"{kind}.yaml": ("", told) for kind, told in GIVES.items()},
    "empty.yaml": ("", "not AffectGPT's configuration: expected a section inference or datasets, found nothing"),
    "other.yaml": ("model: {}", "not AffectGPT's configuration: expected a section inference or datasets, found mod"),
    "torn.yaml": ("a: [", "OmegaConf cannot read it: while parsing"),
    "binary.yaml": (bytes(range(256)), "OmegaConf cannot read it: 'utf-8' codec can't decode"),
    "object.yaml": ("inference: !!python/object:os.system {}", "OmegaConf cannot read it: could not determine a cons"),
    "cycle.yaml": ("inference: {frame_sampling: '${inference.frame_sampling}'}", "inference.frame_sampling cannot be"),
    "missing.yaml": ("inference: {frame_sampling: '${x}'}", "inference.frame_sampling cannot be resolved: Interpol"),
    "root.yaml": ("inference: {preextracted_root: 3}", "inference.preextracted_root is 3, expected a path"),
    "roots.yaml": ("inference: {preextracted_root: [a]}", "inference.preextracted_root is of type ListConfig, expec"),
    "huge.yaml": (f"inference: {{frame_n_frms: 0x{'f' * 9000}}}", "inference.frame_n_frms is of type int, expected"),
    "long.yaml": (f"inference: {{frame_sampling: {'x' * 5000}}}", "inference.frame_sampling is of type str, expected"),
    "mandatory.yaml": ("inference: {frame_sampling: '???'}", "inference.frame_sampling cannot be resolved: Missing"),
    "code.yaml": ("inference: {frame_sampling: '${oc.coerce:ran.x,1}'}", CODE),
    "hidden.yaml": ("inference: {a: 'coerce:ran.x,1', frame_sampling: '${oc.decode:\"\\${oc.${.a}}\"}'}", CODE),
    "laughs.yaml": (LAUGHS, "OmegaConf cannot read it: YAML node expan"),
    "doubled.yaml": (DOUBLED, "too many values with more than one ${...}, which together can grow without end"),
    "large.yaml": (" " * 65_537, "65,537 bytes, expected at most 65,536"),
    "dataset.yaml": ("datasets: {meld: 3}", "datasets.meld is 3, expected a section"),
}
WEIGHTS: dict[str, tuple[str | bytes, str]] = {
    **{f"{kind}{end}": ("", told) for kind, told in GIVES.items() for end in (".pt", ".bin", ".safetensors")},
    "text.pt": ("hello", "is neither safetensors nor what torch.save writes"),
    "torn.safetensors": ("\0" * 20, "is neither safetensors nor what torch.save writes"),
}
RUNS = {  # what is in run.json beside a file of features, and what is said
    "mixed": ('{"settings": {"encoder": "CLIP_VIT_LARGE", "weights": "random:1"}}', ": holds features made with"),
    "later": ('{"format": 9}', "/run.json: of format 9, this gpupeak reads up to 1; install a newer one"),
    "torn": ("{", "/run.json: cannot be read (Expecting property name"),
    "deep": ("[" * 100_000, "/run.json: cannot be read (maximum recursion depth exceeded"),
    "odd": ("[]", "/run.json: holds a list, expected an object; move it away to go on without it"),
}
MINE = "plan --videos videos --sampling uniform --name"
UNIFORMLY = "frame_CLIP_VIT_LARGE_uniform_8frms"
FEATURES = "preextracted_features/{}/frame_CLIP_VIT_LARGE_emotion_peak_8frms"
for file, (_, said) in LISTS.items():
    USES.append((f"plan {UNIFORM} --samples {file}", 2, said if said.startswith("mine") else f"{file}: {said}"))
for file, (_, said) in TOMLS.items():
    USES.append((f"plan --config {file}", 2, f"{file}{'' if said[0] in ':,' else ': '}{said}"))
for file, (_, said) in YAMLS.items():
    USES.append((f"config check {file}", 2, f"{file}: {said}"))
for file, (_, said) in WEIGHTS.items():
    USES.append((f"verify {UNIFORM} --weights {file}", 2, f"--weights PLACE/{file}: {said}"))
for name, (_, said) in RUNS.items():
    USES.append((f"{MINE} {name}", 2, f"preextracted_features/{name}/{UNIFORMLY}{said}"))
USES += [
    # wrong names, wrong places
    ("extract Extract", 2, "unknown dataset 'Extract'; there are cmumosei"),
    ("plan --config dir.toml", 2, "dir.toml: not a regular file"),
    ("config check other.yaml --options a", 2, "other.yaml: --options is 'a', expected key=value"),
    ("config", 2, "Missing command."),
    ("config chek x", 2, "No such command 'chek'. Did you mean 'check'?"),
    ("config emit --config wrong.toml", 2, "wrong.toml: unknown key 'n_frame', did you mean n_frms or name?; allow"),
    ("config emit a:b", 2, "dataset is 'a:b', expected a name"),
    *(
        (f"config emit --output-root {root}", 2, f"--output-root is '{root}', expected a path that AffectGPT reads as")
        for root in ("${x}", "~/x", "s3://a/b")
    ),
    ("init settings.json", 2, "settings.json: settings are TOML; name a .toml file"),
    ("init wrong.toml", 2, "wrong.toml: is there already; name another file"),
    ("config check other.yaml --run-dir list.txt", 2, "--run-dir is 'list.txt', expected a directory"),
    ("config emit --visual-encoder X", 2, "--visual-encoder is 'X', expected CLIP_VIT_LARGE"),
    (f"plan {UNIFORM} --samples dir.toml", 2, "dir.toml: expected a list that ends in"),
    (f"plan {UNIFORM} --samples dir.csv", 2, "dir.csv: not a regular file"),
    (f"plan {UNIFORM} --samples pipe.txt", 2, "pipe.txt: not a regular file"),
    (f"extract {UNIFORM} --samples list.txt", 2, "mine: none of 1 sample of list.txt has a video in videos (a)"),
    ("plan --videos nested --name mine", 2, "nested: no video here, but one directory down, such as v/1.mp4: link t"),
    ("plan --videos dir.csv --name mine", 2, "dir.csv: no video here"),
    ("plan --videos dir.csv --name mine --stream face", 2, "mine: openface_face is not there; OpenFace's FeatureExtr"),
    ("plan mine --config both.toml --samples list.txt", 2, "list.txt: names no sample of mine (mine: 1 name of list.t"),
    ("plan mine --config both.toml --split train", 2, "mine has no training split"),
    (f"extract {OWN} --aus list.txt", 2, "mine: no action-unit directory at PLACE/list.txt; --mer-factory-output"),
    (f"plan {OWN} --aus nowhere", 2, "mine: no action-unit directory at PLACE/nowhere; --mer-factory-output"),
    (f"plan {OWN} --aus dir.csv", 2, "mine: no usable peak in any of 1 sample, searched PLACE/dir.csv (no AU file:"),
    (f"{MINE} ../x", 2, "--name is '../x': the name holds a path separator"),
    (f"{MINE} ..", 2, "--name is '..': the name is '..'"),
    (f"{MINE} MIXED", 2, "MIXED: preextracted_features has features of mixed, and capitals do not tell names apart"),
    (f"{MINE} mixed --weights nowhere", 2, "--weights 'nowhere': no such file or directory; expected openai"),
    (f"{MINE} mixed --weights random", 2, "--weights is 'random', expected random:SEED"),
    (f"{MINE} mixed --weights random:x", 2, "--weights is 'random:x', expected random:SEED"),
    (f"{MINE} mixed --weights random:{'9' * 30}", 2, f"--weights is 'random:{'9' * 30}', expected random:SEED"),
    (f"{MINE} mixed --weights dir.csv", 2, "--weights PLACE/dir.csv: the directory holds none of open_clip_model"),
    (f"{MINE} x --visual-encoder hf:nowhere", 2, "PLACE/nowhere: config.json or preprocessor_config.json cannot be"),
    (f"{MINE} x --visual-encoder open_clip:", 2, "--visual-encoder is 'open_clip:': open_clip has no model ''"),
    (f"{MINE} x --visual-encoder open_clip:ViT-B-32", 2, "open_clip:ViT-B-32 names no pretrained tag: give open_cl"),
    (f"{MINE} x --visual-encoder open_clip:ViT-B/32", 2, "--visual-encoder is 'open_clip:ViT-B/32': open_clip has no"),
    (f"{MINE} x --visual-encoder open_clip:../../x", 2, "--visual-encoder is 'open_clip:../../x': open_clip has no mo"),
    (f"{MINE} x --visual-encoder open_clip:ViT-B-32/", 2, "--visual-encoder is 'open_clip:ViT-B-32/': '' cannot be"),
    (f"{MINE} x --visual-encoder open_clip:ViT-B-32/a/x", 2, "--visual-encoder is 'open_clip:ViT-B-32/a/x': 'a/x' ca"),
    (f"{MINE} x --visual-encoder DINO2_LARGE", 2, "DINO2_LARGE names no pretrained tag: give as --weights an HF"),
    (f"{MINE} x --visual-encoder EVA_CLIP_G", 2, "--visual-encoder is 'EVA_CLIP_G': not supported"),
    ("report --output-root nested", 2, "nothing to report on: no dataset has features in nested (such as nested/sims"),
    (f"report {UNIFORM} --show-samples nobody", 2, "there is no sample 'nobody' in mine"),
    (f"verify {UNIFORM} --against list.txt", 2, "--against list.txt: there is no list.txt/mine/"),
    (f"verify {UNIFORM} --against s3://a/b", 2, "--against s3://a/b: a local directory is expected"),
    (f"verify {UNIFORM} --deep -1", 2, "--deep is -1, expected a number of samples"),
    (f"verify {UNIFORM} --min-cosine nan", 2, "--min-cosine is nan, expected a number from -1 to 1"),
    (f"verify {UNIFORM} --min-cosine 2", 2, "--min-cosine is 2.0, expected a number from -1 to 1"),
    ("extract --output-root file://host/x", 2, "'file://host/x' names no place on this machine, expected file:///"),
    ("extract --output-root file://~/x", 2, "'file://~/x' names no place on this machine, expected file:///PATH"),
    ("extract --output-root s3://me:secret@host/x", 2, "s3://...@host: a URL with a password ends up in logs"),
    ("extract --device cuda:-1", 2, "--device is 'cuda:-1', expected auto, cpu or cuda:N"),
    ("extract --smooth 4", 2, "--smooth is 4, expected an odd number of frames"),
    ("extract --overwrite=yes", 2, "Option '--overwrite' does not take a value"),
    ("pack Shape", 2, "preextracted_features/Shape holds no features; those that do: "),
    (
        "pack mixed --n-frms 8",
        2,
        f"preextracted_features/mixed holds {UNIFORMLY}: give --sampling, --n-frms, --stream or --visual-encoder to s",
    ),
    ("pack mixed", 2, f"preextracted_features/mixed/{UNIFORMLY}/text.npy: no .npy file (0 bytes)"),
    ("pack looped", 3, f"{FEATURES}: cannot be read: Too many levels of symbolic links".format("looped")),
    ("pack shape", 2, f"{FEATURES}/a.npy: no .npy file (6 bytes), expected float32 [8, D]".format("shape")),
    ("pack --output-root s3://x/y", 2, "s3://x/y: features are mapped from a local directory: copy them to one first"),
    ("unpack shape", 2, f"{FEATURES}.safetensors: not a packed file: is no safetensors file".format("shape")),
    ("unpack cut", 2, f"{FEATURES}.safetensors: not a packed file: is cut short; it cannot".format("cut")),
    ("unpack page", 2, f"{FEATURES}.safetensors: not a packed file: is a web page (HTML)".format("page")),
    (f"plan {UNIFORM} --output-root list.txt", 2, "--output-root is 'list.txt', expected a directory"),
    ("inspect a/b/c", 2, "unknown dataset 'a/b'"),
    ("demo --out list.txt", 3, "list.txt: the demo cannot be written there: Not a directory"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wrong")
    files: dict[str, str | bytes] = {"videos/text.mp4": "no video", "list.txt": "a\n", "wrong.toml": "n_frame = 8\n"}
    files |= {"nested/v/1.mp4": "", "dir.toml/x": "", "dir.csv/x": "", "wanted.txt": "text"}
    files |= {"both.toml": "[datasets.mine]\nvideos = 'videos'\nlabels = 'wanted.txt'\nsampling = 'uniform'\n"}
    files |= {file: text for kind in (LISTS, TOMLS, YAMLS, WEIGHTS) for file, (text, _) in kind.items()}
    files |= {file: {"lfs": LFS, "page": PAGE}.get(file.partition(".")[0], text) for file, text in files.items()}
    for name, (run, _) in RUNS.items():
        home = f"preextracted_features/{name}/{UNIFORMLY}"
        files |= {f"{home}/run.json": run, f"{home}/text.npy": ""}
    files |= {f"{FEATURES}/a.npy".format("shape"): b"\x93NUMPY", f"{FEATURES}.safetensors".format("shape"): "torn" * 9}
    files |= {f"{FEATURES}.safetensors".format("page"): PAGE, f"{FEATURES}.safetensors".format("cut"): CUT}
    for file, content in files.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    os.mkfifo(place / "pipe.txt")
    (looped := place / FEATURES.format("looped")).parent.mkdir()
    looped.symlink_to(looped)
    return place


def test_there_are_two_hundred() -> None:
    assert len({words for words, *_ in USES}) == len(USES) >= 200


@pytest.mark.parametrize(("words", "code", "line"), USES, ids=[words for words, *_ in USES])
def test_a_wrong_use_is_one_line_and_its_exit_code(
    words: str, code: int, line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("GPUPEAK_TRACEBACK", raising=False)
    before = sorted(place.rglob("*"))
    assert main(words.split()) == code
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith(f"error: {line}".replace("PLACE", str(place)))
    assert told.count("\n") == 1
    assert sorted(place.rglob("*")) == before
    if words.startswith(("extract", "plan", "verify", "report", "inspect", "doctor", "pack", "unpack", "config check")):
        assert main([*words.split(), "--json"]) == code
        out, again = capsys.readouterr()
        summary = json.loads(out)
        assert (summary["exit_code"], f"error: {summary['error']}\n") == (code, again)


def test_a_directory_that_was_removed_holds_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    for words in ("doctor", "extract --json", "config emit", "init"):
        assert main(words.split()) == 2
        assert capsys.readouterr().err.startswith("error: the current directory is not there (No such file or dir")
