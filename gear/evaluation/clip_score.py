"""CLIPScore (Hessel et al. 2021, without its factor 2.5) from local CLIP weights.

torchmetrics 1.9 is not used: its clip_score does not work with transformers 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gear.core.errors import InputError
from gear.core.files import require_file
from gear.core.ranks import ALONE, Ranks
from gear.core.settings import PinnedFile
from gear.data.images import ENCODER_BATCH
from gear.data.row_selection import batches
from gear.data.shards import Split
from gear.evaluation.metric_protocol import Absent, Metric

WEIGHTS = "model.safetensors"  # the file of a folder that transformers loads


def clip_score(
    weights: PinnedFile,
    samples: Split,
    device: torch.device,
    protocol: dict[str, Any],
    seen_N: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Metric | Absent]:
    """Return `clip_score`, the mean over samples of max(0, 100 cos(image, caption)).

    It is of held-out captions; `clip_score_seen` is of those that are in the training split too, if
    there are any. The result is empty if no weights are named.

    Args:
        weights: CLIP's model.safetensors.
        samples: The samples with their captions.
        device: Device of the model.
        protocol: How the samples were drawn.
        seen_N: Which samples are of captions that are in the training split too; None if none is.
        ranks: Share the work.

    Raises:
        InputError: if the weights are absent, have another sha256 or are not CLIP's.
    """
    if not weights.path:
        return {}
    model, processor = _load(weights, device)

    @torch.inference_mode()
    def score(part: slice) -> np.ndarray:
        inputs = processor(
            text=samples.captions[part],
            images=list(samples[part]),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        output = model(**inputs.to(device))
        cosines = (output.image_embeds * output.text_embeds).sum(-1)
        scores: np.ndarray = (100.0 * cosines).clamp(min=0).double().cpu().numpy()
        return scores

    scores_N = np.concatenate(list(ranks.map(score, batches(len(samples), ENCODER_BATCH))))
    seen_N = np.zeros(len(scores_N), dtype=bool) if seen_N is None else seen_N
    measured = {
        **protocol,
        "extractor": "clip",
        "weights_sha256": weights.sha256,
        "formula": "mean of max(0, 100 cos)",
    }
    metrics: dict[str, Metric | Absent] = {
        "clip_score": Absent("all captions of the samples are in the training split too")
    }
    for name, members_N in (("clip_score", ~seen_N), ("clip_score_seen", seen_N)):
        if members_N.any():
            counted = {**measured, "samples": int(members_N.sum())}
            metrics[name] = Metric(float(scores_N[members_N].mean()), counted)
    return metrics


def _load(weights: PinnedFile, device: torch.device) -> tuple[Any, Any]:
    import transformers

    remedy = (
        "download the folder of huggingface.co/openai/clip-vit-large-patch14 and name its "
        "model.safetensors, or leave it empty"
    )
    file = require_file(weights.path, weights.sha256, "evaluate.clip", remedy)
    if file.name != WEIGHTS:  # transformers loads this file, whichever was checked
        raise InputError(f"evaluate.clip: {file}: its folder's {WEIGHTS} would be loaded: name it")
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
