"""Pretrained backbones say what `transformers` says, load nothing but whole safetensors, and say what is wrong."""

import copy
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from cyclemimic.errors import InputError
from cyclemimic.nn.pretrained import PretrainedBackbone, PretrainedBackboneConfig, resize
from cyclemimic.nn.vit_families import ARCHITECTURES, FAMILIES, transformers_config
from tests.contracts.test_feature_backbone import NATIVE_PX, VIT, frames, small_architecture

PATCH_PX = VIT.patch_px


def reference_model(family, **changes):
    """A random model made by `transformers` alone, with its pooling head or predictor and noise on every weight."""
    config = transformers_config(small_architecture(family))
    for name, value in {"vision_use_head": True, "pred_num_hidden_layers": 1, **changes}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    torch.manual_seed(3)
    model = getattr(transformers, FAMILIES[family].model)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide what is not read
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def reference_features(model, family, pictures):
    """Patch tokens as the model's own documentation has them, from pictures that its image processor normalised."""
    siglip = family == "siglip"
    mean = torch.tensor(IMAGENET_STANDARD_MEAN if siglip else IMAGENET_DEFAULT_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STANDARD_STD if siglip else IMAGENET_DEFAULT_STD)[:, None, None]
    x = (pictures - mean) / std
    if family == "vjepa2":
        return model.get_vision_features(torch.stack([x, x], dim=1))
    if siglip:
        return model(x, interpolate_pos_encoding=True).last_hidden_state
    return model(x).last_hidden_state[:, 1 + getattr(model.config, "num_register_tokens", 0) :]


def saved(tmp_path, family):
    model = reference_model(family)
    model.save_pretrained(tmp_path / family)
    return model, tmp_path / family


