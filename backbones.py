"""Backbones by name: images (B, 3, H, W) in, a feature map (B, C, h, w) out.

`create` takes any classification network of torchvision or timm and removes its head; weight names stay those of the
published ImageNet files. What neither library has is written here: ResNet-IBN (Pan et al., ECCV 2018), OSNet,
OSNet-IBN and OSNet-AIN (Zhou et al., ICCV 2019 and TPAMI 2021), all with the layout of their released weights.
"""

import difflib
import functools
import types
import urllib.error
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck

# Names of other re-ID code bases -> (library, name there). torchreid: torchreid/models/__init__.py at f8cd150;
# "bot": modeling/baseline.py of the strong baseline at 3da7e6f. Both use the SE networks whose stage strides follow
# Caffe (layer0.*, in timm "legacy"), not timm's `seresnet50`.
ALIASES = {
    "inceptionresnetv2": ("timm", "inception_resnet_v2"),
    "inceptionv4": ("timm", "inception_v4"),
    "inception_v3": ("timm", "inception_v3"),  # torchvision's rescales its input inside `forward` for its own weights
    "nasnetmobile": ("here", "nasnetamobile"),
    "nasnsetmobile": ("here", "nasnetamobile"),  # spelt so in torchreid
    "se_resnet50": ("timm", "legacy_seresnet50"),
    "se_resnet101": ("timm", "legacy_seresnet101"),
    "se_resnet152": ("timm", "legacy_seresnet152"),
    "se_resnext50": ("timm", "legacy_seresnext50_32x4d"),
    "se_resnext50_32x4d": ("timm", "legacy_seresnext50_32x4d"),
    "se_resnext101": ("timm", "legacy_seresnext101_32x4d"),
    "se_resnext101_32x4d": ("timm", "legacy_seresnext101_32x4d"),
    "senet154": ("timm", "legacy_senet154"),
    "xception": ("timm", "legacy_xception"),
}
# Where torchvision's classification networks stop being convolutional.
_HEADS = ("avgpool", "dropout", "fc", "classifier", "head", "heads", "flatten")
_IMAGE_SIZE = (256, 128)  # the usual person box, used to probe a network when the caller names no size


def create(name, *, pretrained=False, last_stride=None, image_size=None, stem_relu=True, stem_ceil=False):
    """The network `name` without its head; `.out_channels` is the width of its map.

    name: a key of `available()`. torchvision is preferred where both libraries know a name.
    pretrained: ImageNet weights (torchvision's IMAGENET1K_V1 where they exist, since the published baselines started
        from those). RuntimeError if they are neither cached nor downloadable; never random weights instead.
    last_stride: 1 keeps the resolution of the third stage in the fourth (Sun et al. 2018, Luo et al. 2019), for
        networks with a `layer4`; None or 2 leaves the network as published.
    image_size: (H, W) that a network with a fixed input grid (some vision transformers) is built for.
    stem_relu: False drops the ReLU after `bn1`, which the released strong baseline forgot (modeling/backbones/
        resnet.py at 3da7e6f, "add missed relu"): its trained plain ResNets give their numbers only without it.
    stem_ceil: True pools the stem without padding and rounds its size up, as the ResNets of fast-reid (fastreid/
        modeling/backbones/resnet.py at c9bc3ce): their weights give another embedding under torchvision's padding.
    Raises ValueError for an unknown name or a network that cannot give a map.
    """
    library, key = resolve(name)
    build = {"here": _create_here, "torchvision": _create_torchvision, "timm": _create_timm}[library]
    net = build(key, pretrained, image_size)
    if last_stride not in (None, 1, 2):
        raise ValueError(f"last_stride is {last_stride}; expected 1 (finer last map) or 2 (as published).")
    if last_stride == 1:
        remove_stride(getattr(net, "layer4", None), name)
    if not stem_relu or stem_ceil:
        if [k for k, _ in net.named_children()][:4] != ["conv1", "bn1", "relu", "maxpool"]:
            raise ValueError(f"Backbone '{name}' has no ResNet stem to change; leave stem_relu and stem_ceil alone.")
        net.relu = net.relu if stem_relu else nn.Identity()
        net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True) if stem_ceil else net.maxpool
    net.out_channels = _out_channels(net, name, image_size or _IMAGE_SIZE)
    return net


def available():
    """All names `create` knows, sorted. Without timm installed, those of torchvision and of this file."""
    names = set(HERE) | set(_torchvision_names())
    try:
        import timm
    except ImportError:
        return sorted(names | {name for name, (library, _) in ALIASES.items() if library != "timm"})
    return sorted(names | set(ALIASES) | set(timm.list_models()))


