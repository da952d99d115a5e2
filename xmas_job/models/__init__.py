"""Model adapters: loading, encoding and collating for any transformers LVLM."""
