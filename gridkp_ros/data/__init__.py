"""Clips for training out of videos, frame folders, rosbags and the simulator; frames with stamps for evaluation."""
