"""Backends: run the network on images. Each module imports its library when a backend is created."""
