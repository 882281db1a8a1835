"""Model files: reading them, the model cache, plans and certificates."""
