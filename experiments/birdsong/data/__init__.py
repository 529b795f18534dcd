"""From recordings to batches: datasets, audio, spectrograms, augmentation, metadata, feeds. Needs no torch."""
