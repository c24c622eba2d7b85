"""What every package uses: errors, seeds, files, images, batches, progress."""
