"""Figures that need somebody's trained networks: LPIPS, FVD and VGG cosine similarity.

The only room of the evaluation that uses PyTorch, imported when weights are given. Nothing is made up without them.
"""
