"""Backbones: names, maps, strides, weight names, errors. Nothing here needs the network."""

import copy
import itertools
import urllib.error

import parity
import pytest
import torch
import torch.nn.functional as F
import torchvision
from nets import drawn, filled
from timm.layers import create_conv2d
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from networks import backbones, bfloat16, mobile, osnet, resnets


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def randomise(module, seed=0):
    """Norm layers away from the identity, so that a test sees whether they are there."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return module.eval()


# -- the networks of torchvision and timm --------------------------------------------------------------------------

FAMILIES = (
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "mnasnet0_5",
    "swin_t",
    "squeezenet1_1",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_map_is_what_the_own_classifier_reads(name):
    whole = randomise(torchvision.models.get_model(name, weights=None))
    net = backbones.create(name).eval()
    state = {k: v for k, v in whole.state_dict().items() if k in net.state_dict()}
    assert state.keys() == net.state_dict().keys()  # published files load under their own names
    net.load_state_dict(state)
    read = []
    head = nn.Conv2d if name.startswith("squeezenet") else nn.Linear
    first = next(m for child, m in whole.named_children() if child in ("fc", "classifier", "head"))
    first = first if isinstance(first, head) else next(m for m in first if isinstance(m, head))
    first.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        out = net(images)
    assert out.shape[1] == net.out_channels
    pooled = out if name.startswith("squeezenet") else out.mean(dim=(2, 3))
    torch.testing.assert_close(pooled, read[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "legacy_seresnet18"])
def test_timm_convolutional_map(name):
    net = backbones.create(name).eval()
    with torch.no_grad():
        out = net(torch.randn(2, 3, 64, 32))
    assert out.shape[:2] == (2, net.out_channels) and out.dim() == 4


def test_timm_vision_transformer_tokens_become_a_map_in_reading_order():
    net = backbones.create("test_vit", image_size=(64, 32)).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        out = net(images)
        tokens = net.forward_features(images)
    assert out.shape == (2, net.out_channels, 4, 2)
    prefix = net.num_prefix_tokens
    for row in range(4):
        for column in range(2):
            torch.testing.assert_close(out[:, :, row, column], tokens[:, prefix + 2 * row + column])


def test_timm_channels_last_output_is_turned():
    net = backbones.create("swin_tiny_patch4_window7_224", image_size=(64, 64)).eval()
    assert net.out_channels == 768
    with torch.no_grad():
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 768, 2, 2)


def test_replaced_forward_survives_a_copy():
    import copy

    net = randomise(backbones.create("legacy_seresnet18"))
    twin = copy.deepcopy(net)
    nn.init.zeros_(net.layer0.conv1.weight)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(net(images), twin(images))  # the copy runs its own weights


def test_vision_transformer_patches_overlap_and_positions_follow():
    net = backbones.vision_transformer("test_vit", image_size=(64, 32), stride=12)
    assert net.pos_embed.shape[1] == 1 + 5 * 2  # (64 - 16) // 12 + 1 by (32 - 16) // 12 + 1
    assert net.patch_embed.proj(torch.zeros(1, 3, 64, 32)).shape[2:] == (5, 2)


# -- last stride ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "resnet50_ibn_a",
        "resnet50_ibn_b",
        "se_resnet50",
        "se_resnext50",
        "senet154",
        "resnet50d",
        "resnest50",
        "mobilenet_v2",
        "mobilenetv2_x1_0",
        "tf_efficientnet_lite0",
    ],
)
def test_last_stride_doubles_the_map_and_keeps_the_names(name):
    with torch.device("meta"):
        coarse, fine = backbones.create(name), backbones.create(name, last_stride=1)
        images = torch.empty(2, 3, 256, 128)
        assert coarse(images).shape[2:] == (8, 4)
        assert fine(images).shape[2:] == (16, 8)
    assert coarse.state_dict().keys() == fine.state_dict().keys()


def test_last_stage_of_a_resnest_is_dilated_as_fast_reids():
    """fast-reid c9bc3ce, modeling/backbones/resnest.py, ResNeSt(1, Bottleneck, [2, 2, 2, 2]) with the arguments of
    build_resnest_backbone, filled as here; values over the largest of the map."""
    net = filled(backbones.create("resnest26d", last_stride=1))
    with torch.no_grad():
        found = net(drawn(2 * 3 * 96 * 48, 7).view(2, 3, 96, 48).float())
    assert found.shape == (2, 2048, 6, 3)
    found, atol = found / found.max(), parity.largest(__file__, "test_last_stage_of_a_resnest_is_dilated_as_fast_reids")
    expected = torch.tensor([0.0, 0.0, 0.0878168, 0.0, 0.0, 0.0968449, 0.0, 0.0])
    torch.testing.assert_close(found[1, 10].flatten()[:8], expected, rtol=0, atol=atol)
    pooled = torch.tensor([[0.0015986, 0.0145947, 0.0295751], [0.0015126, 0.0044088, 0.0215775]])
    torch.testing.assert_close(found.mean(dim=(2, 3))[:, 20:23], pooled, rtol=0, atol=atol)


def test_last_stride_error_says_why():
    with pytest.raises(ValueError, match="no fourth residual stage.*last_stride=2"):
        backbones.create("densenet121", last_stride=1)
    with pytest.raises(ValueError, match="last_stride is 3"):
        backbones.create("resnet18", last_stride=3)


def test_stem_relu_can_be_left_out():
    net = randomise(backbones.create("resnet18", stem_relu=False))
    seen = []
    net.maxpool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].min()))
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert seen[0] < 0
    with pytest.raises(ValueError, match="no ResNet stem"):
        backbones.create("densenet121", stem_relu=False)


def test_stem_of_fast_reid_pools_from_the_first_pixel():
    plain, ceil = backbones.create("resnet18"), backbones.create("resnet18", stem_ceil=True)
    x = torch.randn(1, 2, 8, 6)
    assert ceil.maxpool(x).shape == plain.maxpool(x).shape == (1, 2, 4, 3)
    torch.testing.assert_close(ceil.maxpool(x)[0, :, 0, 0], x[0, :, :3, :3].amax(dim=(1, 2)))
    torch.testing.assert_close(plain.maxpool(x)[0, :, 0, 0], x[0, :, :2, :2].amax(dim=(1, 2)))


# -- ResNet-IBN -------------------------------------------------------------------------------------------------------


def test_ibn_a_is_in_the_first_norm_of_the_first_three_stages():
    net = backbones.create("resnet50_ibn_a")
    for stage, expected in ((net.layer1, True), (net.layer2, True), (net.layer3, True), (net.layer4, False)):
        assert all(isinstance(block.bn1, resnets.IBN) is expected for block in stage)
    assert isinstance(net.bn1, nn.BatchNorm2d)
    assert "layer1.0.bn1.IN.weight" in net.state_dict() and "layer1.0.bn1.BN.running_var" in net.state_dict()


def test_ibn_normalises_each_half_in_its_own_way():
    ibn = resnets.IBN(6)
    x = torch.randn(4, 6, 5, 3)
    out = ibn(x)
    for b in range(4):
        for c in range(3):
            channel = x[b, c]
            expected = (channel - channel.mean()) / (channel.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(out[b, c], expected, rtol=1e-4, atol=1e-5)
    for c in range(3, 6):
        channel = x[:, c]
        expected = (channel - channel.mean()) / (channel.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(out[:, c], expected, rtol=1e-4, atol=1e-5)


def test_ibn_b_normalises_after_the_sum_of_the_last_block():
    net = backbones.create("resnet50_ibn_b")
    assert isinstance(net.bn1, nn.InstanceNorm2d)
    has_in = [[hasattr(block, "IN") for block in stage] for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]
    assert has_in == [[False] * 2 + [True], [False] * 3 + [True], [False] * 6, [False] * 3]
    block = net.layer1[-1].train()
    seen = []
    block.IN.register_forward_hook(lambda module, inputs, output: seen.append(output))
    out = block(torch.randn(2, 256, 6, 4))
    torch.testing.assert_close(out, seen[0].relu())


# -- networks written here against the state dict's own arithmetic ----------------------------------------------------


def oracle_norm(state, name, x):
    if name + ".running_mean" not in state:
        return F.instance_norm(x, weight=state[name + ".weight"], bias=state[name + ".bias"])
    return F.batch_norm(x, *(state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))


def oracle_conv_norm(state, name, x, stride=1, relu=True):
    weight = state[name + ".conv.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    if name + ".bn.weight" in state:
        x = oracle_norm(state, name + ".bn", x)
    return x.relu() if relu else x


def oracle_os_block(state, name, x):
    """Figure 4 of the OSNet paper, spelt out from weight names alone."""
    y = oracle_conv_norm(state, f"{name}.conv1", x)
    ain = f"{name}.conv2.0.layers.0.conv1.weight" in state
    total = 0
    for t in range(1, 5):
        z = y
        for i in range(t):
            lite = f"{name}.conv2{'abcd'[t - 1]}" + (f".{i}" if t > 1 else "")
            if ain:
                lite = f"{name}.conv2.{t - 1}.layers.{i}"
            z = F.conv2d(z, state[lite + ".conv1.weight"])
            z = F.conv2d(z, state[lite + ".conv2.weight"], padding=1, groups=z.shape[1])
            z = oracle_norm(state, lite + ".bn", z).relu()
        gate = z.mean(dim=(2, 3), keepdim=True)
        gate = F.conv2d(gate, state[f"{name}.gate.fc1.weight"], state[f"{name}.gate.fc1.bias"]).relu()
        gate = F.conv2d(gate, state[f"{name}.gate.fc2.weight"], state[f"{name}.gate.fc2.bias"]).sigmoid()
        total = total + gate * z
    total = oracle_conv_norm(state, f"{name}.conv3", total, relu=False)
    inside = f"{name}.conv3.bn.weight" not in state
    if inside:
        total = oracle_norm(state, f"{name}.IN", total)
    if f"{name}.downsample.conv.weight" in state:
        x = oracle_conv_norm(state, f"{name}.downsample", x, relu=False)
    total = total + x
    if f"{name}.IN.weight" in state and not inside:
        total = oracle_norm(state, f"{name}.IN", total)
    return total.relu()


def oracle_osnet(state, x):
    x = F.max_pool2d(oracle_conv_norm(state, "conv1", x, stride=2), 3, 2, 1)
    for stage in (2, 3, 4):
        x = oracle_os_block(state, f"conv{stage}.1", oracle_os_block(state, f"conv{stage}.0", x))
        for transition in (f"conv{stage}.2.0", f"pool{stage}.0"):
            if transition + ".conv.weight" in state:
                x = F.avg_pool2d(oracle_conv_norm(state, transition, x), 2)
    return oracle_conv_norm(state, "conv5", x)


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x0_25"])
def test_osnet_against_its_weight_names(name):
    net = randomise(backbones.create(name))
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images), oracle_osnet(net.state_dict(), images), rtol=1e-4, atol=1e-5)


def test_where_the_osnet_variants_normalise_instances():
    def instance_norms(name):
        return {k for k, m in backbones.create(name).named_modules() if isinstance(m, nn.InstanceNorm2d)}

    assert instance_norms("osnet_x0_25") == set()
    assert instance_norms("osnet_ibn_x1_0") == {"conv1.bn", "conv2.0.IN", "conv2.1.IN"}
    assert instance_norms("osnet_ain_x0_25") == {"conv1.bn", "conv2.0.IN", "conv2.1.IN", "conv3.1.IN", "conv4.0.IN"}


def test_channel_shuffle_interleaves_the_groups():
    unit = mobile.ShuffleUnit(12, 12, 1, 3)
    x = torch.arange(12.0)[None, :, None, None]
    shuffled = x.unflatten(1, (unit.groups, -1)).transpose(1, 2).flatten(1, 2).flatten()
    assert shuffled.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_nasnet_shifted_pooling_starts_at_the_first_pixel():
    """TensorFlow pads an even size only below and right, so windows start at pixel 0, 2, 4, ..."""
    x = torch.rand(1, 2, 8, 6)
    pool = mobile._Shifted(nn.MaxPool2d(3, 2, padding=1))
    expected = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
    torch.testing.assert_close(pool(x), expected)


# Trainable numbers without classifier, and widths, printed by torchreid (f8cd150) for the same networks.
TORCHREID = {
    "resnet18": (11176512, 512),
    "resnet50": (23508032, 2048),
    "resnext50_32x4d": (22979904, 2048),
    "se_resnet50": (26039024, 2048),
    "se_resnext50_32x4d": (25510896, 2048),
    "densenet121": (6953856, 1024),
    "densenet161": (26472000, 2208),
    "inceptionresnetv2": (54306464, 1536),
    "inceptionv4": (41142816, 1536),
    "xception": (20806952, 2048),
    "mobilenetv2_x1_0": (2224960, 1280),
    "mobilenetv2_x1_4": (4291604, 1792),
    "shufflenet": (904728, 960),
    "shufflenet_v2_x1_0": (1253604, 1024),
    "squeezenet1_0": (735424, 512),
    "squeezenet1_1": (722496, 512),
    "nasnsetmobile": (4232978, 1056),
    "resnet50_ibn_a": (23508032, 2048),
    "resnet50_ibn_b": (23509568, 2048),
}


@pytest.mark.parametrize("name", TORCHREID)
def test_size_is_that_of_torchreid(name):
    with torch.device("meta"):
        net = backbones.create(name)
    number, width = TORCHREID[name]
    assert abs(parameters(net) - number) <= parity.largest(__file__, "test_size_is_that_of_torchreid")
    assert net.out_channels == width


@pytest.mark.parametrize("name", ["inception_v3", "resnet18_ibn_a", "resnet34_ibn_a", "resnet101_ibn_a"])
def test_name_gives_a_map(name):
    assert name in backbones.available()
    with torch.device("meta"):
        net = backbones.create(name)
        assert net(torch.empty(2, 3, 256, 128)).shape[:2] == (2, net.out_channels)


@pytest.mark.parametrize("name", ["shufflenet", "mobilenetv2_x1_0", "nasnetamobile", "osnet_ain_x0_25"])
def test_every_parameter_of_a_network_written_here_gets_a_gradient(name):
    net = backbones.create(name)
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


class Counted(TorchDispatchMode):
    """Counts the copies of maps, and how many activations were computed in place."""

    copies = in_place = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        self.copies += name == "aten::clone" and args[0].dim() == 4
        self.in_place += name.split("::")[1] in ("hardtanh_", "hardswish_", "hardsigmoid_", "silu_")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mobilenetv2_x1_0", "mobilenet_v2", "mobilenet_v3_small", "tf_efficientnet_lite0"])
def test_activations_are_computed_in_place_only_where_that_saves_a_copy(name):
    if name.startswith("tf_"):
        pytest.importorskip("timm")
    net = backbones.create(name, image_size=(64, 32)).train()
    images = torch.rand(2, 3, 64, 32)
    with Counted() as learning:
        learned = net(images)
    assert learning.copies == learning.in_place == 0
    with torch.no_grad(), Counted() as looking:
        seen = net(images)
    assert looking.copies == 0 and looking.in_place > 10
    assert torch.equal(learned, seen)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(net)(images), seen)  # a copy is whole


def test_non_local_blocks_start_as_the_identity_and_sit_at_the_end_of_their_stages():
    net = backbones.create("resnet18").eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain = net(images)
        added = resnets.NonLocalResNet(net, net.out_channels, (0, 1, 2, 0)).eval()
        torch.testing.assert_close(added(images), plain)
    order = []
    for name, module in added.named_modules():
        if name.count(".") == 1:
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        added(images)
    assert order == [
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer2.1",
        "NL_2.0",
        "layer3.0",
        "NL_3.0",
        "layer3.1",
        "NL_3.1",
        "layer4.0",
        "layer4.1",
    ]


def test_every_non_local_block_that_learns_is_reached():
    """Several processes wait for the gradient of each parameter that has one: more blocks than a stage has, three of
    AGW's for two of a ResNet-18, are left out of the training."""
    net = backbones.create("resnet18")
    added = resnets.NonLocalResNet(net, net.out_channels, (0, 2, 3, 0))
    added(torch.randn(2, 3, 32, 32)).sum().backward()
    waited = {name for name, parameter in added.named_parameters() if parameter.requires_grad}
    assert waited == {name for name, parameter in added.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("NL_3.2") for name in waited) and not any(name.startswith("NL_3.0") for name in waited)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_unknown_name_suggests():
    with pytest.raises(ValueError, match="Unknown backbone 'resnet51'.*resnet50"):
        backbones.create("resnet51")


