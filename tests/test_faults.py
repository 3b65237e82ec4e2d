"""The catalogue of faults fits the source; `make faults` puts each of them in."""

from pathlib import Path

import pytest
from faults.catalogue import FAULTS, Fault
from faults.trial import TESTS, put_in

ROOT = Path(__file__).parents[1]


def test_there_are_faults_for_every_part_of_an_attack() -> None:
    assert len(FAULTS) >= 100
    assert {fault.module for fault in FAULTS} == set(TESTS)


def test_each_fault_has_a_name_of_its_own() -> None:
    names = [(fault.module, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.module}: {fault.name}")
def test_each_fault_can_be_put_in_and_is_still_python(fault: Fault, tmp_path: Path) -> None:
    source = (ROOT / "advlib" / f"{fault.module}.py").read_text(encoding="utf-8")
    copy = tmp_path / "advlib" / f"{fault.module}.py"
    copy.parent.mkdir()
    copy.write_text(source, encoding="utf-8")
    put_in(fault, tmp_path)
    broken = copy.read_text(encoding="utf-8")
    assert broken != source
    compile(broken, str(copy), "exec")


def test_a_fault_that_fits_no_longer_is_an_error(tmp_path: Path) -> None:
    copy = tmp_path / "advlib" / "threats.py"
    copy.parent.mkdir()
    copy.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="occurs 0 times"):
        put_in(FAULTS[0], tmp_path)
