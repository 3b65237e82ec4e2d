"""The catalogue of faults fits the source; `make faults` puts each of them in."""

import pytest
from faults.catalogue import FAULTS, Fault
from faults.trial import TESTS, broken
from repository import ROOT


def test_there_are_faults_for_every_part_of_an_attack() -> None:
    assert len(FAULTS) >= 100
    assert {fault.module for fault in FAULTS} == set(TESTS)


def test_each_fault_has_a_name_of_its_own() -> None:
    names = [(fault.module, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.module}: {fault.name}")
def test_each_fault_can_be_put_in_and_is_still_python(fault: Fault) -> None:
    source = (ROOT / "advlib" / f"{fault.module}.py").read_text(encoding="utf-8")
    changed = broken(fault, source)
    assert changed != source
    compile(changed, fault.module, "exec")


def test_a_fault_that_fits_no_longer_is_an_error() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        broken(FAULTS[0], "")
