"""``python -m advlib audit``: what can be named, what is written, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from safetensors.torch import save_file

from advlib.__main__ import main
from advlib.audit import command_line
from advlib.errors import InputError

MODEL = """
import reference
def make():
    return reference.mlp(75, 5, 0, 2.0).float()
ready = make()
number = 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, and its images in both kinds of files."""
    (tmp_path / "model.py").write_text(MODEL)
    x = reference.images(12, 3, 5, 5, seed=1).float()
    y = reference.mlp(75, 5, 0, 2.0).float()(x).argmax(1)
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    return tmp_path


def command(place: Path, **more: Any) -> list[str]:
    options = {
        "model": f"{place / 'model.py'}:make",
        "data": place / "data.npz",
        "eps": "12/255",
        "level": "quick",
        "out": place / "report",
        "device": "cpu",
        **more,
    }
    return ["audit", *(f"--{key}={value}" for key, value in options.items())]


def test_a_report_is_written(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(command(place, name="toy")) == 0
    out, err = capsys.readouterr()
    assert "toy: clean 100.0 %" in out and "card.md" in out and err == ""
    held = json.loads((place / "report" / "card.json").read_text())
    assert held["name"] == "toy" and held["eps"] == pytest.approx(12 / 255)
    assert held["clean"]["count"] == 12 > held["robust"]["count"]
    # Again, from the other kind of file: the same images, so the run is found finished.
    assert main([*command(place, data=place / "data.safetensors"), "--progress"]) == 0
    assert "12/12" in capsys.readouterr().err


BAD = {
    "model": ("resnet", "no model 'resnet'"),
    "data": ("imagenet", "no data 'imagenet'"),
    "out": ("/dev/null/report", "nothing can be written"),
}


@pytest.mark.parametrize("key", BAD)
def test_what_must_be_mended_is_one_sentence(
    place: Path, key: str, capsys: pytest.CaptureFixture
) -> None:
    value, words = BAD[key]
    assert main(command(place, **{key: value})) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("advlib: ") and err.count("\n") == 1


def test_arguments_that_are_no_numbers(place: Path, capsys: pytest.CaptureFixture) -> None:
    for eps in ("eight", "8/0", ""):
        with pytest.raises(SystemExit) as ended:
            main(command(place, eps=eps))
        assert ended.value.code == 2
        assert "8/255" in capsys.readouterr().err


def test_models_by_name(place: Path) -> None:
    assert command_line.load_model("signs-linear")(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    with pytest.raises(InputError, match="no function 'number'"):
        command_line.load_model(f"{place / 'model.py'}:number")
    with pytest.raises(InputError, match="no file"):
        command_line.load_model(f"{place / 'other.py'}:make")


def test_a_model_that_a_file_holds_ready_is_taken_as_it_is(place: Path) -> None:
    x = reference.images(2, 3, 5, 5).float()
    made, ready = (
        command_line.load_model(f"{place / 'model.py'}:{name}") for name in ("make", "ready")
    )
    assert torch.equal(made(x), ready(x))


def test_models_of_others_are_named_with_where_they_come_from(monkeypatch) -> None:
    from advlib.models import published

    def taken(*arguments: Any, **options: Any) -> tuple:
        return arguments, options

    monkeypatch.setattr(command_line.models, "imagenet", taken)
    monkeypatch.setattr(published, "published", taken)
    (name,), options = command_line.load_model("torchvision:resnet18", "meta")
    assert name == "resnet18" and options["device"] == "meta"
    assert command_line.load_model("published:trades-mnist", "meta") == (
        ("trades-mnist",),
        {"device": "meta"},
    )


@pytest.mark.parametrize(("data", "count"), [("mnist", 4), ("cifar10:3", 3)])
def test_data_sets_by_name_and_number(data: str, count: int, monkeypatch) -> None:
    def classic(kind: str, n: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert kind == data.split(":")[0]
        return torch.zeros(n or 4, 3, 5, 5), torch.zeros(n or 4, dtype=torch.long)

    monkeypatch.setattr(command_line, "classic", classic)
    source = command_line.load_data(data)
    assert source.count == count and source.name == data


def test_an_interruption_outside_the_attacks_is_no_traceback(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "audit", interrupted)
    assert main(command(place)) == 130
    assert "nothing is lost" in capsys.readouterr().err


def test_of_several_processes_only_the_first_speaks(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(command(place)) == 0
    assert capsys.readouterr().out == ""


def test_signs_are_rendered_block_by_block_and_always_the_same() -> None:
    source = command_line.load_data("signs:600")
    assert source.count == 600
    whole = source.piece(250, 262)
    first, second = source.piece(250, 256), source.piece(256, 262)
    assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
    assert torch.equal(whole[1], torch.cat([first[1], second[1]]))
    assert not torch.equal(first[0], second[0])


def test_a_folder_of_images(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 5), (0, 255 * number, 51)).save(tmp_path / name / "one.png")
    x, y = command_line.load_data(str(tmp_path)).piece(0, 2)
    assert x.shape == (2, 3, 5, 5) and y.tolist() == [0, 1]
    assert x[1, :, 0, 0].tolist() == pytest.approx([0, 1, 0.2])


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "was-run"), "w"))

    np.savez(tmp_path / "evil.npz", x=np.array([Evil()], dtype=object), y=np.zeros(1))
    np.savez(tmp_path / "half.npz", x=np.zeros((1, 1, 2, 2)))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "empty").mkdir()
    for name in ("evil.npz", "half.npz", "broken.safetensors", "missing.npz", "empty"):
        with pytest.raises(InputError, match="expected"):
            command_line.load_data(str(tmp_path / name))
    assert not (tmp_path / "was-run").exists()
    with pytest.raises(InputError, match="signs:500"):
        command_line.load_data("signs:many")


STOPPING = """
import time, reference, torch
class Stopping(torch.nn.Module):
    seen, calls = {limit}, 0
    def __init__(self):
        super().__init__()
        self.model = reference.mlp(75, 5, 0, 2.0).float()
    def forward(self, x):
        Stopping.calls += 1
        if Stopping.calls == Stopping.seen:
            raise KeyboardInterrupt
        time.sleep({pause})
        return self.model(x)
