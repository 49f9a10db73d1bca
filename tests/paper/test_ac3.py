"""AC3: o_g = D(o_c, z_s), z_e = E(o_c, o_g) before quantisation, L_C = CE(-d(z_e, e_k) / tau, z_s)."""

import math

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.tokenizer.ac3 import AC3Config, corrupt, cycle_loss, run_cycle, scale_gradient
from cyclemimic.tokenizer.decoders import Decoded
from tests.paper.small import BATCH, CODES, TOKENS, has_gradient, picture, small_batch, small_tokenizer

PLAIN = AC3Config(noise=0.0, blur=False, temperature=1.0, gradient_into_decoder=1.0)


def drawn_codes():
    return torch.randint(CODES, (BATCH, TOKENS), generator=torch.Generator().manual_seed(3))


def turn(tokenizer, batch, config=PLAIN, drawn=None):
    drawn = drawn_codes() if drawn is None else drawn
    scene = tokenizer.see(batch.now)
    return run_cycle(tokenizer, scene, tokenizer.watch(scene), drawn, config, torch.Generator().manual_seed(0))


def test_loss_equals_an_independent_vq_library():
    library = pytest.importorskip("vector_quantize_pytorch")
    tokenizer = small_tokenizer()
    book = tokenizer.quantizer
    oracle = library.VectorQuantize(dim=book.codebook.shape[1], codebook_size=CODES, freeze_codebook=True).eval()
    oracle._codebook.embed.data.copy_(book.codebook[None])
    embedding = F.normalize(torch.randn(BATCH, TOKENS, book.codebook.shape[1]), dim=-1)
    _, expected = oracle(embedding, indices=drawn_codes())
    torch.testing.assert_close(cycle_loss(embedding, drawn_codes(), book, PLAIN), expected, atol=1e-6, rtol=0)


def test_loss_is_log_k_where_all_codes_are_equally_far():
    tokenizer = small_tokenizer()
    book = tokenizer.quantizer
    book.codebook.copy_(F.normalize(torch.ones(1, book.codebook.shape[1]), dim=-1).expand_as(book.codebook))
    loss = cycle_loss(torch.randn(BATCH, TOKENS, book.codebook.shape[1]), drawn_codes(), book, PLAIN)
    torch.testing.assert_close(loss, torch.tensor(math.log(CODES)))


def test_the_answer_is_the_drawn_code_and_no_other():
    """Mutant: AC3 with shuffled labels. The vectors of the drawn codes must cost less than those of any shuffle."""
    tokenizer, drawn = small_tokenizer(), drawn_codes()
    book = tokenizer.quantizer
    right = cycle_loss(book.look_up(drawn), drawn, book, AC3Config(temperature=0.05))
    assert right < 0.05
    assert cycle_loss(book.look_up(drawn), drawn.roll(1, 0), book, AC3Config(temperature=0.05)) > 1


def test_a_perfect_pair_of_encoder_and_decoder_pays_nothing_through_the_whole_cycle():
    """Mutant: AC3 with shuffled labels. D writes the vectors into the frame, E reads them: L_C must vanish."""
    tokenizer, batch = small_tokenizer(), small_batch()
    width = tokenizer.quantizer.codebook.shape[1]

    class Writer(torch.nn.Module):
        draws = True

        def forward(self, now, vectors, words=None):
            flat = vectors.flatten(1)
            frames = now.frames.flatten(1).clone()
            frames[:, : flat.shape[1]] = flat
            return Decoded(scene=picture(frames.view_as(now.frames)), painted=torch.zeros(len(now)))

    tokenizer.decoder = Writer()
    tokenizer.read = lambda stream, now, later: later.frames.flatten(1)[:, : TOKENS * width].view(-1, TOKENS, width)
    tokenizer.embed = lambda said, batch_statistics, like=None: said
    cycle = turn(tokenizer, batch, AC3Config(noise=0.0, blur=False, temperature=0.02))
    assert cycle.recovered == 1
    assert cycle.loss < 1e-2


def test_shared_stream_gives_the_loss_and_gradients_of_a_separate_encoding():
    tokenizer, batch = small_tokenizer(), small_batch()
    cycle = turn(tokenizer, batch)
    cycle.loss.backward()
    shared = {n: p.grad.clone() for n, p in tokenizer.named_parameters() if p.grad is not None}
    tokenizer.zero_grad()
    generated = tokenizer.act_out(batch.now, drawn_codes())
    scene = tokenizer.see(batch.now)
    said = tokenizer.read(tokenizer.watch(scene), scene, picture(generated))
    embedding = tokenizer.embed(said, batch_statistics=False)
    loss = cycle_loss(embedding, drawn_codes(), tokenizer.quantizer, PLAIN)
    loss.backward()
    torch.testing.assert_close(loss, cycle.loss)
    for name, parameter in tokenizer.named_parameters():
        if name in shared:
            torch.testing.assert_close(parameter.grad, shared[name])


