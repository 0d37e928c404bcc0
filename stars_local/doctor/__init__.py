"""What works on this machine, each part tried."""
