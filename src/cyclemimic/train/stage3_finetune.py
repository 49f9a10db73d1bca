"""Stage 3: a few demonstrations with actions turn latent actions into physical ones.

Letters in shapes: N moments, B batch, L tokens of a latent action, S steps of a chunk, A action axes,
P proprioception axes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclemimic.embodiment.normalize import CONSTANT, Kind, Normalizer
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import DemonstrationBatch
from cyclemimic.nn.collectives import my_rows
from cyclemimic.policy.action_heads import HINDSIGHT_AXES, action_loss, hindsight_loss
from cyclemimic.policy.lora import apply_lora, merge_lora, save_adapters
from cyclemimic.policy.network import (
    NetworkConfig,
    NetworkSpec,
    PolicyNetwork,
    build_policy_network,
    load_pretrained,
    read_network,
)
from cyclemimic.policy.policy import BodySpec, LatentActionPolicy
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import rng_for
from cyclemimic.train.pictures import Sentences, random_shift
from cyclemimic.train.progress import Waiting
from cyclemimic.train.trainee import OptimConfig, Trainee
from cyclemimic.types import ActionSpace, CameraSpec, Episode, Float32, Int64, UInt8

if TYPE_CHECKING:
    from cyclemimic.store.label_store import LabelStore

ADAPTER_FILE = "adapters.safetensors"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What fine-tuning does; the defaults come from short runs on a CPU, LoRA's from UniVLA."""

    network: NetworkConfig = field(default_factory=NetworkConfig)  # not looked at where `init` names a folder
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=1400, learning_rate=2e-3))
    seed: int = 0
    batch: int = 32
    adaptation: Literal["full", "lora"] = "full"
    lora_rank: int = 32
    lora_alpha: float = 16.0
    latent_weight: float = 1.0
    action_weight: float = 1.0
    hindsight_weight: float = 1.0
    blind_share: float = 0.0  # share of moments whose ACT query does not see the latent tokens
    shift_px: int = 1
    instruction_dropout: float = 0.0
    use_proprioception: bool = True
    normalization: Kind = "quantile"


@dataclass(frozen=True, kw_only=True)
class DemonstrationData:
    """Moments of demonstrations in the units of the body."""

    images: UInt8  # [N, H, W, 3]
    sentence: Int64  # [N], index into `sentences`
    codes: Int64  # [N, L]
    actions: Float32  # [N, S, A]; behind the end the last action is repeated and masked
    action_mask: NDArray[np.bool_]  # [N, S]
    proprioception: Float32 | None  # [N, P]
    hindsight: Float32 | None  # [N, 3], m: the hand at the end of the demonstration
    sentences: tuple[str | None, ...]
    num_codes: int  # K
    action_space: ActionSpace

    def __len__(self) -> int:
        return len(self.images)


def demonstration_data(
    episodes: Sequence[Episode], labels: LabelStore | None, *, chunk_steps: int
) -> DemonstrationData:
    """Every moment of `episodes` from which an action leads on.

    The last frames of a clip have no label, since no frame lies H behind them; they get the clip's last label, so that
    the policy also knows what to say near the end. Without `labels` all codes are 0 (K = 1, l_z = 1): behaviour
    cloning with the same network.

    Raises:
        InputError: an episode lacks actions or an action space, differs in it, or has no labels.
    """
    if not episodes:
        raise InputError("demonstrations", expected="at least one episode", got="none", remedy="Film or name some.")
    space = _common_space(episodes)
    sentences: dict[str | None, int] = {}
    images, said, codes, chunks, masks, states, ends = [], [], [], [], [], [], []
    for episode in episodes:
        assert episode.actions is not None  # _common_space refuses episodes without
        moments = len(episode.actions)
        steps = np.arange(moments)[:, None] + np.arange(chunk_steps)
        chunks.append(episode.actions[np.minimum(steps, moments - 1)])
        masks.append(steps < moments)
        images.append(episode.frames[:-1])
        codes.append(_codes(episode, labels, moments))
        number = sentences.setdefault(episode.info.instruction, len(sentences))
        said.append(np.full(moments, number, np.int64))
        if episode.proprioception is not None:
            states.append(episode.proprioception[:-1])
            ends.append(np.repeat(episode.proprioception[-1:, :HINDSIGHT_AXES], moments, 0))
    whole = len(states) == len(episodes)
    return DemonstrationData(
        images=np.concatenate(images),
        sentence=np.concatenate(said),
        codes=np.concatenate(codes),
        actions=np.concatenate(chunks).astype(np.float32),
        action_mask=np.concatenate(masks),
        proprioception=np.concatenate(states).astype(np.float32) if whole else None,
        hindsight=np.concatenate(ends).astype(np.float32) if whole else None,
        sentences=tuple(sentences),
        num_codes=1 if labels is None else labels.provenance.num_codes,
        action_space=space,
    )


