"""CLIP-ReID: an identity is a sentence whose words nobody knows.

Li, Sun, Li. CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text Labels.
AAAI 2023. Released code: Syliz517/CLIP-ReID at eb1898b; the text tower is that of Radford et al., ICML 2021
(openai/CLIP at d05afc4, clip/model.py).

Stage 1   the sentence "A photo of a [X]1 [X]2 [X]3 [X]4 person." of each identity is learned: four vectors, by contrast
          with features of its images that are computed once. Both towers stand still.
Stage 2   the sentences stand still, and the image tower learns to name them, beside the usual ID and triplet losses.

A test reads images alone. Letters: B images, N identities, D width of the space that images and texts share, L tokens.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from epochs import Answer, Hook, Moment
from losses import full_precision
from machine import ranges
from machine.ranges import Blocks, Few, Fraction, Spread, Width
from models import Output
from networks.blocks import bn_neck, global_average, linear_classifier
from weights.formats import PROMPT_CONTEXT, PROMPT_TOKENS, prompt_ids

if TYPE_CHECKING:
    from loading.views import Views

# -- the text tower ---------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention in which a token sees itself and what stands in front of it: (B, L, W) -> (B, L, W), heads of 64."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // 64
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # query, key, value
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(
            2, (3, self.heads, 64)
        )  # (B, L, 3, h, 64)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, h, L, 64) each
        answer = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(answer.transpose(1, 2).flatten(2))


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), CLIP's approximation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual block of attention and one of two linear layers, each behind a layer norm."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = Attention(width), nn.LayerNorm(width), nn.LayerNorm(width)
        layers = ("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(OrderedDict(layers))
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(layers[0][1].weight, std=(2 * width) ** -0.5)
        for last in (self.attn.out_proj, layers[2][1]):
            nn.init.normal_(last.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nn.Module):
    """CLIP's text tower behind its table of tokens: embedded sentences (B, L, W) -> (B, D). It is never trained here.

    The answer is that of the last token, which ends the sentence. CLIP fills sentences up to `length` = 77 tokens and
    takes the answer of the token that ends them; as no token sees those behind it, leaving these out changes nothing.
    Names and initial weights are CLIP's.
    """

    def __init__(self, width: int = 512, depth: int = 12, dim: int = 512, length: int = 77):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(length, width).normal_(std=0.01))
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*(Block(width, depth) for _ in range(depth)))})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, dim).normal_(std=width**-0.5))
        self.requires_grad_(False)

    def forward(self, prompts: Tensor) -> Tensor:
        x = prompts + self.positional_embedding[: prompts.shape[1]]  # (B, L, W)
        x = self.transformer["resblocks"](x)
        return self.ln_final(x[:, -1]) @ self.text_projection  # (B, D)


class PromptLearner(nn.Module):
    """ "A photo of a [X]1 [X]2 [X]3 [X]4 person." of each of N identities: labels (B,) -> (B, 12, W), a token a row.

    cls_ctx (N, 4, W): what is learned, N(0, 0.02^2) at first. The vectors of the other tokens are CLIP's and stay.
    """

    token_prefix: nn.Parameter  # (1, 5, W)
    token_suffix: nn.Parameter  # (1, 68, W)

    def __init__(self, num_pids: int, width: int = 512):
        super().__init__()
        self.cls_ctx = nn.Parameter(torch.empty(num_pids, PROMPT_CONTEXT, width).normal_(std=0.02))
        ids = prompt_ids()
        row_of = {token: row for row, token in enumerate(sorted({*ids[0], *ids[1]}))}
        table = torch.empty(len(row_of), width).normal_(std=0.02)
        for name, tokens in zip(("token_prefix", "token_suffix"), ids, strict=True):
            vectors = torch.stack([table[row_of[token]] for token in tokens])[None]  # (1, tokens, W)
            setattr(self, name, nn.Parameter(vectors, requires_grad=False))

    def forward(self, labels: Tensor) -> Tensor:
        count, behind = len(labels), PROMPT_TOKENS - self.token_prefix.shape[1] - PROMPT_CONTEXT
        prefix, suffix = self.token_prefix, self.token_suffix[:, :behind]  # what fills up is not read, see TextEncoder
        return torch.cat((prefix.expand(count, -1, -1), self.cls_ctx[labels], suffix.expand(count, -1, -1)), dim=1)


# -- stage 1: sentences that name identities --------------------------------------------------------------------------


def supervised_contrast(x: Tensor, y: Tensor, same: Tensor) -> Tensor:
    """Each row of x finds its own among the rows of y: x (B, D), y (M, D), same (B, M) bool -> scalar.

    The mean over i of -1 / |P(i)| sum_{p in P(i)} log softmax_j(x_i . y_j) at p, with P(i) the y of the same identity:
    no temperature, no normalisation (loss/supcontrast.py).
    """
    with torch.autocast(x.device.type, enabled=False):
        log_p = (full_precision(x) @ full_precision(y).T).log_softmax(-1)  # (B, M)
        return -((log_p * same).sum(-1) / same.sum(-1)).mean()


class PromptContrast(nn.Module):
    """L_i2t + L_t2i of a batch of images and the sentences of their identities (processor_clipreid_stage1.py).

    output.feats are both, (B, D) each. An identity that comes twice in a batch has its sentence there twice.
    """

    needs = ("feats",)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        images, texts = output.feats
        same = labels[:, None] == labels  # (B, B)
        return supervised_contrast(images, texts, same) + supervised_contrast(texts, images, same)


# -- stage 2: images that find their sentence -------------------------------------------------------------------------


class ImageToText(nn.Module):
    """Smoothed cross-entropy of an image's products with the sentences of all N identities (make_loss.py, I2TLOSS).

    It reads the last of output.feats, (B, D) in front of its neck. texts (N, D): what the sentences say (`Sentences`).
    """

    needs = ("feats",)
    texts: Tensor

    @ranges.checked
    def __init__(self, label_smoothing: Fraction = 0.1):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("texts", torch.empty(0, 0))

    def begin_epoch(self, features: Tensor, labels: Tensor) -> None:
        """Told the texts (N, D) as the stage begins."""
        self.texts = features

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}texts" in state:  # of as many identities as there were
            self.texts = torch.empty_like(state[f"{prefix}texts"], device=self.texts.device)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        with torch.autocast(labels.device.type, enabled=False):
            products = full_precision(output.feats[-1]) @ self.texts.T  # (B, N)
            return F.cross_entropy(products, labels, label_smoothing=self.label_smoothing)


# -- between the epochs -----------------------------------------------------------------------------------------------


class Sentences(Hook):
    """Features of all training images once, for the first stage; what the sentences say once, for the second.

    Both in float32. The images are in their test form and go without camera embeddings (`get_image`).
    """

    at_once = 64  # sentences in one pass

    def begin_epoch(self, moment: Moment) -> Answer | None:
        model: Any = moment.model
        if not isinstance(model, Described):
            raise ValueError("sentences are learned for one network of images: leave --members and tracklets out")
        if not moment.first:
            return None
        if moment.stage == 0:
            with model.bare():
                return Answer(inputs=moment.features()[:, -model.feat_dims[-1] :])  # (n, D)
        device = model.text_encoder.text_projection.device
        with torch.no_grad():
            every = torch.arange(model.num_pids, device=device).split(self.at_once)
            return Answer(features=torch.cat([model.texts(labels) for labels in every]))  # (N, D)


# -- the networks -----------------------------------------------------------------------------------------------------


class Described(models.Model):
    """What both networks share: two necks and classifiers, three features, and while training the text tower.

    feats: of the second last part of the trunk, of the last, and its projection; the metric losses read all three.
    embedding: the last two side by side, in front of their necks (test_neck "before") or behind them.
    """

    embed_after: bool
    sie_weight = 0.0  # of camera embeddings, which the ResNet has none of
    bottleneck: Any
    bottleneck_1: Any
    classifier: nn.Linear | None
    classifier_1: nn.Linear | None
    prompt_learner: PromptLearner
    text_encoder: TextEncoder

    def describe(self, width: int, depth: int) -> None:
        """Add the sentences of `num_pids` identities and the tower that reads them, of `depth` blocks; nothing for no
        identities, in a test, and for no blocks, in a training of one stage."""
        if width % 64:
            raise ValueError(f"text_width is {width}; expected a multiple of 64, the width of a head")
        self.reads = bool(self.num_pids and depth)
        if self.reads:
            self.prompt_learner = PromptLearner(self.num_pids, width)
            self.text_encoder = TextEncoder(width, depth, self.feat_dims[-1])

    def reading(self) -> Iterator[nn.Parameter]:
        """Parameters that CLIP's file fills for texts."""
        if self.reads:
            yield from (self.prompt_learner.token_prefix, self.prompt_learner.token_suffix)
            yield from self.text_encoder.parameters()

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """Embeddings without camera embeddings and in front of the necks."""
        before = self.sie_weight, self.embed_after
        self.sie_weight, self.embed_after = 0.0, False
        try:
            yield
        finally:
            self.sie_weight, self.embed_after = before

    def forward(self, images: Tensor, views: Views | None = None) -> Output:
        """The Output of images (B, 3, H, W); of features (B, D) in their place, these and the sentences of
        `views.label` as feats."""
        if images.dim() > 2:
            return super().forward(images, views)
        assert views is not None and views.label is not None  # `reads_labels`, see `begin_stage`
        return Output(images, (), (images, self.texts(views.label)))

    def begin_stage(self, stage: int) -> None:
        """The first one trains the sentences of a batch's identities, which it has to be told."""
        self.reads_labels = self.reads and stage == 0

    def texts(self, labels: Tensor) -> Tensor:
        """What the sentences of the identities `labels` (B,) say: (B, D)."""
        return self.text_encoder(self.prompt_learner(labels))

    def headed(self, *feats: Tensor) -> Output:
        """The Output of the three features."""
        necks = (self.bottleneck(feats[1]), self.bottleneck_1(feats[2]))
        logits = models.logits_of_each(self, necks, (self.classifier, self.classifier_1))
        return Output(torch.cat(necks if self.embed_after else feats[1:], dim=1), logits, feats)


