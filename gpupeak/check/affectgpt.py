"""Would AffectGPT load these features? Its configuration is judged by AffectGPT's own rules, one dataset at a time.

inference   reads the section `inference` alone; files are loaded exactly when frame_sampling is emotion_peak
training    reads `datasets.<name>`; files are loaded exactly when use_preextracted_frame is set

Both load files of the face stream exactly when use_preextracted_face is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpupeak.check.affectgpt_yaml import KEYS, Document, Section, Value, read_document
from gpupeak.corpora.table import default_datasets, expected_samples
from gpupeak.encode.weights.identity import meaningless
from gpupeak.encoders import CLIP_VIT_LARGE, ENCODERS, encoder_spec
from gpupeak.errors import ConfigError, RunError, counted, few
from gpupeak.features.layout import feature_directory, is_feature_directory
from gpupeak.features.npy import is_whole
from gpupeak.features.records import read_records
from gpupeak.storage.files import is_directory
from gpupeak.storage.places import is_url

INFERENCE, TRAINING = "inference", "training"

_N_FRMS = "model.vis_processor.train.n_frms"
_TRAINING_SETS = ("mercaptionplus", "ovmerd")
"""AffectGPT's training sets; inference takes face_or_frame from their sections, which have to agree."""
_DIMS: dict[object, int] = {spec.directory: spec.dim for spec in ENCODERS.values()}
_SWITCHES = set(KEYS) - {"visual_encoder", "face_or_frame"}
"""A section that has one of these means to say how frames are loaded."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that AffectGPT would use, and where it has it from: a key of the file, or a default."""

    key: str
    value: Value
    origin: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether AffectGPT would load one stream's features of a dataset, in one use of it: `INFERENCE` or `TRAINING`.

    `directory` is what it would look into, None where it builds no path; `expected` how many samples it counts,
    None where nobody knows; `problems` why files are not loaded, or not all (`partly`: some are); `instead` what
    AffectGPT does where it loads no file.
    """

    dataset: str
    use: str
    settings: tuple[Setting, ...]
    directory: str | None
    files: int
    expected: int | None
    problems: tuple[str, ...]
    instead: str
    warnings: tuple[str, ...] = ()
    partly: bool = False
    stream: str = "frame"

    @property
    def loads(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Check:
    """What AffectGPT would do with a configuration; `no_effect`: what only looks as if it switched something on."""

    file: Path
    run_dir: Path
    judgements: tuple[Judgement, ...]
    no_effect: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if inference loads the features of every dataset that was asked for, else 1."""
        inference = [judgement for judgement in self.judgements if judgement.use == INFERENCE]
        return 0 if inference and all(judgement.loads for judgement in inference) else 1

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "run_dir": str(self.run_dir),
            "datasets": [{**asdict(judgement), "loads": judgement.loads} for judgement in self.judgements],
            "no_effect": list(self.no_effect),
            "warnings": list(self.warnings),
        }


def check(
    file: Path,
    datasets: Sequence[str] = (),
    *,
    options: Sequence[str] = (),
    face_or_frame: str | None = None,
    run_dir: Path = Path(),
) -> Check:
    """Judge a configuration of AffectGPT, evaluation's or training's. Raises ConfigError if it cannot.

    `datasets` are by default those that have a directory under the root or a section in the file, or else all nine;
    `options` and `face_or_frame` what AffectGPT is given as `--options` and `--outside_face_or_frame`; relative paths
    start at `run_dir`.
    """
    asked = tuple(dict.fromkeys(map(_lower, datasets)))
    if not is_directory(run_dir):
        raise ConfigError(f"--run-dir is {str(run_dir)!r}, expected a directory")
    try:
        return _check(file, read_document(file, options), asked, face_or_frame, run_dir)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def consumer_directory(root: str, dataset: str, encoder: object, sampling: object, n: object) -> str:
    """The directory that AffectGPT builds, in its own spelling: `root` may have the dataset at its end already.

    Without a `sampling` it is that of the face stream.
    """
    of = f"face_{encoder}" if sampling is None else f"frame_{encoder}_{sampling}"
    return f"{_home(root, dataset)}/{of}_{n}frms"


