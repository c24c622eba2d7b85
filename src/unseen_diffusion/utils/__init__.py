"""Utilities that every package uses: errors, seeds, digests, files, images, batches, progress, liveness."""
