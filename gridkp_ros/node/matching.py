"""Who on a topic cannot hear whom, by the graph that DDS has discovered."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo


def endpoint_name(info: TopicEndpointInfo) -> str:
    """Return the full name of an endpoint's node."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def mismatch(publisher: TopicEndpointInfo, subscription: TopicEndpointInfo) -> str:
    """Return why a subscription cannot hear a publisher: another type, QoS that asks for more; empty if it can.

    Both from the graph: what is asked for leaves durations unset that the graph tells as infinite.
    """
    if publisher.topic_type != subscription.topic_type:
        return f"{publisher.topic_type} is not {subscription.topic_type}"
    compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
    return reason.replace("ERROR: ", "").strip(" ;") if compatibility == QoSCompatibility.ERROR else ""


def of_node(node: Node, infos: Iterable[TopicEndpointInfo]) -> list[TopicEndpointInfo]:
    """Return a node's own endpoints."""
    return [info for info in infos if endpoint_name(info) == node.get_fully_qualified_name()]