class FinetuneStage:
    """Latent NLL and L1 on action chunks, with or without pre-training by identical code (paper, policy, fine-tuning).

    A step is a pure function of (state, seed, step). Proprioception enters in this stage only.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: DemonstrationData,
        *,
        camera: CameraSpec,
        init: Path | None = None,
        device: str = "cpu",
    ) -> None:
        """Ready for step 0.

        Args:
            config: sizes and settings.
            data: demonstrations.
            camera: which camera the pictures come from; travels with the policy.
            init: a folder that pre-training wrote, or None to train from random weights.
            device: where the network lies.

        Raises:
            InputError: the pre-trained network has other codes, or the pictures another size.
        """
        self.config, self.data, self.device = config, data, torch.device(device)
        state = data.proprioception if config.use_proprioception else None
        self.body = BodySpec(
            action_space=data.action_space,
            camera=camera,
            actions=Normalizer.fit(data.actions[data.action_mask], config.normalization, constant_scale=CONSTANT),
            proprioception=None if state is None else Normalizer.fit(state, "std"),
        )
        self.spec, pretrained = self._specify(init, 0 if state is None else state.shape[1])
        network = build_policy_network(self.spec, seed=config.seed)
        if pretrained is not None:
            load_pretrained(network, pretrained)
        if config.adaptation == "lora":
            apply_lora(network, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        self.trainee: Trainee[PolicyNetwork] = Trainee(network.to(self.device), config.optim)
        self._sentences = Sentences(self.spec.vocabulary, data.sentences)
        self._last_batch: dict[str, Tensor] = {}
        self._waiting = Waiting()
        self._actions = torch.from_numpy(self.body.actions.normalize(data.actions))
        self._state = None
        if state is not None and self.body.proprioception is not None:
            self._state = torch.from_numpy(self.body.proprioception.normalize(state))
        self._ends = None
        if data.hindsight is not None:
            self._ends = torch.from_numpy(Normalizer.fit(data.hindsight, "std").normalize(data.hindsight))

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update; logs each term and the accuracy of each slot."""
        c = self.config
        rng = rng_for(c.seed, step, "finetune")
        with self._waiting:
            batch = self.draw(rng)
        blind = torch.from_numpy(rng.random(c.batch)[my_rows(c.batch)] < c.blind_share).to(self.device)
        network = self.trainee.network.train()
        output, said = network(batch.observation, batch.codes, blind)
        assert batch.actions is not None and batch.action_mask is not None
        latent = network.latent.latent_loss(output.slots, batch.codes)
        action = action_loss(said.actions, batch.actions, batch.action_mask)
        loss = c.latent_weight * latent + c.action_weight * action
        terms = {"latent_nll": latent, "action_l1": action}
        if batch.hindsight is not None:
            terms["hindsight_l1"] = hindsight_loss(said.hindsight, batch.hindsight)
            loss = loss + c.hindsight_weight * terms["hindsight_l1"]
        given = {
            "images": batch.observation.images,
            "proprioception": batch.observation.proprioception,
            "codes": batch.codes,
            "actions": batch.actions,
            "action_mask": batch.action_mask,
            "hindsight": batch.hindsight,
        }
        self._last_batch = {key: value for key, value in given.items() if value is not None}
        norm = self.trainee.apply(step, loss, terms)
        with torch.no_grad():
            accuracy = network.latent.slot_accuracy(output.slots, batch.codes)
        return {
            **terms,
            "gradient_norm": norm,
            "data_wait_s": self._waiting.taken(),
            **{f"accuracy_{i}": value for i, value in enumerate(accuracy)},
        }

    def last_batch(self) -> Mapping[str, Tensor]:
        """What the last step was given, on this process."""
        return self._last_batch

    def draw(self, rng: np.random.Generator) -> DemonstrationBatch:
        """B moments, uniformly, shifted by a pixel or less; of several processes each gets its rows of them."""
        c, data = self.config, self.data
        index = rng.integers(len(data), size=c.batch)
        sentence = self._sentences.drop(data.sentence[index], rng, c.instruction_dropout)
        mine = my_rows(c.batch)
        index, sentence = index[mine], sentence[mine]
        images = random_shift(data.images[index], rng, c.shift_px, rows=mine, of=c.batch)
        observation = self._sentences.observe(
            images,
            sentence,
            device=self.device,
            proprioception=None if self._state is None else self._state[index],
        )
        return DemonstrationBatch(
            observation=observation,
            codes=torch.from_numpy(data.codes[index]).to(self.device),
            actions=self._actions[index].to(self.device),
            action_mask=torch.from_numpy(data.action_mask[index]).to(self.device),
            hindsight=None if self._ends is None else self._ends[index].to(self.device),
        )

    def policy(self) -> LatentActionPolicy:
        """The averaged weights as a policy that acts; adapters are merged. Later steps do not change it."""
        return LatentActionPolicy(self._merged(), self.body)

    def save(self, folder: Path) -> None:
        """Write the policy, whole; with LoRA also adapters and head alone."""
        self.policy().save(folder)
        if self.config.adaptation == "lora":
            save_adapters(folder / ADAPTER_FILE, self.trainee.averaged())

    def state(self) -> dict[str, Tensor]:
        """All that the future depends on."""
        return self.trainee.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.trainee.load_state(tensors)

    def export(self) -> dict[str, Tensor]:
        """The averaged weights, adapters merged."""
        return dict(self._merged().state_dict())

    def _merged(self) -> PolicyNetwork:
        network = copy.deepcopy(self.trainee.averaged())
        if self.config.adaptation == "lora":
            merge_lora(network)
        return network

    def _specify(self, init: Path | None, state_width: int) -> tuple[NetworkSpec, dict[str, Tensor] | None]:
        """What to build, and the weights to start from."""
        data, side = self.data, self.config.network.backbone.image_px
        num_tokens = data.codes.shape[1]
        vocabulary = Vocabulary.build(data.sentences, num_codes=data.num_codes)
        config, weights = self.config.network, None
        if init is not None:
            found, weights = read_network(init)
            config, vocabulary, side = found.config, found.vocabulary, found.config.backbone.image_px
            if (vocabulary.num_codes, found.num_tokens) != (data.num_codes, num_tokens):
                raise InputError(
                    init,
                    expected=f"a network for {num_tokens} tokens of {data.num_codes} codes, as the labels have",
                    got=f"{found.num_tokens} tokens of {vocabulary.num_codes} codes",
                    remedy="Label the demonstrations with the tokenizer of the pre-training.",
                )
        if data.actions.shape[1] != config.head.chunk_steps:
            raise InputError(
                "demonstrations",
                expected=f"chunks of {config.head.chunk_steps} steps, as chunk_steps says",
                got=str(data.actions.shape[1]),
                remedy="Cut them again with demonstration_data.",
            )
        if data.images.shape[1:3] != (side, side):
            raise InputError(
                "demonstrations",
                expected=f"pictures of {side} x {side} px, as image_px says",
                got=f"{data.images.shape[1:3]}",
                remedy="Cache the demonstrations at that size.",
            )
        spec = NetworkSpec(
            config=config,
            vocabulary=vocabulary,
            num_tokens=num_tokens,
            action_width=data.action_space.width,
            proprioception_width=state_width,
        )
        return spec, weights


def _common_space(episodes: Sequence[Episode]) -> ActionSpace:
    """The action space that all episodes share."""
    first = episodes[0]
    for episode in episodes:
        if episode.actions is None or episode.action_space is None or episode.action_space != first.action_space:
            raise InputError(
                f"episode {episode.info.name!r}",
                expected="actions in the action space of the other demonstrations",
                got="none" if episode.actions is None else str(episode.action_space and episode.action_space.name),
                remedy="Fine-tune on the demonstrations of one body.",
            )
    assert first.action_space is not None
    return first.action_space


def _codes(episode: Episode, labels: LabelStore | None, moments: int) -> Int64:
    """Codes [moments, L]; a frame without a label takes the nearest earlier one (or the first)."""
    if labels is None:
        return np.zeros((moments, 1), np.int64)
    frames, codes = labels.codes_for(episode.info.name)
    nearest = np.searchsorted(frames, np.arange(moments), side="right") - 1
    return codes[np.maximum(nearest, 0)]
