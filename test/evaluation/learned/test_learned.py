"""Learned figures with random weights in the published files' layout, against plain re-implementations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from gridkp_ros.evaluation import metrics  # noqa: E402
from gridkp_ros.evaluation.learned.fvd import Fvd  # noqa: E402
from gridkp_ros.evaluation.learned.lpips import Lpips  # noqa: E402
from gridkp_ros.evaluation.learned.vgg import VggCosine  # noqa: E402
from gridkp_ros.evaluation.metrics import EvaluationError  # noqa: E402
from gridkp_ros.evaluation.replay import replay  # noqa: E402
from gridkp_ros.evaluation.videos import ClipCollector  # noqa: E402
from gridkp_ros.runtime import Predictor  # noqa: E402
from support.streams import Made, squares  # noqa: E402

# torchvision's numbering of the convolutions: index, inputs, outputs, size of the kernel.
ALEXNET = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
VGG16 = (
    (0, 3, 64, 3), (2, 64, 64, 3), (5, 64, 128, 3), (7, 128, 128, 3), (10, 128, 256, 3), (12, 256, 256, 3),
    (14, 256, 256, 3), (17, 256, 512, 3), (19, 512, 512, 3), (21, 512, 512, 3), (24, 512, 512, 3), (26, 512, 512, 3),
    (28, 512, 512, 3),
)  # fmt: skip


def published(layers: tuple, classifier: bool = True) -> dict:
    """A state dictionary in torchvision's layout, at He's scale."""
    weights = {}
    for index, inputs, outputs, size in layers:
        scale = (2 / (inputs * size * size)) ** 0.5
        weights[f"features.{index}.weight"] = scale * torch.randn(outputs, inputs, size, size)
        weights[f"features.{index}.bias"] = 0.1 * torch.randn(outputs)
    if classifier:
        weights["classifier.6.weight"] = torch.zeros(10, 10)  # of no use here, but in the files
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights")
    for net, name, layers, channels in (
        ("alex", "alexnet-owt-7be5be79.pth", ALEXNET, (64, 192, 384, 256, 256)),
        ("vgg", "vgg16-397923af.pth", VGG16, (64, 128, 256, 512, 512)),
    ):
        torch.save(published(layers), path / name)
        linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
        torch.save(linear, path / f"{net}.pth")
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two pictures [2,64,64,3] with structure at several scales."""
    rng = np.random.default_rng(1)
    coarse = np.kron(rng.integers(0, 200, (2, 8, 8, 3)), np.ones((1, 8, 8, 1)))
    return np.clip(coarse + rng.integers(0, 56, (2, 64, 64, 3)), 0, 255).astype(np.uint8)


def noisy(image: np.ndarray, level: float) -> np.ndarray:
    return np.clip(image + np.random.default_rng(2).normal(0, level, image.shape), 0, 255).astype(np.uint8)


def alexnet_by_hand(weights: dict, x) -> list:
    def layer(index: int, x, **options):
        return functional.relu(
            functional.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], **options)
        )

    one = layer(0, x, stride=4, padding=2)
    two = layer(3, functional.max_pool2d(one, 3, 2), padding=2)
    three = layer(6, functional.max_pool2d(two, 3, 2), padding=1)
    four = layer(8, three, padding=1)
    return [one, two, three, four, layer(10, four, padding=1)]


def vgg_by_hand(weights: dict, x) -> list:
    taps = []
    for index, *_ in VGG16:
        if index in (5, 10, 17, 24):
            x = functional.max_pool2d(x, 2)
        x = functional.relu(
            functional.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)
        )
        if index in (2, 7, 14, 21, 28):
            taps.append(x)
    return taps


