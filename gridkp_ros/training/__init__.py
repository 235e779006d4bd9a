"""Losses, stages, schedules and the trainer's glue."""
