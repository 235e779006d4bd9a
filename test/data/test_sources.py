"""Recordings of every kind, whole, damaged and ambiguous."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from gridkp_ros.data.sources import DataError, natural_key, open_source
from gridkp_ros.data.video_out import VideoWriter
from support.bags import Time, image_message, jpeg_message, picture, write_bag

SUTUREBOT = Path(__file__).parents[3] / "shared/data/suturebot/suturebot_needle_pickup.mp4"


def write_video(path: Path, times_ms: list[int], size: tuple[int, int] = (64, 48), codec: str = "libx264") -> Path:
    import av

    container = av.open(str(path), "w")
    stream = container.add_stream(codec, rate=30)
    stream.width, stream.height = size
    stream.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.codec_context.gop_size = 5
    for index, time_ms in enumerate(times_ms):
        frame = av.VideoFrame.from_ndarray(picture(index % 20, *size), format="rgb24")
        frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
    container.close()
    return path


# ---- video


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_video_of_variable_rate_keeps_its_presentation_times(tmp_path: Path, suffix: str) -> None:
    times_ms = np.cumsum([0, *np.random.default_rng(0).integers(16, 90, 40)]).tolist()
    with open_source(write_video(tmp_path / f"clip.{suffix}", times_ms)) as source:
        frames = list(source)
    assert [round(f.stamp_ns / 1e6) for f in frames] == times_ms
    assert (source.name, source.width, source.height, source.unreadable) == (f"clip.{suffix}", 64, 48, 0)
    assert source.notes == []
    image = frames[3].image
    assert image.dtype == np.uint8 and image.shape == (48, 64, 3)
    assert np.abs(image[10, 10].astype(int) - (200, 40, 30)).max() < 25  # red, not blue


def test_video_can_be_read_twice_and_left_early(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "clip.mp4", [40 * i for i in range(12)]))
    for frame in source:
        if frame.stamp_ns > 10**8:
            break
    assert len(list(source)) == len(list(source)) == 12


def test_grey_video_of_odd_size(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "clip.mkv", [100 * i for i in range(5)], (65, 49), "ffv1"))
    assert {f.image.shape[:2] for f in source} == {(49, 65)}


def test_a_given_rate_replaces_the_recorded_times(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "clip.mp4", [0, 10, 500, 510]), rate_hz=20)
    assert [f.stamp_ns for f in source] == [0, 50_000_000, 100_000_000, 150_000_000]
    assert source.rate_hz == 20


def test_video_without_times_falls_back_to_its_rate_and_says_so(tmp_path: Path) -> None:
    import av

    video = write_video(tmp_path / "clip.mp4", [40 * i for i in range(10)])
    bare = tmp_path / "clip.h264"
    with av.open(str(video)) as reader, av.open(str(bare), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    source = open_source(bare)
    stamps = [f.stamp_ns for f in source]
    assert len(stamps) == 10 and np.all(np.diff(stamps) == round(1e9 / source.rate_hz))
    assert "presentation times are missing or do not increase" in source.notes[0]


def test_damaged_video_is_read_past_the_damage_and_counted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", [33 * i for i in range(200)])
    data = bytearray(video.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 1500] = bytes(1500)
    video.write_bytes(data)
    source = open_source(video)
    stamps = [f.stamp_ns for f in source]
    assert 0 < source.unreadable < 150
    assert len(stamps) + source.unreadable == 200
    assert np.all(np.diff(stamps) > 0) and stamps[-1] > 6e9  # it went on to the end


def test_video_cut_short_is_counted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mkv", [33 * i for i in range(100)])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    source = open_source(video)
    read = len(list(source))
    assert 0 < read < 100 and source.unreadable > 20


def test_lost_camera_frames_are_no_unreadable_ones(tmp_path: Path) -> None:
    times_ms = [33 * i for i in range(60) if i not in (20, 21, 22, 40)]
    for suffix in ("mkv", "mp4"):
        source = open_source(write_video(tmp_path / f"clip.{suffix}", times_ms))
        assert len(list(source)) == 56 and source.unreadable == 0


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"no video at all" * 50)
    with pytest.raises(DataError, match=r"junk\.mp4: OpenCV cannot open this as a video"):
        open_source(junk)
    os.mkfifo(tmp_path / "pipe.mcap")
    with pytest.raises(DataError, match=r"pipe\.mcap: neither a file nor a folder"):
        open_source(tmp_path / "pipe.mcap")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "absent.mp4")
    with pytest.raises(DataError, match="rate -3 Hz"):
        open_source(junk, rate_hz=-3)
    with pytest.raises(DataError, match="this is no rosbag"):
        open_source(junk, topic="/camera")


def test_real_recording() -> None:
    if not SUTUREBOT.exists():
        pytest.skip("../shared/data/suturebot/suturebot_needle_pickup.mp4 is absent")
    source = open_source(SUTUREBOT)
    stamps = np.array([f.stamp_ns for f in source])
    assert (len(stamps), source.unreadable, source.width, source.height) == (300, 0, 960, 540)
    np.testing.assert_allclose(np.diff(stamps), 1e9 / 30, atol=2)


# ---- folders of images


def test_folder_of_images_in_natural_order_with_a_damaged_one(tmp_path: Path) -> None:
    for index in (1, 2, 3, 10, 11):
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), picture(index)[..., ::-1])
    cv2.imwrite(str(tmp_path / "frame4.PNG"), np.full((48, 64), 4 * 257, np.uint16))
    (tmp_path / "frame3.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(tmp_path, rate_hz=10)
    frames = list(source)
    assert (source.length, source.unreadable, source.width, source.height) == (6, 1, 64, 48)
    assert [f.stamp_ns for f in frames] == [0, 10**8, 3 * 10**8, 4 * 10**8, 5 * 10**8]  # the lost one keeps its time
    np.testing.assert_array_equal(frames[-1].image, picture(11))
    np.testing.assert_array_equal(frames[2].image, np.full((48, 64), 4, np.uint8))


def test_a_truncated_jpeg_in_a_folder_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), picture(index))
    cut = tmp_path / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    source = open_source(tmp_path, rate_hz=10)
    assert [f.stamp_ns for f in source] == [0, 2 * 10**8]
    assert source.unreadable == 1
    assert "1.jpg" in caplog.text and "is a JPEG cut short" in caplog.text


def test_folder_problems_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a rosbag"):
        open_source(tmp_path)
    file = tmp_path / "a.png"
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match="give its rate in Hz"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="not one of its 1 images"):
        open_source(tmp_path, rate_hz=10)
    with pytest.raises(DataError, match="one image is no recording"):
        open_source(file)


def test_natural_order() -> None:
    names = ["b1", "a10b2", "a2b10", "a2b9", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a2b9", "a2b10", "a10b2", "b1"]


# ---- bags


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bag_of_raw_images_has_the_stamps_of_its_headers(tmp_path: Path, storage: StoragePlugin) -> None:
    messages = [image_message(picture(i), 5 * 10**9 + i * 33_000_000) for i in range(6)]
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw": messages}, storage)
    source = open_source(bag)
    frames = list(source)
    assert (source.topic, source.length, source.unreadable) == ("/cam/image_raw", 6, 0)
    assert (source.width, source.height) == (64, 48)
    assert source.rate_hz == pytest.approx(10)
    assert [f.stamp_ns for f in frames] == [5 * 10**9 + i * 33_000_000 for i in range(6)]
    np.testing.assert_array_equal(frames[4].image, picture(4))


def test_single_bag_files_and_folders_without_metadata(tmp_path: Path) -> None:
    messages = [image_message(picture(i), 10**9 + i) for i in range(4)]
    bag = write_bag(tmp_path / "bag", {"/cam": messages})
    (bag / "metadata.yaml").unlink()
    (file,) = bag.glob("*.mcap")
    assert len(list(open_source(bag))) == len(list(open_source(file))) == 4


def test_a_given_rate_counts_on_over_the_files_of_a_bag(tmp_path: Path) -> None:
    for name in ("rec_0", "rec_1"):
        bag = write_bag(tmp_path / name, {"/cam": [image_message(picture(i), 10**9 + i) for i in range(3)]})
        (file,) = bag.glob("*.mcap")
        file.rename(tmp_path / f"{name}.mcap")
    assert [f.stamp_ns for f in open_source(tmp_path, rate_hz=10)] == [i * 10**8 for i in range(6)]


def test_bag_of_compressed_images(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/image_raw/compressed": [jpeg_message(picture(5), 7)]})
    (frame,) = open_source(bag)
    assert frame.stamp_ns == 7
    assert np.abs(frame.image[5, 5].astype(int) - (200, 40, 50)).max() < 12


def test_topic_is_chosen_or_asked_for(tmp_path: Path) -> None:
    left, right = [image_message(picture(1), 1)], [image_message(picture(2), 1)]
    bag = write_bag(tmp_path / "bag", {"/left": left, "/right": right, "/stamp": [Time(1, 2)]})
    with pytest.raises(DataError, match=r"several image topics.*/left \(1\), /right \(1\)"):
        open_source(bag)
    with pytest.raises(DataError, match=r"no images on topic '/stamp'; image topics: /left"):
        open_source(bag, topic="/stamp")
    (frame,) = open_source(bag, topic="/right")
    np.testing.assert_array_equal(frame.image, picture(2))
    empty = write_bag(tmp_path / "empty", {"/stamp": [Time(1, 2)]})
    with pytest.raises(DataError, match="holds no images"):
        open_source(empty)


def test_headers_without_stamps_fall_back_to_reception_and_say_so(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": [image_message(picture(i), 0) for i in range(3)]})
    source = open_source(bag)
    assert [f.stamp_ns for f in source] == [1_000 * 10**9 + i * 10**8 for i in range(3)]
    assert source.notes == ["headers of /cam carry no stamp: the time of reception is used instead"]


def test_bad_messages_are_counted_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    messages = [image_message(picture(i), 10**9 + i) for i in range(10)]
    messages[2].step = 7
    messages[5].encoding = "hsv8"
    messages[6].data = messages[6].data[:-10]
    source = open_source(write_bag(tmp_path / "bag", {"/cam": messages}))
    assert len(list(source)) == 7
    assert source.unreadable == 3
    assert "message 2 of /cam: image step 7 is shorter than one row" in caplog.text
    hopeless = open_source(write_bag(tmp_path / "hopeless", {"/cam": messages[5:7]}))
    with pytest.raises(DataError, match="not one of its 2 images can be read"):
        list(hopeless)


def test_a_damaged_bag_is_refused_in_words(tmp_path: Path) -> None:
    messages = [image_message(picture(i % 20), 10**9 + i) for i in range(50)]
    bag = write_bag(tmp_path / "bag", {"/cam": messages})
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"bag: (this bag cannot be opened|the bag is damaged after)"):
        list(open_source(bag))
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: nonsense")
    with pytest.raises(DataError, match="this bag cannot be opened"):
        open_source(bag)


def write_damaged_bag(path: Path) -> Path:
    """Write 12 images, of which the file can still be opened but the last ones not be read."""
    messages = [image_message(picture(i, 320, 240), 10**9 + i) for i in range(12)]
    (file,) = write_bag(path, {"/cam": messages}, StoragePlugin.SQLITE3).glob("*.db3")
    data = bytearray(file.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 50_000] = bytes(50_000)
    file.write_bytes(data)
    return file


def test_a_bag_is_read_up_to_its_damage_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_damaged_bag(tmp_path / "bag")
    source = open_source(tmp_path / "bag")
    read = len(list(source))
    assert 5 < read < 9 and read + source.unreadable == 12
    (note,) = source.notes
    assert f"bag is damaged after {read} messages of /cam: the other {12 - read} cannot be read (" in note


def test_frames_after_a_damaged_file_keep_their_times(tmp_path: Path) -> None:
    write_damaged_bag(tmp_path / "a").rename(tmp_path / "rec_0.db3")
    write_damaged_bag(tmp_path / "b").rename(tmp_path / "rec_1.db3")
    source = open_source(tmp_path, rate_hz=10)
    stamps = [f.stamp_ns for f in source]
    assert len(stamps) + source.unreadable == 24
    half = [i * 10**8 for i in range(len(stamps) // 2)]
    assert stamps == half + [12 * 10**8 + stamp for stamp in half]


def test_messages_that_end_without_an_error_are_missed(tmp_path: Path) -> None:
    messages = [image_message(picture(i % 20), 10**9 + i) for i in range(50)]
    (file,) = write_bag(tmp_path / "bag", {"/cam": messages}).glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[len(data) // 10 : len(data) * 9 // 10] = bytes(len(data) * 9 // 10 - len(data) // 10)
    file.write_bytes(data)
    source = open_source(tmp_path / "bag")
    assert 0 < len(list(source)) < 10 and len(list(source)) + source.unreadable == 50


# ---- writing


def test_written_video_is_read_back(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", 15) as writer:
        for index in range(8):
            writer.write(picture(index, 101, 75))  # odd: one row and column less
    source = open_source(tmp_path / "out.mp4")
    stamps = [f.stamp_ns for f in source]
    assert (source.width, source.height) == (100, 74)
    np.testing.assert_allclose(stamps, np.arange(8) * 1e9 / 15, atol=2)


def test_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="positive frame rate"):
        VideoWriter(tmp_path / "out.mp4", 0)
    with VideoWriter(tmp_path / "out.mp4", 10) as writer:
        with pytest.raises(DataError, match=r"uint8 \[H,W,3\], not float64"):
            writer.write(np.zeros((8, 8, 3)))
        writer.write(picture(0))
        with pytest.raises(DataError, match="32x32 in a video of 64x48"):
            writer.write(picture(0, 32, 32))
    with VideoWriter(tmp_path / "none.mp4", 10):
        pass
    assert not (tmp_path / "none.mp4").exists()
