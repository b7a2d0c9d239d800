"""Stage validate: check the shards; failed expectations stop the pipeline and name the rows."""

from __future__ import annotations

from gear import paths
from gear.core.errors import InputError
from gear.core.files import write_json
from gear.data.shards import load_manifest
from gear.params import Config
from gear.validation.expectations import frame, validate


def run(config: Config) -> None:
    """Write `reports/validation.json` and the Data Docs pages, which are not hashed.

    Raises:
        InputError: if an expectation fails.
    """
    manifest = load_manifest(paths.SHARDS)
    rows = frame(paths.SHARDS, manifest["size"])
    results = validate(rows, manifest, config.data, paths.DATA_DOCS)
    failed = [record for record in results if not record["success"]]
    summary = {
        "passed": not failed,
        "rows": len(rows),
        "expectations": len(results),
        "failed": len(failed),
        "results": results,
    }
    write_json(paths.VALIDATION_METRICS, summary)
    for record in failed:
        where = ", ".join(record["rows"]) or "(whole table)"
        name = f"{record['expectation']} {record['column']}"
        print(f"FAILED {name}: {record['unexpected']} rows: {where}")
    if failed:
        names = ", ".join(sorted({f"{r['expectation']}({r['column']})" for r in failed}))
        raise InputError(
            f"{paths.SHARDS}: {len(failed)} of {len(results)} expectations failed: {names}; "
            "the rows are listed above"
        )
    print(f"{len(results)} expectations hold on {len(rows)} rows")