def test_gradient_reaches_encoder_and_decoder_but_never_the_codebook():
    tokenizer = small_tokenizer()
    turn(tokenizer, small_batch()).loss.backward()
    assert has_gradient(tokenizer.encoder, tokenizer.backbone)
    assert has_gradient(tokenizer.decoder)
    assert not tokenizer.quantizer.codebook.requires_grad


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dial_scales_the_gradient_into_the_decoder_only(share):
    def gradients(share):
        tokenizer = small_tokenizer()
        turn(tokenizer, small_batch(), AC3Config(noise=0.0, blur=False, gradient_into_decoder=share)).loss.backward()
        return tokenizer.decoder.out.weight.grad, tokenizer.encoder.out.weight.grad

    (decoder, encoder), (whole_decoder, whole_encoder) = gradients(share), gradients(1.0)
    torch.testing.assert_close(encoder, whole_encoder)
    torch.testing.assert_close(decoder, whole_decoder * share, atol=1e-7, rtol=1e-4)


def test_scale_gradient_keeps_the_value():
    x = torch.randn(5, requires_grad=True)
    y = scale_gradient(x, 0.25)
    torch.testing.assert_close(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5,), 0.25))


def test_embedding_is_read_before_quantisation():
    """A quantised reading would have no gradient with respect to small changes of the generated frame."""
    tokenizer, batch = small_tokenizer(), small_batch()
    losses = {turn(tokenizer, batch, AC3Config(noise=n, blur=False)).loss.item() for n in (0.0, 1e-3, 2e-3)}
    assert len(losses) == 3


def test_squared_distance_is_an_option():
    tokenizer, drawn = small_tokenizer(), drawn_codes()
    embedding = F.normalize(torch.randn(BATCH, TOKENS, tokenizer.quantizer.codebook.shape[1]), dim=-1)
    book = tokenizer.quantizer
    expected = F.cross_entropy(-book.distances(embedding).square().flatten(0, 1), drawn.flatten())
    torch.testing.assert_close(cycle_loss(embedding, drawn, book, AC3Config(temperature=1.0, squared=True)), expected)


def test_corruption_spoils_fine_patterns_and_is_a_function_of_its_generator():
    frames = torch.rand(6, 3, 16, 16)
    config = AC3Config(noise=0.05, blur=True)
    one = corrupt(picture(frames), config, torch.Generator().manual_seed(1)).frames
    assert torch.equal(one, corrupt(picture(frames), config, torch.Generator().manual_seed(1)).frames)
    assert (one[::2] - frames[::2]).square().mean() > (one[1::2] - frames[1::2]).square().mean()


def test_the_worst_share_of_the_batch_does_not_count():
    tokenizer, drawn = small_tokenizer(), drawn_codes()
    book = tokenizer.quantizer
    raw = torch.randn(BATCH, TOKENS, book.codebook.shape[1], generator=torch.Generator().manual_seed(4))
    embedding = F.normalize(raw, dim=-1).requires_grad_()
    each = torch.stack([cycle_loss(embedding[i : i + 1], drawn[i : i + 1], book, PLAIN) for i in range(BATCH)])
    loss = cycle_loss(embedding, drawn, book, AC3Config(temperature=1.0, trim=1 / 3))
    torch.testing.assert_close(loss, each.sort().values[: BATCH * 2 // 3].mean())
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert torch.equal(gradient.abs().sum((1, 2)) > 0, each < each.sort().values[BATCH * 2 // 3])


def test_trim_leaves_at_least_one():
    tokenizer, drawn = small_tokenizer(), drawn_codes()
    embedding = F.normalize(torch.randn(BATCH, TOKENS, tokenizer.quantizer.codebook.shape[1]), dim=-1)
    book = tokenizer.quantizer
    each = torch.stack([cycle_loss(embedding[i : i + 1], drawn[i : i + 1], book, PLAIN) for i in range(BATCH)])
    torch.testing.assert_close(cycle_loss(embedding, drawn, book, AC3Config(temperature=1.0, trim=1.0)), each.min())
