"""PyTorch networks and keypoint operations; a file for each model family."""
