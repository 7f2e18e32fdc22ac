"""Stochastic differential equations: Brownian paths, steppers and their loop."""
