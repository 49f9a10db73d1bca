"""The policy that acts: the same object in simulation, behind a server and in tests (types.Policy)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.embodiment.resize import resize_square
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.nn.batches import ObservationBatch, pixels
from cyclemimic.policy.network import PolicyNetwork, build_policy_network, read_network, save_network
from cyclemimic.types import ActionChunk, ActionSpace, Axis, CameraSpec, Float32, Int64, Observation, UInt8

POLICY_FILE = "policy.json"


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """A body that a policy drives: its actions, its cameras, its state, and how they are normalised."""

    action_space: ActionSpace
    camera: CameraSpec
    actions: Normalizer  # [A]
    proprioception: Normalizer | None = None  # [P]; None: the policy does not look at the robot's state
    extra_cameras: tuple[CameraSpec | None, ...] = ()  # None where the policy knows a camera that this body lacks

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "action_space": asdict(self.action_space),
            "camera": asdict(self.camera),
            "actions": self.actions.to_json(),
            "proprioception": self.proprioception.to_json() if self.proprioception else None,
            "extra_cameras": [None if camera is None else asdict(camera) for camera in self.extra_cameras],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> BodySpec:
        """Undo `to_json`."""
        space, body = found["action_space"], found["proprioception"]
        return cls(
            action_space=ActionSpace(**{**space, "axes": tuple(Axis(**axis) for axis in space["axes"])}),
            camera=CameraSpec(**found["camera"]),
            actions=Normalizer.from_json(found["actions"]),
            proprioception=Normalizer.from_json(body) if body else None,
            extra_cameras=tuple(None if c is None else CameraSpec(**c) for c in found["extra_cameras"]),
        )


class LatentActionPolicy:
    """Sees a camera, a sentence and, where the checkpoint names them, more cameras and proprioception; says a chunk.

    Deterministic: latent tokens are chosen greedily, and nothing else is drawn. Actions are clipped to the limits of
    the action space. Pictures become square as in training: the middle is kept, and averaged to the network's size.

    Args:
        network: set to evaluation mode; its weights are not copied.
        bodies: what the network can drive, by the names of its embodiments; one alone needs no name.
        embodiment: which of them this policy drives; the only one unless told.

    Raises:
        InputError: there are several bodies and none is told, or there is no such body.
    """

    def __init__(
        self, network: PolicyNetwork, bodies: BodySpec | Mapping[str, BodySpec], embodiment: str | None = None
    ) -> None:
        names = [body.name for body in network.spec.bodies]
        self.bodies = {names[0]: bodies} if isinstance(bodies, BodySpec) else dict(bodies)
        assert list(self.bodies) == names, "the network's bodies, in its order"
        if embodiment is None and len(names) == 1:
            embodiment = names[0]
        if embodiment not in self.bodies:
            raise InputError(
                "embodiment",
                expected=f"one of the policy's bodies: {', '.join(names)}",
                got="none" if embodiment is None else repr(embodiment),
                remedy="Name one." if embodiment is None else did_you_mean(embodiment, names),
            )
        self.network, self.embodiment, self.body = network.eval(), embodiment, self.bodies[embodiment]
        self.number = names.index(embodiment)
        self.vocabulary = network.spec.vocabulary
        self._warned: set[str] = set()

    @property
    def chunk_steps(self) -> int:
        """S, how many actions a chunk of this body holds."""
        return self.network.spec.bodies[self.number].chunk_steps

    def driving(self, embodiment: str) -> LatentActionPolicy:
        """The same network for another of its bodies."""
        return LatentActionPolicy(self.network, self.bodies, embodiment)

    def act(self, observation: Observation) -> ActionChunk:
        """The next S actions [S, A] in the units of the action space.

        Raises:
            InputError: a camera is missing, its picture has another size, or proprioception is missing.
        """
        return self.act_batch([observation])[0]

    def act_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """`act` for many observations at once; equal to one by one up to rounding."""
        if not observations:
            return []
        with torch.inference_mode():
            _, output = self.network.generate(self._batch(observations))
        space = self.body.action_space
        own = output.actions[:, : self.chunk_steps, : space.width]  # behind lies padding for other bodies
        actions = self.body.actions.denormalize(own.cpu().numpy())
        return [ActionChunk(actions=np.clip(chunk, space.low, space.high), space=space) for chunk in actions]

    def codes(self, observations: Sequence[Observation]) -> Int64:
        """The latent actions [B, L] that the policy plans, for the curious."""
        with torch.inference_mode():
            found: Int64 = self.network.generate(self._batch(observations))[0].cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into `folder`; `load` gives a policy that acts equally, bit for bit."""
        save_network(folder, self.network.spec, self.network.state_dict())
        bodies = {name: body.to_json() for name, body in self.bodies.items()}
        (folder / POLICY_FILE).write_text(json.dumps({"bodies": bodies}, indent=1))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", *, embodiment: str | None = None) -> LatentActionPolicy:
        """Undo `save`; the policy drives `embodiment`, or the only body it knows.

        Raises:
            InputError: the folder holds no policy, or none for that body.
        """
        spec, tensors = read_network(folder)
        bodies = read_bodies(folder)
        network = build_policy_network(spec, seed=0)
        network.load_state_dict(tensors)
        return cls(network.to(device), bodies, embodiment)

    def _batch(self, observations: Sequence[Observation]) -> ObservationBatch:
        device = next(self.network.parameters()).device
        sentences = [o.instruction for o in observations]
        words, mask = self.vocabulary.table(sentences)
        self._warn_unknown(sentences)
        batch = len(observations)
        side = self.network.spec.config.backbone.image_px
        extra, seen = [], np.zeros((batch, len(self.body.extra_cameras)), np.bool_)
        for i, camera in enumerate(self.body.extra_cameras):
            seen[:, i] = camera is not None
            black = np.zeros((batch, side, side, 3), np.uint8)
            extra.append(pixels(black if camera is None else self._pictures(observations, camera), device))
        return ObservationBatch(
            images=pixels(self._pictures(observations, self.body.camera), device),
            words=torch.from_numpy(words).to(device),
            word_mask=torch.from_numpy(mask).to(device),
            proprioception=self._states(observations, device),
            extra_images=tuple(extra),
            extra_seen=torch.from_numpy(seen).to(device) if extra else None,
            body=torch.full((batch,), self.number, device=device),
        )

    def _states(self, observations: Sequence[Observation], device: torch.device) -> torch.Tensor | None:
        """The robot's state [B, P], normalised, and padded where another body has more of it."""
        widest = max(body.proprioception_width for body in self.network.spec.bodies)
        if not widest:
            return None
        out = np.zeros((len(observations), widest), np.float32)
        if self.body.proprioception is not None:
            rows = self.body.proprioception.normalize(np.stack([self._state(o) for o in observations]))
            out[:, : rows.shape[1]] = rows
        return torch.from_numpy(out).to(device)

    def _pictures(self, observations: Sequence[Observation], camera: CameraSpec) -> UInt8:
        """What a camera saw, in the size of the network [B, side, side, 3]."""
        pictures = np.stack([self._picture(o, camera) for o in observations])
        return resize_square(pictures, self.network.spec.config.backbone.image_px)

    def _picture(self, observation: Observation, camera: CameraSpec) -> UInt8:
        if camera.name not in observation.images:
            raise InputError(
                "Observation.images",
                expected=f"camera {camera.name!r}",
                got=", ".join(sorted(observation.images)),
                remedy=did_you_mean(camera.name, observation.images),
            )
        picture = observation.images[camera.name]
        if picture.shape != (camera.height_px, camera.width_px, 3):
            raise InputError(
                f"Observation.images[{camera.name!r}]",
                expected=f"{camera.height_px} x {camera.width_px} px, as in the demonstrations",
                got=f"{picture.shape[0]} x {picture.shape[1]} px",
                remedy="Crop and scale it as the demonstrations were.",
            )
        return picture

    def _state(self, observation: Observation) -> Float32:
        if observation.proprioception is None:
            raise InputError(
                "Observation.proprioception",
                expected="the robot's state, which this policy was trained with",
                got="None",
                remedy="Pass it, or fine-tune with use_proprioception=False.",
            )
        return observation.proprioception

    def _warn_unknown(self, sentences: Sequence[str | None]) -> None:
        """Say once per word that the policy does not know it."""
        unknown = {word for sentence in set(sentences) for word in self.vocabulary.encode(sentence).unknown}
        for word in sorted(unknown - self._warned):
            hint = did_you_mean(word, self.vocabulary.words)
            warnings.warn(f"The policy does not know the word {word!r}. {hint}", stacklevel=4)
        self._warned |= unknown


def read_bodies(folder: Path) -> dict[str, BodySpec]:
    """The bodies that a policy on disk drives. InputError where the folder holds no policy."""
    path = folder / POLICY_FILE
    try:
        return {name: BodySpec.from_json(body) for name, body in json.loads(path.read_text())["bodies"].items()}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            path,
            expected="a fine-tuned policy",
            got=f"{type(error).__name__}: {error}",
            remedy="Name a folder that finetune wrote.",
        ) from error
