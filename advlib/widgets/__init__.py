"""Explorers, locked guesses and quizzes.

They look and work the same in JupyterLab, VS Code and Colab, and in the static page without a
kernel. Nothing that computes imports this package.
"""

from advlib.widgets.controls import Control, choice, per_255, slider
from advlib.widgets.errors import ControlError, QuestionError, SceneError, StoredSizeError
from advlib.widgets.explorer import MAX_STORED_BYTES, Explorer, explorer
from advlib.widgets.guess import Guess, Number, Reveal, guess, number
from advlib.widgets.quiz import Quiz, multiple, numeric, quiz, right, single, wrong

__all__ = [
    "MAX_STORED_BYTES",
    "Control",
    "ControlError",
    "Explorer",
    "Guess",
    "Number",
    "QuestionError",
    "Quiz",
    "Reveal",
    "SceneError",
    "StoredSizeError",
    "choice",
    "explorer",
    "guess",
    "multiple",
    "number",
    "numeric",
    "per_255",
    "quiz",
    "right",
    "single",
    "slider",
    "wrong",
]