class ClipReID(Described, models.TransReID):
    """On CLIP's ViT: the class token in front of the last block, behind it (768), and projected (512).

    Its tokens, patches and camera embeddings (on the class token alone) are those of `models.TransReID`.
    """

    def __init__(
        self,
        *,
        backbone: str = "vit_base_patch16_clip_quickgelu_224",
        pretrained: bool = False,
        stride: Few = 16,
        jpm: bool = False,
        projection_dim: Width = 512,
        drop_path: Fraction = 0.0,
        text_width: Width = 512,
        text_depth: Blocks = 12,
        **options: Any,
    ):
        _refuse_imagenet(pretrained)
        given: dict[str, Any] = {"backbone": backbone, "stride": stride, "jpm": jpm, "projection_dim": projection_dim}
        super().__init__(drop_path=drop_path, **given, **options)
        if not self.sie_on_class:
            raise ValueError("projection_dim is 0, but images and texts meet in their projection: 512 as in CLIP")
        dim = self.base.embed_dim
        self.feat_dims = (dim, dim, projection_dim)
        self.describe(text_width, text_depth)

    def trunk(self) -> Iterator[nn.Parameter]:
        """With the projection and the text tower, which CLIP has trained."""
        return itertools.chain(super().trunk(), self.projection.parameters(), self.reading())

    def answer(self, x: Tensor) -> Output:
        feature = self.base.norm(self.base.blocks[-1](x))[:, 0]  # (B, 768)
        return self.headed(x[:, 0], feature, self.projection(feature))


