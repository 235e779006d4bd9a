"""Nodes of a DDS participant of their own, which may do what DDS refuses within one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.node import Node


@contextmanager
def stranger(domain_id: int, name: str = "stranger") -> Iterator[Node]:
    """A node in a ROS domain, gone when the block ends."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = rclpy.create_node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
