"""Masks: confidence and pixels to outputs, exactly as the original program makes them."""
