"""The arguments of `residua data`, and what its commands do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from ...errors import ConfigurationError

__all__ = ["define", "run"]

COMMANDS = {
    "generate": "random inputs and a classical solver's outputs, with error bars, into one file",
    "info": "what is in a file of data, of any layout that is known; reads it all for NaN",
}
_EPILOG = """\
families:
  darcy, darcy_rough, darcy_multiscale, helmholtz     coefficient to solution, on a square
  burgers, advection, navier_stokes                   first state to later ones, periodic
  any time-dependent problem of `residua list`        random initial values or parameters
  (library/NAME where a family has the same name)

examples:
  residua data generate darcy --samples 1200 --resolution 85 --set grid=421 --workers 2
  residua data generate burgers --samples 1200 --resolution 1024 --set nu=0.01/pi
  residua data generate kdv --samples 100 --resolution 128 --set mu=[0.02,0.05] --set end=0.2
  residua data info darcy.h5
"""


def define(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Add the commands to the parser of `residua data`."""
    commands = parser.add_subparsers(dest="dataset", metavar="COMMAND", required=True)
    generate = commands.add_parser(
        "generate",
        help=COMMANDS["generate"],
        description=COMMANDS["generate"],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    generate.add_argument("family", metavar="FAMILY", help="a family, or a problem of the library")
    generate.add_argument("--samples", type=_number, metavar="N", required=True)
    generate.add_argument(
        "--resolution", type=_number, metavar="N", required=True, help="nodes per coordinate"
    )
    generate.add_argument("--seed", type=_natural, metavar="N", default=0, help="default: 0")
    generate.add_argument(
        "--out", metavar="FILE.h5", type=_file, help="default: FAMILY_RESOLUTION.h5 in this folder"
    )
    generate.add_argument(
        "--workers", type=_number, metavar="N", default=1, help="processes, of one thread each"
    )
    generate.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of the family"
    )
    generate.add_argument(
        "--split",
        metavar="NAME=FIRST:END",
        nargs="+",
        help="default: 80, 10 and 10 per cent for train, validation and test",
    )
    generate.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    generate.add_argument("--overwrite", action="store_true", help="replace the file")
    generate.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and say what would be made; writes nothing",
    )
    generate.add_argument("--quiet", action="store_true", help="print nothing but errors")
    info = commands.add_parser(
        "info", help=COMMANDS["info"], description=COMMANDS["info"], allow_abbrev=False
    )
    info.add_argument("file", metavar="FILE", type=Path)
    info.add_argument("--outputs", metavar="FILE.npy", type=Path, help="where FILE is .npy")
    info.add_argument(
        "--axes",
        metavar="NAMES",
        nargs="+",
        help="of .npy and .mat: 'x y sample', for both or each",
    )
    return commands.choices


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    return {"generate": _generate, "info": _info}[options.dataset](options)


def _generate(options: argparse.Namespace) -> int:
    from ...overrides import Override
    from ...progress import reporter_for
    from .generation import Request, generate
    from .splits import parse

    settings = {}
    for text in options.set:
        change = Override.parse(text)
        settings[".".join(change.path)] = change.value
    request = Request(options.family, options.resolution, options.seed, settings, options.dtype)
    splits = None if options.split is None else parse(options.split, options.samples)
    path = options.out or Path(f"{options.family.replace('/', '_')}_{options.resolution}.h5")
    if options.dry_run:
        description = request.description()
        shapes = [f"{f.name} {description.shape(f)}" for f in description.fields]
        print(f"{options.samples} samples of {', '.join(shapes)} into {path}")
        for part in ("equation", "law", "error_bar"):
            print(f"{part.replace('_', ' ')}: {getattr(description, part)}")
        return 0
    generate(
        request,
        options.samples,
        path,
        workers=options.workers,
        splits=splits,
        overwrite=options.overwrite,
        reporter=reporter_for(quiet=options.quiet),
    )
    return 0


def _info(options: argparse.Namespace) -> int:
    from . import open as open_data
    from .info import describe, scan, separate

    if options.axes is not None and len(options.axes) > 2:
        raise ConfigurationError(
            "--axes takes one or two texts", advice="write --axes 'sample x y' 'sample x y t'"
        )
    axes = None if options.axes is None else (options.axes[0], options.axes[-1])
    data = open_data(options.file, outputs=options.outputs, axes=axes)
    for line in (*describe(data), *separate(data)):
        print(line)
    for line in scan(data):
        print(line)
    return 0


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**7):
        raise argparse.ArgumentTypeError(f"found '{text}'; write a whole number from 1")
    return int(text)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"found '{text}'; write a whole number from 0 up")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".h5", ".hdf5") or not text.isprintable():
        raise argparse.ArgumentTypeError(f"found '{text}'; write a file name that ends in .h5")
    if path.parent.exists() and not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder that can be written to")
    return path
