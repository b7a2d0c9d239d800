"""Settings of the `data` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gear.core.settings import Count, Section, Share

PACKAGED = "gear/ingest/openmoji.md"  # `root` of the packaged images: a file that describes them
PACKAGED_IN_PROJECT = "openmoji.md"  # the same in a folder made by `gear init`


class DataConfig(Section):
    """Where images come from and how they become shards."""

    source: Literal["openmoji", "folder", "webdataset", "huggingface", "idx"] = Field(
        "openmoji",
        description="`openmoji` (packaged), `folder` (<root>/<class>/<file> or <root>/<file>), "
        "`webdataset` (tar shards), `huggingface` (a dataset on disk) or `idx` (MNIST's format).",
    )
    root: str = Field(
        PACKAGED,
        description="Folder of the images; ingest runs again when a file in it changes. The "
        "packaged images have none: leave the file that describes them.",
    )
    follow_links: bool = Field(
        False, description="Read files that are links out of `root` (source `folder`)."
    )
    condition: Literal["class", "caption"] = Field(
        "class", description="What the generator is given: the class, or the caption."
    )
    caption_key: str = Field(
        "caption", description="Column or JSON key of the caption (webdataset, huggingface)."
    )
    max_duplicate_captions: Share = Field(
        0.5, description="Share of captions that repeat another's above which the gate closes."
    )
    size: Literal[16, 32, 64, 128, 256, 512] = Field(
        32, description="Side of the square training images, pixels."
    )
    encoding: Literal["png", "jpeg"] = Field(
        "png",
        description="Images in shards: exact, or JPEG of quality 95 for 40 % of the space and 2.5 "
        "times the speed at 256 px.",
    )
    val_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Share of concepts held out for validation."
    )
    limit: Count = Field(
        0, description="Use at most this many images, spread over the classes; 0 for all."
    )
    flip: bool = Field(
        True, description="Mirror images at random in training; off where mirror images differ."
    )
    max_reject_share: Share = Field(
        0.01,
        description="Share of unreadable files (and of broken archives) above which ingest fails.",
    )
