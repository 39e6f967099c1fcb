"""`gpupeak report`."""

# ruff: noqa: B008 - a default that is a call is how typer is told of an option

from pathlib import Path

from gpupeak.cli.options import JSON, QUIET, option, with_settings
from gpupeak.cli.output import Output, print_json
from gpupeak.cli.progress import watching
from gpupeak.config import OUTPUT, ExtractConfig
from gpupeak.errors import counted, sized

_PICTURES = "Pictures"


@with_settings(recorded=True)
def report(
    config: ExtractConfig,
    out: Path = option(Path("gpupeak-report.html"), OUTPUT, "FILE.html", "The file to write."),
    show: int = option(8, _PICTURES, "N", "Contact sheets a dataset, of samples drawn by --seed.", min=0),
    show_unusual: int = option(4, _PICTURES, "N", "And of those whose features stand out most.", min=0),
    show_samples: list[str] | None = option(None, _PICTURES, "NAMES", "And of these: NAME or DATASET/NAME."),
    quiet: bool = QUIET,
    as_json: bool = JSON,
) -> int:
    """Write one HTML file about the features that extract made with the same arguments; it opens offline.

    Coverage, peaks, fallbacks, failures, time, and the chosen frames of some samples as pictures.
    Datasets whose videos or lists are not at hand are told from what was extracted. Needs the extra report.
    """
    from gpupeak.report.contents import overview
    from gpupeak.report.page import refuse_unwritable, write_page
    from gpupeak.report.sheets import require

    require("jinja2", "PIL")
    refuse_unwritable(out)
    console = Output(stderr=True)
    with watching(console, quiet=quiet or as_json) as watch:
        found = overview(config, show, show_unusual, show_samples or (), console.say, watch)
        size = write_page(found, out)
    if as_json:
        print_json(0, file=str(out), bytes=size, datasets=[each.to_json() for each in found])
        return 0
    console = Output()
    for each in found:
        for mark in each.marks:
            console.warn(mark)
        for remark in each.remarks:
            console.say(f"{each.dataset}: {remark}", "yellow")
    if not quiet:
        samples, sheets = sum(len(each.rows) for each in found), sum(each.shown for each in found)
        told = f"{counted(samples, 'sample')} of {counted(len(found), 'dataset')}, {counted(sheets, 'contact sheet')}"
        console.say(f"{out}: {sized(size)}, {told}")
    return 0
