"""Stage ingest: write a source into Parquet shards, split by concept into train and val."""

from __future__ import annotations

from gear import paths
from gear.core.errors import InputError
from gear.core.files import write_json
from gear.ingest.split import Refused, ingest_source
from gear.params import Config


def run(config: Config) -> None:
    """Write `data/shards` from `data.source`; if the source is refused, `.gear/rejects.json`."""
    try:
        ingest_source(config.data, paths.SHARDS, config.host)
    except Refused as refused:
        table = paths.WORK / "rejects.json"
        write_json(table, refused.rejects)
        raise InputError(f"{refused} (all in {table})") from None
