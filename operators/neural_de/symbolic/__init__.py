"""Equations in symbols, found for a field that was learnt."""
