"""The lessons in an imitation of Colab: its versions, its modules, its way to name a notebook."""
