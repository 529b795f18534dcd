"""Findings: calibrated detections in field recordings, and their review. Does not need torch."""