def lpips_by_hand(folder: Path, net: str, a: np.ndarray, b: np.ndarray) -> float:
    """Zhang et al., equation 1, in NumPy after the network."""
    name = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}[net]
    network = {"alex": alexnet_by_hand, "vgg": vgg_by_hand}[net]
    weights, linear = (torch.load(folder / f, weights_only=True) for f in (name, f"{net}.pth"))
    total, found = 0.0, []
    for image in (a, b):
        x = image.astype(np.float32) / 127.5 - 1
        x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        found.append(network(weights, torch.from_numpy(x.transpose(2, 0, 1)[None]).float()))
    for i, (f, g) in enumerate(zip(*found, strict=True)):
        f, g = (v[0].double().numpy() for v in (f, g))
        f, g = (v / (np.sqrt((v**2).sum(axis=0)) + 1e-10) for v in (f, g))
        w = linear[f"lin{i}.model.1.weight"].numpy().reshape(-1, 1, 1)
        total += (w * (f - g) ** 2).sum(axis=0).mean()
    return float(total)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_its_definition(folder: Path, images: np.ndarray, net: str) -> None:
    distance = Lpips(folder, net)
    assert distance(images[0], images[1]) == pytest.approx(lpips_by_hand(folder, net, *images), rel=1e-4)
    assert distance(images[0], images[0]) == 0
    levels = [distance(noisy(images[0], level), images[0]) for level in (2, 10, 40)]
    assert 0 < levels[0] < levels[1] < levels[2]
    both = distance.each(images, images[::-1])
    assert both.shape == (2,) and both[0] == pytest.approx(both[1], rel=1e-4)
    assert distance(images, images[::-1]) == pytest.approx(both.mean())


def test_lpips_of_grey_repeats_the_channel(folder: Path, images: np.ndarray) -> None:
    distance, grey = Lpips(folder), images[..., :1]
    assert distance(grey[0], grey[1]) == distance(*np.repeat(grey, 3, axis=-1))


