"""CLIPScore (Hessel et al. 2021, without its factor 2.5) from local CLIP weights.

torchmetrics 1.9 is not used: its clip_score does not work with transformers 5.
"""

from __future__ import annotations

from typing import Any

import torch

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.ranks import ALONE, Ranks
from gear.core.settings import PinnedFile
from gear.data.images import ENCODER_BATCH
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.evaluation.metric_protocol import Metric


def clip_score(
    weights: PinnedFile,
    samples: Split,
    device: torch.device,
    protocol: dict[str, Any],
    ranks: Ranks = ALONE,
) -> dict[str, Metric]:
    """Return `clip_score`, the mean over samples of max(0, 100 cos(image, caption)).

    The result is empty if no weights are named.

    Raises:
        InputError: if the weights are absent, have another sha256 or are not CLIP's.
    """
    if not weights.path:
        return {}
    model, processor = _load(weights, device)

    @torch.inference_mode()
    def score(part: slice) -> float:
        inputs = processor(
            text=samples.captions[part],
            images=list(samples[part]),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        output = model(**inputs.to(device))
        cosines = (output.image_embeds * output.text_embeds).sum(-1)
        return float((100.0 * cosines).clamp(min=0).sum().item())

    total = sum(ranks.map(score, batches(len(samples), ENCODER_BATCH)))
    measured = {
        **protocol,
        "extractor": "clip",
        "weights_sha256": weights.sha256,
        "formula": "mean of max(0, 100 cos)",
    }
    return {"clip_score": Metric(total / len(samples), measured)}


def _load(weights: PinnedFile, device: torch.device) -> tuple[Any, Any]:
    import transformers

    remedy = (
        "download the folder of huggingface.co/openai/clip-vit-large-patch14 and name its "
        "model.safetensors, or leave it empty"
    )
    file = require_file(weights.path, weights.sha256, "evaluate.clip", remedy)
    try:
        model = transformers.CLIPModel.from_pretrained(
            file.parent, local_files_only=True, use_safetensors=True
        )
        processor = transformers.CLIPProcessor.from_pretrained(file.parent, local_files_only=True)
    except Exception as error:  # damaged files raise errors of many types
        raise InputError(
            f"evaluate.clip: {file.parent}: {' '.join(str(error).split())[:300]}"
        ) from None
    model.eval().requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]
    return model, processor