def emit(
    datasets: Sequence[str] = (),
    *,
    output_root: str = "./preextracted_features",
    n_frms: int = 8,
    encoder: str = CLIP_VIT_LARGE.name,
    training: bool = False,
    faces: bool = False,
) -> str:
    """The YAML that makes AffectGPT load what `extract` with the same settings writes.

    A comment names the directories of `datasets`; with `training`, each, or else AffectGPT's two training sets, has a
    section, too; with `faces`, the face stream's files are loaded beside those of frames. Raises ConfigError if there
    is no such encoder, or a name or `output_root` would not survive YAML.
    """
    for name in datasets:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ConfigError(f"dataset is {name!r}, expected a name")
    if "${" in output_root or not output_root.isprintable() or output_root.startswith("~") or is_url(output_root):
        raise ConfigError(f"--output-root is {output_root!r}, expected a path that AffectGPT reads as it stands")
    spec = encoder_spec(encoder)
    directory = spec.directory
    names = tuple(dict.fromkeys(map(_lower, datasets)))
    keys = [
        "frame_sampling: emotion_peak",
        f"frame_n_frms: {n_frms}",
        f"preextracted_root: {json.dumps(output_root, ensure_ascii=False)}",
        f"visual_encoder: {json.dumps(directory, ensure_ascii=False)}",
    ]
    told: list[str] = []
    if faces:
        keys.append("use_preextracted_face: true")
        told.append(f"# For faces it has to contain face, too, and {_N_FRMS} has to be {n_frms}.")
    if spec.dim != CLIP_VIT_LARGE.dim:
        told.append(f"# A frame of {directory} is {spec.dim} numbers: as many as model.visual_encoder's has to be.")
    for sampling in ("emotion_peak", None) if faces else ("emotion_peak",):
        told += [f"# {name}: {consumer_directory(output_root, name, directory, sampling, n_frms)}" for name in names]
    lines = [
        "# For the section inference of AffectGPT's configuration, where emotion_peak is what loads files.",
        "# face_or_frame has to contain frame: AffectGPT takes it from datasets.mercaptionplus or datasets.ovmerd,",
        "# or from --outside_face_or_frame. A relative preextracted_root starts where AffectGPT runs.",
        *told,
        "inference:",
        *(f"  {key}" for key in keys),
    ]
    if training:
        lines += ["", "# And these for training, where use_preextracted_frame is what loads files.", "datasets:"]
        for name in names or _TRAINING_SETS:
            lines += [f"  {name}:", "    use_preextracted_frame: true", *(f"    {key}" for key in keys)]
    return "\n".join(lines) + "\n"


def _check(file: Path, document: Document, asked: tuple[str, ...], face_or_frame: str | None, run_dir: Path) -> Check:
    told = {name: section for name, section in document.datasets.items() if _SWITCHES & section.keys()}
    judgements: list[Judgement] = []
    warnings = list(_warnings(document))
    if document.inference is not None:
        settings = _settings(document.inference, INFERENCE, document, "./preextracted_features")
        frames, doubts = _needed_at_inference("frame", document, face_or_frame)
        warnings += doubts
        names = asked or _meant(settings, told, run_dir) or default_datasets()
        judgements += [_inference(name, settings, frames, run_dir) for name in names]
        if document.inference.get("use_preextracted_face"):
            faces, _ = _needed_at_inference("face", document, face_or_frame)
            judgements += [_faces(each, INFERENCE, [*faces], document, run_dir) for each in judgements]
    else:
        why = ("no section inference, and at inference AffectGPT reads nothing else",)
        for name in asked:
            expected = expected_samples().get(name)
            judgements.append(Judgement(name, INFERENCE, (), None, 0, expected, why, "does not start"))
    for name, section in told.items():
        if not asked or _lower(name) in asked:
            judgements += _training(name, section, document, run_dir)
    warnings += _other_widths(document, judgements)
    return Check(file, run_dir, tuple(judgements), tuple(_without_effect(document, told)), tuple(warnings))


