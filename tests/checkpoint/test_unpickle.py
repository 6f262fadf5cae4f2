"""Foreign torch files: what they hold comes out, what they ask for never runs."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from retrolit.checkpoint.unpickle import StandIn, load_foreign


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_options_tensors_and_random_states_come_out(tmp_path):
    saved = {
        "args": argparse.Namespace(num_layers=3, params_dtype=torch.bfloat16, names=["a", "b"]),
        "model": {"weight": torch.randn(4, 5), "half": torch.randn(3).bfloat16()},
        "rng_state": [{"np_rng_state": np.random.default_rng(0).integers(0, 9, 5), "big": 2**40}],
    }
    torch.save(saved, tmp_path / "model.pt")
    found = load_foreign(tmp_path / "model.pt")
    assert vars(found["args"]) == vars(saved["args"])
    assert torch.equal(found["model"]["weight"], saved["model"]["weight"])
    assert torch.equal(found["model"]["half"], saved["model"]["half"])
    assert isinstance(found["rng_state"][0]["np_rng_state"], StandIn)
    assert found["rng_state"][0]["big"] == 2**40


def test_classes_of_nvidias_packages_become_stand_ins(tmp_path):
    # GLOBAL, an argument, REDUCE: how an enum's member is pickled. The module does not exist here.
    enum = b"cmegatron.core.enums\nModelType\n" + b"K\x01" + b"\x85" + b"R"
    _write_torch_file(tmp_path / "model.pt", b"\x80\x02" + enum + b".")
    found = load_foreign(tmp_path / "model.pt")
    assert isinstance(found, StandIn)
    assert type(found).__name__ == "megatron.core.enums.ModelType"
    assert found.arguments == (1,)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {marker}",), r"posix\.system|nt\.system"),
        (eval, ("open('{marker}', 'w')",), r"builtins\.eval|__builtin__"),
        (exec, ("open('{marker}', 'w')",), r"builtins\.exec|__builtin__"),
        (open, ("{marker}", "w"), r"io\.open"),
        (getattr, (argparse, "os"), r"getattr"),
        (__import__, ("antigravity",), r"__import__"),
        (torch.hub.load, ("owner/name", "model"), r"torch\.hub\.load"),
        (np.load, ("{marker}",), r"numpy\.load"),
        (pickle.loads, (b"cos\nsystem\n.",), r"loads"),
    ],
    ids=["os.system", "eval", "exec", "open", "getattr", "import", "torch.hub", "numpy.load", "pickle.loads"],
)
def test_a_file_that_calls_a_function_is_refused_by_its_name(tmp_path, function, arguments, named):
    marker = tmp_path / "ran"
    filled = tuple(text.format(marker=marker) if isinstance(text, str) else None for text in arguments)
    torch.save({"args": argparse.Namespace(), "model": Calls(function, *filled)}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=rf"evil\.pt: asks for .*({named}).*nothing of the file was run"):
        load_foreign(tmp_path / "evil.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        # a stand-in's class given state, which Python's own unpickler would set as attributes of the class
        b"cmegatron.core.enums\nModelType\n}X\x08\x00\x00\x00__call__X\x01\x00\x00\x00xsb.",
        # one of torch's own functions given state to hang on
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__Nsb.",
        # protocol 0's INST and protocol 4's STACK_GLOBAL, which name a function without a GLOBAL
        b"(S'true'\nios\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        # the registry of extensions
        b"\x82\x01.",
    ],
    ids=["class state", "function state", "INST", "STACK_GLOBAL", "EXT1"],
)
def test_the_unpicklers_side_doors_are_shut(tmp_path, program, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    _write_torch_file(tmp_path / "evil.pt", b"\x80\x02" + program)
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(ValueError, match=r"evil\.pt: (not a torch file that can be read safely|damaged)"):
        load_foreign(tmp_path / "evil.pt")
    assert ran == []
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults


def test_a_dotted_name_is_not_followed(tmp_path, monkeypatch):
    # Python's own unpickler imports the module and, from protocol 4 on, walks along the dots.
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    _write_torch_file(tmp_path / "evil.pt", b"\x80\x02cmegatron\nos.system\nX\x04\x00\x00\x00true\x85R.")
    found = load_foreign(tmp_path / "evil.pt")
    assert isinstance(found, StandIn)
    assert found.arguments == ("true",)
    assert ran == []
    _write_torch_file(tmp_path / "evil.pt", b"\x80\x02cjson\ndecoder.scanner.re.compile\n.")
    with pytest.raises(ValueError, match=r"asks for json\.decoder\.scanner\.re\.compile"):
        load_foreign(tmp_path / "evil.pt")


def test_stand_ins_do_not_outlive_the_reading(tmp_path):
    _write_torch_file(tmp_path / "model.pt", b"\x80\x02cmegatron.core.enums\nModelType\n.")
    before = set(torch.serialization.get_safe_globals())
    load_foreign(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("content", [b"", b"not a zip file", pickle.dumps({"model": 1}, protocol=2)])
def test_other_files_are_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt: not a torch file that can be read safely"):
        load_foreign(tmp_path / "model.pt")


def test_a_truncated_file_is_refused_in_a_sentence(tmp_path):
    torch.save({"model": torch.randn(1000)}, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.pt: not a torch file"):
        load_foreign(tmp_path / "model.pt")


def test_a_tensor_beyond_its_storage_is_refused_in_a_sentence(tmp_path):
    torch.save({"weight": torch.zeros(4)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        program = archive.read("model/data.pkl")
    assert program.count(b"K\x04") >= 2  # the size of the storage and of the tensor
    larger = program.replace(b"K\x04\x85", b"M" + struct.pack("<H", 4096) + b"\x85")
    assert larger != program
    _write_torch_file(tmp_path / "evil.pt", larger, storage=bytes(16))
    with pytest.raises(ValueError, match=r"evil\.pt: damaged"):
        load_foreign(tmp_path / "evil.pt")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_foreign(tmp_path / "model.pt")


def _write_torch_file(path, program: bytes, storage: bytes = b"") -> None:
    """A torch file whose pickle is this program."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/version", "3\n")
        if storage:
            archive.writestr("model/data/0", storage)
