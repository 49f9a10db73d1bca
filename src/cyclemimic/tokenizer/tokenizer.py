"""E, codebook and D as one object: see, watch, read, decode, label, save, load.

Letters in shapes: B batch, S side of the picture, L tokens of a latent action (l_z), G tokens of an earlier stage,
D code width, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.names import named
from cyclemimic.nn.batches import Features, LatentBatch, Scene
from cyclemimic.nn.matching import MatchingStem
from cyclemimic.nn.vision import BackboneConfig, ConvStem, backbone_hash, build_backbone
from cyclemimic.store.atomic import read_json, sha256_file, write_json
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.tokenizer.decoders import (
    Decoded,
    DecoderShape,
    FeatureDecoder,
    FeatureDecoderConfig,
    MotionDecoder,
    MotionDecoderConfig,
    PixelDecoder,
    PixelDecoderConfig,
)
from cyclemimic.tokenizer.encoder import Encoder, EncoderConfig, NowStream
from cyclemimic.tokenizer.quantizer import QuantizerConfig, VectorQuantizer

WEIGHTS, CONFIG = "tokenizer.safetensors", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The whole tokenizer: picture size, what the encoder sees, and the sizes of its parts.

    Args:
        change: what the later frame's patches carry beside its features: the change of pixels, of features, how places
            of both frames match, or none.
        match_reach: how far places are matched, in places of two pixels.
        decoder: motion, pixel, feature, or package.module:Class, which is called with a `DecoderShape`.
        given_tokens: G, tokens and codebook of an earlier stage, which keep what is not action (UniVLA); the decoder
            sees them beside the latent action.
        words: whether E and D also see the sentence (UniVLA's first stage).
        word_hashes: size of the table of hashed words.
    """

    size_px: int = 32
    change: Literal["pixels", "features", "matches", "none"] = "pixels"
    match_reach: int = field(default=3, metadata={"before": 3})
    decoder: str = "motion"
    given_tokens: int = 0
    words: bool = False
    word_hashes: int = 4096
    word_width: int = 32
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    motion: MotionDecoderConfig = field(default_factory=MotionDecoderConfig)
    pixel: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    feature: FeatureDecoderConfig = field(default_factory=FeatureDecoderConfig)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TokenizerConfig:
        """Undo `asdict`."""
        parts = {
            "backbone": BackboneConfig,
            "encoder": EncoderConfig,
            "quantizer": QuantizerConfig,
            "motion": MotionDecoderConfig,
            "pixel": PixelDecoderConfig,
            "feature": FeatureDecoderConfig,
        }
        return cls(**{k: parts[k](**v) if k in parts else v for k, v in values.items()})


DECODERS: dict[str, Callable[[TokenizerConfig, DecoderShape], nn.Module]] = {
    "motion": lambda config, shape: MotionDecoder(config.motion, shape),
    "pixel": lambda config, shape: PixelDecoder(config.pixel, shape),
    "feature": lambda config, shape: FeatureDecoder(config.feature, shape),
}