def _lower(name: str) -> str:
    """AffectGPT's class name, or the name as gpupeak has it -> the name of the dataset's directory."""
    return {"iemocapfour": "iemocap"}.get(name.lower(), name.lower())


def _home(root: str, dataset: str) -> str:
    normal = os.path.normpath(root)
    return normal if os.path.basename(normal) == dataset else os.path.join(root, dataset)  # noqa: PTH118, PTH119


def _meant(settings: Mapping[str, Setting], told: Mapping[str, Section], run_dir: Path) -> tuple[str, ...]:
    root, nine = settings["preextracted_root"].value, default_datasets()
    there = [name for name in expected_samples() if root and is_directory(run_dir / _home(str(root), name))]
    return tuple(dict.fromkeys([*there, *(name for name in map(_lower, told) if name in nine)]))


def _settings(section: Section, path: str, document: Document, root: str | None) -> dict[str, Setting]:
    defaults = {
        "frame_sampling": ("uniform", "default"),
        "frame_n_frms": (document.n_frms, _N_FRMS),
        "preextracted_root": (root, "default"),
        "visual_encoder": (CLIP_VIT_LARGE.directory, "default"),
    }
    given = {key: (section[key], f"{path}.{key}") for key in defaults if key in section}
    found = {key: Setting(key, *values) for key, values in {**defaults, **given}.items()}
    root_setting = found["preextracted_root"]
    if not isinstance(root_setting.value, (str, type(None))):
        raise ConfigError(f"{root_setting.origin} is {root_setting.value!r}, expected a path")
    return found


def _needed_at_inference(what: str, document: Document, face_or_frame: str | None) -> tuple[list[str], list[str]]:
    if face_or_frame is not None:
        return _without(what, "--outside_face_or_frame", face_or_frame), []
    sections = {f"datasets.{name}": document.datasets.get(name, {}) for name in _TRAINING_SETS}
    given = {f"{path}.{key}": told[key] for path, told in sections.items() for key in told if key == "face_or_frame"}
    if not given:
        where = "face_or_frame is in neither datasets.mercaptionplus nor datasets.ovmerd"
        return [], [f"{where}: AffectGPT has to be given --outside_face_or_frame, with frame in it"]
    if len(set(given.values())) > 1:
        values = " and ".join(f"{key} is {value!r}" for key, value in given.items())
        return [f"{values}, and AffectGPT takes only one"], []
    return _without(what, *given.popitem()), []


def _without(what: str, key: str, value: object) -> list[str]:
    return [] if what in str(value) else [f"{key} is {value!r}, without {what} in it"]


def _warnings(document: Document) -> Iterator[str]:
    if document.inference is None:
        yield "the file has no section inference: whatever else it says, inference loads nothing by it"
    if absent := ", ".join(name for name in document.absent if name != INFERENCE):
        yield f"the file has no section {absent}: AffectGPT does not start without run, model, datasets and inference"
    if document.n_frms is None and "model" not in document.absent:
        yield f"{_N_FRMS} is not set, and AffectGPT reads it before anything else"


def _without_effect(document: Document, told: Mapping[str, Section]) -> Iterator[str]:
    inference = document.inference or {}
    loads = "inference.frame_sampling: emotion_peak at inference, use_preextracted_frame in training"
    for path, section in {INFERENCE: inference, **{f"datasets.{name}": told[name] for name in told}}.items():
        if "use_preextracted_features" in section:
            yield f"{path}.use_preextracted_features: AffectGPT consults it nowhere; what loads files is {loads}"
    if "use_preextracted_frame" in inference:
        yield "inference.use_preextracted_frame: not read there; frame_sampling: emotion_peak is what loads files"
    if "face_or_frame" in inference:
        yield "inference.face_or_frame: not read; it is datasets.mercaptionplus's, or --outside_face_or_frame"
    for name, section in told.items():
        keys = ", ".join(sorted(_SWITCHES & section.keys() - {"use_preextracted_features", "use_preextracted_face"}))
        if keys and not section.get("use_preextracted_frame"):
            yield f"datasets.{name} ({keys}): not read at inference, nor in training without use_preextracted_frame"
    for option in document.ignored:
        yield f"--options {option}: the file has no such section, and AffectGPT adds none"


