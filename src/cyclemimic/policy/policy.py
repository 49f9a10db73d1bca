"""The policy that acts: the same object in simulation, behind a server and in tests (types.Policy)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cyclemimic.embodiment.normalize import Normalizer
from cyclemimic.errors import InputError, did_you_mean
from cyclemimic.nn.batches import ObservationBatch, pixels
from cyclemimic.policy.network import PolicyNetwork, build_policy_network, read_network, save_network
from cyclemimic.types import ActionChunk, ActionSpace, Axis, CameraSpec, Float32, Int64, Observation

POLICY_FILE = "policy.json"


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """The body that a policy drives: its actions, its camera, its state, and how they are normalised."""

    action_space: ActionSpace
    camera: CameraSpec
    actions: Normalizer  # [A]
    proprioception: Normalizer | None = None  # [P]; None: the policy does not look at the robot's state

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "action_space": asdict(self.action_space),
            "camera": asdict(self.camera),
            "actions": self.actions.to_json(),
            "proprioception": self.proprioception.to_json() if self.proprioception else None,
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
        )


class LatentActionPolicy:
    """Sees one camera, a sentence and, where the checkpoint names it, proprioception; answers with a chunk.

    Deterministic: latent tokens are chosen greedily, and nothing else is drawn. Actions are clipped to the limits of
    the action space.

    Args:
        network: set to evaluation mode; its weights are not copied.
        body: what it drives.
    """

    def __init__(self, network: PolicyNetwork, body: BodySpec) -> None:
        self.network, self.body = network.eval(), body
        self.vocabulary = network.spec.vocabulary
        self._warned: set[str] = set()

    def act(self, observation: Observation) -> ActionChunk:
        """The next S actions [S, A] in the units of the action space.

        Raises:
            InputError: the camera is missing, its picture has another size, or proprioception is missing.
        """
        return self.act_batch([observation])[0]

    def act_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """`act` for many observations at once; equal to one by one up to rounding."""
        if not observations:
            return []
        with torch.inference_mode():
            _, output = self.network.generate(self._batch(observations))
        space = self.body.action_space
        actions = self.body.actions.denormalize(output.actions.cpu().numpy())
        return [ActionChunk(actions=np.clip(chunk, space.low, space.high), space=space) for chunk in actions]

    def codes(self, observations: Sequence[Observation]) -> Int64:
        """The latent actions [B, L] that the policy plans, for the curious."""
        with torch.inference_mode():
            found: Int64 = self.network.generate(self._batch(observations))[0].cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into `folder`; `load` gives a policy that acts equally, bit for bit."""
        save_network(folder, self.network.spec, self.network.state_dict())
        (folder / POLICY_FILE).write_text(json.dumps(self.body.to_json(), indent=1))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> LatentActionPolicy:
        """Undo `save`.

        Raises:
            InputError: the folder holds no policy.
        """
        spec, tensors = read_network(folder)
        path = folder / POLICY_FILE
        try:
            body = BodySpec.from_json(json.loads(path.read_text()))
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(
                path,
                expected="a fine-tuned policy",
                got=f"{type(error).__name__}: {error}",
                remedy="Name a folder that finetune wrote.",
            ) from error
        network = build_policy_network(spec, seed=0)
        network.load_state_dict(tensors)
        return cls(network.to(device), body)

    def _batch(self, observations: Sequence[Observation]) -> ObservationBatch:
        device = next(self.network.parameters()).device
        images = pixels(np.stack([self._picture(o) for o in observations]), device)
        side = self.network.spec.config.backbone.image_px
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        sentences = [o.instruction for o in observations]
        words, mask = self.vocabulary.table(sentences)
        self._warn_unknown(sentences)
        body = self.body.proprioception
        state = None
        if body is not None:
            state = torch.from_numpy(body.normalize(np.stack([self._state(o) for o in observations]))).to(device)
        return ObservationBatch(
            images=images,
            words=torch.from_numpy(words).to(device),
            word_mask=torch.from_numpy(mask).to(device),
            proprioception=state,
        )

    def _picture(self, observation: Observation) -> np.ndarray[Any, np.dtype[np.uint8]]:
        camera = self.body.camera
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
