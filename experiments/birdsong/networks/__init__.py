"""Networks: front end, layers, pooling, architecture, files, and how they are run fast."""