"""


def stopping(place: Path, limit: int, pause: float = 0.0) -> list[str]:
    (place / "model.py").write_text(STOPPING.format(limit=limit, pause=pause))
    arguments = command(place, model=f"{place / 'model.py'}:Stopping")
    return [*arguments, "--piece-size=2", "--batch-size=2"]


def outcome(report: Path) -> list:
    held = json.loads((report / "card.json").read_text())
    return [[row["fooled"], row["attacked"]] for row in held["rows"]]


def test_after_ctrl_c_the_same_command_goes_on(place: Path, capsys: pytest.CaptureFixture) -> None:
    pieces = place / "report" / "pieces"
    assert main(stopping(place, 250)) == 130
    err = capsys.readouterr().err
    assert err.startswith("advlib: interrupted with ") and err.count("\n") == 1
    kept = {path: path.stat().st_mtime_ns for path in pieces.glob("piece-*.json")}
    assert 1 <= len(kept) < 6
    assert main(stopping(place, -1)) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert main([*stopping(place, -1), f"--out={place / 'whole'}"]) == 0
    assert outcome(place / "report") == outcome(place / "whole")


def test_after_a_kill_the_same_command_goes_on(place: Path) -> None:
    pieces = place / "report" / "pieces"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    process = subprocess.Popen(
        [sys.executable, "-m", "advlib", *stopping(place, -1, pause=0.002)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(list(pieces.glob("piece-*.json"))) < 2 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, err
    assert 2 <= len(list(pieces.glob("piece-*.json"))) < 6
    assert main(stopping(place, -1)) == 0
    assert main([*stopping(place, -1), f"--out={place / 'whole'}"]) == 0
    assert outcome(place / "report") == outcome(place / "whole")
