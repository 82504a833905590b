"""Models: what they return, which parameters learn, published sizes, and their parts against plain loops."""

from functools import partial

import parity
import pytest
import torch
import torch.nn.functional as F
from nets import drawn, filled
from torch import nn

import architectures
import models
from loading.views import Views
from models import Output
from networks import bfloat16, blocks

PIDS = 5
TINY_VIT = {"backbone": "test_vit", "image_size": (64, 32)}


def mutual(*, num_pids):
    return models.Mutual(models.AlignedReID(num_pids=num_pids, backbone="resnet18") for _ in range(2))


# name -> (constructor, image size, number of logits, widths of feats, shape of parts behind the batch)
SMALL = {
    "softmax": (partial(models.Softmax, backbone="resnet18"), (64, 32), 1, (512,), None),
    "osnet": (partial(models.Softmax, backbone="osnet_x0_25", fc_dims=(512,)), (64, 32), 1, (512,), None),
    "aligned": (partial(models.AlignedReID, backbone="resnet18"), (96, 32), 1, (512,), (3, 128)),
    "aligned++": (partial(models.AlignedReIDPlusPlus, backbone="resnet18"), (96, 32), 1, (512,), (3, 128)),
    "mutual": (mutual, (96, 32), 2, (512, 512), (6, 128)),
    "resnet50m": (partial(models.ResNet50M, backbone="resnet34"), (64, 32), 1, (1536,), None),
    "pcb": (partial(models.PCB, backbone="resnet18"), (96, 32), 6, (256,) * 6, None),
    "pcb independent": (
        partial(models.PCB, backbone="resnet18", shared_reduction=False, parts=3),
        (96, 32),
        3,
        (256,) * 3,
        None,
    ),
    "rpp": (partial(models.RPP, backbone="resnet18"), (96, 32), 6, (256,) * 6, None),
    "mgn": (partial(models.MGN, backbone="resnet18"), (96, 32), 8, (256, 256, 256, 512, 768), None),
    "pyramid": (partial(models.Pyramid, backbone="resnet18"), (96, 32), 21, (128,) * 21, None),
    "bot": (partial(models.BagOfTricks, backbone="resnet18"), (64, 32), 1, (512,), None),
    "bot ibn": (partial(models.BagOfTricks, backbone="resnet18_ibn_a", pooling="gem"), (64, 32), 1, (512,), None),
    "agw": (partial(models.AGW, backbone="resnet18", non_local=(0, 1, 2, 0)), (64, 32), 1, (512,), None),
    "transreid": (partial(models.TransReID, num_cameras=3, **TINY_VIT), (64, 32), 5, (64,) * 5, None),
    "transreid base": (partial(models.TransReID, jpm=False, **TINY_VIT), (64, 32), 1, (64,), None),
    "transreid stem": (
        partial(models.TransReID, jpm=False, stride=16, conv_stem=True, **TINY_VIT),
        (64, 32),
        1,
        (64,),
        None,
    ),
    "mudeep": (partial(architectures.MuDeep, image_size=(32, 16)), (32, 16), 1, (4096,), None),
    "hacnn": (architectures.HACNN, (160, 64), 2, (512, 512), None),
    "mlfn": (architectures.MLFN, (64, 32), 1, (1024,), None),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomise(module):
    """Norm layers away from the identity; eval mode."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape))
    return module.eval()


def count(module):
    """Parameters as torchreid counts them for its tables: all but the identity classifiers."""
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith("classifier"))


# -- every model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_output_and_gradients(name):
    build, size, num_logits, feat_dims, parts = SMALL[name]
    model = build(num_pids=PIDS)
    if name == "rpp":
        model.begin_stage(1)
    images, views = torch.randn(4, 3, *size), Views(torch.tensor([0, 1, 2, 1]))
    assert model.num_pids == PIDS and model.feat_dims == feat_dims

    out = model.train()(images, views)
    assert type(out) is Output
    assert out.embedding.shape == (4, model.embedding_dim)
    assert [x.shape for x in out.logits] == [(4, PIDS)] * num_logits
    assert [x.shape for x in out.feats] == [(4, d) for d in feat_dims]
    assert (out.parts is None) if parts is None else (out.parts.shape == (4, *parts))

    # Logits, feats and parts are what losses read: together they must reach every parameter.
    read = [*out.logits, *out.feats, *([] if out.parts is None else [out.parts])]
    sum((x * torch.randn_like(x)).sum() for x in read).backward()
    stuck = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # Non-local blocks start behind a weight of 0; the one hidden unit of a small gate may be dead; a single weight in
    # front of a batch norm (HACNN's spatial attention) changes nothing.
    assert [n for n in stuck if not any(part in n for part in (".NL_", ".gate.fc", ".spatial_attn."))] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    with torch.no_grad():
        tested = model.eval()(images, views)
    assert type(tested) is Output and tested.logits == ()
    assert tested.embedding.shape == (4, model.embedding_dim) and tested.embedding.isfinite().all()
    assert (tested.parts is None) == (parts is None)


@pytest.mark.parametrize("name", [n for n in SMALL if n != "mutual"])
def test_without_identities_there_are_no_classifiers(name):
    build, size, _, _, _ = SMALL[name]
    with torch.device("meta"):
        model, trained = build(num_pids=0), build(num_pids=PIDS)
        assert model.train()(torch.empty(4, 3, *size)).logits == ()
    extra = trained.state_dict().keys() - model.state_dict().keys()
    assert extra and all("classifier" in key for key in extra)


@pytest.mark.parametrize("name", SMALL)
def test_low_precision_autocast(name):
    build, size, _, _, _ = SMALL[name]
    model = build(num_pids=PIDS).train()
    bfloat16.keep_in_float32(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.randn(2, 3, *size).to(memory_format=torch.channels_last), Views(torch.tensor([0, 1])))
    assert out.embedding.isfinite().all() and all(x.isfinite().all() for x in out.logits)


# -- published sizes: torchreid at f8cd150 without classifier ---------------------------------------------------------


def osnet(name):
    return partial(models.Softmax, backbone=name, fc_dims=(512,))


@pytest.mark.parametrize(
    ("build", "parameters", "dim"),
    [
        (osnet("osnet_x1_0"), 2169508, 512),
        (osnet("osnet_x0_75"), 1285754, 512),
        (osnet("osnet_x0_5"), 630034, 512),
        (osnet("osnet_x0_25"), 201864, 512),
        (osnet("osnet_ibn_x1_0"), 2170532, 512),
        (osnet("osnet_ain_x1_0"), 2169508, 512),
        (partial(models.Softmax, backbone="shufflenet"), 904728, 960),
        (partial(models.Softmax, fc_dims=(512,), last_stride=1), 24558144, 512),
        (architectures.HACNN, 2929112, 1024),
        (architectures.MuDeep, 134940304, 4096),
        (models.ResNet50M, 27705408, 3072),
        (architectures.MLFN, 32473024, 1024),
        (models.PCB, 24032832, 12288),
        (partial(models.PCB, parts=4), 24032832, 8192),
    ],
)
def test_size_is_the_published_one(build, parameters, dim):
    with torch.device("meta"):
        model = build(num_pids=751)
    assert abs(count(model) - parameters) <= parity.largest(__file__, "test_size_is_the_published_one")
    assert model.embedding_dim == dim


@pytest.mark.parametrize(
    ("build", "dim"),
    [
        (models.Pyramid, 2688),
        (models.MGN, 2048),
        (models.BagOfTricks, 2048),
        (models.TransReID, 3840),
        (models.AlignedReID, 2048),
    ],
)
def test_embedding_width_of_the_paper(build, dim):
    with torch.device("meta"):
        assert build(num_pids=0).embedding_dim == dim


@pytest.mark.parametrize("key", architectures.NETWORKS)
def test_torchreid_key_builds(key):
    with torch.device("meta"):
        model = architectures.NETWORKS[key](num_pids=PIDS, pretrained=False)
    if key.endswith("_fc512") or key.startswith("osnet"):
        assert model.embedding_dim == 512
    assert len(architectures.NETWORKS) == 49 + 2  # all of f8cd150, two of v0.5.0


# -- one by one -------------------------------------------------------------------------------------------------------


def test_gem_is_the_average_for_p_1_and_near_the_maximum_for_large_p():
    x = torch.rand(2, 3, 4, 5) + 0.1
    torch.testing.assert_close(blocks.GeM(p=1.0)(x), blocks.AvgPool()(x))
    torch.testing.assert_close(blocks.GeM(p=200.0)(x), blocks.MaxPool()(x), rtol=0.03, atol=0)
    torch.testing.assert_close(blocks.AvgMaxPool()(x), x.mean((2, 3)) + x.amax((2, 3)))


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_global_average_is_the_mean_and_its_gradient_in_the_order_of_the_map(order, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 24, 6, 5, generator=generator, dtype=torch.float64).to(dtype).contiguous(memory_format=order)
    back = torch.rand(4, 24, generator=generator, dtype=torch.float64).to(dtype)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    mean, oracle = blocks.global_average(found), expected.mean(dim=(2, 3))
    rounding = {"rtol": 2**-7, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 0}  # of the sum as well
    torch.testing.assert_close(mean, oracle, **rounding)
    mean.backward(back)
    oracle.backward(back)
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=0)
    (grad,) = torch.autograd.grad(blocks.global_average(found).sum(), found)
    assert grad.is_contiguous(memory_format=order)
    with torch.no_grad():
        torch.testing.assert_close(blocks.global_average(x), x.mean(dim=(2, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_global_average_of_many_positions_is_rounded_at_its_end_alone(order):
    x = torch.rand(2, 40, 64, 32, generator=torch.Generator().manual_seed(0)).bfloat16().contiguous(memory_format=order)
    assert torch.equal(blocks.global_average(x.clone().requires_grad_()), x.mean(dim=(2, 3)))  # 2^11 positions: exact


def test_global_average_of_half_precision_does_not_overflow():
    x = torch.full((1, 2, 64, 32), 60.0, dtype=torch.float16, requires_grad=True)
    assert torch.equal(blocks.global_average(x), torch.full((1, 2), 60.0, dtype=torch.float16))


def test_global_average_has_a_second_derivative():
    x = torch.rand(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: blocks.global_average(x).square(), x)


def test_bnneck():
    model = models.BagOfTricks(num_pids=PIDS, backbone="resnet18")
    assert not model.bottleneck.bias.requires_grad and model.bottleneck.weight.requires_grad
    assert model.classifier.bias is None and 0.0005 < model.classifier.weight.std() < 0.0015
    images = torch.randn(4, 3, 64, 32)
    out = model.train()(images)
    f_t = out.feats[0]
    torch.testing.assert_close(f_t, model.base(images).mean(dim=(2, 3)))
    f_i = (f_t - f_t.mean(0)) / (f_t.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(out.embedding, f_i, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.logits[0], f_i @ model.classifier.weight.T, rtol=1e-3, atol=1e-4)


def test_sides_of_the_neck():
    images = torch.randn(2, 3, 64, 32)
    build = partial(models.BagOfTricks, num_pids=PIDS, backbone="resnet18")
    after = randomise(build())
    before, sbs, none = build(test_neck="before"), build(metric_neck="after"), build(neck="none")
    for model in (before, sbs):
        model.load_state_dict(after.state_dict())
    reference = after(images)
    torch.testing.assert_close(before.eval()(images).embedding, reference.feats[0])
    torch.testing.assert_close(sbs.eval()(images).feats[0], reference.embedding)
    out = none.eval()(images)
    assert torch.equal(out.embedding, out.feats[0]) and none.classifier.bias is not None


def test_names_of_released_strong_baseline_weights():
    names = set(models.BagOfTricks(num_pids=PIDS, backbone="resnet18").state_dict())
    assert {
        "base.conv1.weight",
        "base.layer4.1.bn2.running_var",
        "bottleneck.running_mean",
        "classifier.weight",
    } <= names
    assert all(n.startswith(("base.", "bottleneck.")) or n == "classifier.weight" for n in names)


@pytest.mark.parametrize(("pooling", "reduce"), [("max", torch.amax), ("avg", torch.mean)])
def test_aligned_parts_are_the_rows_from_top_to_bottom(pooling, reduce):
    model = randomise(models.AlignedReID(num_pids=0, backbone="resnet18", local_pooling=pooling))
    images = torch.randn(2, 3, 96, 64)
    feature_map, out = model.base(images), model(images)
    for row in range(3):
        pooled = reduce(feature_map[:, :, row], dim=2)  # (B, C)
        local = pooled @ model.local_conv.weight.flatten(1).T + model.local_conv.bias
        local = F.batch_norm(
            local, model.local_bn.running_mean, model.local_bn.running_var, model.local_bn.weight, model.local_bn.bias
        ).relu()
        torch.testing.assert_close(out.parts[:, row], local, rtol=1e-4, atol=1e-5)


def test_aligned_plus_plus_compares_the_map_itself():
    model = randomise(models.AlignedReIDPlusPlus(num_pids=PIDS, backbone="resnet18"))
    images = torch.randn(2, 3, 96, 64)
    expected = F.normalize(model.base(images).amax(dim=3), dim=1).transpose(1, 2)
    torch.testing.assert_close(model(images).parts, expected)
    parts = model.train()(images).parts
    torch.testing.assert_close(parts.norm(dim=2), torch.ones(2, 3))


def test_mutual_keeps_the_members_apart():
    model = mutual(num_pids=PIDS).train()
    images = torch.randn(4, 3, 96, 32)
    out = model(images)
    for i, member in enumerate(model.members):
        own = member(images)
        torch.testing.assert_close(out.logits[i], own.logits[0])
        torch.testing.assert_close(out.feats[i], own.feats[0])
        torch.testing.assert_close(out.parts.chunk(2, dim=1)[i], own.parts)
    tested = model.eval()(images)
    torch.testing.assert_close(tested.embedding, model.members[0](images).embedding)
    assert tested.parts.shape == (4, 3, 128)
    with pytest.raises(ValueError, match="at least two"):
        models.Mutual([model.members[0]])
    first, second = (member(images) for member in model.members)
    torch.testing.assert_close(models.Mutual(model.members, 2).eval()(images).embedding, second.embedding)
    both = models.Mutual(model.members, 0).eval()
    tested = both(images)
    torch.testing.assert_close(tested.embedding, torch.cat((first.embedding, second.embedding), 1))
    torch.testing.assert_close(tested.parts, torch.cat((first.parts, second.parts), 2))
    assert tested.embedding.shape[1] == both.embedding_dim


def test_pcb_cuts_equal_stripes_and_normalises_each():
    model = randomise(models.PCB(num_pids=PIDS, backbone="resnet18", dropout=0.0))
    images = torch.randn(2, 3, 192, 64)
    feature_map, out = model.base(images), model(images)  # 12 rows
    embedding = out.embedding.unflatten(1, (512, 6))
    for i in range(6):
        g = feature_map[:, :, 2 * i : 2 * i + 2].mean(dim=(2, 3))
        torch.testing.assert_close(embedding[:, :, i], g / g.norm(dim=1, keepdim=True))
        h = model.reduction[0](g[:, :, None, None]).flatten(1)
        torch.testing.assert_close(out.feats[i], h, rtol=1e-4, atol=1e-5)
    model.reduced = True
    after = model(images).embedding.unflatten(1, (256, 6))
    torch.testing.assert_close(after[:, :, 3], F.normalize(out.feats[3], dim=1))


def test_pcb_parts_have_classifiers_of_their_own():
    model = models.PCB(num_pids=PIDS, backbone="resnet18", dropout=0.0).train()
    out = model(torch.randn(4, 3, 96, 32))
    for i in range(6):
        torch.testing.assert_close(out.logits[i], model.classifier[i](out.feats[i]))


def test_rpp_pools_uniformly_until_its_stage_begins():
    model = randomise(models.RPP(num_pids=PIDS, backbone="resnet18"))
    plain = models.PCB(num_pids=PIDS, backbone="resnet18").eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    images = torch.randn(2, 3, 96, 32)
    torch.testing.assert_close(model(images).embedding, plain(images).embedding)
    model.begin_stage(1)
    assert not torch.allclose(model(images).embedding, plain(images).embedding, atol=1e-3)
    assert model.state_dict()["refined"]  # a checkpoint of a later stage tests with refined parts
    model.begin_stage(0)
    torch.testing.assert_close(model(images).embedding, plain(images).embedding)


@pytest.mark.parametrize("mask_dim", [256, None])
def test_rpp_assigns_every_position_to_the_parts(mask_dim):
    model = randomise(models.RPP(num_pids=0, backbone="resnet18", mask_dim=mask_dim))
    model.begin_stage(2)
    feature_map = model.base(torch.randn(2, 3, 96, 32))
    p = model.assign(feature_map)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2, 6, 2))
    pooled = model.pool(feature_map)
    for i in range(6):
        total = torch.zeros(2, 512)
        for y in range(6):
            for x in range(2):
                total += p[:, i, y, x, None] * feature_map[:, :, y, x]
        torch.testing.assert_close(pooled[:, :, i, 0], 6 * total / 12, rtol=1e-4, atol=1e-5)


def test_pyramid_branches_against_a_loop():
    model = randomise(models.Pyramid(num_pids=0, backbone="resnet18"))
    images = torch.randn(2, 3, 192, 64)
    feature_map, out = model.base(images), model(images)  # 12 rows, stripes of 2
    branch = 0
    for stripes in range(1, 7):  # fine to coarse
        for top in range(6 - stripes + 1):
            window = feature_map[:, :, 2 * top : 2 * (top + stripes)]
            pooled = window.mean(dim=(2, 3)) + window.amax(dim=(2, 3))
            expected = model.reduction[branch](pooled[:, :, None, None]).flatten(1)
            torch.testing.assert_close(out.feats[branch], expected, rtol=1e-3, atol=1e-4)
            branch += 1
    assert branch == 21


def test_mgn_parts_of_its_branches():
    model = randomise(models.MGN(num_pids=PIDS, backbone="resnet18", metric_neck="before"))
    images = torch.randn(2, 3, 192, 64)
    x = model.backbone(images)
    maps = [model.b1(x), model.b2(x), model.b3(x)]
    assert [m.shape[2] for m in maps] == [6, 12, 12]  # the global branch keeps the stride
    stripes = [maps[1][:, :, :6], maps[1][:, :, 6:], maps[2][:, :, :4], maps[2][:, :, 4:8], maps[2][:, :, 8:]]
    out = model(images)
    expected = [
        m.amax((2, 3)) @ head.reduction.weight.flatten(1).T
        for head, m in zip(model.heads, [*maps, *stripes], strict=True)
    ]
    for i in range(3):
        torch.testing.assert_close(out.feats[i], expected[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.feats[3], torch.cat(expected[3:5], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.feats[4], torch.cat(expected[5:], 1), rtol=1e-4, atol=1e-5)
    first = model.heads[0].neck(expected[0][:, :, None, None]).flatten(1)
    torch.testing.assert_close(out.embedding[:, :256], first, rtol=1e-4, atol=1e-5)


def test_mgn_branches_start_equal_and_are_separate():
    model = models.MGN(num_pids=0, backbone="resnet18", global_stride=1)
    one, two = model.b1[1][0].conv1.weight, model.b2[1][0].conv1.weight
    assert torch.equal(one, two) and one.data_ptr() != two.data_ptr()


def test_jigsaw_reorders_the_patches_like_the_released_code():
    model = models.TransReID(num_pids=0, **TINY_VIT, stride=16)  # 4 x 2 = 8 patches
    model.b2 = nn.Identity()
    seen = []
    model.b2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0, :, 0].int().tolist()))
    model.jigsaw(torch.arange(9.0)[None, :, None])
    # patches 1..8, the first four moved to the end: 5 6 7 8 1 2 3 4; two groups of four interleaved: 5 1 6 2 7 3 8 4
    assert seen == [[0, 5, 1], [0, 6, 2], [0, 7, 3], [0, 8, 4]]


def test_cameras_of_another_data_set_take_the_mean_embedding():
    model = models.TransReID(num_pids=0, num_cameras=3, **TINY_VIT).eval()
    table = model.base.sie_embed
    embedding = model.camera_embedding(Views(torch.tensor([2, 0, 3, -1, 700])))
    torch.testing.assert_close(embedding[:2], table[[2, 0]])
    torch.testing.assert_close(embedding[2:], table.mean(0, keepdim=True).expand(3, -1, -1))
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(model(images).embedding, model(images, Views(torch.tensor([9, 9]))).embedding)
    assert not torch.allclose(model(images).embedding, model(images, Views(torch.tensor([0, 1]))).embedding)


def test_grad_checkpoint_computes_the_blocks_of_the_trunk_again_with_the_same_gradients():
    model = models.TransReID(num_pids=0, **TINY_VIT).train()
    images, calls, gradients = torch.randn(2, 3, 64, 32), [], []
    for block in model.base.blocks:
        block.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    for again in (False, True):
        torch.manual_seed(0)  # of drop path
        model.base.set_grad_checkpointing(again)
        model.zero_grad()
        model(images).embedding.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert len(calls) == 3 * len(model.base.blocks)  # once, then twice
    assert torch.equal(*gradients)


def test_transreid_embedding_weighs_the_local_features():
    model = randomise(models.TransReID(num_pids=0, **TINY_VIT))
    out = model(torch.randn(2, 3, 64, 32))
    expected = torch.cat((out.feats[0], *(f / 4 for f in out.feats[1:])), dim=1)
    torch.testing.assert_close(out.embedding, expected)


def test_convolution_stem_of_the_released_network():
    """damo-cv/TransReID-SSL fc39e88, transreid_pytorch/model/backbones/vit_pytorch.py, TransReID(img_size=(64, 32),
    embed_dim=64, depth=6, num_heads=2, mlp_ratio=3, qkv_bias=True, stem_conv=True), filled as here."""
    whole = models.TransReID(num_pids=0, jpm=False, stride=16, conv_stem=True, **TINY_VIT).eval()
    filled(whole.base)
    images = drawn(2 * 3 * 64 * 32, 7).view(2, 3, 64, 32).float()
    expected = torch.tensor([[-2.111491, -1.562302, -0.932363, 0.32806], [-1.331655, -1.176774, 1.102529, -0.24771]])
    close = parity.largest(__file__, "test_convolution_stem_of_the_released_network")
    torch.testing.assert_close(whole(images).embedding[:, 20:24], expected, rtol=0, atol=close)
    assert whole.feature_map(images).shape == (2, 64, 4, 2)
    for options in ({"stride": 12}, {"stride": 16, "pretrained": True}):
        with pytest.raises(ValueError, match="convolution stem"):
            models.TransReID(num_pids=0, jpm=False, conv_stem=True, **options, **TINY_VIT)


def test_hacnn_regions_start_as_horizontal_quarters():
    attention = architectures.HardAttention(16)
    translations = attention(torch.randn(1, 16, 4, 4))[0]
    torch.testing.assert_close(translations[:, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]).tanh())
    rows = torch.arange(16.0)[None, None, :, None].expand(1, 1, 16, 8)
    for centre, translation in ((2, -0.75), (6, -0.25), (10, 0.25), (14, 0.75)):
        region = architectures.crop_region(rows, torch.tensor([[0.0, translation]]), (24, 28))
        assert region.shape == (1, 1, 24, 28)
        # rows centre - 2 to centre + 2, whose pixel centres average to centre - 0.5; zeros beyond the last row count
        torch.testing.assert_close(region.mean(), torch.tensor(centre - 0.5), atol=0.5, rtol=0)


def test_mlfn_selection_weighs_whole_groups():
    block = randomise(architectures.MLFNBlock(8, 64, 1, (8, 8), groups=4))
    x = torch.randn(2, 8, 6, 4)
    seen = []
    block.fm_conv3.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        _, s = block(x)
        y = F.relu(block.fm_bn2(block.fm_conv2(F.relu(block.fm_bn1(block.fm_conv1(x))))))
    for channel in range(32):
        torch.testing.assert_close(seen[0][:, channel], y[:, channel] * s[:, channel // 8])


def test_resnet50m_fuses_the_blocks_before_the_last():
    model = randomise(models.ResNet50M(num_pids=0, backbone="resnet34"))
    images = torch.randn(2, 3, 64, 32)
    x, pooled = images, []
    for stage in list(model.base)[:-1]:
        x = stage(x)
    for block in model.base.layer4:
        x = block(x)
        pooled.append(x.mean((2, 3)))
    embedding = model(images).embedding
    torch.testing.assert_close(embedding[:, 1024:], pooled[2])
    torch.testing.assert_close(embedding[:, :1024], model.fc_fusion(torch.cat(pooled[:2], 1)))
    torch.testing.assert_close(pooled[2], model.base(images).mean((2, 3)))


# -- weights of released code -----------------------------------------------------------------------------------------


def renamed(model, names):
    """Names of a released file as ours: `renames`, then `base.` for what is left of the trunk."""
    own, result = model.state_dict().keys(), {}
    for name in names:
        new = next(
            (ours + name.removeprefix(theirs) for theirs, ours in model.renames if name.startswith(theirs)), name
        )
        result[name] = new if new in own else f"base.{new}"
    return result


@pytest.mark.parametrize(
    ("build", "pairs"),
    [
        (
            models.PCB,
            {
                "conv5.layers.0.weight": "reduction.0.0.weight",
                "conv5.layers.1.bias": "reduction.0.1.bias",
                "classifier.5.weight": "classifier.5.weight",
                "layer1.0.conv1.weight": "base.layer1.0.conv1.weight",
                "local_conv.weight": "reduction.0.0.weight",
                "feat_bn2d.weight": "reduction.0.1.weight",
                "instance3.bias": "classifier.3.bias",
            },
        ),
        (
            partial(models.PCB, shared_reduction=False),
            {"local_conv_list.4.1.weight": "reduction.4.1.weight", "fc_list.2.bias": "classifier.2.bias"},
        ),
        (models.RPP, {"local_mask.weight": "part_classifier.weight"}),
        (
            models.Pyramid,
            {
                "pyramid_conv_list0.20.0.bias": "reduction.20.0.bias",
                "pyramid_fc_list0.7.weight": "classifier.7.weight",
                "base.conv1.weight": "base.conv1.weight",
            },
        ),
        (models.AlignedReID, {"fc.weight": "classifier.weight", "local_bn.bias": "local_bn.bias"}),
        (
            models.AlignedReIDPlusPlus,
            {
                "base.0.weight": "base.conv1.weight",
                "base.1.bias": "base.bn1.bias",
                "base.4.0.conv1.weight": "base.layer1.0.conv1.weight",
                "base.7.1.bn1.weight": "base.layer4.1.bn1.weight",
                "conv1.bias": "conv1.bias",
            },
        ),
        (
            models.BagOfTricks,
            {
                "backbone.layer1.0.conv1.weight": "base.layer1.0.conv1.weight",
                "heads.bottleneck.0.weight": "bottleneck.weight",
                "heads.weight": "classifier.weight",
            },
        ),
        (
            models.MGN,
            {
                "b21_head.bottleneck.1.weight": "heads.3.neck.weight",
                "b1_head.weight": "heads.0.classifier.weight",
                "b3.1.0.conv1.weight": "b3.1.0.conv1.weight",
                "backbone.4.0.conv1.weight": "backbone.4.0.conv1.weight",
            },
        ),
    ],
)
def test_released_names_map_to_ours(build, pairs):
    with torch.device("meta"):
        model = build(num_pids=PIDS, backbone="resnet18")
    assert renamed(model, pairs) == pairs
    assert set(pairs.values()) <= model.state_dict().keys()


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.Softmax(num_pids=-1, backbone="resnet18"), "num_pids is -1"),
        (
            lambda: models.BagOfTricks(num_pids=1, backbone="resnet18", pooling="median"),
            "pooling is 'median'.*avg, avg",
        ),
        (lambda: models.BagOfTricks(num_pids=1, backbone="resnet18", neck="ln"), "neck is 'ln'"),
        (lambda: models.BagOfTricks(num_pids=1, backbone="densenet121"), "last_stride=1 does not apply"),
        (lambda: models.ResNet50M(num_pids=1, backbone="densenet121"), "reads inside the stages"),
        (lambda: models.ResNet50M(num_pids=1, backbone="resnet18"), "has 2"),
        (lambda: models.MGN(num_pids=1, backbone="osnet_x0_25"), "reads inside the stages"),
        (lambda: models.AGW(num_pids=1, backbone="se_resnet50"), "AGW reads inside the stages"),
        (lambda: models.TransReID(num_pids=1, backbone="resnet50"), "not a vision transformer"),
        (
            lambda: models.PCB(num_pids=1, backbone="resnet18")(torch.zeros(2, 3, 64, 32)),
            "6 stripes, but it has 4 rows",
        ),
        (
            lambda: models.Pyramid(num_pids=1, backbone="resnet18")(torch.zeros(2, 3, 128, 32)),
            "6 equal stripes.*8 rows",
        ),
        (lambda: architectures.MuDeep(num_pids=1, image_size=(32, 16))(torch.zeros(2, 3, 64, 32)), "32x16, got 64x32"),
        (lambda: models.TransReID(num_pids=1, **TINY_VIT)(torch.zeros(2, 3, 96, 32)), "built for 10 patches"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("build", [architectures.MuDeep, architectures.HACNN, architectures.MLFN])
def test_networks_without_imagenet_weights_say_so(build):
    with pytest.raises(RuntimeError, match="no ImageNet weights.*--pretrained none"):
        build(num_pids=1, pretrained=True)
