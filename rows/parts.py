"""Parts and alignment: PCB, AlignedReID, Pyramid; torchreid's video baseline."""

from __future__ import annotations

import models
import published as results
from config import IMAGENET_MEAN, Stage
from published import Published
from rows.table import row

OPENCV = (
    "Images are resized by OpenCV there, which does not average where it makes them smaller: 0.3 of 255 from ours "
    "on Market-1501, which grows, 2.9 on a set that shrinks to half."
)

PCB = row(
    name="pcb",
    title="PCB, six stripes",
    paper="Sun et al., Beyond Part Models: Person Retrieval with Refined Part Pooling, ECCV 2018",
    source="PCB_RPP, train_PCB.sh and PCB.py",
    published={
        "market": Published(92.3, 77.4, "paper, abstract"),
        "duke": Published(81.9, 65.3, "paper, by beyond-part-models 1686e88 README"),
        "cuhk03": Published(61.3, 54.2, "paper, by beyond-part-models 1686e88 README; 767/700 split"),
    },
    variants=results.PCB,
    differs="The authors' code prints 93.0 / 78.0 on Market-1501. It has one 1x1 convolution for all stripes (see "
    "pcb_independent) and compares the six pooled stripes in front of it; --recipe pcb_after compares what is behind. "
    "The six losses are summed, as in its trainer (reid/trainers_partloss.py). It trains on two GPUs, each of which "
    "normalises its own 32 images (--accumulate 2, or two processes); here they are of all 64.",
    network=models.PCB,
    options={"parts": 6, "reduced_dim": 256, "dropout": 0.5, "test_feature": "before"},
    backbone="resnet50",
    last_stride=1,
    image_size=(384, 128),
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    base_lr_mult=0.1,
    nesterov=True,
    epochs=60,
    milestones=(40,),
    label_smoothing=0.0,
    reduction="sum",
)

row(
    PCB,
    name="pcb_after",
    title="PCB, compared by the six reduced 256-d features",
    published={},
    options=PCB.options | {"test_feature": "after"},
)

row(
    PCB,
    name="pcb_independent",
    title="PCB with a 1x1 convolution for each stripe",
    source="beyond-part, script/experiment/train_pcb.py and bpm/model/PCBModel.py",
    published=results.PCB_INDEPENDENT,
    variants=(results.PCB_SHARED,),
    differs=OPENCV,
    options=PCB.options | {"shared_reduction": False, "dropout": 0.0, "test_feature": "after", "normalize_each": False},
    mean=(0.486, 0.459, 0.408),
    nesterov=False,
)

RPP = row(
    PCB,
    name="pcb_rpp",
    title="PCB with refined part pooling, as released",
    source="PCB_RPP, train_RPP.sh and RPP.py: 20 epochs of PCB, then RPP up to epoch 50; a tenth every 20",
    published={"market": Published(93.5, 81.5, "PCB_RPP e29cf54, README.md")},
    differs="As row pcb in batch norms. The code leaves out the paper's induced training, for which the paper's "
    "numbers are: row pcb_rpp_induced.",
    network=models.RPP,
    epochs=50,
    milestones=(20, 40),
    # RPP.py begins with an optimiser of its own, which has one rate for all layers (--lr_mult 1); its epochs count on
    stages=(Stage(20), Stage(30, changes={"base_lr_mult": 1.0, "milestones": (0, 20)})),
)

row(
    RPP,
    name="pcb_rpp_induced",
    title="PCB with refined part pooling, its part classifier trained alone first",
    source="paper (induced training), within the 50 epochs and at the rates of PCB_RPP, train_RPP.sh",
    published={
        "market": Published(93.8, 81.6, "paper, abstract: 92.3 + 1.5 and 77.4 + 4.2"),
        "duke": Published(83.3, 69.2, "paper, by Pyramid 63ffd64, figures/performance1.JPG"),
        "cuhk03": Published(63.7, 57.5, "paper, by CUHK03-NP; detected, 767/700 split"),
    },
    differs="As row pcb in batch norms. Of the 30 epochs behind PCB's 20 the first 5 are the part classifier's, a "
    "number of ours, with all else frozen, batch norms and dropout too; then all learns, the backbone at a tenth.",
    stages=(Stage(20), Stage(5, ("part_classifier",)), Stage(25)),
)

ALIGNED = row(
    name="aligned",
    title="AlignedReID, global and local distance",
    paper="Zhang et al., AlignedReID: Surpassing Human-Level Performance in Person Re-Identification, arXiv 2017",
    source="AlignedReID, README (examples) and script/experiment/train.py",
    published=results.ALIGNED,
    variants=results.ALIGNED_VARIANTS,
    differs="The numbers are those of the reproduction, which trains on one data set or three; the paper trains on "
    "four. Hard samples of the local loss are found by the local distance, as in the reproduction's results (LHSFLD); "
    "the paper's --local_mining global. Rows are averaged as there; the paper takes their maximum. --test_distance "
    "global, local or both; --id_weight 1 adds the paper's ID loss. " + OPENCV,
    network=models.AlignedReID,
    options={"local_dim": 128, "local_pooling": "avg"},
    backbone="resnet50",
    mean=(0.486, 0.459, 0.408),
    p=32,
    k=4,
    epoch_length="identities",
    optimizer="adam",
    lr=2e-4,
    epochs=300,
    schedule="exponential",
    first_epoch=1,
    milestones=(150,),
    gamma=0.001,
    id_weight=0.0,
    label_smoothing=0.0,
    triplet_weight=1.0,
    margin=0.3,
    local_triplet_weight=1.0,
    local_mining="local",
    test_distance="both",
)

