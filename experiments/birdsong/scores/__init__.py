"""Stored predictions, metrics, and ensembles. Needs no torch."""
