"""Models that learn a differential equation from series."""