row(
    ALIGNED,
    name="aligned_mutual",
    title="AlignedReID, two networks that learn from each other",
    source="AlignedReID, README (examples) and script/experiment/train_ml.py",
    published=results.ALIGNED_MUTUAL,
    variants=results.ALIGNED_MUTUAL_VARIANTS,
    differs="As row aligned. The losses of the two networks are summed, as each is trained by its own there. Which "
    "mutual losses a line of the table has, it does not say: those of script/experiment/train_ml.py by default, and "
    "without ID loss the distances' alone, as in README's example.",
    members=2,
    reduction="sum",
    id_weight=1.0,
    mutual_kl_weight=1.0,
    mutual_distance_weight=1.0,
)

row(
    ALIGNED,
    name="aligned_pp",
    title="AlignedReID++, label smoothing and DMLI",
    paper="Luo et al., AlignedReID++: Dynamically matching local information for person re-identification, Pattern "
    "Recognition 2019",
    source="AlignedReID++, train_alignedreid.py --labelsmooth --test_distance global_local",
    published=results.ALIGNED_PLUS,
    variants=results.ALIGNED_PLUS_VARIANTS,
    differs="The code adds the squared euclidean distance of normalised features, which is twice the cosine distance, "
    "to the local one; half the local distance beside the cosine distance ranks alike. With torch from 1.1 on its "
    "rate drops after 150 epochs.",
    network=models.AlignedReIDPlusPlus,
    local_mining="global",
    options={"local_dim": 128},
    mean=IMAGENET_MEAN,
    translate=0.5,
    p=8,
    k=4,
    epoch_length="identities",
    schedule="multistep",
    milestones=(151,),  # StepLR(150), stepped behind each epoch with torch 0.4
    gamma=0.1,
    id_weight=1.0,
    label_smoothing=0.1,
    metric="cosine",
    local_weight=0.5,
)

row(
    name="pyramid",
    title="Pyramid, 21 branches with dynamic training",
    paper="Zheng et al., Pyramidal Person Re-IDentification via Multi-Loss Dynamic Training, CVPR 2019",
    source="Pyramid, src/config.py and src/train.py",
    published={
        "market": Published(95.7, 88.2, "Pyramid 63ffd64, figures/performance0.JPG (the paper's table 1)", 98.4, 99.0),
        "duke": Published(89.0, 79.0, "Pyramid 63ffd64, figures/performance1.JPG (the paper's table 2)", 94.7, 96.3),
        "cuhk03": Published(78.9, 74.8, "Pyramid 63ffd64, figures/performance2.JPG (table 3), detected, 767/700 split"),
    },
    differs="As the released code: where the running ID loss rises, the ID loss trains alone if the triplet loss fell, "
    "which the ratio of the paper does not say (they differ in 25 % of 3,000 noisy steps: losses.DynamicBalance); and "
    "every batch is P x K, where the paper's next batch after an ID-only step is random. The paper's way is "
    "--balance_rule paper --alternate. The code keeps the epoch of best mAP on the test set, here the last one counts. "
    "The last batch of an epoch is filled up with identities a second time (1 of 751 on Market-1501, 2 of 702 on "
    "DukeMTMC-reID); there it is smaller. The rates are those of torch before 1.1, for which the code was written (its "
    "readme: 0.4 or later); with the 1.1.0 of its requirements.txt they drop one epoch sooner.",
    network=models.Pyramid,
    options={"parts": 6, "branch_dim": 128, "dropout": 0.2},
    backbone="resnet101",
    last_stride=1,
    image_size=(384, 128),
    interpolation="bicubic",
    erase=0.2,
    erase_fill="mean",
    p=8,
    k=8,
    epoch_length="all_identities",
    optimizer="sgd",
    lr=0.1,
    base_lr_mult=0.1,
    epochs=120,
    milestones=(60, 70, 80, 90, 100),
    gamma=0.5,
    reduction="sum",
    label_smoothing=0.0,
    triplet_weight=1.0,
    margin=1.4,
    balance_sigma=0.16,
    balance_alpha=0.25,
    balance_gamma=2.0,
    balance_rule="released",
)

row(
    name="resnet50_video",
    title="torchreid's video baseline, ResNet-50, trained on frames, averaged over 15",
    paper="Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, arXiv 2017",
    source="torchreid v0.0.9, train_vid_model_xent_htri.py",
    variants=results.VIDEO,
    network=models.Softmax,
    options={"head_std": 0.0},
    sample_method="frames",
    test_frames="evenly",
    seq_len=15,
    image_size=(256, 128),
    translate=0.5,
    p=8,
    k=4,
    epoch_length="identities",
    lr=3e-4,
    epochs=500,
    milestones=(201, 401),  # StepLR(200), stepped behind each epoch with torch 0.4
    triplet_weight=1.0,
)
