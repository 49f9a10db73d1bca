"""A policy Backbone without attention: one recurrent cell walks over words, latent tokens, ACT and action tokens."""

from dataclasses import replace

import torch
from torch import nn

from cyclemimic.errors import InputError
from cyclemimic.policy.backbone import BackboneOutput, Tail, VisualFeatures


class RecurrentBackbone(nn.Module):
    """The state before a token predicts it, so that nothing ever sees what it must say."""

    vocabulary_rows = ("embed.weight", "out.weight")

    def __init__(self, config, vocabulary):
        super().__init__()
        if config.extra_cameras:
            raise InputError("RecurrentBackbone", expected="one camera", got="more", remedy="Name none beside it.")
        self.width = self.map_channels = config.width
        self.vocabulary, patch_px = vocabulary, config.image_px // 4
        self.look = nn.Conv2d(3, self.width, patch_px, stride=patch_px)
        self.start = nn.Linear(16 * self.width, self.width)
        self.embed = nn.Embedding(len(vocabulary), self.width)
        self.cell = nn.GRUCell(self.width, self.width)
        self.out = nn.Linear(self.width, len(vocabulary), bias=False)

    def forward(self, observation, codes, blind=None, tail=None):
        tail = tail or Tail()
        given, bins = iter(codes.unbind(1)), [] if tail.bins is None else list(tail.bins.unbind(1))
        forced = {"shift": tail.shift, "num_bins": len(bins), "choose_bin": lambda state: bins.pop(0)}
        return self.decode(observation, codes.shape[1], lambda state: next(given), **forced, blind=blind)[1]

    def token_logits(self, states):
        return self.out(states)

    def decode(self, observation, num_tokens, choose, *, shift=None, num_bins=0, choose_bin=None, blind=None):
        seen = torch.relu(self.look(2 * observation.images - 1))  # [B, D, 4, 4]
        state = torch.tanh(self.start(seen.flatten(1)))
        for word, there in zip(observation.words.unbind(1), observation.word_mask.unbind(1), strict=True):
            state = torch.where(there[:, None], self.cell(self.embed(word), state), state)
        slots, codes, bins = [state], [], []
        for _ in range(num_tokens):
            codes.append(choose(slots[-1]))
            slots.append(self.cell(self.embed(codes[-1] + self.vocabulary.first_latent_id), slots[-1]))
        behind = slots[-1] if blind is None else torch.where(blind[:, None], state, slots[-1])
        act = self.embed.weight[self.vocabulary.act_id].expand_as(state)
        after = [self.cell(act if shift is None else act + shift, behind)]
        for _ in range(num_bins):
            bins.append(choose_bin(after[-1]))
            after.append(self.cell(self.embed(bins[-1] + self.vocabulary.first_bin_id), after[-1]))
        visual = VisualFeatures(tokens=seen.flatten(2).transpose(1, 2), map=seen)
        output = BackboneOutput(
            slots=torch.stack(slots[:-1], 1), latents=torch.stack(slots[1:], 1), act=after[0], visual=visual
        )
        if bins:
            output = replace(output, bins=torch.stack(bins, 1), bin_logits=self.out(torch.stack(after[:-1], 1)))
        return torch.stack(codes, 1), output
