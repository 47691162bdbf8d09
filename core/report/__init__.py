"""What people read: tables from the numbers on disk. Nothing here trains or scores."""
