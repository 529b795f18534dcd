"""Training: costs, optimisers, schedule, checkpoints."""
