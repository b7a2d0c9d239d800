"""Names of the values that a prediction of a study can be about, and when they can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from gear.core.errors import InputError
from gear.core.settings import quoted
from gear.params import Config, result_settings
from gear.report.curves import RECORDED_CURVES
from gear.report.page import TITLES
from gear.runs.comparison import SAMPLING

FEATURES = {  # features of the alignment analysis, and their names in a study file
    "warm tokenizer's latents": "warm",
    "joint tokenizer's latents": "latents",
    "generator's tap": "tap",
}
LIKENESS = ("cknna", "cka", "probe", "spatial")
OF_LIKENESS = {
    f"{name}/{place}/{teacher}"
    for name in LIKENESS
    for place in FEATURES.values()
    for teacher in (1, 2)
}
CODEBOOK = ("usage", "perplexity")  # of the joint tokenizer; with `warm_`, of the warm one
OF_CODEBOOK = {*CODEBOOK, *(f"warm_{name}" for name in CODEBOOK), "churn"} | {
    f"support/{when}" for when in ("warm", "joint")
}
OF_MODELS = {"fd_untrained", "ntp_bits", "ntp_nats", "psnr", "rfd", "rfd_floor", "rfid", "ssim"}
OF_CAPTIONS = {
    f"retrieval_{which}{seen}{part}"
    for which in ("own_10%", "category")
    for seen in ("", "_seen")
    for part in ("", "_low", "_high", "_floor")
}
FLOORS = {
    f"{name}_floor" for name in ("fd", "coverage", "recall", "fid", "memorised", "memorised_tokens")
}
OF_SAMPLES = (
    (TITLES.keys() - OF_MODELS)
    | OF_CAPTIONS
    | FLOORS
    | {"clip_score", "clip_score_seen", "val_captions_seen"}
)
SWEPT = {"fd", "coverage"} | OF_CAPTIONS  # measured at each of evaluate.guidances too
CURVE = {name for curve in RECORDED_CURVES for name in curve.lines.values()} | {
    "gan/adaptive_weight"
}
MEASURED = ("fd", "val", "guidance")  # groups of the curve that joint.fd_every measures
FALLING = {name for name in CURVE if name in ("fd", "val/ntp_bits") or name.startswith("loss/")}
SAMPLE_SETTINGS = ("sample.n", *(f"sample.{name}" for name in SAMPLING))
EVALUATION_SETTINGS = tuple(
    f"evaluate.{name}" for name in ("input_size", "neighbours", "inception", "reference", "clip")
)


def end_metrics(config: Config) -> set[str]:
    """Return the names of the metrics that a run can have at its end."""
    swept = {f"{name}@{scale:g}" for name in SWEPT for scale in config.evaluate.guidances}
    return OF_SAMPLES | OF_MODELS | OF_CODEBOOK | OF_LIKENESS | swept


def check_value(kind: str, value: str, arms: Mapping[str, Config]) -> None:
    """Check that a prediction's value can be compared between arms.

    Args:
        kind: The kind of the prediction.
        value: Its value.
        arms: Settings of its arm, then those of the arms that it is compared with.

    Raises:
        InputError: if there is no such value, if it is not measured in the curve, or if the arms
            measure it under different protocols. One line says what to write.
    """
    at_end = set.intersection(*(end_metrics(config) for config in arms.values()))
    is_of_curve = kind in ("sooner", "falls")
    allowed = CURVE if is_of_curve else at_end | CURVE
    if value not in allowed:
        where = "quantity of the curve" if is_of_curve else "metric and no quantity of the curve"
        close = get_close_matches(value, sorted(allowed), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "docs/studies.md has their names"
        raise InputError(f"no {where} {quoted(value)}: {hint}")
    if kind == "sooner" and value not in FALLING:
        raise InputError(
            f"{value} is not lower where it is better: `sooner` is about fd, val/ntp_bits and "
            "loss/..."
        )
    from_curve = is_of_curve or value not in at_end
    if from_curve and value.partition("/")[0] in MEASURED:
        for arm, config in arms.items():
            if not config.joint.fd_every:
                raise InputError(
                    f"{value} is in the curve only if joint.fd_every is above 0, and in {arm} it "
                    "is 0"
                )
    first, *others = arms
    for other in others:
        differing = _differing(arms[first], arms[other], _protocol_settings(value, from_curve))
        if differing:
            raise InputError(
                f"{first} and {other} differ in {', '.join(differing)}, so that {value} is "
                "measured under different protocols"
            )


def _protocol_settings(value: str, from_curve: bool) -> tuple[str, ...]:
    """Return the settings, or sections, that are in the protocol of a value."""
    if from_curve:
        return ("joint.fd_n", "evaluate.input_size") if value == "fd" else ()
    name = value.partition("@")[0]
    if name in OF_SAMPLES:
        swept = ("evaluate.guidance_n",) if "@" in value else ()
        return SAMPLE_SETTINGS + EVALUATION_SETTINGS + swept
    if name in OF_LIKENESS:
        return ("teacher",)
    if name == "fd_untrained":
        return ("evaluate.input_size", "sample.n")
    return ("evaluate.input_size",) if name in ("rfd", "rfd_floor") else ()


def _differing(one: Config, other: Config, names: tuple[str, ...]) -> list[str]:
    """Return which of some settings, or sections, differ."""
    first, second = result_settings(one), result_settings(other)
    return [
        key
        for key in sorted(first.keys() | second.keys())
        if any(f"{key}.".startswith(f"{name}.") for name in names)
        and first.get(key) != second.get(key)
    ]
