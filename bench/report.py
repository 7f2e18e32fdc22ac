"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .targets import JAX, Verdict

__all__ = ["columns", "engine_heading", "engine_line", "engine_notes", "engine_summary"]

RowData = Mapping[str, Any]

HEAD = (
    "equation, width, dtype", "ms (median)", "/nested", "/DeepXDE", "/JAX", "of floor",
    "MiB", "/nested",
)  # fmt: skip
WIDTHS = (32, 14, 8, 9, 8, 9, 8, 8)


def columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line; the first column to the left, the others to the right."""
    first, *others = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return " ".join([first, *others]).rstrip()


def engine_heading(about: Mapping[str, Any], threads: int, device: str) -> str:
    """What the columns are."""
    return (
        f"{about['processor']}, {about['cores']} cores; device {device}, {threads} threads\n"
        "ratios are our time (memory) over theirs, of the minima over repetitions; /JAX: of its "
        "fastest\n\n" + columns(HEAD, WIDTHS)
    )


def engine_line(row: RowData) -> str:
    """One row as it is done; what failed or was left out follows in words."""
    if row["kind"] != "step":
        return _iteration_lines(row)
    ours, ratios = row["contenders"].get("residua", {}), row["ratios"]
    jax = [ratios[name]["minimum"] for name in JAX if name in ratios]
    floor = ratios.get("floor")
    memory = ratios.get("nested", {}).get("memory")
    cells = [
        row["name"],
        _time(ours),
        _ratio(ratios.get("nested", {}).get("minimum")),
        _ratio(ratios.get("deepxde", {}).get("minimum")),
        _ratio(max(jax, default=None)),
        "-" if floor is None else f"{1 / floor['minimum']:.0%}",
        _mebibytes(ours),
        _ratio(memory),
    ]
    return "\n".join([columns(cells, WIDTHS), *_complaints(row)])


def _iteration_lines(row: RowData) -> str:
    lines = []
    for name, entry in row["contenders"].items():
        ratio = row["ratios"].get(name, {}).get("minimum")
        says = "" if ratio is None else f"   ours / theirs {_ratio(ratio)}"
        lines.append(f"  {name:24}{_time(entry):>14} ms {_mebibytes(entry):>8} MiB{says}")
    return "\n".join([row["name"], *lines, *_complaints(row)])


def _complaints(row: RowData) -> list[str]:
    lines = [f"  ERROR: {row['error']}"] if row["error"] else []
    for name, entry in row["contenders"].items():
        if "failed" in entry and entry["failed"] != row["error"]:
            lines.append(f"  {name}: {entry['failed']}")
    return lines


def engine_notes(rows: Sequence[RowData]) -> list[str]:
    """Who was left out and why, once for each reason; which rows were disturbed."""
    left: dict[tuple[str, str], int] = {}
    disturbed = []
    for row in rows:
        for name, entry in row["contenders"].items():
            if "skipped" in entry:
                left[(name, entry["skipped"])] = left.get((name, entry["skipped"]), 0) + 1
        if any(abs(r["median"] / r["minimum"] - 1) > 0.15 for r in row["ratios"].values()):
            disturbed.append(row["name"])
    notes = [f"skipped in {count} rows: {name}: {why}" for (name, why), count in left.items()]
    if disturbed:
        notes.append(
            f"in {len(disturbed)} of {len(rows)} rows a ratio of medians differs from that of "
            "minima by more than 15 %: the machine was not quiet"
        )
    return notes


def engine_summary(verdicts: Sequence[Verdict]) -> str:
    """Issue 3's table with what was measured."""
    widths = (48, 6, 6, 8, 8, 14)
    lines = [
        columns(("worst of all rows against issue 3", "must", "aim", "worst", "best", ""), widths)
    ]
    for verdict in verdicts:
        target = verdict.target
        says = {"aim": "aim met", "must": "must met", "no": "NOT MET"}.get(verdict.met, verdict.met)
        cells = [
            target.what,
            f"{target.must:.2f}",
            f"{target.aim:.2f}",
            _ratio(verdict.worst),
            _ratio(verdict.best),
            says,
        ]
        where = f"  ({verdict.where})" if verdict.where else ""
        lines.append(columns(cells, widths) + where)
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _time(entry: RowData) -> str:
    if "minimum" not in entry:
        return "-"
    return f"{1e3 * entry['minimum']:.1f} ({1e3 * entry['median']:.1f})"


def _mebibytes(entry: RowData) -> str:
    memory = entry.get("memory")
    return "-" if memory is None else f"{memory / 2**20:.1f}"
