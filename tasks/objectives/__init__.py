"""The contract of a task, and the tasks that fulfill it: what networks learn, and how they are scored."""
