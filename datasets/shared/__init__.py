"""Modules shared by the programs in datasets/."""
