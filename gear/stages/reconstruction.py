"""Stage reconstruction: measure the models on real images, each value with its protocol.

Of the sampling settings only the number of images is read, so that a change of guidance does not
run this stage again.
"""

from __future__ import annotations

from gear import paths
from gear.core.device import pick_device
from gear.core.files import read_object, write_json
from gear.core.ranks import join_ranks
from gear.data.shards import read_split
from gear.encoders.efficientnet import build_encoder
from gear.encoders.inception import build_inception
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.inception_metrics import reconstruction_metrics
from gear.evaluation.likelihood import likelihood
from gear.evaluation.metric_protocol import Absent, Metric, describe
from gear.evaluation.reconstruction import IMAGES, reconstruction_fd, reconstruction_fidelity
from gear.evaluation.sample_quality import Sampler, untrained_fd
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.params import Config
from gear.tokenizer.inference import load_tokenizer


def run(config: Config) -> None:
    """Write `reports/reconstruction.json`: rFD, PSNR, SSIM, likelihood, with Inception rFID.

    `fd_untrained` is the FD of `sample.n` images of uniformly drawn codes.
    """
    ranks, device = join_ranks(config.host), pick_device(config.host)
    train = read_split(paths.SHARDS / "train")
    val = read_split(paths.SHARDS / "val")
    reference = load_feature_reference(paths.REFERENCE)
    extracted = read_object(paths.REFERENCE / "protocol.json", reference_n=int)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    condition = config.data.condition

    splits = {"train": train, "val": val}
    encoder = build_encoder().to(device)
    batch = config.host.sample_batch
    sampler = Sampler(generator, tokenizer, encoder, reference, config.run.seed, batch, ranks)
    metrics: dict[str, Metric | Absent] = {}
    metrics |= reconstruction_fd(tokenizer, encoder, reference, splits, extracted, ranks)
    metrics |= reconstruction_fidelity(tokenizer, val, ranks)
    metrics |= untrained_fd(sampler, config.sample.n, extracted)
    conditions = conditions_for(val, condition, paths.FEATURES)
    metrics |= likelihood(tokenizer, generator, val, conditions, condition, ranks)
    if config.evaluate.inception.path:
        inception = build_inception(config.evaluate.inception).to(device)
        rebuilt = {"split": "val", "crop": "centre", "weights": "EMA"}
        metrics |= reconstruction_metrics(
            inception, tokenizer, val.distinct(IMAGES), rebuilt, ranks
        )
    if not ranks.is_rank_zero:
        return

    records = {name: metric.record() for name, metric in metrics.items()}
    write_json(paths.RECONSTRUCTION, records)
    for name, record in records.items():
        print(f"{name:18s} {describe(record)}")
