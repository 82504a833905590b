"""Backbones by name: images (B, 3, H, W) in, a feature map (B, C, h, w) out.

`create` takes any classification network of torchvision or timm and removes its head; weight names stay those of the
published ImageNet files. What neither library has is written in this folder (`resnets`, `osnet`, `mobile`, `swin`,
`clip_resnet`), with the layout of the released weights.
"""

import difflib
import functools
import types
import urllib.error
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from machine import packages
from networks.blocks import without_copies
from networks.clip_resnet import ClipResNet
from networks.mobile import MobileNetV2, NASNetMobile, ShuffleNet
from networks.osnet import create_osnet
from networks.resnets import HEADS, IBN, create_resnet_ibn, remove_stride, resnet_ibn_a, resnet_ibn_b
from networks.swin import SWINS

# Names of other re-ID code bases -> (library, name there). torchreid: torchreid/models/__init__.py at f8cd150, and
# models/__init__.py of its first releases at af328ff and 016293c; "bot": modeling/baseline.py of the strong baseline at
# 3da7e6f; core/base.py of wangguanan/light-reid (version_py3.7_bot) at 30db341 and its factory at 97c6b2d. All mean the
# SE networks of their time, whose stage strides follow Caffe (layer0.*, in timm "legacy"), not timm's newer seresnet50,
# which is there under its tag, seresnet50.ra2_in1k.
_CAFFE = {
    f"se{_}{kind}": ("timm", f"legacy_se{net}")
    for _ in ("", "_")
    for kind, net in (
        ("resnet50", "resnet50"),
        ("resnet101", "resnet101"),
        ("resnet152", "resnet152"),
        ("resnext50", "resnext50_32x4d"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("resnext101", "resnext101_32x4d"),
        ("resnext101_32x4d", "resnext101_32x4d"),
    )
}
ALIASES = {
    "inceptionresnetv2": ("timm", "inception_resnet_v2"),
    "inceptionv4": ("timm", "inception_v4"),
    "inception_v3": ("timm", "inception_v3"),  # torchvision's rescales its input inside `forward` for its own weights
    "mobilenet": ("here", "mobilenetv2_x1_0"),
    "mobilenetv2": ("here", "mobilenetv2_x1_0"),
    "nasnet": ("here", "nasnetamobile"),
    "nasnetmobile": ("here", "nasnetamobile"),
    "nasnsetmobile": ("here", "nasnetamobile"),  # spelt so in torchreid
    "osnetain": ("here", "osnet_ain_x1_0"),
    # torchreid's first releases (af328ff, models/DenseNet.py) have no ReLU behind the last batch norm
    **{f"densenet{depth}_linear": ("torchvision", f"densenet{depth}_linear") for depth in (121, 161, 169, 201)},
    "res50": ("torchvision", "resnet50"),
    "res50ibna": ("here", "resnet50_ibn_a"),
    **{f"resnet{depth}ibna": ("here", f"resnet{depth}_ibn_a") for depth in (18, 34, 50, 101, 152)},
    **{f"resnest{depth}": ("timm", f"resnest{depth}{kind}") for depth, kind in ((50, "d"), (101, "e"))},
    "resnext101": ("timm", "resnext101_32x4d"),
    **_CAFFE,
    "senet154": ("timm", "legacy_senet154"),
    "xception": ("timm", "legacy_xception"),
    **{f"vit_deit_{size}_patch16_224": ("timm", f"deit_{size}_patch16_224") for size in ("tiny", "small", "base")},
}

# Names of other code bases for what is no backbone, or another network, here -> what it is here.
ELSEWHERE = {
    **{key: f"--recipe {key}" for key in ("hacnn", "mlfn", "mudeep", "resnet50mid")},
    **{f"{key}_fc512": f"--recipe {key}_fc512" for key in ("resnet50", "se_resnet50", "densenet121", "squeezenet1_0")},
    "resnet50m": "--recipe resnet50mid",
    "pcb_p6": "--recipe pcb",
    "pcb_p4": "--recipe pcb --parts 4",
    "resnet50_nl": "--recipe agw",
    "squeezenet": "--backbone squeezenet1_0 or squeezenet1_1; torchreid's first release had one of its own, with batch "
    "norms and bypasses, which is not here",
    "build_resnet_backbone": "--backbone resnet18 to resnet152, with WITH_IBN resnet50_ibn_a, ..., with WITH_NL "
    "--recipe agw or sbs, with WITH_SE se_resnet50, ...",
    "build_resnext_backbone": "--backbone resnext50_32x4d, resnext101_32x4d or resnext101_32x8d",
    "build_resnest_backbone": "--backbone resnest50 or resnest101",
    "build_osnet_backbone": "--backbone osnet_x1_0, osnet_x0_75, osnet_x0_5, osnet_x0_25 or osnet_ibn_x1_0",
    "build_shufflenetv2_backbone": "--backbone shufflenet_v2_x0_5 to shufflenet_v2_x2_0",
    "build_mobilenetv2_backbone": "--backbone mobilenetv2_x1_0 or mobilenetv2_x1_4",
    "build_mobilenetv3_backbone": "--backbone mobilenet_v3_large or mobilenet_v3_small",
    "build_regnet_backbone": "--backbone regnetx_032, regnety_032, ...",
    "build_effnet_backbone": "--backbone efficientnet_b0, ...",
    "build_repvgg_backbone": "--backbone repvgg_a0, ...",
    "build_vit_backbone": "--recipe transreid or transreid_baseline",
    "Baseline": "--recipe bot, agw or sbs",
    "MGN": "--recipe mgn",
    "MoCo": "nothing: no row trains with a queue of features",
    "Distiller": "nothing: no row distils from a teacher",
}
_IMAGE_SIZE = (256, 128)  # the usual person box, used to probe a network when the caller names no size


class Backbone(nn.Module):
    """Any network (B, 3, H, W) -> (B, out_channels, h, w): a name for the type checker, since theirs differ."""

    out_channels: int
    map_size: tuple[int, int]  # (h, w) at the `image_size` that it was created for


def create(
    name: str,
    *,
    pretrained: bool = False,
    last_stride: int | None = None,
    image_size: tuple[int, int] | None = None,
    stem_relu: bool = True,
    stem_ceil: bool = False,
    stem_pool: str = "3x3",
) -> Backbone:
    """The network `name` without its head; `.out_channels` is the width of its map.

    name: a key of `available()`. torchvision is preferred where both libraries know a name.
    pretrained: ImageNet weights (torchvision's IMAGENET1K_V1 where they exist, since the published baselines started
        from those). RuntimeError if they are neither cached nor downloadable; never random weights instead.
    last_stride: 1 keeps the resolution of the third stage in the fourth (Sun et al. 2018, Luo et al. 2019), for
        networks with a `layer4`, and does as much for MobileNetV2 and EfficientNet; None or 2 leaves the network as
        published.
    image_size: (H, W) that a network with a fixed input grid (some vision transformers) is built for.
    stem_relu: False drops the ReLU after `bn1`, which the released strong baseline forgot (modeling/backbones/
        resnet.py at 3da7e6f, "add missed relu"): its trained plain ResNets give their numbers only without it.
    stem_ceil: True pools the stem without padding and rounds its size up, as the ResNets of fast-reid (fastreid/
        modeling/backbones/resnet.py at c9bc3ce): their weights give another embedding under torchvision's padding.
    stem_pool: "2x2" for the max pool of lulujianjie/person-reid-tiny-baseline (model/backbones/resnet.py at a13a8a8).
    Raises ValueError for an unknown name or a network that cannot give a map.
    """
    library, key = resolve(name)
    build = {"here": _create_here, "torchvision": _create_torchvision, "timm": _create_timm}[library]
    net: Any = build(key, pretrained, image_size)
    without_copies(net)
    if last_stride not in (None, 1, 2):
        raise ValueError(f"last_stride is {last_stride}; expected 1 (finer last map) or 2 (as published).")
    if last_stride == 1:
        remove_stride(last_stage(net, key), name)
    if not stem_relu or stem_ceil or stem_pool != "3x3":
        if [k for k, _ in net.named_children()][:4] != ["conv1", "bn1", "relu", "maxpool"]:
            raise ValueError(
                f"Backbone '{name}' has no ResNet stem to change; leave --stem_relu, --stem_ceil and --stem_pool alone."
            )
        net.relu = net.relu if stem_relu else nn.Identity()
        if stem_pool == "2x2":
            net.maxpool = nn.MaxPool2d(2)
        elif stem_ceil:
            net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    made = name, last_stride, stem_ceil, image_size or _IMAGE_SIZE
    if made not in _MAPS:
        _MAPS[made] = tuple(_map_shape(net, name, image_size or _IMAGE_SIZE))
    net.out_channels, net.map_size = _MAPS[made][0], _MAPS[made][1:]
    return cast(Backbone, net)


_MAPS: dict[tuple, tuple[int, ...]] = {}  # found already: half a second for a network of many small layers
LAST_STAGES = {"mobilenet_v2": "features.14", "mobilenetv2_x": "conv7", "tf_efficientnet": "blocks.5", "": "layer4"}


def last_stage(net: nn.Module, name: str) -> nn.Module | None:
    """The last stage of the network that halves its map, by the first letters of its name; None if it has none."""
    place = next(place for prefix, place in LAST_STAGES.items() if name.startswith(prefix))
    return dict(net.named_modules()).get(place)


def available() -> list[str]:
    """All names `create` knows, sorted. Without timm installed, those of torchvision and of this file."""
    names = set(HERE) | set(_torchvision_names())
    timm = _timm()
    if timm is None:
        return sorted(names | {name for name, (library, _) in ALIASES.items() if library != "timm"})
    return sorted(names | set(ALIASES) | set(timm.list_models()))


def resolve(name: str) -> tuple[str, str]:
    """name -> (library, name there), library one of "here", "torchvision", "timm"."""
    if name in HERE:
        return "here", name
    if name in ALIASES:
        return ALIASES[name]
    if name in ELSEWHERE:
        raise ValueError(f"Backbone '{name}' is {ELSEWHERE[name]} here.")
    if name in _torchvision_names():
        return "torchvision", name
    timm = _timm()
    if timm is not None and timm.is_model(name):
        return "timm", name
    near = difflib.get_close_matches(name, available(), n=5, cutoff=0.4)
    hint = "" if timm is not None else f" Names of timm need it installed: {packages.INSTALL}."
    raise ValueError(f"Unknown backbone '{name}'. Nearest names: {', '.join(near) or 'none'}.{hint}")


def meaning(name: str) -> str | None:
    """The flags that give the network `name` of other code bases here, or None."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    timm = _timm()
    known = (
        name in HERE or name in ALIASES or name in _torchvision_names() or (timm is not None and timm.is_model(name))
    )
    return f"--recipe softmax --backbone {name}" if known else None


def _timm() -> Any:
    """The package, or None where it is not installed."""
    try:
        import timm
    except ImportError:
        return None
    return timm


# -- torchvision and timm ---------------------------------------------------------------------------------------------


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _create_torchvision(name: str, pretrained: bool, image_size: tuple[int, int] | None) -> nn.Module:
    """The children in front of the head, in a Sequential under their own names: so weight names do not change."""
    linear, name = name.endswith("_linear"), name.removesuffix("_linear")
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    if pretrained and name == "googlenet":
        raise ValueError("torchvision's googlenet weights expect inputs scaled in another way; choose 'inception_v3'.")
    whole = torchvision.models.get_model(name, weights=None, **options)
    if pretrained:
        _load_torchvision(whole, name)
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for child, module in whole.named_children():
        if child in HEADS:
            break
        body[child] = module
    if isinstance(whole, DenseNet) and not linear:  # its forward applies a ReLU between `features` and the pooling
        body["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(body)


def _load_torchvision(net: nn.Module, name: str) -> None:
    weights: Any = torchvision.models.get_model_weights(name)
    entry = getattr(weights, "IMAGENET1K_V1", None) or weights.DEFAULT
    net.load_state_dict(_download(entry.url, name))


def _create_timm(name: str, pretrained: bool, image_size: tuple[int, int] | None) -> nn.Module:
    packages.demand("timm", f"Backbone '{name}'")
    import timm

    build = functools.partial(timm.create_model, num_classes=0, global_pool="")
    try:
        net = _first_accepted(functools.partial(_pretrained_timm, build, name, pretrained), *_size_options(image_size))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"Backbone '{name}' gives no feature map: {error}") from error
    # Weight names must stay timm's, so the network itself is returned with its forward replaced, not a wrapper.
    net.forward = types.MethodType(_timm_map, net)
    return net


def vision_transformer(
    name: str,
    *,
    pretrained: bool = False,
    image_size: tuple[int, int] = _IMAGE_SIZE,
    stride: int = 16,
    drop_path: float = 0.0,
) -> nn.Module:
    """A plain vision transformer of timm as a module of parts (patch_embed, cls_token, pos_embed, norm_pre, blocks,
    norm), its patches taken every `stride` pixels and its position embedding resized to their number.

    Bilinear resizing, as damo-cv/TransReID (model/backbones/vit_pytorch.py at dec5504).
    """
    library, key = resolve(name)
    if library != "timm":
        raise ValueError(f"'{name}' is not a vision transformer of timm; use for example vit_base_patch16_224.")
    packages.demand("timm", f"Backbone '{name}'")
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
    net.patch_embed.conv = nn.Identity()
    rows, columns = ((size - p) // stride + 1 for size, p in zip(image_size, patch, strict=True))
    token, grid = net.pos_embed[:, :1], net.pos_embed[:, 1:]  # (1, 1, D), (1, N, D)
    grid = grid.transpose(1, 2).unflatten(2, net.patch_embed.grid_size)
    grid = F.interpolate(grid, size=(rows, columns), mode="bilinear").flatten(2).transpose(1, 2)
    net.pos_embed = nn.Parameter(torch.cat((token, grid), dim=1).detach())
    net.patch_embed.grid_size = (rows, columns)
    return net


def add_convolutions(patch_embed: Any, width: int = 64) -> None:
    """Take patches that do not overlap from a map of half the size that convolutions make of the images.

    The "ICS" of TransReID-SSL (Luo et al., arXiv 2021, section 3.3; damo-cv/TransReID-SSL at fc39e88,
    transreid_pytorch/model/backbones/vit_pytorch.py, lines 185-217).
    """
    patch, stride = patch_embed.patch_size[0], patch_embed.proj.stride[0]
    if stride != patch:
        raise ValueError(f"a convolution stem has patches that do not overlap: set stride to {patch}, not {stride}")
    patch_embed.conv = nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        IBN(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        IBN(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    patch_embed.proj = nn.Conv2d(width, patch_embed.proj.out_channels, patch // 2, stride=patch // 2)


def _pretrained_timm(build: Callable[..., Any], name: str, pretrained: bool, **options: Any) -> Any:
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


def _size_options(image_size: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Ways to tell a timm network about non-square images, most specific first; convolutional ones take none."""
    size: list[dict[str, Any]] = [] if image_size is None else [{"img_size": tuple(image_size)}]
    return [{"dynamic_img_size": True, **(size[0] if size else {})}, *(size or [{"img_size": _IMAGE_SIZE}]), {}]


def _first_accepted(build: Callable[..., Any], *options: dict[str, Any]) -> Any:
    """build(**option) for the first option whose names the constructor has."""
    for option in options:
        try:
            return build(**option)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
    raise TypeError("no way to build it was accepted")


def _timm_map(net: Any, images: Tensor) -> Tensor:
    """Unpooled output of a timm network as (B, C, h, w); class and register tokens are dropped."""
    x = type(net).forward(net, images)
    if x.dim() == 4:
        return x.permute(0, 3, 1, 2) if getattr(net, "output_fmt", None) == "NHWC" else x
    if x.dim() != 3 or not hasattr(net, "patch_embed"):
        raise ValueError(f"its output has shape {tuple(x.shape)}, expected a map (B, C, h, w) or patch tokens")
    x = x[:, getattr(net, "num_prefix_tokens", 0) :]  # (B, h*w, C)
    rows, columns = net.patch_embed.dynamic_feat_size(images.shape[-2:])
    return x.transpose(1, 2).unflatten(2, (rows, columns))


def _download(url: str, name: str) -> dict[str, Tensor]:
    """State dict behind `url`, from the torch hub cache or the network."""
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    except (urllib.error.URLError, OSError) as error:
        raise RuntimeError(_no_weights(name, f"'{url.rsplit('/', 1)[-1]}'", error)) from error


def _no_weights(name: str, file: str, error: Exception | str) -> str:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"ImageNet weights of '{name}' are not on this machine and could not be downloaded ({error}). "
        f"Fetch {file} elsewhere and put it into {folder}, or name it with --pretrained FILE; "
        "--pretrained none trains from random weights."
    )


