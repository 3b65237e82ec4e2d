"""The benchmark: it times what it says, and the page says what it measured and nothing else."""

import json
import time

import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import contestants, figures, growth, page, speed
from benchmarks.speed import AGAIN, FLOOR, FREE, race
from benchmarks.workloads import Workload, workloads


def load() -> Workload:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.rand(8, 3, 2, 2, generator=generator)
    return Workload("small", model.eval(), x, torch.arange(8) % 4, 0.05, 3)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("make", contestants.OURS.values(), ids=contestants.OURS)
def test_ours_and_the_floor_find_the_same_on_a_linear_model(make, steps: int) -> None:
    """Three steps of 2.5 eps / 3 reach the corner of the ball from wherever they start."""
    case = load()
    y = torch.zeros_like(case.y)
    two = nn.Sequential(case.model, nn.Linear(4, 2)).requires_grad_(False).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = contestants.floor(two, case.x, case.eps, steps)(case.x, y)
    found = make(two, case.x, case.eps, steps)(case.x, y)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_race_reports_every_contestant_beside_the_floor(monkeypatch) -> None:
    monkeypatch.setattr(speed, "LEAST", 0.01)
    monkeypatch.setattr(speed, "SPAN", 0.1)
    case = load()
    slow = contestants.OURS | {"asleep": lambda *_: lambda x, y: x.sort().values @ x.sort().values}
    rows = race(case, slow, 3, rounds=3, frozen=False)
    assert list(rows) == [FLOOR, FREE, AGAIN, *slow]
    assert any(rows[bare]["quartiles"] == [1, 1] for bare in (FLOOR, FREE))  # the faster one
    for row in rows.values():
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high and row["seconds"] >= 0
    assert all(parameter.requires_grad for parameter in case.model.parameters())


def test_what_is_short_is_repeated_and_the_time_is_that_of_one_call(monkeypatch) -> None:
    case, calls = load(), []

    def nap(x, y):
        calls.append(1)
        time.sleep(0.02)
        return x

    monkeypatch.setattr(speed, "floor", lambda *_: nap)
    monkeypatch.setattr(speed, "LEAST", 0.1)
    rows = race(case, {"nap": lambda *_: nap}, 3, rounds=2, frozen=True)
    assert len(calls) > 3 + 2 * 3 * 2  # once to warm up, then several times in each round
    assert rows["nap"]["seconds"] == pytest.approx(0.02, rel=0.5)


def test_the_slope_is_the_power_of_the_growth() -> None:
    for power in (0.0, 1.0, 2.0):
        rows = [[n, 0.3 * n**power] for n in (1, 2, 5, 10)]
        assert growth.slope(rows) == pytest.approx(power, abs=1e-3)


def test_the_page_is_written_from_the_stored_measurements() -> None:
    stored = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.text(stored)
    assert set(stored) == {"machine", "libraries", *command.PARTS}
    for table in stored["speed"]:
        assert {FLOOR, AGAIN, "advlib", *contestants.OTHERS} <= set(table["rows"])
    assert set(stored["libraries"]) == set(contestants.OTHERS)


def test_the_cost_of_a_call_is_that_of_the_ratio_in_the_table() -> None:
    rows = {  # the floor happened to run in the faster rounds: medians would say 6 ms
        FLOOR: {"ratio": 1.0, "seconds": 0.016},
        "advlib": {"ratio": 1.1, "seconds": 0.022},
    }
    said = page._fixed([{"workload": "small CNN, FGSM", "frozen": True, "rows": rows}])
    assert "It is 2.0 ms of the 22 ms of FGSM on the small CNN" in said


def test_counts_that_differ_are_called_different() -> None:
    stored = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    assert "The counts are the same" in page.text(stored)
    stored["processes"][1]["robust"] += 1
    assert "The counts **differ**" in page.text(stored)


def test_advlib_imports_in_a_small_part_of_the_time_of_torch() -> None:
    found = growth.startup(rounds=1)
    assert found["advlib"] == pytest.approx(found["torch"] + found["difference"], abs=0.002)
    assert 0 < found["difference"] < found["torch"] / 2


def test_the_figures_are_those_of_the_stored_measurements(tmp_path) -> None:
    stored = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    figures.save(stored, tmp_path)
    names = [path.name for path in page.PAGE.parent.glob("how-fast-*.svg")]
    assert len(names) == 3
    for name in names:
        assert (tmp_path / name).read_text() == (page.PAGE.parent / name).read_text(), name


def test_a_figure_of_times_has_each_point_that_was_measured() -> None:
    stored = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    found = {  # by axes and height, which is the library
        (number, int(line.get_ydata()[0])): sorted(line.get_xdata())
        for number, axes in enumerate(figures.time(stored["speed"]).axes)
        for line in axes.lines
        if line.get_marker() == "o"
    }
    names = ["advlib", *contestants.OTHERS]
    for (number, place), ratios in found.items():
        tables = [table for table in stored["speed"] if table["frozen"] == bool(number)]
        assert ratios == sorted(table["rows"][names[place]]["ratio"] for table in tables)
    assert len(found) == 2 * len(names)


def test_a_figure_of_strength_has_each_run_but_those_at_default_steps() -> None:
    subjects = json.loads(command.RESULTS.read_text(encoding="utf-8"))["strength"]["subjects"]
    for axes, subject in zip(figures.strength(subjects).axes, subjects[:2], strict=True):
        drawn = sum(
            len(line.get_xdata()) for line in axes.lines if line.get_label() != "AutoAttack"
        )
        ran = [row for row in subject["rows"] if "robust" in row]
        assert drawn == sum(row["setting"] != "default step" for row in ran) > 20


def test_a_part_alone_needs_the_rest_of_the_same_machine(monkeypatch, tmp_path, capsys) -> None:
    stored = {"machine": {"processor": "another"}, "libraries": {}}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.setattr(command, "RESULTS", path)
    monkeypatch.setattr(command, "peers", lambda: ({}, {}))
    monkeypatch.setattr("sys.argv", ["benchmarks", "startup"])
    with pytest.raises(SystemExit):
        command.main()
    assert "another machine" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_workload_is_a_model_that_takes_its_batch(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    loads = workloads(device)
    assert len({load.name for load in loads}) == len(loads)
    for load in loads:
        assert f"{len(load.x)} images of {'x'.join(map(str, load.x.shape[1:]))}" in load.name
        with torch.no_grad():
            logits = load.model(load.x[:2])
        assert logits.device.type == device and int(load.y.max()) < logits.shape[1]
