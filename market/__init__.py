"""What client and provider must agree on: types, hashes, signatures, money, the model's arithmetic, the chain."""
