"""Which recipe and backbone a weight file belongs to, from the names and shapes of its tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from weights.formats import FIRST_RELEASES, PLAIN_OR_IBN, Format, all_occur, format_of, renamed, stripped
from weights.reading import WeightFile, read

OSNET_WIDTHS = {64: "x1_0", 48: "x0_75", 32: "x0_5", 16: "x0_25"}  # channels of conv1; torchreid/models/osnet.py


RESNET_DEPTHS: dict[
    tuple[tuple[int, ...], bool], int
] = {  # (blocks of layer1-4, has a third convolution): He et al., CVPR 2016, table 1
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


RESNET_KINDS: dict[tuple[int, ...], str] = {
    (64, 64): "resnet{}",
    (128, 4): "resnext{}_32x4d",
    (256, 8): "resnext{}_32x8d",
}  # shape of a 3x3


VITS = {(768, 12): "vit_base_patch16_224", (384, 12): "deit_small_patch16_224"}  # (width, blocks)


VIT_GRIDS = {  # tokens of TransReID's position embedding -> (stride, image size)
    211: (12, (256, 128)),
    129: (16, (256, 128)),
    311: (12, (384, 128)),
    193: (16, (384, 128)),
}


DENSENETS: dict[tuple[int, ...], str] = {  # layers of the blocks; Huang et al., CVPR 2017, table 1
    (6, 12, 24, 16): "densenet121",
    (6, 12, 32, 32): "densenet169",
    (6, 12, 48, 32): "densenet201",
    (6, 12, 36, 24): "densenet161",
}


# A tensor that no other network has -> the network, or what it is by the first size of that tensor.
FAMILIES: tuple[tuple[str, str | dict[int, str]], ...] = (
    ("conv9.conv.weight", {1280: "mobilenetv2_x1_0", 1792: "mobilenetv2_x1_4"}),
    ("cell_stem_0.conv_1x1.conv.weight", "nasnsetmobile"),
    ("stage4.3.conv1.weight", "shufflenet"),
    (
        "stage2.0.branch2.0.weight",
        {24: "shufflenet_v2_x0_5", 58: "shufflenet_v2_x1_0", 88: "shufflenet_v2_x1_5", 122: "shufflenet_v2_x2_0"},
    ),
    ("features.5.squeeze.weight", "squeezenet1_0"),
    ("features.6.squeeze.weight", "squeezenet1_1"),  # both pool between their layers, here and there
    ("block12.rep.1.conv1.weight", "xception"),
    ("features.21.branch3.1.conv.weight", "inceptionv4"),
    ("conv2d_7b.conv.weight", "inceptionresnetv2"),
    ("features.conv1_1.conv.weight", {64: "dpn92"}),
)


# Networks of released files that are not here: (a tensor, its number of input channels) -> what it is and what helps.
FIRST = "of torchreid's first releases"
NOT_HERE = (
    ("fire2.squeeze.bn.weight", None, f"the SqueezeNet {FIRST}, with batch norms and bypasses", "squeezenet1_0"),
    ("entryflow.conv1.conv.weight", None, f"the Xception {FIRST}, with ReLU6 and other strides", "xception"),
    ("stage2.0.conv1.weight", 8, "the ShuffleNet of torchreid v0.0.9, with a grouped first layer", "shufflenet"),
)


SIE_WEIGHT = 3.0  # of camera embeddings; TransReID, config/defaults.py, for persons
SIE_WEIGHT_CLIP = 1.0  # CLIP-ReID 4c0eb20, configs/person/vit_clipreid.yml


NON_LOCAL = (0, 2, 3, 0)  # of ResNet-50; ReID-Survey, modeling/baseline.py; fast-reid, modeling/backbones/resnet.py


# recipe -> names, of the file or in the common vocabulary, that only its network has together; the first that fits.
METHODS = (
    ("clip_reid", (r"^image_encoder\.class_embedding$",)),
    ("clip_reid_rn50", (r"^image_encoder\.attnpool\.",)),
    ("solider_swin_tiny", (r"^semantic_embed_w\.0\.",)),  # or _small, _base
    ("hacnn", (r"^ha1\.", r"^fc_local\.")),
    ("jsia", (r"^(mod_invar_enc\.)?resnet_conv1\.3\.", r"^(mod_invar_enc\.)?resnet_conv2\.2\.")),
    ("agw_rgbir", (r"^thermal_module\.thermal\.", r"^bottleneck\.running_mean$")),
    ("mlfn", (r"^fc_s\.", r"^feature\.0\.fm_conv1\.")),
    ("mudeep", (r"^block5\.a1$",)),
    ("resnet50mid", (r"^fc_fusion\.",)),
    ("transreid_ssl_vit_small_ics", (r"^patch_embed\.conv\.1\.IN\.",)),  # or _base_
    ("transreid", (r"^cls_token$", r"^b1\.0\.")),
    ("transreid_baseline", (r"^cls_token$", r"^projection\.(mlp|last_layer)\.")),  # DINO compares the class token
    ("transreid_baseline", (r"^cls_token$", r"^bottleneck\.")),
    ("light_mbn_r", (r"^channel_branch\.1\.0\.bn1\.", r"^(reduction_ch_1|halves\.1)\.")),
    ("light_mbn", (r"^channel_branch\.2\.conv\.", r"^(reduction_ch_1|halves\.1)\.")),
    ("mgn", (r"^(b33_head|heads\.7)\.",)),
    ("pcb_rpp", (r"^(local_mask|part_classifier)\.",)),
    ("pyramid", (r"^(pyramid_conv_list0|reduction)\.20\.",)),
    ("pcb_independent", (r"^(local_conv_list|reduction)\.1\.",)),
    ("pcb", (r"^(conv5\.layers|feat_bn2d|reduction\.0)\.",)),
    ("aligned", (r"^local_bn\.",)),
    ("aligned_pp", (r"^bn\.running_mean$", r"^conv1\.bias$")),
    ("cal", (r"^bn\.running_mean$",)),
    ("sbs", (r"^heads\.pool_layer\.p$", r"^NL_\d\.")),  # the exponent of fast-reid's AGW is fixed
    ("agw", (r"^NL_\d\.",)),
    ("bot", (r"^bottleneck\.running_mean$",)),
    ("bot", (r"^reduction\.weight$",)),
)


# What a file brings along even where the user names the recipe: how its images are prepared, and its stem.
CARRIED = ("stem_relu", "stem_ceil", "stem_pool", "sie_weight", "image_size", "test_interpolation", "mean", "std")


WHOLE_NETWORKS = ("hacnn", "mlfn", "mudeep")  # recipes without a choice of backbone


REDUCED = ("resnet50", "se_resnet50", "densenet121", "squeezenet1_0")  # torchreid has these as *_fc512


def recognise(source: str | os.PathLike | WeightFile) -> dict[str, Any] | None:
    """Which recipe and backbone a foreign weight file belongs to, from the names and shapes of its tensors.

    Returns fields of a recipe, ``{"recipe": "osnet_x0_25"}``, ``{"recipe": "bot", "backbone": "resnet50",
    "stem_relu": False, "stem_ceil": False}``, ..., or None when the file is of none that are known here. ``options``,
    where present, replaces entries of the recipe's. Raises as `read` does.
    """
    file = read(source)
    found = recognise_tensors(stripped(file.tensors))
    if found and found["recipe"] == "bot" and found["backbone"].startswith("resnest"):
        return _on_resnest(found, file.path.name.lower())
    return found


def _on_resnest(found: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What a file of fast-reid on ResNeSt is: SBS stores its exponent; AGW and BoT, which store the same tensors and
    pool otherwise, are told by the file's `name`, as released; None where it does not say."""
    if found.get("pooling") == "gem":
        return {key: value for key, value in found.items() if key != "pooling"} | {"recipe": "sbs_s50"}
    rows = {"bot": "bot", "agw": "fastreid_agw_s50"}
    told = [row for word, row in rows.items() if word in name]
    return found | {"recipe": told[0]} if len(told) == 1 else None


