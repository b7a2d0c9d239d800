"""Stage ingest: a source into Parquet shards, train and val split by concept, with a manifest and a rejects table."""

from __future__ import annotations

from gear import paths
from gear.ingest.split import ingest_source
from gear.params import Config


def run(config: Config) -> None:
    """`data.source` → `data/shards`."""
    ingest_source(config.data, paths.SHARDS, config.host.workers)