def resolve(name):
    """name -> (library, name there), library one of "here", "torchvision", "timm"."""
    if name in HERE:
        return "here", name
    if name in ALIASES:
        return ALIASES[name]
    if name in _torchvision_names():
        return "torchvision", name
    try:
        import timm
    except ImportError:
        timm = None
    if timm is not None and timm.is_model(name):
        return "timm", name
    near = difflib.get_close_matches(name, available(), n=5, cutoff=0.4)
    hint = "" if timm is not None else " Names of timm need it installed: pip install timm."
    raise ValueError(f"Unknown backbone '{name}'. Nearest names: {', '.join(near) or 'none'}.{hint}")


# -- torchvision and timm ---------------------------------------------------------------------------------------------


def _torchvision_names():
    return torchvision.models.list_models(module=torchvision.models)


def _create_torchvision(name, pretrained, image_size):
    """The children in front of the head, in a Sequential under their own names: so weight names do not change."""
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    if pretrained and name == "googlenet":
        raise ValueError("torchvision's googlenet weights expect inputs scaled in another way; choose 'inception_v3'.")
    whole = torchvision.models.get_model(name, weights=None, **options)
    if pretrained:
        _load_torchvision(whole, name)
    body = OrderedDict()
    for child, module in whole.named_children():
        if child in _HEADS:
            break
        body[child] = module
    if isinstance(whole, DenseNet):  # its forward applies a ReLU between `features` and the pooling
        body["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(body)


def _load_torchvision(net, name):
    weights = torchvision.models.get_model_weights(name)
    entry = getattr(weights, "IMAGENET1K_V1", None) or weights.DEFAULT
    net.load_state_dict(_download(entry.url, name))


def _create_timm(name, pretrained, image_size):
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"Backbone '{name}' comes from timm, which is not installed: pip install timm") from error
    build = functools.partial(timm.create_model, num_classes=0, global_pool="")
    try:
        net = _first_accepted(functools.partial(_pretrained_timm, build, name, pretrained), *_size_options(image_size))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"Backbone '{name}' gives no feature map: {error}") from error
    # Weight names must stay timm's, so the network itself is returned with its forward replaced, not a wrapper.
    net.forward = types.MethodType(_timm_map, net)
    return net


def vision_transformer(name, *, pretrained=False, image_size=_IMAGE_SIZE, stride=16, drop_path=0.0):
    """A plain vision transformer of timm as a module of parts (patch_embed, cls_token, pos_embed, norm_pre, blocks,
    norm), its patches taken every `stride` pixels and its position embedding resized to their number.

    Bilinear resizing, as damo-cv/TransReID (model/backbones/vit_pytorch.py at dec5504).
    """
    library, key = resolve(name)
    if library != "timm":
        raise ValueError(f"'{name}' is not a vision transformer of timm; use for example vit_base_patch16_224.")
    import timm

    build = functools.partial(timm.create_model, num_classes=0, drop_path_rate=drop_path)
    net = _pretrained_timm(build, key, pretrained)
    if not all(
        isinstance(getattr(net, part, None), nn.Module | nn.Parameter)
        for part in ("cls_token", "pos_embed", "patch_embed", "norm_pre", "blocks", "norm")
    ):
        raise ValueError(
            f"'{name}' is not a plain vision transformer with a class token; use for example "
            "vit_base_patch16_224 or deit_small_patch16_224."
        )
    patch, proj = net.patch_embed.patch_size, net.patch_embed.proj
    proj.stride = (stride, stride)
    rows, columns = ((size - p) // stride + 1 for size, p in zip(image_size, patch, strict=True))
    token, grid = net.pos_embed[:, :1], net.pos_embed[:, 1:]  # (1, 1, D), (1, N, D)
    grid = grid.transpose(1, 2).unflatten(2, net.patch_embed.grid_size)
    grid = F.interpolate(grid, size=(rows, columns), mode="bilinear").flatten(2).transpose(1, 2)
    net.pos_embed = nn.Parameter(torch.cat((token, grid), dim=1).detach())
    return net


def _pretrained_timm(build, name, pretrained, **options):
    """build(name, pretrained=..., **options); a failed download becomes a message that names the file."""
    import timm

    try:
        return build(name, pretrained=pretrained, **options)
    except (AssertionError, TypeError, ValueError):
        raise
    except Exception as error:
        if not pretrained:
            raise
        source = timm.get_pretrained_cfg(name)
        file = source and (source.hf_hub_id or source.url)
        raise RuntimeError(_no_weights(name, f"the weights '{file}' of timm" if file else "them", error)) from error


def _size_options(image_size):
    """Ways to tell a timm network about non-square images, most specific first; convolutional ones take none."""
    size = [] if image_size is None else [{"img_size": tuple(image_size)}]
    return [{"dynamic_img_size": True, **(size[0] if size else {})}, *(size or [{"img_size": _IMAGE_SIZE}]), {}]


def _first_accepted(build, *options):
    """build(**option) for the first option whose names the constructor has."""
    for option in options:
        try:
            return build(**option)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
    raise TypeError("no way to build it was accepted")


def _timm_map(net, images):
    """Unpooled output of a timm network as (B, C, h, w); class and register tokens are dropped."""
    x = type(net).forward(net, images)
    if x.dim() == 4:
        return x.permute(0, 3, 1, 2) if getattr(net, "output_fmt", None) == "NHWC" else x
    if x.dim() != 3 or not hasattr(net, "patch_embed"):
        raise ValueError(f"its output has shape {tuple(x.shape)}, expected a map (B, C, h, w) or patch tokens")
    x = x[:, getattr(net, "num_prefix_tokens", 0) :]  # (B, h*w, C)
    rows, columns = net.patch_embed.dynamic_feat_size(images.shape[-2:])
    return x.transpose(1, 2).unflatten(2, (rows, columns))


def _download(url, name, map_location="cpu"):
    """State dict behind `url`, from the torch hub cache or the network."""
    try:
        return torch.hub.load_state_dict_from_url(url, map_location=map_location, weights_only=True)
    except (urllib.error.URLError, OSError) as error:
        raise RuntimeError(_no_weights(name, f"'{url.rsplit('/', 1)[-1]}'", error)) from error


def _no_weights(name, file, error):
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"ImageNet weights of '{name}' are not on this machine and could not be downloaded ({error}). "
        f"Fetch {file} elsewhere and put it into {folder}, or name it with --pretrained FILE; "
        "--pretrained none trains from random weights."
    )


