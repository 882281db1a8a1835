"""The record of what is done: an SQLite file, a row an input."""
