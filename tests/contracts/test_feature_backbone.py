"""What every FeatureBackbone promises. A new backbone joins by one line in BACKBONES."""

import pytest
import torch

from cyclemimic.nn.pretrained import PretrainedBackbone
from cyclemimic.nn.vision import BackboneConfig, ConvStem
from cyclemimic.nn.vit_families import FAMILIES, Architecture, VitSize
from cyclemimic_example.features import CosineFeatures

NATIVE_PX = 28
VIT = VitSize(width=36, layers=3, heads=3, mlp_width=72, patch_px=7)


def small_architecture(family):
    registers = 5 if family in ("dinov2_with_registers", "dinov3_vit") else 0
    return Architecture(family=family, size=VIT, native_px=NATIVE_PX, registers=registers)


BACKBONES = {
    "conv": lambda: ConvStem(11, 4),
    **{family: lambda family=family: PretrainedBackbone.random(small_architecture(family)) for family in FAMILIES},
    "dinov2 at 21 px": lambda: PretrainedBackbone.random(small_architecture("dinov2"), input_px=21),
    "vjepa2 at 35 px": lambda: PretrainedBackbone.random(small_architecture("vjepa2"), input_px=35),
    "example": lambda: CosineFeatures(BackboneConfig(stride_px=4)),
}
FROZEN = [name for name in BACKBONES if name.partition(" at ")[0] in FAMILIES]


@pytest.fixture(params=BACKBONES, scope="module")
def backbone(request):
    torch.manual_seed(0)
    return BACKBONES[request.param]()


def frames(batch=2, height=NATIVE_PX, width=NATIVE_PX, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size_px", [(28, 28), (13, 13), (37, 37), (23, 41)])
def test_features_lie_on_the_grid_that_was_announced(backbone, size_px):
    features = backbone(frames(2, *size_px))
    rows, columns = backbone.grid_for(size_px)
    assert features.grid == (rows, columns)
    assert features.patches.shape == (2, rows * columns, backbone.width)
    assert torch.isfinite(features.patches).all()


def test_a_side_alone_is_a_square(backbone):
    assert backbone.grid_for(NATIVE_PX) == backbone.grid_for((NATIVE_PX, NATIVE_PX))


def test_equal_frames_have_equal_features(backbone):
    backbone.train()
    assert torch.equal(backbone(frames()).patches, backbone(frames()).patches)


def test_other_frames_have_other_features(backbone):
    one, other = backbone(frames(seed=0)).patches, backbone(frames(seed=1)).patches
    assert (one - other).abs().max() > 1e-4


def test_patches_come_row_by_row(backbone):
    picture = frames(1)
    changed = picture.clone()
    changed[..., :4, -4:] = 1 - changed[..., :4, -4:]  # the corner at the upper right
    _, columns = backbone.grid_for(NATIVE_PX)
    moved = (backbone(changed).patches - backbone(picture).patches).norm(dim=-1)[0]
    assert moved.argmax() == columns - 1


def test_one_frame_alone_is_seen_as_in_company(backbone):
    many = backbone(frames(5)).patches
    alone = torch.cat([backbone(frame[None]).patches for frame in frames(5)])
    torch.testing.assert_close(alone, many, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size_px", [NATIVE_PX, 37])
def test_gradient_reaches_every_frame(backbone, size_px):
    pictures = frames(2, size_px, size_px).requires_grad_()
    backbone(pictures).patches.square().sum().backward()
    assert (pictures.grad.abs().sum(dim=1) > 0).float().mean() > 0.9


def test_runs_in_bf16_autocast_and_says_nearly_the_same(backbone):
    exact = backbone(frames()).patches
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(frames()).patches.float()
    assert (rough - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", FROZEN)
def test_pretrained_backbones_stay_as_they_are(name):
    backbone = BACKBONES[name]()
    assert not backbone.train().training and not any(m.training for m in backbone.modules())
    assert not [p for p in backbone.parameters() if p.requires_grad]
    backbone(frames().requires_grad_()).patches.sum().backward()
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_can_be_built_and_run_without_memory(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]()
        features = backbone(torch.rand(2, 3, 37, 37))
    assert all(p.is_meta for p in (*backbone.parameters(), *backbone.buffers()))
    assert features.patches.device.type == "meta"
    rows, columns = backbone.grid_for(37)
    assert features.patches.shape == (2, rows * columns, backbone.width)
