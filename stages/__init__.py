"""The commands of the pipeline: one file each, meeting only on disk."""