def load(folder, **options):
    return PretrainedBackbone.load(PretrainedBackboneConfig(name=str(folder), **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_reference(family, tmp_path):
    model, folder = saved(tmp_path, family)
    pictures = frames(3)
    expected = reference_features(model, family, pictures)
    torch.testing.assert_close(load(folder)(pictures).patches, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "vjepa2"])
@pytest.mark.parametrize("size_px", [(14, 14), (42, 42), (35, 21)])
def test_positions_are_interpolated_as_the_reference_does(family, size_px, tmp_path):
    model, folder = saved(tmp_path, family)
    pictures = frames(2, *size_px)
    expected = reference_features(model, family, pictures)
    features = load(folder)(pictures)
    torch.testing.assert_close(features.patches, expected, atol=1e-5, rtol=1e-5)
    assert features.grid == (size_px[0] // PATCH_PX, size_px[1] // PATCH_PX)


def test_vjepa2_at_another_size_equals_a_model_made_for_it(tmp_path):
    _, folder = saved(tmp_path, "vjepa2")
    other = reference_model("vjepa2", crop_size=42)
    pictures = frames(2, 42, 42)
    expected = reference_features(other, "vjepa2", pictures)
    torch.testing.assert_close(load(folder, input_px=42)(pictures).patches, expected, atol=1e-5, rtol=1e-5)
    # At its own size it sees the picture resized, because it would count rows of another length.
    assert load(folder)(pictures).grid == (NATIVE_PX // PATCH_PX, NATIVE_PX // PATCH_PX)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_earlier_layer_is_that_many_blocks_and_the_final_norm(family, tmp_path):
    _, folder = saved(tmp_path, family)
    shorter = reference_model(family)
    tower = shorter.encoder if family == "vjepa2" else shorter
    holder = {"siglip": lambda: tower.encoder, "dinov3_vit": lambda: tower.model, "vjepa2": lambda: tower}.get(
        family, lambda: tower.encoder
    )()
    name = "layers" if family == "siglip" else "layer"
    setattr(holder, name, getattr(holder, name)[:2])
    expected = reference_features(shorter, family, frames())
    torch.testing.assert_close(load(folder, layer=2)(frames()).patches, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side, expected", [(1, 1), (10, 1), (11, 2), (17, 2), (18, 3), (28, 4)])
def test_frames_are_resized_to_the_nearest_whole_patch(side, expected):
    backbone = PretrainedBackbone.random(small_architecture("dinov2"))
    assert backbone.grid_for(side) == (expected, expected)


def test_another_size_is_seen_as_the_resized_picture():
    backbone = PretrainedBackbone.random(small_architecture("dinov3_vit"), input_px=21)
    pictures = frames(2, 53, 37)
    resized = F.interpolate(pictures, size=(21, 21), mode="bilinear", antialias=True)
    torch.testing.assert_close(backbone(pictures).patches, backbone(resized).patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size_px", [(14, 28), (74, 90), (37, 71), (37, 53)])
def test_resizing_and_its_gradient_equal_those_of_torch(mode, size_px):
    ours, theirs = frames(2, 37, 53).requires_grad_(), frames(2, 37, 53).requires_grad_()
    weight = torch.rand(2, 3, *size_px)
    mine = resize(ours, size_px, mode)
    reference = F.interpolate(theirs, size=size_px, mode=mode, antialias=True)
    torch.testing.assert_close(mine, reference, atol=1e-5, rtol=0)
    (mine * weight).sum().backward()
    (reference * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=0)


def test_resizing_keeps_full_precision_under_autocast():
    exact = resize(frames(1, 37, 37), (14, 14), "bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(frames(1, 37, 37), (14, 14), "bicubic"), exact)


def test_a_checkpoint_that_names_its_own_colours_is_believed(tmp_path):
    _, folder = saved(tmp_path, "dinov3_vit")
    usual = load(folder)
    own = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    satellite = load(folder)
    assert satellite.mean.flatten().tolist() == pytest.approx(own["image_mean"])
    assert satellite.std.flatten().tolist() == pytest.approx(own["image_std"])
    assert satellite.resampling == "bicubic" and usual.resampling == "bilinear"
    assert satellite.weights_sha256 != usual.weights_sha256


def test_both_towers_of_siglip_in_one_file(tmp_path):
    vision = reference_model("siglip")
    text = transformers.SiglipTextConfig(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, intermediate_size=13, vocab_size=17
    )
    both = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text.to_dict(), vision_config=vision.config.to_dict())
    ).eval()
    both.vision_model.load_state_dict(vision.state_dict())
    both.save_pretrained(tmp_path)
    expected = reference_features(vision, "siglip", frames())
    torch.testing.assert_close(load(tmp_path)(frames()).patches, expected, atol=1e-5, rtol=1e-5)


def test_a_vjepa2_classifier_lends_its_encoder(tmp_path):
    config = reference_model("vjepa2").config
    config.num_pooler_layers = 1
    classifier = transformers.VJEPA2ForVideoClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    expected = reference_features(classifier.vjepa2, "vjepa2", frames())
    torch.testing.assert_close(load(tmp_path)(frames()).patches, expected, atol=1e-5, rtol=1e-5)


def test_weights_of_half_precision_are_read_as_fp32(tmp_path):
    model = reference_model("dinov2").half()
    model.save_pretrained(tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}


# --- identity


def test_the_identity_is_that_of_the_weights_and_not_of_their_files(tmp_path):
    model, folder = saved(tmp_path, "dinov2")
    sha256 = load(folder).weights_sha256
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load(tmp_path / "shards").weights_sha256 == sha256
    with torch.no_grad():
        model.encoder.layer[0].norm1.weight[0] += 1e-3
    model.save_pretrained(folder)
    assert load(folder).weights_sha256 != sha256


def test_the_layer_is_part_of_the_identity(tmp_path):
    _, folder = saved(tmp_path, "dinov2")
    assert load(folder, layer=2).weights_sha256 != load(folder).weights_sha256


def test_another_backbone_than_was_trained_on_is_refused(tmp_path):
    _, folder = saved(tmp_path, "dinov2")
    config = PretrainedBackboneConfig(name=str(folder))
    sha256 = PretrainedBackbone.load(config).weights_sha256
    PretrainedBackbone.load(config, weights_sha256=sha256)
    with pytest.raises(InputError, match="the backbone 000000000000 on which this was trained"):
        PretrainedBackbone.load(config, weights_sha256="0" * 64)


def test_frozen_weights_stay_out_of_the_checkpoint_of_what_was_trained_on_them():
    def whole(seed):
        torch.manual_seed(seed)
        backbone = PretrainedBackbone.random(small_architecture("siglip"))
        return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(3, 5)})

    one, other = whole(1), whole(2)
    assert set(one.state_dict()) == {"head.weight", "head.bias"}
    kept = other["backbone"].weights_sha256
    other.load_state_dict(one.state_dict())  # strict: nothing missing, nothing unexpected
    assert torch.equal(other["head"].weight, one["head"].weight)
    assert other["backbone"].weights_sha256 == kept != one["backbone"].weights_sha256
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        other.load_state_dict({"head.bias": torch.zeros(5)})


def test_a_copy_is_as_frozen_as_the_first():
    backbone = PretrainedBackbone.random(small_architecture("dinov2"))
    twin = copy.deepcopy(backbone)
    assert twin.weights_sha256 == backbone.weights_sha256 and not twin.state_dict()
    assert torch.equal(twin(frames()).patches, backbone(frames()).patches)


# --- sizes known without weights


def test_known_architectures_have_the_published_sizes():
    with torch.device("meta"):
        millions = {
            name: sum(p.numel() for p in PretrainedBackbone.random(a).parameters()) / 1e6
            for name, a in ARCHITECTURES.items()
        }
    assert millions["facebook/dinov2-with-registers-base"] == pytest.approx(86.58, abs=0.01)
    assert millions["facebook/dinov2-base"] == pytest.approx(86.58, abs=0.01)
    assert millions["facebook/dinov3-vitb16-pretrain-lvd1689m"] == pytest.approx(85.66, abs=0.01)
    assert millions["google/siglip-so400m-patch14-224"] == pytest.approx(412, abs=1)
    assert millions["facebook/vjepa2-vitl-fpc64-256"] == pytest.approx(303.9, abs=0.2)


# --- bad input


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        load(tmp_path / "nowhere")


def test_an_unknown_id_says_how_to_get_it():
    with pytest.raises(InputError, match=r"hf download nobody/nothing.*local folder"):
        load("nobody/nothing")


def test_a_folder_without_config(tmp_path):
    with pytest.raises(InputError, match=r"expected config\.json"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    model, folder = saved(tmp_path, "dinov2")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load(folder)


def test_a_file_cut_short(tmp_path):
    _, folder = saved(tmp_path, "dinov2")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cut short"):
        load(folder)


@pytest.mark.parametrize("kind, hint", [("resnet", "Known: dinov2"), ("siglip2_vision_model", "NaFlex")])
def test_another_kind_of_model(kind, hint, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InputError, match=hint):
        load(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_partial_weights_are_refused(family, tmp_path):
    _, folder = saved(tmp_path, family)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    lost = sorted(key for key in tensors if ".1." in key and "predictor" not in key)[0]
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 missing or of another shape"):
        load(folder)


def test_weights_of_other_sizes_are_refused(tmp_path):
    _, folder = saved(tmp_path, "dinov2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mlp_ratio": 3}))
    with pytest.raises(InputError, match=r"of another shape: encoder\.layer\.0"):
        load(folder)


def test_weights_of_another_family_are_refused(tmp_path):
    saved(tmp_path, "dinov2")
    saved(tmp_path, "siglip")
    shutil.copy(tmp_path / "siglip" / "model.safetensors", tmp_path / "dinov2" / "model.safetensors")
    with pytest.raises(InputError, match="belong to different models"):
        load(tmp_path / "dinov2")


def test_blocks_for_which_the_config_has_no_place_are_refused(tmp_path):
    _, folder = saved(tmp_path, "siglip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(InputError, match="too many"):
        load(folder)


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_that_is_not_there(layer):
    with pytest.raises(InputError, match="1 to 3"):
        PretrainedBackbone.random(small_architecture("dinov2"), layer=layer)


@pytest.mark.parametrize("input_px", [0, 5, 30])
def test_a_size_that_is_not_made_of_whole_patches(input_px):
    with pytest.raises(InputError, match="whole patches of 7 px"):
        PretrainedBackbone.random(small_architecture("dinov2"), input_px=input_px)
