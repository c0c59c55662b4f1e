"""What keeps a PyTorch model stable while it trains; its public names are in ``equipoise.torch``."""