def _map_shape(net: nn.Module, name: str, image_size: tuple[int, int]) -> torch.Size:
    """(C, h, w) of the map, found by a forward pass on the meta device: no arithmetic, no memory."""
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
    return out.shape[1:]


_IBN: dict[str, Any] = {"norms": (("out", "out"), (None, None), (None, None)), "stem": "instance"}
_AIN: dict[str, Any] = {"norms": (("in", "in"), (None, "in"), ("in", None)), "stem": "instance", "ain_names": True}
_IBN_RELEASE = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"

# name -> (constructor, file of the ImageNet weights or None, URL of its folder or None if there is no direct link)
HERE: dict[str, tuple[Callable[[], nn.Module], str | None, str | None]] = {
    **{
        f"resnet{d}_ibn_a": (functools.partial(create_resnet_ibn, d, resnet_ibn_a), file, file and _IBN_RELEASE)
        for d, file in (
            (18, "resnet18_ibn_a-2f571257.pth"),
            (34, "resnet34_ibn_a-94bc1577.pth"),
            (50, "resnet50_ibn_a-d9d0bb7b.pth"),
            (101, "resnet101_ibn_a-59ea0ac6.pth"),
            (152, None),
        )
    },
    "resnet50_ibn_b": (
        functools.partial(create_resnet_ibn, 50, resnet_ibn_b),
        "resnet50_ibn_b-9ca61e85.pth",
        _IBN_RELEASE,
    ),
    **{
        f"osnet_{key}": (functools.partial(create_osnet, w), f"osnet_{key}_imagenet.pth", None)
        for key, w in (("x1_0", 1.0), ("x0_75", 0.75), ("x0_5", 0.5), ("x0_25", 0.25))
    },
    "osnet_ibn_x1_0": (functools.partial(create_osnet, 1.0, **_IBN), "osnet_ibn_x1_0_imagenet.pth", None),
    **{
        f"osnet_ain_{key}": (functools.partial(create_osnet, w, **_AIN), f"osnet_ain_{key}_imagenet.pth", None)
        for key, w in (("x1_0", 1.0), ("x0_75", 0.75), ("x0_5", 0.5), ("x0_25", 0.25))
    },
    "clip_resnet50": (ClipResNet, None, None),
    "shufflenet": (ShuffleNet, "shufflenet_imagenet.pth", None),
    "mobilenetv2_x1_0": (functools.partial(MobileNetV2, 1.0), "mobilenetv2_x1_0_imagenet.pth", None),
    "mobilenetv2_x1_4": (functools.partial(MobileNetV2, 1.4), "mobilenetv2_x1_4_imagenet.pth", None),
    "nasnetamobile": (NASNetMobile, "nasnetamobile-7e03cead.pth", "http://data.lip6.fr/cadene/pretrainedmodels/"),
    **{name: (make, None, None) for name, make in SWINS.items()},
}


def _create_here(name: str, pretrained: bool, image_size: tuple[int, int] | None) -> nn.Module:
    build, file, url = HERE[name]
    net = build()
    if pretrained:
        _load_here(net, name, file, url)
    return net


def _load_here(net: nn.Module, name: str, file: str | None, url: str | None) -> None:
    """Weights of the released file; its classifier and fc, which are not part of the map, are left out."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / (file or "none")
    if file and path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
    elif url is None:
        source = f"'{file}' (from the model zoo of deep-person-reid)" if file else "such a file, if you have one,"
        raise RuntimeError(_no_weights(name, source, "its authors give no direct link" if file else "none published"))
    else:
        state = _download(f"{url}{file}", name)
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
