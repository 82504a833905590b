"""CLIP-ReID: the text tower and the losses against slow versions, files of CLIP and of CLIP-ReID, and its two stages.

Against the public code: tests/test_public.py, tests/test_schedules.py, docs/parity.md.
"""

import contextlib
import json
import math

import pytest
import torch
from nets import filled, loaded, randomised
from test_methods import mean_average_precision
from torch import nn

import datasets
import main
import train
from epochs import Moment
from loading.views import Views
from models import Output
from papers import clip_reid
from recipes import RECIPES
from weights import formats, importing

VIT = "vit_xsmall_patch16_clip_224"  # 256 wide, ten blocks: the names of CLIP's ViT
SMALL = {"backbone": VIT, "text_width": 64, "text_depth": 2, "projection_dim": 48, "image_size": (64, 32)}


# ============ the text tower, the prompts, the losses ============


def test_the_text_tower_is_that_of_all_77_tokens():
    """Blocks of torch's own attention with a mask over the whole length, the answer of the token that ends the text."""
    torch.manual_seed(0)
    prompts, tower = clip_reid.PromptLearner(5, 64), filled(clip_reid.TextEncoder(64, 2, 48))
    labels = torch.tensor([3, 0, 3])
    sentences = torch.cat(
        [prompts.token_prefix.expand(3, -1, -1), prompts.cls_ctx[labels], prompts.token_suffix.expand(3, -1, -1)], dim=1
    )
    assert sentences.shape == (3, 77, 64)
    x, mask = sentences + tower.positional_embedding, torch.full((77, 77), -math.inf).triu(1)
    for block in tower.transformer["resblocks"]:
        attention = nn.MultiheadAttention(64, 1, batch_first=True)
        attention.load_state_dict(block.attn.state_dict())
        y = block.ln_1(x)
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        hidden = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
    expected = tower.ln_final(x)[:, formats.PROMPT.index(49407)] @ tower.text_projection
    ours = tower(prompts(labels))
    assert ours.shape == (3, 48) and torch.equal(ours[0], ours[2])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_equal_tokens_have_equal_vectors():
    prefix, suffix = formats.prompt_ids()
    assert (*prefix, 343, 343, 343, 343, *suffix[:3]) == formats.PROMPT and len(prefix) + 4 + len(suffix) == 77
    prompts = clip_reid.PromptLearner(2, 64)
    a, photo = prompts.token_prefix[0, [1, 4]], prompts.token_prefix[0, 2]  # "a", twice
    assert torch.equal(*a) and not torch.equal(a[0], photo)
    assert torch.equal(prompts.token_suffix[0, 3], prompts.token_suffix[0, -1])


def test_the_contrast_is_over_explicit_pairs():
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    images, texts = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)

    def one_way(x, y):
        total = 0.0
        for i in range(6):
            products = [float(x[i] @ y[j]) for j in range(6)]
            log_sum = math.log(sum(math.exp(p) for p in products))
            own = [products[j] - log_sum for j in range(6) if labels[i] == labels[j]]
            total -= sum(own) / len(own)
        return total / 6

    found = clip_reid.PromptContrast()(Output(images, (), (images, texts)), labels)
    assert float(found) == pytest.approx(one_way(images, texts) + one_way(texts, images), rel=1e-12)


def test_images_are_told_from_the_sentences_of_all_identities():
    torch.manual_seed(0)
    feature, texts, labels = torch.randn(3, 8).double(), torch.randn(5, 8).double(), torch.tensor([4, 0, 4])
    loss = clip_reid.ImageToText(0.1)
    loss.begin_epoch(texts, labels)
    expected = 0.0
    for x, label in zip(feature, labels, strict=True):
        log_p = (texts @ x).log_softmax(0)
        q = [0.1 / 5 + 0.9 * (j == int(label)) for j in range(5)]
        expected -= sum(q[j] * float(log_p[j]) for j in range(5)) / 3
    assert float(loss(Output(feature, (), (texts, feature)), labels)) == pytest.approx(expected, rel=1e-12)
    again = clip_reid.ImageToText(0.1)
    again.load_state_dict(loss.state_dict())  # a resumed run does not ask the text tower again
    assert torch.equal(again.texts, texts.float())


# ============ files ============


