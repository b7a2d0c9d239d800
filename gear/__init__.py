"""GEAR: joint training of a vector-quantised tokenizer and an autoregressive generator."""
