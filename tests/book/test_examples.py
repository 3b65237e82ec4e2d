"""The page of examples by task: each runs, and nothing that the reference documents is left out."""

import inspect
import re
from importlib import import_module
from typing import Any

import pytest
import torch
from built import HTML, built, soup
from course import uses
from repository import ROOT

import advlib

PAGES = sorted((ROOT / "book").glob("api*.md"))
EXAMPLES = uses.sections((ROOT / "book" / "examples.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("label", EXAMPLES)
def test_an_example_runs_by_itself(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advlib.threats, "NORMS", dict(advlib.threats.NORMS))
    code = compile(EXAMPLES[label][1], label, "exec")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        exec(code, {"__name__": label.replace("-", "_")})


def test_every_section_has_one_example_that_is_found() -> None:
    page = (ROOT / "book" / "examples.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) > 25 and all(code for _, code in EXAMPLES.values())
    assert len(EXAMPLES) == page.count("\n### ") == page.count("```python\n")


def documented() -> dict[str, Any]:
    """What the pages of the reference document, as autodoc finds it."""
    found = {}
    for text in (page.read_text(encoding="utf-8") for page in PAGES):
        for each in re.findall(r"autofunction:: (\S+)", text):
            found[each] = uses.member(*each.rsplit(".", 1))
        for module, options in re.findall(r"automodule:: (\S+)\n((?:   :.*\n)*)", text):
            given = {
                key: re.findall(r"\w+", said) for key, said in re.findall(":(.+):(.*)", options)
            }
            held = vars(import_module(module))
            own = [each for each, it in held.items() if getattr(it, "__module__", "") == module]
            listed = given.get("members", [""]) or held.get("__all__", own)
            wanted = set(listed) - set(given.get("exclude-members", [])) - {""}
            found |= {f"{module}.{each}": held[each] for each in wanted if each[0] != "_"}
    return {each: it for each, it in found.items() if uses.name(it) and it.__doc__}


def said(value: Any) -> str:
    """What a function returns, and what a class, its methods and its module hold."""
    if not inspect.isclass(value):
        return str(getattr(value, "__annotations__", {}).get("return"))
    methods = [said(each) for _, each in inspect.getmembers_static(value, inspect.isfunction)]
    held = getattr(import_module(value.__module__), "__annotations__", {})
    return f"{methods} {value.__annotations__} {held}"


def test_what_the_reference_documents_is_used_in_a_lesson_or_an_example() -> None:
    entries, used = documented(), uses.uses(ROOT)
    assert len(entries) > 200
    results = set(re.findall(r"\w+", " ".join(map(said, entries.values()))))

    def needs_no_call(it: type) -> bool:
        """What is raised, returned, or inherited by what is used."""
        inherited = any(uses.name(child) in used for child in it.__subclasses__())
        return issubclass(it, BaseException) or it.__name__ in results or inherited

    unused = {each: it for each, it in entries.items() if uses.name(it) not in used}
    assert [e for e, it in unused.items() if not (inspect.isclass(it) and needs_no_call(it))] == []


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("import advlib\nadvlib.fgsm(1)", {"advlib.attacks.fgsm.fgsm"}),
        ("import advlib.attacks as a\na.fgsm(1)", {"advlib.attacks.fgsm.fgsm"}),
        ("from advlib.attacks.fgsm import fgsm as f\ng = f", {"advlib.attacks.fgsm.fgsm"}),
        ("from advlib.defences import losses\nlosses.trades", {"advlib.defences.losses.trades"}),
        ("from advlib import fgsm", set()),
        ("def fgsm(): ...\nfgsm()\nother.fgsm()", set()),
    ],
)
def test_a_use_is_told_from_an_import_and_from_another_name(code: str, used: set[str]) -> None:
    assert uses.names(code) == used


def test_the_line_names_lessons_and_few_examples() -> None:
    lessons = [":doc:`3 </notebooks/03-fgsm>`", ":doc:`4 </notebooks/04-pgd>`"]
    examples = [f":ref:`T <example-{each}>`" for each in "abcd"]
    both = uses.sentence(lessons + examples)
    assert both.startswith(f"Used in lessons {lessons[0]}, {lessons[1]}. Examples: {examples[0]}; ")
    assert both.count(":ref:") == uses.MOST
    assert uses.sentence(lessons[:1]) == f"Used in lesson {lessons[0]}." and uses.sentence([]) == ""


@built
def test_an_entry_of_the_reference_links_to_lesson_and_example() -> None:
    entry = soup(HTML / "book" / "api.html").find(id="advlib.attacks.pgd").find_parent("dl")
    links = {link["href"] for link in entry.find_all("a", href=True)}
    assert "../notebooks/04-pgd.html" in links
    assert any(link.startswith("examples.html#example-") for link in links)
