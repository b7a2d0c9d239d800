"""Stage codebook: health of the codebook, drift of its use, and whose features are like a teacher's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gear import paths
from gear.core.device import pick_device
from gear.core.files import write_json
from gear.core.model_folder import read_config
from gear.data.images import to_tensor
from gear.data.rows import evenly_spaced
from gear.data.shards import read_split
from gear.evaluation import alignment_analysis, codebook, token_drift
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.params import Config
from gear.tokenizer.inference import encode_images, load_tokenizer
from gear.tokenizer.model import Tokenizer

SUPPORT_IMAGES = 32
IMAGES = 50_000  # of the training split, at most: their token histogram is the codebook's use


def run(config: Config) -> None:
    """Tokenizers, shards and samples → `reports/codebook.json` (headline) and `reports/codebook-details.json`."""
    codes = config.tokenizer.codes
    warm, joint = (
        load_tokenizer(paths.TOKENIZER / "tokenizer"),
        load_tokenizer(paths.JOINT / "tokenizer"),
    )
    device, train = pick_device(config.host), read_split(paths.SHARDS / "train")
    warm, joint = warm.to(device), joint.to(device)
    pixels = train.part(evenly_spaced(len(train), IMAGES))
    tokens = {
        "warm": encode_images(warm, pixels),
        "joint": encode_images(joint, pixels),
        "samples": np.load(paths.SAMPLES / "tokens.npy"),
    }
    details: dict[str, Any] = {name: _health(part, codes) for name, part in tokens.items()}
    temperature = read_config(paths.JOINT / "tokenizer")["temperature"]
    details["support"] = {
        name: _support(model, pixels[:SUPPORT_IMAGES], temperature)
        for name, model in (("warm", warm), ("joint", joint))
    }
    details["temperature"] = temperature
    details["churn"] = codebook.churn(tokens["warm"], tokens["joint"])
    details["drift"] = {
        f"{old} to {new}": token_drift.measure(
            tokens[old],
            tokens[new],
            codes,
            config.run.seed,
            paths.DRIFT_PAGES / f"{old}-{new}.html",
        )
        for old, new in (("warm", "joint"), ("joint", "samples"))
    }
    val = read_split(paths.SHARDS / "val")
    chosen = evenly_spaced(len(val), alignment_analysis.IMAGES)
    generator, conditions = (
        load_generator(paths.JOINT / "generator").to(device),
        conditions_for(config, val),
    )
    details["representation"] = alignment_analysis.measure(
        warm,
        joint,
        generator,
        config.teacher.encoders,
        val.part(chosen),
        lambda rows: conditions(chosen[rows]),
    )
    write_json(paths.REPORTS / "codebook-details.json", details)
    headline = {"usage": details["joint"]["usage"], "perplexity": details["joint"]["perplexity"]}
    write_json(paths.CODEBOOK_METRICS, headline)
    print(", ".join(f"{name} {value:.4g}" for name, value in headline.items()))


def _health(tokens: np.ndarray, codes: int) -> dict[str, Any]:
    counts = codebook.histogram(tokens, codes)
    return {
        "usage": codebook.usage(counts),
        "perplexity": codebook.perplexity(counts),
        "dead": int((counts == 0).sum()),
        "top_mass": {str(k): codebook.top_mass(counts, k) for k in (1, 10, 100) if k < codes},
        "histogram": np.sort(counts)[::-1].tolist(),
    }


@torch.inference_mode()
def _support(tokenizer: Tokenizer, pixels: np.ndarray, temperature: float) -> dict[str, float]:
    """Effective support of the soft read-out at tau, and the mass of its ten likeliest codes."""
    assignment = tokenizer.encode(to_tensor(pixels, tokenizer)).assignment
    return {
        "effective_support": assignment.support(temperature),
        "top_10_mass": assignment.top_mass(temperature, 10),
    }
