"""Training: one supervised fine-tuning loop for proxy and target."""