def blocks(prefix, width, depth):
    """Random tensors of a tower of `depth` blocks by CLIP's names."""
    shapes = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    shapes |= {f"{norm}.{leaf}": (width,) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
    return {f"{prefix}{i}.{name}": torch.rand(shape) for i in range(depth) for name, shape in shapes.items()}


def image_tower(prefix, tokens, width=256, depth=10, dim=48):
    """Of CLIP's ViT."""
    state = blocks(f"{prefix}transformer.resblocks.", width, depth)
    state |= {
        f"{prefix}{norm}.{leaf}": torch.rand(width) for norm in ("ln_pre", "ln_post") for leaf in ("weight", "bias")
    }
    state |= {f"{prefix}class_embedding": torch.rand(width), f"{prefix}proj": torch.rand(width, dim)}
    return state | {f"{prefix}positional_embedding": torch.rand(1 + tokens, width),
                    f"{prefix}conv1.weight": torch.rand(width, 3, 16, 16)}  # fmt: skip


def text_tower(prefix, width=64, depth=2, dim=48):
    """Of CLIP, behind its table of tokens."""
    state = blocks(f"{prefix}transformer.resblocks.", width, depth)
    state |= {f"{prefix}ln_final.{leaf}": torch.rand(width) for leaf in ("weight", "bias")}
    return state | {
        f"{prefix}positional_embedding": torch.rand(77, width),
        f"{prefix}text_projection": torch.rand(width, dim),
    }


def test_a_file_of_clip_fills_both_towers_and_the_fixed_tokens(tmp_path):
    torch.manual_seed(0)
    table = torch.rand(49_408, 64)
    state = image_tower("visual.", 7 * 7) | text_tower("") | {"token_embedding.weight": table}
    state |= {"logit_scale": torch.ones(()), "input_resolution": torch.tensor(224), "context_length": torch.tensor(77),
              "vocab_size": torch.tensor(49_408)}  # fmt: skip
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()},
               tmp_path / "ViT.pt")  # fmt: skip
    model = clip_reid.ClipReID(num_pids=3, **SMALL)
    report = importing.import_weights(model, tmp_path / "ViT.pt", start=True)
    new = ("bottleneck", "classifier", "prompt_learner.cls_ctx")
    assert report.missing and all(name.startswith(new) for name in report.missing)
    assert {name for name, _ in report.skipped} == {"token_embedding.weight", "logit_scale", "input_resolution",
                                                    "context_length", "vocab_size"}  # fmt: skip
    assert report.resized == [("base.pos_embed", "position embedding of 7x7 patches to 4x2")]
    fixed = torch.cat([model.prompt_learner.token_prefix, model.prompt_learner.token_suffix], dim=1)[0]
    ids = [*formats.PROMPT[:5], *formats.PROMPT[9:], *[0] * 65]
    assert torch.equal(fixed, table[ids].half().float())
    assert torch.equal(model.text_encoder.text_projection, state["text_projection"].half().float())
    block = model.text_encoder.transformer["resblocks"][1]
    assert torch.equal(block.attn.in_proj_weight, state["transformer.resblocks.1.attn.in_proj_weight"].half().float())
    assert torch.equal(model.projection.weight, state["visual.proj"].t().half().float())
    one_stage = clip_reid.ClipReID(num_pids=3, **SMALL | {"text_depth": 0})  # which reads no texts
    assert importing.import_weights(one_stage, tmp_path / "ViT.pt", start=True).complete is False
    del state["token_embedding.weight"]
    torch.save(state, tmp_path / "ViT.pt")
    with pytest.raises(ValueError, match=r"prompt_learner\.token_prefix"):
        importing.import_weights(model, tmp_path / "ViT.pt", start=True)


