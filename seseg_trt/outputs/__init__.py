"""Where outputs go: a folder, an object store, tars; and what they are called."""