def test_network_without_a_map_is_an_error():
    with pytest.raises(ValueError, match="vit_b_16.*cannot be used"):
        backbones.create("vit_b_16")
    with pytest.raises(ValueError, match="not a plain vision transformer"):
        backbones.vision_transformer("test_resnet")
    with pytest.raises(ValueError, match="not a vision transformer of timm"):
        backbones.vision_transformer("resnet50")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "resnet50-0676ba61.pth"),  # V1, not V2
        ("resnet50_ibn_a", "resnet50_ibn_a-d9d0bb7b.pth"),
        ("nasnetamobile", "nasnetamobile-7e03cead.pth"),
        ("osnet_x0_25", "osnet_x0_25_imagenet.pth"),
    ],
)
def test_missing_imagenet_weights_name_file_and_folder(offline, name, file):
    with pytest.raises(RuntimeError) as error:
        backbones.create(name, pretrained=True)
    for part in (name, file, str(offline), "--pretrained FILE"):
        assert part in str(error.value)


def test_missing_timm_weights_say_what_to_do(offline, monkeypatch):
    import timm

    make = timm.create_model

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no network")
        return make(name, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(RuntimeError, match="test_resnet.*--pretrained FILE"):
        backbones.create("test_resnet", pretrained=True)


def test_weights_of_a_network_without_any_are_an_error(offline):
    with pytest.raises(RuntimeError, match="none published"):
        backbones.create("resnet152_ibn_a", pretrained=True)


def test_imagenet_file_put_into_the_cache_is_loaded(offline):
    offline.mkdir()
    source = randomise(backbones.create("osnet_x0_25"))
    state = {f"module.{k}": v for k, v in source.state_dict().items()} | {"module.classifier.bias": torch.zeros(1000)}
    torch.save(state, offline / "osnet_x0_25_imagenet.pth")
    net = backbones.create("osnet_x0_25", pretrained=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


def test_wrong_imagenet_file_is_refused(offline):
    offline.mkdir()
    torch.save(backbones.create("osnet_x0_5").state_dict(), offline / "osnet_x0_25_imagenet.pth")
    with pytest.raises(RuntimeError, match="does not hold 'osnet_x0_25'.*of another shape.*Delete it"):
        backbones.create("osnet_x0_25", pretrained=True)


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ain_x1_0"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_streams_side_by_side_are_the_streams(name, channels_last, monkeypatch):
    """Output, gradients and running statistics of merged Lite 3x3 against one stream after the other."""
    monkeypatch.setattr(osnet, "FEWER_CALLS_PAY", True)
    torch.manual_seed(0)
    net = backbones.create(name).double().train()
    block = next(m for m in net.modules() if isinstance(m, osnet.OSBlock))
    for bn in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(bn.weight)
        torch.nn.init.normal_(bn.bias)
    alone, images = copy.deepcopy(block), torch.randn(4, 64 if name != "osnet_x0_25" else 16, 8, 6).double()
    if channels_last:
        images = images.to(memory_format=torch.channels_last)

    def one_after_the_other(x):
        layers = [
            list(s.modules())
            for s in getattr(alone, "conv2", None) or (alone.conv2a, alone.conv2b, alone.conv2c, alone.conv2d)
        ]
        for stream in layers:
            y = x
            for layer in (m for m in stream if isinstance(m, osnet.LiteConv3x3)):
                y = torch.relu(layer.bn(layer.conv2(layer.conv1(y))))
            yield y

    alone.streams = lambda x: list(one_after_the_other(x))
    for network in (block, alone):
        network(images).square().sum().backward()
    ours, theirs = block(images), alone(images)
    assert ours.stride() == theirs.stride()
    torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(block.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for (key, ours), theirs in zip(block.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)
    assert int(block.conv1.bn.num_batches_tracked) == 2


def test_a_gate_multiplies_as_its_convolutions_would_and_rounds_once():
    """Of the released weights, which are those of convolutions; in bfloat16 it is float32 arithmetic."""
    torch.manual_seed(0)
    gate, pooled = osnet.AggregationGate(32), torch.randn(6, 32, 1, 1)

    def convolved(gate, pooled):
        return gate.fc2(torch.relu(gate.fc1(pooled))).sigmoid()

    double = copy.deepcopy(gate).double()
    torch.testing.assert_close(double(pooled.double()), convolved(double, pooled.double()), rtol=1e-12, atol=1e-12)
    pooled = pooled.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gate(pooled), convolved(gate, pooled)
    exact = convolved(double, pooled.double())
    assert ours.dtype == theirs.dtype == torch.bfloat16
    once = {"rtol": 1.001 * 2**-8, "atol": 0.0}  # half of the last of 8 bits
    torch.testing.assert_close(ours.double(), exact, **once)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(theirs.double(), exact, **once)


def test_depthwise_gradients_bypass_bfloat16():
    """The result is float32 arithmetic rounded once; names, copies and other convolutions stay as they are."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, 2, 1, groups=8), torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8), torch.nn.Conv2d(8, 8, 1)
    )
    names = list(net.state_dict())
    bfloat16.keep_in_float32(net)
    assert list(net.state_dict()) == names
    x = torch.randn(2, 8, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        strided, plain = net[0](x), net[1](x)
        twin = copy.deepcopy(net)
        twin[0].weight.data.zero_()
        assert torch.equal(twin[0](x), twin[0].bias.bfloat16()[None, :, None, None].expand_as(strided))
    assert strided.dtype == plain.dtype == torch.bfloat16
    exact = torch.nn.functional.conv2d(x.float(), net[0].weight, net[0].bias, 2, 1, groups=8)
    assert torch.equal(strided, exact.bfloat16())
    assert "forward" in vars(net[0]) and "forward" not in vars(net[1]) and "forward" not in vars(net[2])
    padded = create_conv2d(8, 8, 3, stride=2, padding="same", depthwise=True)
    images = torch.randn(2, 8, 7, 7).bfloat16()
    exact = padded(images.float()).bfloat16()
    bfloat16.keep_in_float32(padded)
    with torch.autocast("cpu", torch.bfloat16):
        assert type(padded) is not torch.nn.Conv2d and torch.equal(padded(images), exact)


@pytest.mark.parametrize(("width", "narrow"), [(1, True), (2, True), (3, False), (5, False)])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (5, 2)])
def test_a_strided_convolution_to_one_column_bypasses_bfloat16(width, narrow, kernel, padding):
    """The float32 result rounded once, and gradients that are numbers whatever lay in the memory before."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 32, kernel, 2, padding)
    exact = copy.deepcopy(conv)
    bfloat16.keep_in_float32(conv)
    x = torch.randn(2, 16, 6, width).bfloat16()
    leftovers = [torch.full((size,), float("nan")) for size in (64, 4096, 2**16, 2**20) for _ in range(4)]
    del leftovers
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    found.float().square().sum().backward()
    expected = exact(x.float())
    expected.bfloat16().float().square().sum().backward()
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected.bfloat16()) == narrow
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    for name, weight in conv.named_parameters():
        theirs = dict(exact.named_parameters())[name].grad
        assert (weight.grad - theirs).abs().max() <= (1e-6 if narrow else 0.02) * theirs.abs().max(), name


def test_one_column_is_reckoned_as_convolutions_reckon():
    """Without padding, with dilation, and where the layer pads by itself: `narrow` is as wide as the result is."""
    forms = itertools.product(range(1, 12), (1, 2, 3, 5), (0, 1, 2), (1, 2), (2, 3))
    for width, kernel, padding, dilation, stride in forms:
        if 2 * padding < kernel and width + 2 * padding > dilation * (kernel - 1):
            conv = torch.nn.Conv2d(4, 4, (1, kernel), (1, stride), (0, padding), (1, dilation))
            bfloat16.keep_in_float32(conv)
            x = torch.randn(1, 4, 1, width)
            exact = torch.nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)
            with torch.autocast("cpu", torch.bfloat16):
                found = conv(x)
            assert (found.dtype == torch.float32) == (exact.shape[-1] == 1), (width, conv)
    padded = create_conv2d(8, 16, 3, stride=2, padding="same")
    bfloat16.keep_in_float32(padded)
    with torch.autocast("cpu", torch.bfloat16):
        assert [padded(torch.randn(1, 8, 4, width)).dtype for width in (2, 3)] == [torch.float32, torch.bfloat16]


# -- names of other factories ----------------------------------------------------------------------------------------

FACTORIES = {  # every key, as their files list them
    "torchreid v0.0.9, models/__init__.py at af328ff": "resnet50 resnet101 seresnet50 seresnet101 seresnext50 "
    "seresnext101 resnext101 resnet50m densenet121 squeezenet mobilenet shufflenet xception inceptionv4 nasnet dpn92 "
    "inceptionresnetv2 mudeep hacnn",
    "torchreid v0.2.2, models/__init__.py at 016293c": "resnet50 resnet101 seresnet50 seresnet101 seresnext50 "
    "seresnext101 resnext101 resnet50m densenet121 squeezenet mobilenetv2 shufflenet xception inceptionv4 "
    "nasnsetmobile inceptionresnetv2 mudeep hacnn",
    "torchreid v0.5.0, models/__init__.py at e9a2b7c": "resnet50 resnet50_fc512 resnext50_32x4d resnext101_32x4d "
    "se_resnet50 se_resnet50_fc512 se_resnet101 se_resnext50_32x4d se_resnext101_32x4d densenet121 densenet121_fc512 "
    "inceptionresnetv2 inceptionv4 xception nasnsetmobile mobilenetv2 shufflenet squeezenet1_0 squeezenet1_0_fc512 "
    "squeezenet1_1 mudeep resnet50mid hacnn pcb_p6 pcb_p4 mlfn",
    "torchreid at f8cd150, models/__init__.py": "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d "
    "resnext101_32x8d resnet50_fc512 se_resnet50 se_resnet50_fc512 se_resnet101 se_resnext50_32x4d se_resnext101_32x4d "
    "densenet121 densenet169 densenet201 densenet161 densenet121_fc512 inceptionresnetv2 inceptionv4 xception "
    "resnet50_ibn_a resnet50_ibn_b nasnsetmobile mobilenetv2_x1_0 mobilenetv2_x1_4 shufflenet squeezenet1_0 "
    "squeezenet1_0_fc512 squeezenet1_1 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 "
    "mudeep resnet50mid hacnn pcb_p6 pcb_p4 mlfn osnet_x1_0 osnet_x0_75 osnet_x0_5 osnet_x0_25 osnet_ibn_x1_0 "
    "osnet_ain_x1_0 osnet_ain_x0_75 osnet_ain_x0_5 osnet_ain_x0_25",
    "fast-reid at c9bc3ce, the registries of fastreid/modeling": "build_resnet_backbone build_resnest_backbone "
    "build_resnext_backbone build_regnet_backbone build_effnet_backbone build_osnet_backbone "
    "build_shufflenetv2_backbone build_mobilenetv2_backbone build_mobilenetv3_backbone build_repvgg_backbone "
    "build_vit_backbone Baseline MGN MoCo Distiller",
    "reid-strong-baseline at 3da7e6f, modeling/baseline.py": "resnet18 resnet34 resnet50 resnet101 resnet152 "
    "se_resnet50 se_resnet101 se_resnet152 se_resnext50 se_resnext101 senet154 resnet50_ibn_a",
    "ReID-Survey at 38f5912, modeling/baseline.py": "resnet50 resnet50_nl resnet101 resnet152 se_resnet50",
    "Tiny at a13a8a8, model/make_model.py": "resnet50",
    "AlignedReID++ at fca9620, models/__init__.py": "resnet50 resnet101 densenet121 shufflenet inceptionv4",
    "wangguanan at 30db341, core/base.py": "res50 res50ibna osnetain",
    "light-reid at 97c6b2d, lightreid/models/backbones/__init__.py": "resnet18ibna resnet34ibna resnet50ibna "
    "resnet101ibna resnet152ibna vit_deit_tiny_patch16_224 vit_deit_small_patch16_224 vit_deit_base_patch16_224",
}


@pytest.mark.parametrize("source", FACTORIES)
def test_every_key_of_a_factory_is_a_backbone_or_says_what_it_is_here(source):
    import cli
    from recipes import RECIPES

    for key in FACTORIES[source].split():
        if key in backbones.ELSEWHERE:
            flags = backbones.ELSEWHERE[key].split()
            assert flags[0] == "nothing:" or flags[0] == "--backbone" or flags[1].strip(",") in RECIPES
            with pytest.raises(ValueError, match=f"'{key}' is (--recipe|--backbone|nothing)"):
                backbones.resolve(key)
        else:
            library, name = backbones.resolve(key)
            assert library in ("here", "torchvision", "timm") and name
        if key not in RECIPES:
            with pytest.raises(ValueError, match=f"'{key}'; it is (--|nothing)"):
                cli.named_recipe(key)


def test_se_networks_are_those_of_their_time():
    """Their stage strides are in the first 1x1, as in Caffe; timm's own newer ones keep them in the 3x3."""
    for name in ("seresnet50", "se_resnet50"):
        with torch.device("meta"):
            net = backbones.create(name)
        assert net.layer2[0].conv1.stride == (2, 2) and net.layer2[0].conv2.stride == (1, 1)
    with torch.device("meta"):
        newer = backbones.create("seresnet50.ra2_in1k")
    assert newer.layer2[0].conv1.stride == (1, 1)
