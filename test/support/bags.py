"""Small rosbags of images, written as a recorder writes them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
Image = STORE.types["sensor_msgs/msg/Image"]
CompressedImage = STORE.types["sensor_msgs/msg/CompressedImage"]
Header = STORE.types["std_msgs/msg/Header"]
Time = STORE.types["builtin_interfaces/msg/Time"]


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return an RGB image whose left half is red and whose brightness tells its index."""
    image = np.full((height, width, 3), 10 * index, np.uint8)
    image[:, : width // 2] = (200, 40, 10 * index)
    return image


def image_message(image: np.ndarray, stamp_ns: int, encoding: str = "rgb8"):
    header = Header(Time(stamp_ns // 10**9, stamp_ns % 10**9), "camera")
    height, width = image.shape[:2]
    data = np.frombuffer(image.tobytes(), np.uint8)
    return Image(header, height, width, encoding, 0, len(data) // height, data)


def jpeg_message(image: np.ndarray, stamp_ns: int):
    header = Header(Time(stamp_ns // 10**9, stamp_ns % 10**9), "camera")
    return CompressedImage(header, "jpeg", cv2.imencode(".jpg", image[..., ::-1])[1].reshape(-1))


def write_bag(path: Path, topics: dict[str, list], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Write messages 0.1 s apart in time of reception, from 1000 s on."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        for topic, messages in topics.items():
            msgtype = messages[0].__msgtype__
            connection = writer.add_connection(topic, msgtype, typestore=STORE)
            for index, message in enumerate(messages):
                writer.write(connection, 1_000 * 10**9 + index * 10**8, STORE.serialize_cdr(message, msgtype))
    return path
