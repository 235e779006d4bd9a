"""Goal-directed motions of both instruments, with the speed profile of a human hand.

A movement is a sum of minimum-jerk submovements, which may overlap (Flash and Hogan 1985; Flash and Henis
1991), on top of postural sway (0.2 to 0.9 Hz) and physiological tremor (8 to 12 Hz). Gestures string
movements together: reach, grasp, then pull, transfer or hand over to the other arm, and release, with pauses
between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import kinematics
from .config import GESTURES, SimConfig, SimError
from .layout import Layout, sample_layout

GRAVITY_M_S2 = 9.81
REST_M = 0.002  # height at which loose objects lie
N_OBJECTS = 2  # a needle and a small piece (a ring or triangle on the peg board, a clip on tissue)


@dataclass(frozen=True)
class Grip:
    """An instrument (arm 0 or 1) that holds an item (object index, or -1 for the tissue)."""

    arm: int
    item: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Motion:
    """What moves in one episode, without pictures.

    stamps_s [T]; joints [T,2,7] (yaw, pitch, insertion, roll, wrist pitch, wrist yaw, jaw; rad and m);
    pivots, tips [T,2,4,4]: jaw pivot's and tip's frames in the world; points_m [T,6,3]: the named points in
    the world, in the order of POINT_NAMES; gestures uint8 [T,2]; objects [T,N,4,4]: poses of the loose
    objects in the world; grips: who holds what when.
    """

    layout: Layout
    stamps_s: np.ndarray
    joints: np.ndarray
    pivots: np.ndarray
    tips: np.ndarray
    points_m: np.ndarray
    gestures: np.ndarray
    objects: np.ndarray
    grips: tuple[Grip, ...]


def minimum_jerk(progress: np.ndarray) -> np.ndarray:
    """Position 0..1 of a minimum-jerk movement at progress 0..1 in time, clipped (Flash and Hogan 1985)."""
    s = np.clip(progress, 0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s * s)


@dataclass
class _Arm:
    """Plan of one arm: submovements of (tip x, y, z in m; roll, wrist pitch, wrist yaw, jaw in rad)."""

    index: int
    state: np.ndarray  # [7], where the plan has come to
    start: np.ndarray = field(init=False)
    moves: list[tuple[float, float, np.ndarray, float]] = field(default_factory=list)  # from, to, change, lift
    labels: list[tuple[float, float, int]] = field(default_factory=list)
    free_s: float = 0.0

    def __post_init__(self) -> None:
        self.start = self.state.copy()

    def move(self, start_s: float, end_s: float, *, lift_m: float = 0.0, **targets: np.ndarray | float) -> None:
        """Add a submovement to new values of tip, wrist and jaw (any of them)."""
        change = np.zeros(7)
        for name, part in (("tip", slice(0, 3)), ("wrist", slice(3, 6)), ("jaw", slice(6, 7))):
            if name in targets:
                change[part] = targets[name] - self.state[part]
                self.state[part] = targets[name]
        self.moves.append((start_s, end_s, change, lift_m))

    def label(self, start_s: float, end_s: float, gesture: str) -> None:
        self.labels.append((start_s, end_s, GESTURES.index(gesture)))
        self.free_s = max(self.free_s, end_s)

    def sample(self, stamps_s: np.ndarray) -> np.ndarray:
        """States [T,7] at these times."""
        out = np.repeat(self.start[None], len(stamps_s), axis=0)
        for start_s, end_s, change, lift_m in self.moves:
            progress = np.clip((stamps_s - start_s) / (end_s - start_s), 0, 1)
            out += minimum_jerk(progress)[:, None] * change
            out[:, 2] += lift_m * 16 * (progress * (1 - progress)) ** 2
        return out


class _Planner:
    """Strings gestures of both arms together until the episode is full."""

    def __init__(self, config: SimConfig, layout: Layout, rng: np.random.Generator) -> None:
        self.config, self.layout, self.rng = config, layout, rng
        self.peak_m_s = rng.uniform(*config.peak_speed_m_s)
        self.grips: list[Grip] = []
        self.arms = [
            _Arm(i, np.concatenate([self.place(i, 0.011), self.wrist(i), [rng.uniform(0.05, 0.7)]])) for i in (0, 1)
        ]
        # Loose things lie between the arms, where both can reach.
        view = 0.5 + rng.uniform(-0.17, 0.17, (N_OBJECTS, 2))
        self.first_items = layout.on_plane(view, REST_M, config.view_aspect)
        self.items = self.first_items.copy()

    def place(self, arm: int, height_m: float, spread: float = 0.11) -> np.ndarray:
        """Draw a point of the arm's work area."""
        view = self.layout.regions[arm] + self.rng.normal(0, spread, 2)
        return self.layout.on_plane(np.clip(view, (0.15, 0.17), (0.85, 0.83)), height_m, self.config.view_aspect)

    def clear_place(self, arm: int, height_m: float) -> np.ndarray:
        """Draw a point of the work area that keeps off the other instrument."""
        best, best_gap = self.place(arm, height_m), -1.0
        for _ in range(16):
            point = self.place(arm, height_m)
            gap = self.gap(arm, point)
            if gap > best_gap:
                best, best_gap = point, gap
            if gap > 0.013:
                break
        return best

    def gap(self, arm: int, tip: np.ndarray) -> float:
        """Distance, m, between the axes of the two instruments' ends, were this arm's tip here."""
        along = np.linspace(0, 0.045, 8)[:, None]
        mine = tip + along * self.layout.bases[arm][:3, 2]
        theirs = self.arms[1 - arm].state[:3] + along * self.layout.bases[1 - arm][:3, 2]
        return float(np.linalg.norm(mine[:, None] - theirs[None], axis=-1).min())

    def wrist(self, arm: int) -> np.ndarray:
        """Draw roll, wrist pitch and wrist yaw, jaws more or less facing the camera."""
        r = self.rng
        return np.array(
            [
                self.layout.home_rolls[arm] + r.normal(0, 0.35),
                np.clip(r.normal(0, 0.4), -0.9, 0.9),
                np.clip(r.normal(0, 0.45), -0.95, 0.95),
            ]
        )

    def duration(self, arm: _Arm, tip: np.ndarray, least_s: float = 0.5, peak: float = 1.0) -> float:
        """Time of a reach whose peak speed (1.875 times the mean, for minimum jerk) is this hand's."""
        distance = float(np.linalg.norm(tip - arm.state[:3]))
        return max(least_s, 1.875 * distance / (self.peak_m_s * peak)) * self.rng.uniform(1.0, 1.25)

    def reach(self, arm: _Arm, start_s: float, tip: np.ndarray, jaw: float) -> float:
        """Go to a point: a movement that ends a little off, and one that corrects it. Return the end."""
        r = self.rng
        took = self.duration(arm, tip)
        end = start_s + took
        distance = np.linalg.norm(tip - arm.state[:3])
        aim = tip + r.normal(0, 0.05 * distance, 3)
        arm.move(start_s, end, tip=aim, lift_m=r.uniform(0.05, 0.2) * distance)
        fix_start = end - 0.25 * took * r.uniform(0.4, 1.0)
        fix_end = fix_start + r.uniform(0.3, 0.55)
        arm.move(fix_start, fix_end, tip=tip)
        turn_start = start_s + took * r.uniform(0, 0.25)
        arm.move(turn_start, max(end, turn_start + 0.4), wrist=self.wrist(arm.index))
        jaw_start = start_s + took * r.uniform(0.2, 0.6)
        arm.move(jaw_start, jaw_start + r.uniform(0.3, 0.6), jaw=jaw)
        end = max(end, fix_end, turn_start + 0.4)
        arm.label(start_s, end, "reach")
        return end

    def grasp(self, arm: _Arm, start_s: float, tip: np.ndarray, item: int, item_rad: float) -> float:
        """Sink the last millimetres and close the jaws. Return the end."""
        r = self.rng
        took = r.uniform(0.4, 0.8)
        arm.move(start_s, start_s + took * 0.7, tip=tip)
        arm.move(start_s + took * 0.35, start_s + took, jaw=item_rad)
        arm.label(start_s, start_s + took, "grasp")
        self.grips.append(Grip(arm.index, item, start_s + took * 0.85, np.inf))
        return start_s + took

    def carry(self, arm: _Arm, start_s: float, tip: np.ndarray, gesture: str, peak: float = 0.8) -> float:
        """Move with something held. Return the end."""
        took = self.duration(arm, tip, 0.7, peak)
        wrist = arm.state[3:6].copy()
        wrist += 0.6 * (self.wrist(arm.index) - wrist)
        arm.move(start_s, start_s + took, tip=tip, wrist=wrist, lift_m=self.rng.uniform(0, 0.003))
        arm.label(start_s, start_s + took, gesture)
        return start_s + took

    def drive(self, arm: _Arm, start_s: float) -> float:
        """Turn the shaft with a small advance, as in driving a needle through. Return the end."""
        r = self.rng
        took = r.uniform(0.9, 1.8)
        wrist = arm.state[3:6].copy()
        home = self.layout.home_rolls[arm.index]
        wrist[0] = home + (-1 if wrist[0] > home else 1) * r.uniform(0.5, 1.2)
        tip = arm.state[:3] + np.append(r.normal(0, 0.003, 2), r.uniform(-0.001, 0.003))
        arm.move(start_s, start_s + took, tip=tip, wrist=wrist)
        arm.label(start_s, start_s + took, "pull")
        return start_s + took

    def release(self, arm: _Arm, start_s: float) -> float:
        """Open the jaws and back off. Return the end."""
        r = self.rng
        took = r.uniform(0.5, 0.9)
        arm.move(start_s, start_s + 0.6 * took, jaw=r.uniform(0.35, 0.9))
        self.let_go(arm.index, start_s + 0.2 * took, arm.state[:3])
        back = self.layout.bases[arm.index][:3, 2] * r.uniform(0.003, 0.009)
        arm.move(start_s + 0.3 * took, start_s + took, tip=arm.state[:3] + back)
        arm.label(start_s, start_s + took, "release")
        return start_s + took

    def let_go(self, arm: int, at_s: float, where: np.ndarray) -> None:
        """End what this arm holds; an object falls to the ground from there."""
        for i, grip in enumerate(self.grips):
            if grip.arm == arm and grip.end_s == np.inf:
                self.grips[i] = Grip(arm, grip.item, grip.start_s, at_s)
                if grip.item >= 0:
                    self.items[grip.item] = np.append(where[:2], REST_M)

    def pause(self, low_s: float = 0.05, high_s: float = 0.35) -> float:
        return self.rng.uniform(low_s, high_s)

    def item_in_reach(self, arm: int) -> int | None:
        """A loose object on this arm's side that the other arm is not over."""
        reach = [i for i in range(N_OBJECTS) if self.gap(arm, self.items[i]) > 0.010]
        return int(self.rng.choice(reach)) if reach else None

    def task(self, active: _Arm, start_s: float) -> float:
        """One whole task of the active arm (and its partner, if it hands over). Return when it is done."""
        r = self.rng
        other = self.arms[1 - active.index]
        kind = r.choice(["pull", "drive", "transfer", "handover", "reach"], p=[0.25, 0.2, 0.2, 0.2, 0.15])
        if kind == "reach":
            place = self.clear_place(active.index, r.uniform(0.003, 0.014))
            return self.reach(active, start_s, place, r.uniform(0.05, 0.9))
        item = self.item_in_reach(active.index) if kind != "pull" or r.uniform() < 0.3 else None
        if item is None and kind != "drive":
            kind = "pull"  # with nothing to carry, the tissue is pulled
        goal = self.clear_place(active.index, 0.002) if item is None else self.items[item] + [0, 0, 0.001]
        back = self.layout.bases[active.index][:3, 2]
        t = self.reach(active, start_s, goal + back * r.uniform(0.003, 0.006), r.uniform(0.5, 1.1)) + self.pause()
        t = self.grasp(active, t, goal, -1 if item is None else item, r.uniform(0.02, 0.12)) + self.pause()
        if kind == "pull":
            away = np.append(r.normal(0, 0.006, 2), r.uniform(0.004, 0.012)) + back * r.uniform(0, 0.006)
            t = self.carry(active, t, self.inside(active.state[:3] + away), "pull", 0.7) + self.pause(0.1, 0.8)
        elif kind == "drive":
            t = self.drive(active, t) + self.pause()
            if r.uniform() < 0.6:
                away = self.inside(active.state[:3] + back * 0.004 + np.append(r.normal(0, 0.008, 2), 0.006))
                t = self.carry(active, t, away, "pull") + self.pause()
        elif kind == "transfer":
            place = self.clear_place(active.index, r.uniform(0.004, 0.01))
            t = self.carry(active, t, place, "transfer") + self.pause()
        else:
            t = self.hand_over(active, other, t, item)
        if kind != "handover":
            t = self.release(active, t)
        return t

    def hand_over(self, giver: _Arm, taker: _Arm, start_s: float, item: int) -> float:
        """Bring what is held to the middle, where the other arm takes it. Return when it is put down."""
        r = self.rng
        middle = self.layout.on_plane(0.5 + r.normal(0, 0.07, 2), r.uniform(0.006, 0.012), self.config.view_aspect)
        side = self.layout.bases[taker.index][:3, 2] * [1, 1, 0]
        side = side / np.linalg.norm(side)
        met = self.carry(giver, start_s, middle - 0.003 * side, "transfer")
        begin = max(taker.free_s, start_s + (met - start_s) * r.uniform(0.2, 0.7))
        t = self.reach(taker, begin, middle + 0.009 * side, r.uniform(0.5, 0.9)) + self.pause(0.02, 0.2)
        t = max(t, met)
        t = self.grasp(taker, t, middle + 0.003 * side, item, r.uniform(0.02, 0.1))
        gone = self.release(giver, t + self.pause(0.0, 0.2))
        place = self.place(taker.index, r.uniform(0.004, 0.01))
        t = self.carry(taker, gone - 0.1, place, "transfer") + self.pause()
        return self.release(taker, t)

    def inside(self, point: np.ndarray) -> np.ndarray:
        """Bring a point back into the picture's inner part, at its own height."""
        seen = self.layout.to_camera(point)
        tan_y = np.tan(self.layout.fov_y_rad / 2)
        view = 0.5 + 0.5 * seen[:2] / seen[2] / tan_y / [self.config.view_aspect, 1]
        return self.layout.on_plane(
            np.clip(view, (0.13, 0.15), (0.87, 0.85)), max(point[2], 0.001), self.config.view_aspect
        )

    def excursion(self, arm: _Arm, start_s: float) -> float:
        """Leave the picture the way the shaft came, stay out, and come back."""
        r = self.rng
        away = arm.state[:3] + self.layout.bases[arm.index][:3, 2] * r.uniform(0.045, 0.06)
        self.let_go(arm.index, start_s, arm.state[:3])
        took = self.duration(arm, away, 1.0)
        arm.move(start_s, start_s + took, tip=away, jaw=0.1)
        arm.label(start_s, start_s + took, "reach")
        back_s = start_s + took + r.uniform(0.5, 2.5)
        return self.reach(arm, back_s, self.clear_place(arm.index, 0.008), r.uniform(0.1, 0.8))

    def plan(self) -> None:
        r, config = self.rng, self.config
        leaves_s = r.uniform(0, config.duration_s) if r.uniform() < config.out_of_view_probability else np.inf
        t = -r.uniform(0.0, 2.5)  # an episode may begin in the middle of a movement
        active = self.arms[r.integers(2)]
        while t < config.duration_s:
            other = self.arms[1 - active.index]
            if t >= leaves_s:
                leaves_s = np.inf
                self.excursion(active, t)
            begin = t
            t = self.task(active, max(t, active.free_s))
            # The other hand mostly holds still; now and then it shifts its place a little, or works at the
            # same time.
            if other.free_s < t - 1.0 and r.uniform() < 0.55:
                start = max(other.free_s, begin) + r.uniform(0, 0.5 * (t - max(other.free_s, begin)))
                near = other.state[:3] + np.append(r.normal(0, 0.006, 2), r.normal(0, 0.002))
                if r.uniform() < 0.35:
                    near = self.clear_place(other.index, r.uniform(0.004, 0.012))
                self.reach(other, start, self.inside(near), r.uniform(0.05, 0.8))
            t = max(arm.free_s for arm in self.arms) if r.uniform() < 0.3 else t
            t += r.exponential(0.2 + 3.0 * (1 - config.activity))
            active = other if r.uniform() < 0.6 else active