class LatentActionTokenizer(nn.Module):
    """E, the codebook and D. Paper: method, latent action tokenizer.

    Args:
        config: all sizes.
        backbone: in place of the one that `config` names: one that is loaded already, or has random weights.

    Raises:
        InputError: parts that cannot work together, such as a feature decoder over features that learn.
    """

    def __init__(self, config: TokenizerConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = build_backbone(config.backbone) if backbone is None else backbone
        width, grid = int(self.backbone.width), self.backbone.grid_for(config.size_px)  # type: ignore[arg-type, operator]
        self.grid = grid
        self.change: nn.Module | None = None
        if config.change == "pixels":
            self.change = ConvStem(width, _stem_stride(config, grid))
        elif config.change == "matches":
            self.change = MatchingStem(width, _stem_stride(config, grid), config.match_reach)
        word_width = config.word_width if config.words else 0
        self.words = nn.Embedding(config.word_hashes, word_width) if config.words else None
        self.encoder = Encoder(
            config.encoder,
            feature_width=width,
            num_patches=grid[0] * grid[1],
            given_tokens=config.given_tokens,
            sees_change=config.change != "none",
            word_width=word_width,
        )
        code = {"code_width": config.encoder.code_width}
        self.quantizer = VectorQuantizer(config.quantizer, num_tokens=config.encoder.num_tokens, **code)
        self.given_quantizer: VectorQuantizer | None = None
        if config.given_tokens:
            given = replace(config.quantizer, kind="ema")
            self.given_quantizer = VectorQuantizer(given, num_tokens=config.given_tokens, **code)
        shape = DecoderShape(
            num_tokens=config.given_tokens + config.encoder.num_tokens,
            size_px=config.size_px,
            feature_width=width,
            grid=grid,
            word_width=word_width,
            **code,
        )
        self.decoder = build_decoder(config, shape)
        if not self.draws and not self.sees_frozen:
            raise InputError(
                "TokenizerConfig.backbone",
                expected=f"a frozen backbone, since the decoder {config.decoder!r} predicts its features",
                got="one that learns, whose features would become easy instead of informative",
                remedy="Name a pretrained backbone, or the run of a tokenizer whose backbone is to be frozen.",
            )

    def train(self, mode: bool = True) -> LatentActionTokenizer:
        """Training mode; a frozen backbone stays in evaluation mode, where it has neither dropout nor statistics."""
        super().train(mode)
        if self.sees_frozen:
            self.backbone.eval()
        return self

    @property
    def num_codes(self) -> int:
        """K."""
        return self.config.quantizer.num_codes

    @property
    def draws(self) -> bool:
        """Whether D makes frames; else it makes features."""
        return bool(self.decoder.draws)

    @property
    def sees_frozen(self) -> bool:
        """Whether the backbone stays as it is, so that what it makes of a frame need be computed only once."""
        return not any(p.requires_grad for p in self.backbone.parameters())

    @property
    def features_sha256(self) -> str:
        """A hash of all that decides what the backbone makes of a frame; computed anew each time it is asked for."""
        return backbone_hash(self.backbone, self.config.backbone)

    def see(self, frames: Tensor, patches: Tensor | None = None) -> Scene:
        """Frames [B, 3, S, S] and what the backbone makes of them: `patches` [B, N, F], where that is known already."""
        features = self.backbone(frames) if patches is None else Features(patches=patches, grid=self.grid)
        return Scene(frames=frames, features=features)

    def seen(self, scene: Scene) -> Scene:
        """The same scene with its features, which generated frames do not have yet."""
        if scene.features is not None:
            return scene
        assert scene.frames is not None
        return self.see(scene.frames)

    def watch(self, now: Scene, words: Tensor | None = None) -> NowStream:
        """E's stream of the scenes now."""
        assert now.features is not None
        return self.encoder.watch(now.features, self._word_features(words))

    def read(self, stream: NowStream, now: Scene, later: Scene, words: Tensor | None = None) -> Tensor:
        """What E says of what led from `now`, whose stream is given, to `later`: [B, G + L, D], raw."""
        features, change = self.seen(later).features, None
        assert features is not None and now.features is not None
        if self.change is not None:
            assert now.frames is not None and later.frames is not None
            if self.config.change == "matches":
                change = self.change(now.frames, later.frames)
            else:
                # Centred at mid-grey so that no change is a grey picture, in the range that the stem expects.
                change = self.change((later.frames - now.frames) / 2 + 0.5)
        elif self.config.change == "features":
            change = features - now.features
        return self.encoder.read(stream, features, change, self._word_features(words))

    def embed(self, said: Tensor, *, batch_statistics: bool, like: Tensor | None = None) -> Tensor:
        """z^e [B, L, D], on the sphere, of what `read` gave; `like` is what it gave on the step's real pairs."""
        own = slice(self.config.given_tokens, None)
        real = None if like is None else like[:, own]
        return self.quantizer.on_sphere(said[:, own], batch_statistics=batch_statistics, like=real)

    def quantize(
        self, said: Tensor, *, batch_statistics: bool, generator: torch.Generator | None = None
    ) -> LatentBatch:
        """The latent actions of what `read` gave; `generator` is for NSVQ's noise during training."""
        latent: LatentBatch = self.quantizer(self.embed(said, batch_statistics=batch_statistics), generator)
        if self.given_quantizer is None:
            return latent
        before = self.given_quantizer.on_sphere(said[:, : self.config.given_tokens], batch_statistics=False)
        return replace(latent, given=self.given_quantizer(before).vectors)

    def encode(self, now: Tensor, later: Tensor) -> LatentBatch:
        """The latent actions of B pairs, [B, 3, S, S] each."""
        scene = self.see(now)
        said = self.read(self.watch(scene), scene, self.see(later))
        return self.quantize(said, batch_statistics=self.training)

    def decode(
        self, now: Scene, vectors: Tensor, *, given: Tensor | None = None, words: Tensor | None = None
    ) -> Decoded:
        """D(o, z^q): what the latent actions [B, L, D] make of the scenes.

        Args:
            given: vectors of an earlier stage's tokens [B, G, D]; zeros where nobody knows them.
            words: hashed words [B, W].
        """
        if self.config.given_tokens:
            if given is None:
                given = vectors.new_zeros(len(vectors), self.config.given_tokens, vectors.shape[-1])
            vectors = torch.cat([given, vectors], dim=1)
        decoded: Decoded = self.decoder(now, vectors, self._word_features(words))
        return decoded

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """D(o, e[codes]): later frames [B, 3, S, S] from codes [B, L]. Only of a decoder that draws."""
        return self.decode(Scene(frames=now), self.quantizer.look_up(codes)).frames

    @torch.no_grad()  # labels teach nobody here
    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L], and the margin [B]: how much farther the second nearest vector is, least over the slots."""
        return self.label_scenes(self.see(now), self.see(later))

    @torch.no_grad()  # labels teach nobody here
    def label_scenes(self, now: Scene, later: Scene) -> tuple[Tensor, Tensor]:
        """`label` of scenes whose features are known."""
        embedding = self.embed(self.read(self.watch(now), now, later), batch_statistics=False)
        nearest = self.quantizer.distances(embedding).topk(2, dim=-1, largest=False)
        return nearest.indices[..., 0], (nearest.values[..., 1] - nearest.values[..., 0]).amin(-1)

    def take_over(self, first: LatentActionTokenizer) -> None:
        """Begin a second stage from a first one: its tokens and codebook become the given ones, and stay as they are.

        Everything else that has the same name and size starts from the first stage's weights.
        """
        own, found = self.own_state(), first.own_state()
        fresh = ("encoder.action_tokens", "quantizer.")
        same = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape and not k.startswith(fresh)}
        same["encoder.given"] = found["encoder.action_tokens"]
        same |= {f"given_{k}": v for k, v in found.items() if k.startswith("quantizer.")}
        self.load_own_state({**own, **same})

    def own_state(self) -> dict[str, Tensor]:
        """Weights and buffers, without those of a backbone that was loaded from elsewhere."""
        state = dict(self.state_dict())
        if self.backbone_sha256 is None:
            return state
        return {k: v for k, v in state.items() if not k.startswith("backbone.")}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `own_state`."""
        assert tensors.keys() == self.own_state().keys()
        whole = {**self.state_dict(), **tensors}
        self.load_state_dict(whole)

    @property
    def backbone_sha256(self) -> str | None:
        """The identity of a backbone that was loaded from elsewhere; None where it is part of this tokenizer."""
        return getattr(self.backbone, "weights_sha256", None)

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> str:
        """Write weights and configuration; returns the weights' sha256, the tokenizer's identity."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, self.own_state(), {})
        facts = {"config": asdict(self.config), "backbone_sha256": self.backbone_sha256}
        write_json(folder / CONFIG, {**facts, **(extra or {})})
        return sha256_file(folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> LatentActionTokenizer:
        """Read what `save` wrote, ready to label (evaluation mode).

        Raises:
            InputError: the folder holds no tokenizer, weights of other sizes than its configuration, or it was
                trained on another backbone than the one that is there.
        """
        path = folder / CONFIG
        if not path.exists():
            raise InputError(
                folder,
                expected=f"a tokenizer ({CONFIG} and {WEIGHTS})",
                got="none",
                remedy="Train one: cyclemimic tokenizer --source folder:VIDEOS --run RUN.",
            )
        facts = read_json(path)
        tokenizer = cls(TokenizerConfig.from_json(facts["config"]))
        if tokenizer.backbone_sha256 != facts.get("backbone_sha256"):
            raise InputError(
                path,
                expected=f"the backbone that it was trained on ({facts.get('backbone_sha256')})",
                got=f"{tokenizer.config.backbone.name!r} with weights {tokenizer.backbone_sha256}",
                remedy="Put those weights back, or train the tokenizer again.",
            )
        tensors, _ = load_tensors(folder / WEIGHTS)
        wanted = {k: tuple(v.shape) for k, v in tokenizer.own_state().items()}
        found = {k: tuple(v.shape) for k, v in tensors.items()}
        if wanted != found:
            wrong = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
            raise InputError(
                folder / WEIGHTS,
                expected=f"tensors as {CONFIG} says",
                got=f"others for {', '.join(wrong[:5])}",
                remedy="The two files come from different runs; copy both from one.",
            )
        tokenizer.load_own_state(tensors)
        return tokenizer.eval()

    def _word_features(self, words: Tensor | None) -> Tensor | None:
        if self.words is None or words is None:
            return None
        features: Tensor = self.words(words)
        return features


def build_decoder(config: TokenizerConfig, shape: DecoderShape) -> nn.Module:
    """The decoder that `config` names. Meets `Decoder`."""
    if ":" in config.decoder:
        outside: Callable[[DecoderShape], nn.Module] = named("TokenizerConfig.decoder", config.decoder, {})
        return outside(shape)
    return named("TokenizerConfig.decoder", config.decoder, DECODERS)(config, shape)


def _stem_stride(config: TokenizerConfig, grid: tuple[int, int]) -> int:
    """The stride with which the stem of the change meets the backbone's grid."""
    stride, least = config.size_px // grid[0], 4 if config.change == "matches" else 2
    if stride * grid[0] != config.size_px or stride < least or stride & (stride - 1):
        raise InputError(
            "TokenizerConfig.change",
            expected=f"a backbone whose patches are {least}, {2 * least}, {4 * least} ... px wide, to carry the change",
            got=f"{grid[0]} x {grid[1]} patches of a picture of {config.size_px} px",
            remedy="Use change 'features' or 'none'.",
        )
    return stride
