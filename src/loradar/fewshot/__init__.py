"""Few-shot tasks: meta-tuning a pool of adapters, blending it for a task, evaluating it."""
