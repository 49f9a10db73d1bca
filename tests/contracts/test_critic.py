"""What every Critic promises. A new critic joins by one line in CRITICS."""

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.nn.batches import Features, Scene
from cyclemimic.tokenizer.discriminator import (
    CriticShape,
    Discriminator,
    DiscriminatorConfig,
    discriminator_loss,
    realism_loss,
)
from cyclemimic_example.critic import EdgeCritic

BATCH, PX, FEATURES, GRID = 5, 16, 11, (4, 4)
FRAMES, PATCHES = CriticShape(size_px=PX), CriticShape(size_px=PX, feature_width=FEATURES, grid=GRID)
SIZES = {"width": 16, "blocks": 1, "heads": 2}

# name -> how it is made for a shape
CRITICS = {
    "local-global": lambda shape: Discriminator(DiscriminatorConfig(**SIZES), shape),
    "local": lambda shape: Discriminator(DiscriminatorConfig(kind="local", **SIZES), shape),
    "of pairs": lambda shape: Discriminator(DiscriminatorConfig(judges_pairs=True, **SIZES), shape),
    "example": EdgeCritic,
}


def accepts(name, shape):
    try:
        CRITICS[name](shape)
    except InputError as error:
        assert error.remedy
        return False
    return True


CASES = {
    f"{name}, {what}": (name, shape)
    for name in CRITICS
    for what, shape in (("frames", FRAMES), ("features", PATCHES))
    if accepts(name, shape)
}


@pytest.fixture(params=CASES)
def judged(request):
    """A critic, and what makes scenes for it: frames, and features where it does not refuse these."""
    name, shape = CASES[request.param]
    torch.manual_seed(0)
    return CRITICS[name](shape).train(), (frames if shape is FRAMES else features)


@pytest.mark.parametrize("name", CRITICS)
def test_it_can_judge_frames_and_judges_features_or_refuses_them_when_built(name):
    assert accepts(name, FRAMES)
    accepts(name, PATCHES)


def frames(seed, rough=1.0):
    g = torch.Generator().manual_seed(seed)
    smooth = torch.linspace(0, 1, PX).expand(BATCH, 3, PX, PX) * torch.rand(BATCH, 3, 1, 1, generator=g)
    return Scene(frames=smooth * (1 - rough) + rough * torch.rand(BATCH, 3, PX, PX, generator=g))


def features(seed, rough=1.0):
    g = torch.Generator().manual_seed(seed)
    patches = 0.3 + rough * torch.randn(BATCH, GRID[0] * GRID[1], FEATURES, generator=g)
    return Scene(features=Features(patches=patches, grid=GRID))


def logits(judgement):
    parts = [part for part in (judgement.local, judgement.whole) if part is not None]
    return torch.cat([part.reshape(BATCH, -1) for part in parts], dim=1)


def test_it_judges_patches_or_the_whole_or_both(judged):
    critic, scene = judged
    judgement = critic(scene(0), scene(1))
    assert judgement.local is not None or judgement.whole is not None
    assert judgement.local is None or (judgement.local.ndim == 2 and len(judgement.local) == BATCH)
    assert judgement.whole is None or judgement.whole.shape == (BATCH,)
    assert torch.isfinite(logits(judgement)).all()


def test_its_gradient_reaches_what_it_judges_and_its_weights(judged):
    critic, scene = judged
    later = scene(0)
    later.signal.requires_grad_()
    realism_loss(critic(later, scene(1)), "logistic").backward()
    assert (later.signal.grad.flatten(1).abs().sum(1) > 0).all()
    critic.zero_grad()
    discriminator_loss(critic(scene(0), scene(1)), critic(scene(2), scene(1)), "logistic").backward()
    assert any(p.grad is not None and p.grad.any() for p in critic.parameters())


def test_it_learns_to_tell_two_kinds_of_scenes_apart(judged):
    critic, scene = judged
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    for step in range(40):
        loss = discriminator_loss(critic(scene(step, 0.1), scene(step)), critic(scene(step), scene(step)), "logistic")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = logits(critic(scene(99, 0.1), scene(99))), logits(critic(scene(99), scene(99)))
    assert real.mean() > 0 > fake.mean()


def test_it_does_not_draw_lots(judged):
    critic, scene = judged
    one, other = (logits(critic(scene(0), scene(1))) for _ in range(2))
    assert torch.equal(one, other)


def test_a_scene_alone_is_judged_as_in_company(judged):
    critic, scene = judged
    whole, only = critic(scene(0), scene(1)), slice(2, 3)
    alone = critic(scene(0).take(only), scene(1).take(only))
    for one, many in ((alone.local, whole.local), (alone.whole, whole.whole)):
        assert (one is None) == (many is None)
        if one is not None:
            torch.testing.assert_close(one, many[only], atol=1e-5, rtol=1e-4)


def test_it_runs_in_bf16_autocast_and_says_nearly_the_same(judged):
    critic, scene = judged
    exact = logits(critic(scene(0), scene(1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = logits(critic(scene(0), scene(1))).float()
    assert (rough - exact).norm() < 0.1 * exact.norm() + 0.01