class ClipReIDResNet(Described, models.Attended):
    """On CLIP's ResNet-50: the averages of its last two maps (1024, 2048), and the attention over the last (1024)."""

    base: Any
    attention: Any

    def __init__(
        self,
        *,
        backbone: str = "clip_resnet50",
        pretrained: bool = False,
        last_stride: int | None = 1,
        attention_dim: Width = 1024,
        test_neck: str = "before",
        head_std: Spread = 0.001,
        text_width: Width = 512,
        text_depth: Blocks = 12,
        **trunk: Any,
    ):
        _refuse_imagenet(pretrained)
        super().__init__(backbone=backbone, last_stride=last_stride, attention_dim=attention_dim, **trunk)
        models.resnet_stages(self.base, "CLIP-ReID")
        if self.attention is None:
            raise ValueError("attention_dim is 0, but images and texts meet in the attention's: 1024 as in CLIP")
        dims = self.base.out_channels, attention_dim
        self.bottleneck, self.bottleneck_1 = map(bn_neck, dims)
        self.classifier, self.classifier_1 = (
            linear_classifier(dim, self.num_pids, bias=False, std=head_std) for dim in dims
        )
        self.embed_after = models.choose("test_neck", test_neck, {"after": True, "before": False})
        self.embedding_dim = sum(dims)
        self.feat_dims = (dims[0] // 2, *dims)
        self.describe(text_width, text_depth)

    def trunk(self) -> Iterator[nn.Parameter]:
        """With the text tower, which CLIP has trained too."""
        return itertools.chain(super().trunk(), self.reading())

    def maps(self, images: Tensor, views: Views | None = None) -> tuple[Tensor, ...]:
        """The map in front of the last stage (B, 1024, h, w)."""
        for name, stage in self.base.named_children():
            if name != "layer4":
                images = stage(images)
        return (images,)

    def feature_map(self, images: Tensor, views: Views | None = None) -> Tensor:
        """The last map (B, 2048, h, w)."""
        return self.base.layer4(*self.maps(images, views))

    def answer(self, before: Tensor) -> Output:
        last = self.base.layer4(before)
        return self.headed(global_average(before), global_average(last), self.attention(last))


def _refuse_imagenet(pretrained: bool) -> None:
    if pretrained:
        raise ValueError(
            "CLIP-ReID starts from a whole CLIP, images and texts: --pretrained ViT-B-16.pt or RN50.pt of openai/CLIP, "
            "or none"
        )
