"""A hand-made case of the ledger that tests price: three models at one and eight samples, two topologies, their facts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from orchestrator_evaluate.hardware import h200_1024
from orchestrator_evaluate.ledger import Inputs, Variant, compare, price_variants
from orchestrator_evaluate.members import FactBook, Quality, Training
from orchestrator_evaluate.scopes import Conditions
from orchestrator_evaluate.selection import baseline_of

N = 80
BASELINE = {"variant": "reasoner", "samples": 8, "topology": "fat_tree"}
LADDER = ({"samples": 1}, {"variant": "gptq4"}, {"topology": "hx2mesh"})
# (parameters, stored bytes, share solved with 1 sample, with 8 samples, decode tokens/s here)
MODELS = {
    "reasoner": (1_000_000, 4_000_000, 0.90, 0.92, 4000.0),
    "rtn4": (1_000_000, 620_000, 0.30, 0.35, 3900.0),
    "gptq4": (1_000_000, 620_000, 0.91, 0.93, 4100.0),
}
STEP_PS = {"fat_tree": 8_000_000_000, "hx2mesh": 9_000_000_000}


def quality(variant: str, samples: int, share: float) -> Quality:
    """Accuracy of one model: the first problems are the solved ones, costs differ from problem to problem."""
    completion = (np.arange(N) % 5 + 10) * samples
    return Quality(
        label=f"accuracy/variant:{variant}/samples:{samples}",
        axes={"variant": variant, "samples": samples},
        model_digest=f"digest-{variant}",
        problem_ids=tuple(f"p{i}" for i in range(N)),
        solved=(np.arange(N) < round(share * N)).astype(float),
        prompt_tokens=np.full(N, 13 * samples),
        cached_tokens=np.full(N, 13 * (samples - 1)),
        completion_tokens=completion,
        calls=np.full(N, samples),
    )


def training(topology: str) -> Training:
    """One simulated step."""
    columns = {
        "topology": topology,
        "devices": 1024,
        "parameters": 1_000_000,
        "tokens_per_step": 8192 * 1024,
        "flop_per_step": 6 * 1_000_000 * 8192 * 1024,
        "step_ps": STEP_PS[topology],
        "step_ps_infinite": 7_000_000_000,
        "exposed_communication_ps": STEP_PS[topology] - 7_000_000_000,
        "network_capex_usd": 25e6 if topology == "fat_tree" else 12e6,
    }
    return Training(label=f"network/topology:{topology}", axes={"topology": topology}, columns=columns)


def fact(subject: str, quantity: str, value: float, basis: str, stage: str = "", **axes: Any) -> dict[str, Any]:
    """One row of facts.v1."""
    return {
        "subject": subject,
        "stage": stage,
        "axes": json.dumps(axes),
        "phase": "",
        "quantity": quantity,
        "value": value,
        "low": None,
        "high": None,
        "n": None,
        "unit": "",
        "basis": basis,
        "hardware": "",
        "source": "",
    }


def facts(**overrides: float) -> list[dict[str, Any]]:
    """Every fact that the stages of a quickstart report; an override replaces a quantity everywhere."""
    rows = [
        fact("digest-base", "train_s", 90.0, "measured", "base"),
        fact("digest-base", "train_tokens", 1.2e6, "counted", "base"),
        fact("digest-base", "flop", 6e12, "counted", "base"),
        fact("digest-sft", "sft_s", 20.0, "measured", "sft"),
        fact("digest-sft", "flop", 1e12, "counted", "sft"),
        fact("digest-reasoner", "rl_s", 40.0, "measured", "reasoner"),
        fact("digest-reasoner", "flop", 2e12, "counted", "reasoner"),
    ]
    for name, (parameters, stored, _, _, decode) in MODELS.items():
        subject = f"digest-{name}"
        rows += [
            fact(subject, "parameters", parameters, "counted", name),
            fact(subject, "nonzero", parameters, "counted", name),
            fact(subject, "stored_bytes", stored, "counted", name),
            fact(subject, "bits_per_parameter", 8 * stored / parameters, "counted", name),
            fact(subject, "kv_bytes_per_token", 1024, "counted", "accuracy"),
        ]
        if name != "reasoner":
            rows.append(fact(subject, "compress_s", 3.0, "measured", name))
        for samples in (1, 8):
            # Eight samples decode in one batch, so their rate is higher; the ledger must not mix the two up.
            where = {"stage": "accuracy", "variant": name, "samples": samples}
            rows += [
                fact(subject, "prefill_tokens_per_s", 9000.0 + samples, "measured", **where),
                fact(subject, "decode_tokens_per_s", decode * (1 + samples / 16), "measured", **where),
                fact(subject, "verifier_s", 0.004 * samples, "measured", **where),
            ]
    return [{**row, "value": overrides.get(row["quantity"], row["value"])} for row in rows]


def inputs(
    conditions: Conditions | None = None, rows: list[dict[str, Any]] | None = None, **solved: tuple[float, float]
) -> Inputs:
    """The whole case; ``solved`` replaces a model's shares at 1 and 8 samples."""
    qualities = []
    for name, (_, _, one, eight, _) in MODELS.items():
        shares = solved.get(name, (one, eight))
        qualities += [quality(name, 1, shares[0]), quality(name, 8, shares[1])]
    return Inputs(
        qualities=qualities,
        trainings=[training("fat_tree"), training("hx2mesh")],
        facts=FactBook(facts() if rows is None else rows),
        hardware=h200_1024(),
        conditions=conditions or Conditions(),
        perplexity={"digest-reasoner": 12.5},
    )


def compared(given: Inputs, margin: float = 0.1) -> list[Variant]:
    """Price a case and compare it with its baseline."""
    variants = price_variants(given)
    baselines = {scope: baseline_of(variants, scope, BASELINE) for scope in ("here", "target")}
    return compare(variants, baselines, margin, given.conditions)
