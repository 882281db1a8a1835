"""A run over many files: what to do, what is done, and how it goes."""
