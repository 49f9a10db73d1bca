"""What fine-tuning learns from: every moment of demonstrations, body by body.

Letters in shapes: N moments, L tokens of a latent action, S steps of a chunk, A action axes, P proprioception axes,
H W picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclemimic.data.hindsight import moving_maps
from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.policy.action_heads import HINDSIGHT_AXES
from cyclemimic.types import ActionSpace, CameraSpec, Episode, Float32, Int64, UInt8

if TYPE_CHECKING:
    from cyclemimic.store.label_store import LabelStore


@dataclass(frozen=True, kw_only=True)
class DemonstrationData:
    """Moments of one body's demonstrations in the units of the body."""

    images: UInt8  # [N, H, W, 3], the main camera
    sentence: Int64  # [N], index into `sentences`
    codes: Int64  # [N, L]
    actions: Float32  # [N, S, A]; behind the end the last action is repeated and masked
    action_mask: NDArray[np.bool_]  # [N, S]
    proprioception: Float32 | None  # [N, P]
    hindsight: Float32 | None  # [N, 3]: the first numbers of the state at the end, for an arm the hand's x, y, z in m
    sentences: tuple[str | None, ...]
    num_codes: int  # K
    action_space: ActionSpace
    embodiment: str
    camera: CameraSpec  # in the size in which it was recorded
    extra_cameras: tuple[CameraSpec, ...] = ()
    extra_images: tuple[UInt8, ...] = ()  # of each further camera [N, H, W, 3]
    moving: Float32 | None = None  # [N, cells], where in the main picture things move, where that was asked for

    def __len__(self) -> int:
        return len(self.images)