def test_a_file_of_clip_reid_loads_whole(tmp_path):
    """For a training with all that it holds; for a test without what reads texts."""
    torch.manual_seed(0)
    state = image_tower("image_encoder.", 4 * 2) | text_tower("text_encoder.") | {"cv_embed": torch.rand(4, 256)}
    state |= {"prompt_learner.cls_ctx": torch.rand(3, 4, 64), "prompt_learner.token_prefix": torch.rand(1, 5, 64),
              "prompt_learner.token_suffix": torch.rand(1, 68, 64)}  # fmt: skip
    for name, width in (("", 256), ("_proj", 48)):
        state[f"classifier{name}.weight"] = torch.rand(3, width)
        state |= {
            f"bottleneck{name}.{leaf}": torch.rand(width) for leaf in ("weight", "bias", "running_mean", "running_var")
        }
    torch.save(state, tmp_path / "w.pth")
    cameras = {"num_cameras": 4, "sie_weight": 1.0}
    model = randomised(lambda num_pids: clip_reid.ClipReID(num_pids=num_pids, **SMALL, **cameras), 3, seed=1)
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert (report.missing, report.skipped, report.resized) == ([], [], []) and len(report.loaded) == len(state)
    assert torch.equal(model.classifier_1.weight, state["classifier_proj.weight"])
    assert torch.equal(model.prompt_learner.cls_ctx, state["prompt_learner.cls_ctx"])
    tested = clip_reid.ClipReID(num_pids=0, **SMALL, **cameras)
    report = importing.import_weights(tested, tmp_path / "w.pth")
    assert report.missing == [] and not hasattr(tested, "text_encoder")
    unread = {name for name in state if name.startswith(("prompt_learner.", "text_encoder."))}
    assert {name for name, why in report.skipped if "not used" in why} == unread


def test_a_trained_network_is_tested_without_flags(tmp_path, trained):
    """The text tower stays in the checkpoint, so that a training can go on; a test leaves it where it is."""
    folder, data = trained
    found = loaded(folder / "model.pt")
    assert found.recipe.name == "clip_reid_rn50" and found.model.prompt_learner.cls_ctx.shape[0] == 12
    assert main.main(["--mode", "test", "--market_path", str(data), "--weights", str(folder / "model.pt"),
                      "--output_path", str(tmp_path)]) == 0  # fmt: skip
    again = json.loads(next(tmp_path.glob("metrics*.json")).read_text())["market"]
    assert again["mAP"] == pytest.approx(json.loads((folder / "metrics.json").read_text())["market"]["mAP"], abs=1e-6)


# ============ the networks and the stages ============


def test_weights_of_no_text_tower_are_refused():
    with pytest.raises(ValueError, match=r"starts from a whole CLIP.*--pretrained ViT-B-16\.pt or RN50\.pt"):
        clip_reid.ClipReID(num_pids=3, **SMALL, pretrained=True)
    with pytest.raises(ValueError, match="multiple of 64"):
        clip_reid.ClipReID(num_pids=3, **SMALL | {"text_width": 100})
    with pytest.raises(ValueError, match="meet in their projection"):
        clip_reid.ClipReID(num_pids=3, **SMALL | {"projection_dim": 0})
    with pytest.raises(ValueError, match="meet in the attention's"):
        clip_reid.ClipReIDResNet(num_pids=3, attention_dim=0)


def moment(model, criteria, stage, first=True):
    """Before an epoch, of a model that answers with its embedding of two fixed images and cameras."""
    images, views = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)), Views(torch.tensor([0, 1]))

    def features():
        with torch.no_grad():
            return model(images, views).embedding

    zeros = torch.zeros(2, dtype=torch.int64)
    return Moment(0, stage, first, 0, zeros, zeros, features, model, criteria)


@pytest.mark.parametrize("neck", ["before", "after"])
def test_the_first_stage_sees_projected_features_without_cameras_and_necks(neck):
    torch.manual_seed(0)
    make = {"num_cameras": 2, "sie_weight": 1.0, "test_neck": neck}
    model = filled(clip_reid.ClipReID(num_pids=3, **SMALL, **make))
    rows = clip_reid.Sentences().begin_epoch(moment(model, (), 0)).inputs
    plain = clip_reid.ClipReID(num_pids=3, **SMALL, test_neck="before").eval()
    state = {name: value for name, value in model.state_dict().items() if "sie_embed" not in name}
    plain.load_state_dict(state)
    torch.testing.assert_close(rows, moment(plain, (), 0).features()[:, -48:])
    assert model.sie_weight == 1.0 and model.embed_after == (neck == "after")
    assert clip_reid.Sentences().begin_epoch(moment(model, (), 0, first=False)) is None


def test_the_second_stage_is_told_what_every_sentence_says():
    torch.manual_seed(0)
    model, hook = filled(clip_reid.ClipReID(num_pids=5, **SMALL)), clip_reid.Sentences()
    hook.at_once = 2
    answer = hook.begin_epoch(moment(model, (), 1))
    assert answer.inputs is None and answer.labels is None and not answer.features.requires_grad
    torch.testing.assert_close(answer.features, model.texts(torch.arange(5)).detach())


