"""The template types of rows, and other terms of FLAN 2022 (Longpre et al. 2023) that several rooms share."""

TEMPLATES = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
"""Template types: zero- or few-shot, with or without answer options; in this order in every array."""

CHAT = "chat"
"""The one template type of rows with turns."""

CHAT_TEMPLATES = (CHAT,)
"""The template types of a pool of rows with turns: no split below the task."""

SEPARATOR = " "
"""Between prompt and response, where nothing else is asked for; lm-eval's target delimiter."""
