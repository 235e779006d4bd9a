"""Faults done to the running predictor_node; `make faults` (see docs/faults.md)."""
