"""Backends: pixels to confidence. Each module loads its library only when a backend is made."""
