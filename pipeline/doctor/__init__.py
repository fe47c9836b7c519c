"""Is this machine fit for the work: its facts, gathered once, and what they mean, judged apart from them."""
