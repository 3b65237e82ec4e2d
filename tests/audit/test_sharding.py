"""An audit shared by several processes: equal counts, and what happens when one of them dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch
from torch import Tensor, nn

import advlib
from advlib.audit import Attack, Budget
from advlib.audit.sharding import ProcessLostError, Team

SCRIPT = """
import datetime, json, os, sys
import torch, torch.distributed as dist
import advlib, test_sharding as shared
from advlib.errors import AdvlibError

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
print(json.dumps(shared.conduct(sys.argv[1])), flush=True)
changes = (None, shared.other_label), (None, shared.failing), (sys.argv[2], shared.dying)
for folder, change in changes:
    try:
        shared.conduct(folder, change if rank == 1 else None)
    except ZeroDivisionError:
        print("failed", flush=True)
    except AdvlibError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
dist.destroy_process_group()
sys.exit(2)
"""


def drawn(model: nn.Module, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
    return advlib.noise(x, 0.05, distribution="sign", generator=budget.generator)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
    return advlib.fgsm(model, x, y, 0.05)


class Change:
    """Does something to the audit of one process, at the second call of its first attack."""

    def __init__(self, end: object = None) -> None:
        self.end, self.calls = end, 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        self.calls += 1
        if self.calls == 2 and self.end is not None:
            self.end()
        return x


def _fail() -> None:
    raise ZeroDivisionError


other_label = Change()
failing = Change(_fail)
dying = Change(lambda: os._exit(9))


def conduct(folder: str | Path | None, change: Change | None = None) -> list:
    """An audit of 40 images in 10 pieces; the counts."""
    model = reference.mlp(75, 5, 0, 2.0).float()
    x = reference.images(40, 3, 5, 5, seed=1, ends=0.1).float()
    with torch.no_grad():
        y = model(x).argmax(1)
    if change is other_label:
        y[3] = (y[3] + 1) % 5
    attacks = [
        Attack("first", "nothing", change or Change()),
        Attack("drawn", "nothing", drawn),
        Attack("fgsm", "gradients", fgsm),
    ]
    options = {"batch_size": 4, "piece_size": 4, "masking": False, "resume": folder}
    result = advlib.audit(model, x, y, 0.05, attacks=attacks, **options)
    assert result.fooled_by is not None
    return [result.fooled_by.tolist(), [row.attacked for row in result.rows]]


def start(script: Path, *arguments: str) -> list[subprocess.Popen]:
    """Two processes of one team."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parent
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_two_processes_count_what_one_does_and_one_that_dies_is_noticed(tmp_path: Path) -> None:
    """Three audits in one pair of processes: starting torch is what takes the time."""
    (tmp_path / "script.py").write_text(SCRIPT)
    folders = tmp_path / "well", tmp_path / "dead"
    processes = start(tmp_path / "script.py", *map(str, folders))
    try:
        expected = conduct(None)
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    (first, first_err), (second, second_err) = said
    assert [process.returncode for process in processes] == [2, 9], first_err + second_err

    alone, together = expected, [out.splitlines() for out in (first, second)]
    assert [json.loads(lines[0]) for lines in together] == [alone, alone]
    assert {-1, 1, 2} <= set(alone[0])
    assert len(list(folders[0].glob("piece-*.json"))) == 10

    assert all("do not hold the same" in lines[1] for lines in together)
    assert "ProcessLostError: another process" in together[0][2] and together[1][2] == "failed"
    assert "ProcessLostError: a process of the audit died" in together[0][3]
    assert "start the same command again" in together[0][3]
    assert 1 <= len(list(folders[1].glob("piece-*.json"))) < 10
    assert conduct(folders[1]) == alone


def test_one_process_is_a_team() -> None:
    team = Team.assemble()
    values = torch.tensor([1, 2])
    assert team.leads and team.size == 1
    assert torch.equal(team.largest(values), values)
    assert team.meet(3) == 3 and team.settle() is None
    team.agree("ab", "settings")


def test_a_broken_connection_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer [10.0.0.2]:4711\nmore lines")

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(ProcessLostError, match="died.*Connection closed.*Finished pieces"):
        Team(0, 2).largest(torch.zeros(1))
