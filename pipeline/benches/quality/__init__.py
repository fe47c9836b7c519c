"""Which of it helps: what a study of arms, seeds and learning rates consists of, and what it says."""
