"""Optimisers for sums of squares and for general losses."""
