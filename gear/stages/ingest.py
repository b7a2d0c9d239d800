"""Stage ingest: a source into Parquet shards, train and val split by concept, with a manifest and a rejects table."""

from __future__ import annotations

from gear import paths
from gear.ingest.split import into
from gear.params import Config


def run(config: Config) -> None:
    """`data.source` → `data/shards`."""
    into(config.data, paths.SHARDS)
