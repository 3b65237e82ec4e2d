"""The reference's way to audit a network of timm, tried where timm is installed."""

from pathlib import Path

import pytest
from PIL import Image
from repository import ROOT

import advlib
from advlib.audit import command_line
from benchmarks import strength


def test_a_network_of_timm_is_audited_as_the_reference_says(tmp_path: Path) -> None:
    """The file of the reference, with random weights: nothing is downloaded."""
    strength._find_peers()
    reason = "timm is not installed: `make bench` puts it into peers"
    pytest.importorskip("timm", reason=reason)
    page = (ROOT / "book" / "api-defences.md").read_text(encoding="utf-8")
    (code,) = (part.split("```")[0] for part in page.split("```python\n") if "import timm" in part)
    (tmp_path / "mine.py").write_text(
        code.replace("pretrained=True", "pretrained=False").replace("resnet50", "resnet18")
    )
    made = command_line.load_model(f"{tmp_path / 'mine.py'}:make")
    for name, grey in {"tabby": 80, "tripod": 150}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (300, 250), (grey,) * 3).save(tmp_path / "photos" / name / "a.png")
    noisy = {"fgsm": lambda model, x, y: advlib.fgsm(model, x, y, 0.01)}
    result = advlib.audit(made, tmp_path / "photos", eps=0.01, attacks=noisy, masking=False)
    assert result.data["shape"] == [3, 224, 224] and result.model["classes"] == 1000
    assert [one.name for one in result.by_class] == ["tabby", "tripod"]
    assert "labels-from-model" not in {finding.name for finding in result.findings}