@pytest.mark.parametrize("row", ["clip_reid", "clip_reid_sie_olp", "clip_reid_rn50"])
def test_every_open_parameter_learns_and_no_step_waits_for_the_device(row, monkeypatch):
    """Both stages on the meta device, where whatever needs a value on the host is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know "meta"
    small = {"backbone": "vit_tiny_patch16_224"} if "rn50" not in row else {"backbone": "resnet18"}
    options = RECIPES[row].options | {"text_width": 64, "text_depth": 1}
    recipe = RECIPES[row].with_(image_size=(64, 32), options=options, **small)
    with torch.device("meta"):
        model = recipe.model(6, num_cameras=3).train()
        images, ints = torch.empty(8, 3, 64, 32), torch.empty(8, dtype=torch.int64)
        inputs = torch.empty(8, model.feat_dims[-1]), images
        criteria = [recipe.of_stage(stage).losses(6) for stage in (0, 1)]
        criteria[1].losses["image_to_text"].begin_epoch(torch.empty(6, model.feat_dims[-1]), ints)
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for stage, batch, criterion in zip(recipe.plan(), inputs, criteria, strict=True):
        train.open_layers(model, stage.trainable, fixed)
        terms = criterion(model(batch, Views(ints, label=ints)), ints)
        model.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        opened = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert opened == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        texts = ("prompt_learner.", "text_encoder.")
        images_only = {name for name, _ in model.named_parameters() if not name.startswith(texts)} - fixed
        assert opened == ({"prompt_learner.cls_ctx"} if "contrast" in terms else images_only)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run of 2 + 4 epochs, its data set of 12 + 10 people)."""
    from test_smoke import small_set

    root = tmp_path_factory.mktemp("clip_reid")
    small_set(root / "data")
    assert main.main([*words(root / "data", root / "run"), "--eval_every", "2"]) == 0
    return root / "run", root / "data"


def words(data, output):
    network = "--backbone resnet18 --text_depth 1 --text_width 64 --attention_dim 64 --image_size 64 32 --erase 0"
    batches = "--p 6 --k 3 --steps 6 --epochs 6 --warmup_epochs 0 --lr 1e-3 --amp none --num_queries 0 --workers 1"
    files = ["--market_path", str(data), "--output_path", str(output), "--pretrained", "none"]
    return ["--mode", "train", "--recipe", "clip_reid_rn50", *files, *network.split(), *batches.split()]


def test_the_first_stage_moves_prompts_alone_and_the_second_beats_the_start(trained):
    """Two of six epochs are the first stage's share: behind them nothing that a test reads has moved yet."""
    folder, data = trained
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    stages = [stage.epochs for stage in RECIPES["clip_reid_rn50"].with_(epochs=6).plan()]
    assert stages == [2, 4]
    first, second = log[: stages[0]], log[stages[0] :]
    assert all("contrast" in line and "id" not in line for line in first)
    assert all({"id", "triplet", "image_to_text"} <= line.keys() and "contrast" not in line for line in second)
    recipe = RECIPES["clip_reid_rn50"].with_(epochs=6, lr=1e-3, warmup_epochs=0)
    assert [line["lr"] for line in log] == pytest.approx([rate for _, rate in train.rates(recipe, 6, absolute=True)])
    assert second[-1]["image_to_text"] < second[0]["image_to_text"] and first[-1]["contrast"] < first[0]["contrast"]
    early, late = (torch.load(folder / f"model_{n}.pt", weights_only=True)["model"] for n in (2, 6))
    moved = {name for name in early if not torch.equal(early[name], late[name])}
    assert not any(name.startswith(("prompt_learner.", "text_encoder.")) for name in moved)
    assert {"attention.c_proj.weight", "classifier_1.weight", "base.layer1.0.conv1.weight"} <= moved
    people = datasets.load_splits("market", data).train
    start, end = (loaded(folder / f"model_{n}.pt") for n in (2, 6))
    before, after = (mean_average_precision(each.recipe, each.model, people) for each in (start, end))
    assert after > 1.5 * before, f"{before:.3f} before, {after:.3f} after"
