"""Stage 3: a few demonstrations with actions turn latent actions into physical ones.

Letters in shapes: N moments, B batch, L tokens of a latent action, S steps of a chunk, A action axes,
P proprioception axes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cyclemimic.embodiment.normalize import CONSTANT, Kind, Normalizer
from cyclemimic.errors import InputError
from cyclemimic.nn.batches import DemonstrationBatch, pixels
from cyclemimic.nn.collectives import my_rows
from cyclemimic.policy.action_heads import BodyWidths, HeadConfig, hindsight_loss
from cyclemimic.policy.lora import apply_lora, merge_lora, save_adapters
from cyclemimic.policy.network import (
    NetworkConfig,
    NetworkSpec,
    PolicyNetwork,
    build_policy_network,
    head_class,
    kept_decoder,
    load_pretrained,
    read_network,
    with_room_for_state,
)
from cyclemimic.policy.policy import POLICY_FILE, BodySpec, LatentActionPolicy, read_bodies
from cyclemimic.policy.reader import end_loss
from cyclemimic.policy.vocabulary import Vocabulary
from cyclemimic.randomness import rng_for
from cyclemimic.store.atomic import read_json
from cyclemimic.train.demonstrations import DemonstrationData, Moments, joined
from cyclemimic.train.finetune_checks import check_keypoint, check_sets, check_sizes
from cyclemimic.train.pictures import Sentences, random_shift
from cyclemimic.train.progress import Waiting
from cyclemimic.train.stage2_pretrain import STATE_FILE
from cyclemimic.train.trainee import OptimConfig, Trainee
from cyclemimic.types import CameraSpec, Float32

ADAPTER_FILE = "adapters.safetensors"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What fine-tuning does; the defaults come from short runs on a CPU, LoRA's from UniVLA."""

    # Where `init` names a folder, only what lies behind the reader: kind, widths and chunk of the head.
    network: NetworkConfig = field(default_factory=NetworkConfig)
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
    # Share of moments at which the state is its mean, 0: demonstrations are few, and it tells them apart by heart.
    proprioception_dropout: float = field(default=0.0, metadata={"before": 0.0})
    # Cross-entropy of where in the picture things move now: a keypoint learnt on other bodies learns this one.
    moving_weight: float = field(default=0.0, metadata={"before": 0.0})
    normalization: Kind = "quantile"
    extra_cameras: tuple[str, ...] = ()  # beside the main one, such as a camera on the wrist