def demonstration_data(
    episodes: Iterable[Episode],
    labels: LabelStore | None,
    *,
    chunk_steps: int,
    extra_cameras: Sequence[str] = (),
    image_px: int | None = None,
    moving: bool = False,
) -> DemonstrationData:
    """Every moment of `episodes` from which an action leads on.

    The last frames of a clip have no label, since no frame lies H behind them; they get the clip's last label, so that
    the policy also knows what to say near the end. Without `labels` all codes are 0 (K = 1, l_z = 1): behaviour
    cloning with the same network.

    Args:
        episodes: of one body; may come one by one, so that large pictures need not lie in memory together.
        labels: the latent actions of their video.
        chunk_steps: S.
        extra_cameras: cameras beside the main one that the policy will see.
        image_px: side to which pictures are brought, as the policy will bring them when it acts; as they are if None.
        moving: also find where in the main picture things move.

    Raises:
        InputError: an episode lacks actions, an action space or a camera, differs in it, or has no labels.
    """
    sentences: dict[str | None, int] = {}
    bodies: dict[str, None] = {}
    images, said, codes, chunks, masks, states, ends, moves = [], [], [], [], [], [], [], []
    extra: list[list[UInt8]] = [[] for _ in extra_cameras]
    first: Episode | None = None
    cameras: tuple[CameraSpec, ...] = ()
    for episode in _of_one_body(episodes):
        assert episode.actions is not None  # _of_one_body refuses episodes without
        if first is None:
            first, cameras = episode, _cameras(episode, extra_cameras)
        _same_cameras(episode, cameras)
        bodies[episode.info.embodiment] = None
        moments = len(episode.actions)
        steps = np.arange(moments)[:, None] + np.arange(chunk_steps)
        chunks.append(episode.actions[np.minimum(steps, moments - 1)])
        masks.append(steps < moments)
        pictures = _sized(episode.frames, image_px)
        images.append(pictures[:-1])
        if moving:
            moves.append(moving_maps(pictures)[:-1])
        for column, name in zip(extra, extra_cameras, strict=True):
            column.append(_sized(episode.extra_frames[name][:-1], image_px))
        codes.append(_codes(episode, labels, moments))
        number = sentences.setdefault(episode.info.instruction, len(sentences))
        said.append(np.full(moments, number, np.int64))
        if episode.proprioception is not None:
            states.append(episode.proprioception[:-1])
            ends.append(np.repeat(episode.proprioception[-1:, :HINDSIGHT_AXES], moments, 0))
    if first is None:
        raise InputError("demonstrations", expected="at least one episode", got="none", remedy="Film or name some.")
    assert first.action_space is not None
    whole = len(states) == len(images)
    ended = whole and states[0].shape[1] >= HINDSIGHT_AXES
    return DemonstrationData(
        images=np.concatenate(images),
        sentence=np.concatenate(said),
        codes=np.concatenate(codes),
        actions=np.concatenate(chunks).astype(np.float32),
        action_mask=np.concatenate(masks),
        proprioception=np.concatenate(states).astype(np.float32) if whole else None,
        hindsight=np.concatenate(ends).astype(np.float32) if ended else None,
        sentences=tuple(sentences),
        num_codes=1 if labels is None else labels.provenance.num_codes,
        action_space=first.action_space,
        # Bodies that share an action space are one to the policy.
        embodiment=next(iter(bodies)) if len(bodies) == 1 else first.action_space.name,
        camera=cameras[0],
        extra_cameras=cameras[1:],
        extra_images=tuple(np.concatenate(column) for column in extra),
        moving=np.concatenate(moves) if moves else None,
    )


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The demonstrations of all bodies in one, narrower ones padded with 0; actions and states are normalised."""

    images: UInt8  # [N, H, W, 3]
    extra_images: tuple[UInt8, ...]
    extra_seen: NDArray[np.bool_]  # [N, cameras]
    sentence: Int64  # [N]
    codes: Int64  # [N, L]
    body: Int64  # [N]
    actions: Float32  # [N, S, A]
    action_mask: NDArray[np.bool_]  # [N, S]
    axis_mask: NDArray[np.bool_]  # [bodies, A]
    state: Float32 | None  # [N, P]
    ends: Float32 | None  # [N, 3], None where no body has any
    ended: NDArray[np.bool_]  # [N], False where a body has none
    sentences: tuple[str | None, ...]
    first: Int64  # [bodies], where each body's moments begin
    counts: Int64  # [bodies]
    moving: Float32 | None = None  # [N, cells], where all bodies have it

    def draw(self, rng: np.random.Generator, count: int) -> Int64:
        """Moments [count]: uniformly of one body; of several a body uniformly, then one of its moments."""
        if len(self.counts) == 1:
            return rng.integers(int(self.counts[0]), size=count)
        body = rng.integers(len(self.counts), size=count)
        return self.first[body] + (rng.random(count) * self.counts[body]).astype(np.int64)


def joined(
    sets: Sequence[DemonstrationData],
    actions: Sequence[Float32],
    states: Sequence[Float32] | None,
    extra_cameras: Sequence[str],
) -> Moments:
    """Many bodies' demonstrations as one; `actions` and `states` are theirs, normalised."""
    sentences: dict[str | None, int] = {}
    said = []
    for data in sets:
        numbers = np.array([sentences.setdefault(text, len(sentences)) for text in data.sentences], np.int64)
        said.append(numbers[data.sentence])
    counts = np.array([len(data) for data in sets], np.int64)
    widest = max(data.action_space.width for data in sets)
    ends = [
        np.zeros((len(data), HINDSIGHT_AXES), np.float32)
        if data.hindsight is None
        else Normalizer.fit(data.hindsight, "std").normalize(data.hindsight)
        for data in sets
    ]
    told = np.array([data.hindsight is not None for data in sets])
    moves = [data.moving for data in sets if data.moving is not None]
    extra, seen = [], np.zeros((int(counts.sum()), len(extra_cameras)), np.bool_)
    body = np.repeat(np.arange(len(sets)), counts)
    for i, name in enumerate(extra_cameras):
        column = []
        for number, data in enumerate(sets):
            names = [camera.name for camera in data.extra_cameras]
            seen[body == number, i] = name in names
            column.append(data.extra_images[names.index(name)] if name in names else np.zeros_like(data.images))
        extra.append(_stacked(column))
    return Moments(
        images=_stacked([data.images for data in sets]),
        extra_images=tuple(extra),
        extra_seen=seen,
        sentence=np.concatenate(said),
        codes=np.concatenate([data.codes for data in sets]),
        body=body,
        actions=_padded(actions),
        action_mask=_padded([data.action_mask for data in sets]),
        axis_mask=np.array([np.arange(widest) < data.action_space.width for data in sets]),
        state=None if states is None else _padded(states),
        ends=np.concatenate(ends) if told.any() else None,
        ended=told[body],
        sentences=tuple(sentences),
        first=counts.cumsum() - counts,
        counts=counts,
        moving=np.concatenate(moves)
        if len(moves := [d.moving for d in sets if d.moving is not None]) == len(sets)
        else None,
    )