def test_lpips_reads_the_published_linear_weights(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    """torchmetrics ships the v0.1 files as published, and LPIPS's layers, without the network itself."""
    torchmetrics = pytest.importorskip("torchmetrics.functional.image.lpips")
    linear = Path(torchmetrics.__file__).parent / "lpips_models/alex.pth"
    (tmp_path / "alex.pth").symlink_to(linear)
    (tmp_path / "alexnet-owt-7be5be79.pth").symlink_to(folder / "alexnet-owt-7be5be79.pth")
    weights = torch.load(folder / "alexnet-owt-7be5be79.pth", weights_only=True)
    stored = torch.load(linear, weights_only=True, map_location="cpu")
    x = torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float()
    features = alexnet_by_hand(weights, torchmetrics.ScalingLayer()(x))
    wanted = 0.0
    for i, f in enumerate(features):
        layer = torchmetrics.NetLinLayer(f.shape[1], use_dropout=True).eval()
        layer.load_state_dict({"model.1.weight": stored[f"lin{i}.model.1.weight"]})
        unit = torchmetrics._normalize_tensor(f)
        wanted += layer((unit[:1] - unit[1:]) ** 2).mean().item()
    assert Lpips(tmp_path)(*images) == pytest.approx(wanted, rel=1e-3)


def test_vgg_cosine_is_its_definition(folder: Path, images: np.ndarray) -> None:
    similarity = VggCosine(folder / "vgg16-397923af.pth")
    weights = torch.load(folder / "vgg16-397923af.pth", weights_only=True)
    found = []
    for image in images:
        x = (image / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        features = vgg_by_hand(weights, torch.from_numpy(x.transpose(2, 0, 1)[None]).float())[-1].numpy().ravel()
        assert features.size == 512 * 4 * 4
        found.append(features)
    wanted = found[0] @ found[1] / np.linalg.norm(found[0]) / np.linalg.norm(found[1])
    assert similarity(images[0], images[1]) == pytest.approx(wanted, rel=1e-4)
    assert similarity(images[0], images[0]) == pytest.approx(1.0)
    levels = [similarity(noisy(images[0], level), images[0]) for level in (2, 20, 80)]
    assert 1 > levels[0] > levels[1] > levels[2]
    larger = np.kron(images, np.ones((1, 2, 2, 1), np.uint8))
    assert similarity(larger[0], larger[1]) == pytest.approx(similarity(images[0], images[1]), abs=0.05)


def test_files_that_do_not_fit_are_named(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"must hold one alexnet-\*\.pth"):
        Lpips(tmp_path)
    with pytest.raises(EvaluationError, match="no network 'squeeze'"):
        Lpips(folder, "squeeze")
    with pytest.raises(EvaluationError, match=r"none\.pth cannot be read as weights"):
        VggCosine(tmp_path / "none.pth")
    with pytest.raises(EvaluationError, match="is not of this network"):
        VggCosine(folder / "alexnet-owt-7be5be79.pth")
    with pytest.raises(EvaluationError, match="TorchScript"):
        Fvd(folder / "alex.pth")
    with pytest.raises(EvaluationError, match="32 or more"):
        Lpips(folder)(images[0, :16, :16], images[1, :16, :16])
    with pytest.raises(EvaluationError, match="uint8"):
        Lpips(folder)(images[0] / 255.0, images[1] / 255.0)
    with pytest.raises(EvaluationError, match="one size"):
        Lpips(folder)(images[0], images[1, :32])


# ---- FVD


class Logits(torch.nn.Module):
    """Stands for I3D: 400 numbers out of the mean colour and the mean change of a video in [-1,1]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(6, 400, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 5 and x.shape[1] == 3 and x.shape[3] == 224 and x.shape[4] == 224
        moved = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(2, 3, 4))
        return torch.cat([x.mean(dim=(2, 3, 4)), moved], dim=1) @ self.mix


class Port(torch.nn.Module):
    """With the options of a widespread port."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = Logits()

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return self.logits(x)


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(Logits()).save(str(path))
    return path


def videos(seed: int, brightness: float = 0.0, n: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 160, (n, 1, 8, 8, 3)) + rng.normal(0, 6, (n, 10, 8, 8, 3)).cumsum(axis=1) + brightness
    return np.clip(base, 0, 255).astype(np.uint8)


def test_frechet_distance_is_scipy_s_matrix_root() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 2, (60, 7)) @ rng.normal(size=(7, 7)), rng.normal(1, 1, (50, 7))
    first, second = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(first @ second).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(a[:3], b[:3]) >= 0  # fewer than dimensions
    with pytest.raises(EvaluationError, match="2 or more"):
        metrics.frechet_distance(a[:1], b)


def test_fvd_of_videos(i3d: Path, tmp_path: Path) -> None:
    distance = Fvd(i3d)
    real = videos(0)
    assert distance(real, real) == pytest.approx(0, abs=1e-4)
    near, far = distance(videos(0, 10), real), distance(videos(0, 60), real)
    assert 0 < near < far
    # The same features by hand: the mean is kept by bilinear resizing of 8x8 to 224x224, grey levels go to [-1,1].
    means = real.mean(axis=(1, 2, 3)) / 127.5 - 1
    mix = Logits().mix.numpy()
    np.testing.assert_allclose(distance.logits(real) @ np.linalg.pinv(mix)[:, :3], means, atol=1e-2)
    torch.jit.script(Port()).save(str(tmp_path / "port.pt"))
    assert Fvd(tmp_path / "port.pt")(real, videos(1)) == pytest.approx(distance(real, videos(1)))
    with pytest.raises(EvaluationError, match="10 or more"):
        distance(real[:, :9], real[:, :9])
    with pytest.raises(EvaluationError, match="one length"):
        distance(real, real[:, :9])
    grey = distance(real[..., :1], real[..., :1])
    assert grey == pytest.approx(0, abs=1e-4)


def test_a_network_with_other_outputs_is_refused(tmp_path: Path) -> None:
    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(3, 4)).flatten(1)

    torch.jit.script(Other()).save(str(tmp_path / "other.pt"))
    with pytest.raises(EvaluationError, match=r"returned \(4, 30\), not 400"):
        Fvd(tmp_path / "other.pt")(videos(0), videos(1))


