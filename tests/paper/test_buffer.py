"""Z holds the latent actions of the last B batches, drawn uniformly as whole tuples, embedded with today's codebook."""

import pytest
import torch

from cyclemimic.tokenizer.buffer import LatentActionBuffer

BATCH, TOKENS = 5, 3


def filled(batches_held, batches_pushed):
    buffer = LatentActionBuffer(num_batches=batches_held, batch_size=BATCH, num_tokens=TOKENS)
    for number in range(batches_pushed):
        buffer.push(torch.full((BATCH, TOKENS), number), torch.full((BATCH,), number % 2))
    return buffer


def drawn(buffer, count=400):
    return buffer.sample(count, torch.Generator().manual_seed(0))[0]


def test_one_batch_means_this_batch_alone():
    assert set(drawn(filled(1, 6)).flatten().tolist()) == {5}


def test_holds_exactly_the_last_batches():
    """Mutant: buffer never refreshed. Old batches must be gone, and each kept one must be drawn about equally."""
    codes = drawn(filled(4, 9), 4000)[:, 0]
    assert set(codes.tolist()) == {5, 6, 7, 8}
    assert torch.bincount(codes)[5:].float().std() / 1000 < 0.1


def test_tuples_are_drawn_whole():
    buffer = LatentActionBuffer(num_batches=1, batch_size=BATCH, num_tokens=TOKENS)
    tuples = torch.arange(BATCH)[:, None] * 10 + torch.arange(TOKENS)
    buffer.push(tuples, torch.arange(BATCH))
    codes, bodies = buffer.sample(50, torch.Generator().manual_seed(0))
    assert torch.equal(codes, tuples[bodies])


def test_reset_codes_take_their_entries_with_them():
    buffer = filled(4, 4)
    buffer.forget(torch.tensor([1, 2]))
    assert len(buffer) == 2 * BATCH
    assert set(drawn(buffer).flatten().tolist()) == {0, 3}


def test_is_part_of_the_state_and_draws_the_same_after_a_round_trip():
    buffer, other = filled(4, 3), LatentActionBuffer(num_batches=4, batch_size=BATCH, num_tokens=TOKENS)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(drawn(buffer), drawn(other))
    for b in (buffer, other):
        b.push(torch.full((BATCH, TOKENS), 9), torch.zeros(BATCH, dtype=torch.int64))
    assert torch.equal(drawn(buffer), drawn(other))


def test_empty_buffer_says_so():
    with pytest.raises(ValueError, match="push a batch"):
        drawn(LatentActionBuffer(num_batches=1, batch_size=2, num_tokens=1))


def test_rare_latent_actions_are_drawn_as_often_as_common_ones():
    buffer = LatentActionBuffer(num_batches=1, batch_size=10, num_tokens=2)
    common, rare = torch.tensor([3, 3]), torch.tensor([3, 5])  # tuples count, not their codes
    buffer.push(torch.cat([common.expand(9, 2), rare[None]]), torch.tensor([0] * 9 + [1]))

    def share_of_rare(**lever):
        codes, bodies = buffer.sample(2000, torch.Generator().manual_seed(0), **lever)
        assert torch.equal(bodies == 1, (codes == rare).all(1))
        return float((bodies == 1).float().mean())

    assert share_of_rare() == pytest.approx(0.1, abs=0.03)
    assert share_of_rare(inverse_frequency=True) == pytest.approx(0.5, abs=0.04)


def test_entries_that_were_forgotten_are_not_drawn_by_frequency_either():
    buffer = filled(4, 4)
    buffer.forget(torch.tensor([1, 2]))
    codes, _ = buffer.sample(100, torch.Generator().manual_seed(0), inverse_frequency=True)
    assert set(codes.flatten().tolist()) == {0, 3}
