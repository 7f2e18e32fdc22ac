"""Regression benchmarks: the speed of the engine, the accuracy of whole runs, their comparison.

Sits above solvers and operators and is used by the command alone (`residua bench`). Contenders run
in processes of their own, so that no library's settings reach another. What failed, diverged or
disagreed stays in the table.
"""