def test_replay_has_their_columns_or_says_no_weights(
    folder: Path, i3d: Path, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    def source() -> Made:
        return Made([(i / 15, squares(i, speed=0.3)) for i in range(60)])

    found = replay(
        source(), Predictor(tiny_bundle_path, num_threads=1), tmp_path / "with", pictures=False,
        frame_metrics={"lpips": Lpips(folder)}, video_distance=Fvd(i3d),
    )  # fmt: skip
    at, psnr = found["horizons"]["5"]["lpips"], found["horizons"]["5"]["psnr"]
    assert at["model"]["count"] == psnr["model"]["count"] > 40 and at["last_frame"]["mean"] > 0
    difference = found["comparisons"]["5"]["lpips"]["last_frame"]
    assert difference["mean"] == pytest.approx(at["model"]["mean"] - at["last_frame"]["mean"], abs=1e-6)
    assert difference["verdict"] == "worse"  # the tiny bundle draws white squares on the last frame
    # 60 frames, the first forecast after the fifth: clips begin at frames 5, 20, 35; the one at 50 is not whole.
    assert (found["fvd"]["clips"], found["fvd"]["frames"]) == (3, 15)
    assert found["fvd"]["model"] > 0 < found["fvd"]["last_frame"]
    assert found["not_measured"] == {"vgg_cosine": "no weights"}
    assert "AlexNet" in found["definitions"]["lpips"] and "224x224" in found["definitions"]["fvd"]
    plain = replay(source(), Predictor(tiny_bundle_path, num_threads=1), tmp_path / "without", pictures=False)
    assert set(plain["not_measured"]) == {"lpips", "vgg_cosine", "fvd"} and "lpips" not in plain["horizons"]["5"]
    with pytest.raises(EvaluationError, match="a horizon of 5 steps"):
        replay(
            source(), Predictor(tiny_bundle_path, num_threads=1), tmp_path, horizon_steps=5, video_distance=Fvd(i3d)
        )


def test_clips_over_cuts_and_gaps_are_left_out() -> None:
    def image(grey: int) -> np.ndarray:
        return np.full((4, 4, 1), grey, np.uint8)

    clips, period = ClipCollector(3, 0.1), 100_000_000
    seen = []
    for number, (epoch, stamp) in enumerate(
        [(1, 0), (1, 1), (1, 2), (1, 3), (1, 5), (1, 6), (1, 7), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]
    ):
        clips.add_observation(stamp * period, epoch, image(number))
        if clips.wants():
            seen.append(number)
            times = np.arange(1, 4) * period
            clips.add_forecast(stamp * period, epoch, times, np.stack([image(100 + number)] * 3), image(number))
    # From 0: 1, 2, 3. From 3: 4 is missing. From 6: a new epoch. From 7 on: 8, 9, 10. The one from 10 is not whole.
    assert seen == [0, 3, 5, 7, 10]
    pairs = {}

    class Distance:
        definition, min_frames = "", 1

        def __call__(self, generated: np.ndarray, real: np.ndarray) -> float:
            pairs[int(generated[0, 0, 0, 0, 0])] = real[..., 0, 0, 0].tolist()
            return 1.5

    assert clips.result(Distance()) == {"clips": 2, "frames": 3, "model": 1.5, "last_frame": 1.5}
    assert pairs == {100: [[1, 2, 3], [8, 9, 10]], 0: [[1, 2, 3], [8, 9, 10]]}


def test_the_evaluation_itself_has_no_pytorch_in_it() -> None:
    code = "import sys, gridkp_ros.evaluation.replay, gridkp_ros.evaluation.protocols; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
