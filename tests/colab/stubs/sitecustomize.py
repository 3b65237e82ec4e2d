"""Colab's kernel has loaded `google.colab` before the first cell runs."""

import google.colab  # noqa: F401
