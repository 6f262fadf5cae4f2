"""What the devices could do, to compare with what they do."""

from __future__ import annotations

import torch

# Dense bfloat16 matmuls, FLOP/s, from NVIDIA's data sheets; the first name that the device's name contains counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of one device in bfloat16; None for a device that is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def device_peak_flops(device: torch.device) -> float | None:
    """As `peak_flops`; None for anything but a known GPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
