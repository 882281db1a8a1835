"""Decode files to pixels and encode pixels to files. Each module imports its library on first use."""
