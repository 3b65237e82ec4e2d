"""What `make test` says at its end: python -m tests.summary FOLDER

Each part of the tests has left a report in the folder, in the XML that pytest writes for other
programs.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

PARTS = {"package": "package and lessons", "pages": "book and pages", "clock": "timed pages"}


def summary(folder: Path) -> list[str]:
    """Return one line for each part, and one for each reason why tests were left out."""
    lines, left_out = [], {}
    for name, part in PARTS.items():
        path = folder / f"{name}.xml"
        if not path.exists():
            lines.append(f"{part:20} did not come to an end")
            continue
        suite = ElementTree.parse(path).find("testsuite")
        tests, skipped, *failed = (
            int(suite.get(key)) for key in ("tests", "skipped", "failures", "errors")
        )
        minutes, seconds = divmod(round(float(suite.get("time"))), 60)
        lines.append(
            f"{part:20} {tests - skipped - sum(failed):5} passed {sum(failed):4} failed "
            f"{skipped:4} left out {minutes:4} min {seconds:2} s"
        )
        for test in suite.iter("skipped"):
            # To the end: the last lines are those of the pages, whose tools a reader can bring.
            reason = test.get("message", "")
            left_out[reason] = left_out.pop(reason, 0) + 1
    return lines + [f"{count} left out: {reason}" for reason, count in left_out.items()]


if __name__ == "__main__":
    print("\n".join(["", *summary(Path(sys.argv[1]))]))
