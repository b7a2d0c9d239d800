"""Stage reference: compute the statistics of the training images that samples are compared with."""

from __future__ import annotations

from pathlib import Path

from gear import paths
from gear.core.device import pick_device
from gear.core.files import write_json
from gear.core.ranks import join_ranks
from gear.data.shards import read_split
from gear.encoders.efficientnet import build_encoder
from gear.encoders.inception import build_inception
from gear.evaluation.efficientnet_reference import save_feature_reference
from gear.evaluation.inception_statistics import save_training_statistics
from gear.params import Config


def run(config: Config) -> None:
    """Write `data/reference` and `data/inception` from `data/shards`.

    data/reference: efficientnet-lite0.npz has pooled features of the FD extractor, their mean and
    covariance, and the input size; protocol.json says how they were computed.
    data/inception: inception.npz and inception.json, the same of Inception-v3. Without
    `evaluate.inception` there is only inception.json, which says so.
    """
    ranks, device = join_ranks(config.host), pick_device(config.host)
    train = read_split(paths.SHARDS / "train")
    encoder = build_encoder().to(device)
    weights = config.evaluate.inception
    inception = build_inception(weights).to(device) if weights.path else None

    def fill_reference(draft: Path) -> None:
        save_feature_reference(draft, encoder, train, config.evaluate.input_size, ranks)

    def fill_inception(draft: Path) -> None:
        if inception is not None:
            save_training_statistics(draft, inception, train, ranks)
        elif ranks.is_rank_zero:
            write_json(draft / "inception.json", {"reference": "none: no evaluate.inception"})

    ranks.replace_folder(paths.REFERENCE, fill_reference)
    ranks.replace_folder(paths.INCEPTION, fill_inception)
