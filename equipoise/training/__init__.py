"""What keeps a PyTorch model stable while it trains; ``equipoise.torch`` makes its names public."""
