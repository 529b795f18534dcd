"""Networks: frontend, layers, pooling, architecture, files, and compilation for fast prediction."""
