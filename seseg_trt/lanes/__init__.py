"""Lanes: decode, infer, composite and encode batches on one kind of hardware."""
