"""VQ with K codes: nearest vector, straight-through gradient, moving average, dead codes reset during training."""

import math

import pytest
import torch
from torch.nn import functional as F

from cyclemimic.nn.batches import LatentBatch
from cyclemimic.tokenizer.quantizer import (
    QuantizerConfig,
    VectorQuantizer,
    commitment_loss,
    entropy_loss,
    joint_codes,
    slot_perplexity,
)
from tests.paper.small import CODE_WIDTH, CODES, TOKENS


def quantizer(num_codes=7, width=5, tokens=3, **changes):
    torch.manual_seed(0)
    return VectorQuantizer(QuantizerConfig(num_codes=num_codes, **changes), num_tokens=tokens, code_width=width)


def on_sphere(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_code_is_the_nearest_vector():
    book, z = quantizer(), on_sphere(11, 3, 5)
    latent = book(z)
    brute = torch.cdist(z.flatten(0, 1), book.codebook).argmin(-1).view(11, 3)
    assert torch.equal(latent.codes, brute)
    torch.testing.assert_close(latent.vectors, book.codebook[brute])


def test_distance_is_euclidean():
    book, z = quantizer(), on_sphere(11, 3, 5)
    torch.testing.assert_close(book.distances(z), torch.cdist(z, book.codebook.expand(11, 7, 5)), atol=1e-4, rtol=1e-4)


def test_gradient_goes_straight_through_and_not_into_the_codebook():
    book, z = quantizer(), on_sphere(11, 3, 5).requires_grad_()
    weight = torch.randn(11, 3, 5)
    (book(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    assert not book.codebook.requires_grad


def test_vectors_follow_the_mean_of_their_embeddings():
    book = quantizer(num_codes=2, width=2, decay=0.5)
    book.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    book.cluster_sum.copy_(book.codebook)
    angle = torch.full((4, 1), 0.4)
    z = torch.stack([angle.cos(), angle.sin()], -1)
    for _ in range(40):
        book.follow(book(z), torch.Generator())
    torch.testing.assert_close(book.codebook[0], z[0, 0], atol=1e-4, rtol=0)


def test_dead_codes_are_reset_during_training_to_embeddings_of_the_batch():
    book = quantizer(reset_after=3)
    z = on_sphere(1, 1, 5).expand(8, 2, 5) + 0.01 * torch.randn(8, 2, 5)
    z = torch.nn.functional.normalize(z, dim=-1)
    generator = torch.Generator().manual_seed(0)
    resets = [book.follow(book(z), generator) for _ in range(3)]
    assert len(resets[0]) == len(resets[1]) == 0
    assert len(resets[2]) >= 5
    nearest = torch.cdist(book.codebook[resets[2]], z.flatten(0, 1)).amin(-1)
    assert nearest.max() < 1e-3


def test_whitening_uses_the_batch_in_training_and_remembers_it_for_generated_frames():
    book = quantizer(statistics_momentum=1.0)
    raw = torch.randn(50, 3, 5) * torch.arange(1, 6) + 4
    real = book.on_sphere(raw, batch_statistics=True)
    torch.testing.assert_close(book.on_sphere(raw, batch_statistics=False), real)


def test_generated_frames_leave_the_statistics_alone():
    book = quantizer()
    before = book.mean.clone()
    book.on_sphere(torch.randn(9, 3, 5) + 3, batch_statistics=False)
    assert torch.equal(book.mean, before)


def test_commitment_is_zero_on_the_vectors_and_positive_off_them():
    book = quantizer()
    on = book(book.codebook[None, :3])
    assert commitment_loss(on, book) == 0
    assert commitment_loss(book(on_sphere(4, 3, 5)), book) > 0


def test_entropy_term_is_near_zero_when_all_codes_are_used_alike_and_near_one_on_collapse():
    book = quantizer(num_codes=5, width=5)
    book.codebook.copy_(torch.eye(5))
    spread = LatentBatch(
        embedding=book.codebook[:, None], vectors=book.codebook[:, None], codes=torch.arange(5)[:, None]
    )
    one = book.codebook[:1, None].expand(5, 1, 5)
    collapsed = LatentBatch(embedding=one, vectors=one, codes=torch.zeros(5, 1, dtype=torch.int64))
    assert entropy_loss(spread, book, 0.05) < 1e-4
    assert entropy_loss(collapsed, book, 0.05) > 0.99


def test_joint_codes_see_the_redundancy_that_slot_perplexity_cannot():
    alike = torch.arange(4).repeat(5)[:, None].expand(-1, 2)
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    torch.testing.assert_close(slot_perplexity(alike, 7), torch.full((2,), 4.0).double())
    torch.testing.assert_close(slot_perplexity(every, 7), torch.full((2,), 4.0).double())
    assert joint_codes(alike, 7) == pytest.approx(4)
    assert joint_codes(every, 7) == pytest.approx(16)
    assert math.isclose(float(joint_codes(torch.zeros(9, 2, dtype=torch.int64), 7)), 1)


def test_generated_frames_are_whitened_like_the_real_pairs_of_the_step():
    """The running statistics lag behind: here by a whole deviation, and `like` does not care."""
    book = quantizer(num_codes=CODES, width=CODE_WIDTH, tokens=TOKENS)
    real = 3 + 2 * torch.randn(11, TOKENS, CODE_WIDTH)
    read = real[:5] + 0.1
    wanted = F.normalize((read - real.mean(0)) * torch.rsqrt(real.var(0, unbiased=False) + 1e-5), dim=-1)
    before = book.mean.clone()
    torch.testing.assert_close(book.on_sphere(read, batch_statistics=False, like=real), wanted)
    assert torch.equal(book.mean, before)
    assert not torch.allclose(book.on_sphere(read, batch_statistics=False), wanted, atol=0.1)


def test_settled_statistics_give_the_codes_of_training():
    book = quantizer(num_codes=CODES, width=CODE_WIDTH, tokens=TOKENS)
    real = 3 + 2 * torch.randn(211, TOKENS, CODE_WIDTH)
    trained = book(book.on_sphere(real, batch_statistics=True)).codes
    late = book(book.on_sphere(real, batch_statistics=False)).codes
    book.settle(real)
    settled = book(book.on_sphere(real, batch_statistics=False)).codes
    assert torch.equal(settled, trained) and not torch.equal(late, trained)
