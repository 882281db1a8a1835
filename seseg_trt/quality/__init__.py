"""Measuring masks: agreement of two artifacts, scores against true masks, drift, and the pages that show them.

The rooms behind :mod:`seseg_trt.verify` and :mod:`seseg_trt.evaluate`.
"""
