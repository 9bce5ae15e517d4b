"""Model packages: what is written into them, whatever the task (`card`), and what each task adds (`task` and its classes)."""
