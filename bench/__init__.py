"""Regression benchmarks: suites of cases, their runs, the comparison with a baseline, the report.

Sits above solvers and operators and is used by the command alone. Every row of a benchmark carries
the error it
reached and the time a classical method needs for the same error; failed and diverged runs stay in
the table.
"""
