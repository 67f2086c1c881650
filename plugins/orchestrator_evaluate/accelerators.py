"""More target machines of 1024 accelerators each, as ``hardware`` components: rates from public data sheets.

No price is recorded for them, neither a rent nor a device price: both are 0, which the ledger refuses to price and asks
for. Injection is that of the scale-out port where accelerators have one each, and of all links to other chips where they
are wired to one another. Four are the machines by which the HammingMesh talk motivates its 16 links of 400 Gb/s (1, 1.6,
4.8 and 128 Tb/s an accelerator), with the talk's injection; vendors add both directions in some of these figures, which
the source of each says. Efficiencies are assumed, as those of ``h200_1024``.
"""

from __future__ import annotations

from orchestrator.kinds import Hardware

BITS = 8
_TALK = "injection as in the HammingMesh talk"
_PORT = "one 400 Gb/s network port each assumed"


def _machine(
    name: str,
    accelerator: str,
    *,
    peak_flops: float,
    memory_bytes: float,
    memory_bytes_per_s: float,
    injection_gbps: float,
    source: str,
    power_w: float = 0.0,
) -> Hardware:
    """Return 1024 devices without a price; a power of 0 is unknown."""
    return Hardware(
        name=name,
        devices=1024,
        accelerator=accelerator,
        peak_flops=peak_flops,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=memory_bytes_per_s,
        injection_bytes_per_s=injection_gbps * 1e9 / BITS,
        usd_per_device_hour=0.0,
        price_date="",
        price_source="no price recorded; set usd_per_device_hour, or mode: own and device_capex_usd",
        power_w=power_w,
        pue=1.2,
        usd_per_kwh=0.08,
        utilization=0.6,
        eff_compute=0.5,
        eff_memory=0.8,
        basis="assumed",
        source=f"{source}; PUE, energy price, life and efficiencies assumed",
    )


def h100_1024() -> Hardware:
    """Describe NVIDIA H100 SXM devices; the peak is the dense bf16 rate."""
    return _machine(
        "h100_1024",
        "NVIDIA H100 SXM 80 GB",
        peak_flops=989.5e12,
        memory_bytes=80e9,
        memory_bytes_per_s=3.35e12,
        injection_gbps=400,
        power_w=700.0,
        source=f"NVIDIA H100 SXM data sheet for rates and power; {_PORT}",
    )


def b200_1024() -> Hardware:
    """Describe NVIDIA B200 devices; the peak is the dense bf16 rate."""
    return _machine(
        "b200_1024",
        "NVIDIA B200 SXM 180 GB",
        peak_flops=2250e12,
        memory_bytes=180e9,
        memory_bytes_per_s=8e12,
        injection_gbps=400,
        power_w=1000.0,
        source=f"NVIDIA HGX B200 data sheet for rates and power; {_PORT}",
    )


def mi300x_1024() -> Hardware:
    """Describe AMD Instinct MI300X devices; the peak is the dense bf16 rate."""
    return _machine(
        "mi300x_1024",
        "AMD Instinct MI300X 192 GB",
        peak_flops=1307.4e12,
        memory_bytes=192e9,
        memory_bytes_per_s=5.3e12,
        injection_gbps=400,
        power_w=750.0,
        source=f"AMD Instinct MI300X data sheet for rates and board power; {_PORT}",
    )


def tpu_v5p_1024() -> Hardware:
    """Describe Google TPU v5p chips, which send over the six links of a 3D torus; their power is not published."""
    return _machine(
        "tpu_v5p_1024",
        "Google TPU v5p 95 GB",
        peak_flops=459e12,
        memory_bytes=95e9,
        memory_bytes_per_s=2.765e12,
        injection_gbps=4800,
        source="Google Cloud TPU v5p documentation: 1200 GB/s between chips in both directions is 4800 Gb/s in each",
    )


def tpu_v2_1024() -> Hardware:
    """Describe Google TPU v2 chips, which send over the four links of a 2D torus."""
    return _machine(
        "tpu_v2_1024",
        "Google TPU v2 16 GB",
        peak_flops=46e12,
        memory_bytes=16e9,
        memory_bytes_per_s=700e9,
        injection_gbps=1000,
        power_w=280.0,
        source=f"Jouppi et al., CACM 63(7), 2020, for rates and power; {_TALK}, half of four links of 496 Gb/s",
    )


def trainium_1024() -> Hardware:
    """Describe AWS Trainium devices of the first generation; their power is not published."""
    return _machine(
        "trainium_1024",
        "AWS Trainium 32 GB",
        peak_flops=190e12,
        memory_bytes=32e9,
        memory_bytes_per_s=820e9,
        injection_gbps=1600,
        source=f"AWS Neuron documentation, Trainium architecture, for rates; {_TALK}",
    )


def dgx_a100_1024() -> Hardware:
    """Describe NVIDIA A100 SXM devices that send over NVLink 3, which the talk lists as DGX-2."""
    return _machine(
        "dgx_a100_1024",
        "NVIDIA A100 SXM 80 GB",
        peak_flops=312e12,
        memory_bytes=80e9,
        memory_bytes_per_s=2.039e12,
        injection_gbps=4800,
        power_w=400.0,
        source=f"NVIDIA A100 data sheet for rates and power; {_TALK}: the 600 GB/s of NVLink 3, both directions added",
    )


def dojo_d1_1024() -> Hardware:
    """Describe Tesla Dojo D1 dies, whose memory is the SRAM of their 354 nodes, without any outside."""
    return _machine(
        "dojo_d1_1024",
        "Tesla Dojo D1 440 MB",
        peak_flops=362e12,
        memory_bytes=440e6,
        memory_bytes_per_s=354 * 400e9,
        injection_gbps=128_000,
        power_w=400.0,
        source=(
            "Tesla AI Day 2021 and Hot Chips 34 for rates and power (354 nodes load 400 GB/s each from SRAM); "
            f"{_TALK}: four edges of 4 TB/s, directions added"
        ),
    )
