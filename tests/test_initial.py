"""How every layer of every recipe begins, against the public code that its row cites.

``initial.csv`` holds mean, standard deviation and largest magnitude of the parameters that the constructors of the
public code draw for 751 identities, under our names; the numbers of a list read #. Trunks that pretrained weights fill
are left out. What the table does not name is a norm of ones, or a bias of zeros. It was made by running those
constructors (of small layers several hundred times), with their downloads cut off.
"""

import csv
import math
import re
from pathlib import Path

import parity
import pytest
import torch

from recipes import RECIPES

# name of a reference in the table -> where its constructor stands, and the rows that begin so
REFERENCES = {
    # so do person-reid-tiny-baseline a13a8a8, model/make_model.py, wangguanan/light-reid 758f517, core/models.py, and
    # wangguanan/JSIA-ReID 6eb008b, core/networks.py
    "reid-strong-baseline": (
        "3da7e6f, modeling/baseline.py, layers/center_loss.py",
        "bot bot_no_center bot_ibn tiny wangguanan jsia",
    ),
    "tiny-arcface": ("person-reid-tiny-baseline a13a8a8, loss/arcface.py", "bot_arcface"),
    "torchreid/resnet50": ("f8cd150, torchreid/models/resnet.py", "softmax softmax_triplet"),
    "torchreid/resnet50_fc512": ("f8cd150, torchreid/models/resnet.py", "softmax_fc512 resnet50_fc512"),
    "torchreid/se_resnet50_fc512": ("f8cd150, torchreid/models/senet.py", "se_resnet50_fc512"),
    "torchreid022/densenet121": ("016293c, models/densenet.py", "densenet121"),
    "torchreid/densenet121_fc512": ("f8cd150, torchreid/models/densenet.py", "densenet121_fc512"),
    "torchreid/squeezenet1_0_fc512": ("f8cd150, torchreid/models/squeezenet.py", "squeezenet1_0_fc512"),
    "torchreid/mobilenetv2_x1_0": ("f8cd150, torchreid/models/mobilenetv2.py", "mobilenetv2_x1_0"),
    "torchreid/mobilenetv2_x1_4": ("f8cd150, torchreid/models/mobilenetv2.py", "mobilenetv2_x1_4"),
    "torchreid022/shufflenet": ("016293c, models/shufflenet.py", "shufflenet"),
    "torchreid022/nasnet": ("016293c, models/nasnet.py", "nasnsetmobile"),
    "torchreid/resnet50mid": ("f8cd150, torchreid/models/resnetmid.py", "resnet50mid"),
    "torchreid/hacnn": ("f8cd150, torchreid/models/hacnn.py", "hacnn"),
    "torchreid/mlfn": ("f8cd150, torchreid/models/mlfn.py", "mlfn"),
    "torchreid/osnet_x1_0": (
        "f8cd150, torchreid/models/osnet.py",
        "osnet_x1_0 osnet_x0_75 osnet_x0_5 osnet_x0_25 osnet_ibn_x1_0",
    ),
    "torchreid/osnet_ain_x1_0": (
        "f8cd150, torchreid/models/osnet_ain.py",
        "osnet_ain_x1_0 osnet_ain_x0_75 osnet_ain_x0_5 osnet_ain_x0_25",
    ),
    "torchreid009/mudeep": ("af328ff, models/MuDeep.py", "mudeep"),
    "torchreid009/resnet50": ("af328ff, models/ResNet.py", "resnet50_video"),
    "PCB_RPP/pcb": ("e29cf54, reid/models/resnet.py", "pcb pcb_after"),
    "PCB_RPP/rpp": ("e29cf54, reid/models/resnet_rpp.py", "pcb_rpp pcb_rpp_induced"),
    "beyond-part": ("1686e88, bpm/model/PCBModel.py", "pcb_independent"),
    "AlignedReID": ("2e2d454, aligned_reid/model/Model.py", "aligned aligned_mutual"),
    "AlignedReID++": ("fca9620, models/ResNet.py", "aligned_pp"),
    "Pyramid": ("63ffd64, src/models/pcb_plus_dropout_pyramid.py", "pyramid"),
    "ReID-Survey": ("38f5912, modeling/baseline.py, modeling/layer/non_local.py", "agw"),
    "XM": ("e817a26, model.py, ICCV21_CAJ/model.py", "agw_rgbir caj"),
    "fast-reid/bot": (
        "c9bc3ce, modeling/heads/embedding_head.py",
        "fastreid_bot fastreid_bot_r50_ibn fastreid_bot_s50 fastreid_bot_r101_ibn fastreid_vit",
    ),
    "fast-reid/agw": (
        "c9bc3ce, modeling/heads/embedding_head.py, layers/non_local.py",
        "fastreid_agw fastreid_agw_r50_ibn fastreid_agw_s50 fastreid_agw_r101_ibn",
    ),
    "fast-reid/sbs": (
        "c9bc3ce, modeling/heads/embedding_head.py, layers/non_local.py",
        "sbs sbs_r50_ibn sbs_s50 sbs_r101_ibn",
    ),
    "fast-reid/mgn": ("c9bc3ce, modeling/meta_arch/mgn.py, modeling/heads/embedding_head.py", "mgn"),
    "Simple-CCReID": ("f773d01, models/img_resnet.py, models/classifier.py", "cal"),
    "Simple-CCReID/video": ("f773d01, models/vid_resnet.py, models/classifier.py", "cal_video"),
    "cluster-contrast": (
        "57b62e9, clustercontrast/models/resnet.py, models/pooling.py, models/cm.py",
        "cluster_contrast",
    ),
    "LightMBN": ("1f4ec0d, model/lmbn_n.py, bnneck.py", "light_mbn"),
    "LightMBN/r": ("1f4ec0d, model/lmbn_r.py, bnneck.py", "light_mbn_r"),
    "TransReID": ("dec5504, model/make_model.py, build_transformer_local", "transreid"),
    # so do TransReID-SSL fc39e88, PersonViT de479ab and SOLIDER-REID 8c08e1c in their model/make_model.py
    "TransReID/baseline": (
        "dec5504, model/make_model.py, build_transformer",
        "transreid_baseline transreid_ssl_vit_small transreid_ssl_vit_small_ics transreid_ssl_vit_base_ics "
        "personvit_vit_small personvit_vit_base solider_swin_tiny solider_swin_small solider_swin_base",
    ),
    "CLIP-ReID": (
        "eb1898b, model/make_model_clipreid.py, build_transformer, PromptLearner",
        "clip_reid clip_reid_rn50",
    ),
    "CLIP-ReID/sie": ("eb1898b, model/make_model_clipreid.py, build_transformer, PromptLearner", "clip_reid_sie_olp"),
    "CLIP-ReID/baseline": ("eb1898b, model/make_model.py, build_transformer", "clip_baseline clip_baseline_rn50"),
}
ROWS = {row: reference for reference, (_, rows) in REFERENCES.items() for row in rows.split()}
PLAIN = {"fastreid_agw_s50", "sbs_s50"}  # fast-reid's ResNeSt has no non-local blocks (modeling/backbones/resnest.py)
OURS = {"demo"}  # rows of this suite, without a source
ONES, ZEROS = (1.0, 0.0, 1.0), (0.0, 0.0, 0.0)