def _inference(name: str, settings: Mapping[str, Setting], frames: list[str], run_dir: Path) -> Judgement:
    sampling, n = settings["frame_sampling"].value, settings["frame_n_frms"].value
    problems = [*frames]
    instead = f"decodes the video again and takes its middle frame {n} times"
    if sampling != "emotion_peak":
        problems.append(f"{_told(settings['frame_sampling'])}, and at inference only emotion_peak loads files")
        instead = f"decodes every video again, with {sampling} sampling"
    if frames:
        instead = "uses no frames"
    if n is None:
        instead = "stops with an error"
    return _judgement(name, INFERENCE, settings, problems, instead, run_dir)


def _training(section_name: str, section: Section, document: Document, run_dir: Path) -> Iterator[Judgement]:
    path = f"datasets.{section_name}"
    settings = _settings(section, path, document, None)
    problems: list[str] = []
    if not section.get("use_preextracted_frame"):
        there = "is false" if "use_preextracted_frame" in section else "is not set"
        problems.append(f"{path}.use_preextracted_frame {there}, and in training nothing else loads files")
    if "face_or_frame" in section:
        problems += _without("frame", f"{path}.face_or_frame", section["face_or_frame"])
    sampling = settings["frame_sampling"].value
    instead = f"decodes the video again, with {sampling} sampling"
    if sampling == "emotion_peak":
        instead += ", and looks for action-unit files right under mer_factory_output, without the dataset's directory"
    frames = _judgement(_lower(section_name), TRAINING, settings, problems, instead, run_dir)
    yield frames
    if section.get("use_preextracted_face"):
        problems = _without("face", f"{path}.face_or_frame", section.get("face_or_frame", "face"))
        yield _faces(frames, path, problems, document, run_dir)


def _faces(frames: Judgement, path: str, problems: list[str], document: Document, run_dir: Path) -> Judgement:
    switch = Setting("use_preextracted_face", True, f"{path}.use_preextracted_face")
    settings = (switch, Setting("n_frms", document.n_frms, _N_FRMS), *frames.settings[2:])
    instead = "encodes the faces of openface_face again"
    by_key = {setting.key: setting for setting in settings}
    return _judgement(frames.dataset, frames.use, by_key, problems, instead, run_dir)


def _other_widths(document: Document, judgements: Sequence[Judgement]) -> Iterator[str]:
    trained = _DIMS.get(document.encoder, 0)
    encoders = {s.value for each in judgements for s in each.settings if s.key == "visual_encoder"}
    for encoder in sorted(encoders & _DIMS.keys(), key=str):
        if trained not in (0, dim := _DIMS[encoder]):
            told = f"model.visual_encoder is {document.encoder}, of {trained} numbers a frame"
            yield f"{told}, and {encoder} has {dim}: a model that was trained on those does not take these"


def _judgement(
    name: str, use: str, settings: Mapping[str, Setting], problems: list[str], instead: str, run_dir: Path
) -> Judgement:
    stream = "frame" if "frame_sampling" in settings else "face"
    expected = expected_samples().get(name) if use == INFERENCE else None
    sampling, n, root, encoder = (setting.value for setting in settings.values())
    directory, files, partly = None, set[str](), False
    warnings: list[str] = []
    if n is None:
        problems.append(f"{list(settings)[1]} is not set, nor is its default, {_N_FRMS}")
    elif not root:
        problems.append(f"{_told(settings['preextracted_root'])}, and without one no file is looked for")
    else:
        directory = consumer_directory(str(root), name, encoder, sampling if stream == "frame" else None, n)
        path = run_dir / directory
        files = {entry[:-4] for entry in _entries(path) if entry.endswith(".npy")}
        if use == TRAINING or stream == "face" or sampling == "emotion_peak":
            if is_directory(path):
                recorded, dim, warnings = _recorded(path)
                broken = _broken(path, files, _DIMS.get(encoder, dim), n)
                missing, doubts = _missing(path, files, recorded, expected)
                warnings += doubts
                partly = bool(files and missing and not (problems or broken))
                problems += [*broken, *missing]
            else:
                problems.append(_why_not_there(str(root), directory, run_dir, stream))
    told, why = tuple(settings.values()), tuple(problems)
    return Judgement(name, use, told, directory, len(files), expected, why, instead, tuple(warnings), partly, stream)


