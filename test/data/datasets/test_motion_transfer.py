"""MGIF and UvA-NEMO, as the authors of Monkey-Net published them; UvA-NEMO as its database is published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.datasets.mgif import MGIF
from gridkp_ros.data.datasets.uva_nemo import DETAILS, UvANemo
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.tiny_videos import number_of, numbered, write_video


def write_gif(path: Path, count: int = 6) -> Path:
    """Write a GIF with a red square that moves by 4 pixels a frame over a transparent ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(count):
        image = np.zeros((32, 48, 4), np.uint8)
        image[8:16, 4 * i : 4 * i + 8] = (200, 0, 0, 255)
        images.append(Image.fromarray(image))
    images[0].save(path, save_all=True, append_images=images[1:], duration=[20, 100] * (count // 2), loop=0, disposal=2)
    return path


@pytest.fixture
def mgif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split, names in (("train", ("2.gif", "10.gif", "1.gif")), ("test", ("7.gif",))):
        for name in names:
            write_gif(tmp_path / split / name)
    monkeypatch.setattr(MGIF, "published", {"train": 3, "test": 1})
    return tmp_path


def test_folders_make_the_split(mgif: Path) -> None:
    items = open_dataset("mgif", mgif, "train").items()
    assert [item.name for item in items] == ["train/1.gif", "train/2.gif", "train/10.gif"]
    assert [item.name for item in open_dataset("mgif", mgif, "test").items()] == ["test/7.gif"]


def test_gif_frames_are_counted_and_lie_on_white(mgif: Path) -> None:
    data = open_dataset("mgif", mgif, "test")
    (clip,) = data.load(data.items()[0])
    images = list(clip.images)
    assert len(images) == 6 and images[0].shape == (32, 48, 3)
    for i, image in enumerate(images):
        assert image[12, 4 * i + 4].tolist() == [200, 0, 0]
        assert (image[12] == 255).all(1).sum() == 40 and (image[0] == 255).all()
    assert list(clip.stamps_ns[:3]) == [0, 100_000_000, 200_000_000]  # by number, not by the GIF's uneven delays


def test_half_copied_gifs_are_told(mgif: Path) -> None:
    path = mgif / "test/7.gif"
    path.write_bytes(path.read_bytes()[:-30])
    data = open_dataset("mgif", mgif, "test")
    with pytest.raises(DataError, match=r"7.gif .*(half copied|damaged)"):
        list(data.load(data.items()[0]))
    path.write_bytes(b"no gif at all")
    with pytest.raises(DataError, match=r"7.gif cannot be read"):
        list(data.load(data.items()[0]))
    (mgif / "train/2.gif").unlink()
    with pytest.raises(DataError, match=r"train holds 2 of the 3 videos.*monkey-net.*partial"):
        open_dataset("mgif", mgif, "train").items()
    with pytest.raises(DataError, match=r"test is missing.*an entry for each video"):
        open_dataset("mgif", mgif / "train", "test").items()


def test_every_kind_of_entry(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for i in range(11):
        (folder / "001_deliberate_smile_2.mp4").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "001_deliberate_smile_2.mp4" / f"{i}.png"), numbered(i, 64, 64))
    strip = np.concatenate([numbered(i, 64, 64) for i in range(7)], axis=1)
    cv2.imwrite(str(folder / "002_spontaneous_smile_1.png"), strip)
    write_video(folder / "003_spontaneous_smile_1.mp4", (numbered(i, 64, 64) for i in range(5)), rate=50)
    data = open_dataset("uva_nemo", tmp_path, "train", partial=True)
    clips = [clip for item in data.items() for clip in data.load(item)]
    assert [[number_of(image) for image in clip.images] for clip in clips] == [list(range(n)) for n in (11, 7, 5)]
    assert [clip.label for clip in clips] == ["deliberate", "spontaneous", "spontaneous"]
    assert clips[1].stamps_ns[1] == 20_000_000
    (folder / "004.mp4").mkdir()
    cv2.imwrite(str(folder / "005.png"), strip[:, :100])
    with pytest.raises(DataError, match=r"004.mp4 holds no frames"):
        list(data.load(data.items()[3]))
    with pytest.raises(DataError, match=r"005.png: 100 x 64 is no row of square frames"):
        list(data.load(data.items()[4]))


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    """The database as published: twelve subjects, two smiles each."""
    lines = ["UvA-NEMO Smile Database", "", "File details", "", "Filename\tSubject\tGender\tAge\tSmile"]
    for number in range(12):
        for kind in ("deliberate", "spontaneous"):
            name = f"{number + 1:03d}_{kind}_smile_1.mp4"
            lines.append(f"{name}\t{300 - number:03d}\tf\t30\t{kind}")
            write_video(tmp_path / "videos" / name, [numbered(number)] * 3, rate=50)
    (tmp_path / DETAILS).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_database_is_divided_into_ten_folds_of_persons(nemo: Path) -> None:
    def names(split: str, fold: int) -> set[str]:
        return {item.name for item in open_dataset("uva_nemo", nemo, split, fold=fold).items()}

    tested = [names("test", fold) for fold in range(10)]
    assert tested[0] == {f"{n:03d}_{kind}_smile_1" for n in (12, 2) for kind in ("deliberate", "spontaneous")}
    assert len(set().union(*tested)) == sum(map(len, tested)) == 24  # each person in one fold
    for fold in range(10):
        assert names("train", fold) == set().union(*tested) - tested[fold]


def test_the_database_is_read_at_its_rate(nemo: Path) -> None:
    data = open_dataset("uva_nemo", nemo, "test")
    (clip,) = data.load(data.items()[-1])
    assert (clip.name, clip.label, clip.stamps_ns[1]) == ("012_spontaneous_smile_1", "spontaneous", 20_000_000)
    assert [number_of(image) for image in clip.images] == [11, 11, 11]


def test_what_the_database_lacks_is_named(nemo: Path) -> None:
    (nemo / "videos/002_deliberate_smile_1.mp4").unlink()
    with pytest.raises(DataError, match=r"002_deliberate_smile_1.mp4 is missing.*uva-nemo.org"):
        open_dataset("uva_nemo", nemo, "test").items()
    assert len(open_dataset("uva_nemo", nemo, "test", partial=True).items()) == 3
    (nemo / DETAILS).write_text("nothing\n")
    with pytest.raises(DataError, match=r"File_Details.txt is missing or incomplete.*kind of smile"):
        open_dataset("uva_nemo", nemo, "test").items()
    (nemo / DETAILS).unlink()
    with pytest.raises(DataError, match=r"File_Details.txt is missing.*folders train and test"):
        open_dataset("uva_nemo", nemo, "test").items()
    with pytest.raises(DataError, match="no fold 10"):
        open_dataset("uva_nemo", nemo, "test", fold=10)


def test_published_numbers() -> None:
    assert UvANemo.published == {"train": 1110, "test": 124} and MGIF.published == {"train": 900, "test": 100}


def test_they_are_prepared(mgif: Path, tmp_path: Path) -> None:
    prepared = prepare(open_dataset("mgif", mgif, "train"), InputSpec(32, 48, 3), 0.1)
    assert [(r.name, len(r)) for r in prepared.recordings] == [(f"train/{n}.gif", 6) for n in (1, 2, 10)]
    assert prepared.recordings[0].frames[5][12, 24].tolist() == [200, 0, 0]


def test_the_database_is_prepared(nemo: Path) -> None:
    prepared = prepare(open_dataset("uva_nemo", nemo, "test"), InputSpec(64, 64, 3), 1 / 25)
    assert [(r.label, len(r)) for r in prepared.recordings] == [("deliberate", 2), ("spontaneous", 2)] * 2
