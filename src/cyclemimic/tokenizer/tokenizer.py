"""E, codebook and D as one object: encode, decode, label, save, load."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import LatentBatch
from cyclemimic.nn.vision import ConvStem
from cyclemimic.store.atomic import read_json, sha256_file, write_json
from cyclemimic.store.weights import load_tensors, save_tensors
from cyclemimic.tokenizer.decoders import (
    Decoded,
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
    """The whole tokenizer: picture size, what the encoder sees of the change, and the sizes of its parts."""

    size_px: int = 32
    stride_px: int = 4
    feature_width: int = 48
    change: Literal["pixels", "features", "none"] = "pixels"
    decoder: Literal["motion", "pixel"] = "motion"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    motion: MotionDecoderConfig = field(default_factory=MotionDecoderConfig)
    pixel: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TokenizerConfig:
        """Undo `asdict`."""
        parts = {
            "encoder": EncoderConfig,
            "quantizer": QuantizerConfig,
            "motion": MotionDecoderConfig,
            "pixel": PixelDecoderConfig,
        }
        return cls(**{k: parts[k](**v) if k in parts else v for k, v in values.items()})


class LatentActionTokenizer(nn.Module):
    """E, the codebook and D. Paper: method, latent action tokenizer."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        code = {"num_tokens": config.encoder.num_tokens, "code_width": config.encoder.code_width}
        self.backbone = ConvStem(config.feature_width, config.stride_px)
        self.change = ConvStem(config.feature_width, config.stride_px) if config.change == "pixels" else None
        self.encoder = Encoder(
            config.encoder,
            feature_width=config.feature_width,
            num_patches=(config.size_px // config.stride_px) ** 2,
        )
        self.quantizer = VectorQuantizer(config.quantizer, **code)
        self.decoder: nn.Module = (
            MotionDecoder(config.motion, **code)
            if config.decoder == "motion"
            else PixelDecoder(config.pixel, size_px=config.size_px, **code)
        )

    @property
    def num_codes(self) -> int:
        """K."""
        return self.config.quantizer.num_codes

    def watch(self, now: Tensor) -> NowStream:
        """E's stream of the frames now [B, 3, H, W]."""
        return self.encoder.watch(self.backbone(now))

    def read(self, stream: NowStream, now: Tensor, later: Tensor, *, batch_statistics: bool) -> Tensor:
        """z^e [B, L, D] of what led from `now` (whose stream is given) to `later`, both [B, 3, H, W]."""
        features = self.backbone(later)
        if self.change is not None:
            # Centred at mid-grey so that no change is a grey picture, in the range that the stem expects.
            change = self.change((later - now) / 2 + 0.5)
        else:
            change = features - self.backbone(now)
            if self.config.change == "none":
                change = change - change
        return self.quantizer.on_sphere(self.encoder.read(stream, features, change), batch_statistics=batch_statistics)

    def encode(self, now: Tensor, later: Tensor) -> LatentBatch:
        """The latent actions of B pairs, [B, 3, H, W] each."""
        latent: LatentBatch = self.quantizer(self.read(self.watch(now), now, later, batch_statistics=self.training))
        return latent

    def decode(self, now: Tensor, vectors: Tensor) -> Decoded:
        """D(o, z^q): what the latent actions [B, L, D] make of the frames [B, 3, H, W]."""
        decoded: Decoded = self.decoder(now, vectors)
        return decoded

    def act_out(self, now: Tensor, codes: Tensor) -> Tensor:
        """D(o, e[codes]): later frames [B, 3, H, W] from codes [B, L]."""
        return self.decode(now, self.quantizer.look_up(codes)).frames

    @torch.no_grad()
    def label(self, now: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, L], and the margin [B]: how much farther the second nearest vector is, least over the slots."""
        embedding = self.read(self.watch(now), now, later, batch_statistics=False)
        nearest = self.quantizer.distances(embedding).topk(2, dim=-1, largest=False)
        return nearest.indices[..., 0], (nearest.values[..., 1] - nearest.values[..., 0]).amin(-1)

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> str:
        """Write weights and configuration; returns the weights' sha256, the tokenizer's identity."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, self.state_dict(), {})
        write_json(folder / CONFIG, {"config": asdict(self.config), **(extra or {})})
        return sha256_file(folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> LatentActionTokenizer:
        """Read what `save` wrote, ready to label (evaluation mode).

        Raises:
            InputError: the folder holds no tokenizer, or weights of other sizes than its configuration.
        """
        path = folder / CONFIG
        if not path.exists():
            raise InputError(
                folder,
                expected=f"a tokenizer ({CONFIG} and {WEIGHTS})",
                got="none",
                remedy="Train one: cyclemimic tokenizer --source folder:VIDEOS --run RUN.",
            )
        tokenizer = cls(TokenizerConfig.from_json(read_json(path)["config"]))
        tensors, _ = load_tensors(folder / WEIGHTS)
        wanted = {k: tuple(v.shape) for k, v in tokenizer.state_dict().items()}
        found = {k: tuple(v.shape) for k, v in tensors.items()}
        if wanted != found:
            wrong = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
            raise InputError(
                folder / WEIGHTS,
                expected=f"tensors as {CONFIG} says",
                got=f"others for {', '.join(wrong[:5])}",
                remedy="The two files come from different runs; copy both from one.",
            )
        tokenizer.load_state_dict(tensors)
        return tokenizer.eval()
