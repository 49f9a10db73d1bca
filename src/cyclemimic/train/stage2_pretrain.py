"""Stage 2: the policy learns from video alone which latent action follows a picture and a sentence.

Letters in shapes: N labelled moments, B batch, L tokens of a latent action, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclemimic.data.hindsight import end_maps, moving_maps
from cyclemimic.data.mixture import SourceWeights
from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.errors import InputError
from cyclemimic.nn.collectives import my_rows
from cyclemimic.policy.action_heads import HINDSIGHT_AXES, BodyWidths, hindsight_loss
from cyclemimic.policy.network import (
    NetworkConfig,
    NetworkSpec,
    PretrainNetwork,
    build_pretrain_network,
    save_network,
)
from cyclemimic.policy.reader import end_loss, readout_loss
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import rng_for
from cyclemimic.store.atomic import write_json
from cyclemimic.train.pictures import Sentences, random_shift
from cyclemimic.train.progress import Waiting
from cyclemimic.train.trainee import OptimConfig, Trainee
from cyclemimic.types import Float32, Int64, UInt8

if TYPE_CHECKING:
    from cyclemimic.store.frame_cache import FrameCache
    from cyclemimic.store.label_store import LabelStore


STATE_FILE = "state.json"  # how the robot's state was normalised, where there was one


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What pre-training does; the defaults come from short runs on a CPU (batch 16, not 32: updates count)."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=4000))
    seed: int = 0
    batch: int = 16
    latent_weight: float = 1.0  # next-token likelihood of the latent tokens: the paper's loss
    readout_weight: float = 1.0  # cross-entropy of the codes from the action decoder's visual features
    hindsight_weight: float = 1.0  # cross-entropy of where in the picture the clip ends, from the same features
    shift_px: int = 1
    instruction_dropout: float = 0.0
    # Cross-entropy of where in the picture things move now, from the same features: what of the state video shows.
    moving_weight: float = field(default=0.0, metadata={"before": 0.0})


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """Labelled moments of video: where the picture lies, what was said, which latent action follows, whose body."""

    images: tuple[UInt8, ...]  # per cache [frames, S, S, 3], usually memory maps
    cache: Int64  # [N], index into `images`
    frame: Int64  # [N], row in that array
    sentence: Int64  # [N], index into `sentences`
    codes: Int64  # [N, L]
    body: Int64  # [N], index into `bodies`
    clip: Int64  # [N], row of `ends`
    ends: Float32  # [clips, cells], where in the picture each clip ends: shares of its last change
    sentences: tuple[str | None, ...]
    bodies: tuple[str, ...]
    num_codes: int  # K
    state: Float32 | None = None  # [N, P], the robot's, where it is known beside the video
    goal: Float32 | None = None  # [N, 3], where the hand is at the end of the clip, then
    moving: Float32 | None = None  # [N, cells], where in the picture things move, where that was asked for

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def num_tokens(self) -> int:
        """l_z."""
        return int(self.codes.shape[1])

    def pictures(self, index: Int64) -> UInt8:
        """The pictures [B, S, S, 3] of moments `index` [B]."""
        out = np.empty((len(index), *self.images[0].shape[1:]), np.uint8)
        for number, images in enumerate(self.images):
            here = self.cache[index] == number
            out[here] = images[self.frame[index[here]]]
        return out

    def subset(self, index: Int64) -> PretrainData:
        """The same data, moments `index` only."""
        columns = {name: getattr(self, name)[index] for name in ("cache", "frame", "sentence", "codes", "body", "clip")}
        rest = {name: getattr(self, name) for name in ("images", "sentences", "bodies", "num_codes", "ends")}
        known = {name: getattr(self, name) for name in ("state", "goal", "moving")}
        told = {name: column[index] for name, column in known.items() if column is not None}
        return PretrainData(**columns, **rest, **told)


@dataclass(frozen=True, kw_only=True)
class PretrainScores:
    """How well held-out latent actions are predicted. Chance is log K nats and an accuracy of 1 / K."""

    latent_nll: float  # nats per token, teacher-forced, over the whole vocabulary
    readout_nll: float  # nats per token, from the action decoder's features
    hindsight_nll: float  # nats, of where the clip ends, from the same features
    slot_accuracy: tuple[float, ...]  # per slot, teacher-forced
    moving_nll: float | None = None  # nats, of where things move now, where that was learnt


def pretrain_data(
    caches: Sequence[FrameCache],
    labels: LabelStore | Sequence[LabelStore],
    states: Mapping[str, Float32] | None = None,
    *,
    moving: bool = False,
) -> PretrainData:
    """Every labelled moment of the caches' clips; clips without labels are left out.

    Args:
        caches: frame caches of one picture size.
        labels: one label store for all caches, or one for each.
        states: clip name -> the robot's state at every frame [T, P], x, y, z of the hand in front; for bounds.
        moving: also find where in the picture things move; every frame is read for it.

    Raises:
        InputError: nothing is labelled, sizes differ, or the stores do not share K and l_z.
    """
    stores = list(labels) if isinstance(labels, Sequence) else [labels] * len(caches)
    kinds = {(s.provenance.num_codes, s.provenance.num_tokens) for s in stores}
    sizes = {cache.size_px for cache in caches}
    if len(stores) != len(caches) or len(kinds) != 1 or len(sizes) != 1:
        raise InputError(
            "pretrain data",
            expected="frame caches of one size, each with labels of one codebook",
            got=f"{len(caches)} caches of {sorted(sizes)} px, {len(stores)} label stores of {sorted(kinds)} (K, l_z)",
            remedy="Cache at one size and label with one tokenizer.",
        )
    sentences: dict[str | None, int] = {}
    bodies: dict[str, int] = {}
    columns: list[tuple[Int64, ...]] = []
    ends: list[Float32] = []
    known: list[tuple[Float32, Float32]] = []
    moves: list[Float32] = []
    for number, (cache, store) in enumerate(zip(caches, stores, strict=True)):
        for i, (clip, offset, end) in enumerate(zip(cache.clips, cache.offsets, end_maps(cache), strict=True)):
            if clip.name not in store:
                continue
            frames, codes = store.codes_for(clip.name)
            said = sentences.setdefault(clip.instruction, len(sentences))
            body = bodies.setdefault(clip.embodiment, len(bodies))
            constants = [np.full(len(frames), value, np.int64) for value in (number, said, body, len(ends))]
            columns.append((*constants, frames.astype(np.int64) + offset, codes))
            ends.append(end)
            if moving:
                moves.append(moving_maps(cache.clip_frames(i))[frames])
            if states is not None:
                mine = states[clip.name].astype(np.float32)
                known.append((mine[frames], np.repeat(mine[-1:, :HINDSIGHT_AXES], len(frames), 0)))
    if not columns:
        raise InputError("pretrain data", expected="labelled clips", got="none", remedy="Run `cyclemimic label` first.")
    where, said_all, body_all, clip_all, frame_all, codes_all = (np.concatenate(c) for c in zip(*columns, strict=True))
    return PretrainData(
        images=tuple(cache.frames for cache in caches),
        cache=where,
        frame=frame_all,
        sentence=said_all,
        codes=codes_all,
        body=body_all,
        clip=clip_all,
        ends=np.stack(ends),
        sentences=tuple(sentences),
        bodies=tuple(bodies),
        num_codes=stores[0].provenance.num_codes,
        state=np.concatenate([state for state, _ in known]) if known else None,
        goal=np.concatenate([goal for _, goal in known]) if known else None,
        moving=np.concatenate(moves) if moves else None,
    )


class PretrainStage:
    """Latent policy and the visual half of the action decoder, trained on labelled video (paper, policy, pre-training).

    A step is a pure function of (state, seed, step). Bodies are drawn uniformly, then their moments; where sources have
    weights, first a source.
    """

    def __init__(
        self,
        config: PretrainConfig,
        data: PretrainData,
        *,
        vocabulary: Vocabulary | None = None,
        device: str = "cpu",
        sources: SourceWeights | None = None,
    ) -> None:
        """Random weights, ready for step 0.

        Args:
            config: sizes and settings.
            data: labelled moments.
            vocabulary: give one that also holds the words of fine-tuning; default: the words of `data`.
            device: where the network lies.
            sources: how often each cache of `data` is drawn; None: bodies alone decide.
        """
        side = config.network.backbone.image_px
        if data.images[0].shape[1:3] != (side, side):
            raise InputError(
                "pretrain data",
                expected=f"pictures of {side} x {side} px, as image_px says",
                got=f"{data.images[0].shape[1:3]}",
                remedy="Cache the frames at that size, or change image_px.",
            )
        if data.ends.shape[1] != config.network.head.end_cells:
            raise InputError(
                "pretrain data",
                expected=f"ends in {config.network.head.end_cells} cells, as end_cells says",
                got=str(data.ends.shape[1]),
                remedy="Set end_cells to the number of cells of data/hindsight.py.",
            )
        _check_weights(config, data)
        self.config, self.data, self.device = config, data, torch.device(device)
        words = vocabulary or Vocabulary.build(data.sentences, num_codes=data.num_codes)
        self.state_units, self.goal_units = _units(data.state), _units(data.goal)
        widths: tuple[BodyWidths, ...] = ()
        if data.state is not None or config.network.head.keypoint:
            # The codes of a moment in the place of the actions of a chunk: the decoder of both is then the same.
            widths = (
                BodyWidths(
                    name="video",
                    action_width=data.num_codes,
                    chunk_steps=data.num_tokens,
                    proprioception_width=0 if data.state is None else data.state.shape[1],
                ),
            )
        self.spec = NetworkSpec(config=config.network, vocabulary=words, num_tokens=data.num_tokens, bodies=widths)
        network = build_pretrain_network(self.spec, seed=config.seed, moving=config.moving_weight > 0).to(self.device)
        self.trainee: Trainee[PretrainNetwork] = Trainee(network, config.optim)
        self._moments, self._weights = _groups(data, sources)
        self._sentences = Sentences(words, data.sentences)
        self._last_batch: dict[str, Tensor] = {}
        self._waiting = Waiting()

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update; logs losses in nats per token and the accuracy of each slot."""
        c = self.config
        rng = rng_for(c.seed, step, "pretrain")
        index = self._draw(rng)
        sentence = self._sentences.drop(self.data.sentence[index], rng, c.instruction_dropout)
        mine = my_rows(c.batch)  # drawn for the whole batch, worked on by rows
        index, sentence = index[mine], sentence[mine]
        with self._waiting:
            images = random_shift(self.data.pictures(index), rng, c.shift_px, rows=mine, of=c.batch)
        observation = self._sentences.observe(
            images, sentence, device=self.device, proprioception=self._numbers(self.data.state, self.state_units, index)
        )
        codes = torch.from_numpy(self.data.codes[index]).to(self.device)
        network = self.trainee.network.train()
        output, said = network.whole(observation, codes)
        latent = network.latent.latent_loss(output.slots, codes)
        readout = readout_loss(said.codes, codes)
        ends = torch.from_numpy(self.data.ends[self.data.clip[index]]).to(self.device)
        hindsight = end_loss(said.end, ends)
        terms = {"latent_nll": latent, "readout_nll": readout, "hindsight_nll": hindsight}
        told = {"index": torch.from_numpy(index), "images": observation.images, "codes": codes, "ends": ends}
        self._last_batch = told
        loss = c.latent_weight * latent + c.readout_weight * readout + c.hindsight_weight * hindsight
        target = self._numbers(self.data.goal, self.goal_units, index)
        if said.goal is not None and target is not None:
            terms["goal_l1"] = hindsight_loss(said.goal, target.to(self.device))
            loss = loss + c.hindsight_weight * terms["goal_l1"]
        if said.moving is not None and self.data.moving is not None:
            told["moving"] = torch.from_numpy(self.data.moving[index]).to(self.device)
            terms["moving_nll"] = end_loss(said.moving, told["moving"])
            loss = loss + c.moving_weight * terms["moving_nll"]
        norm = self.trainee.apply(step, loss, terms)
        with torch.no_grad():
            accuracy = network.latent.slot_accuracy(output.slots, codes)
        slots = {f"accuracy_{i}": value for i, value in enumerate(accuracy)}
        return {**terms, "gradient_norm": norm, **slots, "data_wait_s": self._waiting.taken()}

    def last_batch(self) -> Mapping[str, Tensor]:
        """What the last step was given, on this process."""
        return self._last_batch

    @torch.inference_mode()
    def validate(self, data: PretrainData, *, batch: int = 256) -> PretrainScores:
        """Scores of the averaged weights on held-out moments, best of a body that was not trained on."""
        network = self.trainee.averaged()
        sentences = Sentences(self.spec.vocabulary, data.sentences)
        sums: NDArray[np.float64] = np.zeros(1)
        for start in range(0, len(data), batch):
            index = np.arange(start, min(start + batch, len(data)))
            state = self._numbers(data.state, self.state_units, index)
            observation = sentences.observe(
                data.pictures(index), data.sentence[index], device=self.device, proprioception=state
            )
            codes = torch.from_numpy(data.codes[index]).to(self.device)
            output, said = network.whole(observation, codes)
            ends = torch.from_numpy(data.ends[data.clip[index]]).to(self.device)
            figures = [
                network.latent.latent_loss(output.slots, codes),
                readout_loss(said.codes, codes),
                end_loss(said.end, ends),
                *network.latent.slot_accuracy(output.slots, codes),
            ]
            if said.moving is not None and data.moving is not None:
                figures.append(end_loss(said.moving, torch.from_numpy(data.moving[index]).to(self.device)))
            sums = sums + len(index) * np.array([float(value) for value in figures])
        latent, readout, hindsight, *rest = (sums / len(data)).tolist()
        slots, moving = rest[: data.num_tokens], rest[data.num_tokens :]
        return PretrainScores(
            latent_nll=latent,
            readout_nll=readout,
            hindsight_nll=hindsight,
            slot_accuracy=tuple(slots),
            moving_nll=moving[0] if moving else None,
        )

    def state(self) -> dict[str, Tensor]:
        """All that the future depends on."""
        return self.trainee.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.trainee.load_state(tensors)

    def export(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.trainee.export()

    def save(self, folder: Path) -> None:
        """Write specification and averaged weights; `FinetuneStage(init=folder)` starts from them."""
        save_network(folder, self.spec, self.export())
        if self.state_units is not None:
            write_json(folder / STATE_FILE, self.state_units.to_json())

    @staticmethod
    def _numbers(column: Float32 | None, units: Normalizer | None, index: Int64) -> Tensor | None:
        """Rows of a column that may not be there, normalised."""
        if column is None or units is None:
            return None
        return torch.from_numpy(units.normalize(column[index]))

    def _draw(self, rng: np.random.Generator) -> Int64:
        """Moments [B]: a group, such as a body, then one of its moments."""
        groups = (
            rng.integers(len(self._moments), size=self.config.batch)
            if self._weights is None
            else rng.choice(len(self._moments), self.config.batch, p=self._weights)
        )
        share = rng.random(self.config.batch)
        return np.array([self._moments[g][int(s * len(self._moments[g]))] for g, s in zip(groups, share, strict=True)])


def _groups(data: PretrainData, sources: SourceWeights | None) -> tuple[list[Int64], NDArray[np.float64] | None]:
    """Moments by body, all bodies alike; or by source and body with the probability of each."""
    if sources is None:
        return [np.flatnonzero(data.body == body) for body in range(len(data.bodies))], None
    groups: list[Int64] = []
    weights: list[float] = []
    counts = np.bincount(data.cache, minlength=len(data.images)).tolist()
    for cache, share in enumerate(sources.shares(counts).tolist()):
        bodies = np.unique(data.body[data.cache == cache])
        groups += [np.flatnonzero((data.cache == cache) & (data.body == body)) for body in bodies]
        weights += [share / len(bodies)] * len(bodies)
    return groups, np.array(weights)


def _check_weights(config: PretrainConfig, data: PretrainData) -> None:
    """Weights that are none, a keypoint that nothing teaches, and a target that was not asked for with the data."""
    for name in ("latent_weight", "readout_weight", "hindsight_weight", "moving_weight"):
        found = getattr(config, name)
        if not 0 <= found < float("inf"):
            where = f"PretrainConfig.{name}"
            raise InputError(where, expected="0 or more", got=str(found), remedy="0 leaves the term out.")
    if config.network.head.keypoint and not config.moving_weight:
        raise InputError(
            "PretrainConfig.moving_weight", expected="above 0 with HeadConfig.keypoint, which it teaches", got="0",
            remedy="Set it to 1, or leave the keypoint out.",
        )  # fmt: skip
    if config.moving_weight and data.moving is None:
        raise InputError(
            "pretrain data", expected="where things move, since moving_weight is above 0", got="none",
            remedy="Build it with pretrain_data(..., moving=True).",
        )  # fmt: skip


def _units(column: Float32 | None) -> Normalizer | None:
    return None if column is None else Normalizer.fit(column, "std")
