"""Inputs: found, named and read, on disks, in object stores and in tars."""