def _stacked(columns: list[UInt8]) -> UInt8:
    """One after another; a single one is not copied, since pictures fill the memory."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _padded(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One after another, each padded with 0 to the largest of all but the first dimension."""
    sizes = np.max([column.shape[1:] for column in columns], axis=0)
    rooms = [[(0, 0), *((0, want - have) for have, want in zip(c.shape[1:], sizes, strict=True))] for c in columns]
    return np.concatenate([np.pad(column, room) for column, room in zip(columns, rooms, strict=True)])


def _of_one_body(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """The episodes, all of which share the first one's action space."""
    space: ActionSpace | None = None
    for episode in episodes:
        space = space or episode.action_space
        if episode.actions is None or episode.action_space is None or episode.action_space != space:
            raise InputError(
                f"episode {episode.info.name!r}",
                expected="actions in the action space of the other demonstrations",
                got="none" if episode.actions is None else str(episode.action_space and episode.action_space.name),
                remedy="Give each body's demonstrations apart.",
            )
        yield episode


def _cameras(episode: Episode, extra: Sequence[str]) -> tuple[CameraSpec, ...]:
    """The main camera and those that are named, as the episode shows them."""
    for name in extra:
        if name not in episode.extra_frames:
            raise InputError(
                f"episode {episode.info.name!r}, field extra_frames",
                expected=f"camera {name!r}",
                got=", ".join(sorted(episode.extra_frames)) or "none beside the main one",
                remedy=did_you_mean(name, episode.extra_frames) if episode.extra_frames else "Record it, or leave it.",
            )
    frames = {episode.camera: episode.frames, **{name: episode.extra_frames[name] for name in extra}}
    return tuple(CameraSpec(name=n, height_px=f.shape[1], width_px=f.shape[2]) for n, f in frames.items())


def _same_cameras(episode: Episode, cameras: tuple[CameraSpec, ...]) -> None:
    found = _cameras(episode, [camera.name for camera in cameras[1:]])
    if found != cameras:
        raise InputError(
            f"episode {episode.info.name!r}",
            expected=f"cameras as in the other demonstrations: {_sizes(cameras)}",
            got=_sizes(found),
            remedy="Bring all pictures of a camera to one size.",
        )


def _sizes(cameras: tuple[CameraSpec, ...]) -> str:
    return ", ".join(f"{c.name} {c.height_px} x {c.width_px} px" for c in cameras)


def _sized(frames: UInt8, image_px: int | None) -> UInt8:
    return frames if image_px is None else resize_square(frames, image_px)


def _codes(episode: Episode, labels: LabelStore | None, moments: int) -> Int64:
    """Codes [moments, L]; a frame without a label takes the nearest earlier one (or the first)."""
    if labels is None:
        return np.zeros((moments, 1), np.int64)
    frames, codes = labels.codes_for(episode.info.name)
    nearest = np.searchsorted(frames, np.arange(moments), side="right") - 1
    return codes[np.maximum(nearest, 0)]
