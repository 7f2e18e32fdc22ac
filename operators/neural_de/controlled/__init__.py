"""Controlled differential equations: paths through data, log-signatures, log-ODE."""
