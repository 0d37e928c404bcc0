"""What tests share: tiny model files and the like."""
