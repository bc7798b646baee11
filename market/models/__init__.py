"""Model packs: from a published float model to a content-addressed folder of integers, and back into memory."""