def _oscillation(
    rng: np.random.Generator, stamps_s: np.ndarray, low_hz: float, high_hz: float, std: float, n_axes: int
) -> np.ndarray:
    """A narrow-band wander [T,n_axes] of this standard deviation: sines, so the same at any frame rate."""
    n = 5
    hz = rng.uniform(low_hz, high_hz, (n, 1, n_axes))
    phase = rng.uniform(0, 2 * np.pi, (n, 1, n_axes))
    return std * np.sqrt(2 / n) * np.sin(2 * np.pi * hz * stamps_s[None, :, None] + phase).sum(0)


def _object_poses(stamps_s: np.ndarray, tips: np.ndarray, grips: list[Grip], start: np.ndarray) -> np.ndarray:
    """Poses [T,N,4,4] of loose objects: still, with the instrument that took them last, or falling."""
    out = np.empty((len(stamps_s), len(start), 4, 4))
    for item in range(len(start)):
        pose, holder, relative, let_go_s, fell_from = start[item].copy(), -1, np.eye(4), -np.inf, REST_M
        own = [g for g in grips if g.item == item]
        for k, t in enumerate(stamps_s):
            holding = [g for g in own if g.start_s <= t < g.end_s]
            arm = holding[-1].arm if holding else -1
            if arm >= 0 and arm != holder:
                relative = np.linalg.inv(tips[k, arm]) @ pose
            elif arm < 0 <= holder:
                let_go_s = max(g.end_s for g in own if g.end_s <= t)
                fell_from = pose[2, 3]
            holder = arm
            if holder >= 0:
                pose = tips[k, holder] @ relative
            elif pose[2, 3] > REST_M:
                pose = pose.copy()
                pose[2, 3] = max(REST_M, fell_from - 0.5 * GRAVITY_M_S2 * (t - let_go_s) ** 2)
            out[k, item] = pose
    return out


