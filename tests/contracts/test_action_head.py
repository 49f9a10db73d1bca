"""What every ActionHead promises. A new head joins by one line in HEADS."""

import dataclasses

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import DemonstrationBatch
from cyclemimic.policy.network import HEADS as BUILT_IN
from cyclemimic.policy.network import build_policy_network, build_pretrain_network, head_class, load_pretrained
from tests.unit.policy_small import BLIND, FAST, SLOW, observe, some_codes, spec

HEADS = (*BUILT_IN, "cyclemimic_example.head:LinearHead")
BODIES = (SLOW, FAST, BLIND)
STEPS, AXES = 5, 5  # of the longest chunk and the widest body


@pytest.fixture(params=HEADS)
def kind(request):
    return request.param


def network_of(kind, bodies=BODIES):
    return build_policy_network(spec(kind, bodies), seed=1)


def demonstration(seen, bodies=BODIES, seed=0):
    """Actions of every row's own body; what lies behind them is padding."""
    g = torch.Generator().manual_seed(seed)
    rows = [bodies[number] for number in seen.body.tolist()]
    steps, axes = max(b.chunk_steps for b in bodies), max(b.action_width for b in bodies)
    return DemonstrationBatch(
        observation=seen,
        codes=some_codes(len(rows)),
        actions=torch.rand(len(rows), steps, axes, generator=g) * 2 - 1,
        action_mask=torch.stack([torch.arange(steps) < b.chunk_steps for b in rows]),
        axis_mask=torch.stack([torch.arange(axes) < b.action_width for b in rows]),
    )


def losses(network, batch):
    said = network(batch.observation, batch.codes, None, batch.actions)[1]
    return network.head.losses(said, batch)


def test_a_chunk_is_as_long_and_as_wide_as_its_body_and_0_behind(kind):
    chunk = network_of(kind).eval().generate(observe(BODIES))[1].actions
    assert chunk.shape == (4, STEPS, AXES)
    for row, body in enumerate((*BODIES, SLOW)):
        own = torch.zeros(STEPS, AXES, dtype=torch.bool)
        own[: body.chunk_steps, : body.action_width] = True
        assert not chunk[row][~own].any()
        assert torch.isfinite(chunk[row]).all()


@torch.no_grad()
def test_a_body_acts_in_company_as_alone(kind):
    network = network_of(kind).eval()
    together = network.generate(observe(BODIES))[1].actions
    for row, body in enumerate((*BODIES, SLOW)):
        alone = network.generate(observe(BODIES, body=BODIES.index(body)))[1].actions[row]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_it_says_when_it_acts_is_what_it_says_when_forced(kind):
    network = network_of(kind, (SLOW,)).eval()
    codes, said = network.generate(observe())
    forced = network(observe(), codes, None, said.actions)[1]
    torch.testing.assert_close(forced.actions, said.actions, atol=1e-5, rtol=0)


def test_action_tokens_are_counted_and_have_a_place_in_the_vocabulary(kind):
    network = network_of(kind)
    tokens = network.head.tokens(demonstration(observe(BODIES)).actions, observe(BODIES).body)
    bins = head_class(network.spec.config.head).num_bins(network.spec.config.head)
    assert (network.head.num_action_tokens == 0) == (tokens is None) == (bins == 0)
    if tokens is not None:
        assert tokens.shape == (4, network.head.num_action_tokens)
        assert (tokens >= 0).all() and (tokens < bins).all()


def test_losses_have_names_are_finite_and_teach_head_or_backbone(kind):
    network, batch = network_of(kind), demonstration(observe(BODIES))
    found = losses(network, batch)
    assert found and all(name.isidentifier() and value.ndim == 0 for name, value in found.items())
    total = sum(found.values())
    assert torch.isfinite(total) and total > 0
    total.backward()
    assert any(p.grad is not None and p.grad.any() for p in network.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.latent.parameters())


def test_padding_teaches_nothing(kind):
    network, batch = network_of(kind), demonstration(observe(BODIES))
    behind = ~(batch.action_mask[..., None] & batch.axis_mask[:, None])
    other = dataclasses.replace(batch, actions=batch.actions + 0.5 * behind)
    one, two = (losses(network, x) for x in (batch, other))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)


def test_learning_lowers_its_losses(kind):
    network, batch = network_of(kind, (SLOW,)), demonstration(observe(), (SLOW,))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    told = []
    for _ in range(30):
        total = sum(losses(network, batch).values())
        told.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert told[-1] < 0.8 * told[0]


@torch.no_grad()
def test_it_knows_what_the_state_of_the_robot_is(kind):
    network, seen = network_of(kind, (SLOW,)).eval(), observe()
    actions = torch.zeros(4, SLOW.chunk_steps, SLOW.action_width)
    one, two = (
        network(dataclasses.replace(seen, proprioception=sign * seen.proprioception), some_codes(), None, actions)[1]
        for sign in (1, -1)
    )
    assert not torch.allclose(*((x.actions if x.logits is None else x.logits) for x in (one, two)))


def test_proprioception_that_is_missing_is_refused(kind):
    with pytest.raises(InputError, match="5 axes"):
        network_of(kind, (SLOW,))(dataclasses.replace(observe(), proprioception=None), some_codes())


def test_pre_training_goes_into_its_network(kind):
    pretrained = build_pretrain_network(dataclasses.replace(spec(), bodies=()), seed=2)
    network = network_of(kind, (SLOW,))
    load_pretrained(network, dict(pretrained.state_dict()), pretrained.spec.vocabulary)
    ours = network.latent.backbone.tower.conv1.weight
    assert torch.equal(ours, pretrained.latent.backbone.tower.conv1.weight)
