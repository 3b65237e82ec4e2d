"""CONTRIBUTING.md is followed word for word: a norm, an attack, and what they then owe."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from repository import ROOT

TOY_NORM = '''
class Doubled(Linf):
    """L-infinity with every change counted twice."""

    def length(self, delta: Tensor) -> Tensor:
        return 2 * super().length(delta)

    def dual(self, grad: Tensor) -> Tensor:
        return super().dual(grad) / 2

    def diameter(self, x: Tensor) -> float:
        return 2 * super().diameter(x)

    def project(self, delta: Tensor, eps: float, x: Tensor | None = None) -> Tensor:
        return super().project(delta, eps / 2, x)

    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        return super().steepest(grad, eps / 2, x)

    def random_point(self, draw: Tensor, eps: float, generator: Generator, where: Where) -> Tensor:
        return super().random_point(draw, eps / 2, generator, where)

    confine, outside, limits = Norm.confine, Norm.outside, Norm.limits
    step, maximiser = Norm.step, Norm.maximiser


'''


def test_a_norm_and_an_attack_are_one_class_one_file_and_one_row_each(tmp_path: Path) -> None:
    words = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (attack,) = re.findall(r"```python\n(.*?)```", words, flags=re.S)
    shutil.copytree(ROOT / "advlib", tmp_path / "advlib", ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("conftest.py", "cases.py", "reference.py", "explorers.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "advlib/attacks/best_noise.py").write_text(attack, encoding="utf-8")
    _insert(tmp_path / "advlib/threats.py", TOY_NORM, before="NORMS: dict[str, Norm] = {")
    _insert(tmp_path / "advlib/threats.py", '"doubled": Doubled(), ', before='"linf": Linf()')
    contract = Path(shutil.copy(ROOT / "tests/core/test_contract.py", tmp_path))
    rows = (
        '    "toy linf noise": _attack(best_noise, eps=0.1, tries=3),\n'
        '    "fgsm doubled toy": _attack(advlib.fgsm, eps=0.1, norm="doubled"),\n'
        '    "pgd doubled toy": _attack(advlib.pgd, eps=0.1, norm="doubled", steps=3),\n'
    )
    _insert(contract, rows, before='    "fgsm linf": ')
    importing = "from advlib.attacks.best_noise import best_noise\n"
    _insert(contract, importing, before="from advlib.attacks.square import")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "toy", contract.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 50 and "failed" not in done.stdout


def _insert(path: Path, text: str, before: str) -> None:
    old = path.read_text(encoding="utf-8")
    assert old.count(before) == 1, before
    path.write_text(old.replace(before, text + before), encoding="utf-8")
