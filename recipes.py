"""The table: one row per published method, with its numbers, its result and where each was read. The rows stand in
``rows/``, a file a family, in the order of the imports below; a row of your own can stand here.

A row sets everything a run needs; flags of ``main.py`` carry the same names as the fields and override them. What the
fields mean stands in ``config.Recipe``. A row that begins with another row holds only what differs from it.

Sources named in short below (github.com/...):
    reid-strong-baseline  michuanhaohao/reid-strong-baseline at 3da7e6f
    torchreid             KaiyangZhou/deep-person-reid at f8cd150; its v0.0.9 is af328ff, v0.2.2 016293c, v0.5.0 e9a2b7c
    fast-reid             JDAI-CV/fast-reid at c9bc3ce
    PCB_RPP               syfafterzy/PCB_RPP_for_reID at e29cf54
    beyond-part           huanghoujing/beyond-part-models at 1686e88
    Pyramid               TencentYoutuResearch/PersonReID-Pyramid at 63ffd64
    AlignedReID           huanghoujing/AlignedReID-Re-Production-Pytorch at 2e2d454
    AlignedReID++         michuanhaohao/AlignedReID at fca9620
    ReID-Survey           mangye16/ReID-Survey at 38f5912
    TransReID             damo-cv/TransReID at dec5504
    Tiny                  lulujianjie/person-reid-tiny-baseline at a13a8a8
    light-reid            wangguanan/light-reid at 758f517, branch version_py2.7
    XM                    mangye16/Cross-Modal-Re-ID-baseline at e817a26
    TransReID-SSL         damo-cv/TransReID-SSL at fc39e88
    PersonViT             hustvl/PersonViT at de479ab
    SOLIDER-REID          tinyvision/SOLIDER-REID at 8c08e1c
    LightMBN              jixunbo/LightMBN at 1f4ec0d
    Simple-CCReID         guxinqian/Simple-CCReID at f773d01
    CLIP-ReID             Syliz517/CLIP-ReID at eb1898b
    cluster-contrast      alibaba/cluster-contrast-reid at 57b62e9
    CUHK03-NP             zhunzhong07/person-re-ranking at 278f2c7, CUHK03-NP/README.md
"""

from __future__ import annotations

from rows import baselines, clip, clothes, drawn, parts, small, stronger, table, transformers, unsupervised

FAMILIES = (baselines, drawn, parts, small, stronger, transformers, clothes, clip, unsupervised)
RECIPES, row = table.RECIPES, table.row

# ============ the built-in data set ============

row(
    baselines.BOT,
    name="demo",
    title="Bag of Tricks without random erasing, OSNet x0.25 at 96x48: minutes on two CPU cores",
    paper="Luo et al., CVPRW 2019; Zhou et al., ICCV 2019",
    source="this suite: the bot row at a size for the built-in data set",
    published={},
    differs="Not a published recipe: a demonstration.",
    backbone="osnet_x0_25",
    last_stride=None,
    pretrained="none",
    image_size=(96, 48),
    pad=4,
    erase=0.0,  # 384 steps are too few to learn from half-hidden people: with it the triplet loss stays at its margin
    lr=1.6e-2,  # the best of those tried that no seed falls out of (benchmarks/README.md)
    schedule="cosine",
    milestones=(),
    epochs=12,
    warmup_epochs=1,
    warmup_factor=0.55,
    steps=32,
    eval_every=0,
    center_weight=0.0,
)
