"""Applying trained networks to recordings, and inspecting them."""
