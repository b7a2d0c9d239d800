"""Test what is read of a recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gear.core.files import write_json
from gear.runs.revision import WORKSPACE, Revision
from tests.support.runs import toy_run

MD5 = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("page_md5", "is_of_the_run"), [(MD5, True), (MD5[::-1], False), (None, True)]
)
def test_the_provenance_of_another_page_is_not_that_of_the_run(
    tmp_path: Path, page_md5: str | None, is_of_the_run: bool
) -> None:
    root = toy_run(tmp_path / "checkout")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    page = {"path": "reports/index.html", "hash": "md5", "md5": MD5}
    lock["stages"]["report"] = {"cmd": "python -m gear report", "outs": [page]}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    facts: dict[str, Any] = {"threads": 2, "hardware": "other"}
    if page_md5 is not None:  # records of before 2026-11-27 have none
        facts["page_md5"] = page_md5
    write_json(root / "reports/provenance.json", facts)
    found = Revision(WORKSPACE, "", root).provenance()
    assert found == (facts if is_of_the_run else {})
