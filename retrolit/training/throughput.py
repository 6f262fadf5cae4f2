"""What the devices could do, to compare with what they do."""

from __future__ import annotations

import torch

from retrolit.planning.gpus import GPUS


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of one device in bfloat16; None for a device that is not in the table."""
    return next((gpu.flops for name, gpu in GPUS.items() if name in device_name), None)


def device_peak_flops(device: torch.device) -> float | None:
    """As `peak_flops`; None for anything but a known GPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
