"""Two chapters of Dive into Deep Learning as PyTorch Lightning software."""
