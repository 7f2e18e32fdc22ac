"""What every run has, whatever it trains: options, a folder, settings of torch, a summary.

Solvers and operators build on it; it knows neither equations nor data.
"""
