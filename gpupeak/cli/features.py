"""`gpupeak pack` and `gpupeak unpack`."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from gpupeak.cli.options import JSON, with_settings
from gpupeak.cli.output import Output, print_json
from gpupeak.cli.progress import watching
from gpupeak.config import ExtractConfig
from gpupeak.corpora.table import read_table
from gpupeak.errors import ConfigError, counted, few, reading
from gpupeak.features.layout import encoder_directory, feature_directory, is_feature_directory
from gpupeak.storage import places
from gpupeak.tally import Watch
from gpupeak.types import SAMPLINGS

_Work: TypeAlias = Callable[[Path, int, Watch], tuple[str, int]]


@with_settings()
def pack(config: ExtractConfig, given: Mapping[str, object], as_json: bool = JSON) -> int:
    """Pack each dataset's .npy files into one file beside them, for training loops: gpupeak.FeatureStore maps it.

    DATASETS are directories of the output root. The .npy files stay.
    Where one holds several directories of features, options say which is meant.
    """
    from gpupeak.features.packs import pack as pack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        file, count = pack_features(directory, n, watch)
        return f"{counted(count, 'sample')} packed into {file}", count

    return _each(config, given, "", as_json, work)


@with_settings()
def unpack(config: ExtractConfig, given: Mapping[str, object], as_json: bool = JSON) -> int:
    """Write what pack packed as .npy files again, those that are not there.

    DATASETS are directories of the output root.
    """
    from gpupeak.features.packs import unpack as unpack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        written, count = unpack_features(directory, n, watch)
        there = f", {count - written} already there" if written < count else ""
        return f"{written} of {counted(count, 'sample')} written to {directory}{there}", written

    return _each(config, given, ".safetensors", as_json, work)


def _each(config: ExtractConfig, given: Collection[str], ending: str, as_json: bool, work: _Work) -> int:
    from gpupeak.features.packs import FeatureStore

    root, table = FeatureStore(config.output_root).root, read_table(config.config_file)
    there: dict[str, list[str]] = {}
    left_out: list[str] = []
    with reading(root):
        homes = [root, *(root / name for name in sorted(places.names(root)))]
    for home in homes:
        try:
            found = [each.removesuffix(ending) for each in sorted(places.names(home)) if each.endswith(ending)]
        except OSError as error:  # lost+found, say
            if not config.datasets or home.name in config.datasets:
                left_out.append(f"{home}: cannot be read: {error.strerror}")
            continue
        if names := list(filter(is_feature_directory, found)):
            there[home.name] = names
    asked = [name if name in there else table.find(name) or name for name in config.datasets]
    directories: dict[str, Path] = {}
    for name in asked or there:
        sampling, n = (getattr(config, field) or table.said(name, field) for field in ("sampling", "n_frms"))
        encoder = encoder_directory(config.encoder)
        named = feature_directory(root, name, encoder, sampling or SAMPLINGS[0], n or 8, config.stream)
        names = there.get(name, [])
        if len(names) == 1 and not (sampling or n or {"encoder", "stream"} & set(given)):  # nothing says which
            named = named.with_name(names[0])
        if named.name in names:
            directories[name] = named
        else:
            told = f"no {'packed ' * bool(ending)}features; those that do: {few(there) or 'none'}"
            if names:
                told = f"{few(names)}: give --sampling, --n-frms, --stream or --visual-encoder to say which is meant"
            left_out.append(f"{named.parent} holds {told}")
    if not directories or (asked and left_out):
        raise ConfigError(next(iter(left_out), f"{root}: no dataset with features; --output-root says where they lie"))
    for told in left_out:
        Output(stderr=True).warn(told)
    counts: dict[str, int] = {}
    for name, directory in directories.items():
        n = int(directory.name.removesuffix("frms").rpartition("_")[2])
        with reading(directory), watching(Output(stderr=True), quiet=as_json) as watch:
            told, counts[name] = work(directory, n, watch)
        if not as_json:
            Output().say(f"{name}: {told}")
    if as_json:
        print_json(0, datasets=counts)
    return 0