def _told(setting: Setting) -> str:
    if setting.origin == "default":
        return f"{setting.key} is not set and {setting.value!r} by default"
    return f"{setting.origin} is {setting.value!r}"


def _recorded(path: Path) -> tuple[set[str], int | None, list[str]]:
    """The samples that records name, how many numbers a frame of theirs has (None for unknown), and what is odd."""
    try:
        records = read_records(path, strict=False)
        names, made = {line.sample for line in records.lines()}, records.current[-1].settings
    except RunError:
        return set(), None, []
    dim, warnings = None, meaningless(made.get("weights"))
    with contextlib.suppress(ConfigError, KeyError):
        spec = encoder_spec(str(made["encoder"]))
        dim, rule = spec.dim, (made["sampling"], made["n_frms"], made.get("stream", "frame"))
        if (name := feature_directory(path, "", spec.directory, *rule).name) != path.name:
            warnings.append(f"by their run.json, these features are those of {name}")
    return names, dim, warnings


def _broken(path: Path, names: set[str], dim: int | None, n: object) -> list[str]:
    if dim is None or not str(n).isdecimal():
        return []  # nobody knows their shape
    rows = int(str(n))
    broken = sorted(name for name in names if not is_whole(f"{path}/{name}.npy", rows, dim))
    return [f"{counted(len(broken), 'file')} not of whole float32 [{n}, {dim}]: {few(broken)}"] if broken else []


def _missing(path: Path, names: set[str], recorded: set[str], expected: int | None) -> tuple[list[str], list[str]]:
    problems = [] if names else [f"no .npy file in {path}"]
    warnings: list[str] = []
    if absent := sorted(recorded - names):
        told = f"{counted(len(absent), 'sample')} of manifest.jsonl without a file: {few(absent)}"
        # Where AffectGPT counts no more samples than there are files, it does not ask for these.
        (problems if expected is None else warnings).append(told)
    files, samples = counted(len(names), "file"), counted(expected or 0, "sample")
    if names and expected is not None and len(names) < expected:
        told = f"{files}, and AffectGPT counts {samples}: it decodes the others again"
        problems.append(f"{told}; gpupeak verify names them")
    elif expected is not None and len(names) > expected:
        warnings.append(f"{files}, AffectGPT counts {samples} and asks for no more")
    return problems, warnings


def _why_not_there(root: str, directory: str, run_dir: Path, stream: str) -> str:
    home, name = os.path.split(directory)
    home = os.path.normpath(home)
    if is_directory(run_dir / home):
        others = [each for each in _entries(run_dir / home) if is_feature_directory(each) and each.startswith(stream)]
        return f"no {name} in {home}, there is {few(others) or 'none of its kind'}"
    if is_directory(run_dir / root):
        last = os.path.basename(os.path.normpath(root))  # noqa: PTH119
        other = f"; the root is {last}'s, and AffectGPT appends every other dataset" * (last in expected_samples())
        return f"no directory {os.path.basename(home)} in {root}{other}"  # noqa: PTH119
    start = "" if Path(root).is_absolute() else f" in {run_dir.absolute()}"
    literal = "; AffectGPT expands neither ~ nor $" if root.startswith("~") or "$" in root else ""
    return f"preextracted_root is {root}, and there is no such directory{start}{literal}"


def _entries(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except (OSError, ValueError):  # a path that no file can have is a ValueError
        return []
