"""The arguments of `residua bench`, and what each of its commands does.

Nothing here imports torch before the arguments have been checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError
from ..typed import seconds

__all__ = ["define", "run"]

COMMANDS = {
    "engine": "time of the residual engine against nested autograd, DeepXDE, JAX and the floor",
    "accuracy": "errors of whole runs against what is asked, and time to accuracy against DeepXDE",
    "operators": "operators on generated data: errors, contests at equal time, other grids",
    "mgno": "time of a training step of MgNO against a plain implementation of its paper",
    "trajectories": "integrators of ODEs and SDEs beside torchdiffeq, torchsde and diffrax",
    "compare": "two files of results: exit code 1 if anything got worse by more than noise",
}
CUDA_BUDGET = 7 * 60.0
"""Seconds; with what a row in progress takes it stays under eight minutes."""


def define(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Add the commands to the parser of `residua bench`."""
    commands = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)

    def command(name: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=COMMANDS[name], description=COMMANDS[name], allow_abbrev=False
        )

    engine = command("engine")
    engine.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    engine.add_argument("--threads", type=_count, metavar="N", help="default: all processors")
    engine.add_argument("--quick", action="store_true", help="a few rows, in about two minutes")
    engine.add_argument(
        "--only", metavar="PATTERN", help="rows whose name holds it, such as 'burgers * float32'"
    )
    engine.add_argument(
        "--budget",
        metavar="TIME",
        type=_duration,
        help="wall time for the whole table, such as '10 min' (default: none; 7 min on cuda)",
    )
    engine.add_argument(
        "--jax-python", metavar="PATH", type=Path, help="interpreter with JAX (default: this one)"
    )
    engine.add_argument("--out", metavar="FILE.json", type=_output, help="write every time there")

    accuracy = command("accuracy")
    accuracy.add_argument(
        "--ladder",
        metavar="NAME|FILE.yaml",
        default="accuracy",
        help="accuracy (default), library, or a file of your own",
    )
    accuracy.add_argument(
        "--only", nargs="+", metavar="NAME", help="cases of the ladder; * stands for any text"
    )
    accuracy.add_argument(
        "--seeds", nargs="+", type=_seed, metavar="N", default=[0, 1, 2], help="default: 0 1 2"
    )
    accuracy.add_argument(
        "--budget", metavar="TIME", type=_duration, help="for each run, instead of the case's own"
    )
    accuracy.add_argument(
        "--table", action="store_true", help="print what is in --out, run nothing"
    )
    accuracy.add_argument(
        "--out",
        metavar="FILE.json",
        type=_output,
        help="write results there after every run; rows that are not run now stay as they are",
    )
    operators = command("operators")
    operators.add_argument("--ladder", metavar="FILE.yaml", type=Path, help="default: the suite's")
    operators.add_argument("--only", nargs="+", metavar="NAME", help="cases of the ladder")
    operators.add_argument(
        "--seeds", nargs="+", type=_seed, metavar="N", default=[0], help="default: 0"
    )
    operators.add_argument(
        "--budget", metavar="TIME", type=_duration, help="for each run, instead of the case's own"
    )
    operators.add_argument("--threads", type=_count, metavar="N", help="of each run; default: all")
    operators.add_argument(
        "--folder", metavar="DIR", type=Path, default=Path("runs/operators"),
        help="of data, which are made once, and runs; default: runs/operators",
    )  # fmt: skip
    operators.add_argument(
        "--out", metavar="FILE.json", type=_output, help="write results there after every run"
    )
    mgno = command("mgno")
    mgno.add_argument("--threads", type=_count, metavar="N", help="default: all processors")
    mgno.add_argument("--out", metavar="FILE.json", type=_output, help="write every time there")
    trajectories = command("trajectories")
    trajectories.add_argument("--only", nargs="+", metavar="ROW", help="rows of the table")
    trajectories.add_argument("--threads", type=_count, metavar="N", help="default: all processors")
    trajectories.add_argument(
        "--jax-python", metavar="PATH", type=Path, help="interpreter with diffrax (default: none)"
    )
    trajectories.add_argument(
        "--out", metavar="FILE.json", type=_output, help="write every time there"
    )
    compare = command("compare")
    compare.add_argument("old", metavar="OLD.json", type=Path)
    compare.add_argument("new", metavar="NEW.json", type=Path)
    return commands.choices


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    chosen = {
        "engine": _engine, "accuracy": _accuracy, "operators": _operators, "mgno": _mgno,
        "trajectories": _trajectories, "compare": _compare,
    }  # fmt: skip
    return chosen[options.benchmark](options)


