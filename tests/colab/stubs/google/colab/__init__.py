"""Stands for Colab's own module: a lesson looks only whether it is there."""
