"""E reads two frames with learnable action tokens; the stream of the frame now knows nothing of what follows."""

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Features, Scene
from cyclemimic.nn.transformer import QueryKeyValue, SpatioTemporalBlock
from cyclemimic.tokenizer.encoder import EncoderConfig
from tests.paper.small import BATCH, CODE_WIDTH, TOKENS, small_batch, small_tokenizer


def test_embedding_has_one_vector_per_token_and_length_one():
    tokenizer, batch = small_tokenizer(), small_batch()
    embedding = tokenizer.encode(batch.now, batch.later).embedding
    assert embedding.shape == (BATCH, TOKENS, CODE_WIDTH)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(BATCH, TOKENS))


def test_what_happens_later_cannot_change_the_stream_of_the_frame_now():
    tokenizer, batch = small_tokenizer(), small_batch()
    now = batch.now.clone().requires_grad_()
    later = batch.later.clone().requires_grad_()
    scene = tokenizer.see(now)
    stream = tokenizer.watch(scene)
    tokenizer.read(stream, scene, tokenizer.see(later))
    total = sum(k.sum() + v.sum() for k, v in stream.memory)
    grad_now, grad_later = torch.autograd.grad(total, [now, later], allow_unused=True)
    assert grad_now.abs().sum() > 0
    assert grad_later is None


def test_both_frames_reach_the_embedding():
    tokenizer, batch = small_tokenizer(change="none"), small_batch()
    now, later = batch.now.clone().requires_grad_(), batch.later.clone().requires_grad_()
    scene = tokenizer.see(now)
    embedding = tokenizer.embed(
        tokenizer.read(tokenizer.watch(scene), scene, tokenizer.see(later)), batch_statistics=False
    )
    for grad in torch.autograd.grad(embedding.square().sum() + embedding[..., 0].sum(), [now, later]):
        assert grad.abs().sum() > 0


def test_closed_form_over_two_frames_equals_masked_softmax_attention():
    torch.manual_seed(0)
    heads, tokens, width = 2, 5, 14
    block = SpatioTemporalBlock(width, heads).double()
    x_now, x_later = torch.randn(3, tokens, width).double(), torch.randn(3, tokens, width).double()
    out_now, memory = block.now(x_now)
    out_later = block.later(x_later, memory)

    frames = torch.stack([x_now + block.spatial(block.norm1(x_now)), x_later + block.spatial(block.norm1(x_later))], 2)
    q, k, v = block.qkv(block.norm2(frames)).view(3, tokens, 2, 3, heads, width // heads).permute(3, 0, 1, 4, 2, 5)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(2, 3).reshape(3, tokens, 2, width)
    x = frames + block.out(mixed)
    x = x + block.mlp(block.norm3(x))
    torch.testing.assert_close(torch.stack([out_now, out_later], 2), x)


@pytest.mark.parametrize("change", ["pixels", "features", "matches", "none"])
def test_latents_do_not_depend_on_the_rest_of_the_batch(change):
    tokenizer, batch = small_tokenizer(change=change).eval(), small_batch()
    whole = tokenizer.encode(batch.now, batch.later).embedding
    alone = tokenizer.encode(batch.now[2:3], batch.later[2:3]).embedding
    torch.testing.assert_close(whole[2:3], alone, atol=1e-5, rtol=1e-5)


def test_the_change_reaches_only_the_later_frame():
    tokenizer, batch = small_tokenizer(), small_batch()
    assert tokenizer.change is not None
    embedding = tokenizer.encode(batch.now, batch.later).embedding
    embedding[..., 0].sum().backward()
    assert tokenizer.change.mix.weight.grad.abs().sum() > 0
    assert tokenizer.encoder.change_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("later_patches", "reach"), [("both", True), ("change", False)])
def test_where_the_change_alone_is_seen_nothing_else_of_the_later_frame_reaches_the_tokens(later_patches, reach):
    config = EncoderConfig(
        width=22, blocks=2, heads=2, num_tokens=TOKENS, code_width=CODE_WIDTH, later_patches=later_patches
    )
    tokenizer, batch = small_tokenizer(encoder=config), small_batch()
    now, later = tokenizer.see(batch.now), tokenizer.see(batch.later)
    other = Scene(frames=later.frames, features=Features(patches=later.features.patches + 1, grid=later.features.grid))
    stream = tokenizer.watch(now)
    same = torch.equal(tokenizer.read(stream, now, later), tokenizer.read(stream, now, other))
    assert same is not reach


def test_the_change_alone_cannot_be_seen_where_there_is_none():
    config = EncoderConfig(
        width=22, blocks=2, heads=2, num_tokens=TOKENS, code_width=CODE_WIDTH, later_patches="change"
    )
    with pytest.raises(InputError, match="later_patches"):
        small_tokenizer(encoder=config, change="none")


def test_the_last_block_computes_only_what_is_read_and_gives_the_same():
    torch.manual_seed(0)
    block, read = SpatioTemporalBlock(14, 2).double(), 3
    x_now, x_later = torch.randn(3, 7, 14).double(), torch.randn(3, 7, 14).double()
    _, (key, value) = block.now(x_now)
    _, memory = block.now(x_now, read)
    torch.testing.assert_close(memory, (key[:, :read], value[:, :read]))
    torch.testing.assert_close(block.later(x_later, memory, read), block.later(x_later, (key, value))[:, :read])


def test_queries_alone_and_keys_and_values_alone_are_parts_of_the_fused_product():
    torch.manual_seed(0)
    layer, x = QueryKeyValue(6), torch.randn(3, 5, 6)
    query, pair = layer(x, asking=x[:, :2])
    whole = layer(x)
    torch.testing.assert_close(query, whole[:, :2, :6])
    torch.testing.assert_close(pair, whole[..., 6:])
    nobody, pair = layer(x, asking=x[:0])
    assert len(nobody) == 0
    pair.square().sum().backward()
    assert layer.weight.grad[6:].abs().sum() > 0 and not layer.weight.grad[:6].any()
