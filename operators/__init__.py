"""Data to map: neural operators and learned dynamics.

A solver needs an equation; an operator needs data. What lives here learns a map between functions,
or the law of a
trajectory, from examples, and shares the training loop, run folder and report with the solvers. It
imports the engine
and the problems; it does not import the solvers.
"""
