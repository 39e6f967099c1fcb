"""`gpupeak pack` and `gpupeak unpack`."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from gpupeak.cli.options import JSON, with_settings
from gpupeak.cli.output import Output, print_json
from gpupeak.cli.progress import watching
from gpupeak.config import ExtractConfig
from gpupeak.corpora.table import read_table
from gpupeak.errors import ConfigError, counted, few
from gpupeak.features.layout import encoder_directory, feature_directory, is_feature_directory
from gpupeak.storage import places
from gpupeak.tally import Watch
from gpupeak.types import SAMPLINGS


@with_settings()
def pack(config: ExtractConfig, given: Mapping[str, object], as_json: bool = JSON) -> int:
    """Pack each dataset's .npy files into one file beside them, for training loops: gpupeak.FeatureStore maps it.

    DATASETS are directories of the output root; none for all that are there. Where one holds several directories of
    features, --sampling, --n-frms, --stream or --visual-encoder says which is meant. The .npy files stay.
    """
    from gpupeak.features.packs import pack as pack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        file, count = pack_features(directory, n, watch)
        return f"{counted(count, 'sample')} packed into {file}", count

    return _each(config, given, "", as_json, work)


@with_settings()
def unpack(config: ExtractConfig, given: Mapping[str, object], as_json: bool = JSON) -> int:
    """Write what pack packed as .npy files again, those that are not there.

    DATASETS are directories of the output root; none for all that are there.
    """
    from gpupeak.features.packs import unpack as unpack_features

    def work(directory: Path, n: int, watch: Watch) -> tuple[str, int]:
        written, count = unpack_features(directory, n, watch)
        there = f", {count - written} already there" if written < count else ""
        return f"{written} of {counted(count, 'sample')} written to {directory}{there}", written

    return _each(config, given, ".safetensors", as_json, work)


def _each(
    config: ExtractConfig,
    given: Collection[str],
    ending: str,
    as_json: bool,
    work: Callable[[Path, int, Watch], tuple[str, int]],
) -> int:
    from gpupeak.features.packs import FeatureStore

    root, table = FeatureStore(config.output_root).root, read_table(config.config_file)

    def there(home: Path) -> list[str]:
        found = (each.removesuffix(ending) for each in sorted(places.names(home)) if each.endswith(ending))
        return list(filter(is_feature_directory, found))

    def meant(name: str) -> Path | None:
        """That of the settings; if none says which, the only one that is there."""
        sampling, n = (getattr(config, field) or table.said(name, field) for field in ("sampling", "n_frms"))
        encoder = encoder_directory(config.encoder)
        named = feature_directory(root, name, encoder, sampling or SAMPLINGS[0], n or 8, config.stream)
        only = there(named.parent)
        if len(only) == 1 and not (sampling or n or {"encoder", "stream"} & set(given)):
            return named.with_name(only[0])
        return named if named.name in only else None

    homes = (root.name, *sorted(places.names(root)))
    asked = [name if name in homes else table.find(name) or name for name in config.datasets]
    found = {name: meant(name) for name in asked or homes}
    lacking = next((name for name in asked if found[name] is None), "")
    directories = {name: directory for name, directory in found.items() if directory is not None}
    if lacking or not directories:
        every = dict.fromkeys(f"{Path(name, each)}" for name in ("", lacking, *homes) for each in there(root / name))
        what = f"{'packed ' * bool(ending)}features{f' of {lacking}' * bool(lacking)}"
        told = f"there are {few(every)}" if every else "--output-root says where they lie"
        raise ConfigError(f"{root}: no {what} by these settings; {told}")
    counts: dict[str, int] = {}
    for name, directory in directories.items():
        n = int(directory.name.removesuffix("frms").rpartition("_")[2])
        with watching(Output(stderr=True), quiet=as_json) as watch:
            told, counts[name] = work(directory, n, watch)
        if not as_json:
            Output().say(f"{name}: {told}")
    if as_json:
        print_json(0, datasets=counts)
    return 0
