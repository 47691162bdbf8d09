"""What every stage stands on: run directories, safe files, seeds, the Trainer, plain errors."""