def simulate_motion(config: SimConfig, seed: int) -> Motion:
    """Plan and sample the motion of an episode: kinematics only, nothing is rendered (about 10 ms).

    Raises SimError if the seed is negative.
    """
    if seed < 0:
        raise SimError(f"seed {seed}: use a whole number >= 0")
    layout = sample_layout(config, np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, 2])
    planner = _Planner(config, layout, rng)
    planner.plan()
    stamps_s = np.arange(config.n_frames) / config.rate_hz

    n = len(stamps_s)
    joints, gestures = np.empty((n, 2, 7)), np.zeros((n, 2), np.uint8)
    pivots, tips, points = np.empty((n, 2, 4, 4)), np.empty((n, 2, 4, 4)), np.empty((n, 6, 3))
    for i, arm in enumerate(planner.arms):
        states = arm.sample(stamps_s)
        states[:, :3] += _oscillation(rng, stamps_s, 0.2, 0.9, 0.0002, 3)
        states[:, :3] += _oscillation(rng, stamps_s, 8.0, 12.0, rng.uniform(*config.tremor_m), 3)
        states[:, 6] = np.clip(states[:, 6], 0.0, 1.4)
        base = layout.bases[i]
        joints[:, i, :6] = kinematics.inverse((states[:, :3] - base[:3, 3]) @ base[:3, :3], states[:, 3:6])
        joints[:, i, 6] = states[:, 6]
        pivot, tip = kinematics.forward(joints[:, i])
        pivots[:, i], tips[:, i] = base @ pivot, base @ tip
        points[:, 3 * i], points[:, 3 * i + 1] = kinematics.jaw_tips(pivots[:, i], joints[:, i, 6])
        points[:, 3 * i + 2] = pivots[:, i, :3, 3]
        for start_s, end_s, gesture in arm.labels:
            gestures[(stamps_s >= start_s) & (stamps_s < end_s), i] = gesture

    start = np.repeat(np.eye(4)[None], N_OBJECTS, axis=0)
    start[:, :3, 3] = planner.first_items
    for k in range(N_OBJECTS):
        angle = rng.uniform(0, 2 * np.pi)
        start[k, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    objects = _object_poses(stamps_s, tips, planner.grips, start)
    return Motion(layout, stamps_s, joints, pivots, tips, points, gestures, objects, tuple(planner.grips))