def _engine(options: argparse.Namespace) -> int:
    from .cases import rows, select
    from .contenders import check_interpreter
    from .machine import machine, write
    from .report import engine_heading, engine_line, engine_notes, engine_summary
    from .speed import benchmark, processors
    from .targets import judge

    table = select(rows(quick=options.quick), options.only)
    if options.jax_python is not None:
        check_interpreter(options.jax_python)
    if options.device == "cuda":
        _require_cuda()
    threads = options.threads or processors()
    print(engine_heading(machine(), threads, options.device), flush=True)
    results = benchmark(
        table,
        device=options.device,
        threads=threads,
        quick=options.quick,
        budget=options.budget or (CUDA_BUDGET if options.device == "cuda" else None),
        jax_python=options.jax_python,
        say=lambda row: print(engine_line(row), flush=True),
    )
    verdicts = judge(results["rows"], options.device)
    results["verdicts"] = [
        {**vars(v), "target": v.target.what, "must": v.target.must, "aim": v.target.aim}
        for v in verdicts
    ]
    if options.out is not None:
        write(options.out, results)
    print("", *engine_notes(results["rows"]), "", engine_summary(verdicts), sep="\n")
    return 1 if any(row["error"] for row in results["rows"]) else 0


def _accuracy(options: argparse.Namespace) -> int:
    from .accuracy import run_ladder
    from .ladder import chosen, find, load
    from .machine import read, write
    from .report import accuracy_run, accuracy_table, race_table

    ladder = chosen(load(find(options.ladder)), options.only)
    found = None
    if options.out is not None and options.out.exists():
        found = read(options.out, "accuracy")
    if options.table:
        if found is None:
            raise ConfigurationError("--table: there are no results to print", advice="give --out")
        results = found
    else:
        results = run_ladder(
            ladder,
            options.seeds,
            budget=options.budget,
            found=found,
            say=lambda name, run: print(accuracy_run(name, run), file=sys.stderr, flush=True),
            save=lambda results: options.out and write(options.out, results),
        )
    print(accuracy_table(results["rows"]))
    if results["races"]:
        print("", race_table(results["races"]), sep="\n")
    return 0


def _operators(options: argparse.Namespace) -> int:
    from .machine import read, write
    from .operators import LADDER, load, run_ladder

    found = None
    if options.out is not None and options.out.exists():
        found = read(options.out, "operators")
    results = run_ladder(
        load(options.ladder or LADDER),
        options.seeds,
        folder=options.folder,
        only=options.only,
        budget=options.budget,
        threads=options.threads,
        found=found,
        say=lambda text: print(text, flush=True),
        save=lambda results: options.out and write(options.out, results),
    )
    for entry in results["verdicts"]:
        aim = "" if entry["aim"] is None else f", aim {entry['aim']:g}"
        value = f"{entry['value']:.2e} (must {entry['must']:g}{aim})"
        print(f"{entry['what']}: {value}: {entry['verdict']}")
    return 0


def _mgno(options: argparse.Namespace) -> int:
    from .machine import write
    from .mgno_speed import benchmark, line

    results = benchmark(threads=options.threads, say=lambda row: print(line(row), flush=True))
    if options.out is not None:
        write(options.out, results)
    return 1 if any(row["error"] for row in results["rows"]) else 0


def _trajectories(options: argparse.Namespace) -> int:
    from ..typed import nearest
    from .machine import write
    from .trajectory_speed import ROWS, benchmark, line

    for name in options.only or ():
        if name not in ROWS:
            raise ConfigurationError("no row has this name", found=name, advice=nearest(name, ROWS))
    results = benchmark(
        only=options.only,
        threads=options.threads,
        jax_python=options.jax_python,
        say=lambda name, row: print(line(name, row), flush=True),
    )
    for name, row in results["rows"].items():
        for note in row["notes"]:
            print(f"note: {name}: {note}")
    if options.out is not None:
        write(options.out, results)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from .compare import changes
    from .machine import read
    from .report import changes_table

    old = read(options.old)
    found, notes = changes(old, read(options.new, old["benchmark"]))
    print(changes_table(found), *(f"note: {note}" for note in notes), sep="\n")
    return 1 if any(change.regression for change in found) else 0


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigurationError(
            "--device: there is no CUDA device here", found="cuda", advice="write cpu"
        )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 4096):
        raise argparse.ArgumentTypeError(f"found '{text}'; write a whole number from 1 to 4096")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"found '{text}'; write a whole number from 0 up")
    return int(text)


def _duration(text: str) -> float:
    try:
        found = seconds(text)
    except (ValueError, OverflowError):
        found = 0.0
    if not 0 < found < 366 * 86400:
        raise argparse.ArgumentTypeError(f"found '{text}'; write a time such as '90 s' or '5 min'")
    return found


def _output(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".json":
        raise argparse.ArgumentTypeError(f"found '{text}'; write a file name that ends in .json")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder that can be written to")
    return path
