"""Measure masks: :mod:`seseg_trt.quality.verify` compares two artifacts, :mod:`seseg_trt.quality.evaluate` scores one against true masks."""
