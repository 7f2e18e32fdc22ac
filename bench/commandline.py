"""The arguments of `residua bench`, and what each of its commands does.

Nothing here imports torch before the arguments have been checked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError
from ..typed import seconds

__all__ = ["define", "run"]

COMMANDS = {
    "engine": "time of the residual engine against nested autograd, DeepXDE, JAX and the floor",
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
    return commands.choices


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    return {"engine": _engine}[options.benchmark](options)


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
