"""Stage features: compute teacher features and text states once for all trainings."""

from __future__ import annotations

from pathlib import Path

from gear import paths
from gear.core.device import pick_device
from gear.core.ranks import join_ranks
from gear.data.shards import VALIDATION_IMAGES, read_split
from gear.encoders.teacher_features import write_teacher_features
from gear.encoders.text import TextEncoder, write_text_states
from gear.params import Config


def run(config: Config) -> None:
    """Write `data/features` from `data/shards`.

    train.npy, val.npy, teachers.json: teacher features of the training images (absent if trainings
    compute them), and of the validation images of the validation curve.
    text/: text states of every caption and of the empty one, if data.condition is caption.
    """
    ranks, device = join_ranks(config.host), pick_device(config.host)
    train = read_split(paths.SHARDS / "train")
    val = read_split(paths.SHARDS / "val")

    def fill(draft: Path) -> None:
        write_teacher_features(
            draft,
            config.teacher,
            train,
            val.subset(VALIDATION_IMAGES),
            grid=config.grid,
            flip=config.data.flip,
            device=device,
            ranks=ranks,
        )
        if config.data.condition == "caption":
            captions = [*train.captions, *val.captions]
            encoder = TextEncoder(config.text, device)
            write_text_states(draft / "text", encoder, captions, ranks)

    ranks.replace_folder(paths.FEATURES, fill)
