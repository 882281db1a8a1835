"""One parent and its worker processes: an input can only cost itself."""