class FinetuneStage:
    """Latent NLL and L1 on action chunks, with or without pre-training by identical code (paper, policy, fine-tuning).

    A step is a pure function of (state, seed, step). Proprioception enters in this stage only. With several bodies one
    network learns them all: a body is drawn uniformly, then one of its moments.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: DemonstrationData | Sequence[DemonstrationData],
        *,
        camera: CameraSpec | None = None,
        init: Path | None = None,
        device: str = "cpu",
    ) -> None:
        """Ready for step 0.

        Args:
            config: sizes and settings.
            data: demonstrations of one body, or of each of several.
            camera: the one that took the pictures, where they were scaled before they became `data`.
            init: a folder that pre-training wrote, or None to train from random weights.
            device: where the network lies.

        Raises:
            InputError: the pre-trained network has other codes, or the pictures another size.
        """
        self.sets = [data] if isinstance(data, DemonstrationData) else list(data)
        self.config, self.device = config, torch.device(device)
        check_sets(self.sets, config)
        self.bodies = {d.embodiment: _body(d, config, camera or d.camera) for d in self.sets}
        self.spec, pretrained = self._specify(init)
        check_keypoint(self.sets, config.moving_weight, self.spec.config.head)
        network = build_policy_network(self.spec, seed=config.seed)
        grown = self.spec.vocabulary.num_bins > 0
        if pretrained is not None:
            found, tensors = pretrained
            assert init is not None
            tensors = with_room_for_state(tensors, found, self.spec)
            acts = (init / POLICY_FILE).exists()
            decoder = kept_decoder(network.state_dict(), tensors, acts=acts)
            before = _same_units(self.bodies, init, acts=acts) if decoder else None
            self.bodies = before or self.bodies
            load_pretrained(network, tensors, found.vocabulary, decoder=decoder if before else ())
            grown |= found.vocabulary != self.spec.vocabulary
        if config.adaptation == "lora":
            # Rows that nothing has trained yet must learn, beside adapters too.
            apply_lora(
                network, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, train_vocabulary=grown
            )
        self.trainee: Trainee[PolicyNetwork] = Trainee(network.to(self.device), config.optim)
        self.data = self._joined()
        self._sentences = Sentences(self.spec.vocabulary, self.data.sentences)
        self._last_batch: dict[str, Tensor] = {}
        self._waiting = Waiting()

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One update; logs each term and the accuracy of each slot."""
        c = self.config
        rng = rng_for(c.seed, step, "finetune")
        with self._waiting:
            batch = self.draw(rng)
        blind = torch.from_numpy(rng.random(c.batch)[my_rows(c.batch)] < c.blind_share).to(self.device)
        network = self.trainee.network.train()
        output, said = network(batch.observation, batch.codes, blind, batch.actions)
        latent = network.latent.latent_loss(output.slots, batch.codes)
        actions = network.head.losses(said, batch)
        loss = c.latent_weight * latent + c.action_weight * sum(actions.values(), latent.new_zeros(()))
        terms = {"latent_nll": latent, **actions}
        if batch.hindsight is not None and said.hindsight is not None:
            terms["hindsight_l1"] = hindsight_loss(said.hindsight, batch.hindsight, batch.hindsight_mask)
            loss = loss + c.hindsight_weight * terms["hindsight_l1"]
        if c.moving_weight and batch.moving is not None and said.moving is not None:
            terms["moving_nll"] = end_loss(said.moving, batch.moving)
            loss = loss + c.moving_weight * terms["moving_nll"]
        given = {
            "images": batch.observation.images,
            "proprioception": batch.observation.proprioception,
            "codes": batch.codes,
            "actions": batch.actions,
            "action_mask": batch.action_mask,
            "hindsight": batch.hindsight,
            "moving": batch.moving,
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
        """B moments, uniformly, shifted by a pixel or less, each camera by itself.

        Of several processes each gets its rows of them.
        """
        c, data = self.config, self.data
        index = data.draw(rng, c.batch)
        sentence = self._sentences.drop(data.sentence[index], rng, c.instruction_dropout)
        mine = my_rows(c.batch)
        index, sentence = index[mine], sentence[mine]
        images = random_shift(data.images[index], rng, c.shift_px, rows=mine, of=c.batch)
        state = None if data.state is None else torch.from_numpy(data.state[index])
        if state is not None and c.proprioception_dropout:
            # Drawn for the whole batch, whichever rows of it are ours. 0 is the mean of what is normalised.
            hidden = torch.from_numpy(rng.random(c.batch)[mine] < c.proprioception_dropout)
            state = state.masked_fill(hidden[:, None], 0)
        observation = self._sentences.observe(images, sentence, device=self.device, proprioception=state)
        body = torch.from_numpy(data.body[index]).to(self.device)
        observation = replace(observation, body=body)
        if data.extra_images:
            extra = (
                random_shift(pictures[index], rng, c.shift_px, rows=mine, of=c.batch) for pictures in data.extra_images
            )
            seen = torch.from_numpy(data.extra_seen[index]).to(self.device)
            shown = tuple(pixels(pictures, self.device) for pictures in extra)
            observation = replace(observation, extra_images=shown, extra_seen=seen)
        whole = bool(data.axis_mask.all())
        return DemonstrationBatch(
            observation=observation,
            codes=torch.from_numpy(data.codes[index]).to(self.device),
            actions=torch.from_numpy(data.actions[index]).to(self.device),
            action_mask=torch.from_numpy(data.action_mask[index]).to(self.device),
            axis_mask=None if whole else torch.from_numpy(data.axis_mask).to(self.device)[body],
            hindsight=None if data.ends is None else torch.from_numpy(data.ends[index]).to(self.device),
            hindsight_mask=None if data.ended.all() else torch.from_numpy(data.ended[index]).to(self.device),
            moving=None if data.moving is None else torch.from_numpy(data.moving[index]).to(self.device),
        )

    def policy(self, embodiment: str | None = None) -> LatentActionPolicy:
        """The averaged weights as a policy that acts; adapters are merged. Later steps do not change it."""
        return LatentActionPolicy(self._merged(), self.bodies, embodiment)

    def save(self, folder: Path) -> None:
        """Write the policy, whole; with LoRA also adapters and head alone."""
        self.policy(next(iter(self.bodies))).save(folder)
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

    def _joined(self) -> Moments:
        """All bodies' moments, normalised."""
        bodies = list(self.bodies.values())
        states = [_state(body, data) for body, data in zip(bodies, self.sets, strict=True)]
        return joined(
            self.sets,
            [body.actions.normalize(data.actions) for body, data in zip(bodies, self.sets, strict=True)],
            states if any(state.shape[1] for state in states) else None,
            self.config.extra_cameras,
        )

    def _specify(self, init: Path | None) -> tuple[NetworkSpec, tuple[NetworkSpec, dict[str, Tensor]] | None]:
        """What to build, and the specification and weights to start from."""
        first, config = self.sets[0], self.config.network
        num_tokens = first.codes.shape[1]
        sentences = [text for data in self.sets for text in data.sentences]
        vocabulary = Vocabulary.build(sentences, num_codes=first.num_codes)
        found = None
        if init is not None:
            found = read_network(init)
            spec = found[0]
            config = replace(spec.config, head=_behind_the_reader(spec.config.head, config.head))
            vocabulary = spec.vocabulary
            if (vocabulary.num_codes, spec.num_tokens) != (first.num_codes, num_tokens):
                raise InputError(
                    init,
                    expected=f"a network for {num_tokens} tokens of {first.num_codes} codes, as the labels have",
                    got=f"{spec.num_tokens} tokens of {vocabulary.num_codes} codes",
                    remedy="Label the demonstrations with the tokenizer of the pre-training.",
                )
        config = replace(config, backbone=replace(config.backbone, extra_cameras=len(self.config.extra_cameras)))
        kind = head_class(config.head)
        widths = []
        for data, body in zip(self.sets, self.bodies.values(), strict=True):
            check_sizes(data, config)
            widths.append(
                BodyWidths(
                    name=data.embodiment,
                    action_width=data.action_space.width,
                    chunk_steps=data.actions.shape[1],
                    proprioception_width=0 if body.proprioception is None else body.proprioception.width,
                )
            )
        spec = NetworkSpec(
            config=config,
            vocabulary=vocabulary.extended(sentences, num_bins=kind.num_bins(config.head)),
            num_tokens=num_tokens,
            bodies=tuple(widths),
        )
        return spec, found


def _body(data: DemonstrationData, config: FinetuneConfig, camera: CameraSpec) -> BodySpec:
    """A body's table, and the statistics of its demonstrations."""
    own = {found.name: found for found in data.extra_cameras}
    state = data.proprioception if config.use_proprioception else None
    return BodySpec(
        action_space=data.action_space,
        camera=camera,
        actions=Normalizer.fit(data.actions[data.action_mask], config.normalization, constant_scale=CONSTANT),
        proprioception=None if state is None else Normalizer.fit(state, "std"),
        extra_cameras=tuple(own.get(name) for name in config.extra_cameras),
    )


def _same_units(bodies: dict[str, BodySpec], init: Path, *, acts: bool) -> dict[str, BodySpec] | None:
    """The only body, normalised as in `init`: a decoder that is kept speaks in its units.

    None where that was a policy of other axes.
    """
    ((name, body),) = bodies.items()
    if not acts:
        if not (init / STATE_FILE).exists():  # a keypoint stood for the state
            return bodies
        return {name: replace(body, proprioception=Normalizer.from_json(read_json(init / STATE_FILE)))}
    (before,) = read_bodies(init).values()
    if before.action_space.axes != body.action_space.axes:
        return None
    return {name: replace(body, actions=before.actions, proprioception=before.proprioception)}


def _state(body: BodySpec, data: DemonstrationData) -> Float32:
    """Proprioception [N, P], normalised; P = 0 where the policy does not look at it."""
    if body.proprioception is None or data.proprioception is None:
        return np.zeros((len(data), 0), np.float32)
    return body.proprioception.normalize(data.proprioception)


def _behind_the_reader(pretrained: HeadConfig, own: HeadConfig) -> HeadConfig:
    """The reader of the pre-training; all that is new in fine-tuning as its own configuration says."""
    kept = ("channels", "norm_groups", "maps", "sharpness", "reader_width", "end_cells", "keypoint")
    return replace(own, **{name: getattr(pretrained, name) for name in kept})
