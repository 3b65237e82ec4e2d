"""Commands that train, measure and audit models.

python -m advlib train NAME     train a lesson model and write its weights
python -m advlib measure NAME   attack it on held-out images and write its model card
python -m advlib audit ...      run many attacks on any model and write a robustness card
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from advlib.audit import command_line
from advlib.defences import model_cards, recipes
from advlib.errors import AdvlibError
from advlib.models import shipped


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after an error that the message explains."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.command == "audit":
            return command_line.run(options)
        path = _train(options) if options.command == "train" else _measure(options)
    except AdvlibError as error:
        print(f"advlib: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m advlib", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, words in (
        ("train", "train a lesson model and write its weights"),
        ("measure", "attack a lesson model on held-out images and write its card"),
    ):
        sub = commands.add_parser(command, help=words, description=words)
        sub.add_argument("name", help=f"one of: {', '.join(recipes.RECIPES)}")
        sub.add_argument("--threads", type=int, help="CPU threads; weights depend on them slightly")
    command_line.add_parser(commands)
    return parser


def _train(options: argparse.Namespace) -> Path:
    recipe = recipes.find(options.name)
    model, metadata = recipes.train_model(recipe)
    path = shipped.weights_path(recipe.name)
    shipped.save_weights(model.half() if recipe.half else model, path, metadata)
    return path


def _measure(options: argparse.Namespace) -> Path:
    path = model_cards.write_card(options.name)
    print(path.read_text(encoding="utf-8"))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
