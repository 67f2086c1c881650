"""GPTQ by llm-compressor, in its own environment: `python run_llm_compressor.py job.json`."""

from __future__ import annotations

from measure import Phases, job

settings, phases = job(), Phases()

with phases.phase("import"):
    import llmcompressor
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

torch.set_num_threads(settings["threads"])

with phases.phase("load"):
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=getattr(torch, settings["dtype"]))
    tokens = load_file(settings["tokens"])["calibration"]
    batches = tokens.split(settings["batch"])
    data = torch.utils.data.DataLoader(
        [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in batches],
        batch_size=None,
        shuffle=False,
    )

scheme = QuantizationScheme(
    targets=["Linear"],
    weights=QuantizationArgs(
        num_bits=settings["bits"],
        type="int",
        symmetric=True,
        strategy="group",
        group_size=settings["group_size"],
        actorder="static",
    ),
)
recipe = GPTQModifier(
    config_groups={"group_0": scheme}, ignore=["lm_head"], dampening_frac=settings["damp"], block_size=128
)
with phases.phase("quantize"):
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        pipeline="sequential",
        num_calibration_samples=len(batches),
        shuffle_calibration_samples=False,
    )

with phases.phase("save"):
    model.save_pretrained(settings["out"], save_compressed=True)

phases.write(
    settings["result"],
    tool=f"llm-compressor, {settings['dtype']}",
    version=llmcompressor.__version__,
    torch=torch.__version__,
    format="ct",
)
