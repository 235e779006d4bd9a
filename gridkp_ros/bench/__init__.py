"""What `gridkp bench` times, beside the straightforward way of doing the same."""