def table():
    """{(reference, parameter): (mean, std, largest)}"""
    with open(Path(__file__).with_name("initial.csv"), newline="") as file:
        return {
            (line["reference"], line["parameter"]): tuple(float(line[key]) for key in ("mean", "std", "largest"))
            for line in csv.DictReader(file)
        }


def grouped(parameters):
    """{name: all values (n,)}; the numbers within a name, but that of a layer in a Sequential, are one group."""
    groups = {}
    for name, parameter in parameters:
        name = re.sub(r"^members\.\d+\.", "", name)
        name = re.sub(r"^(classifier|losses\.id\.parts)\.\d+", r"\1.#", re.sub(r"\.\d+(?=\.\w+\.)", ".#", name))
        groups.setdefault(name, []).append(parameter.detach().double().flatten())
    return {name: torch.cat(values) for name, values in groups.items()}


def difference(values, expected):
    """What is wrong with `values` as a sample of a distribution of this mean, std and largest magnitude, or None."""
    mean, std, largest = expected
    if std == 0:
        return None if bool((values == mean).all()) else f"values up to {values.abs().max():.4g}, expected {mean:g}"
    n = len(values)
    found = (values.mean().item(), values.std(correction=0).item(), values.abs().max().item())
    limit = largest * (1.01 if largest < 1.8 * std else 1.5)  # uniform within sqrt(3) deviations; normal ones reach 4
    close = (
        abs(found[0] - mean) < 8 * std / math.sqrt(n)
        and (n < 30 or abs(found[1] / std - 1) < 0.002 + 8 / math.sqrt(2 * n))
        and (largest / 1.5 < found[2] < limit if n >= 1000 else found[2] < 1.5 * largest)
    )
    return None if close else f"mean, std, largest {found}, expected {expected}"


@pytest.mark.parametrize("row", sorted(RECIPES.keys() - OURS))
def test_layers_begin_as_in_the_public_code(row):
    assert row in ROWS, f"add row {row} to the reference that it begins as, or run its public constructor for a new one"
    recipe, reference = RECIPES[row], ROWS[row]
    torch.manual_seed(0)
    model = recipe.model(751, num_cameras=6)
    trunk = {id(p) for p in model.trunk()} if recipe.pretrained != "none" else set()  # non-local blocks, added to it:
    parameters = (*model.named_parameters(), *recipe.losses(751).named_parameters())
    values = grouped((name, p) for name, p in parameters if id(p) not in trunk or ".NL_" in name)
    golden = {name: line for (owner, name), line in table().items() if owner == reference}
    if row in PLAIN:
        golden = {name: line for name, line in golden.items() if ".NL_" not in name}
    assert {name for name in golden if name not in values} <= {"losses.center.centers", "classifier.weight"}
    wrong = {}
    for name, value in values.items():
        default = ONES if name.endswith(".weight") else ZEROS
        wrong[name] = difference(value, golden.get(name, default))
    wrong = {name: text for name, text in wrong.items() if text}
    assert len(wrong) <= parity.largest(__file__, "test_layers_begin_as_in_the_public_code"), wrong
