import pytest
import torch

from retrolit.training.throughput import device_peak_flops, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Somebody's card", None),
    ],
)
def test_the_most_specific_name_counts(name, peak):
    assert peak_flops(name) == peak


def test_a_cpu_has_no_peak():
    assert device_peak_flops(torch.device("cpu")) is None
