"""What a person should know about a problem that is well posed as far as anyone can tell."""

from __future__ import annotations

from .problem import Problem

__all__ = ["problem_notes"]


def problem_notes(problem: Problem) -> list[str]:
    """Sentences for the log of a run: what is written but not used, and what stays undetermined."""
    notes = [
        f"the {kind} '{name}' is used nowhere: no equation, condition or exact solution holds it"
        for name in problem.unused
        for kind in ["parameter" if name in problem.parameters else "function"]
    ]
    notes += [
        f"'{name}' appears in derivatives only, so it is determined up to a constant at best; fix "
        "its value somewhere"
        for name in problem.floating
    ]
    return notes
