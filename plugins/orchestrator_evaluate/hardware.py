"""Target machines as ``hardware`` components: rates from data sheets, efficiencies assumed, prices dated."""

from __future__ import annotations

from orchestrator.kinds import Hardware


def h200_1024() -> Hardware:
    """Describe 1024 NVIDIA H200 SXM devices with one 400 Gb/s network port each, rented by the device-hour.

    The peak is the dense bf16 rate (the data sheet prints twice that, with sparsity). Efficiencies are assumed, not
    measured: 0.5 of the peak for large matrix products in training and prefill, 0.8 of the memory bandwidth in decoding.
    """
    return Hardware(
        name="h200_1024",
        devices=1024,
        accelerator="NVIDIA H200 SXM 141 GB",
        peak_flops=989.5e12,
        memory_bytes=141e9,
        memory_bytes_per_s=4.8e12,
        injection_bytes_per_s=50e9,
        usd_per_device_hour=3.50,
        price_date="2026-05",
        price_source=(
            "on-demand H200 SXM per device-hour as surveyed by cloud price guides in March and May 2026: about 2.5-3.5 USD "
            "(marketplaces; RunPod lists 3.59), 3.5-4.5 (specialised clouds), 4.5-7.0 (hyperscalers)"
        ),
        device_capex_usd=32_000.0,
        power_w=700.0,
        pue=1.2,
        usd_per_kwh=0.08,
        life_h=4 * 365 * 24.0,
        utilization=0.6,
        eff_compute=0.5,
        eff_memory=0.8,
        basis="assumed",
        source="NVIDIA H200 SXM data sheet for rates and power; device price, PUE, energy price, life and efficiencies assumed",
    )