def not_here(tensors: dict[str, Tensor]) -> str:
    """Which network the `tensors` are of, and what to do, where it is one that this suite does not have; else ""."""
    for name, inputs, what, backbone in NOT_HERE:
        if name in tensors and inputs in (None, *tensors[name].shape[1:2]):
            return f"{what}, which is not here: test it with its own code, or train --backbone {backbone} anew"
    return ""


def recognise_tensors(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """`recognise` for tensors that are already read: a state dict of any of the `FORMATS`."""
    form = format_of(list(tensors))
    if form.start or not_here(tensors):
        return None
    common = {renamed(name, form.rules): tensor for name, tensor in tensors.items()}
    names = tensors.keys() | common.keys()
    method = next((recipe for recipe, needs in METHODS if all_occur(needs, names)), "softmax")
    if method in WHOLE_NETWORKS:
        return {"recipe": method}
    trunks = (_osnet(common), _vit(common), _clip_resnet(common), _resnet(common), _swin(common), _lite(form, common))
    backbone = next(filter(None, trunks), None) or _other_trunk(form, common)
    if backbone is None:
        return None
    if method.startswith("solider"):
        method = backbone
    if method.endswith("_ics") and "base" in backbone:
        method = method.replace("small", "base")
    if method == "cal" and _neck_of_one_pooling(common):
        method = "cal_video"
    carried = dict(form.carries) | _statistics(common)
    if method == "softmax":
        found = _softmax(backbone, common)
        return found and found | carried
    details = _details(method, backbone, form, common)
    options = carried.pop("options", {}) | details.pop("options", {})
    found = {"recipe": method, "backbone": backbone} | carried | details
    return found | ({"options": options} if options else {})


# Released weights of the same names and shapes whose stems pool otherwise: person-reid-tiny-baseline (model/backbones/
# resnet.py:92 at a13a8a8) beside reid-strong-baseline. Where it is not told by the class of a whole pickled network, it
# is by the name that their trainers give a file (processor/processor.py:84; engine/trainer.py:156 at 3da7e6f).
STEM_POOLS = (
    ("2x2", r"\bpickled model\.make_model\.Backbone$", r"resnet50_\d+\.pth"),
    ("3x3", r"\bpickled modeling\.baseline\.Baseline$", r".*model_\d+.*"),
)


def stem_pool(source: str | os.PathLike | WeightFile) -> str | None:
    """How the stem of a ResNet-50 with the strong baseline's names pools: "3x3" or "2x2", "" where nothing tells; None
    for all other files. Raises as `read` does."""
    file = read(source)
    tensors = stripped(file.tensors)
    if "arcface.weight" in tensors:  # COS_LAYER of tiny-baseline, model/make_model.py
        return "2x2"
    form = format_of(list(tensors))
    if not form.name.startswith("BoT") or "bottleneck.weight" not in tensors or architecture_of(tensors) != "resnet50":
        return None
    told = (size for size, made, called in STEM_POOLS if re.search(made, file.container))
    named = (size for size, made, called in STEM_POOLS if re.fullmatch(called, file.path.name))
    return next(told, next(named, ""))


def input_statistics(source: str | os.PathLike | WeightFile) -> dict[str, tuple[float, ...]]:
    """``mean`` and ``std`` of the images that a weight file was trained with, where its format tells them.

    Of a checkpoint of ours as its run has set them. Raises as `read` does.
    """
    file = read(source)
    if file.ours is None:
        tensors = stripped(file.tensors)
        form = format_of(list(tensors))
        common = {renamed(name, form.rules): tensor for name, tensor in tensors.items()}
        known = dict(form.carries) | _statistics(common)
    else:
        settings = file.ours.get("settings")
        known = settings if isinstance(settings, dict) else {}
    found = {name: tuple(known[name]) for name in ("mean", "std") if isinstance(known.get(name), (list, tuple))}
    sound = all(
        len(values) == 3 and all(isinstance(x, float) and 0 <= x <= 1 for x in values) for values in found.values()
    )
    return found if sound and min(found.get("std", (1,))) > 0 else {}


def _statistics(common: dict[str, Tensor]) -> dict[str, Any]:
    """The normalisation of images that a file of fast-reid keeps among its buffers, of pixels from 0 to 255."""
    found = {name: common[f"pixel_{name}"] for name in ("mean", "std") if f"pixel_{name}" in common}
    if len(found) < 2 or any(value.numel() != 3 or value.is_meta for value in found.values()):
        return {}
    return {name: tuple(round(x / 255, 6) for x in value.flatten().tolist()) for name, value in found.items()}


def num_cameras(source: str | os.PathLike | WeightFile) -> int:
    """Cameras that the weight file `source` has embeddings for (SIE of TransReID), 0 for other networks.

    A model without them gives another embedding: build it with this many.
    """
    tensors = stripped(read(source).tensors)
    return next((len(tensor) for name, tensor in tensors.items() if name.endswith(("sie_embed", "cv_embed"))), 0)


def _softmax(backbone: str, common: dict[str, Tensor]) -> dict[str, Any] | None:
    if backbone.startswith("osnet"):
        return {"recipe": backbone}
    if "fc.0.weight" in common:
        return {"recipe": f"{backbone}_fc512"} if backbone in REDUCED else None
    return {"recipe": "softmax", "backbone": backbone}


def _details(method: str, backbone: str, form: Format, common: dict[str, Tensor]) -> dict[str, Any]:
    """What a file tells of its network beyond method and backbone."""
    hints: dict[str, Any] = {}
    if re.fullmatch(PLAIN_OR_IBN, backbone) and method in ("bot", "jsia", "agw", "sbs", "mgn"):
        relu = {} if method == "mgn" else {"stem_relu": re.fullmatch(form.no_stem_relu, backbone) is None}
        hints |= relu | {"stem_ceil": re.fullmatch(form.stem_ceil, backbone) is not None}
    if method == "bot" and "global_pool.p" in common:
        hints["pooling"] = "gem"
    if (method == "bot" or method.startswith("solider")) and "reduction.weight" in common:
        steps = [len(t) for name, t in common.items() if re.fullmatch(r"fc\.\d+\.weight", name) and t.dim() == 2]
        hints["options"] = {"reduced": (*steps, len(common["reduction.weight"]))}
    if "attention.c_proj.weight" in common:
        hints["options"] = hints.get("options", {}) | {"attention_dim": len(common["attention.c_proj.weight"])}
        sizes = {1 + size[0] * size[1] // 16**2: size for size in ((256, 128), (384, 128), (384, 192))}
        size = sizes.get(common["attention.pos_embed"].shape[-2])
        hints |= {"image_size": size} if size else {}
    if method in ("agw", "sbs", "agw_rgbir"):
        counts = tuple(_count_of(rf"^NL_{i}\.", common) for i in range(1, 5))
        hints |= {"pooling": "avg"} if method == "agw_rgbir" and not any(counts) else {}  # train.py, --method base
        hints |= {"options": {"non_local": counts}} if counts != NON_LOCAL else {}
    if method.startswith("pcb"):
        parts = _count_of(r"^(classifier\.|instance|fc_list\.)", common)
        hints |= {"options": {"parts": parts}} if parts not in (0, 6) else {}
    if method.startswith("transreid") or method == "clip_reid":
        hints |= _transreid(method, common)
    return hints


def _transreid(method: str, common: dict[str, Tensor]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    jpm, cameras = method == "transreid", "sie_embed" in common
    clip = "projection.weight" in common
    if jpm != cameras:  # otherwise than in the recipes
        hints["sie_weight"] = (SIE_WEIGHT_CLIP if clip else SIE_WEIGHT) if cameras else 0.0
    stride, size = VIT_GRIDS.get(common["pos_embed"].shape[-2], (0, (0, 0)))
    if stride and size != ((384, 128) if method == "transreid_ssl_vit_base_ics" else (256, 128)):
        hints["image_size"] = size
    if stride and stride != (12 if jpm else 16):
        hints["options"] = {"stride": stride, "jpm": jpm}
    if clip and method != "clip_reid":  # not yet transposed here
        hints["options"] = hints.get("options", {}) | {"projection_dim": common["projection.weight"].shape[1]}
    return hints


def _neck_of_one_pooling(common: dict[str, Tensor]) -> bool:
    """Whether the batch norm behind a ResNet is as wide as its map: CAL over clips pools once, over images twice."""
    trunk = common.get("layer4.0.downsample.1.running_mean")
    return trunk is not None and len(common["bn.running_mean"]) == len(trunk)


def _count_of(start: str, names: Iterable[str]) -> int:
    """How many numbers follow `start` (a pattern) in names."""
    found = (re.search(rf"{start}(?P<number>\d+)\.", name) for name in names)
    return len({match["number"] for match in found if match})


def architecture_of(tensors: dict[str, Tensor]) -> str:
    """Backbone, or recipe where it is a network of its own; empty if unknown."""
    guess = recognise_tensors(tensors)
    return guess.get("backbone", guess["recipe"]) if guess else ""


def _osnet(common: dict[str, Tensor]) -> str | None:
    if "conv1.conv.weight" not in common or "conv5.conv.weight" not in common:
        return None
    width = OSNET_WIDTHS.get(common["conv1.conv.weight"].shape[0])
    if width is None or not any(name.startswith("conv2.0.conv2") for name in common):
        return None
    if any(re.match(r"conv2\.0\.conv2\.\d", name) for name in common):  # the streams are a ModuleList in AIN
        return f"osnet_ain_{width}"
    return f"osnet_ibn_{width}" if any(".IN." in name for name in common) else f"osnet_{width}"


def _vit(common: dict[str, Tensor]) -> str | None:
    if "cls_token" not in common or "pos_embed" not in common:
        return None
    blocks = _count_of(r"^blocks\.", common)
    if "b1.0.norm1.weight" in common and not any(name.startswith("norm.") for name in common):
        blocks += 1  # ours does not keep the last block beside its copies
    kind = (common["cls_token"].shape[-1], blocks)
    if "norm_pre.weight" in common:
        return {(768, 12): "vit_base_patch16_clip_quickgelu_224"}.get(kind)
    return VITS.get(kind)


def _swin(common: dict[str, Tensor]) -> str | None:
    """SOLIDER's, whose rows are called as their backbones."""
    size = len(common.get("patch_embed.projection.weight", ())), _count_of(r"^stages\.2\.blocks\.", common)
    kind = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base"}.get(size)
    return kind and f"solider_swin_{kind}"


def _clip_resnet(common: dict[str, Tensor]) -> str | None:
    blocks = tuple(_count_of(rf"^layer{i}\.", common) for i in range(1, 5))
    shapes = [tuple(common[name].shape) for name in ("conv3.weight", "attention.c_proj.weight") if name in common]
    return "clip_resnet50" if blocks == (3, 4, 6, 3) and shapes == [(64, 32, 3, 3), (1024, 2048)] else None


def _resnet(common: dict[str, Tensor]) -> str | None:
    blocks = tuple(_count_of(rf"^layer{i}\.", common) for i in range(1, 5))
    if "layer1.0.conv2.fc1.weight" in common:  # fast-reid, modeling/backbones/resnest.py; timm has the same names
        return {50: "resnest50", 101: "resnest101"}.get(RESNET_DEPTHS.get((blocks, True), 0))
    if ("conv1.weight" not in common and "layer0.conv1.weight" not in common) or "conv3.weight" in common:
        return None
    depth = RESNET_DEPTHS.get((blocks, "layer1.0.conv3.weight" in common))
    middle = common.get("layer1.0.conv2.weight")
    kind = RESNET_KINDS.get(tuple(middle.shape[:2])) if middle is not None else None
    if depth is None or kind is None:
        return None
    name = kind.format(depth)
    if any(re.search(r"\.se(_module)?\.", key) for key in common):
        return f"se_{name}" if "layer0.conv1.weight" in common else None  # Caffe's, as in torchreid
    if any(re.match(r"layer1\.\d\.IN\.", key) for key in common):
        return f"{name}_ibn_b"
    return f"{name}_ibn_a" if "layer1.0.bn1.IN.weight" in common else name


def _lite(form: Format, common: dict[str, Tensor]) -> str | None:
    """An EfficientNet-Lite; timm's own names do not tell its padding, which is TensorFlow's or PyTorch's."""
    if not form.name.startswith("EfficientNet-Lite") or "blocks.2.0.conv_pwl.weight" not in common:
        return None
    size = (form.name[-1], len(common["blocks.2.0.conv_pwl.weight"]))  # with 1 and 2 of equal depth
    return {("0", 40): "tf_efficientnet_lite0", ("2", 40): "tf_efficientnet_lite1", ("2", 48): "tf_efficientnet_lite2",
            ("3", 48): "tf_efficientnet_lite3", ("4", 56): "tf_efficientnet_lite4"}.get(size)  # fmt: skip


def _other_trunk(form: Format, common: dict[str, Tensor]) -> str | None:
    """torchreid's others, by a name that only one family has and, where it comes in sizes, by a count or a width."""
    for name, sizes in FAMILIES:
        tensor = common.get(name)
        if tensor is not None:
            return sizes.get(tensor.shape[0]) if isinstance(sizes, dict) else sizes
    dense = DENSENETS.get(tuple(_count_of(rf"^features\.denseblock{i}\.denselayer", common) for i in range(1, 5)))
    return f"{dense}_linear" if dense and form.name == FIRST_RELEASES else dense  # no ReLU behind it