def remove_stride(stage, name):
    """Stride 2 -> 1 in a residual stage, wherever its first block has it (conv1, conv2, shortcut); None: no stage."""
    strided = (
        []
        if stage is None
        else [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.AvgPool2d) and m.stride in (2, (2, 2))]
    )
    if not strided:
        raise ValueError(
            f"Backbone '{name}' has no fourth residual stage with stride 2, so last_stride=1 does not "
            "apply to it. Use a ResNet-like backbone, or last_stride=2."
        )
    for module in strided:
        if isinstance(module, nn.AvgPool2d):  # ResNet-D: the shortcut averages 2x2 before its 1x1 convolution
            module.kernel_size = module.stride = 1
        else:
            module.stride = (1, 1)


def _out_channels(net, name, image_size):
    """Channels of the map, found by a forward pass on the meta device: no arithmetic, no memory."""
    state = {k: torch.empty_like(v, device="meta") for k, v in (*net.named_parameters(), *net.named_buffers())}
    images = torch.empty(1, 3, *image_size, device="meta")
    training = net.training
    try:
        out = torch.func.functional_call(net.eval(), state, images)
    except Exception as error:
        raise ValueError(
            f"Backbone '{name}' cannot be used on {image_size[0]}x{image_size[1]} images: {error}. "
            "Choose a convolutional backbone or another image size."
        ) from error
    finally:
        net.train(training)
    if not isinstance(out, torch.Tensor) or out.dim() != 4:
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ValueError(f"Backbone '{name}' gives {shape}, expected a feature map (B, C, h, w).")
    return out.shape[1]


def depthwise_in_float32(net):
    """Keep `net`'s depthwise convolutions with a stride or a kernel above 3x3 out of bfloat16 autocast on a CPU.

    oneDNN has no bfloat16 kernel for their gradients: with a stride the one for the input takes 26 to 380 times as long
    as in float32 (torch 2.15, AVX512-BF16), and MobileNetV3-Small as a whole three times as long.
    """
    for conv in net.modules():
        if (
            type(conv) is nn.Conv2d
            and conv.groups == conv.in_channels > 1
            and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)
        ):
            conv.forward = functools.partial(_in_float32, conv)


def _in_float32(conv, x):
    with torch.autocast("cpu", enabled=False):
        return nn.Conv2d.forward(conv, x.float()).to(x.dtype)


