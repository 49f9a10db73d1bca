"""A Decoder that shifts the whole frame, by as much as the latent action says. It can paint nothing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Scene
from cyclemimic.tokenizer.decoders import Decoded, DecoderShape

REACH = 0.6  # of half the picture


class ShiftDecoder(nn.Module):
    """o'(x) = o(x + t(z)), for a learnt translation t of all tokens together."""

    draws = True  # its scenes are frames

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        if shape.word_width:
            raise InputError(
                "ShiftDecoder", expected="no words", got="words", remedy="Set TokenizerConfig.words=False."
            )
        self.shift = nn.Linear(shape.num_tokens * shape.code_width, 2)

    def forward(self, now: Scene, vectors: Tensor, words: Tensor | None = None) -> Decoded:
        assert now.frames is not None
        batch, _, height, width = now.frames.shape
        shift = torch.tanh(self.shift(vectors.flatten(1)).float()) * REACH  # [B, 2]
        affine = torch.cat([torch.eye(2, device=shift.device).expand(batch, 2, 2), shift[:, :, None]], dim=2)
        place = F.affine_grid(affine, [batch, 3, height, width], align_corners=False)
        moved = F.grid_sample(now.frames, place, padding_mode="border", align_corners=False)
        return Decoded(
            scene=Scene(frames=moved),
            painted=moved.new_zeros(batch),
            flow=shift[:, :, None, None].expand(batch, 2, height, width),
        )
