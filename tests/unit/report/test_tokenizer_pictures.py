"""Test that the report's tokenizer images are the right ones in the right order."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gear.evaluation.reconstruction import peak_signal_to_noise
from gear.report.page import picture
from gear.report.tokenizer_pictures import (
    CODES,
    class_table,
    code_tiles,
    decoded_codes,
    psnr,
    sections,
)
from tests.unit.report.test_page import reconstructed, tokenizer_of


def test_psnr_is_that_of_the_metric() -> None:
    random = np.random.default_rng(0)
    given, made = random.integers(0, 256, (2, 5, 8, 8, 3)).astype(np.uint8)
    made[0] = given[0]
    assert psnr(given, made).tolist() == pytest.approx(peak_signal_to_noise(made, given), rel=1e-5)


def test_the_worst_reconstructions_come_first() -> None:
    found = reconstructed(5, 8, 8)
    found.copies[3] = found.originals[3]
    found.psnr[:] = psnr(found.originals, found.copies)
    shown = sections(tokenizer_of(8), found, ["a", "b"], np.zeros(1))["worst"]
    values = [float(one["psnr"]) for one in shown]
    assert values == sorted(values)
    assert values[-1] == 100
    assert shown[-1]["original"] == picture(found.originals[3]) == shown[-1]["rebuilt"]


def test_classes_are_counted_and_the_worst_comes_first() -> None:
    found = reconstructed(5, 8, 8)
    found.psnr[:] = [10, 30, 20, 40, 30]  # labels 0, 1, 0, 1, 0
    table = class_table(found, ["a", "b", "absent"], np.array([0, 0, 0, 1]))
    assert table["rows"] == [["a", 3, 3, "20.00", "10.00"], ["b", 1, 2, "35.00", "30.00"]]
    assert class_table(found, ["a"] * 50, np.zeros(1))["hidden"] == 0


def test_codes_are_sorted_by_use() -> None:
    counts = np.array([1, 5, 0, 2, 0, 0, 0, 0])
    found = code_tiles(tokenizer_of(8), counts)
    labels = json.loads(found["labels"])["labels"]
    assert labels[0] == "code 1: 62.50% of tokens, rank 1"
    assert [label.split(":")[0] for label in labels[1:4]] == ["code 3", "code 0", "code 2"]
    assert (found["shown"], found["unused"]) == (8, 5)


def test_of_a_large_codebook_the_most_used_codes_are_shown() -> None:
    found = code_tiles(tokenizer_of(2 * CODES), np.arange(2 * CODES))
    assert found["shown"] == CODES
    assert json.loads(found["labels"])["labels"][0].startswith(f"code {2 * CODES - 1}:")


def test_a_codes_patch_is_the_centre_of_a_map_of_it() -> None:
    tokenizer = tokenizer_of(8)
    patches = decoded_codes(tokenizer, np.array([5, 2]))
    assert patches.shape == (2, 4, 4, 3)
    with torch.inference_mode():
        whole = tokenizer.decode_indices(torch.full((1, 25), 2))
    centre = whole[0, :, 8:12, 8:12].permute(1, 2, 0).clamp(-1, 1)
    assert np.abs(patches[1] / 127.5 - 1 - centre.numpy()).max() < 0.01
