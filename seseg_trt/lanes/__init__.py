"""Lanes: decode, infer, composite and encode on one kind of hardware."""
