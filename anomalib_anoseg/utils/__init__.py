"""What every other folder uses: checks of arguments, files that are complete, shapes of tensors."""
