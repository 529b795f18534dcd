"""Modules that the programs in datasets/ share."""