def kaiming_fan_out(net):
    """Convolutions N(0, 2/fan_out), biases 0: what torchreid and IBN-Net train from scratch with."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# -- ResNet-IBN: Pan, Luo, Shi, Tang. Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net. ------
# -- ECCV 2018, figure 3. Released code and weights: XingangPan/IBN-Net, release v1.0. --------------------------------


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest (section 3.2, IBN-a)."""

    def __init__(self, channels):
        super().__init__()
        self.split = (channels // 2, channels - channels // 2)
        self.IN = nn.InstanceNorm2d(self.split[0], affine=True)
        self.BN = nn.BatchNorm2d(self.split[1])

    def forward(self, x):  # (B, C, h, w)
        first, second = x.split(self.split, dim=1)
        return torch.cat((self.IN(first), self.BN(second)), dim=1)


class _BottleneckIN(Bottleneck):
    """Bottleneck with instance norm between the addition and the last ReLU (IBN-b)."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.IN = nn.InstanceNorm2d(self.conv3.out_channels, affine=True)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.IN(self.bn3(self.conv3(x)) + shortcut))


def _resnet_ibn_a(net):
    """bn1 of every block of the first three stages; the fourth keeps batch norm, which holds the semantics."""
    for stage in (net.layer1, net.layer2, net.layer3):
        for block in stage:
            block.bn1 = IBN(block.bn1.num_features)


def _resnet_ibn_b(net):
    """Instance norm in the stem and at the end of the first two stages."""
    net.bn1 = nn.InstanceNorm2d(64, affine=True)
    for stage in (net.layer1, net.layer2):
        last = stage[-1]
        stage[-1] = _BottleneckIN(last.conv1.in_channels, last.conv1.out_channels)


def _create_resnet_ibn(depth, change):
    whole = torchvision.models.get_model(f"resnet{depth}", weights=None)
    change(whole)
    kaiming_fan_out(whole)  # the replaced blocks too; as the released code
    return nn.Sequential(OrderedDict((k, m) for k, m in whole.named_children() if k not in _HEADS))


# -- Non-local ResNet of AGW and fast-reid: mangye16/ReID-Survey, modeling/backbones/resnet_nl.py at 38f5912. ----------


class NonLocal(nn.Module):
    """z = W(softmax-free attention over all positions) + x (Wang et al., CVPR 2018, dot product form, Eq. 4 and 6).

    The released code computes its inner width as `reduc_ratio // reduc_ratio`: one channel, where the paper has half.
    Its weights need that, so it is kept. W ends in a batch norm at 0, so that training starts from the plain ResNet.
    """

    def __init__(self, channels, inner=1):
        super().__init__()
        self.g = nn.Conv2d(channels, inner, 1)
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.W[1].weight)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)

    def forward(self, x):  # (B, C, h, w)
        g, theta, phi = (f(x).flatten(2) for f in (self.g, self.theta, self.phi))  # (B, inner, N)
        attention = theta.transpose(1, 2) @ phi / g.shape[2]  # (B, N, N)
        y = (attention @ g.transpose(1, 2)).transpose(1, 2)  # (B, inner, N)
        return self.W(y.unflatten(2, x.shape[2:])) + x


class NonLocalResNet(nn.Module):
    """A ResNet with non-local blocks after the last counts[i] blocks of stage i + 1; weight names NL_1 to NL_4."""

    def __init__(self, net, counts):
        super().__init__()
        for name, module in net.named_children():
            self.add_module(name, module)
        for i, count in enumerate(counts, start=1):
            last = [m for m in getattr(net, f"layer{i}").modules() if isinstance(m, nn.Conv2d)][-1]
            self.add_module(f"NL_{i}", nn.ModuleList(NonLocal(last.out_channels) for _ in range(count)))
        self.out_channels = net.out_channels

    def forward(self, images):
        return self.stages(self.maxpool(self.relu(self.bn1(self.conv1(images)))))

    def stages(self, x):
        """Everything behind the stem."""
        for i in (1, 2, 3, 4):
            stage, added = getattr(self, f"layer{i}"), getattr(self, f"NL_{i}")
            for j, block in enumerate(stage, start=len(added) - len(stage)):
                x = block(x)
                if j >= 0:
                    x = added[j](x)
        return x


# -- OSNet: Zhou, Yang, Cavallaro, Xiang. Omni-Scale Feature Learning for Person Re-Identification. ICCV 2019. --------
# -- OSNet-AIN: the same authors. Learning Generalisable Omni-Scale Representations. TPAMI 2021. ----------------------
# -- Weight names of KaiyangZhou/deep-person-reid, torchreid/models/osnet.py and osnet_ain.py at f8cd150. -------------


class ConvNorm(nn.Module):
    """Convolution, normalisation ("batch", "instance" or None), activation (a function or None)."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, *, groups=1, norm="batch", act=F.relu):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        if norm is not None:
            self.bn = nn.BatchNorm2d(out_channels) if norm == "batch" else _instance_norm(out_channels)
        self.act = act

    def forward(self, x):
        x = self.conv(x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        return x if self.act is None else self.act(x, inplace=True)


class LiteConv3x3(nn.Module):
    """Lite 3x3 (figure 3b): pointwise, then depthwise convolution, batch norm, ReLU."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv2(self.conv1(x))), inplace=True)


# Joining and splitting the streams costs memory traffic: it is 5 % faster with AVX512, 5 % slower with AVX2.
FEWER_CALLS_PAY = "AVX512" in torch.backends.cpu.get_cpu_capability()


def side_by_side(layers: list[LiteConv3x3], x):
    """What k layers make of (B, k C, h, w), layer i of the i-th C channels; or each of the same (B, C, h, w).

    The layers' own numbers in fewer calls: what a CPU does before a call computes anything is a quarter of a training
    step of OSNet x0.25 with a batch of 64 on a CPU with AVX512 (benchmarks/README.md).
    """
    first, norms = layers[0], [layer.bn for layer in layers]
    x = F.conv2d(x, torch.cat([m.conv1.weight for m in layers]), groups=x.shape[1] // first.conv1.in_channels)
    x = F.conv2d(x, torch.cat([m.conv2.weight for m in layers]), padding=1, groups=x.shape[1])
    names = ("weight", "bias", "running_mean", "running_var")
    joint = {name: torch.cat([getattr(bn, name) for bn in norms]) for name in names}
    x = torch.func.functional_call(first.bn, joint, x)  # whatever kind of batch norm it is
    if first.bn.training:
        for name in names[2:]:
            for bn, new in zip(norms, joint[name].chunk(len(norms)), strict=True):
                getattr(bn, name).copy_(new)
        for bn in norms[1:]:
            bn.num_batches_tracked.add_(1)
    return F.relu(x, inplace=True)


class AggregationGate(nn.Module):
    """Channel-wise weights in (0, 1) from globally pooled streams, (B, C, 1, 1); shared by all (section 3.2)."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, pooled):  # (B, C, 1, 1)
        return self.fc2(F.relu(self.fc1(pooled))).sigmoid()


class OSBlock(nn.Module):
    """Omni-scale residual block (figure 4): T = 4 streams, stream t of t Lite 3x3 (receptive field 2t + 1).

    norm: None, "out" (instance norm after the residual sum: IBN) or "in" (inside the residual branch: AIN).
    ain_names: streams are named conv2.t as in OSNet-AIN instead of conv2a to conv2d.
    """

    def __init__(self, in_channels, out_channels, *, norm=None, ain_names=False):
        super().__init__()
        middle = out_channels // 4
        self.conv1 = ConvNorm(in_channels, middle)
        if ain_names:
            self.conv2 = nn.ModuleList(_Stream(middle, t) for t in (1, 2, 3, 4))
        else:
            self.conv2a = LiteConv3x3(middle)
            self.conv2b = nn.Sequential(*(LiteConv3x3(middle) for _ in range(2)))
            self.conv2c = nn.Sequential(*(LiteConv3x3(middle) for _ in range(3)))
            self.conv2d = nn.Sequential(*(LiteConv3x3(middle) for _ in range(4)))
        self.gate = AggregationGate(middle)
        self.conv3 = ConvNorm(middle, out_channels, act=None, norm=None if norm == "in" else "batch")
        if in_channels != out_channels:
            self.downsample = ConvNorm(in_channels, out_channels, act=None)
        if norm is not None:
            self.IN = _instance_norm(out_channels)
        self.norm = norm

    def streams(self, x):
        """x^1 to x^T, each (B, C/4, h, w)."""
        if hasattr(self, "conv2"):
            layers = [list(stream.layers) for stream in self.conv2]
        else:
            layers = [[self.conv2a], list(self.conv2b), list(self.conv2c), list(self.conv2d)]
        exchanges = type(layers[0][0].bn) is not nn.BatchNorm2d  # --sync_bn: each call waits for the other processes
        if not (self.training and x.device.type == "cpu" and (FEWER_CALLS_PAY or exchanges)):
            return [functools.reduce(lambda y, layer: layer(y), stream, x) for stream in layers]
        done, width, channels_last = [], x.shape[1], x.is_contiguous(memory_format=torch.channels_last)
        for depth in range(len(layers) - 1):
            x = side_by_side([stream[depth] for stream in layers[depth:]], x)
            x_t, x = x.split((width, x.shape[1] - width), dim=1)  # the first of these streams ends here
            done.append(x_t)
            x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return [*done, layers[-1][-1](x)]

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv1(x)
        streams = self.streams(x)
        gates = self.gate(torch.cat([x_t.mean(dim=(2, 3), keepdim=True) for x_t in streams])).chunk(len(streams))
        x = streams[0] * gates[0]
        for x_t, gate in zip(streams[1:], gates[1:], strict=True):
            x += x_t * gate  # Eq. (3): sum_t G(x^t) * x^t (addcmul would be slower: it broadcasts element by element)
        x = self.conv3(x)
        if self.norm == "in":
            x = self.IN(x)
        x += shortcut  # Eq. (1)
        if self.norm == "out":
            x = self.IN(x)
        return F.relu(x, inplace=True)


class _Stream(nn.Module):
    """`depth` Lite 3x3 in a row, under the weight names of OSNet-AIN."""

    def __init__(self, channels, depth):
        super().__init__()
        self.layers = nn.Sequential(*(LiteConv3x3(channels) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x)


class OSNet(nn.Module):
    """OSNet up to conv5 (table 1): stride 16, width channels[-1]. The 512-d fc after pooling belongs to the head.

    channels: widths of conv1 to conv4. norms: per stage conv2 to conv4, the `norm` of its two blocks.
    stem: normalisation of conv1. ain_names: layout of the released OSNet-AIN (pool2, pool3, conv2.t).
    """

    def __init__(self, channels, *, norms=((None, None),) * 3, stem="batch", ain_names=False):
        super().__init__()
        self.conv1 = ConvNorm(3, channels[0], 7, stride=2, norm=stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, pair in enumerate(norms):
            width_in, width = channels[stage], channels[stage + 1]
            blocks = [
                OSBlock(width_in, width, norm=pair[0], ain_names=ain_names),
                OSBlock(width, width, norm=pair[1], ain_names=ain_names),
            ]
            halve = nn.Sequential(ConvNorm(width, width), nn.AvgPool2d(2, stride=2)) if stage < 2 else None
            if halve is not None and not ain_names:  # the transition is part of the stage in the first release
                blocks.append(halve)
            self.add_module(f"conv{stage + 2}", nn.Sequential(*blocks))
            if halve is not None and ain_names:
                self.add_module(f"pool{stage + 2}", halve)
        self.conv5 = ConvNorm(channels[3], channels[3])
        kaiming_fan_out(self)

    def forward(self, images):  # (B, 3, H, W)
        x = images
        for stage in self.children():
            x = stage(x)
        return x  # (B, channels[3], H/16, W/16)


def _instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


def _osnet(width, **options):
    return OSNet([int(round(c * width)) for c in (64, 256, 384, 512)], **options)


# -- ShuffleNet: Zhang, Zhou, Lin, Sun. ShuffleNet: An Extremely Efficient CNN for Mobile Devices. CVPR 2018. ---------
# -- Weight names of torchreid/models/shufflenet.py at f8cd150 (g = 3 groups). ----------------------------------------


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1 (figure 2b; 2c with stride 2, which concatenates)."""

    def __init__(self, in_channels, out_channels, stride, groups, *, group_first=True):
        super().__init__()
        middle = out_channels // 4
        new_channels = out_channels - in_channels if stride == 2 else out_channels
        self.groups, self.stride = groups, stride
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=groups if group_first else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new_channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new_channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = y.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)  # channel shuffle
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.stride == 2:
            return F.relu(torch.cat((F.avg_pool2d(x, 3, stride=2, padding=1), y), dim=1))
        return F.relu(x + y)


class ShuffleNet(nn.Module):
    """Table 1, column g = 3: stages of 4, 8 and 4 units, 240, 480 and 960 channels."""

    def __init__(self, groups=3, channels=(24, 240, 480, 960), units=(4, 8, 4)):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        for stage, count in enumerate(units):
            # 24 channels are too few to group: the first 1x1 of stage 2 is dense (section 3.2)
            blocks = [ShuffleUnit(channels[stage], channels[stage + 1], 2, groups, group_first=stage > 0)]
            blocks += [ShuffleUnit(channels[stage + 1], channels[stage + 1], 1, groups) for _ in range(count - 1)]
            self.add_module(f"stage{stage + 2}", nn.Sequential(*blocks))

    def forward(self, images):
        return self.stage4(self.stage3(self.stage2(self.conv1(images))))  # (B, 960, H/32, W/32)


# -- MobileNetV2: Sandler et al. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018. -------------------
# -- torchreid's variant (torchreid/models/mobilenetv2.py at f8cd150), which its published re-ID weights need: other ---
# -- names than torchvision's `mobilenet_v2`, a 1x1 in the first block too, widths truncated instead of rounded to 8. --


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the width, depthwise 3x3, linear 1x1; identity shortcut where the shape allows."""

    def __init__(self, in_channels, out_channels, expansion, stride):
        super().__init__()
        middle = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv1 = ConvNorm(in_channels, middle, act=F.relu6)
        self.dwconv2 = ConvNorm(middle, middle, 3, stride, groups=middle, act=F.relu6)
        self.conv3 = nn.Sequential(nn.Conv2d(middle, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        y = self.conv3(self.dwconv2(self.conv1(x)))
        return x + y if self.shortcut else y


class MobileNetV2(nn.Sequential):
    """Table 2, all widths times `width` (the last one not below 1280)."""

    def __init__(self, width):
        channels = int(32 * width)
        stages = [ConvNorm(3, channels, 3, stride=2, act=F.relu6)]
        for expansion, c, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            out = int(c * width)
            blocks = [InvertedResidual(channels, out, expansion, stride)]
            blocks += [InvertedResidual(out, out, expansion, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        stages.append(ConvNorm(channels, int(1280 * max(width, 1)), act=F.relu6))
        super().__init__(OrderedDict((f"conv{i}", stage) for i, stage in enumerate(stages, start=1)))
        kaiming_fan_out(self)


# -- NASNet-A Mobile (4 @ 1056): Zoph, Vasudevan, Shlens, Le. Learning Transferable Architectures. CVPR 2018. ---------
# -- timm has NASNet-A Large only. Weight names and paddings of the released port, nasnetamobile-7e03cead.pth, as in ---
# -- torchreid/models/nasnet.py at f8cd150. ---------------------------------------------------------------------------

# A cell adds pairs. Each entry is ((operation, input), (operation, input)); inputs are "h" (this cell's 1x1 of the
# previous cell), "p" (the one before that) or the index of an earlier pair; operation None passes the input on.
_NORMAL = (
    (("sep5", "h"), ("sep3", "p")),
    (("sep5", "p"), ("sep3", "p")),
    (("avg", "h"), (None, "p")),
    (("avg", "p"), ("avg", "p")),
    (("sep3", "h"), (None, "h")),
)
_REDUCTION = (
    (("sep5/2", "h"), ("sep7/2", "p")),
    (("max/2", "h"), ("sep7/2", "p")),
    (("avg/2", "h"), ("sep5/2", "p")),
    ((None, 1), ("avg", 0)),
    (("sep3", 0), ("max/2", "h")),
)


class _Shifted(nn.Module):
    """A strided operation that starts one pixel later, as TensorFlow pads even sizes: one more row and column of zeros
    above and left, then the first output row and column dropped."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(F.pad(x, (1, 0, 1, 0)))[:, :, 1:, 1:]


class _Separable(nn.Module):
    """ReLU, depthwise, pointwise, batch norm, twice; the stride is in the first."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, *, shifted=False, middle=None):
        super().__init__()
        middle = middle or in_channels
        for i, (c_in, c_out, s) in enumerate(((in_channels, middle, stride), (middle, out_channels, 1)), start=1):
            depthwise = nn.Conv2d(c_in, c_in, kernel_size, s, kernel_size // 2, groups=c_in, bias=False)
            pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
            self.add_module(
                f"separable_{i}", nn.Sequential(OrderedDict(depthwise_conv2d=depthwise, pointwise_conv2d=pointwise))
            )
            self.add_module(f"bn_sep_{i}", nn.BatchNorm2d(c_out, eps=0.001))
        self.shifted = shifted

    def forward(self, x):
        x = F.relu(x)
        if self.shifted:  # as in _Shifted, which would change the weight names
            x = self.separable_1(F.pad(x, (1, 0, 1, 0)))[:, :, 1:, 1:]
        else:
            x = self.separable_1(x)
        x = F.relu(self.bn_sep_1(x))
        return self.bn_sep_2(self.separable_2(x))


class NASNetCell(nn.Module):
    """One cell. p: how the input before the last is brought to this cell's size: "same" (the first stem cell reads the
    last one), "halve" (its map is twice as large), "project" (1x1)."""

    def __init__(self, pairs, h_channels, p_channels, width, *, p, shifted=True):
        super().__init__()
        self.pairs, self.p = pairs, p
        self.conv_1x1 = self._project(h_channels, width)
        if p == "project":
            self.conv_prev_1x1 = self._project(p_channels, width)
        elif p == "halve":
            for path in ("path_1", "path_2"):
                conv = nn.Conv2d(p_channels, width // 2, 1, bias=False)
                self.add_module(path, nn.Sequential(OrderedDict(conv=conv)))
            self.final_path_bn = nn.BatchNorm2d(width, eps=0.001)
        for i, pair in enumerate(pairs):
            for side, (operation, source) in zip(("left", "right"), pair, strict=True):
                if operation is not None:
                    raw = source == "p" and p == "same"  # the stem's separables read its input, not a projection
                    module = self._operation(operation, p_channels if raw else width, width, shifted)
                    self.add_module(f"comb_iter_{i}_{side}", module)
        self.out_channels = width * (6 if pairs is _NORMAL else 4)

    @staticmethod
    def _project(in_channels, out_channels):
        return nn.Sequential(
            OrderedDict(
                relu=nn.ReLU(),
                conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                bn=nn.BatchNorm2d(out_channels, eps=0.001),
            )
        )

    @staticmethod
    def _operation(name, in_channels, width, shifted):
        kind, _, strided = name.partition("/")
        shifted = shifted and bool(strided)
        stride = 2 if strided else 1
        if kind.startswith("sep"):
            middle = width if in_channels != width else None
            return _Separable(in_channels, width, int(kind[3:]), stride, shifted=shifted, middle=middle)
        if kind == "max":
            pool = nn.MaxPool2d(3, stride, padding=1)
        else:
            pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return _Shifted(pool) if shifted else pool

    def _previous(self, prev):
        if self.p == "same":
            return prev
        if self.p == "project":
            return self.conv_prev_1x1(prev)
        prev = F.relu(prev)
        later = F.pad(prev, (-1, 1, -1, 1))  # starts one pixel later
        return self.final_path_bn(torch.cat((self.path_1(prev[:, :, ::2, ::2]), self.path_2(later[:, :, ::2, ::2])), 1))

    def forward(self, x, prev):
        state = {"h": self.conv_1x1(x), "p": self._previous(prev)}
        for i, pair in enumerate(self.pairs):
            terms = []
            for side, (operation, source) in zip(("left", "right"), pair, strict=True):
                value = state[source]
                terms.append(value if operation is None else getattr(self, f"comb_iter_{i}_{side}")(value))
            state[i] = terms[0] + terms[1]
        kept = ("p", 0, 1, 2, 3, 4) if self.pairs is _NORMAL else (1, 2, 3, 4)
        return torch.cat([state[k] for k in kept], dim=1)


class NASNetMobile(nn.Module):
    """Stem, then three times four normal cells with a reduction cell between (figure 2); 24 * 44 = 1056 channels."""

    def __init__(self, filters=44, stem=32):
        super().__init__()
        self.conv0 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, stem, 3, stride=2, bias=False), bn=nn.BatchNorm2d(stem, eps=0.001))
        )
        self.cell_stem_0 = NASNetCell(_REDUCTION, stem, stem, filters // 4, p="same", shifted=False)
        self.cell_stem_1 = NASNetCell(_REDUCTION, filters, stem, filters // 2, p="halve")
        last, before = self.cell_stem_1.out_channels, self.cell_stem_0.out_channels  # channels
        for group in range(3):
            width = filters * 2**group
            if group > 0:
                cell = NASNetCell(_REDUCTION, last, before, width, p="project")
                self.add_module(f"reduction_cell_{group - 1}", cell)
                last, before = cell.out_channels, last
            for i in range(4):
                cell = NASNetCell(_NORMAL, last, before, width, p="halve" if i == 0 else "project")
                self.add_module(f"cell_{6 * group + i}", cell)  # numbered as in NASNet-A Large, which has six each
                last, before = cell.out_channels, last
        kaiming_fan_out(self)

    def forward(self, images):
        stem = self.conv0(images)
        before = self.cell_stem_0(stem, stem)
        last = self.cell_stem_1(before, stem)
        for name, cell in self.named_children():
            if name.startswith(("cell_", "reduction")) and not name.startswith("cell_stem"):
                last, before = cell(last, before), last
        return F.relu(last)  # (B, 1056, H/32, W/32)


_IBN = {"norms": (("out", "out"), (None, None), (None, None)), "stem": "instance"}
_AIN = {"norms": (("in", "in"), (None, "in"), ("in", None)), "stem": "instance", "ain_names": True}
_IBN_RELEASE = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"

# name -> (constructor, file of the ImageNet weights or None, URL of its folder or None if there is no direct link)
HERE = {
    **{
        f"resnet{d}_ibn_a": (functools.partial(_create_resnet_ibn, d, _resnet_ibn_a), file, file and _IBN_RELEASE)
        for d, file in (
            (18, "resnet18_ibn_a-2f571257.pth"),
            (34, "resnet34_ibn_a-94bc1577.pth"),
            (50, "resnet50_ibn_a-d9d0bb7b.pth"),
            (101, "resnet101_ibn_a-59ea0ac6.pth"),
            (152, None),
        )
    },
    "resnet50_ibn_b": (
        functools.partial(_create_resnet_ibn, 50, _resnet_ibn_b),
        "resnet50_ibn_b-9ca61e85.pth",
        _IBN_RELEASE,
    ),
    **{
        f"osnet_{key}": (functools.partial(_osnet, w), f"osnet_{key}_imagenet.pth", None)
        for key, w in (("x1_0", 1.0), ("x0_75", 0.75), ("x0_5", 0.5), ("x0_25", 0.25))
    },
    "osnet_ibn_x1_0": (functools.partial(_osnet, 1.0, **_IBN), "osnet_ibn_x1_0_imagenet.pth", None),
    **{
        f"osnet_ain_{key}": (functools.partial(_osnet, w, **_AIN), f"osnet_ain_{key}_imagenet.pth", None)
        for key, w in (("x1_0", 1.0), ("x0_75", 0.75), ("x0_5", 0.5), ("x0_25", 0.25))
    },
    "shufflenet": (ShuffleNet, "shufflenet_imagenet.pth", None),
    "mobilenetv2_x1_0": (functools.partial(MobileNetV2, 1.0), "mobilenetv2_x1_0_imagenet.pth", None),
    "mobilenetv2_x1_4": (functools.partial(MobileNetV2, 1.4), "mobilenetv2_x1_4_imagenet.pth", None),
    "nasnetamobile": (NASNetMobile, "nasnetamobile-7e03cead.pth", "http://data.lip6.fr/cadene/pretrainedmodels/"),
}


def _create_here(name, pretrained, image_size):
    build, file, url = HERE[name]
    net = build()
    if pretrained:
        _load_here(net, name, file, url)
    return net


def _load_here(net, name, file, url):
    """Weights of the released file; its classifier and fc, which are not part of the map, are left out."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / (file or "none")
    if file and path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
    elif url is None:
        source = f"'{file}' (from the model zoo of deep-person-reid)" if file else "such a file, if you have one,"
        raise RuntimeError(_no_weights(name, source, "its authors give no direct link" if file else "none published"))
    else:
        state = _download(url + file, name)
    state = {k.removeprefix("module."): v for k, v in state.items()}
    own = net.state_dict()
    lacking = sorted(
        k
        for k, v in own.items()
        if not k.endswith("num_batches_tracked") and (k not in state or state[k].shape != v.shape)
    )
    if lacking:
        raise RuntimeError(
            f"{path} does not hold '{name}': {len(lacking)} of {len(own)} weights are missing or of "
            f"another shape, first {lacking[0]}. Delete it and fetch {file} again."
        )
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
